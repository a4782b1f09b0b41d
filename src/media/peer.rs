//! One WebRTC peer connection, Opus only: what viewer and master build alike.
//!
//! The library awaits its handlers on the loop that drives ICE, DTLS and media, so they only put events into
//! bounded channels. Absent on purpose: signaling, and any codec but Opus.

use std::sync::Arc;
use std::time::Duration;

use babelcast_domain::signaling::{Candidate, Sdp};
use rtc::ice::mdns::MulticastDnsMode;
use rtc::media_stream::MediaStreamTrack;
use rtc::peer_connection::configuration::media_engine::MIME_TYPE_OPUS;
use rtc::peer_connection::transport::RTCDtlsTransportState;
use rtc::rtp_transceiver::rtp_sender::{
    RTCRtpCodec, RTCRtpCodecParameters, RTCRtpCodingParameters, RTCRtpEncodingParameters, RtpCodecKind,
};
use rtc::rtp_transceiver::{RTCRtpTransceiverDirection, RTCRtpTransceiverInit};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use webrtc::media_stream::track_local::TrackLocal;
use webrtc::media_stream::track_local::static_rtp::TrackLocalStaticRTP;
use webrtc::media_stream::track_remote::TrackRemote;
use webrtc::peer_connection::{
    MediaEngine, PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCConfigurationBuilder,
    RTCIceCandidateInit, RTCIceGatheringState, RTCIceServer, RTCPeerConnectionIceEvent, RTCPeerConnectionState,
    RTCSessionDescription, Registry, SettingEngineBuilder, register_default_interceptors,
};

use super::repeat::Repeating;

/// What Chrome offers for Opus, and what the C SDK answers.
pub const OPUS_PAYLOAD_TYPE: u8 = 111;
const OPUS_FORMAT: &str = "minptime=10;useinbandfec=1";

/// Silence of the path after which ICE says disconnected and failed, and how often it asks. Short, so that a
/// vanished speaker is known within 2 s; media itself counts as a sign of life.
const ICE_DISCONNECTED: Duration = Duration::from_millis(1_500);
const ICE_FAILED: Duration = Duration::from_secs(5);
const ICE_KEEPALIVE: Duration = Duration::from_millis(500);

/// How often a path is tried, and how many times. Four times the library's pace over the same 1.4 s: it halves the
/// time to connect, and the library's ClientHello waits for the next of these (its timer is the ICE timer).
const CHECK_PERIOD: Duration = Duration::from_millis(50);
const MAX_CHECKS: u16 = 28;

/// How long a direct path is preferred to a reflexive or relayed one that works already.
const REFLEXIVE_WAIT: Duration = Duration::from_millis(200);
const RELAY_WAIT: Duration = Duration::from_millis(700);

/// How long candidates are gathered before the description goes out without the rest. Host and reflexive ones
/// take tens of milliseconds; a slow relay trickles in afterwards.
const GATHER_TIME: Duration = Duration::from_secs(1);

/// The library waits up to 100 ms for its relays; anything longer is a fault in it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A STUN or TURN server, as GetIceServerConfig gives it.
#[derive(Clone, PartialEq, Eq)]
pub struct IceServer {
    pub urls: Vec<String>,
    pub username: String,
    pub credential: String,
}

impl std::fmt::Debug for IceServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IceServer({} urls)", self.urls.len())
    }
}

/// A step of the library's that failed. Its own words may hold addresses, so they are in `source` only.
#[derive(Debug, thiserror::Error)]
#[error("WebRTC failed at: {step}")]
pub struct PeerError {
    step: &'static str,
    source: Box<webrtc::error::Error>,
}

fn at(step: &'static str) -> impl FnOnce(webrtc::error::Error) -> PeerError {
    move |source| PeerError { step, source: Box::new(source) }
}

/// What the connection tells about itself.
pub(super) enum PeerEvent {
    State(RTCPeerConnectionState),
    /// The first packet of the remote track is here.
    Track(Arc<dyn TrackRemote>),
}

/// The ends of a peer's channels.
pub(super) struct PeerEvents {
    pub events: mpsc::Receiver<PeerEvent>,
    /// Local candidates as they are found; `None` when there will be no more.
    pub candidates: mpsc::Receiver<Option<Candidate>>,
}

/// A peer connection that closes when dropped.
pub(super) struct Peer {
    connection: Arc<dyn PeerConnection>,
}

