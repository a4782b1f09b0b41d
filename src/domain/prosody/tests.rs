use proptest::prelude::*;

use super::*;
use crate::audio::SAMPLE_RATE;
use crate::transcript::Word;

const SECOND: usize = SAMPLE_RATE as usize;

/// One second or more of a sound given by its phase in turns, as 20 ms frames.
fn sound(seconds: f64, wave: impl Fn(f64) -> f64) -> Vec<i16> {
    (0..(seconds * SECOND as f64) as usize).map(|i| wave(i as f64 / SECOND as f64) as i16).collect()
}

fn sine(hz: f64, amplitude: f64) -> Vec<i16> {
    sound(1.0, |t| amplitude * (std::f64::consts::TAU * hz * t).sin())
}

/// Something like a voice: harmonics that fall off, at a pitch of `hz(t)`.
fn voice(seconds: f64, amplitude: f64, hz: impl Fn(f64) -> f64) -> Vec<i16> {
    let mut phase = 0.0;
    let samples = (0..(seconds * SECOND as f64) as usize).map(|i| {
        phase += hz(i as f64 / SECOND as f64) / SECOND as f64;
        let wave: f64 = (1..12).map(|k| (phase * f64::from(k) * std::f64::consts::TAU).sin() / f64::from(k * k)).sum();
        (wave * amplitude) as i16
    });
    samples.collect()
}

/// The same every time.
fn noise(seconds: f64, amplitude: f64) -> Vec<i16> {
    let mut state = 1u64;
    sound(seconds, |_| 0.0)
        .iter()
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (((state >> 33) as f64 / f64::from(1u32 << 30) - 1.0) * amplitude) as i16
        })
        .collect()
}

fn heard(samples: &[i16]) -> Prosody {
    let mut prosody = Prosody::default();
    push(&mut prosody, MediaTime::ZERO, samples, Origin::Received);
    prosody
}

/// Pushes 20 ms frames and gives the end of the last.
fn push(prosody: &mut Prosody, mut at: MediaTime, samples: &[i16], origin: Origin) -> MediaTime {
    for part in samples.chunks(320) {
        let frame = PcmFrame { at, samples: part.to_vec(), origin };
        prosody.push(&frame);
        at = frame.end();
    }
    at
}

const EVER: MediaTime = MediaTime::from_millis(u64::MAX / 2_000);

fn measure(samples: &[i16]) -> Measure {
    heard(samples).over(MediaTime::ZERO, EVER)
}

fn sane(measure: &Measure) -> bool {
    let voice = measure.voice.is_none_or(|voice| {
        voice.features().iter().all(|feature| feature.is_finite())
            && (59.0..=620.0).contains(&voice.pitch_hz())
            && (0.0..=OCTAVES).contains(&voice.spread)
            && (0.0..=1.0).contains(&voice.clarity)
    });
    voice
        && measure.loudness.is_none_or(|loudness| (LOUDNESS_FLOOR..=10.0).contains(&loudness))
        && (0.0..=1.0).contains(&measure.voiced_ratio)
        && (0.0..=61.0).contains(&measure.voiced_seconds)
}

const OCTAVES: f32 = 20.0;

#[test]
fn tones_have_their_pitch_to_half_a_percent() {
    for hz in [65.0, 80.0, 100.0, 123.4, 200.0, 261.6, 350.0, 440.0, 523.3, 600.0] {
        let found = measure(&sine(hz, 8_000.0)).voice.unwrap();
        assert!((f64::from(found.pitch_hz()) / hz - 1.0).abs() < 0.005, "{hz}: {found:?}");
        assert!(found.clarity > 0.9 && found.spread < 0.1, "{hz}: {found:?}");
    }
}

#[test]
fn a_voices_harmonics_are_not_taken_for_its_pitch() {
    for hz in [75.0, 110.0, 180.0, 250.0, 400.0] {
        let found = measure(&voice(1.0, 6_000.0, |_| hz));
        assert!((f64::from(found.voice.unwrap().pitch_hz()) / hz - 1.0).abs() < 0.01, "{hz}: {found:?}");
        assert!(found.voiced_ratio > 0.95, "{hz}: {found:?}");
    }
}

#[test]
fn a_gliding_voice_has_its_slope_up_and_down() {
    for octaves in [0.5, 1.0, -0.5, -1.0f64] {
        let found = measure(&voice(1.5, 6_000.0, |t| 180.0 * (octaves * t / 1.5).exp2())).voice.unwrap();
        let wanted = 12.0 * octaves / 1.5;
        assert!((f64::from(found.slope) - wanted).abs() < 0.5, "{wanted}: {found:?}");
    }
}

