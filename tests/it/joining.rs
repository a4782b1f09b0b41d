//! Who may join, when, and what a newcomer and a returning listener get (S1, S2, S5, S6, S10).

use std::time::Duration;

use babelcast::cli::client::Wish;
use babelcast_domain::error::ErrorCode;
use babelcast_domain::ids::SessionId;
use babelcast_domain::record::{EndReason, Status};
use babelcast_domain::wire::{CaptionMode, GapReason, ServerMessage};
use local_cloud::engine::tones::Tones;
use serde_json::json;

use crate::house::{House, Seated, talk};

fn problem(message: &ServerMessage) -> (ErrorCode, String, serde_json::Value) {
    match message {
        ServerMessage::Error { code, message, details, .. } => {
            (*code, message.clone(), details.clone().unwrap_or_default())
        }
        other => panic!("no error: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s1_a_listener_joins_at_once_however_long_the_speaker_has_been_there() {
    let house = House::open().await;
    let id = house.session().await;
    let speaker = house.speaker(&id).await;
    speaker.say("good morning people .").await;
    for language in ["en", "es"] {
        let mut listener = house.listener(&id, language).await;
        assert!(listener.joined.speaker_kvs_connected);
        assert_eq!(listener.joined.status, Status::Active);
        speaker.say("we go to the river .").await;
        let text = listener.final_text().await;
        assert!(text.ends_with("we go to the river."), "{text}");
    }
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s2_a_listener_who_came_first_learns_of_the_speaker_by_event_by_flag_and_by_polling_alone() {
    let house = House::open().await;
    let id = house.session().await;
    let mut early = house.listener(&id, "es").await;
    assert!(!early.joined.speaker_kvs_connected);
    let anonymous = babelcast::cli::speaker::SpeakerClient::new(house.stack.url(), None).unwrap();
    assert!(!anonymous.show(&id).await.unwrap().speaker_kvs_connected);
    let speaker = house.speaker(&id).await;
    early.ready().await;
    assert!(anonymous.show(&id).await.unwrap().speaker_kvs_connected, "by polling");
    let late = house.listener(&id, "es").await;
    assert!(late.joined.speaker_kvs_connected, "by flag");
    speaker.say("yes we see .").await;
    assert_eq!(early.final_text().await, "[es] yes we see.");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s6_unknown_and_ended_sessions_are_told_apart_with_the_one_wording() {
    let house = House::open().await;
    let id = house.session().await;
    let refused = |id: SessionId| {
        let wish = house.wish(&id, "es");
        let house = &house;
        async move { problem(&house.refused(&wish).await.message) }
    };
    let (code, message, details) = refused(SessionId::parse("never-was-123").unwrap()).await;
    assert_eq!((code, details["status"].as_str()), (ErrorCode::SessionNotFound, Some("unknown")));
    assert_eq!(message, "Session does not exist or is inactive");
    house.client("ana").end(&id).await.unwrap();
    let (code, message, details) = refused(id.clone()).await;
    assert_eq!((code, details["status"].as_str()), (ErrorCode::SessionNotFound, Some("ended")));
    assert_eq!(message, "Session does not exist or is inactive");
    let view = house.client("ana").show(&id).await.unwrap();
    assert_eq!((view.status, view.end_reason), (Status::Ended, Some(EndReason::Speaker)));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s6_a_session_past_its_time_ends_by_itself_and_is_gone() {
    let house = House::open_with(|settings, _| settings.live.session_ttl = Duration::from_secs(2)).await;
    let id = house.session().await;
    let mut listener = house.listener(&id, "es").await;
    let reason = listener
        .until(|message| match message {
            ServerMessage::SessionEnded { reason } => Some(*reason),
            _ => None,
        })
        .await;
    assert_eq!(reason, EndReason::Expired);
    let (code, message, details) = problem(&house.refused(&house.wish(&id, "es")).await.message);
    assert_eq!((code, details["status"].as_str()), (ErrorCode::SessionNotFound, Some("expired")));
    assert_eq!(message, "Session does not exist or is inactive");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsupported_language_is_answered_with_the_supported_ones() {
    let house = House::open().await;
    let mut request = talk();
    request.target_languages = Some(vec!["es".into(), "fr".into()]);
    let id = house.client("ana").create(&request).await.unwrap().session_id;
    let (code, _, details) = problem(&house.refused(&house.wish(&id, "tlh")).await.message);
    assert_eq!(code, ErrorCode::UnsupportedLanguage);
    assert_eq!(details["supported"], json!(["en", "es", "fr"]));
    let mut listener = house.listener(&id, "es-AR").await;
    assert_eq!(listener.joined.target_language.as_str(), "es");
    listener.listener.change_language("de").await.unwrap();
    let answer = listener.next().await;
    assert_eq!(problem(&answer.message).0, ErrorCode::UnsupportedLanguage);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_language_takes_effect_at_once_and_brings_its_history() {
    let house = House::open().await;
    let id = house.session().await;
    let speaker = house.speaker(&id).await;
    let mut spanish = house.listener(&id, "es").await;
    let mut wanderer = house.listener(&id, "en").await;
    speaker.say("the old book is good .").await;
    assert_eq!(spanish.final_text().await, "[es] the old book is good.");
    wanderer.final_text().await;
    wanderer.listener.change_language("es").await.unwrap();
    let (language, history) = loop {
        let envelope = wanderer.listener.next().await.unwrap();
        if let ServerMessage::LanguageChanged { target_language, history, .. } = envelope.message {
            wanderer.seq = envelope.seq.unwrap();
            break (target_language, history);
        }
    };
    assert_eq!(language.as_str(), "es");
    assert_eq!(history.last().unwrap().text, "[es] the old book is good.");
    speaker.say("the new road is long .").await;
    assert_eq!(wanderer.final_text().await, "[es] the new road is long.");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s10_a_listener_who_was_cut_off_resumes_without_a_final_lost_or_doubled() {
    let house = House::open().await;
    let id = house.session().await;
    let speaker = house.speaker(&id).await;
    let mut listener = house.listener(&id, "es").await;
    let mut other = house.listener(&id, "es").await;
    speaker.say("one two three .").await;
    assert_eq!(listener.final_text().await, "[es] one two three.");
    let place = listener.place();
    drop(listener); // the socket is cut, no goodbye
    speaker.say("four five six .").await;
    other.final_text().await;
    assert_eq!(other.final_text().await, "[es] four five six.");
    let mut back = Seated::join(&Wish { resume: Some(place), ..house.wish(&id, "es") }).await;
    assert!(back.joined.resumed);
    assert!(back.joined.history.is_empty(), "what was seen is not sent again");
    assert_eq!(back.final_text().await, "[es] four five six.");
    speaker.say("seven eight .").await;
    assert_eq!(back.final_text().await, "[es] seven eight.");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resume_from_another_life_is_told_that_it_cannot_be_and_gets_the_history() {
    let house = House::open().await;
    let id = house.session().await;
    let speaker = house.speaker(&id).await;
    let mut listener = house.listener(&id, "en").await;
    speaker.say("good evening .").await;
    listener.final_text().await;
    let mut place = listener.place();
    place.epoch += 1;
    let back = Seated::join(&Wish { resume: Some(place), ..house.wish(&id, "en") }).await;
    assert!(!back.joined.resumed);
    assert_eq!(back.joined.history.len(), 1);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everyone_is_told_that_the_session_is_over_after_its_last_words() {
    let house = House::open().await;
    let id = house.session().await;
    let speaker = house.speaker(&id).await;
    let mut listener = house.listener(&id, "es").await;
    let mut watcher = house.reader(&id, "en", CaptionMode::Raw).await;
    // Words that nobody has finished when the speaker hangs up.
    let pcm = Tones.say("we say yes and go", 16_000).unwrap();
    speaker.master.play(&pcm[..pcm.len() / 2]).await.unwrap();
    assert!(!watcher.caption().await.is_final);
    house.client("ana").end(&id).await.unwrap();
    assert!(listener.final_text().await.starts_with("[es] "));
    let reason = listener
        .until(|message| match message {
            ServerMessage::SessionEnded { reason } => Some(*reason),
            ServerMessage::Gap { reason: GapReason::AudioLost, .. } => panic!("audio was lost"),
            _ => None,
        })
        .await;
    assert_eq!(reason, EndReason::Speaker);
    listener.closed().await;
    house.close().await;
}
