//! One stretch of speech recognition: audio in, results out, over one Transcribe stream.
//!
//! The service allows one stream a connection, so every stream has an HTTP client (a pool) of its own.
//!
//! Deliberately absent, because the scribe knows the audio and the session: reconnecting, rotation after four hours,
//! silence while the speaker pauses, moving stream times to the capture clock, and the watchdog over
//! [`Transcription::next`], on which no timeout of the SDK applies.

use std::time::Duration;

use aws_sdk_transcribestreaming::error::SdkError;
use aws_sdk_transcribestreaming::operation::start_stream_transcription::StartStreamTranscriptionOutput;
use aws_sdk_transcribestreaming::primitives::Blob;
use aws_sdk_transcribestreaming::types::error::{AudioStreamError, TranscriptResultStreamError};
use aws_sdk_transcribestreaming::types::{
    AudioEvent, AudioStream, Item, ItemType, LanguageCode, MediaEncoding, PartialResultsStability, Result as SdkResult,
    TranscriptResultStream,
};
use babelcast_domain::audio::{MediaTime, SAMPLE_RATE};
use babelcast_domain::language::Language;
use babelcast_domain::transcript::{Heard, Word};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::{Clients, Failure, http_client};

/// What to listen for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The recogniser's dialect: `en-US`.
    pub language: Language,
    /// Name of a custom vocabulary in the account.
    pub vocabulary: Option<String>,
    /// A UUID. A second stream with the same one ends the first with a conflict. `None`: the service makes one.
    pub session_id: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TranscribeError {
    /// Too many streams at once, one too long, or started too quickly: wait longer each time.
    #[error("transcription is over its limits: {0}")]
    LimitExceeded(String),
    #[error("transcription refused the request: {0}")]
    Bad(String),
    /// 15 s without audio. Silence has to be sent, or the stream closed.
    #[error("transcription got no audio for too long")]
    Starved,
    #[error("another stream took this transcription's session id")]
    Conflict,
    #[error("transcription is not allowed: {0}")]
    Denied(String),
    #[error("transcription is unavailable: {0}")]
    Unavailable(String),
    #[error("transcription did not start in time")]
    Timeout,
    /// The connection broke in mid-stream.
    #[error("transcription was cut: {0}")]
    Cut(String),
}

impl TranscribeError {
    /// Whether a new stream may succeed.
    pub fn retryable(&self) -> bool {
        match self {
            TranscribeError::LimitExceeded(_)
            | TranscribeError::Starved
            | TranscribeError::Conflict
            | TranscribeError::Unavailable(_)
            | TranscribeError::Timeout
            | TranscribeError::Cut(_) => true,
            TranscribeError::Bad(_) | TranscribeError::Denied(_) => false,
        }
    }
}

/// A running stream. Dropping it cuts the connection; closing the audio channel ends it in good order.
#[derive(Debug)]
pub struct Transcription {
    output: StartStreamTranscriptionOutput,
}

/// Starts a stream and waits, with a timeout, until the service accepts it. Partial results come at high stability.
///
/// `audio` is little-endian 16 bit mono PCM at [`SAMPLE_RATE`], 50 to 200 ms a chunk, at the pace of speech. It is
/// drained as the connection takes it, already while this waits: some services answer only after the first audio.
/// When its sender goes, the stream's end is announced and the last results can still be read.
pub async fn start(
    clients: &Clients,
    options: Options,
    audio: mpsc::Receiver<Bytes>,
) -> Result<Transcription, TranscribeError> {
    // An empty chunk would mean the end to some services.
    let events = ReceiverStream::new(audio).filter(|chunk| !chunk.is_empty()).map(|chunk| {
        let event = AudioEvent::builder().audio_chunk(Blob::new(chunk)).build();
        Ok::<_, AudioStreamError>(AudioStream::AudioEvent(event))
    });
    let config = clients.transcribe.clone().http_client(http_client(&clients.roots)).build();
    let request = aws_sdk_transcribestreaming::Client::from_conf(config)
        .start_stream_transcription()
        .language_code(LanguageCode::from(options.language.as_str()))
        .media_sample_rate_hertz(i32::try_from(SAMPLE_RATE).expect("16,000 is an i32"))
        .media_encoding(MediaEncoding::Pcm)
        .enable_partial_results_stabilization(true)
        .partial_results_stability(PartialResultsStability::High)
        .set_vocabulary_name(options.vocabulary)
        .set_session_id(options.session_id)
        .audio_stream(events.into());
    match tokio::time::timeout(clients.transcribe_start_timeout, request.send()).await {
        Ok(Ok(output)) => Ok(Transcription { output }),
        Ok(Err(error)) => Err(refusal(Failure::from(error), TranscribeError::Unavailable)),
        Err(_) => Err(TranscribeError::Timeout),
    }
}

