//! Viewer and master against each other over real sockets on loopback.
//!
//! The speech is synthetic, or the WAV file named by `BABELCAST_TEST_WAV` (16 kHz, its first ten seconds).

mod browser;
mod cloud;
mod network;
mod player;
mod relay;
mod whep;

use std::sync::Arc;
use std::time::Duration;

use babelcast_domain::audio::{Origin, PcmFrame};
use babelcast_domain::counts::{Count, Counts};
use babelcast_domain::signaling::CandidatePolicy;
use babelcast_domain::signaling::exchange::ExchangeFailed;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use self::network::Network;
use self::relay::{Relay, Switches, candidate_frame};
use super::faults::Faults;
use super::master::{Access, Master, MasterEvent, Settings};
use super::viewer::{Attempt, Event, Hearing, Lost, ViewerError, connect};
use super::wav::Recording;

/// For whatever should happen soon, on the noisiest machine.
const SOON: Duration = Duration::from_secs(20);

/// A buzz of gliding pitch in syllables, with pauses: libopus takes it for speech. 16 kHz.
fn voice(seconds: f64) -> Vec<i16> {
    let mut phase = 0.0f64;
    (0..(seconds * 16_000.0) as usize)
        .map(|i| {
            let t = i as f64 / 16_000.0;
            phase += (140.0 + 30.0 * (t * 5.0).sin()) / 16_000.0;
            let buzz: f64 = (1..14).map(|k| (phase * f64::from(k) * std::f64::consts::TAU).sin() / f64::from(k)).sum();
            let syllable = (t * 4.0 * std::f64::consts::PI).sin().powi(4);
            let phrase = if t % 3.0 < 2.4 { 1.0 } else { 0.0 };
            (buzz * 9_000.0 * syllable * phrase) as i16
        })
        .collect()
}

fn speech() -> Vec<i16> {
    let Ok(path) = std::env::var("BABELCAST_TEST_WAV") else { return voice(6.0) };
    let recording = Recording::read(std::path::Path::new(&path)).unwrap();
    assert_eq!(recording.rate, 16_000, "{path}");
    recording.samples.into_iter().take(160_000).collect()
}

struct Stage {
    relay: Arc<Relay>,
    master: Master,
    counts: Arc<Counts>,
}

impl Stage {
    async fn new() -> Stage {
        Self::with(Switches::default()).await
    }

    async fn with(switches: Switches) -> Stage {
        let relay = Arc::new(Relay::start(switches).await);
        let master = master(&relay).await;
        Stage { relay, master, counts: Arc::default() }
    }

    fn attempt(&self, client_id: &str) -> Attempt {
        attempt(&self.relay, client_id)
    }

    async fn hear(&self, client_id: &str) -> Result<Hearing, ViewerError> {
        let attempt = self.attempt(client_id);
        timeout(SOON, connect(attempt, Arc::clone(&self.counts), CancellationToken::new())).await.unwrap()
    }

    fn count(&self, count: Count) -> u64 {
        self.counts.get(count)
    }
}

async fn master(relay: &Arc<Relay>) -> Master {
    let url = relay.master_url();
    let access = move || {
        let url = url.clone();
        async move { Ok(Access { url, ice_servers: vec![] }) }
    };
    let settings = Settings {
        tls: super::socket::tls(None).unwrap(),
        policy: CandidatePolicy::LOCAL,
        rate: 16_000,
        expected_loss: 15,
    };
    Master::connect(access, settings).await.unwrap()
}

fn attempt(relay: &Relay, client_id: &str) -> Attempt {
    Attempt {
        url: relay.viewer_url(client_id),
        client_id: client_id.to_owned(),
        ice_servers: vec![],
        policy: CandidatePolicy::LOCAL,
        tls: super::socket::tls(None).unwrap(),
    }
}

/// Frames until `done` says so; panics if media is lost or does not come.
async fn listen(hearing: &mut Hearing, mut done: impl FnMut(&PcmFrame) -> bool) -> Vec<PcmFrame> {
    let mut frames = Vec::new();
    loop {
        match timeout(SOON, hearing.next()).await.expect("media stands still") {
            Event::Frame { frame, .. } => {
                let enough = done(&frame);
                frames.push(frame);
                if enough {
                    return frames;
                }
            }
            Event::Lost(lost) => panic!("lost: {lost:?}"),
            _ => {}
        }
    }
}

