//! The service's rates per second, as token buckets. Plain values; the time is passed in.

use std::time::Instant;

use super::frame::Action;

/// How much may happen in a second; the bucket holds one second's worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// Handshakes of one channel.
    pub connects: u32,
    /// Candidates of one socket.
    pub candidates: u32,
    /// Offers of one socket; answers are counted apart, with the same rate.
    pub sdp: u32,
}

impl Rates {
    /// The hard quotas of the real service (KVS quota page).
    pub const AWS: Self = Self { connects: 3, candidates: 20, sdp: 5 };
}

#[derive(Debug, Clone, Default)]
pub(super) struct Bucket(Option<(f64, Instant)>);

impl Bucket {
    /// Takes one token; false when there is none.
    pub fn take(&mut self, per_second: u32, now: Instant) -> bool {
        let size = f64::from(per_second);
        let left = match self.0 {
            None => size,
            Some((left, since)) => size.min(left + now.saturating_duration_since(since).as_secs_f64() * size),
        };
        let enough = left >= 1.0;
        self.0 = Some((if enough { left - 1.0 } else { left }, now));
        enough
    }
}

/// What one socket may still send.
#[derive(Debug, Default)]
pub(super) struct Allowance {
    offers: Bucket,
    answers: Bucket,
    candidates: Bucket,
}

impl Allowance {
    pub fn take(&mut self, rates: &Rates, action: Action, now: Instant) -> bool {
        match action {
            Action::SdpOffer => self.offers.take(rates.sdp, now),
            Action::SdpAnswer => self.answers.take(rates.sdp, now),
            Action::IceCandidate => self.candidates.take(rates.candidates, now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_burst_of_one_second_passes_and_then_the_rate() {
        let (mut allowance, now) = (Allowance::default(), Instant::now());
        let mut passed = |action, now| (0..30).filter(|_| allowance.take(&Rates::AWS, action, now)).count();
        assert_eq!(passed(Action::IceCandidate, now), 20);
        assert_eq!(passed(Action::SdpOffer, now), 5);
        assert_eq!(passed(Action::IceCandidate, now + Duration::from_millis(500)), 10);
        assert_eq!(passed(Action::IceCandidate, now + Duration::from_secs(60)), 20);
    }
}
