//! What outlives the process: session records, leases, presence, counters, keys, and the lines that were said.
//!
//! Every write is conditional on the state it expects, so two replicas cannot both win a transition. What may follow
//! what is decided by [`SessionRecord::apply`], for every form of the store alike.

mod dynamo;
mod memory;
mod rules;
mod settings;
mod tables;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::config;
use babelcast_domain::counts::Counts;
use babelcast_domain::ids::{NodeId, SessionId, SpeakerId};
use babelcast_domain::language::Language;
use babelcast_domain::line::Line;
use babelcast_domain::record::{Change, SessionRecord, Status};
use babelcast_domain::time::UnixMs;

pub use dynamo::Dynamo;
pub use dynamo::migrate::{MigrateError, Migrations, Plan, Step};
pub use memory::Memory;
pub use settings::{Kind as StoreKind, Settings};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("a session of this name exists")]
    Exists,
    #[error("no such session")]
    NotFound,
    /// The record's state does not allow the change; the actual status is named.
    #[error("the session is {}", .0.as_str())]
    Refused(Status),
    /// Somebody changed the record since it was read.
    #[error("the record has changed meanwhile")]
    Stale,
    /// Another node runs the session, or has taken it over.
    #[error("another node runs the session")]
    Leased,
    /// A cursor that is none of ours.
    #[error("not a cursor of this list")]
    BadCursor,
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    #[error("the store did not answer in time")]
    Timeout,
    /// What is stored makes no sense: written by hand, or by another version.
    #[error("an item of the store cannot be read: {0}")]
    Unreadable(String),
}

impl StoreError {
    /// Whether the same call may succeed later, unchanged.
    pub fn retryable(&self) -> bool {
        matches!(self, StoreError::Unavailable(_) | StoreError::Timeout)
    }
}

/// What a writer believes of the record. What is named must hold, or nothing is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Expected {
    /// Else [`StoreError::Stale`].
    pub version: Option<u64>,
    /// Else [`StoreError::Leased`].
    pub fence: Option<u64>,
}

/// One page of a speaker's sessions, newest first.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    pub records: Vec<SessionRecord>,
    /// Opaque; names the place after the last record. Absent on the last page.
    pub cursor: Option<String>,
}

/// Who listens on one node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Presence {
    pub total: u64,
    pub by_language: BTreeMap<Language, u64>,
}

/// What became of an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// Ours now: do the work, then [`Store::settle_key`] or [`Store::release_key`].
    Fresh,
    /// Somebody is at it.
    Pending,
    /// Done before, with this outcome.
    Done(SessionId),
    /// The same key was used for another request.
    Mismatch,
}

/// Where records live. Memory serves laptops and tests.
#[derive(Debug)]
pub enum Store {
    Memory(Memory),
    Dynamo(Box<Dynamo>),
}

impl Store {
    /// Opens what the settings name; calls nothing. `sdk`: region, credentials and HTTP client.
    pub fn open(settings: &Settings, sdk: config::Builder, counts: Arc<Counts>) -> Self {
        match settings.kind {
            StoreKind::Memory => Store::memory(),
            StoreKind::DynamoDb => Store::Dynamo(Box::new(Dynamo::new(settings, sdk, counts))),
        }
    }

    /// Ends with the process that holds it.
    pub fn memory() -> Self {
        Store::Memory(Memory::default())
    }

    /// One memory for several servers of this process: it outlives each of them.
    pub fn shared_memory() -> Self {
        Store::Memory(Memory::shared())
    }

    /// Whether records outlive the server that writes them.
    pub fn is_durable(&self) -> bool {
        match self {
            Store::Memory(memory) => memory.outlives_servers,
            Store::Dynamo(_) => true,
        }
    }

    /// Whether the store answers at all, for readiness.
    pub async fn ping(&self) -> Result<(), StoreError> {
        match self {
            Store::Memory(_) => Ok(()),
            Store::Dynamo(dynamo) => dynamo.ping().await,
        }
    }

    /// Writes a new record, if none of this id exists.
    pub async fn create(&self, record: &SessionRecord) -> Result<(), StoreError> {
        match self {
            Store::Memory(memory) => memory.create(record.clone()),
            Store::Dynamo(dynamo) => dynamo.create(record).await,
        }
    }

    /// The record as stored, even past its TTL: the reader decides what expiry means.
    pub async fn get(&self, id: &SessionId) -> Result<Option<SessionRecord>, StoreError> {
        match self {
            Store::Memory(memory) => Ok(memory.get(id)),
            Store::Dynamo(dynamo) => dynamo.get(id).await,
        }
    }

    /// A speaker's sessions, ended ones too, newest first; what is past its TTL is left out.
    pub async fn list(
        &self,
        speaker: &SpeakerId,
        now: UnixMs,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        match self {
            Store::Memory(memory) => memory.list(speaker, now, cursor, limit),
            Store::Dynamo(dynamo) => dynamo.list(speaker, now, cursor, limit).await,
        }
    }

    /// Sessions of one speaker that have not ended.
    pub async fn count_open(&self, speaker: &SpeakerId, now: UnixMs) -> Result<usize, StoreError> {
        match self {
            Store::Memory(memory) => Ok(memory.count_open(speaker, now)),
            Store::Dynamo(dynamo) => dynamo.count_open(speaker, now).await,
        }
    }

