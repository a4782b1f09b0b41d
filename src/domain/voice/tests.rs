use proptest::prelude::*;

use super::*;

const T: Duration = Duration::ZERO;

fn secs(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.max(0.0))
}

fn sentence(segment: u64, text: &str, heard: Duration) -> Sentence<u64> {
    let end = MediaTime::from_micros(heard.as_micros() as u64);
    Sentence { segment, text: text.into(), start: end, end, heard, delivery: segment }
}

fn new() -> (Voice<u64>, Vec<Ask<u64>>) {
    (Voice::new(Rules::default(), 0), Vec::new())
}

/// A sentence of a talk, as the world deals it out.
#[derive(Debug, Clone)]
struct Dealt {
    /// Silence before it, and its own length, seconds.
    pause: f64,
    spoken: f64,
    /// From its end to its caption.
    caption: f64,
    /// How much longer than the original the voice takes at its own rate.
    longer: f64,
    /// How far its clip is from what its letters promise, times.
    wobble: f64,
    /// From asking for its clip to having it; none: it fails after as long.
    latency: f64,
    fails: bool,
}

/// What became of a talk.
#[derive(Debug, Default)]
struct Told {
    /// Segments, begin, end, lag, in order of asking out.
    said: Vec<(Vec<u64>, Duration, Duration, Duration)>,
    skipped: Vec<(u64, Why)>,
    rates: Vec<u16>,
    most_in_flight: usize,
    state: State,
}

impl Told {
    fn lag(&self, share: f64) -> f64 {
        let mut lags: Vec<_> = self.said.iter().map(|(.., lag)| lag.as_secs_f64()).collect();
        lags.sort_by(f64::total_cmp);
        lags.get(((lags.len() as f64 - 1.0) * share) as usize).copied().unwrap_or(0.0)
    }
}

/// Plays a talk to a voice until all is said. Letters are what stands for time: 15 a second at the voice's own rate.
fn tell(rules: &Rules, talk: &[Dealt]) -> Told {
    const LETTERS: f64 = 15.0;
    let mut voice = Voice::new(rules.clone(), 0);
    let mut told = Told::default();
    let mut captions = Vec::new();
    let mut end = 0.0;
    for (n, dealt) in talk.iter().enumerate() {
        end += dealt.pause + dealt.spoken;
        let shown = (end + dealt.caption).max(captions.last().map_or(0.0, |(at, _): &(f64, _)| *at));
        let letters = (dealt.spoken * dealt.longer * LETTERS).max(1.0) as usize;
        captions.push((shown, sentence(n as u64, &"a".repeat(letters), secs(end))));
    }
    let mut captions = captions.into_iter().peekable();
    // Job, what it says, when it is back, its length if it is.
    let mut away: Vec<(u64, Duration, Option<Duration>)> = Vec::new();
    let mut heard_at: Vec<Duration> = Vec::new();
    let mut asked = 0;
    let mut now = T;
    for round in 0.. {
        assert!(round < 100_000, "the machine never comes to rest");
        let caption = captions.peek().map(|(at, _)| secs(*at));
        let back = away.iter().map(|(_, at, _)| *at).min();
        let Some(next) = [caption, back, voice.deadline()].into_iter().flatten().min() else { break };
        now = now.max(next);
        let mut out = Vec::new();
        if caption.is_some_and(|at| at <= now) {
            let (_, sentence) = captions.next().unwrap();
            heard_at.push(sentence.heard);
            voice.push(now, sentence, &mut out);
        } else if let Some(at) = away.iter().position(|(_, at, _)| *at <= now) {
            match away.remove(at) {
                (job, _, Some(length)) => drop(voice.ready(now, job, length, &mut out)),
                (job, _, None) => voice.failed(now, job, &mut out),
            }
        } else {
            voice.tick(now, &mut out);
        }
        for ask in out {
            match ask {
                Ask::Synthesize { job, text, delivery, rate } => {
                    let dealt = &talk[delivery as usize];
                    let letters = text.chars().filter(|c| *c == 'a').count() as f64;
                    let length = secs(dealt.wobble * letters / LETTERS * 100.0 / f64::from(rate));
                    away.push((job, now + secs(dealt.latency), (!dealt.fails).then_some(length)));
                    assert_eq!(job, asked, "jobs are numbered without a hole");
                    asked += 1;
                    told.rates.push(rate);
                    told.most_in_flight = told.most_in_flight.max(voice.jobs.len());
                    // Until it is placed, its length stands where its end will be.
                    told.said.push((vec![], T, length, T));
                }
                Ask::Deliver { job, at, span } => {
                    assert!(at >= now, "a place in the past");
                    let length = told.said[job as usize].2;
                    let lag = at.saturating_sub(heard_at[span.segments[0] as usize]);
                    told.said[job as usize] = (span.segments, at, at + length, lag);
                }
                Ask::Skip { span, why } => told.skipped.extend(span.segments.iter().map(|n| (*n, why))),
                Ask::Pace(_) => {}
                Ask::End => panic!("somebody listens"),
            }
        }
    }
    assert!(voice.is_idle());
    told.said.retain(|(segments, ..)| !segments.is_empty());
    told.state = voice.state();
    told
}

