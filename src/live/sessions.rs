//! The registry of sessions: births, deaths, and the way to the actor of each.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use babelcast_domain::counts::{Count, Counts};
use babelcast_domain::error::{ErrorCode, Problem};
use babelcast_domain::ids::{SessionId, SpeakerId};
use babelcast_domain::language::{Catalogue, Language};
use babelcast_domain::record::{Change, Edit, EndReason, SessionRecord, SignalingEndpoints, Status};
use babelcast_domain::session::Session;
use babelcast_domain::wire::{ConnectionView, CreateSession, IceServerView, PatchSession, StatusView};
use rustls::ClientConfig;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use crate::aws::Clients;
use crate::aws::kvs::{self, KvsError, Role};
use crate::aws::sign;
use crate::aws::transcribe::Options;
use crate::store::{Expected, Store, StoreError};

use super::clock::Clock;
use super::ear::Ear;
use super::fanout::Fanout;
use super::frames::Frames;
use super::log::Log;
use super::scribe::Scribe;
use super::seat::Seat;
use super::session::{Actor, Command, JoinRequest, Meter, Snapshot};
use super::settings::Settings;
use super::task;

/// Commands that may wait for a session's actor; past it the door's caller waits, with its own timeout.
const COMMANDS: usize = 256;
/// Names tried before giving up; each has some 900 × 10⁶ forms.
const NAME_ATTEMPTS: usize = 8;
/// Sessions in one page of a list.
const PAGE: usize = 50;
/// How long an actor may take to answer a door.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A record and what only the live session knows.
#[derive(Debug, Clone)]
pub struct Found {
    pub record: SessionRecord,
    pub listener_count: u64,
}

struct Handle {
    commands: mpsc::Sender<Command>,
    snapshot: watch::Receiver<Snapshot>,
    meter: Arc<Meter>,
    _task: AbortOnDropHandle<()>,
}

