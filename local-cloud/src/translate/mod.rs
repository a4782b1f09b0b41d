//! Amazon Translate's `TranslateText` and `ListLanguages` on loopback, over an offline engine.
//!
//! Both wire forms are served: Smithy RPC v2 CBOR at its own paths ([`Translate::router`]) and JSON 1.1, which shares
//! `POST /` with other services and so is handed in by whoever owns that path ([`Translate::json_rpc`]).
//!
//! Deliberately absent: language detection (`auto` is refused), terminologies (every name is unknown), formality,
//! brevity and profanity (checked and then ignored, as AWS does for languages without them), documents, batch jobs,
//! signatures.

mod apertium;
mod chaos;
mod engine;
mod pipeline;
mod wire;

#[cfg(test)]
mod engine_tests;
#[cfg(test)]
mod wire_tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::watch;

pub use apertium::{PACKAGES, Pipelines, Settings as ApertiumSettings};
pub use chaos::{Chaos, Fault};
pub use engine::{EngineError, EngineSettings, Scripted};

use apertium::Apertium;
use engine::Engine;
use wire::{Language, Languages, ListLanguages, Problem, TranslateText, TranslatedText, TranslationSettings, Wire};

/// The part of `x-amz-target` before the dot that belongs to [`Translate::json_rpc`].
pub const TARGET_PREFIX: &str = "AWSShineFrontendService_20170701";

/// Bytes of UTF-8 in one text, as in AWS.
const MAX_TEXT: usize = 10_000;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "snake_case")]
pub struct Settings {
    pub engine: EngineSettings,
}

/// Why there is nothing to translate with.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("no Apertium language pair in {modes}; install: apt install {packages}", modes = .modes.display())]
    NoApertium { modes: PathBuf, packages: &'static str },
}

/// What one target language was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Traffic {
    /// Valid requests, the failed ones included.
    pub requests: u64,
    /// Characters (not bytes) in them: what AWS bills.
    pub characters: u64,
    /// Requests answered with an error of the service: chaos, engine, queue.
    pub failures: u64,
}

/// The service. Dropping it ends its processes.
#[derive(Debug)]
pub struct Translate {
    engine: Engine,
    chaos: watch::Sender<Chaos>,
    traffic: Mutex<BTreeMap<String, Traffic>>,
}

impl Translate {
    /// Starts no process: a language's pipeline starts with its first text, or with [`Translate::warm`].
    pub fn new(settings: &Settings) -> Result<Translate, StartError> {
        let engine = match &settings.engine {
            EngineSettings::Apertium(settings) => Engine::Apertium(Apertium::new(settings)?),
            EngineSettings::Scripted(scripted) => Engine::Scripted(scripted.clone()),
        };
        Ok(Translate { engine, chaos: watch::Sender::new(Chaos::default()), traffic: Mutex::default() })
    }

    /// `POST /service/AWSShineFrontendService_20170701/operation/{operation}`, the CBOR form; and `/dev/translate` for
    /// faults from outside the process: GET shows switches and counters, POST `{"chaos": {...}}` sets the switches.
    pub fn router(self: Arc<Self>) -> Router {
        let path = format!("/service/{TARGET_PREFIX}/operation/{{operation}}");
        Router::new().route(&path, post(cbor_rpc)).route("/dev/translate", get(look).post(meddle)).with_state(self)
    }

    /// The JSON 1.1 form of `operation`, the part of `x-amz-target` after the dot.
    pub async fn json_rpc(&self, operation: &str, body: Bytes) -> Response {
        self.rpc(Wire::Json, operation, body).await
    }

