//! `/ws`: one door for speakers and listeners.
//!
//! The upgrade succeeds for every well-formed request, and a refusal is an `error` message and a close code, because
//! browsers cannot read an HTTP status. One task a socket, and it owns the line and the seat, nothing else.
//! Deliberately absent: playback, `audioChunk` and the broadcast's own controls.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use babelcast_domain::counts::Count;
use babelcast_domain::error::{ErrorCode, Problem};
use babelcast_domain::ids::SessionId;
use babelcast_domain::record::EndReason;
use babelcast_domain::wire::{Action, CaptionMode, ClientMessage, Envelope, JoinSession, Resume, Role, ServerMessage};
use bytes::Bytes;
use tokio::time::sleep;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_util::sync::CancellationToken;
use url::form_urlencoded;

use super::auth::{Caller, Token};
use super::error::Refusal;
use super::line::{self, End, Heard, Line};
use super::{House, wall};
use crate::live::{Control, Delivery, JoinRequest, Seat};

/// How soon clients should be elsewhere when the server stops.
const RECONNECT_WITHIN_MS: u64 = 5_000;

pub(super) async fn open(State(house): State<Arc<House>>, request: Request) -> Result<Response, Refusal> {
    let arrival = Box::new(Arrival::read(&request));
    let visited = Arc::clone(&house);
    line::answer(&house, request, visited.settings.max_message_bytes, move |line| {
        let stop = visited.stop.child_token();
        Box::new(Visit { house: visited, line, stop, joined: None }).run(arrival)
    })
}

/// What the upgrade request said. Wrong values are told on the line, not by HTTP.
struct Arrival {
    token: Result<Option<Token>, Problem>,
    join: Result<Option<JoinSession>, Problem>,
}

impl Arrival {
    /// `?sessionId=&targetLanguage=&captions=&epoch=&seq=&token=`; other parameters are passed over, because
    /// proxies and campaign links add their own. A token in the header wins over one in the subprotocol, that over
    /// one in the query.
    fn read(request: &Request) -> Arrival {
        let query = request.uri().query().unwrap_or_default();
        let given = |name: &str| {
            let mut pairs = form_urlencoded::parse(query.as_bytes());
            pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned()).filter(|value| !value.is_empty())
        };
        let in_protocol = || line::offered(request.headers()).find_map(|name| name.strip_prefix("bearer."));
        let token = Token::from_headers(request.headers()).map(|token| {
            let token = token.or_else(|| in_protocol().and_then(Token::new));
            token.or_else(|| given("token").as_deref().and_then(Token::new))
        });
        Arrival { token, join: given("sessionId").map(|id| join_of(&id, given)).transpose() }
    }
}

fn join_of(id: &str, given: impl Fn(&str) -> Option<String>) -> Result<JoinSession, Problem> {
    let session_id = SessionId::parse(id).map_err(|_| Problem::session_not_found("unknown"))?;
    let captions = match given("captions").as_deref() {
        None => CaptionMode::default(),
        Some("raw") => CaptionMode::Raw,
        Some("stable") => CaptionMode::Stable,
        Some("final") => CaptionMode::Final,
        Some(_) => return Err(Problem::invalid("`captions` must be one of raw, stable, final")),
    };
    let number = |name: &str| match given(name) {
        None => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| Problem::invalid(format!("`{name}` must be a number"))),
    };
    let resume = match (number("epoch")?, number("seq")?) {
        (Some(epoch), Some(seq)) => Some(Resume { epoch, seq }),
        (None, None) => None,
        _ => return Err(Problem::invalid("`epoch` and `seq` go together")),
    };
    let target_language = given("targetLanguage");
    Ok(JoinSession {
        session_id,
        target_language,
        captions,
        audio: false,
        audio_format: None,
        access_code: None,
        resume,
    })
}

/// One connection from the upgrade to its end.
struct Visit {
    house: Arc<House>,
    line: Line,
    stop: CancellationToken,
    joined: Option<Joined>,
}

struct Joined {
    session_id: SessionId,
    seat: Seat,
    /// The owner of the session, when it is the owner's connection.
    speaker: Option<Caller>,
}

impl Joined {
    fn speaker(&self) -> Result<&Caller, Problem> {
        let speaker = self.speaker.as_ref();
        let speaker =
            speaker.ok_or_else(|| Problem::new(ErrorCode::Forbidden, "Only the session's speaker may do this"))?;
        speaker.still_good()?;
        Ok(speaker)
    }

    async fn control(&self, control: Control) -> Result<(), Problem> {
        self.speaker()?;
        self.seat.control(control).await
    }

