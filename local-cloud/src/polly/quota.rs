//! The service's quotas for each engine: requests a second, a burst on top, and requests at once.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::voices::Engine;

/// What one engine takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    pub per_second: u32,
    pub burst: u32,
    pub at_once: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quotas {
    pub standard: Quota,
    pub neural: Quota,
    pub long_form: Quota,
    pub generative: Quota,
}

impl Default for Quotas {
    /// The default quotas of an account (Polly's quota page).
    fn default() -> Self {
        Quotas {
            standard: Quota { per_second: 80, burst: 100, at_once: 80 },
            neural: Quota { per_second: 8, burst: 10, at_once: 18 },
            long_form: Quota { per_second: 8, burst: 10, at_once: 26 },
            generative: Quota { per_second: 8, burst: 8, at_once: 26 },
        }
    }
}

/// What is left of the quotas.
#[derive(Debug)]
pub(super) struct Allowances([Allowance; 4]);

#[derive(Debug)]
struct Allowance {
    quota: Quota,
    /// Tokens left, and when that was counted.
    bucket: Mutex<(f64, Instant)>,
    turns: Arc<Semaphore>,
}

impl Allowances {
    pub fn new(quotas: Quotas) -> Allowances {
        let of = |quota: Quota| Allowance {
            quota,
            bucket: Mutex::new((f64::from(quota.burst), Instant::now())),
            turns: Arc::new(Semaphore::new(quota.at_once as usize)),
        };
        Allowances([quotas.standard, quotas.neural, quotas.long_form, quotas.generative].map(of))
    }

    /// `None`: throttled. The permit is held until the answer is made.
    pub fn take(&self, engine: Engine) -> Option<OwnedSemaphorePermit> {
        let allowance = &self.0[match engine {
            Engine::Standard => 0,
            Engine::Neural => 1,
            Engine::LongForm => 2,
            Engine::Generative => 3,
        }];
        let turn = Arc::clone(&allowance.turns).try_acquire_owned().ok()?;
        allowance.spend(Instant::now()).then_some(turn)
    }
}

impl Allowance {
    fn spend(&self, now: Instant) -> bool {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let (left, since) = *bucket;
        let grown = now.saturating_duration_since(since).as_secs_f64() * f64::from(self.quota.per_second);
        let left = (left + grown).min(f64::from(self.quota.burst));
        let enough = left >= 1.0;
        *bucket = (if enough { left - 1.0 } else { left }, now);
        enough
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let allowances = Allowances::new(Quotas::default());
        let (neural, now) = (&allowances.0[1], Instant::now() + Duration::from_secs(1));
        let passed = |now| (0..30).filter(|_| neural.spend(now)).count();
        assert_eq!(passed(now), 10);
        assert_eq!(passed(now + Duration::from_millis(500)), 4);
    }

    #[test]
    fn no_more_are_at_work_at_once_than_the_quota_has() {
        let quota = Quota { per_second: 100, burst: 100, at_once: 2 };
        let allowances = Allowances::new(Quotas { neural: quota, ..Quotas::default() });
        let held = [allowances.take(Engine::Neural), allowances.take(Engine::Neural)];
        assert!(held.iter().all(Option::is_some));
        assert!(allowances.take(Engine::Neural).is_none());
        assert!(allowances.take(Engine::Standard).is_some());
        drop(held);
        assert!(allowances.take(Engine::Neural).is_some());
    }
}
