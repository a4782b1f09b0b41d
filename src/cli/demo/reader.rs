//! One listener of the demo: what it was shown, and how late.

use std::time::Duration;

use babelcast_domain::ledger::Samples;
use babelcast_domain::wire::Caption;
use tokio::time::Instant;

/// What a caption changed for its reader.
#[derive(Debug, PartialEq)]
pub enum Seen {
    /// The text under way grew or changed.
    Growing,
    Final {
        lag: Duration,
    },
}

/// A reader in one language.
#[derive(Debug, Default)]
pub struct Reader {
    pub language: String,
    /// The text under way.
    pub partial: String,
    pub finals: Vec<String>,
    /// From the last sound of the newest word to the moment it was on the screen, while a sentence grew.
    pub shown: Samples,
    /// From the last sound of a sentence to the moment its final was here.
    pub finished: Samples,
    /// From the first sound of the first word to the first text.
    pub first: Option<Duration>,
    pub untranslated: usize,
    segment: String,
}

impl Reader {
    pub fn new(language: String) -> Self {
        Reader { language, ..Reader::default() }
    }

    /// `capture_zero`: when the sound at 0 ms of the capture clock was sent.
    pub fn see(&mut self, caption: &Caption, at: Instant, capture_zero: Instant) -> Seen {
        let since = |ms: u64| at.saturating_duration_since(capture_zero + Duration::from_millis(ms));
        self.first.get_or_insert_with(|| since(caption.start_ms));
        let lag = since(caption.end_ms);
        let news = caption.segment_id != self.segment || caption.text.len() > self.partial.len();
        if news && !caption.is_final {
            self.shown.note(lag.as_micros() as u64);
        }
        self.segment.clone_from(&caption.segment_id);
        if !caption.is_final {
            self.partial.clone_from(&caption.text);
            return Seen::Growing;
        }
        self.partial.clear();
        self.finals.push(caption.text.clone());
        self.untranslated += usize::from(caption.untranslated);
        self.finished.note(lag.as_micros() as u64);
        Seen::Final { lag }
    }
}
