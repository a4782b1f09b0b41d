//! Voices and speech against the local cloud; and every markup the house can write against its strict reader.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use babelcast_domain::emotion::Emotion;
use babelcast_domain::language::Language;
use babelcast_domain::record::QualityTier;
use babelcast_domain::ssml::{self, Delivery, Script};
use babelcast_domain::voices::{Choice, Engine, Preferences, Voices};
use babelcast_domain::wire::AudioFormat;
use futures_util::StreamExt;
use local_cloud::polly::{self as cloud_polly, Chaos, EngineSettings, Fault, Polly, Scripted, SynthesizeSpeech};
use proptest::prelude::*;

use super::fake::{self, Fake};
use super::polly::{PollyError, speak, voices};
use super::{Clients, Settings};

const EMOTIONS: [Emotion; 6] =
    [Emotion::Calm, Emotion::Neutral, Emotion::Happy, Emotion::Excited, Emotion::Sad, Emotion::Angry];

#[tokio::test]
async fn every_voice_of_the_service_is_known_with_its_languages_and_engines() {
    let (cloud, clients, _fake) = cloud(patient()).await;
    let known = voices(&clients).await.unwrap();
    assert_eq!(known.len(), cloud.voices().count(), "none is lost between the pages or by an unknown code");
    let voices = Voices::new(known, Preferences::default());
    let choose = |language: &str, tier| {
        let choice = voices.choose(&Language::parse(language).unwrap(), tier, None).unwrap();
        (choice.voice, choice.engine, choice.tongue.code)
    };
    let expected = |voice: &str, engine, code: &str| (voice.to_owned(), engine, code.to_owned());
    assert_eq!(choose("es", QualityTier::Standard), expected("Lucia", Engine::Neural, "es-ES"));
    assert_eq!(choose("fr-CA", QualityTier::Premium), expected("Gabrielle", Engine::Generative, "fr-CA"));
    assert_eq!(choose("zh-TW", QualityTier::Premium), expected("Zhiyu", Engine::Neural, "cmn-CN"));
    assert_eq!(choose("no", QualityTier::Standard), expected("Ida", Engine::Neural, "nb-NO"));
    assert_eq!(choose("hi", QualityTier::Standard), expected("Kajal", Engine::Neural, "hi-IN"));
    assert_eq!(choose("ru", QualityTier::Premium).1, Engine::Standard);
    assert!(!voices.speak(&Language::parse("uk").unwrap()));
}