impl Peer {
    /// Builds the connection and its sockets: one on each interface, and on loopback if the policy knows it.
    pub async fn new(servers: &[IceServer], loopback: bool) -> Result<(Self, PeerEvents), PeerError> {
        let mut media = MediaEngine::default();
        let codec = RTCRtpCodecParameters { payload_type: OPUS_PAYLOAD_TYPE, rtp_codec: opus() };
        media.register_codec(codec, RtpCodecKind::Audio).map_err(at("register Opus"))?;
        let registry =
            register_default_interceptors(Registry::new(), &mut media).map_err(at("register interceptors"))?;
        let settings = SettingEngineBuilder::new()
            .with_multicast_dns_mode(MulticastDnsMode::Disabled)
            .with_ice_connection_attempts(Some(CHECK_PERIOD), Some(MAX_CHECKS))
            .with_srflx_acceptance_min_wait(Some(REFLEXIVE_WAIT))
            .with_prflx_acceptance_min_wait(Some(REFLEXIVE_WAIT))
            .with_relay_acceptance_min_wait(Some(RELAY_WAIT))
            .with_ice_timeouts(Some(ICE_DISCONNECTED), Some(ICE_FAILED), Some(ICE_KEEPALIVE))
            .build();
        let servers = servers.iter().filter_map(usable).collect();
        let configuration = RTCConfigurationBuilder::default().with_ice_servers(servers).build();
        let (event_sender, events) = mpsc::channel(64);
        let (candidate_sender, candidates) = mpsc::channel(64);
        let handler = Arc::new(Handler { events: event_sender, candidates: candidate_sender });
        // The wildcard leaves loopback out, so it is named by itself.
        let addresses = if loopback { vec!["0.0.0.0:0", "127.0.0.1:0"] } else { vec!["0.0.0.0:0"] };
        let runtime = webrtc::runtime::default_runtime().expect("the tokio runtime is compiled in");
        let connection = PeerConnectionBuilder::new()
            .with_runtime(Arc::new(Repeating(runtime)))
            .with_media_engine(media)
            .with_interceptor_registry(registry)
            .with_setting_engine(settings)
            .with_configuration(configuration)
            .with_handler(handler)
            .with_udp_addrs(addresses)
            .build()
            .await
            .map_err(at("build"))?;
        Ok((Peer { connection: Arc::new(connection) }, PeerEvents { events, candidates }))
    }

    /// Adds the audio line of a viewer's offer: it listens and never sends.
    pub async fn receive_audio(&self) -> Result<(), PeerError> {
        let init = RTCRtpTransceiverInit {
            direction: RTCRtpTransceiverDirection::Recvonly,
            streams: vec![],
            send_encodings: vec![],
        };
        let added = self.connection.add_transceiver_from_kind(RtpCodecKind::Audio, Some(init)).await;
        added.map(drop).map_err(at("add audio line"))
    }

    /// Adds the audio line of a master's answer: it sends one Opus stream under `ssrc`.
    pub async fn send_audio(&self, ssrc: u32) -> Result<Arc<TrackLocalStaticRTP>, PeerError> {
        let coding = RTCRtpEncodingParameters {
            rtp_coding_parameters: RTCRtpCodingParameters { ssrc: Some(ssrc), ..Default::default() },
            codec: opus(),
            ..Default::default()
        };
        let names = ["speaker", "microphone", "microphone"].map(str::to_owned);
        let [stream, track, label] = names;
        let track = MediaStreamTrack::new(stream, track, label, RtpCodecKind::Audio, vec![coding]);
        let track = Arc::new(TrackLocalStaticRTP::new(track));
        let added = self.connection.add_track(Arc::clone(&track) as Arc<dyn TrackLocal>).await;
        added.map_err(at("add audio track"))?;
        Ok(track)
    }

    /// The state of the secured transport; none before there is one.
    pub async fn dtls_state(&self) -> Option<RTCDtlsTransportState> {
        let transport = match self.connection.get_receivers().await.into_iter().next() {
            Some(receiver) => receiver.transport().await.ok()??,
            None => self.connection.get_senders().await.into_iter().next()?.transport().await.ok()??,
        };
        transport.state().await.ok()
    }

    /// Makes an offer, with what candidates a second brings.
    pub async fn offer(&self, candidates: &mut mpsc::Receiver<Option<Candidate>>) -> Result<Sdp, PeerError> {
        let offer = self.connection.create_offer(None).await.map_err(at("create offer"))?;
        self.local(offer, candidates).await.map(|offer| offer.with_trickle())
    }