    /// Everybody in the session, this socket too, hears of it through its seat.
    async fn end_session(&self, house: &House) -> Result<(), Problem> {
        self.speaker()?;
        let (sessions, id) = (Arc::clone(&house.sessions), self.session_id.clone());
        house.to_the_end(async move { sessions.end(&id, EndReason::Speaker).await }).await
    }
}

/// How a visit is over.
enum Over {
    /// Nobody there to tell.
    Ended(End),
    /// Said all there was; close with this code.
    Close(u16, &'static str),
}

impl From<End> for Over {
    fn from(end: End) -> Self {
        Over::Ended(end)
    }
}

impl Visit {
    /// Boxed, because the arguments of an async function are in its future twice.
    async fn run(mut self: Box<Self>, arrival: Box<Arrival>) {
        // Boxed: what is needed once, or seldom, is not carried by the task of every listener for hours.
        let over = match Box::pin(self.enter(arrival)).await {
            Ok(()) => self.stay().await,
            Err(over) => over,
        };
        if let Some(joined) = self.joined {
            match over {
                // A goodbye on purpose frees the seat at once; a cut one may come back and resume.
                Over::Ended(End::Left | End::Silent | End::TooSlow) => drop(joined.seat),
                _ => Box::pin(joined.seat.leave()).await,
            }
        }
        match over {
            Over::Ended(end) => Box::pin(self.line.end(end)).await,
            Over::Close(code, reason) => {
                tracing::debug!(code, reason, "socket closed");
                Box::pin(self.line.close(code, reason)).await;
            }
        }
    }

    /// From the upgrade to the seat: by the query, or by the first `joinSession`.
    async fn enter(&mut self, arrival: Box<Arrival>) -> Result<(), Over> {
        let house = Arc::clone(&self.house);
        let caller = match arrival.token {
            Ok(Some(token)) => match house.tokens.verify(&token).await {
                Ok(caller) => Some(caller),
                Err(problem) => return Err(self.refuse(problem, None).await),
            },
            Ok(None) => None,
            Err(problem) => return Err(self.refuse(problem, None).await),
        };
        let (join, request_id) = match arrival.join {
            Ok(Some(join)) => (join, None),
            Ok(None) => self.wait_for_join().await?,
            Err(problem) => return Err(self.refuse(problem, None).await),
        };
        match self.join(caller, join, request_id.clone()).await {
            Ok(joined) => {
                self.joined = Some(joined);
                Ok(())
            }
            Err(problem) => Err(self.refuse(problem, request_id).await),
        }
    }

    async fn wait_for_join(&mut self) -> Result<(JoinSession, Option<String>), Over> {
        let patience = sleep(self.house.settings.timeouts.join);
        tokio::pin!(patience);
        loop {
            let heard = tokio::select! {
                heard = self.line.hear() => heard,
                () = patience.as_mut() => {
                    let why = format!("no `joinSession` within {:?}", self.house.settings.timeouts.join);
                    self.complain(Problem::invalid(why), None).await?;
                    return Err(Over::Close(4408, "no joinSession in time"));
                }
                () = self.stop.cancelled() => return Err(self.go_away().await),
            };
            let Some(ClientMessage { action, request_id }) = self.read(heard).await? else { continue };
            match action {
                Action::JoinSession(join) => return Ok((join, request_id)),
                Action::Ping => self.tell(ServerMessage::Pong, request_id).await?,
                _ => {
                    self.complain(Problem::invalid("join a session first: send `joinSession`"), request_id).await?;
                }
            }
        }
    }

    async fn join(
        &mut self,
        caller: Option<Caller>,
        join: JoinSession,
        request_id: Option<String>,
    ) -> Result<Joined, Problem> {
        let JoinSession { session_id, target_language, captions, audio, audio_format: _, access_code: _, resume } =
            join;
        let sessions = Arc::clone(&self.house.sessions);
        let speaker = match caller {
            Some(caller) => {
                let owner = sessions.find(&session_id).await?.record.speaker_id;
                (owner == caller.id).then_some(caller)
            }
            None => None,
        };
        let role = if speaker.is_some() { Role::Speaker } else { Role::Listener };
        let request = JoinRequest { role, target_language, captions, audio, resume, request_id };
        let seat = sessions.join(&session_id, request).await?;
        Ok(Joined { session_id, seat, speaker })
    }

    /// From the seat to the end.
    async fn stay(&mut self) -> Over {
        loop {
            let Some(joined) = self.joined.as_mut() else { return Over::Close(1012, "no seat") };
            let done = tokio::select! {
                delivery = joined.seat.next() => match delivery {
                    Delivery::Text(bytes) => self.pass_on(bytes).await,
                    Delivery::Close { code, reason } => return Over::Close(code, reason),
                },
                heard = self.line.hear() => Box::pin(self.handle(heard)).await,
                () = self.stop.cancelled() => return Box::pin(self.go_away()).await,
            };
            if let Err(over) = done {
                return over;
            }
        }
    }

