//! Messages from us to a browser. Readers may ignore what they do not know; we never rename.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::emotion::Emotion;
use crate::error::ErrorCode;
use crate::ids::SessionId;
use crate::language::Language;
use crate::record::{EndReason, Status};
use crate::time::UnixMs;

use super::{CaptionMode, SessionView, StatusView};

/// Around every message: whose session, when, and for durable events the place in the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Envelope {
    #[serde(flatten)]
    pub message: ServerMessage,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub session_id: Option<SessionId>,
    pub timestamp: UnixMs,
    /// Contiguous per session and language within an epoch; absent on partials and answers. On `sessionJoined`
    /// and `languageChanged`: the last durable event before this moment, from which the listener counts on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub seq: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub request_id: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
// The schema of a variant heeds its own `rename_all` only, not `rename_all_fields`.
#[serde(tag = "type", rename_all = "camelCase")]
pub enum ServerMessage {
    SessionJoined(Box<SessionJoined>),
    Transcription(Caption),
    /// How a finished segment was said. What could not be measured is absent.
    #[serde(rename_all = "camelCase")]
    Emotion {
        segment_id: String,
        emotion: Emotion,
        /// 0 to 1; low where nothing is clear.
        #[serde(deserialize_with = "share")]
        confidence: f32,
        /// -1 (slack) to 1 (stirred).
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "finite")]
        arousal: Option<f32>,
        /// Words a minute.
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "finite")]
        pace: Option<f32>,
        /// LUFS.
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "finite")]
        loudness: Option<f32>,
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "finite")]
        pitch_hz: Option<f32>,
        start_ms: u64,
        end_ms: u64,
    },
    SpeakerKvsReady,
    SpeakerKvsDisconnected {
        reason: String,
    },
    #[serde(rename_all = "camelCase")]
    LanguageChanged {
        target_language: Language,
        audio_language: Option<Language>,
        history: Vec<Caption>,
        epoch: u64,
    },
    /// What could not be delivered, on the capture clock.
    #[serde(rename_all = "camelCase")]
    Gap {
        from_ms: u64,
        to_ms: u64,
        reason: GapReason,
    },
    /// To everyone, whenever the speaker changes one of them.
    BroadcastState(BroadcastState),
    SessionStatus(StatusView),
    /// The answer to `createSession`: the owner's view.
    SessionCreated {
        session: Box<SessionView>,
    },
    /// To the speaker, at most once a second.
    #[serde(rename_all = "camelCase")]
    ListenerStats {
        total: u64,
        by_language: BTreeMap<Language, u64>,
        /// From a word's end to its caption's leaving, the newest caption of each language.
        lag_ms_by_language: BTreeMap<Language, u64>,
    },
    /// To the speaker: how the microphone sounds.
    AudioQuality(QualityReport),
    /// To the speaker: send `authenticate` with a fresh token before this one ends.
    #[serde(rename_all = "camelCase")]
    Reauthenticate {
        expires_at: UnixMs,
    },
    /// The answer to `authenticate`.
    #[serde(rename_all = "camelCase")]
    Authenticated {
        expires_at: UnixMs,
    },
    SessionEnded {
        reason: EndReason,
    },
    #[serde(rename_all = "camelCase")]
    GoAway {
        reason: String,
        reconnect_within_ms: u64,
    },
    Pong,
    Error {
        code: ErrorCode,
        message: String,
        retryable: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(nullable = false)]
        details: Option<Value>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Speaker,
    Listener,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionJoined {
    pub connection_id: String,
    pub role: Role,
    pub status: Status,
    pub source_language: Language,
    pub target_language: Language,
    pub speaker_kvs_connected: bool,
    pub listener_count: u64,
    pub captions: CaptionMode,
    pub audio: bool,
    pub epoch: u64,
    pub resumed: bool,
    pub history: Vec<Caption>,
    pub broadcast_state: BroadcastState,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BroadcastState {
    pub paused: bool,
    pub muted: bool,
    /// 0..1
    #[serde(deserialize_with = "share")]
    #[schema(minimum = 0, maximum = 1)]
    pub volume: f32,
}

impl Default for BroadcastState {
    fn default() -> Self {
        BroadcastState { paused: false, muted: false, volume: 1.0 }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct QualityReport {
    /// dBFS.
    #[serde(deserialize_with = "level")]
    pub rms_db: f32,
    #[serde(deserialize_with = "level")]
    pub peak_db: f32,
    /// Voice above noise, estimated; absent until there was both.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "finite")]
    #[schema(nullable = false)]
    pub snr_db: Option<f32>,
    /// 0..1
    #[schema(minimum = 0, maximum = 1)]
    #[serde(deserialize_with = "share")]
    pub clipping_ratio: f32,
    pub silence_ms: u64,
    pub warnings: Vec<AudioWarning>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum AudioWarning {
    Clipping,
    TooQuiet,
    Noisy,
    Silent,
    TooFast,
}

/// What is read beyond 0..1 counts as the nearer end: 1e300 is no `f32`, and could not be written again.
fn share<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f32, D::Error> {
    f64::deserialize(deserializer).map(|value| value.clamp(0.0, 1.0) as f32)
}

/// What is no `f32` is the nearest one.
fn level<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f32, D::Error> {
    f64::deserialize(deserializer).map(|value| value.clamp(f32::MIN.into(), f32::MAX.into()) as f32)
}

/// A number too large for an `f32` was no measure.
fn finite<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<f32>, D::Error> {
    let number = Option::<f64>::deserialize(deserializer)?.map(|number| number as f32);
    Ok(number.filter(|number| number.is_finite()))
}

/// What one language sees of one utterance.
#[derive(Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Caption {
    pub segment_id: String,
    /// Grows with every change of this segment in this language.
    pub revision: u32,
    pub is_final: bool,
    /// The language of `text`: the listener's own.
    pub language: Language,
    pub text: String,
    /// How many characters (Unicode scalar values) of `text` will not change any more.
    pub stable_chars: usize,
    pub start_ms: u64,
    pub end_ms: u64,
    /// When the sound at `endMs` reached us, by the server's wall clock: what a reader's lag is measured from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub heard_at: Option<UnixMs>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub source_language: Option<Language>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub source_text: Option<String>,
    /// Part of `text` is in the source language, because the translation service failed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub untranslated: bool,
}

// Spoken text stays out of logs.
impl std::fmt::Debug for Caption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Caption({} r{} {} {}, {} chars)",
            self.segment_id,
            self.revision,
            self.language,
            if self.is_final { "final" } else { "partial" },
            self.text.chars().count()
        )
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum GapReason {
    TranscriptionRestarted,
    AudioLost,
    SlowConnection,
    SpeakerAway,
    /// Of the dubbed voice only: what would have come too late is left out. The captions have it.
    VoiceBehind,
    /// Of the dubbed voice only: no clip was to be had. The captions have it.
    VoiceFailed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_beyond_all_numbers_is_the_loudest() {
        let read = |volume: &str| {
            let text = format!(r#"{{"paused":false,"muted":false,"volume":{volume}}}"#);
            serde_json::from_str::<BroadcastState>(&text).unwrap().volume
        };
        assert_eq!([read("1e300"), read("-1"), read("0.5")], [1.0, 0.0, 0.5]);
    }

    #[test]
    fn an_emotion_has_the_contracts_fields_and_leaves_out_what_was_not_measured() {
        let told = |arousal, pitch_hz: Option<f32>| ServerMessage::Emotion {
            segment_id: "s-1".into(),
            emotion: Emotion::Calm,
            confidence: 0.75,
            arousal,
            pace: pitch_hz.map(|_| 120.0),
            loudness: pitch_hz.map(|_| -23.5),
            pitch_hz,
            start_ms: 100,
            end_ms: 2_000,
        };
        let write = |message: &ServerMessage| serde_json::to_string(message).unwrap();
        assert_eq!(
            write(&told(Some(-0.5), Some(110.0))),
            r#"{"type":"emotion","segmentId":"s-1","emotion":"calm","confidence":0.75,"arousal":-0.5,"pace":120.0,"loudness":-23.5,"pitchHz":110.0,"startMs":100,"endMs":2000}"#
        );
        let bare = write(&told(None, None));
        assert!(!bare.contains("pitchHz") && !bare.contains("arousal"), "{bare}");
        assert_eq!(serde_json::from_str::<ServerMessage>(&bare).unwrap(), told(None, None));
        let wild = bare.replace("0.75", "1e300").replace("\"startMs\"", "\"pitchHz\":1e300,\"startMs\"");
        let ServerMessage::Emotion { confidence, pitch_hz, .. } = serde_json::from_str(&wild).unwrap() else {
            panic!()
        };
        assert_eq!((confidence, pitch_hz), (1.0, None));
    }
}
