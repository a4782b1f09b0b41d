//! Polly as an official SDK sees it, over the shared ports.

use std::time::Duration;

use aws_sdk_polly::Client;
use aws_sdk_polly::config::retry::RetryConfig;
use aws_sdk_polly::config::{BehaviorVersion, Region};
use aws_sdk_polly::error::ProvideErrorMetadata;
use aws_sdk_polly::operation::synthesize_speech::SynthesizeSpeechError;
use aws_sdk_polly::operation::synthesize_speech::builders::SynthesizeSpeechFluentBuilder;
use aws_sdk_polly::types::{Engine, LanguageCode, OutputFormat, SpeechMarkType, TextType, VoiceId};
use local_cloud::LocalCloud;
use local_cloud::polly::voices::VOICES;
use local_cloud::polly::{Chaos, EngineSettings, Fault, Polly, Quotas, Scripted, Settings};
use serde_json::{Value, json};

use crate::harness::{SECRET, browser, credentials, start};

#[tokio::test]
async fn voices_come_page_by_page_with_what_they_can_do() {
    let cloud = cloud().await;
    let client = client(&cloud);
    let (mut voices, mut pages, mut token) = (Vec::new(), 0, None);
    loop {
        let page = client.describe_voices().set_next_token(token).send().await.expect("a page");
        pages += 1;
        voices.extend(page.voices().to_vec());
        token = page.next_token().map(str::to_owned);
        if token.is_none() {
            break;
        }
    }
    assert_eq!(pages, 3);
    assert_eq!(voices.len(), VOICES.len());
    let kajal = voices.iter().find(|voice| voice.id() == Some(&VoiceId::Kajal)).expect("Kajal");
    assert_eq!(kajal.language_code(), Some(&LanguageCode::EnIn));
    assert_eq!(kajal.additional_language_codes(), [LanguageCode::HiIn]);
    assert_eq!(kajal.supported_engines(), [Engine::Neural, Engine::Generative]);
    let unknown = voices.iter().filter(|voice| !VoiceId::values().contains(&voice.id().expect("an id").as_str()));
    assert_eq!(unknown.count(), 0, "the SDK knows every id");
    assert_eq!(
        voices.iter().filter(|voice| voice.gender().is_none() || voice.supported_engines().is_empty()).count(),
        0
    );
}

#[tokio::test]
async fn voices_are_found_by_engine_and_language() {
    let cloud = cloud().await;
    let client = client(&cloud);
    let ids = async |request: aws_sdk_polly::operation::describe_voices::builders::DescribeVoicesFluentBuilder| {
        let mut ids: Vec<String> = Vec::new();
        for voice in request.send().await.expect("voices").voices() {
            ids.push(voice.id().expect("an id").as_str().to_owned());
        }
        ids
    };
    let hindi = || client.describe_voices().language_code(LanguageCode::HiIn);
    assert_eq!(ids(hindi()).await, Vec::<String>::new());
    assert_eq!(ids(hindi().include_additional_language_codes(true)).await, ["Aditi", "Kajal"]);
    let neural = hindi().include_additional_language_codes(true).engine(Engine::Neural);
    assert_eq!(ids(neural).await, ["Kajal"]);
    let odd = client.describe_voices().next_token("x").send().await.expect_err("refused").into_service_error();
    assert!(odd.is_invalid_next_token_exception());
}

