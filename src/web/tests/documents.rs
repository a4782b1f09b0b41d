//! The documents against the doors and the types they speak of.

use std::collections::{BTreeMap, BTreeSet};

use babelcast_domain::emotion::Emotion;
use babelcast_domain::error::ErrorCode;
use babelcast_domain::ids::SessionId;
use babelcast_domain::language::Language;
use babelcast_domain::record::{EndReason, QualityTier, SessionRecord, SignalingEndpoints, Status};
use babelcast_domain::time::UnixMs;
use babelcast_domain::wire::{
    Action, AudioWarning, BroadcastState, Caption, CaptionMode, ClientMessage, Envelope, GapReason, LanguageState,
    LanguageStatus, QualityReport, Role, ServerMessage, SessionJoined, SessionView, StatusView,
};
use reqwest::Method;
use serde_json::{Value, json};

use super::{House, http};
use crate::web::{asyncapi, doors, openapi};

/// Routes that the document leaves out: the files of the page it is browsed with.
const UNDOCUMENTED: [&str; 2] = ["/docs/", "/docs/{*file}"];

/// Every path that the router has, read off the way it prints itself.
fn routed(house: &House) -> BTreeSet<String> {
    let printed = format!("{:?}", doors::router(&house.doors.house));
    let own = printed.split("fallback_router").next().unwrap();
    let strings = own.split('"').skip(1).step_by(2);
    strings.filter(|text| text.starts_with('/')).map(str::to_owned).collect()
}

#[tokio::test]
async fn every_route_is_in_the_document_and_every_page_of_it_is_a_route() {
    let house = House::open().await;
    let document = openapi::document();
    let pages: BTreeSet<String> = document["paths"].as_object().unwrap().keys().cloned().collect();
    let routed: BTreeSet<String> =
        routed(&house).into_iter().filter(|path| !UNDOCUMENTED.contains(&path.as_str())).collect();
    assert_eq!(routed, pages);
    assert!(pages.contains("/sessions/{id}/status"), "{pages:?}");
    for (path, item) in document["paths"].as_object().unwrap() {
        let told: BTreeSet<String> =
            item.as_object().unwrap().keys().map(|method| method.to_ascii_uppercase()).collect();
        let url = house.at(&path.replace("{id}", "calm-river-7"));
        let answer = http().request(Method::from_bytes(b"PROPFIND").unwrap(), url).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), &answer.headers()["content-type"]), (405, &problem_json()), "{path}");
        let allowed = answer.headers()["allow"].to_str().unwrap().split(',').filter(|method| *method != "HEAD");
        assert_eq!(allowed.map(str::to_owned).collect::<BTreeSet<_>>(), told, "{path}");
    }
}

fn problem_json() -> reqwest::header::HeaderValue {
    "application/problem+json".parse().unwrap()
}

#[tokio::test]
async fn the_documents_are_served_as_they_are() {
    let house = House::open().await;
    for (path, document) in [("/openapi.json", openapi::document()), ("/asyncapi.json", asyncapi::document())] {
        let answer = http().get(house.at(path)).send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], "application/json");
        assert_eq!(answer.json::<Value>().await.unwrap(), document, "{path}");
    }
}

#[test]
fn every_answer_of_the_document_has_a_request_id_and_every_refusal_a_problem() {
    let document = openapi::document();
    assert_eq!(document["openapi"], "3.1.0");
    let mut refusals = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            assert!(operation["operationId"].is_string() && operation["summary"].is_string(), "{method} {path}");
            for (status, answer) in operation["responses"].as_object().unwrap() {
                assert!(answer["headers"]["x-request-id"].is_object(), "{method} {path} {status}");
                assert!(answer["description"].as_str().unwrap().len() > 1, "{method} {path} {status}");
                if status.as_str() >= "400" && path != "/health/ready" {
                    assert!(answer["content"]["application/problem+json"].is_object(), "{method} {path} {status}");
                    refusals += 1;
                }
            }
        }
    }
    assert!(refusals > 40, "{refusals}");
    let closed = ["CreateSession", "PatchSession", "KvsStatus"];
    assert!(closed.iter().all(|name| document["components"]["schemas"][name]["additionalProperties"] == false));
}

/// Every `$ref` below `value`.
fn refs<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(members) => {
            found.extend(members.get("$ref").and_then(Value::as_str));
            members.values().for_each(|member| refs(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| refs(item, found)),
        _ => {}
    }
}

