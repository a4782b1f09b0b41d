//! Event-stream frames: bounded reading of what a client sends, writing of what it gets.
//!
//! A client that signs wraps each audio event into an outer frame that carries the signature, and ends with an empty
//! outer frame. One that does not sign sends the audio events bare and ends with its body.

use aws_smithy_eventstream::frame::{read_message_from, write_message_to};
use aws_smithy_types::event_stream::{Header, HeaderValue, Message};
use bytes::{Buf, Bytes, BytesMut};

/// The longest frame taken: a second of the fastest audio (48 kHz stereo) is 192,000 bytes; this leaves room to say
/// what is wrong with a longer one.
pub const MAX_FRAME: usize = 256 * 1024;

/// Collects bytes and cuts them into frames. Holds at most [`MAX_FRAME`] bytes and one piece of the body.
#[derive(Default)]
pub struct FrameReader {
    buffer: BytesMut,
}

/// Why bytes are no frame, or a frame means nothing here.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of {0} bytes is longer than {MAX_FRAME}")]
    TooLong(usize),
    #[error("a frame does not parse: {0}")]
    Malformed(String),
    #[error("the event type {0:?} is unknown")]
    UnknownEvent(String),
}

impl FrameReader {
    /// Takes the next piece of the body, of any length.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, if there is one.
    ///
    /// # Errors
    /// [`FrameError`]; the stream has no place to go on from after it.
    pub fn next_frame(&mut self) -> Result<Option<Message>, FrameError> {
        let Some(mut head) = self.buffer.get(..4) else { return Ok(None) };
        let length = head.get_u32() as usize;
        if length > MAX_FRAME {
            return Err(FrameError::TooLong(length));
        }
        if self.buffer.len() < length {
            return Ok(None);
        }
        // A length below the 16 bytes of an empty frame is refused by the parser, which is given at least the length.
        let frame = self.buffer.split_to(length.max(4).min(self.buffer.len())).freeze();
        message(frame).map(Some)
    }

    /// Whether bytes of an unfinished frame are left.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    #[cfg(test)]
    fn held(&self) -> usize {
        self.buffer.len()
    }
}

/// What a client's frame means.
#[derive(Debug, PartialEq)]
pub enum ClientEvent {
    Audio(Bytes),
    /// The empty frame: no more audio comes.
    End,
    /// Something valid that changes nothing here.
    Nothing,
}

/// Whether the frame is an outer one, around an event.
pub(super) fn is_signed(frame: &Message) -> bool {
    header(frame, ":chunk-signature").is_some()
}

/// Unwraps a frame of either style.
///
/// # Errors
/// [`FrameError`], of the inner frame or of an event of no known type.
pub fn client_event(frame: &Message) -> Result<ClientEvent, FrameError> {
    if !is_signed(frame) {
        return bare(frame);
    }
    match frame.payload().is_empty() {
        true => Ok(ClientEvent::End),
        false => bare(&message(frame.payload().clone())?),
    }
}

fn bare(frame: &Message) -> Result<ClientEvent, FrameError> {
    let kind = header(frame, ":event-type").and_then(|v| v.as_string().ok());
    match kind.map(|k| k.as_str()) {
        Some("AudioEvent") | None if frame.payload().is_empty() => Ok(ClientEvent::End),
        Some("AudioEvent") => Ok(ClientEvent::Audio(frame.payload().clone())),
        // Settings of call analytics, which plain streaming ignores.
        Some("ConfigurationEvent") => Ok(ClientEvent::Nothing),
        other => Err(FrameError::UnknownEvent(other.unwrap_or_default().chars().take(64).collect())),
    }
}

pub(super) fn header<'a>(frame: &'a Message, name: &str) -> Option<&'a HeaderValue> {
    frame.headers().iter().find(|h| h.name().as_str() == name).map(Header::value)
}

fn message(bytes: Bytes) -> Result<Message, FrameError> {
    let length = bytes.get(..4).map(|mut head| head.get_u32() as usize);
    if length != Some(bytes.len()) {
        return Err(FrameError::Malformed("its length is wrong".to_owned()));
    }
    read_message_from(bytes).map_err(|e| FrameError::Malformed(e.to_string()))
}

