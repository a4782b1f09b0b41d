//! KVS signaling as values: frames in both directions, the SDP and candidates inside them, and the viewer's two
//! machines ([`exchange`], one attempt; [`viewer`], attempts over a session's life).
//!
//! Source: the AWS page "WebSocket APIs" of the KVS WebRTC guide, and what the official SDKs really send: keys in
//! camelCase or PascalCase, unknown keys, empty frames. Absent on purpose: sockets, signatures, SDP negotiation.

pub mod candidate;
pub mod exchange;
pub mod sdp;
pub mod viewer;

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

pub use candidate::{Candidate, CandidatePolicy, Refusal};
pub use sdp::{Sdp, SdpRefused};

/// A payload must stay below this many base64 characters, or the service drops the message without a word.
pub const MAX_PAYLOAD: usize = 10_000;

/// A whole frame longer than this is refused unparsed: a full payload, its envelope, and room to spare.
pub const MAX_FRAME: usize = 16_384;

/// What the service tells us.
#[derive(Debug, Clone, PartialEq)]
pub enum Received {
    Offer {
        sdp: Sdp,
        from: Parties,
    },
    Answer {
        sdp: Sdp,
        from: Parties,
    },
    Candidate {
        candidate: Candidate,
        from: Parties,
    },
    /// The peer has no more candidates (Firefox sends an empty one).
    EndOfCandidates {
        from: Parties,
    },
    Status(Status),
    /// The service closes this socket within a minute.
    GoAway,
    /// The TURN servers in use are about to go.
    ReconnectIceServer,
    /// An empty text frame: the official C client meets them and skips them.
    Empty,
}

/// Whom a frame names. A viewer's messages carry the sender, a master's do not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parties {
    pub sender: Option<String>,
    pub recipient: Option<String>,
}

/// `STATUS_RESPONSE`: sent on failures, to messages that carried a correlation id.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    pub correlation_id: Option<String>,
    /// A text on the wire: `"400"`.
    pub code: Option<String>,
    pub error_type: Option<String>,
    pub description: Option<String>,
}

/// Why a frame cannot be read. It is counted and skipped, never fatal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("frame of more than {MAX_FRAME} bytes")]
    TooLong,
    #[error("frame is not a JSON object")]
    NotAnObject,
    #[error("frame has no messageType")]
    NoType,
    #[error("frame has a messageType of no known kind")]
    UnknownType,
    #[error("frame has no messagePayload")]
    NoPayload,
    #[error("payload is not base64")]
    NotBase64,
    #[error("payload is not the JSON its type asks for")]
    BadPayload,
}

/// What we send.
#[derive(Debug, Clone, PartialEq)]
pub enum Message<'a> {
    Offer(&'a Sdp),
    Answer(&'a Sdp),
    Candidate(&'a Candidate),
}

/// Why a message cannot be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendRefused {
    #[error("payload of {0} base64 characters, the service takes fewer than {MAX_PAYLOAD}")]
    TooLong(usize),
    #[error("client or correlation id is not 1 to 256 of a-z, A-Z, 0-9, `_`, `.`, `-`")]
    BadId,
}

/// Reads one text frame of the service.
///
/// Lenient where the field is: either key spelling, unknown keys, an empty `statusResponse` on other messages.
///
/// # Errors
/// [`FrameError`], for frames to count and skip.
pub fn parse(text: &str) -> Result<Received, FrameError> {
    if text.len() > MAX_FRAME {
        return Err(FrameError::TooLong);
    }
    if text.trim().is_empty() {
        return Ok(Received::Empty);
    }
    let Ok(Value::Object(frame)) = serde_json::from_str(text) else { return Err(FrameError::NotAnObject) };
    // A client's frame says `action` where the service says `messageType`; a master of a local test may echo either.
    let kind = text_of(&frame, "messageType").or_else(|| text_of(&frame, "action")).ok_or(FrameError::NoType)?;
    let from = Parties { sender: named(&frame, "senderClientId"), recipient: named(&frame, "recipientClientId") };
    match kind {
        "SDP_OFFER" => Ok(Received::Offer { sdp: description(&frame, "offer")?, from }),
        "SDP_ANSWER" => Ok(Received::Answer { sdp: description(&frame, "answer")?, from }),
        "ICE_CANDIDATE" => match candidate_in(&frame)? {
            Some(candidate) => Ok(Received::Candidate { candidate, from }),
            None => Ok(Received::EndOfCandidates { from }),
        },
        "STATUS_RESPONSE" => Ok(Received::Status(status(&frame))),
        "GO_AWAY" => Ok(Received::GoAway),
        "RECONNECT_ICE_SERVER" => Ok(Received::ReconnectIceServer),
        _ => Err(FrameError::UnknownType),
    }
}

/// Writes one text frame for the service. A viewer names no recipient, a master always does.
///
/// # Errors
/// [`SendRefused`] for a payload the service would drop silently, or an id it would refuse.
pub fn frame(message: &Message<'_>, recipient: Option<&str>, correlation: Option<&str>) -> Result<String, SendRefused> {
    if [recipient, correlation].into_iter().flatten().any(|id| !is_client_id(id)) {
        return Err(SendRefused::BadId);
    }
    let (action, payload) = match message {
        Message::Offer(sdp) => ("SDP_OFFER", json!({"type": "offer", "sdp": sdp.as_str()})),
        Message::Answer(sdp) => ("SDP_ANSWER", json!({"type": "answer", "sdp": sdp.as_str()})),
        Message::Candidate(candidate) => ("ICE_CANDIDATE", candidate.to_json()),
    };
    let payload = STANDARD.encode(ascii(&payload.to_string()));
    if payload.len() >= MAX_PAYLOAD {
        return Err(SendRefused::TooLong(payload.len()));
    }
    let mut frame = json!({"action": action, "messagePayload": payload});
    if let Some(recipient) = recipient {
        frame["recipientClientId"] = recipient.into();
    }
    if let Some(correlation) = correlation {
        frame["correlationId"] = correlation.into();
    }
    Ok(frame.to_string())
}

/// 1 to 256 of `[a-zA-Z0-9_.-]`: the service's rule for client and correlation ids.
pub fn is_client_id(text: &str) -> bool {
    (1..=256).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

/// JSON with everything beyond ASCII escaped: browsers read the payload as Latin-1.
fn ascii(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
    out
}

fn value_of<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    object.get(key).or_else(|| object.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value))
}