    /// Makes an answer to the offer set before, likewise. Whoever lets candidates trickle in after it says so.
    pub async fn answer(&self, candidates: &mut mpsc::Receiver<Option<Candidate>>) -> Result<Sdp, PeerError> {
        let answer = self.connection.create_answer(None).await.map_err(at("create answer"))?;
        self.local(answer, candidates).await
    }

    async fn local(
        &self,
        description: RTCSessionDescription,
        candidates: &mut mpsc::Receiver<Option<Candidate>>,
    ) -> Result<Sdp, PeerError> {
        let made = description.sdp.clone();
        self.connection.set_local_description(description).await.map_err(at("set local description"))?;
        let enough = Instant::now() + GATHER_TIME;
        while let Ok(Some(Some(_))) = timeout_at(enough, candidates.recv()).await {}
        let gathered = self.connection.local_description().await.map_or(made, |description| description.sdp);
        Ok(Sdp::new(gathered))
    }

    pub async fn set_remote_answer(&self, sdp: &Sdp) -> Result<(), PeerError> {
        let answer = RTCSessionDescription::answer(sdp.as_str().to_owned()).map_err(at("parse answer"))?;
        self.connection.set_remote_description(answer).await.map_err(at("set answer"))
    }

    pub async fn set_remote_offer(&self, sdp: &Sdp) -> Result<(), PeerError> {
        let offer = RTCSessionDescription::offer(sdp.as_str().to_owned()).map_err(at("parse offer"))?;
        self.connection.set_remote_description(offer).await.map_err(at("set offer"))
    }

    /// Adds a candidate of the other side; it must have passed a policy.
    pub async fn add_candidate(&self, candidate: Candidate) -> Result<(), PeerError> {
        let init = RTCIceCandidateInit {
            candidate: candidate.line,
            sdp_mid: candidate.mid,
            sdp_mline_index: candidate.line_index,
            username_fragment: candidate.username_fragment,
            url: None,
        };
        self.connection.add_ice_candidate(init).await.map_err(at("add candidate"))
    }

    /// Ends the connection; the other side sees DTLS close.
    pub async fn close(&self) {
        close(&self.connection).await;
    }
}

impl Drop for Peer {
    /// The library's driver outlives its last handle unless closed, so the last act is a bounded task that does it.
    fn drop(&mut self) {
        let connection = Arc::clone(&self.connection);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            drop(runtime.spawn(async move { close(&connection).await }));
        }
    }
}

fn opus() -> RTCRtpCodec {
    RTCRtpCodec {
        mime_type: MIME_TYPE_OPUS.to_owned(),
        clock_rate: 48_000,
        channels: 2,
        sdp_fmtp_line: OPUS_FORMAT.to_owned(),
        rtcp_feedback: vec![],
    }
}

async fn close(connection: &Arc<dyn PeerConnection>) {
    match timeout(CLOSE_TIMEOUT, connection.close()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "peer connection closed badly"),
        Err(_) => tracing::warn!("peer connection did not close in time"),
    }
}

/// What of a server the library can use: UDP without TLS. KVS hands out all kinds; one that the library cannot read
/// would fail the whole connection, so it is left out here.
fn usable(server: &IceServer) -> Option<RTCIceServer> {
    let named = !server.username.is_empty() && !server.credential.is_empty();
    let fits = |url: &&String| {
        let plain = url.starts_with("stun:") || url.starts_with("turn:") && named;
        plain && rtc::ice::url::Url::parse_url(url).is_ok_and(|url| url.proto == rtc::ice::url::ProtoType::Udp)
    };
    let urls: Vec<String> = server.urls.iter().filter(fits).cloned().collect();
    if urls.is_empty() {
        tracing::debug!("an ICE server without any UDP address is left out");
        return None;
    }
    Some(RTCIceServer { urls, username: server.username.clone(), credential: server.credential.clone() })
}

struct Handler {
    events: mpsc::Sender<PeerEvent>,
    candidates: mpsc::Sender<Option<Candidate>>,
}

#[async_trait::async_trait]
impl PeerConnectionEventHandler for Handler {
    async fn on_ice_candidate(&self, event: RTCPeerConnectionIceEvent) {
        match event.candidate.to_json() {
            Ok(init) => {
                // The library leaves the media line's name empty; there is one line, and its name is 0.
                let candidate = Candidate {
                    line: init.candidate,
                    mid: Some("0".to_owned()),
                    line_index: Some(0),
                    username_fragment: None,
                };
                if self.candidates.try_send(Some(candidate)).is_err() {
                    tracing::debug!("a local candidate found nobody to take it");
                }
            }
            Err(error) => tracing::debug!(%error, "a local candidate cannot be written"),
        }
    }

