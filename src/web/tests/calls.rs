//! Listing, changing, polling, and asking twice.

use babelcast_domain::ids::SessionId;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use super::{House, http};

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Value,
}

impl House {
    async fn call(&self, sub: &str, method: &str, path: &str, key: Option<&str>, body: Option<Value>) -> Answer {
        let mut request = http().request(method.parse().unwrap(), self.at(path));
        if !sub.is_empty() {
            request = request.bearer_auth(self.issuer.token(sub).reveal());
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let body = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default();
        Answer { status, headers, body }
    }

    async fn patch(&self, sub: &str, id: &SessionId, body: Value) -> Answer {
        self.call(sub, "PATCH", &format!("/sessions/{id}"), None, Some(body)).await
    }
}

fn ids(page: &Value) -> Vec<String> {
    let sessions = page["sessions"].as_array().unwrap();
    sessions.iter().map(|session| session["sessionId"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_speaker_pages_through_own_sessions_newest_first() {
    let house = House::open().await;
    let mut made = Vec::new();
    for _ in 0..53 {
        made.push(house.session().await.to_string());
    }
    house.speaker("eve").create(&super::talk()).await.unwrap();
    let first = house.call("ana", "GET", "/sessions", None, None).await;
    assert_eq!((first.status, &first.headers["cache-control"]), (200, &"no-store".parse().unwrap()));
    assert!(first.body["sessions"][0]["kvsChannelArn"].is_string(), "the owner's view");
    let cursor = first.body["cursor"].as_str().expect("there is more");
    let second = house.call("ana", "GET", &format!("/sessions?cursor={cursor}"), None, None).await;
    assert!(second.body.get("cursor").is_none(), "{}", second.body["cursor"]);
    let mut listed = ids(&first.body);
    listed.extend(ids(&second.body));
    listed.sort();
    made.sort();
    assert_eq!(listed, made);
    for pair in first.body["sessions"].as_array().unwrap().windows(2) {
        assert!(pair[0]["createdAt"].as_u64() >= pair[1]["createdAt"].as_u64());
    }
    for wrong in ["/sessions?cursor=", "/sessions?cursor=zzz", "/sessions?cursor=a&cursor=b"] {
        let refused = house.call("ana", "GET", wrong, None, None).await;
        assert_eq!((refused.status, &refused.body["code"]), (400, &json!("INVALID_REQUEST")), "{wrong}");
        assert!(refused.body["detail"].as_str().unwrap().contains("cursor"));
    }
    assert_eq!(house.call("", "GET", "/sessions", None, None).await.status, 401);
    assert_eq!(ids(&house.call("bob", "GET", "/sessions", None, None).await.body), Vec::<String>::new());
}

#[tokio::test]
async fn an_owner_changes_what_may_be_changed_and_only_while_it_lives() {
    let house = House::open().await;
    let id = house.session().await;
    let changed = house.patch("ana", &id, json!({ "title": "Another", "targetLanguages": ["ES"] })).await;
    assert_eq!((changed.status, &changed.body["title"]), (200, &json!("Another")));
    assert_eq!(changed.body["targetLanguages"], json!(["es"]));
    let paused = house.patch("ana", &id, json!({ "status": "paused" })).await;
    assert_eq!((&paused.body["status"], &paused.body["title"]), (&json!("paused"), &json!("Another")));
    let cleared = house.patch("ana", &id, json!({ "title": null, "targetLanguages": null, "status": "active" })).await;
    assert_eq!(cleared.body["status"], "active");
    assert!(cleared.body.get("title").is_none() && cleared.body.get("targetLanguages").is_none());

    for (body, code, word) in [
        (json!({ "status": "ended" }), "INVALID_REQUEST", "status"),
        (json!({ "status": "live" }), "INVALID_REQUEST", "status"),
        (json!({ "title": "" }), "INVALID_REQUEST", "title"),
        (json!({ "targetLanguages": [] }), "INVALID_REQUEST", "targetLanguages"),
        (json!({ "targetLanguages": ["xx"] }), "UNSUPPORTED_LANGUAGE", "xx"),
        (json!({ "isActive": false }), "INVALID_REQUEST", "isActive"),
    ] {
        let refused = house.patch("ana", &id, body.clone()).await;
        assert_eq!((refused.status, &refused.body["code"]), (400, &json!(code)), "{body}");
        assert!(refused.body["detail"].as_str().unwrap().contains(word), "{}", refused.body);
    }
    assert_eq!(house.patch("eve", &id, json!({ "title": "Mine" })).await.status, 403);
    assert_eq!(house.patch("", &id, json!({ "title": "Mine" })).await.status, 401);
    house.speaker("ana").end(&id).await.unwrap();
    for body in [json!({ "status": "active" }), json!({ "title": "Late" })] {
        let refused = house.patch("ana", &id, body).await;
        assert_eq!((refused.status, &refused.body["code"]), (409, &json!("CONFLICT")));
    }
}

#[tokio::test]
async fn a_poller_is_told_only_what_is_new() {
    let house = House::open().await;
    let id = house.session().await;
    let path = format!("/sessions/{id}/status");
    let ask = |known: Option<String>| {
        let mut request = http().get(house.at(&path));
        if let Some(known) = known {
            request = request.header("if-none-match", known);
        }
        async move { request.send().await.unwrap() }
    };
    let first = ask(None).await;
    assert_eq!(
        (first.status().as_u16(), &first.headers()["cache-control"]),
        (200, &"public, max-age=1".parse().unwrap())
    );
    let tag = first.headers()["etag"].to_str().unwrap().to_owned();
    let view: Value = first.json().await.unwrap();
    assert_eq!(
        (&view["status"], &view["speakerKvsConnected"], &view["listenerCount"]),
        (&json!("active"), &json!(false), &json!(0))
    );
    for known in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}"), "*".into()] {
        let same = ask(Some(known.clone())).await;
        assert_eq!((same.status().as_u16(), &same.headers()["etag"]), (304, &tag.parse().unwrap()), "{known}");
        assert!(same.bytes().await.unwrap().is_empty());
    }
    for other in ["\"other\"", "nonsense"] {
        assert_eq!(ask(Some(other.into())).await.status(), 200, "{other}");
    }
    house.speaker("ana").set_kvs_connected(&id, true).await.unwrap();
    let changed = ask(Some(tag.clone())).await;
    assert_eq!(changed.status(), 200);
    assert_ne!(changed.headers()["etag"], tag);
    assert_eq!(changed.json::<Value>().await.unwrap()["speakerKvsConnected"], true);
    house.speaker("ana").end(&id).await.unwrap();
    assert_eq!(ask(None).await.json::<Value>().await.unwrap()["status"], "ended");
    assert_eq!(house.call("", "GET", "/sessions/no-such-7/status", None, None).await.status, 404);
}

#[tokio::test]
async fn asking_twice_with_one_key_makes_one_session() {
    let house = House::open().await;
    let create = |sub: &'static str, key: &'static str, body: Value| {
        let house = &house;
        async move { house.call(sub, "POST", "/sessions", Some(key), Some(body)).await }
    };
    let first = create("ana", "k 1", json!({ "sourceLanguage": "en" })).await;
    assert_eq!(first.status, 201);
    let again = create("ana", "k 1", json!({ "sourceLanguage": "en", "recording": false, "title": null })).await;
    assert_eq!((again.status, &again.body), (201, &first.body), "the same request, spelt otherwise");
    assert_eq!(again.headers["location"], first.headers["location"]);

    let other = create("ana", "k 1", json!({ "sourceLanguage": "fr" })).await;
    assert_eq!((other.status, &other.body["code"]), (409, &json!("CONFLICT")));
    let stranger = create("eve", "k 1", json!({ "sourceLanguage": "fr" })).await;
    assert_eq!(stranger.status, 201, "keys are a speaker's own");
    let new = create("ana", "k 2", json!({ "sourceLanguage": "en" })).await;
    assert_ne!(new.body["sessionId"], first.body["sessionId"]);

    // A request that failed leaves its key free.
    let failed = create("ana", "k 3", json!({ "sourceLanguage": "xx" })).await;
    assert_eq!((failed.status, &failed.body["code"]), (400, &json!("UNSUPPORTED_LANGUAGE")));
    assert_eq!(create("ana", "k 3", json!({ "sourceLanguage": "en" })).await.status, 201);
    for wrong in ["", &"x".repeat(256)] {
        let refused =
            house.call("ana", "POST", "/sessions", Some(wrong), Some(json!({ "sourceLanguage": "en" }))).await;
        assert_eq!((refused.status, &refused.body["code"]), (400, &json!("INVALID_REQUEST")));
        assert!(refused.body["detail"].as_str().unwrap().contains("Idempotency-Key"));
    }
    assert_eq!(ids(&house.call("ana", "GET", "/sessions", None, None).await.body).len(), 3);
}

#[tokio::test]
async fn of_many_at_once_with_one_key_one_makes_the_session() {
    let house = House::open().await;
    let body = || Some(json!({ "sourceLanguage": "en" }));
    let all = (0..8).map(|_| house.call("ana", "POST", "/sessions", Some("storm"), body()));
    let answers = futures_util::future::join_all(all).await;
    let made: Vec<&Answer> = answers.iter().filter(|answer| answer.status == 201).collect();
    assert!(!made.is_empty() && made.iter().all(|answer| answer.body["sessionId"] == made[0].body["sessionId"]));
    for refused in answers.iter().filter(|answer| answer.status != 201) {
        assert_eq!((refused.status, &refused.body["code"]), (409, &json!("CONFLICT")));
        assert_eq!(
            (&refused.body["details"]["retryAfterMs"], &refused.body["retryable"]),
            (&json!(1_000), &json!(true))
        );
        assert_eq!(refused.headers["retry-after"], "1");
    }
    assert_eq!(ids(&house.call("ana", "GET", "/sessions", None, None).await.body).len(), 1);
}
