//! What a stretch of slices amounts to.

use super::loudness::lufs;
use super::{HOP, Slice};
use crate::audio::SAMPLE_RATE;
use crate::transcript::Word;

const SLICE_SECONDS: f32 = HOP as f32 / SAMPLE_RATE as f32;

/// Slices with a voice without which nothing is said about it: 100 ms.
const FEWEST: usize = 5;

/// A pitch farther than this (semitones) from the median of its stretch was found an octave off.
const OCTAVE_OFF: f32 = 10.0;

/// How a stretch of speech sounded.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Measure {
    /// LUFS, gated as EBU R128 gates (-70 absolute, then -10 relative), though over 20 ms and not 400; `None` if nothing
    /// was above the gate.
    pub loudness: Option<f32>,
    /// Seconds in which there was a voice.
    pub voiced_seconds: f32,
    /// The same as a share of what was heard, 0 to 1.
    pub voiced_ratio: f32,
    pub voice: Option<Voice>,
}

/// How the voice in it was. None of this depends on how loud it was.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Voice {
    /// Median, semitones above 100 Hz.
    pub pitch: f32,
    /// Standard deviation of the pitch, semitones.
    pub spread: f32,
    /// Semitones a second, by the least squares.
    pub slope: f32,
    /// Power in 1 to 4 kHz beside 50 Hz to 1 kHz, dB.
    pub tilt: f32,
    /// Octaves of the spectrum's centre above 100 Hz.
    pub centroid: f32,
    /// How alike neighbouring periods are, 0 to 1.
    pub clarity: f32,
}

impl Voice {
    /// How many numbers tell a voice.
    pub const FEATURES: usize = 6;

    pub fn features(&self) -> [f32; Self::FEATURES] {
        [self.pitch, self.spread, self.slope, self.tilt, self.centroid, self.clarity]
    }

    pub fn pitch_hz(&self) -> f32 {
        100.0 * (self.pitch / 12.0).exp2()
    }

    fn of<'a>(slices: impl Iterator<Item = (f32, &'a Slice)> + Clone) -> Option<Voice> {
        let mut pitches: Vec<f32> = slices.clone().map(|(pitch, _)| pitch).collect();
        if pitches.len() < FEWEST {
            return None;
        }
        let middle = pitches.len() / 2;
        let pitch = *pitches.select_nth_unstable_by(middle, f32::total_cmp).1;
        let kept = slices.filter(|(own, _)| (own - pitch).abs() < OCTAVE_OFF);
        let count = kept.clone().count() as f32;
        let mean =
            |of: fn(f32, &Slice) -> f32| kept.clone().map(|(pitch, slice)| of(pitch, slice)).sum::<f32>() / count;
        let seconds = |slice: &Slice| slice.at.as_micros() as f64 / 1e6;
        let middle_pitch = mean(|pitch, _| pitch);
        let middle_time = kept.clone().map(|(_, slice)| seconds(slice)).sum::<f64>() / f64::from(count);
        let (mut along, mut across, mut squares) = (0.0, 0.0, 0.0);
        for (pitch, slice) in kept.clone() {
            let (time, off) = ((seconds(slice) - middle_time) as f32, pitch - middle_pitch);
            along += time * off;
            across += time * time;
            squares += off * off;
        }
        Some(Voice {
            pitch,
            spread: (squares / count).sqrt(),
            slope: along / across.max(1e-3),
            tilt: mean(|_, slice| slice.shape.tilt),
            centroid: mean(|_, slice| slice.shape.centroid),
            clarity: mean(|_, slice| slice.clarity),
        })
    }
}

impl Measure {
    pub(super) fn of<'a>(slices: impl Iterator<Item = &'a Slice> + Clone) -> Measure {
        let voiced = slices.clone().filter_map(|slice| Some((12.0 * (slice.pitch? / 100.0).log2(), slice)));
        let (all, with_voice) = (slices.clone().count(), voiced.clone().count());
        Measure {
            loudness: gated(slices.map(|slice| slice.power)),
            voiced_seconds: with_voice as f32 * SLICE_SECONDS,
            voiced_ratio: with_voice as f32 / all.max(1) as f32,
            voice: Voice::of(voiced),
        }
    }
}

fn gated(powers: impl Iterator<Item = f32> + Clone) -> Option<f32> {
    let mean_above = |gate: f32| {
        let (sum, count) = powers
            .clone()
            .filter(|&power| lufs(power) > gate)
            .fold((0.0, 0.0), |(sum, count), power| (sum + power, count + 1.0));
        (count > 0.0).then(|| lufs(sum / count))
    };
    mean_above(mean_above(-70.0)? - 10.0)
}

/// Words a minute from the first to the last; `None` for fewer than three, or in no time.
pub fn pace(words: &[Word]) -> Option<f32> {
    let spoken = words.iter().filter(|word| !word.punctuation);
    let count = spoken.clone().count();
    let start = spoken.clone().map(|word| word.start).min()?;
    let end = spoken.map(|word| word.end).max()?;
    let minutes = (end - start).as_millis() as f32 / 60_000.0;
    (count >= 3 && minutes > 0.0).then(|| (count as f32 / minutes).min(1_000.0))
}
