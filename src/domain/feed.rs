//! What the recogniser is fed: an unbroken stream of equal chunks, made from audio that is anything but.
//!
//! Frames come with places on the capture clock, with holes between them. The recogniser wants 100 ms after 100 ms,
//! silence included, counts its own time from zero with every new stream, and dies without audio. [`Feed`] makes the
//! chunks, keeps what is not yet final so that a new stream can hear it again, and translates times back.

use std::collections::VecDeque;

use crate::audio::{MediaTime, PcmFrame, SAMPLE_RATE};
use crate::transcript::Heard;

/// Samples in one chunk: 100 ms, as AWS recommends.
pub const CHUNK: usize = SAMPLE_RATE as usize / 10;
/// Holes up to this length are filled with silence; over longer ones the clock jumps.
const MAX_FILL: MediaTime = MediaTime::from_millis(1_000);
/// Holes and overlaps below this are the sender's clock drifting, not missing audio.
const DRIFT: MediaTime = MediaTime::from_millis(40);
/// Audio kept for a replay. Past it the oldest goes, and what had a voice in it is declared lost at the next restart.
pub const RING: MediaTime = MediaTime::from_millis(20_000);
/// Silence given before the first voice, so that its first sound is whole.
const PRE_ROLL: MediaTime = MediaTime::from_millis(500);
/// A piece whose mean square is above -50 dBFS has a voice in it.
const VOICE_MEAN_SQUARE: f64 = 10_737.0; // (32768 * 10^(-50/20))^2

#[derive(Debug)]
struct Piece {
    frame: PcmFrame,
    voiced: bool,
}

#[derive(Debug, Default)]
pub struct Feed {
    /// Whether there is a stream to feed; otherwise audio is only kept.
    streaming: bool,
    /// Samples waiting to become a chunk of the present stream.
    pending: VecDeque<i16>,
    /// Samples given to the present stream, `pending` included.
    position: u64,
    /// Where the next sample is expected on the capture clock; `None` before the first.
    next_at: Option<MediaTime>,
    /// Silence fed since the last frame, in samples: part of the hole before the next one is filled already.
    hushed: u64,
    /// `(stream position, capture time)` wherever the two begin to run in step again.
    marks: VecDeque<(u64, MediaTime)>,
    ring: VecDeque<Piece>,
    kept: MediaTime,
    final_until: MediaTime,
    /// End of the last voiced piece that fell out of the ring unheard.
    fallen: MediaTime,
    /// Voiced audio given to the stream since it last answered with words.
    unanswered: MediaTime,
    quiet: MediaTime,
}

impl Feed {
    /// Takes the next frame in the order of capture.
    pub fn push(&mut self, frame: PcmFrame) {
        let voiced = is_voiced(&frame.samples);
        self.kept = self.kept + frame.duration();
        if self.streaming {
            self.give(&frame, voiced);
        }
        self.ring.push_back(Piece { frame, voiced });
        while self.kept > RING {
            let Some(piece) = self.ring.pop_front() else { break };
            self.kept = self.kept - piece.frame.duration();
            if piece.voiced {
                self.fallen = self.fallen.max(piece.frame.end());
            }
        }
    }

    /// Feeds `samples` of silence because no audio comes. The capture clock does not move.
    pub fn hush(&mut self, samples: usize) {
        self.pending.extend(std::iter::repeat_n(0, samples));
        self.position += samples as u64;
        self.hushed += samples as u64;
        self.quiet = self.quiet + MediaTime::from_samples(samples as u64);
    }

    /// The next chunk of little-endian bytes, if a whole one is there.
    pub fn chunk(&mut self) -> Option<Vec<u8>> {
        (self.pending.len() >= CHUNK).then(|| self.take(CHUNK))
    }

    /// What is left, shorter than a chunk: the stream is being closed.
    pub fn rest(&mut self) -> Option<Vec<u8>> {
        (!self.pending.is_empty()).then(|| self.take(self.pending.len()))
    }

    fn take(&mut self, samples: usize) -> Vec<u8> {
        self.pending.drain(..samples).flat_map(i16::to_le_bytes).collect()
    }

    /// Moves a result from the stream's clock to the capture clock and notes what is final.
    pub fn place(&mut self, mut heard: Heard) -> Heard {
        heard.start = self.media(heard.start);
        heard.end = self.media(heard.end);
        for word in &mut heard.words {
            word.start = self.media(word.start);
            word.end = self.media(word.end);
        }
        if !heard.words.is_empty() {
            self.unanswered = MediaTime::ZERO;
        }
        if heard.is_final {
            self.final_until = self.final_until.max(heard.end);
            while self.ring.front().is_some_and(|piece| piece.frame.end() <= self.final_until) {
                if let Some(piece) = self.ring.pop_front() {
                    self.kept = self.kept - piece.frame.duration();
                }
            }
        }
        heard
    }