/// All live sessions of this process.
pub struct Sessions {
    settings: Settings,
    clients: Arc<Clients>,
    pub(super) store: Arc<Store>,
    catalogue: Arc<Catalogue>,
    tls: Arc<ClientConfig>,
    counts: Arc<Counts>,
    pub(super) clock: Clock,
    live: Mutex<BTreeMap<SessionId, Handle>>,
    emptied: Notify,
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
        let (clock, live, emptied) = (Clock::start(), Mutex::default(), Notify::new());
        Arc::new(Sessions { settings, clients, store, catalogue, tls, counts, clock, live, emptied })
    }

    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// Opens a session: its signaling channel is ACTIVE when this returns, and if anything fails nothing is left behind.
    pub async fn create(
        self: &Arc<Self>,
        speaker: &SpeakerId,
        request: CreateSession,
    ) -> Result<SessionRecord, Problem> {
        request.check()?;
        let (source, targets) = self.languages(&request)?;
        let now = self.clock.now();
        let open = self.store.count_open(speaker, now.wall).await.map_err(|error| self.store_failed(&error))?;
        if open >= self.settings.sessions_per_speaker {
            return Err(Problem::new(
                ErrorCode::RateLimited,
                format!("you have {open} open sessions, which is the most allowed; end one first"),
            )
            .with(serde_json::json!({ "retryAfterMs": 60_000, "limit": self.settings.sessions_per_speaker })));
        }
        for _ in 0..NAME_ATTEMPTS {
            let id = new_id();
            let channel = match self.open_channel(&id).await {
                Ok(channel) => channel,
                Err(KvsError::InUse) => continue,
                Err(error) => return Err(self.kvs_failed(&error)),
            };
            let endpoints = match kvs::endpoints(&self.clients, &channel.arn, Role::Master).await {
                Ok(endpoints) => endpoints,
                Err(error) => {
                    self.delete_channel(&channel.arn).await;
                    return Err(self.kvs_failed(&error));
                }
            };
            let record = self.new_record(id, speaker, &request, (&source, &targets), &channel, endpoints);
            match self.store.create(&record).await {
                Ok(()) => {
                    self.counts.one(Count::SessionsCreated);
                    self.start(&record);
                    return Ok(record);
                }
                Err(StoreError::Exists) => self.delete_channel(&channel.arn).await,
                Err(error) => {
                    self.delete_channel(&channel.arn).await;
                    return Err(self.store_failed(&error));
                }
            }
        }
        Err(Problem::new(ErrorCode::Internal, "no free session name was found; try again"))
    }

    /// An ended session is found until it expires; unknown and expired ones are not.
    pub async fn find(&self, id: &SessionId) -> Result<Found, Problem> {
        let record = self.store.get(id).await.map_err(|error| self.store_failed(&error))?;
        let record = record.ok_or_else(|| Problem::session_not_found("unknown"))?;
        let now = self.clock.now().wall;
        if record.is_expired(now) {
            return Err(Problem::session_not_found("expired"));
        }
        let listener_count = self.snapshot(id).map_or(0, |snapshot| snapshot.listeners);
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
        let found = |record: SessionRecord| {
            let listener_count = self.snapshot(&record.session_id).map_or(0, |snapshot| snapshot.listeners);
            Found { record, listener_count }
        };
        Ok((page.records.into_iter().map(found).collect(), page.cursor))
    }

    /// Changes what an owner may change. A session that has ended changes no more: `CONFLICT`.
    pub async fn edit(self: &Arc<Self>, id: &SessionId, patch: PatchSession) -> Result<Found, Problem> {
        patch.check()?;
        let found = self.find(id).await?;
        if found.record.status == Status::Ended {
            return Err(Problem::new(ErrorCode::Conflict, "the session has ended and cannot be changed any more"));
        }
        let target_languages = match patch.target_languages {
            Some(Some(asked)) => Some(Some(self.targets(&found.record.source_language, &asked)?)),
            other => other.map(|_| None),
        };
        let edit = Edit { title: patch.title, target_languages, private_transcript: patch.private_transcript };
        let paused = patch.status.map(|status| status == Status::Paused);
        let (answer, answered) = oneshot::channel();
        let record = self.ask(id, Command::Edit { edit, paused, answer }, answered).await?;
        Ok(Found { record, ..found })
    }

    /// What pollers are told.
    pub async fn status(&self, id: &SessionId) -> Result<StatusView, Problem> {
        let Found { record, listener_count } = self.find(id).await?;
        let (answer, answered) = oneshot::channel();
        match self.ask(id, Command::Status { answer }, answered).await {
            Ok(view) => Ok(view),
            // Not here, or over: what the record says.
            Err(problem) if problem.code == ErrorCode::SessionNotFound => Ok(StatusView {
                status: record.status,
                speaker_kvs_connected: record.speaker_kvs_connected,
                listener_count,
                languages: BTreeMap::new(),
            }),
            Err(problem) => Err(problem),
        }
    }

    /// Ends a session; ending an ended one changes nothing.
    pub async fn end(self: &Arc<Self>, id: &SessionId, reason: EndReason) -> Result<(), Problem> {
        if self.find(id).await?.record.status == Status::Ended {
            return Ok(());
        }
        let (answer, answered) = oneshot::channel();
        match self.ask(id, Command::End { reason, answer }, answered).await {
            // The actor ended between our look and our word.
            Err(problem) if problem.code == ErrorCode::SessionNotFound => Ok(()),
            other => other,
        }
    }

    pub async fn set_kvs_connected(self: &Arc<Self>, id: &SessionId, connected: bool) -> Result<Found, Problem> {
        self.joinable(id).await?;
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
        let servers = servers.map_err(|error| self.kvs_failed(&error))?;
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
        self.joinable(id).await?;
        let (answer, answered) = oneshot::channel();
        self.ask(id, Command::Join { request, answer }, answered).await?
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

    /// Asks every listener to reconnect elsewhere, lets last words be said, and waits for all sessions to end.
    ///
    /// Records in memory do not outlive the process, so the sessions end with it and their channels are deleted.
    pub async fn drain(&self, within: Duration) {
        let commands: Vec<_> = self.live().values().map(|handle| handle.commands.clone()).collect();
        let gone = async {
            for commands in commands {
                commands.send(Command::GoAway).await.ok();
            }
            loop {
                let emptied = self.emptied.notified();
                if self.live().is_empty() {
                    return;
                }
                emptied.await;
            }
        };
        if tokio::time::timeout(within, gone).await.is_err() {
            tracing::warn!(sessions = self.live_count(), "sessions did not end in time and are dropped");
        }
        self.live().clear();
    }

    /// A dialect the recogniser knows for the source, and targets that are offered.
    fn languages(&self, request: &CreateSession) -> Result<(Language, Option<Vec<Language>>), Problem> {
        let sources: Vec<Language> = self.catalogue.sources().cloned().collect();
        let source = Language::parse(&request.source_language).ok().filter(|one| self.catalogue.dialect(one).is_some());
        let source = source.ok_or_else(|| unsupported(&request.source_language, &sources))?;
        let targets = request.target_languages.as_ref().map(|asked| self.targets(&source, asked)).transpose()?;
        Ok((source, targets))
    }

    /// An allow-list of languages that are offered.
    fn targets(&self, source: &Language, asked: &[String]) -> Result<Vec<Language>, Problem> {
        let mut targets = Vec::new();
        for one in asked {
            let known = Language::parse(one).ok().filter(|one| self.catalogue.targets().contains(one) || one == source);
            let known = known.ok_or_else(|| unsupported(one, self.catalogue.targets()))?;
            if !targets.contains(&known) {
                targets.push(known);
            }
        }
        Ok(targets)
    }

    async fn open_channel(&self, id: &SessionId) -> Result<kvs::Channel, KvsError> {
        let tags = [("babelcast", self.settings.channel_tag.as_str()), ("session", id.as_str())];
        kvs::create_channel(&self.clients, &id.channel_name(), self.settings.message_ttl, &tags).await
    }

    fn new_record(
        &self,
        id: SessionId,
        speaker: &SpeakerId,
        request: &CreateSession,
        (source, targets): (&Language, &Option<Vec<Language>>),
        channel: &kvs::Channel,
        endpoints: kvs::Endpoints,
    ) -> SessionRecord {
        let now = self.clock.now().wall;
        SessionRecord {
            kvs_stream_name: request.recording.then(|| id.channel_name()),
            session_id: id,
            speaker_id: speaker.clone(),
            title: request.title.clone(),
            source_language: source.clone(),
            target_languages: targets.clone(),
            quality_tier: request.quality_tier,
            status: Status::Active,
            end_reason: None,
            speaker_kvs_connected: false,
            kvs_channel_arn: channel.arn.clone(),
            kvs_channel_name: channel.name.clone(),
            kvs_signaling_endpoints: SignalingEndpoints { wss: endpoints.wss, https: endpoints.https },
            glossary: request.glossary.clone(),
            vocabulary: request.vocabulary.clone(),
            created_at: now,
            updated_at: now,
            expires_at: now.plus(self.settings.session_ttl).as_secs(),
            access_code: request.access_code.clone(),
            private_transcript: request.private_transcript,
            version: 1,
            lease_owner: None,
            lease_until: None,
            fence: 1,
        }
    }

    async fn joinable(&self, id: &SessionId) -> Result<SessionRecord, Problem> {
        let record = self.find(id).await?.record;
        if record.is_joinable(self.clock.now().wall) {
            return Ok(record);
        }
        Err(Problem::session_not_found(record.actual_status(self.clock.now().wall)))
    }

    async fn ask<T>(&self, id: &SessionId, command: Command, answered: oneshot::Receiver<T>) -> Result<T, Problem> {
        let commands = self.live().get(id).map(|handle| handle.commands.clone());
        let commands = commands.ok_or_else(|| Problem::session_not_found("ended"))?;
        let exchange = async {
            commands.send(command).await.ok()?;
            answered.await.ok()
        };
        match tokio::time::timeout(ANSWER_WITHIN, exchange).await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(Problem::session_not_found("ended")),
            Err(_) => {
                tracing::error!(session.id = %id, "a session's actor does not answer");
                Err(Problem::new(ErrorCode::Internal, "the session does not answer; try again"))
            }
        }
    }

    /// Brings a session to life: its ear, its scribe and its actor, in one owned task.
    fn start(self: &Arc<Self>, record: &SessionRecord) {
        let meter = Arc::new(Meter { counts: Arc::new(Counts::under(&self.counts)), ..Meter::default() });
        let (commands_sender, commands) = mpsc::channel(COMMANDS);
        let (snapshot_sender, snapshot) = watch::channel(Snapshot::default());
        let id = record.session_id.clone();
        let span = tracing::info_span!("session", session.id = %id);
        let actor =
            span.in_scope(|| self.actor(record, &meter, commands, commands_sender.downgrade(), snapshot_sender));
        let life = Arc::clone(self).live_and_die(record.clone(), actor).instrument(span);
        let handle = Handle { commands: commands_sender, snapshot, meter, _task: task::owned(life) };
        self.live().insert(id, handle);
    }

    fn actor(
        &self,
        record: &SessionRecord,
        meter: &Arc<Meter>,
        commands: mpsc::Receiver<Command>,
        commands_sender: mpsc::WeakSender<Command>,
        snapshot: watch::Sender<Snapshot>,
    ) -> Actor {
        let now = self.clock.now();
        let frames = Frames::default();
        let flush = CancellationToken::new();
        let (ear_sender, ear_events) = mpsc::channel(64);
        let (scribe_sender, scribe_events) = mpsc::channel(64);
        let (expect, expected) = watch::channel(None);
        let (listening, heard) = watch::channel(record.status != Status::Paused);
        let source = &record.source_language;
        let ear = Ear {
            clients: Arc::clone(&self.clients),
            channel_arn: record.kvs_channel_arn.clone(),
            session: record.session_id.to_string(),
            policy: self.settings.candidates(),
            tls: Arc::clone(&self.tls),
            frames: frames.clone(),
            events: ear_sender,
            expect: expected,
            listening: heard,
            meter: Arc::clone(meter),
            endpoints: Arc::default(),
            first_attempt: now.wall.as_secs(),
        };
        let scribe = Scribe {
            clients: Arc::clone(&self.clients),
            options: Options {
                language: self.catalogue.dialect(source).unwrap_or(source).clone(),
                vocabulary: record.vocabulary.clone(),
                session_id: None,
            },
            patience: self.settings.recogniser.clone(),
            frames,
            events: scribe_sender,
            counts: Arc::clone(&meter.counts),
            flush: flush.clone(),
        };
        Actor {
            session: Session::new(now, record, Arc::clone(&self.catalogue), self.settings.terms()),
            fanout: Fanout::new(record.session_id.clone(), Arc::clone(&meter.counts)),
            log: Log::new(now.wall.0),
            record: record.clone(),
            clock: self.clock,
            clients: Arc::clone(&self.clients),
            store: Arc::clone(&self.store),
            meter: Arc::clone(meter),
            commands,
            commands_sender,
            snapshot,
            ear_events,
            expect,
            listening,
            scribe_events,
            flush,
            ear: Some(task::owned(ear.run())),
            _scribe: task::owned(scribe.run()),
            jobs: JoinSet::new(),
            next_listener: 1,
            departures: Arc::new(Notify::new()),
            finished: None,
            ear_lives: true,
            scribe_lives: true,
        }
    }

    /// Runs the actor in a task of its own, so that a panic is this session's alone; then cleans up after it.
    async fn live_and_die(self: Arc<Self>, record: SessionRecord, actor: Actor) {
        let ended = task::owned(actor.run()).await;
        match ended {
            Ok(reason) => {
                self.counts.one(Count::SessionsEnded);
                tracing::info!(?reason, "session ended");
            }
            Err(error) => {
                self.counts.one(Count::Panics);
                self.counts.one(Count::SessionsFailed);
                tracing::error!(%error, "a session died and is ended");
                let now = self.clock.now().wall;
                let change = Change::Ended(EndReason::Failed);
                if let Err(error) = self.store.change(&record.session_id, now, Expected::default(), &change).await {
                    tracing::error!(%error, "its record could not be closed");
                }
            }
        }
        self.delete_channel(&record.kvs_channel_arn).await;
        // Last of all: this drops the handle of the very task that runs here.
        let handle = self.live().remove(&record.session_id);
        self.emptied.notify_waiters();
        drop(handle);
    }

    async fn delete_channel(&self, arn: &str) {
        if let Err(error) = kvs::delete_channel(&self.clients, arn).await {
            self.counts.one(Count::ChannelDeletesFailed);
            tracing::error!(%error, "a signaling channel could not be deleted and is left behind");
        }
    }

    fn kvs_failed(&self, error: &KvsError) -> Problem {
        tracing::error!(%error, "the signaling service failed");
        Problem::upstream("kinesisvideo")
    }

    pub(super) fn store_failed(&self, error: &StoreError) -> Problem {
        self.counts.one(Count::StoreErrors);
        tracing::error!(%error, "the store failed");
        Problem::upstream("store")
    }

    fn live(&self) -> MutexGuard<'_, BTreeMap<SessionId, Handle>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unsupported(asked: &str, offered: &[Language]) -> Problem {
    let asked: String = asked.chars().filter(|c| !c.is_control()).take(35).collect();
    Problem::unsupported_language(&asked, offered)
}

