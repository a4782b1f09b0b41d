//! Who is asking: Cognito access tokens, verified.
//!
//! The algorithm comes from the key (RS256 and nothing else), never from the token; `kid` is only a map key. No token
//! at all means anonymous, a bad one is refused. Revocation is not visible in a token, so there is none here; what
//! lives longer than a token (a speaker's socket) asks [`Caller::still_good`].

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use babelcast_domain::counts::{Count, Counts};
use babelcast_domain::error::{ErrorCode, Problem};
use babelcast_domain::ids::SpeakerId;
use babelcast_domain::time::UnixMs;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation};
use serde::Deserialize;
use serde_json::json;
use url::Url;

use super::error::Refusal;
use super::keys::Keys;
use super::{House, OpenError, millis, wall};

/// Whose tokens are taken.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthSettings {
    /// `iss` exactly, for Cognito `https://cognito-idp.<region>.amazonaws.com/<pool>`. Must be set.
    pub issuer: String,
    /// Where the issuer's keys are; default `<issuer>/.well-known/jwks.json`.
    pub jwks_url: Option<String>,
    /// App clients whose tokens are taken. Must name one at least.
    pub client_ids: Vec<String>,
    /// How far the clocks of issuer and server may differ.
    pub leeway_seconds: u64,
    /// The least time between two fetches of the keys.
    #[serde(rename = "refetch_ms", deserialize_with = "millis")]
    pub refetch: Duration,
    /// So long before its token ends a speaker's socket is asked for a fresh one.
    #[serde(rename = "ask_before_ms", deserialize_with = "millis")]
    pub ask_before: Duration,
    /// A speaker's socket whose token ended is closed after so long; until then it may do nothing that needs one.
    #[serde(rename = "close_after_ms", deserialize_with = "millis")]
    pub close_after: Duration,
}

impl Default for AuthSettings {
    fn default() -> Self {
        AuthSettings {
            issuer: String::new(),
            jwks_url: None,
            client_ids: Vec::new(),
            leeway_seconds: 30,
            refetch: Duration::from_secs(10),
            ask_before: Duration::from_secs(60),
            close_after: Duration::from_secs(60),
        }
    }
}

/// A bearer token as it was sent. It cannot be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Empty text is no token.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Token(text.to_owned()))
    }

    /// The token itself, for the request that carries it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The token of `Authorization: Bearer`; none when the header is absent or empty.
    pub(super) fn from_headers(headers: &HeaderMap) -> Result<Option<Token>, Problem> {
        let mut given = headers.get_all(header::AUTHORIZATION).iter();
        let Some(value) = given.next() else { return Ok(None) };
        let text = value.to_str().unwrap_or("?").trim();
        if given.next().is_some() {
            return Err(Reason::NotBearer.problem());
        }
        match text.split_once(' ') {
            _ if text.is_empty() || text.eq_ignore_ascii_case("bearer") => Ok(None),
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(Token::new(token)),
            _ => Err(Reason::NotBearer.problem()),
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl FromStr for Token {
    type Err = Infallible;
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Token(text.trim().to_owned()))
    }
}

/// Somebody with a good token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    pub id: SpeakerId,
    /// The token's `exp`.
    pub expires_at: UnixMs,
    /// The same with the leeway: until then the token is taken.
    pub good_until: UnixMs,
}

impl Caller {
    /// What lives longer than its token asks this before each privileged action.
    pub fn still_good(&self) -> Result<(), Problem> {
        if self.good_until <= wall() { Err(Reason::Expired.problem()) } else { Ok(()) }
    }
}

/// Why a token is refused. Names no part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    NotBearer,
    Missing,
    Malformed,
    Algorithm,
    UnknownKey,
    Signature,
    Expired,
    NotYetValid,
    Issuer,
    NotAnAccessToken,
    Client,
}

impl Reason {
    const fn name(self) -> &'static str {
        match self {
            Reason::NotBearer => "notBearer",
            Reason::Missing => "missing",
            Reason::Malformed => "malformed",
            Reason::Algorithm => "algorithm",
            Reason::UnknownKey => "unknownKey",
            Reason::Signature => "signature",
            Reason::Expired => "expired",
            Reason::NotYetValid => "notYetValid",
            Reason::Issuer => "issuer",
            Reason::NotAnAccessToken => "notAnAccessToken",
            Reason::Client => "client",
        }
    }

    pub(super) fn problem(self) -> Problem {
        let message = match self {
            Reason::NotBearer => "Send one `Authorization: Bearer <access token>`",
            Reason::Missing => "Sign in: this needs a speaker's access token",
            Reason::Malformed => "The token cannot be read as an access token; sign in again",
            Reason::Algorithm => "The token must be signed with RS256",
            Reason::UnknownKey => "The token is signed with a key that its issuer does not have; sign in again",
            Reason::Signature => "The token's signature is wrong; sign in again",
            Reason::Expired => "The token has expired; sign in again",
            Reason::NotYetValid => "The token is not valid yet; check the clock of the machine that made it",
            Reason::Issuer => "The token comes from another issuer",
            Reason::NotAnAccessToken => "This is not an access token; send the access token, not the id token",
            Reason::Client => "The token was issued for another application",
        };
        Problem::new(ErrorCode::Unauthorized, message).with(json!({ "reason": self.name() }))
    }
}

/// Checks tokens against one issuer.
pub(super) struct Tokens {
    validation: Validation,
    client_ids: Vec<String>,
    leeway: u64,
    keys: Keys,
    counts: Arc<Counts>,
}

/// What is read of a token. `exp` as `f64`, because some issuers write fractions.
#[derive(Deserialize)]
struct Claims {
    /// One issuer: the library would take a list of them if ours is among it.
    #[serde(rename = "iss")]
    _iss: String,
    sub: String,
    exp: f64,
    #[serde(default)]
    token_use: Option<String>,
    #[serde(default)]
    client_id: Option<String>,
}

