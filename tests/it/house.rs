//! The harness: a whole house in this process. Real server, real sockets, a real WebRTC speaker, `local-cloud` with
//! engines whose answers are known: words are tones in the audio, a translation is the text behind a mark.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use babelcast::cli::client::{ClientError, Listener, Wish};
use babelcast::cli::local::Stack;
use babelcast::cli::speak::{heard, on_air};
use babelcast::cli::speaker::SpeakerClient;
use babelcast::config::Settings;
use babelcast::live::Meter;
use babelcast::media::Faults;
use babelcast::media::master::Master;
use babelcast::store::Store;
use babelcast_domain::counts::Count;
use babelcast_domain::error::Problem;
use babelcast_domain::ids::SessionId;
use babelcast_domain::wire::{Caption, CaptionMode, CreateSession, Envelope, Resume, ServerMessage, SessionJoined};
use local_cloud::engine::Engine;
use local_cloud::engine::tones::Tones;
use local_cloud::transcribe::Transcribe;
use local_cloud::translate::{EngineSettings, Scripted, Translate};
use tokio::time::{Instant, timeout};

/// What a busy machine may need for anything in here.
pub const PATIENCE: Duration = Duration::from_secs(40);
const RATE: u32 = 16_000;

/// Everything this process has logged at INFO and above; `RUST_LOG` shows it on the terminal instead.
pub static LOG: Mutex<String> = Mutex::new(String::new());

struct Capture;

