use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;

/// 16 kHz mono WAV, as all these recordings are.
fn wav(path: &Path) -> Vec<i16> {
    let bytes = std::fs::read(path).unwrap();
    let mut at = 12;
    loop {
        let size = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap()) as usize;
        if &bytes[at..at + 4] == b"fmt " {
            assert_eq!(bytes[at + 10..at + 16], [1, 0, 0x80, 0x3e, 0, 0], "16 kHz mono: {}", path.display());
        }
        if &bytes[at..at + 4] == b"data" {
            let end = (at + 8 + size).min(bytes.len());
            return bytes[at + 8..end].chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect();
        }
        at += 8 + size + size % 2;
    }
}

/// The recording that comes with the source.
fn printing() -> Vec<i16> {
    wav(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo/printing.wav"))
}

/// The folder `shared/data` beside this repository or above it; machines without it test with what is in here.
fn recordings(folder: &str) -> Vec<PathBuf> {
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let Some(folder) = above.map(|up| up.join("shared/data").join(folder)).find(|folder| folder.is_dir()) else {
        eprintln!("no folder shared/data/{folder}: the recordings in the repository must do");
        return Vec::new();
    };
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "wav")).collect()
}

fn frames(samples: &[i16]) -> impl Iterator<Item = PcmFrame> {
    let frame = |(n, samples): (usize, &[i16])| PcmFrame {
        at: MediaTime::from_millis(n as u64 * 20),
        samples: samples.to_vec(),
        origin: Origin::Received,
    };
    samples.chunks(SLICE).enumerate().map(frame)
}

fn reports(samples: &[i16]) -> Vec<QualityReport> {
    let mut microphone = Microphone::default();
    frames(samples).filter_map(|frame| microphone.push(&frame).report).collect()
}

fn warnings(samples: &[i16]) -> BTreeSet<AudioWarning> {
    reports(samples).into_iter().flat_map(|report| report.warnings).collect()
}

fn louder(samples: &[i16], db: f32) -> Vec<i16> {
    let gain = 10f32.powf(db / 20.0);
    samples.iter().map(|sample| (f32::from(*sample) * gain).clamp(-32_768.0, 32_767.0) as i16).collect()
}

fn with_noise(samples: &[i16], amplitude: i32) -> Vec<i16> {
    let mut state = 0x2545_f491_u32;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) as i32 % (2 * amplitude + 1) - amplitude
    };
    samples.iter().map(|sample| (i32::from(*sample) + noise()).clamp(-32_768, 32_767) as i16).collect()
}

#[test]
fn a_clean_recording_gives_no_warning_and_what_is_done_to_it_does() {
    let clean = printing();
    assert!(clean.len() > 5 * SAMPLE_RATE as usize);
    for (what, samples, expected) in [
        ("clean", clean.clone(), None),
        ("loud", louder(&clean, 24.0), Some(AudioWarning::Clipping)),
        ("quiet", louder(&clean, -30.0), Some(AudioWarning::TooQuiet)),
        ("noise", with_noise(&clean, 2_000), Some(AudioWarning::Noisy)),
        ("nothing", vec![0; 5 * SAMPLE_RATE as usize], Some(AudioWarning::Silent)),
        ("a quiet room", with_noise(&vec![0; 20 * SAMPLE_RATE as usize], 20), Some(AudioWarning::Silent)),
    ] {
        assert_eq!(warnings(&samples), expected.into_iter().collect(), "{what}: {:?}", reports(&samples).last());
    }
}

#[test]
fn the_hard_recordings_are_warned_of_each_by_its_name() {
    for path in recordings("hard") {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let (kind, times) = match name.rsplit("--").next().unwrap() {
            "clip" => (AudioWarning::Clipping, 1),
            "quiet" => (AudioWarning::TooQuiet, 1),
            "white10" | "babble10" => (AudioWarning::Noisy, 2),
            "longsilence" => (AudioWarning::Silent, 1),
            "digital-silence" => (AudioWarning::Silent, 1),
            other => panic!("a new kind of recording: {other}"),
        };
        let samples = wav(&path).repeat(times);
        assert_eq!(warnings(&samples), BTreeSet::from([kind]), "{name}: {:?}", reports(&samples));
    }
}

