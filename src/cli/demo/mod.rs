//! `babelcast demo`: real speech down the whole production path, on this machine alone, with listeners in several
//! languages, and a summary of what came out and how late.

mod reader;
mod report;
mod screen;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use babelcast_domain::ids::SessionId;
use babelcast_domain::language::{Catalogue, Language};
use babelcast_domain::wire::{CaptionMode, CreateSession, Envelope, ServerMessage};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::client::{ClientError, Following, Sight, Wish};
use super::local::{LocalError, Stack, with_real_engines};
use super::speak::{SpeakError, heard, on_air};
use super::speaker::SpeakerClient;
use crate::config::{ConfigError, Settings};
use crate::live::Meter;
use crate::media::master::Master;
use crate::media::wav::{Recording, WavError};
use crate::telemetry::{self, TelemetryError};
use reader::{Reader, Seen};
use screen::{Screen, meter};

const RECORDING: &[u8] = include_bytes!("../../../demo/printing.wav");
const TRANSCRIPT: &str = include_str!("../../../demo/printing.txt");
/// The vocabulary's name when `--script` gives one.
const SCRIPT: &str = "demo-script";
/// After the last word, captions under way get so long without news before the demo ends.
const QUIET: Duration = Duration::from_millis(2_500);
/// ... and so long in all.
const PATIENCE: Duration = Duration::from_secs(20);

