//! Faults on the speaker's wire, switched on by tests and by `speak --loss`: what a bad network does to packets.

use std::collections::VecDeque;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

/// What to do to the packets. The default does nothing.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Share of packets lost at random, 0 to 100.
    pub loss_percent: f64,
    /// Packets lost by number, counted from the first one sent.
    pub lost: Vec<u64>,
    /// Share of packets that arrive one to three places late.
    pub reorder_percent: f64,
    /// Share of packets that arrive twice.
    pub duplicate_percent: f64,
    /// The same seed does the same to the same packets.
    pub seed: u64,
    /// Until then packets are sent and lost: sequence numbers pass.
    pub(super) outage_until: Option<Instant>,
    /// Until then no packets are made: the timestamp passes, sequence numbers do not.
    pub(super) pause_until: Option<Instant>,
}

impl Faults {
    pub(super) fn outage(&mut self, length: Duration) {
        self.outage_until = Some(Instant::now() + length);
    }

    pub(super) fn pause(&mut self, length: Duration) {
        self.pause_until = Some(Instant::now() + length);
    }

    pub(super) fn paused(&self, now: Instant) -> bool {
        self.pause_until.is_some_and(|until| now < until)
    }
}

/// The wire with its faults: packets in by number, packets out in the order they leave.
pub(super) struct BadWire<P> {
    dice: StdRng,
    seed: u64,
    held: VecDeque<(u64, P)>,
}

impl<P: Clone> BadWire<P> {
    pub fn new() -> Self {
        BadWire { dice: StdRng::seed_from_u64(0), seed: 0, held: VecDeque::new() }
    }

    pub fn pass(&mut self, number: u64, packet: P, faults: &Faults, now: Instant) -> Vec<P> {
        if faults.seed != self.seed {
            self.seed = faults.seed;
            self.dice = StdRng::seed_from_u64(faults.seed);
        }
        let mut chance = |percent: f64| self.dice.random_bool((percent / 100.0).clamp(0.0, 1.0));
        let (lost, reordered, doubled) =
            (chance(faults.loss_percent), chance(faults.reorder_percent), chance(faults.duplicate_percent));
        let delay = self.dice.random_range(1..=3);
        let lost = lost || faults.lost.contains(&number) || faults.outage_until.is_some_and(|until| now < until);
        let mut out = Vec::new();
        if !lost && reordered {
            self.held.push_back((number + delay, packet));
        } else if !lost {
            out.extend(doubled.then(|| packet.clone()));
            out.push(packet);
        }
        let (due, held) = std::mem::take(&mut self.held).into_iter().partition(|(due, _)| *due <= number);
        self.held = held;
        let due: VecDeque<_> = due;
        out.extend(due.into_iter().map(|(_, packet)| packet));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(faults: &Faults, packets: u64) -> Vec<u64> {
        let mut wire = BadWire::new();
        (0..packets).flat_map(|n| wire.pass(n, n, faults, Instant::now())).collect()
    }

    #[test]
    fn a_good_wire_changes_nothing() {
        assert_eq!(run(&Faults::default(), 100), (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn loss_takes_its_share_and_the_same_each_time() {
        let faults = Faults { loss_percent: 15.0, seed: 7, ..Faults::default() };
        let left = run(&faults, 2_000);
        assert!((1_600..1_800).contains(&left.len()), "{}", left.len());
        assert_eq!(left, run(&faults, 2_000));
        let listed = Faults { lost: vec![3, 5], ..Faults::default() };
        assert_eq!(run(&listed, 7), [0, 1, 2, 4, 6]);
    }

    #[test]
    fn reordered_packets_come_at_most_three_late_and_none_is_lost() {
        let faults = Faults { reorder_percent: 30.0, seed: 1, ..Faults::default() };
        let mut out = run(&faults, 500);
        assert!(out.windows(2).any(|pair| pair[0] > pair[1]));
        for (place, n) in out.iter().enumerate() {
            assert!(place.abs_diff(*n as usize) <= 6);
        }
        out.sort_unstable();
        assert!(out.len() >= 497 && out.windows(2).all(|pair| pair[0] + 1 == pair[1]));
    }

    #[test]
    fn doubled_packets_come_twice() {
        let faults = Faults { duplicate_percent: 100.0, ..Faults::default() };
        assert_eq!(run(&faults, 2), [0, 0, 1, 1]);
    }
}
