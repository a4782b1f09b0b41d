//! Where the milliseconds go: latencies per stage of a caption's way.

/// One stage of the way from the speaker's mouth to the listener's eye.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// How much later than the fastest packet so far a packet arrived.
    Network,
    /// From a packet's arrival to its samples waiting for the recogniser: reordering and Opus.
    Decode,
    /// From the arrival of a word's last sound to the result that holds it.
    Recognise,
    /// From a committed clause to its translation.
    Translate,
    /// From an event's encoding to its bytes written to the listener's socket.
    Deliver,
}

impl Stage {
    pub const ALL: [Stage; 5] = [Stage::Network, Stage::Decode, Stage::Recognise, Stage::Translate, Stage::Deliver];

    pub const fn name(self) -> &'static str {
        match self {
            Stage::Network => "network",
            Stage::Decode => "decode",
            Stage::Recognise => "recognise",
            Stage::Translate => "translate",
            Stage::Deliver => "deliver",
        }
    }
}

/// Samples kept per stage; the newest replace the oldest.
const KEEP: usize = 8_192;

/// The latest latencies of each stage, in microseconds.
#[derive(Debug, Default)]
pub struct Ledger {
    stages: [Samples; 5],
}

/// A bounded set of latencies, newest kept.
#[derive(Debug, Default, Clone)]
pub struct Samples {
    values: Vec<u32>,
    next: usize,
}

impl Ledger {
    pub fn note(&mut self, stage: Stage, micros: u64) {
        self.stages[stage as usize].note(micros);
    }

    pub fn stage(&self, stage: Stage) -> &Samples {
        &self.stages[stage as usize]
    }
}

impl Samples {
    pub fn note(&mut self, micros: u64) {
        let micros = u32::try_from(micros).unwrap_or(u32::MAX);
        if self.values.len() < KEEP {
            self.values.push(micros);
        } else {
            self.values[self.next % KEEP] = micros;
        }
        self.next = (self.next + 1) % KEEP;
    }

    pub fn len(&self) -> usize {
        self.values.len()
    }

    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The value below which `share` (0..1) of the samples lie, in microseconds; `None` without samples.
    pub fn quantile(&self, share: f64) -> Option<u32> {
        let mut sorted = self.values.clone();
        sorted.sort_unstable();
        let last = sorted.len().checked_sub(1)?;
        sorted.get((share.clamp(0.0, 1.0) * last as f64).round() as usize).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_come_from_the_newest_samples() {
        let mut samples = Samples::default();
        assert_eq!(samples.quantile(0.5), None);
        for n in 0..KEEP as u64 {
            samples.note(n);
        }
        for _ in 0..KEEP {
            samples.note(7);
        }
        assert_eq!((samples.len(), samples.quantile(0.99)), (KEEP, Some(7)));
    }
}
