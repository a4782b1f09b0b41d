//! Log lines that would come by the thousand.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::time::UnixMs;

/// Milliseconds between two lines of one kind.
const WINDOW_MS: u64 = 10_000;

/// Lets one line in 10 s through and says how many it stands for.
#[derive(Debug, Default)]
pub struct Seldom {
    until: AtomicU64,
    untold: AtomicU64,
}

impl Seldom {
    /// It happened once more. The number of times since the last line, when it is time for another one.
    pub fn again(&self, now: UnixMs) -> Option<u64> {
        self.untold.fetch_add(1, Ordering::Relaxed);
        let until = self.until.load(Ordering::Relaxed);
        let due = now.0 >= until
            && self.until.compare_exchange(until, now.0 + WINDOW_MS, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        due.then(|| self.untold.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_in_ten_seconds_stands_for_all() {
        let seldom = Seldom::default();
        assert_eq!(seldom.again(UnixMs(1_000)), Some(1));
        for ms in 0..500 {
            assert_eq!(seldom.again(UnixMs(1_000 + ms)), None);
        }
        assert_eq!(seldom.again(UnixMs(11_000)), Some(501));
        assert_eq!(seldom.again(UnixMs(11_001)), None);
    }
}
