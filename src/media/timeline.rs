//! Clips on one unbroken line of samples, with silence between them.
//!
//! Absent on purpose: mixing. A clip whose place is taken is moved behind what is there.

use std::collections::VecDeque;
use std::sync::Arc;

/// Clips that wait for their turn; of a speaker's own frames, 5 s.
const MAX_WAITING: usize = 256;

/// Samples that wait: two minutes at 48 kHz, far more than a governed voice lets pile up.
const MAX_SAMPLES: usize = 120 * 48_000;

/// A hole shorter than this before a clip is closed: it comes from rounding, and could be heard as a click.
const SEAM_PER_SECOND: u64 = 1_000;

/// One language's sound, as yet unplayed. Positions are samples since its start.
#[derive(Debug)]
pub struct Timeline {
    seam: u64,
    position: u64,
    end: u64,
    clips: VecDeque<Placed>,
    waiting: usize,
}

#[derive(Debug)]
struct Placed {
    start: u64,
    samples: Arc<[i16]>,
}

/// Too much waits to be played already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too much sound waits to be played")]
pub struct NoRoom;

impl Timeline {
    /// `rate` is samples a second.
    pub fn new(rate: u32) -> Self {
        let seam = u64::from(rate) / SEAM_PER_SECOND;
        Timeline { seam, position: 0, end: 0, clips: VecDeque::new(), waiting: 0 }
    }

    /// Puts a clip at `at`, or as soon after as nothing else sounds. Gives back where it really begins.
    ///
    /// # Errors
    /// [`NoRoom`].
    pub fn place(&mut self, at: u64, samples: Arc<[i16]>) -> Result<u64, NoRoom> {
        if self.clips.len() >= MAX_WAITING || self.waiting + samples.len() > MAX_SAMPLES {
            return Err(NoRoom);
        }
        let free = self.end.max(self.position);
        let start = if at.saturating_sub(free) <= self.seam { free } else { at };
        if !samples.is_empty() {
            self.end = start + samples.len() as u64;
            self.waiting += samples.len();
            self.clips.push_back(Placed { start, samples });
        }
        Ok(start)
    }

    /// The next samples, as many as `frame` takes. False: they are silence.
    pub fn next(&mut self, frame: &mut [i16]) -> bool {
        frame.fill(0);
        let end = self.position + frame.len() as u64;
        let mut sounds = false;
        while let Some(clip) = self.clips.front() {
            let clip_end = clip.start + clip.samples.len() as u64;
            let (from, to) = (clip.start.max(self.position), clip_end.min(end));
            if from < to {
                let heard = &clip.samples[(from - clip.start) as usize..(to - clip.start) as usize];
                frame[(from - self.position) as usize..(to - self.position) as usize].copy_from_slice(heard);
                sounds = true;
            }
            if clip_end > end {
                break;
            }
            self.waiting -= clip.samples.len();
            self.clips.pop_front();
        }
        self.position = end;
        sounds
    }

    /// Leaves out the next `samples`: the world has gone on without us.
    pub fn skip(&mut self, samples: u64) {
        self.position += samples;
        while self.clips.front().is_some_and(|clip| clip.start + clip.samples.len() as u64 <= self.position) {
            if let Some(clip) = self.clips.pop_front() {
                self.waiting -= clip.samples.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn clip(value: i16, length: usize) -> Arc<[i16]> {
        vec![value; length].into()
    }

    fn play(timeline: &mut Timeline, frame: usize, frames: usize) -> Vec<i16> {
        let mut all = Vec::new();
        for _ in 0..frames {
            let mut samples = vec![9; frame];
            let sounds = timeline.next(&mut samples);
            assert!(sounds || samples.iter().all(|s| *s == 0));
            all.extend(samples);
        }
        all
    }

    #[test]
    fn clips_sound_at_their_place_and_silence_between() {
        let mut timeline = Timeline::new(1_000);
        assert_eq!(timeline.place(3, clip(1, 4)), Ok(3));
        assert_eq!(timeline.place(12, clip(2, 2)), Ok(12));
        assert_eq!(play(&mut timeline, 5, 3), [0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 2, 2, 0]);
    }

    #[test]
    fn a_clip_whose_place_is_taken_or_past_waits_its_turn_and_keeps_its_beginning() {
        let mut timeline = Timeline::new(1_000);
        play(&mut timeline, 5, 1);
        assert_eq!(timeline.place(2, clip(1, 3)), Ok(5));
        assert_eq!(timeline.place(6, clip(2, 2)), Ok(8));
        assert_eq!(play(&mut timeline, 6, 1), [1, 1, 1, 2, 2, 0]);
    }

    #[test]
    fn rounding_leaves_no_hole() {
        let mut timeline = Timeline::new(16_000);
        timeline.place(0, clip(1, 320)).unwrap();
        assert_eq!(timeline.place(321, clip(1, 320)), Ok(320));
        assert_eq!(timeline.place(660, clip(1, 320)), Ok(660), "a true pause");
    }

    #[test]
    fn what_waits_has_a_bound() {
        let mut timeline = Timeline::new(16_000);
        for _ in 0..MAX_WAITING {
            timeline.place(0, clip(1, 1)).unwrap();
        }
        assert_eq!(timeline.place(0, clip(1, 1)), Err(NoRoom));
        let mut timeline = Timeline::new(16_000);
        assert_eq!(timeline.place(0, clip(1, MAX_SAMPLES + 1)), Err(NoRoom));
        timeline.place(0, clip(1, MAX_SAMPLES)).unwrap();
        assert_eq!(timeline.place(0, clip(1, 1)), Err(NoRoom));
        timeline.skip(MAX_SAMPLES as u64);
        assert_eq!(timeline.place(0, clip(1, 1)), Ok(MAX_SAMPLES as u64));
    }

    proptest! {
        #[test]
        fn every_sample_is_played_once_and_in_order(
            clips in prop::collection::vec((0u64..400, 0usize..80), 0..30), frame in 1usize..50,
        ) {
            let mut timeline = Timeline::new(8_000);
            let (mut value, mut given) = (0i16, Vec::new());
            let mut heard = Vec::new();
            for (at, length) in clips {
                let samples: Vec<i16> = (0..length).map(|_| { value += 1; value }).collect();
                given.extend(samples.iter().copied());
                timeline.place(at, samples.into()).unwrap();
                heard.extend(play(&mut timeline, frame, 1));
            }
            heard.extend(play(&mut timeline, frame, 4_000 / frame));
            heard.retain(|s| *s != 0);
            prop_assert_eq!(heard, given);
        }
    }
}
