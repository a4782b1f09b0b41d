//! WebRTC to listeners: one packet source, any number of send-only peers.
//!
//! The packets of a language are encoded once ([`super::dub`]); here each is only given a header, encrypted and sent for
//! every peer. WHEP's half that is not HTTP: an offer comes in, an answer with all candidates goes out, and nothing is
//! signalled afterwards. Absent on purpose: HTTP (`web`), and candidates that trickle in after the offer: our side is
//! reachable, and learns the peer's address from its first packet.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use babelcast_domain::counts::{Count, Counts};
use babelcast_domain::signaling::{CandidatePolicy, Sdp, SdpRefused};
use futures_util::FutureExt;
use rand::Rng;
use rtc::peer_connection::transport::RTCDtlsTransportState;
use tokio::sync::{mpsc, watch};
use tokio::task::unconstrained;
use tokio::time::{Instant, interval, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use webrtc::media_stream::track_local::TrackLocal;
use webrtc::peer_connection::RTCPeerConnectionState;

use super::dub::{FRAME_TICKS, Packets};
use super::mic::Line;
use super::peer::{IceServer, OPUS_PAYLOAD_TYPE, Peer, PeerError, PeerEvent, PeerEvents};

/// From an offer to its answer; candidates are gathered for a second of it at most.
const ANSWER_TIME: Duration = Duration::from_secs(4);

/// A peer that is not connected by then is forgotten.
const CONNECT_TIME: Duration = Duration::from_secs(20);

/// How often the state that nobody announces is looked at.
const LOOK_PERIOD: Duration = Duration::from_millis(500);

/// How an egress behaves.
#[derive(Debug, Clone)]
pub struct Settings {
    pub policy: CandidatePolicy,
    /// STUN tells peers our public address where we are behind one.
    pub ice_servers: Vec<IceServer>,
    /// Peers at the same time, those that are still connecting among them.
    pub max_peers: usize,
}

/// Why an offer is not answered.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// The offer is at fault; the text says how, to be told to whoever made it.
    #[error("{0}")]
    Offer(#[from] SdpRefused),
    #[error("session description that the WebRTC library refuses")]
    Unusable(#[source] PeerError),
    #[error("as many listeners as there is room for")]
    Full,
    /// Ours: no socket, no certificate, no answer in time.
    #[error(transparent)]
    Peer(PeerError),
    #[error("no answer within {} s", ANSWER_TIME.as_secs())]
    TooSlow,
}

/// One peer of an [`Egress`]; hard to guess, since whoever knows it may end it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerId(String);

impl PeerId {
    /// As it came in a URL.
    pub fn new(text: impl Into<String>) -> Self {
        PeerId(text.into())
    }

    /// 32 hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A language's peers. Dropping it says goodbye to them all.
pub struct Egress {
    settings: Settings,
    house: Arc<House>,
    calls: TaskTracker,
    stop: CancellationToken,
    _stop: DropGuard,
    _sender: AbortOnDropHandle<()>,
}

/// What the calls' tasks and the egress share.
struct House {
    peers: Mutex<BTreeMap<PeerId, CancellationToken>>,
    lines: watch::Sender<Vec<Line>>,
    counts: Arc<Counts>,
}

impl House {
    fn peers(&self) -> MutexGuard<'_, BTreeMap<PeerId, CancellationToken>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, id: &PeerId) {
        self.peers().remove(id);
        self.lines.send_if_modified(|lines| {
            let before = lines.len();
            lines.retain(|line| line.client_id != id.0);
            lines.len() < before
        });
    }
}

/// A place among the peers, given back when dropped.
struct Place {
    id: PeerId,
    house: Arc<House>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.house.forget(&self.id);
    }
}

impl Egress {
    pub fn new(packets: Packets, settings: Settings, counts: Arc<Counts>) -> Self {
        let (lines, to_lines) = watch::channel(Vec::new());
        let house = Arc::new(House { peers: Mutex::default(), lines, counts: Arc::clone(&counts) });
        let sender = AbortOnDropHandle::new(tokio::spawn(send(packets, to_lines, counts)));
        let stop = CancellationToken::new();
        let _stop = stop.clone().drop_guard();
        Egress { settings, house, calls: TaskTracker::new(), stop, _stop, _sender: sender }
    }

    /// Answers an offer. The peer is served until it goes, is [`Egress::end`]ed, or the egress is dropped.
    ///
    /// # Errors
    /// [`EgressError`], after at most 4 s.
    pub async fn answer(&self, offer: &Sdp) -> Result<(PeerId, Sdp), EgressError> {
        self.house.counts.one(Count::EgressOffers);
        let answered = match timeout(ANSWER_TIME, self.negotiate(offer)).await {
            Ok(answered) => answered,
            Err(_) => Err(EgressError::TooSlow),
        };
        if let Err(error) = &answered {
            self.house.counts.one(Count::EgressRefused);
            tracing::debug!(%error, "a listener's offer is not answered");
        }
        answered
    }

    async fn negotiate(&self, offer: &Sdp) -> Result<(PeerId, Sdp), EgressError> {
        offer.check_listener()?;
        let (place, stop) = self.place()?;
        let (offer, refusals) = offer.without_refused(&self.settings.policy);
        self.house.counts.add(Count::CandidatesRefused, refusals.len() as u64);
        let made = Peer::new(&self.settings.ice_servers, self.settings.policy.allow_loopback).await;
        let (peer, PeerEvents { events, mut candidates }) = made.map_err(EgressError::Peer)?;
        let ssrc = rand::rng().random_range(1..u32::MAX);
        let track = peer.send_audio(ssrc).await.map_err(EgressError::Peer)?;
        peer.set_remote_offer(&offer).await.map_err(EgressError::Unusable)?;
        let answer = peer.answer(&mut candidates).await.map_err(EgressError::Unusable)?;
        let payload_type = offer.opus_payload_type().unwrap_or(OPUS_PAYLOAD_TYPE);
        let line = Line { client_id: place.id.0.clone(), track, ssrc, payload_type };
        let id = place.id.clone();
        let call = Call { place, peer, events, line: Some(line), stop };
        self.calls.spawn(call.run());
        Ok((id, answer))
    }

    fn place(&self) -> Result<(Place, CancellationToken), EgressError> {
        let mut peers = self.house.peers();
        if peers.len() >= self.settings.max_peers {
            return Err(EgressError::Full);
        }
        let id = PeerId(format!("{:032x}", rand::random::<u128>()));
        let stop = self.stop.child_token();
        peers.insert(id.clone(), stop.clone());
        Ok((Place { id, house: Arc::clone(&self.house) }, stop))
    }

    /// Ends a peer. False: there is none of that name.
    pub fn end(&self, id: &PeerId) -> bool {
        self.house.peers().get(id).map(CancellationToken::cancel).is_some()
    }

    /// Peers there are, connected or not yet.
    pub fn peers(&self) -> usize {
        self.house.peers().len()
    }

    /// Peers that sound goes to.
    pub fn connected(&self) -> usize {
        self.house.lines.borrow().len()
    }

    /// Ends all peers so that they know at once.
    pub async fn close(self) {
        self.stop.cancel();
        self.calls.close();
        if timeout(CLOSE_TIME, self.calls.wait()).await.is_err() {
            tracing::debug!("an egress did not end in time");
        }
    }
}

/// For the peers' goodbyes.
const CLOSE_TIME: Duration = Duration::from_secs(2);

/// One peer, from its answer to its end.
struct Call {
    place: Place,
    peer: Peer,
    events: mpsc::Receiver<PeerEvent>,
    /// Until it is connected.
    line: Option<Line>,
    stop: CancellationToken,
}

impl Call {
    async fn run(mut self) {
        self.serve().await;
        let ended = if self.line.is_none() { Count::EgressEnded } else { Count::EgressFailed };
        self.place.house.counts.one(ended);
        // First no more packets, then the goodbye.
        drop(self.place);
        self.peer.close().await;
    }

    async fn serve(&mut self) {
        let late = Instant::now() + CONNECT_TIME;
        let mut look = interval(LOOK_PERIOD);
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                event = self.events.recv() => match event {
                    Some(PeerEvent::State(RTCPeerConnectionState::Connected)) => self.connected(),
                    Some(PeerEvent::State(RTCPeerConnectionState::Failed | RTCPeerConnectionState::Closed)) | None => {
                        return;
                    }
                    Some(_) => {}
                },
                () = sleep_until(late), if self.line.is_some() => return,
                _ = look.tick() => {
                    // The library tells of a goodbye only to those who ask.
                    if let Some(RTCDtlsTransportState::Closed | RTCDtlsTransportState::Failed) = self.peer.dtls_state().await {
                        return;
                    }
                }
            }
        }
    }

    fn connected(&mut self) {
        if let Some(line) = self.line.take() {
            self.place.house.counts.one(Count::EgressConnected);
            self.place.house.lines.send_modify(|lines| lines.push(line));
        }
    }
}

/// Gives every packet to every line. A peer whose queue is full (5 s of sound) loses it: nobody waits for anybody.
pub(super) async fn send(mut packets: Packets, lines: watch::Receiver<Vec<Line>>, counts: Arc<Counts>) {
    while let Some(packet) = packets.next().await {
        let tick = (packet.number as u32).wrapping_mul(FRAME_TICKS);
        for line in lines.borrow().iter() {
            let packet = line.packet(packet.number, tick, packet.payload.clone());
            // Unconstrained: tokio makes a task that does a lot at once wait, which would look like a full queue.
            match unconstrained(line.track.write_rtp(packet)).now_or_never() {
                Some(Ok(())) => {}
                Some(Err(error)) => tracing::debug!(%error, "a packet was not taken"),
                None => counts.one(Count::VoicePacketsLost),
            }
        }
    }
}
