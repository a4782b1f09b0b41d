//! Bodies of the HTTP API.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::schema::{Object, ObjectBuilder, SchemaType, Type};

use crate::error::Problem;
use crate::ids::{AccessCode, SessionId};
use crate::language::Language;
use crate::record::{EndReason, QualityTier, SessionRecord, SignalingEndpoints, Status};
use crate::time::UnixMs;

/// `POST /sessions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateSession {
    /// What the speaker speaks; one of `sourceLanguages` of `GET /languages`, in any case.
    #[schema(max_length = 35, pattern = "^[A-Za-z]{2,3}(-([A-Za-z]{2}|[0-9]{3}|[A-Za-z0-9]{4,8}))*$", examples("en"))]
    pub source_language: String,
    #[serde(default)]
    pub quality_tier: QualityTier,
    /// What listeners may ask for; left out or null: every language of `targetLanguages` of `GET /languages`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<AskedLanguage>>, min_items = 1, examples(json!(["es", "fr"])))]
    pub target_languages: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 120, pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]*$", examples("Opening talk"))]
    pub title: Option<String>,
    /// Keep the speaker's media in a KVS stream.
    #[serde(default)]
    pub recording: bool,
    /// Name of a Translate custom terminology.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[A-Za-z0-9._-]{1,200}$", examples("product-terms"))]
    pub glossary: Option<String>,
    /// Name of a Transcribe custom vocabulary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[A-Za-z0-9._-]{1,200}$", examples("product-words"))]
    pub vocabulary: Option<String>,
    /// What listeners must know to join.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_code: Option<AccessCode>,
    /// Only the owner may read the transcript.
    #[serde(default)]
    pub private_transcript: bool,
}

/// `PATCH /sessions/{id}`: what is left out stays as it is, `null` takes it away.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PatchSession {
    /// `active` or `paused`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = pausable)]
    pub status: Option<Status>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 120, pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]*$")]
    pub title: Option<Option<String>>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<AskedLanguage>>, min_items = 1)]
    pub target_languages: Option<Option<Vec<String>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_transcript: Option<bool>,
}

/// A language code as somebody may write it: matched without regard to case.
#[derive(ToSchema)]
#[schema(value_type = String, max_length = 35, pattern = "^[A-Za-z]{2,3}(-([A-Za-z]{2}|[0-9]{3}|[A-Za-z0-9]{4,8}))*$", examples("es", "FR"))]
#[expect(dead_code, reason = "only its schema is of use")]
pub(super) struct AskedLanguage(String);

fn pausable() -> Object {
    let states = [Some(Status::Active), Some(Status::Paused), None].map(|status| status.map(Status::as_str));
    let types = SchemaType::from_iter([Type::String, Type::Null]);
    ObjectBuilder::new().schema_type(types).enum_values(Some(states)).build()
}

/// Tells `null` from a field that was left out.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(deserializer).map(Some)
}

fn check_title(title: &str) -> Result<(), Problem> {
    if !(1..=120).contains(&title.chars().count()) || title.chars().any(char::is_control) {
        return Err(Problem::invalid("`title` must have 1 to 120 characters and no control characters"));
    }
    Ok(())
}

impl PatchSession {
    /// Checks what needs neither catalogue nor record.
    pub fn check(&self) -> Result<(), Problem> {
        if self.status == Some(Status::Ended) {
            return Err(Problem::invalid("`status` may be set to active or paused; DELETE ends a session"));
        }
        if let Some(Some(title)) = &self.title {
            check_title(title)?;
        }
        if matches!(&self.target_languages, Some(Some(languages)) if languages.is_empty()) {
            return Err(Problem::invalid("`targetLanguages` must name a language, or be null for all"));
        }
        Ok(())
    }
}

impl CreateSession {
    /// A session in this language, everything else as it is by default.
    pub fn new(source_language: impl Into<String>) -> Self {
        CreateSession {
            source_language: source_language.into(),
            quality_tier: QualityTier::default(),
            target_languages: None,
            title: None,
            recording: false,
            glossary: None,
            vocabulary: None,
            access_code: None,
            private_transcript: false,
        }
    }

    /// Checks what needs no catalogue: title 1..120 characters, resource names as AWS allows them.
    pub fn check(&self) -> Result<(), Problem> {
        if let Some(title) = &self.title {
            check_title(title)?;
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KvsStatus {
    pub kvs_connected: bool,
}

/// A session as the world sees it; the owner's fields are present for the owner only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionView {
    pub session_id: SessionId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub title: Option<String>,
    pub source_language: Language,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub target_languages: Option<Vec<Language>>,
    pub quality_tier: QualityTier,
    pub status: Status,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub end_reason: Option<EndReason>,
    pub listener_count: u64,
    pub speaker_kvs_connected: bool,
    /// Whether a listener needs the access code.
    #[serde(default)]
    #[schema(required = true)]
    pub access_code_required: bool,
    #[serde(default)]
    #[schema(required = true)]
    pub private_transcript: bool,
    pub created_at: UnixMs,
    pub updated_at: UnixMs,
    /// Epoch seconds. From then on the session is gone.
    pub expires_at: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub access_code: Option<AccessCode>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub kvs_channel_arn: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub kvs_channel_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub kvs_signaling_endpoints: Option<SignalingEndpoints>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub kvs_stream_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub glossary: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
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
            access_code_required: record.access_code.is_some(),
            private_transcript: record.private_transcript,
            created_at: record.created_at,
            updated_at: record.updated_at,
            expires_at: record.expires_at,
            access_code: None,
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
            access_code: record.access_code.clone(),
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

/// `GET /sessions`: the caller's own, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionPage {
    pub sessions: Vec<SessionView>,
    /// What to ask for the next page with; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub cursor: Option<String>,
}

/// Whether anything is made in a language.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LanguageState {
    /// Nobody listens in it.
    Idle,
    /// Somebody listens; nothing was shown in it yet.
    Warming,
    Live,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LanguageStatus {
    pub listeners: u64,
    pub state: LanguageState,
}

/// `GET /sessions/{id}/status` and the message `sessionStatus`: small enough to be polled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StatusView {
    pub status: Status,
    pub speaker_kvs_connected: bool,
    pub listener_count: u64,
    pub languages: BTreeMap<Language, LanguageStatus>,
}

/// `POST /sessions/{id}/kvs-connection`: all a browser needs to become MASTER, without AWS credentials.
#[derive(Clone, PartialEq, Serialize, Deserialize, ToSchema)]
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
#[derive(Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct IceServerView {
    pub urls: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub username: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub credential: Option<String>,
}
