//! The viewer over a session's life: when to try for the speaker's media, when to give a try up, when to rest.
//!
//! ```text
//!            speaker connected, or time to probe            answer, ICE, DTLS
//!  Waiting ───────────────────────────────────▶ Trying ─────────────────────▶ Hearing
//!     ▲                                           │ failed                       │ lost
//!     └────────── backoff, jittered ──────────────┴──────────────────────────────┘
//! ```
//!
//! No presence exists in KVS: only the speaker's word (`kvs-status`) and the media itself say that a master is there.
//! So the word starts and stops the tries, and where no word ever comes a slow probe looks all the same.
//! Absent on purpose: sockets and the attempt's own talk ([`super::exchange`]).

use std::time::Duration;

/// Shortest and longest rest between tries while the speaker says it is connected.
pub const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// The pace of looking for a speaker who has said nothing.
pub const PROBE: Duration = Duration::from_secs(5);

/// An attempt that neither fails nor connects in this time is given up: twice what its own timeouts add up to.
pub const ATTEMPT_LIMIT: Duration = Duration::from_secs(30);

/// What the speaker last said of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// Nothing yet.
    None,
    Connected,
    Gone,
}

/// What happened. Inputs of an attempt carry its number, so a late one of an old attempt changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    Speaker(Word),
    /// Media is up.
    Connected(u64),
    /// The attempt ended before media came up.
    Failed(u64),
    /// No packet for a second: the first sign of loss.
    Quiet(u64),
    /// Packets again.
    Sound(u64),
    /// Media is gone for good.
    Lost(u64),
    /// The signaling socket ended. Media does not notice.
    SignalingClosed(u64),
    /// The deadline may have come.
    Tick,
    /// The session is over.
    End,
}

/// What the owner is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Start attempt `number` under a client id nobody used before.
    Open { number: u64, client_id: String },
    /// Drop attempt `number`, its peer and its socket.
    Close { number: u64 },
    /// The speaker's media reaches us.
    Heard,
    /// The speaker's media no longer reaches us.
    Unheard,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting { next: Option<Duration> },
    Trying { number: u64, since: Duration },
    Hearing { number: u64, quiet: bool },
    Ended,
}

/// See the module. One per session.
#[derive(Debug)]
pub struct Viewer {
    session: String,
    next_number: u64,
    word: Word,
    state: State,
    /// Tries in a row that brought no media.
    failures: u32,
    /// Media came up at least once: silence is then a loss, not an empty room.
    heard_before: bool,
    rested_at: Duration,
}

impl Viewer {
    /// `session` is any text of the client id alphabet; `first` numbers the first attempt and must differ over
    /// restarts of the process (a browser remembers client ids as long as its page lives): seconds since 1970 do.
    pub fn new(session: impl Into<String>, first: u64, now: Duration) -> Self {
        Viewer {
            session: session.into(),
            next_number: first,
            word: Word::None,
            state: State::Waiting { next: Some(now) },
            failures: 0,
            heard_before: false,
            rested_at: now,
        }
    }

    /// When a [`Input::Tick`] is due.
    pub fn deadline(&self) -> Option<Duration> {
        match self.state {
            State::Waiting { next } => next,
            State::Trying { since, .. } => Some(since + ATTEMPT_LIMIT),
            State::Hearing { .. } | State::Ended => None,
        }
    }

    /// Whether media is up.
    pub fn hears(&self) -> bool {
        matches!(self.state, State::Hearing { .. })
    }

    /// Takes one input at `now`. `jitter` is a fresh random number of 0 to 1 that spreads the next rest.
    pub fn handle(&mut self, now: Duration, jitter: f64, input: Input, effects: &mut Vec<Effect>) {
        match (input, self.state) {
            (_, State::Ended) => {}
            (Input::End, state) => {
                self.close(state, effects);
                self.state = State::Ended;
            }
            (Input::Speaker(word), state) => self.speaker(now, word, state, effects),
            (Input::Connected(n), State::Trying { number, .. }) if n == number => {
                self.state = State::Hearing { number, quiet: false };
                self.failures = 0;
                self.heard_before = true;
                effects.push(Effect::Heard);
            }
            (Input::Failed(n) | Input::Lost(n), State::Trying { number, .. }) if n == number => self.rest(now, jitter),
            (Input::Quiet(n), State::Hearing { number, .. }) if n == number => {
                self.state = State::Hearing { number, quiet: true };
            }
            (Input::Sound(n), State::Hearing { number, .. }) if n == number => {
                self.state = State::Hearing { number, quiet: false };
            }
            (Input::Failed(n) | Input::Lost(n), State::Hearing { number, .. }) if n == number => {
                effects.push(Effect::Unheard);
                self.rest(now, jitter);
            }
            (Input::Tick, State::Waiting { next: Some(next) }) if now >= next => self.open(now, effects),
            (Input::Tick, state @ State::Trying { since, .. }) if now >= since + ATTEMPT_LIMIT => {
                self.close(state, effects);
                self.rest(now, jitter);
            }
            _ => {}
        }
    }

