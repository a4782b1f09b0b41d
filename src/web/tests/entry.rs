//! Who comes in, and what can be done at the door: access codes, origins, sessions made over the WebSocket.

use babelcast_domain::counts::Count;
use babelcast_domain::error::ErrorCode;
use babelcast_domain::ids::SessionId;
use babelcast_domain::wire::{CreateSession, Role, ServerMessage};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::socket::{by_query, closed, error, heard, next};
use super::{House, Journal, http, talk};
use crate::cli::client::Listener;

const CODE: &str = "tulip-fever";

async fn with_code(house: &House) -> SessionId {
    let request: CreateSession = serde_json::from_value(json!({ "sourceLanguage": "en", "accessCode": CODE })).unwrap();
    house.speaker("ana").create(&request).await.unwrap().session_id
}

#[tokio::test]
async fn a_listener_needs_the_access_code_and_the_owner_needs_none() {
    let house = House::open().await;
    let session = with_code(&house).await;
    let ask = |fields: Value, token: Option<&'static str>| {
        let (house, session) = (&house, &session);
        async move {
            let token = token.map(|sub| house.issuer.token(sub));
            let mut listener = Listener::open(&house.url, token.as_ref()).await.unwrap();
            let mut join = json!({ "sessionId": session, "requestId": "j" });
            join.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            listener.ask("joinSession", join).await.unwrap();
            listener
        }
    };
    for (fields, token, given) in [
        (json!({}), None, false),
        (json!({ "accessCode": "tulip-fevex" }), None, true),
        (json!({ "accessCode": "TULIP-FEVER" }), None, true),
        (json!({ "accessCode": "wrong" }), Some("eve"), true),
        (json!({ "resume": { "epoch": 1, "seq": 1 } }), None, false),
    ] {
        let mut listener = ask(fields.clone(), token).await;
        let (code, told) = error(&mut listener).await;
        assert_eq!((code, told.request_id.as_deref()), (ErrorCode::Forbidden, Some("j")), "{fields}");
        let ServerMessage::Error { details, retryable, .. } = told.message else { unreachable!() };
        assert_eq!((details.unwrap(), retryable), (json!({ "reason": "accessCode", "given": given }), false));
        assert_eq!(closed(&mut listener).await, 4403);
    }
    assert_eq!((house.count(Count::Guesses), house.listeners(&session).await), (3, 0));
    for (fields, token, role) in [
        (json!({ "accessCode": CODE }), None, Role::Listener),
        (json!({ "accessCode": CODE }), Some("eve"), Role::Listener),
        (json!({}), Some("ana"), Role::Speaker),
        (json!({ "accessCode": "wrong" }), Some("ana"), Role::Speaker),
    ] {
        let mut listener = ask(fields, token).await;
        let ServerMessage::SessionJoined(here) = next(&mut listener).await.message else { panic!() };
        assert_eq!(here.role, role);
    }
}

#[tokio::test]
async fn the_access_code_may_come_in_the_query_and_reaches_nobody_but_the_owner() {
    let (journal, _logging) = Journal::keep();
    let house = House::open().await;
    let session = with_code(&house).await;
    let (mut socket, _) = by_query(&house, &format!("sessionId={session}&accessCode={CODE}"), None).await;
    assert_eq!(heard(&mut socket).await["type"], "sessionJoined");
    for (query, code) in [("", "FORBIDDEN"), ("&accessCode=wrong", "FORBIDDEN"), ("&accessCode=x", "INVALID_REQUEST")] {
        let (mut socket, _) = by_query(&house, &format!("sessionId={session}{query}"), None).await;
        let told = heard(&mut socket).await;
        assert_eq!(told["code"], code, "{query}");
        assert!(!told.to_string().contains(CODE));
    }
    let view: Value = http().get(house.at(&format!("/sessions/{session}"))).send().await.unwrap().json().await.unwrap();
    assert_eq!((&view["accessCodeRequired"], &view["accessCode"]), (&json!(true), &Value::Null));
    assert_eq!(house.speaker("ana").show(&session).await.unwrap().access_code.unwrap().reveal(), CODE);
    let logged = journal.text();
    assert!(logged.contains("socket refused"));
    for line in logged.lines().filter(|line| line.contains("babelcast")) {
        assert!(!line.contains(CODE), "{line}");
    }
}

