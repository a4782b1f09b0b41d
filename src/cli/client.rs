//! The listener's side of `/ws`, for the command line, the demo and the tests alike.
//!
//! [`Listener`] is one connection as it is; [`Following`] survives cuts: it connects again, resumes, drops what it has
//! had already and says what is missing.

use std::time::Duration;

use babelcast_domain::error::{ErrorCode, Problem};
use babelcast_domain::ids::{AccessCode, SessionId};
use babelcast_domain::wire::{CaptionMode, Envelope, JoinSession, Resume, ServerMessage};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};
use url::Url;

use crate::web::Token;

/// For a connection, and for one message to leave.
const PATIENCE: Duration = Duration::from_secs(10);
/// The server pings every 25 s; after this long without anything the line is dead.
const SILENCE: Duration = Duration::from_secs(60);

/// Which session, in which language, from where.
#[derive(Debug, Clone)]
pub struct Wish {
    /// The deployment, `https://…`.
    pub url: Url,
    pub session: SessionId,
    /// Absent: the language that is spoken.
    pub target_language: Option<String>,
    pub captions: CaptionMode,
    pub token: Option<Token>,
    /// Where the speaker asks listeners for one.
    pub access_code: Option<AccessCode>,
    pub resume: Option<Resume>,
}

/// Why a client does not get what it wants. Holds no token.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("{0}")]
    Url(String),
    #[error("no connection to {at}: {why}")]
    Unreachable { at: String, why: String },
    /// The server said no, and why.
    #[error("{}{}", .0.message, supported(.0))]
    Refused(Problem),
    #[error("the server closed the connection ({code} {reason})")]
    Closed { code: u16, reason: String },
    #[error("nothing heard from the server for {} s", SILENCE.as_secs())]
    Silent,
    #[error("the server sent something this client cannot read: {0}")]
    Protocol(String),
    #[error("no connection for {} s, giving up; the last reason: {why}", .after.as_secs())]
    GaveUp { after: Duration, why: Box<ClientError> },
}

