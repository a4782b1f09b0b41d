//! Every book of this process: saved behind the speaker's back, read by the doors, translated on demand.
//!
//! On demand means once: a line is claimed before it is translated and kept afterwards, in the book and in the store,
//! so that ten askers cost one translation. It is bounded per session, because anybody who knows a session's name may
//! ask, and in the process, so that live captions never queue behind it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use babelcast_domain::counts::{Count, Counts};
use babelcast_domain::error::{ErrorCode, Problem};
use babelcast_domain::ids::SessionId;
use babelcast_domain::language::Language;
use babelcast_domain::line::Line;
use babelcast_domain::record::SessionRecord;
use futures_util::StreamExt;
use rand::Rng;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::aws::Clients;
use crate::aws::translate::{TranslateError, translate};
use crate::store::{Store, StoreError};

use super::book::{Book, COOL_DOWN, Claim, Pen};
use super::settings::millis;
use super::task;

/// Books of sessions that do not run here, kept for the next reader.
const SHELF: usize = 128;
/// Sessions whose spending is remembered; past it the oldest name is forgotten.
const ACCOUNTS: usize = 10_000;
/// Translations on demand under way at once: for one language, and in the process.
const LANGUAGE_AT_ONCE: usize = 4;
const PROCESS_AT_ONCE: usize = 16;
/// So many failures end a translation on demand; what was done stays.
const FAILURES: u32 = 3;
/// Lines are collected for so long before they are saved, and saved so many at a time (as many as DynamoDB takes).
const LINGER: Duration = Duration::from_millis(400);
const BATCH: usize = 25;
const LOAD_WITHIN: Duration = Duration::from_secs(1);
const SAVE_WITHIN: Duration = Duration::from_secs(5);
const BACKOFF_FIRST: Duration = Duration::from_millis(500);
const BACKOFF_LONGEST: Duration = Duration::from_secs(30);

/// What transcripts may cost. Languages that are translated live cost nothing here.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Transcripts {
    /// Languages of one session that are translated on demand, for transcripts and for the history of newcomers.
    pub languages: usize,
    /// Characters of one session that are translated on demand, all languages together.
    pub characters: u64,
    /// A reader waits so long for a translation; it goes on, and the next try finds more of it.
    #[serde(rename = "wait_ms", deserialize_with = "millis")]
    pub wait: Duration,
    /// A newcomer waits so long for the history in a language nobody had before.
    #[serde(rename = "history_wait_ms", deserialize_with = "millis")]
    pub history_wait: Duration,
}

impl Default for Transcripts {
    fn default() -> Self {
        Transcripts {
            languages: 20,
            characters: 1_000_000,
            wait: Duration::from_secs(20),
            history_wait: Duration::from_millis(1_500),
        }
    }
}

struct Shelved {
    book: Arc<Book>,
    asked: Instant,
    _saver: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct Account {
    languages: BTreeSet<Language>,
    characters: u64,
}

pub struct Library {
    terms: Transcripts,
    clients: Arc<Clients>,
    store: Arc<Store>,
    counts: Arc<Counts>,
    shelf: Mutex<BTreeMap<SessionId, Shelved>>,
    accounts: Mutex<BTreeMap<SessionId, Account>>,
    /// Translations under way.
    work: Mutex<JoinSet<()>>,
    room: Arc<Semaphore>,
    /// The process ends: save at once.
    hurry: CancellationToken,
}

impl Library {
    pub fn new(terms: Transcripts, clients: Arc<Clients>, store: Arc<Store>, counts: Arc<Counts>) -> Arc<Library> {
        Arc::new(Library {
            terms,
            clients,
            store,
            counts,
            shelf: Mutex::default(),
            accounts: Mutex::default(),
            work: Mutex::default(),
            room: Arc::new(Semaphore::new(PROCESS_AT_ONCE)),
            hurry: CancellationToken::new(),
        })
    }

    pub fn history_wait(&self) -> Duration {
        self.terms.history_wait
    }