    async fn on_ice_gathering_state_change(&self, state: RTCIceGatheringState) {
        if state == RTCIceGatheringState::Complete && self.candidates.try_send(None).is_err() {
            tracing::debug!("the end of gathering found nobody to hear it");
        }
    }

    async fn on_connection_state_change(&self, state: RTCPeerConnectionState) {
        if self.events.try_send(PeerEvent::State(state)).is_err() {
            tracing::debug!(?state, "a connection state found nobody to hear it");
        }
    }

    async fn on_track(&self, track: Arc<dyn TrackRemote>) {
        if self.events.try_send(PeerEvent::Track(track)).is_err() {
            tracing::debug!("a track found nobody to hear it");
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    #[test]
    fn only_servers_the_library_can_use_are_given_to_it() {
        let server = |urls: &[&str], username: &str| IceServer {
            urls: urls.iter().map(|url| (*url).to_owned()).collect(),
            username: username.into(),
            credential: username.into(),
        };
        let kvs = server(
            &[
                "turn:192.0.2.1:443?transport=udp",
                "turns:192.0.2.1:443?transport=udp",
                "turns:192.0.2.1:443?transport=tcp",
            ],
            "1700000000:name",
        );
        assert_eq!(usable(&kvs).unwrap().urls, ["turn:192.0.2.1:443?transport=udp"]);
        assert_eq!(usable(&server(&["stun:192.0.2.1:443"], "")).unwrap().urls, ["stun:192.0.2.1:443"]);
        for urls in [&["turn:192.0.2.1:443"][..], &["turn:192.0.2.1:443?transport=tcp"], &["stun:"], &["nonsense"], &[]]
        {
            assert!(usable(&server(urls, "")).is_none(), "{urls:?}");
        }
    }

    async fn offering() -> (Peer, PeerEvents, Sdp) {
        let (peer, mut events) = Peer::new(&[], true).await.unwrap();
        peer.receive_audio().await.unwrap();
        let offer = peer.offer(&mut events.candidates).await.unwrap();
        (peer, events, offer)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_offer_suits_every_kvs_master() {
        let (_peer, _events, offer) = offering().await;
        let text = offer.as_str();
        for line in ["a=ice-options:trickle", "a=recvonly", "a=setup:actpass", "a=mid:0", "a=rtcp-mux"] {
            assert!(text.lines().any(|have| have == line), "{line} is missing");
        }
        assert!(text.contains("a=rtpmap:111 opus/48000/2") && text.contains("a=fmtp:111 minptime=10;useinbandfec=1"));
        assert_eq!(text.matches("m=").count(), 1, "audio only");
        // The C SDK keeps the last fingerprint only, and knows sha-256 only.
        assert!(text.matches("a=fingerprint:").count() == text.matches("a=fingerprint:sha-256 ").count());
        assert!(text.contains("a=candidate:"), "gathered before it is sent");
        offer.check().unwrap();
    }

    /// The library parses what a stranger wrote. Whatever it says to a mangled answer, it must not panic.
    #[tokio::test(flavor = "multi_thread")]
    async fn no_mangled_answer_panics() {
        let (mut peer, mut events, offer) = offering().await;
        let (master, mut theirs) = Peer::new(&[], true).await.unwrap();
        master.send_audio(7).await.unwrap();
        master.set_remote_offer(&offer).await.unwrap();
        let answer = master.answer(&mut theirs.candidates).await.unwrap();
        let lines: Vec<&str> = answer.as_str().lines().collect();
        let mut dice = StdRng::seed_from_u64(4);
        for _ in 0..150 {
            let mut mangled: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
            for _ in 0..dice.random_range(1..4) {
                let at = dice.random_range(0..mangled.len());
                match dice.random_range(0..4) {
                    0 => drop(mangled.remove(at)),
                    1 => mangled.insert(at, mangled[at].clone()),
                    2 => mangled[at] = mangled[at].chars().take(mangled[at].len() / 2).collect(),
                    _ => {
                        mangled[at] =
                            mangled[at].replace([' ', '1', ':'], ["", "9999999999", "-"][dice.random_range(0..3)])
                    }
                }
            }
            let mangled = Sdp::new(mangled.join("\r\n") + "\r\n");
            if mangled.check().is_ok() && peer.set_remote_answer(&mangled).await.is_ok() {
                (peer, events, _) = offering().await;
            }
        }
        drop(events);
    }
}
