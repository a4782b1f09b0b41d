//! The dubbed voice of one language: sentences go out to be spoken, clips come back and get their place in time.
//!
//! The order of speech is kept whatever comes back first. The governor keeps the voice in step with the talk: its
//! *lag* is the time from the end of a sentence in the talk to the beginning of its voice. Past the budget the voice
//! speaks faster, gently, and takes waiting sentences together; what would begin too late is left out, the stalest
//! first, and said to be left out. No voice ever begins later than the cap. Captions are not this machine's
//! business, so nothing here can delay them.
//!
//! `now` is the monotonic clock; places in time (`at`) are on the same clock. `D` is how a sentence is to be said
//! (its emotion), carried through.

use std::collections::VecDeque;
use std::time::Duration;

use crate::audio::MediaTime;

/// What a voice keeps to.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// Lag up to which the voice speaks as it likes.
    pub budget: Duration,
    /// Lag past which nothing is begun.
    pub cap: Duration,
    /// Fastest rate, percent of the voice's own.
    pub fastest: u16,
    /// Clips being made at once.
    pub in_flight: usize,
    /// A clip that is not back by then is given up.
    pub clip_deadline: Duration,
    /// How long a voice outlives its last listener.
    pub linger: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Rules {
            budget: Duration::from_secs(4),
            cap: Duration::from_secs(8),
            fastest: 135,
            in_flight: 2,
            clip_deadline: Duration::from_secs(5),
            linger: Duration::from_secs(30),
        }
    }
}

impl Rules {
    /// Lag at which the voice is at its fastest: half way from the budget to the cap.
    fn hurry(&self) -> Duration {
        self.budget + self.cap.saturating_sub(self.budget) / 2
    }
}

/// The voice's own rate, percent.
const OWN_RATE: u16 = 100;

/// The rate changes by no more than this from clip to clip, so that nobody stumbles over it.
pub const RATE_STEP: u16 = 10;

/// From a clip's placing to its first sample, for the way to whoever plays it.
const LEAD: Duration = Duration::from_millis(60);

/// Clips are asked for no earlier than this before their turn: what is not asked for yet can still be said faster,
/// with others or not at all.
const AHEAD: Duration = Duration::from_secs(4);

/// Between two looks at whether it is somebody's turn: estimates may creep.
const SHORTEST_REST: Duration = Duration::from_millis(50);

/// Sentences are taken together up to about this length.
const LONGEST_TOGETHER: Duration = Duration::from_secs(10);

/// Sentences waiting; past it the stalest is left out.
pub const SENTENCES_WAITING: usize = 32;

/// First guesses, until the voice has been heard: for a letter, and for a clip to come back.
const LETTER: Duration = Duration::from_millis(68);
const LATENCY: Duration = Duration::from_millis(500);

/// A finished sentence of the voice's language.
#[derive(Debug, Clone, PartialEq)]
pub struct Sentence<D> {
    /// Of the caption. Sentences come in the order of their segments.
    pub segment: u64,
    pub text: String,
    /// Where it is in the talk.
    pub start: MediaTime,
    pub end: MediaTime,
    /// When its end was spoken, on the monotonic clock.
    pub heard: Duration,
    pub delivery: D,
}

/// What a voice asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Ask<D> {
    /// To be answered by [`Voice::ready`] or [`Voice::failed`]. `rate` is percent of the voice's own.
    Synthesize { job: u64, text: String, delivery: D, rate: u16 },
    /// The clip of `job` is to begin at `at`; none of its predecessors sounds any more by then.
    Deliver { job: u64, at: Duration, span: Span },
    /// These segments will not be spoken.
    Skip { span: Span, why: Why },
    /// How the voice copes has changed.
    Pace(Pace),
    /// Nobody has listened for a while: the voice ends, and asks for nothing more.
    End,
}

/// What of the talk a clip says, or should have said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    pub segments: Vec<u64>,
    pub start: MediaTime,
    pub end: MediaTime,
}

/// Why something is not spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It would have come too late.
    Behind,
    /// No clip was to be had for it.
    Failed,
}