    /// Target languages for English speech, sorted, as Amazon's codes.
    pub fn languages(&self) -> Vec<&'static str> {
        self.engine.targets("en")
    }

    /// Starts what it takes to translate from English into `language` and waits until it answers.
    pub async fn warm(&self, language: &str) -> Result<(), EngineError> {
        self.engine.translate("en", language, "One.").await.map(drop)
    }

    pub fn set_chaos(&self, chaos: Chaos) {
        self.chaos.send_replace(chaos);
    }

    pub fn chaos(&self) -> Chaos {
        self.chaos.borrow().clone()
    }

    /// Per target language, since the start.
    pub fn traffic(&self) -> BTreeMap<String, Traffic> {
        self.traffic.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What happened to Apertium's processes; zeros for another engine.
    pub fn pipelines(&self) -> Pipelines {
        match &self.engine {
            Engine::Apertium(engine) => engine.pipelines(),
            Engine::Scripted(_) => Pipelines::default(),
        }
    }

    async fn rpc(&self, wire: Wire, operation: &str, body: Bytes) -> Response {
        let answer = match operation {
            "TranslateText" => self.translate_text(wire, &body).await.map(|answer| wire.answer(&answer)),
            "ListLanguages" => self.list_languages(wire, &body).map(|answer| wire.answer(&answer)),
            _ => Err(Problem::UnknownOperation),
        };
        answer.unwrap_or_else(|problem| {
            tracing::debug!(operation, %problem, "refused");
            wire.problem(&problem)
        })
    }

    async fn translate_text(&self, wire: Wire, body: &Bytes) -> Result<TranslatedText, Problem> {
        let Pair { text, source, target } = self.checked(wire.decode(body)?)?;
        self.count(&target, |traffic| {
            traffic.requests += 1;
            traffic.characters += text.chars().count() as u64;
        });
        let translated = match chaos::disturb(&self.chaos, &target).await {
            Ok(()) if source == target => Ok(text),
            Ok(()) => self.engine.translate(&source, &target, &text).await.map_err(|error| match error {
                EngineError::NoRoute => Problem::UnsupportedLanguagePair { from: source.clone(), to: target.clone() },
                EngineError::Busy => Problem::TooManyRequests,
                EngineError::TimedOut | EngineError::Died => Problem::InternalServer(error.to_string()),
                EngineError::Start(_) => Problem::ServiceUnavailable(error.to_string()),
            }),
            Err(problem) => Err(problem),
        };
        if translated.is_err() {
            self.count(&target, |traffic| traffic.failures += 1);
        }
        let translated_text = translated?;
        Ok(TranslatedText { translated_text, source_language_code: source, target_language_code: target })
    }

    fn checked(&self, request: TranslateText) -> Result<Pair, Problem> {
        let text = required("text", request.text)?;
        let source = language_code("sourceLanguageCode", request.source_language_code)?;
        let target = language_code("targetLanguageCode", request.target_language_code)?;
        if text.is_empty() {
            return Err(Problem::InvalidRequest("Text has to have at least 1 byte".to_owned()));
        }
        if text.len() > MAX_TEXT {
            return Err(Problem::TextSizeLimitExceeded(text.len()));
        }
        check_settings(request.settings)?;
        match request.terminology_names.unwrap_or_default().as_slice() {
            [] => {}
            [name] => return Err(Problem::NoTerminology(name.clone())),
            _ => return Err(Problem::InvalidRequest("At most one terminology in a request".to_owned())),
        }
        if source == "auto" {
            return Err(Problem::UndetectedLanguage);
        }
        let possible = match source == target {
            true => self.engine.knows(&source),
            false => self.engine.targets(&source).contains(&target.as_str()),
        };
        match possible {
            true => Ok(Pair { text, source, target }),
            false => Err(Problem::UnsupportedLanguagePair { from: source, to: target }),
        }
    }

    fn list_languages(&self, wire: Wire, body: &Bytes) -> Result<Languages, Problem> {
        let request: ListLanguages = wire.decode(body)?;
        let display = request.display_language_code.unwrap_or_else(|| "en".to_owned());
        if display != "en" {
            return Err(Problem::UnsupportedDisplayLanguage(display));
        }
        let page = request.max_results.unwrap_or(500);
        if !(1..=500).contains(&page) {
            return Err(Problem::InvalidRequest("MaxResults has to be 1 to 500".to_owned()));
        }
        let first = match request.next_token {
            Some(token) => token.parse().map_err(|_| Problem::InvalidRequest("Unknown NextToken".to_owned()))?,
            None => 0,
        };
        let known: Vec<_> = engine::AWS_LANGUAGES.iter().filter(|(code, _)| self.engine.knows(code)).collect();
        let languages = known.iter().skip(first).take(page);
        let languages = languages
            .map(|(code, name)| Language { language_name: (*name).to_owned(), language_code: (*code).to_owned() })
            .collect::<Vec<_>>();
        let next = first.saturating_add(languages.len());
        let next_token = (next < known.len() && !languages.is_empty()).then(|| next.to_string());
        Ok(Languages { languages, display_language_code: display, next_token })
    }

    fn count(&self, target: &str, change: impl FnOnce(&mut Traffic)) {
        let mut traffic = self.traffic.lock().unwrap_or_else(PoisonError::into_inner);
        change(traffic.entry(target.to_owned()).or_default());
    }
}

async fn cbor_rpc(State(translate): State<Arc<Translate>>, Path(operation): Path<String>, body: Bytes) -> Response {
    translate.rpc(Wire::Cbor, &operation, body).await
}

async fn look(State(translate): State<Arc<Translate>>) -> axum::Json<Value> {
    axum::Json(json!({
        "chaos": translate.chaos(),
        "traffic": translate.traffic(),
        "pipelines": translate.pipelines(),
    }))
}

/// Switches that are not named go off.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Meddle {
    chaos: Chaos,
}

async fn meddle(State(translate): State<Arc<Translate>>, body: Bytes) -> Response {
    match serde_json::from_slice::<Meddle>(&body) {
        Ok(asked) => {
            translate.set_chaos(asked.chaos);
            look(State(translate)).await.into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    }
}

/// A request that can be translated.
struct Pair {
    text: String,
    source: String,
    target: String,
}

fn required(member: &str, value: Option<String>) -> Result<String, Problem> {
    value.ok_or_else(|| Problem::InvalidRequest(format!("Value null at '{member}': must not be null")))
}

fn language_code(member: &str, value: Option<String>) -> Result<String, Problem> {
    let code = required(member, value)?;
    match (2..=5).contains(&code.chars().count()) {
        true => Ok(code),
        false => Err(Problem::InvalidRequest(format!("Value at '{member}': a language code has 2 to 5 characters"))),
    }
}

fn check_settings(settings: Option<TranslationSettings>) -> Result<(), Problem> {
    let Some(settings) = settings else { return Ok(()) };
    let allowed: [(&str, Option<String>, &[&str]); 3] = [
        ("formality", settings.formality, &["FORMAL", "INFORMAL"]),
        ("profanity", settings.profanity, &["MASK"]),
        ("brevity", settings.brevity, &["ON"]),
    ];
    for (member, value, values) in allowed {
        if value.is_some_and(|value| !values.contains(&value.as_str())) {
            return Err(Problem::InvalidRequest(format!("Value at 'settings.{member}': one of {values:?}")));
        }
    }
    Ok(())
}
