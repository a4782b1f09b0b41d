use std::sync::atomic::Ordering;
use std::time::Duration;

use aws_lc_rs::hmac;
use babelcast_domain::counts::Count;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use url::form_urlencoded;

use super::socket::{by_query, heard};
use super::{House, Issuer, KEYS, encoded, http, jwk, sign, sign_raw};
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

/// A row of the table: what is tried, the token, and `details.reason` of its refusal.
type Attack = (&'static str, String, &'static str);

/// Tokens whose signature is good and whose claims are not.
fn wrong_claims(house: &House) -> Vec<Attack> {
    let now = crate::web::wall().as_secs();
    type Change = fn(&mut Value, u64);
    let cases: Vec<(&str, &str, Change)> = vec![
        ("expired", "expired", |claims, now| claims["exp"] = json!(now - 60)),
        ("expired in 1970", "expired", |claims, _| claims["exp"] = json!(0)),
        ("exp before all time", "malformed", |claims, _| claims["exp"] = json!(-1)),
        ("nbf in the future", "notYetValid", |claims, now| claims["nbf"] = json!(now + 600)),
        ("another issuer", "issuer", |claims, _| claims["iss"] = json!("https://elsewhere.example")),
        ("issuer and a slash", "issuer", |claims, _| {
            claims["iss"] = json!(format!("{}/", claims["iss"].as_str().unwrap()));
        }),
        ("issuer in capitals", "issuer", |claims, _| {
            claims["iss"] = json!(claims["iss"].as_str().unwrap().to_uppercase());
        }),
        ("two issuers", "malformed", |claims, _| claims["iss"] = json!([claims["iss"], "https://elsewhere.example"])),
        ("another app", "client", |claims, _| claims["client_id"] = json!("some-other-app")),
        ("no app", "client", |claims, _| claims["client_id"] = Value::Null),
        ("an empty app", "client", |claims, _| claims["client_id"] = json!("")),
        ("our app as aud only", "client", |claims, _| {
            claims["aud"] = claims["client_id"].take();
        }),
        ("an id token", "notAnAccessToken", |claims, _| claims["token_use"] = json!("id")),
        ("no token_use", "notAnAccessToken", |claims, _| claims["token_use"] = Value::Null),
        ("no exp", "malformed", |claims, _| drop(claims.as_object_mut().unwrap().remove("exp"))),
        ("no iss", "malformed", |claims, _| drop(claims.as_object_mut().unwrap().remove("iss"))),
        ("no sub", "malformed", |claims, _| drop(claims.as_object_mut().unwrap().remove("sub"))),
        ("an empty sub", "malformed", |claims, _| claims["sub"] = json!("")),
        ("a huge sub", "malformed", |claims, _| claims["sub"] = json!("x".repeat(300))),
        ("sub is a number", "malformed", |claims, _| claims["sub"] = json!(7)),
        ("exp is a word", "malformed", |claims, _| claims["exp"] = json!("tomorrow")),
        ("exp is a list", "malformed", |claims, _| claims["exp"] = json!([9e9])),
        ("claims are a list", "malformed", |claims, _| *claims = json!([claims])),
        ("claims are a word", "malformed", |claims, _| *claims = json!("admin")),
    ];
    let token = |change: Change| {
        let mut claims = house.issuer.claims("ana");
        change(&mut claims, now);
        sign(&rs256(), &claims, &KEYS[0])
    };
    cases.into_iter().map(|(name, reason, change)| (name, token(change), reason)).collect()
}

/// Tokens that want to choose how they are checked.
fn wrong_algorithms(house: &House) -> Vec<Attack> {
    let claims = house.issuer.claims("ana");
    let mut attacks = Vec::new();
    for none in ["none", "None", "NONE", "nOnE", "", "RS256 ", "rs256", "RS256\u{0}"] {
        for signature in ["", "AAAA"] {
            let token = format!("{}.{signature}", encoded(&json!({ "alg": none, "kid": "k0" }), &claims));
            attacks.push(("alg none and its spellings", token, "malformed"));
        }
    }
    // What everybody knows, as an HMAC secret.
    let public = jwk("k0", &KEYS[0]);
    let modulus = URL_SAFE_NO_PAD.decode(public["n"].as_str().unwrap()).unwrap();
    let der = aws_lc_rs::signature::KeyPair::public_key(&KEYS[0]).as_ref().to_vec();
    let body = base64::engine::general_purpose::STANDARD.encode(&der);
    let pem = format!("-----BEGIN RSA PUBLIC KEY-----\n{body}\n-----END RSA PUBLIC KEY-----\n").into_bytes();
    for secret in [public.to_string().into_bytes(), modulus, der, pem, Vec::new()] {
        let signed = encoded(&json!({ "alg": "HS256", "kid": "k0" }), &claims);
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), signed.as_bytes());
        let tag = URL_SAFE_NO_PAD.encode(tag);
        attacks.push(("HS256 with the public key", format!("{signed}.{tag}"), "algorithm"));
        let relabelled = encoded(&rs256(), &claims);
        attacks.push(("the same, called RS256", format!("{relabelled}.{tag}"), "signature"));
    }
    for other in ["RS384", "RS512", "PS256", "ES256", "EdDSA"] {
        let header = json!({ "alg": other, "kid": "k0" });
        attacks.push(("another algorithm", sign(&header, &claims, &KEYS[0]), "algorithm"));
    }
    let critical = json!({ "alg": "RS256", "kid": "k0", "crit": ["b64"], "b64": false });
    attacks.push(("an extension nobody knows", sign(&critical, &claims, &KEYS[0]), "malformed"));
    attacks
}

