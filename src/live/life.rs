//! A session's life in this process: taken over from a dead node where there is one, the tasks it is made of, how it
//! ends, and what is cleaned up after it.

use std::sync::Arc;
use std::time::Duration;

use babelcast_domain::counts::{Count, Counts};
use babelcast_domain::error::{ErrorCode, Problem};
use babelcast_domain::ids::SessionId;
use babelcast_domain::record::{Change, EndReason, SessionRecord, Status};
use babelcast_domain::session::Session;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::aws::kvs;
use crate::aws::transcribe::Options;
use crate::store::StoreError;

use super::anteroom::Anteroom;
use super::ear::Ear;
use super::fanout::Fanout;
use super::frames::Frames;
use super::keeper::{Keeper, KeeperEvent, Wishes};
use super::log::Log;
use super::mood::{Mood, Voiceprint};
use super::scribe::Scribe;
use super::session::{Actor, Command, Gone, Meter, Snapshot};
use super::sessions::{Handle, Sessions};
use super::stats::Stats;
use super::task;

/// Commands that may wait for a session's actor; past it the door's caller waits, with its own timeout.
const COMMANDS: usize = 256;
/// How soon a session is worth asking for again that another node holds.
const ELSEWHERE_RETRY_MS: u64 = 2_000;

/// The actor's ends of the channels its doors and its keeper hold.
pub(super) struct Wires {
    commands: mpsc::Receiver<Command>,
    commands_sender: mpsc::WeakSender<Command>,
    snapshot: watch::Sender<Snapshot>,
    record: watch::Sender<SessionRecord>,
    wishes: Wishes,
    presence: watch::Sender<crate::store::Presence>,
    kept: mpsc::Receiver<KeeperEvent>,
}

/// Forgets that a session is being taken over, whatever comes of it.
struct Adopting<'a>(&'a Sessions, &'a SessionId);

impl Drop for Adopting<'_> {
    fn drop(&mut self) {
        self.0.adopting().remove(self.1);
        self.0.adopted.notify_waiters();
    }
}

impl Sessions {
    /// Makes sure that the session lives in this process: it does, or nobody else has it and it is taken over.
    ///
    /// # Errors
    /// `SESSION_NOT_FOUND` when it has ended, `UPSTREAM_UNAVAILABLE` while another node has it or the store is away.
    pub(super) async fn host(self: &Arc<Self>, id: &SessionId) -> Result<(), Problem> {
        loop {
            let adopted = self.adopted.notified();
            if self.live().contains_key(id) {
                return self.joinable(id).await.map(|_| ());
            }
            if self.adopting().insert(id.clone()) {
                break;
            }
            // Somebody else is at it; one lease is enough for all who ask.
            adopted.await;
        }
        let _adopting = Adopting(self, id);
        let now = self.clock.now().wall;
        self.joinable(id).await?;
        match self.store.lease(id, now, &self.node, now.plus(self.settings.lease.lasts)).await {
            Ok(record) => {
                self.counts.one(Count::SessionsAdopted);
                tracing::info!(session.id = %id, fence = record.fence, "session taken over");
                self.library.load(&record).await;
                self.start(&record);
                Ok(())
            }
            Err(StoreError::Leased) => Err(elsewhere()),
            Err(StoreError::Refused(status)) => Err(Problem::session_not_found(status.as_str())),
            Err(error) => Err(self.store_failed(&error)),
        }
    }

    /// Brings a session to life: its ear, its scribe, its keeper and its actor, in one owned task.
    pub(super) fn start(self: &Arc<Self>, record: &SessionRecord) {
        let meter = Arc::new(Meter { counts: Arc::new(Counts::under(&self.counts)), ..Meter::default() });
        let (commands_sender, commands) = mpsc::channel(COMMANDS);
        let (snapshot_sender, snapshot) = watch::channel(Snapshot::default());
        let (record_sender, known) = watch::channel(record.clone());
        let (presence, listeners) = watch::channel(crate::store::Presence::default());
        let (kept_sender, kept) = mpsc::channel(4);
        let wishes = Wishes::default();
        let id = record.session_id.clone();
        let span = tracing::info_span!("session", session.id = %id);
        let keeper = Keeper {
            store: Arc::clone(&self.store),
            node: self.node.clone(),
            clock: self.clock,
            counts: Arc::clone(&meter.counts),
            terms: self.settings.lease.clone(),
            record: record.clone(),
            wishes: wishes.clone(),
            presence: listeners,
            events: kept_sender,
            finish: CancellationToken::new(),
        };
        let commands_weak = commands_sender.downgrade();
        let wires = Wires {
            commands,
            commands_sender: commands_weak,
            snapshot: snapshot_sender,
            record: record_sender,
            wishes,
            presence,
            kept,
        };
        let actor = span.in_scope(|| self.actor(record, &meter, wires));
        let life = Arc::clone(self).live_and_die(record.clone(), actor, keeper).instrument(span);
        let handle = Handle { commands: commands_sender, snapshot, record: known, meter, _task: task::owned(life) };
        self.live().insert(id, handle);
    }

