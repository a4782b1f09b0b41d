//! Slow gain control: brings a speaker's voice to the level the acoustic model was trained on. A copy of a recording at
//! -50 dBFS costs PocketSphinx 26 points of word error rate otherwise.

/// Level aimed at, as RMS of voiced frames relative to full scale.
const TARGET_DB: f32 = -20.0;
const MOST_DB: f32 = 30.0;
const LEAST_DB: f32 = -12.0;
/// Voiced frames (16 ms) the level is averaged over, about 3 s of speech.
const MEMORY: f32 = 190.0;

/// Learns the level from voiced frames and applies the gain without steps.
#[derive(Default)]
pub(super) struct Gain {
    mean_square: f32,
    voiced: f32,
    applied: Option<f32>,
}

impl Gain {
    /// Learns from a frame that holds speech.
    pub(super) fn learn(&mut self, frame: &[i16]) {
        self.voiced = (self.voiced + 1.0).min(MEMORY);
        self.mean_square += (mean_square(frame) - self.mean_square) / self.voiced;
    }

    /// Amplifies samples in place, gliding from the last gain to the present one.
    pub(super) fn apply(&mut self, samples: &mut [i16]) {
        let to = self.factor();
        let from = self.applied.replace(to).unwrap_or(to);
        let step = (to - from) / samples.len().max(1) as f32;
        for (i, sample) in samples.iter_mut().enumerate() {
            // `as` saturates, which is the clipping wanted here.
            *sample = (f32::from(*sample) * (from + step * i as f32)) as i16;
        }
    }

    fn factor(&self) -> f32 {
        if self.mean_square < 1.0 {
            return 1.0;
        }
        let level_db = 10.0 * (self.mean_square / (32_768.0 * 32_768.0)).log10();
        10f32.powf((TARGET_DB - level_db).clamp(LEAST_DB, MOST_DB) / 20.0)
    }
}

/// Mean square of 16-bit samples.
pub(super) fn mean_square(samples: &[i16]) -> f32 {
    samples.iter().map(|&s| f32::from(s) * f32::from(s)).sum::<f32>() / samples.len().max(1) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(amplitude: i16) -> f32 {
        let mut gain = Gain::default();
        let frame = [amplitude; 256];
        (0..50).for_each(|_| gain.learn(&frame));
        let mut out = frame;
        gain.apply(&mut out);
        gain.apply(&mut out);
        gain.apply(&mut out[..0]);
        let mut out = frame;
        gain.apply(&mut out);
        f32::from(out[255])
    }

    #[test]
    fn quiet_and_loud_voices_meet_at_the_target_within_limits() {
        let target = 32_768.0 * 10f32.powf(TARGET_DB / 20.0);
        assert!((after(300) - target).abs() < 30.0);
        assert!((after(8_000) - target).abs() < 30.0);
        assert!((after(10) - 316.0).abs() < 2.0, "at most 30 dB");
        assert!((after(32_000) - 8_038.0).abs() < 30.0, "at least -12 dB");
    }

    #[test]
    fn silence_teaches_nothing_and_loud_peaks_clip_instead_of_wrapping() {
        let mut gain = Gain::default();
        let mut samples = [1_000, -1_000];
        gain.apply(&mut samples);
        assert_eq!(samples, [1_000, -1_000]);
        (0..9).for_each(|_| gain.learn(&[100; 256]));
        let mut peak = [30_000, i16::MIN];
        gain.applied = None;
        gain.apply(&mut peak);
        assert_eq!(peak, [i16::MAX, i16::MIN]);
    }
}
