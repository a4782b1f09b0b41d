//! Opus in Ogg (RFC 3533, RFC 7845): streams without end for players, and whole clips.
//!
//! Every client has a stream of its own, whose clock begins at zero when the client comes: players take a stream that
//! begins in the middle for one that lost its beginning. Only pages are made a client, never packets. The pages
//! themselves are the `ogg` crate's work.

use std::sync::Arc;

use bytes::Bytes;
use ogg::{PacketWriteEndInfo, PacketWriter};

use super::dub::{Block, Blocks, FRAME_TICKS};

/// Ticks a decoder that comes in the middle throws away while it finds its way (RFC 7845, 4.6): 80 ms.
const PRE_SKIP: u16 = 3_840;

/// Who made the stream, as the comment header wants to know.
const VENDOR: &str = "babelcast";

/// One client's Ogg stream.
pub struct OggStream {
    writer: PacketWriter<'static, Vec<u8>>,
    serial: u32,
    granule: u64,
}

impl OggStream {
    /// A stream of 20 ms mono packets, whose two header pages go first. `rate` is samples a second of the original
    /// sound, `serial` any number, `pre_skip` the ticks at the beginning that are not to be heard.
    fn new(serial: u32, rate: u32, pre_skip: u16, language: &str) -> Self {
        let mut stream = OggStream { writer: PacketWriter::new(Vec::new()), serial, granule: 0 };
        stream.write(head(rate, pre_skip), PacketWriteEndInfo::EndPage, 0);
        stream.write(tags(language), PacketWriteEndInfo::EndPage, 0);
        stream
    }

    fn write(&mut self, packet: Vec<u8>, end: PacketWriteEndInfo, granule: u64) {
        self.writer.write_packet(packet, self.serial, end, granule).expect("a vector takes everything");
    }

    /// The packets as one page, after whatever was not taken yet.
    fn page(&mut self, payloads: &[Bytes]) -> Bytes {
        for (n, payload) in payloads.iter().enumerate() {
            let last = n + 1 == payloads.len();
            self.granule += u64::from(FRAME_TICKS);
            let end = if last { PacketWriteEndInfo::EndPage } else { PacketWriteEndInfo::NormalPacket };
            self.write(payload.to_vec(), end, self.granule);
        }
        self.take()
    }

    fn take(&mut self) -> Bytes {
        std::mem::take(self.writer.inner_mut()).into()
    }
}

/// A language's sound as a stream that does not end while the language is on the air.
pub struct Endless {
    stream: OggStream,
    blocks: Blocks,
}

impl Endless {
    /// `rate` is the dub's, `language` goes into the stream's comments.
    pub fn new(blocks: Blocks, rate: u32, language: &str) -> Self {
        Endless { stream: OggStream::new(rand::random(), rate, PRE_SKIP, language), blocks }
    }

    /// The next bytes: headers and the last second at first, then a page every 200 ms. None: the language is off the
    /// air. A client that does not take them loses sound, not its place: what follows continues the stream.
    pub async fn next(&mut self) -> Option<Bytes> {
        let block: Arc<Block> = self.blocks.next().await?;
        Some(self.stream.page(&block.payloads))
    }
}

/// A whole clip: its packets, and the samples at `rate` it had before it was encoded with `lookahead` samples' delay.
pub fn clip(payloads: &[Bytes], rate: u32, samples: usize, lookahead: usize, language: &str) -> Bytes {
    let ticks = |samples: usize| samples as u64 * 48_000 / u64::from(rate);
    let pre_skip = ticks(lookahead) as u16;
    let mut stream = OggStream::new(rand::random(), rate, pre_skip, language);
    let end = ticks(samples) + u64::from(pre_skip);
    for (n, payload) in payloads.iter().enumerate() {
        stream.granule += u64::from(FRAME_TICKS);
        // The last page's clock says where the sound ends within its packet.
        match (n + 1 == payloads.len(), (n + 1) % 50 == 0) {
            (true, _) => stream.write(payload.to_vec(), PacketWriteEndInfo::EndStream, end.min(stream.granule)),
            (false, true) => stream.write(payload.to_vec(), PacketWriteEndInfo::EndPage, stream.granule),
            (false, false) => stream.write(payload.to_vec(), PacketWriteEndInfo::NormalPacket, stream.granule),
        }
    }
    stream.take()
}

/// The packets of a whole Ogg/Opus file, and the ticks at its beginning that are not to be heard.
///
/// # Errors
/// [`NotOpus`], for what is no such file or was cut.
pub fn packets(file: &[u8]) -> Result<(Vec<Vec<u8>>, u16), NotOpus> {
    let mut reader = ogg::PacketReader::new(std::io::Cursor::new(file));
    let mut next = || reader.read_packet().map_err(|_| NotOpus).map(|packet| packet.map(|packet| packet.data));
    let head = next()?.ok_or(NotOpus)?;
    let pre_skip = head.get(10..12).filter(|_| head.starts_with(b"OpusHead")).ok_or(NotOpus)?;
    let pre_skip = u16::from_le_bytes([pre_skip[0], pre_skip[1]]);
    if !next()?.is_some_and(|tags| tags.starts_with(b"OpusTags")) {
        return Err(NotOpus);
    }
    let mut packets = Vec::new();
    while let Some(packet) = next()? {
        packets.push(packet);
    }
    Ok((packets, pre_skip))
}

