//! How the speaker's microphone sounds, and what is worth a warning.
//!
//! The noise floor and the voice are told apart by how loud the input is most quietly and most loudly within a few
//! seconds: pauses between words show the floor, words the voice. Thresholds stand where real recordings leave a gap:
//! 10 dB of noise or babble against clean ones, -50 dBFS against quiet ones. Every warning must hold for a while before
//! it is given and be gone for a while before it is taken back, so that none flickers.

use std::collections::{BTreeSet, VecDeque};

use crate::audio::{MediaTime, Origin, PcmFrame, SAMPLE_RATE};
use crate::quality::{AudioLevel, FLOOR_DB, Level, decibels};
use crate::wire::{AudioWarning, QualityReport};

/// Samples of a slice (20 ms): short enough to fall into the gaps between words.
const SLICE: usize = (SAMPLE_RATE / 50) as usize;
/// Slices the floor and the voice are looked for in: 8 s hold a pause even of who reads fast.
const SLICES: usize = 400;
/// Before so many slices (2 s) nothing is estimated.
const SLICES_LEAST: usize = 100;
/// Slices of voice (0.8 s) an estimate needs; with fewer the one before stands.
const VOICED_LEAST: u32 = 40;
/// A slice so far above the floor has voice in it.
const VOICED_DB: usize = 6;
/// Steady sound as loud as this is noise, whether somebody speaks or not.
const LOUD_FLOOR_DB: f32 = -40.0;
/// What is quieter is the room, not a voice.
const FAINTEST_VOICE_DB: f32 = -58.0;

/// Readings (100 ms) of the window for level, peak and clipping.
const READINGS: usize = 10;

/// Voice above noise: recordings with 10 dB of noise read 12 to 17, clean ones from 19 on.
const NOISY_DB: f32 = 18.0;
const CLEAN_DB: f32 = 21.0;
/// Level of the voice: recordings at -50 dBFS read -48, the quietest good one -38.
const TOO_QUIET_DB: f32 = -42.0;
const LOUD_ENOUGH_DB: f32 = -39.0;
/// Share of samples at the rails within a second: clean recordings stay below 0.0003.
const CLIPPING: f32 = 0.005;
const NOT_CLIPPING: f32 = 0.001;
/// Nothing above -50 dBFS for longer than anybody pauses ...
const SILENT_MS: u64 = 8_000;
/// ... or nothing at all, which no living microphone gives.
const DEAD_MS: u64 = 2_500;
const HEARD_AGAIN_MS: u64 = 1_000;
/// Words a minute: most people read aloud at 150 to 180, and interpreters ask for less than 140.
const TOO_FAST: f32 = 200.0;
const NOT_TOO_FAST: f32 = 180.0;
/// Speech the pace is measured over.
const PACE_MS: u64 = 15_000;

/// After such a gap between two frames silence is counted anew.
const PAUSE: MediaTime = MediaTime::from_millis(1_000);

/// A report without news.
const REPORT_EVERY: MediaTime = MediaTime::from_millis(5_000);
/// A report with news: at most so often.
const NEWS_EVERY: MediaTime = MediaTime::from_millis(1_000);

/// Takes the frames as they come, gives readings and reports.
#[derive(Debug, Default)]
pub struct Microphone {
    level: Level,
    spread: Spread,
    recent: VecDeque<AudioLevel>,
    snr_db: Option<f32>,
    voice_db: Option<f32>,
    /// Of the frame before.
    end: MediaTime,
    /// Since when there was not one sample but zero.
    dead_since: Option<MediaTime>,
    warnings: Warnings,
    reported: Option<(MediaTime, BTreeSet<AudioWarning>)>,
}

/// What a frame brought to light.
#[derive(Debug, Default)]
pub struct Reading {
    /// Every 100 ms.
    pub level: Option<AudioLevel>,
    /// Once a second when the warnings have changed, otherwise every 5 s.
    pub report: Option<QualityReport>,
}

