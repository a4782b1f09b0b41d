//! Keeps the table true to the live session, apart from the river: a slow or dead store costs nobody a caption.
//!
//! What the session wants saved waits here, merged, until the store has taken it. The lease is renewed, which also tells
//! what other nodes have changed; who listens is published now and then. While a session lives here, its own record is
//! the truth and the table its shadow, with two exceptions: an end is an end wherever it was written, and a lease that
//! another node has taken is gone.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use babelcast_domain::counts::{Count, Counts};
use babelcast_domain::ids::NodeId;
use babelcast_domain::record::{Change, Edit, EndReason, SessionRecord};
use babelcast_domain::time::UnixMs;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::store::{Expected, Presence, Store, StoreError};

use super::clock::Clock;
use super::settings::Lease;

/// Between two attempts to save while the store fails.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// What a node said of its listeners is forgotten after so long, and said again before.
const PRESENCE_LASTS: Duration = Duration::from_secs(90);

/// What the store has not taken yet. Of each kind only the newest matters, so that an outage of any length needs no
/// more room than this.
#[derive(Debug, Default)]
struct Unsaved {
    first_audio: Option<UnixMs>,
    connected: Option<bool>,
    paused: Option<bool>,
    edit: Edit,
    ended: Option<EndReason>,
}

impl Unsaved {
    fn add(&mut self, change: Change) {
        match change {
            Change::FirstAudio(at) => self.first_audio = Some(at),
            Change::KvsConnected(connected) => self.connected = Some(connected),
            Change::Paused(paused) => self.paused = Some(paused),
            Change::Ended(reason) => self.ended = Some(self.ended.unwrap_or(reason)),
            Change::Edited(edit) => {
                let Edit { title, target_languages, private_transcript } = edit;
                self.edit.title = title.or(self.edit.title.take());
                self.edit.target_languages = target_languages.or(self.edit.target_languages.take());
                self.edit.private_transcript = private_transcript.or(self.edit.private_transcript);
            }
        }
    }

    /// The next change to save; the end comes last, because nothing can be changed after it.
    fn next(&self) -> Option<Change> {
        self.first_audio
            .map(Change::FirstAudio)
            .or(self.connected.map(Change::KvsConnected))
            .or(self.paused.map(Change::Paused))
            .or((self.edit != Edit::default()).then(|| Change::Edited(self.edit.clone())))
            .or(self.ended.map(Change::Ended))
    }

    /// The change is saved, unless the session wants something else by now.
    fn done(&mut self, change: &Change) {
        match change {
            Change::FirstAudio(_) => self.first_audio = None,
            Change::KvsConnected(saved) => self.connected = self.connected.filter(|wanted| wanted != saved),
            Change::Paused(saved) => self.paused = self.paused.filter(|wanted| wanted != saved),
            Change::Edited(saved) if self.edit == *saved => self.edit = Edit::default(),
            Change::Edited(_) => {}
            Change::Ended(_) => self.ended = None,
        }
    }

    fn is_empty(&self) -> bool {
        self.next().is_none()
    }
}

#[derive(Debug, Default)]
struct Shared {
    unsaved: Mutex<Unsaved>,
    changed: Notify,
}

impl Shared {
    fn unsaved(&self) -> MutexGuard<'_, Unsaved> {
        self.unsaved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The session's end: saying what is to be saved never waits.
#[derive(Debug, Clone, Default)]
pub struct Wishes(Arc<Shared>);

impl Wishes {
    pub fn save(&self, change: Change) {
        self.0.unsaved().add(change);
        self.0.changed.notify_one();
    }
}

/// What the keeper learns from the store.
#[derive(Debug)]
pub enum KeeperEvent {
    /// Another node has changed the record.
    Seen(Box<SessionRecord>),
    /// Another node runs the session now, or the record is gone.
    Lost,
}

pub struct Keeper {
    pub store: Arc<Store>,
    pub node: NodeId,
    pub clock: Clock,
    pub counts: Arc<Counts>,
    pub terms: Lease,
    /// As the store last answered.
    pub record: SessionRecord,
    pub wishes: Wishes,
    pub presence: watch::Receiver<Presence>,
    pub events: mpsc::Sender<KeeperEvent>,
    /// The session is over: save what is left, then end.
    pub finish: CancellationToken,
}

/// What goes on while the keeper runs.
struct Rounds {
    renew_at: Instant,
    publish_at: Instant,
    /// When a failed save is tried again.
    retry_at: Option<Instant>,
    pause: Duration,
    /// The store fails, and the log knows.
    down: bool,
    published: Option<(Presence, Instant)>,
}

impl Keeper {
    /// Runs until the session is over and everything is saved, or the lease is lost.
    pub async fn run(mut self) {
        let now = Instant::now();
        let mut rounds = Rounds {
            renew_at: now + self.terms.renew_every,
            publish_at: now + self.terms.publish_every,
            retry_at: None,
            pause: FIRST_PAUSE,
            down: false,
            published: None,
        };
        loop {
            let finishing = self.finish.is_cancelled();
            if rounds.retry_at.is_none() && !self.save(&mut rounds).await {
                return;
            }
            if finishing && self.record.is_expired(self.clock.now().wall) {
                // The table drops it by itself by now, and readers take it for gone.
                return;
            }
            if finishing && self.wishes.0.unsaved().is_empty() {
                self.publish(&mut rounds, Presence::default()).await;
                return;
            }
            tokio::select! {
                () = self.wishes.0.changed.notified() => {}
                () = self.finish.cancelled(), if !finishing => {}
                () = sleep_until(rounds.retry_at.unwrap_or(now)), if rounds.retry_at.is_some() => rounds.retry_at = None,
                () = sleep_until(rounds.renew_at) => {
                    rounds.renew_at = Instant::now() + self.terms.renew_every;
                    if !self.renew(&mut rounds).await {
                        return;
                    }
                }
                () = sleep_until(rounds.publish_at) => {
                    rounds.publish_at = Instant::now() + self.terms.publish_every;
                    let presence = self.presence.borrow().clone();
                    self.publish(&mut rounds, presence).await;
                }
            }
        }
    }

