//! One target language of one session: clauses go out to be translated, captions come back in order.
//!
//! Several clauses may be under way at once; what is shown keeps the order of speech. A clause whose translation
//! fails or stays away is shown in the source language and marked, so that words are late or foreign but never lost.
//! A breaker keeps a dead service from making every clause late.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::audio::MediaTime;
use crate::language::Language;
use crate::limits::{BREAKER_FAILURES, BREAKER_PAUSE, CLAUSES_WAITING, TRANSLATION_DEADLINE, TRANSLATIONS_IN_FLIGHT};
use crate::utterance::Clause;
use crate::wire::Caption;

#[derive(Debug)]
enum Work {
    Waiting,
    InFlight { until: Duration },
    Done { text: String, translated: bool },
}

#[derive(Debug)]
struct Job {
    number: u64,
    clause: Clause,
    work: Work,
}

/// A segment whose clauses are being shown.
#[derive(Debug)]
struct Growing {
    revision: u32,
    text: String,
    source: String,
    untranslated: bool,
    start: MediaTime,
    end: MediaTime,
}

/// What a track asks of the session.
#[derive(Debug, PartialEq)]
pub enum Ask {
    Translate {
        job: u64,
        text: String,
    },
    /// A partial or final of this language; `heard_at` is still empty.
    Show(Caption),
    /// The service has begun to fail (true) or is back (false): worth telling once.
    Outage(bool),
    Untranslated,
}

#[derive(Debug)]
pub struct Track {
    language: Language,
    source: Language,
    jobs: VecDeque<Job>,
    next_job: u64,
    /// By segment: a sentence may begin while the final of the one before is late.
    growing: BTreeMap<u64, Growing>,
    failures: u32,
    retry_at: Duration,
}

impl Track {
    /// Jobs are numbered from `first_job` on. Numbers are never used again within a session, so that a late answer
    /// to a track that was closed cannot be taken for one of its successor.
    pub fn new(language: Language, source: Language, first_job: u64) -> Self {
        Track {
            language,
            source,
            jobs: VecDeque::new(),
            next_job: first_job,
            growing: BTreeMap::new(),
            failures: 0,
            retry_at: Duration::ZERO,
        }
    }

    /// Takes the next clause of the talk. Clauses of a segment come in order.
    pub fn push(&mut self, now: Duration, clause: Clause, out: &mut Vec<Ask>) {
        let wordless = !clause.text.chars().any(char::is_alphanumeric);
        let work = if wordless { Work::Done { text: clause.text.clone(), translated: true } } else { Work::Waiting };
        self.jobs.push_back(Job { number: self.next_job, clause, work });
        self.next_job += 1;
        if self.jobs.iter().filter(|job| matches!(job.work, Work::Waiting)).count() > CLAUSES_WAITING
            && let Some(oldest) = self.jobs.iter_mut().find(|job| matches!(job.work, Work::Waiting))
        {
            oldest.give_up(out);
        }
        self.advance(now, out);
    }

    /// A translation came back; `None`: it failed. Answers to jobs that were given up are ignored.
    pub fn translated(&mut self, now: Duration, number: u64, result: Option<String>, out: &mut Vec<Ask>) {
        let Some(job) = self.jobs.iter_mut().find(|job| job.number == number) else { return };
        if !matches!(job.work, Work::InFlight { .. }) {
            return;
        }
        match result {
            Some(text) => {
                job.work = Work::Done { text, translated: true };
                if self.failures >= BREAKER_FAILURES {
                    out.push(Ask::Outage(false));
                }
                self.failures = 0;
            }
            None => {
                job.give_up(out);
                self.failed(now, out);
            }
        }
        self.advance(now, out);
    }

    /// Gives up what has been away too long.
    pub fn tick(&mut self, now: Duration, out: &mut Vec<Ask>) {
        let late = |job: &Job| matches!(job.work, Work::InFlight { until } if until <= now);
        while let Some(job) = self.jobs.iter_mut().find(|job| late(job)) {
            job.give_up(out);
            self.failed(now, out);
        }
        self.advance(now, out);
    }

    /// Shows everything that is still waiting, untranslated: nobody will wait for it any more.
    pub fn close(&mut self, out: &mut Vec<Ask>) {
        for job in self.jobs.iter_mut().filter(|job| !matches!(job.work, Work::Done { .. })) {
            job.give_up(out);
        }
        self.show_done(out);
    }

