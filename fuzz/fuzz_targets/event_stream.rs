//! Event-stream frames as any client may send them to Transcribe, cut anywhere: no panic, no pile, and what is cut from
//! them does not depend on where the pieces were cut.
//!
//! Checksums keep chance out, so frames are sealed here around arbitrary headers, lengths and payloads.

#![no_main]

use libfuzzer_sys::fuzz_target;
use local_cloud::transcribe::frames::{ClientEvent, FrameError, FrameReader, MAX_FRAME, client_event};

#[derive(Debug, arbitrary::Arbitrary)]
struct Input {
    cut: u16,
    pieces: Vec<Piece>,
}

#[derive(Debug, arbitrary::Arbitrary)]
enum Piece {
    Raw(Vec<u8>),
    /// A frame with right checksums; the headers and their stated length are anything.
    Sealed {
        headers: Headers,
        stated: Option<u32>,
        payload: Vec<u8>,
    },
    /// The same inside a signed one, as clients that sign send it.
    Signed {
        headers: Headers,
        payload: Vec<u8>,
    },
    Audio(Vec<u8>),
    End,
    /// Audio about as long as the longest frame.
    Long(u8),
}

#[derive(Debug, arbitrary::Arbitrary)]
enum Headers {
    Raw(Vec<u8>),
    Listed(Vec<(Name, Value)>),
}

#[derive(Debug, arbitrary::Arbitrary)]
enum Name {
    EventType,
    Signature,
    Other(String),
}

#[derive(Debug, arbitrary::Arbitrary)]
enum Value {
    AudioEvent,
    Text(String),
    Bytes(Vec<u8>),
    /// A value of this type number and these bytes, whatever they are.
    Any(u8, Vec<u8>),
}

fuzz_target!(|input: Input| {
    let mut wire = Vec::new();
    // Piece by piece: byte by byte, the instrumented harness would take longer than what it tests.
    input.pieces.iter().take(16).for_each(|piece| wire.extend_from_slice(&bytes(piece)));
    let whole = read([&wire[..]].into_iter());
    // Not more than some thousand pieces: a long frame byte by byte is only slow.
    let cut = read(wire.chunks(usize::from(input.cut).max(1 + wire.len() / 4_096)));
    assert_eq!(whole, cut);
});

/// The events in order, and how it ended.
fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Result<ClientEvent, FrameError>>, Option<FrameError>) {
    let mut reader = FrameReader::default();
    let mut seen = Vec::new();
    for piece in pieces {
        reader.push(piece);
        loop {
            match reader.next_frame() {
                Ok(Some(frame)) => {
                    assert!(frame.payload().len() <= MAX_FRAME);
                    seen.push(client_event(&frame));
                }
                Ok(None) => break,
                Err(error) => return (seen, Some(error)),
            }
        }
    }
    (seen, None)
}

fn bytes(piece: &Piece) -> Vec<u8> {
    let audio = Headers::Listed(vec![(Name::EventType, Value::AudioEvent)]);
    let signature = || Headers::Listed(vec![(Name::Signature, Value::Bytes(vec![7; 32]))]);
    match piece {
        Piece::Raw(bytes) => bytes.clone(),
        Piece::Sealed { headers, stated, payload } => sealed(&headers.bytes(), *stated, payload),
        Piece::Signed { headers, payload } => {
            sealed(&signature().bytes(), None, &sealed(&headers.bytes(), None, payload))
        }
        Piece::Audio(pcm) => sealed(&audio.bytes(), None, pcm),
        Piece::End => sealed(&signature().bytes(), None, &[]),
        Piece::Long(length) => sealed(&audio.bytes(), None, &vec![0; MAX_FRAME - 128 + usize::from(*length)]),
    }
}

fn sealed(headers: &[u8], stated: Option<u32>, payload: &[u8]) -> Vec<u8> {
    let mut frame = ((16 + headers.len() + payload.len()) as u32).to_be_bytes().to_vec();
    frame.extend(stated.unwrap_or(headers.len() as u32).to_be_bytes());
    frame.extend(crc32fast::hash(&frame).to_be_bytes());
    frame.extend(headers);
    frame.extend(payload);
    frame.extend(crc32fast::hash(&frame).to_be_bytes());
    frame
}

impl Headers {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self {
            Headers::Raw(raw) => bytes.extend(raw),
            Headers::Listed(list) => list.iter().for_each(|(name, value)| {
                let name = match name {
                    Name::EventType => ":event-type",
                    Name::Signature => ":chunk-signature",
                    Name::Other(name) => name,
                };
                let name = &name.as_bytes()[..name.len().min(255)];
                bytes.push(name.len() as u8);
                bytes.extend(name);
                let (kind, value): (u8, &[u8]) = match value {
                    Value::AudioEvent => (7, b"AudioEvent"),
                    Value::Text(text) => (7, text.as_bytes()),
                    Value::Bytes(raw) => (6, raw),
                    Value::Any(kind, raw) => {
                        bytes.push(*kind);
                        return bytes.extend(raw);
                    }
                };
                bytes.push(kind);
                bytes.extend((value.len() as u16).to_be_bytes());
                bytes.extend(value);
            }),
        }
        bytes
    }
}
