//! Durable events of a session, per language, with their `seq`: what history and resume are read from.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use babelcast_domain::language::Language;
use babelcast_domain::wire::{Caption, ServerMessage};

/// How long an event can be resumed: above the promised 120 s, and as long as history reaches back.
pub const KEEP: Duration = Duration::from_secs(180);
/// Events kept per language whatever their age; past it the oldest goes.
const MAX_ENTRIES: usize = 4_096;
/// Finals a new listener is shown at most.
pub const HISTORY: usize = 20;

#[derive(Debug)]
pub struct Log {
    epoch: u64,
    languages: BTreeMap<Language, Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    last_seq: u64,
    entries: VecDeque<Entry>,
}

#[derive(Debug, Clone)]
pub struct Entry {
    pub seq: u64,
    pub at: Duration,
    pub message: ServerMessage,
}

impl Log {
    /// `epoch` must differ from that of any log this session had before.
    pub fn new(epoch: u64) -> Self {
        Log { epoch, languages: BTreeMap::new() }
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Begins the log of a language; events of the whole session are only kept for languages somebody has listened to.
    pub fn open(&mut self, language: &Language) {
        self.languages.entry(language.clone()).or_default();
    }

    pub fn languages(&self) -> Vec<Language> {
        self.languages.keys().cloned().collect()
    }

    /// Gives the event its place, counting from 1.
    pub fn append(&mut self, language: &Language, now: Duration, message: ServerMessage) -> u64 {
        let ring = self.languages.entry(language.clone()).or_default();
        ring.last_seq += 1;
        ring.entries.push_back(Entry { seq: ring.last_seq, at: now, message });
        while ring.entries.len() > MAX_ENTRIES || ring.entries.front().is_some_and(|entry| entry.at + KEEP < now) {
            ring.entries.pop_front();
        }
        ring.last_seq
    }

    pub fn last_seq(&self, language: &Language) -> u64 {
        self.languages.get(language).map_or(0, |ring| ring.last_seq)
    }

    /// The events after `seq`; `None` when some of them are gone or were never here.
    pub fn since(&self, language: &Language, epoch: u64, seq: u64) -> Option<Vec<Entry>> {
        let ring = self.languages.get(language)?;
        let first = ring.entries.front().map_or(ring.last_seq + 1, |entry| entry.seq);
        let whole = epoch == self.epoch && seq <= ring.last_seq && seq + 1 >= first;
        whole.then(|| ring.entries.iter().filter(|entry| entry.seq > seq).cloned().collect())
    }

    /// The last finals in this language, at most 20 and at most three minutes old.
    pub fn history(&self, language: &Language, now: Duration) -> Vec<Caption> {
        let Some(ring) = self.languages.get(language) else { return Vec::new() };
        let recent = ring.entries.iter().rev().take_while(|entry| entry.at + KEEP >= now);
        let captions = recent.filter_map(|entry| match &entry.message {
            ServerMessage::Transcription(caption) => Some(caption.clone()),
            _ => None,
        });
        let mut history: Vec<Caption> = captions.take(HISTORY).collect();
        history.reverse();
        history
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resume_gets_exactly_what_was_missed_or_hears_that_it_cannot() {
        let es = Language::parse("es").unwrap();
        let mut log = Log::new(7);
        log.open(&es);
        for second in 0..5 {
            log.append(&es, Duration::from_secs(second), ServerMessage::SpeakerKvsReady);
        }
        let missed: Vec<u64> = log.since(&es, 7, 3).unwrap().iter().map(|entry| entry.seq).collect();
        assert_eq!(missed, [4, 5]);
        assert!(log.since(&es, 7, 5).unwrap().is_empty());
        assert!(log.since(&es, 6, 3).is_none(), "another epoch");
        assert!(log.since(&es, 7, 9).is_none(), "from the future");
        log.append(&es, Duration::from_secs(200), ServerMessage::SpeakerKvsReady);
        assert!(log.since(&es, 7, 2).is_none(), "too long ago");
        assert!(log.since(&es, 7, 5).is_some());
    }
}
