//! The AsyncAPI document of `/ws`: both directions, put together from the schemas of the types that are really read and
//! written. `receive` and `send` are the server's own view, as AsyncAPI 3 has it.

use std::collections::BTreeMap;

use babelcast_domain::error::ErrorCode;
use babelcast_domain::wire::{
    Authenticate, CaptionMode, ChangeLanguage, CreateSession, Envelope, JoinSession, ServerMessage, SetPlayback,
    SetVolume,
};
use serde_json::{Map, Value, json};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// What `action` says, who may say it, what it asks for, what answers it besides `error`, and an example.
type Said = (&'static str, &'static str, Fields, &'static [&'static str], fn() -> Value);

/// The fields of an action besides `action` and `requestId`.
enum Fields {
    Of(fn() -> RefOr<Schema>),
    /// Names the session at most; the connection is in one already.
    SessionId,
}

const SAID: [Said; 13] = [
    (
        "joinSession",
        "Takes a seat in a session: as its speaker with the owner's token, else as a listener. The first message of a \
         connection whose address does not join already.",
        Fields::Of(JoinSession::schema),
        &["sessionJoined"],
        || json!({ "sessionId": "blessed-covenant-420", "targetLanguage": "es", "captions": "stable" }),
    ),
    (
        "changeLanguage",
        "Captions in another language from now on.",
        Fields::Of(ChangeLanguage::schema),
        &["languageChanged"],
        || json!({ "targetLanguage": "fr" }),
    ),
    (
        "setPlayback",
        "What reaches this listener. What is left out stays as it is.",
        Fields::Of(SetPlayback::schema),
        &[],
        || json!({ "captions": "final", "paused": false }),
    ),
    (
        "createSession",
        "As `POST /sessions`; with a speaker's token.",
        Fields::Of(CreateSession::schema),
        &["sessionCreated"],
        || json!({ "sourceLanguage": "en", "title": "Opening talk", "targetLanguages": ["es", "fr"] }),
    ),
    ("pauseBroadcast", "The speaker pauses.", Fields::SessionId, &["broadcastState"], || json!({})),
    ("resumeBroadcast", "The speaker goes on.", Fields::SessionId, &["broadcastState"], || json!({})),
    ("muteBroadcast", "The speaker's microphone is ignored.", Fields::SessionId, &["broadcastState"], || json!({})),
    ("unmuteBroadcast", "The speaker's microphone is heard again.", Fields::SessionId, &["broadcastState"], || {
        json!({})
    }),
    (
        "setVolume",
        "How loud the voice is played to listeners.",
        Fields::Of(SetVolume::schema),
        &["broadcastState"],
        || json!({ "volume": 0.8 }),
    ),
    (
        "endSession",
        "The speaker ends the session, as `DELETE /sessions/{id}` does.",
        Fields::SessionId,
        &["sessionEnded"],
        || json!({ "sessionId": "blessed-covenant-420" }),
    ),
    ("getSessionStatus", "How the session is.", Fields::SessionId, &["sessionStatus"], || json!({})),
    (
        "authenticate",
        "A fresh token of the same speaker, before the old one ends.",
        Fields::Of(Authenticate::schema),
        &["authenticated"],
        || json!({ "token": "eyJraWQiOiJrMCIsImFsZyI6IlJTMjU2In0.e30.c2lnbmF0dXJl" }),
    ),
    ("ping", "Is anybody there?", Fields::SessionId, &["pong"], || json!({ "requestId": "p-1" })),
];

/// How the server ends a connection besides the codes that go with an `error`.
const CLOSED: [(u16, &str); 9] = [
    (1001, "The server is stopping; `goAway` came before. Come back within its time, and resume."),
    (1002, "That was not the WebSocket protocol."),
    (1007, "A text message was not UTF-8."),
    (1009, "A message was too big: 128 KiB at most, unless configured otherwise."),
    (1012, "Something broke on our side: connect again and resume."),
    (4404, "No such session, or it has ended; `sessionEnded` came before if it was joined."),
    (4408, "Too slow: no `joinSession` in time, nothing heard for a minute, or messages not taken. Resume."),
    (4409, "The same speaker has connected again; the newer connection is the speaker's."),
    (4429, "Too many: of connections, joins or messages. Wait, then come back."),
];

