//! The stored shape of a session: the one place that owns attribute names.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::{ErrorCode, Problem};
use crate::ids::{AccessCode, NodeId, SessionId, SpeakerId};
use crate::language::Language;
use crate::time::UnixMs;

/// The only state field there is. `Ended` is final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Active,
    Paused,
    Ended,
}

impl Status {
    pub const fn as_str(self) -> &'static str {
        match self {
            Status::Active => "active",
            Status::Paused => "paused",
            Status::Ended => "ended",
        }
    }

    /// `active` <-> `paused`, both -> `ended`, and nothing leaves `ended`.
    pub const fn may_become(self, next: Status) -> bool {
        match (self, next) {
            (Status::Ended, _) => false,
            (Status::Active | Status::Paused, Status::Active | Status::Paused | Status::Ended) => true,
        }
    }
}

/// Why a session is over: its speaker ended it, its time ran out, no media came for too long, or we failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EndReason {
    Speaker,
    Expired,
    Abandoned,
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum QualityTier {
    /// Translate committed clauses and finals.
    #[default]
    Standard,
    /// Also translate growing partials.
    Premium,
}

/// The MASTER's signaling endpoints.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SignalingEndpoints {
    #[serde(rename = "WSS")]
    pub wss: String,
    #[serde(rename = "HTTPS")]
    pub https: String,
}

impl std::fmt::Debug for SignalingEndpoints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SignalingEndpoints(…)")
    }
}

/// A session as the table holds it. Unknown attributes are kept out, missing optional ones are absent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionRecord {
    pub session_id: SessionId,
    pub speaker_id: SpeakerId,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    pub source_language: Language,
    /// Allow-list of what listeners may ask for; absent: every supported one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_languages: Option<Vec<Language>>,
    pub quality_tier: QualityTier,
    pub status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_reason: Option<EndReason>,
    pub speaker_kvs_connected: bool,
    pub kvs_channel_arn: String,
    pub kvs_channel_name: String,
    pub kvs_signaling_endpoints: SignalingEndpoints,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kvs_stream_name: Option<String>,
    /// Name of a Translate custom terminology.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub glossary: Option<String>,
    /// Name of a Transcribe custom vocabulary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vocabulary: Option<String>,
    /// What listeners must know to join; absent: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_code: Option<AccessCode>,
    /// Only the owner may read the transcript.
    #[serde(default)]
    pub private_transcript: bool,
    pub created_at: UnixMs,
    pub updated_at: UnixMs,
    /// Epoch seconds: DynamoDB's TTL attribute.
    pub expires_at: u64,
    /// When the sound at media time 0 reached us: a node that takes the session over counts on from there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_audio_at: Option<UnixMs>,
    /// Grows by one with every change; renewing a lease is none.
    pub version: u64,
    /// The node whose process runs the session, until `lease_until`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_owner: Option<NodeId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_until: Option<UnixMs>,
    /// Grows by one whenever the lease is taken; what the owner of an older one writes is refused.
    #[serde(default)]
    pub fence: u64,
}

/// One change of a record. What may follow what is decided here, for every store alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    KvsConnected(bool),
    FirstAudio(UnixMs),
    /// `active` or `paused`; the end has a reason and is [`Change::Ended`].
    Paused(bool),
    Ended(EndReason),
    Edited(Edit),
}

/// What an owner may change at any time. `None` leaves as it is; `Some(None)` takes away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edit {
    pub title: Option<Option<String>>,
    pub target_languages: Option<Option<Vec<Language>>>,
    pub private_transcript: Option<bool>,
}

impl SessionRecord {
    /// A record past its TTL is gone, even while the table still holds it.
    pub fn is_expired(&self, now: UnixMs) -> bool {
        self.expires_at <= now.as_secs()
    }

