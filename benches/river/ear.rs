//! CPU of the ear: receive, decrypt, order, decode, measure; beside libopus decoding the same packets in a loop.
//!
//! Method. The speakers are in another process (this binary, started again with `--speakers`), so that all this process
//! does is hear; its CPU is what the kernel says its threads ran (schedstat, nanoseconds), signaling and the idle
//! runtime included. One runtime thread hears all. A stream-second is a second of decoded audio. The capture clock and
//! the queue to the scribe are not in it: an addition and a push under a lock for each frame.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use babelcast::aws::kvs::{self, Role};
use babelcast::aws::{self, Clients};
use babelcast::media::master::{Access, Master, MasterEvent, Settings};
use babelcast::media::opus::Encoder;
use babelcast::media::viewer::{self, Attempt, Event, Hearing};
use babelcast::media::wav::Recording;
use babelcast::media::{IceServer, socket};
use babelcast_domain::counts::Counts;
use babelcast_domain::quality::Level;
use babelcast_domain::signaling::CandidatePolicy;
use opus::Channels;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::Failed;

/// The loss the encoder prepares for, as `babelcast speak` sets it.
const EXPECTED_LOSS: u8 = 10;
const WARM_UP: Duration = Duration::from_secs(3);

/// CPU milliseconds for a stream-second of `streams` at once, over `length`.
pub async fn hear(streams: usize, length: Duration) -> Result<f64, Failed> {
    let speakers = Speakers::start(streams)?;
    let clients = Arc::new(clients(&speakers.cloud).await?);
    let samples = Arc::new(AtomicU64::new(0));
    let mut ears = JoinSet::new();
    for (number, arn) in speakers.channels.iter().enumerate() {
        let hearing = connect(&clients, arn, number).await?;
        ears.spawn(listen(hearing, Arc::clone(&samples)));
    }
    tokio::time::sleep(WARM_UP).await;
    let (cpu, heard) = (cpu_of_process()?, samples.load(Ordering::Relaxed));
    tokio::time::sleep(length).await;
    let (cpu, heard) = (cpu_of_process()? - cpu, samples.load(Ordering::Relaxed) - heard);
    let seconds = heard as f64 / f64::from(babelcast_domain::audio::SAMPLE_RATE);
    if seconds < 0.95 * length.as_secs_f64() * streams as f64 {
        return Err(format!("only {seconds:.1} s of audio came from {streams} speakers").into());
    }
    Ok(cpu.as_secs_f64() * 1e3 / seconds)
}

/// CPU milliseconds libopus takes for a second of the same packets, straight to 16 kHz mono.
pub fn decode(recording: &Recording) -> Result<f64, Failed> {
    let mut encoder = Encoder::new(recording.rate, EXPECTED_LOSS)?;
    let frames = recording.samples.chunks_exact(encoder.samples());
    let packets: Vec<Vec<u8>> = frames.map(|frame| encoder.encode(frame)).collect::<Result<_, _>>()?;
    let mut decoder = opus::Decoder::new(babelcast_domain::audio::SAMPLE_RATE, Channels::Mono)?;
    let mut pcm = [0; 1_920];
    let before = cpu_of_thread()?;
    let mut samples = 0;
    // Ten times over: the kernel counts in ticks of some milliseconds.
    for packet in packets.iter().cycle().take(packets.len() * 10) {
        samples += decoder.decode(packet, &mut pcm, false)?;
    }
    let took = cpu_of_thread()? - before;
    Ok(took.as_secs_f64() * 1e3 / (samples as f64 / f64::from(babelcast_domain::audio::SAMPLE_RATE)))
}

async fn listen(mut hearing: Hearing, samples: Arc<AtomicU64>) {
    let mut level = Level::default();
    loop {
        match hearing.next().await {
            Event::Frame { frame, .. } => {
                samples.fetch_add(frame.samples.len() as u64, Ordering::Relaxed);
                std::hint::black_box(level.push(&frame));
            }
            Event::Lost(_) => return,
            _ => {}
        }
    }
}