    /// Applies one change if the record's state and the writer's belief allow it, and answers with the record as it is
    /// afterwards.
    pub async fn change(
        &self,
        id: &SessionId,
        now: UnixMs,
        expected: Expected,
        change: &Change,
    ) -> Result<SessionRecord, StoreError> {
        match self {
            Store::Memory(memory) => memory.change(id, now, expected, change),
            Store::Dynamo(dynamo) => dynamo.change(id, now, expected, change).await,
        }
    }

    /// Takes the lease of an open session that nobody else holds at `now`: the fence grows by one, also when this node
    /// held it already.
    pub async fn lease(
        &self,
        id: &SessionId,
        now: UnixMs,
        node: &NodeId,
        until: UnixMs,
    ) -> Result<SessionRecord, StoreError> {
        match self {
            Store::Memory(memory) => memory.lease(id, now, node, until),
            Store::Dynamo(dynamo) => dynamo.lease(id, now, node, until).await,
        }
    }

    /// Makes the lease last until `until`, also one that ran out and that nobody has taken since. Answers with the
    /// record, in which other nodes may have changed something. [`StoreError::Refused`] when the session has ended.
    pub async fn renew(
        &self,
        id: &SessionId,
        node: &NodeId,
        fence: u64,
        until: UnixMs,
    ) -> Result<SessionRecord, StoreError> {
        match self {
            Store::Memory(memory) => memory.renew(id, node, fence, until),
            Store::Dynamo(dynamo) => dynamo.renew(id, node, fence, until).await,
        }
    }

    /// Gives the lease back, so that another node can take the session at once.
    pub async fn release(&self, id: &SessionId, node: &NodeId, fence: u64) -> Result<(), StoreError> {
        match self {
            Store::Memory(memory) => memory.release(id, node, fence),
            Store::Dynamo(dynamo) => dynamo.release(id, node, fence).await,
        }
    }

    /// Says who listens on one node; forgotten at `expires_at` (epoch seconds) unless said again.
    pub async fn put_presence(
        &self,
        id: &SessionId,
        node: &NodeId,
        presence: &Presence,
        expires_at: u64,
    ) -> Result<(), StoreError> {
        match self {
            Store::Memory(memory) => {
                memory.put_presence(id, node, presence.clone(), expires_at);
                Ok(())
            }
            Store::Dynamo(dynamo) => dynamo.put_presence(id, node, presence, expires_at).await,
        }
    }

    /// Who listens, by node; what is past its time is left out.
    pub async fn presence(&self, id: &SessionId, now: UnixMs) -> Result<BTreeMap<NodeId, Presence>, StoreError> {
        match self {
            Store::Memory(memory) => Ok(memory.presence(id, now)),
            Store::Dynamo(dynamo) => dynamo.presence(id, now).await,
        }
    }

    /// Adds one to a counter that all replicas share and answers with its value. `window`: a new count begins with
    /// every multiple of it.
    pub async fn count(&self, counter: &str, now: UnixMs, window: Duration) -> Result<u64, StoreError> {
        match self {
            Store::Memory(memory) => Ok(memory.count(counter, now, window)),
            Store::Dynamo(dynamo) => dynamo.count(counter, now, window).await,
        }
    }

    /// Claims an idempotency key for a request with this fingerprint. A claim that is neither settled nor released is
    /// free again after `hold`.
    pub async fn claim_key(
        &self,
        key: &str,
        fingerprint: &str,
        now: UnixMs,
        hold: Duration,
    ) -> Result<Claim, StoreError> {
        match self {
            Store::Memory(memory) => Ok(memory.claim_key(key, fingerprint, now, hold)),
            Store::Dynamo(dynamo) => dynamo.claim_key(key, fingerprint, now, hold).await,
        }
    }

    /// The work is done; the outcome is remembered until `expires_at` (epoch seconds).
    pub async fn settle_key(&self, key: &str, outcome: &SessionId, expires_at: u64) -> Result<(), StoreError> {
        match self {
            Store::Memory(memory) => {
                memory.settle_key(key, outcome, expires_at);
                Ok(())
            }
            Store::Dynamo(dynamo) => dynamo.settle_key(key, outcome, expires_at).await,
        }
    }

    /// The work failed; the key may be used again.
    pub async fn release_key(&self, key: &str) -> Result<(), StoreError> {
        match self {
            Store::Memory(memory) => {
                memory.release_key(key);
                Ok(())
            }
            Store::Dynamo(dynamo) => dynamo.release_key(key).await,
        }
    }

    /// Keeps finished lines; a line of the same segment and language is replaced. `expires_at`: epoch seconds.
    pub async fn put_lines(&self, id: &SessionId, lines: &[Line], expires_at: u64) -> Result<(), StoreError> {
        match self {
            Store::Memory(memory) => {
                memory.put_lines(id, lines, expires_at);
                Ok(())
            }
            Store::Dynamo(dynamo) => dynamo.put_lines(id, lines, expires_at).await,
        }
    }

    /// Everything that was said in one language, in order.
    pub async fn lines(&self, id: &SessionId, language: &Language) -> Result<Vec<Line>, StoreError> {
        match self {
            Store::Memory(memory) => Ok(memory.lines(id, language)),
            Store::Dynamo(dynamo) => dynamo.lines(id, language).await,
        }
    }
}