/// Row 11 of the threats: cross-site WebSocket hijacking.
#[tokio::test]
async fn a_page_of_another_origin_is_refused_before_it_can_do_anything() {
    let listed = vec!["https://app.example.com".to_owned()];
    let house = House::open_with(|settings| settings.allowed_origins = listed).await;
    let session = house.session().await;
    let own = format!("http://{}", house.doors.local_addr());
    let token = house.issuer.token("ana");
    for (origin, comes_in) in [
        ("https://app.example.com", true),
        (own.as_str(), true),
        ("https://evil.example", false),
        ("http://app.example.com", false),
        ("null", false),
    ] {
        let url = format!("ws://{}/ws?sessionId={session}&token={}", house.doors.local_addr(), token.reveal());
        let mut request = url.into_client_request().unwrap();
        request.headers_mut().insert("origin", origin.parse().unwrap());
        request.headers_mut().insert("cookie", format!("token={}", token.reveal()).parse().unwrap());
        let (mut socket, answer) = tokio_tungstenite::connect_async(request).await.expect("the upgrade succeeds");
        assert!(!answer.headers().contains_key("set-cookie"));
        let told = heard(&mut socket).await;
        if comes_in {
            assert_eq!(told["role"], "speaker", "{origin}");
        } else {
            assert_eq!(
                (&told["code"], &told["details"]["reason"]),
                (&json!("FORBIDDEN"), &json!("origin")),
                "{origin}"
            );
            assert_eq!(heard(&mut socket).await["closed"], 4403);
        }
    }
    assert_eq!(house.count(Count::OriginsRefused), 3);
}

#[tokio::test]
async fn a_session_is_made_over_the_socket_and_the_same_connection_joins_it() {
    let house = House::open().await;
    let token = house.issuer.token("ana");
    let mut socket = Listener::open(&house.url, Some(&token)).await.unwrap();
    let body = json!({ "sourceLanguage": "en", "title": "By socket", "accessCode": CODE, "requestId": "c" });
    socket.ask("createSession", body).await.unwrap();
    let created = next(&mut socket).await;
    let ServerMessage::SessionCreated { session } = created.message else { panic!("{created:?}") };
    assert_eq!((created.request_id.as_deref(), created.session_id.as_ref()), (Some("c"), Some(&session.session_id)));
    assert!(session.kvs_channel_arn.is_some() && session.access_code.is_some(), "the owner's view");
    // S5: the same record as by HTTP.
    let mut by_http = house.speaker("ana").show(&session.session_id).await.unwrap();
    by_http.updated_at = session.updated_at;
    assert_eq!(by_http, *session);

    socket.ask("joinSession", json!({ "sessionId": session.session_id })).await.unwrap();
    let ServerMessage::SessionJoined(here) = next(&mut socket).await.message else { panic!() };
    assert_eq!(here.role, Role::Speaker);
    socket.ask("createSession", json!({ "sourceLanguage": "en", "requestId": "d" })).await.unwrap();
    let (code, told) = error(&mut socket).await;
    assert_eq!((code, told.request_id.as_deref()), (ErrorCode::Conflict, Some("d")));
}

#[tokio::test]
async fn making_a_session_over_the_socket_needs_a_token_and_a_good_body() {
    let house = House::open().await;
    let mut socket = Listener::open(&house.url, None).await.unwrap();
    let mut ask = async |action: &str, fields: Value| {
        socket.ask(action, fields).await.unwrap();
        next(&mut socket).await.message
    };
    let refused = |message: ServerMessage| match message {
        ServerMessage::Error { code, .. } => code,
        other => panic!("{other:?}"),
    };
    let english = json!({ "sourceLanguage": "en" });
    assert_eq!(refused(ask("createSession", english.clone()).await), ErrorCode::Unauthorized);
    assert_eq!(refused(ask("authenticate", json!({ "token": "x.y.z" })).await), ErrorCode::Unauthorized);
    let (ana, eve) = (house.issuer.token("ana"), house.issuer.token("eve"));
    let signed_in = ask("authenticate", json!({ "token": ana.reveal() })).await;
    assert!(matches!(signed_in, ServerMessage::Authenticated { .. }), "{signed_in:?}");
    assert_eq!(refused(ask("authenticate", json!({ "token": eve.reveal() })).await), ErrorCode::Forbidden);
    assert_eq!(refused(ask("createSession", json!({ "sourceLanguage": "xx" })).await), ErrorCode::UnsupportedLanguage);
    assert_eq!(
        refused(ask("createSession", json!({ "sourceLanguage": "en", "title": "" })).await),
        ErrorCode::InvalidRequest
    );
    let created = ask("createSession", english).await;
    assert!(matches!(created, ServerMessage::SessionCreated { .. }), "{created:?}");
    assert_eq!(house.count(Count::SessionsCreated), 1);
}

#[tokio::test]
async fn what_is_sent_right_behind_the_join_is_answered_after_it() {
    let house = House::open().await;
    let session = house.session().await;
    for _ in 0..20 {
        let mut listener = Listener::open(&house.url, None).await.unwrap();
        for (action, mut fields) in [
            ("joinSession", json!({ "sessionId": session, "targetLanguage": "es" })),
            ("ping", json!({})),
            ("changeLanguage", json!({ "targetLanguage": "fr" })),
            ("getSessionStatus", json!({})),
            ("endSession", json!({})),
        ] {
            fields["requestId"] = json!(action);
            listener.ask(action, fields).await.unwrap();
        }
        let mut answered = Vec::new();
        for _ in 0..5 {
            answered.push(next(&mut listener).await.request_id.unwrap());
        }
        assert_eq!(answered[0], "joinSession");
        answered.sort();
        assert_eq!(answered, ["changeLanguage", "endSession", "getSessionStatus", "joinSession", "ping"]);
    }
}