    /// Saves everything that waits. `false` when there is no record of ours to save it in.
    async fn save(&mut self, rounds: &mut Rounds) -> bool {
        loop {
            let next = self.wishes.0.unsaved().next();
            let Some(change) = next else { return true };
            let expected = Expected { version: None, fence: Some(self.record.fence) };
            let now = self.clock.now().wall;
            match self.store.change(&self.record.session_id, now, expected, &change).await {
                Ok(record) => {
                    self.wishes.0.unsaved().done(&change);
                    let only_ours = record.version == self.record.version + 1;
                    self.answered(rounds, record, only_ours);
                }
                Err(StoreError::Refused(_)) => return self.ended_elsewhere().await,
                Err(error @ (StoreError::Leased | StoreError::NotFound)) => return self.lost(&error),
                Err(error) => {
                    self.failed(rounds, &error);
                    rounds.retry_at = Some(Instant::now() + rounds.pause.mul_f64(rand::random_range(0.5..1.5)));
                    rounds.pause = (rounds.pause * 2).min(LONGEST_PAUSE);
                    return true;
                }
            }
        }
    }

    async fn renew(&mut self, rounds: &mut Rounds) -> bool {
        let until = self.clock.now().wall.plus(self.terms.lasts);
        match self.store.renew(&self.record.session_id, &self.node, self.record.fence, until).await {
            Ok(record) => {
                let unchanged = record.version == self.record.version;
                self.answered(rounds, record, unchanged);
                true
            }
            Err(StoreError::Refused(_)) => self.ended_elsewhere().await,
            Err(error @ (StoreError::Leased | StoreError::NotFound)) => self.lost(&error),
            Err(error) => {
                self.failed(rounds, &error);
                true
            }
        }
    }

    /// The store answers. What others have changed is told, with our own wishes laid over it.
    fn answered(&mut self, rounds: &mut Rounds, record: SessionRecord, unchanged_by_others: bool) {
        rounds.pause = FIRST_PAUSE;
        if std::mem::take(&mut rounds.down) {
            tracing::info!("the store is back");
        }
        self.record = record;
        if !unchanged_by_others {
            let mut seen = self.record.clone();
            let unsaved = self.wishes.0.unsaved();
            if let Some(connected) = unsaved.connected {
                seen.speaker_kvs_connected = connected;
            }
            if let Some(paused) = unsaved.paused {
                seen.apply(seen.updated_at, &Change::Paused(paused)).ok();
            }
            seen.apply(seen.updated_at, &Change::Edited(unsaved.edit.clone())).ok();
            drop(unsaved);
            // An actor that does not listen any more is ending; one that is behind hears it with the next renewal.
            if self.events.try_send(KeeperEvent::Seen(Box::new(seen))).is_err() {
                self.record.version = self.record.version.wrapping_sub(1);
            }
        }
    }

    /// The session was ended by somebody else: it ends here too. `false`: nothing more to keep.
    async fn ended_elsewhere(&mut self) -> bool {
        let record = self.store.get(&self.record.session_id).await;
        match record {
            Ok(Some(record)) => {
                self.events.send(KeeperEvent::Seen(Box::new(record))).await.ok();
            }
            Ok(None) => return self.lost(&StoreError::NotFound),
            Err(_) => {
                let mut record = self.record.clone();
                record.apply(self.clock.now().wall, &Change::Ended(EndReason::Failed)).ok();
                self.events.send(KeeperEvent::Seen(Box::new(record))).await.ok();
            }
        }
        false
    }

    fn lost(&self, error: &StoreError) -> bool {
        self.counts.one(Count::LeasesLost);
        if !self.finish.is_cancelled() {
            tracing::warn!(%error, "this node does not run the session any more");
        }
        self.events.try_send(KeeperEvent::Lost).ok();
        false
    }

    async fn publish(&mut self, rounds: &mut Rounds, presence: Presence) {
        let fresh = |(said, at): &(Presence, Instant)| *said == presence && at.elapsed() < PRESENCE_LASTS / 2;
        if rounds.published.as_ref().is_some_and(fresh) || (rounds.published.is_none() && presence.total == 0) {
            return;
        }
        let expires_at = self.clock.now().wall.plus(PRESENCE_LASTS).as_secs();
        let published = self.store.put_presence(&self.record.session_id, &self.node, &presence, expires_at).await;
        match published {
            Ok(()) => rounds.published = Some((presence, Instant::now())),
            Err(error) => self.failed(rounds, &error),
        }
    }

    /// Counted each time, logged once an outage.
    fn failed(&self, rounds: &mut Rounds, error: &StoreError) {
        self.counts.one(Count::StoreErrors);
        if !std::mem::replace(&mut rounds.down, true) {
            tracing::warn!(%error, "the store fails; the session goes on and is saved when it is back");
        }
    }
}
