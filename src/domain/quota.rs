//! A service's quota, shared by all sessions: so many requests a second with a burst, and so many at once.
//!
//! Amazon answers what is past it with a throttling error, which costs a round trip and a backoff; waiting here
//! costs neither.

use std::time::{Duration, Instant};

use crate::rate::{Bucket, Rate};

/// The state of one quota.
#[derive(Debug)]
pub struct Quota {
    rate: Rate,
    at_once: u32,
    bucket: Bucket,
    under_way: u32,
}

/// Why a request must wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// It may go after this time.
    For(Duration),
    /// Until a request under way is [`Quota::done`].
    ForAnother,
}

impl Quota {
    /// A rested quota of requests at `rate`, `at_once` of them (one at least) under way.
    pub fn new(rate: Rate, at_once: u32, now: Instant) -> Self {
        Quota { rate, at_once: at_once.max(1), bucket: Bucket::full(now), under_way: 0 }
    }

    /// Lets a request go now; [`Quota::done`] is owed for it.
    ///
    /// # Errors
    /// How long to [`Wait`] before asking again.
    pub fn take(&mut self, now: Instant) -> Result<(), Wait> {
        if self.under_way >= self.at_once {
            return Err(Wait::ForAnother);
        }
        self.bucket.take(self.rate, now).map_err(Wait::For)?;
        self.under_way += 1;
        Ok(())
    }

    /// A request has ended, whatever came of it.
    pub fn done(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    pub fn under_way(&self) -> u32 {
        self.under_way
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_goes_out_at_once_and_the_rest_at_the_rate() {
        let start = Instant::now();
        // Polly's neural voices, as an account comes.
        let mut quota = Quota::new(Rate::new(8, SECOND, 10).unwrap(), 18, start);
        let mut now = start;
        let mut sent = Vec::new();
        while sent.len() < 18 {
            match quota.take(now) {
                Ok(()) => sent.push(now),
                Err(Wait::For(rest)) => now += rest,
                Err(Wait::ForAnother) => panic!("18 may be under way"),
            }
        }
        assert!(sent[..10].iter().all(|at| *at == start));
        assert_eq!(now - start, SECOND);
        assert_eq!(quota.take(now + SECOND), Err(Wait::ForAnother));
        quota.done();
        assert_eq!(quota.take(now + SECOND), Ok(()));
    }

    proptest! {
        #[test]
        fn in_no_window_is_more_sent_than_allowed(
            count in 1u32..50, burst in 1u32..20, at_once in 1u32..20,
            moves in prop::collection::vec((0u64..400, any::<bool>()), 1..300),
        ) {
            let mut now = Instant::now();
            let mut quota = Quota::new(Rate::new(count, SECOND, burst).unwrap(), at_once, now);
            let mut sent = Vec::new();
            for (ms, end) in moves {
                now += Duration::from_millis(ms);
                if end {
                    quota.done();
                }
                if quota.take(now).is_ok() {
                    sent.push(now);
                }
                prop_assert!(quota.under_way() <= at_once);
            }
            for (i, from) in sent.iter().enumerate() {
                for (n, to) in sent[i..].iter().enumerate() {
                    let most = f64::from(burst) + (*to - *from).as_secs_f64() * f64::from(count) + 1e-6;
                    prop_assert!((n + 1) as f64 <= most, "{} in {:?}", n + 1, *to - *from);
                }
            }
        }
    }
}