    async fn pass_on(&mut self, bytes: Bytes) -> Result<(), Over> {
        match Utf8Bytes::try_from(bytes) {
            Ok(text) => Ok(self.line.say(text).await?),
            Err(_) => {
                tracing::error!("a message for a listener is not UTF-8 and was not sent");
                Ok(())
            }
        }
    }

    async fn handle(&mut self, heard: Heard) -> Result<(), Over> {
        let Some(ClientMessage { action, request_id }) = self.read(heard).await? else { return Ok(()) };
        let Some(joined) = &self.joined else { return Ok(()) };
        let done = match action {
            Action::Ping => return self.tell(ServerMessage::Pong, request_id).await,
            Action::JoinSession(_) => {
                let why = "this connection is in a session already; open another one, or send `changeLanguage`";
                Err(Problem::new(ErrorCode::Conflict, why))
            }
            Action::ChangeLanguage(wanted) => {
                joined.seat.change_language(&wanted.target_language, request_id.clone()).await
            }
            Action::SetPlayback(wanted) => joined.seat.set_playback(wanted).await,
            Action::PauseBroadcast => joined.control(Control::Pause(true)).await,
            Action::ResumeBroadcast => joined.control(Control::Pause(false)).await,
            Action::MuteBroadcast => joined.control(Control::Mute(true)).await,
            Action::UnmuteBroadcast => joined.control(Control::Mute(false)).await,
            Action::SetVolume(wanted) => joined.control(Control::Volume(wanted.volume)).await,
            Action::CreateSession(_) | Action::Authenticate(_) => {
                Err(Problem::invalid("this connection cannot do that"))
            }
            Action::GetSessionStatus => joined.seat.report_status(request_id.clone()).await,
            Action::EndSession => joined.end_session(&self.house).await,
        };
        match done {
            Ok(()) => Ok(()),
            Err(problem) => self.complain(problem, request_id).await,
        }
    }

    /// The message that was heard; `None` when it was none and the client has been told so.
    async fn read(&mut self, heard: Heard) -> Result<Option<ClientMessage>, Over> {
        let parsed = match heard {
            Heard::Text(text) => ClientMessage::parse(&text),
            Heard::Binary(_) => Err((Problem::invalid("send text; no binary message is expected here"), None)),
            Heard::End(end) => return Err(end.into()),
        };
        match parsed {
            Ok(message) => Ok(Some(message)),
            Err((problem, request_id)) => self.complain(problem, request_id).await.map(|()| None),
        }
    }

    /// Something was wrong with a message; the connection stays.
    async fn complain(&mut self, problem: Problem, request_id: Option<String>) -> Result<(), Over> {
        self.house.counts.one(Count::MessagesRefused);
        tracing::debug!(code = problem.code.as_str(), "message refused");
        self.tell(error_of(problem), request_id).await
    }

    /// No entry: the reason, and the close code that goes with it.
    async fn refuse(&mut self, problem: Problem, request_id: Option<String>) -> Over {
        self.house.counts.one(Count::ListenersRefused);
        let status = problem.details.as_ref().and_then(|details| details["status"].as_str()).unwrap_or("-");
        tracing::info!(code = problem.code.as_str(), session = status, "socket refused");
        let code = problem.code;
        match self.tell(error_of(problem), request_id).await {
            Ok(()) => Over::Close(code.close_code(), code.as_str()),
            Err(over) => over,
        }
    }

    async fn go_away(&mut self) -> Over {
        let reason = "the server is stopping".to_owned();
        match self.tell(ServerMessage::GoAway { reason, reconnect_within_ms: RECONNECT_WITHIN_MS }, None).await {
            Ok(()) => Over::Close(1001, "going away"),
            Err(over) => over,
        }
    }

    async fn tell(&mut self, message: ServerMessage, request_id: Option<String>) -> Result<(), Over> {
        let session_id = self.joined.as_ref().map(|joined| joined.session_id.clone());
        let envelope = Envelope { message, session_id, timestamp: wall(), seq: None, request_id };
        match serde_json::to_string(&envelope) {
            Ok(text) => Ok(self.line.say(text.into()).await?),
            Err(error) => {
                tracing::error!(%error, "an answer could not be written");
                Ok(())
            }
        }
    }
}

fn error_of(problem: Problem) -> ServerMessage {
    let Problem { code, message, details } = problem;
    ServerMessage::Error { code, message, retryable: code.retryable(), details }
}
