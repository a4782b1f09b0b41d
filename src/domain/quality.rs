//! How the speaker's input sounds, measured in one cheap pass over the decoded samples.
//!
//! Absent on purpose: loudness after EBU R128, noise floor and echo; a meter and a clipping warning need none.

use crate::audio::{MediaTime, Origin, PcmFrame};

/// Samples at or beyond this magnitude count as clipped.
const CLIPPED: u16 = 32_700;

/// Below this level (dBFS) a frame counts as silent: a quiet room through a laptop's microphone is about -60.
const SILENT_DB: f32 = -50.0;

/// What a digital zero measures; -infinity helps nobody's meter.
pub const FLOOR_DB: f32 = -96.0;

/// One reading, about every 100 ms of audio.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AudioLevel {
    /// End of the window on the capture clock.
    pub at: MediaTime,
    /// Root mean square over the window, dBFS, [`FLOOR_DB`] to 0.
    pub rms_db: f32,
    /// Largest sample of the window, dBFS.
    pub peak_db: f32,
    /// Share of the window's samples that are clipped, 0 to 1.
    pub clipping: f32,
    /// For how long the input has been below -50 dBFS without a break, to the frame.
    pub silence_ms: u64,
    /// Share of the window that was really received (not concealed, corrected or filled), 0 to 1.
    pub received: f32,
}

/// Takes frames, gives readings.
#[derive(Debug, Default)]
pub struct Level {
    samples: u64,
    energy: u64,
    peak: u16,
    clipped: u64,
    received: u64,
    silent_since: Option<MediaTime>,
}

/// Samples after which a reading is due.
const WINDOW: u64 = (crate::audio::SAMPLE_RATE / 10) as u64;

impl Level {
    /// Measures one frame; a reading comes back when 100 ms are full.
    pub fn push(&mut self, frame: &PcmFrame) -> Option<AudioLevel> {
        let (mut energy, mut peak, mut clipped) = (0u64, 0u16, 0u64);
        for &sample in &frame.samples {
            let size = sample.unsigned_abs();
            energy += u64::from(size) * u64::from(size);
            peak = peak.max(size);
            clipped += u64::from(size >= CLIPPED);
        }
        let count = frame.samples.len() as u64;
        if decibels(energy, count) >= SILENT_DB {
            self.silent_since = None;
        } else if count > 0 {
            self.silent_since.get_or_insert(frame.at);
        }
        self.samples += count;
        self.energy = self.energy.saturating_add(energy);
        self.peak = self.peak.max(peak);
        self.clipped += clipped;
        self.received += if frame.origin == Origin::Received { count } else { 0 };
        if self.samples < WINDOW {
            return None;
        }
        let share = |part: u64| part as f32 / self.samples as f32;
        let level = AudioLevel {
            at: frame.end(),
            rms_db: decibels(self.energy, self.samples),
            peak_db: decibels(u64::from(self.peak) * u64::from(self.peak), 1),
            clipping: share(self.clipped),
            silence_ms: self.silent_since.map_or(0, |since| (frame.end() - since).as_millis()),
            received: share(self.received),
        };
        *self = Level { silent_since: self.silent_since, ..Level::default() };
        Some(level)
    }
}

/// dBFS of the mean of `energy` over `count` samples.
pub(crate) fn decibels(energy: u64, count: u64) -> f32 {
    if energy == 0 || count == 0 {
        return FLOOR_DB;
    }
    let mean = energy as f64 / count as f64 / (32_768.0 * 32_768.0);
    (10.0 * mean.log10()).clamp(f64::from(FLOOR_DB), 0.0) as f32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(at_ms: u64, samples: Vec<i16>) -> PcmFrame {
        PcmFrame { at: MediaTime::from_millis(at_ms), samples, origin: Origin::Received }
    }

    fn tone(amplitude: f64) -> Vec<i16> {
        (0..320).map(|i| (amplitude * (f64::from(i) * std::f64::consts::TAU / 32.0).sin()) as i16).collect()
    }

    fn readings(frames: impl IntoIterator<Item = Vec<i16>>) -> Vec<AudioLevel> {
        let mut level = Level::default();
        frames.into_iter().enumerate().filter_map(|(i, samples)| level.push(&frame(i as u64 * 20, samples))).collect()
    }

    #[test]
    fn a_sine_of_half_scale_reads_minus_nine_rms_and_minus_six_peak() {
        let levels = readings(vec![tone(16_384.0); 10]);
        assert_eq!(levels.len(), 2);
        assert_eq!(levels[1].at, MediaTime::from_millis(200));
        assert!((levels[0].rms_db + 9.03).abs() < 0.1, "{levels:?}");
        assert!((levels[0].peak_db + 6.02).abs() < 0.1, "{levels:?}");
        assert_eq!((levels[0].clipping, levels[0].silence_ms, levels[0].received), (0.0, 0, 1.0));
    }

    #[test]
    fn silence_is_measured_over_windows_and_ends_with_sound() {
        let levels = readings(vec![vec![0; 320]; 15].into_iter().chain(vec![tone(9_000.0); 5]));
        let silence: Vec<_> = levels.iter().map(|level| level.silence_ms).collect();
        assert_eq!(silence, [100, 200, 300, 0]);
        assert_eq!(levels[0].rms_db, FLOOR_DB);
    }

    #[test]
    fn a_square_wave_at_the_rails_is_clipping() {
        let rails: Vec<i16> = (0..320).map(|i| if i % 32 < 16 { i16::MAX } else { i16::MIN }).collect();
        assert_eq!(readings(vec![rails; 5])[0].clipping, 1.0);
    }

    #[test]
    fn concealed_audio_does_not_count_as_received() {
        let mut level = Level::default();
        let mut concealed = frame(0, vec![100; 800]);
        concealed.origin = Origin::Concealed;
        assert_eq!(level.push(&concealed), None);
        assert_eq!(level.push(&frame(50, vec![100; 800])).unwrap().received, 0.5);
    }

    proptest! {
        #[test]
        fn readings_stay_in_their_ranges(frames in prop::collection::vec(prop::collection::vec(any::<i16>(), 0..400), 0..12)) {
            for level in readings(frames) {
                prop_assert!((FLOOR_DB..=0.0).contains(&level.rms_db) && (FLOOR_DB..=0.0).contains(&level.peak_db));
                prop_assert!((0.0..=1.0).contains(&level.clipping) && level.rms_db <= level.peak_db + 0.01);
            }
        }
    }
}
