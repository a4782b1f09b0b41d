//! What the recogniser heard, in the domain's own words.

use crate::audio::MediaTime;

/// One item of a result: a spoken word, or a punctuation mark that clings to the word before it.
#[derive(Clone, PartialEq)]
pub struct Word {
    pub text: String,
    pub punctuation: bool,
    pub start: MediaTime,
    /// A punctuation mark ends where it starts.
    pub end: MediaTime,
    /// The recogniser promises not to change this item any more.
    pub stable: bool,
    /// 0..1, on spoken words of a final only.
    pub confidence: Option<f32>,
}

/// One result of the recogniser: a stretch of speech as understood so far.
///
/// `result_id` names the same stretch over all its partials and its final. The times are relative to the
/// stream as it leaves the AWS room, and on the capture clock once the scribe has moved them there.
#[derive(Clone, PartialEq)]
pub struct Heard {
    pub result_id: String,
    pub is_final: bool,
    pub start: MediaTime,
    pub end: MediaTime,
    pub words: Vec<Word>,
}

impl Heard {
    /// The words joined as a reader expects: a space before a word, none before punctuation.
    pub fn text(&self) -> String {
        join(&self.words)
    }
}

/// Joins words with single spaces; punctuation clings to what stands before it.
pub fn join(words: &[Word]) -> String {
    let mut text = String::new();
    for word in words {
        if !text.is_empty() && !word.punctuation {
            text.push(' ');
        }
        text.push_str(&word.text);
    }
    text
}

// Spoken text must never reach a log by accident, so `Debug` says how much was said, not what.
impl std::fmt::Debug for Word {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Word({} chars, stable {})", self.text.chars().count(), self.stable)
    }
}

impl std::fmt::Debug for Heard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Heard({}, {}, {} words, {}..{} ms)",
            self.result_id,
            if self.is_final { "final" } else { "partial" },
            self.words.len(),
            self.start.as_millis(),
            self.end.as_millis()
        )
    }
}
