//! A spoken sentence in every form that somebody asks for, made from one answer of the synthesiser.
//!
//! That answer is MP3: it is the one form that every browser plays, and every other can be had from it by decoding.
//! The other way round an MP3 encoder were needed, and all of them are LAME or Shine: C and LGPL. Polly's PCM ends at
//! 16 kHz besides, its MP3 at 24 kHz and more. PCM is taken all the same, for languages where nobody wants MP3.
//!
//! Decoding and encoding take milliseconds a second of sound: not for a task that others wait for.

use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use babelcast_domain::wire::AudioFormat;
use bytes::Bytes;
use symphonia::core::codecs::audio::AudioDecoderOptions;
use symphonia::core::errors::Error;
use symphonia::core::formats::{FormatOptions, FormatReader, TrackType};
use symphonia::core::io::MediaSourceStream;
use symphonia::default::codecs::MpaDecoder;
use symphonia::default::formats::MpaReader;

use super::ogg;
use super::opus::Encoder;
use super::wav::resample;

/// Longest clip taken: a sentence that lasts longer is none.
const MAX_SECONDS: usize = 120;

/// The packet loss that a clip's encoder prepares for: it travels over TCP.
const NO_LOSS: u8 = 0;

/// One sentence's sound.
#[derive(Debug, Clone)]
pub struct Clip {
    rate: u32,
    samples: Arc<[i16]>,
    mp3: Option<Bytes>,
}

/// Why there is no clip, or not in this form.
#[derive(Debug, thiserror::Error)]
pub enum ClipError {
    #[error("not MP3: {0}")]
    NotMp3(#[from] Error),
    #[error("a clip without sound")]
    Empty,
    #[error("a clip of more than {MAX_SECONDS} s")]
    TooLong,
    #[error("{0} samples a second cannot be converted")]
    Rate(u32),
    #[error("made from PCM, so there is no MP3 of it")]
    NoMp3,
    #[error("libopus: {0}")]
    Opus(#[from] ::opus::Error),
}

impl Clip {
    /// Reads what the synthesiser sent.
    ///
    /// # Errors
    /// [`ClipError`], for what is no MP3, holds nothing or does not end. One that breaks off is taken as far as it goes.
    pub fn from_mp3(mp3: Bytes) -> Result<Self, ClipError> {
        let stream = MediaSourceStream::new(Box::new(Cursor::new(mp3.clone())), Default::default());
        let mut reader = MpaReader::try_new(stream, FormatOptions::default())?;
        let track = reader.default_track(TrackType::Audio).ok_or(ClipError::Empty)?;
        let parameters = track.codec_params.as_ref().and_then(|all| all.audio()).ok_or(ClipError::Empty)?;
        let mut decoder = MpaDecoder::try_new(parameters, &AudioDecoderOptions::default())?;
        let (mut rate, mut samples, mut frame) = (0, Vec::new(), Vec::<i16>::new());
        while let Ok(Some(packet)) = reader.next_packet() {
            let sound = match symphonia::core::codecs::audio::AudioDecoder::decode(&mut decoder, &packet) {
                Ok(sound) => sound,
                // A frame that is damaged is 24 ms less.
                Err(Error::DecodeError(_)) => continue,
                Err(error) => return Err(error.into()),
            };
            rate = sound.spec().rate();
            let channels = sound.num_planes().max(1);
            sound.copy_to_vec_interleaved(&mut frame);
            let mean = |all: &[i16]| (all.iter().map(|s| i32::from(*s)).sum::<i32>() / all.len() as i32) as i16;
            samples.extend(frame.chunks_exact(channels).map(mean));
            if samples.len() > MAX_SECONDS * rate as usize {
                return Err(ClipError::TooLong);
            }
        }
        Self::new(rate, samples, Some(mp3))
    }

    /// Takes mono 16-bit little-endian samples, `rate` a second.
    ///
    /// # Errors
    /// [`ClipError::Empty`] and [`ClipError::TooLong`].
    pub fn from_pcm(pcm: &[u8], rate: u32) -> Result<Self, ClipError> {
        let samples = pcm.chunks_exact(2).map(|two| i16::from_le_bytes([two[0], two[1]])).collect();
        Self::new(rate, samples, None)
    }

    fn new(rate: u32, samples: Vec<i16>, mp3: Option<Bytes>) -> Result<Self, ClipError> {
        if samples.is_empty() || rate == 0 {
            return Err(ClipError::Empty);
        }
        if samples.len() > MAX_SECONDS * rate as usize {
            return Err(ClipError::TooLong);
        }
        Ok(Clip { rate, samples: samples.into(), mp3 })
    }

    /// Samples a second, of PCM and of what the other forms were made from.
    pub fn rate(&self) -> u32 {
        self.rate
    }

    pub fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.samples.len() as f64 / f64::from(self.rate))
    }

    /// The samples at the rate of a timeline.
    ///
    /// # Errors
    /// [`ClipError::Rate`].
    pub fn samples(&self, rate: u32) -> Result<Arc<[i16]>, ClipError> {
        if rate == self.rate {
            return Ok(Arc::clone(&self.samples));
        }
        let sound: Vec<f32> = self.samples.iter().map(|s| f32::from(*s) / 32_768.0).collect();
        let sound = resample(&sound, self.rate, rate).ok_or(ClipError::Rate(self.rate))?;
        Ok(sound.into_iter().map(|s| (s * 32_768.0) as i16).collect())
    }