impl Microphone {
    pub fn push(&mut self, frame: &PcmFrame) -> Reading {
        if frame.at > self.end + PAUSE {
            // Nothing came for a while, which is not the silence of a microphone.
            (self.level, self.dead_since) = (Level::default(), None);
            self.recent.clear();
        }
        self.end = frame.end();
        // What the decoder made up says nothing about the microphone.
        if matches!(frame.origin, Origin::Received | Origin::Corrected) {
            for slice in frame.samples.chunks(SLICE) {
                let energy = slice.iter().map(|sample| u64::from(sample.unsigned_abs()).pow(2)).sum();
                self.spread.push(decibels(energy, slice.len() as u64));
            }
            if frame.samples.iter().any(|sample| *sample != 0) {
                self.dead_since = None;
            } else {
                self.dead_since.get_or_insert(frame.at);
            }
        }
        let level = self.level.push(frame);
        let report = level.and_then(|level| self.judge(level));
        Reading { level, report }
    }

    fn judge(&mut self, level: AudioLevel) -> Option<QualityReport> {
        self.recent.push_back(level);
        if self.recent.len() > READINGS {
            self.recent.pop_front();
        }
        if let Some((voice, snr)) = self.spread.estimate() {
            (self.voice_db, self.snr_db) = (Some(voice), Some(snr));
        }
        let dead_ms = self.dead_since.map_or(0, |since| (level.at - since).as_millis());
        let silent = level.silence_ms >= SILENT_MS || dead_ms >= DEAD_MS;
        let above =
            |value: Option<f32>, low: f32, high: f32| value.map_or(Sign::Unclear, |value| sign(value, low, high));
        let heard = level.silence_ms < HEARD_AGAIN_MS;
        let signs = [
            (AudioWarning::Clipping, sign(-self.clipping(), -CLIPPING, -NOT_CLIPPING)),
            (AudioWarning::TooQuiet, above(self.voice_db, TOO_QUIET_DB, LOUD_ENOUGH_DB)),
            (AudioWarning::Noisy, above(self.snr_db, NOISY_DB, CLEAN_DB)),
            (
                AudioWarning::Silent,
                if silent {
                    Sign::Bad
                } else if heard {
                    Sign::Good
                } else {
                    Sign::Unclear
                },
            ),
        ];
        for (warning, sign) in signs {
            self.warnings.see(level.at, warning, sign);
        }
        let now = self.warnings.given();
        let due = self
            .reported
            .as_ref()
            .is_none_or(|(at, told)| level.at >= *at + if *told == now { REPORT_EVERY } else { NEWS_EVERY });
        if !due || self.recent.len() < READINGS {
            return None;
        }
        self.reported = Some((level.at, now.clone()));
        Some(self.report(level, now))
    }

    fn report(&self, level: AudioLevel, warnings: BTreeSet<AudioWarning>) -> QualityReport {
        let mean: f32 = self.recent.iter().map(|one| 10f32.powf(one.rms_db / 10.0)).sum::<f32>() / READINGS as f32;
        let tenth = |value: f32| (value * 10.0).round() / 10.0;
        QualityReport {
            rms_db: tenth((10.0 * mean.log10()).clamp(FLOOR_DB, 0.0)),
            peak_db: tenth(self.recent.iter().map(|one| one.peak_db).fold(FLOOR_DB, f32::max)),
            snr_db: self.snr_db,
            clipping_ratio: self.clipping(),
            silence_ms: level.silence_ms,
            warnings: warnings.into_iter().collect(),
        }
    }

    /// Over the last second.
    fn clipping(&self) -> f32 {
        self.recent.iter().map(|one| one.clipping).sum::<f32>() / READINGS as f32
    }
}

/// How loud the last seconds were, slice by slice: a histogram in steps of 1 dB.
#[derive(Debug)]
struct Spread {
    slices: VecDeque<u8>,
    counts: [u32; STEPS],
}

/// From [`FLOOR_DB`] to 0.
const STEPS: usize = 97;

impl Default for Spread {
    fn default() -> Self {
        Spread { slices: VecDeque::with_capacity(SLICES + 1), counts: [0; STEPS] }
    }
}

impl Spread {
    fn push(&mut self, db: f32) {
        let step = (db - FLOOR_DB).round().clamp(0.0, (STEPS - 1) as f32) as u8;
        self.slices.push_back(step);
        self.counts[usize::from(step)] += 1;
        if self.slices.len() > SLICES
            && let Some(oldest) = self.slices.pop_front()
        {
            self.counts[usize::from(oldest)] -= 1;
        }
    }