impl std::io::Write for Capture {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOG.lock().unwrap().push_str(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn start_log() {
    let _ = match std::env::var_os("RUST_LOG") {
        Some(_) => tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init(),
        None => tracing_subscriber::fmt()
            .with_max_level(tracing::Level::INFO)
            .with_ansi(false)
            .with_writer(|| Capture)
            .try_init(),
    };
}

pub struct House {
    pub stack: Stack,
    /// What it was started with, for replicas.
    pub settings: Settings,
}

impl House {
    pub async fn open() -> House {
        House::open_with(|_, _| {}).await
    }

    pub async fn open_with(change: impl FnOnce(&mut Settings, &mut local_cloud::Settings)) -> House {
        House::open_on(None, change).await
    }

    /// On a store that others may share.
    pub async fn open_on(
        store: Option<Arc<Store>>,
        change: impl FnOnce(&mut Settings, &mut local_cloud::Settings),
    ) -> House {
        start_log();
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut settings = Settings::load(None).unwrap();
        settings.web.bind = ([127, 0, 0, 1], 0).into();
        settings.live.sessions_per_speaker = 100;
        settings.live.limits.creations_per_minute = 0;
        let mut cloud = local_cloud::Settings {
            plain_signaling: true,
            transcribe: Some(local_cloud::transcribe::Settings::new(Engine::Tones(Tones))),
            translate: Some(local_cloud::translate::Settings { engine: EngineSettings::Scripted(Scripted::default()) }),
            ..local_cloud::Settings::default()
        };
        change(&mut settings, &mut cloud);
        let stack = Stack::start_on(store, cloud, settings.clone()).await.unwrap();
        House { stack, settings }
    }

    pub fn client(&self, speaker: &str) -> SpeakerClient {
        SpeakerClient::new(self.stack.url(), Some(self.stack.token(speaker).unwrap())).unwrap()
    }

    /// A session of the speaker `ana`, who speaks English.
    pub async fn session(&self) -> SessionId {
        self.client("ana").create(&talk()).await.unwrap().session_id
    }

    /// `ana` on the air, by the book: MASTER first, then `kvs-status`, then heard.
    pub async fn speaker(&self, id: &SessionId) -> Speaker {
        let mut speaker = self.silent_speaker(id).await;
        speaker.client.set_kvs_connected(id, true).await.unwrap();
        speaker.wait_until_heard().await;
        speaker
    }

    /// The speaker of this client on the air, by the book.
    pub async fn speaker_by(&self, client: SpeakerClient, id: &SessionId) -> Speaker {
        let master = on_air(&client, id, RATE, None).await.unwrap();
        let mut speaker = Speaker { master, client, zero: Instant::now() };
        speaker.client.set_kvs_connected(id, true).await.unwrap();
        speaker.wait_until_heard().await;
        speaker
    }

    /// `ana` as MASTER, who tells nobody.
    pub async fn silent_speaker(&self, id: &SessionId) -> Speaker {
        let client = self.client("ana");
        let master = on_air(&client, id, RATE, None).await.unwrap();
        Speaker { master, client, zero: Instant::now() }
    }

    pub fn wish(&self, id: &SessionId, language: &str) -> Wish {
        Wish {
            url: self.stack.url(),
            session: id.clone(),
            target_language: Some(language.to_owned()),
            captions: CaptionMode::Stable,
            token: None,
            access_code: None,
            resume: None,
        }
    }

    pub async fn listener(&self, id: &SessionId, language: &str) -> Seated {
        Seated::join(&self.wish(id, language)).await
    }

    pub async fn reader(&self, id: &SessionId, language: &str, captions: CaptionMode) -> Seated {
        Seated::join(&Wish { captions, ..self.wish(id, language) }).await
    }

    /// What a listener is told who may not join.
    pub async fn refused(&self, wish: &Wish) -> Envelope {
        let mut listener = Listener::connect(wish).await.unwrap();
        timeout(PATIENCE, listener.next()).await.unwrap().unwrap()
    }

    pub fn meter(&self, id: &SessionId) -> Arc<Meter> {
        self.stack.app.sessions.meter(id).expect("the session lives")
    }

    pub fn count(&self, id: &SessionId, count: Count) -> u64 {
        self.meter(id).counts.get(count)
    }

    pub fn transcribe(&self) -> &Arc<Transcribe> {
        self.stack.cloud.transcribe().unwrap()
    }

    pub fn translate(&self) -> &Arc<Translate> {
        self.stack.cloud.translate().unwrap()
    }

    /// Ends the house and everything in it; nothing may be left behind.
    pub async fn close(self) {
        let sessions = Arc::clone(&self.stack.app.sessions);
        self.stack.app.stop(Duration::from_secs(10)).await;
        assert_eq!(sessions.live_count(), 0, "sessions were left behind");
        assert_eq!(self.stack.cloud.kvs().channel_names(), Vec::<String>::new(), "channels were left behind");
        self.stack.cloud.stop().await;
    }
}

pub fn talk() -> CreateSession {
    CreateSession::new("en")
}

/// The speaker, with a microphone that sends silence between words.
pub struct Speaker {
    pub master: Master,
    pub client: SpeakerClient,
    /// When capture time 0 was sent.
    pub zero: Instant,
}

impl Speaker {
    pub async fn wait_until_heard(&mut self) {
        self.zero = timeout(PATIENCE, heard(&mut self.master)).await.unwrap().unwrap();
    }

    /// Says words of `local_cloud::engine::tones::WORDS` in real time, four a second, and 0.7 s of silence.
    pub async fn say(&self, text: &str) {
        let pcm = Tones.say(text, RATE).unwrap();
        self.master.play(&pcm).await.unwrap();
    }

    pub fn faults(&self, change: impl FnOnce(&mut Faults)) {
        let mut faults = Faults::default();
        change(&mut faults);
        self.master.set_faults(faults);
    }
}

/// A listener that has joined.
pub struct Seated {
    pub listener: Listener,
    pub joined: Box<SessionJoined>,
    /// The last durable event it knows of.
    pub seq: u64,
}

impl Seated {
    pub async fn join(wish: &Wish) -> Seated {
        Seated::try_join(wish).await.unwrap()
    }

    pub async fn try_join(wish: &Wish) -> Result<Seated, Problem> {
        let mut listener = Listener::connect(wish).await.unwrap();
        let first = timeout(PATIENCE, listener.next()).await.expect("no answer to the join").unwrap();
        match first.message {
            ServerMessage::SessionJoined(joined) => Ok(Seated { listener, joined, seq: first.seq.unwrap() }),
            ServerMessage::Error { code, message, details, .. } => Err(Problem { code, message, details }),
            other => panic!("neither joined nor refused: {other:?}"),
        }
    }

    pub async fn next(&mut self) -> Envelope {
        let next = timeout(PATIENCE, self.listener.next()).await.expect("nothing came").unwrap();
        if let Some(seq) = next.seq {
            assert_eq!(seq, self.seq + 1, "a durable event is missing or doubled: {:?}", next.message);
            self.seq = seq;
        }
        next
    }

    pub async fn closed(&mut self) -> ClientError {
        loop {
            match timeout(PATIENCE, self.listener.next()).await.expect("neither message nor close") {
                Ok(_) => {}
                Err(error) => return error,
            }
        }
    }

    /// The first message of which `wanted` makes something.
    pub async fn until<T>(&mut self, mut wanted: impl FnMut(&ServerMessage) -> Option<T>) -> T {
        loop {
            if let Some(found) = wanted(&self.next().await.message) {
                return found;
            }
        }
    }

    pub async fn caption(&mut self) -> Caption {
        self.until(|message| match message {
            ServerMessage::Transcription(caption) => Some(caption.clone()),
            _ => None,
        })
        .await
    }

    pub async fn final_caption(&mut self) -> Caption {
        self.until(|message| match message {
            ServerMessage::Transcription(caption) if caption.is_final => Some(caption.clone()),
            _ => None,
        })
        .await
    }

    pub async fn final_text(&mut self) -> String {
        self.final_caption().await.text
    }

    pub async fn ready(&mut self) {
        self.until(|message| matches!(message, ServerMessage::SpeakerKvsReady).then_some(())).await;
    }

    pub async fn disconnected(&mut self) -> String {
        self.until(|message| match message {
            ServerMessage::SpeakerKvsDisconnected { reason } => Some(reason.clone()),
            _ => None,
        })
        .await
    }

    /// Where this listener is, to come back to.
    pub fn place(&self) -> Resume {
        Resume { epoch: self.joined.epoch, seq: self.seq }
    }
}

/// Waits for something to become true.
pub async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < end, "never became true: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