const INTRODUCTION: &str = "Captions and the speaker's controls over one WebSocket, `/ws`, for both roles. With the \
owner's token the connection is the speaker's, otherwise a listener's. The upgrade succeeds for every well-formed \
request; a refusal is an `error` message and a close code, because browsers cannot read an HTTP status.\n\n\
**Subprotocols.** `babelcast.v1` is answered when it is offered. A token may be offered beside it as `bearer.<jwt>`; it \
may also come as `Authorization: Bearer` or in the query.\n\n\
**Durable events** (finals, state changes, gaps) carry `seq`, contiguous per session and language within an `epoch`. A \
jump of more than 1 is a loss. Partials carry none: they are replaced, never owed. After a cut, join with \
`resume: {epoch, seq}` of the last durable event: what was missed follows, and what comes twice has the same `seq`.\n\n\
**Liveness.** The server pings every 25 s; a peer that sends nothing for 60 s, not even a pong, is dropped.\n\n\
**requestId** of an action, at most 128 characters, is echoed in its answer.";

const AUDIO_FRAME: &str = "A binary message: a 4-byte big-endian length, that many bytes of JSON header \
`{type: \"audio\", language, segmentId, audioSeq, format, sampleRate, durationMs, startMs, last}`, then the sound. The \
frame is laid down here so that clients can skip it; this version sends none.";

pub(super) fn document() -> Value {
    let mut schemas = Vec::new();
    Envelope::schemas(&mut schemas);
    JoinSession::schemas(&mut schemas);
    ChangeLanguage::schemas(&mut schemas);
    SetPlayback::schemas(&mut schemas);
    CreateSession::schemas(&mut schemas);
    let mut schemas: Map<String, Value> = schemas.into_iter().map(|(name, schema)| (name, value(&schema))).collect();
    schemas.remove("ServerMessage"); // taken apart below
    schemas.insert("Envelope".to_owned(), around());

    let told = told();
    let mut messages: Map<String, Value> = told.clone();
    messages.extend(SAID.iter().map(said));
    messages.insert(
        "audio".to_owned(),
        json!({ "name": "audio", "summary": "A piece of the dubbed voice.", "description": AUDIO_FRAME,
                "contentType": "application/octet-stream", "payload": { "type": "string", "format": "binary" } }),
    );
    let names = messages.keys().map(|name| (name.clone(), at(&["components", "messages", name])));
    let channel = json!({
        "address": "/ws",
        "title": "A session's socket",
        "messages": names.collect::<Map<_, _>>(),
        "bindings": { "ws": { "method": "GET", "query": query(), "bindingVersion": "0.1.0" } },
        "x-subprotocols": ["babelcast.v1"],
        "x-closeCodes": close_codes(),
    });
    json!({
        "asyncapi": "3.0.0",
        "info": { "title": "babelcast live", "version": env!("CARGO_PKG_VERSION"), "description": INTRODUCTION },
        "defaultContentType": "application/json",
        "channels": { "socket": channel },
        "operations": operations(told.keys().chain([&"audio".to_owned()])),
        "components": { "schemas": schemas, "messages": messages },
    })
}

fn value(schema: &RefOr<Schema>) -> Value {
    // What the derives wrote is JSON.
    serde_json::to_value(schema).unwrap_or_default()
}

fn at(path: &[&str]) -> Value {
    json!({ "$ref": format!("#/{}", path.join("/")) })
}

/// What is around every message of the server.
fn around() -> Value {
    let envelope = value(&Envelope::schema());
    let mut around = envelope["allOf"][1].clone();
    around["description"] = envelope["description"].clone();
    around
}