/// How the voice copes with the talk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pace {
    #[default]
    Steady,
    Speeding,
    Dropping,
}

/// What can be seen of a voice from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct State {
    /// Of the clip placed last.
    pub lag: Duration,
    /// Of the clip asked for last, percent.
    pub rate: u16,
    pub pace: Pace,
    /// Sentences since the start, by what became of them.
    pub spoken: u64,
    pub behind: u64,
    pub failed: u64,
    /// Sentences that went out together with one before them.
    pub merged: u64,
    /// Sentences not asked for yet.
    pub waiting: usize,
}

#[derive(Debug)]
struct Job {
    number: u64,
    span: Span,
    heard: Duration,
    weight: u32,
    rate: u16,
    asked: Duration,
    until: Duration,
    /// Of the clip, once it is here.
    length: Option<Duration>,
}

#[derive(Debug)]
pub struct Voice<D> {
    rules: Rules,
    waiting: VecDeque<Sentence<D>>,
    /// Asked for and not placed yet, in the order of speech.
    jobs: VecDeque<Job>,
    next_job: u64,
    /// When everything placed so far has been said.
    free: Duration,
    /// Learned: what a letter takes at the voice's own rate, and a clip to come back.
    letter: Duration,
    latency: Duration,
    /// Something was left out since a clip was last asked for.
    left_out: bool,
    /// When the first waiting sentence may be asked for.
    turn: Option<Duration>,
    abandoned: Option<Duration>,
    ended: bool,
    state: State,
}

impl<D: Clone> Voice<D> {
    /// A voice with one listener. Jobs are numbered from `first_job` on; numbers are never used again within a
    /// session, so that a late clip of a voice that ended cannot be taken for one of its successor's.
    pub fn new(rules: Rules, first_job: u64) -> Self {
        Voice {
            rules,
            waiting: VecDeque::new(),
            jobs: VecDeque::new(),
            next_job: first_job,
            free: Duration::ZERO,
            letter: LETTER,
            latency: LATENCY,
            left_out: false,
            turn: None,
            abandoned: None,
            ended: false,
            state: State { rate: OWN_RATE, ..State::default() },
        }
    }

    pub fn state(&self) -> State {
        State { waiting: self.waiting.len(), ..self.state }
    }

    /// The number the next voice of the session begins with.
    pub fn next_job(&self) -> u64 {
        self.next_job
    }