    /// The stream is over; audio is kept until the next one begins.
    pub fn stop(&mut self) {
        self.streaming = false;
        self.pending.clear();
    }

    /// The stream was closed in good order after a long silence: nothing of it is waited for any more.
    pub fn forget(&mut self) {
        self.stop();
        self.ring.clear();
        self.kept = MediaTime::ZERO;
        self.final_until = self.final_until.max(self.fallen);
    }

    /// Begins a stream: what is not final yet is given (again), silence before it left out. Answers with how much
    /// that is, and with the stretch that had a voice in it and is gone for good.
    pub fn start(&mut self) -> (MediaTime, Option<(MediaTime, MediaTime)>) {
        self.streaming = true;
        let first_voice = self.ring.iter().find(|piece| piece.voiced).map_or(MediaTime::ZERO, |piece| piece.frame.at);
        while self.ring.front().is_some_and(|piece| !piece.voiced && piece.frame.end() + PRE_ROLL < first_voice) {
            if let Some(piece) = self.ring.pop_front() {
                self.kept = self.kept - piece.frame.duration();
            }
        }
        let lost = (self.fallen > self.final_until).then_some((self.final_until, self.fallen));
        if lost.is_some() {
            self.final_until = self.fallen;
        }
        self.pending.clear();
        self.marks.clear();
        self.position = 0;
        self.hushed = 0;
        self.next_at = None;
        self.unanswered = MediaTime::ZERO;
        self.quiet = MediaTime::ZERO;
        let ring = std::mem::take(&mut self.ring);
        for piece in &ring {
            self.give(&piece.frame, piece.voiced);
        }
        let replayed = self.kept;
        self.ring = ring;
        (replayed, lost)
    }

    /// Audio that waits for the stream to take it.
    pub fn backlog(&self) -> MediaTime {
        MediaTime::from_samples(self.pending.len() as u64)
    }

    /// Whether anything waits to be heard: a stream is worth opening.
    pub fn has_audio(&self) -> bool {
        self.ring.iter().any(|piece| piece.voiced)
    }

    /// Voiced audio given since the stream last answered with words.
    pub fn unanswered(&self) -> MediaTime {
        self.unanswered
    }

    /// How long nobody has spoken, at the end of what was given.
    pub fn quiet(&self) -> MediaTime {
        self.quiet
    }

    fn give(&mut self, frame: &PcmFrame, voiced: bool) {
        let hole = match self.next_at {
            None => None,
            Some(next) if frame.at > next + DRIFT => Some(frame.at - next),
            Some(next) if frame.at + DRIFT < next => Some(MediaTime::ZERO),
            Some(_) => None,
        };
        if let Some(hole) = hole {
            let missing = hole.as_samples().saturating_sub(self.hushed).min(MAX_FILL.as_samples());
            self.pending.extend(std::iter::repeat_n(0, missing as usize));
            self.position += missing;
        }
        if hole.is_some() || self.hushed > 0 || self.next_at.is_none() {
            self.marks.push_back((self.position, frame.at));
            while self.marks.len() > 4_096 {
                self.marks.pop_front();
            }
        }
        self.hushed = 0;
        self.pending.extend(&frame.samples);
        self.position += frame.samples.len() as u64;
        self.next_at = Some(
            self.next_at.map_or(frame.end(), |next| if hole.is_some() { frame.end() } else { next + frame.duration() }),
        );
        if voiced {
            self.unanswered = self.unanswered + frame.duration();
            self.quiet = MediaTime::ZERO;
        } else {
            self.quiet = self.quiet + frame.duration();
        }
    }

    fn media(&self, stream: MediaTime) -> MediaTime {
        let position = stream.as_samples();
        let index = self.marks.partition_point(|(at, _)| *at <= position);
        let Some((at, media)) = index.checked_sub(1).and_then(|index| self.marks.get(index)) else {
            return self.marks.front().map_or(stream, |(_, media)| *media);
        };
        let time = *media + MediaTime::from_samples(position - at);
        // Inside a hole the clock stands still until the next frame; and nobody can have heard what was not given yet,
        // or one absurd time would make everything after it look like an echo.
        let limit = self.marks.get(index).map(|(_, next)| *next).or(self.next_at);
        limit.map_or(time, |limit| time.min(limit))
    }
}