/// Tokens that bring, or point to, a key of their own: `elsewhere` is where a server would fetch it.
fn own_keys(house: &House, elsewhere: &str) -> Vec<Attack> {
    let forged = |header: Value| sign(&header, &house.issuer.claims("ana"), &KEYS[1]);
    let url = format!("{elsewhere}/.well-known/jwks.json");
    let own = jwk("k0", &KEYS[1]);
    let der = URL_SAFE_NO_PAD.encode(aws_lc_rs::signature::KeyPair::public_key(&KEYS[1]).as_ref());
    let mut attacks = vec![
        ("signed by somebody else", forged(rs256()), "signature"),
        ("jku and x5u", forged(json!({ "alg": "RS256", "kid": "k0", "jku": url, "x5u": url })), "signature"),
        ("jwk", forged(json!({ "alg": "RS256", "kid": "k0", "jwk": own })), "signature"),
        ("x5c", forged(json!({ "alg": "RS256", "kid": "k0", "x5c": [der], "x5t": "x" })), "signature"),
        ("no kid", forged(json!({ "alg": "RS256" })), "malformed"),
        ("kid is no word", forged(json!({ "alg": "RS256", "kid": { "k": "k0" } })), "malformed"),
    ];
    let huge = "k".repeat(4_000);
    let kids =
        ["../../etc/passwd", "k0' OR '1'='1", "", "\u{0}", "k0\u{0}", "K0", "k0 ", "/dev/null", &url, "*", &huge];
    for kid in kids {
        let header = json!({ "alg": "RS256", "kid": kid, "jku": url });
        attacks.push(("kid injection", forged(header.clone()), "unknownKey"));
        attacks.push((
            "kid injection, well signed",
            sign(&header, &house.issuer.claims("ana"), &KEYS[0]),
            "unknownKey",
        ));
    }
    attacks
}