    /// Everything said has been placed or left out.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.jobs.is_empty()
    }

    /// How many want to hear the voice now.
    pub fn listeners(&mut self, now: Duration, count: usize, out: &mut Vec<Ask<D>>) {
        match (count, self.abandoned) {
            (0, None) => self.abandoned = Some(now),
            (0, Some(_)) => {}
            _ => self.abandoned = None,
        }
        self.advance(now, out);
    }

    /// Takes the next sentence. One without a letter or digit needs no voice.
    pub fn push(&mut self, now: Duration, sentence: Sentence<D>, out: &mut Vec<Ask<D>>) {
        if self.ended || !sentence.text.chars().any(char::is_alphanumeric) {
            return;
        }
        self.waiting.push_back(sentence);
        if self.waiting.len() > SENTENCES_WAITING {
            self.leave_out(out);
        }
        self.advance(now, out);
    }

    /// A clip is here, `length` long. False: it was given up, and is not to be played.
    pub fn ready(&mut self, now: Duration, number: u64, length: Duration, out: &mut Vec<Ask<D>>) -> bool {
        let waited = |job: &&mut Job| job.number == number && job.length.is_none();
        let Some(job) = self.jobs.iter_mut().find(waited) else { return false };
        job.length = Some(length);
        self.latency = learned(self.latency, now.saturating_sub(job.asked));
        self.letter = learned(self.letter, length * u32::from(job.rate) / u32::from(OWN_RATE) / job.weight.max(1));
        self.advance(now, out);
        true
    }

    /// There will be no clip for this job.
    pub fn failed(&mut self, now: Duration, number: u64, out: &mut Vec<Ask<D>>) {
        let lost = |job: &Job| job.number == number && job.length.is_none();
        if let Some(at) = self.jobs.iter().position(lost)
            && let Some(job) = self.jobs.remove(at)
        {
            self.skip(job.span, Why::Failed, out);
        }
        self.advance(now, out);
    }

    /// Does what time alone brings. To be called at [`Voice::deadline`].
    pub fn tick(&mut self, now: Duration, out: &mut Vec<Ask<D>>) {
        self.advance(now, out);
    }

    /// When [`Voice::tick`] has something to do.
    pub fn deadline(&self) -> Option<Duration> {
        if self.ended {
            return None;
        }
        let jobs = self.jobs.iter().filter(|job| job.length.is_none()).map(|job| job.until).min();
        let linger = self.abandoned.map(|since| since + self.rules.linger);
        let stale = self.waiting.front().map(|sentence| sentence.heard + self.rules.cap);
        [jobs, linger, stale, self.turn].into_iter().flatten().min()
    }

    fn advance(&mut self, now: Duration, out: &mut Vec<Ask<D>>) {
        if self.ended {
            return;
        }
        if self.abandoned.is_some_and(|since| now >= since + self.rules.linger) {
            self.ended = true;
            self.waiting.clear();
            self.jobs.clear();
            return out.push(Ask::End);
        }
        let late = |job: &Job| job.length.is_none() && job.until <= now;
        while let Some(at) = self.jobs.iter().position(late) {
            if let Some(job) = self.jobs.remove(at) {
                self.skip(job.span, Why::Failed, out);
            }
        }
        self.place(now, out);
        self.turn = None;
        loop {
            let (begins, guessed) = self.begins(now);
            let idle = self.jobs.is_empty() && self.free <= now;
            // What an idle voice cannot say in time it was told too late; but it tries as long as there is hope, or a
            // wrong estimate would keep it silent for ever. Otherwise the less is known, the sooner something is left
            // out: hardly a clip may be paid for and then not played.
            let (begins, limit) =
                if idle { (now + LEAD, self.rules.cap) } else { (begins, self.rules.cap.saturating_sub(guessed / 4)) };
            let Some(front) = self.waiting.front() else { break };
            if begins.saturating_sub(front.heard) > limit {
                self.leave_out(out);
            } else if self.jobs.len() >= self.rules.in_flight {
                break;
            } else if begins > now + AHEAD.max(self.latency + LEAD) {
                self.turn = Some((begins - AHEAD).max(now + SHORTEST_REST));
                break;
            } else {
                self.ask(now, begins, out);
            }
        }
    }

    /// Places the clips that are here and whose turn it is.
    fn place(&mut self, now: Duration, out: &mut Vec<Ask<D>>) {
        while self.jobs.front().is_some_and(|job| job.length.is_some()) {
            let Some(Job { number, span, heard, rate, length: Some(length), .. }) = self.jobs.pop_front() else {
                return;
            };
            let at = self.free.max(now + LEAD);
            let lag = at.saturating_sub(heard);
            if lag > self.rules.cap {
                self.skip(span, Why::Behind, out);
                continue;
            }
            self.free = at + length;
            self.state.lag = lag;
            self.state.spoken += span.segments.len() as u64;
            self.pace(if rate > OWN_RATE { Pace::Speeding } else { Pace::Steady }, out);
            out.push(Ask::Deliver { job: number, at, span });
        }
    }

    /// When a clip that is asked for now will begin, as far as one can tell, and how much of that is guessed.
    fn begins(&self, now: Duration) -> (Duration, Duration) {
        let (mut free, mut guessed) = (self.free, Duration::ZERO);
        for job in &self.jobs {
            let here = if job.length.is_some() { now } else { now.max(job.asked + self.latency) };
            let length = job.length.unwrap_or_else(|| self.guess(job.weight, job.rate));
            guessed += if job.length.is_some() { Duration::ZERO } else { length };
            free = free.max(here + LEAD) + length;
        }
        (free.max(now + self.latency + LEAD), guessed)
    }

    fn guess(&self, weight: u32, rate: u16) -> Duration {
        self.letter * weight * u32::from(OWN_RATE) / u32::from(rate)
    }

    /// Asks for the next clip, which would begin at `begins`.
    fn ask(&mut self, now: Duration, begins: Duration, out: &mut Vec<Ask<D>>) {
        let Some(first) = self.waiting.pop_front() else { return };
        let lag = begins.saturating_sub(first.heard);
        // Speaking faster helps only if the voice waits for itself.
        let behind =
            if begins > now + self.latency + LEAD { lag.saturating_sub(self.rules.budget) } else { Duration::ZERO };
        let rate = self.rate(behind);
        let mut job = Job {
            number: self.next_job,
            span: Span { segments: vec![first.segment], start: first.start, end: first.end },
            heard: first.heard,
            weight: weight(&first.text),
            rate,
            asked: now,
            until: (now + self.rules.clip_deadline).min(first.heard + self.rules.cap),
            length: None,
        };
        let (mut text, mut delivery, mut longest) = (first.text, first.delivery, job.weight);
        while behind > Duration::ZERO
            && let Some(next) = self.waiting.front()
            && self.guess(job.weight + weight(&next.text), rate) <= LONGEST_TOGETHER
            && let Some(next) = self.waiting.pop_front()
        {
            let letters = weight(&next.text);
            if letters > longest {
                (longest, delivery) = (letters, next.delivery);
            }
            text.push(' ');
            text.push_str(&next.text);
            job.weight += letters;
            job.span.segments.push(next.segment);
            job.span.end = job.span.end.max(next.end);
            self.state.merged += 1;
        }
        self.next_job += 1;
        out.push(Ask::Synthesize { job: job.number, text, delivery, rate });
        self.jobs.push_back(job);
    }

    /// The next clip's rate: none faster within the budget, the fastest when in a hurry, and changing in small steps. Where
    /// something is left out nothing may be said slowly.
    fn rate(&mut self, behind: Duration) -> u16 {
        let room = self.rules.hurry().saturating_sub(self.rules.budget).as_secs_f64().max(0.001);
        let more = f64::from(self.rules.fastest.saturating_sub(OWN_RATE)) * (behind.as_secs_f64() / room).min(1.0);
        let wanted =
            if std::mem::take(&mut self.left_out) { self.rules.fastest } else { OWN_RATE + more.round() as u16 };
        let last = self.state.rate;
        self.state.rate = wanted.clamp(last.saturating_sub(RATE_STEP).max(OWN_RATE), last + RATE_STEP);
        self.state.rate
    }

    fn leave_out(&mut self, out: &mut Vec<Ask<D>>) {
        if let Some(Sentence { segment, start, end, .. }) = self.waiting.pop_front() {
            self.skip(Span { segments: vec![segment], start, end }, Why::Behind, out);
        }
    }

    fn skip(&mut self, span: Span, why: Why, out: &mut Vec<Ask<D>>) {
        let segments = span.segments.len() as u64;
        out.push(Ask::Skip { span, why });
        match why {
            Why::Behind => {
                self.left_out = true;
                self.state.behind += segments;
                self.pace(Pace::Dropping, out);
            }
            Why::Failed => self.state.failed += segments,
        }
    }

    fn pace(&mut self, pace: Pace, out: &mut Vec<Ask<D>>) {
        if std::mem::replace(&mut self.state.pace, pace) != pace {
            out.push(Ask::Pace(pace));
        }
    }
}

/// An estimate after one more measurement: quick to follow, slow to be fooled.
fn learned(estimate: Duration, measured: Duration) -> Duration {
    (estimate * 3 + measured) / 4
}

/// How long a text takes, in letters of an alphabet: signs that stand for syllables or words take longer.
fn weight(text: &str) -> u32 {
    let letters =
        text.chars().map(|c| if matches!(c, '\u{1100}'..='\u{11ff}' | '\u{2e80}'..='\u{d7ff}') { 3 } else { 1 });
    letters.sum()
}

#[cfg(test)]
mod tests;
