//! Everything in this process only, with the same conditions as the tables.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use babelcast_domain::ids::{NodeId, SessionId, SpeakerId};
use babelcast_domain::language::Language;
use babelcast_domain::line::Line;
use babelcast_domain::record::{Change, SessionRecord};
use babelcast_domain::time::UnixMs;

use super::{Claim, Expected, Page, Presence, StoreError, rules};

/// What is past its TTL is swept when a new record comes, so that a long-lived laptop does not fill up.
#[derive(Debug, Default)]
pub struct Memory {
    pub(super) outlives_servers: bool,
    tables: Mutex<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    records: BTreeMap<SessionId, SessionRecord>,
    presence: BTreeMap<(SessionId, NodeId), (Presence, u64)>,
    counters: BTreeMap<String, (u64, u64)>,
    keys: BTreeMap<String, Key>,
    lines: BTreeMap<(SessionId, Language, u64), (Line, u64)>,
}

#[derive(Debug)]
struct Key {
    fingerprint: String,
    outcome: Option<SessionId>,
    /// Epoch milliseconds.
    until: u64,
}

impl Tables {
    fn sweep(&mut self, now: UnixMs) {
        let seconds = now.as_secs();
        self.records.retain(|_, record| !record.is_expired(now));
        self.presence.retain(|_, (_, expires_at)| *expires_at > seconds);
        self.counters.retain(|_, (_, expires_at)| *expires_at > seconds);
        self.keys.retain(|_, key| key.until > now.0);
        self.lines.retain(|_, (_, expires_at)| *expires_at > seconds);
    }
}

impl Memory {
    /// Outlives the servers that use it.
    pub fn shared() -> Self {
        Memory { outlives_servers: true, ..Memory::default() }
    }

    pub fn create(&self, record: SessionRecord) -> Result<(), StoreError> {
        let mut tables = self.tables();
        if tables.records.contains_key(&record.session_id) {
            return Err(StoreError::Exists);
        }
        tables.sweep(record.created_at);
        tables.records.insert(record.session_id.clone(), record);
        Ok(())
    }

    pub fn get(&self, id: &SessionId) -> Option<SessionRecord> {
        self.tables().records.get(id).cloned()
    }

    pub fn list(
        &self,
        speaker: &SpeakerId,
        now: UnixMs,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let after = cursor.map(rules::place).transpose()?;
        let tables = self.tables();
        let place_of = |record: &SessionRecord| (record.created_at, record.session_id.clone());
        let mut own: Vec<&SessionRecord> = tables
            .records
            .values()
            .filter(|record| record.speaker_id == *speaker && !record.is_expired(now))
            .filter(|record| after.as_ref().is_none_or(|after| place_of(record) < *after))
            .collect();
        own.sort_by_key(|record| std::cmp::Reverse(place_of(record)));
        let more = own.len() > limit;
        let records: Vec<SessionRecord> = own.into_iter().take(limit).cloned().collect();
        let cursor = records.last().filter(|_| more).map(rules::cursor);
        Ok(Page { records, cursor })
    }

    pub fn count_open(&self, speaker: &SpeakerId, now: UnixMs) -> usize {
        self.tables().records.values().filter(|record| record.speaker_id == *speaker && record.is_joinable(now)).count()
    }

    pub fn change(
        &self,
        id: &SessionId,
        now: UnixMs,
        expected: Expected,
        change: &Change,
    ) -> Result<SessionRecord, StoreError> {
        self.rewrite(id, |record| rules::change(record, now, expected, change))
    }

    pub fn lease(
        &self,
        id: &SessionId,
        now: UnixMs,
        node: &NodeId,
        until: UnixMs,
    ) -> Result<SessionRecord, StoreError> {
        self.rewrite(id, |record| rules::lease(record, now, node, until))
    }

    pub fn renew(&self, id: &SessionId, node: &NodeId, fence: u64, until: UnixMs) -> Result<SessionRecord, StoreError> {
        self.rewrite(id, |record| rules::renew(record, node, fence, until))
    }

    pub fn release(&self, id: &SessionId, node: &NodeId, fence: u64) -> Result<(), StoreError> {
        self.rewrite(id, |record| rules::release(record, node, fence)).map(drop)
    }

    fn rewrite(
        &self,
        id: &SessionId,
        decide: impl FnOnce(&mut SessionRecord) -> Result<(), StoreError>,
    ) -> Result<SessionRecord, StoreError> {
        let mut tables = self.tables();
        let record = tables.records.get_mut(id).ok_or(StoreError::NotFound)?;
        decide(record)?;
        Ok(record.clone())
    }

    pub fn put_presence(&self, id: &SessionId, node: &NodeId, presence: Presence, expires_at: u64) {
        self.tables().presence.insert((id.clone(), node.clone()), (presence, expires_at));
    }

    pub fn presence(&self, id: &SessionId, now: UnixMs) -> BTreeMap<NodeId, Presence> {
        let tables = self.tables();
        let of_session = tables.presence.iter().filter(|((session, _), _)| session == id);
        let fresh = of_session.filter(|(_, (_, expires_at))| *expires_at > now.as_secs());
        fresh.map(|((_, node), (presence, _))| (node.clone(), presence.clone())).collect()
    }

    pub fn count(&self, counter: &str, now: UnixMs, window: Duration) -> u64 {
        let (number, expires_at) = rules::window(now, window);
        let mut tables = self.tables();
        let (value, _) = tables.counters.entry(format!("{counter}#{number}")).or_insert((0, expires_at));
        *value += 1;
        *value
    }

    pub fn claim_key(&self, key: &str, fingerprint: &str, now: UnixMs, hold: Duration) -> Claim {
        let mut tables = self.tables();
        if let Some(known) = tables.keys.get(key).filter(|known| known.until > now.0) {
            return match &known.outcome {
                _ if known.fingerprint != fingerprint => Claim::Mismatch,
                Some(session) => Claim::Done(session.clone()),
                None => Claim::Pending,
            };
        }
        let fresh = Key { fingerprint: fingerprint.to_owned(), outcome: None, until: now.plus(hold).0 };
        tables.keys.insert(key.to_owned(), fresh);
        Claim::Fresh
    }

    pub fn settle_key(&self, key: &str, outcome: &SessionId, expires_at: u64) {
        if let Some(known) = self.tables().keys.get_mut(key) {
            known.outcome = Some(outcome.clone());
            known.until = expires_at.saturating_mul(1_000);
        }
    }

    pub fn release_key(&self, key: &str) {
        self.tables().keys.remove(key);
    }

    pub fn put_lines(&self, id: &SessionId, lines: &[Line], expires_at: u64) {
        let mut tables = self.tables();
        for line in lines {
            let place = (id.clone(), line.language.clone(), line.segment);
            tables.lines.insert(place, (line.clone(), expires_at));
        }
    }

    pub fn lines(&self, id: &SessionId, language: &Language) -> Vec<Line> {
        let tables = self.tables();
        let whole = (id.clone(), language.clone(), 0)..=(id.clone(), language.clone(), u64::MAX);
        tables.lines.range(whole).map(|(_, (line, _))| line.clone()).collect()
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        // A panic while the tables were held cannot have left them half written: every change is a plain assignment.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