/// One talk after another from the same dice: sentences of 1 to 12 s, captions up to 2.5 s late.
fn talk(
    longer: std::ops::Range<f64>,
    wobble: std::ops::Range<f64>,
    latency: std::ops::Range<f64>,
    failing: f64,
) -> impl Strategy<Value = Vec<Dealt>> {
    let dealt = (0.0..1.5f64, 1.0..12.0f64, 0.3..2.5f64, longer, wobble, latency, 0.0..1.0f64);
    let dealt = dealt.prop_map(move |(pause, spoken, caption, longer, wobble, latency, dice)| Dealt {
        pause,
        spoken,
        caption,
        longer,
        wobble,
        latency,
        fails: dice < failing,
    });
    prop::collection::vec(dealt, 1..80)
}

proptest! {
    /// Whatever the world deals out: a voice up to three times as long as the talk, a service up to seven seconds
    /// slow or failing.
    #[test]
    fn the_voice_never_begins_past_the_cap_nor_twice_nor_out_of_order_nor_loses_a_sentence_silently(
        talk in talk(0.2..3.0, 0.4..2.5, 0.05..7.0, 0.1),
    ) {
        let rules = Rules::default();
        let told = tell(&rules, &talk);
        let mut free = T;
        for (segments, at, end, lag) in &told.said {
            prop_assert!(*at >= free, "{segments:?} overlaps");
            prop_assert!(*lag <= rules.cap, "{segments:?} lags {lag:?}");
            free = *end;
        }
        let said: Vec<u64> = told.said.iter().flat_map(|(segments, ..)| segments.clone()).collect();
        prop_assert!(said.windows(2).all(|pair| pair[0] < pair[1]), "{said:?}");
        let mut all: Vec<u64> = said.iter().copied().chain(told.skipped.iter().map(|(n, _)| *n)).collect();
        all.sort_unstable();
        prop_assert_eq!(all, (0..talk.len() as u64).collect::<Vec<_>>(), "each exactly once, said or left out aloud");
        prop_assert!(told.most_in_flight <= rules.in_flight);
        let rates = std::iter::once(100).chain(told.rates.iter().copied()).collect::<Vec<_>>();
        prop_assert!(rates.iter().all(|rate| (100..=rules.fastest).contains(rate)), "{rates:?}");
        prop_assert!(rates.windows(2).all(|pair| pair[0].abs_diff(pair[1]) <= RATE_STEP), "{rates:?}");
        let state = told.state;
        prop_assert_eq!(state.spoken, said.len() as u64);
        prop_assert_eq!(state.behind + state.failed, told.skipped.len() as u64);
    }

    /// A voice no longer than the talk and a service that answers within a second, sentences of five
    /// seconds at most: every one is said.
    #[test]
    fn a_voice_that_can_keep_up_leaves_nothing_out(talk in talk(0.5..0.9, 0.95..1.05, 0.05..1.0, 0.0)) {
        let calm: Vec<Dealt> = talk.into_iter().map(|dealt| Dealt { spoken: dealt.spoken.min(5.0), ..dealt }).collect();
        let told = tell(&Rules::default(), &calm);
        prop_assert_eq!(&told.skipped, &[]);
    }
}

/// A speaker who never pauses, in sentences of four seconds.
fn steady(sentences: usize, longer: f64, latency: f64) -> Vec<Dealt> {
    vec![Dealt { pause: 0.0, spoken: 4.0, caption: 1.2, longer, wobble: 1.0, latency, fails: false }; sentences]
}

#[test]
fn a_voice_a_fifth_too_long_speaks_faster_and_leaves_nothing_out() {
    let told = tell(&Rules::default(), &steady(150, 1.2, 0.6));
    assert_eq!(told.skipped, []);
    assert!(told.lag(0.95) <= 7.0 && told.lag(0.5) > 2.0, "{} {}", told.lag(0.5), told.lag(0.95));
    let slope = told.said[140].3.as_secs_f64() - told.said[40].3.as_secs_f64();
    assert!(slope < 1.0, "the lag grows by {slope} s in seven minutes");
}

