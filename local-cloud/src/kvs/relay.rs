//! Who sits on one channel, and what waits for whom. Plain values: no task, no clock, no socket.
//!
//! A message to somebody who is away is held for the channel's `MessageTtlSeconds`. A newer offer (or answer)
//! of the same sender takes the place of an undelivered older one; candidates queue up to [`MAX_HELD`].
//! Delivery consumes: what went to a socket that then died is gone, as at AWS.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::chaos::{Count, Counts};
use super::frame::{self, Action, ClientFrame, ClientId, Refusal};
use crate::error::{AwsError, ErrorKind};

/// Messages held for one absent recipient; past it the oldest goes.
const MAX_HELD: usize = 256;
/// Absent recipients of one channel; past it new ones get nothing.
const MAX_MAILBOXES: usize = 64;
/// Messages on their way to one socket; a peer that lets them pile up is closed.
const MAX_INBOX: usize = 512;

/// A side of a channel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Peer {
    Master,
    Viewer(ClientId),
}

/// One frame on its way to a socket. `action` is `None` for the service's own notices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub action: Option<Action>,
    pub sender: Option<ClientId>,
    pub text: String,
}

impl Message {
    pub fn notice(text: String) -> Self {
        Self { action: None, sender: None, text }
    }
}

/// What a socket shall do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Serve,
    /// Announced by GO_AWAY: close when this moment comes.
    CloseBy(Instant),
    /// Close now with 1001 and this reason.
    Close(&'static str),
    /// Drop the connection without a close frame.
    Cut,
}

/// The socket's ends of its seat.
#[derive(Debug)]
pub(super) struct Place {
    pub id: u64,
    pub inbox: mpsc::Receiver<Message>,
    pub orders: watch::Receiver<Order>,
}

#[derive(Debug)]
struct Seat {
    id: u64,
    inbox: mpsc::Sender<Message>,
    orders: watch::Sender<Order>,
    /// False between handshake and the first look at the socket: messages are still held.
    open: bool,
}

#[derive(Debug)]
struct Held {
    message: Message,
    expires: Instant,
}

#[derive(Debug, Default)]
pub(super) struct Relay {
    seats: BTreeMap<Peer, Seat>,
    mailboxes: BTreeMap<Peer, VecDeque<Held>>,
    next_id: u64,
}

impl Relay {
    /// Seats a peer; the newest of a name wins and the older socket is closed. Refused when `max_viewers`
    /// other viewers are here.
    pub fn reserve(&mut self, peer: Peer, max_viewers: usize, counts: &Counts) -> Result<Place, AwsError> {
        if matches!(peer, Peer::Viewer(_)) && !self.seats.contains_key(&peer) && self.viewers().count() >= max_viewers {
            return Err(AwsError::new(
                ErrorKind::ClientLimitExceeded,
                "The channel has as many viewers as it may have",
            ));
        }
        let (inbox, inbox_end) = mpsc::channel(MAX_INBOX);
        let (orders, orders_end) = watch::channel(Order::Serve);
        self.next_id += 1;
        let seat = Seat { id: self.next_id, inbox, orders, open: false };
        if let Some(old) = self.seats.insert(peer, seat) {
            counts.add(Count::SocketsReplaced);
            old.orders.send_replace(Order::Close("replaced by a newer connection"));
        }
        Ok(Place { id: self.next_id, inbox: inbox_end, orders: orders_end })
    }

    /// The socket is there: hands over what was held for it, in order.
    pub fn open(&mut self, peer: &Peer, id: u64, now: Instant, counts: &Counts) -> Vec<Message> {
        let Some(seat) = self.seats.get_mut(peer).filter(|seat| seat.id == id) else { return Vec::new() };
        seat.open = true;
        let mut held = self.mailboxes.remove(peer).unwrap_or_default();
        expire(&mut held, now, counts);
        held.into_iter().map(|held| held.message).collect()
    }

    /// Frees the seat, unless a newer connection has it already.
    pub fn leave(&mut self, peer: &Peer, id: u64) {
        if self.seats.get(peer).is_some_and(|seat| seat.id == id) {
            self.seats.remove(peer);
        }
    }