#[test]
fn every_reference_in_a_document_leads_somewhere() {
    for document in [openapi::document(), asyncapi::document()] {
        let mut found = Vec::new();
        refs(&document, &mut found);
        assert!(found.len() > 50);
        for one in found {
            let pointer = one.strip_prefix('#').expect("documents are whole in themselves");
            assert!(document.pointer(pointer).is_some(), "{one} leads nowhere");
        }
    }
}

#[tokio::test]
async fn the_page_needs_nothing_from_elsewhere() {
    let house = House::open().await;
    let plain = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let moved = plain.get(house.at("/docs")).send().await.unwrap();
    assert_eq!((moved.status().as_u16(), &moved.headers()["location"]), (308, &"/docs/".parse().unwrap()));
    let page = http().get(house.at("/docs/index.html")).send().await.unwrap();
    assert!(page.headers()["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'"));
    let page = text(page).await;
    let names: Vec<&str> = page.split('"').filter(|part| part.starts_with("./") || part.ends_with(".css")).collect();
    assert!(names.len() >= 4 && !page.contains("http:") && !page.contains("https:"), "{page}");
    for name in names {
        let file = http().get(house.at(&format!("/docs/{}", name.trim_start_matches("./")))).send().await.unwrap();
        assert_eq!(file.status(), 200, "{name}");
        assert!(!file.bytes().await.unwrap().is_empty(), "{name}");
    }
    let start = text(http().get(house.at("/docs/swagger-initializer.js")).send().await.unwrap()).await;
    assert!(start.contains("/openapi.json") && start.contains(r#""validatorUrl": "none""#), "{start}");
    let missing = http().get(house.at("/docs/nothing.js")).send().await.unwrap();
    assert_eq!((missing.status().as_u16(), &missing.headers()["content-type"]), (404, &problem_json()));
}

/// The body as text, unpacked where it comes packed.
async fn text(answer: reqwest::Response) -> String {
    let packed = answer.headers().get("content-encoding").is_some_and(|encoding| encoding == "gzip");
    let bytes = answer.bytes().await.unwrap();
    if !packed {
        return String::from_utf8(bytes.to_vec()).unwrap();
    }
    let mut unpacked = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&bytes[..]), &mut unpacked).unwrap();
    unpacked
}

fn lang(code: &str) -> Language {
    Language::parse(code).unwrap()
}

fn caption() -> Caption {
    Caption {
        segment_id: "3".into(),
        revision: 2,
        is_final: true,
        language: lang("es"),
        text: "Buenos días.".into(),
        stable_chars: 12,
        start_ms: 1_200,
        end_ms: 2_400,
        heard_at: Some(UnixMs(1_795_240_000_000)),
        source_language: Some(lang("en")),
        source_text: Some("Good morning.".into()),
        untranslated: true,
    }
}

fn record() -> SessionRecord {
    serde_json::from_value(json!({
        "sessionId": "calm-river-7", "speakerId": "ana", "title": "A talk", "sourceLanguage": "en",
        "targetLanguages": ["es", "pt-BR"], "qualityTier": QualityTier::Premium, "status": Status::Ended,
        "endReason": EndReason::Speaker, "speakerKvsConnected": false, "kvsChannelArn": "arn:aws:kinesisvideo",
        "kvsChannelName": "session-calm-river-7",
        "kvsSignalingEndpoints": SignalingEndpoints { wss: "wss://m".into(), https: "https://m".into() },
        "kvsStreamName": "session-calm-river-7", "glossary": "terms", "vocabulary": "words", "accessCode": "tulip",
        "createdAt": 1, "updatedAt": 2, "expiresAt": 3, "version": 1, "fence": 1
    }))
    .unwrap()
}

