//! The recogniser dies in mid-sentence, closes cleanly, refuses, falls silent or grows old (S8): no final lost or doubled.

use std::time::Duration;

use babelcast_domain::counts::Count;
use babelcast_domain::error::ErrorCode;
use babelcast_domain::ids::SessionId;
use babelcast_domain::wire::{GapReason, ServerMessage};
use local_cloud::transcribe::{Break, How, Refuse, When};

use crate::house::{House, Seated, Speaker, until};

const FIRST: &str = "we go to the old house on the river .";
const SECOND: &str = "tomorrow you come to the new city .";
const HEARD: [&str; 2] = ["we go to the old house on the river.", "tomorrow you come to the new city."];

/// Says two sentences and hears both, each once and whole, in both languages.
async fn two_sentences(house: &House, id: &SessionId, speaker: &Speaker) {
    let mut source = house.listener(id, "en").await;
    let mut target = house.listener(id, "es").await;
    speaker.say(FIRST).await;
    speaker.say(SECOND).await;
    for expected in HEARD {
        assert_eq!(without_gaps(&mut source).await, expected);
        assert_eq!(without_gaps(&mut target).await.replace("[es] ", ""), expected);
    }
}

async fn without_gaps(listener: &mut Seated) -> String {
    listener
        .until(|message| match message {
            ServerMessage::Transcription(caption) if caption.is_final => Some(caption.text.clone()),
            ServerMessage::Gap { reason: GapReason::TranscriptionRestarted, .. } => panic!("audio was lost"),
            _ => None,
        })
        .await
}

async fn breaks_off(how: How) {
    let house = House::open().await;
    let id = house.session().await;
    let speaker = house.speaker(&id).await;
    house.transcribe().chaos().end = Some(Break { when: When::Events(4), how, once: true });
    two_sentences(&house, &id, &speaker).await;
    assert!(house.count(&id, Count::TranscribeReconnects) >= 1, "it did break off");
    assert!(house.count(&id, Count::AudioReplayedMs) > 0);
    assert_eq!(house.count(&id, Count::AudioLostMs), 0);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s8_a_stream_that_is_cut_in_mid_sentence_loses_and_doubles_nothing() {
    breaks_off(How::Cut).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s8_a_stream_that_closes_cleanly_is_opened_anew() {
    breaks_off(How::Close).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s8_an_exception_inside_the_stream_is_survived() {
    breaks_off(How::Fail).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s8_a_broken_frame_is_survived() {
    breaks_off(How::BadFrame).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s8_a_recogniser_that_says_nothing_is_replaced() {
    let house = House::open_with(|settings, _| {
        settings.live.recogniser.stall_after = Duration::from_millis(1_500);
    })
    .await;
    let id = house.session().await;
    let speaker = house.speaker(&id).await;
    let mut listener = house.listener(&id, "en").await;
    house.transcribe().chaos().silent = true;
    speaker.say(FIRST).await;
    until("it was found deaf", || house.count(&id, Count::TranscribeStalled) >= 1).await;
    house.transcribe().chaos().silent = false;
    assert_eq!(listener.final_text().await, HEARD[0]);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s8_a_recogniser_that_refuses_is_asked_again_and_listeners_are_told() {
    let house = House::open().await;
    let id = house.session().await;
    let speaker = house.speaker(&id).await;
    let mut listener = house.listener(&id, "en").await;
    {
        let mut chaos = house.transcribe().chaos();
        chaos.refuse_next = 4;
        chaos.refuse_with = Refuse::LimitExceeded;
    }
    speaker.say(FIRST).await;
    let code = listener
        .until(|message| match message {
            ServerMessage::Error { code, .. } => Some(*code),
            _ => None,
        })
        .await;
    assert_eq!(code, ErrorCode::UpstreamUnavailable);
    assert_eq!(listener.final_text().await, HEARD[0], "what was said meanwhile is not lost");
    assert_eq!(house.count(&id, Count::TranscribeRefused), 4);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s8_a_stream_that_has_grown_old_is_changed_in_a_pause() {
    let house = House::open_with(|settings, _| {
        settings.live.recogniser.rotate_after = Duration::from_secs(2);
    })
    .await;
    let id = house.session().await;
    let speaker = house.speaker(&id).await;
    two_sentences(&house, &id, &speaker).await;
    assert!(house.count(&id, Count::TranscribeRotations) >= 1);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_fed_while_no_audio_comes_and_times_stay_on_the_capture_clock() {
    let house = House::open_with(|_, cloud| {
        cloud.transcribe.as_mut().unwrap().idle = Duration::from_secs(2);
    })
    .await;
    let id = house.session().await;
    let speaker = house.speaker(&id).await;
    let mut listener = house.listener(&id, "en").await;
    speaker.say("good morning .").await;
    let before = listener.final_caption().await;
    speaker.master.pause(Duration::from_secs(3));
    tokio::time::sleep(Duration::from_secs(3)).await; // the pause itself is what is tested
    speaker.say("good evening .").await;
    let after = listener.final_caption().await;
    assert_eq!(after.text, "good evening.");
    let apart = after.start_ms - before.end_ms;
    assert!((3_000..12_000).contains(&apart), "{apart} ms apart on the capture clock");
    assert_eq!(house.count(&id, Count::TranscribeReconnects), 0, "the stream did not die of 2 s without audio");
    assert!(house.count(&id, Count::SilenceFedMs) > 0);
    house.close().await;
}
