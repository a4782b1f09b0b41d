//! Amazon Transcribe's streaming API on loopback: `POST /stream-transcription` with an event-stream body, HTTP/1.1 or 2.
//!
//! Shapes, texts and times are those of the service as recorded and documented (reference AWS-SERVICES.md, 1). Behind
//! it listens an [`Engine`]. Deliberately absent: the WebSocket form, other encodings than PCM, language
//! identification, speakers, channels, filters, redaction (each is refused by name), session resume windows, and the
//! batch API.

mod caption;
mod chain;
mod chaos;
pub mod frames;
mod request;
mod stream;
mod vocabulary;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use chaos::{Break, Chaos, Counts, How, Refuse, When};

use crate::engine::{Engine, Opening};
use crate::error::AwsError;
use crate::sigv4;
use chain::Chain;
use chaos::{Counters, Switches, count};
use request::Options;
use stream::Input;
use vocabulary::Vocabularies;

/// The part of `x-amz-target` before the dot that belongs to [`Transcribe::json_rpc`].
pub const TARGET_PREFIX: &str = "Transcribe";

/// How the service behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    pub engine: Engine,
    /// Secret access key. With it the request's signature and every frame's are checked, without it none is.
    pub secret: Option<Arc<str>>,
    /// Streams open at once; one more is refused with LimitExceededException.
    pub max_streams: u64,
    /// A stream without audio for this long ends with BadRequestException.
    pub idle: Duration,
    /// A stream ends after this long.
    pub max_duration: Duration,
    /// An event without results is sent when nothing else was for this long.
    pub heartbeat: Duration,
}

impl Settings {
    /// The service's own limits: 25 streams, 15 s idle, 4 hours.
    pub fn new(engine: Engine) -> Settings {
        Settings {
            engine,
            secret: None,
            max_streams: 25,
            idle: Duration::from_secs(15),
            max_duration: Duration::from_secs(4 * 60 * 60),
            heartbeat: Duration::from_secs(5),
        }
    }
}

/// The exceptions of the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exception {
    BadRequest,
    LimitExceeded,
    InternalFailure,
    ServiceUnavailable,
    Conflict,
}

/// Called when audio of a stream arrives: stream number (from 0), its bytes so far, when.
pub type OnAudio = Arc<dyn Fn(u64, u64, Instant) + Send + Sync>;
/// Called when an event with results is handed to the connection: stream number, its number of such events, when.
pub type OnEvent = Arc<dyn Fn(u64, u64, Instant) + Send + Sync>;

/// The service.
pub struct Transcribe {
    settings: Settings,
    switches: Switches,
    counters: Counters,
    vocabularies: Vocabularies,
    next: AtomicU64,
    /// Who holds a session id: the stream's number, and what ends it.
    sessions: Mutex<BTreeMap<String, (u64, CancellationToken)>>,
    /// The streams' tasks; those that ended are let go when the next one starts.
    tasks: Mutex<JoinSet<()>>,
    on_audio: RwLock<Option<OnAudio>>,
    on_event: RwLock<Option<OnEvent>>,
}

impl Transcribe {
    pub fn new(settings: Settings) -> Transcribe {
        Transcribe {
            settings,
            switches: Switches::default(),
            counters: Counters::default(),
            vocabularies: Vocabularies::default(),
            next: AtomicU64::new(0),
            sessions: Mutex::default(),
            tasks: Mutex::default(),
            on_audio: RwLock::default(),
            on_event: RwLock::default(),
        }
    }

    /// `POST /stream-transcription`; and `/dev/transcribe` for faults from outside the process: GET shows switches and
    /// counters, POST `{"chaos": {...}}` sets the switches.
    pub fn router(self: Arc<Self>) -> Router {
        Router::new()
            .route("/stream-transcription", post(start))
            .route("/dev/transcribe", get(look).post(meddle))
            .with_state(self)
    }

    /// The JSON 1.1 calls of the control plane (`CreateVocabulary`, `GetVocabulary`, `DeleteVocabulary`); `operation`
    /// is the part of `x-amz-target` after the dot.
    pub fn json_rpc(&self, operation: &str, body: &[u8]) -> Response {
        self.vocabularies.call(operation, body)
    }

    /// Puts a vocabulary in place: words, phrases or whole sentences of the talk. False when it is over 1 MiB or there
    /// are 100 already.
    pub fn register_vocabulary(&self, name: &str, phrases: Vec<String>) -> bool {
        self.vocabularies.put(name, "en-US", phrases).is_ok()
    }

    pub fn remove_vocabulary(&self, name: &str) -> bool {
        self.vocabularies.remove(name)
    }

