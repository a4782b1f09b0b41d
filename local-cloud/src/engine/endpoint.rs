//! Where speech begins and ends: a neural voice detector (crate earshot) with hysteresis and a pre-roll.

use std::collections::VecDeque;

use earshot::Detector;

/// Samples of one frame, 16 ms at 16 kHz: what the detector takes.
pub(super) const FRAME: usize = 256;
/// Frames kept from before the decision "speech", 0.4 s, so that no first phone is lost.
const PRE_ROLL: usize = 25;
/// Speech begins when this many of the last `ONSET.1` frames were voiced (about 0.1 s of 0.2 s).
const ONSET: (usize, usize) = (7, 12);
/// Speech ends when at most `OFFSET.0` of the last `OFFSET.1` frames were voiced (0.45 s).
const OFFSET: (usize, usize) = (3, 28);
const VOICED: f32 = 0.5;

/// What a frame means. Speech frames come with whether they are voiced, for the gain to learn from.
#[derive(Debug, PartialEq)]
pub(super) enum Turn {
    /// Speech begins; its first sample's place in the stream.
    Begin(u64),
    Speech {
        frame: Vec<i16>,
        voiced: bool,
    },
    End,
}

/// Cuts a stream into utterances.
pub(super) struct Endpointer {
    detector: Box<Detector>,
    /// Less than one frame.
    rest: Vec<i16>,
    /// Samples of all whole frames so far.
    heard: u64,
    /// The last frames, when no utterance is open.
    before: VecDeque<(Vec<i16>, bool)>,
    /// Whether the last frames were voiced.
    recent: VecDeque<bool>,
    open: bool,
}

impl Endpointer {
    pub(super) fn new() -> Endpointer {
        Endpointer {
            detector: Box::default(),
            rest: Vec::with_capacity(FRAME),
            heard: 0,
            before: VecDeque::with_capacity(PRE_ROLL + 1),
            recent: VecDeque::with_capacity(OFFSET.1 + 1),
            open: false,
        }
    }

    /// Takes samples and says what happened, in order. Up to one frame waits for its completion.
    pub(super) fn push(&mut self, samples: &[i16]) -> Vec<Turn> {
        self.rest.extend_from_slice(samples);
        let waiting = std::mem::take(&mut self.rest);
        let whole = waiting.len() / FRAME * FRAME;
        self.rest.extend_from_slice(&waiting[whole..]);
        let mut turns = Vec::new();
        for frame in waiting[..whole].chunks(FRAME) {
            let voiced = self.detector.predict_i16(frame) >= VOICED;
            self.turn(frame.to_vec(), voiced, &mut turns);
        }
        turns
    }

    fn turn(&mut self, frame: Vec<i16>, voiced: bool, turns: &mut Vec<Turn>) {
        self.heard += FRAME as u64;
        self.recent.push_back(voiced);
        if self.recent.len() > OFFSET.1 {
            self.recent.pop_front();
        }
        if self.open {
            turns.push(Turn::Speech { frame, voiced });
            if self.recent.len() == OFFSET.1 && self.voiced_of_last(OFFSET.1) <= OFFSET.0 {
                self.open = false;
                self.recent.clear();
                turns.push(Turn::End);
            }
            return;
        }
        self.before.push_back((frame, voiced));
        if self.before.len() > PRE_ROLL {
            self.before.pop_front();
        }
        if self.voiced_of_last(ONSET.1) >= ONSET.0 {
            self.open = true;
            turns.push(Turn::Begin(self.heard - (self.before.len() * FRAME) as u64));
            turns.extend(self.before.drain(..).map(|(frame, voiced)| Turn::Speech { frame, voiced }));
        }
    }

    fn voiced_of_last(&self, frames: usize) -> usize {
        self.recent.iter().rev().take(frames).filter(|v| **v).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds decisions past the detector, as `(voiced, frames)`.
    fn turns(runs: &[(bool, usize)]) -> (Vec<u64>, Vec<usize>) {
        let mut endpointer = Endpointer::new();
        let (mut begins, mut lengths) = (Vec::new(), Vec::new());
        for &(voiced, frames) in runs {
            for _ in 0..frames {
                let mut out = Vec::new();
                endpointer.turn(vec![0; FRAME], voiced, &mut out);
                for turn in out {
                    match turn {
                        Turn::Begin(at) => (begins.push(at / FRAME as u64), lengths.push(0)).1,
                        Turn::Speech { .. } => *lengths.last_mut().unwrap() += 1,
                        Turn::End => {}
                    }
                }
            }
        }
        (begins, lengths)
    }

    #[test]
    fn an_utterance_has_its_pre_roll_and_its_closing_silence() {
        let (begins, lengths) = turns(&[(false, 100), (true, 50), (false, 100)]);
        assert_eq!(begins, [100 + 7 - PRE_ROLL as u64]);
        assert_eq!(lengths, [PRE_ROLL - 7 + 50 + OFFSET.1 - OFFSET.0]);
    }

    #[test]
    fn clicks_and_short_gaps_neither_begin_nor_end_speech() {
        assert_eq!(turns(&[(false, 50), (true, 5), (false, 50)]).0.len(), 0);
        assert_eq!(turns(&[(true, 40), (false, 20), (true, 40), (false, 20), (true, 9)]).0.len(), 1);
        assert_eq!(turns(&[(true, 40), (false, 30), (true, 40)]).0.len(), 2);
    }

    #[test]
    fn silence_and_half_frames_say_nothing() {
        let mut endpointer = Endpointer::new();
        assert!((0..200).all(|_| endpointer.push(&[0; 333]).is_empty()));
    }
}
