//! Faults on demand, and what tests can see of a stream.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aws_sdk_transcribestreaming::operation::start_stream_transcription::StartStreamTranscriptionError as Refused;
use local_cloud::transcribe::{Break, Chaos, How, Refuse, When};

use crate::harness::{PATIENCE, Talk, say, tones};

fn end(when: When, how: How) -> Option<Break> {
    Some(Break { when, how, once: true })
}

#[tokio::test]
async fn starts_are_refused_with_the_chosen_exception_and_then_work_again() {
    let server = tones().await;
    *server.transcribe.chaos() = Chaos { refuse_next: 1, refuse_with: Refuse::ServiceUnavailable, ..Chaos::default() };
    let refused = Talk::open(server.request()).await.err().unwrap();
    assert!(matches!(refused.as_service_error(), Some(Refused::ServiceUnavailableException(_))), "{refused:?}");
    assert_eq!(server.open().await.run(&say("yes")).await.text(), "yes");
}

#[tokio::test]
async fn an_answer_can_be_delayed() {
    let server = tones().await;
    server.transcribe.chaos().delay_ms = 300;
    let asked = Instant::now();
    server.open().await;
    assert!(asked.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn a_cut_is_no_clean_end_and_happens_once() {
    let server = tones().await;
    server.transcribe.chaos().end = end(When::Events(2), How::Cut);
    let said = server.open().await.run(&say("we go to the sea")).await;
    assert_eq!((said.results.len(), said.finals().len()), (2, 0));
    assert!(said.end.is_err());
    let said = server.open().await.run(&say("we go to the sea")).await;
    assert_eq!((said.text().as_str(), said.end), ("we go to the sea", Ok(())));
    assert_eq!(server.transcribe.counts().broken, 1);
}

#[tokio::test]
async fn a_clean_close_in_mid_sentence_has_no_exception_and_no_final() {
    let server = tones().await;
    server.transcribe.chaos().end = end(When::AudioMs(600), How::Close);
    let said = server.open().await.run(&say("we go to the sea")).await;
    assert_eq!((said.finals().len(), said.end), (0, Ok(())));
}

#[tokio::test]
async fn a_bad_frame_and_a_failure_are_errors_of_the_stream() {
    let server = tones().await;
    for how in [How::BadFrame, How::Fail] {
        server.transcribe.chaos().end = end(When::Events(1), how);
        let said = server.open().await.run(&say("we go")).await;
        let error = said.end.unwrap_err();
        assert_eq!(error.contains("InternalFailure"), how == How::Fail, "{error}");
    }
}

#[tokio::test]
async fn a_silent_server_takes_audio_and_says_nothing() {
    let server = tones().await;
    server.transcribe.chaos().silent = true;
    let talk = server.open().await;
    assert!(talk.feed(&say("we go to the sea")).await);
    let said = talk.rest().await;
    assert_eq!((said.results.len(), said.heartbeats, said.end), (0, 0, Ok(())));
    assert!(server.transcribe.counts().audio_ms > 1_500);
}

/// The test that tones are for: a cut stream, the audio since its last final replayed on a new one.
#[tokio::test]
async fn replayed_audio_says_its_words_again_and_nothing_else() {
    let server = tones().await;
    let pcm = say("one two three four five six");
    server.transcribe.chaos().end = end(When::AudioMs(900), How::Cut);
    let first = server.open().await.run(&pcm).await;
    assert!(first.end.is_err() && first.finals().is_empty());
    // Words are 250 ms apart: replayed from the third on.
    let second = server.open().await.run(&pcm[8_000..]).await;
    assert_eq!(second.text(), "three four five six");
}

#[tokio::test]
async fn observers_see_audio_arrive_and_events_leave() {
    let server = tones().await;
    type Seen = Vec<(&'static str, u64, u64)>;
    let seen: Arc<Mutex<Seen>> = Arc::default();
    let (audio, events) = (seen.clone(), seen.clone());
    server.transcribe.on_audio(Arc::new(move |stream, bytes, _| audio.lock().unwrap().push(("audio", stream, bytes))));
    server.transcribe.on_event(Arc::new(move |stream, n, _| events.lock().unwrap().push(("event", stream, n))));
    let before = Instant::now();
    let said = server.open().await.run(&say("yes")).await;
    let seen = seen.lock().unwrap().clone();
    let bytes = say("yes").len() as u64 * 2;
    assert_eq!(seen[0], ("audio", 0, 3_200));
    assert!(seen.contains(&("audio", 0, bytes)));
    assert!(seen.contains(&("event", 0, said.results.len() as u64)));
    let counts = server.transcribe.counts();
    assert_eq!((counts.started, counts.audio_bytes, counts.audio_ms), (1, bytes, bytes / 32));
    assert_eq!((counts.events, counts.finals), (said.results.len() as u64, 1));
    assert!(counts.last_audio.unwrap() >= before);
}

#[tokio::test]
async fn faults_can_be_set_from_outside_the_process() {
    let server = tones().await;
    let url = format!("{}/dev/transcribe", server.url);
    let client = crate::harness::http();
    let ask = |body: serde_json::Value| client.post(&url).json(&body).send();
    let answer = tokio::time::timeout(PATIENCE, ask(serde_json::json!({"chaos": {"silent": true}}))).await.unwrap();
    let shown: serde_json::Value = answer.unwrap().json().await.unwrap();
    assert_eq!(shown["chaos"]["silent"], true);
    assert!(server.transcribe.chaos().silent);
    assert_eq!(ask(serde_json::json!({"chaos": {"slient": true}})).await.unwrap().status().as_u16(), 400);
}
