//! What was said in one session, in every language somebody wanted: the transcript while it is being written.
//!
//! The session's actor writes with its [`Pen`]; doors read and have the rest translated without asking the actor.
//! Lines go to the store behind it. The book keeps everything in memory up to [`MAX_BYTES`] (a day of speech in two
//! languages); past it the oldest saved lines are read from the store again, and only if the store has been away for
//! so long that nothing is saved any more are lines lost, and counted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use babelcast_domain::counts::{Count, Counts};
use babelcast_domain::error::Problem;
use babelcast_domain::ids::SessionId;
use babelcast_domain::language::Language;
use babelcast_domain::line::Line;
use babelcast_domain::record::SessionRecord;
use babelcast_domain::wire::Caption;
use tokio::sync::watch;
use tokio::time::Instant;

const MAX_BYTES: usize = 8 << 20;
/// What a line costs besides its text, about.
const LINE_BYTES: usize = 160;
/// A live translation is waited for so long before somebody else may do it: beyond every deadline of a track.
const LIVE_WITHIN: Duration = Duration::from_secs(5);
/// After a failure nobody asks the service for the same language again for so long.
pub const COOL_DOWN: Duration = Duration::from_secs(5);

pub struct Book {
    pub session: SessionId,
    pub source: Language,
    /// Epoch seconds.
    pub expires_at: u64,
    pages: Mutex<Pages>,
    changed: watch::Sender<()>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Pages {
    languages: BTreeMap<Language, BTreeMap<u64, Line>>,
    unsaved: BTreeSet<(u64, Language)>,
    coming: BTreeMap<(Language, u64), Coming>,
    failed: BTreeMap<Language, (Instant, Problem)>,
    bytes: usize,
    /// Everything that was ever said is in here.
    whole: bool,
    /// The session runs in this process.
    live: bool,
}

/// Who is about to write a line.
enum Coming {
    /// The session's own translation, expected until then.
    Live(Instant),
    Claimed,
}

/// What a reader finds in one language.
#[derive(Debug, Default)]
pub struct Look {
    pub lines: Vec<Line>,
    /// Lines that exist in the source language only.
    pub missing: usize,
    /// Somebody is translating lines that are missing or untranslated.
    pub coming: bool,
    /// Why nobody is.
    pub failed: Option<Problem>,
}

impl Book {
    pub fn new(record: &SessionRecord, counts: Arc<Counts>) -> Arc<Book> {
        Arc::new(Book {
            session: record.session_id.clone(),
            source: record.source_language.clone(),
            expires_at: record.expires_at,
            pages: Mutex::default(),
            changed: watch::Sender::new(()),
            counts,
        })
    }

    /// Wakes whenever something was written, saved or given up.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Whether nothing of it need be read from the store.
    pub fn is_whole(&self) -> bool {
        self.pages().whole
    }

    /// Whether it can be thrown away.
    pub fn is_idle(&self) -> bool {
        let pages = self.pages();
        !pages.live && pages.unsaved.is_empty() && pages.coming.is_empty()
    }

    /// Takes a line. What is translated is not replaced by what is not.
    pub fn write(&self, line: Line) {
        let place = (line.language.clone(), line.segment);
        let lost = {
            let mut pages = self.pages();
            pages.coming.remove(&place);
            let known = pages.line(&line.language, line.segment);
            if !known.is_some_and(|known| *known == line || (line.untranslated && !known.untranslated)) {
                pages.unsaved.insert((line.segment, line.language.clone()));
                pages.put(line);
            }
            pages.shrink()
        };
        if lost > 0 {
            self.counts.add(Count::LinesLost, lost);
            tracing::error!(session.id = %self.session, lost, "lines of a transcript are lost: the store has been away too long");
        }
        self.changed.send_replace(());
    }

    /// Takes what the store has; what is here already stays.
    pub fn absorb(&self, lines: Vec<Line>) {
        let mut pages = self.pages();
        for line in lines {
            if pages.line(&line.language, line.segment).is_none() {
                pages.put(line);
            }
        }
        pages.shrink();
    }

    pub fn line(&self, language: &Language, segment: u64) -> Option<Line> {
        self.pages().line(language, segment).cloned()
    }

    /// The newest lines in the source language before a segment, newest first.
    pub fn spoken_before(&self, segment: u64, most: usize) -> Vec<Line> {
        let pages = self.pages();
        let spoken = pages.languages.get(&self.source).into_iter().flat_map(|lines| lines.range(..segment).rev());
        spoken.take(most).map(|(_, line)| line.clone()).collect()
    }

