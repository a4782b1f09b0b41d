use std::sync::atomic::Ordering;
use std::time::Duration;

use aws_lc_rs::hmac;
use babelcast_domain::counts::Count;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::{House, Issuer, KEYS, encoded, http, jwk, sign};
use crate::web::Token;

/// Status and `details.reason` of asking for something a speaker's token is needed for.
async fn ask(house: &House, authorization: &str) -> (u16, Value) {
    let request = http().post(house.at("/sessions")).header("authorization", authorization);
    let answer = request.json(&json!({ "sourceLanguage": "en" })).send().await.unwrap();
    let status = answer.status().as_u16();
    (status, answer.json::<Value>().await.unwrap_or_default()["details"]["reason"].clone())
}

async fn ask_with(house: &House, header: Value, change: impl FnOnce(&mut Value)) -> (u16, Value) {
    let mut claims = house.issuer.claims("ana");
    change(&mut claims);
    ask(house, &format!("Bearer {}", sign(&header, &claims, &KEYS[0]))).await
}

fn rs256() -> Value {
    json!({ "alg": "RS256", "kid": "k0" })
}

#[tokio::test]
async fn a_good_access_token_opens_the_door() {
    let house = House::open().await;
    assert_eq!(ask_with(&house, rs256(), |_| {}).await.0, 201);
    let token = house.issuer.token("ana");
    assert_eq!(ask(&house, &format!("bearer   {}", token.reveal())).await.0, 201, "the scheme has no case");
    assert_eq!(house.count(Count::TokensRefused), 0);
}

#[tokio::test]
async fn no_token_is_anonymous_and_a_bad_one_is_refused_even_where_none_is_needed() {
    let house = House::open().await;
    let session = house.session().await;
    let show = |authorization: &'static str| {
        let request = http().get(house.at(&format!("/sessions/{session}"))).header("authorization", authorization);
        async move { request.send().await.unwrap().status().as_u16() }
    };
    for anonymous in ["", "Bearer", "Bearer ", "bearer"] {
        assert_eq!(show(anonymous).await, 200, "{anonymous:?}");
        assert_eq!(ask(&house, anonymous).await, (401, json!("missing")), "{anonymous:?}");
    }
    for bad in ["Bearer x", "Basic YTpi", "Bearer a.b.c", "x"] {
        assert_eq!(show(bad).await, 401, "{bad}");
    }
    let answer = http().post(house.at("/sessions")).json(&json!({ "sourceLanguage": "en" })).send().await.unwrap();
    assert_eq!(answer.headers()["www-authenticate"], "Bearer");
}

#[tokio::test]
async fn claims_that_are_not_ours_are_refused_by_name() {
    let house = House::open().await;
    let now = crate::web::wall().as_secs();
    type Change = fn(&mut Value, u64);
    let cases: Vec<(&str, Change)> = vec![
        ("expired", |claims, now| claims["exp"] = json!(now - 60)),
        ("notYetValid", |claims, now| claims["nbf"] = json!(now + 600)),
        ("issuer", |claims, _| claims["iss"] = json!("https://elsewhere.example")),
        ("issuer", |claims, _| claims["iss"] = json!(format!("{}/", claims["iss"].as_str().unwrap()))),
        ("client", |claims, _| claims["client_id"] = json!("some-other-app")),
        ("client", |claims, _| claims["client_id"] = Value::Null),
        ("client", |claims, _| claims["client_id"] = json!("")),
        ("notAnAccessToken", |claims, _| claims["token_use"] = json!("id")),
        ("notAnAccessToken", |claims, _| claims["token_use"] = Value::Null),
        ("malformed", |claims, _| drop(claims.as_object_mut().unwrap().remove("exp"))),
        ("malformed", |claims, _| drop(claims.as_object_mut().unwrap().remove("iss"))),
        ("malformed", |claims, _| drop(claims.as_object_mut().unwrap().remove("sub"))),
        ("malformed", |claims, _| claims["sub"] = json!("")),
        ("malformed", |claims, _| claims["exp"] = json!("tomorrow")),
    ];
    for (reason, change) in cases {
        let got = ask_with(&house, rs256(), |claims| change(claims, now)).await;
        assert_eq!(got, (401, json!(reason)));
    }
    assert_eq!(house.count(Count::TokensRefused), 14);
    assert_eq!(ask_with(&house, rs256(), |claims| claims["exp"] = json!(now - 10)).await.0, 201, "within the leeway");
}

