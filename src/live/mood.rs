//! How the speaker sounds, told with every finished sentence. The ear measures, the session asks.

use std::sync::{Arc, Mutex, PoisonError};

use babelcast_domain::audio::{MediaTime, PcmFrame};
use babelcast_domain::emotion::Judge;
use babelcast_domain::prosody::Prosody;
use babelcast_domain::track::spaced;
use babelcast_domain::wire::{Caption, ServerMessage};

/// Fewer words tell no pace.
const FEWEST_WORDS: usize = 3;
/// Words a minute beyond which the times must be wrong.
const FASTEST: f32 = 1_000.0;

/// What the ear measures of the voice, kept for about a minute.
#[derive(Clone, Default)]
pub struct Voiceprint(Arc<Mutex<Prosody>>);

impl Voiceprint {
    pub fn push(&self, frame: &PcmFrame) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(frame);
    }
}

/// The judge of one speaker, who learns how that speaker usually sounds.
pub struct Mood {
    heard: Voiceprint,
    judge: Judge,
}

impl Mood {
    pub fn new(heard: Voiceprint) -> Self {
        Mood { heard, judge: Judge::default() }
    }

    /// How this final sentence of the speaker's own language was said.
    pub fn of(&mut self, caption: &Caption) -> ServerMessage {
        let (start, end) = (MediaTime::from_millis(caption.start_ms), MediaTime::from_millis(caption.end_ms));
        let measure = self.heard.0.lock().unwrap_or_else(PoisonError::into_inner).over(start, end);
        let feeling = self.judge.feel(&measure);
        ServerMessage::Emotion {
            segment_id: caption.segment_id.clone(),
            emotion: feeling.emotion,
            confidence: feeling.confidence,
            arousal: feeling.arousal,
            pace: pace(caption),
            loudness: measure.loudness,
            pitch_hz: measure.voice.map(|voice| voice.pitch_hz()),
            start_ms: caption.start_ms,
            end_ms: caption.end_ms,
        }
    }
}

/// Words a minute, where words are told apart by spaces.
fn pace(caption: &Caption) -> Option<f32> {
    let words = caption.text.split_whitespace().count();
    let minutes = caption.end_ms.saturating_sub(caption.start_ms) as f32 / 60_000.0;
    let told = spaced(&caption.language) && words >= FEWEST_WORDS && minutes > 0.0;
    told.then(|| (words as f32 / minutes).min(FASTEST))
}