async fn listen_for(hearing: &mut Hearing, length: Duration) -> Vec<PcmFrame> {
    let mut until = None;
    listen(hearing, |frame| {
        let end = *until.get_or_insert(frame.at.as_millis() + length.as_millis() as u64);
        frame.end().as_millis() >= end
    })
    .await
}

/// Waits for the first event that `wanted` takes, and says how long it took.
async fn event(hearing: &mut Hearing, wanted: impl Fn(&Event) -> bool) -> (Event, Duration) {
    let start = Instant::now();
    loop {
        let event = timeout(SOON, hearing.next()).await.expect("nothing happens");
        if wanted(&event) {
            return (event, start.elapsed());
        }
        assert!(!matches!(event, Event::Lost(_)), "{event:?}");
    }
}

/// Root mean square of each 20 ms.
fn envelope(samples: &[i16]) -> Vec<f64> {
    let rms = |s: &[i16]| (s.iter().map(|&s| f64::from(s).powi(2)).sum::<f64>() / s.len() as f64).sqrt();
    samples.chunks_exact(320).map(rms).collect()
}

/// The share of the speech's loud 20 ms pieces that came out no more than 12 dB weaker, at the best alignment.
fn audible(spoken: &[i16], heard: &[PcmFrame]) -> f64 {
    let heard: Vec<i16> = heard.iter().flat_map(|frame| frame.samples.iter().copied()).collect();
    let (spoken, heard) = (envelope(spoken), envelope(&heard));
    let loud = spoken.iter().copied().fold(0.0, f64::max) / 10.0;
    let at = |lag: usize| -> f64 { spoken.iter().zip(&heard[lag..]).map(|(a, b)| a * b).sum() };
    let last = heard.len().saturating_sub(spoken.len());
    let lag = (0..=last).max_by(|a, b| at(*a).total_cmp(&at(*b))).unwrap();
    let around =
        |i: usize| (i.saturating_sub(1)..=i + 1).filter_map(|i| heard.get(lag + i)).copied().fold(0.0, f64::max);
    let pieces: Vec<_> = spoken.iter().enumerate().filter(|(_, rms)| **rms > loud).collect();
    let good = pieces.iter().filter(|(i, rms)| around(*i) > **rms / 4.0).count();
    good as f64 / pieces.len() as f64
}

/// Plays the speech through `faults`; gives back what was heard.
async fn through(stage: &mut Stage, faults: Faults) -> (Vec<i16>, Vec<PcmFrame>) {
    let spoken = speech();
    let mut hearing = stage.hear("srv-a-1").await.unwrap();
    stage.master.set_faults(faults);
    let length = Duration::from_secs_f64(spoken.len() as f64 / 16_000.0) + Duration::from_millis(600);
    let (played, heard) = tokio::join!(stage.master.play(&spoken), listen_for(&mut hearing, length));
    played.unwrap();
    hearing.close().await;
    (spoken, heard)
}

fn unbroken(frames: &[PcmFrame]) -> bool {
    frames.windows(2).all(|pair| pair[0].end() == pair[1].at)
}