#[tokio::test]
async fn the_algorithm_is_the_keys_and_never_the_tokens() {
    let house = House::open().await;
    let claims = house.issuer.claims("ana");
    for none in ["none", "None", "NONE", "nOnE", "", "RS256 ", "rs256"] {
        for signature in ["", "AAAA"] {
            let token = format!("{}.{signature}", encoded(&json!({ "alg": none, "kid": "k0" }), &claims));
            assert_eq!(ask(&house, &format!("Bearer {token}")).await.0, 401, "{none:?} {signature:?}");
        }
    }
    // Signed with what everybody knows: the public key as an HMAC secret.
    let public = jwk("k0", &KEYS[0]);
    let modulus = URL_SAFE_NO_PAD.decode(public["n"].as_str().unwrap()).unwrap();
    for secret in [public.to_string().into_bytes(), modulus] {
        let signed = encoded(&json!({ "alg": "HS256", "kid": "k0" }), &claims);
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), signed.as_bytes());
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag));
        assert_eq!(ask(&house, &format!("Bearer {token}")).await, (401, json!("algorithm")));
    }
    for other in ["RS384", "RS512", "PS256", "ES256", "EdDSA"] {
        let got = ask_with(&house, json!({ "alg": other, "kid": "k0" }), |_| {}).await;
        assert_eq!(got, (401, json!("algorithm")), "{other}");
    }
    let critical = json!({ "alg": "RS256", "kid": "k0", "crit": ["b64"], "b64": false });
    assert_eq!(ask_with(&house, critical, |_| {}).await, (401, json!("malformed")));
}

#[tokio::test]
async fn a_token_cannot_bring_its_own_key() {
    let house = House::open().await;
    let elsewhere = Issuer::start().await;
    let forged = |header: Value| sign(&header, &house.issuer.claims("ana"), &KEYS[1]);
    let url = format!("{}/.well-known/jwks.json", elsewhere.url);
    let own = jwk("k0", &KEYS[1]);
    for header in [
        rs256(),
        json!({ "alg": "RS256", "kid": "k0", "jku": url, "x5u": url }),
        json!({ "alg": "RS256", "kid": "k0", "jwk": own }),
    ] {
        assert_eq!(ask(&house, &format!("Bearer {}", forged(header))).await, (401, json!("signature")));
    }
    for kid in ["../../etc/passwd", "k0' OR '1'='1", "", "\u{0}"] {
        let header = json!({ "alg": "RS256", "kid": kid, "jku": url });
        assert_eq!(ask(&house, &format!("Bearer {}", forged(header))).await, (401, json!("unknownKey")));
    }
    assert_eq!(ask(&house, &format!("Bearer {}", forged(json!({ "alg": "RS256" })))).await, (401, json!("malformed")));
    assert_eq!(elsewhere.fetches.load(Ordering::SeqCst), 0, "an address in a header was asked");
}