    /// The status as users are told it: `expired` wins over what is stored.
    pub fn actual_status(&self, now: UnixMs) -> &'static str {
        if self.is_expired(now) && self.status != Status::Ended { "expired" } else { self.status.as_str() }
    }

    /// Applies one change: nothing changes what has ended.
    ///
    /// # Errors
    /// The status that does not allow it.
    pub fn apply(&mut self, now: UnixMs, change: &Change) -> Result<(), Status> {
        if self.status == Status::Ended {
            return Err(self.status);
        }
        match change {
            Change::KvsConnected(connected) => self.speaker_kvs_connected = *connected,
            Change::FirstAudio(at) => self.first_audio_at = Some(*at),
            Change::Paused(paused) => self.status = if *paused { Status::Paused } else { Status::Active },
            Change::Ended(reason) => {
                self.status = Status::Ended;
                self.end_reason = Some(*reason);
                self.speaker_kvs_connected = false;
                self.lease_owner = None;
                self.lease_until = None;
            }
            Change::Edited(edit) => {
                let Edit { title, target_languages, private_transcript } = edit.clone();
                self.title = title.unwrap_or_else(|| self.title.take());
                self.target_languages = target_languages.unwrap_or_else(|| self.target_languages.take());
                self.private_transcript = private_transcript.unwrap_or(self.private_transcript);
            }
        }
        self.updated_at = now;
        self.version += 1;
        Ok(())
    }

    /// Whether somebody else's lease runs at this time.
    pub fn is_leased_by_other(&self, node: &NodeId, now: UnixMs) -> bool {
        self.lease_owner.as_ref().is_some_and(|owner| owner != node)
            && self.lease_until.is_some_and(|until| until > now)
    }

    /// Whether a listener who gives this code may come in. Every door to what is said asks here; the owner, who made
    /// the code, is not asked.
    ///
    /// # Errors
    /// `FORBIDDEN` with `details.reason` `accessCode`; `details.given` tells a wrong code from a missing one.
    pub fn admits(&self, code: Option<&str>) -> Result<(), Problem> {
        let message = match (&self.access_code, code) {
            (None, _) => return Ok(()),
            (Some(wanted), Some(given)) if wanted.is(given) => return Ok(()),
            (Some(_), Some(_)) => "The access code is wrong; ask the speaker for it",
            (Some(_), None) => "This session needs an access code; ask the speaker for it",
        };
        let details = serde_json::json!({ "reason": "accessCode", "given": code.is_some() });
        Err(Problem::new(ErrorCode::Forbidden, message).with(details))
    }

    pub fn is_joinable(&self, now: UnixMs) -> bool {
        self.status != Status::Ended && !self.is_expired(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> SessionRecord {
        SessionRecord {
            session_id: SessionId::parse("blessed-covenant-420").unwrap(),
            speaker_id: SpeakerId::new("sub-1"),
            title: Some("A talk".into()),
            source_language: Language::parse("en").unwrap(),
            target_languages: Some(vec![Language::parse("es").unwrap()]),
            quality_tier: QualityTier::Premium,
            status: Status::Active,
            end_reason: Some(EndReason::Speaker),
            speaker_kvs_connected: false,
            kvs_channel_arn: "arn".into(),
            kvs_channel_name: "session-blessed-covenant-420".into(),
            kvs_signaling_endpoints: SignalingEndpoints { wss: "wss://m".into(), https: "https://r".into() },
            kvs_stream_name: Some("session-blessed-covenant-420".into()),
            glossary: Some("terms".into()),
            vocabulary: Some("words".into()),
            created_at: UnixMs(1_000),
            updated_at: UnixMs(2_000),
            expires_at: 86_401,
            first_audio_at: Some(UnixMs(1_500)),
            version: 1,
            access_code: Some(AccessCode::parse("tulip").unwrap()),
            private_transcript: false,
            lease_owner: Some(NodeId::new("n1")),
            lease_until: Some(UnixMs(3_000)),
            fence: 1,
        }
    }

    #[test]
    fn every_stored_attribute_has_its_one_name() {
        let value = serde_json::to_value(full()).unwrap();
        let names: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        let mut expected = vec![
            "sessionId",
            "speakerId",
            "title",
            "sourceLanguage",
            "targetLanguages",
            "qualityTier",
            "status",
            "endReason",
            "speakerKvsConnected",
            "kvsChannelArn",
            "kvsChannelName",
            "kvsSignalingEndpoints",
            "kvsStreamName",
            "glossary",
            "vocabulary",
            "createdAt",
            "updatedAt",
            "expiresAt",
            "version",
            "firstAudioAt",
            "accessCode",
            "privateTranscript",
            "leaseOwner",
            "leaseUntil",
            "fence",
        ];
        expected.sort_unstable();
        let mut names = names;
        names.sort_unstable();
        assert_eq!(names, expected);
        assert_eq!(value["status"], "active");
        assert_eq!(value["kvsSignalingEndpoints"], serde_json::json!({"WSS": "wss://m", "HTTPS": "https://r"}));
        assert_eq!(serde_json::from_value::<SessionRecord>(value).unwrap(), full());
    }

    #[test]
    fn only_who_knows_the_access_code_is_admitted_and_no_refusal_repeats_it() {
        let mut record = full();
        assert!(record.admits(Some("tulip")).is_ok());
        for (code, given) in [(None, false), (Some(""), true), (Some("Tulip"), true), (Some("tulip "), true)] {
            let problem = record.admits(code).unwrap_err();
            assert_eq!(problem.code, ErrorCode::Forbidden);
            assert!(!problem.to_string().contains("tulip"));
            assert_eq!(problem.details.unwrap(), serde_json::json!({ "reason": "accessCode", "given": given }));
        }
        record.access_code = None;
        assert!(record.admits(None).is_ok() && record.admits(Some("anything")).is_ok());
    }

    #[test]
    fn a_record_past_its_ttl_is_gone_whatever_it_says() {
        let record = full();
        assert!(record.is_joinable(UnixMs(86_400_999)));
        assert!(!record.is_joinable(UnixMs(86_401_000)));
        assert_eq!(record.actual_status(UnixMs(86_401_000)), "expired");
    }

    #[test]
    fn an_edit_changes_what_it_names_and_nothing_changes_what_has_ended() {
        let mut record = full();
        let edit = Edit { title: Some(None), ..Edit::default() };
        record.apply(UnixMs(5_000), &Change::Edited(edit.clone())).unwrap();
        assert_eq!((record.title.as_deref(), record.target_languages.is_some(), record.version), (None, true, 2));
        record.apply(UnixMs(6_000), &Change::Ended(EndReason::Speaker)).unwrap();
        let ended = record.clone();
        for change in [Change::Paused(true), Change::Ended(EndReason::Failed), Change::Edited(edit)] {
            assert_eq!(record.apply(UnixMs(7_000), &change), Err(Status::Ended));
        }
        assert_eq!(record, ended);
    }

    #[test]
    fn nothing_leaves_ended() {
        for next in [Status::Active, Status::Paused, Status::Ended] {
            assert!(!Status::Ended.may_become(next));
        }
        assert!(Status::Paused.may_become(Status::Active));
    }
}