    /// The clip as a listener asked for it: MP3 as it came, Opus in Ogg, or PCM (mono 16-bit little-endian) at
    /// [`Clip::rate`]. To be made once a language and format, whoever listens.
    ///
    /// # Errors
    /// [`ClipError::NoMp3`], [`ClipError::Rate`], [`ClipError::Opus`].
    pub fn encoded(&self, format: AudioFormat, language: &str) -> Result<Bytes, ClipError> {
        match format {
            AudioFormat::Mp3 => self.mp3.clone().ok_or(ClipError::NoMp3),
            AudioFormat::Pcm => Ok(self.samples.iter().flat_map(|sample| sample.to_le_bytes()).collect()),
            AudioFormat::Opus => self.opus(language),
        }
    }

    fn opus(&self, language: &str) -> Result<Bytes, ClipError> {
        let rate = if matches!(self.rate, 8_000 | 12_000 | 16_000 | 24_000 | 48_000) { self.rate } else { 48_000 };
        let samples = self.samples(rate)?;
        let mut encoder = Encoder::new(rate, NO_LOSS)?;
        let lookahead = encoder.lookahead()?;
        // What the encoder holds back at the end comes out behind silence.
        let mut sound = samples.to_vec();
        let frames = (sound.len() + lookahead).div_ceil(encoder.samples());
        sound.resize(frames * encoder.samples(), 0);
        let packets = sound.chunks_exact(encoder.samples()).map(|frame| encoder.encode(frame).map(Bytes::from));
        let packets = packets.collect::<Result<Vec<_>, _>>()?;
        Ok(ogg::clip(&packets, rate, samples.len(), lookahead, language))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One second of a 440 Hz sine at 24 kHz and 48 kbit/s: `ffmpeg -f lavfi -i sine=440:r=24000:d=1 -b:a 48k tone.mp3`.
    const TONE: &[u8] = include_bytes!("tests/tone.mp3");

    /// The strength of 440 Hz beside the whole.
    fn purity(samples: &[i16], rate: u32) -> f64 {
        let step = 440.0 * std::f64::consts::TAU / f64::from(rate);
        let (mut re, mut im, mut all) = (0.0, 0.0, 0.0f64);
        for (i, sample) in samples.iter().enumerate() {
            let (sample, phase) = (f64::from(*sample), i as f64 * step);
            re += sample * phase.cos();
            im += sample * phase.sin();
            all += sample * sample;
        }
        2.0 * (re * re + im * im) / (samples.len() as f64 * all.max(1.0))
    }

    #[test]
    fn one_mp3_becomes_every_form() {
        let clip = Clip::from_mp3(Bytes::from_static(TONE)).unwrap();
        assert_eq!(clip.rate(), 24_000);
        assert!((clip.duration().as_secs_f64() - 1.0).abs() < 0.06, "{:?}", clip.duration());
        let middle = |samples: &[i16], rate: u32| purity(&samples[rate as usize / 4..rate as usize * 3 / 4], rate);
        for rate in [16_000, 24_000, 48_000] {
            let samples = clip.samples(rate).unwrap();
            assert!(middle(&samples, rate) > 0.99, "{rate}: {}", middle(&samples, rate));
        }
        assert_eq!(clip.encoded(AudioFormat::Mp3, "es").unwrap(), TONE);
        let pcm = clip.encoded(AudioFormat::Pcm, "es").unwrap();
        assert_eq!(Clip::from_pcm(&pcm, 24_000).unwrap().samples, clip.samples);
        let file = clip.encoded(AudioFormat::Opus, "es").unwrap();
        let (packets, pre_skip) = ogg::packets(&file).unwrap();
        let mut decoder = ::opus::Decoder::new(24_000, ::opus::Channels::Mono).unwrap();
        let mut sound = Vec::new();
        for packet in packets {
            let mut frame = [0; 480];
            let samples = decoder.decode(&packet, &mut frame, false).unwrap();
            sound.extend(&frame[..samples]);
        }
        let sound = &sound[usize::from(pre_skip) / 2..];
        assert!(sound.len() >= clip.samples.len(), "nothing is cut off at the end");
        assert!(middle(sound, 24_000) > 0.98, "{}", middle(sound, 24_000));
    }

    #[test]
    fn what_is_no_clip_is_said_so() {
        assert!(Clip::from_mp3(Bytes::from_static(b"ID3 but not really")).is_err());
        assert!(matches!(Clip::from_pcm(&[7], 16_000), Err(ClipError::Empty)));
        assert!(matches!(Clip::from_pcm(&vec![0; 16_000 * 2 * 121], 16_000), Err(ClipError::TooLong)));
        let pcm = Clip::from_pcm(&[0; 320], 16_000).unwrap();
        assert!(matches!(pcm.encoded(AudioFormat::Mp3, "es"), Err(ClipError::NoMp3)));
    }

    #[test]
    fn half_a_body_is_half_a_clip() {
        let half = Clip::from_mp3(Bytes::from_static(&TONE[..TONE.len() / 2])).unwrap();
        assert!((0.3..0.7).contains(&half.duration().as_secs_f64()), "{:?}", half.duration());
    }

    proptest! {
        #[test]
        fn no_damage_panics(at in prop::collection::vec((0usize..6_000, any::<u8>()), 0..40), cut in 0usize..6_000) {
            let mut bytes = TONE.to_vec();
            for (at, value) in at {
                let at = at % bytes.len();
                bytes[at] = value;
            }
            bytes.truncate(cut);
            let _ = Clip::from_mp3(bytes.into());
        }
    }
}
