//! What is heard: the engines and the formats. What goes over the wire is tested from outside, in `tests/it`.
//! Where espeak-ng or lame is not installed, their part is skipped with a printed reason.

use super::engine::Engine as Maker;
use super::ssml::Speech;
use super::voices::Engine;
use super::*;

#[tokio::test]
async fn every_voice_of_the_service_can_be_heard() {
    let Some(polly) = real().await else { return };
    assert_eq!(polly.voices().count(), VOICES.len(), "espeak-ng speaks every language of Polly");
    let mut seen = std::collections::BTreeSet::new();
    for voice in polly.voices().filter(|voice| seen.insert((voice.language, voice.gender as u8))) {
        let sound = polly.engine.speak(voice, voice.language, &Speech::plain("1 2 3")).await.unwrap();
        assert!(sound.samples.len() > 8_000 && level(&sound) > -50.0, "{} {}", voice.id, voice.language);
    }
    assert!(seen.len() > 40);
}

#[tokio::test]
async fn the_markup_is_really_heard() {
    let Some(polly) = real().await else { return };
    heard(&polly.engine).await;
    heard(&Maker::Scripted(Scripted::default())).await;
}

/// Rates, volumes, pitches and pauses of the markup, measured in the sound.
async fn heard(engine: &Maker) {
    let hear = async |attributes: &str| {
        let text = "The meeting has been moved to Thursday, because the train was late.";
        let ssml = match attributes.is_empty() {
            true => format!("<speak>{text}</speak>"),
            false => format!("<speak><prosody {attributes}>{text}</prosody></speak>"),
        };
        speak(engine, &ssml).await
    };
    let plain = hear("").await;
    let seconds = |sound: &Sound| sound.samples.len() as f32 / sound.rate as f32;
    let (fast, slow) = (hear("rate=\"150%\"").await, hear("rate=\"70%\"").await);
    let (fast, slow) = (seconds(&fast) / seconds(&plain), seconds(&slow) / seconds(&plain));
    assert!((fast * 1.5 - 1.0).abs() < 0.06 && (slow * 0.7 - 1.0).abs() < 0.06, "{fast} {slow}");
    let (loud, soft) = (hear("volume=\"+6dB\"").await, hear("volume=\"-6dB\"").await);
    let above = |sound: &Sound| level(sound) - level(&plain);
    assert!((5.0..7.0).contains(&above(&loud)), "{}", above(&loud));
    assert!((-7.0..-5.0).contains(&above(&soft)), "{}", above(&soft));
    assert!(above(&hear("volume=\"silent\"").await) < -30.0);
    let (high, low) = (hear("pitch=\"+15%\"").await, hear("pitch=\"-15%\"").await);
    let (high, plain, low) = (pitch(&high), pitch(&plain), pitch(&low));
    assert!((1.1..1.2).contains(&(high / plain)) && (0.8..0.9).contains(&(low / plain)), "{low} {plain} {high}");
}

#[tokio::test]
async fn a_pause_lasts_as_long_as_it_says() {
    let Some(polly) = real().await else { return };
    for engine in [&polly.engine, &Maker::Scripted(Scripted::default())] {
        let short = speak(engine, "<speak>One<break time=\"100ms\"/>two</speak>").await;
        let long = speak(engine, "<speak>One<break time=\"1100ms\"/>two</speak>").await;
        let more = (long.samples.len() - short.samples.len()) as f32 / long.rate as f32;
        assert!((0.8..1.2).contains(&more), "{more}");
    }
}

#[tokio::test]
async fn women_and_men_sound_different() {
    let Some(polly) = real().await else { return };
    for engine in [&polly.engine, &Maker::Scripted(Scripted::default())] {
        let speech = Speech::plain("The meeting has been moved.");
        let hear = async |id| engine.speak(Voice::find(id).unwrap(), "en-US", &speech).await.unwrap();
        let (woman, man) = (pitch(&hear("Joanna").await), pitch(&hear("Matthew").await));
        assert!(woman > 1.2 * man, "{woman} {man}");
    }
}

