//! Faults on demand, and the count of everything that happened. What a test switches on here, the real
//! service does by itself on some bad day.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The switches of the KVS part. All off by default; counters run down to zero as they are used up.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Chaos {
    /// The next n REST calls get `ClientLimitExceededException`.
    pub throttle_calls: u32,
    /// The next n socket handshakes get `ClientLimitExceededException`.
    pub throttle_handshakes: u32,
    /// The next n socket handshakes get 403 `AccessDeniedException`.
    pub forbid_handshakes: u32,
    /// Share of REST calls that end in HTTP 500, 0 to 1.
    pub error_rate: f64,
    /// Every REST answer is this late, milliseconds (at most 60 s).
    pub call_delay_ms: u64,
    /// The next n signaling messages vanish.
    pub drop_messages: u32,
    /// The next n signaling messages arrive twice.
    pub duplicate_messages: u32,
    /// Every signaling message is this late, milliseconds (at most 60 s); order is kept.
    pub message_delay_ms: u64,
    /// SDP waits this long, milliseconds (at most 60 s), for a candidate of its sender to overtake it.
    pub hold_sdp_ms: u64,
    /// New channels stay in CREATING this long, milliseconds.
    pub creating_ms: u64,
    /// Deleted channels stay in DELETING this long, milliseconds.
    pub deleting_ms: u64,
}

const MAX_DELAY: Duration = Duration::from_secs(60);

impl Chaos {
    pub fn call_delay(&self) -> Duration {
        Duration::from_millis(self.call_delay_ms).min(MAX_DELAY)
    }

    pub fn message_delay(&self) -> Duration {
        Duration::from_millis(self.message_delay_ms).min(MAX_DELAY)
    }

    pub fn hold_sdp(&self) -> Duration {
        Duration::from_millis(self.hold_sdp_ms).min(MAX_DELAY)
    }
}

/// The switches behind their lock.
#[derive(Debug, Default)]
pub(super) struct Switches(Mutex<Chaos>);

impl Switches {
    pub fn get(&self) -> Chaos {
        self.with(|chaos| chaos.clone())
    }

    pub fn with<T>(&self, change: impl FnOnce(&mut Chaos) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Uses up one of a counter; false when none is left.
    pub fn take(&self, counter: impl FnOnce(&mut Chaos) -> &mut u32) -> bool {
        self.with(|chaos| {
            let left = counter(chaos);
            let any = *left > 0;
            *left = left.saturating_sub(1);
            any
        })
    }
}

macro_rules! counts {
    ($($(#[$doc:meta])* $variant:ident => $name:literal,)+) => {
        /// A thing that is counted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Count { $($(#[$doc])* $variant,)+ }

        impl Count {
            pub const ALL: &'static [Count] = &[$(Count::$variant,)+];

            pub const fn name(self) -> &'static str {
                match self { $(Count::$variant => $name,)+ }
            }
        }
    };
}

counts! {
    CallsAnswered => "calls_answered",
    CallsRefused => "calls_refused",
    HandshakesRefused => "handshakes_refused",
    SocketsOpened => "sockets_opened",
    SocketsClosed => "sockets_closed",
    /// Closed because the same role or ClientId connected again.
    SocketsReplaced => "sockets_replaced",
    /// Closed because the peer did not read what it was sent.
    SocketsTooSlow => "sockets_too_slow",
    MessagesRelayed => "messages_relayed",
    /// Kept because the recipient is away.
    MessagesHeld => "messages_held",
    /// A held offer or answer overwritten by a newer one of the same sender.
    MessagesReplaced => "messages_replaced",
    MessagesExpired => "messages_expired",
    /// Fell out of a full mailbox, or was dropped by chaos.
    MessagesDropped => "messages_dropped",
    MessagesRefused => "messages_refused",
    /// Binary, empty or otherwise meaningless frames.
    FramesIgnored => "frames_ignored",
}

/// Counters only grow.
#[derive(Debug)]
pub struct Counts([AtomicU64; Count::ALL.len()]);

impl Default for Counts {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Counts {
    pub fn get(&self, count: Count) -> u64 {
        self.0[count as usize].load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, count: Count) {
        self.0[count as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// All of them by name, zeros included.
    pub fn snapshot(&self) -> std::collections::BTreeMap<&'static str, u64> {
        Count::ALL.iter().map(|count| (count.name(), self.get(*count))).collect()
    }
}