    /// For the actor of a session that begins to run here.
    pub fn pen(&self, record: &SessionRecord) -> Pen {
        Pen::new(self.book(record), record.fence <= 1)
    }

    /// Reads what was said in a session that is taken over, for the history of those who come back to it. A store that
    /// is slow now does not keep them waiting.
    pub async fn load(&self, record: &SessionRecord) {
        let book = self.book(record);
        match timeout(LOAD_WITHIN, self.store.lines(&book.session, &book.source)).await {
            Ok(Ok(lines)) => book.absorb(lines),
            Ok(Err(error)) => {
                self.store_failed(&error);
            }
            Err(_) => tracing::warn!(session.id = %book.session, "what was said before could not be read in time"),
        }
    }

    /// Everything said so far in one language, which is the source language or one that the session offers.
    ///
    /// # Errors
    /// `UPSTREAM_UNAVAILABLE` while the store or the translation service fails or is not done yet; what was translated
    /// until then is kept. `RATE_LIMITED` when the session has had all the translations on demand it may have.
    pub async fn transcript(&self, record: &SessionRecord, language: &Language) -> Result<Vec<Line>, Problem> {
        let answer = self.read(record, language).await;
        if answer.is_err() {
            self.counts.one(Count::TranscriptsRefused);
        }
        answer
    }

    async fn read(&self, record: &SessionRecord, language: &Language) -> Result<Vec<Line>, Problem> {
        let book = self.book(record);
        if !book.is_whole() {
            for language in BTreeSet::from([&book.source, language]) {
                let lines = self.store.lines(&book.session, language).await;
                book.absorb(lines.map_err(|error| self.store_failed(&error))?);
            }
        }
        // What is said from now on is another reader's.
        let Some(last) = book.last_segment() else { return Ok(Vec::new()) };
        let until = Instant::now() + self.terms.wait;
        let mut changes = book.changes();
        loop {
            changes.borrow_and_update();
            let mut asked = Ok(());
            if *language != book.source {
                asked = self.fetch(&book, record.glossary.as_deref(), language, None);
            }
            let look = book.look(language, last, Instant::now());
            if !look.coming {
                // Lines that stay untranslated say so themselves.
                match (look.missing, look.failed, asked) {
                    (0, ..) => return Ok(look.lines),
                    (_, Some(problem), _) | (_, None, Err(problem)) => return Err(problem),
                    // Given up between our asking and our looking: ask again.
                    (_, None, Ok(())) if Instant::now() < until => {
                        sleep(Duration::from_millis(20)).await;
                        continue;
                    }
                    (_, None, Ok(())) => return Err(not_yet(look.missing)),
                }
            }
            if !matches!(timeout_at(until, changes.changed()).await, Ok(Ok(()))) {
                return Err(not_yet(look.missing));
            }
        }
    }

    /// Begins to translate what is missing in a language, of `only` these segments if given, unless somebody does already.
    ///
    /// # Errors
    /// `RATE_LIMITED` when the session has had its share.
    pub fn fetch(
        &self,
        book: &Arc<Book>,
        glossary: Option<&str>,
        language: &Language,
        only: Option<&BTreeSet<u64>>,
    ) -> Result<(), Problem> {
        let claim = book.claim(language, only, Instant::now());
        if claim.lines.is_empty() {
            return Ok(());
        }
        self.spend(&claim)?;
        let hands = Hands {
            clients: Arc::clone(&self.clients),
            store: Arc::clone(&self.store),
            counts: Arc::clone(&self.counts),
            room: Arc::clone(&self.room),
            glossary: glossary.map(str::to_owned),
        };
        let mut work = lock(&self.work);
        while let Some(done) = work.try_join_next() {
            self.reap(done);
        }
        task::join(&mut work, hands.translate_all(claim));
        Ok(())
    }

