//! Any sample rate to 16 kHz, by windowed-sinc interpolation. Good enough for speech recognition; not a mastering tool.

use super::RATE;

/// Zero crossings of the sinc on each side.
const WINGS: f64 = 12.0;

/// A streaming resampler to [`RATE`]. At [`RATE`] it passes samples through untouched.
pub(super) struct Resampler {
    rate: u32,
    /// Input not yet used up; `base` is the index of its first sample in the stream.
    input: Vec<f32>,
    base: i64,
    /// Index of the next output sample.
    next: u64,
}

impl Resampler {
    pub(super) fn new(rate: u32) -> Resampler {
        Resampler { rate, input: Vec::new(), base: 0, next: 0 }
    }

    /// Takes input and appends what can be computed of the output; the last few input samples wait for their successors.
    pub(super) fn push(&mut self, pcm: &[i16], out: &mut Vec<i16>) {
        if self.rate == RATE {
            out.extend_from_slice(pcm);
            return;
        }
        self.input.extend(pcm.iter().map(|&s| f32::from(s)));
        // Below 1 when going down: the low-pass keeps what 16 kHz can hold.
        let cutoff = (f64::from(RATE) / f64::from(self.rate)).min(1.0);
        let reach = WINGS / cutoff;
        loop {
            let centre = self.next as f64 * f64::from(self.rate) / f64::from(RATE);
            if centre + reach >= (self.base + self.input.len() as i64) as f64 {
                break;
            }
            out.push(self.at(centre, cutoff, reach));
            self.next += 1;
        }
        let centre = self.next as f64 * f64::from(self.rate) / f64::from(RATE);
        let used = ((centre - reach).floor() as i64 - self.base).clamp(0, self.input.len() as i64);
        self.input.drain(..used as usize);
        self.base += used;
    }

    fn at(&self, centre: f64, cutoff: f64, reach: f64) -> i16 {
        let first = ((centre - reach).ceil() as i64).max(self.base);
        let last = (centre + reach).floor() as i64;
        let mut sum = 0.0;
        for index in first..=last {
            let x = index as f64 - centre;
            let sinc = if x == 0.0 {
                1.0
            } else {
                let phase = std::f64::consts::PI * x * cutoff;
                phase.sin() / phase
            };
            let hann = 0.5 + 0.5 * (std::f64::consts::PI * x / reach).cos();
            sum += f64::from(self.input[(index - self.base) as usize]) * sinc * hann * cutoff;
        }
        sum.round().clamp(f64::from(i16::MIN), f64::from(i16::MAX)) as i16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(rate: u32, hz: f64, seconds: f64) -> Vec<i16> {
        let n = (f64::from(rate) * seconds) as usize;
        let step = std::f64::consts::TAU * hz / f64::from(rate);
        (0..n).map(|i| (8000.0 * (i as f64 * step).sin()) as i16).collect()
    }

    fn resampled(rate: u32, pcm: &[i16], chunk: usize) -> Vec<i16> {
        let (mut resampler, mut out) = (Resampler::new(rate), Vec::new());
        pcm.chunks(chunk).for_each(|c| resampler.push(c, &mut out));
        out
    }

    #[test]
    fn a_tone_keeps_its_pitch_level_and_time_from_8_44_1_and_48_khz() {
        for rate in [8_000, 44_100, 48_000] {
            let out = resampled(rate, &tone(rate, 440.0, 0.5), 777);
            let want = tone(RATE, 440.0, 0.5);
            assert!(out.len() > 7_900 && out.len() <= 8_000, "{rate}: {}", out.len());
            let worst = out[200..7_800].iter().zip(&want[200..]).map(|(a, b)| (a - b).abs()).max();
            assert!(worst < Some(100), "{rate}: {worst:?}");
        }
    }

    #[test]
    fn what_16_khz_cannot_hold_is_filtered_out_and_chunking_does_not_matter() {
        let pcm = tone(48_000, 11_000.0, 0.3);
        let out = resampled(48_000, &pcm, 480);
        assert!(out[200..].iter().all(|s| s.abs() < 200));
        assert_eq!(out, resampled(48_000, &pcm, 4_801));
    }
}
