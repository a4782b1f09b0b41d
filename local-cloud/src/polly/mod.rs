//! Amazon Polly's `SynthesizeSpeech` and `DescribeVoices` on loopback, over an offline engine.
//!
//! Deliberately absent: lexicons (every name is unknown), speech marks, `ogg_vorbis`, `mulaw` and `alaw` (checked as AWS
//! does, then a `ServiceFailureException`), synthesis tasks, the bidirectional stream. The engine of a voice changes what
//! is refused, not what is heard.

mod chaos;
mod child;
mod engine;
mod espeak;
mod quota;
mod request;
mod sound;
pub mod ssml;
mod tags;
pub mod voices;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::{StreamExt, future, stream};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::watch;

pub use chaos::{Chaos, Fault};
pub use engine::{EngineError, EngineSettings, Scripted, Sound};
pub use espeak::Settings as EspeakSettings;
pub use quota::Quotas;
pub use request::{Format, Order, Problem, SynthesizeSpeech};

use chaos::Ending;
use engine::Engine;
use quota::Allowances;
use voices::{VOICES, Voice};

use crate::error;

const REQUEST_CHARACTERS: HeaderName = HeaderName::from_static("x-amzn-requestcharacters");
/// Bytes of a body that are sent at once.
const PIECE: usize = 4_096;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "snake_case")]
pub struct Settings {
    pub engine: EngineSettings,
    /// Voices on one page of `DescribeVoices`.
    pub page: usize,
    /// Requests past these are throttled. `None`: no limits.
    pub quotas: Option<Quotas>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { engine: EngineSettings::default(), page: 40, quotas: None }
    }
}

/// What one language was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Traffic {
    /// Valid requests, the failed ones included.
    pub requests: u64,
    /// Characters in them without markup: what AWS bills.
    pub characters: u64,
    /// Requests answered with an error of the service: chaos, quotas, engine.
    pub failures: u64,
}

/// The service.
#[derive(Debug)]
pub struct Polly {
    engine: Engine,
    page: usize,
    allowances: Option<Allowances>,
    chaos: watch::Sender<Chaos>,
    traffic: Mutex<BTreeMap<String, Traffic>>,
    /// What was refused, by the exception's name.
    refused: Mutex<BTreeMap<&'static str, u64>>,
}

impl Polly {
    /// Asks the engine what it can speak.
    pub async fn start(settings: &Settings) -> Result<Polly, EngineError> {
        Ok(Polly {
            engine: Engine::start(&settings.engine).await?,
            page: settings.page.max(1),
            allowances: settings.quotas.map(Allowances::new),
            chaos: watch::Sender::new(Chaos::default()),
            traffic: Mutex::default(),
            refused: Mutex::default(),
        })
    }

    /// `POST /v1/speech` and `GET /v1/voices`; and `/dev/polly` for faults from outside the process: GET shows switches
    /// and counters, POST `{"chaos": {...}}` sets the switches.
    pub fn router(self: Arc<Self>) -> Router {
        Router::new()
            .route("/v1/speech", post(speech))
            .route("/v1/voices", get(describe_voices))
            .route("/dev/polly", get(look).post(meddle))
            .with_state(self)
    }

