//! A token issuer in the form of a Cognito user pool: RS256 tokens, a JWKS, `POST /dev/token`.
//!
//! Issuer URL, JWKS URL and client id are separate settings, because `iss` is a name and need not be where the
//! keys are. Absent on purpose: users, passwords, sign-up and the hosted login. Whoever can reach the
//! development port gets the token they ask for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use axum::Json;
use axum::Router;
use axum::extract::{Path, State};
use axum::routing::{get, post};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header;
use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::{AwsError, ErrorKind};

/// Keys published at once: the signing one and those before it.
const MAX_KEYS: usize = 3;
const DEFAULT_EXPIRES_IN: i64 = 3600;

/// What the issuer calls itself.
#[derive(Debug, Clone)]
pub struct Settings {
    /// User pool id, first part of its paths.
    pub pool: String,
    /// `iss` of the tokens; by default where the pool is served, `http://127.0.0.1:<port>/<pool>`.
    pub issuer_url: Option<String>,
    /// App client id of tokens that name no other.
    pub client_id: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self { pool: "us-east-1_local".into(), issuer_url: None, client_id: "babelcast-local".into() }
    }
}

/// What a token shall say; `Default` gives an access token of one hour for a fresh subject.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Claims {
    pub sub: Option<String>,
    pub client_id: Option<String>,
    /// Seconds from now; negative for a token that has expired.
    pub expires_in: Option<i64>,
    pub token_use: TokenUse,
    pub groups: Vec<String>,
    /// Another `iss` than the pool's, to see it refused.
    pub issuer: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenUse {
    #[default]
    Access,
    Id,
}

#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    #[error("no RSA key could be made")]
    Key,
    #[error("the public key could not be written as a JWK")]
    Publish(#[from] jsonwebtoken::errors::Error),
    #[error("the token could not be signed")]
    Sign,
}

pub struct Issuer {
    settings: Settings,
    issuer_url: String,
    jwks_url: String,
    /// The last one signs.
    keys: Mutex<Vec<SigningKey>>,
}

struct SigningKey {
    kid: String,
    pair: KeyPair,
    public: Jwk,
}

impl Issuer {
    /// Makes the first key (2048 bits, some 100 ms). `base` is the URL this server is reached at.
    pub fn new(settings: Settings, base: &str) -> Result<Arc<Self>, IssuerError> {
        let served_at = format!("{base}/{}", settings.pool);
        Ok(Arc::new(Self {
            issuer_url: settings.issuer_url.clone().unwrap_or_else(|| served_at.clone()),
            jwks_url: format!("{served_at}/.well-known/jwks.json"),
            keys: Mutex::new(vec![SigningKey::new()?]),
            settings,
        }))
    }

    pub fn router(self: Arc<Self>) -> Router {
        Router::new()
            .route("/{pool}/.well-known/jwks.json", get(jwks))
            .route("/{pool}/.well-known/openid-configuration", get(configuration))
            .route("/dev/token", post(dev_token))
            .with_state(self)
    }

    /// `iss` of the tokens.
    pub fn url(&self) -> &str {
        &self.issuer_url
    }

    pub fn jwks_url(&self) -> &str {
        &self.jwks_url
    }

    pub fn client_id(&self) -> &str {
        &self.settings.client_id
    }

