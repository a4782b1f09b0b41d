//! The KVS viewer: one attempt to hear the speaker, and what is heard.
//!
//! [`connect`] runs one attempt to its end: socket, offer, answer, ICE, DTLS, first packet. A [`Hearing`] then does
//! the work in the task of whoever calls [`Hearing::next`]: order, decode, watch for loss. Media does not need the
//! signaling socket any more, so that lives in a task of its own, owned by the `Hearing`, and may die alone.
//!
//! Absent on purpose: when to try again (`babelcast_domain::signaling::viewer`), and presigning.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use babelcast_domain::audio::PcmFrame;
use babelcast_domain::counts::{Count, Counts};
use babelcast_domain::rate::{Bucket, Rate};
use babelcast_domain::signaling::exchange::{ANSWER_TIMEOUT, Exchange, ExchangeFailed};
use babelcast_domain::signaling::{self, CandidatePolicy, Message, SendRefused};
use rtc::peer_connection::transport::RTCDtlsTransportState;
use rustls::ClientConfig;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use webrtc::media_stream::track_remote::{TrackRemote, TrackRemoteEvent};
use webrtc::peer_connection::RTCPeerConnectionState;

use super::opus::Decoder;
use super::order::{Order, Packet};
use super::peer::{IceServer, OPUS_PAYLOAD_TYPE, Peer, PeerError, PeerEvent, PeerEvents};
use super::socket::{Socket, SocketError};
use super::talk::{Signal, Talk, until};

/// From the answer to the first packet.
const MEDIA_TIMEOUT: Duration = Duration::from_secs(10);

/// No packet for this long is the first sign that the speaker is gone: even a muted browser sends.
const QUIET: Duration = Duration::from_secs(1);

/// No packet for this long is loss, whatever ICE says: the path lives but nobody speaks into it.
const DEAF: Duration = Duration::from_secs(10);

/// How often the states that nobody announces are looked at.
const LOOK_PERIOD: Duration = Duration::from_millis(250);

/// For the signaling task's goodbye.
const TALK_END: Duration = Duration::from_secs(1);

/// One try for the speaker's media. Every try needs its own client id, and a URL presigned for it.
#[derive(Clone)]
pub struct Attempt {
    /// Presigned ws or wss URL of the channel's viewer endpoint. A credential: never logged.
    pub url: String,
    pub client_id: String,
    pub ice_servers: Vec<IceServer>,
    pub policy: CandidatePolicy,
    pub tls: Arc<ClientConfig>,
}

/// Why an attempt brought no media.
#[derive(Debug, thiserror::Error)]
pub enum ViewerError {
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error(transparent)]
    Exchange(#[from] ExchangeFailed),
    #[error("offer not sent: {0}")]
    OfferRefused(#[from] SendRefused),
    #[error("answered, but no media within {} s", MEDIA_TIMEOUT.as_secs())]
    NoMedia,
    #[error("answered, but no path to the speaker was found")]
    NoPath,
    #[error("libopus: {0}")]
    Opus(#[from] ::opus::Error),
    #[error("stopped")]
    Stopped,
}

/// What a [`Hearing`] has to say.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The next piece of audio; `at` counts from this connection's first packet. `arrived` is when the packet it
    /// came from (or that revealed its loss) was taken from the network.
    Frame { frame: PcmFrame, arrived: Instant },
    /// No packet for a second: the first sign of loss. Frames after it mean the speaker is back.
    Quiet,
    /// Media is over. It is the last event, given again if asked again.
    Lost(Lost),
    /// The signaling socket ended; media goes on.
    SignalingClosed,
    /// The service will end the signaling socket within a minute; media goes on.
    GoAway,
}

/// How media ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// The speaker closed its connection.
    Closed,
    /// The path is dead.
    Path,
    /// The path lives, but no packet came for ten seconds.
    Deaf,
    /// We were told to stop.
    Stopped,
}

