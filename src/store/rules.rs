//! What each form of the store decides in the same way, over a record that nobody else changes meanwhile: in memory under
//! a lock, in DynamoDB by a conditional write that fails when somebody did.

use std::time::Duration;

use babelcast_domain::ids::{NodeId, SessionId};
use babelcast_domain::record::{Change, SessionRecord, Status};
use babelcast_domain::time::UnixMs;

use super::{Expected, StoreError};

pub(super) fn change(
    record: &mut SessionRecord,
    now: UnixMs,
    expected: Expected,
    change: &Change,
) -> Result<(), StoreError> {
    if expected.fence.is_some_and(|fence| fence != record.fence) {
        return Err(StoreError::Leased);
    }
    open(record)?;
    if expected.version.is_some_and(|version| version != record.version) {
        return Err(StoreError::Stale);
    }
    record.apply(now, change).map_err(StoreError::Refused)
}

pub(super) fn lease(record: &mut SessionRecord, now: UnixMs, node: &NodeId, until: UnixMs) -> Result<(), StoreError> {
    open(record)?;
    if record.is_leased_by_other(node, now) {
        return Err(StoreError::Leased);
    }
    record.lease_owner = Some(node.clone());
    record.lease_until = Some(until);
    record.fence += 1;
    Ok(())
}

pub(super) fn renew(record: &mut SessionRecord, node: &NodeId, fence: u64, until: UnixMs) -> Result<(), StoreError> {
    held(record, node, fence)?;
    record.lease_until = Some(until);
    Ok(())
}

pub(super) fn release(record: &mut SessionRecord, node: &NodeId, fence: u64) -> Result<(), StoreError> {
    held(record, node, fence)?;
    record.lease_owner = None;
    record.lease_until = None;
    Ok(())
}

fn open(record: &SessionRecord) -> Result<(), StoreError> {
    if record.status == Status::Ended { Err(StoreError::Refused(record.status)) } else { Ok(()) }
}

fn held(record: &SessionRecord, node: &NodeId, fence: u64) -> Result<(), StoreError> {
    open(record)?;
    let ours = record.lease_owner.as_ref() == Some(node) && record.fence == fence;
    if ours { Ok(()) } else { Err(StoreError::Leased) }
}

/// The window that `now` lies in: its number, and when nobody needs its counter any more (epoch seconds).
pub(super) fn window(now: UnixMs, length: Duration) -> (u64, u64) {
    let length = (length.as_millis() as u64).max(1);
    let number = now.0 / length;
    (number, (number + 1).saturating_mul(length).div_ceil(1_000))
}

/// Where a page ends: the place of its last record.
pub(super) fn cursor(last: &SessionRecord) -> String {
    format!("{}.{}", last.created_at.0, last.session_id)
}

pub(super) fn place(cursor: &str) -> Result<(UnixMs, SessionId), StoreError> {
    let parts = cursor.split_once('.');
    let place = parts.and_then(|(at, id)| Some((UnixMs(at.parse().ok()?), SessionId::parse(id).ok()?)));
    place.ok_or(StoreError::BadCursor)
}
