//! Time as an argument. The shell reads the clocks; nothing in here does.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Milliseconds since the Unix epoch: every time on the wire and in the record except the TTL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = u64, examples(1_795_240_000_000u64))]
pub struct UnixMs(pub u64);

impl UnixMs {
    pub const fn as_secs(self) -> u64 {
        self.0 / 1_000
    }

    pub const fn plus(self, duration: Duration) -> UnixMs {
        UnixMs(self.0.saturating_add(duration.as_millis() as u64))
    }
}

/// The two clocks at one moment: `mono` for deadlines (never goes back), `wall` for people and records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Since the process started.
    pub mono: Duration,
    pub wall: UnixMs,
}
