//! What was said, as `GET /sessions/{id}/transcript` answers in JSON.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ids::SessionId;
use crate::language::Language;

/// Everything said so far, in one language, in the order of speech.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TranscriptView {
    pub session_id: SessionId,
    pub language: Language,
    pub source_language: Language,
    pub lines: Vec<TranscriptLine>,
}

#[derive(Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TranscriptLine {
    /// As on the live captions.
    pub segment_id: String,
    /// On the session's capture clock.
    pub start_ms: u64,
    pub end_ms: u64,
    pub text: String,
    /// Part of `text` is in the source language, because the translation service failed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub untranslated: bool,
}

// Spoken text stays out of logs.
impl std::fmt::Debug for TranscriptLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TranscriptLine({}, {} chars)", self.segment_id, self.text.chars().count())
    }
}
