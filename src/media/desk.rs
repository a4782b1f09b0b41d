//! The master's signaling: who calls, which call is whose, and one task for each call.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use babelcast_domain::signaling::{self, Candidate, CandidatePolicy, Message, Received, Sdp};
use rand::Rng;
use rtc::peer_connection::transport::RTCDtlsTransportState;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, interval, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use webrtc::peer_connection::RTCPeerConnectionState;

use super::master::{MasterError, MasterEvent, Opening};
use super::mic::{FirstPacket, Line};
use super::peer::{IceServer, OPUS_PAYLOAD_TYPE, Peer, PeerError, PeerEvent, PeerEvents};
use super::socket::{Socket, SocketError};

/// Viewers served at once: the service allows ten on a channel.
const MAX_VIEWERS: usize = 10;

/// Candidates held for an offer that has not come yet.
const MAX_HELD: usize = 64;

/// A viewer that is not connected by then is forgotten.
const CONNECT_TIME: Duration = Duration::from_secs(20);

/// Rest before the signaling socket is opened again: shortest, longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// The signaling side: takes offers, hands out answers, keeps the list of connected viewers.
pub(super) struct Desk {
    policy: CandidatePolicy,
    ice_servers: Vec<IceServer>,
    viewers: BTreeMap<String, Viewer>,
    generation: u64,
    lines: watch::Sender<Vec<Line>>,
    events: mpsc::Sender<MasterEvent>,
    from_peers: mpsc::Sender<FromPeer>,
    /// Frames made while the socket was away.
    unsent: VecDeque<String>,
}

impl Desk {
    pub fn new(
        policy: CandidatePolicy,
        ice_servers: Vec<IceServer>,
        lines: watch::Sender<Vec<Line>>,
        events: mpsc::Sender<MasterEvent>,
        from_peers: mpsc::Sender<FromPeer>,
    ) -> Self {
        let (viewers, unsent) = (BTreeMap::new(), VecDeque::new());
        Desk { policy, ice_servers, viewers, generation: 0, lines, events, from_peers, unsent }
    }