/// What is no token, or not the one that was signed.
fn garbage(house: &House) -> Vec<Attack> {
    let good = house.issuer.token("ana");
    let [head, body, signature]: [&str; 3] =
        good.reveal().split('.').collect::<Vec<_>>().try_into().expect("three parts");
    let flipped = format!("{head}.{body}.{}{}", &signature[40..80], &signature[40..]);
    let other_claims = URL_SAFE_NO_PAD.encode(house.issuer.claims("eve").to_string());
    let raw = |header: &str, claims: &str| {
        let (header, claims) = (URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        sign_raw(&format!("{header}.{claims}"), &KEYS[0])
    };
    let claims = house.issuer.claims("ana").to_string();
    let twice = |name: &str, value: &str| format!("{},\"{name}\":{value}}}", claims.trim_end_matches('}'));
    let two_algorithms = r#"{"alg":"none","alg":"RS256","kid":"k0"}"#;
    vec![
        ("dots", ".".into(), "malformed"),
        ("more dots", "....".into(), "malformed"),
        ("letters", "a.b.c".into(), "malformed"),
        ("a header alone", head.into(), "malformed"),
        ("no signature", format!("{head}.{body}"), "malformed"),
        ("an empty signature", format!("{head}.{body}."), "signature"),
        ("a wrong signature", flipped, "signature"),
        ("other claims", format!("{head}.{other_claims}.{signature}"), "signature"),
        ("a part too many", format!("{}.x", good.reveal()), "malformed"),
        ("padding", format!("{}==", good.reveal()), "malformed"),
        ("a huge token", format!("{head}.{}.{signature}", "x".repeat(9_000)), "malformed"),
        (
            "no UTF-8",
            format!("{}.{}.x", URL_SAFE_NO_PAD.encode([0xff, 0xfe]), URL_SAFE_NO_PAD.encode("[]")),
            "malformed",
        ),
        ("two subs", raw(&rs256().to_string(), &twice("sub", "\"eve\"")), "malformed"),
        ("two exps", raw(&rs256().to_string(), &twice("exp", "9999999999")), "malformed"),
        ("two issuers", raw(&rs256().to_string(), &twice("iss", "\"https://elsewhere.example\"")), "malformed"),
        ("two algorithms", raw(two_algorithms, &claims), "malformed"),
        ("deep header", raw(&format!("{}{}", "[".repeat(2_000), "]".repeat(2_000)), &claims), "malformed"),
    ]
}

/// Rows 3, 4, 5, 7 and 8 of the threats: every forged token is refused, by name, wherever it is shown.
#[tokio::test]
async fn no_token_of_the_attack_table_opens_any_door() {
    let house = House::open().await;
    let session = house.session().await;
    let elsewhere = Issuer::start().await;
    let mut attacks = wrong_claims(&house);
    attacks.extend(wrong_algorithms(&house));
    attacks.extend(own_keys(&house, &elsewhere.url));
    attacks.extend(garbage(&house));
    assert!(attacks.len() > 90, "{}", attacks.len());
    for (name, token, reason) in &attacks {
        let got = ask(&house, &format!("Bearer {token}")).await;
        assert_eq!(got, (401, json!(reason)), "{name}: {token:.60}");
        let query =
            form_urlencoded::Serializer::new(format!("sessionId={session}&")).append_pair("token", token).finish();
        let (mut socket, _) = by_query(&house, &query, None).await;
        let told = heard(&mut socket).await;
        assert_eq!((&told["code"], &told["details"]["reason"]), (&json!("UNAUTHORIZED"), &json!(reason)), "{name}");
        assert_eq!(heard(&mut socket).await["closed"], 4401, "{name}");
    }
    assert_eq!(house.count(Count::TokensRefused), 2 * attacks.len() as u64);
    assert_eq!(house.count(Count::Panics), 0);
    assert_eq!(elsewhere.fetches.load(Ordering::SeqCst), 0, "an address in a header was asked");
    let now = crate::web::wall().as_secs();
    assert_eq!(ask_with(&house, rs256(), |_| {}).await.0, 201, "a good one still does");
    assert_eq!(ask_with(&house, rs256(), |claims| claims["exp"] = json!(now - 10)).await.0, 201, "within the leeway");
    let fraction = |claims: &mut Value| claims["exp"] = json!(now as f64 + 60.5);
    assert_eq!(ask_with(&house, rs256(), fraction).await.0, 201, "some issuers write fractions");
}

#[tokio::test]
async fn a_good_token_in_the_wrong_place_is_no_token() {
    let house = House::open().await;
    let token = house.issuer.token("ana");
    let token = token.reveal();
    let english = json!({ "sourceLanguage": "en" });
    let at = |path: String| http().post(house.at(&path)).json(&english);
    for (place, request) in [
        ("the query", at(format!("/sessions?token={token}&access_token={token}"))),
        ("a cookie", at("/sessions".into()).header("cookie", format!("token={token}; Authorization=Bearer {token}"))),
        ("a subprotocol", at("/sessions".into()).header("sec-websocket-protocol", format!("bearer.{token}"))),
        ("another header", at("/sessions".into()).header("x-authorization", format!("Bearer {token}"))),
    ] {
        assert_eq!(request.send().await.unwrap().status(), 401, "{place}");
    }
    let in_body = http().post(house.at("/sessions")).json(&json!({ "sourceLanguage": "en", "token": token }));
    assert_eq!(in_body.send().await.unwrap().status(), 401);
    for header in
        [token.to_owned(), format!("Basic {token}"), format!("Bearer Bearer {token}"), format!("Bearer {token},")]
    {
        assert_eq!(ask(&house, &header).await.0, 401, "{header:.20}");
    }
    let twice =
        http().post(house.at("/sessions")).bearer_auth(token).header("authorization", "Bearer x").json(&english);
    assert_eq!(twice.send().await.unwrap().status(), 401, "two tokens");
    assert_eq!(house.count(Count::SessionsCreated), 0);
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
async fn a_new_key_is_taken_up_a_withdrawn_one_goes_and_a_bad_answer_changes_nothing() {
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

    // An error, no JSON, no keys, only keys of other kinds, more than anybody needs: the old ones stay.
    let other = json!([{ "kty": "EC", "crv": "P-256", "kid": "k0", "x": "AA", "y": "AA" }, { "kty": "oct", "kid": "k1", "k": "AA" }]);
    let huge = json!([jwk("k9", &KEYS[0]), { "kty": "XYZ", "kid": "x".repeat(300_000) }]);
    for bad in [None, Some(json!("nonsense")), Some(json!([])), Some(other), Some(huge)] {
        house.issuer.broken.store(bad.is_none(), Ordering::SeqCst);
        if let Some(keys) = bad {
            house.issuer.publish(keys);
        }
        let before = house.issuer.fetches.load(Ordering::SeqCst);
        let unknown = json!({ "alg": "RS256", "kid": "k2" });
        while house.issuer.fetches.load(Ordering::SeqCst) <= before + 1 {
            assert_eq!(ask_with(&house, unknown.clone(), |_| {}).await.0, 401);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(ask(&house, &fresh).await.0, 201);
        assert_eq!(ask_with(&house, rs256(), |_| {}).await.0, 201);
    }
    // A key that its issuer has withdrawn opens nothing any more.
    house.issuer.publish(json!([jwk("k0", &KEYS[0])]));
    let mut got = 201;
    for _ in 0..200 {
        ask_with(&house, json!({ "alg": "RS256", "kid": "k2" }), |_| {}).await;
        got = ask(&house, &fresh).await.0;
        if got == 401 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(got, 401, "the old key lives on");
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
