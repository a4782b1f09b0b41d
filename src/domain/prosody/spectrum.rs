//! How the power of a short window lies over the frequencies: what a strained or a slack voice changes.

use std::sync::Arc;

use realfft::num_complex::Complex;
use realfft::{RealFftPlanner, RealToComplex};

use crate::audio::SAMPLE_RATE;

/// Samples of a window: 32 ms.
const SIZE: usize = 512;

const BIN_HZ: f32 = SAMPLE_RATE as f32 / SIZE as f32;

/// Added to every power before a logarithm: what rounding to 16 bits leaves in a bin, give or take.
const FLOOR: f32 = 1e-9;

/// Neither changes when all samples are scaled.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Shape {
    /// Power in 1 to 4 kHz beside 50 Hz to 1 kHz, dB: low for a slack voice, high for a strained one.
    pub tilt: f32,
    /// Octaves of the centre of gravity (50 Hz to 5 kHz) above 100 Hz.
    pub centroid: f32,
}

#[derive(Clone)]
pub struct Spectrum {
    transform: Arc<dyn RealToComplex<f32>>,
    taper: Vec<f32>,
    window: Vec<f32>,
    bins: Vec<Complex<f32>>,
    scratch: Vec<Complex<f32>>,
}

impl Default for Spectrum {
    fn default() -> Self {
        let transform = RealFftPlanner::new().plan_fft_forward(SIZE);
        let taper = |i: usize| 0.5 - 0.5 * (std::f32::consts::TAU * i as f32 / SIZE as f32).cos();
        Spectrum {
            taper: (0..SIZE).map(taper).collect(),
            window: transform.make_input_vec(),
            bins: transform.make_output_vec(),
            scratch: transform.make_scratch_vec(),
            transform,
        }
    }
}

impl Spectrum {
    /// Measures the middle of `samples`; `None` if they are too few.
    pub fn shape(&mut self, samples: &[f32]) -> Option<Shape> {
        let from = samples.len().checked_sub(SIZE)? / 2;
        for ((slot, sample), taper) in self.window.iter_mut().zip(&samples[from..]).zip(&self.taper) {
            *slot = sample * taper;
        }
        self.transform.process_with_scratch(&mut self.window, &mut self.bins, &mut self.scratch).ok()?;
        let bin = |hz: f32| (hz / BIN_HZ).round() as usize;
        let power = |from: f32, to: f32| self.bins[bin(from)..bin(to)].iter().map(|bin| bin.norm_sqr() + FLOOR);
        let decibels = |ratio: f32| 10.0 * ratio.log10();
        let moment: f32 = power(50.0, 5_000.0).enumerate().map(|(i, power)| power * (i + bin(50.0)) as f32).sum();
        let centre = moment * BIN_HZ / power(50.0, 5_000.0).sum::<f32>();
        Some(Shape {
            tilt: decibels(power(1_000.0, 4_000.0).sum::<f32>() / power(50.0, 1_000.0).sum::<f32>()),
            centroid: (centre / 100.0).log2(),
        })
    }
}
