use proptest::prelude::*;

use super::*;

fn measure(voice: Voice, seconds: f32) -> Measure {
    Measure { loudness: Some(-20.0), voiced_seconds: seconds, voiced_ratio: 0.6, voice: Some(voice) }
}

/// The speaker of these tests, `by` spreads away from their usual self in what arousal changes.
fn stirred(by: f32) -> Voice {
    let at = |i: usize| SHIPPED.usual[i] + by * SHIPPED.spread[i];
    let usual = |i: usize| SHIPPED.usual[i];
    Voice { pitch: at(0), spread: at(1), slope: usual(2), tilt: at(3), centroid: at(4), clarity: usual(5) }
}

fn acquainted() -> Judge {
    let mut judge = Judge::default();
    for _ in 0..20 {
        let _ = judge.feel(&measure(stirred(0.0), 2.0));
    }
    judge
}

#[test]
fn without_a_voice_nothing_is_felt_and_nothing_learned() {
    let mut judge = acquainted();
    let before = judge.usual;
    let feeling = judge.feel(&Measure::default());
    assert_eq!(feeling, Feeling { emotion: Emotion::Neutral, confidence: 0.0, arousal: None });
    assert_eq!(judge.usual, before);
}

#[test]
fn a_raised_and_strained_voice_is_stirred_and_a_lowered_slack_one_is_not() {
    let judge = acquainted();
    let arousal = |by| judge.clone().feel(&measure(stirred(by), 2.0)).arousal.unwrap();
    let (high, usual, low) = (arousal(1.5), arousal(0.0), arousal(-1.5));
    assert!(high > 0.6 && low < -0.6 && usual.abs() < 0.05, "{high} {usual} {low}");
    let said = |by| judge.clone().feel(&measure(stirred(by), 2.0)).emotion;
    assert!(matches!(said(2.0), Emotion::Excited | Emotion::Angry | Emotion::Happy), "{:?}", said(2.0));
    assert!(matches!(said(-2.0), Emotion::Calm | Emotion::Sad), "{:?}", said(-2.0));
}

#[test]
fn the_first_words_are_judged_with_less_confidence_than_later_ones() {
    let first = Judge::default().feel(&measure(stirred(2.0), 0.6));
    let later = acquainted().feel(&measure(stirred(2.0), 0.6));
    assert!(first.arousal.unwrap() < later.arousal.unwrap(), "{first:?} {later:?}");
}

#[test]
fn somebody_who_always_speaks_high_is_in_time_no_longer_stirred() {
    let mut judge = Judge::default();
    let first = judge.feel(&measure(stirred(2.0), 2.0)).arousal.unwrap();
    let last = (0..30).map(|_| judge.feel(&measure(stirred(2.0), 2.0)).arousal.unwrap()).last().unwrap();
    assert!(first > 0.2 && last < 0.4 && last < first + 0.1, "{first} {last}");
}

#[test]
fn a_new_speaker_is_got_used_to_after_two_minutes_of_the_old_one() {
    let mut judge = acquainted();
    for _ in 0..100 {
        let _ = judge.feel(&measure(stirred(0.0), 3.0));
    }
    for _ in 0..120 {
        let _ = judge.feel(&measure(stirred(3.0), 3.0));
    }
    assert!(judge.feel(&measure(stirred(3.0), 3.0)).arousal.unwrap() < 0.5);
}

#[test]
fn loudness_is_no_feature() {
    let judge = acquainted();
    let said = |loudness| judge.clone().feel(&Measure { loudness, ..measure(stirred(1.0), 2.0) });
    assert_eq!(said(Some(-50.0)), said(Some(-5.0)));
}

#[test]
fn what_is_unclear_is_neutral_with_little_confidence() {
    let unclear = Scores { arousal: 0.1, classes: [0.4, 0.3, 0.1, 0.2], trust: 0.8 }.feeling();
    assert!(unclear.emotion == Emotion::Neutral && unclear.confidence < 0.25, "{unclear:?}");
    let unheard = Scores { arousal: 0.0, classes: [0.9, 0.0, 0.1, 0.0], trust: 0.2 }.feeling();
    assert!(unheard.emotion == Emotion::Neutral && unheard.confidence < 0.1, "{unheard:?}");
    let words = [
        ([0.8, 0.1, 0.05, 0.05], 0.8, Emotion::Angry),
        ([0.1, 0.8, 0.05, 0.05], 0.8, Emotion::Happy),
        ([0.05, 0.05, 0.1, 0.8], -0.8, Emotion::Sad),
        ([0.2, 0.2, 0.4, 0.2], 0.0, Emotion::Neutral),
        ([0.2, 0.2, 0.4, 0.2], -0.8, Emotion::Calm),
        ([0.46, 0.46, 0.04, 0.04], 0.8, Emotion::Excited),
        ([0.04, 0.04, 0.16, 0.76], -0.3, Emotion::Sad),
        ([0.04, 0.04, 0.22, 0.7], -0.3, Emotion::Calm),
    ];
    for (classes, arousal, word) in words {
        assert_eq!(Scores { arousal, classes, trust: 0.95 }.feeling().emotion, word, "{classes:?}");
    }
}

#[test]
fn feelings_have_the_contracts_names() {
    let names = serde_json::to_string(&[Emotion::Calm, Emotion::Neutral, Emotion::Happy, Emotion::Excited]).unwrap();
    assert_eq!(names, r#"["calm","neutral","happy","excited"]"#);
    assert_eq!(serde_json::to_string(&[Emotion::Sad, Emotion::Angry]).unwrap(), r#"["sad","angry"]"#);
}

fn any_number() -> impl Strategy<Value = f32> {
    prop_oneof![4 => -200.0..200.0f32, 1 => any::<f32>(), 1 => Just(f32::NAN), 1 => Just(f32::INFINITY), 1 => Just(f32::MAX)]
}

proptest! {
    #[test]
    fn whatever_is_measured_the_verdict_is_in_its_ranges(
        measures in prop::collection::vec((prop::array::uniform6(any_number()), any_number()), 1..20),
    ) {
        let mut judge = Judge::default();
        for ([pitch, spread, slope, tilt, centroid, clarity], seconds) in measures {
            let measure = measure(Voice { pitch, spread, slope, tilt, centroid, clarity }, seconds);
            if let Some(scores) = judge.clone().scores(&measure) {
                prop_assert!((scores.classes.iter().sum::<f32>() - 1.0).abs() < 1e-3, "{scores:?}");
            }
            let feeling = judge.feel(&measure);
            prop_assert!((0.0..=1.0).contains(&feeling.confidence), "{feeling:?}");
            prop_assert!(feeling.arousal.is_none_or(|arousal| (-1.0..=1.0).contains(&arousal)), "{feeling:?}");
            prop_assert!(judge.usual.iter().all(|usual| usual.is_finite()) && judge.known.is_finite());
        }
    }
}