fn supported(problem: &Problem) -> String {
    let list = problem.details.as_ref().and_then(|details| details["supported"].as_array());
    let names = list.map(|list| list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "));
    names.map(|names| format!(" ({names})")).unwrap_or_default()
}

impl ClientError {
    /// Whether another connection may do better.
    pub fn is_passing(&self) -> bool {
        match self {
            ClientError::Unreachable { .. } | ClientError::Silent => true,
            ClientError::Refused(problem) => problem.code.retryable(),
            ClientError::Closed { code, .. } => !matches!(code, 1000 | 1002 | 1003 | 1007..=1009 | 4400..=4404 | 4409),
            ClientError::Url(_) | ClientError::Protocol(_) | ClientError::GaveUp { .. } => false,
        }
    }
}

/// One connection to one session.
pub struct Listener {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Listener {
    /// Opens the connection and asks to join; the answer (`sessionJoined` or `error`) is the first thing heard.
    pub async fn connect(wish: &Wish) -> Result<Listener, ClientError> {
        let mut listener = Listener::open(&wish.url, wish.token.as_ref()).await?;
        let join = JoinSession {
            session_id: wish.session.clone(),
            target_language: wish.target_language.clone(),
            captions: wish.captions,
            audio: false,
            audio_format: None,
            access_code: wish.access_code.clone(),
            resume: wish.resume,
        };
        let join = serde_json::to_value(join).map_err(|error| ClientError::Protocol(error.to_string()))?;
        listener.ask("joinSession", join).await?;
        Ok(listener)
    }

    /// Opens the connection and asks for nothing yet.
    pub async fn open(url: &Url, token: Option<&Token>) -> Result<Listener, ClientError> {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let at = socket_url(url)?;
        let bad = |error: &dyn std::fmt::Display| ClientError::Url(format!("{url} cannot be asked: {error}"));
        let mut request = at.as_str().into_client_request().map_err(|error| bad(&error))?;
        let protocols = match token {
            Some(token) => format!("babelcast.v1, bearer.{}", token.reveal()),
            None => "babelcast.v1".to_owned(),
        };
        let protocols = HeaderValue::from_str(&protocols).map_err(|_| bad(&"the token is no token"))?;
        request.headers_mut().insert("sec-websocket-protocol", protocols);
        // The defaults cost 132 KiB a connection, and a bench opens many.
        let config = WebSocketConfig::default().read_buffer_size(4_096).write_buffer_size(0);
        let unreachable = |why: String| ClientError::Unreachable { at: url.to_string(), why };
        match timeout(PATIENCE, connect_async_with_config(request, Some(config), true)).await {
            Ok(Ok((socket, _))) => Ok(Listener { socket }),
            Ok(Err(error)) => Err(unreachable(plain(&error))),
            Err(_) => Err(unreachable(format!("no answer within {} s", PATIENCE.as_secs()))),
        }
    }

    /// The next message of the server. Messages of a type that this version does not know are passed over.
    pub async fn next(&mut self) -> Result<Envelope, ClientError> {
        loop {
            let gone = || ClientError::Closed { code: 1006, reason: "without a goodbye".into() };
            let message = timeout(SILENCE, self.socket.next()).await.map_err(|_| ClientError::Silent)?;
            match message.ok_or_else(gone)? {
                Ok(Message::Text(text)) => match serde_json::from_str::<Envelope>(&text) {
                    Ok(envelope) => return Ok(envelope),
                    Err(error) if error.to_string().starts_with("unknown variant") => {
                        tracing::debug!(%error, "a message of an unknown type");
                    }
                    Err(error) => return Err(ClientError::Protocol(error.to_string())),
                },
                Ok(Message::Close(frame)) => {
                    // Reading on sends the answer; without it the server waits for nothing.
                    let _ = timeout(Duration::from_secs(1), self.socket.next()).await;
                    let (code, reason) = frame.map_or((1005, String::new()), |frame| {
                        (frame.code.into(), frame.reason.chars().filter(|c| !c.is_control()).collect())
                    });
                    return Err(ClientError::Closed { code, reason });
                }
                Ok(_) => {}
                Err(error) => return Err(ClientError::Closed { code: 1006, reason: plain(&error) }),
            }
        }
    }

    /// Sends an action with its fields; `fields` is a JSON object.
    pub async fn ask(&mut self, action: &str, mut fields: Value) -> Result<(), ClientError> {
        fields["action"] = json!(action);
        self.send(Message::text(fields.to_string())).await
    }

    pub async fn change_language(&mut self, target: &str) -> Result<(), ClientError> {
        self.ask("changeLanguage", json!({ "targetLanguage": target })).await
    }

    /// Any message at all, also a wrong one.
    pub async fn send(&mut self, message: Message) -> Result<(), ClientError> {
        match timeout(PATIENCE, self.socket.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(ClientError::Closed { code: 1006, reason: plain(&error) }),
            Err(_) => Err(ClientError::Silent),
        }
    }

    /// Says goodbye.
    pub async fn close(mut self) {
        let goodbye = async {
            let _ = self.socket.close(None).await;
            while let Some(Ok(_)) = self.socket.next().await {}
        };
        let _ = timeout(Duration::from_secs(2), goodbye).await;
    }
}

/// The path of an endpoint under the deployment's own.
pub(super) fn at(url: &Url, path: &str) -> Url {
    let mut at = url.clone();
    at.set_path(&format!("{}{path}", url.path().trim_end_matches('/')));
    at.set_query(None);
    at.set_fragment(None);
    at
}

fn socket_url(url: &Url) -> Result<Url, ClientError> {
    let scheme = match url.scheme() {
        "http" | "ws" => "ws",
        "https" | "wss" => "wss",
        other => return Err(ClientError::Url(format!("{other}:// is no web address; use https:// or http://"))),
    };
    // `Url` refuses to change between special and other schemes only; all four are special.
    let mut at = at(url, "/ws");
    at.set_scheme(scheme).map_err(|()| ClientError::Url(format!("{url} is no web address")))?;
    Ok(at)
}

/// A sentence for people; what the libraries add about themselves is left out.
fn plain(error: &tungstenite::Error) -> String {
    match error {
        tungstenite::Error::Io(error) => error.to_string(),
        tungstenite::Error::Http(answer) => format!("HTTP {} instead of a WebSocket", answer.status()),
        other => other.to_string(),
    }
}

/// What happened while following.
#[derive(Debug)]
pub enum Sight {
    Message(Box<Envelope>),
    /// This many durable events never came.
    Missed(u64),
    /// The line is cut; another try follows after `wait`.
    Cut {
        why: ClientError,
        wait: Duration,
    },
}

/// A session, followed over cuts.
pub struct Following {
    wish: Wish,
    listener: Option<Listener>,
    /// The last durable event that was handed out.
    place: Option<Resume>,
    backoff: Backoff,
    /// A message that waits behind the note about what was missed before it.
    held: Option<Envelope>,
    /// What the server said last before it closed.
    refused: Option<Problem>,
    /// Whether it ever got in: a deployment that was never there is told at once instead of waited for.
    was_in: bool,
}

impl Following {
    pub fn new(wish: Wish) -> Self {
        let place = wish.resume;
        Following { wish, listener: None, place, backoff: Backoff::default(), held: None, refused: None, was_in: false }
    }

    /// The next thing that happened. Cancel safe except while a connection is being made, which is then made anew.
    ///
    /// # Errors
    /// What trying again cannot mend, or [`ClientError::GaveUp`].
    pub async fn next(&mut self) -> Result<Sight, ClientError> {
        loop {
            if let Some(envelope) = self.held.take() {
                return Ok(self.hand_out(envelope));
            }
            let heard = match &mut self.listener {
                Some(listener) => listener.next().await,
                None => {
                    sleep(self.backoff.wait).await;
                    self.backoff.wait = Duration::ZERO;
                    self.wish.resume = self.place;
                    match Listener::connect(&self.wish).await {
                        Ok(listener) => {
                            self.listener = Some(listener);
                            continue;
                        }
                        Err(error) => Err(error),
                    }
                }
            };
            match heard {
                Ok(envelope) => match self.judge(&envelope) {
                    Fresh::Yes => return Ok(self.hand_out(envelope)),
                    Fresh::HadAlready => {}
                    Fresh::After { missed } => {
                        self.held = Some(envelope);
                        return Ok(Sight::Missed(missed));
                    }
                },
                Err(error) => return self.cut(error),
            }
        }
    }

    /// Says goodbye.
    pub async fn close(self) {
        if let Some(listener) = self.listener {
            listener.close().await;
        }
    }

    fn hand_out(&mut self, envelope: Envelope) -> Sight {
        match &envelope.message {
            ServerMessage::SessionJoined(joined) => {
                self.backoff = Backoff::default();
                self.refused = None;
                self.was_in = true;
                let seq = envelope.seq.unwrap_or_default();
                let same = self.place.is_some_and(|place| place.epoch == joined.epoch);
                // Resumed: the events since our own place follow, so that the server's is not ours yet.
                if !(joined.resumed && same) {
                    self.place = Some(Resume { epoch: joined.epoch, seq });
                }
            }
            ServerMessage::LanguageChanged { target_language, epoch, .. } => {
                self.wish.target_language = Some(target_language.to_string());
                self.place = Some(Resume { epoch: *epoch, seq: envelope.seq.unwrap_or_default() });
            }
            ServerMessage::Error { code, message, details, .. } => {
                self.refused = Some(Problem { code: *code, message: message.clone(), details: details.clone() });
            }
            _ => {
                if let (Some(seq), Some(place)) = (envelope.seq, &mut self.place) {
                    place.seq = seq;
                }
            }
        }
        Sight::Message(Box::new(envelope))
    }

    fn judge(&self, envelope: &Envelope) -> Fresh {
        let sets_place =
            matches!(envelope.message, ServerMessage::SessionJoined(_) | ServerMessage::LanguageChanged { .. });
        match (envelope.seq, self.place) {
            (Some(seq), Some(place)) if !sets_place => match seq.checked_sub(place.seq) {
                None | Some(0) => Fresh::HadAlready,
                Some(1) => Fresh::Yes,
                Some(step) => Fresh::After { missed: step - 1 },
            },
            _ => Fresh::Yes,
        }
    }

    fn cut(&mut self, error: ClientError) -> Result<Sight, ClientError> {
        self.listener = None;
        // The message before the close says more than its code.
        let error = match (error, self.refused.take()) {
            (ClientError::Closed { code, reason }, Some(problem)) if problem.code.close_code() == code => {
                if ErrorCode::retryable(problem.code) {
                    ClientError::Closed { code, reason }
                } else {
                    ClientError::Refused(problem)
                }
            }
            (error, _) => error,
        };
        let nowhere = !self.was_in && matches!(error, ClientError::Unreachable { .. });
        if nowhere || !error.is_passing() {
            return Err(error);
        }
        match self.backoff.next() {
            Some(wait) => Ok(Sight::Cut { why: error, wait }),
            None => Err(ClientError::GaveUp { after: GIVE_UP, why: Box::new(error) }),
        }
    }
}

enum Fresh {
    Yes,
    HadAlready,
    After { missed: u64 },
}

/// How long to go on trying without once getting in.
const GIVE_UP: Duration = Duration::from_secs(600);
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// Waits that double, half of each by chance, so that a thousand listeners do not come back at once.
struct Backoff {
    wait: Duration,
    ceiling: Duration,
    since: Option<Instant>,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { wait: Duration::ZERO, ceiling: FIRST_WAIT, since: None }
    }
}

impl Backoff {
    fn next(&mut self) -> Option<Duration> {
        let since = *self.since.get_or_insert_with(Instant::now);
        if since.elapsed() > GIVE_UP {
            return None;
        }
        self.wait = self.ceiling.mul_f64(rand::random_range(0.5..1.0));
        self.ceiling = (self.ceiling * 2).min(LONGEST_WAIT);
        Some(self.wait)
    }
}
