//! Binary messages to a listener: a clip of the dubbed voice behind a small JSON header.
//!
//! 4 bytes big-endian length of the header, the header, the sound.

use serde::{Deserialize, Serialize};

use crate::language::Language;

use super::AudioFormat;

/// Longest header read: ours have some 200 bytes.
const MAX_HEADER: usize = 4_096;

const LENGTH: usize = 4;

/// What a listener must know of a clip, or of a part of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AudioHeader {
    pub language: Language,
    /// Of the caption it says; of the first, if it says several.
    pub segment_id: String,
    /// Counts this listener's messages of this language from 0: a jump is a loss.
    pub audio_seq: u64,
    pub format: AudioFormat,
    pub sample_rate: u32,
    /// Of the whole clip.
    pub duration_ms: u64,
    /// Where in the talk the caption begins.
    pub start_ms: u64,
    /// False: the bytes of the next message belong behind these.
    pub last: bool,
}

/// Kinds of binary messages, told apart as text messages are.
#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
enum Binary<H> {
    Audio(H),
}

/// Why bytes are no audio message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAudio {
    #[error("audio message shorter than it says")]
    Cut,
    #[error("audio message with a header of more than {MAX_HEADER} bytes")]
    LongHeader,
    #[error("audio message without a readable header")]
    BadHeader,
}

/// The message of `header` and `sound`.
pub fn encode(header: &AudioHeader, sound: &[u8]) -> Vec<u8> {
    let header = serde_json::to_vec(&Binary::Audio(header)).unwrap_or_default();
    let mut message = Vec::with_capacity(LENGTH + header.len() + sound.len());
    message.extend((header.len() as u32).to_be_bytes());
    message.extend(header);
    message.extend(sound);
    message
}

/// The messages of a clip in parts of at most `part` bytes of sound, numbered from `header.audio_seq` on.
pub fn encode_in_parts(header: &AudioHeader, sound: &[u8], part: usize) -> Vec<Vec<u8>> {
    let parts = sound.len().div_ceil(part.max(1)).max(1);
    let of = |n: usize| {
        let (from, to) = (n * part.max(1), ((n + 1) * part.max(1)).min(sound.len()));
        let header = AudioHeader {
            audio_seq: header.audio_seq + n as u64,
            last: header.last && n + 1 == parts,
            ..header.clone()
        };
        encode(&header, &sound[from..to])
    };
    (0..parts).map(of).collect()
}

/// Header and sound of a message.
///
/// # Errors
/// [`NotAudio`].
pub fn decode(message: &[u8]) -> Result<(AudioHeader, &[u8]), NotAudio> {
    let (length, rest) = message.split_first_chunk::<LENGTH>().ok_or(NotAudio::Cut)?;
    let length = u32::from_be_bytes(*length) as usize;
    if length > MAX_HEADER {
        return Err(NotAudio::LongHeader);
    }
    let (header, sound) = rest.split_at_checked(length).ok_or(NotAudio::Cut)?;
    let Binary::Audio(header) = serde_json::from_slice(header).map_err(|_| NotAudio::BadHeader)?;
    Ok((header, sound))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(format: AudioFormat) -> AudioHeader {
        AudioHeader {
            language: Language::parse("pt-BR").unwrap(),
            segment_id: "s000007".into(),
            audio_seq: 3,
            format,
            sample_rate: 24_000,
            duration_ms: 2_180,
            start_ms: 14_200,
            last: true,
        }
    }

    #[test]
    fn the_message_is_the_contracts() {
        let message = encode(&header(AudioFormat::Mp3), b"sound");
        let json = br#"{"type":"audio","language":"pt-BR","segmentId":"s000007","audioSeq":3,"format":"mp3","sampleRate":24000,"durationMs":2180,"startMs":14200,"last":true}"#;
        assert_eq!(message[..4], (json.len() as u32).to_be_bytes());
        assert_eq!(message[4..4 + json.len()], json[..]);
        assert_eq!(&message[4 + json.len()..], b"sound");
    }

    #[test]
    fn what_is_no_audio_is_said_so() {
        for (message, why) in [
            (&b""[..], NotAudio::Cut),
            (b"\0\0\0", NotAudio::Cut),
            (b"\0\0\0\x09{}", NotAudio::Cut),
            (b"\xff\xff\xff\xff{}", NotAudio::LongHeader),
            (b"\0\0\0\x02{}", NotAudio::BadHeader),
            (b"\0\0\0\x10{\"type\":\"film\"}", NotAudio::Cut),
            (b"\0\0\0\x0f{\"type\":\"film\"}", NotAudio::BadHeader),
        ] {
            assert_eq!(decode(message), Err(why), "{message:?}");
        }
    }

    fn any_header() -> impl Strategy<Value = AudioHeader> {
        let format = prop::sample::select(vec![AudioFormat::Mp3, AudioFormat::Opus, AudioFormat::Pcm]);
        let numbers = (0u64..1 << 50, any::<u32>(), 0u64..1 << 50, 0u64..1 << 50, any::<bool>());
        (format, ".{0,40}", numbers).prop_map(
            |(format, segment_id, (audio_seq, sample_rate, duration_ms, start_ms, last))| AudioHeader {
                segment_id,
                audio_seq,
                sample_rate,
                duration_ms,
                start_ms,
                last,
                ..header(format)
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(header in any_header(), sound in prop::collection::vec(any::<u8>(), 0..500)) {
            let message = encode(&header, &sound);
            prop_assert_eq!(decode(&message), Ok((header, &sound[..])));
        }

        #[test]
        fn parts_are_the_whole_in_order(sound in prop::collection::vec(any::<u8>(), 0..500), part in 0usize..200) {
            let messages = encode_in_parts(&header(AudioFormat::Opus), &sound, part);
            let mut whole: Vec<u8> = Vec::new();
            for (n, message) in messages.iter().enumerate() {
                let (header, bytes) = decode(message).unwrap();
                prop_assert_eq!((header.audio_seq, header.last), (3 + n as u64, n + 1 == messages.len()));
                prop_assert!(bytes.len() <= part.max(1));
                whole.extend(bytes);
            }
            prop_assert_eq!(whole, sound);
        }

        #[test]
        fn no_message_panics(
            message in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..300, length in any::<[u8; 4]>(),
        ) {
            let _ = decode(&message);
            let mut ours = encode(&header(AudioFormat::Pcm), &message);
            ours.truncate(cut);
            let _ = decode(&ours);
            let _ = decode(&[&length[..], &message].concat());
        }
    }
}