/// A message of the server for every form of [`ServerMessage`].
fn told() -> Map<String, Value> {
    let forms = value(&ServerMessage::schema())["oneOf"].take();
    let forms = forms.as_array().cloned().unwrap_or_default();
    let message = |form: Value| {
        let own = form["allOf"].as_array().and_then(|parts| parts.last()).unwrap_or(&form);
        let name = own["properties"]["type"]["enum"][0].as_str().unwrap_or_default().to_owned();
        let summary = form["description"].as_str().map(str::to_owned);
        let payload = json!({ "allOf": [form, at(&["components", "schemas", "Envelope"])] });
        let mut message = json!({ "name": name, "payload": payload });
        if let Some(summary) = summary {
            message["summary"] = summary.into();
        }
        (name, message)
    };
    forms.into_iter().map(message).collect()
}

/// A message of a client: the action's own fields, `action` and `requestId`, and nothing else.
fn said((name, summary, fields, _, example): &Said) -> (String, Value) {
    let mut payload = match fields {
        Fields::Of(schema) => value(&schema()),
        Fields::SessionId => json!({ "type": "object", "additionalProperties": false, "properties": {
            "sessionId": { "oneOf": [at(&["components", "schemas", "SessionId"]), { "type": "null" }] } } }),
    };
    payload["properties"]["action"] = json!({ "type": "string", "const": name });
    payload["properties"]["requestId"] = json!({ "type": ["string", "null"], "maxLength": 128 });
    let mut required = payload["required"].as_array().cloned().unwrap_or_default();
    required.push("action".into());
    payload["required"] = required.into();
    let mut example = example();
    example["action"] = (*name).into();
    let message = json!({ "name": name, "summary": summary, "payload": payload, "examples": [{ "payload": example }] });
    ((*name).to_owned(), message)
}

fn operations<'a>(told: impl Iterator<Item = &'a String>) -> Map<String, Value> {
    let message = |name: &str| at(&["channels", "socket", "messages", name]);
    let channel = at(&["channels", "socket"]);
    let mut operations = Map::new();
    for (name, summary, _, answers, _) in &SAID {
        let answers: Vec<Value> = answers.iter().chain(&["error"]).map(|name| message(name)).collect();
        operations.insert(
            (*name).to_owned(),
            json!({ "action": "receive", "channel": channel, "summary": summary, "messages": [message(name)],
                    "reply": { "channel": channel, "messages": answers } }),
        );
    }
    let told: Vec<Value> = told.map(|name| message(name)).collect();
    operations.insert(
        "tell".to_owned(),
        json!({ "action": "send", "channel": channel, "summary": "Everything the server says.", "messages": told }),
    );
    operations
}

fn query() -> Value {
    let text = |description: &str| json!({ "type": "string", "description": description });
    let number = |description: &str| json!({ "type": "integer", "minimum": 0, "description": description });
    let modes: Vec<Value> = CaptionMode::ALL.iter().map(|mode| json!(mode)).collect();
    json!({ "type": "object", "properties": {
        "sessionId": text("Joins at once, without `joinSession`."),
        "targetLanguage": text("As in `joinSession`."),
        "captions": { "type": "string", "enum": modes },
        "epoch": number("With `seq`: as `resume` in `joinSession`."),
        "seq": number("With `epoch`."),
        "accessCode": text("Where the session has one."),
        "token": text("For clients that can send no header."),
    } })
}

/// Every close code: what it means and which errors it goes with.
fn close_codes() -> Vec<Value> {
    let mut codes: BTreeMap<u16, (Option<&str>, Vec<&str>)> = BTreeMap::new();
    for (code, meaning) in CLOSED {
        codes.entry(code).or_default().0 = Some(meaning);
    }
    for error in ErrorCode::ALL {
        codes.entry(error.close_code()).or_default().1.push(error.as_str());
    }
    let told = |(code, (meaning, errors)): (u16, (Option<&str>, Vec<&str>))| {
        let meaning = meaning.unwrap_or("An `error` with the reason came before.");
        json!({ "code": code, "description": meaning, "errors": errors })
    };
    codes.into_iter().map(told).collect()
}