    pub(super) fn actor(&self, record: &SessionRecord, meter: &Arc<Meter>, wires: Wires) -> Actor {
        let now = self.clock.now();
        let frames = Frames::default();
        let flush = CancellationToken::new();
        let (ear_sender, ear_events) = mpsc::channel(64);
        let (scribe_sender, scribe_events) = mpsc::channel(64);
        let (expect, expected) = watch::channel(record.speaker_kvs_connected.then_some(true));
        let (listening, heard) = watch::channel(record.status != Status::Paused);
        let voice = Voiceprint::default();
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
            voice: voice.clone(),
            meter: Arc::clone(meter),
            endpoints: Arc::default(),
            first_attempt: now.wall.as_secs(),
            clock_started: record.first_audio_at.map(|first| Duration::from_millis(now.wall.0.saturating_sub(first.0))),
        };
        let scribe = Scribe {
            clients: Arc::clone(&self.clients),
            options: self.recognition(record),
            patience: self.settings.recogniser.clone(),
            frames,
            events: scribe_sender,
            counts: Arc::clone(&meter.counts),
            flush: flush.clone(),
        };
        let pen = self.library.pen(record);
        Actor {
            session: Session::new(now, record, Arc::clone(&self.catalogue), self.settings.terms()),
            fanout: Fanout::new(record.session_id.clone(), Arc::clone(&meter.counts)),
            log: Log::new(now.wall.0),
            anteroom: Anteroom::new(&self.library, &pen),
            pen,
            mood: Mood::new(voice),
            stats: Stats::new(now.mono),
            record: wires.record,
            clock: self.clock,
            clients: Arc::clone(&self.clients),
            wishes: wires.wishes,
            presence: wires.presence,
            kept: wires.kept,
            meter: Arc::clone(meter),
            commands: wires.commands,
            commands_sender: wires.commands_sender,
            snapshot: wires.snapshot,
            ear_events,
            expect,
            listening,
            scribe_events,
            flush,
            ear: Some(task::owned(ear.run())),
            _scribe: task::owned(scribe.run()),
            jobs: JoinSet::new(),
            next_listener: 1,
            departures: Arc::default(),
            finished: None,
            ear_lives: true,
            scribe_lives: true,
            keeper_lives: true,
        }
    }

    fn recognition(&self, record: &SessionRecord) -> Options {
        let source = &record.source_language;
        let language = self.catalogue.dialect(source).unwrap_or(source).clone();
        Options { language, vocabulary: record.vocabulary.clone(), session_id: None }
    }

    /// Runs the actor in a task of its own, so that a panic is this session's alone; then cleans up after it.
    async fn live_and_die(self: Arc<Self>, record: SessionRecord, actor: Actor, keeper: Keeper) {
        let (wishes, finish) = (keeper.wishes.clone(), keeper.finish.clone());
        let keeping = task::owned(keeper.run());
        let gone = match task::owned(actor.run()).await {
            Ok(gone) => gone,
            Err(error) => {
                self.counts.one(Count::Panics);
                self.counts.one(Count::SessionsFailed);
                tracing::error!(%error, "a session died and is ended");
                wishes.save(Change::Ended(EndReason::Failed));
                Gone::Ended(EndReason::Failed)
            }
        };
        if let Gone::Ended(reason) = gone {
            self.counts.one(Count::SessionsEnded);
            tracing::info!(?reason, "session ended");
            self.delete_channel(&record.kvs_channel_arn).await;
        }
        // However long the store is away: an end that was told to people is not forgotten while this process lives.
        finish.cancel();
        if keeping.await.is_err() {
            self.counts.one(Count::Panics);
            tracing::error!("the keeper of a session's record died");
        }
        if gone == Gone::HandedOver {
            self.counts.one(Count::SessionsHandedOver);
            if let Err(error) = self.store.release(&record.session_id, &self.node, record.fence).await {
                tracing::warn!(%error, "a lease was not given back and has to run out");
            }
        }
        // Last of all: this drops the handle of the very task that runs here.
        let handle = self.live().remove(&record.session_id);
        self.emptied.notify_waiters();
        drop(handle);
    }

    /// A channel that cannot be deleted now is found by the sweep.
    pub(super) async fn delete_channel(&self, arn: &str) {
        if let Err(error) = kvs::delete_channel(&self.clients, arn).await {
            self.counts.one(Count::ChannelDeletesFailed);
            tracing::error!(%error, "a signaling channel could not be deleted and is left to the sweep");
        }
    }
}

/// The session lives, but not here.
pub(super) fn elsewhere() -> Problem {
    Problem::new(ErrorCode::UpstreamUnavailable, "The session is moving between servers; try again in a moment")
        .with(serde_json::json!({ "service": "session", "retryAfterMs": ELSEWHERE_RETRY_MS }))
}

#[cfg(test)]
mod tests {
    use babelcast_domain::ids::SpeakerId;
    use babelcast_domain::language::{Catalogue, Language};
    use babelcast_domain::wire::CreateSession;
    use local_cloud::LocalCloud;

    use super::*;
    use crate::aws::{self, Clients, StaticCredentials};
    use crate::live::Settings;
    use crate::store::{Presence, Store};

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
            let (_kept_sender, kept) = mpsc::channel(1);
            let wires = Wires {
                commands,
                commands_sender: sender.downgrade(),
                snapshot: watch::channel(Snapshot::default()).0,
                record: watch::channel(record.clone()).0,
                wishes: Wishes::default(),
                presence: watch::channel(Presence::default()).0,
                kept,
            };
            let meter = Arc::new(Meter::default());
            let actor = sessions.actor(&record, &meter, wires);
            match limb {
                "ear" => actor.ear.as_ref().unwrap().abort(),
                _ => actor._scribe.abort(),
            }
            let ended = tokio::time::timeout(Duration::from_secs(20), actor.run()).await;
            assert_eq!(ended, Ok(Gone::Ended(EndReason::Failed)), "{limb}");
            assert_eq!(meter.counts.get(Count::Panics), 1, "{limb}");
        }
    }
}