async fn connect(clients: &Clients, arn: &str, number: usize) -> Result<Hearing, Failed> {
    let client_id = format!("bench-{number}");
    let endpoints = kvs::endpoints(clients, arn, Role::Viewer).await?;
    let url = clients.presign_viewer(&endpoints.wss, arn, &client_id).await?.into_string();
    let attempt =
        Attempt { url, client_id, ice_servers: Vec::new(), policy: CandidatePolicy::LOCAL, tls: socket::tls(None)? };
    Ok(viewer::connect(attempt, Arc::new(Counts::default()), CancellationToken::new()).await?)
}

async fn clients(cloud: &str) -> Result<Clients, Failed> {
    let settings = aws::Settings {
        region: Some("us-east-1".to_owned()),
        endpoint_url: Some(cloud.to_owned()),
        credentials: Some(aws::StaticCredentials { access_key: "local".to_owned(), secret_key: "local".to_owned() }),
        ..aws::Settings::default()
    };
    Ok(Clients::connect(&settings, None).await?)
}

/// The other process. It ends when its input does.
struct Speakers {
    child: Child,
    input: Option<ChildStdin>,
    cloud: String,
    channels: Vec<String>,
}

impl Speakers {
    fn start(count: usize) -> Result<Speakers, Failed> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--speakers", &count.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take();
        let output = child.stdout.take().ok_or("no output")?;
        let mut speakers = Speakers { child, input, cloud: String::new(), channels: Vec::new() };
        let mut lines = BufReader::new(output).lines();
        speakers.cloud = lines.next().ok_or("the speakers did not start")??;
        for _ in 0..count {
            speakers.channels.push(lines.next().ok_or("a speaker did not start")??);
        }
        Ok(speakers)
    }
}

impl Drop for Speakers {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The other process: a KVS and masters that play the recording again and again, until the input ends.
pub async fn speakers(count: usize, recording: Recording) -> Result<(), Failed> {
    let settings = local_cloud::Settings { plain_signaling: true, ..local_cloud::Settings::default() };
    let cloud = local_cloud::LocalCloud::start(settings).await?;
    let clients = Arc::new(clients(&cloud.http_url()).await?);
    let recording = Arc::new(recording);
    println!("{}", cloud.http_url());
    let mut masters = JoinSet::new();
    for number in 0..count {
        let channel = kvs::create_channel(&clients, &format!("bench-{number}"), Duration::from_secs(30), &[]).await?;
        let master = on_air(&clients, &channel.arn, recording.rate).await?;
        println!("{}", channel.arn);
        masters.spawn(play(master, Arc::clone(&recording)));
    }
    std::io::stdout().flush()?;
    tokio::task::spawn_blocking(|| std::io::stdin().lines().count()).await?;
    masters.abort_all();
    cloud.stop().await;
    Ok(())
}

async fn on_air(clients: &Arc<Clients>, arn: &str, rate: u32) -> Result<Master, Failed> {
    let (clients, arn) = (Arc::clone(clients), arn.to_owned());
    let access = move || {
        let (clients, arn) = (Arc::clone(&clients), arn.clone());
        async move {
            let endpoints = kvs::endpoints(&clients, &arn, Role::Master).await?;
            let url = clients.presign_master(&endpoints.wss, &arn).await?.into_string();
            Ok(Access { url, ice_servers: Vec::<IceServer>::new() })
        }
    };
    let policy = CandidatePolicy::LOCAL;
    Ok(Master::connect(access, Settings { tls: socket::tls(None)?, policy, rate, expected_loss: EXPECTED_LOSS })
        .await?)
}

async fn play(mut master: Master, recording: Arc<Recording>) {
    loop {
        if let Some(MasterEvent::FirstPacket { .. }) = master.next().await {
            while master.play(&recording.samples).await.is_ok() {}
            return;
        }
    }
}

/// What all threads of this process have run so far.
fn cpu_of_process() -> Result<Duration, Failed> {
    let threads = std::fs::read_dir("/proc/self/task")?;
    let files = threads.filter_map(Result::ok).map(|thread| thread.path().join("schedstat"));
    Ok(files.filter_map(|file| ran(&std::fs::read_to_string(file).ok()?)).sum())
}

/// What this thread has run so far.
fn cpu_of_thread() -> Result<Duration, Failed> {
    ran(&std::fs::read_to_string("/proc/thread-self/schedstat")?).ok_or_else(|| "no schedstat".into())
}

/// The first number: nanoseconds on a CPU.
fn ran(schedstat: &str) -> Option<Duration> {
    schedstat.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}