    /// Runs until `stop`. `open` opens the socket anew; `firsts` are the microphone's first packets to each viewer.
    pub async fn run(
        mut self,
        socket: Socket,
        mut open: Box<dyn FnMut() -> Opening + Send>,
        mut news: mpsc::Receiver<FromPeer>,
        mut firsts: mpsc::Receiver<FirstPacket>,
        stop: CancellationToken,
    ) {
        let mut socket = Some(socket);
        let mut opening: Option<Opening> = None;
        let mut failures = 0;
        let mut sweep = interval(Duration::from_secs(5));
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                text = heard(&mut socket) => match text {
                    Ok(text) => if self.received(&text) {
                        opening = Some(later(&mut open, &mut failures));
                    },
                    Err(error) => {
                        tracing::debug!(%error, "the master's signaling ended");
                        socket = None;
                        self.tell(MasterEvent::SignalingClosed);
                        opening = Some(later(&mut open, &mut failures));
                    }
                },
                opened = ready(&mut opening) => match opened {
                    Ok((fresh, servers)) => {
                        if let Some(old) = socket.replace(fresh) {
                            old.close().await;
                        }
                        (opening, failures, self.ice_servers) = (None, 0, servers);
                        self.tell(MasterEvent::SignalingReopened);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the master's signaling was not reopened");
                        opening = Some(later(&mut open, &mut failures));
                    }
                },
                Some(from) = news.recv() => self.peer_news(from),
                Some(first) = firsts.recv() => {
                    self.tell(MasterEvent::FirstPacket { client_id: first.client_id, at: first.at });
                }
                _ = sweep.tick() => self.sweep(),
            }
            if let Some(open_socket) = &mut socket
                && let Err(error) = self.flush(open_socket).await
            {
                tracing::debug!(%error, "the master's signaling takes nothing");
                socket = None;
                self.tell(MasterEvent::SignalingClosed);
                opening = Some(later(&mut open, &mut failures));
            }
        }
        if let Some(socket) = socket {
            socket.close().await;
        }
        // The calls' peers close as their tasks are dropped.
    }

    async fn flush(&mut self, socket: &mut Socket) -> Result<(), SocketError> {
        while let Some(frame) = self.unsent.front() {
            socket.send(frame.clone()).await?;
            self.unsent.pop_front();
        }
        Ok(())
    }

    fn tell(&self, event: MasterEvent) {
        if self.events.try_send(event).is_err() {
            tracing::debug!("an event of the master's found nobody to hear it");
        }
    }

    /// Takes a frame; true if the socket is to be opened anew.
    fn received(&mut self, text: &str) -> bool {
        match signaling::parse(text) {
            Ok(Received::Offer { sdp, from }) => match from.sender {
                Some(client_id) => self.offer(client_id, &sdp),
                None => tracing::debug!("an offer without a sender"),
            },
            Ok(Received::Candidate { candidate, from }) => match from.sender {
                Some(client_id) => self.candidate(&client_id, candidate),
                None => tracing::debug!("a candidate without a sender"),
            },
            Ok(Received::GoAway | Received::ReconnectIceServer) => return true,
            Ok(Received::Status(status)) => {
                tracing::warn!(code = ?status.code, kind = ?status.error_type, "the signaling service complains");
            }
            Ok(Received::Answer { .. } | Received::EndOfCandidates { .. } | Received::Empty) => {}
            Err(error) => tracing::debug!(%error, "a signaling frame is skipped"),
        }
        false
    }

    fn offer(&mut self, client_id: String, sdp: &Sdp) {
        let refused = match sdp.check() {
            Err(refused) => Some(refused.to_string()),
            Ok(()) if !signaling::is_client_id(&client_id) => Some("a client id no service gives".to_owned()),
            Ok(()) if !self.viewers.contains_key(&client_id) && !self.has_room() => Some("too many viewers".to_owned()),
            Ok(()) => None,
        };
        if let Some(reason) = refused {
            return self.tell(MasterEvent::OfferRefused { client_id, reason });
        }
        // The newest offer wins: an earlier call of the same client ends here.
        let held = self.viewers.remove(&client_id).filter(|viewer| viewer.waiting.is_some());
        self.forget_line(&client_id);
        let mut viewer = held.unwrap_or_else(|| self.viewer());
        if let Some(candidates) = viewer.waiting.take() {
            let call = Call {
                client_id: client_id.clone(),
                generation: viewer.generation,
                offer: sdp.without_refused(&self.policy).0,
                loopback: self.policy.allow_loopback,
                ice_servers: self.ice_servers.clone(),
                candidates,
                desk: self.from_peers.clone(),
            };
            viewer.call = Some(AbortOnDropHandle::new(tokio::spawn(call.run())));
        }
        self.viewers.insert(client_id, viewer);
    }

    fn viewer(&mut self) -> Viewer {
        self.generation += 1;
        let (candidates, waiting) = mpsc::channel(MAX_HELD);
        let since = Instant::now();
        Viewer { generation: self.generation, candidates, waiting: Some(waiting), since, connected: false, call: None }
    }

    fn has_room(&mut self) -> bool {
        if self.viewers.len() < MAX_VIEWERS {
            return true;
        }
        // Somebody who only ever sent candidates makes room.
        let idle = self.viewers.iter().filter(|(_, viewer)| viewer.waiting.is_some());
        let oldest = idle.min_by_key(|(_, viewer)| viewer.since).map(|(client_id, _)| client_id.clone());
        oldest.is_some_and(|client_id| self.viewers.remove(&client_id).is_some())
    }

    /// Holds a candidate for its call; the call reads it when its offer is set.
    fn candidate(&mut self, client_id: &str, candidate: Candidate) {
        if let Err(refusal) = self.policy.check(&candidate.line) {
            return tracing::debug!(%refusal, "a viewer's candidate is refused");
        }
        if !self.viewers.contains_key(client_id) {
            if !signaling::is_client_id(client_id) || !self.has_room() {
                return tracing::debug!("a candidate of a viewer there is no room for");
            }
            let viewer = self.viewer();
            self.viewers.insert(client_id.to_owned(), viewer);
        }
        if let Some(viewer) = self.viewers.get(client_id)
            && viewer.candidates.try_send(candidate).is_err()
        {
            tracing::debug!("a viewer's candidate is one too many");
        }
    }

    fn peer_news(&mut self, from: FromPeer) {
        let FromPeer { client_id, generation, news } = from;
        let Some(viewer) = self.viewers.get_mut(&client_id).filter(|viewer| viewer.generation == generation) else {
            return;
        };
        match news {
            News::Answer(sdp) => self.send(&Message::Answer(&sdp), &client_id),
            News::Candidate(candidate) => self.send(&Message::Candidate(&candidate), &client_id),
            News::Connected(line) => {
                viewer.connected = true;
                self.lines.send_modify(|lines| lines.push(line));
                self.tell(MasterEvent::ViewerConnected { client_id });
            }
            News::Gone => self.gone(client_id),
            News::Failed(error) => {
                tracing::warn!(%error, "an offer was not answered");
                self.tell(MasterEvent::OfferRefused { client_id: client_id.clone(), reason: error.to_string() });
                self.viewers.remove(&client_id);
            }
        }
    }

    fn send(&mut self, message: &Message<'_>, client_id: &str) {
        match signaling::frame(message, Some(client_id), None) {
            Ok(_) if self.unsent.len() >= MAX_HELD => tracing::warn!("too much waits for the signaling socket"),
            Ok(frame) => self.unsent.push_back(frame),
            Err(error) => tracing::warn!(%error, "a message is not sent"),
        }
    }

    fn gone(&mut self, client_id: String) {
        let connected = self.viewers.remove(&client_id).is_some_and(|viewer| viewer.connected);
        self.forget_line(&client_id);
        if connected {
            self.tell(MasterEvent::ViewerGone { client_id });
        }
    }

    fn forget_line(&self, client_id: &str) {
        self.lines.send_modify(|lines| lines.retain(|line| line.client_id != client_id));
    }

    fn sweep(&mut self) {
        let late = |viewer: &Viewer| !viewer.connected && viewer.since.elapsed() > CONNECT_TIME;
        let late: Vec<_> = self.viewers.iter().filter(|(_, viewer)| late(viewer)).map(|(id, _)| id.clone()).collect();
        late.into_iter().for_each(|client_id| self.gone(client_id));
    }
}

