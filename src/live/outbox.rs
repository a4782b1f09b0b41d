//! One listener's queue between the session and its socket.
//!
//! Partials are conflated: a newer one takes the place of the older of its segment. Durable events wait up to a
//! bound; past it the listener is told to come back (4408) and `resume` fills in. Pushing never waits, so a slow
//! listener costs nobody else anything.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Durable events waiting for one socket: minutes of speech, far more than a socket that works ever has.
pub const MAX_EVENTS: usize = 512;
/// Of these, what a resuming listener may be sent again at once: the rest is for what happens meanwhile. Whoever missed
/// more is told that it cannot be made good, because it would be cut as too slow, come back, and be cut again.
pub const MAX_REPLAY: usize = 448;
/// Bytes waiting for one socket.
pub const MAX_BYTES: usize = 1 << 20;

/// Room an empty queue may keep.
const SPARE_ITEMS: usize = 16;

/// What the socket is to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// UTF-8 text of one message.
    Text(Bytes),
    Close {
        code: u16,
        reason: &'static str,
    },
}

/// Names a segment, so that its next partial or its final can replace what waits.
pub type SegmentKey = Arc<str>;

#[derive(Debug)]
struct Item {
    partial_of: Option<SegmentKey>,
    text: Bytes,
    queued: Instant,
}

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Item>,
    bytes: usize,
    close: Option<(u16, &'static str)>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    ready: Notify,
}

/// The session's end.
#[derive(Debug)]
pub struct Outbox(Arc<Shared>);

/// The socket's end.
#[derive(Debug)]
pub struct OutboxReader(Arc<Shared>);

/// What became of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    Queued,
    /// It took the place of an older partial that nobody has seen.
    Conflated,
    /// The bound was reached; the socket closes with 4408.
    TooSlow,
    /// The socket is closing already.
    Closed,
}

pub fn outbox() -> (Outbox, OutboxReader) {
    let shared = Arc::new(Shared::default());
    (Outbox(Arc::clone(&shared)), OutboxReader(shared))
}

impl Outbox {
    pub fn push_partial(&self, segment: &SegmentKey, text: Bytes) -> Pushed {
        let mut queue = self.0.lock();
        if queue.close.is_some() {
            return Pushed::Closed;
        }
        let held = queue.bytes;
        // The newest waiting items are at the back; a partial of this segment is among the last few.
        let waiting = queue.items.iter_mut().rev().take(8).find(|item| item.partial_of.as_ref() == Some(segment));
        let pushed = if let Some(item) = waiting {
            let bytes = held - item.text.len() + text.len();
            // One too long for what room there is changes nothing: the older stays, and the final is owed anyway.
            if bytes <= MAX_BYTES {
                item.text = text;
                item.queued = Instant::now();
                queue.bytes = bytes;
            }
            Pushed::Conflated
        } else {
            queue.push(Item { partial_of: Some(Arc::clone(segment)), text, queued: Instant::now() })
        };
        drop(queue);
        self.0.ready.notify_one();
        pushed
    }

    /// `segment`: the segment whose waiting partial this event makes pointless.
    pub fn push_durable(&self, segment: Option<&SegmentKey>, text: Bytes) -> Pushed {
        let mut queue = self.0.lock();
        if queue.close.is_some() {
            return Pushed::Closed;
        }
        let stale =
            segment.and_then(|segment| queue.items.iter().rposition(|item| item.partial_of.as_ref() == Some(segment)));
        if let Some(item) = stale.and_then(|index| queue.items.remove(index)) {
            queue.bytes -= item.text.len();
        }
        let pushed = queue.push(Item { partial_of: None, text, queued: Instant::now() });
        drop(queue);
        self.0.ready.notify_one();
        pushed
    }

    /// Lets the reader have what waits, then close.
    pub fn close(&self, code: u16, reason: &'static str) {
        self.0.lock().close.get_or_insert((code, reason));
        self.0.ready.notify_one();
    }
}

impl Drop for Outbox {
    /// The session is gone without a word: its task died. The socket must not wait for ever.
    fn drop(&mut self) {
        self.close(1012, "session restarted");
    }
}

impl OutboxReader {
    /// The next thing to do and when it was queued; waits while there is none. Cancel safe: nothing is taken before
    /// it is returned.
    pub async fn next(&mut self) -> (Delivery, Instant) {
        loop {
            if let Some(next) = self.0.lock().take() {
                return next;
            }
            self.0.ready.notified().await;
        }
    }
}

impl Queue {
    fn push(&mut self, item: Item) -> Pushed {
        if self.items.len() >= MAX_EVENTS || self.bytes + item.text.len() > MAX_BYTES {
            // What waits is not worth sending any more: the listener resumes from its last seq.
            self.items = VecDeque::new();
            self.bytes = 0;
            self.close = Some((4408, "too slow"));
            return Pushed::TooSlow;
        }
        self.bytes += item.text.len();
        self.items.push_back(item);
        Pushed::Queued
    }

