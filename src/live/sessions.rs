//! The registry of sessions: births, deaths, and the way to the actor of each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use babelcast_domain::counts::{Count, Counts};
use babelcast_domain::error::{ErrorCode, Problem};
use babelcast_domain::ids::{NodeId, SessionId, SpeakerId};
use babelcast_domain::language::{Catalogue, Language};
use babelcast_domain::line::Line;
use babelcast_domain::record::{Change, Edit, EndReason, SessionRecord, Status};
use babelcast_domain::time::UnixMs;
use babelcast_domain::wire::{
    ConnectionView, IceServerView, LanguageState, LanguageStatus, PatchSession, Role, StatusView,
};
use futures_util::future::join_all;
use rustls::ClientConfig;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::aws::Clients;
use crate::aws::kvs::{self, KvsError};
use crate::aws::sign;
use crate::store::{Expected, Presence, Store, StoreError};

use super::admission::Places;
use super::clock::Clock;
use super::library::Library;
use super::life::elsewhere;
use super::seat::Seat;
use super::session::{Command, JoinRequest, Meter, Snapshot};
use super::settings::Settings;

/// Sessions in one page of a list.
const PAGE: usize = 50;
/// How long an actor may take to answer a door.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How long at most the last lines may take to reach the store when the process ends.
const LAST_LINES: Duration = Duration::from_secs(3);
/// An answer of the store to a probe counts for so long.
const PING_LASTS: Duration = Duration::from_secs(1);
/// Writes to a session of another node, each after a fresh look, before the caller is told to try again.
const WRITE_ATTEMPTS: usize = 4;

/// A record, and how many listen.
#[derive(Debug, Clone)]
pub struct Found {
    pub record: SessionRecord,
    pub listener_count: u64,
}

pub(super) struct Handle {
    pub commands: mpsc::Sender<Command>,
    pub snapshot: watch::Receiver<Snapshot>,
    /// As it is, whether the store has heard of it or not.
    pub record: watch::Receiver<SessionRecord>,
    pub meter: Arc<Meter>,
    pub _task: AbortOnDropHandle<()>,
}

/// All live sessions of this process, and the way to those of others.
pub struct Sessions {
    pub(super) settings: Settings,
    pub(super) clients: Arc<Clients>,
    pub(super) store: Arc<Store>,
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) tls: Arc<ClientConfig>,
    pub(super) counts: Arc<Counts>,
    pub(super) clock: Clock,
    pub(super) places: Arc<Places>,
    pub(super) library: Arc<Library>,
    /// New with every start.
    pub(super) node: NodeId,
    live: Mutex<BTreeMap<SessionId, Handle>>,
    adopting: Mutex<BTreeSet<SessionId>>,
    pub(super) adopted: Notify,
    /// Records that may have been written without a session.
    undoing: Mutex<JoinSet<()>>,
    pinged: tokio::sync::Mutex<Option<(Instant, bool)>>,
    pub(super) emptied: Notify,
}

impl Sessions {
    pub fn new(
        settings: Settings,
        clients: Arc<Clients>,
        store: Arc<Store>,
        catalogue: Arc<Catalogue>,
        tls: Arc<ClientConfig>,
        counts: Arc<Counts>,
    ) -> Arc<Self> {
        let terms = settings.transcripts.clone();
        let library = Library::new(terms, Arc::clone(&clients), Arc::clone(&store), Arc::clone(&counts));
        Arc::new(Sessions {
            settings,
            clients,
            store,
            catalogue,
            tls,
            counts,
            clock: Clock::start(),
            places: Arc::default(),
            library,
            node: NodeId::new(format!("{:016x}", rand::random::<u64>())),
            live: Mutex::default(),
            adopting: Mutex::default(),
            adopted: Notify::new(),
            undoing: Mutex::default(),
            pinged: tokio::sync::Mutex::default(),
            emptied: Notify::new(),
        })
    }

    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// Whether the store answers; without it no session can be made or taken over. Asked once a second at most,
    /// however many probes there are.
    pub async fn store_answers(&self) -> bool {
        let mut pinged = self.pinged.lock().await;
        if let Some((at, answers)) = *pinged
            && at.elapsed() < PING_LASTS
        {
            return answers;
        }
        let answer = self.store.ping().await;
        if let Err(error) = &answer {
            self.counts.one(Count::StoreErrors);
            tracing::warn!(%error, "not ready: the store does not answer");
        }
        *pinged = Some((Instant::now(), answer.is_ok()));
        answer.is_ok()
    }

