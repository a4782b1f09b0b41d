//! Records in this process only, with the same conditions as the table.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use babelcast_domain::ids::{SessionId, SpeakerId};
use babelcast_domain::record::{SessionRecord, Status};
use babelcast_domain::time::UnixMs;

use super::{Change, StoreError};

/// Records kept beyond their TTL are swept when a new one comes, so that a long-lived laptop does not fill up.
#[derive(Debug, Default)]
pub struct Memory {
    records: Mutex<BTreeMap<SessionId, SessionRecord>>,
}

impl Memory {
    pub fn create(&self, record: SessionRecord) -> Result<(), StoreError> {
        let mut records = self.records();
        if records.contains_key(&record.session_id) {
            return Err(StoreError::Exists);
        }
        let now = record.created_at;
        records.retain(|_, old| !old.is_expired(now));
        records.insert(record.session_id.clone(), record);
        Ok(())
    }

    pub fn get(&self, id: &SessionId) -> Option<SessionRecord> {
        self.records().get(id).cloned()
    }

    pub fn count_open(&self, speaker: &SpeakerId, now: UnixMs) -> usize {
        self.records().values().filter(|record| record.speaker_id == *speaker && record.is_joinable(now)).count()
    }

    pub fn change(&self, id: &SessionId, now: UnixMs, change: Change) -> Result<SessionRecord, StoreError> {
        let mut records = self.records();
        let record = records.get_mut(id).ok_or(StoreError::NotFound)?;
        match change {
            Change::KvsConnected(connected) => {
                if record.status == Status::Ended {
                    return Err(StoreError::Refused(record.status));
                }
                record.speaker_kvs_connected = connected;
            }
            Change::Ended(reason) => {
                if !record.status.may_become(Status::Ended) {
                    return Err(StoreError::Refused(record.status));
                }
                record.status = Status::Ended;
                record.end_reason = Some(reason);
                record.speaker_kvs_connected = false;
            }
        }
        record.updated_at = now;
        record.version += 1;
        Ok(record.clone())
    }

    fn records(&self) -> MutexGuard<'_, BTreeMap<SessionId, SessionRecord>> {
        // A panic while the map was held cannot have left it half written: every change is a plain assignment.
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