/// One viewer at the desk.
struct Viewer {
    generation: u64,
    candidates: mpsc::Sender<Candidate>,
    /// Until the offer is here, what the call's task will read its candidates from.
    waiting: Option<mpsc::Receiver<Candidate>>,
    since: Instant,
    connected: bool,
    call: Option<AbortOnDropHandle<()>>,
}

/// What a call's task tells the desk.
pub(super) struct FromPeer {
    client_id: String,
    generation: u64,
    news: News,
}

enum News {
    Answer(Sdp),
    Candidate(Candidate),
    Connected(Line),
    Gone,
    Failed(PeerError),
}

async fn heard(socket: &mut Option<Socket>) -> Result<String, SocketError> {
    match socket {
        Some(socket) => socket.next().await.map(|text| text.as_str().to_owned()),
        None => std::future::pending().await,
    }
}

async fn ready(opening: &mut Option<Opening>) -> Result<(Socket, Vec<IceServer>), MasterError> {
    match opening {
        Some(opening) => opening.await,
        None => std::future::pending().await,
    }
}

/// Opens the socket after a jittered rest that doubles with each failure.
fn later(open: &mut Box<dyn FnMut() -> Opening + Send>, failures: &mut u32) -> Opening {
    let full = BACKOFF.0.saturating_mul(1 << (*failures).min(8)).min(BACKOFF.1);
    *failures += 1;
    let rest = full.mul_f64(rand::rng().random_range(0.5..=1.0));
    let opening = open();
    Box::pin(async move {
        sleep(rest).await;
        opening.await
    })
}

/// One viewer's call, from its offer to its end.
struct Call {
    client_id: String,
    generation: u64,
    offer: Sdp,
    loopback: bool,
    ice_servers: Vec<IceServer>,
    candidates: mpsc::Receiver<Candidate>,
    desk: mpsc::Sender<FromPeer>,
}

impl Call {
    async fn run(mut self) {
        let end = match self.talk().await {
            Ok(()) => News::Gone,
            Err(error) => News::Failed(error),
        };
        self.tell(end).await;
    }

    async fn tell(&self, news: News) {
        let from = FromPeer { client_id: self.client_id.clone(), generation: self.generation, news };
        // The desk outlives its calls, so this only fails while everything ends.
        let _ = self.desk.send(from).await;
    }

    async fn talk(&mut self) -> Result<(), PeerError> {
        let (peer, PeerEvents { mut events, candidates: mut found }) =
            Peer::new(&self.ice_servers, self.loopback).await?;
        let ssrc = rand::rng().random_range(1..u32::MAX);
        let track = peer.send_audio(ssrc).await?;
        peer.set_remote_offer(&self.offer).await?;
        let answer = peer.answer(&mut found).await?;
        self.tell(News::Answer(answer.with_trickle())).await;
        let payload_type = self.offer.opus_payload_type().unwrap_or(OPUS_PAYLOAD_TYPE);
        let line = Line { client_id: self.client_id.clone(), track, ssrc, payload_type };
        let mut line = Some(line);
        let mut gathering = true;
        let mut look = interval(Duration::from_millis(250));
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Some(PeerEvent::State(RTCPeerConnectionState::Connected)) => {
                        if let Some(line) = line.take() {
                            self.tell(News::Connected(line)).await;
                        }
                    }
                    Some(PeerEvent::State(RTCPeerConnectionState::Failed | RTCPeerConnectionState::Closed)) | None => {
                        return Ok(());
                    }
                    Some(_) => {}
                },
                candidate = found.recv(), if gathering => match candidate.flatten() {
                    Some(candidate) => self.tell(News::Candidate(candidate)).await,
                    None => gathering = false,
                },
                Some(candidate) = self.candidates.recv() => {
                    if let Err(error) = peer.add_candidate(candidate).await {
                        tracing::debug!(%error, "the WebRTC library refused a candidate");
                    }
                }
                _ = look.tick() => {
                    if let Some(RTCDtlsTransportState::Closed | RTCDtlsTransportState::Failed) = peer.dtls_state().await {
                        return Ok(());
                    }
                }
            }
        }
    }
}
