//! RTP packets back in the order they were sent: a ring of sixteen slots.
//!
//! The ring waits for a missing packet until six later ones have come or the first of them is 120 ms old, then
//! gives the missing one up. Absent on purpose: concealment (that is [`super::opus`]), retransmission (audio has
//! none) and playout timing (the recogniser wants audio as soon as it is there).

use std::collections::VecDeque;
use std::time::Duration;

use babelcast_domain::counts::{Count, Counts};
use bytes::Bytes;
use tokio::time::Instant;

/// Places between the packet waited for and the newest one: one more gives the missing packet up.
const PATIENCE: u16 = 6;

/// How long a packet is held back for an earlier one.
const PATIENCE_TIME: Duration = Duration::from_millis(120);

const SLOTS: usize = 16;

/// Sequence numbers this far off are no reordering; two in a row of them are a new run (RFC 3550, appendix A.1).
const MAX_DROPOUT: i16 = 3_000;
const MAX_MISORDER: i16 = 100;

/// A timestamp that goes back, or ahead by more than this, belongs to a new run: one minute at 48 kHz.
const MAX_STEP: u32 = 60 * 48_000;

/// What the ring needs of an RTP packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    pub ssrc: u32,
    pub sequence: u16,
    /// 48 kHz ticks, as RFC 7587 has it for every Opus stream.
    pub timestamp: u32,
    pub payload: Bytes,
    pub arrived: Instant,
}

/// A packet in its turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InOrder {
    pub packet: Packet,
    /// Packets given up right before this one.
    pub lost: u16,
    /// The sender started over: sequence and timestamp do not follow from those before.
    pub new_run: bool,
}

/// Takes packets as they arrive, gives them in order. Counts duplicates, late, lost and empty ones.
#[derive(Debug, Default)]
pub struct Order {
    run: Option<Run>,
    slots: [Option<Packet>; SLOTS],
    /// First packet of what may be a new run.
    suspect: Option<Packet>,
    ready: VecDeque<InOrder>,
}

#[derive(Debug)]
struct Run {
    ssrc: u32,
    /// The sequence number whose turn it is.
    next: u16,
    newest: u16,
    /// Bit i: `newest - i` has arrived.
    seen: u128,
    lost: u16,
    timestamp: Option<u32>,
    fresh: bool,
}

impl Order {
    /// Takes a packet from the wire.
    pub fn push(&mut self, packet: Packet, counts: &Counts) {
        counts.one(Count::RtpReceived);
        let Some(run) = &self.run else { return self.start(packet, counts) };
        if run.ssrc != packet.ssrc {
            return self.start(packet, counts);
        }
        let ahead = distance(run.next, packet.sequence);
        if (-MAX_MISORDER..=MAX_DROPOUT).contains(&ahead) {
            return self.place(packet, counts);
        }
        match self.suspect.take() {
            Some(suspect) if suspect.sequence.wrapping_add(1) == packet.sequence => {
                self.start(suspect, counts);
                self.place(packet, counts);
            }
            other => {
                if other.is_some() {
                    counts.one(Count::RtpLate);
                }
                self.suspect = Some(packet);
            }
        }
    }

    /// Gives up what has been waited for long enough. To be called when [`Order::deadline`] has come.
    pub fn expire(&mut self, now: Instant, counts: &Counts) {
        while self.deadline().is_some_and(|deadline| now >= deadline) {
            self.give_up_one(counts);
            self.settle(counts);
        }
    }

    /// The next packet whose turn has come.
    pub fn pop(&mut self) -> Option<InOrder> {
        self.ready.pop_front()
    }

    /// When the packet held longest has waited long enough; none while nothing is held.
    pub fn deadline(&self) -> Option<Instant> {
        self.slots.iter().flatten().map(|held| held.arrived + PATIENCE_TIME).min()
    }

    /// Begins a run with `packet`; what the old run still holds goes first.
    fn start(&mut self, packet: Packet, counts: &Counts) {
        while self.slots.iter().any(Option::is_some) {
            self.give_up_one(counts);
            self.settle(counts);
        }
        self.suspect = None;
        self.run = Some(Run {
            ssrc: packet.ssrc,
            next: packet.sequence,
            newest: packet.sequence.wrapping_sub(1),
            seen: 0,
            lost: 0,
            timestamp: None,
            fresh: self.run.is_some(),
        });
        self.place(packet, counts);
    }

