//! Who waits for the history in a language that nobody had before.
//!
//! The last finals are translated for the first one who asks, once, and kept. `sessionJoined` and `languageChanged`
//! carry the history, so they wait for it, but for a moment only: what is not there by then is in the transcript later.
//! Until then a newcomer hears nothing; what is said meanwhile is in the log, and so in its history.

use std::collections::BTreeSet;
use std::sync::Arc;

use babelcast_domain::ids::ListenerId;
use babelcast_domain::language::Language;
use babelcast_domain::track::segment_number;
use babelcast_domain::wire::{Caption, Role};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::book::Pen;
use super::library::Library;
use super::log::{HISTORY, KEEP};
use super::session::{Actor, JoinRequest};

/// What is answered once the history is there.
pub enum Answer {
    Joined(JoinRequest),
    Changed { request_id: Option<String>, audio_language: Option<Language> },
}

struct Waiting {
    listener: ListenerId,
    language: Language,
    /// Segments that are being translated for it.
    owed: BTreeSet<u64>,
    until: Instant,
    answer: Answer,
}

pub struct Anteroom {
    waiting: Vec<Waiting>,
    library: Arc<Library>,
    /// Of the session's book.
    changes: watch::Receiver<()>,
}

impl Anteroom {
    pub fn new(library: &Arc<Library>, pen: &Pen) -> Self {
        Anteroom { waiting: Vec::new(), library: Arc::clone(library), changes: pen.book().changes() }
    }

    /// Ready when it is time to look whether somebody has waited enough. Cancel safe.
    pub async fn stirred(&mut self) {
        match self.waiting.iter().map(|one| one.until).min() {
            Some(until) => tokio::select! {
                Ok(()) = self.changes.changed() => {}
                () = sleep_until(until) => {}
            },
            None => std::future::pending().await,
        }
    }
}

impl Actor {
    /// Answers as soon as the history in this language is there, which is at once unless nobody had it before.
    pub(super) fn answer_with_history(&mut self, listener: ListenerId, language: Language, answer: Answer) {
        let owed =
            if self.needs_history(&language, &answer) { self.ask_for_history(&language) } else { BTreeSet::new() };
        if owed.is_empty() {
            self.answer_now(listener, &language, answer);
            return;
        }
        let until = Instant::now() + self.anteroom.library.history_wait();
        self.anteroom.waiting.push(Waiting { listener, language, owed, until, answer });
    }

    /// Answers those for whom there is nothing more to wait for.
    pub(super) fn seat_ready(&mut self) {
        if self.anteroom.waiting.is_empty() {
            return;
        }
        let now = Instant::now();
        let book = self.pen.book();
        let waiting = std::mem::take(&mut self.anteroom.waiting);
        let (ready, waiting) =
            waiting.into_iter().partition(|one| one.until <= now || !book.is_owed(&one.language, &one.owed));
        self.anteroom.waiting = waiting;
        self.answer_these(ready);
    }

    /// Answers one listener with what there is, because it goes on talking.
    pub(super) fn seat_now(&mut self, listener: ListenerId) {
        let waiting = std::mem::take(&mut self.anteroom.waiting);
        let (ready, waiting) = waiting.into_iter().partition(|one| one.listener == listener);
        self.anteroom.waiting = waiting;
        self.answer_these(ready);
    }

    /// Answers everybody with what there is: the session is about to say goodbye.
    pub(super) fn seat_everyone(&mut self) {
        let ready = std::mem::take(&mut self.anteroom.waiting);
        self.answer_these(ready);
    }

    /// The last finals in a language: those that were shown in it, and those translated since.
    pub(super) fn history(&self, language: &Language) -> Vec<Caption> {
        let (source, now) = (self.session.source(), self.clock.now().mono);
        if language == source {
            return self.spoken_lately();
        }
        let shown = self.log.history(language, now);
        let under_way = self.session.under_way(language);
        let in_language = |spoken: Caption| {
            let segment = segment_number(&spoken.segment_id).filter(|segment| !under_way.contains(segment))?;
            let known = shown.iter().find(|caption| caption.segment_id == spoken.segment_id).cloned();
            let kept = || Some(self.pen.book().line(language, segment)?.caption(spoken.heard_at, Some(&spoken)));
            known.or_else(kept)
        };
        self.spoken_lately().into_iter().filter_map(in_language).collect()
    }

    /// The last finals in the source language; after a session was taken over, those from before that too.
    fn spoken_lately(&self) -> Vec<Caption> {
        let now = self.clock.now();
        let mut spoken = self.log.history(self.session.source(), now.mono);
        let first = spoken.first().and_then(|caption| segment_number(&caption.segment_id)).unwrap_or(u64::MAX);
        for line in self.pen.book().spoken_before(first, HISTORY - spoken.len().min(HISTORY)) {
            let heard_at = self.session.heard_at(line.end_ms);
            if heard_at.is_none_or(|at| at.plus(KEEP) < now.wall) {
                break;
            }
            spoken.insert(0, line.caption(heard_at, None));
        }
        spoken
    }

    /// The speaker need not read its own words, and who resumes has them already.
    fn needs_history(&self, language: &Language, answer: &Answer) -> bool {
        match answer {
            Answer::Joined(request) => {
                let resumes =
                    request.resume.and_then(|place| self.log.since(language, place.epoch, place.seq)).is_some();
                request.role == Role::Listener && !resumes
            }
            Answer::Changed { .. } => true,
        }
    }

    /// Has the last finals translated that this language lacks; answers with those to wait for.
    fn ask_for_history(&self, language: &Language) -> BTreeSet<u64> {
        let source = self.session.source();
        if language == source {
            return BTreeSet::new();
        }
        let book = self.pen.book();
        let under_way = self.session.under_way(language);
        let spoken = self.spoken_lately();
        let lacking: BTreeSet<u64> = spoken
            .iter()
            .filter_map(|caption| segment_number(&caption.segment_id))
            .filter(|segment| !under_way.contains(segment) && book.line(language, *segment).is_none())
            .collect();
        if lacking.is_empty() {
            return lacking;
        }
        let glossary = self.record.borrow().glossary.clone();
        if let Err(problem) = self.anteroom.library.fetch(book, glossary.as_deref(), language, Some(&lacking)) {
            tracing::info!(code = problem.code.as_str(), %language, "a newcomer gets no history");
            return BTreeSet::new();
        }
        if book.is_owed(language, &lacking) { lacking } else { BTreeSet::new() }
    }

    fn answer_these(&mut self, ready: Vec<Waiting>) {
        for Waiting { listener, language, answer, .. } in ready {
            self.answer_now(listener, &language, answer);
        }
    }

    fn answer_now(&mut self, listener: ListenerId, language: &Language, answer: Answer) {
        match answer {
            Answer::Joined(request) => self.welcome(listener, language, request),
            Answer::Changed { request_id, audio_language } => {
                self.language_changed(listener, language, audio_language, request_id);
            }
        }
    }
}
