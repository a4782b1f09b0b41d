//! A service's quota, shared by all sessions: so many requests a second with a burst, and so many at once.
//!
//! Amazon answers what is past it with a throttling error, which costs a round trip and a backoff; waiting here
//! costs neither.

use std::time::Duration;

/// What a service allows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Allowance {
    /// Requests a second, in the long run.
    pub per_second: f64,
    /// Requests at once after a rest.
    pub burst: u32,
    /// Requests under way at the same time.
    pub at_once: u32,
}

/// The state of one quota. `now` is the monotonic clock.
#[derive(Debug)]
pub struct Quota {
    allowance: Allowance,
    tokens: f64,
    filled: Duration,
    under_way: u32,
}

/// Why a request must wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// There will be a token after this time.
    For(Duration),
    /// Until a request under way is [`Quota::done`].
    ForAnother,
}

impl Quota {
    /// A rested quota. An allowance of nothing at all would stop the service for ever, so one request a minute, one
    /// at once, is the least.
    pub fn new(allowance: Allowance) -> Self {
        let per_second = if allowance.per_second.is_finite() { allowance.per_second.max(1.0 / 60.0) } else { 1.0 };
        let allowance = Allowance { per_second, burst: allowance.burst.max(1), at_once: allowance.at_once.max(1) };
        Quota { allowance, tokens: f64::from(allowance.burst), filled: Duration::ZERO, under_way: 0 }
    }

    /// Takes a token for a request that goes out now; [`Quota::done`] is owed for it.
    ///
    /// # Errors
    /// How long to [`Wait`] before asking again.
    pub fn take(&mut self, now: Duration) -> Result<(), Wait> {
        let passed = now.saturating_sub(self.filled).as_secs_f64();
        self.tokens = (self.tokens + passed * self.allowance.per_second).min(f64::from(self.allowance.burst));
        self.filled = self.filled.max(now);
        if self.under_way >= self.allowance.at_once {
            return Err(Wait::ForAnother);
        }
        if self.tokens < 1.0 {
            // Rounded up, so that whoever waits so long does not come too early.
            let missing = (1.0 - self.tokens) / self.allowance.per_second;
            return Err(Wait::For(Duration::from_secs_f64(missing) + Duration::from_micros(1)));
        }
        self.tokens -= 1.0;
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

    /// Polly's neural voices, as it comes by default.
    const NEURAL: Allowance = Allowance { per_second: 8.0, burst: 10, at_once: 18 };

    #[test]
    fn a_burst_goes_out_at_once_and_the_rest_at_the_rate() {
        let mut quota = Quota::new(NEURAL);
        let mut now = Duration::from_secs(5);
        let mut sent = Vec::new();
        while sent.len() < 18 {
            match quota.take(now) {
                Ok(()) => sent.push(now),
                Err(Wait::For(rest)) => now += rest,
                Err(Wait::ForAnother) => panic!("18 may be under way"),
            }
        }
        assert!(sent[..10].iter().all(|at| *at == Duration::from_secs(5)));
        let last = (now - Duration::from_secs(5)).as_secs_f64();
        assert!((last - 1.0).abs() < 0.01, "{last}");
        assert_eq!(quota.take(now + Duration::from_secs(9)), Err(Wait::ForAnother));
        quota.done();
        assert_eq!(quota.take(now + Duration::from_secs(9)), Ok(()));
    }

    #[test]
    fn no_allowance_stops_the_service_for_ever() {
        for per_second in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let mut quota = Quota::new(Allowance { per_second, burst: 0, at_once: 0 });
            assert_eq!(quota.take(Duration::ZERO), Ok(()));
            quota.done();
            let Err(Wait::For(rest)) = quota.take(Duration::ZERO) else { panic!("{per_second}") };
            assert_eq!(quota.take(rest), Ok(()), "{per_second}");
        }
    }

    proptest! {
        #[test]
        fn in_no_window_is_more_sent_than_allowed(
            rate in 0.5f64..50.0, burst in 1u32..20, at_once in 1u32..20,
            moves in prop::collection::vec((0u64..400, any::<bool>()), 1..300),
        ) {
            let mut quota = Quota::new(Allowance { per_second: rate, burst, at_once });
            let (mut now, mut sent) = (Duration::ZERO, Vec::new());
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
                    let most = f64::from(burst) + (*to - *from).as_secs_f64() * rate + 1e-6;
                    prop_assert!((n + 1) as f64 <= most, "{} in {:?}", n + 1, *to - *from);
                }
            }
        }
    }
}
