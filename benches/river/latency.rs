//! What babelcast itself adds: one session, five languages, 50 listeners, the scripted engine at zero delay.
//!
//! Method. *Audio*: a chunk is complete when the last packet of its 100 ms is here. Packets leave the speaker on a grid
//! of 20 ms whose phase is learned from many of them, so the moment each one left is known without touching it; a
//! chunk's place on the capture clock comes from the first caption, whose place in the stream the script says.
//! `Transcribe::on_audio` tells when the chunk had arrived at the service. The difference holds more than babelcast:
//! also the speaker's Opus encoder and SRTP, two ways over loopback, and the service's reading of the chunk.
//! *Events*: `Transcribe::on_event` tells when a result was handed to the service's connection, the listener when it had
//! read the message of it; results and `raw` captions of the source language match one to one, which is checked. Again
//! two ways over loopback and the listener's WebSocket and JSON are in it. So both numbers are upper bounds.
//!
//! Speaker, listeners and server share this process, each on a runtime of its own. Left out: the first two seconds of
//! the stream, when audio from before its opening is caught up.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use babelcast::cli::client::{Listener, Wish};
use babelcast::cli::local::Stack;
use babelcast::cli::speak::{heard, on_air};
use babelcast::cli::speaker::SpeakerClient;
use babelcast::config::Settings;
use babelcast::media::master::Master;
use babelcast::media::wav::Recording;
use babelcast_domain::counts::Count;
use babelcast_domain::ids::SessionId;
use babelcast_domain::wire::{Caption, CaptionMode, CreateSession, ServerMessage};
use local_cloud::engine::Engine;
use local_cloud::engine::scripted::{Line, Script, Scripted};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::Failed;

const LANGUAGES: [&str; 5] = ["en", "es", "fr", "it", "pt"];
const LISTENERS_EACH: usize = 10;
const FRAME_MS: f64 = 20.0;
/// Audio at the beginning of a stream that is not counted.
const OPENING_MS: u64 = 2_000;
const PATIENCE: Duration = Duration::from_secs(30);

/// One run's latencies, in milliseconds.
#[derive(Debug, Default)]
pub struct Latencies {
    /// Last packet of a chunk left the speaker -> the chunk is at Transcribe.
    pub audio: Vec<f64>,
    /// Result left Transcribe -> a listener of the source language has it.
    pub events: Vec<f64>,
    /// What is part of the above, from the session's own ledger: Opus and order; event -> socket.
    pub decode: Vec<f64>,
    pub deliver: Vec<f64>,
}

/// What the service's observers saw: `(stream, number, when)`.
type Log = Arc<Mutex<Vec<(u64, u64, Instant)>>>;

/// What a listener saw: captions and when.
type Seen = Vec<(Instant, Caption)>;

/// What the speaker knows: when its first packet to us left, by both clocks, and when frames left.
struct Spoken {
    zero: Instant,
    zero_wall: SystemTime,
    beats: Vec<Instant>,
}

/// Speaks for `seconds` and measures.
pub async fn run(
    recording: &Recording,
    seconds: u64,
    speaker: &Handle,
    listeners: &Handle,
) -> Result<Latencies, Failed> {
    let stack = start(seconds).await?;
    let (audio, events) = observe(&stack)?;
    let client = SpeakerClient::new(stack.url(), Some(stack.token("bench")?))?;
    let id = client.create(&talk()).await?.session_id;
    let meter = stack.app.sessions.meter(&id).ok_or("no session")?;
    let mut seats = Vec::new();
    for n in 0..LANGUAGES.len() * LISTENERS_EACH {
        let language = LANGUAGES[n % LANGUAGES.len()];
        seats.push((language, seat(&stack, &id, language, listeners).await?));
    }
    let wanted = recording.samples.iter().cycle().take(recording.rate as usize * seconds as usize).copied().collect();
    let (spoken, master) = speaker.spawn(speak(client.clone(), id.clone(), recording.rate, wanted)).await??;
    for count in [Count::SilenceFedMs, Count::FramesDropped, Count::RtpLost] {
        if meter.counts.get(count) > 0 {
            return Err(format!("the machine was too busy: {} {}", count.name(), meter.counts.get(count)).into());
        }
    }
    sleep(Duration::from_millis(500)).await;
    client.end(&id).await?;
    let mut source = Vec::new();
    for (language, seat) in seats {
        let seen = timeout(PATIENCE, seat).await???;
        if seen.is_empty() {
            return Err(format!("a listener of {language} saw nothing").into());
        }
        if language == LANGUAGES[0] {
            source.push(seen);
        }
    }
    master.close().await;
    stack.stop(Duration::from_secs(5)).await;
    let quantiles = |stage| {
        let ledger = meter.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        [0.5, 0.99].map(|share| f64::from(ledger.stage(stage).quantile(share).unwrap_or_default()) / 1e3).to_vec()
    };
    Ok(Latencies {
        audio: audio_latencies(&take(&audio), &source[0], &spoken)?,
        events: event_latencies(&take(&events), &source)?,
        decode: quantiles(babelcast_domain::ledger::Stage::Decode),
        deliver: quantiles(babelcast_domain::ledger::Stage::Deliver),
    })
}

