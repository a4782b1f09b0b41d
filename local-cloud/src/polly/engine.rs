//! What makes the sound: espeak-ng as a child process, or tones for tests.

use serde::Deserialize;

use super::espeak::{self, Espeak};
use super::ssml::{Manner, Speech};
use super::voices::{Gender, Voice};

/// Which engine speaks.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum EngineSettings {
    /// The Debian package espeak-ng, one process a text.
    Espeak(espeak::Settings),
    /// Tones, at once.
    Scripted(Scripted),
}

impl Default for EngineSettings {
    fn default() -> Self {
        EngineSettings::Espeak(espeak::Settings::default())
    }
}

/// One channel of sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sound {
    /// Samples a second.
    pub rate: u32,
    pub samples: Vec<i16>,
}

/// Why nothing is heard. No text is in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    #[error("{0} is not installed; install: apt install espeak-ng lame")]
    NotInstalled(&'static str),
    #[error("{0} did not answer in time")]
    TimedOut(&'static str),
    #[error("{program} failed: {why}")]
    Failed { program: &'static str, why: String },
    #[error("local-cloud makes no {0}")]
    NoSuchFormat(&'static str),
}

#[derive(Debug)]
pub(super) enum Engine {
    Espeak(Espeak),
    Scripted(Scripted),
}

impl Engine {
    pub async fn start(settings: &EngineSettings) -> Result<Engine, EngineError> {
        Ok(match settings {
            EngineSettings::Espeak(settings) => Engine::Espeak(Espeak::start(settings).await?),
            EngineSettings::Scripted(scripted) => Engine::Scripted(scripted.clone()),
        })
    }

    pub fn speaks(&self, language: &str) -> bool {
        match self {
            Engine::Espeak(espeak) => espeak.speaks(language),
            Engine::Scripted(_) => true,
        }
    }

    pub async fn speak(&self, voice: &Voice, language: &str, speech: &Speech) -> Result<Sound, EngineError> {
        match self {
            Engine::Espeak(espeak) => espeak.speak(voice, language, speech).await,
            Engine::Scripted(scripted) => Ok(scripted.speak(voice, speech)),
        }
    }
}

/// An engine without machinery, for tests: every language, and for each text a tone as long as the text deserves.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "snake_case")]
pub struct Scripted {
    /// How long a character takes at the voice's own pace.
    pub ms_per_character: u32,
}

impl Default for Scripted {
    /// About 15 characters a second, as people speak.
    fn default() -> Self {
        Scripted { ms_per_character: 65 }
    }
}

impl Scripted {
    const RATE: u32 = 24_000;
    /// Of a tone at the voice's own volume.
    const LEVEL: f32 = 6_000.0;

    /// Women's voices are tones of 220 Hz, men's of 110 Hz; rate, volume and pitch are those of the markup.
    pub fn speak(&self, voice: &Voice, speech: &Speech) -> Sound {
        let base = match voice.gender {
            Gender::Female => 220.0,
            Gender::Male => 110.0,
        };
        let mut samples = Vec::new();
        for span in &speech.spans {
            let Manner { rate, volume_db, pitch_percent } = span.manner;
            let ms = span.text.trim().chars().count() as f32 * self.ms_per_character as f32 / rate;
            let step = std::f32::consts::TAU * base * (1.0 + pitch_percent / 100.0) / Self::RATE as f32;
            let level = Self::LEVEL * 10_f32.powf(volume_db / 20.0);
            let count = (ms * Self::RATE as f32 / 1_000.0) as usize;
            samples.extend((0..count).map(|index| ((index as f32 * step).sin() * level) as i16));
            let pause = u64::from(span.pause_ms) * u64::from(Self::RATE) / 1_000;
            samples.resize(samples.len() + pause as usize, 0);
        }
        Sound { rate: Self::RATE, samples }
    }
}