fn text_of<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    value_of(object, key)?.as_str()
}

/// A name that is there and not empty.
fn named(object: &Map<String, Value>, key: &str) -> Option<String> {
    text_of(object, key).filter(|name| !name.is_empty()).map(str::to_owned)
}

fn payload(frame: &Map<String, Value>) -> Result<Map<String, Value>, FrameError> {
    let text = text_of(frame, "messagePayload").ok_or(FrameError::NoPayload)?;
    let bytes = STANDARD.decode(text.trim()).map_err(|_| FrameError::NotBase64)?;
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(payload)) => Ok(payload),
        _ => Err(FrameError::BadPayload),
    }
}

fn description(frame: &Map<String, Value>, kind: &str) -> Result<Sdp, FrameError> {
    let payload = payload(frame)?;
    let fits = text_of(&payload, "type").is_none_or(|given| given.eq_ignore_ascii_case(kind));
    match text_of(&payload, "sdp") {
        Some(sdp) if fits => Ok(Sdp::new(sdp)),
        _ => Err(FrameError::BadPayload),
    }
}

fn candidate_in(frame: &Map<String, Value>) -> Result<Option<Candidate>, FrameError> {
    let payload = payload(frame)?;
    let line = text_of(&payload, "candidate").ok_or(FrameError::BadPayload)?.trim();
    if line.is_empty() {
        return Ok(None);
    }
    Ok(Some(Candidate {
        line: line.to_owned(),
        mid: named(&payload, "sdpMid"),
        line_index: value_of(&payload, "sdpMLineIndex").and_then(Value::as_u64).and_then(|n| u16::try_from(n).ok()),
        username_fragment: named(&payload, "usernameFragment"),
    }))
}