fn is_voiced(samples: &[i16]) -> bool {
    let energy: f64 = samples.iter().map(|sample| f64::from(*sample) * f64::from(*sample)).sum();
    energy > VOICE_MEAN_SQUARE * samples.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::audio::Origin;

    fn frame(at_ms: u64, ms: u64, value: i16) -> PcmFrame {
        PcmFrame {
            at: MediaTime::from_millis(at_ms),
            samples: vec![value; (ms * 16) as usize],
            origin: Origin::Received,
        }
    }

    fn streaming() -> Feed {
        let mut feed = Feed::default();
        feed.start();
        feed
    }

    fn heard(start_ms: u64, end_ms: u64, is_final: bool) -> Heard {
        let (start, end) = (MediaTime::from_millis(start_ms), MediaTime::from_millis(end_ms));
        Heard { result_id: "r".into(), is_final, start, end, words: Vec::new() }
    }

    #[test]
    fn chunks_are_equal_and_a_small_hole_is_filled() {
        let mut feed = streaming();
        feed.push(frame(0, 20, 1));
        feed.push(frame(80, 20, 1));
        assert_eq!(feed.chunk().map(|chunk| chunk.len()), Some(3_200));
        assert_eq!(feed.chunk(), None);
    }

    #[test]
    fn silence_fed_while_audio_was_late_shifts_the_stream_and_not_the_capture_clock() {
        let mut feed = streaming();
        feed.push(frame(0, 100, 1));
        feed.hush(CHUNK * 3);
        feed.push(frame(100, 100, 1));
        let placed = feed.place(heard(450, 500, false));
        assert_eq!((placed.start.as_millis(), placed.end.as_millis()), (150, 200));
    }

    #[test]
    fn an_hour_away_is_not_an_hour_of_silence() {
        let mut feed = streaming();
        feed.push(frame(0, 100, 1));
        feed.push(frame(3_600_000, 100, 1));
        let chunks = std::iter::from_fn(|| feed.chunk()).count();
        assert_eq!(chunks, 12);
        assert_eq!(feed.place(heard(1_100, 1_200, false)).start.as_millis(), 3_600_000);
    }

    #[test]
    fn a_new_stream_hears_again_what_was_not_final_and_nothing_else() {
        let mut feed = streaming();
        for n in 0..20 {
            feed.push(frame(n * 100, 100, 5_000));
        }
        while feed.chunk().is_some() {}
        feed.place(heard(0, 1_200, true));
        let (replayed, lost) = feed.start();
        assert_eq!((replayed.as_millis(), lost), (800, None));
        assert_eq!(std::iter::from_fn(|| feed.chunk()).count(), 8);
        assert_eq!(feed.place(heard(0, 300, false)).start.as_millis(), 1_200);
    }

    #[test]
    fn a_result_from_the_future_is_brought_back_to_what_was_given() {
        let mut feed = streaming();
        feed.push(frame(0, 100, 5_000));
        feed.hush(CHUNK);
        let placed = feed.place(heard(0, 3_600_000, true));
        assert_eq!(placed.end.as_millis(), 100);
        feed.push(frame(100, 100, 5_000));
        assert_eq!(feed.place(heard(200, 300, false)).start.as_millis(), 100);
    }

    #[test]
    fn a_long_silence_before_the_first_word_is_not_given() {
        let mut feed = Feed::default();
        for n in 0..100 {
            feed.push(frame(n * 100, 100, 0));
        }
        feed.push(frame(10_000, 100, 5_000));
        let (given, _) = feed.start();
        assert!((500..=700).contains(&given.as_millis()), "{given:?}");
        assert_eq!(feed.place(heard(0, 0, false)).start.as_millis(), 10_100 - given.as_millis());
    }

    #[test]
    fn a_voice_that_fell_out_of_the_ring_is_declared_lost_and_silence_is_not() {
        for (level, expected) in [(5_000, Some((0, 5_000))), (0, None)] {
            let mut feed = streaming();
            for n in 0..250 {
                feed.push(frame(n * 100, 100, level));
            }
            let (_, lost) = feed.start();
            assert_eq!(lost.map(|(from, to)| (from.as_millis(), to.as_millis())), expected);
        }
    }

    proptest! {
        /// Whatever the holes, overlaps and hushes: times on the capture clock never go back along the stream,
        /// and every sample of every frame is given once.
        #[test]
        fn the_two_clocks_stay_in_order(steps in prop::collection::vec((0u64..3_000, 1u64..60, any::<bool>()), 1..30)) {
            let mut feed = streaming();
            let (mut at, mut given) = (0, 0u64);
            for (hole, ms, hush) in steps {
                if hush { feed.hush(CHUNK); }
                at += if hole < 1_000 { 0 } else { hole };
                feed.push(frame(at, ms, 1));
                given += ms * 16;
                at += ms;
            }
            let mut bytes = 0;
            while let Some(chunk) = feed.chunk() { bytes += chunk.len(); }
            bytes += feed.rest().map_or(0, |rest| rest.len());
            prop_assert!(bytes as u64 / 2 >= given);
            let mut last = MediaTime::ZERO;
            for ms in (0..bytes as u64 / 32).step_by(7) {
                let time = feed.media(MediaTime::from_millis(ms));
                prop_assert!(time >= last && time.as_millis() <= at);
                last = time;
            }
        }
    }
}
