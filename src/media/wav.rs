//! A WAV file as the speaker's microphone: any rate and channels in, mono out at a rate Opus takes.

use std::path::{Path, PathBuf};

use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Resampler};

/// The rates libopus takes as they are; every other one becomes 48 kHz.
const OPUS_RATES: [u32; 5] = [8_000, 12_000, 16_000, 24_000, 48_000];

/// Longest recording taken: it is held in memory. 12 h at 16 kHz are 1.4 GB, which is where fun ends.
const MAX_SAMPLES: usize = 12 * 3_600 * 16_000;

/// Mono samples and their rate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recording {
    /// 8,000, 12,000, 16,000, 24,000 or 48,000 samples a second.
    pub rate: u32,
    pub samples: Vec<i16>,
}

/// Why a file is no recording.
#[derive(Debug, thiserror::Error)]
pub enum WavError {
    #[error("{}: {error}", .file.display())]
    In { file: PathBuf, error: Box<WavError> },
    #[error("not a readable WAV file: {0}")]
    Unreadable(#[from] hound::Error),
    #[error("WAV file without samples, channels or a sensible rate")]
    Empty,
    #[error("WAV file of more than 12 hours")]
    TooLong,
    #[error("WAV file of {0} samples a second cannot be resampled")]
    Rate(u32),
}

impl Recording {
    /// Reads a PCM or float WAV file; channels are averaged.
    ///
    /// # Errors
    /// [`WavError`], for files that are none or are too long.
    pub fn read(path: &Path) -> Result<Self, WavError> {
        let opened = hound::WavReader::open(path).map_err(WavError::from);
        opened.and_then(Self::from_wav).map_err(|error| WavError::In { file: path.to_owned(), error: Box::new(error) })
    }

    /// The same, from a file in memory.
    ///
    /// # Errors
    /// As [`Recording::read`].
    pub fn parse(bytes: &[u8]) -> Result<Self, WavError> {
        Self::from_wav(hound::WavReader::new(bytes)?)
    }

    fn from_wav<R: std::io::Read>(mut wav: hound::WavReader<R>) -> Result<Self, WavError> {
        let spec = wav.spec();
        if spec.channels == 0 || !(1_000..=384_000).contains(&spec.sample_rate) {
            return Err(WavError::Empty);
        }
        let channels = usize::from(spec.channels);
        if wav.len() as usize / channels > MAX_SAMPLES {
            return Err(WavError::TooLong);
        }
        let interleaved: Vec<f32> = match spec.sample_format {
            hound::SampleFormat::Float => wav.samples::<f32>().collect::<Result<_, _>>()?,
            hound::SampleFormat::Int => {
                let scale = 1.0 / f64::from(1u32 << u32::from(spec.bits_per_sample.clamp(1, 32) - 1));
                wav.samples::<i32>().map(|s| s.map(|s| (f64::from(s) * scale) as f32)).collect::<Result<_, _>>()?
            }
        };
        let mono: Vec<f32> =
            interleaved.chunks_exact(channels).map(|all| all.iter().sum::<f32>() / channels as f32).collect();
        if mono.is_empty() {
            return Err(WavError::Empty);
        }
        let (rate, mono) = if OPUS_RATES.contains(&spec.sample_rate) {
            (spec.sample_rate, mono)
        } else {
            (48_000, resample(&mono, spec.sample_rate, 48_000).ok_or(WavError::Rate(spec.sample_rate))?)
        };
        // A float cast saturates, and makes 0 of what is no number.
        let samples = mono.into_iter().map(|s| (s * 32_768.0) as i16).collect();
        Ok(Recording { rate, samples })
    }

    pub fn duration(&self) -> std::time::Duration {
        std::time::Duration::from_secs_f64(self.samples.len() as f64 / f64::from(self.rate))
    }
}

/// Mono samples at another rate; none if the two rates do not go together.
pub(super) fn resample(mono: &[f32], rate: u32, wanted: u32) -> Option<Vec<f32>> {
    let mut fft = Fft::<f32>::new(rate as usize, wanted as usize, 1_024, 1, FixedSync::Both).ok()?;
    let input = InterleavedSlice::new(mono, 1, mono.len()).ok()?;
    Some(fft.process_all(&input, mono.len(), None).ok()?.take_data())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn wav(rate: u32, channels: u16, format: hound::SampleFormat, bits: u16, seconds: f64) -> Vec<u8> {
        let spec = hound::WavSpec { channels, sample_rate: rate, bits_per_sample: bits, sample_format: format };
        let mut bytes = Cursor::new(Vec::new());
        let mut writer = hound::WavWriter::new(&mut bytes, spec).unwrap();
        for i in 0..(seconds * f64::from(rate)) as usize {
            let s = 0.5 * (i as f64 * 440.0 * std::f64::consts::TAU / f64::from(rate)).sin();
            for _ in 0..channels {
                match format {
                    hound::SampleFormat::Float => writer.write_sample(s as f32).unwrap(),
                    hound::SampleFormat::Int => {
                        writer.write_sample((s * f64::from((1i64 << (bits - 1)) as u32)) as i32).unwrap();
                    }
                }
            }
        }
        writer.finalize().unwrap();
        bytes.into_inner()
    }

    fn read(bytes: Vec<u8>) -> Result<Recording, WavError> {
        Recording::from_wav(hound::WavReader::new(Cursor::new(bytes))?)
    }

    #[test]
    fn every_common_format_becomes_the_same_sound() {
        use hound::SampleFormat::{Float, Int};
        for (rate, channels, format, bits, expected) in [
            (16_000, 1, Int, 16, 16_000),
            (48_000, 2, Int, 24, 48_000),
            (48_000, 1, Float, 32, 48_000),
            (8_000, 1, Int, 8, 8_000),
            (44_100, 2, Int, 16, 48_000),
            (22_050, 1, Int, 32, 48_000),
        ] {
            let recording = read(wav(rate, channels, format, bits, 1.0)).unwrap();
            assert_eq!(recording.rate, expected, "{rate}");
            assert!((recording.duration().as_secs_f64() - 1.0).abs() < 0.01, "{rate}");
            let energy: f64 = recording.samples.iter().map(|&s| f64::from(s) * f64::from(s)).sum();
            let rms = (energy / recording.samples.len() as f64).sqrt() / 32_768.0;
            assert!((rms - 0.3535).abs() < 0.01, "{rate} {bits}: {rms}");
        }
    }

    #[test]
    fn what_is_no_recording_is_said_so() {
        assert!(matches!(read(b"RIFF but not really".to_vec()), Err(WavError::Unreadable(_))));
        assert!(matches!(read(wav(16_000, 1, hound::SampleFormat::Int, 16, 0.0)), Err(WavError::Empty)));
        let mut cut = wav(16_000, 1, hound::SampleFormat::Int, 16, 0.1);
        cut.truncate(100);
        assert!(read(cut).is_err());
    }
}