    fn speaker(&mut self, now: Duration, word: Word, state: State, effects: &mut Vec<Effect>) {
        let changed = self.word != word;
        self.word = word;
        match (word, state) {
            (Word::Gone, _) => {
                self.close(state, effects);
                self.failures = 0;
                self.state = State::Waiting { next: None };
            }
            (Word::Connected, State::Waiting { next }) => {
                if changed {
                    self.failures = 0;
                }
                // A speaker that says it again (a reloaded page) is tried soon, yet never faster than the backoff's floor.
                let soon = now.max(self.rested_at + if changed { Duration::ZERO } else { BACKOFF.0 });
                self.state = State::Waiting { next: Some(next.map_or(soon, |next| next.min(soon))) };
            }
            // The word of a page that has just loaded, while the old page's media has stopped: it is not coming back.
            (Word::Connected, State::Hearing { quiet: true, .. }) => {
                self.close(state, effects);
                self.rested_at = now;
                self.state = State::Waiting { next: Some(now) };
            }
            _ => {}
        }
    }

    fn open(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let number = self.next_number;
        self.next_number += 1;
        self.state = State::Trying { number, since: now };
        effects.push(Effect::Open { number, client_id: format!("srv-{}-{number}", self.session) });
    }

    fn close(&mut self, state: State, effects: &mut Vec<Effect>) {
        match state {
            State::Trying { number, .. } => effects.push(Effect::Close { number }),
            State::Hearing { number, .. } => effects.extend([Effect::Close { number }, Effect::Unheard]),
            State::Waiting { .. } | State::Ended => {}
        }
    }