#[tokio::test(flavor = "multi_thread")]
async fn speech_arrives_whole_on_a_good_wire() {
    let mut stage = Stage::new().await;
    let (spoken, heard) = through(&mut stage, Faults::default()).await;
    assert!(audible(&spoken, &heard) >= 0.99, "{}", audible(&spoken, &heard));
    assert!(unbroken(&heard) && heard.iter().all(|frame| frame.origin == Origin::Received));
    assert_eq!((stage.count(Count::RtpLost), stage.count(Count::DecodeErrors)), (0, 0));
    assert_eq!((stage.count(Count::ViewerAttempts), stage.count(Count::ViewerConnected)), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn speech_survives_five_and_fifteen_percent_loss() {
    for loss_percent in [5.0, 15.0] {
        let mut stage = Stage::new().await;
        let (spoken, heard) = through(&mut stage, Faults { loss_percent, seed: 3, ..Faults::default() }).await;
        let share = audible(&spoken, &heard);
        eprintln!(
            "{loss_percent} % loss: {:.1} % audible, {} lost, {} corrected, {} concealed",
            share * 100.0,
            stage.count(Count::RtpLost),
            stage.count(Count::FramesCorrected),
            stage.count(Count::FramesConcealed)
        );
        assert!(share >= 0.95, "{loss_percent} %: {share}");
        assert!(unbroken(&heard) && stage.count(Count::RtpLost) > 5 && stage.count(Count::FramesCorrected) > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reordered_and_doubled_packets_are_repaired_and_counted() {
    let mut stage = Stage::new().await;
    let faults = Faults { reorder_percent: 10.0, duplicate_percent: 5.0, seed: 5, ..Faults::default() };
    let (spoken, heard) = through(&mut stage, faults).await;
    assert!(audible(&spoken, &heard) >= 0.99);
    assert!(unbroken(&heard) && heard.iter().all(|frame| frame.origin == Origin::Received));
    // Copies end in SRTP's replay window, before they could be counted here.
    assert!(stage.count(Count::RtpReordered) > 5);
    assert_eq!(stage.count(Count::RtpLost), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clock_stays_right_over_an_outage_of_three_seconds() {
    for lost_on_the_wire in [true, false] {
        let stage = Stage::new().await;
        let mut hearing = stage.hear("srv-a-1").await.unwrap();
        listen_for(&mut hearing, Duration::from_millis(300)).await;
        let outage = Duration::from_secs(3);
        if lost_on_the_wire {
            stage.master.outage(outage)
        } else {
            stage.master.pause(outage)
        }
        event(&mut hearing, |event| *event == Event::Quiet).await;
        let frames = listen_for(&mut hearing, Duration::from_millis(200)).await;
        let step = frames[0].at.as_millis();
        assert!((3_100..4_500).contains(&step), "{step} ms, lost: {lost_on_the_wire}");
        let lost = stage.count(Count::RtpLost);
        assert_eq!(lost > 100, lost_on_the_wire, "{lost} lost");
        assert_eq!(stage.count(Count::MediaLost), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_says_goodbye_is_lost_at_once() {
    let stage = Stage::new().await;
    let mut hearing = stage.hear("srv-a-1").await.unwrap();
    listen_for(&mut hearing, Duration::from_millis(100)).await;
    stage.master.close().await;
    let (event, took) = event(&mut hearing, |event| matches!(event, Event::Lost(_))).await;
    assert_eq!(event, Event::Lost(Lost::Closed));
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(stage.counts.get(Count::MediaLost), 1);
    assert_eq!(hearing.next().await, event, "the last event stays");
}

#[test]
fn a_master_whose_plug_is_pulled_is_lost_within_two_seconds() {
    // The master lives in a runtime of its own, which dies without letting anything say goodbye.
    let theirs = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let ours = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    ours.block_on(async {
        let relay = Arc::new(Relay::start(Switches::default()).await);
        let counts = Arc::new(Counts::default());
        let theirs_relay = Arc::clone(&relay);
        let master = theirs.spawn(async move { master(&theirs_relay).await }).await.unwrap();
        let attempt = attempt(&relay, "srv-a-1");
        let mut hearing = connect(attempt, Arc::clone(&counts), CancellationToken::new()).await.unwrap();
        listen_for(&mut hearing, Duration::from_millis(100)).await;
        theirs.shutdown_background();
        std::mem::forget(master);
        let (_, quiet) = event(&mut hearing, |event| *event == Event::Quiet).await;
        let (lost, took) = event(&mut hearing, |event| matches!(event, Event::Lost(_))).await;
        eprintln!("quiet after {quiet:?}, {lost:?} {took:?} later");
        assert_eq!(lost, Event::Lost(Lost::Path));
        // Promised: 2 s. The rest is for a machine that runs everything else at the same time.
        assert!(quiet + took < Duration::from_secs(4), "{quiet:?} + {took:?}");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn media_outlives_the_signaling_sockets_of_both_sides() {
    let mut stage = Stage::new().await;
    let mut hearing = stage.hear("srv-a-1").await.unwrap();
    stage.relay.send(Some("srv-a-1"), r#"{"messageType":"GO_AWAY"}"#);
    event(&mut hearing, |event| *event == Event::GoAway).await;
    stage.relay.cut(Some("srv-a-1"));
    event(&mut hearing, |event| *event == Event::SignalingClosed).await;
    stage.relay.cut(None);
    while timeout(SOON, stage.master.next()).await.unwrap() != Some(MasterEvent::SignalingReopened) {}
    let frames = listen_for(&mut hearing, Duration::from_secs(1)).await;
    assert!(unbroken(&frames));
    assert_eq!((stage.count(Count::SignalingClosed), stage.count(Count::MediaLost)), (1, 0));
    // The reopened master answers a new viewer.
    let mut second = stage.hear("srv-a-2").await.unwrap();
    listen_for(&mut second, Duration::from_millis(200)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_no_sdp_is_a_clear_error() {
    let stage = Stage::with(Switches { answer: Some("how do you do".into()), ..Switches::default() }).await;
    let Err(error) = stage.hear("srv-a-1").await else { panic!() };
    assert!(matches!(error, ViewerError::Exchange(ExchangeFailed::BadAnswer(_))), "{error:?}");
    assert_eq!(error.to_string(), "answer refused: not a session description");
    assert_eq!((stage.count(Count::ViewerFailed), stage.count(Count::ViewerConnected)), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn sdp_that_only_looks_like_sdp_is_an_error_too() {
    let answer = "v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=rtpmap:111 opus/48000/2\r\na=ice-ufrag:x\r\na=ice-pwd:y\r\na=fingerprint:z\r\n";
    let stage = Stage::with(Switches { answer: Some(answer.into()), ..Switches::default() }).await;
    let Err(error) = stage.hear("srv-a-1").await else { panic!() };
    assert!(matches!(error, ViewerError::Peer(_)), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_does_not_answer_fails_the_attempt() {
    let stage = Stage::with(Switches { no_answer: true, ..Switches::default() }).await;
    let start = Instant::now();
    let Err(error) = stage.hear("srv-a-1").await else { panic!() };
    assert!(matches!(error, ViewerError::Exchange(ExchangeFailed::NoAnswer)), "{error:?}");
    assert!(start.elapsed() >= Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn candidates_before_the_answer_and_of_strangers_do_no_harm() {
    let before_answer = vec![
        candidate_frame("192.0.2.77", None),
        candidate_frame("192.0.2.78", Some("viewer-666")),
        candidate_frame("169.254.169.254", None),
        candidate_frame("some-laptop.local", None),
        "nonsense".to_owned(),
        String::new(),
    ];
    let stage = Stage::with(Switches { before_answer, ..Switches::default() }).await;
    let mut hearing = stage.hear("srv-a-1").await.unwrap();
    listen_for(&mut hearing, Duration::from_millis(200)).await;
    assert_eq!(stage.count(Count::CandidatesRefused), 2, "link-local and a name");
    assert_eq!(stage.count(Count::SignalingIgnored), 2, "a stranger's and nonsense");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_master_gets_the_held_offer() {
    let relay = Arc::new(Relay::start(Switches::default()).await);
    let counts = Arc::new(Counts::default());
    let early = tokio::spawn(connect(attempt(&relay, "srv-a-1"), Arc::clone(&counts), CancellationToken::new()));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let _master = master(&relay).await;
    let mut hearing = timeout(SOON, early).await.unwrap().unwrap().unwrap();
    listen_for(&mut hearing, Duration::from_millis(100)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_attempt_and_a_stopped_hearing_end_at_once() {
    let stage = Stage::with(Switches { no_answer: true, ..Switches::default() }).await;
    let stop = CancellationToken::new();
    let trying = tokio::spawn(connect(stage.attempt("srv-a-1"), Arc::clone(&stage.counts), stop.clone()));
    stop.cancel();
    assert!(matches!(timeout(SOON, trying).await.unwrap().unwrap(), Err(ViewerError::Stopped)));

    let stage = Stage::new().await;
    let stop = CancellationToken::new();
    let mut hearing = connect(stage.attempt("srv-a-1"), Arc::clone(&stage.counts), stop.clone()).await.unwrap();
    stop.cancel();
    event(&mut hearing, |event| *event == Event::Lost(Lost::Stopped)).await;
    assert_eq!(stage.count(Count::MediaLost), 0, "being told to stop is no loss");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_that_leaves_is_noticed_by_the_master() {
    let mut stage = Stage::new().await;
    let hearing = stage.hear("srv-a-1").await.unwrap();
    let (client_id, _) = timeout(SOON, stage.master.wait_for_viewer()).await.unwrap().unwrap();
    assert_eq!(client_id, "srv-a-1");
    drop(hearing);
    let gone = MasterEvent::ViewerGone { client_id };
    while timeout(SOON, stage.master.next()).await.unwrap() != Some(gone.clone()) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_socket_says_why() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let stage = Stage::new().await;
    let attempt = Attempt { url: format!("ws://{address}/"), ..stage.attempt("srv-a-1") };
    let refused = connect(attempt, Arc::clone(&stage.counts), CancellationToken::new()).await;
    assert!(matches!(refused, Err(ViewerError::Socket(_))));
    assert_eq!(stage.count(Count::ViewerFailed), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_with_somebody_elses_fingerprint_brings_no_media() {
    let stage = Stage::with(Switches { wrong_fingerprint: true, ..Switches::default() }).await;
    let Err(error) = stage.hear("srv-a-1").await else { panic!("media of a stranger") };
    assert!(matches!(error, ViewerError::NoMedia | ViewerError::NoPath), "{error:?}");
    assert_eq!(stage.count(Count::RtpReceived), 0);
}

/// The first frame's delay, the heard share of the speech, and the counts, over a network that loses what it likes.
async fn over(network: Network) -> (Duration, f64, Stage) {
    let stage = Stage::with(Switches { network: Some(network), ..Switches::default() }).await;
    let spoken = speech();
    let start = Instant::now();
    let mut hearing = stage.hear("srv-a-1").await.unwrap();
    listen_for(&mut hearing, Duration::from_millis(20)).await;
    let first = start.elapsed();
    let length = Duration::from_secs_f64(spoken.len() as f64 / 16_000.0) + Duration::from_millis(600);
    let (played, heard) = tokio::join!(stage.master.play(&spoken), listen_for(&mut hearing, length));
    played.unwrap();
    assert!(unbroken(&heard));
    (first, audible(&spoken, &heard), stage)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_network_does_not_end_the_call() {
    for network in [Network::losing(5), Network::losing(15), Network::losing(30), Network::losing(15).in_bursts_of(6)] {
        let name = format!("{network:?}");
        let (first, share, stage) = over(network).await;
        eprintln!(
            "{name}: first audio after {first:?}, {:.1} % audible, {} lost",
            share * 100.0,
            stage.count(Count::RtpLost)
        );
        assert_eq!(stage.count(Count::MediaLost), 0);
        // Six packets in a row are more than error correction and concealment can hide.
        let promised = if name.contains("burst: 6") { 0.85 } else { 0.95 };
        assert!(share >= promised, "{name}: {share}");
        assert!(first < Duration::from_secs(8), "{name}: {first:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_media_port_is_no_matter() {
    let network = Network::losing(0);
    let stage = Stage::with(Switches { network: Some(network.clone()), ..Switches::default() }).await;
    let mut hearing = stage.hear("srv-a-1").await.unwrap();
    let flood = network.flood(2_000);
    let frames = listen_for(&mut hearing, Duration::from_secs(1)).await;
    flood.await;
    assert!(unbroken(&frames));
    assert_eq!((stage.count(Count::DecodeErrors), stage.count(Count::MediaLost)), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_black_hole_is_noticed_and_the_next_attempt_gets_through() {
    let network = Network::losing(0);
    let stage = Stage::with(Switches { network: Some(network.clone()), ..Switches::default() }).await;
    let mut hearing = stage.hear("srv-a-1").await.unwrap();
    listen_for(&mut hearing, Duration::from_millis(100)).await;
    network.swallow_all(true);
    let (lost, took) = event(&mut hearing, |event| matches!(event, Event::Lost(_))).await;
    eprintln!("{lost:?} after {took:?}");
    assert!(took < Duration::from_secs(4));
    drop(hearing);
    let start = Instant::now();
    let Err(error) = stage.hear("srv-a-2").await else { panic!() };
    eprintln!("in the hole: {error} after {:?}", start.elapsed());
    network.swallow_all(false);
    let mut hearing = stage.hear("srv-a-3").await.unwrap();
    listen_for(&mut hearing, Duration::from_millis(100)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_calls_that_ended() {
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    for round in 0..4 {
        let stage = Stage::new().await;
        let mut hearing = stage.hear("srv-a-1").await.unwrap();
        listen_for(&mut hearing, Duration::from_millis(40)).await;
        // In every order, politely and not.
        match round {
            0 => drop((hearing, stage)),
            1 => drop((stage, hearing)),
            2 => hearing.close().await,
            _ => {
                stage.master.close().await;
                event(&mut hearing, |event| matches!(event, Event::Lost(_))).await;
                hearing.close().await;
            }
        }
    }
    let left = async {
        while tasks() > before {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(timeout(SOON, left).await.is_ok(), "{} tasks left, {before} before", tasks());
}

/// How long connecting takes on networks of different badness; run by hand.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn measure_connecting() {
    tracing_subscriber::fmt().with_env_filter(std::env::var("RUST_LOG").unwrap_or_default()).init();
    for percent in [0, 5, 15, 30] {
        let mut took = Vec::new();
        for seed in 0..16 {
            let network = Network::losing(percent).by_dice(seed);
            let stage = Stage::with(Switches { network: Some(network), ..Switches::default() }).await;
            let start = Instant::now();
            match stage.hear("srv-a-1").await {
                Ok(_) => took.push(start.elapsed().as_millis()),
                Err(error) => eprintln!("{percent} %: {error} after {:?}", start.elapsed()),
            }
        }
        took.sort_unstable();
        eprintln!("{percent} %: {took:?}");
    }
}

/// CPU of hearing and of speaking per stream-second; run by hand.
#[test]
#[ignore = "a measurement"]
fn measure_cpu() {
    let runtime = |name: &str| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name(name).enable_all().build().unwrap()
    };
    let (ears, mics) = (runtime("ears"), runtime("mics"));
    let spent = |name: &str| -> f64 {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        let ours = tasks
            .filter(|task| std::fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name));
        let spent = ours.map(|task| std::fs::read_to_string(task.path().join("schedstat")).unwrap());
        spent.map(|stat| stat.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9).sum()
    };
    for streams in [1, 8] {
        let relay = Arc::new(mics.block_on(async { mics.spawn(Relay::start(Switches::default())).await.unwrap() }));
        let from = Arc::clone(&relay);
        let master = mics.block_on(mics.spawn(async move { master(&from).await })).unwrap();
        let hearings: Vec<Hearing> = (0..streams)
            .map(|n| {
                let attempt = attempt(&relay, &format!("srv-{streams}-{n}"));
                ears.block_on(ears.spawn(connect(attempt, Arc::default(), CancellationToken::new()))).unwrap().unwrap()
            })
            .collect();
        let playing = mics.spawn(async move { master.play(&voice(12.0)).await.unwrap() });
        let tasks: Vec<_> = hearings
            .into_iter()
            .map(|mut hearing| ears.spawn(async move { listen_for(&mut hearing, Duration::from_secs(10)).await.len() }))
            .collect();
        let before = (spent("ears"), spent("mics"));
        std::thread::sleep(Duration::from_secs(9));
        let after = (spent("ears"), spent("mics"));
        let per = |a: f64, b: f64| (a - b) * 1_000.0 / 9.0 / f64::from(streams);
        eprintln!(
            "{streams} streams: ear {:.2}, master {:.2} ms CPU per stream-second",
            per(after.0, before.0),
            per(after.1, before.1)
        );
        tasks.into_iter().for_each(|task| drop(ears.block_on(task)));
        drop(playing);
    }
    let mut encoder = super::opus::Encoder::new(16_000, 10).unwrap();
    let packets: Vec<_> = voice(12.0).chunks_exact(320).map(|frame| encoder.encode(frame).unwrap()).collect();
    let mut decoder = ::opus::Decoder::new(16_000, ::opus::Channels::Mono).unwrap();
    let start = std::time::Instant::now();
    packets.iter().for_each(|packet| drop(decoder.decode(packet, &mut [0; 1_920], false)));
    eprintln!("bare libopus: {:.2} ms per stream-second", start.elapsed().as_secs_f64() * 1_000.0 / 12.0);
}
