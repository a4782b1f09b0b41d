//! From results of the recogniser to text that is never taken back.
//!
//! The recogniser rewrites its partials. An [`Utterance`] keeps what it has *promised*: words the recogniser
//! called stable, which only ever grow. The promise outlives a restart of the recogniser and a final that
//! would contradict it. Promised words are cut into [`Clause`]s, the unit of translation.
//!
//! Deliberately absent: languages, listeners and time of day.

use crate::audio::MediaTime;
use crate::limits::{CLAUSE_MAX_WORDS, CLAUSE_MIN_WORDS, CLAUSE_PAUSE, OPEN_UTTERANCES, UTTERANCE_MAX_ITEMS};
use crate::transcript::{Heard, Word, join};

/// A committed piece of an utterance that will not change any more: the unit of translation.
#[derive(Clone, PartialEq)]
pub struct Clause {
    pub segment: u64,
    /// Counts from 0 within the segment.
    pub number: u32,
    /// May be empty or punctuation only on the last clause of a segment.
    pub text: String,
    pub start: MediaTime,
    pub end: MediaTime,
    /// Nothing more of this segment follows.
    pub last: bool,
}

impl std::fmt::Debug for Clause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Clause({}/{}{}, {} chars)",
            self.segment,
            self.number,
            if self.last { " last" } else { "" },
            self.text.len()
        )
    }
}

/// The source text of one utterance at one moment.
#[derive(Clone, PartialEq)]
pub struct Transcript {
    pub segment: u64,
    pub revision: u32,
    pub is_final: bool,
    /// The whole text as understood now.
    pub text: String,
    /// The part of it that is promised; a prefix of `text`.
    pub stable: String,
    /// Whether `stable` grew with this revision.
    pub grew: bool,
    pub start: MediaTime,
    pub end: MediaTime,
}

impl std::fmt::Debug for Transcript {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = if self.is_final { "final" } else { "partial" };
        write!(f, "Transcript({} r{} {kind}, {} chars)", self.segment, self.revision, self.text.len())
    }
}

/// What a result led to.
#[derive(Debug, Clone, PartialEq)]
pub enum Understood {
    Transcript(Transcript),
    Clause(Clause),
    /// The result speaks of audio that is final already: the echo of a replay.
    Repeated,
}

#[derive(Debug)]
struct Utterance {
    segment: u64,
    result_id: String,
    /// Set when the recogniser was restarted in mid-utterance: the next result over this time carries it on.
    orphan: bool,
    promised: Vec<Word>,
    /// Words after the promised ones, as last heard.
    tail: Vec<Word>,
    /// Promised words already cut into clauses.
    cut: usize,
    clauses: Vec<Clause>,
    revision: u32,
    start: MediaTime,
    end: MediaTime,
}

/// All utterances of a session that are not final yet, and the point on the capture clock before which everything is.
#[derive(Debug, Default)]
pub struct Utterances {
    open: Vec<Utterance>,
    next_segment: u64,
    final_until: MediaTime,
}

impl Utterances {
    /// Numbers segments from `first_segment` on.
    pub fn starting_at(first_segment: u64) -> Self {
        Utterances { next_segment: first_segment, ..Utterances::default() }
    }

    /// Takes one result, with times on the capture clock.
    pub fn hear(&mut self, heard: Heard, out: &mut Vec<Understood>) {
        let Some(index) = self.place(&heard, out) else {
            out.push(Understood::Repeated);
            return;
        };
        let final_until = self.final_until;
        let utterance = &mut self.open[index];
        let before = (utterance.text(), utterance.promised.len());
        utterance.take(heard.words, heard.is_final, final_until);
        utterance.end = utterance.end.max(heard.end);
        let close = heard.is_final || utterance.promised.len() + utterance.tail.len() >= UTTERANCE_MAX_ITEMS;
        if close {
            self.close(index, out);
            return;
        }
        let grew = utterance.promised.len() > before.1;
        if utterance.text() == before.0 && !grew {
            return;
        }
        utterance.revision += 1;
        out.push(Understood::Transcript(utterance.transcript(false, grew)));
        utterance.cut_clauses(out);
    }

