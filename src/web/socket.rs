//! `/ws`: one door for speakers and listeners.
//!
//! The upgrade succeeds for every well-formed request, and a refusal is an `error` message and a close code, because
//! browsers cannot read an HTTP status. One task a socket, and it owns the line and the seat, nothing else.
//! Deliberately absent: `audioChunk`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use babelcast_domain::counts::Count;
use babelcast_domain::error::{ErrorCode, Problem};
use babelcast_domain::ids::SessionId;
use babelcast_domain::record::EndReason;
use babelcast_domain::time::UnixMs;
use babelcast_domain::wire::{
    Action, Authenticate, CaptionMode, ClientMessage, CreateSession, Envelope, JoinSession, Role, ServerMessage,
    SessionView,
};
use bytes::Bytes;
use tokio::time::{Instant, sleep};
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_util::sync::CancellationToken;

use super::arrival::Arrival;
use super::auth::{Caller, Reason, Token};
use super::error::Refusal;
use super::limits::{Address, Place, is_guess, too_many};
use super::line::{self, End, Heard, Line};
use super::speaking::{self, Due, Speaking};
use super::{House, wall};
use crate::live::{Control, Delivery, JoinRequest, Seat};

/// How soon clients should be elsewhere when the server stops.
const RECONNECT_WITHIN_MS: u64 = 5_000;

/// Captions, live
///
/// A WebSocket; its messages are in `/asyncapi.json`. The upgrade succeeds for every well-formed request, and a refusal
/// is an `error` message and a close code, because browsers cannot read an HTTP status.
#[utoipa::path(
    get,
    path = "/ws",
    operation_id = "openSocket",
    tag = "everybody",
    params(
        ("sessionId" = Option<SessionId>, Query, nullable = false, description = "Joins at once, without `joinSession`."),
        ("targetLanguage" = Option<String>, Query, nullable = false),
        ("captions" = inline(Option<CaptionMode>), Query, nullable = false),
        ("epoch" = Option<u64>, Query, nullable = false, description = "With `seq`: where the listener left off."),
        ("seq" = Option<u64>, Query, nullable = false),
        ("accessCode" = Option<String>, Query, nullable = false, description = "Where the session has one."),
        ("token" = Option<String>, Query, nullable = false, description = "For clients that can send no \
            `Authorization` header; `bearer.<token>` beside the subprotocol `babelcast.v1` serves as well."),
    ),
    responses(
        (status = 101, description = "The WebSocket is open."),
        (status = 426, description = "The request is no WebSocket upgrade.",
            headers(("Upgrade" = String), ("Sec-WebSocket-Version" = String))),
    )
)]
pub(super) async fn open(State(house): State<Arc<House>>, request: Request) -> Result<Response, Refusal> {
    let arrival = Arrival::read(&house, &request)?;
    let (max_message_bytes, rate) = (house.settings.max_message_bytes, house.limits.messages());
    let (visited, address, place) = (Arc::clone(&house), arrival.address, Arc::clone(&arrival.place));
    line::answer(&house, request, max_message_bytes, rate, move |line| {
        let stop = visited.stop.child_token();
        let visit = Box::new(Visit { house: visited, line, stop, address, joined: None, _place: place });
        visit.run(arrival)
    })
}

/// One connection from the upgrade to its end.
struct Visit {
    house: Arc<House>,
    line: Line,
    stop: CancellationToken,
    address: Address,
    joined: Option<Joined>,
    _place: Arc<Place>,
}

struct Joined {
    session_id: SessionId,
    seat: Seat,
    /// The owner of the session, when it is the owner's connection.
    speaker: Option<Box<Speaking>>,
}