/// `adjective-noun-number`.
fn new_id() -> SessionId {
    loop {
        let words = petname::petname(2, "-");
        let number = rand::Rng::random_range(&mut rand::rng(), 100..1000);
        if let Some(id) = words.and_then(|words| SessionId::parse(&format!("{words}-{number}")).ok()) {
            return id;
        }
    }
}

#[cfg(test)]
mod tests {
    use local_cloud::LocalCloud;

    use super::*;
    use crate::aws::{self, StaticCredentials};

    async fn sessions(cloud: &LocalCloud) -> Arc<Sessions> {
        let aws = aws::Settings {
            region: Some("us-east-1".into()),
            endpoint_url: Some(cloud.http_url()),
            credentials: Some(StaticCredentials { access_key: "local".into(), secret_key: "local".into() }),
            ..aws::Settings::default()
        };
        let clients = Arc::new(Clients::connect(&aws, None).await.unwrap());
        let lang = |code: &str| Language::parse(code).unwrap();
        let catalogue = Arc::new(Catalogue::new([(lang("en"), lang("en-US"))], vec![lang("es")]));
        let settings = Settings { flush_deadline: Duration::from_millis(200), ..Settings::default() };
        let (store, tls) = (Arc::new(Store::memory()), crate::media::socket::tls(None).unwrap());
        Sessions::new(settings, clients, store, catalogue, tls, Arc::default())
    }

    #[tokio::test]
    async fn a_session_whose_ear_or_scribe_died_ends_as_failed_and_is_counted() {
        let cloud =
            LocalCloud::start(local_cloud::Settings { plain_signaling: true, ..Default::default() }).await.unwrap();
        let sessions = sessions(&cloud).await;
        let request: CreateSession = serde_json::from_str(r#"{"sourceLanguage":"en"}"#).unwrap();
        let record = sessions.create(&SpeakerId::new("ana"), request).await.unwrap();
        for limb in ["ear", "scribe"] {
            let (sender, commands) = mpsc::channel(1);
            let (snapshot, _watched) = watch::channel(Snapshot::default());
            let meter = Arc::new(Meter::default());
            let actor = sessions.actor(&record, &meter, commands, sender.downgrade(), snapshot);
            match limb {
                "ear" => actor.ear.as_ref().unwrap().abort(),
                _ => actor._scribe.abort(),
            }
            let ended = tokio::time::timeout(Duration::from_secs(20), actor.run()).await;
            assert_eq!(ended, Ok(EndReason::Failed), "{limb}");
            assert_eq!(meter.counts.get(Count::Panics), 1, "{limb}");
        }
    }
}