async fn start(seconds: u64) -> Result<Stack, Failed> {
    let mut settings = Settings::load(None)?;
    settings.web.bind = ([127, 0, 0, 1], 0).into();
    // Sentences of 5 s, five words a second: the service's own pace of partials.
    let words = ["we", "see", "the", "river", "and", "old", "house", "on", "a", "road"];
    let text =
        |line: u64| (0..24).map(|n| words[(line + n) as usize % words.len()]).collect::<Vec<_>>().join(" ") + ".";
    let line = |line: u64| Line {
        at_ms: line * 5_000,
        until_ms: line * 5_000 + 4_800,
        text: text(line),
        revisions: Vec::new(),
    };
    let script = Script { lines: (0..seconds / 5 + 2).map(line).collect() };
    let engine = Engine::Scripted(Arc::new(Scripted::same(script)));
    let translate = local_cloud::translate::EngineSettings::Scripted(local_cloud::translate::Scripted::default());
    let cloud = local_cloud::Settings {
        plain_signaling: true,
        transcribe: Some(local_cloud::transcribe::Settings::new(engine)),
        translate: Some(local_cloud::translate::Settings { engine: translate }),
        ..local_cloud::Settings::default()
    };
    Ok(Stack::start(cloud, settings).await?)
}

fn observe(stack: &Stack) -> Result<(Log, Log), Failed> {
    let transcribe = stack.cloud.transcribe().ok_or("no Transcribe")?;
    let (audio, events) = (Log::default(), Log::default());
    let note = |log: &Log| {
        let log = Arc::clone(log);
        Arc::new(move |stream, number, when| {
            log.lock().unwrap_or_else(PoisonError::into_inner).push((stream, number, when));
        })
    };
    transcribe.on_audio(note(&audio));
    transcribe.on_event(note(&events));
    Ok((audio, events))
}

fn talk() -> CreateSession {
    CreateSession::new("en")
}

/// A listener that has joined and notes what it sees until the session ends.
async fn seat(
    stack: &Stack,
    id: &SessionId,
    language: &str,
    place: &Handle,
) -> Result<JoinHandle<Result<Seen, Failed>>, Failed> {
    let captions = if language == LANGUAGES[0] { CaptionMode::Raw } else { CaptionMode::Stable };
    let target_language = Some(language.to_owned());
    let wish = Wish {
        url: stack.url(),
        session: id.clone(),
        target_language,
        captions,
        token: None,
        access_code: None,
        resume: None,
    };
    let (joined, joining) = oneshot::channel();
    let task = place.spawn(async move {
        let mut listener = Listener::connect(&wish).await?;
        let answer = listener.next().await?.message;
        let ServerMessage::SessionJoined(_) = answer else { return Err(format!("not joined: {answer:?}").into()) };
        joined.send(()).ok();
        let mut seen = Seen::new();
        loop {
            match listener.next().await?.message {
                ServerMessage::Transcription(caption) => seen.push((Instant::now(), caption)),
                ServerMessage::SessionEnded { .. } => return Ok(seen),
                _ => {}
            }
        }
    });
    match joining.await {
        Ok(()) => Ok(task),
        Err(_) => Err(task.await?.err().unwrap_or_else(|| "a listener was not let in".into())),
    }
}

