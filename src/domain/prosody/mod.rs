//! How the speaker sounds, measured in one pass over the frames as they come, and asked for by time afterwards.
//!
//! Every 20 ms a slice of about 42 ms is measured: loudness, pitch, the lie of the spectrum. The last minute of slices is
//! kept, so that a sentence has its measure when the recogniser is done with it, which is seconds later.
//! Absent on purpose: jitter, shimmer and formants. They ask for clean audio, and audio that lost packets is not.

mod loudness;
mod measure;
mod pitch;
mod spectrum;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use crate::audio::{MediaTime, Origin, PcmFrame};
use loudness::KWeighting;
use spectrum::{Shape, Spectrum};

pub use loudness::FLOOR as LOUDNESS_FLOOR;
pub use measure::{Measure, Voice, pace};

/// Samples from slice to slice: 20 ms.
const HOP: usize = 320;

/// Slices kept: a minute, which no utterance outlasts. Slices are small, so that is 84 kB a session.
const KEPT: usize = 3_000;

/// The span of EBU R128's momentary loudness.
const MOMENT: MediaTime = MediaTime::from_millis(400);

/// A frame that begins this much beside the end of the one before it starts anew.
const TOLERANCE: MediaTime = MediaTime::from_millis(5);

/// What is less clear than this has no pitch. docs/EMOTION.md has how that compares with Praat.
const VOICED: f32 = 0.7;

/// Some 40 ms of sound.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Slice {
    /// Its first sample.
    at: MediaTime,
    /// Mean square of its first 20 ms, K-weighted, full scale 1.
    power: f32,
    /// Hz, where there is a voice.
    pitch: Option<f32>,
    /// 0 to 1.
    clarity: f32,
    shape: Shape,
}

/// Takes frames, keeps slices, answers for spans of them.
#[derive(Clone, Default)]
pub struct Prosody {
    weighting: KWeighting,
    spectrum: Spectrum,
    /// Full scale 1; the first ones are the next slice's.
    samples: Vec<f32>,
    /// When the first sample after the last silence or hole was captured, and how many slices have gone since.
    start: Option<MediaTime>,
    hops: u64,
    /// How many of `samples` there are up to the last one that the decoder made up.
    made_up: usize,
    slices: VecDeque<Slice>,
}

impl Prosody {
    /// Measures what becomes whole with this frame. Frames come in order; what comes again is ignored.
    pub fn push(&mut self, frame: &PcmFrame) {
        let due = self.time(self.samples.len());
        if due.is_some_and(|due| frame.at + TOLERANCE < due) {
            return;
        }
        if due.is_none_or(|due| frame.at > due + TOLERANCE) {
            self.samples.clear();
            (self.start, self.hops, self.made_up) = (Some(frame.at), 0, 0);
        }
        for part in frame.samples.chunks(HOP) {
            self.samples.extend(part.iter().map(|&sample| f32::from(sample) / 32_768.0));
            if matches!(frame.origin, Origin::Concealed | Origin::Silence) {
                self.made_up = self.samples.len();
            }
            while self.samples.len() >= pitch::WINDOW {
                self.measure();
            }
        }
    }

    /// How the speaker sounded from `start` to `end`, as far as it is kept.
    pub fn over(&self, start: MediaTime, end: MediaTime) -> Measure {
        let from = self.slices.partition_point(|slice| slice.at < start);
        let to = self.slices.partition_point(|slice| slice.at < end);
        Measure::of(self.slices.range(from..to.max(from)))
    }

    /// LUFS of the last 400 ms that were measured: EBU R128's momentary loudness. `None` before there were any.
    pub fn momentary(&self) -> Option<f32> {
        let last = self.slices.back()?.at;
        let recent = self.slices.iter().rev().take_while(|slice| slice.at + MOMENT > last);
        let (sum, count) = recent.fold((0.0, 0.0), |(sum, count), slice| (sum + slice.power, count + 1.0));
        Some(loudness::lufs(sum / count))
    }

    /// When the `sample`th of `samples` was captured.
    fn time(&self, sample: usize) -> Option<MediaTime> {
        Some(self.start? + MediaTime::from_samples(self.hops * HOP as u64 + sample as u64))
    }

    /// Turns the first 20 ms of `samples`, with what follows them, into a slice.
    fn measure(&mut self) {
        let power = self.weighting.power(&self.samples[..HOP]);
        // What the decoder made up says nothing about the speaker.
        if let Some(at) = self.time(0).filter(|_| self.made_up == 0) {
            let window = &self.samples[..pitch::WINDOW];
            let found = pitch::search(window);
            let pitch = found.filter(|found| found.clarity >= VOICED).map(|found| found.hz);
            // Nobody asks for the spectrum of what is no voice.
            let shape = pitch.and_then(|_| self.spectrum.shape(window)).unwrap_or_default();
            if self.slices.len() == KEPT {
                self.slices.pop_front();
            }
            self.slices.push_back(Slice { at, power, pitch, clarity: found.map_or(0.0, |found| found.clarity), shape });
        }
        self.samples.drain(..HOP);
        self.hops += 1;
        self.made_up = self.made_up.saturating_sub(HOP);
    }
}