    /// Where a frame goes and how it reads there; the rules of who may write to whom.
    pub fn address(from: &Peer, frame: &ClientFrame) -> Result<(Peer, Message), Refusal> {
        let (to, sender) = match from {
            // A viewer reaches the master only, whatever recipient it names.
            Peer::Viewer(id) => (Peer::Master, Some(id)),
            Peer::Master => {
                let refuse = |why| Refusal::invalid(why, frame.correlation_id.clone());
                let name = frame.recipient.as_deref();
                let name = name.ok_or_else(|| refuse("recipientClientId is required from the master"))?;
                let id = ClientId::parse(name).ok_or_else(|| refuse("recipientClientId is not a valid client id"))?;
                (Peer::Viewer(id), None)
            }
        };
        let text = frame::relayed(frame.action, &frame.payload, sender);
        Ok((to, Message { action: Some(frame.action), sender: sender.cloned(), text }))
    }

    /// Sends a message, or holds it for `ttl`.
    pub fn deliver(&mut self, to: Peer, message: Message, ttl: Duration, now: Instant, counts: &Counts) {
        let message = match self.seats.get(&to) {
            Some(seat) if seat.open => match seat.inbox.try_send(message) {
                Ok(()) => return counts.add(Count::MessagesRelayed),
                Err(mpsc::error::TrySendError::Full(message)) => {
                    counts.add(Count::SocketsTooSlow);
                    seat.orders.send_replace(Order::Close("messages are not being read"));
                    self.seats.remove(&to);
                    message
                }
                Err(mpsc::error::TrySendError::Closed(message)) => message,
            },
            Some(_) | None => message,
        };
        self.hold(to, message, now + ttl, now, counts);
    }

    fn hold(&mut self, to: Peer, message: Message, expires: Instant, now: Instant, counts: &Counts) {
        self.mailboxes.retain(|_, held| {
            expire(held, now, counts);
            !held.is_empty()
        });
        if self.mailboxes.len() >= MAX_MAILBOXES && !self.mailboxes.contains_key(&to) {
            return counts.add(Count::MessagesDropped);
        }
        counts.add(Count::MessagesHeld);
        let mailbox = self.mailboxes.entry(to).or_default();
        let sdp = message.action.is_some_and(Action::is_sdp);
        let older = mailbox
            .iter_mut()
            .find(|held| sdp && held.message.action == message.action && held.message.sender == message.sender);
        if let Some(older) = older {
            counts.add(Count::MessagesReplaced);
            *older = Held { message, expires };
            return;
        }
        if mailbox.len() >= MAX_HELD {
            mailbox.pop_front();
            counts.add(Count::MessagesDropped);
        }
        mailbox.push_back(Held { message, expires });
    }

    /// Puts a notice into every open socket's inbox; a full one misses it, its socket is about to be closed.
    pub fn notify(&self, text: &str, counts: &Counts) {
        for seat in self.seats.values().filter(|seat| seat.open) {
            if seat.inbox.try_send(Message::notice(text.to_owned())).is_err() {
                counts.add(Count::MessagesDropped);
            }
        }
    }

    pub fn order_all(&self, order: Order) {
        for seat in self.seats.values() {
            seat.orders.send_replace(order);
        }
    }

    pub fn has_master(&self) -> bool {
        self.seats.get(&Peer::Master).is_some_and(|seat| seat.open)
    }

    pub fn viewers(&self) -> impl Iterator<Item = &ClientId> {
        self.seats.keys().filter_map(|peer| match peer {
            Peer::Viewer(id) => Some(id),
            Peer::Master => None,
        })
    }
}