    /// The recogniser lost its state: what was under way will be heard again under other names, or not at all.
    pub fn restarted(&mut self) {
        for utterance in &mut self.open {
            utterance.orphan = true;
        }
    }

    /// Whether an utterance waits to be heard again after a restart.
    pub fn has_orphans(&self) -> bool {
        self.open.iter().any(|utterance| utterance.orphan)
    }

    /// Publishes orphans as final with what was understood of them.
    pub fn close_orphans(&mut self, out: &mut Vec<Understood>) {
        while let Some(index) = self.open.iter().position(|utterance| utterance.orphan) {
            self.close(index, out);
        }
    }

    /// Publishes everything that is under way as final: the session ends, or the recogniser is gone for good.
    pub fn close_all(&mut self, out: &mut Vec<Understood>) {
        while !self.open.is_empty() {
            self.close(0, out);
        }
    }

    /// Clauses of utterances that are still under way: what a language that joins now needs, so that its next final is whole.
    pub fn open_clauses(&self) -> impl Iterator<Item = &Clause> {
        self.open.iter().flat_map(|utterance| &utterance.clauses)
    }

    /// Everything before this time is final; a replay need not go back further.
    pub fn final_until(&self) -> MediaTime {
        self.final_until
    }

    /// The utterance this result belongs to. `None`: its audio is final already.
    fn place(&mut self, heard: &Heard, out: &mut Vec<Understood>) -> Option<usize> {
        if let Some(index) = self.open.iter().position(|one| !one.orphan && one.result_id == heard.result_id) {
            return Some(index);
        }
        if heard.end <= self.final_until || !heard.words.iter().any(|word| middle(word) > self.final_until) {
            return None;
        }
        if let Some(index) = self.open.iter().position(|one| one.orphan) {
            if heard.start < self.open[index].end {
                self.open[index].orphan = false;
                self.open[index].result_id.clone_from(&heard.result_id);
                return Some(index);
            }
            self.close(index, out);
        }
        while self.open.len() >= OPEN_UTTERANCES {
            self.close(0, out);
        }
        self.open.push(Utterance {
            segment: self.next_segment,
            result_id: heard.result_id.clone(),
            orphan: false,
            promised: Vec::new(),
            tail: Vec::new(),
            cut: 0,
            clauses: Vec::new(),
            revision: 0,
            start: heard.start.max(self.final_until),
            end: heard.end.max(heard.start),
        });
        self.next_segment += 1;
        Some(self.open.len() - 1)
    }

    fn close(&mut self, index: usize, out: &mut Vec<Understood>) {
        let mut utterance = self.open.remove(index);
        let rest = std::mem::take(&mut utterance.tail);
        let grew = !rest.is_empty();
        utterance.promised.extend(rest);
        self.final_until = self.final_until.max(utterance.end);
        if utterance.promised.is_empty() && utterance.revision == 0 {
            return; // nothing was ever shown of it
        }
        utterance.revision += 1;
        out.push(Understood::Transcript(utterance.transcript(true, grew)));
        utterance.cut_clauses(out);
        utterance.cut_rest(out);
    }
}

fn middle(word: &Word) -> MediaTime {
    MediaTime::from_micros(word.start.as_micros().midpoint(word.end.as_micros()))
}

impl Utterance {
    /// Takes the words of a new revision; what is promised stays whatever they say.
    fn take(&mut self, words: Vec<Word>, is_final: bool, final_until: MediaTime) {
        // A word that ends before it begins would make a caption do so.
        let forward = |word: Word| Word { end: word.end.max(word.start), ..word };
        let words = words.into_iter().filter(|word| middle(word) >= final_until || word.punctuation);
        let mut words: Vec<Word> = words.map(forward).collect();
        while words.first().is_some_and(|word| word.punctuation) {
            words.remove(0);
        }
        let promised = self.promised.len();
        let same = words.len() >= promised && words.iter().zip(&self.promised).all(|(new, old)| new.text == old.text);
        let mut rest: Vec<Word> = if same { words.split_off(promised) } else { self.after_promise(words) };
        let stable = if is_final { rest.len() } else { rest.iter().take_while(|word| word.stable).count() };
        self.tail = rest.split_off(stable);
        self.promised.extend(rest);
    }