impl Joined {
    /// Asked before each thing that only the speaker may do.
    fn speaker(&self) -> Result<&Caller, Problem> {
        let speaker = self.speaker.as_ref();
        let speaker =
            speaker.ok_or_else(|| Problem::new(ErrorCode::Forbidden, "Only the session's speaker may do this"))?;
        speaker.caller.still_good()?;
        Ok(&speaker.caller)
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

    /// The speaker goes on with a fresh token; answers with when that ends.
    async fn authenticate(&mut self, house: &House, token: &str) -> Result<UnixMs, Problem> {
        let Some(speaking) = &mut self.speaker else {
            let why = "A listener needs no token; to speak, connect with the token of the session's owner";
            return Err(Problem::new(ErrorCode::Forbidden, why));
        };
        let caller = verify(house, token).await?;
        speaking.may_become(&caller)?;
        let expires_at = caller.expires_at;
        *speaking = Speaking::new(caller, &house.settings.auth);
        Ok(expires_at)
    }
}

async fn verify(house: &House, token: &str) -> Result<Caller, Problem> {
    let token = Token::new(token).ok_or_else(|| Reason::Missing.problem())?;
    house.tokens.verify(&token).await
}

/// As `POST /sessions`.
async fn create_session(house: &House, caller: Option<&Caller>, body: CreateSession) -> Result<ServerMessage, Problem> {
    let caller = caller.ok_or_else(|| Reason::Missing.problem())?;
    caller.still_good()?;
    let (sessions, speaker) = (Arc::clone(&house.sessions), caller.id.clone());
    let record = house.to_the_end(async move { sessions.create(&speaker, body).await }).await?;
    Ok(ServerMessage::SessionCreated { session: Box::new(SessionView::for_owner(&record, 0)) })
}

async fn sign_in(house: &House, caller: &mut Option<Caller>, token: &str) -> Result<ServerMessage, Problem> {
    let fresh = verify(house, token).await?;
    if caller.as_ref().is_some_and(|caller| caller.id != fresh.id) {
        let why = "This connection belongs to somebody else; open another one";
        return Err(Problem::new(ErrorCode::Forbidden, why));
    }
    let expires_at = fresh.expires_at;
    *caller = Some(fresh);
    Ok(ServerMessage::Authenticated { expires_at })
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
        if matches!(over, Over::Ended(End::Flood)) {
            self.house.limits.refused(Count::MessagesLimited);
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
        let Arrival { admitted, token, join, .. } = *arrival;
        let caller = match admitted.and(token) {
            Ok(Some(token)) => self.house.tokens.verify(&token).await.map(Some),
            Ok(None) => Ok(None),
            Err(problem) => Err(problem),
        };
        let mut caller = match caller {
            Ok(caller) => caller,
            Err(problem) => return Err(self.refuse(problem, None).await),
        };
        let (join, request_id) = match join {
            Ok(Some(join)) => (join, None),
            Ok(None) => self.wait_for_join(&mut caller).await?,
            Err(problem) => {
                let problem = self.missed(problem);
                return Err(self.refuse(problem, None).await);
            }
        };
        match self.join(caller, join, request_id.clone()).await {
            Ok(joined) => self.joined = Some(joined),
            Err(problem) => {
                let problem = self.missed(problem);
                return Err(self.refuse(problem, request_id).await);
            }
        }
        self.greet().await
    }

    /// What can be done before there is a seat: signing in, making a session, and joining one.
    async fn wait_for_join(&mut self, caller: &mut Option<Caller>) -> Result<(JoinSession, Option<String>), Over> {
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
            let done = match action {
                Action::JoinSession(join) => return Ok((join, request_id)),
                Action::Ping => Ok(ServerMessage::Pong),
                Action::CreateSession(body) => create_session(&self.house, caller.as_ref(), *body).await,
                Action::Authenticate(Authenticate { token }) => sign_in(&self.house, caller, &token).await,
                _ => Err(Problem::invalid("join a session first: send `joinSession`")),
            };
            if let Ok(ServerMessage::SessionCreated { .. }) = &done {
                // Whoever has just made a session has not dawdled.
                patience.as_mut().reset(Instant::now() + self.house.settings.timeouts.join);
            }
            match done {
                Ok(answer) => self.tell(answer, request_id).await?,
                Err(problem) => self.complain(problem, request_id).await?,
            }
        }
    }

    async fn join(
        &mut self,
        caller: Option<Caller>,
        join: JoinSession,
        request_id: Option<String>,
    ) -> Result<Joined, Problem> {
        self.house.limits.join(self.address, Instant::now().into_std())?;
        let JoinSession { session_id, target_language, captions, audio, audio_format: _, access_code, resume } = join;
        let sessions = Arc::clone(&self.house.sessions);
        let speaker = match caller {
            Some(caller) => {
                let owner = sessions.find(&session_id).await?.record.speaker_id;
                (owner == caller.id).then_some(caller)
            }
            None => None,
        };
        if let Some(caller) = &speaker {
            caller.still_good()?;
        }
        let role = if speaker.is_some() { Role::Speaker } else { Role::Listener };
        let request = JoinRequest { role, target_language, captions, audio, access_code, resume, request_id };
        let seat = sessions.join(&session_id, request).await?;
        let speaker = speaker.map(|caller| Speaking::new(caller, &self.house.settings.auth));
        Ok(Joined { session_id, seat, speaker })
    }