/// Runs one attempt until the speaker's first packet is here.
///
/// Takes at most about 20 s (socket and gathering 5 s, answer 5 s, media 10 s). `stop` ends it and the `Hearing`.
///
/// # Errors
/// [`ViewerError`], after which everything of the attempt is gone.
pub async fn connect(attempt: Attempt, counts: Arc<Counts>, stop: CancellationToken) -> Result<Hearing, ViewerError> {
    counts.one(Count::ViewerAttempts);
    let result = match stop.run_until_cancelled(negotiate(attempt, &counts, &stop)).await {
        Some(result) => result,
        None => Err(ViewerError::Stopped),
    };
    match &result {
        Ok(_) => counts.one(Count::ViewerConnected),
        Err(ViewerError::Stopped) => {}
        Err(error) => {
            counts.one(Count::ViewerFailed);
            tracing::debug!(%error, "no media from the speaker");
        }
    }
    result
}

async fn negotiate(attempt: Attempt, counts: &Arc<Counts>, stop: &CancellationToken) -> Result<Hearing, ViewerError> {
    let decoder = Decoder::new()?;
    let open = async { Ok(Socket::open(&attempt.url, &attempt.tls).await?) };
    let offer = async {
        let (peer, mut events) = Peer::new(&attempt.ice_servers, attempt.policy.allow_loopback).await?;
        peer.receive_audio().await?;
        let offer = peer.offer(&mut events.candidates).await?;
        Ok::<_, ViewerError>((Arc::new(peer), events, offer))
    };
    let (mut socket, (peer, events, offer)) = tokio::try_join!(open, offer)?;
    let PeerEvents { mut events, candidates } = events;
    let frame = signaling::frame(&Message::Offer(&offer), None, Some(&attempt.client_id))?;
    socket.send(frame).await?;
    let started = Instant::now();
    let mut exchange = Exchange::new(&attempt.client_id, attempt.policy);
    exchange.offered(started.elapsed());
    let candidates = Some(candidates);
    let talk = Talk { socket, exchange, peer: Arc::clone(&peer), candidates, started, counts: Arc::clone(counts) };
    let (signal_sender, mut signals) = mpsc::channel(8);
    let talk_stop = stop.child_token();
    let talk = AbortOnDropHandle::new(tokio::spawn(talk.run(signal_sender, talk_stop.clone())));
    let track = match first_packet(&mut events, &mut signals).await {
        Ok(track) => track,
        Err(error) => {
            end_talk(talk, &talk_stop).await;
            peer.close().await;
            return Err(error);
        }
    };
    let mut look = interval(LOOK_PERIOD);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Ok(Hearing {
        wire: Wire { peer, track, events, signals, signals_open: true, look, stop: stop.clone() },
        talk,
        talk_stop,
        order: Order::default(),
        decoder,
        frames: Vec::new(),
        ready: VecDeque::new(),
        last_packet: Instant::now(),
        intake: Intake::new(Instant::now()),
        quiet: false,
        path_broken: false,
        lost: None,
        counts: Arc::clone(counts),
    })
}

/// Waits for the track, which the library announces with its first packet.
async fn first_packet(
    events: &mut mpsc::Receiver<PeerEvent>,
    signals: &mut mpsc::Receiver<Signal>,
) -> Result<Arc<dyn TrackRemote>, ViewerError> {
    // Whatever becomes of the signaling task, this ends.
    let mut deadline = Instant::now() + ANSWER_TIMEOUT + MEDIA_TIMEOUT;
    let (mut answered, mut signals_open) = (false, true);
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(PeerEvent::Track(track)) => return Ok(track),
                Some(PeerEvent::State(RTCPeerConnectionState::Failed | RTCPeerConnectionState::Closed)) | None => {
                    return Err(ViewerError::NoPath);
                }
                Some(PeerEvent::State(_)) => {}
            },
            signal = signals.recv(), if signals_open => match signal {
                Some(Signal::Answered) => (answered, deadline) = (true, Instant::now() + MEDIA_TIMEOUT),
                Some(Signal::Failed(error)) => return Err(error),
                Some(Signal::Closed(error)) if !answered => return Err(error.into()),
                Some(Signal::Closed(_) | Signal::GoAway) => {}
                None => signals_open = false,
            },
            () = sleep_until(deadline) => return Err(ViewerError::NoMedia),
        }
    }
}

