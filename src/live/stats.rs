//! What the speaker is told: who listens and how late captions are, at most once a second (the keeper hears of it too),
//! and whether the microphone and the pace are well.

use std::collections::BTreeMap;
use std::time::Duration;

use babelcast_domain::language::Language;
use babelcast_domain::microphone::Pace;
use babelcast_domain::time::UnixMs;
use babelcast_domain::track::spaced;
use babelcast_domain::wire::{AudioWarning, Caption, QualityReport, ServerMessage};

use crate::store::Presence;

/// The least time between two tellings.
const EVERY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Stats {
    listeners: Presence,
    /// From a word's end to its newest caption, by language.
    lag_ms: BTreeMap<Language, u64>,
    pace: Pace,
    /// Something is worth telling.
    fresh: bool,
    next: Duration,
}

impl Stats {
    pub fn new(now: Duration) -> Self {
        Stats {
            listeners: Presence::default(),
            lag_ms: BTreeMap::new(),
            pace: Pace::default(),
            fresh: false,
            next: now,
        }
    }

    /// Somebody came, went or changed language.
    pub fn audience_changed(&mut self) {
        self.fresh = true;
    }

    pub fn shown(&mut self, caption: &Caption, wall: UnixMs) {
        if caption.is_final && caption.source_language.is_none() && spaced(&caption.language) {
            let words = caption.text.split_whitespace().count() as u64;
            self.pace.push(words, caption.end_ms.saturating_sub(caption.start_ms));
        }
        let Some(heard_at) = caption.heard_at else { return };
        self.lag_ms.insert(caption.language.clone(), wall.0.saturating_sub(heard_at.0));
        self.fresh = true;
    }

    /// When there will be something to tell.
    pub fn deadline(&self) -> Option<Duration> {
        self.fresh.then_some(self.next)
    }

    /// The news, when some are due.
    pub fn due(&mut self, now: Duration, by_language: impl FnOnce() -> BTreeMap<Language, u64>) -> Option<&Presence> {
        if !self.fresh || now < self.next {
            return None;
        }
        let by_language = by_language();
        self.fresh = false;
        self.next = now + EVERY;
        self.lag_ms.retain(|language, _| by_language.contains_key(language));
        self.listeners = Presence { total: by_language.values().sum(), by_language };
        Some(&self.listeners)
    }

    /// What the ear measured, and the pace, which only words tell.
    pub fn audio_quality(&self, mut report: QualityReport) -> ServerMessage {
        if self.pace.is_too_fast() {
            report.warnings.push(AudioWarning::TooFast);
        }
        ServerMessage::AudioQuality(report)
    }

    pub fn message(&self) -> ServerMessage {
        ServerMessage::ListenerStats {
            total: self.listeners.total,
            by_language: self.listeners.by_language.clone(),
            lag_ms_by_language: self.lag_ms.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_come_at_once_and_then_at_most_once_a_second() {
        let second = Duration::from_secs(1);
        let mut stats = Stats::new(second);
        let es = BTreeMap::from([(Language::parse("es").unwrap(), 3)]);
        assert_eq!(stats.deadline(), None);
        stats.audience_changed();
        assert_eq!(stats.due(second, || es.clone()).map(|listeners| listeners.total), Some(3));
        stats.audience_changed();
        assert_eq!(stats.due(second + EVERY / 2, || es.clone()), None);
        assert_eq!(stats.deadline(), Some(second + EVERY));
        assert!(stats.due(second + EVERY, || es.clone()).is_some());
    }
}
