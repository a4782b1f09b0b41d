//! A test engine that says given text at given audio times, with no delay of its own.
//!
//! It hears nothing: only the amount of audio counts, silence included, from 0 in every stream. So a reconnected stream
//! needs a script of its own (by stream number), whoever replays audio gets doubled words, and a test of *that* wants
//! the [`super::tones`] engine, whose words are in the audio.

use super::{EngineError, Hypothesis, Recogniser, Word, ms};

/// What one stream will hear: lines in order of time, not overlapping.
#[derive(Clone, Debug, Default)]
pub struct Script {
    pub lines: Vec<Line>,
}

/// One utterance. Its words are spread evenly over `at_ms..until_ms`, each is shown when its end is reached, and the
/// final comes at `until_ms`.
#[derive(Clone, Debug, Default)]
pub struct Line {
    pub at_ms: u64,
    pub until_ms: u64,
    /// Plain text; the marks `. , ? ! ; :` become punctuation items.
    pub text: String,
    /// What the partials say instead of a growing `text`: the last one whose time has come.
    pub revisions: Vec<Revision>,
}

/// A partial that says `text` from `at_ms` on.
#[derive(Clone, Debug, Default)]
pub struct Revision {
    pub at_ms: u64,
    pub text: String,
}

/// The scripts of a server's streams.
#[derive(Clone, Debug, Default)]
pub struct Scripted {
    by_stream: Vec<Script>,
}

impl Script {
    /// A script of lines `(at_ms, until_ms, text)`.
    pub fn of(lines: &[(u64, u64, &str)]) -> Script {
        let line = |&(at_ms, until_ms, text): &(u64, u64, &str)| Line {
            at_ms,
            until_ms,
            text: text.to_owned(),
            revisions: Vec::new(),
        };
        Script { lines: lines.iter().map(line).collect() }
    }
}

impl Scripted {
    /// Every stream hears the same script.
    pub fn same(script: Script) -> Scripted {
        Scripted { by_stream: vec![script] }
    }

    /// Stream n (counted from 0 over the server's life) hears script n; the last script serves all later streams.
    pub fn by_stream(scripts: Vec<Script>) -> Scripted {
        Scripted { by_stream: scripts }
    }

    pub(super) fn open(&self, stream: u64) -> Reader {
        let last = self.by_stream.len().saturating_sub(1);
        let index = usize::try_from(stream).unwrap_or(last).min(last);
        Reader { script: self.by_stream.get(index).cloned().unwrap_or_default(), line: 0, heard: 0 }
    }
}

/// Splits text into words and punctuation items, the words spread evenly over a stretch of time.
fn items(text: &str, from_ms: u64, until_ms: u64) -> Vec<Word> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let span = until_ms.saturating_sub(from_ms);
    let at = |i: usize| from_ms + span * i as u64 / words.len().max(1) as u64;
    let mut items = Vec::new();
    for (i, word) in words.iter().enumerate() {
        let bare = word.trim_end_matches(['.', ',', '?', '!', ';', ':']);
        if !bare.is_empty() {
            items.push(Word::spoken(bare, at(i), at(i + 1)));
        }
        items.extend(word[bare.len()..].chars().map(|mark| Word::punctuation(mark, at(i + 1))));
    }
    items
}

/// One stream's place in its script.
pub(super) struct Reader {
    script: Script,
    line: usize,
    /// Samples.
    heard: u64,
}

impl Reader {
    fn partial(line: &Line, now: u64) -> Vec<Word> {
        match line.revisions.iter().rfind(|r| r.at_ms <= now) {
            Some(revision) => items(&revision.text, line.at_ms, now),
            None if line.revisions.is_empty() => {
                items(&line.text, line.at_ms, line.until_ms).into_iter().filter(|w| w.end_ms <= now).collect()
            }
            None => Vec::new(),
        }
    }

    fn final_of(&mut self, now: u64) -> Option<Hypothesis> {
        let line = self.script.lines.get(self.line)?;
        let mut words = items(&line.text, line.at_ms, line.until_ms);
        words.iter_mut().filter(|w| !w.is_punctuation).for_each(|w| w.confidence = Some(1.0));
        let utterance = self.line as u64;
        self.line += 1;
        Some(Hypothesis { utterance, at_ms: now, words, is_final: true })
    }
}

impl Recogniser for Reader {
    fn hear(&mut self, samples: &[i16]) -> Result<Vec<Hypothesis>, EngineError> {
        self.heard += samples.len() as u64;
        let now = ms(self.heard);
        let mut hypotheses = Vec::new();
        while let Some(line) = self.script.lines.get(self.line) {
            if line.until_ms <= now {
                hypotheses.extend(self.final_of(now));
                continue;
            }
            let words = Self::partial(line, now);
            if !words.is_empty() {
                hypotheses.push(Hypothesis { utterance: self.line as u64, at_ms: now, words, is_final: false });
            }
            break;
        }
        Ok(hypotheses)
    }

    fn finish(&mut self) -> Result<Vec<Hypothesis>, EngineError> {
        let now = ms(self.heard);
        let begun = self.script.lines.get(self.line).is_some_and(|line| line.at_ms < now);
        Ok(if begun { self.final_of(now).into_iter().collect() } else { Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::TICK;

    fn texts(h: &Hypothesis) -> Vec<&str> {
        h.words.iter().map(|w| w.text.as_str()).collect()
    }

    #[test]
    fn words_appear_when_their_time_has_come_and_the_final_at_its_end() {
        let script = Script::of(&[(200, 800, "we ship today."), (1_000, 1_200, "good")]);
        let mut reader = Scripted::same(script).open(7);
        let heard: Vec<Hypothesis> = (0..12).flat_map(|_| reader.hear(&[0; TICK]).unwrap()).collect();
        let first = heard.iter().find(|h| !h.is_final).unwrap();
        assert_eq!((first.at_ms, texts(first)), (400, vec!["we"]));
        let finals: Vec<_> = heard.iter().filter(|h| h.is_final).collect();
        assert_eq!((finals[0].at_ms, texts(finals[0])), (800, vec!["we", "ship", "today", "."]));
        assert!(finals[0].words[3].is_punctuation && finals[0].words[3].confidence.is_none());
        assert_eq!((finals[1].utterance, finals[1].at_ms), (1, 1_200));
    }

    #[test]
    fn revisions_replace_the_growing_text_and_streams_have_their_own_scripts() {
        let mut line = Script::of(&[(0, 500, "good day")]);
        line.lines[0].revisions = vec![Revision { at_ms: 200, text: "good date".into() }];
        let scripts = Scripted::by_stream(vec![line, Script::of(&[(0, 100, "two")])]);
        let mut first = scripts.open(0);
        assert!(first.hear(&[0; TICK]).unwrap().is_empty());
        assert_eq!(texts(&first.hear(&[0; TICK]).unwrap()[0]), ["good", "date"]);
        let last = first.finish().unwrap();
        assert!(last[0].is_final && texts(&last[0]) == ["good", "day"]);
        assert_eq!(texts(&scripts.open(5).hear(&[0; TICK]).unwrap()[0]), ["two"]);
    }
}
