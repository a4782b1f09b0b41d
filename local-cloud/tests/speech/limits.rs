//! Time and number: idle streams, too many, the same twice, too long.

use std::time::Duration;

use aws_sdk_transcribestreaming::operation::start_stream_transcription::StartStreamTranscriptionError as Refused;
use aws_sdk_transcribestreaming::types::{LanguageCode, MediaEncoding};
use local_cloud::engine::Engine;
use local_cloud::engine::tones::Tones;
use local_cloud::transcribe::Settings;

use crate::harness::{Talk, say, serve, tones};

fn settings() -> Settings {
    Settings::new(Engine::Tones(Tones))
}

#[tokio::test]
async fn a_stream_without_audio_times_out() {
    let server = serve(Settings { idle: Duration::from_millis(300), ..settings() }).await;
    let mut talk = server.open().await;
    assert!(talk.feed(&say("one")).await);
    assert_eq!(crate::harness::transcript(&talk.next().await.unwrap().unwrap()), "one");
    let error = loop {
        match talk.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("no exception"),
            Err(error) => break error,
        }
    };
    assert!(error.contains("Your request timed out because no new audio was received for 0.3 seconds."), "{error}");
    assert_eq!(server.transcribe.counts().exceptions, 1);
}

#[tokio::test]
async fn the_service_s_own_idle_text_names_15_seconds() {
    assert_eq!(settings().idle, Duration::from_secs(15));
    assert_eq!(format!("{} seconds", settings().idle.as_secs_f64()), "15 seconds");
}

#[tokio::test]
async fn one_stream_more_than_allowed_is_refused_and_a_closed_one_makes_room() {
    let server = serve(Settings { max_streams: 2, ..settings() }).await;
    let (one, two) = (server.open().await, server.open().await);
    let refused = Talk::open(server.request()).await.err().unwrap();
    assert!(matches!(refused.as_service_error(), Some(Refused::LimitExceededException(_))), "{refused:?}");
    assert_eq!(refused.raw_response().unwrap().status().as_u16(), 429);
    let audio = one.abandon();
    two.rest().await.end.unwrap();
    let deadline = tokio::time::Instant::now() + crate::harness::PATIENCE;
    while server.transcribe.counts().open > 0 {
        assert!(tokio::time::Instant::now() < deadline, "dropped streams give their seat back");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(audio);
    server.open().await;
    assert_eq!(server.transcribe.counts().abandoned, 1);
}

#[tokio::test]
async fn a_second_stream_with_the_same_session_id_ends_the_first() {
    let server = tones().await;
    let id = "0a1b2c3d-0000-4000-8000-00112233aabb";
    let mut first = Talk::open(server.request().session_id(id)).await.unwrap();
    let second = Talk::open(server.request().session_id(id)).await.unwrap();
    let error = first.next().await.unwrap_err();
    assert!(error.contains("ConflictException"), "{error}");
    let said = second.run(&say("yes")).await;
    assert_eq!((said.text().as_str(), said.end), ("yes", Ok(())));
}

#[tokio::test]
async fn an_event_of_more_than_a_second_is_refused() {
    let server = tones().await;
    let (audio, frames) = tokio::sync::mpsc::channel(2);
    let stream = tokio_stream::wrappers::ReceiverStream::new(frames);
    audio.send(Ok(crate::harness::event(&[0; 16_001]))).await.unwrap();
    let output = server.request().audio_stream(stream.into()).send().await.unwrap();
    let error = output.transcript_result_stream;
    let error = { error }.recv().await.unwrap_err();
    assert!(format!("{error:?}").contains("1 second"), "{error:?}");
}

#[tokio::test]
async fn a_stream_ends_at_the_longest_duration() {
    let server = serve(Settings { max_duration: Duration::from_millis(200), ..settings() }).await;
    let error = server.open().await.next().await.unwrap_err();
    assert!(error.contains("LimitExceededException"), "{error}");
}

#[tokio::test]
async fn what_is_not_served_is_refused_with_its_reason() {
    let server = tones().await;
    let refused = Talk::open(server.request().media_encoding(MediaEncoding::Flac)).await.err().unwrap();
    let Some(Refused::BadRequestException(reason)) = refused.as_service_error() else { panic!("{refused:?}") };
    assert!(reason.message().unwrap().contains("pcm only"));
    let refused = Talk::open(server.request().media_sample_rate_hertz(4_000)).await.err().unwrap();
    assert!(matches!(refused.as_service_error(), Some(Refused::BadRequestException(_))));
    let refused = Talk::open(server.request().vocabulary_name("unknown")).await.err().unwrap();
    assert!(format!("{refused:?}").contains("vocabulary couldn't be found"));
    assert!(Talk::open(server.request().language_code(LanguageCode::DeDe)).await.is_ok(), "tones know no language");
    assert_eq!(server.transcribe.counts().refused, 3);
}

#[tokio::test]
async fn a_48_khz_stream_is_heard_too() {
    let server = tones().await;
    let pcm = Tones.say("four five six", 48_000).unwrap();
    let talk = Talk::open(server.request().media_sample_rate_hertz(48_000)).await.unwrap();
    let said = talk.run(&pcm).await;
    assert_eq!(said.text(), "four five six");
    assert!((said.results.last().unwrap().end_time - 0.7).abs() < 0.1);
}