fn status(frame: &Map<String, Value>) -> Status {
    let Some(Value::Object(response)) = value_of(frame, "statusResponse") else { return Status::default() };
    Status {
        correlation_id: named(response, "correlationId"),
        code: match value_of(response, "statusCode") {
            Some(Value::String(code)) => Some(code.clone()),
            Some(Value::Number(code)) => Some(code.to_string()),
            _ => None,
        },
        error_type: named(response, "errorType"),
        description: named(response, "description"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn envelope(kind: &str, payload: &str) -> String {
        json!({"messageType": kind, "messagePayload": STANDARD.encode(payload)}).to_string()
    }

    #[test]
    fn the_browser_sdk_and_the_c_sdk_are_both_understood() {
        let payload = STANDARD.encode(r#"{"type":"answer","sdp":"v=0\r\n"}"#);
        let browser = format!(r#"{{"messagePayload":"{payload}","messageType":"SDP_ANSWER","senderClientId":""}}"#);
        let c =
            format!("{{\n\t\"MessageType\": \"SDP_ANSWER\",\n\t\"MessagePayload\": \"{payload}\", \"New\": [1]\n}}");
        for text in [browser, c] {
            let from = Parties::default();
            assert_eq!(parse(&text), Ok(Received::Answer { sdp: Sdp::new("v=0\r\n"), from }), "{text}");
        }
    }

    #[test]
    fn candidates_come_in_the_forms_of_chrome_c_and_firefox() {
        let chrome = r#"{"candidate":"candidate:1 1 udp 2122194687 192.0.2.1 38332 typ host","sdpMid":"0","sdpMLineIndex":0,"usernameFragment":"/pfo"}"#;
        let Ok(Received::Candidate { candidate, .. }) = parse(&envelope("ICE_CANDIDATE", chrome)) else { panic!() };
        assert_eq!((candidate.mid.as_deref(), candidate.line_index), (Some("0"), Some(0)));
        assert_eq!(candidate.username_fragment.as_deref(), Some("/pfo"));
        let bare = r#"{"candidate":"candidate:0 1 udp 1 192.0.2.1 52030 typ host","sdpMid":null,"sdpMLineIndex":null}"#;
        let Ok(Received::Candidate { candidate, .. }) = parse(&envelope("ICE_CANDIDATE", bare)) else { panic!() };
        assert_eq!((candidate.mid, candidate.line_index, candidate.username_fragment), (None, None, None));
        let from = Parties::default();
        let end = parse(&envelope("ICE_CANDIDATE", r#"{"candidate":""}"#));
        assert_eq!(end, Ok(Received::EndOfCandidates { from }));
    }

    #[test]
    fn the_services_own_words_are_understood() {
        assert_eq!(parse(r#"{"messageType":"GO_AWAY"}"#), Ok(Received::GoAway));
        assert_eq!(parse(r#"{"MessageType":"RECONNECT_ICE_SERVER"}"#), Ok(Received::ReconnectIceServer));
        assert_eq!(parse(""), Ok(Received::Empty));
        let status = parse(
            r#"{"messageType":"STATUS_RESPONSE","messagePayload":"","statusResponse":{"correlationId":"c-1","errorType":"InvalidArgumentException","statusCode":"400","description":"bad","success":false}}"#,
        );
        let Ok(Received::Status(status)) = status else { panic!() };
        assert_eq!((status.code.as_deref(), status.correlation_id.as_deref()), (Some("400"), Some("c-1")));
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        let long = "x".repeat(MAX_FRAME + 1);
        for (text, error) in [
            (long.as_str(), FrameError::TooLong),
            ("hello", FrameError::NotAnObject),
            ("[1]", FrameError::NotAnObject),
            ("{}", FrameError::NoType),
            (r#"{"messageType":"DANCE"}"#, FrameError::UnknownType),
            (r#"{"messageType":"SDP_ANSWER"}"#, FrameError::NoPayload),
            (r#"{"messageType":"SDP_ANSWER","messagePayload":"%%"}"#, FrameError::NotBase64),
        ] {
            assert_eq!(parse(text), Err(error));
        }
        assert_eq!(parse(&envelope("SDP_ANSWER", r#"{"type":"offer","sdp":"v=0"}"#)), Err(FrameError::BadPayload));
        assert_eq!(parse(&envelope("ICE_CANDIDATE", "[]")), Err(FrameError::BadPayload));
    }

    #[test]
    fn an_offer_is_framed_as_the_browser_sdk_frames_it() {
        let sdp = Sdp::new("v=0\r\n");
        let text = frame(&Message::Offer(&sdp), None, Some("corr-1")).unwrap();
        let payload = STANDARD.encode(r#"{"sdp":"v=0\r\n","type":"offer"}"#);
        let expected = json!({"action":"SDP_OFFER","messagePayload":payload,"correlationId":"corr-1"});
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expected);
        assert!(!text.contains("recipientClientId"));
    }

    #[test]
    fn a_payload_the_service_would_swallow_is_refused_here() {
        let sdp = Sdp::new("a".repeat(MAX_PAYLOAD));
        assert!(matches!(frame(&Message::Offer(&sdp), None, None), Err(SendRefused::TooLong(n)) if n >= MAX_PAYLOAD));
        let small = Sdp::new("v=0");
        assert_eq!(frame(&Message::Answer(&small), Some("bad id"), None), Err(SendRefused::BadId));
    }

    #[test]
    fn payloads_are_ascii() {
        let sdp = Sdp::new("s=é𝄞\r\n");
        let text = frame(&Message::Answer(&sdp), Some("viewer-1"), None).unwrap();
        let Ok(Received::Answer { sdp: back, from }) = parse(&text) else { panic!() };
        assert_eq!((back, from.recipient.as_deref()), (sdp, Some("viewer-1")));
        assert!(ascii("é𝄞") == "\\u00e9\\ud834\\udd1e");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,300}") {
            let _ = parse(&text);
        }

        #[test]
        fn no_payload_panics(
            kind in prop::sample::select(vec!["SDP_OFFER", "SDP_ANSWER", "ICE_CANDIDATE", "STATUS_RESPONSE"]),
            payload in prop::collection::vec(any::<u8>(), 0..200),
            json in r#"\{"(sdp|candidate|type)":"?[a-z0-9]{0,9}"?\}"#,
        ) {
            let _ = parse(&json!({"messageType": kind, "messagePayload": STANDARD.encode(payload)}).to_string());
            let _ = parse(&json!({"messageType": kind, "messagePayload": STANDARD.encode(json)}).to_string());
        }

        #[test]
        fn what_is_framed_reads_back(sdp in "[ -~\r\n]{0,500}", recipient in "[a-zA-Z0-9_.-]{1,40}") {
            let sdp = Sdp::new(sdp);
            let text = frame(&Message::Answer(&sdp), Some(&recipient), None).unwrap();
            let from = Parties { sender: None, recipient: Some(recipient) };
            prop_assert_eq!(parse(&text), Ok(Received::Answer { sdp, from }));
        }
    }
}
