//! Bodies of the HTTP API.

use serde::{Deserialize, Serialize};

use crate::error::Problem;
use crate::ids::SessionId;
use crate::language::Language;
use crate::record::{EndReason, QualityTier, SessionRecord, SignalingEndpoints, Status};
use crate::time::UnixMs;

/// `POST /sessions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateSession {
    pub source_language: String,
    #[serde(default)]
    pub quality_tier: QualityTier,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_languages: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    #[serde(default)]
    pub recording: bool,
    /// Name of a Translate custom terminology.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub glossary: Option<String>,
    /// Name of a Transcribe custom vocabulary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocabulary: Option<String>,
}

impl CreateSession {
    /// Checks what needs no catalogue: title 1..120 characters, resource names as AWS allows them.
    pub fn check(&self) -> Result<(), Problem> {
        if let Some(title) = &self.title {
            let length = title.chars().count();
            if !(1..=120).contains(&length) || title.chars().any(char::is_control) {
                return Err(Problem::invalid("`title` must have 1 to 120 characters and no control characters"));
            }
        }
        for (field, name) in [("glossary", &self.glossary), ("vocabulary", &self.vocabulary)] {
            let fits = |name: &String| {
                (1..=200).contains(&name.len())
                    && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
            };
            if name.as_ref().is_some_and(|name| !fits(name)) {
                return Err(Problem::invalid(format!(
                    "`{field}` must be a name of 1 to 200 letters, digits, `.`, `_`, `-`"
                )));
            }
        }
        if self.target_languages.as_ref().is_some_and(Vec::is_empty) {
            return Err(Problem::invalid("`targetLanguages` must name a language, or be left out for all"));
        }
        Ok(())
    }
}

/// `PUT /sessions/{id}/kvs-status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KvsStatus {
    pub kvs_connected: bool,
}

/// A session as the world sees it; the owner's fields are present for the owner only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionView {
    pub session_id: SessionId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    pub source_language: Language,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_languages: Option<Vec<Language>>,
    pub quality_tier: QualityTier,
    pub status: Status,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_reason: Option<EndReason>,
    pub listener_count: u64,
    pub speaker_kvs_connected: bool,
    pub created_at: UnixMs,
    pub updated_at: UnixMs,
    pub expires_at: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kvs_channel_arn: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kvs_channel_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kvs_signaling_endpoints: Option<SignalingEndpoints>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kvs_stream_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub glossary: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocabulary: Option<String>,
}

impl SessionView {
    pub fn public(record: &SessionRecord, listener_count: u64) -> Self {
        SessionView {
            session_id: record.session_id.clone(),
            title: record.title.clone(),
            source_language: record.source_language.clone(),
            target_languages: record.target_languages.clone(),
            quality_tier: record.quality_tier,
            status: record.status,
            end_reason: record.end_reason,
            listener_count,
            speaker_kvs_connected: record.speaker_kvs_connected,
            created_at: record.created_at,
            updated_at: record.updated_at,
            expires_at: record.expires_at,
            kvs_channel_arn: None,
            kvs_channel_name: None,
            kvs_signaling_endpoints: None,
            kvs_stream_name: None,
            glossary: None,
            vocabulary: None,
        }
    }

    pub fn for_owner(record: &SessionRecord, listener_count: u64) -> Self {
        SessionView {
            kvs_channel_arn: Some(record.kvs_channel_arn.clone()),
            kvs_channel_name: Some(record.kvs_channel_name.clone()),
            kvs_signaling_endpoints: Some(record.kvs_signaling_endpoints.clone()),
            kvs_stream_name: record.kvs_stream_name.clone(),
            glossary: record.glossary.clone(),
            vocabulary: record.vocabulary.clone(),
            ..SessionView::public(record, listener_count)
        }
    }
}

/// `POST /sessions/{id}/kvs-connection`: all a browser needs to become MASTER, without AWS credentials.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionView {
    pub channel_arn: String,
    pub role: String,
    /// Presigned; valid for `expiresInSeconds` to open a connection with.
    pub signaling_url: String,
    pub expires_in_seconds: u64,
    pub ice_servers: Vec<IceServerView>,
}

/// As `RTCPeerConnection` takes it.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IceServerView {
    pub urls: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
}