async fn speak(client: SpeakerClient, id: SessionId, rate: u32, samples: Vec<i16>) -> Result<(Spoken, Master), Failed> {
    let mut master = on_air(&client, &id, rate, None).await?;
    client.set_kvs_connected(&id, true).await?;
    let zero = heard(&mut master).await?.into_std();
    let zero_wall = SystemTime::now() - zero.elapsed();
    let mut beats = Vec::new();
    for piece in samples.chunks(rate as usize / 2) {
        beats.push(master.play(piece).await?.into_std());
    }
    Ok((Spoken { zero, zero_wall, beats }, master))
}

/// The grid on which frames leave: any point of it. Most frames leave a moment after their time and some much later, so
/// on the circle of 20 ms the grid's point is where the widest stretch without frames ends.
fn grid(beats: &[Instant]) -> Result<Instant, Failed> {
    let first = *beats.first().ok_or("nothing was spoken")?;
    let mut phases: Vec<f64> = beats.iter().map(|beat| (*beat - first).as_secs_f64() * 1e3 % FRAME_MS).collect();
    phases.sort_by(f64::total_cmp);
    let around = phases.iter().skip(1).copied().chain(phases.first().map(|first| first + FRAME_MS));
    let gaps = phases.iter().zip(around).map(|(one, next)| (next - one, next));
    let (_, phase) = gaps.max_by(|one, other| one.0.total_cmp(&other.0)).ok_or("nothing was spoken")?;
    Ok(first + Duration::from_secs_f64(phase % FRAME_MS / 1e3))
}

fn audio_latencies(audio: &[(u64, u64, Instant)], seen: &Seen, spoken: &Spoken) -> Result<Vec<f64>, Failed> {
    if audio.iter().any(|(stream, ..)| *stream > 0) {
        return Err("the stream was opened anew".into());
    }
    // Where the stream's first byte is on the capture clock: the script says its first word at 0.
    let (_, first) = seen.first().ok_or("no caption")?;
    let offset = (first.start_ms as f64 / FRAME_MS).round() * FRAME_MS;
    // The packet of capture time 0: the first one sent to us, unless that one was lost before the path was up.
    let grid = grid(&spoken.beats)?;
    let behind = grid.saturating_duration_since(spoken.zero).as_secs_f64() * 1e3;
    let first_heard = (behind / FRAME_MS).ceil() - lost_at_first(first, spoken);
    let zero = grid - Duration::from_secs_f64(first_heard * FRAME_MS / 1e3);
    let latency = |(_, bytes, when): &(u64, u64, Instant)| {
        let chunk_end = offset + *bytes as f64 / 32.0;
        let left = zero + Duration::from_secs_f64(((chunk_end / FRAME_MS).ceil() - 1.0).max(0.0) * FRAME_MS / 1e3);
        match when.checked_duration_since(left) {
            Some(after) => after.as_secs_f64() * 1e3,
            None => -left.duration_since(*when).as_secs_f64() * 1e3,
        }
    };
    let counted = audio.iter().filter(|(_, bytes, _)| *bytes / 32 > OPENING_MS);
    let latencies: Vec<f64> = counted.map(latency).collect();
    if latencies.iter().any(|latency| *latency < 0.0) {
        return Err("a chunk arrived before its packets: the clocks were not understood".into());
    }
    Ok(latencies)
}

/// Packets sent before the path was up: the session says by the wall clock when capture time 0 came.
fn lost_at_first(caption: &Caption, spoken: &Spoken) -> f64 {
    let came = caption.heard_at.map_or(0, |at| at.0.saturating_sub(caption.end_ms)) as f64;
    let left = spoken.zero_wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1e3;
    ((came - left) / FRAME_MS).floor().max(0.0)
}

fn event_latencies(events: &[(u64, u64, Instant)], seats: &[Seen]) -> Result<Vec<f64>, Failed> {
    let mut latencies = Vec::new();
    for seen in seats {
        // The last result may be cut off by the session's end.
        if seen.len().abs_diff(events.len()) > 1 {
            return Err(format!("{} results became {} captions", events.len(), seen.len()).into());
        }
        let pairs = events.iter().zip(seen).filter(|(_, (_, caption))| caption.end_ms > OPENING_MS);
        latencies
            .extend(pairs.map(|((.., left), (here, _))| here.saturating_duration_since(*left).as_secs_f64() * 1e3));
    }
    Ok(latencies)
}

fn take(log: &Log) -> Vec<(u64, u64, Instant)> {
    std::mem::take(&mut *log.lock().unwrap_or_else(PoisonError::into_inner))
}
