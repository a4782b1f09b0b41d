//! The signaling sockets: the handshake on `/m` and `/v`, and one loop per socket.
//!
//! A refusal is an HTTP answer before the upgrade. The loop owns its socket; it takes frames from its inbox,
//! obeys orders from the relay, and ends with the service's stop token.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message as WsMessage, WebSocket, WebSocketUpgrade};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderMap, Uri};

use super::Kvs;
use super::channels::Which;
use super::chaos::{Chaos, Count};
use super::frame::{self, ClientFrame, ClientId, Refusal};
use super::rates::Allowance;
use super::relay::{Message, Order, Peer, Place, Relay};
use crate::error::{AwsError, ErrorKind};
use crate::sigv4;

/// Tungstenite's own defaults cost 132 KiB a socket.
const SOCKET_BUFFER: usize = 4096;
/// Longer frames close the socket with 1009; a legal one stays below 11 KB.
const MAX_FRAME: usize = 128 * 1024;
/// A peer that takes longer to accept a frame is gone.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// What a peer gets to answer a close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Frames on their way while chaos delays them; past it the inbox fills up instead.
const MAX_DEPARTURES: usize = 512;
const GOING_AWAY: u16 = 1001;
const TOO_BIG: u16 = 1009;

type Upgrade = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;

pub(super) fn routes() -> Router<Arc<Kvs>> {
    Router::new()
        .route(
            "/m",
            get(async |State(kvs), uri, headers, upgrade| connect(&kvs, Role::Master, &uri, &headers, upgrade)),
        )
        .route(
            "/v",
            get(async |State(kvs), uri, headers, upgrade| connect(&kvs, Role::Viewer, &uri, &headers, upgrade)),
        )
}

#[derive(Debug, Clone, Copy)]
enum Role {
    Master,
    Viewer,
}

fn connect(kvs: &Arc<Kvs>, role: Role, uri: &Uri, headers: &HeaderMap, upgrade: Upgrade) -> Response {
    let admitted = match upgrade {
        Ok(upgrade) => kvs.seat(role, uri, headers).map(|seated| (upgrade, seated)),
        Err(rejection) => Err(AwsError::invalid(rejection.body_text())),
    };
    let (upgrade, seated) = match admitted {
        Ok(admitted) => admitted,
        Err(refusal) => {
            kvs.counts.add(Count::HandshakesRefused);
            tracing::debug!(kvs.role = ?role, kvs.error = refusal.kind.name(), "signaling handshake refused");
            return refusal.into_response();
        }
    };
    let token = kvs.sockets.token();
    upgrade
        // The C SDK asks for it and fails when it is not echoed.
        .protocols(["wss"])
        .read_buffer_size(SOCKET_BUFFER)
        .write_buffer_size(0)
        .max_message_size(MAX_FRAME)
        .max_frame_size(MAX_FRAME)
        .on_upgrade(move |socket| async move {
            seated.serve(socket).await;
            drop(token);
        })
        .into_response()
}

