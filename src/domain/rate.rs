//! How often something may happen: token buckets.
//!
//! Own code rather than the `governor` crate: some things are charged after the fact, which needs a look into a bucket
//! without taking from it, and who keeps buckets by the thousand must be able to bound and sweep them. A bucket is one
//! instant: when it will be full again.

use std::time::{Duration, Instant};

/// One more every `period`, `burst` of them at once.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    period: Duration,
    burst: u32,
}

impl Rate {
    /// `count` within so long, in the long run. None at all: no rate.
    pub const fn new(count: u32, within: Duration, burst: u32) -> Option<Rate> {
        match within.checked_div(count) {
            Some(period) => Some(Rate { period, burst: if burst == 0 { 1 } else { burst } }),
            None => None,
        }
    }

    /// What a full bucket holds, as time.
    pub fn brim(self) -> Duration {
        self.period * self.burst
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    full_at: Instant,
}

impl Bucket {
    pub fn full(now: Instant) -> Self {
        Bucket { full_at: now }
    }

    pub fn is_full(&self, now: Instant) -> bool {
        self.full_at <= now
    }

    /// Takes one whether there is one or not, and says how far it then is overdrawn. Twice the brim is as deep as it
    /// gets: whoever stops is forgiven in foreseeable time.
    pub fn charge(&mut self, rate: Rate, now: Instant) -> Duration {
        self.full_at = (self.full_at.max(now) + rate.period).min(now + rate.brim() * 2);
        self.full_at.duration_since(now).saturating_sub(rate.brim())
    }

    /// Takes one if there is one.
    ///
    /// # Errors
    /// How long until there is one.
    pub fn take(&mut self, rate: Rate, now: Instant) -> Result<(), Duration> {
        match self.wait(rate, now) {
            Some(wait) => Err(wait),
            None => {
                self.charge(rate, now);
                Ok(())
            }
        }
    }

    /// How long until there is one; `None` when there is.
    pub fn wait(&self, rate: Rate, now: Instant) -> Option<Duration> {
        let after = self.full_at.saturating_duration_since(now) + rate.period;
        after.checked_sub(rate.brim()).filter(|wait| !wait.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_at_all_is_no_rate_and_a_burst_is_one_at_least() {
        assert!(Rate::new(0, Duration::from_secs(1), 5).is_none());
        let rate = Rate::new(1, Duration::from_secs(1), 0).unwrap();
        let now = Instant::now();
        let mut bucket = Bucket::full(now);
        assert_eq!(bucket.take(rate, now), Ok(()));
        assert_eq!(bucket.take(rate, now), Err(Duration::from_secs(1)));
    }

    proptest! {
        #[test]
        fn no_asking_gets_more_than_the_burst_and_the_rate(
            count in 1_u32..1_000, burst in 1_u32..100, waits in prop::collection::vec(0_u64..50, 1..200),
        ) {
            let rate = Rate::new(count, Duration::from_secs(1), burst).unwrap();
            let begun = Instant::now();
            let (mut now, mut bucket, mut taken) = (begun, Bucket::full(begun), 0_u32);
            for wait in waits {
                now += Duration::from_millis(wait);
                while bucket.take(rate, now).is_ok() {
                    taken += 1;
                }
            }
            let most = f64::from(burst) + (now - begun).as_secs_f64() * f64::from(count);
            prop_assert!(f64::from(taken) <= most + 1.0, "{taken} > {most}");
            prop_assert!(f64::from(taken) >= (most - 1.0).min(f64::from(burst)), "{taken} < {most}");
        }
    }
}