#[tokio::test]
async fn garbage_is_refused_and_breaks_nothing() {
    let house = House::open().await;
    let good = house.issuer.token("ana");
    let [head, body, signature]: [&str; 3] =
        good.reveal().split('.').collect::<Vec<_>>().try_into().expect("three parts");
    let flipped = format!("{head}.{body}.{}", signature.chars().rev().collect::<String>());
    let other_claims = URL_SAFE_NO_PAD.encode(house.issuer.claims("eve").to_string());
    for bad in [
        ".",
        "..",
        "....",
        "a.b.c",
        head,
        &format!("{head}.{body}"),
        &format!("{head}.{body}."),
        &flipped,
        &format!("{head}.{other_claims}.{signature}"),
        &format!("{}.{}", good.reveal(), "x"),
        &"x".repeat(9_000),
        &format!("{}.{}.x", URL_SAFE_NO_PAD.encode([0xff, 0xfe]), URL_SAFE_NO_PAD.encode("[]")),
    ] {
        assert_eq!(ask(&house, &format!("Bearer {bad}")).await.0, 401, "{bad:.80}");
    }
    assert_eq!(ask(&house, &format!("Bearer {}", good.reveal())).await.0, 201);
    assert_eq!(house.count(Count::Panics), 0);
}

#[tokio::test]
async fn a_storm_of_unknown_keys_costs_one_fetch_and_good_tokens_go_on() {
    let house = House::open_with(|settings| settings.auth.refetch = Duration::from_secs(600)).await;
    assert_eq!(ask_with(&house, rs256(), |_| {}).await.0, 201);
    assert_eq!(house.issuer.fetches.load(Ordering::SeqCst), 1, "the one at start");
    let storm = (0..100).map(|n| ask_with(&house, json!({ "alg": "RS256", "kid": format!("k{}", n + 1) }), |_| {}));
    for got in futures_util::future::join_all(storm).await {
        assert_eq!(got, (401, json!("unknownKey")));
    }
    assert_eq!(ask_with(&house, rs256(), |_| {}).await.0, 201);
    assert!(house.issuer.fetches.load(Ordering::SeqCst) <= 2);
}

#[tokio::test]
async fn a_new_key_is_taken_up_and_the_old_ones_stay_while_the_issuer_is_down() {
    let house = House::open_with(|settings| settings.auth.refetch = Duration::from_millis(50)).await;
    assert_eq!(ask_with(&house, rs256(), |_| {}).await.0, 201);

    house.issuer.publish(json!([jwk("k0", &KEYS[0]), { "kty": "XYZ", "kid": "odd" }, jwk("k1", &KEYS[1])]));
    let fresh = sign(&json!({ "alg": "RS256", "kid": "k1" }), &house.issuer.claims("ana"), &KEYS[1]);
    let fresh = format!("Bearer {fresh}");
    // Within the least time between fetches a new key is unknown; after it, the first to ask gets it.
    let mut got = ask(&house, &fresh).await.0;
    for _ in 0..100 {
        if got == 201 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        got = ask(&house, &fresh).await.0;
    }
    assert_eq!(got, 201, "the new key never came");

    house.issuer.broken.store(true, Ordering::SeqCst);
    let before = house.issuer.fetches.load(Ordering::SeqCst);
    let unknown = json!({ "alg": "RS256", "kid": "k2" });
    while house.issuer.fetches.load(Ordering::SeqCst) == before {
        assert_eq!(ask_with(&house, unknown.clone(), |_| {}).await.0, 401);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(ask(&house, &fresh).await.0, 201);
    assert_eq!(ask_with(&house, rs256(), |_| {}).await.0, 201);
}

#[tokio::test]
async fn an_issuer_that_never_answered_is_our_trouble_and_not_the_speakers() {
    let house = House::open_with(|settings| {
        settings.auth.jwks_url = Some("http://127.0.0.1:9/none.json".into());
    })
    .await;
    assert_eq!(ask_with(&house, rs256(), |_| {}).await.0, 503);
    assert_eq!(house.count(Count::TokensRefused), 0);
}

#[test]
fn a_token_cannot_be_printed() {
    let token = Token::new("secret.secret.secret").unwrap();
    assert!(!format!("{token:?}").contains("secret"));
    assert!(Token::new("  ").is_none());
}