/// Lets the signaling task say goodbye, for as long as a close may take.
async fn end_talk(talk: AbortOnDropHandle<()>, stop: &CancellationToken) {
    stop.cancel();
    if timeout(TALK_END, talk).await.is_err() {
        tracing::debug!("signaling did not end in time");
    }
}

/// The speaker's media. Dropping it ends everything at once; [`Hearing::close`] ends it politely.
pub struct Hearing {
    wire: Wire,
    talk: AbortOnDropHandle<()>,
    talk_stop: CancellationToken,
    order: Order,
    decoder: Decoder,
    frames: Vec<PcmFrame>,
    ready: VecDeque<Event>,
    last_packet: Instant,
    intake: Intake,
    quiet: bool,
    path_broken: bool,
    lost: Option<Lost>,
    counts: Arc<Counts>,
}

/// Speech has 50 packets a second, and 400 in the smallest frames Opus knows. Each costs a place in the order and maybe a
/// decoding, so what is more is not looked at.
const PACKETS: Option<Rate> = Rate::new(400, Duration::from_secs(1), 200);

/// Lets packets in at the pace of speech, however many come.
struct Intake {
    packets: Bucket,
    /// The log has it.
    told: bool,
}

impl Intake {
    fn new(now: Instant) -> Self {
        Intake { packets: Bucket::full(now.into_std()), told: false }
    }

    fn admits(&mut self, arrived: Instant, counts: &Counts) -> bool {
        if PACKETS.is_none_or(|rate| self.packets.take(rate, arrived.into_std()).is_ok()) {
            return true;
        }
        if !std::mem::replace(&mut self.told, true) {
            tracing::warn!("the speaker sends far more packets than speech has; what is too much is dropped");
        }
        counts.one(Count::RtpFlood);
        false
    }
}

/// Everything a [`Hearing`] waits for.
struct Wire {
    peer: Arc<Peer>,
    track: Arc<dyn TrackRemote>,
    events: mpsc::Receiver<PeerEvent>,
    signals: mpsc::Receiver<Signal>,
    signals_open: bool,
    look: tokio::time::Interval,
    stop: CancellationToken,
}

/// One thing that happened on the wire.
enum Happened {
    Rtp(rtc::rtp::Packet),
    TrackEnded,
    Track(Arc<dyn TrackRemote>),
    State(RTCPeerConnectionState),
    Signal(Option<Signal>),
    HeldTooLong,
    Look,
    Stop,
    Nothing,
}

impl Wire {
    async fn next(&mut self, held_until: Option<Instant>) -> Happened {
        tokio::select! {
            () = self.stop.cancelled() => Happened::Stop,
            event = self.track.poll() => match event {
                Some(TrackRemoteEvent::OnRtpPacket(packet)) => Happened::Rtp(packet),
                Some(TrackRemoteEvent::OnEnded) | None => Happened::TrackEnded,
                Some(_) => Happened::Nothing,
            },
            event = self.events.recv() => match event {
                Some(PeerEvent::State(state)) => Happened::State(state),
                Some(PeerEvent::Track(track)) => Happened::Track(track),
                None => Happened::State(RTCPeerConnectionState::Closed),
            },
            signal = self.signals.recv(), if self.signals_open => Happened::Signal(signal),
            () = until(held_until) => Happened::HeldTooLong,
            _ = self.look.tick() => Happened::Look,
        }
    }
}

