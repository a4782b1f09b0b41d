//! The text frames of a signaling socket, read and written. No socket, no state here.
//!
//! Keys are read case-insensitively: browsers send `messagePayload`, AWS's C SDK `MessagePayload`. They are
//! written in camelCase only, because the JS client ignores anything else.

use serde::Serialize;
use serde_json::Value;

use crate::error::ErrorKind;

/// Longest `messagePayload`, characters (source: KVS quota page).
pub const MAX_PAYLOAD: usize = 10_000;
const MAX_ID: usize = 256;

/// What a client asks to be relayed; also the `messageType` under which it arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Action {
    SdpOffer,
    SdpAnswer,
    IceCandidate,
}

impl Action {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "SDP_OFFER" => Some(Self::SdpOffer),
            "SDP_ANSWER" => Some(Self::SdpAnswer),
            "ICE_CANDIDATE" => Some(Self::IceCandidate),
            _ => None,
        }
    }

    pub fn is_sdp(self) -> bool {
        match self {
            Self::SdpOffer | Self::SdpAnswer => true,
            Self::IceCandidate => false,
        }
    }
}

/// A viewer's name on its channel: 1 to 256 of `[a-zA-Z0-9_.-]`, not beginning with `AWS_`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientId(String);

impl ClientId {
    pub fn parse(text: &str) -> Option<Self> {
        let reserved = text.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("AWS_"));
        (is_id(text) && !reserved).then(|| Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One message from a client, well-formed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFrame {
    pub action: Action,
    pub payload: String,
    /// `None` when absent or empty. Not yet checked: what a viewer writes there is ignored.
    pub recipient: Option<String>,
    pub correlation_id: Option<String>,
}

/// A message that is not relayed. The sender hears of it only if it gave a correlation id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub kind: ErrorKind,
    pub description: &'static str,
    pub correlation_id: Option<String>,
}

impl Refusal {
    pub fn invalid(description: &'static str, correlation_id: Option<String>) -> Self {
        Self { kind: ErrorKind::InvalidArgument, description, correlation_id }
    }
}

impl ClientFrame {
    /// Reads a text frame. Unknown keys are ignored; of keys that differ in case only, the last one counts.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let Ok(Value::Object(fields)) = serde_json::from_str(text) else {
            return Err(Refusal::invalid("the message is not a JSON object", None));
        };
        let (mut action, mut payload, mut recipient, mut correlation) = (None, None, None, None);
        for (key, value) in fields {
            let place = match key.to_ascii_lowercase().as_str() {
                "action" => &mut action,
                "messagepayload" => &mut payload,
                "recipientclientid" => &mut recipient,
                "correlationid" => &mut correlation,
                _ => continue,
            };
            *place = Some(value);
        }
        let correlation_id = text_of(correlation).ok().flatten();
        if correlation_id.as_deref().is_some_and(|id| !is_id(id)) {
            return Err(Refusal::invalid("correlationId is not 1 to 256 of [a-zA-Z0-9_.-]", None));
        }
        let refuse = |description| Refusal::invalid(description, correlation_id.clone());
        let action = text_of(action)
            .map_err(|()| refuse("action is not a string"))?
            .as_deref()
            .and_then(Action::parse)
            .ok_or_else(|| refuse("action is none of SDP_OFFER, SDP_ANSWER, ICE_CANDIDATE"))?;
        let payload = text_of(payload)
            .map_err(|()| refuse("messagePayload is not a string"))?
            .ok_or_else(|| refuse("messagePayload is missing"))?;
        if payload.chars().count() > MAX_PAYLOAD {
            return Err(refuse("messagePayload is longer than 10000 characters"));
        }
        let recipient = text_of(recipient).map_err(|()| refuse("recipientClientId is not a string"))?;
        Ok(Self { action, payload, recipient, correlation_id })
    }
}

/// The frame a recipient gets; without a sender when the sender is the master.
pub fn relayed(action: Action, payload: &str, sender: Option<&ClientId>) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Relayed<'a> {
        message_payload: &'a str,
        message_type: Action,
        #[serde(skip_serializing_if = "Option::is_none")]
        sender_client_id: Option<&'a str>,
    }
    write(&Relayed { message_payload: payload, message_type: action, sender_client_id: sender.map(ClientId::as_str) })
}

/// A message of the service itself: `GO_AWAY` or `RECONNECT_ICE_SERVER`.
pub fn notice(message_type: &str) -> String {
    write(&serde_json::json!({ "messageType": message_type }))
}

/// `STATUS_RESPONSE`, the answer to a refused message with a correlation id; `None` without one.
pub fn status_response(refusal: &Refusal) -> Option<String> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Status<'a> {
        correlation_id: &'a str,
        error_type: &'static str,
        status_code: String,
        description: &'static str,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct StatusResponse<'a> {
        message_type: &'static str,
        status_response: Status<'a>,
    }
    let correlation_id = refusal.correlation_id.as_deref()?;
    Some(write(&StatusResponse {
        message_type: "STATUS_RESPONSE",
        status_response: Status {
            correlation_id,
            error_type: refusal.kind.name(),
            status_code: refusal.kind.status().as_u16().to_string(),
            description: refusal.description,
        },
    }))
}

fn is_id(text: &str) -> bool {
    (1..=MAX_ID).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

/// The string in a value; an absent, null or empty one is `None`: the C SDK writes unused fields as `""`.
fn text_of(value: Option<Value>) -> Result<Option<String>, ()> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text).filter(|text| !text.is_empty())),
        Some(Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => Err(()),
    }
}

