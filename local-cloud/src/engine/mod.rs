//! Speech recognition engines: audio in, growing hypotheses of what was said out.
//!
//! An [`Engine`] is shared by all streams; [`Engine::open`] gives each stream a [`Recogniser`] of its own, which
//! [`listen`] runs on one OS thread. Time is counted in audio, never by the clock, so a stream fed faster than real
//! time gives the same words. Deliberately absent: languages other than the engine's own, speaker labels, and a Whisper
//! engine (it needs a model the user brings; a new variant of [`Engine`] with its own [`Recogniser`] is its place).

mod arpa;
mod casing;
mod endpoint;
mod gain;
mod listening;
pub mod pocketsphinx;
mod pocketsphinx_ffi;
pub(crate) mod resample;
pub mod scripted;
pub mod tones;

use std::sync::Arc;

pub use listening::{Heard, listen};
use pocketsphinx::PocketSphinx;
use scripted::Scripted;
use tones::Tones;

/// Samples a second of the audio every engine hears.
pub const RATE: u32 = 16_000;
/// Samples an engine hears at once, 100 ms: the grain of partials and of their stability.
pub const TICK: usize = 1_600;

/// One word, or one punctuation mark, of a hypothesis. Times are ms since the stream's first sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Word {
    pub text: String,
    pub start_ms: u64,
    /// Of a punctuation mark: equal to `start_ms`.
    pub end_ms: u64,
    pub is_punctuation: bool,
    /// 0..1, on the words of a final only.
    pub confidence: Option<f32>,
}

impl Word {
    /// A spoken word without a confidence.
    pub fn spoken(text: impl Into<String>, start_ms: u64, end_ms: u64) -> Word {
        Word { text: text.into(), start_ms, end_ms, is_punctuation: false, confidence: None }
    }

    /// A punctuation mark behind the word that ends at `at_ms`.
    pub fn punctuation(text: impl Into<String>, at_ms: u64) -> Word {
        Word { text: text.into(), start_ms: at_ms, end_ms: at_ms, is_punctuation: true, confidence: None }
    }
}

/// What an engine believes was said in one utterance, from its beginning until now.
#[derive(Clone, Debug, PartialEq)]
pub struct Hypothesis {
    /// Counts up from 0 in one stream. After the final of an utterance nothing more of it comes.
    pub utterance: u64,
    /// How much audio had been heard, in ms since the stream's first sample.
    pub at_ms: u64,
    pub words: Vec<Word>,
    pub is_final: bool,
}

/// One stream's ear: hears audio in order and says what it understood.
pub trait Recogniser: Send {
    /// Hears at most one [`TICK`] of 16 kHz mono audio. While an utterance is open it answers with one hypothesis per
    /// tick, even an unchanged one, because stability is counted in ticks.
    fn hear(&mut self, samples: &[i16]) -> Result<Vec<Hypothesis>, EngineError>;
    /// No more audio comes: closes the open utterance, if any, with its final.
    fn finish(&mut self) -> Result<Vec<Hypothesis>, EngineError>;
}

/// What a stream asks of an engine.
#[derive(Clone, Debug, Default)]
pub struct Opening {
    /// Counts the streams of one server from 0.
    pub stream: u64,
    /// Phrases or whole script lines the speaker is likely to say; None without a vocabulary.
    pub vocabulary: Option<Arc<Vec<String>>>,
}

/// The engines there are. Cloning shares the engine.
#[derive(Clone)]
pub enum Engine {
    /// Real recognition of US English by the Debian library.
    PocketSphinx(Arc<PocketSphinx>),
    /// Words coded as tones: real audio, exact text, for tests.
    Tones(Tones),
    /// Given text at given audio times, for tests.
    Scripted(Arc<Scripted>),
}

impl Engine {
    /// Whether the engine takes this Transcribe language code. The test engines take any.
    pub fn understands(&self, language: &str) -> bool {
        match self {
            Engine::PocketSphinx(_) => language.eq_ignore_ascii_case("en-US"),
            Engine::Tones(_) | Engine::Scripted(_) => true,
        }
    }

    /// A name for logs and for the demo's screen.
    pub fn name(&self) -> &'static str {
        match self {
            Engine::PocketSphinx(_) => "PocketSphinx (US English, general model)",
            Engine::Tones(_) => "tones (test engine)",
            Engine::Scripted(_) => "scripted (test engine)",
        }
    }

    /// A recogniser for one stream. May take a second when no decoder is ready, so call it off the async threads.
    pub fn open(&self, opening: &Opening) -> Result<Box<dyn Recogniser>, EngineError> {
        Ok(match self {
            Engine::PocketSphinx(engine) => Box::new(engine.open(opening)?),
            Engine::Tones(tones) => Box::new(tones.open()),
            Engine::Scripted(scripted) => Box::new(scripted.open(opening.stream)),
        })
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Why an engine cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The library or its model is absent. The text names the packages to install.
    #[error("{what} not found; install the Debian packages: {packages}")]
    NotInstalled { what: String, packages: &'static str },
    #[error("the model's feature settings cannot be read or copied: {0}")]
    Model(#[source] std::io::Error),
    #[error("the recogniser failed: {0}")]
    Failed(&'static str),
    #[error("cannot write the vocabulary's language model: {0}")]
    Vocabulary(#[source] std::io::Error),
    #[error("cannot start the recogniser's thread: {0}")]
    Thread(#[source] std::io::Error),
}

fn ms(samples: u64) -> u64 {
    samples * 1000 / u64::from(RATE)
}