#[test]
fn silence_has_no_voice_and_no_loudness() {
    for samples in [vec![0; SECOND], vec![1; SECOND], vec![], vec![0; 3]] {
        let found = measure(&samples);
        assert_eq!((found.voice, found.loudness, found.voiced_ratio), (None, None, 0.0));
    }
}

#[test]
fn noise_is_hardly_ever_a_voice() {
    for amplitude in [20.0, 1_000.0, 30_000.0] {
        assert!(measure(&noise(3.0, amplitude)).voiced_ratio < 0.05, "{amplitude}");
    }
}

#[test]
fn gain_changes_the_loudness_and_nothing_else() {
    let glide = |t: f64| 150.0 + 40.0 * (t * 6.0).sin();
    let (loud, quiet) = (measure(&voice(2.0, 12_000.0, glide)), measure(&voice(2.0, 1_200.0, glide)));
    let off = loud.loudness.unwrap() - quiet.loudness.unwrap();
    assert!((off - 20.0).abs() < 0.1, "{off}");
    let (loud, quiet) = (loud.voice.unwrap().features(), quiet.voice.unwrap().features());
    assert!(loud.iter().zip(quiet).all(|(a, b)| (a - b).abs() < 0.15), "{loud:?} {quiet:?}");
}

#[test]
fn a_brighter_voice_has_more_tilt_and_a_higher_centre() {
    let dull = voice(1.0, 6_000.0, |_| 150.0);
    let hiss = voice(1.0, 3_000.0, |_| 1_500.0);
    let bright: Vec<i16> = dull.iter().zip(&hiss).map(|(a, b)| a.saturating_add(*b)).collect();
    let (dull, bright) = (measure(&dull).voice.unwrap(), measure(&bright).voice.unwrap());
    assert!(bright.tilt > dull.tilt + 3.0 && bright.centroid > dull.centroid + 0.5, "{dull:?} {bright:?}");
}

#[test]
fn the_standards_reference_tone_is_as_loud_as_the_standard_says() {
    // BS.1770: a full-scale sine of 997 Hz in one channel is -3.01 LKFS; 100 Hz is weighted down by about 1.1 dB.
    let full = measure(&sine(997.0, 32_767.0)).loudness.unwrap();
    let low = measure(&sine(100.0, 32_767.0)).loudness.unwrap();
    assert!((full + 3.01).abs() < 0.1, "{full}");
    assert!((-5.5..-4.3).contains(&low), "{low}");
}

#[test]
fn pauses_do_not_make_an_utterance_quieter() {
    let mut samples = sine(500.0, 8_000.0);
    let without = measure(&samples).loudness.unwrap();
    samples.extend(vec![0; 3 * SECOND]);
    let with = measure(&samples).loudness.unwrap();
    assert!((with - without).abs() < 0.3, "{with} {without}");
}

#[test]
fn the_momentary_loudness_forgets_after_400_ms() {
    let mut prosody = heard(&sine(997.0, 32_767.0));
    assert!((prosody.momentary().unwrap() + 3.01).abs() < 0.2);
    push(&mut prosody, MediaTime::from_millis(1_000), &vec![0; SECOND / 2], Origin::Received);
    assert!(prosody.momentary().unwrap() < -60.0);
    assert_eq!(Prosody::default().momentary(), None);
}

#[test]
fn a_clipped_voice_keeps_its_pitch() {
    let rails = sound(1.0, |t| if (t * 160.0).fract() < 0.5 { 32_767.0 } else { -32_768.0 });
    let found = measure(&rails);
    assert!(sane(&found) && (found.voice.unwrap().pitch_hz() - 160.0).abs() < 2.0, "{found:?}");
}

#[test]
fn every_utterance_has_its_own_measure() {
    let mut prosody = Prosody::default();
    let first = push(&mut prosody, MediaTime::from_millis(500), &voice(1.0, 6_000.0, |_| 110.0), Origin::Received);
    let second = push(&mut prosody, first, &voice(1.0, 6_000.0, |_| 220.0), Origin::Received);
    let hz = |from, to| prosody.over(from, to).voice.map(|voice| voice.pitch_hz().round());
    assert_eq!(hz(MediaTime::ZERO, first), Some(110.0));
    assert_eq!(hz(first, second), Some(220.0));
    assert_eq!(hz(second, EVER), None);
    assert_eq!(hz(second, first), None);
}

#[test]
fn what_is_longer_ago_than_a_minute_is_forgotten() {
    let mut prosody = heard(&voice(2.0, 6_000.0, |_| 110.0));
    let at = push(&mut prosody, MediaTime::from_millis(2_000), &vec![0; 70 * SECOND], Origin::Received);
    assert_eq!(prosody.over(MediaTime::ZERO, at).voice, None);
    assert_eq!(prosody.slices.len(), KEPT);
}