    /// Guesses are charged; who makes too many learns nothing from the last one either.
    fn missed(&self, problem: Problem) -> Problem {
        if is_guess(&problem) {
            self.house.limits.guessed(self.address, Instant::now().into_std());
        }
        problem
    }

    /// `sessionJoined` lies in the seat already and goes first, before anything is read that was sent behind the join.
    async fn greet(&mut self) -> Result<(), Over> {
        let Some(joined) = self.joined.as_mut() else { return Ok(()) };
        let delivery = joined.seat.next().await;
        self.deliver(delivery).await
    }

    async fn deliver(&mut self, delivery: Delivery) -> Result<(), Over> {
        match delivery {
            Delivery::Text(bytes) => self.pass_on(bytes).await,
            Delivery::Close { code, reason } => Err(Over::Close(code, reason)),
        }
    }

    /// From the seat to the end.
    async fn stay(&mut self) -> Over {
        loop {
            let Some(Joined { seat, speaker, .. }) = self.joined.as_mut() else { return Over::Close(1012, "no seat") };
            let done = tokio::select! {
                delivery = seat.next() => self.deliver(delivery).await,
                heard = self.line.hear() => Box::pin(self.handle(heard)).await,
                due = speaking::due(speaker.as_deref_mut()) => Box::pin(self.renew(due)).await,
                () = self.stop.cancelled() => return Box::pin(self.go_away()).await,
            };
            if let Err(over) = done {
                return over;
            }
        }
    }

    /// The speaker's token ends: it is asked for another one, and in the end shown out. The session goes on.
    async fn renew(&mut self, due: Due) -> Result<(), Over> {
        match due {
            Due::Ask(expires_at) => self.tell(ServerMessage::Reauthenticate { expires_at }, None).await,
            Due::Close => {
                tracing::info!("a speaker's token ended and no other came; its socket is closed");
                self.tell(error_of(Reason::Expired.problem()), None).await?;
                Err(Over::Close(4401, "the token has expired"))
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
        let house = Arc::clone(&self.house);
        let Some(joined) = &mut self.joined else { return Ok(()) };
        let done = match action {
            Action::Ping => return self.tell(ServerMessage::Pong, request_id).await,
            Action::Authenticate(Authenticate { token }) => match joined.authenticate(&house, &token).await {
                Ok(expires_at) => return self.tell(ServerMessage::Authenticated { expires_at }, request_id).await,
                Err(problem) => Err(problem),
            },
            Action::JoinSession(_) => {
                let why = "this connection is in a session already; open another one, or send `changeLanguage`";
                Err(Problem::new(ErrorCode::Conflict, why))
            }
            Action::CreateSession(_) => joined.speaker().and_then(|_| {
                let why = "this connection is in a session already; open another one to create a session";
                Err(Problem::new(ErrorCode::Conflict, why))
            }),
            Action::ChangeLanguage(wanted) => joined.seat.change_language(wanted, request_id.clone()).await,
            Action::SetPlayback(wanted) => joined.seat.set_playback(wanted).await,
            Action::PauseBroadcast => joined.control(Control::Pause(true)).await,
            Action::ResumeBroadcast => joined.control(Control::Pause(false)).await,
            Action::MuteBroadcast => joined.control(Control::Mute(true)).await,
            Action::UnmuteBroadcast => joined.control(Control::Mute(false)).await,
            Action::SetVolume(wanted) => joined.control(Control::Volume(wanted.volume)).await,
            Action::GetSessionStatus => joined.seat.report_status(request_id.clone()).await,
            Action::EndSession => joined.end_session(&house).await,
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
            Heard::TooMany(text, wait) => {
                self.house.limits.refused(Count::MessagesLimited);
                // Read only for its `requestId`; how often that happens has a bound.
                let request_id = ClientMessage::parse(&text).map_or_else(|(_, id)| id, |message| message.request_id);
                Err((too_many("messages on this connection", wait), request_id))
            }
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
        let code = problem.code;
        if matches!(code, ErrorCode::RateLimited | ErrorCode::SessionFull) {
            // These come by the thousand; the limits tell of them once in a while.
            tracing::debug!(code = code.as_str(), "socket limited");
        } else {
            tracing::info!(code = code.as_str(), session = status, "socket refused");
        }
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
        let session_id = match &message {
            ServerMessage::SessionCreated { session } => Some(session.session_id.clone()),
            _ => self.joined.as_ref().map(|joined| joined.session_id.clone()),
        };
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