impl Kvs {
    /// All rules of the handshake; the seat is taken when this returns.
    fn seat(self: &Arc<Self>, role: Role, uri: &Uri, headers: &HeaderMap) -> Result<Seated, AwsError> {
        if self.switches.take(|chaos| &mut chaos.forbid_handshakes) {
            return Err(denied("Chaos: this handshake is forbidden"));
        }
        if self.switches.take(|chaos| &mut chaos.throttle_handshakes) {
            return Err(AwsError::new(ErrorKind::ClientLimitExceeded, "Rate exceeded"));
        }
        if let Some(secret) = &self.gate.secret {
            let target = uri.path_and_query().map_or("/", |target| target.as_str());
            let verified = sigv4::verify_query(secret.as_str(), "GET", target, headers, SystemTime::now())
                .map_err(|reason| denied(reason.to_string()))?;
            self.gate.check_service(&verified).map_err(|wrong| denied(wrong.message))?;
        }
        let query = uri.query().unwrap_or_default();
        let arn = sigv4::query_parameter(query, "X-Amz-ChannelARN")
            .ok_or_else(|| AwsError::invalid("X-Amz-ChannelARN is required"))?;
        let client_id = sigv4::query_parameter(query, "X-Amz-ClientId");
        let peer = match (role, client_id) {
            // The endpoint gives the role; a client id means nothing to a master's.
            (Role::Master, _) => Peer::Master,
            (Role::Viewer, None) => return Err(AwsError::invalid("X-Amz-ClientId is required")),
            (Role::Viewer, Some(id)) => Peer::Viewer(ClientId::parse(&id).ok_or_else(|| {
                AwsError::invalid("X-Amz-ClientId must be 1 to 256 of [a-zA-Z0-9_.-] and not begin with AWS_")
            })?),
        };
        let place = {
            let now = Instant::now();
            let mut channels = self.channels();
            let channel = channels.find_active(Which::Arn(&arn), now).map_err(|refusal| {
                // The handshake knows no ResourceInUse: a channel still in CREATING is not there yet.
                let early = refusal.kind == ErrorKind::ResourceInUse;
                AwsError { kind: if early { ErrorKind::ResourceNotFound } else { refusal.kind }, ..refusal }
            })?;
            if self.settings.rates.is_some_and(|rates| !channel.connects.take(rates.connects, now)) {
                return Err(AwsError::new(ErrorKind::ClientLimitExceeded, "Rate exceeded"));
            }
            channel.relay.reserve(peer.clone(), self.settings.max_viewers, &self.counts)?
        };
        Ok(Seated { kvs: Arc::clone(self), arn, peer, place, allowance: Allowance::default() })
    }

    /// Passes one text frame on; gives the text to answer with, if any.
    fn pass_on(&self, arn: &str, from: &Peer, allowance: &mut Allowance, text: &str) -> Option<String> {
        let now = Instant::now();
        let addressed = ClientFrame::parse(text).and_then(|frame| {
            if self.settings.rates.is_some_and(|rates| !allowance.take(&rates, frame.action, now)) {
                let (kind, description) = (ErrorKind::ClientLimitExceeded, "Rate exceeded");
                return Err(Refusal { kind, description, correlation_id: frame.correlation_id });
            }
            Relay::address(from, &frame)
        });
        let (to, message) = match addressed {
            Ok(addressed) => addressed,
            Err(refusal) => {
                self.counts.add(Count::MessagesRefused);
                tracing::debug!(reason = refusal.description, "signaling message refused");
                return frame::status_response(&refusal);
            }
        };
        if self.switches.take(|chaos| &mut chaos.drop_messages) {
            self.counts.add(Count::MessagesDropped);
            return None;
        }
        let twice = self.switches.take(|chaos| &mut chaos.duplicate_messages);
        let mut channels = self.channels();
        let Ok(channel) = channels.find_active(Which::Arn(arn), now) else {
            self.counts.add(Count::MessagesDropped);
            return None;
        };
        let ttl = channel.ttl();
        if twice {
            channel.relay.deliver(to.clone(), message.clone(), ttl, now, &self.counts);
        }
        channel.relay.deliver(to, message, ttl, now, &self.counts);
        None
    }
}

fn denied(message: impl Into<String>) -> AwsError {
    AwsError::new(ErrorKind::AccessDenied, message)
}

/// A peer with a seat on a channel; dropping it frees the seat, also when the upgrade never comes.
struct Seated {
    kvs: Arc<Kvs>,
    arn: String,
    peer: Peer,
    place: Place,
    allowance: Allowance,
}

impl Drop for Seated {
    fn drop(&mut self) {
        if let Ok(channel) = self.kvs.channels().find(Which::Arn(&self.arn), Instant::now()) {
            channel.relay.leave(&self.peer, self.place.id);
        }
        while self.place.inbox.try_recv().is_ok() {
            self.kvs.counts.add(Count::MessagesDropped);
        }
    }
}

/// Why a socket's loop ended.
enum End {
    /// The peer closed or vanished.
    Gone,
    Cut,
    Close(u16, &'static str),
}

impl Seated {
    async fn serve(mut self, mut socket: WebSocket) {
        let kvs = Arc::clone(&self.kvs);
        kvs.counts.add(Count::SocketsOpened);
        let end = self.pump(&mut socket).await;
        // The seat is free before the goodbye, which may take a while.
        drop(self);
        match end {
            End::Gone | End::Cut => {}
            End::Close(code, reason) => close(&mut socket, code, reason).await,
        }
        kvs.counts.add(Count::SocketsClosed);
    }

