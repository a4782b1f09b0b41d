//! The fundamental frequency of a short window, by YIN (de Cheveigné and Kawahara, 2002).
//!
//! Written here and not taken from a crate: `pitch-detection` is unkept since 2022 and allocates for every window, `pyin`
//! looks ahead over the whole recording and brings a matrix library; the method itself is the fifty lines below. At 8 kHz
//! the direct sum is cheaper than two Fourier transforms at 16 kHz.

/// Samples per second the search runs at: half of what comes in.
const RATE: f32 = 8_000.0;

/// 615 Hz and 60 Hz: beyond what people speak with, when they shout and when they grumble.
const SHORTEST: usize = 13;
const LONGEST: usize = 133;

/// Samples compared at each lag: 25 ms.
const SUM: usize = 200;

/// Samples at 16 kHz that one search needs (41.9 ms): the compared ones, the longest lag with one beyond it for
/// the parabola, and the filter's reach.
pub const WINDOW: usize = 2 * HALF + TAPS.len() - 1;
const HALF: usize = SUM + LONGEST + 1;

/// The first dip below this is the period; without one the deepest counts.
const DIP: f32 = 0.15;

/// Half-band low-pass in front of the halving; sums to 1.
const TAPS: [f32; 7] = [-1.0 / 32.0, 0.0, 9.0 / 32.0, 0.5, 9.0 / 32.0, 0.0, -1.0 / 32.0];

/// What the search found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pitch {
    /// 60 to 615.
    pub hz: f32,
    /// How alike neighbouring periods are: 1 for a tone, about 0 for noise.
    pub clarity: f32,
}

/// The best period in `window` ([`WINDOW`] samples at 16 kHz); `None` for silence and what is shorter.
pub fn search(window: &[f32]) -> Option<Pitch> {
    let x = halved(window)?;
    let dips = normalised(&x)?;
    let lag = period(&dips);
    let (before, here, after) = (dips[lag - 1], dips[lag], dips[lag + 1]);
    let bend = before - 2.0 * here + after;
    let shift = if bend > f32::EPSILON { (0.5 * (before - after) / bend).clamp(-0.5, 0.5) } else { 0.0 };
    Some(Pitch { hz: RATE / (lag as f32 + shift), clarity: (1.0 - here).clamp(0.0, 1.0) })
}

/// Every second sample, low-passed, without its mean, at a scale that single precision likes.
fn halved(window: &[f32]) -> Option<[f32; HALF]> {
    if window.len() < WINDOW {
        return None;
    }
    let mut x = [0.0; HALF];
    for (i, x) in x.iter_mut().enumerate() {
        *x = window[2 * i..].iter().zip(TAPS).map(|(sample, tap)| sample * tap).sum();
    }
    let mean = x.iter().sum::<f32>() / HALF as f32;
    x.iter_mut().for_each(|x| *x -= mean);
    let size = x.iter().fold(0.0f32, |size, x| size.max(x.abs()));
    if size.is_nan() || size < 1e-4 {
        return None;
    }
    x.iter_mut().for_each(|x| *x /= size);
    Some(x)
}

/// YIN's cumulative mean normalised difference for every lag: 1 at first, towards 0 at a period.
fn normalised(x: &[f32; HALF]) -> Option<[f32; LONGEST + 2]> {
    let still = &x[..SUM];
    let energy = dot(still, still);
    if energy < 1e-3 {
        return None;
    }
    let mut moved = energy;
    let mut total = 0.0;
    let mut dips = [1.0; LONGEST + 2];
    for lag in 1..dips.len() {
        moved += x[lag + SUM - 1] * x[lag + SUM - 1] - x[lag - 1] * x[lag - 1];
        let difference = (energy + moved - 2.0 * dot(still, &x[lag..lag + SUM])).max(0.0);
        total += difference;
        dips[lag] = if total > 1e-6 { difference * lag as f32 / total } else { 1.0 };
    }
    Some(dips)
}

fn period(dips: &[f32; LONGEST + 2]) -> usize {
    let bottom = |&lag: &usize| dips[lag] <= dips[lag - 1] && dips[lag] < dips[lag + 1];
    let lags = SHORTEST..=LONGEST;
    let first = lags.clone().find(|lag| dips[*lag] < DIP && bottom(lag));
    first.unwrap_or_else(|| lags.min_by(|a, b| dips[*a].total_cmp(&dips[*b])).unwrap_or(LONGEST))
}

/// Eight sums side by side, which the compiler turns into vector instructions.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    for (a, b) in a.chunks_exact(8).zip(b.chunks_exact(8)) {
        for i in 0..8 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum()
}