#[tokio::test]
async fn a_text_is_spoken_and_its_characters_are_counted() {
    let cloud = cloud().await;
    let client = client(&cloud);
    let mut answer = ask(&client).text("0123456789").sample_rate("8000").send().await.expect("spoken");
    assert_eq!((answer.content_type(), answer.request_characters()), (Some("audio/pcm"), 10));
    let body = std::mem::take(&mut answer.audio_stream).collect().await.expect("a body").into_bytes();
    assert_eq!(body.len(), 10 * 65 * 8 * 2, "65 ms a character");
    let ssml = "<speak>a &amp; b<break time=\"1s\"/></speak>";
    let answer = ask(&client).text(ssml).text_type(TextType::Ssml).send().await.expect("spoken");
    assert_eq!(answer.request_characters(), 5);
    assert_eq!(polly(&cloud).traffic()["en-US"].characters, 15);
    let opus = ask(&client).output_format(OutputFormat::OggOpus).send().await.expect("spoken");
    assert_eq!(opus.content_type(), Some("audio/ogg"));
    let body = opus.audio_stream.collect().await.expect("a body").into_bytes();
    assert!(body.starts_with(b"OggS"));
}

#[tokio::test]
async fn each_refusal_is_the_exception_that_the_sdk_knows() {
    type Is = fn(&SynthesizeSpeechError) -> bool;
    let cloud = cloud().await;
    let client = client(&cloud);
    let ssml = |text: &str| ask(&client).text(text).text_type(TextType::Ssml);
    let cases: [(SynthesizeSpeechFluentBuilder, Is); 8] = [
        (ssml("<speak><prosody pitch=\"+5%\">Hi.</prosody></speak>"), |e| e.is_invalid_ssml_exception()),
        (ask(&client).text("a".repeat(3_001)), |e| e.is_text_length_exceeded_exception()),
        (ask(&client).engine(Engine::LongForm), |e| e.is_engine_not_supported_exception()),
        (ask(&client).language_code(LanguageCode::DeDe), |e| e.is_language_not_supported_exception()),
        (ask(&client).sample_rate("44100"), |e| e.is_invalid_sample_rate_exception()),
        (ask(&client).lexicon_names("mine"), |e| e.is_lexicon_not_found_exception()),
        (ask(&client).speech_mark_types(SpeechMarkType::Word), |e| e.is_marks_not_supported_for_format_exception()),
        (
            ask(&client).output_format(OutputFormat::Json).speech_mark_types(SpeechMarkType::Ssml),
            SynthesizeSpeechError::is_ssml_marks_not_supported_for_text_type_exception,
        ),
    ];
    for (request, is) in cases {
        let error = request.send().await.expect_err("refused").into_service_error();
        assert!(is(&error), "{error:?}");
    }
    let unknown = ask(&client).voice_id("Nobody".into()).send().await.expect_err("refused").into_service_error();
    assert_eq!(unknown.code(), Some("ValidationException"));
    assert!(polly(&cloud).traffic().is_empty(), "what is refused is not billed");
    assert_eq!(polly(&cloud).refused()["InvalidSsmlException"], 1);
}

#[tokio::test]
async fn a_wrong_secret_is_refused() {
    let cloud = cloud().await;
    let client = client_with(&cloud, "wrong");
    let refused = ask(&client).send().await.expect_err("refused");
    assert_eq!(refused.code(), Some("InvalidSignatureException"));
    let refused = client.describe_voices().language_code(LanguageCode::HiIn).send().await.expect_err("refused");
    assert_eq!(refused.code(), Some("InvalidSignatureException"));
}

#[tokio::test]
async fn failures_come_as_ordered_and_are_counted() {
    let cloud = cloud().await;
    let client = client(&cloud);
    for (fault, code) in [
        (Fault::Throttling, "ThrottlingException"),
        (Fault::ServiceFailure, "ServiceFailureException"),
        (Fault::InvalidSsml, "InvalidSsmlException"),
    ] {
        polly(&cloud).set_chaos(Chaos { fail_next: 1, fault, ..Chaos::default() });
        let error = ask(&client).send().await.expect_err("refused");
        assert_eq!(error.code(), Some(code));
        ask(&client).send().await.expect("spoken again");
    }
    let traffic = polly(&cloud).traffic()["en-US"];
    assert_eq!((traffic.requests, traffic.failures), (6, 3));
    polly(&cloud).set_chaos(Chaos { error_rate: 1.0, language: Some("de-DE".to_owned()), ..Chaos::default() });
    ask(&client).send().await.expect("another language is left alone");
    ask(&client).voice_id(VoiceId::Vicki).send().await.expect_err("refused");
}

