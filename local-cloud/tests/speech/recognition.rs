//! The real recogniser on a real recording. Skips, with a printed reason, where the engine is not installed.

use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use aws_sdk_transcribestreaming::types::{Item, LanguageCode, PartialResultsStability};
use local_cloud::engine::pocketsphinx::PocketSphinx;
use local_cloud::engine::{Engine, EngineError};
use local_cloud::transcribe::Settings;
use local_cloud::wer::word_errors;
use local_cloud::{LocalCloud, StartError, polly};

use crate::harness::{Said, Server, Talk, http, serve};

/// A server with the real engine; None, with the reason printed, where the engine is not installed.
async fn real() -> Option<Server> {
    match ENGINE.as_ref() {
        Ok(engine) => Some(serve(Settings::new(Engine::PocketSphinx(engine.clone()))).await),
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    }
}

/// One for all tests: each would load a decoder to keep ready.
static ENGINE: LazyLock<Result<Arc<PocketSphinx>, EngineError>> = LazyLock::new(|| PocketSphinx::start(None));

/// The demo's recording, a professional reader: samples (16 kHz mono) of a stretch in ms, and some lines of its text.
fn reading(stretch: Range<usize>, lines: Range<usize>) -> (Vec<i16>, String) {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo");
    let wav = std::fs::read(demo.join("printing.wav")).unwrap();
    let pcm: Vec<i16> = wav[44..].chunks_exact(2).map(|b| i16::from_le_bytes([b[0], b[1]])).collect();
    let text = std::fs::read_to_string(demo.join("printing.txt")).unwrap();
    let text = text.lines().skip(lines.start).take(lines.len()).collect::<Vec<_>>().join("\n");
    (pcm[stretch.start * 16..stretch.end * 16].to_vec(), text)
}

fn stabilised(
    server: &Server,
    level: PartialResultsStability,
) -> aws_sdk_transcribestreaming::operation::start_stream_transcription::builders::StartStreamTranscriptionFluentBuilder
{
    server.request().enable_partial_results_stabilization(true).partial_results_stability(level)
}