impl Hearing {
    /// The next event. May be dropped and called again at any point; nothing is lost by it.
    ///
    /// To be called without long breaks: the network's packets wait in a queue of 256 (5 s), and then the newest go.
    pub async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return event;
            }
            if let Some(lost) = self.lost {
                return Event::Lost(lost);
            }
            match self.wire.next(self.order.deadline()).await {
                Happened::Rtp(packet) => self.packet(packet),
                Happened::HeldTooLong => {
                    self.order.expire(Instant::now(), &self.counts);
                    self.decode();
                }
                // The speaker goes on under another stream number.
                Happened::Track(track) => self.wire.track = track,
                Happened::State(state) => self.state(state),
                Happened::Signal(signal) => self.signal(signal),
                Happened::Look => self.look().await,
                Happened::TrackEnded => self.lose(Lost::Closed),
                Happened::Stop => self.lose(Lost::Stopped),
                Happened::Nothing => {}
            }
        }
    }

    /// Ends media and signaling so that both other sides know at once. Takes at most about 2 s.
    pub async fn close(self) {
        end_talk(self.talk, &self.talk_stop).await;
        self.wire.peer.close().await;
    }

    fn packet(&mut self, packet: rtc::rtp::Packet) {
        let arrived = Instant::now();
        self.last_packet = arrived;
        self.quiet = false;
        if !self.intake.admits(arrived, &self.counts) {
            return;
        }
        let header = &packet.header;
        if header.payload_type != OPUS_PAYLOAD_TYPE {
            return self.counts.one(Count::RtpForeign);
        }
        let packet = Packet {
            ssrc: header.ssrc,
            sequence: header.sequence_number,
            timestamp: header.timestamp,
            payload: packet.payload,
            arrived,
        };
        self.order.push(packet, &self.counts);
        self.decode();
    }

    fn decode(&mut self) {
        while let Some(next) = self.order.pop() {
            let arrived = next.packet.arrived;
            self.decoder.decode(&next, &self.counts, &mut self.frames);
            self.ready.extend(self.frames.drain(..).map(|frame| Event::Frame { frame, arrived }));
        }
    }

    fn state(&mut self, state: RTCPeerConnectionState) {
        match state {
            RTCPeerConnectionState::Failed | RTCPeerConnectionState::Closed => self.lose(Lost::Path),
            RTCPeerConnectionState::Disconnected => {
                self.path_broken = true;
                self.judge();
            }
            RTCPeerConnectionState::Connected => self.path_broken = false,
            _ => {}
        }
    }

    /// A broken path counts only while no packet comes either: ICE may be wrong for a moment, packets are not.
    fn judge(&mut self) {
        let silent = self.last_packet.elapsed();
        if silent >= QUIET && !self.quiet {
            self.quiet = true;
            self.ready.push_back(Event::Quiet);
        }
        if self.path_broken && silent >= QUIET {
            self.lose(Lost::Path);
        } else if silent >= DEAF {
            self.lose(Lost::Deaf);
        }
    }

    /// The library tells of a remote close only to those who ask.
    async fn look(&mut self) {
        if let Some(RTCDtlsTransportState::Closed | RTCDtlsTransportState::Failed) = self.wire.peer.dtls_state().await {
            return self.lose(Lost::Closed);
        }
        self.judge();
    }

    fn signal(&mut self, signal: Option<Signal>) {
        match signal {
            Some(Signal::GoAway) => self.ready.push_back(Event::GoAway),
            Some(Signal::Closed(_)) => self.ready.push_back(Event::SignalingClosed),
            Some(Signal::Failed(error)) => tracing::debug!(%error, "signaling failed after media came up"),
            Some(Signal::Answered) => {}
            None => self.wire.signals_open = false,
        }
    }

    fn lose(&mut self, lost: Lost) {
        if self.lost.is_none() {
            self.lost = Some(lost);
            if lost != Lost::Stopped {
                self.counts.one(Count::MediaLost);
                tracing::info!(?lost, "the speaker's media ended");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many packets a second for ten seconds: how many come in.
    fn admitted(per_second: u32) -> u32 {
        let (begun, counts) = (Instant::now(), Counts::default());
        let mut intake = Intake::new(begun);
        let sent = per_second * 10;
        let arrival = |n: u32| begun + Duration::from_secs(10) * n / sent;
        let admitted = (0..sent).filter(|n| intake.admits(arrival(*n), &counts)).count() as u32;
        assert_eq!(u64::from(sent - admitted), counts.get(Count::RtpFlood));
        admitted
    }

    #[test]
    fn speech_in_any_frames_comes_in_and_a_flood_only_at_the_pace_of_speech() {
        for per_second in [17, 50, 100, 400] {
            assert_eq!(admitted(per_second), per_second * 10);
        }
        for flood in [1_000, 20_000] {
            assert!((4_000..=4_200).contains(&admitted(flood)), "{flood}: {}", admitted(flood));
        }
    }
}
