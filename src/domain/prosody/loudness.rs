//! K-weighting after ITU-R BS.1770-4: what EBU R128's loudness is measured on.

use crate::audio::SAMPLE_RATE;

/// LUFS of digital silence; -infinity helps nobody.
pub const FLOOR: f32 = -96.0;

/// The two filters in a row: the head's shelf, then the high-pass. Keeps its state from sample to sample.
#[derive(Debug, Clone)]
pub struct KWeighting {
    shelf: Biquad,
    high_pass: Biquad,
}

impl Default for KWeighting {
    /// The standard gives coefficients at 48 kHz only; these are the analogue filters behind them, at our rate.
    fn default() -> Self {
        let k = |hz: f64| (std::f64::consts::PI * hz / f64::from(SAMPLE_RATE)).tan();
        let (shelf, high) = (k(1_681.974_450_955_533), k(38.135_470_876_024_44));
        let (shelf_q, high_q) = (0.707_175_236_955_419_6, 0.500_327_037_323_877_3);
        let gain = 10f64.powf(3.999_843_853_973_347 / 20.0);
        let middle = gain.powf(0.499_666_774_154_541_6);
        let shelf = Biquad::new(
            [
                gain + middle * shelf / shelf_q + shelf * shelf,
                2.0 * (shelf * shelf - gain),
                gain - middle * shelf / shelf_q + shelf * shelf,
            ],
            shelf,
            shelf_q,
        );
        let a0 = 1.0 + high / high_q + high * high;
        KWeighting { shelf, high_pass: Biquad::new([a0, -2.0 * a0, a0], high, high_q) }
    }
}

impl KWeighting {
    /// Mean square of `samples` (full scale 1) after weighting.
    pub fn power(&mut self, samples: &[f32]) -> f32 {
        let sum: f64 = samples.iter().map(|&x| self.high_pass.next(self.shelf.next(f64::from(x))).powi(2)).sum();
        let power = (sum / samples.len().max(1) as f64) as f32;
        if power.is_finite() { power } else { 0.0 }
    }
}

/// LUFS of a mean square of weighted samples, one channel.
pub fn lufs(power: f32) -> f32 {
    (-0.691 + 10.0 * power.max(1e-12).log10()).max(FLOOR)
}

/// Second-order section, direct form II transposed; double precision for the high-pass at 38 Hz.
#[derive(Debug, Clone)]
struct Biquad {
    b: [f64; 3],
    a: [f64; 2],
    z: [f64; 2],
}

impl Biquad {
    /// `b` is not yet divided by a0, which the frequency (as `k`, prewarped) and `q` give.
    fn new(b: [f64; 3], k: f64, q: f64) -> Self {
        let a0 = 1.0 + k / q + k * k;
        Biquad { b: b.map(|b| b / a0), a: [2.0 * (k * k - 1.0) / a0, (1.0 - k / q + k * k) / a0], z: [0.0; 2] }
    }

    fn next(&mut self, x: f64) -> f64 {
        let y = self.b[0] * x + self.z[0];
        self.z = [self.b[1] * x - self.a[0] * y + self.z[1], self.b[2] * x - self.a[1] * y];
        y
    }
}
