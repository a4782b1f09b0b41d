//! A Transcribe on a port of its own, and its clients.

use std::sync::Arc;
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_sdk_transcribestreaming::Client;
use aws_sdk_transcribestreaming::config::{BehaviorVersion, Region};
use aws_sdk_transcribestreaming::error::SdkError;
use aws_sdk_transcribestreaming::operation::start_stream_transcription::builders::StartStreamTranscriptionFluentBuilder;
use aws_sdk_transcribestreaming::operation::start_stream_transcription::{
    StartStreamTranscriptionError, StartStreamTranscriptionOutput,
};
use aws_sdk_transcribestreaming::primitives::Blob;
use aws_sdk_transcribestreaming::types::error::{AudioStreamError, TranscriptResultStreamError};
use aws_sdk_transcribestreaming::types::{
    AudioEvent, AudioStream, LanguageCode, MediaEncoding, Result as Heard, TranscriptResultStream,
};
use local_cloud::engine::tones::Tones;
use local_cloud::engine::{Engine, RATE};
use local_cloud::transcribe::{Settings, Transcribe};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;

pub const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
/// Nothing on loopback takes this long; a test that waits for it has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Server {
    pub transcribe: Arc<Transcribe>,
    pub url: String,
    _task: AbortOnDropHandle<()>,
}

pub async fn serve(settings: Settings) -> Server {
    let transcribe = Arc::new(Transcribe::new(settings));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = transcribe.clone().router();
    let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    Server { transcribe, url, _task: AbortOnDropHandle::new(task) }
}

/// A plain HTTP client.
pub fn http() -> reqwest::Client {
    // A second installation is refused, and as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    reqwest::Client::new()
}

/// A server that hears tones.
pub async fn tones() -> Server {
    serve(Settings::new(Engine::Tones(Tones))).await
}

pub fn say(text: &str) -> Vec<i16> {
    Tones.say(text, RATE).unwrap()
}

impl Server {
    pub fn client(&self) -> Client {
        self.client_with(SECRET)
    }

    pub fn client_with(&self, secret: &str) -> Client {
        let config = aws_sdk_transcribestreaming::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new("AKIDEXAMPLE", secret, None, None, "test"))
            .endpoint_url(&self.url)
            .build();
        Client::from_conf(config)
    }

    pub fn request(&self) -> StartStreamTranscriptionFluentBuilder {
        usual(&self.client())
    }

    /// Opens a stream with the usual options.
    pub async fn open(&self) -> Talk {
        Talk::open(self.request()).await.unwrap()
    }
}

pub fn usual(client: &Client) -> StartStreamTranscriptionFluentBuilder {
    client
        .start_stream_transcription()
        .language_code(LanguageCode::EnUs)
        .media_sample_rate_hertz(RATE as i32)
        .media_encoding(MediaEncoding::Pcm)
}

pub type StartError = SdkError<StartStreamTranscriptionError>;

/// An open stream.
pub struct Talk {
    pub output: StartStreamTranscriptionOutput,
    audio: Option<mpsc::Sender<Result<AudioStream, AudioStreamError>>>,
}

/// What a stream said until it ended, and how it ended.
#[derive(Debug)]
pub struct Said {
    pub results: Vec<Heard>,
    pub heartbeats: usize,
    pub end: Result<(), String>,
}

impl Talk {
    pub async fn open(request: StartStreamTranscriptionFluentBuilder) -> Result<Talk, Box<StartError>> {
        let (audio, frames) = mpsc::channel(4);
        let sending = request.audio_stream(ReceiverStream::new(frames).into()).send();
        let output = tokio::time::timeout(PATIENCE, sending).await.expect("an answer").map_err(Box::new)?;
        Ok(Talk { output, audio: Some(audio) })
    }

    /// Sends audio in pieces of 100 ms, as fast as it is taken. False when the stream takes no more.
    pub async fn feed(&self, pcm: &[i16]) -> bool {
        let Some(audio) = &self.audio else { return false };
        for piece in pcm.chunks(RATE as usize / 10) {
            if audio.send(Ok(event(piece))).await.is_err() {
                return false;
            }
        }
        true
    }

    /// No more audio; the SDK sends the empty frame.
    pub fn end(&mut self) {
        self.audio = None;
    }

    /// Goes away in the midst of the stream; the audio's end comes with the drop of what is returned.
    pub fn abandon(self) -> impl Sized {
        self.audio
    }

    /// The next event with results, or how the stream ended.
    pub async fn next(&mut self) -> Result<Option<Heard>, String> {
        loop {
            let event = tokio::time::timeout(PATIENCE, self.output.transcript_result_stream.recv()).await;
            match event.expect("an event or the end") {
                Ok(Some(TranscriptResultStream::TranscriptEvent(event))) => {
                    if let Some(result) = event.transcript.and_then(|t| t.results).and_then(|r| r.into_iter().next()) {
                        return Ok(Some(result));
                    }
                }
                Ok(Some(other)) => return Err(format!("unexpected {other:?}")),
                Ok(None) => return Ok(None),
                Err(error) => return Err(describe(&error)),
            }
        }
    }

    /// Feeds all, ends, and collects what comes meanwhile and after.
    pub async fn run(self, pcm: &[i16]) -> Said {
        let Talk { output, audio } = self;
        let feeder = Talk::feed_and_end(audio, pcm.to_vec());
        let (_, said) = tokio::join!(feeder, collect(output));
        said
    }

    async fn feed_and_end(audio: Option<mpsc::Sender<Result<AudioStream, AudioStreamError>>>, pcm: Vec<i16>) {
        let Some(audio) = audio else { return };
        for piece in pcm.chunks(RATE as usize / 10) {
            if audio.send(Ok(event(piece))).await.is_err() {
                return;
            }
        }
    }

    /// Ends and collects the rest.
    pub async fn rest(mut self) -> Said {
        self.end();
        collect(self.output).await
    }
}

async fn collect(mut output: StartStreamTranscriptionOutput) -> Said {
    let (mut results, mut heartbeats) = (Vec::new(), 0);
    let end = loop {
        let event = tokio::time::timeout(PATIENCE, output.transcript_result_stream.recv()).await;
        match event.expect("an event or the end") {
            Ok(Some(TranscriptResultStream::TranscriptEvent(event))) => {
                let heard = event.transcript.and_then(|t| t.results).unwrap_or_default();
                heartbeats += usize::from(heard.is_empty());
                results.extend(heard);
            }
            Ok(Some(other)) => break Err(format!("unexpected {other:?}")),
            Ok(None) => break Ok(()),
            Err(error) => break Err(describe(&error)),
        }
    };
    Said { results, heartbeats, end }
}

pub fn event(pcm: &[i16]) -> AudioStream {
    let bytes: Vec<u8> = pcm.iter().flat_map(|s| s.to_le_bytes()).collect();
    AudioStream::AudioEvent(AudioEvent::builder().audio_chunk(Blob::new(bytes)).build())
}

fn describe<R: std::fmt::Debug>(error: &SdkError<TranscriptResultStreamError, R>) -> String {
    match error.as_service_error() {
        Some(error) => error.to_string(),
        None => format!("{error:?}"),
    }
}

impl Said {
    pub fn finals(&self) -> Vec<&str> {
        self.results.iter().filter(|r| !r.is_partial).map(transcript).collect()
    }

    pub fn text(&self) -> String {
        self.finals().join(" ")
    }
}

pub fn transcript(result: &Heard) -> &str {
    result.alternatives()[0].transcript().unwrap()
}