#[tokio::test]
async fn a_sentence_is_spoken_in_each_format() {
    let (cloud, clients, _fake) = cloud(patient()).await;
    let script = script("Hello & <you>.");
    for (format, rate, head) in [(AudioFormat::Opus, 48_000, "OggS"), (AudioFormat::Pcm, 16_000, "")] {
        let spoken = speak(&clients, &script, &amy(), format).await.unwrap();
        assert_eq!((spoken.format, spoken.sample_rate, spoken.characters), (format, rate, 14));
        assert!(spoken.audio.starts_with(head.as_bytes()));
        assert!(!format!("{spoken:?}").contains("Hello"));
    }
    let pcm = speak(&clients, &script, &amy(), AudioFormat::Pcm).await.unwrap();
    assert_eq!(pcm.audio.len(), 14 * 65 * 16 * 2);
    assert_eq!(cloud.traffic()["en-GB"].requests, 3);
    assert!(cloud.refused().is_empty());
    match speak(&clients, &script, &amy(), AudioFormat::Mp3).await {
        Ok(mp3) => assert_eq!((mp3.sample_rate, mp3.audio[0]), (24_000, 0xff)),
        Err(PollyError::Unavailable(why)) if why.contains("not installed") => eprintln!("skipped: {why}"),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_passing_fault_costs_one_more_attempt() {
    for chaos in [
        Chaos { fail_next: 1, fault: Fault::Throttling, ..Chaos::default() },
        Chaos { fail_next: 1, fault: Fault::ServiceFailure, ..Chaos::default() },
        Chaos { cut_next: 1, ..Chaos::default() },
    ] {
        let (cloud, clients, _fake) = cloud(patient()).await;
        cloud.set_chaos(chaos.clone());
        speak(&clients, &script("Hello."), &amy(), AudioFormat::Pcm)
            .await
            .unwrap_or_else(|error| panic!("{chaos:?} {error}"));
        assert_eq!(cloud.traffic()["en-GB"].requests, 2);
    }
}

#[tokio::test]
async fn a_body_that_stalls_is_given_up_for_another_attempt() {
    let settings = Settings { polly_attempt_timeout_ms: 1_000, polly_timeout_ms: 20_000, ..Settings::default() };
    let (cloud, clients, _fake) = cloud(settings).await;
    cloud.set_chaos(Chaos { stall_next: 1, ..Chaos::default() });
    speak(&clients, &script("Hello."), &amy(), AudioFormat::Pcm).await.unwrap();
    assert_eq!(cloud.traffic()["en-GB"].requests, 2);
}

#[tokio::test]
async fn a_lasting_fault_is_told_by_its_kind() {
    let (cloud, clients, _fake) = cloud(patient()).await;
    let fail = async |fault| {
        cloud.set_chaos(Chaos { error_rate: 1.0, fault, ..Chaos::default() });
        speak(&clients, &script("Hello."), &amy(), AudioFormat::Pcm).await.unwrap_err()
    };
    let throttled = fail(Fault::Throttling).await;
    assert!(throttled == PollyError::Throttled && throttled.retryable());
    let failed = fail(Fault::ServiceFailure).await;
    assert!(matches!(failed, PollyError::Unavailable(_)) && failed.retryable(), "{failed:?}");
    assert_eq!(cloud.traffic()["en-GB"].requests, 4);
    let refused = fail(Fault::InvalidSsml).await;
    assert!(matches!(refused, PollyError::InvalidSsml(_)) && !refused.retryable(), "{refused:?}");
    assert_eq!(cloud.traffic()["en-GB"].requests, 5, "the same markup is not refused twice");
    cloud.set_chaos(Chaos { cut_next: 2, ..Chaos::default() });
    let half = speak(&clients, &script("Hello."), &amy(), AudioFormat::Opus).await.unwrap_err();
    assert!(matches!(half, PollyError::Unavailable(_)), "half a sentence is not played: {half:?}");
}

#[tokio::test]
async fn what_the_voice_cannot_do_is_told_at_once() {
    let (cloud, clients, _fake) = cloud(patient()).await;
    let scripts = ssml::scripts("Hello.", Delivery::PLAIN, 100, Engine::LongForm);
    let error = speak(&clients, &scripts[0], &amy(), AudioFormat::Pcm).await.unwrap_err();
    assert!(matches!(error, PollyError::Unsupported(_)) && !error.retryable(), "{error:?}");
    let nobody = Choice { voice: "Nobody".to_owned(), ..amy() };
    let error = speak(&clients, &script("Hello."), &nobody, AudioFormat::Pcm).await.unwrap_err();
    assert!(matches!(error, PollyError::Unsupported(_)), "{error:?}");
    assert!(cloud.traffic().is_empty());
}

#[tokio::test]
async fn a_silent_service_is_given_up_in_time() {
    let settings = Settings { polly_attempt_timeout_ms: 200, polly_timeout_ms: 500, ..Settings::default() };
    let (cloud, clients, _fake) = cloud(settings).await;
    cloud.set_chaos(Chaos { hang: true, ..Chaos::default() });
    let before = Instant::now();
    let error = speak(&clients, &script("Hello."), &amy(), AudioFormat::Pcm).await.unwrap_err();
    assert_eq!(error, PollyError::Timeout);
    assert!(before.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn what_is_no_sound_or_too_much_of_it_is_no_sentence() {
    let endless = || async {
        let pieces = futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![0_u8; 1 << 20])).take(64);
        ([("content-type", "audio/pcm")], Body::from_stream(pieces))
    };
    let page = || async { ([("content-type", "text/html")], "<html>") };
    let empty = || async { ([("content-type", "audio/pcm")], "") };
    let odd = || async { ([("content-type", "audio/pcm")], "abc") };
    let settings = || Settings {
        polly_attempt_timeout_ms: 9_000,
        polly_timeout_ms: 9_000,
        polly_attempts: 1,
        ..Settings::default()
    };
    for (router, why) in [
        (post(endless), "more than 19200000 bytes of sound"),
        (post(page), "an answer that is no audio: text/html"),
        (post(empty), "0 bytes are no sound"),
        (post(odd), "3 bytes are no sound"),
    ] {
        let fake = Fake::serve(Router::new().route("/v1/speech", router)).await;
        let clients = fake.clients(settings()).await;
        let error = speak(&clients, &script("Hello."), &amy(), AudioFormat::Pcm).await.unwrap_err();
        assert_eq!(error, PollyError::Unavailable(why.to_owned()));
    }
}

#[tokio::test]
async fn nobody_listening_is_unavailable() {
    let clients = fake::clients("http://127.0.0.1:1", Settings::default()).await;
    let error = speak(&clients, &script("Hello."), &amy(), AudioFormat::Pcm).await.unwrap_err();
    assert!(matches!(error, PollyError::Unavailable(_)), "{error:?}");
    let error = voices(&clients).await.unwrap_err();
    assert!(matches!(error, PollyError::Unavailable(_)), "{error:?}");
}

#[tokio::test]
async fn a_wrong_key_is_denied() {
    let settings = local_cloud::Settings {
        secret: Some("another".to_owned().into()),
        polly: Some(scripted()),
        ..local_cloud::Settings::default()
    };
    let cloud = local_cloud::LocalCloud::start(settings).await.unwrap();
    let clients = fake::clients(&cloud.http_url(), Settings::default()).await;
    let error = speak(&clients, &script("Hello."), &amy(), AudioFormat::Pcm).await.unwrap_err();
    assert!(matches!(error, PollyError::Denied(_)) && !error.retryable(), "{error:?}");
    assert!(matches!(voices(&clients).await, Err(PollyError::Denied(_))));
}

/// Every emotion, arousal, confidence, engine and rate over every text: not one is refused.
#[test]
fn no_markup_the_house_can_write_is_refused() {
    const RATES: [u16; 8] = [100, 0, 10, 80, 115, 135, 200, u16::MAX];
    let mut written = 0;
    for text in hostile_texts() {
        // What is cut into many requests is cut alike at every pace.
        let rates = if text.len() > 1_000 { &RATES[..1] } else { &RATES[..] };
        for engine in Engine::ALL {
            let mut seen = std::collections::BTreeSet::new();
            for delivery in deliveries() {
                for rate in rates {
                    for script in ssml::scripts(&text, delivery, *rate, engine) {
                        if seen.insert(script.as_str().to_owned()) {
                            admitted(&script).unwrap_or_else(|why| panic!("{why}: {}", script.as_str()));
                            written += 1;
                        }
                    }
                }
            }
        }
    }
    assert!(written > 10_000, "{written}");
}

fn deliveries() -> Vec<Delivery> {
    let mut deliveries = vec![
        Delivery::PLAIN,
        Delivery { rate: f32::NAN, volume_db: f32::INFINITY, pitch_percent: f32::NEG_INFINITY },
        Delivery { rate: -3.0, volume_db: -90.0, pitch_percent: 900.0 },
    ];
    for emotion in EMOTIONS {
        for arousal in [-1.0, -0.5, -0.1, 0.0, 0.1, 0.5, 1.0] {
            deliveries.extend([0.0, 0.5, 1.0].map(|confidence| Delivery::of(emotion, arousal, confidence)));
        }
    }
    deliveries
}

fn hostile_texts() -> Vec<String> {
    let mut texts: Vec<String> = [
        "Hello you.",
        "No full stop",
        "</speak><speak>",
        "</prosody></speak>",
        "<break time=\"10s\"/>",
        "<prosody pitch=\"+50%\">high</prosody>",
        "<amazon:effect name=\"whispered\">psst</amazon:effect>",
        "<!DOCTYPE speak [<!ENTITY a SYSTEM \"file:///etc/passwd\">]>&a;",
        "<![CDATA[ x ]]> ]]>",
        "<!-- x --> -- <?xml version=\"1.0\"?>",
        "&amp; &lt; &#0; &#xFFFF; & && a&b;",
        "5 < 6 > 4 \"quoted\" 'single'",
        "a\u{0}b\u{1}c\u{8}d\u{b}e\u{c}f\u{1b}[31mg\u{7f}h\u{85}i\u{9f}j",
        "x\u{FFFE}\u{FFFF}\u{FFFD}\u{1FFFE}\u{10FFFF}",
        "right \u{202e}left\u{202c} \u{200b}zero\u{feff}width",
        "e\u{301}\u{301}\u{301} 👩‍👩‍👧‍👦 🇨🇭 1",
        "Grüße, ça va? ¿Qué tal? Привет. مرحبا. שלום. नमस्ते। สวัสดี 一句话。日本語。한국어.",
        "line\nline\r\nline\ttab\u{2028}separator",
        "[[phonemes]] {{mustache}} ${shell} `tick` %s %n \\u0000",
        "   spaces   ",
    ]
    .map(str::to_owned)
    .to_vec();
    texts.push("<".repeat(2_000) + "a");
    texts.push("&'\"<>a".repeat(1_500));
    texts.push("word ".repeat(2_000));
    texts.push("A sentence. ".repeat(800));
    texts.push("字".repeat(9_000));
    texts
}

/// What the service would say to it, without the service.
fn admitted(script: &Script) -> Result<(), cloud_polly::Problem> {
    let voice = match script.engine() {
        Engine::Standard => "Joanna",
        Engine::Neural => "Stephen",
        Engine::LongForm => "Gregory",
        Engine::Generative => "Tiffany",
    };
    let some = |text: &str| Some(text.to_owned());
    let request = SynthesizeSpeech {
        engine: some(script.engine().as_str()),
        output_format: some("pcm"),
        text: some(script.as_str()),
        text_type: some("ssml"),
        voice_id: some(voice),
        ..SynthesizeSpeech::default()
    };
    let order = request.check()?;
    assert_eq!(order.speech.characters, script.characters(), "both count the same");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn no_text_at_all_makes_markup_that_is_refused(
        text in proptest::collection::vec(any::<char>(), 0..300),
        copies in 1_usize..20,
        (rate, volume_db, pitch_percent, percent) in any::<(f32, f32, f32, u16)>(),
    ) {
        let text = text.into_iter().collect::<String>().repeat(copies);
        for engine in Engine::ALL {
            for script in ssml::scripts(&text, Delivery { rate, volume_db, pitch_percent }, percent, engine) {
                let admitted = admitted(&script);
                prop_assert!(admitted.is_ok(), "{:?}", admitted);
            }
        }
    }

    #[test]
    fn text_made_of_markup_stays_text(pieces in proptest::collection::vec(
        proptest::sample::select(vec![
            "<", ">", "&", "\"", "'", "/", "!", "--", "[CDATA[", "]]>", "speak", "prosody", " pitch=", "amp;", "#x0;", "a", " ",
        ]),
        0..80,
    )) {
        let text = pieces.concat();
        for script in ssml::scripts(&text, Delivery::of(Emotion::Excited, 1.0, 1.0), 100, Engine::Generative) {
            let admitted = admitted(&script);
            prop_assert!(admitted.is_ok(), "{:?}", admitted);
        }
    }
}

fn script(text: &str) -> Script {
    let mut scripts = ssml::scripts(text, Delivery::PLAIN, 100, Engine::Neural);
    assert_eq!(scripts.len(), 1);
    scripts.remove(0)
}

fn amy() -> Choice {
    let tongue = babelcast_domain::voices::Tongue::parse("en-GB").unwrap();
    Choice { voice: "Amy".to_owned(), engine: Engine::Neural, tongue }
}

fn scripted() -> cloud_polly::Settings {
    let engine = EngineSettings::Scripted(Scripted::default());
    cloud_polly::Settings { engine, ..cloud_polly::Settings::default() }
}

/// For tests of what is answered, not how fast: a busy machine must not turn it into a timeout.
fn patient() -> Settings {
    Settings { polly_attempt_timeout_ms: 10_000, polly_timeout_ms: 20_000, ..Settings::default() }
}

async fn cloud(settings: Settings) -> (Arc<Polly>, Clients, Fake) {
    let cloud = Arc::new(Polly::start(&scripted()).await.unwrap());
    let fake = Fake::serve(Arc::clone(&cloud).router()).await;
    let clients = fake.clients(settings).await;
    (cloud, clients, fake)
}