    /// An ended session is found until it expires; unknown and expired ones are not. A session that lives here is found
    /// without the store.
    pub async fn find(&self, id: &SessionId) -> Result<Found, Problem> {
        if let Some(found) = self.find_live(id) {
            return Ok(found);
        }
        let record = self.stored(id).await?;
        let now = self.clock.now().wall;
        if record.is_expired(now) {
            return Err(Problem::session_not_found("expired"));
        }
        let listener_count = self.listeners_elsewhere(&record).await.values().map(|one| one.total).sum();
        Ok(Found { record, listener_count })
    }

    /// A speaker's own sessions, newest first, and the cursor of the next page.
    pub async fn list(
        &self,
        speaker: &SpeakerId,
        cursor: Option<&str>,
    ) -> Result<(Vec<Found>, Option<String>), Problem> {
        let now = self.clock.now().wall;
        let page = self.store.list(speaker, now, cursor, PAGE).await.map_err(|error| match error {
            StoreError::BadCursor => Problem::invalid("`cursor` is not one of ours: leave it out for the first page"),
            error => self.store_failed(&error),
        })?;
        let found = |record: SessionRecord| async move {
            if let Some(found) = self.find_live(&record.session_id) {
                return found;
            }
            let listener_count = self.listeners_elsewhere(&record).await.values().map(|one| one.total).sum();
            Found { record, listener_count }
        };
        Ok((join_all(page.records.into_iter().map(found)).await, page.cursor))
    }

    /// Changes what an owner may change. A session that has ended changes no more: `CONFLICT`.
    pub async fn edit(self: &Arc<Self>, id: &SessionId, patch: PatchSession) -> Result<Found, Problem> {
        patch.check()?;
        let found = self.find(id).await?;
        if found.record.status == Status::Ended {
            return Err(ended());
        }
        let target_languages = match patch.target_languages {
            Some(Some(asked)) => Some(Some(self.targets(&found.record.source_language, &asked)?)),
            other => other.map(|_| None),
        };
        let edit = Edit { title: patch.title, target_languages, private_transcript: patch.private_transcript };
        let paused = patch.status.map(|status| status == Status::Paused);
        if self.is_elsewhere(&found.record) {
            let edited = (edit != Edit::default()).then_some(Change::Edited(edit));
            let changes = edited.into_iter().chain(paused.map(Change::Paused)).collect();
            let record = self.write_elsewhere(found.record, changes).await?;
            return Ok(Found { record, ..found });
        }
        self.host(id).await.map_err(as_conflict)?;
        let (answer, answered) = oneshot::channel();
        let record = self.ask(id, Command::Edit { edit, paused, answer }, answered).await.map_err(as_conflict)?;
        Ok(Found { record, ..found })
    }

    /// What pollers are told.
    pub async fn status(&self, id: &SessionId) -> Result<StatusView, Problem> {
        let (answer, answered) = oneshot::channel();
        if self.live().contains_key(id)
            && let Ok(view) = self.ask(id, Command::Status { answer }, answered).await
        {
            return Ok(view);
        }
        // Not here, or over: what the store says.
        let Found { record, listener_count } = self.find(id).await?;
        let mut languages = BTreeMap::new();
        for one in self.listeners_elsewhere(&record).await.into_values() {
            for (language, listeners) in one.by_language {
                let known = languages.entry(language);
                known.or_insert(LanguageStatus { listeners: 0, state: LanguageState::Warming }).listeners += listeners;
            }
        }
        let speaker_kvs_connected = record.speaker_kvs_connected;
        Ok(StatusView { status: record.status, speaker_kvs_connected, listener_count, languages })
    }

    /// Ends a session; ending an ended one changes nothing.
    pub async fn end(self: &Arc<Self>, id: &SessionId, reason: EndReason) -> Result<(), Problem> {
        let record = self.find(id).await?.record;
        if record.status == Status::Ended {
            return Ok(());
        }
        if self.is_elsewhere(&record) {
            return self.write_elsewhere(record, vec![Change::Ended(reason)]).await.map(|_| ());
        }
        let ended = async {
            self.host(id).await?;
            let (answer, answered) = oneshot::channel();
            self.ask(id, Command::End { reason, answer }, answered).await
        };
        match ended.await {
            // It ended between our look and our word.
            Err(problem) if problem.code == ErrorCode::SessionNotFound => Ok(()),
            other => other,
        }
    }