impl Transcription {
    /// The service's name for this stream, for support cases.
    pub fn session_id(&self) -> Option<&str> {
        self.output.session_id()
    }

    /// The next results, in the order of the service; an empty list is its heartbeat. `None` is a clean end: ours if the
    /// audio was closed, otherwise the service's wish for a new stream. Waits without limit; safe to cancel.
    pub async fn next(&mut self) -> Result<Option<Vec<Heard>>, TranscribeError> {
        loop {
            match self.output.transcript_result_stream.recv().await.map_err(broken)? {
                None => return Ok(None),
                Some(TranscriptResultStream::TranscriptEvent(event)) => {
                    let results = event.transcript.and_then(|transcript| transcript.results).unwrap_or_default();
                    return Ok(Some(results.into_iter().filter_map(heard).collect()));
                }
                Some(_) => tracing::debug!("an event that this SDK does not know"),
            }
        }
    }
}

/// An exception inside the stream carries its name in its type only.
fn broken<R: std::fmt::Debug>(error: SdkError<TranscriptResultStreamError, R>) -> TranscribeError {
    let name = match error.as_service_error() {
        Some(TranscriptResultStreamError::BadRequestException(_)) => Some("BadRequestException"),
        Some(TranscriptResultStreamError::LimitExceededException(_)) => Some("LimitExceededException"),
        Some(TranscriptResultStreamError::ConflictException(_)) => Some("ConflictException"),
        Some(TranscriptResultStreamError::InternalFailureException(_)) => Some("InternalFailureException"),
        Some(TranscriptResultStreamError::ServiceUnavailableException(_)) => Some("ServiceUnavailableException"),
        _ => None,
    };
    match (Failure::from(error), name) {
        (Failure::Refused { message, .. }, Some(name)) => {
            refusal(Failure::Refused { code: name.to_owned(), message }, TranscribeError::Cut)
        }
        (failure, _) => refusal(failure, TranscribeError::Cut),
    }
}

/// `lost` says what a broken connection means at this point.
fn refusal(failure: Failure, lost: fn(String) -> TranscribeError) -> TranscribeError {
    match failure {
        Failure::Timeout => TranscribeError::Timeout,
        Failure::Unreachable(why) => lost(why),
        Failure::Invalid(why) => TranscribeError::Bad(why),
        Failure::Refused { code, message } => match code.as_str() {
            "LimitExceededException" | "ThrottlingException" | "TooManyRequestsException" => {
                TranscribeError::LimitExceeded(message)
            }
            // The service has no other sign for it.
            "BadRequestException" if message.contains("no new audio was received") => TranscribeError::Starved,
            "BadRequestException" | "ValidationException" => TranscribeError::Bad(message),
            "ConflictException" => TranscribeError::Conflict,
            "AccessDeniedException" | "UnrecognizedClientException" | "InvalidSignatureException" => {
                TranscribeError::Denied(message)
            }
            _ => TranscribeError::Unavailable(format!("{code} {message}")),
        },
    }
}

/// A result without id cannot be followed from partial to final, and one without a reading says nothing.
fn heard(result: SdkResult) -> Option<Heard> {
    let (start, end) = (time(result.start_time), time(result.end_time));
    let is_final = !result.is_partial;
    let reading = result.alternatives.and_then(|readings| readings.into_iter().next());
    let (Some(result_id), Some(reading)) = (result.result_id, reading) else {
        tracing::debug!("a result without id or without reading is left out");
        return None;
    };
    let items = reading.items.unwrap_or_default();
    let words = items.into_iter().filter_map(|item| word(item, is_final)).collect();
    Some(Heard { result_id, is_final, start, end, words })
}

fn word(item: Item, is_final: bool) -> Option<Word> {
    Some(Word {
        text: item.content.filter(|text| !text.is_empty())?,
        punctuation: item.r#type == Some(ItemType::Punctuation),
        start: time(item.start_time),
        end: time(item.end_time),
        // A final changes no more, and its items may come without the mark.
        stable: is_final || item.stable.unwrap_or(false),
        confidence: item.confidence.map(|confidence| confidence as f32),
    })
}

/// Seconds from the service; what is no time (negative, not a number) is the beginning.
fn time(seconds: f64) -> MediaTime {
    Duration::try_from_secs_f64(seconds)
        .map_or(MediaTime::ZERO, |time| MediaTime::from_micros(u64::try_from(time.as_micros()).unwrap_or(u64::MAX)))
}