#[tokio::test]
async fn every_format_is_as_long_as_the_sound() {
    let speech = Speech::plain("The meeting has been moved to Thursday.");
    let sound = Scripted::default().speak(Voice::find("Amy").unwrap(), &speech);
    let ms = sound.samples.len() * 1_000 / sound.rate as usize;

    for rate in [8_000, 16_000] {
        let pcm = sound::encode(sound.clone(), Format::Pcm, rate).await.unwrap();
        assert!((pcm.len() * 500 / rate as usize).abs_diff(ms) <= 1);
    }
    for rate in [8_000, 16_000, 22_050, 24_000, 44_100, 48_000] {
        let mp3 = match sound::encode(sound.clone(), Format::Mp3, rate).await {
            Ok(mp3) => mp3,
            Err(error @ EngineError::NotInstalled(_)) => {
                eprintln!("skipped: {error}");
                break;
            }
            Err(error) => panic!("{error}"),
        };
        let (found, mp3_ms) = mp3_length(&mp3);
        assert_eq!(found, rate);
        // Whole frames of up to 72 ms, and the encoder's own delay.
        assert!((ms..ms + 250).contains(&mp3_ms), "{rate}: {mp3_ms} of {ms}");
    }
    let opus = sound::encode(sound.clone(), Format::OggOpus, 48_000).await.unwrap();
    let decoded = decode_ogg(&opus);
    assert!((decoded.samples.len() / 48).abs_diff(ms) <= 1, "{} of {ms}", decoded.samples.len() / 48);
    assert!((level(&decoded) - level(&sound)).abs() < 1.0);
    assert!((pitch(&decoded) / pitch(&sound) - 1.0).abs() < 0.02);
}

#[tokio::test]
async fn no_sound_at_all_is_a_valid_file_too() {
    let sound = Sound { rate: 24_000, samples: vec![] };
    assert_eq!(sound::encode(sound.clone(), Format::Pcm, 16_000).await, Ok(vec![]));
    let opus = sound::encode(sound, Format::OggOpus, 48_000).await.unwrap();
    assert!(decode_ogg(&opus).samples.is_empty());
}

#[tokio::test]
async fn a_format_nobody_makes_here_is_told() {
    for format in [Format::OggVorbis, Format::Mulaw, Format::Alaw, Format::Marks] {
        let sound = Sound { rate: 24_000, samples: vec![0; 100] };
        assert!(matches!(sound::encode(sound, format, 8_000).await, Err(EngineError::NoSuchFormat(_))));
    }
}

#[tokio::test]
async fn a_program_that_is_missing_fails_or_hangs_is_told_apart() {
    let start = async |program: &str, timeout_ms| {
        let settings = EspeakSettings { program: program.into(), timeout_ms };
        Polly::start(&Settings { engine: EngineSettings::Espeak(settings), ..Settings::default() }).await.err().unwrap()
    };
    assert_eq!(start("/no/such/program", 10_000).await, EngineError::NotInstalled("espeak-ng"));
    assert!(matches!(start("/bin/false", 10_000).await, EngineError::Failed { .. }));
    let endless =
        child::run("yes", std::path::Path::new("yes"), &["x"], b"", 1_000, std::time::Duration::from_secs(10));
    assert!(matches!(endless.await, Err(EngineError::Failed { .. })));
    let asleep =
        child::run("sleep", std::path::Path::new("sleep"), &["60"], b"", 1_000, std::time::Duration::from_millis(50));
    assert_eq!(asleep.await, Err(EngineError::TimedOut("sleep")));
}

