//! Trouble on demand, and the counters that show what happened. AWS cannot be asked to fail; this can.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Exception;

/// The switches, all off by default. They may be changed at any time and act on running streams too.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Chaos {
    /// Every answer to a start waits this long, in milliseconds.
    pub delay_ms: u64,
    /// The next so many starts are refused; counts down.
    pub refuse_next: u32,
    /// Share of starts that are refused, 0 to 1.
    pub refuse_rate: f64,
    /// What a refusal says.
    pub refuse_with: Refuse,
    /// How a stream breaks off.
    pub end: Option<Break>,
    /// No stream says anything any more, heartbeats and exceptions included; audio is still taken.
    pub silent: bool,
}

/// The exceptions a start can be refused with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Refuse {
    BadRequest,
    LimitExceeded,
    #[default]
    InternalFailure,
    ServiceUnavailable,
}

/// When and how a stream breaks off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Break {
    pub when: When,
    pub how: How,
    /// Only the first stream that gets there; else every one.
    pub once: bool,
}

/// Counted per stream, from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum When {
    /// So many events with results were sent; 0 is at once.
    Events(u64),
    /// So much audio came, in milliseconds.
    AudioMs(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum How {
    /// The connection is cut.
    Cut,
    /// The response ends well, without exception and without a last final, while audio still comes.
    Close,
    /// A frame with a wrong checksum, then the response ends.
    BadFrame,
    /// An InternalFailureException inside the stream.
    Fail,
}

impl From<Refuse> for Exception {
    fn from(refuse: Refuse) -> Exception {
        match refuse {
            Refuse::BadRequest => Exception::BadRequest,
            Refuse::LimitExceeded => Exception::LimitExceeded,
            Refuse::InternalFailure => Exception::InternalFailure,
            Refuse::ServiceUnavailable => Exception::ServiceUnavailable,
        }
    }
}

/// The switches, shared by all streams.
#[derive(Default)]
pub(super) struct Switches(Mutex<Chaos>);

impl Switches {
    pub(super) fn lock(&self) -> MutexGuard<'_, Chaos> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long a start waits, and the refusal that is due, if one is.
    pub(super) fn start(&self) -> (Duration, Option<Exception>) {
        let mut chaos = self.lock();
        let counted = chaos.refuse_next > 0;
        chaos.refuse_next -= u32::from(counted);
        let refused = counted || rand::random_bool(chaos.refuse_rate.clamp(0.0, 1.0));
        (Duration::from_millis(chaos.delay_ms), refused.then_some(chaos.refuse_with.into()))
    }

    pub(super) fn silent(&self) -> bool {
        self.lock().silent
    }

    /// How a stream that has come this far breaks off now, if it does.
    pub(super) fn due(&self, events: u64, audio_ms: u64) -> Option<How> {
        let mut chaos = self.lock();
        let end = chaos.end.as_ref()?;
        let reached = match end.when {
            When::Events(n) => events >= n,
            When::AudioMs(n) => audio_ms >= n,
        };
        let (how, once) = (end.how, end.once);
        if reached && once {
            chaos.end = None;
        }
        reached.then_some(how)
    }
}

/// What happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Streams answered with 200.
    pub started: u64,
    /// Streams open now.
    pub open: u64,
    /// Starts answered with an exception, chaos and limits included.
    pub refused: u64,
    /// Streams that ended by an exception inside them.
    pub exceptions: u64,
    /// Streams broken off by chaos.
    pub broken: u64,
    /// Streams whose client went away without ending its audio.
    pub abandoned: u64,
    pub audio_bytes: u64,
    /// By each stream's own sample rate.
    pub audio_ms: u64,
    /// Events with results.
    pub events: u64,
    pub finals: u64,
    /// When audio last came.
    #[serde(skip)]
    pub last_audio: Option<Instant>,
}

/// The running counters behind [`Counts`].
#[derive(Default)]
pub(super) struct Counters {
    pub started: AtomicU64,
    pub open: AtomicU64,
    pub refused: AtomicU64,
    pub exceptions: AtomicU64,
    pub broken: AtomicU64,
    pub abandoned: AtomicU64,
    pub audio_bytes: AtomicU64,
    pub audio_ms: AtomicU64,
    pub events: AtomicU64,
    pub finals: AtomicU64,
    pub last_audio: Mutex<Option<Instant>>,
}

impl Counters {
    pub(super) fn read(&self) -> Counts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            started: of(&self.started),
            open: of(&self.open),
            refused: of(&self.refused),
            exceptions: of(&self.exceptions),
            broken: of(&self.broken),
            abandoned: of(&self.abandoned),
            audio_bytes: of(&self.audio_bytes),
            audio_ms: of(&self.audio_ms),
            events: of(&self.events),
            finals: of(&self.finals),
            last_audio: *self.last_audio.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }
}

/// Adds one.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_count_down_and_a_single_break_happens_once() {
        let switches = Switches::default();
        switches.lock().refuse_next = 1;
        switches.lock().refuse_with = Refuse::LimitExceeded;
        assert_eq!(switches.start().1, Some(Exception::LimitExceeded));
        assert_eq!(switches.start().1, None);
        switches.lock().end = Some(Break { when: When::Events(2), how: How::Cut, once: true });
        assert_eq!(switches.due(1, 9_000), None);
        assert_eq!(switches.due(2, 0), Some(How::Cut));
        assert_eq!(switches.due(2, 0), None);
        switches.lock().end = Some(Break { when: When::AudioMs(500), how: How::Close, once: false });
        assert_eq!((switches.due(0, 500), switches.due(0, 500)), (Some(How::Close), Some(How::Close)));
    }

    #[test]
    fn switches_are_read_from_json() {
        let json = r#"{"delayMs": 5, "end": {"when": {"events": 3}, "how": "badFrame", "once": true}}"#;
        let chaos: Chaos = serde_json::from_str(json).unwrap();
        assert_eq!(chaos.end, Some(Break { when: When::Events(3), how: How::BadFrame, once: true }));
        assert!(serde_json::from_str::<Chaos>(r#"{"dealyMs": 5}"#).is_err());
    }
}