/// One of every form, all optional fields present. A new form does not compile until [`name`] knows it, and is missed
/// by the test until it is here.
fn told() -> Vec<ServerMessage> {
    let languages = BTreeMap::from([(lang("es"), 2), (lang("zh-Hant-TW"), 1)]);
    let status = LanguageStatus { listeners: 2, state: LanguageState::Warming };
    let view = SessionView::for_owner(&record(), 3);
    let broadcast_state = BroadcastState { paused: false, muted: true, volume: 0.5 };
    vec![
        ServerMessage::SessionJoined(Box::new(SessionJoined {
            connection_id: "17".into(),
            role: Role::Listener,
            status: Status::Active,
            source_language: lang("en"),
            target_language: lang("es"),
            speaker_kvs_connected: true,
            listener_count: 4,
            captions: CaptionMode::Stable,
            audio: false,
            epoch: 7,
            resumed: true,
            history: vec![caption()],
            broadcast_state,
        })),
        ServerMessage::Transcription(caption()),
        ServerMessage::Emotion {
            segment_id: "s-1".into(),
            emotion: Emotion::Excited,
            confidence: 0.7,
            arousal: Some(0.8),
            pace: Some(160.0),
            loudness: Some(-23.0),
            pitch_hz: Some(180.0),
            start_ms: 1,
            end_ms: 2,
        },
        ServerMessage::SpeakerKvsReady,
        ServerMessage::SpeakerKvsDisconnected { reason: "silence".into() },
        ServerMessage::LanguageChanged {
            target_language: lang("es"),
            audio_language: Some(lang("fr")),
            history: vec![caption()],
            epoch: 7,
        },
        ServerMessage::Gap { from_ms: 1, to_ms: 2, reason: GapReason::SpeakerAway },
        ServerMessage::BroadcastState(broadcast_state),
        ServerMessage::SessionStatus(StatusView {
            status: Status::Paused,
            speaker_kvs_connected: true,
            listener_count: 4,
            languages: BTreeMap::from([(lang("es"), status)]),
        }),
        ServerMessage::SessionCreated { session: Box::new(view) },
        ServerMessage::ListenerStats { total: 3, by_language: languages.clone(), lag_ms_by_language: languages },
        ServerMessage::AudioQuality(QualityReport {
            rms_db: -20.5,
            peak_db: -1.0,
            snr_db: Some(30.0),
            clipping_ratio: 0.01,
            silence_ms: 0,
            warnings: vec![AudioWarning::TooQuiet, AudioWarning::TooFast],
        }),
        ServerMessage::Reauthenticate { expires_at: UnixMs(1) },
        ServerMessage::Authenticated { expires_at: UnixMs(1) },
        ServerMessage::SessionEnded { reason: EndReason::Abandoned },
        ServerMessage::GoAway { reason: "the server is stopping".into(), reconnect_within_ms: 5_000 },
        ServerMessage::Pong,
        ServerMessage::Error {
            code: ErrorCode::UnsupportedLanguage,
            message: "no".into(),
            retryable: false,
            details: Some(json!({ "supported": ["es"] })),
        },
    ]
}

fn name(message: &ServerMessage) -> &'static str {
    match message {
        ServerMessage::SessionJoined(_) => "sessionJoined",
        ServerMessage::Transcription(_) => "transcription",
        ServerMessage::Emotion { .. } => "emotion",
        ServerMessage::SpeakerKvsReady => "speakerKvsReady",
        ServerMessage::SpeakerKvsDisconnected { .. } => "speakerKvsDisconnected",
        ServerMessage::LanguageChanged { .. } => "languageChanged",
        ServerMessage::Gap { .. } => "gap",
        ServerMessage::BroadcastState(_) => "broadcastState",
        ServerMessage::SessionStatus(_) => "sessionStatus",
        ServerMessage::SessionCreated { .. } => "sessionCreated",
        ServerMessage::ListenerStats { .. } => "listenerStats",
        ServerMessage::AudioQuality(_) => "audioQuality",
        ServerMessage::Reauthenticate { .. } => "reauthenticate",
        ServerMessage::Authenticated { .. } => "authenticated",
        ServerMessage::SessionEnded { .. } => "sessionEnded",
        ServerMessage::GoAway { .. } => "goAway",
        ServerMessage::Pong => "pong",
        ServerMessage::Error { .. } => "error",
    }
}

/// Judges by the document's schema of one message.
fn validator(document: &Value, message: &str) -> jsonschema::Validator {
    let mut schema = document["components"]["messages"][message]["payload"].clone();
    assert!(schema.is_object(), "the document does not have {message}");
    schema["components"] = document["components"].clone();
    jsonschema::validator_for(&schema).unwrap()
}

fn messages(document: &Value, operation: &str, part: &str) -> BTreeSet<String> {
    let refs = document["operations"][operation].pointer(part).unwrap().as_array().unwrap();
    refs.iter().map(|one| one["$ref"].as_str().unwrap().rsplit('/').next().unwrap().to_owned()).collect()
}

/// No member of an object that its schema does not know: JSON Schema itself would let it pass.
fn all_known(validator: &jsonschema::Validator, written: &Value) -> bool {
    let known: BTreeSet<String> = validator
        .evaluate(written)
        .iter_annotations()
        .filter_map(|entry| entry.annotations.value().as_array().cloned())
        .flatten()
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect();
    written.as_object().unwrap().keys().all(|name| known.contains(name))
}