    /// Level of the voice (dBFS) and how far it stands above the noise (dB); `None` while there is no telling.
    fn estimate(&self) -> Option<(f32, f32)> {
        if self.slices.len() < SLICES_LEAST {
            return None;
        }
        let floor = self.quantile(0, 0.10);
        let voiced: u32 = self.counts.iter().skip(floor + VOICED_DB + 1).sum();
        let (voice, floor) = if voiced >= VOICED_LEAST {
            (self.quantile(floor + VOICED_DB + 1, 0.75), floor)
        } else if in_db(floor) > LOUD_FLOOR_DB {
            (self.quantile(0, 0.90), floor)
        } else {
            return None;
        };
        (in_db(voice) >= FAINTEST_VOICE_DB).then(|| (in_db(voice), (voice - floor) as f32))
    }

    /// The step below which this share of the slices from `least` on lies.
    fn quantile(&self, least: usize, share: f32) -> usize {
        let total: u32 = self.counts.iter().skip(least).sum();
        let mut left = (total as f32 * share) as u32;
        for (step, count) in self.counts.iter().enumerate().skip(least) {
            if left < *count {
                return step;
            }
            left -= count;
        }
        STEPS - 1
    }
}

fn in_db(step: usize) -> f32 {
    FLOOR_DB + step as f32
}

/// What a reading says about a warning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    Bad,
    Good,
    /// In between, or not to be known: all stays as it is.
    Unclear,
}

fn sign(value: f32, bad_below: f32, good_above: f32) -> Sign {
    if value < bad_below {
        Sign::Bad
    } else if value > good_above {
        Sign::Good
    } else {
        Sign::Unclear
    }
}

/// Which warnings are given: each enters and leaves when its sign has held long enough.
#[derive(Debug, Default)]
pub struct Warnings {
    gates: Vec<Gate>,
}

#[derive(Debug)]
struct Gate {
    warning: AudioWarning,
    given: bool,
    /// Since when the signs say otherwise.
    otherwise_since: Option<MediaTime>,
}

impl Warnings {
    fn given(&self) -> BTreeSet<AudioWarning> {
        self.gates.iter().filter(|gate| gate.given).map(|gate| gate.warning).collect()
    }

    fn see(&mut self, at: MediaTime, warning: AudioWarning, sign: Sign) {
        let index = self.gates.iter().position(|gate| gate.warning == warning).unwrap_or_else(|| {
            self.gates.push(Gate { warning, given: false, otherwise_since: None });
            self.gates.len() - 1
        });
        let gate = &mut self.gates[index];
        if sign != if gate.given { Sign::Good } else { Sign::Bad } {
            gate.otherwise_since = None;
            return;
        }
        let since = *gate.otherwise_since.get_or_insert(at);
        if at - since >= holds(warning, gate.given) {
            gate.given = !gate.given;
            gate.otherwise_since = None;
        }
    }
}

/// How long a sign must hold before a warning is given, or taken back when it is `given`.
const fn holds(warning: AudioWarning, given: bool) -> MediaTime {
    MediaTime::from_millis(match (warning, given) {
        // Longer than the window: one pop is not clipping.
        (AudioWarning::Clipping, false) => 1_200,
        (AudioWarning::TooQuiet | AudioWarning::Noisy, false) => 3_000,
        // The silence itself was long enough, and any sound ends it.
        (AudioWarning::Silent, _) | (AudioWarning::TooFast, _) => 0,
        (AudioWarning::TooQuiet, true) => 3_000,
        (AudioWarning::Clipping | AudioWarning::Noisy, true) => 5_000,
    })
}

/// How fast the speaker speaks, out of the finals.
#[derive(Debug, Default)]
pub struct Pace {
    /// Words and milliseconds.
    finals: VecDeque<(u64, u64)>,
    too_fast: bool,
}

impl Pace {
    /// One more final; answers with whether the speaker is too fast.
    pub fn push(&mut self, words: u64, ms: u64) -> bool {
        self.finals.push_back((words, ms));
        let sum = |finals: &VecDeque<(u64, u64)>| finals.iter().fold((0, 0), |(w, t), (words, ms)| (w + words, t + ms));
        while self.finals.len() > 1 && sum(&self.finals).1 - self.finals[0].1 >= PACE_MS {
            self.finals.pop_front();
        }
        let (words, ms) = sum(&self.finals);
        if ms >= PACE_MS {
            let per_minute = words as f32 * 60_000.0 / ms as f32;
            self.too_fast = per_minute > if self.too_fast { NOT_TOO_FAST } else { TOO_FAST };
        }
        self.too_fast
    }

    pub fn is_too_fast(&self) -> bool {
        self.too_fast
    }
}

#[cfg(test)]
mod tests;