    pub async fn set_kvs_connected(self: &Arc<Self>, id: &SessionId, connected: bool) -> Result<Found, Problem> {
        let record = self.joinable(id).await?;
        if self.is_elsewhere(&record) {
            self.write_elsewhere(record, vec![Change::KvsConnected(connected)]).await?;
            return self.find(id).await;
        }
        self.host(id).await?;
        let (answer, answered) = oneshot::channel();
        self.ask(id, Command::SpeakerSays { connected, answer }, answered).await?;
        self.find(id).await
    }

    /// All a browser needs to become MASTER without AWS credentials.
    pub async fn speaker_connection(&self, id: &SessionId) -> Result<ConnectionView, Problem> {
        let record = self.joinable(id).await?;
        let arn = &record.kvs_channel_arn;
        let endpoints = &record.kvs_signaling_endpoints;
        let servers = kvs::ice_servers(&self.clients, arn, &endpoints.https, "master").await;
        let servers = match servers {
            Ok(servers) => servers,
            Err(error) => {
                // Its channel goes when a session ends, which it may just have done.
                self.joinable(id).await?;
                return Err(self.kvs_failed(&error));
            }
        };
        let url = self.clients.presign_master(&endpoints.wss, arn).await.map_err(|error| {
            tracing::error!(%error, "the speaker's address could not be signed");
            Problem::upstream("kinesisvideo")
        })?;
        let view = |server: kvs::IceServer| IceServerView {
            urls: server.urls,
            username: server.username,
            credential: server.credential,
        };
        Ok(ConnectionView {
            channel_arn: arn.clone(),
            role: "MASTER".to_owned(),
            signaling_url: url.into_string(),
            expires_in_seconds: sign::LIFETIME.as_secs(),
            ice_servers: servers.into_iter().map(view).collect(),
        })
    }

    /// Takes a seat in a session; `sessionJoined` is the first thing the seat delivers.
    pub async fn join(self: &Arc<Self>, id: &SessionId, request: JoinRequest) -> Result<Seat, Problem> {
        self.host(id).await?;
        let place = (request.role == Role::Listener).then(|| self.place()).transpose()?;
        let (answer, answered) = oneshot::channel();
        let mut seat = self.ask(id, Command::Join { request, answer }, answered).await??;
        if let Some(place) = place {
            seat.hold(place);
        }
        Ok(seat)
    }

    /// The language of this session that a request means; absent: the source language.
    pub fn choose(&self, record: &SessionRecord, asked: Option<&str>) -> Result<Language, Problem> {
        self.catalogue.choose(asked, &record.source_language, record.target_languages.as_deref())
    }

    /// Everything said so far in a language, live or over; see [`Library::transcript`].
    pub async fn transcript(&self, record: &SessionRecord, language: &Language) -> Result<Vec<Line>, Problem> {
        self.library.transcript(record, language).await
    }

    /// Counters and latencies of a live session.
    pub fn meter(&self, id: &SessionId) -> Option<Arc<Meter>> {
        self.live().get(id).map(|handle| Arc::clone(&handle.meter))
    }

    pub fn snapshot(&self, id: &SessionId) -> Option<Snapshot> {
        self.live().get(id).map(|handle| *handle.snapshot.borrow())
    }

    pub fn live_count(&self) -> usize {
        self.live().len()
    }

    /// Asks every listener to reconnect elsewhere, lets last words be said, and waits for all sessions to leave.
    ///
    /// Where records outlive the process, sessions are handed over with their channels; in memory they end with it.
    pub async fn drain(&self, within: Duration) {
        let hand_over = self.store.is_durable();
        let commands: Vec<_> = self.live().values().map(|handle| handle.commands.clone()).collect();
        let gone = async {
            join_all(commands.iter().map(|commands| commands.send(Command::GoAway { hand_over }))).await;
            loop {
                let emptied = self.emptied.notified();
                if self.live().is_empty() {
                    return;
                }
                emptied.await;
            }
        };
        let last_lines = LAST_LINES.min(within / 4);
        if tokio::time::timeout(within - last_lines, gone).await.is_err() {
            tracing::warn!(sessions = self.live_count(), "sessions did not end in time and are dropped");
        }
        self.cut();
        self.library.close(last_lines).await;
    }

    /// Ends every task of every session here and now, as a crash would.
    pub fn cut(&self) {
        // Out of the lock: what ends with a task may ask for it.
        let live = std::mem::take(&mut *self.live());
        drop(live);
        self.undoing().abort_all();
    }

    pub fn now(&self) -> UnixMs {
        self.clock.now().wall
    }

