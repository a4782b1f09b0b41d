//! How sessions are run. Every duration is in milliseconds in the configuration.

use std::time::Duration;

use babelcast_domain::session::Terms;
use babelcast_domain::signaling::CandidatePolicy;
use serde::{Deserialize, Deserializer};

use super::admission::Limits;
use super::library::Transcripts;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// A session is gone this long after its creation.
    #[serde(rename = "session_ttl_ms", deserialize_with = "millis")]
    pub session_ttl: Duration,
    /// A session without speaker media for this long is ended.
    #[serde(rename = "abandon_after_ms", deserialize_with = "millis")]
    pub abandon_after: Duration,
    /// After the end, translations under way get this long before the session is closed without them.
    #[serde(rename = "flush_deadline_ms", deserialize_with = "millis")]
    pub flush_deadline: Duration,
    /// KVS keeps undelivered signaling messages this long; short, so that stale offers die. Whole seconds, 5 to 120.
    #[serde(rename = "message_ttl_ms", deserialize_with = "millis")]
    pub message_ttl: Duration,
    /// Sessions one speaker may have open at once.
    pub sessions_per_speaker: usize,
    /// Value of the tag `babelcast` on our signaling channels: tells them from others of the account.
    pub channel_tag: String,
    /// Takes ICE candidates on loopback and private addresses. For laptops and tests, never in production.
    pub local_candidates: bool,
    pub recogniser: Patience,
    pub limits: Limits,
    pub transcripts: Transcripts,
    pub lease: Lease,
    /// Between two looks for channels and records that nobody owns any more; 0: never.
    #[serde(rename = "sweep_every_ms", deserialize_with = "millis")]
    pub sweep_every: Duration,
}

/// Which node runs a session: the one that holds its lease, a conditional write in the store.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lease {
    /// A node that has not renewed for so long is dead, and another may take its sessions.
    #[serde(rename = "lasts_ms", deserialize_with = "millis")]
    pub lasts: Duration,
    #[serde(rename = "renew_every_ms", deserialize_with = "millis")]
    pub renew_every: Duration,
    /// How often a node says who listens to it, when that has changed.
    #[serde(rename = "publish_every_ms", deserialize_with = "millis")]
    pub publish_every: Duration,
}

impl Default for Lease {
    fn default() -> Self {
        Lease {
            lasts: Duration::from_secs(10),
            renew_every: Duration::from_secs(3),
            publish_every: Duration::from_secs(5),
        }
    }
}

/// When to give a stream of the recogniser up and how to come back.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Patience {
    /// Silence is fed when no frame has come for so long; a stream without audio dies after 15 s.
    #[serde(rename = "hush_after_ms", deserialize_with = "millis")]
    pub hush_after: Duration,
    /// With no frame for so long the stream is closed until somebody speaks.
    #[serde(rename = "idle_after_ms", deserialize_with = "millis")]
    pub idle_after: Duration,
    /// A voice that is answered with no word at all for so long means the stream is deaf.
    #[serde(rename = "stall_after_ms", deserialize_with = "millis")]
    pub stall_after: Duration,
    /// AWS ends a stream after 4 h; it is changed before, in a pause.
    #[serde(rename = "rotate_after_ms", deserialize_with = "millis")]
    pub rotate_after: Duration,
    /// A stream that lived so long was healthy: the backoff begins anew.
    #[serde(rename = "healthy_after_ms", deserialize_with = "millis")]
    pub healthy_after: Duration,
    /// At the end of a stream its last final is waited for so long.
    #[serde(rename = "flush_within_ms", deserialize_with = "millis")]
    pub flush_within: Duration,
    /// First and longest wait between two attempts.
    #[serde(rename = "backoff_first_ms", deserialize_with = "millis")]
    pub backoff_first: Duration,
    #[serde(rename = "backoff_longest_ms", deserialize_with = "millis")]
    pub backoff_longest: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            session_ttl: Duration::from_secs(24 * 3_600),
            abandon_after: Duration::from_secs(30 * 60),
            flush_deadline: Duration::from_secs(5),
            message_ttl: Duration::from_secs(10),
            sessions_per_speaker: 5,
            channel_tag: "live".to_owned(),
            local_candidates: false,
            recogniser: Patience::default(),
            limits: Limits::default(),
            transcripts: Transcripts::default(),
            lease: Lease::default(),
            sweep_every: Duration::from_secs(5 * 60),
        }
    }
}

impl Default for Patience {
    fn default() -> Self {
        Patience {
            hush_after: Duration::from_millis(500),
            idle_after: Duration::from_secs(60),
            stall_after: Duration::from_secs(15),
            rotate_after: Duration::from_secs(3 * 3600 + 50 * 60),
            healthy_after: Duration::from_secs(10),
            flush_within: Duration::from_millis(2_500),
            backoff_first: Duration::from_millis(150),
            backoff_longest: Duration::from_secs(10),
        }
    }
}

impl Settings {
    /// # Errors
    /// A sentence that names the setting and what it must be.
    pub fn check(&self) -> Result<(), String> {
        if !(5..=120).contains(&self.message_ttl.as_secs()) {
            return Err("live.message_ttl_ms must be 5000 to 120000, as KVS allows".into());
        }
        if self.session_ttl < Duration::from_secs(1) {
            return Err("live.session_ttl_ms must be 1000 at least".into());
        }
        if self.sessions_per_speaker == 0 {
            return Err("live.sessions_per_speaker must be 1 at least".into());
        }
        let lease = &self.lease;
        if lease.renew_every.is_zero() || lease.renew_every * 2 > lease.lasts || lease.publish_every.is_zero() {
            return Err(
                "live.lease: renew_every_ms must be above 0 and at most half of lasts_ms, publish_every_ms above 0"
                    .into(),
            );
        }
        let recogniser = &self.recogniser;
        if recogniser.hush_after >= Duration::from_secs(15) {
            return Err("live.recogniser.hush_after_ms must be below 15000: a stream without audio dies then".into());
        }
        if recogniser.backoff_first.is_zero() || recogniser.backoff_first > recogniser.backoff_longest {
            return Err("live.recogniser.backoff_first_ms must be above 0 and at most backoff_longest_ms".into());
        }
        Ok(())
    }

    pub(super) fn terms(&self) -> Terms {
        let limits = self.limits.of_session();
        Terms { abandon_after: self.abandon_after, flush_deadline: self.flush_deadline, limits }
    }

    pub(super) fn candidates(&self) -> CandidatePolicy {
        if self.local_candidates { CandidatePolicy::LOCAL } else { CandidatePolicy::PRODUCTION }
    }
}

pub(super) fn millis<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    u64::deserialize(deserializer).map(Duration::from_millis)
}
