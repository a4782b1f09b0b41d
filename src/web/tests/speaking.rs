//! A session outlives its speaker's token.

use std::time::Duration;

use babelcast_domain::error::ErrorCode;
use babelcast_domain::ids::SessionId;
use babelcast_domain::record::Status;
use babelcast_domain::time::UnixMs;
use babelcast_domain::wire::{Role, ServerMessage};
use serde_json::json;

use super::socket::{closed, error, next};
use super::{House, KEYS, sign};
use crate::cli::client::Listener;
use crate::web::{Token, wall};

/// A token that ends so many seconds from now.
fn brief_token(house: &House, sub: &str, seconds: u64) -> (Token, UnixMs) {
    let mut claims = house.issuer.claims(sub);
    let expires_at = wall().as_secs() + seconds;
    claims["exp"] = json!(expires_at);
    let token = sign(&json!({ "alg": "RS256", "kid": "k0" }), &claims, &KEYS[0]);
    (Token::new(&token).unwrap(), UnixMs(expires_at * 1_000))
}

async fn speaking(house: &House, session: &SessionId, token: Token) -> Listener {
    let mut wish = house.wish(session);
    wish.token = Some(token);
    let mut speaker = Listener::connect(&wish).await.unwrap();
    let ServerMessage::SessionJoined(here) = next(&mut speaker).await.message else { panic!("the join comes first") };
    assert_eq!(here.role, Role::Speaker);
    speaker
}

/// The next message that is about tokens.
async fn word(speaker: &mut Listener) -> ServerMessage {
    loop {
        match next(speaker).await.message {
            ServerMessage::ListenerStats { .. } | ServerMessage::BroadcastState(_) => {}
            other => return other,
        }
    }
}

#[tokio::test]
async fn a_speaker_is_asked_for_a_fresh_token_and_goes_on_with_it() {
    let house = House::open_with(|settings| {
        settings.auth.leeway_seconds = 0;
        settings.auth.ask_before = Duration::from_secs(3_600);
    })
    .await;
    let session = house.session().await;
    let (token, expires_at) = brief_token(&house, "ana", 3);
    let mut speaker = speaking(&house, &session, token).await;
    assert_eq!(word(&mut speaker).await, ServerMessage::Reauthenticate { expires_at });

    for (bad, code) in
        [(house.issuer.token("eve"), ErrorCode::Forbidden), (Token::new("a.b.c").unwrap(), ErrorCode::Unauthorized)]
    {
        speaker.ask("authenticate", json!({ "token": bad.reveal(), "requestId": "a" })).await.unwrap();
        let (told, envelope) = error(&mut speaker).await;
        assert_eq!((told, envelope.request_id.as_deref()), (code, Some("a")));
    }
    let (fresh, later) = brief_token(&house, "ana", 7_200);
    speaker.ask("authenticate", json!({ "token": fresh.reveal() })).await.unwrap();
    assert_eq!(word(&mut speaker).await, ServerMessage::Authenticated { expires_at: later });
    super::until(|| wall() > expires_at).await;
    speaker.ask("pauseBroadcast", json!({})).await.unwrap();
    loop {
        if let ServerMessage::BroadcastState(state) = next(&mut speaker).await.message {
            break assert!(state.paused, "the old token's end means nothing any more");
        }
    }
}

/// Row 10: no unlimited life, and no silent cut either.
#[tokio::test]
async fn a_speaker_whose_token_ran_out_may_do_nothing_more_and_is_shown_out_while_the_session_goes_on() {
    let house = House::open_with(|settings| {
        settings.auth.leeway_seconds = 0;
        settings.auth.ask_before = Duration::from_millis(500);
        settings.auth.close_after = Duration::from_secs(2);
    })
    .await;
    let session = house.session().await;
    let mut listener = Listener::connect(&house.wish(&session)).await.unwrap();
    next(&mut listener).await;
    let (token, expires_at) = brief_token(&house, "ana", 2);
    let mut speaker = speaking(&house, &session, token).await;
    assert_eq!(word(&mut speaker).await, ServerMessage::Reauthenticate { expires_at });
    super::until(|| wall() > expires_at).await;
    for action in ["endSession", "pauseBroadcast"] {
        speaker.ask(action, json!({ "requestId": action })).await.unwrap();
        let (code, told) = error(&mut speaker).await;
        assert_eq!((code, told.request_id.as_deref()), (ErrorCode::Unauthorized, Some(action)));
    }
    let (code, told) = error(&mut speaker).await;
    assert_eq!((code, told.request_id), (ErrorCode::Unauthorized, None), "why it is closed");
    assert_eq!(closed(&mut speaker).await, 4401);
    assert!(wall() >= UnixMs(expires_at.0 + 2_000), "not before its time");

    listener.ask("ping", json!({})).await.unwrap();
    assert_eq!(next(&mut listener).await.message, ServerMessage::Pong);
    assert_eq!(house.speaker("ana").show(&session).await.unwrap().status, Status::Active);
    let mut back = speaking(&house, &session, house.issuer.token("ana")).await;
    back.ask("endSession", json!({})).await.unwrap();
}

#[tokio::test]
async fn a_token_that_ends_while_the_socket_waits_for_its_join_makes_no_speaker() {
    let house = House::open_with(|settings| settings.auth.leeway_seconds = 0).await;
    let session = house.session().await;
    let (token, expires_at) = brief_token(&house, "ana", 2);
    let mut socket = Listener::open(&house.url, Some(&token)).await.unwrap();
    socket.ask("ping", json!({})).await.unwrap();
    assert_eq!(next(&mut socket).await.message, ServerMessage::Pong);
    super::until(|| wall() > expires_at).await;
    socket.ask("createSession", json!({ "sourceLanguage": "en" })).await.unwrap();
    assert_eq!(error(&mut socket).await.0, ErrorCode::Unauthorized);
    socket.ask("joinSession", json!({ "sessionId": session })).await.unwrap();
    assert_eq!(error(&mut socket).await.0, ErrorCode::Unauthorized);
    assert_eq!(closed(&mut socket).await, 4401);
}