    /// Rests after a try that ended, for longer each time; not at all if the speaker is gone.
    fn rest(&mut self, now: Duration, jitter: f64) {
        self.rested_at = now;
        let (floor, ceiling) = match self.word {
            Word::Gone => {
                self.state = State::Waiting { next: None };
                return;
            }
            Word::Connected => BACKOFF,
            // Media was here and nobody said goodbye: look soon, then at the probe's pace.
            Word::None if self.heard_before => (BACKOFF.0, PROBE),
            Word::None => (PROBE, PROBE),
        };
        let full = floor.saturating_mul(1 << self.failures.min(8)).clamp(floor, ceiling);
        self.failures = self.failures.saturating_add(1);
        let jitter = if jitter.is_finite() { jitter.clamp(0.0, 1.0) } else { 0.5 };
        // Between half and all of it: spread out, yet no try follows another at once.
        let rest = full.mul_f64(0.5 + jitter / 2.0).max(BACKOFF.0);
        self.state = State::Waiting { next: Some(now + rest) };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn run(viewer: &mut Viewer, now: u64, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        viewer.handle(MS(now), 1.0, input, &mut effects);
        effects
    }

    fn opened(effects: &[Effect]) -> Option<u64> {
        effects.iter().find_map(|effect| match effect {
            Effect::Open { number, .. } => Some(*number),
            _ => None,
        })
    }

    /// Steps the clock to the next deadline until an attempt opens; gives the time and the number.
    fn next_open(viewer: &mut Viewer) -> (u64, u64) {
        let at = viewer.deadline().unwrap().as_millis() as u64;
        (at, opened(&run(viewer, at, Input::Tick)).unwrap())
    }

    #[test]
    fn a_silent_session_is_probed_slowly_and_found() {
        let mut viewer = Viewer::new("a", 7, MS(0));
        let effects = run(&mut viewer, 0, Input::Tick);
        assert_eq!(effects, [Effect::Open { number: 7, client_id: "srv-a-7".into() }]);
        run(&mut viewer, 6_000, Input::Failed(7));
        assert_eq!(next_open(&mut viewer), (11_000, 8));
        assert_eq!(run(&mut viewer, 12_000, Input::Connected(8)), [Effect::Heard]);
        assert!(viewer.hears());
    }

    #[test]
    fn the_backoff_doubles_to_ten_seconds_while_the_speaker_says_it_is_there() {
        let mut viewer = Viewer::new("a", 0, MS(0));
        run(&mut viewer, 0, Input::Speaker(Word::Connected));
        let mut rests = Vec::new();
        let mut ended = 0;
        for _ in 0..7 {
            let (at, number) = next_open(&mut viewer);
            rests.push(at - ended);
            ended = at + 100;
            run(&mut viewer, ended, Input::Failed(number));
        }
        assert_eq!(rests, [0, 500, 1_000, 2_000, 4_000, 8_000, 10_000]);
    }

    #[test]
    fn a_speaker_who_says_it_is_gone_is_not_looked_for() {
        let mut viewer = Viewer::new("a", 0, MS(0));
        let (_, number) = next_open(&mut viewer);
        assert_eq!(run(&mut viewer, 10, Input::Speaker(Word::Gone)), [Effect::Close { number }]);
        assert_eq!(viewer.deadline(), None);
        assert_eq!(run(&mut viewer, 11, Input::Failed(number)), []);
        assert_eq!(viewer.deadline(), None);
        run(&mut viewer, 9_000, Input::Speaker(Word::Connected));
        assert_eq!(next_open(&mut viewer).0, 9_000);
    }

    #[test]
    fn a_lost_speaker_is_looked_for_at_once_under_a_fresh_name() {
        let mut viewer = Viewer::new("a", 0, MS(0));
        let (_, first) = next_open(&mut viewer);
        run(&mut viewer, 100, Input::Connected(first));
        assert_eq!(run(&mut viewer, 200, Input::SignalingClosed(first)), []);
        assert!(viewer.hears(), "the signaling socket's end does not touch media");
        assert_eq!(run(&mut viewer, 60_000, Input::Lost(first)), [Effect::Unheard]);
        let (at, second) = next_open(&mut viewer);
        assert!(at <= 60_500 && second != first);
        assert_eq!(run(&mut viewer, at, Input::Lost(first)), [], "a late word of the old attempt");
    }

    #[test]
    fn a_reloaded_page_is_not_kept_waiting_for_the_old_ones_timeout() {
        let mut viewer = Viewer::new("a", 0, MS(0));
        run(&mut viewer, 0, Input::Speaker(Word::Connected));
        let (_, number) = next_open(&mut viewer);
        run(&mut viewer, 100, Input::Connected(number));
        assert_eq!(run(&mut viewer, 200, Input::Speaker(Word::Connected)), [], "healthy media stays");
        run(&mut viewer, 5_000, Input::Quiet(number));
        let effects = run(&mut viewer, 5_100, Input::Speaker(Word::Connected));
        assert_eq!(effects, [Effect::Close { number }, Effect::Unheard]);
        assert_eq!(next_open(&mut viewer).0, 5_100);
    }

    #[test]
    fn an_attempt_that_hangs_is_given_up() {
        let mut viewer = Viewer::new("a", 0, MS(0));
        let (_, number) = next_open(&mut viewer);
        assert_eq!(run(&mut viewer, 30_000, Input::Tick), [Effect::Close { number }]);
        assert_eq!(viewer.deadline(), Some(MS(35_000)));
    }

    fn any_input() -> impl Strategy<Value = Input> {
        prop_oneof![
            4 => Just(Input::Tick),
            1 => Just(Input::Speaker(Word::Connected)),
            1 => Just(Input::Speaker(Word::Gone)),
            1 => Just(Input::Speaker(Word::None)),
            3 => (0u64..12).prop_map(Input::Connected),
            3 => (0u64..12).prop_map(Input::Failed),
            2 => (0u64..12).prop_map(Input::Lost),
            1 => (0u64..12).prop_map(Input::Quiet),
            1 => (0u64..12).prop_map(Input::Sound),
            1 => (0u64..12).prop_map(Input::SignalingClosed),
        ]
    }

    proptest! {
        /// Late, shuffled, doubled inputs: at most one attempt alive, names never reused, rests within bounds,
        /// `Heard` and `Unheard` in turn, and nobody tries for a speaker who is gone.
        #[test]
        fn any_history_keeps_the_rules(
            steps in prop::collection::vec((0u64..4_000, 0.0..=1.0f64, any_input()), 0..120),
        ) {
            let mut viewer = Viewer::new("a", 0, MS(0));
            let (mut now, mut alive, mut heard, mut used) = (0, None, false, std::collections::BTreeSet::new());
            let mut word = Word::None;
            for (wait, jitter, input) in steps {
                now += wait;
                let mut effects = Vec::new();
                viewer.handle(MS(now), jitter, input, &mut effects);
                match input {
                    Input::Failed(n) | Input::Lost(n) if alive == Some(n) => alive = None,
                    Input::Speaker(said) => word = said,
                    _ => {}
                }
                for effect in effects {
                    match effect {
                        Effect::Open { number, .. } => {
                            prop_assert!(alive.is_none(), "two attempts alive");
                            prop_assert!(used.insert(number) && word != Word::Gone);
                            alive = Some(number);
                        }
                        Effect::Close { number } => prop_assert_eq!(alive.take(), Some(number)),
                        Effect::Heard => prop_assert!(!std::mem::replace(&mut heard, true)),
                        Effect::Unheard => prop_assert!(std::mem::replace(&mut heard, false)),
                    }
                }
                prop_assert_eq!(heard, viewer.hears());
                if let State::Waiting { next: Some(next) } = viewer.state {
                    prop_assert!(word != Word::Gone && next <= MS(now) + BACKOFF.1);
                }
                if let State::Trying { number, .. } | State::Hearing { number, .. } = viewer.state {
                    prop_assert_eq!(alive, Some(number));
                }
            }
        }
    }
}
