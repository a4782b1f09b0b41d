//! The speaker comes, goes, says so or does not (S3, S4), and keeps the session its own.

use std::time::Duration;

use babelcast_domain::counts::Count;
use babelcast_domain::error::ErrorCode;
use babelcast_domain::wire::ServerMessage;
use tokio::time::Instant;

use crate::house::{House, until};
use babelcast::cli::client::ClientError;
use babelcast::cli::speak::{SpeakArgs, heard, on_air};

#[tokio::test(flavor = "multi_thread")]
async fn s3_a_lost_speaker_is_reported_and_captions_resume_when_it_is_back() {
    let house = House::open().await;
    let id = house.session().await;
    let speaker = house.speaker(&id).await;
    let mut listener = house.listener(&id, "es").await;
    speaker.say("we are on the road .").await;
    assert_eq!(listener.final_text().await, "[es] we are on the road.");
    drop(speaker); // the browser crashed: nobody says goodbye
    let gone = Instant::now();
    let reason = listener.disconnected().await;
    let noticed = gone.elapsed();
    assert_eq!(reason, "mediaLost");
    // The promise is 2 s; a machine that stands still for a moment does not break the test.
    assert!(noticed < Duration::from_secs(6), "{noticed:?}");
    assert!(!house.client("ana").show(&id).await.unwrap().speaker_kvs_connected);
    let speaker = house.speaker(&id).await;
    listener.ready().await;
    speaker.say("we come from the sea .").await;
    assert_eq!(listener.final_text().await, "[es] we come from the sea.");
    assert_eq!(house.count(&id, Count::SpeakerLost), 1);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s4_media_that_arrives_without_a_word_sets_the_flag_by_itself() {
    let house = House::open().await;
    let id = house.session().await;
    let mut listener = house.listener(&id, "en").await;
    let mut speaker = house.silent_speaker(&id).await;
    listener.ready().await;
    speaker.wait_until_heard().await;
    until("the flag", || house.stack.app.sessions.snapshot(&id).is_some_and(|now| now.speaker_connected)).await;
    assert!(house.client("ana").show(&id).await.unwrap().speaker_kvs_connected);
    speaker.say("good morning .").await;
    assert_eq!(listener.final_text().await, "good morning.");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_speaker_who_says_goodbye_is_believed_and_may_come_back() {
    let house = House::open().await;
    let id = house.session().await;
    let mut speaker = house.speaker(&id).await;
    let mut listener = house.listener(&id, "en").await;
    speaker.client.set_kvs_connected(&id, false).await.unwrap();
    assert_eq!(listener.disconnected().await, "speaker");
    speaker.client.set_kvs_connected(&id, true).await.unwrap();
    listener.ready().await;
    speaker.wait_until_heard().await;
    speaker.say("we see you .").await;
    assert_eq!(listener.final_text().await, "we see you.");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn media_goes_on_when_the_signaling_socket_dies() {
    let house = House::open().await;
    let id = house.session().await;
    let speaker = house.speaker(&id).await;
    let mut listener = house.listener(&id, "en").await;
    house.stack.cloud.kvs().cut_sockets();
    speaker.say("the water is good .").await;
    assert_eq!(listener.final_text().await, "the water is good.");
    assert_eq!(house.count(&id, Count::ViewerConnected), 1, "nobody had to connect again");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_speakers_session_is_not_ones_own() {
    let house = House::open().await;
    let id = house.session().await;
    let eve = house.client("eve");
    let forbidden = |result: Result<(), ClientError>| match result.unwrap_err() {
        ClientError::Refused(problem) => assert_eq!(problem.code, ErrorCode::Forbidden),
        other => panic!("{other}"),
    };
    forbidden(eve.end(&id).await);
    forbidden(eve.set_kvs_connected(&id, true).await.map(|_| ()));
    forbidden(eve.connection(&id).await.map(|_| ()));
    let public = eve.show(&id).await.unwrap();
    assert!(public.kvs_channel_arn.is_none(), "the owner's fields are the owner's");
    assert!(!public.speaker_kvs_connected);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_behind_when_the_signaling_service_fails() {
    let house = House::open().await;
    house.stack.cloud.kvs().chaos(|chaos| chaos.error_rate = 1.0);
    let error = house.client("ana").create(&crate::house::talk()).await.unwrap_err();
    let ClientError::Refused(problem) = error else { panic!("{error}") };
    assert_eq!(problem.code, ErrorCode::UpstreamUnavailable);
    house.stack.cloud.kvs().chaos(|chaos| chaos.error_rate = 0.0);
    assert_eq!(house.stack.app.sessions.live_count(), 0);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_takes_its_time_to_be_created_is_waited_for() {
    let house = House::open_with(|_, cloud| cloud.kvs.chaos.creating_ms = 800).await;
    let id = house.session().await;
    let speaker = house.speaker(&id).await;
    let mut listener = house.listener(&id, "en").await;
    speaker.say("good evening .").await;
    assert_eq!(listener.final_text().await, "good evening.");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_on_the_socket_is_the_speaker_and_may_end_the_session() {
    let house = House::open().await;
    let id = house.session().await;
    let mut listener = house.listener(&id, "en").await;
    listener.listener.ask("endSession", serde_json::json!({})).await.unwrap();
    let code = listener
        .until(|message| match message {
            ServerMessage::Error { code, .. } => Some(*code),
            _ => None,
        })
        .await;
    assert_eq!(code, ErrorCode::Forbidden);
    let mut wish = house.wish(&id, "en");
    wish.token = Some(house.stack.token("ana").unwrap());
    let mut speaker = crate::house::Seated::join(&wish).await;
    assert_eq!(speaker.joined.role, babelcast_domain::wire::Role::Speaker);
    assert_eq!(speaker.joined.listener_count, 1, "the speaker is no listener");
    speaker.listener.ask("endSession", serde_json::json!({})).await.unwrap();
    listener.until(|message| matches!(message, ServerMessage::SessionEnded { .. }).then_some(())).await;
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_that_names_tls_endpoints_is_trusted_by_its_certificate_everywhere() {
    let house = House::open_with(|_, cloud| cloud.plain_signaling = false).await;
    let id = house.session().await;
    let mut listener = house.listener(&id, "en").await;
    let pem = house.stack.cloud.certificate_pem().as_bytes().to_vec();
    let mut master = on_air(&house.client("ana"), &id, 16_000, Some(&pem)).await.unwrap();
    listener.ready().await;
    heard(&mut master).await.unwrap();
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broadcast_that_fails_leaves_no_session_behind() {
    let house = House::open_with(|_, cloud| cloud.plain_signaling = false).await;
    let args = SpeakArgs {
        session: None,
        file: concat!(env!("CARGO_MANIFEST_DIR"), "/demo/printing.wav").into(),
        url: house.stack.url(),
        token: Some(house.stack.token("ana").unwrap()),
        from: "en".to_owned(),
        vocabulary: None,
        repeat: false,
        extra_root: None, // so the cloud's own certificate is not trusted
    };
    let error = babelcast::cli::speak::run(args).await.unwrap_err().to_string();
    assert!(error.contains("--extra-root"), "{error}");
    until("the end of the session", || house.stack.app.sessions.live_count() == 0).await;
    house.close().await;
}