/// Watch real speech become captions in several languages, without any account
#[derive(Debug, Clone, clap::Args)]
pub struct DemoArgs {
    /// Your own recording (WAV, English) instead of the built-in minute of LJ Speech
    #[arg(long)]
    pub file: Option<PathBuf>,
    /// Languages to translate to
    #[arg(long, value_delimiter = ',', default_value = "es,fr")]
    pub to: Vec<String>,
    /// Text file with the talk's script or its rare words: given to the recogniser as a vocabulary
    #[arg(long, value_name = "FILE")]
    pub script: Option<PathBuf>,
    /// Text file with what is really said, for the word error rate (built in for the built-in recording)
    #[arg(long, value_name = "FILE")]
    pub transcript: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    #[error(transparent)]
    Local(#[from] LocalError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Speak(#[from] SpeakError),
    #[error(transparent)]
    Wav(#[from] WavError),
    #[error("{file}: {error}", file = .file.display())]
    Unreadable { file: PathBuf, error: std::io::Error },
    #[error("`{asked}` is not offered here; choose among {offered}")]
    Language { asked: String, offered: String },
    #[error("the session ended before the demo did")]
    Ended,
    #[error("captions did not come out in every language")]
    Incomplete,
}

/// A caption or notice, as one listener got it.
struct News {
    listener: usize,
    at: Instant,
    message: Box<Envelope>,
}

/// Runs the demo; fails unless captions came out in every language.
pub async fn run(args: DemoArgs) -> Result<(), DemoError> {
    let mut settings = Settings::load(None)?;
    settings.log.filter = "warn,rtc=off,webrtc=off".to_owned();
    telemetry::start(&settings.log)?;
    settings.web.bind = ([127, 0, 0, 1], 0).into();
    let recording = match &args.file {
        Some(file) => Recording::read(file)?,
        None => Recording::parse(RECORDING)?,
    };
    let transcript = transcript(&args)?;
    let mut screen = Screen::new();
    introduce(&args, &recording, &mut screen);
    let stack = Stack::start(with_real_engines()?, settings).await?;
    check_languages(&args.to, stack.app.sessions.catalogue())?;
    prepare(&args, &stack, &mut screen).await?;
    let shown = show(&args, &stack, &recording, transcript.as_deref(), &mut screen).await;
    stack.stop(Duration::from_secs(5)).await;
    if shown? { Ok(()) } else { Err(DemoError::Incomplete) }
}

fn transcript(args: &DemoArgs) -> Result<Option<String>, DemoError> {
    match (&args.transcript, &args.file) {
        (Some(file), _) => Ok(Some(read(file)?)),
        (None, None) => Ok(Some(TRANSCRIPT.to_owned())),
        (None, Some(_)) => Ok(None),
    }
}

fn read(file: &PathBuf) -> Result<String, DemoError> {
    std::fs::read_to_string(file).map_err(|error| DemoError::Unreadable { file: file.clone(), error })
}

fn introduce(args: &DemoArgs, recording: &Recording, screen: &mut Screen) {
    let what = match &args.file {
        Some(file) => file.display().to_string(),
        None => "\"Printing\" by William Morris, read for LibriVox (LJ Speech, public domain)".to_owned(),
    };
    screen.say(&screen.bold("babelcast demo: one speaker, several languages, nothing leaves this machine"));
    screen.say(&format!("  speech       {what}, {:.0} s", recording.duration().as_secs_f32()));
    let engine = match &args.script {
        Some(_) => "PocketSphinx with your script as vocabulary",
        None => "PocketSphinx, general US English: every fourth or fifth word will be wrong",
    };
    screen.say(&format!("  recognition  {engine}. Production uses Amazon Transcribe."));
    screen.say("  translation  Apertium, rule by rule. Production uses Amazon Translate.");
    screen.say("  the rest     is the server itself: WebRTC, Opus, sessions, WebSockets.");
    screen.say("");
}

/// A language nobody can serve is worth knowing before the recording is played.
fn check_languages(asked: &[String], catalogue: &Catalogue) -> Result<(), DemoError> {
    let source = Language::parse("en").expect("a language code");
    for code in asked {
        let known = Language::parse(code).ok().and_then(|language| catalogue.resolve(&language, &source, None));
        if known.is_none() {
            let offered: Vec<String> = catalogue.targets().iter().map(Language::to_string).collect();
            return Err(DemoError::Language { asked: code.escape_debug().collect(), offered: offered.join(", ") });
        }
    }
    Ok(())
}

/// Warms the engines, so that the first sentence does not pay for their start.
async fn prepare(args: &DemoArgs, stack: &Stack, screen: &mut Screen) -> Result<(), DemoError> {
    screen.say(&screen.dim("starting the engines ..."));
    if let (Some(file), Some(transcribe)) = (&args.script, stack.cloud.transcribe()) {
        let phrases = read(file)?.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
        transcribe.register_vocabulary(SCRIPT, phrases);
    }
    if let Some(translate) = stack.cloud.translate() {
        for language in &args.to {
            // One that needs another name here (`pt-BR`) starts with its first clause instead.
            if let Err(error) = translate.warm(language).await {
                tracing::debug!(%error, "a language could not be warmed");
            }
        }
    }
    Ok(())
}

async fn show(
    args: &DemoArgs,
    stack: &Stack,
    recording: &Recording,
    transcript: Option<&str>,
    screen: &mut Screen,
) -> Result<bool, DemoError> {
    let token = stack.token("demo-speaker").map_err(LocalError::from)?;
    let client = SpeakerClient::new(stack.url(), Some(token))?;
    let request = CreateSession {
        title: Some("babelcast demo".to_owned()),
        vocabulary: args.script.as_ref().map(|_| SCRIPT.to_owned()),
        ..CreateSession::new("en")
    };
    let id = client.create(&request).await?.session_id;
    let meter = stack.app.sessions.meter(&id).ok_or(DemoError::Ended)?;
    let mut languages = vec!["en".to_owned()];
    languages.extend(args.to.iter().filter(|to| *to != "en").cloned());
    let (sender, news) = mpsc::channel(1_024);
    let mut listeners = JoinSet::new();
    for (index, language) in languages.iter().enumerate() {
        let captions = if index == 0 { CaptionMode::Raw } else { CaptionMode::Stable };
        let wish = Wish {
            url: stack.url(),
            session: id.clone(),
            target_language: Some(language.clone()),
            captions,
            token: None,
            access_code: None,
            resume: None,
        };
        listeners.spawn(listen(index, wish, sender.clone()));
    }
    drop(sender);
    let master = on_air(&client, &id, recording.rate, None).await?;
    let readers = languages.into_iter().map(Reader::new).collect();
    let mut stage = Stage { stack, client, id, meter, news, readers, zero: Instant::now(), path: Duration::ZERO };
    stage.play(master, recording, screen).await?;
    listeners.abort_all();
    let outcome = report::Outcome { readers: &stage.readers, transcript, meter: &stage.meter, path: stage.path };
    Ok(report::print(&outcome, screen))
}

/// Follows the session as any listener would, and passes on what it is told.
async fn listen(listener: usize, wish: Wish, news: mpsc::Sender<News>) -> Result<(), ClientError> {
    let mut following = Following::new(wish);
    loop {
        match following.next().await {
            Ok(Sight::Message(message)) => {
                let ended = matches!(message.message, ServerMessage::SessionEnded { .. });
                if news.send(News { listener, at: Instant::now(), message }).await.is_err() || ended {
                    return Ok(());
                }
            }
            Ok(Sight::Missed(_) | Sight::Cut { .. }) => {}
            Err(error) => {
                eprintln!("a listener gave up: {error}");
                return Err(error);
            }
        }
    }
}

/// The demo while it runs.
struct Stage<'a> {
    stack: &'a Stack,
    client: SpeakerClient,
    id: SessionId,
    meter: Arc<Meter>,
    news: mpsc::Receiver<News>,
    readers: Vec<Reader>,
    /// When the sound at 0 ms of the capture clock was sent.
    zero: Instant,
    path: Duration,
}

impl Stage<'_> {
    async fn play(&mut self, mut master: Master, recording: &Recording, screen: &mut Screen) -> Result<(), DemoError> {
        self.client.set_kvs_connected(&self.id, true).await?;
        self.zero = heard(&mut master).await?;
        screen.say(&screen.dim("on the air"));
        screen.say("");
        let tail = vec![0; recording.rate as usize * 3 / 2];
        let started = Instant::now();
        let length = recording.duration();
        let playing = async {
            master.play(&recording.samples).await?;
            master.play(&tail).await?;
            Ok::<Master, SpeakError>(master)
        };
        tokio::pin!(playing);
        let mut redraw = tokio::time::interval(Duration::from_millis(100));
        let master = loop {
            tokio::select! {
                played = &mut playing => break played?,
                news = self.news.recv() => self.tell(news.ok_or(DemoError::Ended)?, screen),
                _ = redraw.tick() => self.draw(started.elapsed().min(length), length, screen),
            }
        };
        self.wait_for_last_words(screen).await?;
        screen.clear();
        self.client.end(&self.id).await?;
        self.wait_for_last_words(screen).await.ok();
        master.close().await;
        Ok(())
    }