#[test]
fn a_speaker_twice_as_fast_as_the_voice_is_followed_with_holes_that_are_told() {
    let told = tell(&Rules::default(), &steady(150, 2.0, 0.6));
    // At best the voice says 135 of every 200.
    let share = told.said.iter().map(|(segments, ..)| segments.len()).sum::<usize>() as f64 / 150.0;
    assert!((0.58..=0.70).contains(&share), "{share}");
    assert!(told.lag(1.0) <= 8.0 && told.lag(0.5) < 7.0, "{} {}", told.lag(0.5), told.lag(1.0));
    assert!(told.skipped.iter().all(|(_, why)| *why == Why::Behind));
    assert_eq!(told.rates.last(), Some(&135));
}

#[test]
fn a_service_three_seconds_slow_delays_the_voice_and_costs_no_sentence() {
    let told = tell(&Rules::default(), &steady(100, 0.95, 3.0));
    assert_eq!(told.skipped, []);
    assert!(told.lag(0.95) < 6.0, "{}", told.lag(0.95));
}

#[test]
fn a_dead_service_is_told_of_sentence_by_sentence_and_recovers_at_once() {
    let mut talk = steady(40, 0.9, 0.5);
    talk[10..20].iter_mut().for_each(|dealt| dealt.fails = true);
    // It does not answer at all for a while.
    talk[25..30].iter_mut().for_each(|dealt| dealt.latency = 60.0);
    let told = tell(&Rules::default(), &talk);
    let failed: Vec<u64> = told.skipped.iter().map(|(n, _)| *n).collect();
    assert!((10..20).all(|n| failed.contains(&n)) && (25..30).all(|n| failed.contains(&n)), "{failed:?}");
    assert!(failed.len() <= 16, "{failed:?}");
}

#[test]
fn sentences_that_wait_are_said_together() {
    let (mut voice, mut out) = new();
    for n in 0..4 {
        voice.push(secs(5.5), sentence(n, "a short one", secs(1.0 + n as f64)), &mut out);
    }
    let asked: Vec<_> = out
        .iter()
        .filter_map(|ask| if let Ask::Synthesize { text, .. } = ask { Some(text.as_str()) } else { None })
        .collect();
    assert_eq!(asked, ["a short one", "a short one"], "two are under way");
    out.clear();
    voice.ready(secs(5.8), 0, secs(2.0), &mut out);
    assert_eq!(
        out[0],
        Ask::Deliver {
            job: 0,
            at: secs(5.8) + LEAD,
            span: Span { segments: vec![0], start: MediaTime::from_millis(1_000), end: MediaTime::from_millis(1_000) },
        }
    );
    let Some(Ask::Synthesize { text, rate, .. }) = out.last() else { panic!("{out:?}") };
    assert_eq!(text, "a short one a short one");
    assert!(*rate > 100);
    assert_eq!(voice.state().merged, 1);
}

#[test]
fn a_clip_that_overtakes_waits_and_a_late_one_holds_nobody_up_for_long() {
    let (mut voice, mut out) = new();
    voice.push(T, sentence(0, "first", T), &mut out);
    voice.push(T, sentence(1, "second", T), &mut out);
    out.clear();
    voice.ready(secs(0.4), 1, secs(1.0), &mut out);
    assert_eq!(out, []);
    let deadline = voice.deadline().unwrap();
    assert_eq!(deadline, Rules::default().clip_deadline);
    voice.tick(deadline, &mut out);
    assert!(matches!(&out[..], [Ask::Skip { why: Why::Failed, .. }, Ask::Deliver { job: 1, .. }]), "{out:?}");
    assert!(!voice.ready(secs(6.0), 0, secs(1.0), &mut out), "what was given up is not played");
}

#[test]
fn a_voice_outlives_its_last_listener_by_half_a_minute_and_then_asks_for_nothing() {
    let (mut voice, mut out) = new();
    voice.listeners(secs(1.0), 0, &mut out);
    voice.listeners(secs(20.0), 1, &mut out);
    voice.listeners(secs(40.0), 0, &mut out);
    voice.listeners(secs(50.0), 0, &mut out);
    assert_eq!(voice.deadline(), Some(secs(70.0)));
    voice.push(secs(60.0), sentence(0, "still warm", secs(60.0)), &mut out);
    voice.tick(secs(70.0), &mut out);
    assert!(matches!(&out[..], [Ask::Synthesize { .. }, Ask::End]), "{out:?}");
    voice.push(secs(71.0), sentence(1, "nobody", secs(71.0)), &mut out);
    assert_eq!((out.len(), voice.deadline()), (2, None));
}

#[test]
fn what_has_no_words_has_no_voice() {
    let (mut voice, mut out) = new();
    voice.push(T, sentence(0, "… !", T), &mut out);
    assert!(out.is_empty() && voice.is_idle());
}

#[test]
fn signs_take_longer_than_letters() {
    assert_eq!((weight("abc d"), weight("你好"), weight("こんにちは"), weight("안녕")), (5, 6, 15, 6));
}