/// What a client was promised never changes: neither text nor times, up to and including the final.
fn check_promises(said: &Said) -> usize {
    let mut promised: Vec<Item> = Vec::new();
    let (mut segment, mut promises) = (String::new(), 0);
    for result in &said.results {
        if result.result_id() != Some(&segment) {
            (segment, promised) = (result.result_id().unwrap().to_owned(), Vec::new());
        }
        let items = result.alternatives()[0].items();
        let face = |item: &Item| (item.content().unwrap().to_owned(), item.start_time, item.end_time);
        assert!(items.len() >= promised.len(), "{promised:?} became {items:?}");
        for (old, new) in promised.iter().zip(items) {
            assert_eq!((face(old), new.stable()), (face(new), Some(true)));
        }
        promised = items.iter().take_while(|item| item.stable() == Some(true)).cloned().collect();
        if result.is_partial {
            promises = promises.max(promised.len());
        } else {
            assert_eq!(promised.len(), items.len(), "all of a final is stable");
        }
    }
    promises
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_sentence_is_mostly_understood_and_promises_are_kept() {
    let Some(server) = real().await else { return };
    let (mut pcm, text) = reading(0..9_655, 0..1);
    pcm.extend([0; 12_000]);
    let talk = Talk::open(stabilised(&server, PartialResultsStability::High)).await.unwrap();
    let said = talk.run(&pcm).await;
    said.end.as_ref().unwrap();
    let errors = word_errors(&text, &said.text());
    assert!(errors.rate() <= 0.35, "{errors:?}: {}", said.text());
    assert!(check_promises(&said) > 5, "words are promised while the sentence grows");
    assert!(said.text().starts_with(char::is_uppercase) && said.text().ends_with('.'));
    let first = &said.results[0];
    assert!(first.is_partial && first.start_time < 0.3, "{first:?}");
    let last = said.results.last().unwrap().alternatives()[0].items();
    assert!(last.iter().zip(&last[1..]).all(|(a, b)| a.end_time <= b.start_time + 0.011), "{last:?}");
    assert!((last.last().unwrap().end_time - 9.5).abs() < 0.4, "times are those of the recording");
}

#[tokio::test(flavor = "multi_thread")]
async fn continuous_reading_is_cut_into_utterances_without_losing_words() {
    let Some(server) = real().await else { return };
    let (pcm, text) = reading(0..36_000, 0..5);
    let talk = Talk::open(stabilised(&server, PartialResultsStability::High)).await.unwrap();
    let said = talk.run(&pcm).await;
    check_promises(&said);
    let errors = word_errors(&text, &said.text());
    assert!(errors.rate() <= 0.35, "{errors:?}: {}", said.text());
    let finals: Vec<_> = said.results.iter().filter(|r| !r.is_partial).collect();
    assert!(finals.len() >= 3 && finals.iter().all(|f| f.end_time - f.start_time <= 12.5), "{:?}", said.finals());
    assert!(finals.windows(2).all(|f| f[0].end_time <= f[1].start_time + 0.2), "segments do not overlap");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vocabulary_made_from_the_script_brings_the_words_out() {
    let Some(server) = real().await else { return };
    let (pcm, text) = reading(22_100..27_700, 3..4);
    let (_, script) = reading(0..0, 0..9);
    let body = serde_json::json!({
        "VocabularyName": "talk", "LanguageCode": "en-US", "Phrases": [script, "xyzzyplugh"],
    });
    let made = server.transcribe.json_rpc("CreateVocabulary", body.to_string().as_bytes());
    assert_eq!(made.status().as_u16(), 200);
    let talk = Talk::open(server.request().vocabulary_name("talk")).await.unwrap();
    assert_eq!(talk.output.vocabulary_name(), Some("talk"));
    let said = talk.run(&pcm).await;
    let errors = word_errors(&text, &said.text());
    assert!(errors.rate() <= 0.2, "{errors:?}: {}", said.text());
}

/// What local-cloud's Polly says, local-cloud's Transcribe understands: the sound is the text.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_spoken_here_is_understood_here() {
    let Some(server) = real().await else { return };
    let settings =
        local_cloud::Settings { polly: Some(polly::Settings::default()), ..local_cloud::Settings::default() };
    let cloud = match LocalCloud::start(settings).await {
        Ok(cloud) => cloud,
        Err(StartError::Polly(error @ polly::EngineError::NotInstalled(_))) => return eprintln!("skipped: {error}"),
        Err(error) => panic!("{error}"),
    };
    let (_, text) = reading(0..0, 0..4);
    let body = serde_json::json!({ "VocabularyName": "said", "LanguageCode": "en-US", "Phrases": [text] });
    assert_eq!(server.transcribe.json_rpc("CreateVocabulary", body.to_string().as_bytes()).status().as_u16(), 200);
    let order = serde_json::json!({
        "Text": text, "VoiceId": "Joanna", "Engine": "neural", "OutputFormat": "pcm", "SampleRate": "16000",
    });
    let spoken = http().post(format!("{}/v1/speech", cloud.http_url())).json(&order).send().await.unwrap();
    assert_eq!(spoken.status(), 200);
    let pcm = spoken.bytes().await.unwrap();
    let pcm: Vec<i16> = pcm.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect();
    let said = Talk::open(server.request().vocabulary_name("said")).await.unwrap().run(&pcm).await;
    let errors = word_errors(&text, &said.text());
    assert!(errors.rate() <= 0.25, "{errors:?}: {}", said.text());
}

#[tokio::test]
async fn a_language_the_engine_does_not_know_is_refused() {
    let Some(server) = real().await else { return };
    let refused = Talk::open(server.request().language_code(LanguageCode::DeDe)).await.err().unwrap();
    assert!(format!("{refused:?}").contains("BadRequestException"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn digital_silence_gives_no_results() {
    let Some(server) = real().await else { return };
    let said = server.open().await.run(&[0; 16_000 * 5]).await;
    assert!(said.results.is_empty() && said.end.is_ok() && said.heartbeats > 0);
}
