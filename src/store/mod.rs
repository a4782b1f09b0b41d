//! What outlives the process: session records. The record type owns the attribute names; this room owns the writes.
//!
//! Every write is conditional on the state it expects, so two replicas cannot both win a transition.

mod memory;

use babelcast_domain::ids::{SessionId, SpeakerId};
use babelcast_domain::record::{EndReason, SessionRecord, Status};
use babelcast_domain::time::UnixMs;

pub use memory::Memory;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum StoreError {
    #[error("a session of this name exists")]
    Exists,
    #[error("no such session")]
    NotFound,
    /// The record's state does not allow the change; the actual status is named.
    #[error("the session is {}", .0.as_str())]
    Refused(Status),
}

/// One transition of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    KvsConnected(bool),
    Ended(EndReason),
}

/// Where records live. Memory serves laptops and tests; DynamoDB joins beside it.
#[derive(Debug)]
pub enum Store {
    Memory(Memory),
}

#[expect(clippy::unused_async, reason = "the DynamoDB form of every call crosses the network")]
impl Store {
    pub fn memory() -> Self {
        Store::Memory(Memory::default())
    }

    /// Writes a new record, if none of this id exists.
    pub async fn create(&self, record: SessionRecord) -> Result<(), StoreError> {
        match self {
            Store::Memory(memory) => memory.create(record),
        }
    }

    /// The record as stored, even past its TTL: the reader decides what expiry means.
    pub async fn get(&self, id: &SessionId) -> Result<Option<SessionRecord>, StoreError> {
        match self {
            Store::Memory(memory) => Ok(memory.get(id)),
        }
    }

    /// Sessions of one speaker that have not ended.
    pub async fn count_open(&self, speaker: &SpeakerId, now: UnixMs) -> Result<usize, StoreError> {
        match self {
            Store::Memory(memory) => Ok(memory.count_open(speaker, now)),
        }
    }

    /// Applies one change if the record's state allows it, and answers with the record as it is afterwards.
    pub async fn change(&self, id: &SessionId, now: UnixMs, change: Change) -> Result<SessionRecord, StoreError> {
        match self {
            Store::Memory(memory) => memory.change(id, now, change),
        }
    }
}