    /// The voices whose language the engine speaks.
    pub fn voices(&self) -> impl Iterator<Item = &'static Voice> {
        VOICES.iter().filter(|voice| self.engine.speaks(voice.language))
    }

    pub fn set_chaos(&self, chaos: Chaos) {
        self.chaos.send_replace(chaos);
    }

    pub fn chaos(&self) -> Chaos {
        self.chaos.borrow().clone()
    }

    /// Per language (`es-ES`), since the start.
    pub fn traffic(&self) -> BTreeMap<String, Traffic> {
        self.traffic.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often each refusal was given, by the exception's name.
    pub fn refused(&self) -> BTreeMap<&'static str, u64> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn speak(&self, body: &[u8]) -> Result<Response, Problem> {
        let request: SynthesizeSpeech =
            serde_json::from_slice(body).map_err(|error| Problem::Serialization(error.to_string()))?;
        let order = request.check()?;
        self.count(&order.language, |traffic| {
            traffic.requests += 1;
            traffic.characters += order.speech.characters as u64;
        });
        let answer = self.perform(&order).await;
        if answer.is_err() {
            self.count(&order.language, |traffic| traffic.failures += 1);
        }
        answer
    }

    async fn perform(&self, order: &Order) -> Result<Response, Problem> {
        let _turn = match &self.allowances {
            Some(allowances) => Some(allowances.take(order.engine).ok_or(Problem::Throttling)?),
            None => None,
        };
        let ending = chaos::disturb(&self.chaos, &order.language).await?;
        let failed = |error: EngineError| Problem::ServiceFailure(error.to_string());
        let sound = self.engine.speak(order.voice, &order.language, &order.speech).await.map_err(failed)?;
        let audio = sound::encode(sound, order.format, order.rate).await.map_err(failed)?;
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static(order.format.content_type())),
            (REQUEST_CHARACTERS, HeaderValue::from(order.speech.characters)),
            (error::REQUEST_ID, error::request_id()),
        ];
        Ok((headers, body(audio.into(), ending)).into_response())
    }

    fn describe(&self, asked: &DescribeVoices) -> Result<Value, Problem> {
        let engine = match asked.engine.as_deref() {
            None => None,
            Some(name) => Some(voices::Engine::of(name).ok_or_else(|| {
                let known = voices::Engine::ALL.iter().map(|engine| engine.name());
                request::unknown("engine", name, known)
            })?),
        };
        let language = asked.language_code.as_deref();
        if let Some(code) = language.filter(|code| !voices::is_language(code)) {
            return Err(request::unknown("languageCode", code, VOICES.iter().map(|voice| voice.language)));
        }
        let besides = asked.include_additional_language_codes.as_deref() == Some("true");
        let matches = |voice: &&Voice| {
            let speaks = |code: &str| if besides { voice.speaks(code) } else { voice.language == code };
            language.is_none_or(speaks) && engine.is_none_or(|engine| voice.has(engine))
        };
        let found: Vec<&Voice> = self.voices().filter(matches).collect();
        let first = match asked.next_token.as_deref() {
            None => 0,
            Some(token) => token.parse().ok().filter(|at| *at < found.len()).ok_or(Problem::InvalidNextToken)?,
        };
        let page: Vec<Value> = found.iter().skip(first).take(self.page).map(|voice| described(voice)).collect();
        let next = first + page.len();
        Ok(match next < found.len() {
            true => json!({ "Voices": page, "NextToken": next.to_string() }),
            false => json!({ "Voices": page }),
        })
    }

    fn refuse(&self, problem: &Problem) -> Response {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner).entry(problem.name()).or_default() += 1;
        tracing::debug!(exception = problem.name(), "refused");
        let status = StatusCode::from_u16(problem.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        // REST services name the exception in the header and say the rest in `message`.
        let headers =
            [(error::ERROR_TYPE, HeaderValue::from_static(problem.name())), (error::REQUEST_ID, error::request_id())];
        (status, headers, axum::Json(json!({ "message": problem.to_string() }))).into_response()
    }

    fn count(&self, language: &str, change: impl FnOnce(&mut Traffic)) {
        let mut traffic = self.traffic.lock().unwrap_or_else(PoisonError::into_inner);
        change(traffic.entry(language.to_owned()).or_default());
    }
}

/// The audio in pieces without a length, as AWS streams it; or as much of it as chaos leaves.
fn body(audio: Bytes, ending: Ending) -> Body {
    let kept = match ending {
        Ending::Whole => audio,
        Ending::Cut | Ending::Stalled => audio.slice(..audio.len() / 2),
    };
    let pieces: Vec<_> = kept.chunks(PIECE).map(|piece| Ok(kept.slice_ref(piece))).collect();
    let pieces = stream::iter(pieces);
    match ending {
        Ending::Whole => Body::from_stream(pieces),
        Ending::Cut => {
            // The pieces leave first: an error at once would take them along.
            let cut = async {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                Err(std::io::Error::from(std::io::ErrorKind::BrokenPipe))
            };
            Body::from_stream(pieces.chain(stream::once(cut)))
        }
        Ending::Stalled => {
            let forever = stream::once(future::pending::<Result<Bytes, Infallible>>());
            Body::from_stream(
                pieces.map(|piece: Result<Bytes, std::io::Error>| piece.unwrap_or_default()).map(Ok).chain(forever),
            )
        }
    }
}

fn described(voice: &Voice) -> Value {
    let engines: Vec<&str> = voice.engines().map(voices::Engine::name).collect();
    let mut described = json!({
        "Id": voice.id,
        "Name": voice.name,
        "Gender": voice.gender,
        "LanguageCode": voice.language,
        "LanguageName": voice.language_name,
        "SupportedEngines": engines,
    });
    if !voice.additional.is_empty() {
        described["AdditionalLanguageCodes"] = json!(voice.additional);
    }
    described
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DescribeVoices {
    engine: Option<String>,
    language_code: Option<String>,
    include_additional_language_codes: Option<String>,
    next_token: Option<String>,
}

async fn speech(State(polly): State<Arc<Polly>>, body: Bytes) -> Response {
    polly.speak(&body).await.unwrap_or_else(|problem| polly.refuse(&problem))
}

async fn describe_voices(State(polly): State<Arc<Polly>>, Query(asked): Query<DescribeVoices>) -> Response {
    match polly.describe(&asked) {
        Ok(voices) => axum::Json(voices).into_response(),
        Err(problem) => polly.refuse(&problem),
    }
}

async fn look(State(polly): State<Arc<Polly>>) -> axum::Json<Value> {
    axum::Json(json!({ "chaos": polly.chaos(), "traffic": polly.traffic(), "refused": polly.refused() }))
}

/// Switches that are not named go off.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Meddle {
    chaos: Chaos,
}

async fn meddle(State(polly): State<Arc<Polly>>, body: Bytes) -> Response {
    match serde_json::from_slice::<Meddle>(&body) {
        Ok(asked) => {
            polly.set_chaos(asked.chaos);
            look(State(polly)).await.into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    }
}