    async fn pump(&mut self, socket: &mut WebSocket) -> End {
        let opened = Instant::now();
        let mut last_frame = opened;
        let mut departures = Departures::default();
        for message in self.open(opened) {
            departures.push(message, opened, &self.kvs.switches.get());
        }
        let stop = self.kvs.stop.clone();
        let mut warned = false;
        let end_of_life = after(opened, self.kvs.settings.lifetime);
        let warn_at = end_of_life.checked_sub(self.kvs.settings.grace).unwrap_or(opened);
        loop {
            let now = Instant::now();
            if !warned && now >= warn_at {
                warned = true;
                departures.push(Message::notice(frame::notice("GO_AWAY")), now, &Chaos::default());
            }
            while let Some(text) = departures.pop(now) {
                if !send(socket, WsMessage::Text(text.into())).await {
                    return End::Gone;
                }
                last_frame = now;
            }
            let ordered = *self.place.orders.borrow_and_update();
            let close_by = match ordered {
                Order::Serve => None,
                Order::CloseBy(moment) => Some(moment),
                Order::Close(reason) => return End::Close(GOING_AWAY, reason),
                Order::Cut => return End::Cut,
            };
            let idle_at = after(last_frame, self.kvs.settings.idle);
            let closing = close_by.map_or(end_of_life, |moment| moment.min(end_of_life));
            if now >= closing || now >= idle_at {
                return End::Close(GOING_AWAY, "Going away");
            }
            let mut wake = closing.min(idle_at);
            wake = departures.next_due().map_or(wake, |due| wake.min(due));
            wake = if warned { wake } else { wake.min(warn_at) };
            tokio::select! {
                () = stop.cancelled() => return End::Close(GOING_AWAY, "shutting down"),
                changed = self.place.orders.changed() => match changed {
                    Ok(()) => {}
                    Err(_) => return End::Close(GOING_AWAY, "the channel is gone"),
                },
                Some(message) = self.place.inbox.recv(), if departures.len() < MAX_DEPARTURES => {
                    departures.push(message, Instant::now(), &self.kvs.switches.get());
                }
                received = socket.recv() => {
                    last_frame = Instant::now();
                    match self.heard(received) {
                        Ok(Some(answer)) => departures.push(Message::notice(answer), last_frame, &Chaos::default()),
                        Ok(None) => {}
                        Err(end) => return end,
                    }
                }
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
    }

    fn open(&self, now: Instant) -> Vec<Message> {
        match self.kvs.channels().find(Which::Arn(&self.arn), now) {
            Ok(channel) => channel.relay.open(&self.peer, self.place.id, now, &self.kvs.counts),
            // Deleted meanwhile: the order to close is already on its way.
            Err(_) => Vec::new(),
        }
    }

    /// One frame from the peer; gives the text to answer with.
    fn heard(&mut self, received: Option<Result<WsMessage, axum::Error>>) -> Result<Option<String>, End> {
        match received {
            Some(Ok(WsMessage::Text(text))) if text.is_empty() => self.ignore(),
            Some(Ok(WsMessage::Text(text))) => Ok(self.kvs.pass_on(&self.arn, &self.peer, &mut self.allowance, &text)),
            Some(Ok(WsMessage::Binary(_))) => self.ignore(),
            // The WebSocket layer answers pings by itself.
            Some(Ok(WsMessage::Ping(_) | WsMessage::Pong(_))) => Ok(None),
            Some(Ok(WsMessage::Close(_))) | None => Err(End::Gone),
            Some(Err(error)) => {
                tracing::debug!(%error, "signaling socket broke");
                Err(End::Close(TOO_BIG, "message too big or malformed"))
            }
        }
    }

    fn ignore(&self) -> Result<Option<String>, End> {
        self.kvs.counts.add(Count::FramesIgnored);
        Ok(None)
    }
}

/// `start + wait`; a wait beyond all clocks becomes a year.
pub(super) fn after(start: Instant, wait: Duration) -> Instant {
    start.checked_add(wait).unwrap_or(start + Duration::from_secs(365 * 86_400))
}

/// False when the peer is gone or does not accept the frame in time.
async fn send(socket: &mut WebSocket, message: WsMessage) -> bool {
    matches!(tokio::time::timeout(SEND_TIMEOUT, socket.send(message)).await, Ok(Ok(())))
}

/// Says goodbye and waits for the peer to do so too: leaving unread frames behind would reset the connection, and
/// the peer would miss the close.
async fn close(socket: &mut WebSocket, code: u16, reason: &'static str) {
    let frame = CloseFrame { code, reason: reason.into() };
    if !send(socket, WsMessage::Close(Some(frame))).await {
        return;
    }
    let answered = async { while let Some(Ok(_)) = socket.recv().await {} };
    if tokio::time::timeout(CLOSE_TIMEOUT, answered).await.is_err() {
        tracing::debug!("the peer did not answer the close");
    }
}

/// Frames on their way to one socket, as late and as shuffled as chaos wants them.
#[derive(Debug, Default)]
struct Departures {
    waiting: VecDeque<(Instant, Message)>,
    /// SDP that lets a candidate of its sender overtake it, with the moment its patience ends.
    held_sdp: Vec<(Instant, Message)>,
}

impl Departures {
    fn push(&mut self, message: Message, now: Instant, chaos: &Chaos) {
        let due = now + chaos.message_delay();
        match message.action {
            Some(action) if action.is_sdp() && !chaos.hold_sdp().is_zero() => {
                self.held_sdp.push((due + chaos.hold_sdp(), message));
            }
            Some(action) if !action.is_sdp() => {
                let sender = message.sender.clone();
                self.waiting.push_back((due, message));
                if let Some(place) = self.held_sdp.iter().position(|(_, sdp)| sdp.sender == sender) {
                    let (_, sdp) = self.held_sdp.remove(place);
                    self.waiting.push_back((due, sdp));
                }
            }
            Some(_) | None => self.waiting.push_back((due, message)),
        }
    }

    fn pop(&mut self, now: Instant) -> Option<String> {
        if let Some(place) = self.held_sdp.iter().position(|(until, _)| *until <= now) {
            return Some(self.held_sdp.remove(place).1.text);
        }
        match self.waiting.front() {
            Some((due, _)) if *due <= now => self.waiting.pop_front().map(|(_, message)| message.text),
            Some(_) | None => None,
        }
    }

    fn next_due(&self) -> Option<Instant> {
        self.waiting.front().into_iter().chain(&self.held_sdp).map(|(due, _)| *due).min()
    }

    fn len(&self) -> usize {
        self.waiting.len() + self.held_sdp.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvs::frame::Action;

    fn message(action: Action, text: &str) -> Message {
        Message { action: Some(action), sender: ClientId::parse("a"), text: text.into() }
    }

    #[test]
    fn a_candidate_overtakes_held_sdp_and_frees_it() {
        let (mut departures, now) = (Departures::default(), Instant::now());
        let chaos = Chaos { hold_sdp_ms: 500, ..Chaos::default() };
        departures.push(message(Action::SdpOffer, "offer"), now, &chaos);
        assert_eq!(departures.pop(now), None);
        departures.push(message(Action::IceCandidate, "candidate"), now, &chaos);
        let sent: Vec<String> = std::iter::from_fn(|| departures.pop(now)).collect();
        assert_eq!(sent, ["candidate", "offer"]);
    }

    #[test]
    fn held_sdp_leaves_alone_when_no_candidate_comes() {
        let (mut departures, now) = (Departures::default(), Instant::now());
        let chaos = Chaos { hold_sdp_ms: 500, ..Chaos::default() };
        departures.push(message(Action::SdpOffer, "offer"), now, &chaos);
        let until = now + Duration::from_millis(500);
        assert_eq!(departures.next_due(), Some(until));
        assert_eq!(departures.pop(until).as_deref(), Some("offer"));
    }

    #[test]
    fn a_delay_keeps_the_order() {
        let (mut departures, now) = (Departures::default(), Instant::now());
        let chaos = Chaos { message_delay_ms: 100, ..Chaos::default() };
        departures.push(message(Action::SdpOffer, "first"), now, &chaos);
        departures.push(message(Action::IceCandidate, "second"), now, &Chaos::default());
        assert_eq!(departures.pop(now), None);
        let later = now + Duration::from_millis(100);
        let sent: Vec<String> = std::iter::from_fn(|| departures.pop(later)).collect();
        assert_eq!(sent, ["first", "second"]);
    }
}