/// A Cognito access token has about 1 kB.
const MAX_TOKEN_BYTES: usize = 8 << 10;

impl Tokens {
    pub fn new(settings: &AuthSettings, counts: Arc<Counts>) -> Result<Self, OpenError> {
        settings.check().map_err(OpenError::Settings)?;
        let url =
            Url::parse(&settings.jwks_url()).map_err(|_| OpenError::Settings("web.auth.jwks_url is no URL".into()))?;
        let mut validation = Validation::new(Algorithm::RS256);
        validation.leeway = settings.leeway_seconds;
        validation.validate_nbf = true;
        // Access tokens have no `aud`; `client_id` stands for it and is checked below.
        validation.validate_aud = false;
        validation.set_issuer(&[&settings.issuer]);
        validation.set_required_spec_claims(&["exp", "iss", "sub"]);
        let keys = Keys::new(url, settings.refetch).map_err(OpenError::Client)?;
        Ok(Tokens {
            validation,
            client_ids: settings.client_ids.clone(),
            leeway: settings.leeway_seconds,
            keys,
            counts,
        })
    }

    /// # Errors
    /// `UNAUTHORIZED` with `details.reason`; `UPSTREAM_UNAVAILABLE` while the issuer's keys were never to be had.
    pub async fn verify(&self, token: &Token) -> Result<Caller, Problem> {
        let checked = match self.key_of(token).await? {
            Ok(key) => self.check(token, &key),
            Err(reason) => Err(reason),
        };
        checked.map_err(|reason| {
            self.counts.one(Count::TokensRefused);
            tracing::debug!(reason = reason.name(), "token refused");
            reason.problem()
        })
    }

    /// The key the token says it is signed with, if the issuer has it.
    async fn key_of(&self, token: &Token) -> Result<Result<Arc<jsonwebtoken::DecodingKey>, Reason>, Problem> {
        if token.0.len() > MAX_TOKEN_BYTES {
            return Ok(Err(Reason::Malformed));
        }
        // Fails for every algorithm that has no name here, `none` in any spelling among them.
        let Ok(header) = jsonwebtoken::decode_header(&token.0) else { return Ok(Err(Reason::Malformed)) };
        if header.alg != Algorithm::RS256 {
            return Ok(Err(Reason::Algorithm));
        }
        // `crit` names what a reader must understand (RFC 7515 4.1.11), and none of it is understood here.
        let (Some(kid), None) = (header.kid, header.crit) else { return Ok(Err(Reason::Malformed)) };
        Ok(self.keys.find(&kid).await?.ok_or(Reason::UnknownKey))
    }

    fn check(&self, token: &Token, key: &jsonwebtoken::DecodingKey) -> Result<Caller, Reason> {
        let decoded = jsonwebtoken::decode::<Claims>(&token.0, key, &self.validation);
        let claims = decoded.map_err(|error| reason(error.kind()))?.claims;
        if claims.token_use.as_deref() != Some("access") {
            return Err(Reason::NotAnAccessToken);
        }
        if !claims.client_id.is_some_and(|id| self.client_ids.contains(&id)) {
            return Err(Reason::Client);
        }
        if claims.sub.is_empty() || claims.sub.len() > 256 {
            return Err(Reason::Malformed);
        }
        let expires_at = UnixMs((claims.exp as u64).saturating_mul(1_000));
        let good_until = UnixMs(expires_at.0.saturating_add(self.leeway.saturating_mul(1_000)));
        Ok(Caller { id: SpeakerId::new(claims.sub), expires_at, good_until })
    }
}

fn reason(kind: &ErrorKind) -> Reason {
    match kind {
        ErrorKind::InvalidSignature => Reason::Signature,
        ErrorKind::ExpiredSignature => Reason::Expired,
        ErrorKind::ImmatureSignature => Reason::NotYetValid,
        ErrorKind::InvalidIssuer => Reason::Issuer,
        ErrorKind::InvalidAlgorithm => Reason::Algorithm,
        _ => Reason::Malformed,
    }
}

impl AuthSettings {
    fn jwks_url(&self) -> String {
        let own = || format!("{}/.well-known/jwks.json", self.issuer.trim_end_matches('/'));
        self.jwks_url.clone().unwrap_or_else(own)
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if self.issuer.is_empty() {
            return Err("web.auth.issuer must be set: the `iss` of the tokens to take".into());
        }
        if self.client_ids.is_empty() || self.client_ids.iter().any(String::is_empty) {
            return Err("web.auth.client_ids must name the app client whose tokens are taken".into());
        }
        if Url::parse(&self.jwks_url()).is_err() {
            return Err("web.auth.jwks_url (or web.auth.issuer, which it comes from) is no URL".into());
        }
        Ok(())
    }
}

impl FromRequestParts<Arc<House>> for Caller {
    type Rejection = Refusal;
    async fn from_request_parts(parts: &mut Parts, house: &Arc<House>) -> Result<Self, Refusal> {
        let caller = <Caller as OptionalFromRequestParts<_>>::from_request_parts(parts, house).await?;
        caller.ok_or_else(|| Reason::Missing.problem().into())
    }
}

impl OptionalFromRequestParts<Arc<House>> for Caller {
    type Rejection = Refusal;
    async fn from_request_parts(parts: &mut Parts, house: &Arc<House>) -> Result<Option<Self>, Refusal> {
        let given = Token::from_headers(&parts.headers).inspect_err(|_| house.counts.one(Count::TokensRefused))?;
        match given {
            Some(token) => Ok(Some(house.tokens.verify(&token).await?)),
            None => Ok(None),
        }
    }
}