    /// A signed token with the claims Cognito puts into one.
    pub fn token(&self, claims: Claims) -> Result<String, IssuerError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        let expires_in = claims.expires_in.unwrap_or(DEFAULT_EXPIRES_IN);
        let sub = claims.sub.unwrap_or_else(unique);
        let client_id = claims.client_id.unwrap_or_else(|| self.settings.client_id.clone());
        // A token that has expired was also issued earlier.
        let issued = now.saturating_add(expires_in.min(0)).saturating_sub(if expires_in < 0 { 60 } else { 0 });
        let mut body = json!({
            "sub": sub,
            "iss": claims.issuer.unwrap_or_else(|| self.issuer_url.clone()),
            "token_use": claims.token_use,
            "iat": issued,
            "auth_time": issued,
            "exp": now.saturating_add(expires_in),
            "jti": unique(),
            "origin_jti": unique(),
        });
        match claims.token_use {
            TokenUse::Access => {
                body["client_id"] = client_id.into();
                body["scope"] = "aws.cognito.signin.user.admin".into();
                body["username"] = sub.into();
            }
            TokenUse::Id => {
                body["aud"] = client_id.into();
                body["cognito:username"] = sub.into();
            }
        }
        if !claims.groups.is_empty() {
            body["cognito:groups"] = claims.groups.into();
        }
        let keys = self.keys();
        let signing = keys.last().expect("there is always a key");
        signing.sign(&body)
    }

    /// Signs with a new key from now on; older ones stay published (three at most), so that their tokens hold.
    pub fn rotate(&self) -> Result<(), IssuerError> {
        let key = SigningKey::new()?;
        let mut keys = self.keys();
        keys.push(key);
        if keys.len() > MAX_KEYS {
            keys.remove(0);
        }
        Ok(())
    }

    /// The published keys.
    pub fn jwks(&self) -> JwkSet {
        JwkSet { keys: self.keys().iter().map(|key| key.public.clone()).collect() }
    }

    fn keys(&self) -> MutexGuard<'_, Vec<SigningKey>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SigningKey {
    fn new() -> Result<Self, IssuerError> {
        let pair = KeyPair::generate(KeySize::Rsa2048).map_err(|_| IssuerError::Key)?;
        let public = DecodingKey::from_rsa_der(pair.public_key().as_ref());
        let mut public = Jwk::from_decoding_key(&public, Some(Algorithm::RS256))?;
        let kid = unique();
        public.common.key_id = Some(kid.clone());
        public.common.public_key_use = Some(PublicKeyUse::Signature);
        Ok(Self { kid, pair, public })
    }

    /// The compact form. Signed by hand: jsonwebtoken takes private keys as PKCS#1 only, which aws-lc-rs does
    /// not write.
    fn sign(&self, claims: &Value) -> Result<String, IssuerError> {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(&json!({ "kid": self.kid, "alg": "RS256" })), part(claims));
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature)
            .map_err(|_| IssuerError::Sign)?;
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