/// With espeak-ng; `None`, with the reason printed, where it is not installed.
async fn real() -> Option<Polly> {
    match Polly::start(&Settings::default()).await {
        Ok(polly) => Some(polly),
        Err(error @ EngineError::NotInstalled(_)) => {
            eprintln!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

async fn speak(engine: &Maker, ssml: &str) -> Sound {
    let voice = Voice::find("Matthew").unwrap();
    let speech = ssml::read(ssml, Engine::Standard, voice).unwrap();
    engine.speak(voice, "en-US", &speech).await.unwrap()
}

/// Root mean square of what is not silence, in dB below full scale.
fn level(sound: &Sound) -> f32 {
    let loud: Vec<f32> =
        sound.samples.iter().map(|sample| f32::from(*sample)).filter(|sample| sample.abs() > 8.0).collect();
    let power = loud.iter().map(|sample| sample * sample).sum::<f32>() / loud.len().max(1) as f32;
    10.0 * (power.max(1e-3) / (32_768.0 * 32_768.0)).log10()
}

/// The median of the fundamental frequency in Hz, by autocorrelation.
fn pitch(sound: &Sound) -> f32 {
    let rate = sound.rate as f32;
    let (least, most) = ((rate / 400.0) as usize, (rate / 60.0) as usize);
    let mut found: Vec<f32> = sound
        .samples
        .chunks_exact(3 * most)
        .filter_map(|frame| {
            let frame: Vec<f32> = frame.iter().map(|sample| f32::from(*sample)).collect();
            let alike = |lag: usize| frame.iter().zip(&frame[lag..]).take(2 * most).map(|(a, b)| a * b).sum::<f32>();
            let all = alike(0);
            let scores: Vec<f32> = (least..=most).map(alike).collect();
            let best = scores.iter().copied().fold(0.0, f32::max);
            // The first that is nearly the best: its multiples are as good.
            let lag = scores.iter().position(|score| *score > 0.9 * best)?;
            let top = lag
                + scores[lag..]
                    .iter()
                    .take_while(|score| **score > 0.9 * best)
                    .enumerate()
                    .max_by(|a, b| a.1.total_cmp(b.1))?
                    .0;
            (all > 1e6 && best > 0.5 * all).then(|| rate / (least + top) as f32)
        })
        .collect();
    found.sort_by(f32::total_cmp);
    assert!(found.len() > 5, "voiced frames");
    found[found.len() / 2]
}

/// Sample rate and length in ms of a file of MP3 frames and nothing else.
fn mp3_length(file: &[u8]) -> (u32, usize) {
    let (mut at, mut samples, mut rate) = (0, 0, 0);
    while at + 4 <= file.len() {
        let head = u32::from_be_bytes([file[at], file[at + 1], file[at + 2], file[at + 3]]);
        assert_eq!(head >> 21, 0x7ff, "a frame at {at} of {}", file.len());
        let version = (head >> 19) & 3;
        assert_eq!((head >> 17) & 3, 1, "layer III");
        let (divider, per_frame, bit_rates) = match version {
            3 => (1, 1_152, [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320]),
            2 => (2, 576, [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160]),
            _ => (4, 576, [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160]),
        };
        rate = [44_100, 48_000, 32_000][((head >> 10) & 3) as usize] / divider;
        let bits = bit_rates[((head >> 12) & 15) as usize] * 1_000;
        at += per_frame / 8 * bits / rate as usize + ((head >> 9) & 1) as usize;
        samples += per_frame;
    }
    (rate, samples * 1_000 / rate as usize)
}

fn decode_ogg(file: &[u8]) -> Sound {
    let mut reader = ogg::PacketReader::new(std::io::Cursor::new(file));
    let head = reader.read_packet().unwrap().unwrap().data;
    assert_eq!(&head[..10], b"OpusHead\x01\x01");
    let skip = usize::from(u16::from_le_bytes([head[10], head[11]]));
    assert!(reader.read_packet().unwrap().unwrap().data.starts_with(b"OpusTags"));
    let mut decoder = opus::Decoder::new(48_000, opus::Channels::Mono).unwrap();
    let (mut samples, mut last) = (Vec::new(), 0);
    while let Some(packet) = reader.read_packet().unwrap() {
        let mut frame = [0; 5_760];
        let count = decoder.decode(&packet.data, &mut frame, false).unwrap();
        samples.extend_from_slice(&frame[..count]);
        last = packet.absgp_page() as usize;
    }
    samples.truncate(last);
    Sound { rate: 48_000, samples: samples.split_off(skip) }
}
