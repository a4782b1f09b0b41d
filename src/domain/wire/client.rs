//! Messages from a browser to us. Strict: an unknown action or field is refused by name.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::error::Problem;
use crate::ids::{AccessCode, SessionId};

use super::CreateSession;
use super::http::AskedLanguage;

/// How much of the growing text a listener wants to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CaptionMode {
    /// Every revision of the whole text; words may still change.
    Raw,
    /// Only text that will never be taken back, as it grows.
    #[default]
    Stable,
    /// Finished sentences only.
    Final,
}

impl CaptionMode {
    pub const ALL: [CaptionMode; 3] = [CaptionMode::Raw, CaptionMode::Stable, CaptionMode::Final];
}

/// Where a listener left off: the last durable event it has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Resume {
    pub epoch: u64,
    pub seq: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JoinSession {
    pub session_id: SessionId,
    /// As the listener wrote it, matched by the session's catalogue. Absent: the source language.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<AskedLanguage>)]
    pub target_language: Option<String>,
    #[serde(default)]
    pub captions: CaptionMode,
    #[serde(default)]
    pub audio: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio_format: Option<AudioFormat>,
    /// Where the speaker asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_code: Option<AccessCode>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<Resume>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AudioFormat {
    Mp3,
    Opus,
    Pcm,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ChangeLanguage {
    #[schema(value_type = AskedLanguage)]
    pub target_language: String,
    /// Absent: the voice follows the captions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<AskedLanguage>)]
    pub audio_language: Option<String>,
}

/// What is left out stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SetPlayback {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub captions: Option<CaptionMode>,
    /// True: no partials and no voice. Durable events go on, so that nothing is missing afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SetVolume {
    /// 0..1
    #[schema(minimum = 0, maximum = 1)]
    pub volume: f32,
}

/// A fresh token of the same speaker, before the old one ends.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Authenticate {
    pub token: String,
}

impl fmt::Debug for Authenticate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authenticate(…)")
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NamesSession {
    #[serde(default, rename = "sessionId")]
    _session_id: Option<SessionId>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    JoinSession(JoinSession),
    ChangeLanguage(ChangeLanguage),
    SetPlayback(SetPlayback),
    CreateSession(Box<CreateSession>),
    PauseBroadcast,
    ResumeBroadcast,
    MuteBroadcast,
    UnmuteBroadcast,
    SetVolume(SetVolume),
    EndSession,
    GetSessionStatus,
    Authenticate(Authenticate),
    Ping,
}

impl Action {
    /// As `action` names them on the wire.
    pub const NAMES: [&'static str; 13] = [
        "joinSession",
        "changeLanguage",
        "setPlayback",
        "createSession",
        "pauseBroadcast",
        "resumeBroadcast",
        "muteBroadcast",
        "unmuteBroadcast",
        "setVolume",
        "endSession",
        "getSessionStatus",
        "authenticate",
        "ping",
    ];
}

#[derive(Debug, Clone, PartialEq)]
pub struct ClientMessage {
    pub action: Action,
    /// Given by the client, echoed in the answer. At most 128 characters.
    pub request_id: Option<String>,
}

impl ClientMessage {
    /// Reads one text message. The problem names the field and keeps the `requestId` in `details` when there was one.
    pub fn parse(text: &str) -> Result<ClientMessage, (Problem, Option<String>)> {
        let value: Value = serde_json::from_str(text).map_err(|error| {
            let at = format!("line {} column {}", error.line(), error.column());
            (Problem::invalid(format!("the message is not JSON ({at})")), None)
        })?;
        let Value::Object(mut fields) = value else {
            return Err((Problem::invalid("the message must be a JSON object with an `action`"), None));
        };
        let request_id = match fields.remove("requestId") {
            None | Some(Value::Null) => None,
            Some(Value::String(id)) if id.chars().count() <= 128 => Some(id),
            Some(_) => {
                let why = "`requestId` must be a string of at most 128 characters";
                return Err((Problem::invalid(why), None));
            }
        };
        match Self::action(fields) {
            Ok(action) => Ok(ClientMessage { action, request_id }),
            Err(problem) => Err((problem, request_id)),
        }
    }

