//! What a crash leaves behind: signaling channels without a session, sessions that nobody runs any more.
//!
//! Every open session has a channel, so the list of our channels names everything there is to look at. Only channels
//! that carry our tag are touched. Whether a channel is wanted is for the table to say; a store that does not outlive
//! a process cannot speak for other processes, and then only the channel's own time, in its tag, counts.

use std::sync::Arc;
use std::time::Duration;

use babelcast_domain::counts::Count;
use babelcast_domain::ids::SessionId;
use babelcast_domain::record::{Change, EndReason, SessionRecord, Status};
use babelcast_domain::time::UnixMs;
use tokio_util::task::AbortOnDropHandle;

use crate::aws::kvs::{self, Channel, KvsError};
use crate::store::{Expected, StoreError};

use super::sessions::Sessions;
use super::task;

/// The tag that says a channel is ours; its value is `live.channel_tag`.
pub(super) const OURS: &str = "babelcast";
/// The tag that says when nobody can want the channel any more, in epoch seconds.
pub(super) const EXPIRES: &str = "expires";
const PREFIX: &str = "session-";
/// A channel this young may be one whose record is just being written.
const GRACE: Duration = Duration::from_secs(120);

/// What the sweep makes of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The session lives, or may come back.
    Kept,
    /// Not ours, or too young to tell.
    Passed,
    /// The session has ended or is unknown: the channel goes.
    Orphan,
    /// The session is past its time, or nobody has run it for too long: it is ended, then the channel goes.
    Dead(EndReason),
}

/// One channel, and what was done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swept {
    pub channel: String,
    pub verdict: Verdict,
    /// Why it could not be put in order; the next sweep tries again.
    pub error: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    #[error("the channels could not be listed: {0}")]
    List(#[from] KvsError),
    #[error("the store: {0}")]
    Store(#[from] StoreError),
}

impl Sessions {
    /// Looks at every channel of ours and puts in order what nobody owns. `dry_run`: only says what it would do.
    pub async fn sweep(&self, dry_run: bool) -> Result<Vec<Swept>, SweepError> {
        let mut swept = Vec::new();
        for channel in kvs::list_channels(&self.clients, PREFIX).await? {
            let Some(id) = channel.name.strip_prefix(PREFIX).and_then(|id| SessionId::parse(id).ok()) else { continue };
            if self.live().contains_key(&id) {
                continue;
            }
            let verdict = self.judge(&channel, &id).await?;
            let error = match verdict {
                Verdict::Orphan | Verdict::Dead(_) if !dry_run => self.clean(&channel, &id, verdict).await.err(),
                _ => None,
            };
            if let Some(error) = &error {
                tracing::warn!(session.id = %id, error, "could not be swept; the next sweep tries again");
            }
            swept.push(Swept { channel: channel.name, verdict, error });
        }
        Ok(swept)
    }

    /// Sweeps now and then for as long as the handle lives.
    pub fn keep_sweeping(self: &Arc<Self>) -> Option<AbortOnDropHandle<()>> {
        let every = self.settings.sweep_every;
        if every.is_zero() {
            return None;
        }
        let sessions = Arc::clone(self);
        Some(task::owned(async move {
            loop {
                // Nodes that were started together do not sweep together.
                tokio::time::sleep(every.mul_f64(rand::random_range(0.5..1.5))).await;
                match sessions.sweep(false).await {
                    Ok(swept) => tracing::debug!(looked_at = swept.len(), "swept"),
                    Err(error) => tracing::warn!(%error, "the sweep failed"),
                }
            }
        }))
    }

    async fn judge(&self, channel: &Channel, id: &SessionId) -> Result<Verdict, SweepError> {
        let now = self.clock.now().wall;
        let record = self.store.get(id).await?;
        // The cheap answers first: asking for tags is limited to a few calls a second.
        let verdict = match &record {
            Some(record) => of_record(record, now, self.settings.abandon_after),
            None if channel.created_at.plus(GRACE) > now => Verdict::Passed,
            None => Verdict::Orphan,
        };
        if matches!(verdict, Verdict::Kept | Verdict::Passed) {
            return Ok(verdict);
        }
        let tags = kvs::tags(&self.clients, &channel.arn).await?;
        if tags.get(OURS) != Some(&self.settings.channel_tag) {
            return Ok(Verdict::Passed);
        }
        let expired = || tags.get(EXPIRES).and_then(|at| at.parse::<u64>().ok()).is_some_and(|at| at <= now.as_secs());
        if record.is_none() && !self.store.is_durable() && !expired() {
            return Ok(Verdict::Passed);
        }
        Ok(verdict)
    }

    async fn clean(&self, channel: &Channel, id: &SessionId, verdict: Verdict) -> Result<(), String> {
        if let Verdict::Dead(reason) = verdict {
            let now = self.clock.now().wall;
            // Nobody may be running it: the lease is taken first, and what ends it is this lease's holder.
            let leased = self.store.lease(id, now, &self.node, now.plus(self.settings.lease.lasts)).await;
            let record = leased.map_err(|error| error.to_string())?;
            let expected = Expected { version: None, fence: Some(record.fence) };
            let ended = self.store.change(id, now, expected, &Change::Ended(reason)).await;
            ended.map_err(|error| error.to_string())?;
            self.counts.one(Count::RecordsSwept);
        }
        kvs::delete_channel(&self.clients, &channel.arn).await.map_err(|error| error.to_string())?;
        self.counts.one(Count::ChannelsSwept);
        tracing::info!(session.id = %id, ?verdict, "a signaling channel that nobody owned is deleted");
        Ok(())
    }
}

fn of_record(record: &SessionRecord, now: UnixMs, abandon_after: Duration) -> Verdict {
    let lapsed = record.lease_until.unwrap_or(record.updated_at);
    match record.status {
        Status::Ended => Verdict::Orphan,
        _ if lapsed > now => Verdict::Kept,
        _ if record.is_expired(now) => Verdict::Dead(EndReason::Expired),
        _ if lapsed.plus(abandon_after) <= now => Verdict::Dead(EndReason::Abandoned),
        _ => Verdict::Kept,
    }
}