fn expire(held: &mut VecDeque<Held>, now: Instant, counts: &Counts) {
    held.retain(|held| {
        let alive = held.expires > now;
        if !alive {
            counts.add(Count::MessagesExpired);
        }
        alive
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TTL: Duration = Duration::from_secs(60);

    fn viewer(name: &str) -> Peer {
        Peer::Viewer(ClientId::parse(name).expect("an id"))
    }

    struct Stage {
        relay: Relay,
        counts: Counts,
        now: Instant,
    }

    impl Stage {
        fn new() -> Self {
            Self { relay: Relay::default(), counts: Counts::default(), now: Instant::now() }
        }

        fn say(&mut self, from: &Peer, action: &str, payload: &str, to: &str) {
            let text = serde_json::json!({"action": action, "messagePayload": payload, "recipientClientId": to});
            let frame = ClientFrame::parse(&text.to_string()).expect("a frame");
            let (to, message) = Relay::address(from, &frame).expect("an address");
            self.relay.deliver(to, message, TTL, self.now, &self.counts);
        }

        fn enter(&mut self, peer: &Peer) -> (Place, Vec<String>) {
            let place = self.relay.reserve(peer.clone(), 10, &self.counts).expect("a seat");
            let held = self.relay.open(peer, place.id, self.now, &self.counts);
            (place, held.iter().map(payload).collect())
        }
    }

    fn payload(message: &Message) -> String {
        let value: serde_json::Value = serde_json::from_str(&message.text).expect("json");
        value["messagePayload"].as_str().expect("a payload").to_owned()
    }

    #[test]
    fn a_late_master_gets_the_newest_offer_and_every_candidate_in_order() {
        let mut stage = Stage::new();
        stage.say(&viewer("a"), "ICE_CANDIDATE", "c1", "");
        stage.say(&viewer("a"), "SDP_OFFER", "old", "");
        stage.say(&viewer("b"), "SDP_OFFER", "b", "");
        stage.say(&viewer("a"), "ICE_CANDIDATE", "c2", "");
        stage.say(&viewer("a"), "SDP_OFFER", "new", "");
        let (_place, held) = stage.enter(&Peer::Master);
        assert_eq!(held, ["c1", "new", "b", "c2"]);
        assert_eq!(stage.counts.get(Count::MessagesReplaced), 1);
        let (_place, again) = stage.enter(&Peer::Master);
        assert!(again.is_empty(), "delivery consumes");
    }

    #[test]
    fn held_messages_die_with_their_time_to_live() {
        let mut stage = Stage::new();
        stage.say(&viewer("a"), "SDP_OFFER", "early", "");
        stage.now += TTL / 2;
        stage.say(&viewer("b"), "SDP_OFFER", "late", "");
        stage.now += TTL / 2;
        let (_place, held) = stage.enter(&Peer::Master);
        assert_eq!(held, ["late"]);
        assert_eq!(stage.counts.get(Count::MessagesExpired), 1);
    }

    #[test]
    fn the_eleventh_viewer_is_refused_but_a_known_one_may_return() {
        let mut stage = Stage::new();
        let places: Vec<Place> = (0..10).map(|n| stage.enter(&viewer(&format!("v{n}"))).0).collect();
        let refused = stage.relay.reserve(viewer("v10"), 10, &stage.counts).expect_err("full");
        assert_eq!(refused.kind, ErrorKind::ClientLimitExceeded);
        let (newer, _) = stage.enter(&viewer("v3"));
        assert!(matches!(*places[3].orders.borrow(), Order::Close(_)));
        stage.relay.leave(&viewer("v3"), places[3].id);
        assert_eq!(stage.relay.viewers().count(), 10, "the old socket's end does not free the newer one's seat");
        stage.relay.leave(&viewer("v3"), newer.id);
        assert!(stage.relay.reserve(viewer("v10"), 10, &stage.counts).is_ok());
    }

    #[test]
    fn messages_wait_until_the_socket_of_a_seat_is_open() {
        let mut stage = Stage::new();
        let mut place = stage.relay.reserve(Peer::Master, 10, &stage.counts).expect("a seat");
        stage.say(&viewer("a"), "SDP_OFFER", "offer", "");
        assert!(place.inbox.try_recv().is_err());
        let held = stage.relay.open(&Peer::Master, place.id, stage.now, &stage.counts);
        assert_eq!(held.iter().map(payload).collect::<Vec<_>>(), ["offer"]);
        stage.say(&viewer("a"), "ICE_CANDIDATE", "c", "");
        assert_eq!(payload(&place.inbox.try_recv().expect("live")), "c");
    }

    #[test]
    fn a_peer_that_never_reads_is_closed_and_its_messages_are_held() {
        let mut stage = Stage::new();
        let (place, _) = stage.enter(&Peer::Master);
        for _ in 0..=MAX_INBOX {
            stage.say(&viewer("a"), "ICE_CANDIDATE", "c", "");
        }
        assert!(matches!(*place.orders.borrow(), Order::Close(_)));
        assert_eq!(stage.counts.get(Count::SocketsTooSlow), 1);
        assert_eq!(stage.counts.get(Count::MessagesHeld), 1);
    }

    #[test]
    fn mailboxes_are_bounded_both_ways() {
        let mut stage = Stage::new();
        for n in 0..MAX_HELD + 5 {
            stage.say(&viewer("a"), "ICE_CANDIDATE", &format!("c{n}"), "");
        }
        let (_place, held) = stage.enter(&Peer::Master);
        assert_eq!((held.len(), held[0].as_str()), (MAX_HELD, "c5"));
        for n in 0..MAX_MAILBOXES + 5 {
            stage.say(&Peer::Master, "SDP_ANSWER", "a", &format!("v{n}"));
        }
        assert_eq!(stage.counts.get(Count::MessagesDropped), 5 + 5);
    }

    #[test]
    fn the_master_must_name_a_recipient_and_viewers_cannot() {
        let mut stage = Stage::new();
        let frame = |text: &str| ClientFrame::parse(text).expect("a frame");
        let nobody = frame(r#"{"action":"SDP_ANSWER","messagePayload":"x","correlationId":"c"}"#);
        assert_eq!(Relay::address(&Peer::Master, &nobody).expect_err("refused").correlation_id.as_deref(), Some("c"));
        let (mut place, _) = stage.enter(&Peer::Master);
        stage.say(&viewer("a"), "SDP_OFFER", "x", "b");
        let message = place.inbox.try_recv().expect("relayed to the master");
        assert_eq!(message.sender, ClientId::parse("a"));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Enter(Peer),
        Leave(Peer),
        Say { from: Peer, to: Peer, action: &'static str },
        Wait(u64),
    }

    fn peer() -> impl Strategy<Value = Peer> {
        prop_oneof![Just(Peer::Master), (0..3u8).prop_map(|n| viewer(&format!("v{n}")))]
    }

    fn step() -> impl Strategy<Value = Step> {
        let action = prop_oneof![Just("SDP_OFFER"), Just("SDP_ANSWER"), Just("ICE_CANDIDATE"), Just("ICE_CANDIDATE")];
        prop_oneof![
            2 => peer().prop_map(Step::Enter),
            1 => peer().prop_map(Step::Leave),
            6 => (peer(), peer(), action).prop_map(|(from, to, action)| Step::Say { from, to, action }),
            1 => (1..40u64).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// Whatever happens, a message reaches only whom it is for, at most once, and in its sender's order.
        #[test]
        fn messages_keep_their_address_and_order(steps in proptest::collection::vec(step(), 0..80)) {
            let mut stage = Stage::new();
            let mut places: BTreeMap<Peer, Place> = BTreeMap::new();
            let mut newest: BTreeMap<(Peer, String, String), usize> = BTreeMap::new();
            let mut received: Vec<(Peer, Message)> = Vec::new();
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Enter(peer) => {
                        let place = stage.relay.reserve(peer.clone(), 10, &stage.counts).expect("room for three");
                        let held = stage.relay.open(&peer, place.id, stage.now, &stage.counts);
                        received.extend(held.into_iter().map(|message| (peer.clone(), message)));
                        places.insert(peer, place);
                    }
                    Step::Leave(peer) => {
                        if let Some(place) = places.remove(&peer) {
                            stage.relay.leave(&peer, place.id);
                        }
                    }
                    Step::Say { from, to, action } => {
                        let name = match (&from, &to) {
                            (Peer::Master, Peer::Viewer(id)) => id.as_str().to_owned(),
                            (Peer::Master, Peer::Master) => continue,
                            (Peer::Viewer(_), _) => String::new(),
                        };
                        let addressee = if name.is_empty() { "master" } else { &name };
                        stage.say(&from, action, &format!("{addressee} {number}"), &name);
                    }
                    Step::Wait(seconds) => stage.now += Duration::from_secs(seconds),
                }
                for (peer, place) in &mut places {
                    while let Ok(message) = place.inbox.try_recv() {
                        received.push((peer.clone(), message));
                    }
                }
            }
            for (peer, message) in received {
                let text = payload(&message);
                let (addressee, number) = text.split_once(' ').expect("two words");
                let name = match &peer {
                    Peer::Master => "master",
                    Peer::Viewer(id) => id.as_str(),
                };
                prop_assert_eq!(addressee, name);
                prop_assert_eq!(message.sender.is_none(), peer != Peer::Master, "only viewers hear from a nameless sender");
                let number: usize = number.parse().expect("a number");
                let kind = if message.action.is_some_and(Action::is_sdp) { format!("{:?}", message.action) } else { "c".into() };
                let sender = message.sender.map(|id| id.as_str().to_owned()).unwrap_or_default();
                let before = newest.insert((peer, sender, kind), number);
                prop_assert!(before.is_none_or(|before| before < number), "{:?} then {}", before, number);
            }
        }
    }
}