#[test]
fn every_message_of_the_server_is_as_the_document_says() {
    let document = asyncapi::document();
    let mut seen = BTreeSet::from(["audio".to_owned()]);
    for message in told() {
        let name = name(&message);
        seen.insert(name.to_owned());
        let validator = validator(&document, name);
        let session_id = Some(SessionId::parse("calm-river-7").unwrap());
        let full = Envelope {
            message: message.clone(),
            session_id,
            timestamp: UnixMs(1),
            seq: Some(9),
            request_id: Some("r".into()),
        };
        let bare = Envelope { session_id: None, seq: None, request_id: None, ..full.clone() };
        for envelope in [full, bare] {
            let written = serde_json::to_value(&envelope).unwrap();
            assert_eq!(written["type"], name);
            validator.validate(&written).unwrap_or_else(|error| panic!("{name}: {error} in {written}"));
            assert!(all_known(&validator, &written), "{name} has a member that the document does not have: {written}");
            let fields = written.as_object().unwrap().keys().filter(|field| !OPTIONAL.contains(&field.as_str()));
            for field in fields {
                let mut broken = written.clone();
                broken.as_object_mut().unwrap().remove(field);
                assert!(!validator.is_valid(&broken), "{name} without {field} should be wrong");
            }
        }
    }
    assert_eq!(seen, messages(&document, "tell", "/messages"));
}

/// What a message may lack.
const OPTIONAL: [&str; 15] = [
    "sessionId",
    "seq",
    "requestId",
    "heardAt",
    "sourceLanguage",
    "sourceText",
    "untranslated",
    "audioLanguage",
    "snrDb",
    "arousal",
    "pace",
    "loudness",
    "pitchHz",
    "details",
    "segment",
];

/// A new action does not compile until it has a name here.
fn action_name(action: &Action) -> &'static str {
    match action {
        Action::JoinSession(_) => "joinSession",
        Action::ChangeLanguage(_) => "changeLanguage",
        Action::SetPlayback(_) => "setPlayback",
        Action::CreateSession(_) => "createSession",
        Action::PauseBroadcast => "pauseBroadcast",
        Action::ResumeBroadcast => "resumeBroadcast",
        Action::MuteBroadcast => "muteBroadcast",
        Action::UnmuteBroadcast => "unmuteBroadcast",
        Action::SetVolume(_) => "setVolume",
        Action::EndSession => "endSession",
        Action::GetSessionStatus => "getSessionStatus",
        Action::Authenticate(_) => "authenticate",
        Action::Ping => "ping",
    }
}

#[test]
fn every_action_of_the_document_is_read_as_it_says() {
    let document = asyncapi::document();
    for name in Action::NAMES {
        let message = &document["components"]["messages"][name];
        let (example, validator) = (&message["examples"][0]["payload"], validator(&document, name));
        validator.validate(example).unwrap_or_else(|error| panic!("{name}: {error}"));
        let read = ClientMessage::parse(&example.to_string()).unwrap();
        assert_eq!(action_name(&read.action), name);
        assert_eq!(messages(&document, name, "/messages"), BTreeSet::from([name.to_owned()]));
        assert!(messages(&document, name, "/reply/messages").contains("error"));
        // What the document forbids is refused, and the other way round.
        for (field, wrong) in [("isActive", json!(true)), ("requestId", json!(7)), ("sessionId", json!(7))] {
            let mut broken = example.clone();
            broken[field] = wrong;
            assert!(!validator.is_valid(&broken), "{name}.{field}");
            assert!(ClientMessage::parse(&broken.to_string()).is_err(), "{name}.{field}");
        }
    }
    let received = document["operations"].as_object().unwrap().values().filter(|one| one["action"] == "receive");
    assert_eq!(received.count(), Action::NAMES.len());
}

#[test]
fn every_error_has_its_close_code_in_the_document() {
    let codes = asyncapi::document()["channels"]["socket"]["x-closeCodes"].clone();
    for error in ErrorCode::ALL {
        let of_error = |one: &&Value| one["errors"].as_array().unwrap().contains(&json!(error.as_str()));
        let found: Vec<&Value> = codes.as_array().unwrap().iter().filter(of_error).collect();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0]["code"], error.close_code());
    }
    for code in [1001, 1009, 1012, 4400, 4401, 4403, 4404, 4408, 4409, 4429] {
        assert!(codes.as_array().unwrap().iter().any(|one| one["code"] == code), "{code}");
    }
}