    pub fn deadline(&self) -> Option<Duration> {
        let until = |job: &Job| match job.work {
            Work::InFlight { until } => Some(until),
            Work::Waiting | Work::Done { .. } => None,
        };
        self.jobs.iter().filter_map(until).min()
    }

    /// Segments whose finals are still to come from here.
    pub fn under_way(&self) -> BTreeSet<u64> {
        self.jobs.iter().map(|job| job.clause.segment).chain(self.growing.keys().copied()).collect()
    }

    /// Nothing is under way: everything said has been shown.
    pub fn is_idle(&self) -> bool {
        self.jobs.is_empty()
    }

    fn failed(&mut self, now: Duration, out: &mut Vec<Ask>) {
        self.failures += 1;
        if self.failures == BREAKER_FAILURES {
            out.push(Ask::Outage(true));
        }
        if self.failures >= BREAKER_FAILURES {
            self.retry_at = now + BREAKER_PAUSE;
        }
    }

    /// Starts what may start and shows what is complete, in order.
    fn advance(&mut self, now: Duration, out: &mut Vec<Ask>) {
        let broken = self.failures >= BREAKER_FAILURES;
        let allowed = if broken { usize::from(now >= self.retry_at) } else { TRANSLATIONS_IN_FLIGHT };
        let mut in_flight = self.jobs.iter().filter(|job| matches!(job.work, Work::InFlight { .. })).count();
        for job in &mut self.jobs {
            if !matches!(job.work, Work::Waiting) {
                continue;
            }
            if in_flight < allowed {
                in_flight += 1;
                job.work = Work::InFlight { until: now + TRANSLATION_DEADLINE };
                out.push(Ask::Translate { job: job.number, text: job.clause.text.clone() });
            } else if broken {
                job.give_up(out);
            }
        }
        self.show_done(out);
    }

    fn show_done(&mut self, out: &mut Vec<Ask>) {
        while matches!(self.jobs.front(), Some(Job { work: Work::Done { .. }, .. })) {
            if let Some(Job { clause, work: Work::Done { text, translated }, .. }) = self.jobs.pop_front() {
                self.show(clause, &text, translated, out);
            }
        }
    }

    fn show(&mut self, clause: Clause, text: &str, translated: bool, out: &mut Vec<Ask>) {
        let mut growing = self.growing.remove(&clause.segment).unwrap_or_else(|| Growing {
            revision: 0,
            text: String::new(),
            source: String::new(),
            untranslated: false,
            start: clause.start,
            end: clause.end,
        });
        append(&mut growing.text, text.trim(), spaced(&self.language));
        append(&mut growing.source, &clause.text, spaced(&self.source));
        growing.untranslated |= !translated;
        growing.end = growing.end.max(clause.end);
        growing.revision += 1;
        out.push(Ask::Show(Caption {
            segment_id: segment_id(clause.segment),
            revision: growing.revision,
            is_final: clause.last,
            language: self.language.clone(),
            stable_chars: growing.text.chars().count(),
            text: growing.text.clone(),
            start_ms: growing.start.as_millis(),
            end_ms: growing.end.as_millis(),
            heard_at: None,
            source_language: Some(self.source.clone()),
            source_text: Some(growing.source.clone()),
            untranslated: growing.untranslated,
        }));
        if !clause.last {
            self.growing.insert(clause.segment, growing);
        }
    }
}

impl Job {
    fn give_up(&mut self, out: &mut Vec<Ask>) {
        self.work = Work::Done { text: self.clause.text.clone(), translated: false };
        out.push(Ask::Untranslated);
    }
}

/// `segmentId` on the wire: sorts in the order of speech.
pub fn segment_id(segment: u64) -> String {
    format!("s{segment:06}")
}

/// The number in a [`segment_id`].
pub fn segment_number(segment_id: &str) -> Option<u64> {
    segment_id.strip_prefix('s')?.parse().ok()
}

/// Whether words of this language are set apart by spaces.
pub fn spaced(language: &Language) -> bool {
    !matches!(language.base(), "zh" | "ja" | "th" | "lo" | "km" | "my")
}