    fn place(&mut self, packet: Packet, counts: &Counts) {
        let Some(run) = &mut self.run else { return };
        let behind = distance(packet.sequence, run.newest);
        if (0..128).contains(&behind) && run.seen & (1 << behind) != 0 {
            return counts.one(Count::RtpDuplicate);
        }
        if distance(run.next, packet.sequence) < 0 {
            return counts.one(Count::RtpLate);
        }
        if behind >= 0 {
            counts.one(Count::RtpReordered);
            run.seen |= 1 << behind;
        } else {
            run.seen = run.seen.checked_shl(u32::from(behind.unsigned_abs())).unwrap_or(0) | 1;
            run.newest = packet.sequence;
        }
        while self.run.as_ref().is_some_and(|run| distance(run.next, packet.sequence) >= SLOTS as i16) {
            self.advance(counts);
        }
        let slot = usize::from(packet.sequence) % SLOTS;
        self.slots[slot] = Some(packet);
        self.settle(counts);
    }

    /// Passes on whatever has its turn, and gives up what six later packets have overtaken.
    fn settle(&mut self, counts: &Counts) {
        while let Some(run) = &self.run {
            let here = self.slots[usize::from(run.next) % SLOTS].is_some();
            if !here && distance(run.next, run.newest) < PATIENCE as i16 {
                return;
            }
            self.advance(counts);
        }
    }

    /// Gives up missing packets up to the first one held.
    fn give_up_one(&mut self, counts: &Counts) {
        for _ in 0..SLOTS {
            let Some(run) = &self.run else { return };
            let here = self.slots[usize::from(run.next) % SLOTS].is_some();
            self.advance(counts);
            if here {
                return;
            }
        }
    }

    /// Ends the turn of `next`: its packet goes out, or it is lost.
    fn advance(&mut self, counts: &Counts) {
        let Some(run) = &mut self.run else { return };
        let packet = self.slots[usize::from(run.next) % SLOTS].take();
        run.next = run.next.wrapping_add(1);
        let Some(packet) = packet else {
            run.lost = run.lost.saturating_add(1);
            return counts.one(Count::RtpLost);
        };
        if packet.payload.is_empty() {
            // A bandwidth probe. It has a place in the sequence and nothing to decode.
            return counts.one(Count::RtpPadding);
        }
        let step = run.timestamp.map_or(0, |last| packet.timestamp.wrapping_sub(last));
        let new_run = std::mem::take(&mut run.fresh) || step > MAX_STEP;
        run.timestamp = Some(packet.timestamp);
        self.ready.push_back(InOrder { packet, lost: std::mem::take(&mut run.lost), new_run });
    }
}