async fn jwks(
    State(issuer): State<Arc<Issuer>>,
    Path(pool): Path<String>,
) -> Result<([(header::HeaderName, &'static str); 1], Json<JwkSet>), AwsError> {
    issuer.check_pool(&pool)?;
    Ok(([(header::CACHE_CONTROL, "public, max-age=0")], Json(issuer.jwks())))
}

async fn configuration(State(issuer): State<Arc<Issuer>>, Path(pool): Path<String>) -> Result<Json<Value>, AwsError> {
    issuer.check_pool(&pool)?;
    Ok(Json(json!({
        "issuer": issuer.issuer_url,
        "jwks_uri": issuer.jwks_url,
        "id_token_signing_alg_values_supported": ["RS256"],
        "response_types_supported": ["code", "token"],
        "scopes_supported": ["openid", "email", "phone", "profile"],
        "subject_types_supported": ["public"],
    })))
}

async fn dev_token(State(issuer): State<Arc<Issuer>>, body: Bytes) -> Result<Json<Value>, AwsError> {
    let body: &[u8] = if body.is_empty() { b"{}" } else { &body };
    let claims: Claims = serde_json::from_slice(body)
        .map_err(|error| AwsError::new(ErrorKind::Serialization, format!("The body is no token request: {error}")))?;
    let (expires_in, token_use) = (claims.expires_in.unwrap_or(DEFAULT_EXPIRES_IN), claims.token_use);
    let token = issuer.token(claims).map_err(|error| AwsError::new(ErrorKind::InternalFailure, error.to_string()))?;
    Ok(Json(json!({ "token": token, "tokenUse": token_use, "expiresIn": expires_in })))
}

impl Issuer {
    fn check_pool(&self, pool: &str) -> Result<(), AwsError> {
        match pool == self.settings.pool {
            true => Ok(()),
            false => Err(AwsError::new(ErrorKind::ResourceNotFound, "User pool does not exist")),
        }
    }
}

/// A random id in the form of a UUID.
fn unique() -> String {
    crate::error::request_id().to_str().map(str::to_owned).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::Validation;

    fn issuer() -> Arc<Issuer> {
        Issuer::new(Settings::default(), "http://127.0.0.1:1").expect("an issuer")
    }

    fn decode(issuer: &Issuer, token: &str) -> Result<Value, jsonwebtoken::errors::Error> {
        let kid = jsonwebtoken::decode_header(token)?.kid.expect("a kid");
        let set = issuer.jwks();
        let key = DecodingKey::from_jwk(set.find(&kid).ok_or(jsonwebtoken::errors::ErrorKind::InvalidToken)?)?;
        let mut validation = Validation::new(Algorithm::RS256);
        validation.validate_aud = false;
        validation.set_issuer(&[issuer.url()]);
        jsonwebtoken::decode::<Value>(token, &key, &validation).map(|data| data.claims)
    }

    #[test]
    fn an_access_token_has_the_claims_of_cognito_and_a_good_signature() {
        let issuer = issuer();
        let asked = Claims { sub: Some("speaker-1".into()), groups: vec!["speakers".into()], ..Claims::default() };
        let claims = decode(&issuer, &issuer.token(asked).expect("a token")).expect("valid");
        assert_eq!(claims["iss"], "http://127.0.0.1:1/us-east-1_local");
        assert_eq!((&claims["token_use"], &claims["sub"]), (&json!("access"), &json!("speaker-1")));
        assert_eq!((&claims["client_id"], &claims["username"]), (&json!("babelcast-local"), &json!("speaker-1")));
        assert_eq!(claims["cognito:groups"], json!(["speakers"]));
        assert_eq!(claims["aud"], Value::Null);
        assert_eq!(claims["exp"].as_i64().expect("exp") - claims["iat"].as_i64().expect("iat"), 3600);
    }

    #[test]
    fn an_id_token_has_an_audience_instead_of_a_client_id() {
        let issuer = issuer();
        let asked = Claims { token_use: TokenUse::Id, client_id: Some("app".into()), ..Claims::default() };
        let claims = decode(&issuer, &issuer.token(asked).expect("a token")).expect("valid");
        assert_eq!((&claims["aud"], &claims["client_id"]), (&json!("app"), &Value::Null));
    }

    #[test]
    fn tokens_can_be_made_expired_or_of_another_issuer() {
        let issuer = issuer();
        let expired = Claims { expires_in: Some(-120), ..Claims::default() };
        let error = decode(&issuer, &issuer.token(expired).expect("a token")).expect_err("expired");
        assert!(matches!(error.kind(), jsonwebtoken::errors::ErrorKind::ExpiredSignature));
        let foreign = Claims { issuer: Some("https://elsewhere".into()), ..Claims::default() };
        let error = decode(&issuer, &issuer.token(foreign).expect("a token")).expect_err("foreign");
        assert!(matches!(error.kind(), jsonwebtoken::errors::ErrorKind::InvalidIssuer));
    }

    #[test]
    fn old_tokens_hold_through_a_rotation_and_not_for_ever() {
        let issuer = issuer();
        let old = issuer.token(Claims::default()).expect("a token");
        issuer.rotate().expect("a new key");
        let new = issuer.token(Claims::default()).expect("a token");
        assert_ne!(
            jsonwebtoken::decode_header(&old).expect("a header").kid,
            jsonwebtoken::decode_header(&new).expect("a header").kid
        );
        assert!(decode(&issuer, &old).is_ok() && decode(&issuer, &new).is_ok());
        for _ in 1..MAX_KEYS {
            issuer.rotate().expect("a new key");
        }
        assert!(decode(&issuer, &old).is_err());
    }
}