    fn action(mut fields: Map<String, Value>) -> Result<Action, Problem> {
        let name = match fields.remove("action") {
            Some(Value::String(name)) => name,
            Some(_) => return Err(Problem::invalid("`action` must be a string")),
            None => {
                let names = Action::NAMES.join(", ");
                return Err(Problem::invalid(format!("`action` is missing; it is one of {names}")));
            }
        };
        let plain = match name.as_str() {
            "joinSession" => return fields_of(fields).map(Action::JoinSession),
            "changeLanguage" => return fields_of(fields).map(Action::ChangeLanguage),
            "setPlayback" => return fields_of(fields).map(Action::SetPlayback),
            "createSession" => return fields_of(fields).map(Action::CreateSession),
            "setVolume" => return fields_of(fields).and_then(volume).map(Action::SetVolume),
            "authenticate" => return fields_of(fields).map(Action::Authenticate),
            "pauseBroadcast" => Action::PauseBroadcast,
            "resumeBroadcast" => Action::ResumeBroadcast,
            "muteBroadcast" => Action::MuteBroadcast,
            "unmuteBroadcast" => Action::UnmuteBroadcast,
            "endSession" => Action::EndSession,
            "getSessionStatus" => Action::GetSessionStatus,
            "ping" => Action::Ping,
            _ => {
                return Err(Problem::invalid(format!("unknown action; it is one of {}", Action::NAMES.join(", "))));
            }
        };
        fields_of::<NamesSession>(fields).map(|_| plain)
    }
}

fn volume(asked: SetVolume) -> Result<SetVolume, Problem> {
    if (0.0..=1.0).contains(&asked.volume) { Ok(asked) } else { Err(Problem::invalid("`volume` must be 0 to 1")) }
}

/// The problem begins with the path of the field; what serde quotes of the client's own input stays with that client.
fn fields_of<T: DeserializeOwned>(fields: Map<String, Value>) -> Result<T, Problem> {
    serde_path_to_error::deserialize(Value::Object(fields)).map_err(|error| Problem::invalid(error.to_string()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_join_has_defaults_and_echoes_its_request_id() {
        let message = ClientMessage::parse(
            r#"{"action":"joinSession","sessionId":"Calm-River-7","targetLanguage":"es","requestId":"r1"}"#,
        )
        .unwrap();
        assert_eq!(message.request_id.as_deref(), Some("r1"));
        let Action::JoinSession(join) = message.action else { panic!("not a join") };
        assert_eq!(join.session_id.as_str(), "calm-river-7");
        assert_eq!((join.captions, join.audio, join.resume), (CaptionMode::Stable, false, None));
    }

    #[test]
    fn an_unknown_field_is_refused_by_its_name() {
        let (problem, id) = ClientMessage::parse(r#"{"action":"ping","isActive":true,"requestId":"r2"}"#).unwrap_err();
        assert!(problem.message.contains("isActive"), "{}", problem.message);
        assert_eq!(id.as_deref(), Some("r2"));
    }

    #[test]
    fn what_is_no_message_is_answered_with_what_is_wrong() {
        for (text, word) in [
            ("", "JSON"),
            ("[]", "object"),
            ("{}", "`action` is missing"),
            (r#"{"action":7}"#, "string"),
            (r#"{"action":"fly"}"#, "unknown action"),
            (r#"{"action":"joinSession"}"#, "sessionId"),
            (r#"{"action":"changeLanguage"}"#, "targetLanguage"),
            (r#"{"action":"ping","requestId":[]}"#, "requestId"),
            (r#"{"action":"joinSession","sessionId":7}"#, "sessionId: "),
            (r#"{"action":"joinSession","sessionId":"a-b-1","accessCode":"x"}"#, "accessCode: "),
            (r#"{"action":"joinSession","sessionId":"a-b-1","resume":{"epoch":1,"seq":"x"}}"#, "resume.seq: "),
            (r#"{"action":"joinSession","sessionId":"a-b-1","captions":"all"}"#, "captions: "),
            (r#"{"action":"setPlayback","audio":"yes"}"#, "audio: "),
            (r#"{"action":"createSession","sourceLanguage":"en","targetLanguages":["es",7]}"#, "targetLanguages[1]: "),
            (r#"{"action":"endSession","sessionId":"?"}"#, "sessionId: "),
        ] {
            let (problem, _) = ClientMessage::parse(text).unwrap_err();
            assert!(problem.message.contains(word), "{text}: {}", problem.message);
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in ".{0,300}") {
            let _ = ClientMessage::parse(&text);
        }

        #[test]
        fn no_json_makes_the_reader_panic(action in "[a-zA-Z]{0,16}", key in "[a-zA-Z]{1,12}", value in ".{0,40}") {
            let text = serde_json::json!({"action": action, key: value}).to_string();
            let _ = ClientMessage::parse(&text);
        }
    }
}