    /// Captions of the last sentences may still be under way.
    async fn wait_for_last_words(&mut self, screen: &mut Screen) -> Result<(), DemoError> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            match timeout(QUIET, self.news.recv()).await {
                Ok(Some(news)) => self.tell(news, screen),
                Ok(None) => return Err(DemoError::Ended),
                Err(_) => break,
            }
        }
        Ok(())
    }

    fn tell(&mut self, news: News, screen: &mut Screen) {
        let Some(reader) = self.readers.get_mut(news.listener) else { return };
        match &news.message.message {
            ServerMessage::Transcription(caption) => {
                if let Some(heard_at) = caption.heard_at {
                    let first_audio = heard_at.0.saturating_sub(caption.end_ms);
                    let sent = news.message.timestamp.0.saturating_sub(self.zero.elapsed().as_millis() as u64);
                    self.path = Duration::from_millis(first_audio.saturating_sub(sent));
                }
                match reader.see(caption, news.at, self.zero) {
                    Seen::Final { lag } => {
                        let at = caption.start_ms / 1_000;
                        let head = format!(
                            "{:02}:{:02}  {:<4} {:>4.1} s",
                            at / 60,
                            at % 60,
                            reader.language,
                            lag.as_secs_f32()
                        );
                        screen.say_under(&head, &caption.text);
                    }
                    Seen::Growing => {}
                }
            }
            ServerMessage::Error { message, .. } => screen.say(&format!("{}: {message}", reader.language)),
            ServerMessage::Gap { from_ms, to_ms, reason } => {
                screen.say(&format!("{}: gap of {} ms ({reason:?})", reader.language, to_ms - from_ms));
            }
            _ => {}
        }
    }

    fn draw(&self, at: Duration, length: Duration, screen: &mut Screen) {
        if !screen.is_live() {
            return;
        }
        let level = self.stack.app.sessions.snapshot(&self.id).and_then(|snapshot| snapshot.level);
        let (rms, peak) = level.map_or((-96.0, -96.0), |level| (level.rms_db, level.peak_db));
        let (at, length) = (at.as_secs(), length.as_secs());
        let time = format!("{:02}:{:02} / {:02}:{:02}", at / 60, at % 60, length / 60, length % 60);
        let mut lines = vec![String::new(), format!("  mic   {} {rms:>4.0} dB   {time}", meter(rms, peak))];
        for reader in &self.readers {
            lines.push(format!("  {:<5} {}", reader.language, screen.dim(screen.tail(&reader.partial, 8))));
        }
        screen.panel(&lines);
    }
}
