//! One sample rate to another, by windowed-sinc interpolation. Good enough for speech; not a mastering tool.

/// Zero crossings of the sinc on each side.
const WINGS: f64 = 12.0;

/// A streaming resampler. Between equal rates it passes samples through untouched.
pub(crate) struct Resampler {
    /// Both rates, without what they have in common.
    from: u64,
    to: u64,
    /// Input samples on each side that an output sample needs.
    reach: f64,
    /// For each place that an output sample can have between two of the input: the first input sample it needs, counted
    /// from the one before it, and the weights from there on.
    kernels: Vec<(i64, Vec<f32>)>,
    /// Input not yet used up; `base` is the index of its first sample in the stream.
    input: Vec<f32>,
    base: i64,
    /// Index of the next output sample.
    next: u64,
}

impl Resampler {
    pub(crate) fn new(from: u32, to: u32) -> Resampler {
        let (from, to) = (u64::from(from.max(1)), u64::from(to.max(1)));
        let common = common_divisor(from, to);
        let (from, to) = (from / common, to / common);
        // Below 1 when going down: the low-pass keeps what the lower rate can hold.
        let cutoff = (to as f64 / from as f64).min(1.0);
        let reach = WINGS / cutoff;
        let kernels = match from == to {
            true => Vec::new(),
            false => (0..to).map(|place| kernel(place as f64 / to as f64, cutoff, reach)).collect(),
        };
        Resampler { from, to, reach, kernels, input: Vec::new(), base: 0, next: 0 }
    }

    /// The whole of a sound at once.
    pub(crate) fn all(from: u32, to: u32, pcm: &[i16]) -> Vec<i16> {
        let mut resampler = Resampler::new(from, to);
        let mut out = Vec::new();
        resampler.push(pcm, &mut out);
        // The last samples wait for successors: silence.
        resampler.push(&vec![0; resampler.reach as usize + 2], &mut out);
        let length = pcm.len() as u64 * resampler.to / resampler.from;
        out.truncate(length as usize);
        out
    }

    /// Takes input and appends what can be computed of the output; the last few input samples wait for their successors.
    pub(crate) fn push(&mut self, pcm: &[i16], out: &mut Vec<i16>) {
        if self.from == self.to {
            out.extend_from_slice(pcm);
            return;
        }
        self.input.extend(pcm.iter().map(|&s| f32::from(s)));
        while self.centre() + self.reach < (self.base + self.input.len() as i64) as f64 {
            out.push(self.at_next());
            self.next += 1;
        }
        let used = ((self.centre() - self.reach).floor() as i64 - self.base).clamp(0, self.input.len() as i64);
        self.input.drain(..used as usize);
        self.base += used;
    }

    /// Where the next output sample lies among the input's.
    fn centre(&self) -> f64 {
        (self.next * self.from) as f64 / self.to as f64
    }

    fn at_next(&self) -> i16 {
        let position = self.next * self.from;
        let (offset, weights) = &self.kernels[(position % self.to) as usize];
        let first = (position / self.to) as i64 + offset - self.base;
        // Before the stream's first sample there was silence.
        let (skip, first) = (usize::try_from(-first).unwrap_or(0), usize::try_from(first).unwrap_or(0));
        let weighed = weights.iter().skip(skip).zip(&self.input[first..]);
        let sum: f32 = weighed.map(|(weight, sample)| weight * sample).sum();
        sum.round().clamp(f32::from(i16::MIN), f32::from(i16::MAX)) as i16
    }
}

/// The weights for an output sample `place` (0..1) behind an input sample.
fn kernel(place: f64, cutoff: f64, reach: f64) -> (i64, Vec<f32>) {
    let (first, last) = ((place - reach).ceil() as i64, (place + reach).floor() as i64);
    let weight = |index: i64| {
        let x = index as f64 - place;
        let phase = std::f64::consts::PI * x * cutoff;
        let sinc = if x == 0.0 { 1.0 } else { phase.sin() / phase };
        let hann = 0.5 + 0.5 * (std::f64::consts::PI * x / reach).cos();
        (sinc * hann * cutoff) as f32
    };
    (first, (first..=last).map(weight).collect())
}

fn common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::super::RATE;
    use super::*;

    fn tone(rate: u32, hz: f64, seconds: f64) -> Vec<i16> {
        let n = (f64::from(rate) * seconds) as usize;
        let step = std::f64::consts::TAU * hz / f64::from(rate);
        (0..n).map(|i| (8000.0 * (i as f64 * step).sin()) as i16).collect()
    }

    fn resampled(rate: u32, pcm: &[i16], chunk: usize) -> Vec<i16> {
        let (mut resampler, mut out) = (Resampler::new(rate, RATE), Vec::new());
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

    #[test]
    fn a_whole_sound_keeps_its_length() {
        for (from, to) in [(22_050, 16_000), (22_050, 24_000), (24_000, 8_000), (16_000, 16_000)] {
            let out = Resampler::all(from, to, &tone(from, 300.0, 0.5));
            let want = tone(to, 300.0, 0.5);
            assert!(out.len().abs_diff(want.len()) <= 1, "{from} to {to}: {}", out.len());
            let worst = out[200..want.len() - 200].iter().zip(&want[200..]).map(|(a, b)| (a - b).abs()).max();
            assert!(worst < Some(100), "{from} to {to}: {worst:?}");
        }
        assert!(Resampler::all(22_050, 16_000, &[]).is_empty());
    }
}