/// A `TranscriptEvent` as the service writes it: not signed, not wrapped.
pub(super) fn transcript_event(json: &str) -> Bytes {
    write(":event-type", "TranscriptEvent", "event", json)
}

/// An exception inside the stream.
pub(super) fn exception(name: &'static str, message: &str) -> Bytes {
    write(":exception-type", name, "exception", &serde_json::json!({ "Message": message }).to_string())
}

fn write(type_header: &'static str, name: &'static str, message_type: &'static str, json: &str) -> Bytes {
    let text = |value: &'static str| HeaderValue::String(value.into());
    let frame = Message::new(Bytes::copy_from_slice(json.as_bytes()))
        .add_header(Header::new(type_header, text(name)))
        .add_header(Header::new(":content-type", text("application/json")))
        .add_header(Header::new(":message-type", text(message_type)));
    let mut bytes = BytesMut::new();
    write_message_to(&frame, &mut bytes).expect("three short headers and a short payload fit a frame");
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn audio(payload: &[u8]) -> Message {
        Message::new(Bytes::copy_from_slice(payload))
            .add_header(Header::new(":message-type", HeaderValue::String("event".into())))
            .add_header(Header::new(":event-type", HeaderValue::String("AudioEvent".into())))
    }

    fn bytes(frame: &Message) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_message_to(frame, &mut bytes).unwrap();
        bytes
    }

    fn signed(payload: Vec<u8>) -> Message {
        Message::new(payload)
            .add_header(Header::new(":chunk-signature", HeaderValue::ByteArray(Bytes::from_static(&[7; 32]))))
    }

    #[test]
    fn both_styles_of_frames_are_understood() {
        let event = |frame: &Message| client_event(frame).unwrap();
        assert_eq!(event(&audio(b"pcm")), ClientEvent::Audio(Bytes::from_static(b"pcm")));
        assert_eq!(event(&signed(bytes(&audio(b"pcm")))), ClientEvent::Audio(Bytes::from_static(b"pcm")));
        assert_eq!(event(&signed(Vec::new())), ClientEvent::End);
        assert_eq!(event(&audio(b"")), ClientEvent::End);
        assert!(client_event(&signed(b"not a frame".to_vec())).is_err());
    }

    #[test]
    fn a_frame_that_claims_too_much_is_refused_before_it_is_collected() {
        let mut reader = FrameReader::default();
        reader.push(&(MAX_FRAME as u32 + 1).to_be_bytes());
        assert_eq!(reader.next_frame().unwrap_err(), FrameError::TooLong(MAX_FRAME + 1));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_and_never_pile_up(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 0..40)) {
            let mut reader = FrameReader::default();
            'all: for piece in pieces {
                reader.push(&piece);
                loop {
                    match reader.next_frame() {
                        Ok(Some(frame)) => drop(client_event(&frame)),
                        Ok(None) => break,
                        Err(_) => break 'all,
                    }
                }
                prop_assert!(reader.held() <= MAX_FRAME + 600);
            }
        }

        #[test]
        fn frames_with_flipped_bytes_never_panic(payload in prop::collection::vec(any::<u8>(), 0..300), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4)) {
            let mut wire = bytes(&signed(bytes(&audio(&payload))));
            for (at, value) in flips {
                let at = at.index(wire.len());
                wire[at] = value;
            }
            let mut reader = FrameReader::default();
            reader.push(&wire);
            while let Ok(Some(frame)) = reader.next_frame() {
                drop(client_event(&frame));
            }
        }

        #[test]
        fn frames_survive_any_cut(payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..400), 1..8), size in 1usize..700) {
            let wire: Vec<u8> = payloads.iter().flat_map(|p| bytes(&audio(p))).collect();
            let (mut reader, mut seen) = (FrameReader::default(), Vec::new());
            for piece in wire.chunks(size) {
                reader.push(piece);
                while let Some(frame) = reader.next_frame().unwrap() {
                    seen.push(frame.payload().to_vec());
                }
            }
            prop_assert!(reader.is_empty());
            prop_assert_eq!(seen, payloads);
        }
    }
}