fn append(text: &mut String, piece: &str, spaced: bool) {
    let clings = piece.chars().all(|c| !c.is_alphanumeric());
    if spaced && !text.is_empty() && !clings {
        text.push(' ');
    }
    text.push_str(piece);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lang(text: &str) -> Language {
        Language::parse(text).unwrap()
    }

    fn clause(segment: u64, number: u32, text: &str, last: bool) -> Clause {
        Clause { segment, number, text: text.into(), start: MediaTime::ZERO, end: MediaTime::from_millis(1), last }
    }

    fn shown(out: &[Ask]) -> Vec<(String, bool, bool)> {
        let only = |ask: &Ask| match ask {
            Ask::Show(caption) => Some((caption.text.clone(), caption.is_final, caption.untranslated)),
            Ask::Translate { .. } | Ask::Outage(_) | Ask::Untranslated => None,
        };
        out.iter().filter_map(only).collect()
    }

    const T: Duration = Duration::ZERO;

    #[test]
    fn a_translation_that_overtakes_waits_for_its_turn() {
        let mut track = Track::new(lang("es"), lang("en"), 0);
        let mut out = Vec::new();
        track.push(T, clause(0, 0, "one", false), &mut out);
        track.push(T, clause(0, 1, "two", true), &mut out);
        track.translated(T, 1, Some("dos".into()), &mut out);
        assert!(shown(&out).is_empty());
        track.translated(T, 0, Some("uno".into()), &mut out);
        assert_eq!(shown(&out), [("uno".into(), false, false), ("uno dos".into(), true, false)]);
    }

    #[test]
    fn two_sentences_under_way_at_once_keep_their_beginnings() {
        let mut track = Track::new(lang("es"), lang("en"), 0);
        let mut out = Vec::new();
        for (n, (segment, last)) in [(0, false), (1, false), (0, true), (1, true)].into_iter().enumerate() {
            track.push(T, clause(segment, 0, "x", last), &mut out);
            track.translated(T, n as u64, Some(format!("{segment}{n}")), &mut out);
        }
        let texts: Vec<String> = shown(&out).into_iter().map(|(text, ..)| text).collect();
        assert_eq!(texts, ["00", "11", "00 02", "11 13"]);
    }

    #[test]
    fn a_failed_clause_is_shown_in_the_source_language_and_says_so() {
        let mut track = Track::new(lang("es"), lang("en"), 0);
        let mut out = Vec::new();
        track.push(T, clause(0, 0, "one", false), &mut out);
        track.push(T, clause(0, 1, ".", true), &mut out);
        track.translated(T, 0, None, &mut out);
        assert_eq!(shown(&out), [("one".into(), false, true), ("one.".into(), true, true)]);
    }

    #[test]
    fn a_dead_service_is_tried_by_one_clause_at_a_time_and_recovers() {
        let mut track = Track::new(lang("es"), lang("en"), 0);
        let mut out = Vec::new();
        for n in 0..u64::from(BREAKER_FAILURES) {
            track.push(T, clause(n, 0, "x", true), &mut out);
            track.translated(T, n, None, &mut out);
        }
        assert_eq!(out.iter().filter(|ask| **ask == Ask::Outage(true)).count(), 1);
        out.clear();
        track.push(T, clause(7, 0, "at once", true), &mut out);
        assert_eq!(shown(&out), [("at once".into(), true, true)]);
        out.clear();
        track.push(BREAKER_PAUSE, clause(8, 0, "trial", true), &mut out);
        assert_eq!(out, [Ask::Translate { job: 4, text: "trial".into() }]);
        track.translated(BREAKER_PAUSE, 4, Some("prueba".into()), &mut out);
        assert!(out.contains(&Ask::Outage(false)));
        assert_eq!(shown(&out), [("prueba".into(), true, false)]);
    }

    #[test]
    fn a_translation_that_never_comes_back_is_given_up_at_its_deadline() {
        let mut track = Track::new(lang("es"), lang("en"), 0);
        let mut out = Vec::new();
        track.push(T, clause(0, 0, "one", true), &mut out);
        let deadline = track.deadline().unwrap();
        track.tick(deadline, &mut out);
        assert_eq!(shown(&out), [("one".into(), true, true)]);
        track.translated(deadline, 0, Some("uno".into()), &mut out);
        assert_eq!(shown(&out).len(), 1, "the late answer is not shown a second time");
        assert!(track.is_idle());
    }
}