#[test]
fn no_clean_recording_gives_a_warning() {
    for path in recordings("asr").into_iter().chain(recordings("long")) {
        let samples = wav(&path);
        assert_eq!(warnings(&samples), BTreeSet::new(), "{}: {:?}", path.display(), reports(&samples).last());
    }
}

#[test]
fn a_warning_is_taken_back_when_the_speaker_has_put_it_right_and_never_flickers() {
    let clean = printing();
    let mut samples = louder(&clean, 24.0);
    for _ in 0..2 {
        samples.extend(&clean);
    }
    let told: Vec<bool> =
        reports(&samples).iter().map(|report| report.warnings.contains(&AudioWarning::Clipping)).collect();
    let changes = told.windows(2).filter(|pair| pair[0] != pair[1]).count() + usize::from(told[0]);
    assert!(told.contains(&true) && !told.last().unwrap(), "{told:?}");
    assert_eq!(changes, 2, "given once, taken back once: {told:?}");
}

#[test]
fn reports_come_every_five_seconds_and_within_one_when_there_is_news() {
    let clean = printing().repeat(3);
    let mut microphone = Microphone::default();
    let due = frames(&clean).filter_map(|frame| microphone.push(&frame).report.map(|_| frame.end().as_millis()));
    let at: Vec<u64> = due.collect();
    assert_eq!(at[..3], [1_000, 6_000, 11_000]);
    let report = &reports(&clean)[1];
    assert!(report.snr_db.is_some_and(|snr| snr > CLEAN_DB), "{report:?}");
    assert!((-40.0..-10.0).contains(&report.rms_db) && report.peak_db > report.rms_db, "{report:?}");
}

#[test]
fn a_gap_in_the_media_is_no_silence_of_the_microphone() {
    let mut microphone = Microphone::default();
    let frame =
        |ms: u64| PcmFrame { at: MediaTime::from_millis(ms), samples: vec![0; SLICE], origin: Origin::Received };
    let times = (0..60).map(|n| n * 20).chain((0..60).map(|n| 60_000 + n * 20));
    let told: Vec<QualityReport> = times.filter_map(|ms| microphone.push(&frame(ms)).report).collect();
    assert!(!told.is_empty() && told.iter().all(|report| report.warnings.is_empty()), "{told:?}");
}

#[test]
fn a_pace_that_stays_high_is_too_fast_and_one_fast_sentence_is_not() {
    let mut pace = Pace::default();
    assert!(!pace.push(30, 5_000), "360 words a minute, but not for long");
    assert!(!pace.push(20, 8_000));
    for _ in 0..4 {
        pace.push(20, 5_000);
    }
    assert!(pace.is_too_fast(), "240");
    assert!(pace.push(19, 6_000), "190 is not slow enough to take it back");
    for _ in 0..3 {
        pace.push(10, 5_000);
    }
    assert!(!pace.is_too_fast());
}

proptest! {
    #[test]
    fn reports_stay_in_their_ranges_whatever_comes(
        parts in prop::collection::vec((any::<i16>(), 0i32..20_000, 1usize..80), 1..20)
    ) {
        let mut samples = Vec::new();
        for (level, noise, slices) in parts {
            samples.extend(with_noise(&vec![level; slices * SLICE], noise));
        }
        for report in reports(&samples) {
            prop_assert!((FLOOR_DB..=0.0).contains(&report.rms_db) && (FLOOR_DB..=0.0).contains(&report.peak_db));
            prop_assert!((0.0..=1.0).contains(&report.clipping_ratio));
            prop_assert!(report.snr_db.is_none_or(|snr| (0.0..=96.0).contains(&snr)));
            prop_assert!(report.warnings.is_sorted());
            prop_assert!(serde_json::to_string(&report).is_ok_and(|json| !json.contains("null")));
        }
    }
}