    /// # Errors
    /// `SESSION_NOT_FOUND` with the actual status.
    pub(super) async fn joinable(&self, id: &SessionId) -> Result<SessionRecord, Problem> {
        let record = self.find(id).await?.record;
        if record.is_joinable(self.clock.now().wall) {
            return Ok(record);
        }
        Err(Problem::session_not_found(record.actual_status(self.clock.now().wall)))
    }

    fn find_live(&self, id: &SessionId) -> Option<Found> {
        let live = self.live();
        let handle = live.get(id)?;
        let record = handle.record.borrow().clone();
        let found = Found { record, listener_count: handle.snapshot.borrow().listeners };
        // One that has just expired is on its way out; the table says the same.
        (!found.record.is_expired(self.clock.now().wall)).then_some(found)
    }

    /// The record in the store, whatever its state.
    pub(super) async fn stored(&self, id: &SessionId) -> Result<SessionRecord, Problem> {
        let record = self.store.get(id).await.map_err(|error| self.store_failed(&error))?;
        record.ok_or_else(|| Problem::session_not_found("unknown"))
    }

    /// Who listens on other nodes. Numbers for people: a store that does not answer counts as nobody.
    async fn listeners_elsewhere(&self, record: &SessionRecord) -> BTreeMap<NodeId, Presence> {
        let now = self.clock.now().wall;
        if !record.is_joinable(now) {
            return BTreeMap::new();
        }
        match self.store.presence(&record.session_id, now).await {
            Ok(presence) => presence,
            Err(error) => {
                self.store_failed(&error);
                BTreeMap::new()
            }
        }
    }

    fn is_elsewhere(&self, record: &SessionRecord) -> bool {
        !self.live().contains_key(&record.session_id) && record.is_leased_by_other(&self.node, self.clock.now().wall)
    }

    /// Changes the record of a session that another node runs; that node notices with its next renewal.
    async fn write_elsewhere(&self, mut record: SessionRecord, changes: Vec<Change>) -> Result<SessionRecord, Problem> {
        for change in changes {
            let mut attempts = WRITE_ATTEMPTS;
            record = loop {
                let expected = Expected { version: Some(record.version), fence: None };
                match self.store.change(&record.session_id, self.clock.now().wall, expected, &change).await {
                    Ok(record) => break record,
                    Err(StoreError::Stale) if attempts > 0 => {
                        attempts -= 1;
                        record = self.stored(&record.session_id).await?;
                    }
                    Err(StoreError::Refused(_)) => return Err(ended()),
                    Err(StoreError::NotFound) => return Err(Problem::session_not_found("unknown")),
                    Err(error) => return Err(self.store_failed(&error)),
                }
            };
        }
        Ok(record)
    }

    /// Asks the actor, if the session lives here and is not over.
    async fn ask<T>(&self, id: &SessionId, command: Command, answered: oneshot::Receiver<T>) -> Result<T, Problem> {
        let commands = self.live().get(id).map(|handle| handle.commands.clone());
        let exchange = async {
            commands?.send(command).await.ok()?;
            answered.await.ok()
        };
        match tokio::time::timeout(ANSWER_WITHIN, exchange).await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => match self.joinable(id).await {
                Err(problem) => Err(problem),
                // It lives, but has just left this process.
                Ok(_) => Err(elsewhere()),
            },
            Err(_) => {
                tracing::error!(session.id = %id, "a session's actor does not answer");
                Err(Problem::new(ErrorCode::Internal, "the session does not answer; try again"))
            }
        }
    }

    pub(super) fn kvs_failed(&self, error: &KvsError) -> Problem {
        tracing::error!(%error, "the signaling service failed");
        Problem::upstream("kinesisvideo")
    }

    pub(super) fn store_failed(&self, error: &StoreError) -> Problem {
        self.counts.one(Count::StoreErrors);
        tracing::error!(%error, "the store failed");
        Problem::upstream("store")
    }

    pub(super) fn undoing(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.undoing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn adopting(&self) -> MutexGuard<'_, BTreeSet<SessionId>> {
        self.adopting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn live(&self) -> MutexGuard<'_, BTreeMap<SessionId, Handle>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ended() -> Problem {
    Problem::new(ErrorCode::Conflict, "The session has ended and cannot be changed any more")
}

/// A session that ended while it was being changed.
fn as_conflict(problem: Problem) -> Problem {
    if problem.code == ErrorCode::SessionNotFound { ended() } else { problem }
}
