//! The capture clock and the one form audio has after decoding: 16 kHz mono, signed 16 bit.

use std::ops::{Add, Sub};

/// Samples per second of every [`PcmFrame`]. Opus decodes to it directly and Transcribe asks for it.
pub const SAMPLE_RATE: u32 = 16_000;

/// A position on the capture clock: microseconds since the session's first audio.
///
/// It never stops and never goes back: time in which the speaker was away counts, so a caption's
/// `startMs` keeps its meaning over reconnects of the ear and of the recogniser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MediaTime(u64);

impl MediaTime {
    pub const ZERO: MediaTime = MediaTime(0);

    pub const fn from_micros(micros: u64) -> Self {
        MediaTime(micros)
    }

    pub const fn from_millis(millis: u64) -> Self {
        MediaTime(millis.saturating_mul(1_000))
    }

    /// Duration of `count` samples at [`SAMPLE_RATE`].
    pub const fn from_samples(count: u64) -> Self {
        MediaTime(count.saturating_mul(1_000_000) / SAMPLE_RATE as u64)
    }

    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Whole milliseconds, the unit on the wire (`startMs`, `endMs`).
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000
    }

    /// Samples at [`SAMPLE_RATE`] that fit into this time.
    pub const fn as_samples(self) -> u64 {
        self.0.saturating_mul(SAMPLE_RATE as u64) / 1_000_000
    }

    pub const fn saturating_sub(self, other: MediaTime) -> MediaTime {
        MediaTime(self.0.saturating_sub(other.0))
    }
}

impl Add for MediaTime {
    type Output = MediaTime;
    fn add(self, other: MediaTime) -> MediaTime {
        MediaTime(self.0.saturating_add(other.0))
    }
}

impl Sub for MediaTime {
    type Output = MediaTime;
    fn sub(self, other: MediaTime) -> MediaTime {
        self.saturating_sub(other)
    }
}

/// How the samples of a frame came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Decoded from a packet that arrived.
    Received,
    /// Rebuilt from the forward error correction in the packet after it.
    Corrected,
    /// Guessed by the decoder's packet loss concealment.
    Concealed,
    /// Zeros, where concealing any longer would only invent sound.
    Silence,
}

/// A few milliseconds of the speaker's voice (2.5 to 120 ms, normally 20), mono at [`SAMPLE_RATE`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PcmFrame {
    /// When the first sample was captured.
    pub at: MediaTime,
    pub samples: Vec<i16>,
    pub origin: Origin,
}

impl PcmFrame {
    pub fn duration(&self) -> MediaTime {
        MediaTime::from_samples(self.samples.len() as u64)
    }

    /// When the sample after the last one is due.
    pub fn end(&self) -> MediaTime {
        self.at + self.duration()
    }

    /// Little-endian bytes, as Transcribe takes them.
    pub fn to_le_bytes(&self) -> Vec<u8> {
        self.samples.iter().flat_map(|sample| sample.to_le_bytes()).collect()
    }
}
