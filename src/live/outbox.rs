//! One listener's queue between the session and its socket.
//!
//! Partials are conflated: a newer one takes the place of the older of its segment. Durable events wait up to a
//! bound; past it the listener is told to come back (4408) and `resume` fills in. Pushing never waits, so a slow
//! listener costs nobody else anything.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Durable events waiting for one socket: minutes of speech, far more than a socket that works ever has.
pub const MAX_EVENTS: usize = 256;
/// Bytes waiting for one socket.
pub const MAX_BYTES: usize = 1 << 20;

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
    reader_gone: AtomicBool,
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
        // The newest waiting items are at the back; a partial of this segment is among the last few.
        let waiting = queue.items.iter_mut().rev().take(8).find(|item| item.partial_of.as_ref() == Some(segment));
        let pushed = if let Some(item) = waiting {
            let before = std::mem::replace(&mut item.text, text);
            item.queued = Instant::now();
            let now = item.text.len();
            queue.bytes = queue.bytes + now - before.len();
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

    pub fn reader_gone(&self) -> bool {
        self.0.reader_gone.load(Ordering::Acquire)
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
            {
                let mut queue = self.0.lock();
                if let Some(item) = queue.items.pop_front() {
                    queue.bytes -= item.text.len();
                    return (Delivery::Text(item.text), item.queued);
                }
                if let Some((code, reason)) = queue.close {
                    return (Delivery::Close { code, reason }, Instant::now());
                }
            }
            self.0.ready.notified().await;
        }
    }
}

impl Drop for OutboxReader {
    fn drop(&mut self) {
        self.0.reader_gone.store(true, Ordering::Release);
    }
}

impl Queue {
    fn push(&mut self, item: Item) -> Pushed {
        if self.items.len() >= MAX_EVENTS || self.bytes + item.text.len() > MAX_BYTES {
            // What waits is not worth sending any more: the listener resumes from its last seq.
            self.items.clear();
            self.bytes = 0;
            self.close = Some((4408, "too slow"));
            return Pushed::TooSlow;
        }
        self.bytes += item.text.len();
        self.items.push_back(item);
        Pushed::Queued
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
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
}