    /// Waits until everything is saved, or until it is out of patience.
    pub async fn close(&self, within: Duration) {
        self.hurry.cancel();
        let books: Vec<Arc<Book>> = lock(&self.shelf).values().map(|shelved| Arc::clone(&shelved.book)).collect();
        let until = Instant::now() + within;
        for book in books {
            let mut changes = book.changes();
            loop {
                changes.borrow_and_update();
                if book.unsaved(1).is_empty() {
                    break;
                }
                if !matches!(timeout_at(until, changes.changed()).await, Ok(Ok(()))) {
                    let lost = book.unsaved(usize::MAX).len();
                    self.counts.add(Count::LinesLost, lost as u64);
                    tracing::error!(session.id = %book.session, lost, "lines of a transcript are lost: the store did not take them in time");
                    break;
                }
            }
        }
    }

    fn book(&self, record: &SessionRecord) -> Arc<Book> {
        let mut shelf = lock(&self.shelf);
        if let Some(shelved) = shelf.get_mut(&record.session_id) {
            shelved.asked = Instant::now();
            return Arc::clone(&shelved.book);
        }
        while shelf.len() >= SHELF {
            let idle = shelf.iter().filter(|(_, shelved)| shelved.book.is_idle());
            let Some(oldest) = idle.min_by_key(|(_, shelved)| shelved.asked).map(|(id, _)| id.clone()) else { break };
            shelf.remove(&oldest);
        }
        let book = Book::new(record, Arc::clone(&self.counts));
        let saver = save(Arc::clone(&book), Arc::clone(&self.store), Arc::clone(&self.counts), self.hurry.clone());
        let shelved = Shelved { book: Arc::clone(&book), asked: Instant::now(), _saver: task::owned(saver) };
        shelf.insert(record.session_id.clone(), shelved);
        book
    }

    /// Charges a session for a claim.
    fn spend(&self, claim: &Claim) -> Result<(), Problem> {
        let characters: u64 = claim.lines.iter().map(|line| line.text.chars().count() as u64).sum();
        let mut accounts = lock(&self.accounts);
        if accounts.len() >= ACCOUNTS && !accounts.contains_key(&claim.book.session) {
            accounts.pop_first();
        }
        let account = accounts.entry(claim.book.session.clone()).or_default();
        let languages = account.languages.len() + usize::from(!account.languages.contains(&claim.language));
        if languages > self.terms.languages || account.characters + characters > self.terms.characters {
            let message = format!(
                "This session has been translated on demand as often as is allowed; choose its source language or one \
                 that was listened to, or ask the operator to raise live.transcripts ({} languages, {} characters)",
                self.terms.languages, self.terms.characters
            );
            let details = json!({ "retryAfterMs": 3_600_000, "translated": account.languages });
            return Err(Problem::new(ErrorCode::RateLimited, message).with(details));
        }
        account.languages.insert(claim.language.clone());
        account.characters += characters;
        Ok(())
    }

    fn reap(&self, done: Result<(), tokio::task::JoinError>) {
        if let Err(error) = done {
            self.counts.one(Count::Panics);
            tracing::error!(%error, "a translation on demand died");
        }
    }

    fn store_failed(&self, error: &StoreError) -> Problem {
        self.counts.one(Count::StoreErrors);
        tracing::error!(%error, "a transcript could not be read");
        Problem::upstream("store")
    }
}

fn not_yet(missing: usize) -> Problem {
    let details = json!({ "service": "translate", "missing": missing, "retryAfterMs": 2_000 });
    let message = "The transcript is still being translated; ask again in a few seconds";
    Problem::new(ErrorCode::UpstreamUnavailable, message).with(details)
}

/// What a translation on demand works with.
struct Hands {
    clients: Arc<Clients>,
    store: Arc<Store>,
    counts: Arc<Counts>,
    room: Arc<Semaphore>,
    glossary: Option<String>,
}

impl Hands {
    /// One call a line: the service does not promise to keep lines apart within a text.
    async fn translate_all(self, claim: Claim) {
        // Another node may have done it before the session came here.
        if !claim.book.is_whole() {
            match self.store.lines(&claim.book.session, &claim.language).await {
                Ok(lines) => claim.book.absorb(lines),
                Err(error) => {
                    self.counts.one(Count::StoreErrors);
                    tracing::warn!(%error, "a transcript could not be read; it is translated anew");
                }
            }
        }
        let failures = AtomicU32::new(0);
        let lines = futures_util::stream::iter(&claim.lines);
        lines.for_each_concurrent(LANGUAGE_AT_ONCE, |line| self.translate_one(&claim, line, &failures)).await;
    }

