//! The voices of Amazon Polly, and a sentence spoken by one of them.

use std::time::Duration;

use aws_sdk_polly::operation::synthesize_speech::SynthesizeSpeechOutput;
use aws_sdk_polly::types;
use babelcast_domain::ssml::Script;
use babelcast_domain::voices::{Choice, Engine, Gender, Tongue, Voice};
use babelcast_domain::wire::AudioFormat;
use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, timeout_at};

use super::{Clients, Failure};

/// Ten minutes of PCM, past which the service cuts what it speaks.
const MAX_SOUND: usize = 600 * PCM_RATE as usize * 2;
/// Samples a second of PCM: the most the service makes, and what the recogniser's side of the house uses too.
pub const PCM_RATE: u32 = 16_000;
/// Every engine makes MP3 of this rate; left to itself each has its own.
const MP3_RATE: u32 = 24_000;
const OPUS_RATE: u32 = 48_000;
/// Far more than the service has; a server that pages for ever is not listened to.
const MAX_PAGES: usize = 50;
/// Before a second attempt, the jitter included.
const PAUSE_MS: std::ops::RangeInclusive<u64> = 30..=150;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PollyError {
    #[error("the voice is throttled")]
    Throttled,
    #[error("the voice refused the markup: {0}")]
    InvalidSsml(String),
    #[error("{0} characters are too long for the voice")]
    TooLong(usize),
    #[error("the voice cannot do this: {0}")]
    Unsupported(String),
    #[error("the voice is unavailable: {0}")]
    Unavailable(String),
    #[error("the voice did not speak in time")]
    Timeout,
    #[error("the voice is not allowed: {0}")]
    Denied(String),
}

impl PollyError {
    /// Whether the same sentence may be spoken later. The quick second attempt has failed by then.
    pub fn retryable(&self) -> bool {
        match self {
            PollyError::Throttled | PollyError::Unavailable(_) | PollyError::Timeout => true,
            PollyError::InvalidSsml(_)
            | PollyError::TooLong(_)
            | PollyError::Unsupported(_)
            | PollyError::Denied(_) => false,
        }
    }
}

/// One script, spoken.
#[derive(Clone, PartialEq, Eq)]
pub struct Spoken {
    /// MP3 frames, an Ogg file with Opus in it, or 16-bit little-endian samples of one channel.
    pub audio: Bytes,
    pub format: AudioFormat,
    /// Samples a second.
    pub sample_rate: u32,
    /// What the service bills.
    pub characters: u64,
}

impl std::fmt::Debug for Spoken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Spoken({:?}, {} Hz, {} bytes)", self.format, self.sample_rate, self.audio.len())
    }
}

/// How the house waits for speech.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// One attempt, to the last byte.
    pub attempt: Duration,
    /// All attempts together.
    pub all: Duration,
    pub attempts: u32,
}

/// Every voice that the service has, page by page. Asked once, at the start: it takes at most `control_timeout_ms`.
pub async fn voices(clients: &Clients) -> Result<Vec<Voice>, PollyError> {
    let asked = async {
        let (mut voices, mut token) = (Vec::new(), None);
        for _ in 0..MAX_PAGES {
            let request = clients.voices.describe_voices().set_next_token(token);
            let page = request.send().await.map_err(|error| refusal(error.into(), 0))?;
            voices.extend(page.voices().iter().filter_map(voice));
            token = page.next_token;
            if token.is_none() {
                break;
            }
        }
        Ok(voices)
    };
    tokio::time::timeout(clients.control_timeout, asked).await.unwrap_or(Err(PollyError::Timeout))
}

/// `None`: nothing that could be chosen. Engines and languages this house does not know are left out.
fn voice(described: &types::Voice) -> Option<Voice> {
    let gender = match described.gender()? {
        types::Gender::Female => Gender::Female,
        types::Gender::Male => Gender::Male,
        _ => return None,
    };
    let codes = described.language_code().into_iter().chain(described.additional_language_codes());
    let speaks: Vec<Tongue> = codes.filter_map(|code| Tongue::parse(code.as_str())).collect();
    let engines: Vec<Engine> =
        described.supported_engines().iter().filter_map(|engine| Engine::parse(engine.as_str())).collect();
    let id = described.id()?.as_str().to_owned();
    (!speaks.is_empty() && !engines.is_empty()).then_some(Voice { id, gender, speaks, engines })
}

