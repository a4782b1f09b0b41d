//! What the speaker's voice says beside the words: how stirred it is, and which of a few feelings, if that is clear.
//!
//! Arousal carries over to new speakers, rooms and languages; categories do so only in part (docs/EMOTION.md has the
//! numbers). So arousal is always given, a category only when the voice is clear, and a confidence with both. Everything
//! is judged against the speaker's own voice so far; how loud it is counts for nothing.

#[cfg(test)]
mod tests;
mod weights;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::prosody::{Measure, Voice};
pub use weights::SHIPPED;

const FEATURES: usize = Voice::FEATURES;

/// The population's voice counts as much as this many seconds of the speaker's own.
const PRIOR: f32 = 3.0;

/// One utterance counts for no more than this many seconds...
const LONGEST: f32 = 3.0;

/// ...and what is longer ago than about this many fades, so that a new microphone or speaker is got used to.
const MEMORY: f32 = 120.0;

/// Seconds of voice at which an utterance, and of earlier ones at which the speaker, is half known.
const HALF_HEARD: f32 = 0.15;
const HALF_KNOWN: f32 = 1.5;

/// A voice farther off than this many usual spreads is no farther: a measure gone wrong should not shout.
const FARTHEST: f32 = 4.0;

/// No feature of a real measure is so large.
const NONSENSE: f32 = 1e4;

/// In a talk neutral is this much more common beside each of the others than among acted recordings.
const COMMON: f32 = 3.0;

/// From here on a category is said, and the two of one arousal together.
const CLEAR: f32 = 0.5;
const TOGETHER: f32 = 0.7;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Emotion {
    Calm,
    Neutral,
    Happy,
    Excited,
    Sad,
    Angry,
}

/// The verdict on one utterance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Feeling {
    /// [`Emotion::Neutral`] with little confidence where nothing is clear.
    pub emotion: Emotion,
    /// 0 to 1.
    pub confidence: f32,
    /// -1 (slack) to 1 (stirred); `None` without a voice to judge.
    pub arousal: Option<f32>,
}

/// Two linear judges over the same features; made by `./dev eval emotion --train`, told in docs/EMOTION.md.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weights {
    /// The voice of somebody not heard yet.
    pub usual: [f32; FEATURES],
    /// How much a speaker's utterances differ, as a standard deviation.
    pub spread: [f32; FEATURES],
    /// For high against low arousal. There is no bias: how somebody usually sounds is neither.
    pub arousal: [f32; FEATURES],
    /// For each of [`CLASSES`]: one weight a feature, then the bias.
    pub classes: [[f32; FEATURES + 1]; 4],
}

/// What the second judge tells apart.
pub const CLASSES: [Emotion; 4] = [Emotion::Angry, Emotion::Happy, Emotion::Neutral, Emotion::Sad];

/// What the judges say of one utterance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scores {
    /// -1 to 1; nearer to 0 the less there is to trust.
    pub arousal: f32,
    /// Shares of [`CLASSES`], which sum to 1, if all were equally common.
    pub classes: [f32; 4],
    /// How much was heard of the utterance and of the speaker: 0 for nothing, towards 1.
    pub trust: f32,
}

/// Judges one speaker's utterances, and learns how that speaker usually sounds.
#[derive(Debug, Clone)]
pub struct Judge {
    weights: Weights,
    usual: [f32; FEATURES],
    /// Seconds of voice behind `usual`.
    known: f32,
}

impl Default for Judge {
    fn default() -> Self {
        Judge::new(SHIPPED)
    }
}

impl Judge {
    pub fn new(weights: Weights) -> Self {
        Judge { weights, usual: weights.usual, known: 0.0 }
    }

    /// The verdict on the next utterance.
    pub fn feel(&mut self, measure: &Measure) -> Feeling {
        let nothing = Feeling { emotion: Emotion::Neutral, confidence: 0.0, arousal: None };
        self.scores(measure).map_or(nothing, |scores| scores.feeling())
    }

    /// What both judges say of the next utterance; `None` without a voice.
    pub fn scores(&mut self, measure: &Measure) -> Option<Scores> {
        let voice = measure.voice?.features();
        let sound = measure.voiced_seconds >= 0.0 && voice.iter().all(|feature| feature.abs() < NONSENSE);
        if !sound {
            return None;
        }
        let seconds = measure.voiced_seconds.min(LONGEST);
        self.get_used_to(&voice, seconds);
        let trust = share(seconds, HALF_HEARD) * share(self.known, HALF_KNOWN);
        let weights = &self.weights;
        let off: [f32; FEATURES] = std::array::from_fn(|i| {
            ((voice[i] - self.usual[i]) / weights.spread[i].max(1e-6)).clamp(-FARTHEST, FARTHEST)
        });
        let stirred = 1.0 / (1.0 + (-dot(&weights.arousal, &off)).exp());
        let classes = weights.classes.map(|weights| weights[FEATURES] + dot(&weights, &off));
        Some(Scores { arousal: trust * (2.0 * stirred - 1.0), classes: softmax(classes), trust })
    }

    fn get_used_to(&mut self, voice: &[f32; FEATURES], seconds: f32) {
        self.known = (self.known + seconds).min(MEMORY);
        let step = seconds / (PRIOR + self.known);
        for (usual, feature) in self.usual.iter_mut().zip(voice) {
            *usual += step * (feature - *usual);
        }
    }
}

impl Scores {
    /// One word for it: a clear category; else, where only the arousal is clear, excited or calm; else neutral.
    pub fn feeling(&self) -> Feeling {
        let [angry, happy, neutral, sad] = self.classes;
        let all = angry + happy + COMMON * neutral + sad;
        let shares = [angry, happy, COMMON * neutral, sad].map(|share| self.trust * share / all);
        let [angry, happy, neutral, sad] = shares;
        let best = (0..CLASSES.len()).max_by(|&a, &b| shares[a].total_cmp(&shares[b])).unwrap_or(2);
        let (emotion, confidence) = match CLASSES[best] {
            Emotion::Neutral if neutral >= CLEAR && self.arousal < -0.5 => (Emotion::Calm, neutral),
            clear if shares[best] >= CLEAR => (clear, shares[best]),
            _ if angry + happy >= TOGETHER => (Emotion::Excited, angry + happy),
            _ if neutral + sad >= TOGETHER => (Emotion::Calm, neutral + sad),
            _ => (Emotion::Neutral, neutral),
        };
        Feeling { emotion, confidence: confidence.clamp(0.0, 1.0), arousal: Some(self.arousal.clamp(-1.0, 1.0)) }
    }
}

/// 0 at nothing, one half at `half`, towards 1.
fn share(value: f32, half: f32) -> f32 {
    value / (value + half)
}

fn dot(weights: &[f32], features: &[f32; FEATURES]) -> f32 {
    weights.iter().zip(features).map(|(weight, feature)| weight * feature).sum()
}

fn softmax(values: [f32; 4]) -> [f32; 4] {
    let most = values.iter().copied().fold(f32::MIN, f32::max);
    let raised = values.map(|value| (value - most).exp());
    let sum: f32 = raised.iter().sum();
    raised.map(|value| value / sum)
}