    /// The newest segment so far.
    pub fn last_segment(&self) -> Option<u64> {
        let pages = self.pages();
        pages.languages.get(&self.source)?.last_key_value().map(|(segment, _)| *segment)
    }

    /// What there is in a language up to a segment.
    pub fn look(&self, language: &Language, until: u64, now: Instant) -> Look {
        let mut pages = self.pages();
        pages.forget_late(now);
        let empty = BTreeMap::new();
        let own = pages.languages.get(language).unwrap_or(&empty);
        let source = pages.languages.get(&self.source).unwrap_or(&empty);
        let coming = pages.coming.range((language.clone(), 0)..=(language.clone(), until));
        Look {
            lines: own.range(..=until).map(|(_, line)| line.clone()).collect(),
            missing: source.range(..=until).filter(|(segment, _)| !own.contains_key(segment)).count(),
            coming: coming.count() > 0,
            failed: pages.failed(language, now),
        }
    }

    /// Whether one of these lines is being translated because somebody asked.
    pub fn is_owed(&self, language: &Language, segments: &BTreeSet<u64>) -> bool {
        let pages = self.pages();
        let claimed = |segment: &u64| matches!(pages.coming.get(&(language.clone(), *segment)), Some(Coming::Claimed));
        segments.iter().any(claimed)
    }

    /// Takes it upon the caller to translate what is missing or untranslated in a language, of `only` these segments if
    /// given. Nobody else is given the same line until the claim is settled or dropped. Empty after a failure.
    pub fn claim(self: &Arc<Self>, language: &Language, only: Option<&BTreeSet<u64>>, now: Instant) -> Claim {
        let mut pages = self.pages();
        // The session itself knows better than this guess what it still translates, so `only` goes without it.
        if only.is_none() {
            pages.forget_late(now);
        }
        let mut lines = Vec::new();
        if pages.failed(language, now).is_none() {
            let wanted = |(segment, _): &(&u64, &Line)| {
                let known = pages.line(language, **segment).is_some_and(|line| !line.untranslated);
                let coming = match pages.coming.get(&(language.clone(), **segment)) {
                    Some(Coming::Claimed) => true,
                    Some(Coming::Live(_)) => only.is_none(),
                    None => false,
                };
                !known && !coming && only.is_none_or(|only| only.contains(segment))
            };
            let source = pages.languages.get(&self.source).into_iter().flatten();
            lines = source.filter(wanted).map(|(_, line)| line.clone()).collect();
        }
        for line in &lines {
            pages.coming.insert((language.clone(), line.segment), Coming::Claimed);
        }
        Claim { book: Arc::clone(self), language: language.clone(), lines }
    }

    /// The oldest unsaved lines.
    pub fn unsaved(&self, most: usize) -> Vec<Line> {
        let pages = self.pages();
        let lines = pages.unsaved.iter().filter_map(|(segment, language)| pages.line(language, *segment));
        lines.take(most).cloned().collect()
    }

    /// The store has them, unless they were changed meanwhile.
    pub fn saved(&self, lines: &[Line]) {
        let mut pages = self.pages();
        for line in lines {
            if pages.line(&line.language, line.segment) == Some(line) {
                pages.unsaved.remove(&(line.segment, line.language.clone()));
            }
        }
        drop(pages);
        self.counts.add(Count::LinesSaved, lines.len() as u64);
        self.changed.send_replace(());
    }