/// Has `script` spoken by the chosen voice, by the engine that the script was written for.
///
/// Takes at most `polly_timeout_ms`, a second attempt included. A body that breaks off is an error: half a sentence is not played.
pub async fn speak(
    clients: &Clients,
    script: &Script,
    choice: &Choice,
    format: AudioFormat,
) -> Result<Spoken, PollyError> {
    let patience = clients.speech_patience;
    let deadline = Instant::now() + patience.all;
    let mut attempt = 1;
    loop {
        let until = deadline.min(Instant::now() + patience.attempt);
        let spoken = timeout_at(until, once(clients, script, choice, format)).await;
        let error = match spoken.unwrap_or(Err(PollyError::Timeout)) {
            Ok(spoken) => return Ok(spoken),
            Err(error) => error,
        };
        let pause = Duration::from_millis(rand::random_range(PAUSE_MS));
        if attempt >= patience.attempts || !error.retryable() || Instant::now() + pause >= deadline {
            return Err(error);
        }
        tracing::debug!(voice = choice.voice, %error, "speaking failed; trying once more");
        tokio::time::sleep(pause).await;
        attempt += 1;
    }
}

async fn once(clients: &Clients, script: &Script, choice: &Choice, format: AudioFormat) -> Result<Spoken, PollyError> {
    let (output, sample_rate) = match format {
        AudioFormat::Mp3 => (types::OutputFormat::Mp3, MP3_RATE),
        AudioFormat::Opus => (types::OutputFormat::OggOpus, OPUS_RATE),
        AudioFormat::Pcm => (types::OutputFormat::Pcm, PCM_RATE),
    };
    let request = clients
        .speech
        .synthesize_speech()
        .engine(script.engine().as_str().into())
        .voice_id(choice.voice.as_str().into())
        .language_code(choice.tongue.code.as_str().into())
        .output_format(output)
        .sample_rate(sample_rate.to_string())
        .text_type(types::TextType::Ssml)
        .text(script.as_str());
    let answer = request.send().await.map_err(|error| refusal(error.into(), script.characters()))?;
    let characters = u64::try_from(answer.request_characters()).unwrap_or(0);
    let audio = collect(answer).await?;
    if audio.is_empty() || format == AudioFormat::Pcm && audio.len() % 2 != 0 {
        return Err(PollyError::Unavailable(format!("{} bytes are no sound", audio.len())));
    }
    Ok(Spoken { audio, format, sample_rate, characters })
}

/// The whole body, or an error.
async fn collect(answer: SynthesizeSpeechOutput) -> Result<Bytes, PollyError> {
    let kind = answer.content_type().unwrap_or_default();
    if !kind.starts_with("audio/") {
        let kind: String = kind.chars().filter(|c| !c.is_control()).take(100).collect();
        return Err(PollyError::Unavailable(format!("an answer that is no audio: {kind}")));
    }
    let mut stream = answer.audio_stream;
    let mut audio = BytesMut::new();
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(|error| PollyError::Unavailable(super::causes(&error)))?;
        if audio.len() + piece.len() > MAX_SOUND {
            return Err(PollyError::Unavailable(format!("more than {MAX_SOUND} bytes of sound")));
        }
        audio.extend_from_slice(&piece);
    }
    Ok(audio.freeze())
}

fn refusal(failure: Failure, characters: usize) -> PollyError {
    match failure {
        Failure::Timeout => PollyError::Timeout,
        Failure::Unreachable(why) => PollyError::Unavailable(why),
        Failure::Invalid(why) => PollyError::Unsupported(why),
        Failure::Refused { code, message } => match code.as_str() {
            "ThrottlingException" | "TooManyRequestsException" | "LimitExceededException" => PollyError::Throttled,
            "InvalidSsmlException" => PollyError::InvalidSsml(message),
            "TextLengthExceededException" => PollyError::TooLong(characters),
            "EngineNotSupportedException"
            | "LanguageNotSupportedException"
            | "InvalidSampleRateException"
            | "LexiconNotFoundException"
            | "ValidationException" => PollyError::Unsupported(message),
            "AccessDeniedException" | "UnrecognizedClientException" | "InvalidSignatureException" => {
                PollyError::Denied(message)
            }
            _ => PollyError::Unavailable(format!("{code} {message}")),
        },
    }
}