    fn take(&mut self) -> Option<(Delivery, Instant)> {
        let Some(item) = self.items.pop_front() else {
            return self.close.map(|(code, reason)| (Delivery::Close { code, reason }, Instant::now()));
        };
        self.bytes -= item.text.len();
        // A socket that was slow once does not keep the room it needed then.
        if self.items.is_empty() && self.items.capacity() > SPARE_ITEMS {
            self.items = VecDeque::new();
        }
        Some((Delivery::Text(item.text), item.queued))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[tokio::test]
    async fn a_newer_partial_takes_the_place_of_the_older_and_a_final_of_both() {
        let (outbox, mut reader) = outbox();
        let (one, two) = (SegmentKey::from("s1"), SegmentKey::from("s2"));
        assert_eq!(outbox.push_partial(&one, text("a")), Pushed::Queued);
        assert_eq!(outbox.push_partial(&one, text("a b")), Pushed::Conflated);
        assert_eq!(outbox.push_partial(&two, text("x")), Pushed::Queued);
        outbox.push_durable(Some(&one), text("a b c."));
        assert_eq!(reader.next().await.0, Delivery::Text(text("x")));
        assert_eq!(reader.next().await.0, Delivery::Text(text("a b c.")));
    }

    #[tokio::test]
    async fn a_listener_that_never_reads_is_closed_with_4408_at_the_bound() {
        let (outbox, mut reader) = outbox();
        for _ in 0..MAX_EVENTS {
            assert_eq!(outbox.push_durable(None, text("x")), Pushed::Queued);
        }
        assert_eq!(outbox.push_durable(None, text("x")), Pushed::TooSlow);
        assert_eq!(outbox.push_durable(None, text("x")), Pushed::Closed);
        assert_eq!(reader.next().await.0, Delivery::Close { code: 4408, reason: "too slow" });
    }

    #[tokio::test]
    async fn what_waits_is_delivered_before_the_close() {
        let (outbox, mut reader) = outbox();
        outbox.push_durable(None, text("ended"));
        outbox.close(1000, "ended");
        assert_eq!(reader.next().await.0, Delivery::Text(text("ended")));
        assert_eq!(reader.next().await.0, Delivery::Close { code: 1000, reason: "ended" });
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// Of the segment under way, or of the one before it.
        Partial {
            earlier: bool,
            bytes: usize,
        },
        /// Ends the segment under way.
        Final {
            bytes: usize,
        },
        /// A durable event that is of no segment.
        News,
        Read(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => (any::<bool>(), 0..2_000usize).prop_map(|(earlier, bytes)| Step::Partial { earlier, bytes }),
            3 => (0..40_000usize).prop_map(|bytes| Step::Final { bytes }),
            2 => Just(Step::News),
            1 => (0..6usize).prop_map(Step::Read),
        ];
        proptest::collection::vec(step, 1..900)
    }

    /// What is pushed says what it is: `kind segment number padding`, numbers counting all pushes.
    fn say(kind: &str, segment: u64, number: u64, bytes: usize) -> Bytes {
        Bytes::from(format!("{kind} {segment} {number} {}", "x".repeat(bytes)))
    }

    /// What was pushed, and what came out.
    #[derive(Default)]
    struct Seen {
        /// Numbers of the durable events that were taken in.
        owed: VecDeque<u64>,
        /// The newest partial that was shown of each segment.
        shown: std::collections::BTreeMap<u64, u64>,
        over: std::collections::BTreeSet<u64>,
    }

    impl Seen {
        fn check(&mut self, text: &[u8]) -> Result<(), TestCaseError> {
            let text = std::str::from_utf8(text).unwrap();
            let mut words = text.split(' ');
            let kind = words.next().unwrap();
            let [segment, number] = [words.next(), words.next()].map(|word| word.unwrap().parse::<u64>().unwrap());
            if kind == "partial" {
                prop_assert!(!self.over.contains(&segment), "a partial after its final");
                let before = self.shown.insert(segment, number);
                prop_assert!(before.is_none_or(|before| before < number), "an older partial after a newer");
                return Ok(());
            }
            prop_assert_eq!(Some(number), self.owed.pop_front(), "a durable event is missing, doubled or out of order");
            if kind == "final" {
                self.over.insert(segment);
            }
            Ok(())
        }
    }

    proptest! {
        #[test]
        fn order_is_kept_and_nothing_durable_is_missing_without_a_close(steps in steps()) {
            let (outbox, reader) = outbox();
            let (mut seen, mut segment) = (Seen::default(), 1);
            for (number, step) in (0u64..).zip(steps) {
                let key = |segment: u64| SegmentKey::from(segment.to_string());
                let owes = |pushed: Pushed| pushed == Pushed::Queued;
                match step {
                    Step::Partial { earlier, bytes } => {
                        // Two segments may be under way at once; whose final was pushed gets no more.
                        let of = if earlier { segment + 1 } else { segment };
                        outbox.push_partial(&key(of), say("partial", of, number, bytes));
                    }
                    Step::Final { bytes } => {
                        if owes(outbox.push_durable(Some(&key(segment)), say("final", segment, number, bytes))) {
                            seen.owed.push_back(number);
                        }
                        segment += 1;
                    }
                    Step::News => {
                        if owes(outbox.push_durable(None, say("news", 0, number, 0))) {
                            seen.owed.push_back(number);
                        }
                    }
                    Step::Read(many) => {
                        for _ in 0..many {
                            if let Some((Delivery::Text(text), _)) = reader.0.lock().take() {
                                seen.check(&text)?;
                            }
                        }
                    }
                }
                let queue = reader.0.lock();
                prop_assert_eq!(queue.bytes, queue.items.iter().map(|item| item.text.len()).sum::<usize>());
                prop_assert!(queue.bytes <= MAX_BYTES && queue.items.len() <= MAX_EVENTS);
            }
            let end = loop {
                match reader.0.lock().take() {
                    Some((Delivery::Text(text), _)) => seen.check(&text)?,
                    end => break end.map(|(delivery, _)| delivery),
                }
            };
            let cut = end == Some(Delivery::Close { code: 4408, reason: "too slow" });
            prop_assert!(cut || end.is_none());
            prop_assert!(cut || seen.owed.is_empty(), "a durable event was dropped without a word");
        }
    }
}