    /// The store will never take them.
    pub fn give_up(&self, lines: &[Line]) {
        let mut pages = self.pages();
        for line in lines {
            pages.unsaved.remove(&(line.segment, line.language.clone()));
        }
        drop(pages);
        self.counts.add(Count::LinesLost, lines.len() as u64);
        self.changed.send_replace(());
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pages {
    fn line(&self, language: &Language, segment: u64) -> Option<&Line> {
        self.languages.get(language)?.get(&segment)
    }

    fn put(&mut self, line: Line) {
        self.bytes += line.text.len() + LINE_BYTES;
        let before = self.languages.entry(line.language.clone()).or_default().insert(line.segment, line);
        self.bytes -= before.map_or(0, |line| line.text.len() + LINE_BYTES);
    }

    /// Forgets the oldest until the rest has room: saved ones while there are any. Answers with how many unsaved went.
    fn shrink(&mut self) -> u64 {
        let mut lost = 0;
        while self.bytes > MAX_BYTES {
            let unsaved = &self.unsaved;
            let oldest = |keep_unsaved: bool| {
                let places = self.languages.iter().filter_map(|(language, lines)| {
                    let may_go = |segment: &&u64| !keep_unsaved || !unsaved.contains(&(**segment, language.clone()));
                    lines.keys().find(may_go).map(|segment| (*segment, language.clone()))
                });
                places.min()
            };
            let Some((segment, language)) = oldest(true).or_else(|| oldest(false)) else { break };
            lost += u64::from(self.unsaved.remove(&(segment, language.clone())));
            let gone = self.languages.get_mut(&language).and_then(|lines| lines.remove(&segment));
            self.bytes -= gone.map_or(0, |line| line.text.len() + LINE_BYTES);
            self.whole = false;
        }
        lost
    }

    /// A live translation that has not come by now never will: its listeners have left.
    fn forget_late(&mut self, now: Instant) {
        self.coming.retain(|_, coming| !matches!(coming, Coming::Live(until) if *until <= now));
    }

    fn failed(&self, language: &Language, now: Instant) -> Option<Problem> {
        self.failed.get(language).filter(|(until, _)| *until > now).map(|(_, problem)| problem.clone())
    }
}

/// Lines somebody has taken upon itself to translate. What is not settled when it is dropped is free again.
pub struct Claim {
    pub book: Arc<Book>,
    pub language: Language,
    /// In the source language.
    pub lines: Vec<Line>,
}

impl Claim {
    /// One of the lines, translated. What listeners were shown meanwhile stands.
    pub fn settle(&self, line: &Line, text: String, untranslated: bool) {
        if self.book.line(&self.language, line.segment).is_some_and(|shown| !shown.untranslated) {
            return;
        }
        self.book.write(Line { language: self.language.clone(), text, untranslated, ..line.clone() });
    }

    /// The service failed: nobody need try for a while.
    pub fn fail(&self, problem: Problem, now: Instant) {
        self.book.pages().failed.insert(self.language.clone(), (now + COOL_DOWN, problem));
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut pages = self.book.pages();
        for line in &self.lines {
            let place = (self.language.clone(), line.segment);
            if matches!(pages.coming.get(&place), Some(Coming::Claimed)) {
                pages.coming.remove(&place);
            }
        }
        drop(pages);
        self.book.changed.send_replace(());
    }
}

/// The live session's own hand in its book. Dropping it, by whatever end, says that no more comes from there.
pub struct Pen(Arc<Book>);

impl Pen {
    /// `whole`: the session begins now, so that there is nothing in the store.
    pub fn new(book: Arc<Book>, whole: bool) -> Pen {
        {
            let mut pages = book.pages();
            pages.live = true;
            pages.whole = whole && pages.languages.is_empty();
        }
        Pen(book)
    }

    pub fn book(&self) -> &Arc<Book> {
        &self.0
    }

    /// Writes a final down; one in the source language is soon to come in the languages that are being translated into.
    pub fn write<'a>(&self, caption: &Caption, translating: impl Iterator<Item = &'a Language>, now: Instant) {
        let Some(line) = Line::of(caption) else { return };
        if line.language == self.0.source {
            let until = now + LIVE_WITHIN;
            let mut pages = self.0.pages();
            for language in translating {
                pages.coming.entry((language.clone(), line.segment)).or_insert(Coming::Live(until));
            }
        }
        self.0.write(line);
    }
}

impl Drop for Pen {
    fn drop(&mut self) {
        let mut pages = self.0.pages();
        pages.live = false;
        pages.coming.retain(|_, coming| matches!(coming, Coming::Claimed));
        drop(pages);
        self.0.changed.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use babelcast_domain::ids::SpeakerId;
    use babelcast_domain::record::{QualityTier, SignalingEndpoints, Status};
    use babelcast_domain::time::UnixMs;

    use super::*;

    fn lang(code: &str) -> Language {
        Language::parse(code).unwrap()
    }

    fn line(language: &str, segment: u64, text: &str) -> Line {
        Line { segment, language: lang(language), text: text.to_owned(), start_ms: 0, end_ms: 1, untranslated: false }
    }

    fn book() -> (Arc<Book>, Pen) {
        let record = SessionRecord {
            session_id: SessionId::parse("calm-river-7").unwrap(),
            speaker_id: SpeakerId::new("ana"),
            title: None,
            source_language: lang("en"),
            target_languages: None,
            quality_tier: QualityTier::Standard,
            status: Status::Active,
            end_reason: None,
            speaker_kvs_connected: false,
            kvs_channel_arn: String::new(),
            kvs_channel_name: String::new(),
            kvs_signaling_endpoints: SignalingEndpoints { wss: String::new(), https: String::new() },
            kvs_stream_name: None,
            glossary: None,
            vocabulary: None,
            access_code: None,
            private_transcript: false,
            created_at: UnixMs(0),
            updated_at: UnixMs(0),
            expires_at: 86_400,
            first_audio_at: None,
            version: 1,
            lease_owner: None,
            lease_until: None,
            fence: 1,
        };
        let book = Book::new(&record, Arc::default());
        (Arc::clone(&book), Pen::new(book, true))
    }

    fn segments(claim: &Claim) -> Vec<u64> {
        claim.lines.iter().map(|line| line.segment).collect()
    }

    #[test]
    fn a_line_is_claimed_by_one_only_until_the_claim_is_dropped() {
        let ((book, _pen), now) = (book(), Instant::now());
        (0..3).for_each(|segment| book.write(line("en", segment, "x")));
        let first = book.claim(&lang("es"), Some(&BTreeSet::from([1])), now);
        let second = book.claim(&lang("es"), None, now);
        assert_eq!((segments(&first), segments(&second)), (vec![1], vec![0, 2]));
        first.settle(&first.lines[0], "uno".into(), false);
        drop((first, second));
        assert_eq!(segments(&book.claim(&lang("es"), None, now)), [0, 2], "what was not settled is free again");
        let look = book.look(&lang("es"), 2, now);
        assert_eq!((look.lines.len(), look.missing, look.coming), (1, 2, false));
    }

    #[test]
    fn what_is_being_translated_live_is_left_to_it_for_a_while() {
        let ((book, pen), now) = (book(), Instant::now());
        let caption = line("en", 0, "one").caption(None, None);
        pen.write(&caption, [lang("es")].iter(), now);
        assert!(book.claim(&lang("es"), None, now).lines.is_empty() && book.look(&lang("es"), 0, now).coming);
        assert_eq!(segments(&book.claim(&lang("fr"), None, now)), [0]);
        let now = now + LIVE_WITHIN;
        assert_eq!(segments(&book.claim(&lang("es"), None, now)), [0], "its listeners have left");
    }

    #[test]
    fn after_a_failure_nobody_tries_for_a_while() {
        let ((book, _pen), now) = (book(), Instant::now());
        book.write(line("en", 0, "one"));
        let claim = book.claim(&lang("es"), None, now);
        claim.fail(Problem::upstream("translate"), now);
        drop(claim);
        assert!(book.claim(&lang("es"), None, now).lines.is_empty() && book.look(&lang("es"), 0, now).failed.is_some());
        let now = now + COOL_DOWN;
        assert_eq!(segments(&book.claim(&lang("es"), None, now)), [0]);
        assert!(book.look(&lang("es"), 0, now).failed.is_none());
    }

    #[test]
    fn what_was_shown_stands_and_what_was_not_translated_is_made_good() {
        let ((book, _pen), now) = (book(), Instant::now());
        book.write(line("en", 0, "one"));
        book.write(Line { untranslated: true, ..line("es", 0, "one") });
        let claim = book.claim(&lang("es"), None, now);
        claim.settle(&claim.lines[0], "uno".into(), false);
        claim.settle(&claim.lines[0], "un".into(), false);
        book.write(Line { untranslated: true, ..line("es", 0, "one") });
        assert_eq!(book.line(&lang("es"), 0), Some(line("es", 0, "uno")));
    }

    #[test]
    fn a_line_that_changed_while_it_was_saved_is_saved_again() {
        let (book, _pen) = book();
        book.write(line("en", 0, "one"));
        let saving = book.unsaved(25);
        book.write(line("en", 0, "two"));
        book.saved(&saving);
        assert_eq!(book.unsaved(25), [line("en", 0, "two")]);
        book.saved(&[line("en", 0, "two")]);
        assert!(book.unsaved(25).is_empty());
    }

    #[test]
    fn past_its_bound_the_book_forgets_what_is_saved_and_only_then_loses_what_is_not() {
        let (book, _pen) = book();
        let text = "x".repeat(64 << 10);
        for segment in 0..64 {
            book.write(line("en", segment, &text));
        }
        let saved = book.unsaved(64);
        book.saved(&saved);
        for segment in 64..128 {
            book.write(line("en", segment, &text));
        }
        assert!(!book.is_whole() && book.counts.get(Count::LinesLost) == 0);
        assert_eq!(book.unsaved(200).len(), 64, "nothing unsaved is gone");
        for segment in 128..256 {
            book.write(line("en", segment, &text));
        }
        assert!(book.counts.get(Count::LinesLost) > 0);
        assert!(book.pages().bytes <= MAX_BYTES);
        assert_eq!(book.last_segment(), Some(255), "the oldest go first");
    }
}