    /// The chaos switches, to be read and changed while the guard is held; do not hold it over an await.
    pub fn chaos(&self) -> MutexGuard<'_, Chaos> {
        self.switches.lock()
    }

    pub fn counts(&self) -> Counts {
        self.counters.read()
    }

    /// What listens.
    pub fn engine(&self) -> &Engine {
        &self.settings.engine
    }

    /// Sets who is told of audio as it arrives; it runs in the stream's task and must be quick.
    pub fn on_audio(&self, observer: OnAudio) {
        *self.on_audio.write().unwrap_or_else(PoisonError::into_inner) = Some(observer);
    }

    /// Sets who is told of events as they leave; it runs in the stream's task and must be quick.
    pub fn on_event(&self, observer: OnEvent) {
        *self.on_event.write().unwrap_or_else(PoisonError::into_inner) = Some(observer);
    }

    fn own(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    async fn open(self: Arc<Self>, request: Request) -> Result<Response, Refused> {
        let (parts, body) = request.into_parts();
        let (delay, refusal) = self.switches.start();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if let Some(exception) = refusal {
            return Err(Refused::Exception(exception, "refused on demand".to_owned()));
        }
        let chain = self.verify(&parts)?;
        let options = Options::read(&parts.headers, &self.settings.engine)
            .map_err(|refusal| Refused::Exception(Exception::BadRequest, refusal.0))?;
        let vocabulary = options.vocabulary.as_deref().map(|name| self.vocabularies.phrases(name).ok_or(name));
        let vocabulary = vocabulary.transpose().map_err(|_| {
            Refused::Exception(Exception::BadRequest, "The requested vocabulary couldn't be found.".to_owned())
        })?;
        let seat = Seat::take(&self, &options.session)?;
        let opening = Opening { stream: seat.number, vocabulary };
        let answer = stream::open(self, seat, &options, Input::new(body, chain), opening)?;
        Ok((options.echo(), answer).into_response())
    }

    /// The start of the signature chain; None when signatures are not checked.
    fn verify(&self, parts: &Parts) -> Result<Option<Chain>, Refused> {
        let Some(secret) = &self.settings.secret else { return Ok(None) };
        let path = parts.uri.path_and_query().map_or("/", |p| p.as_str());
        // The JavaScript SDK signs a literal instead of the hash of an empty body.
        let given = parts.headers.get("x-amz-content-sha256").and_then(|v| v.to_str().ok());
        let payload = given.unwrap_or(sigv4::EMPTY_SHA256);
        let verified = sigv4::verify_headers(secret, parts.method.as_str(), path, &parts.headers, payload)
            .and_then(|verified| sigv4::check_skew(&parts.headers, SystemTime::now()).map(|()| verified))
            .map_err(|e| Refused::Signature(e.into()))?;
        if verified.service() != "transcribe" {
            let message = "Credential should be scoped to correct service: 'transcribe'";
            return Err(Refused::Signature(AwsError::new(crate::error::ErrorKind::InvalidSignature, message)));
        }
        Ok(Some(Chain::new(verified)))
    }
}

/// Why a start gets no stream.
enum Refused {
    Exception(Exception, String),
    Signature(AwsError),
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let (exception, message) = match self {
            Refused::Signature(error) => return error.into_response(),
            Refused::Exception(exception, message) => (exception, message),
        };
        let headers = [("content-type", "application/json"), ("x-amzn-errortype", exception.name())];
        (exception.status(), headers, json!({ "Message": message }).to_string()).into_response()
    }
}

impl Exception {
    /// The type as the model spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Exception::BadRequest => "BadRequestException",
            Exception::LimitExceeded => "LimitExceededException",
            Exception::InternalFailure => "InternalFailureException",
            Exception::ServiceUnavailable => "ServiceUnavailableException",
            Exception::Conflict => "ConflictException",
        }
    }

    pub const fn status(self) -> StatusCode {
        match self {
            Exception::BadRequest => StatusCode::BAD_REQUEST,
            Exception::LimitExceeded => StatusCode::TOO_MANY_REQUESTS,
            Exception::InternalFailure => StatusCode::INTERNAL_SERVER_ERROR,
            Exception::ServiceUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Exception::Conflict => StatusCode::CONFLICT,
        }
    }
}

/// A stream's place among those allowed, and its hold on a session id; given back when dropped.
struct Seat {
    transcribe: Arc<Transcribe>,
    number: u64,
    session: String,
    /// Cancelled when a later stream takes the session id.
    replaced: CancellationToken,
}

impl Seat {
    fn take(transcribe: &Arc<Transcribe>, session: &str) -> Result<Seat, Refused> {
        let limit = transcribe.settings.max_streams;
        let taken = |open: u64| (open < limit).then_some(open + 1);
        if transcribe.counters.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_err() {
            let message = format!("You have reached your limit of {limit} concurrent transcription streams.");
            return Err(Refused::Exception(Exception::LimitExceeded, message));
        }
        let number = transcribe.next.fetch_add(1, Ordering::Relaxed);
        let replaced = CancellationToken::new();
        let mut sessions = transcribe.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, earlier)) = sessions.insert(session.to_owned(), (number, replaced.clone())) {
            earlier.cancel();
        }
        drop(sessions);
        Ok(Seat { transcribe: transcribe.clone(), number, session: session.to_owned(), replaced })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.transcribe.counters.open.fetch_sub(1, Ordering::Relaxed);
        let mut sessions = self.transcribe.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if sessions.get(&self.session).is_some_and(|(number, _)| *number == self.number) {
            sessions.remove(&self.session);
        }
    }
}

async fn start(State(transcribe): State<Arc<Transcribe>>, request: Request) -> Response {
    match transcribe.clone().open(request).await {
        Ok(response) => {
            count(&transcribe.counters.started);
            response
        }
        Err(refused) => {
            count(&transcribe.counters.refused);
            if let Refused::Exception(exception, message) = &refused {
                tracing::info!(exception = exception.name(), message, "a transcription stream is refused");
            }
            refused.into_response()
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Meddle {
    chaos: Chaos,
}

async fn look(State(transcribe): State<Arc<Transcribe>>) -> Response {
    let (chaos, counts) = (transcribe.chaos().clone(), transcribe.counts());
    Json(json!({ "chaos": chaos, "counts": counts, "engine": transcribe.engine().name() })).into_response()
}

async fn meddle(State(transcribe): State<Arc<Transcribe>>, body: Bytes) -> Response {
    match serde_json::from_slice::<Meddle>(&body) {
        Ok(asked) => {
            *transcribe.chaos() = asked.chaos;
            look(State(transcribe)).await
        }
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    }
}