fn write(frame: &impl Serialize) -> String {
    serde_json::to_string(frame).expect("strings and enums always serialise")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refused(text: &str) -> Refusal {
        ClientFrame::parse(text).expect_err("a refusal")
    }

    #[test]
    fn frames_of_the_js_and_of_the_c_client_read_alike() {
        let js = r#"{"action":"SDP_ANSWER","messagePayload":"e30=","recipientClientId":"v","correlationId":"c_2"}"#;
        let c = "{\n\t\"action\": \"SDP_ANSWER\",\n\t\"RecipientClientId\": \"v\",\n\t\"MessagePayload\": \"e30=\",\n\t\
                 \"CorrelationId\": \"c_2\",\n\t\"IceServerList\": [{\"Ttl\": 300}]\n}";
        let expected = ClientFrame {
            action: Action::SdpAnswer,
            payload: "e30=".into(),
            recipient: Some("v".into()),
            correlation_id: Some("c_2".into()),
        };
        assert_eq!(ClientFrame::parse(js), Ok(expected.clone()));
        assert_eq!(ClientFrame::parse(c), Ok(expected));
    }

    #[test]
    fn empty_fields_of_the_c_client_count_as_absent() {
        let frame = ClientFrame::parse(
            r#"{"action":"ICE_CANDIDATE","RecipientClientId":"","MessagePayload":"e30=","CorrelationId":""}"#,
        )
        .expect("a frame");
        assert_eq!((frame.recipient, frame.correlation_id), (None, None));
    }

    #[test]
    fn relayed_frames_have_the_keys_and_order_of_the_service() {
        let viewer = ClientId::parse("viewer-1");
        assert_eq!(
            relayed(Action::IceCandidate, "e30=", viewer.as_ref()),
            r#"{"messagePayload":"e30=","messageType":"ICE_CANDIDATE","senderClientId":"viewer-1"}"#
        );
        assert_eq!(relayed(Action::SdpAnswer, "e30=", None), r#"{"messagePayload":"e30=","messageType":"SDP_ANSWER"}"#);
        assert_eq!(notice("GO_AWAY"), r#"{"messageType":"GO_AWAY"}"#);
    }

    #[test]
    fn a_refusal_is_answered_only_with_a_correlation_id() {
        let long = "A".repeat(MAX_PAYLOAD + 1);
        let refusal = refused(&format!(r#"{{"action":"SDP_OFFER","messagePayload":"{long}","correlationId":"c"}}"#));
        assert_eq!(
            status_response(&refusal).expect("an answer"),
            r#"{"messageType":"STATUS_RESPONSE","statusResponse":{"correlationId":"c","errorType":"InvalidArgumentException","statusCode":"400","description":"messagePayload is longer than 10000 characters"}}"#
        );
        let silent = refused(&format!(r#"{{"action":"SDP_OFFER","messagePayload":"{long}"}}"#));
        assert_eq!(status_response(&silent), None);
        let longest = "A".repeat(MAX_PAYLOAD);
        assert!(ClientFrame::parse(&format!(r#"{{"action":"SDP_OFFER","messagePayload":"{longest}"}}"#)).is_ok());
    }

    #[test]
    fn malformed_frames_say_what_is_wrong() {
        assert_eq!(refused("").description, "the message is not a JSON object");
        assert_eq!(refused("[1]").description, "the message is not a JSON object");
        let unknown = refused(r#"{"action":"PING","messagePayload":"x","correlationId":"c"}"#);
        assert_eq!(unknown.correlation_id.as_deref(), Some("c"));
        assert_eq!(refused(r#"{"action":7,"messagePayload":"x"}"#).description, "action is not a string");
        assert_eq!(refused(r#"{"action":"SDP_OFFER"}"#).description, "messagePayload is missing");
        assert_eq!(
            refused(r#"{"action":"SDP_OFFER","messagePayload":"x","correlationId":"a b"}"#).correlation_id,
            None
        );
    }

    #[test]
    fn client_ids_follow_the_rule_of_the_service() {
        for good in ["a", "server-viewer_1.x", &"x".repeat(256)] {
            assert!(ClientId::parse(good).is_some(), "{good}");
        }
        for bad in ["", "AWS_x", "aws_x", "a b", "é", &"x".repeat(257)] {
            assert!(ClientId::parse(bad).is_none(), "{bad}");
        }
    }

    fn key(name: &'static str) -> impl Strategy<Value = String> {
        proptest::collection::vec(any::<bool>(), name.len()).prop_map(move |upper| {
            name.chars().zip(upper).map(|(c, up)| if up { c.to_ascii_uppercase() } else { c }).collect()
        })
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,300}") {
            let _ = ClientFrame::parse(&text).map_err(|refusal| status_response(&refusal));
        }

        #[test]
        fn no_json_of_our_keys_makes_the_parser_panic(
            entries in proptest::collection::vec(
                (prop_oneof![key("action"), key("messagepayload"), key("recipientclientid"), key("correlationid")],
                 prop_oneof![Just("null".to_owned()), Just("1e400".to_owned()), Just("[]".to_owned()),
                             Just("\"SDP_OFFER\"".to_owned()), "\"[a-zA-Z0-9_. -]{0,20}\""]),
                0..8)
        ) {
            let body: Vec<String> = entries.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
            let _ = ClientFrame::parse(&format!("{{{}}}", body.join(","))).map_err(|refusal| status_response(&refusal));
        }

        #[test]
        fn the_case_of_keys_does_not_matter(action in key("action"), payload in key("messagepayload"),
                                            recipient in key("recipientclientid"), correlation in key("correlationid")) {
            let text = format!(r#"{{"{action}":"SDP_OFFER","{payload}":"p","{recipient}":"r","{correlation}":"c"}}"#);
            let frame = ClientFrame::parse(&text).expect("a frame");
            prop_assert_eq!((frame.payload.as_str(), frame.recipient.as_deref(), frame.correlation_id.as_deref()),
                            ("p", Some("r"), Some("c")));
        }
    }
}
