//! Event-stream frames as any client may send them to Transcribe, cut anywhere: no panic, no pile, and what is cut from
//! them does not depend on where the pieces were cut.

#![no_main]

use libfuzzer_sys::fuzz_target;
use local_cloud::transcribe::frames::{FrameError, FrameReader, MAX_FRAME, client_event};

fuzz_target!(|input: (u16, Vec<u8>)| {
    let (size, wire) = input;
    let whole = read([&wire[..]].into_iter());
    let pieces = read(wire.chunks(usize::from(size).max(1)));
    assert_eq!(whole, pieces);
});

/// Payload lengths of the frames in order, and how it ended.
fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<usize>, Option<FrameError>) {
    let mut reader = FrameReader::default();
    let mut seen = Vec::new();
    for piece in pieces {
        reader.push(piece);
        loop {
            match reader.next_frame() {
                Ok(Some(frame)) => {
                    assert!(frame.payload().len() <= MAX_FRAME);
                    seen.push(frame.payload().len());
                    let _ = client_event(&frame);
                }
                Ok(None) => break,
                Err(error) => return (seen, Some(error)),
            }
        }
    }
    (seen, None)
}