#[tokio::test]
async fn half_a_body_is_seen_as_broken() {
    let cloud = cloud().await;
    polly(&cloud).set_chaos(Chaos { cut_next: 1, ..Chaos::default() });
    let answer = ask(&client(&cloud)).text("a long text ".repeat(20)).send().await.expect("the head is fine");
    assert!(answer.audio_stream.collect().await.is_err());
}

#[tokio::test]
async fn a_body_that_stalls_goes_no_further_than_its_half() {
    let cloud = cloud().await;
    polly(&cloud).set_chaos(Chaos { stall_next: 1, ..Chaos::default() });
    let mut answer = ask(&client(&cloud)).text("0123456789").send().await.expect("the head is fine");
    let mut heard = 0;
    while let Ok(Some(piece)) = tokio::time::timeout(Duration::from_millis(500), answer.audio_stream.next()).await {
        heard += piece.expect("a piece").len();
    }
    assert_eq!(heard, 10 * 65 * 16 * 2 / 2);
}

#[tokio::test]
async fn quotas_throttle_each_engine_for_itself() {
    let cloud = cloud_with(|settings| settings.quotas = Some(Quotas::default())).await;
    let client = client(&cloud);
    let mut throttled = 0;
    for _ in 0..30 {
        throttled += u32::from(ask(&client).text("a").send().await.is_err());
    }
    assert!(throttled > 0, "30 neural requests at once");
    assert_eq!(polly(&cloud).refused()["ThrottlingException"], u64::from(throttled));
    ask(&client).engine(Engine::Standard).text("a").send().await.expect("another engine has its own");
}

#[tokio::test]
async fn faults_can_be_ordered_from_outside_the_process() {
    let cloud = cloud().await;
    let url = format!("{}/dev/polly", cloud.http_url());
    let order = json!({ "chaos": { "failNext": 2, "fault": "throttling" } });
    let answer: Value = browser().post(&url).json(&order).send().await.expect("an answer").json().await.expect("json");
    assert_eq!(answer["chaos"]["failNext"], 2);
    let error = ask(&client(&cloud)).send().await.expect_err("refused");
    assert_eq!(error.code(), Some("ThrottlingException"));
    let seen: Value = browser().get(&url).send().await.expect("an answer").json().await.expect("json");
    assert_eq!((&seen["chaos"]["failNext"], &seen["refused"]["ThrottlingException"]), (&json!(1), &json!(1)));
    let typo = browser().post(&url).json(&json!({ "chaos": { "failNxt": 2 } })).send().await.expect("an answer");
    assert_eq!(typo.status(), 400);
}

async fn cloud() -> LocalCloud {
    cloud_with(|_| {}).await
}

async fn cloud_with(change: impl FnOnce(&mut Settings)) -> LocalCloud {
    let mut polly = Settings { engine: EngineSettings::Scripted(Scripted::default()), ..Settings::default() };
    change(&mut polly);
    start(|settings| settings.polly = Some(polly)).await
}

fn polly(cloud: &LocalCloud) -> &Polly {
    cloud.polly().expect("Polly is on")
}

fn client(cloud: &LocalCloud) -> Client {
    client_with(cloud, SECRET)
}

fn client_with(cloud: &LocalCloud, secret: &str) -> Client {
    let config = aws_sdk_polly::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(credentials(secret))
        .retry_config(RetryConfig::disabled())
        .endpoint_url(cloud.http_url())
        .build();
    Client::from_conf(config)
}

fn ask(client: &Client) -> SynthesizeSpeechFluentBuilder {
    let request = client.synthesize_speech().text("Hello.").voice_id(VoiceId::Matthew);
    request.engine(Engine::Neural).output_format(OutputFormat::Pcm)
}