/// The bytes are no Ogg/Opus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a whole Ogg/Opus file")]
pub struct NotOpus;

/// The identification header (RFC 7845, 5.1): mono, no gain.
fn head(rate: u32, pre_skip: u16) -> Vec<u8> {
    let mut head = b"OpusHead\x01\x01".to_vec();
    head.extend(pre_skip.to_le_bytes());
    head.extend(rate.to_le_bytes());
    head.extend([0, 0, 0]);
    head
}

/// The comment header (5.2).
fn tags(language: &str) -> Vec<u8> {
    let comment = format!("LANGUAGE={language}");
    let mut tags = b"OpusTags".to_vec();
    tags.extend((VENDOR.len() as u32).to_le_bytes());
    tags.extend(VENDOR.as_bytes());
    tags.extend(1u32.to_le_bytes());
    tags.extend((comment.len() as u32).to_le_bytes());
    tags.extend(comment.as_bytes());
    tags
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use ogg::PacketReader;
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8]) -> Vec<ogg::Packet> {
        let mut reader = PacketReader::new(Cursor::new(bytes));
        std::iter::from_fn(|| reader.read_packet().unwrap()).collect()
    }

    #[test]
    fn the_headers_are_what_rfc_7845_wants() {
        let mut stream = OggStream::new(7, 24_000, PRE_SKIP, "pt-BR");
        let packets = read(&stream.take());
        assert_eq!(packets[0].data, b"OpusHead\x01\x01\x00\x0f\xc0\x5d\x00\x00\x00\x00\x00");
        assert!(packets[0].first_in_stream() && packets[0].last_in_page() && packets[0].absgp_page() == 0);
        assert_eq!(packets[1].data, b"OpusTags\x09\0\0\0babelcast\x01\0\0\0\x0e\0\0\0LANGUAGE=pt-BR");
        assert!(packets[1].first_in_page() && packets[1].last_in_page());
    }

    proptest! {
        #[test]
        fn whatever_is_written_is_read_back_on_an_unbroken_clock(
            pages in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 1..600), 1..12), 1..12),
        ) {
            let mut stream = OggStream::new(9, 16_000, PRE_SKIP, "es");
            let mut bytes = Vec::new();
            for page in &pages {
                let page: Vec<Bytes> = page.iter().cloned().map(Bytes::from).collect();
                bytes.extend(stream.page(&page));
            }
            let packets = read(&bytes);
            let given: Vec<_> = pages.iter().flatten().cloned().collect();
            let back: Vec<_> = packets[2..].iter().map(|packet| packet.data.clone()).collect();
            prop_assert_eq!(back, given);
            let mut ticks = 0;
            for (page, packet) in pages.iter().flat_map(|page| page.iter().enumerate().map(move |(n, _)| (n + 1 == page.len(), n))).map(|(last, _)| last).zip(&packets[2..]) {
                ticks += u64::from(FRAME_TICKS);
                prop_assert_eq!(packet.last_in_page(), page);
                if page {
                    prop_assert_eq!(packet.absgp_page(), ticks);
                }
                prop_assert!(!packet.last_in_stream());
            }
        }

        #[test]
        fn no_file_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = packets(&bytes);
        }

        #[test]
        fn no_cut_or_damaged_file_panics(at in 0usize..2_000, flip in any::<u8>(), cut in any::<bool>()) {
            let payloads: Vec<Bytes> = (0..40u8).map(|n| Bytes::from(vec![n; 40])).collect();
            let mut file = clip(&payloads, 24_000, 40 * 480 - 312, 312, "es").to_vec();
            let at = at % file.len();
            if cut { file.truncate(at) } else { file[at] ^= flip }
            let _ = packets(&file);
        }
    }

    #[test]
    fn a_clip_says_where_its_sound_begins_and_ends() {
        let payloads: Vec<Bytes> = (0..120u8).map(|n| Bytes::from(vec![n; 50])).collect();
        let file = clip(&payloads, 24_000, 119 * 480 + 100, 312, "es");
        let read = read(&file);
        let last = read.last().unwrap();
        assert!(last.last_in_stream());
        assert_eq!(last.absgp_page(), (119 * 480 + 100) * 2 + 624);
        let (back, pre_skip) = packets(&file).unwrap();
        assert_eq!((back.len(), pre_skip), (120, 624));
        assert!(back.iter().zip(&payloads).all(|(a, b)| a[..] == b[..]));
    }
}