#[tokio::test]
async fn what_only_the_speaker_may_do_is_refused_to_everybody_else() {
    let house = House::open().await;
    let session = house.session().await;
    let mut wish = house.wish(&session);
    wish.token = Some(house.issuer.token("eve"));
    let mut eve = Listener::connect(&wish).await.unwrap();
    next(&mut eve).await;
    for (action, fields) in [
        ("pauseBroadcast", json!({})),
        ("resumeBroadcast", json!({})),
        ("muteBroadcast", json!({})),
        ("unmuteBroadcast", json!({})),
        ("setVolume", json!({ "volume": 0.5 })),
        ("endSession", json!({})),
        ("createSession", json!({ "sourceLanguage": "en" })),
        ("authenticate", json!({ "token": house.issuer.token("ana").reveal() })),
    ] {
        eve.ask(action, fields).await.unwrap();
        assert_eq!(error(&mut eve).await.0, ErrorCode::Forbidden, "{action}");
    }
    eve.ask("getSessionStatus", json!({})).await.unwrap();
    let ServerMessage::SessionStatus(view) = next(&mut eve).await.message else { panic!() };
    assert_eq!(view.status, babelcast_domain::record::Status::Active);
}

#[tokio::test]
async fn the_speakers_controls_reach_everybody_and_a_listeners_playback_its_own() {
    let house = House::open().await;
    let session = house.session().await;
    let mut wish = house.wish(&session);
    let mut listener = Listener::connect(&wish).await.unwrap();
    next(&mut listener).await;
    wish.token = Some(house.issuer.token("ana"));
    let mut speaker = Listener::connect(&wish).await.unwrap();
    next(&mut speaker).await;
    let mut told = async |speaker: &mut Listener, action: &str, fields: Value| {
        speaker.ask(action, fields).await.unwrap();
        loop {
            if let ServerMessage::BroadcastState(state) = next(&mut listener).await.message {
                return (state.paused, state.muted, state.volume);
            }
        }
    };
    assert_eq!(told(&mut speaker, "pauseBroadcast", json!({})).await, (true, false, 1.0));
    assert_eq!(told(&mut speaker, "muteBroadcast", json!({})).await, (true, true, 1.0));
    assert_eq!(told(&mut speaker, "setVolume", json!({ "volume": 0.25 })).await, (true, true, 0.25));
    assert_eq!(told(&mut speaker, "resumeBroadcast", json!({})).await, (false, true, 0.25));
    assert_eq!(told(&mut speaker, "unmuteBroadcast", json!({})).await, (false, false, 0.25));

    listener.ask("setPlayback", json!({ "captions": "raw", "paused": true })).await.unwrap();
    listener.ask("setPlayback", json!({ "captions": "loud", "requestId": "p" })).await.unwrap();
    assert_eq!(error(&mut listener).await.1.request_id.as_deref(), Some("p"));
    let change = json!({ "targetLanguage": "fr", "audioLanguage": "DE", "requestId": "l" });
    listener.ask("changeLanguage", change).await.unwrap();
    let ServerMessage::LanguageChanged { target_language, audio_language, .. } = next(&mut listener).await.message
    else {
        panic!()
    };
    assert_eq!((target_language.as_str(), audio_language.unwrap().as_str()), ("fr", "de"));
    listener.ask("changeLanguage", json!({ "targetLanguage": "fr", "audioLanguage": "xx" })).await.unwrap();
    assert_eq!(error(&mut listener).await.0, ErrorCode::UnsupportedLanguage);
    listener.send(Message::text(r#"{"action":"setVolume","volume":7}"#)).await.unwrap();
    assert_eq!(error(&mut listener).await.0, ErrorCode::InvalidRequest);
}

/// Row 2: what is not there answers in one way; only `details.status` differs, as the contract asks.
#[tokio::test]
async fn unknown_and_ended_sessions_answer_alike_but_for_the_status() {
    let house = House::open().await;
    let ended = house.speaker("ana").create(&talk()).await.unwrap().session_id;
    house.speaker("ana").end(&ended).await.unwrap();
    let answer = async |id: &str| {
        let (mut socket, _) = by_query(&house, &format!("sessionId={id}"), None).await;
        let mut told = heard(&mut socket).await;
        let status = told["details"]["status"].take();
        told["timestamp"] = json!(0);
        (told, status, heard(&mut socket).await)
    };
    let (unknown, was_unknown, closed) = answer("never-was-123").await;
    let (over, was_ended, closed_too) = answer(ended.as_str()).await;
    assert_eq!((&unknown, &closed), (&over, &closed_too));
    assert_eq!((was_unknown, was_ended), (json!("unknown"), json!("ended")));
}