    async fn translate_one(&self, claim: &Claim, line: &Line, failures: &AtomicU32) {
        let known = claim.book.line(&claim.language, line.segment);
        if known.is_some_and(|known| !known.untranslated) {
            return;
        }
        let Ok(_room) = self.room.acquire().await else { return };
        if failures.load(Ordering::Relaxed) >= FAILURES {
            return;
        }
        self.counts.add(Count::CharactersTranslated, line.text.chars().count() as u64);
        let (from, to) = (claim.book.source.as_str(), claim.language.as_str());
        match translate(&self.clients, &line.text, from, to, self.glossary.as_deref()).await {
            Ok(text) => {
                self.counts.one(Count::LinesTranslated);
                claim.settle(line, text.trim().to_owned(), false);
            }
            // The service will never take this line: it stays as it was spoken, and says so.
            Err(TranslateError::Refused(_) | TranslateError::TooLong(_)) => {
                self.counts.one(Count::TranslationsFailed);
                claim.settle(line, line.text.clone(), true);
            }
            Err(error) => {
                self.counts.one(Count::TranslationsFailed);
                let before = failures.fetch_add(if error.retryable() { 1 } else { FAILURES }, Ordering::Relaxed);
                if before == 0 {
                    tracing::warn!(%error, language = to, "a transcript could not be translated");
                }
                let details = json!({ "service": "translate", "retryAfterMs": COOL_DOWN.as_millis() as u64 });
                claim.fail(Problem::upstream("translate").with(details), Instant::now());
            }
        }
    }
}

/// Brings a book's lines to the store, for as long as the book is on the shelf.
async fn save(book: Arc<Book>, store: Arc<Store>, counts: Arc<Counts>, hurry: CancellationToken) {
    let mut changes = book.changes();
    let mut backoff = BACKOFF_FIRST;
    let mut away = false;
    loop {
        changes.borrow_and_update();
        if book.unsaved(1).is_empty() {
            if changes.changed().await.is_err() {
                return;
            }
            continue;
        }
        let _ = timeout(LINGER, hurry.cancelled()).await;
        let lines = book.unsaved(BATCH);
        let put = timeout(SAVE_WITHIN, store.put_lines(&book.session, &lines, book.expires_at)).await;
        match put.unwrap_or(Err(StoreError::Timeout)) {
            Ok(()) => {
                book.saved(&lines);
                backoff = BACKOFF_FIRST;
                if std::mem::take(&mut away) {
                    tracing::info!(session.id = %book.session, "the transcript is saved again");
                }
                continue;
            }
            Err(error) if !error.retryable() => {
                counts.one(Count::StoreErrors);
                tracing::error!(%error, session.id = %book.session, lines = lines.len(), "lines of a transcript were refused");
                book.give_up(&lines);
                continue;
            }
            Err(error) => {
                counts.one(Count::StoreErrors);
                if !std::mem::replace(&mut away, true) {
                    tracing::warn!(%error, session.id = %book.session, "the transcript cannot be saved now; trying on");
                }
            }
        }
        let wait = backoff.mul_f64(rand::rng().random_range(0.5..1.0));
        let wait = if hurry.is_cancelled() { wait.min(BACKOFF_FIRST) } else { wait };
        tokio::select! {
            () = sleep(wait) => {}
            () = hurry.cancelled(), if !hurry.is_cancelled() => {}
        }
        backoff = (backoff * 2).min(BACKOFF_LONGEST);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
