//! Tokens asked for and checked over HTTP, as the server that trusts them would.

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Value, json};

use crate::harness::{browser, start};

#[tokio::test]
async fn a_token_asked_for_by_http_holds_against_the_published_keys() {
    let cloud = start(|settings| {
        settings.issuer.issuer_url = Some("https://cognito-idp.us-east-1.amazonaws.com/us-east-1_x".into());
        settings.issuer.client_id = "my-app".into();
    })
    .await;
    let client = browser();
    let asked =
        client.post(format!("{}/dev/token", cloud.http_url())).json(&json!({ "sub": "speaker-1", "expiresIn": 60 }));
    let answer: Value = asked.send().await.expect("an answer").json().await.expect("json");
    let token = answer["token"].as_str().expect("a token");

    cloud.issuer().rotate().expect("a new key");
    let set =
        client.get(cloud.issuer().jwks_url()).send().await.expect("an answer").json::<JwkSet>().await.expect("keys");
    assert_eq!(set.keys.len(), 2);
    let kid = jsonwebtoken::decode_header(token).expect("a header").kid.expect("a kid");
    let key = DecodingKey::from_jwk(set.find(&kid).expect("published")).expect("a key");
    let mut validation = Validation::new(Algorithm::RS256);
    validation.set_issuer(&["https://cognito-idp.us-east-1.amazonaws.com/us-east-1_x"]);
    let claims = jsonwebtoken::decode::<Value>(token, &key, &validation).expect("valid").claims;
    assert_eq!((&claims["sub"], &claims["client_id"]), (&json!("speaker-1"), &json!("my-app")));
}

#[tokio::test]
async fn the_discovery_document_names_issuer_and_keys() {
    let cloud = start(|_| {}).await;
    let url = format!("{}/.well-known/openid-configuration", cloud.issuer().url());
    let document: Value = browser().get(url).send().await.expect("an answer").json().await.expect("json");
    assert_eq!(document["issuer"], cloud.issuer().url());
    assert_eq!(document["jwks_uri"], cloud.issuer().jwks_url());
    let other = format!("{}/another-pool/.well-known/jwks.json", cloud.http_url());
    assert_eq!(browser().get(other).send().await.expect("an answer").status(), 404);
}

#[tokio::test]
async fn a_misspelt_token_request_is_refused() {
    let cloud = start(|_| {}).await;
    let client = browser();
    let asked = client.post(format!("{}/dev/token", cloud.http_url())).json(&json!({ "expires_in": 60 }));
    assert_eq!(asked.send().await.expect("an answer").status(), 400);
}