    /// The words spoken after the promised ones, found by time, for a revision that contradicts the promise.
    fn after_promise(&self, words: Vec<Word>) -> Vec<Word> {
        let Some(last) = self.promised.last() else { return words };
        let until = self.promised.iter().map(|word| word.end).max().unwrap_or(last.end);
        let mut rest: Vec<Word> = words
            .into_iter()
            .skip_while(|word| if word.punctuation { word.start < until } else { middle(word) < until })
            .collect();
        if last.punctuation {
            while rest.first().is_some_and(|word| word.punctuation) {
                rest.remove(0);
            }
        }
        rest
    }

    fn text(&self) -> String {
        let mut words = self.promised.clone();
        words.extend(self.tail.iter().cloned());
        join(&words)
    }

    fn transcript(&self, is_final: bool, grew: bool) -> Transcript {
        Transcript {
            segment: self.segment,
            revision: self.revision,
            is_final,
            text: self.text(),
            stable: join(&self.promised),
            grew,
            start: self.promised.first().or(self.tail.first()).map_or(self.start, |word| word.start),
            end: self.promised.iter().chain(&self.tail).map(|word| word.end).max().unwrap_or(self.end),
        }
    }

    /// Cuts every clause that is complete.
    fn cut_clauses(&mut self, out: &mut Vec<Understood>) {
        while let Some(count) = clause_length(&self.promised[self.cut..]) {
            self.push_clause(count, false, out);
        }
    }

    fn cut_rest(&mut self, out: &mut Vec<Understood>) {
        self.push_clause(self.promised.len() - self.cut, true, out);
    }

    fn push_clause(&mut self, count: usize, last: bool, out: &mut Vec<Understood>) {
        let words = &self.promised[self.cut..self.cut + count];
        let clause = Clause {
            segment: self.segment,
            number: self.clauses.len() as u32,
            text: join(words),
            start: words.first().map_or(self.end, |word| word.start),
            end: words.iter().map(|word| word.end).max().unwrap_or(self.end),
            last,
        };
        self.cut += count;
        self.clauses.push(clause.clone());
        out.push(Understood::Clause(clause));
    }
}

/// How many of these items make a complete clause; `None` while it is still open.
///
/// A clause ends at the end of a sentence, at a comma or a pause once it is long enough to be translated well,
/// and at the widest gap when it grows too long. The item after the cut must be known, unless a sentence ends:
/// a pause is only a pause when somebody speaks after it, and punctuation may still follow a word.
fn clause_length(items: &[Word]) -> Option<usize> {
    let mut words = 0;
    for (index, item) in items.iter().enumerate() {
        if item.punctuation {
            if item.text.contains(['.', '?', '!', '。', '？', '！', '؟', '।', '…']) {
                return Some(index + 1);
            }
            if words >= CLAUSE_MIN_WORDS {
                return Some(index + 1);
            }
            continue;
        }
        words += 1;
        if let Some(next) = items.get(index + 1)
            && !next.punctuation
            && words >= CLAUSE_MIN_WORDS
            && next.start.saturating_sub(item.end) >= CLAUSE_PAUSE
        {
            return Some(index + 1);
        }
        if words > CLAUSE_MAX_WORDS {
            return Some(widest_gap(&items[..=index]));
        }
    }
    None
}

/// The best place to cut a long clause: before the widest silence, away from both ends.
fn widest_gap(items: &[Word]) -> usize {
    let gap = |index: usize| items[index].start.saturating_sub(items[index - 1].end);
    let places = CLAUSE_MIN_WORDS + 2..items.len() - 1;
    // `max_by_key` takes the last of equals: without any gap the clause is as long as may be.
    places.filter(|&index| !items[index].punctuation).max_by_key(|&index| gap(index)).unwrap_or(items.len() - 1)
}

#[cfg(test)]
mod tests;