#[test]
fn what_the_decoder_made_up_is_not_measured() {
    let mut prosody = Prosody::default();
    let at = push(&mut prosody, MediaTime::ZERO, &voice(0.5, 6_000.0, |_| 110.0), Origin::Received);
    let at = push(&mut prosody, at, &voice(0.5, 6_000.0, |_| 300.0), Origin::Concealed);
    let at = push(&mut prosody, at, &voice(0.5, 6_000.0, |_| 110.0), Origin::Corrected);
    let found = prosody.over(MediaTime::ZERO, at);
    assert!(found.voice.unwrap().spread < 0.5 && (0.8..1.0).contains(&found.voiced_seconds), "{found:?}");
}

#[test]
fn a_hole_in_the_clock_is_kept_and_what_comes_again_is_ignored() {
    let mut prosody = heard(&voice(1.0, 6_000.0, |_| 110.0));
    let later = MediaTime::from_millis(5_000);
    push(&mut prosody, later, &voice(1.0, 6_000.0, |_| 220.0), Origin::Received);
    let slices = prosody.slices.len();
    push(&mut prosody, MediaTime::from_millis(2_000), &voice(1.0, 6_000.0, |_| 300.0), Origin::Received);
    assert_eq!(prosody.slices.len(), slices);
    assert_eq!(prosody.over(later, EVER).voice.unwrap().pitch_hz().round(), 220.0);
    assert_eq!(prosody.over(MediaTime::from_millis(1_100), later), Measure::default());
}

#[test]
fn pace_is_words_a_minute_without_the_punctuation() {
    let word = |start: u64, end: u64, punctuation| Word {
        text: "so".into(),
        punctuation,
        start: MediaTime::from_millis(start),
        end: MediaTime::from_millis(end),
        stable: true,
        confidence: None,
    };
    let words = [word(0, 300, false), word(400, 900, false), word(900, 900, true), word(1_000, 1_500, false)];
    assert_eq!(pace(&words), Some(120.0));
    assert_eq!(pace(&words[..2]), None);
    assert_eq!(pace(&[word(7, 7, false), word(7, 7, false), word(7, 7, false)]), None);
    assert_eq!(pace(&[]), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_frames_give_numbers_in_their_ranges(
        frames in prop::collection::vec(
            (0u64..70_000, prop::collection::vec(prop_oneof![any::<i16>(), Just(i16::MAX), Just(i16::MIN), Just(0)], 0..2_000), 0u8..4),
            0..30,
        ),
        from in 0u64..400_000, to in 0u64..400_000,
    ) {
        let mut prosody = Prosody::default();
        let mut at = 0;
        for (step, samples, origin) in frames {
            let origin = [Origin::Received, Origin::Corrected, Origin::Concealed, Origin::Silence][usize::from(origin)];
            // Mostly in order with small holes, sometimes far ahead, sometimes back.
            let length = samples.len() as u64 * 1_000_000 / SECOND as u64;
            prosody.push(&PcmFrame { at: MediaTime::from_micros(at), samples, origin });
            at = if step % 7 == 0 { at / 2 } else if step % 5 == 0 { at + step * 10 } else { at + length };
        }
        let found = prosody.over(MediaTime::from_millis(from.min(to)), MediaTime::from_millis(from.max(to)));
        prop_assert!(sane(&found), "{found:?}");
        prop_assert!(sane(&prosody.over(MediaTime::ZERO, EVER)));
        prop_assert!(prosody.momentary().is_none_or(|loudness| (LOUDNESS_FLOOR..=10.0).contains(&loudness)));
        prop_assert!(prosody.slices.iter().zip(prosody.slices.iter().skip(1)).all(|(a, b)| a.at < b.at));
    }

    #[test]
    fn how_the_audio_is_cut_into_frames_changes_nothing(cuts in prop::collection::vec(40usize..1_920, 1..20)) {
        let samples = voice(0.6, 6_000.0, |t| 120.0 + 60.0 * t);
        let mut prosody = Prosody::default();
        let (mut from, mut cut) = (0, cuts.iter().cycle());
        while from < samples.len() {
            let to = (from + cut.next().unwrap()).min(samples.len());
            let at = MediaTime::from_samples(from as u64);
            prosody.push(&PcmFrame { at, samples: samples[from..to].to_vec(), origin: Origin::Received });
            from = to;
        }
        prop_assert_eq!(prosody.over(MediaTime::ZERO, EVER), measure(&samples));
    }

    #[test]
    fn a_voice_of_any_pitch_and_level_is_found(hz in 70.0..480.0f64, amplitude in 60.0..14_000.0f64) {
        let found = measure(&voice(0.4, amplitude, |_| hz)).voice.unwrap();
        prop_assert!((f64::from(found.pitch_hz()) / hz - 1.0).abs() < 0.02, "{} {:?}", hz, found);
    }
}