/// How far `to` is ahead of `from` on the sequence circle; negative if behind.
fn distance(from: u16, to: u16) -> i16 {
    to.wrapping_sub(from) as i16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rtc::media::io::sample_builder::SampleBuilder;
    use rtc::rtp;
    use rtc::rtp::codec::opus::OpusPacket;

    use super::*;

    fn packet(n: u64, base: u16, at: Instant) -> Packet {
        Packet {
            ssrc: 1,
            sequence: base.wrapping_add(n as u16),
            timestamp: (n as u32).wrapping_mul(960).wrapping_add(u32::from(base) << 16),
            payload: Bytes::copy_from_slice(&n.to_be_bytes()),
            arrived: at,
        }
    }

    fn number(out: &InOrder) -> u64 {
        u64::from_be_bytes(out.packet.payload[..].try_into().unwrap())
    }

    fn through(order: &mut Order, counts: &Counts, numbers: &[u64]) -> Vec<(u64, u16)> {
        let now = Instant::now();
        for &n in numbers {
            order.push(packet(n, 65_530, now), counts);
        }
        std::iter::from_fn(|| order.pop()).map(|out| (number(&out), out.lost)).collect()
    }

    #[test]
    fn order_is_restored_over_the_sequence_wrap() {
        let (mut order, counts) = (Order::default(), Counts::default());
        let out = through(&mut order, &counts, &[0, 1, 3, 2, 5, 6, 4, 8, 7, 9]);
        assert_eq!(out, (0..10).map(|n| (n, 0)).collect::<Vec<_>>());
        assert_eq!(counts.get(Count::RtpReordered), 3);
        assert_eq!(counts.get(Count::RtpLost), 0);
    }

    #[test]
    fn a_missing_packet_is_given_up_after_six_later_ones() {
        let (mut order, counts) = (Order::default(), Counts::default());
        assert_eq!(through(&mut order, &counts, &[0, 2, 3, 4, 5, 6]), [(0, 0)]);
        assert_eq!(through(&mut order, &counts, &[7]), [(2, 1), (3, 0), (4, 0), (5, 0), (6, 0), (7, 0)]);
        assert_eq!(through(&mut order, &counts, &[1, 8]), [(8, 0)]);
        assert_eq!((counts.get(Count::RtpLost), counts.get(Count::RtpLate)), (1, 1));
    }

    #[test]
    fn a_missing_packet_is_given_up_after_120_ms() {
        let (mut order, counts) = (Order::default(), Counts::default());
        let now = Instant::now();
        order.push(packet(0, 0, now), &counts);
        assert_eq!(order.deadline(), None);
        order.push(packet(3, 0, now), &counts);
        order.expire(now + Duration::from_millis(119), &counts);
        assert_eq!(order.pop().map(|out| number(&out)), Some(0));
        assert_eq!(order.pop(), None);
        order.expire(order.deadline().unwrap(), &counts);
        assert_eq!(order.pop().map(|out| (number(&out), out.lost)), Some((3, 2)));
        assert_eq!(order.deadline(), None);
    }

    #[test]
    fn duplicates_go_once_and_probes_not_at_all() {
        let (mut order, counts) = (Order::default(), Counts::default());
        let now = Instant::now();
        for n in [0, 0, 2, 2] {
            order.push(packet(n, 0, now), &counts);
        }
        order.push(Packet { payload: Bytes::new(), ..packet(1, 0, now) }, &counts);
        order.push(packet(2, 0, now), &counts);
        let out: Vec<_> = std::iter::from_fn(|| order.pop()).map(|out| (number(&out), out.lost)).collect();
        assert_eq!(out, [(0, 0), (2, 0)], "a probe is no loss");
        assert_eq!((counts.get(Count::RtpDuplicate), counts.get(Count::RtpPadding)), (3, 1));
    }

    #[test]
    fn a_sender_that_starts_over_begins_a_new_run() {
        let (mut order, counts) = (Order::default(), Counts::default());
        let now = Instant::now();
        order.push(packet(0, 0, now), &counts);
        order.push(packet(2, 0, now), &counts);
        let restart: Vec<_> = (0..3).map(|n| Packet { ssrc: 2, ..packet(n, 40_000, now) }).collect();
        for packet in &restart {
            order.push(packet.clone(), &counts);
        }
        let out: Vec<_> = std::iter::from_fn(|| order.pop()).map(|out| (out.packet.ssrc, out.new_run)).collect();
        assert_eq!(out, [(1, false), (1, false), (2, true), (2, false), (2, false)]);
        // The same stream number, but its sequence jumps by half the circle: one such packet proves nothing.
        order.push(Packet { ssrc: 2, ..packet(0, 10_000, now) }, &counts);
        assert_eq!(order.pop(), None);
        order.push(Packet { ssrc: 2, ..packet(1, 10_000, now) }, &counts);
        let out: Vec<_> = std::iter::from_fn(|| order.pop()).map(|out| out.new_run).collect();
        assert_eq!(out, [true, false]);
    }

    #[test]
    fn a_timestamp_that_goes_back_begins_a_new_run() {
        let (mut order, counts) = (Order::default(), Counts::default());
        let now = Instant::now();
        order.push(packet(9, 0, now), &counts);
        order.push(Packet { timestamp: 1, ..packet(10, 0, now) }, &counts);
        let out: Vec<_> = std::iter::from_fn(|| order.pop()).map(|out| out.new_run).collect();
        assert_eq!(out, [false, true]);
    }

    /// What SampleBuilder makes of the same packets.
    fn oracle(arrivals: &[u64], base: u16) -> Vec<u64> {
        let mut builder = SampleBuilder::new(PATIENCE, OpusPacket, 48_000);
        let mut out = Vec::new();
        for &n in arrivals {
            let from = packet(n, base, Instant::now());
            let header = rtp::Header {
                version: 2,
                sequence_number: from.sequence,
                timestamp: from.timestamp,
                ssrc: 1,
                ..Default::default()
            };
            builder.push(std::time::Instant::now(), rtp::Packet { header, payload: from.payload });
            while let Some(sample) = builder.pop(std::time::Instant::now()) {
                out.push(u64::from_be_bytes(sample.data[..].try_into().unwrap()));
            }
        }
        out
    }

    /// Packets 0..n, some lost, each displaced by at most three places, some doubled.
    fn arrivals() -> impl Strategy<Value = Vec<u64>> {
        prop::collection::vec((0u8..100, 0u64..4, 0u8..100), 8..120).prop_map(|fates| {
            let mut sent: Vec<(u64, u64)> = Vec::new();
            for (i, (loss, displaced, double)) in fates.iter().enumerate() {
                let n = i as u64;
                if *loss < 8 && n > 0 {
                    continue;
                }
                let due = if n == 0 { 0 } else { n * 2 + displaced * 2 };
                sent.push((due, n));
                if *double < 8 {
                    sent.push((due + 1, n));
                }
            }
            sent.sort();
            sent.into_iter().map(|(_, n)| n).collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn the_ring_agrees_with_the_sample_builder(arrivals in arrivals(), base in any::<u16>()) {
            let (mut order, counts) = (Order::default(), Counts::default());
            let mut ours = Vec::new();
            for &n in &arrivals {
                order.push(packet(n, base, Instant::now()), &counts);
                ours.extend(std::iter::from_fn(|| order.pop()).map(|out| number(&out)));
            }
            let theirs = oracle(&arrivals, base);
            // The oracle needs the packet after a sample before it lets the sample go, so it may lag at the end.
            prop_assert!(ours.starts_with(&theirs), "ours {:?} theirs {:?}", ours, theirs);
            prop_assert!(ours.len() <= theirs.len() + usize::from(PATIENCE) + 1);
        }

        #[test]
        fn anything_at_all_comes_out_in_order_and_is_counted(
            packets in prop::collection::vec((any::<bool>(), any::<u16>(), any::<u32>(), 0usize..3, 0u64..200), 0..200),
        ) {
            let (mut order, counts) = (Order::default(), Counts::default());
            let mut now = Instant::now();
            let mut out = 0;
            let mut last: Option<(u32, u16)> = None;
            for (far, sequence, timestamp, size, wait) in packets {
                now += Duration::from_millis(wait);
                let sequence = if far { sequence } else { sequence % 64 };
                let payload = Bytes::from(vec![1; size]);
                order.push(Packet { ssrc: 1, sequence, timestamp, payload, arrived: now }, &counts);
                order.expire(now, &counts);
                prop_assert!(order.deadline().is_none_or(|deadline| deadline > now));
                while let Some(next) = order.pop() {
                    out += 1;
                    if let (Some((_, before)), false) = (last, next.new_run) {
                        prop_assert!(distance(before, next.packet.sequence) > 0);
                    }
                    last = Some((next.packet.ssrc, next.packet.sequence));
                }
            }
            let held = order.slots.iter().flatten().count() as u64 + u64::from(order.suspect.is_some());
            let dropped = [Count::RtpDuplicate, Count::RtpLate, Count::RtpPadding].map(|count| counts.get(count));
            let suspects_forgotten = counts.get(Count::RtpReceived) - out - held - dropped.iter().sum::<u64>();
            prop_assert!(suspects_forgotten == 0, "{suspects_forgotten} packets went nowhere");
        }
    }
}
