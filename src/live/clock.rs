//! The one place of this room that reads the clocks.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use babelcast_domain::time::{Now, UnixMs};
use tokio::time::Instant;

/// Both clocks of the process, read together.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started: Instant,
}

impl Clock {
    pub fn start() -> Self {
        Clock { started: Instant::now() }
    }

    pub fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { mono: self.started.elapsed(), wall: UnixMs(wall.as_millis() as u64) }
    }

    pub fn instant(&self, mono: Duration) -> Instant {
        self.started + mono
    }
}
