//! The doors, tried from outside: real sockets, real tokens, a key server on loopback.

mod auth;
mod calls;
mod clients;
mod documents;
mod doors;
mod entry;
mod http;
mod limits;
mod slow;
mod socket;
mod speaking;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use babelcast_domain::counts::{Count, Counts};
use babelcast_domain::ids::SessionId;
use babelcast_domain::language::{Catalogue, Language};
use babelcast_domain::wire::CreateSession;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use local_cloud::LocalCloud;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use url::Url;

use super::{AuthSettings, Doors, LimitSettings, Settings, Timeouts, Token, wall};
use crate::aws;
use crate::cli::client::Wish;
use crate::cli::speaker::SpeakerClient;
use crate::live::{self, Sessions};
use crate::store::Store;

pub(super) const CLIENT: &str = "speaker-app";

/// Two keys for the whole run: making one takes a while.
pub(super) static KEYS: LazyLock<[KeyPair; 2]> =
    LazyLock::new(|| [0, 1].map(|_| KeyPair::generate(KeySize::Rsa2048).unwrap()));

/// A token issuer on loopback, which counts how often its keys are asked for.
pub(super) struct Issuer {
    pub url: String,
    pub fetches: Arc<AtomicU64>,
    pub broken: Arc<AtomicBool>,
    keys: Arc<Mutex<Value>>,
    _serving: AbortOnDropHandle<()>,
}

impl Issuer {
    pub async fn start() -> Issuer {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/pool", listener.local_addr().unwrap());
        let keys = Arc::new(Mutex::new(json!({ "keys": [jwk("k0", &KEYS[0])] })));
        let (fetches, broken) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (served, counted, fails) = (Arc::clone(&keys), Arc::clone(&fetches), Arc::clone(&broken));
        let answer = move || {
            counted.fetch_add(1, Ordering::SeqCst);
            let status = if fails.load(Ordering::SeqCst) { 500 } else { 200 };
            let body = served.lock().unwrap().to_string();
            async move { (axum::http::StatusCode::from_u16(status).unwrap(), body) }
        };
        let app = axum::Router::new().route("/pool/.well-known/jwks.json", axum::routing::get(answer));
        let serving = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Issuer { url, fetches, broken, keys, _serving: AbortOnDropHandle::new(serving) }
    }

    pub fn publish(&self, keys: Value) {
        *self.keys.lock().unwrap() = json!({ "keys": keys });
    }

    pub fn claims(&self, sub: &str) -> Value {
        let now = wall().as_secs();
        json!({ "iss": self.url, "sub": sub, "token_use": "access", "client_id": CLIENT,
                "scope": "openid", "iat": now, "exp": now + 3_600 })
    }

    pub fn token(&self, sub: &str) -> Token {
        Token::new(&sign(&json!({ "alg": "RS256", "kid": "k0" }), &self.claims(sub), &KEYS[0])).unwrap()
    }
}

pub(super) fn encoded(header: &Value, claims: &Value) -> String {
    format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()))
}

pub(super) fn sign(header: &Value, claims: &Value, key: &KeyPair) -> String {
    sign_raw(&encoded(header, claims), key)
}

/// Header and claims as they stand, and their signature.
pub(super) fn sign_raw(signed: &str, key: &KeyPair) -> String {
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

pub(super) fn jwk(kid: &str, key: &KeyPair) -> Value {
    let der = key.public_key().as_ref().to_vec();
    let (n, e) = modulus_and_exponent(&der);
    json!({ "kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid,
            "n": URL_SAFE_NO_PAD.encode(n), "e": URL_SAFE_NO_PAD.encode(e) })
}

/// Out of PKCS#1 `SEQUENCE { INTEGER n, INTEGER e }`.
fn modulus_and_exponent(der: &[u8]) -> (&[u8], &[u8]) {
    fn value(der: &[u8]) -> (&[u8], &[u8]) {
        let (length, head) = match der[1] {
            0x81 => (usize::from(der[2]), 3),
            0x82 => (usize::from(der[2]) << 8 | usize::from(der[3]), 4),
            short => (usize::from(short), 2),
        };
        der[head..].split_at(length)
    }
    let (n, rest) = value(value(der).0);
    let (e, _) = value(rest);
    (n.strip_prefix(&[0]).unwrap_or(n), e)
}

/// The doors with everything behind them. The one place that knows how `Sessions` are made.
pub(super) struct House {
    pub url: Url,
    pub sessions: Arc<Sessions>,
    pub counts: Arc<Counts>,
    pub issuer: Issuer,
    pub doors: Doors,
    _cloud: LocalCloud,
}

fn catalogue() -> Catalogue {
    let lang = |code: &str| Language::parse(code).unwrap();
    Catalogue::new([(lang("en"), lang("en-US")), (lang("fr"), lang("fr-FR"))], vec![lang("es"), lang("fr"), lang("de")])
}

async fn behind(cloud: &LocalCloud, limits: live::Limits) -> (Arc<Sessions>, Arc<Counts>) {
    let credentials = aws::StaticCredentials { access_key: "local".into(), secret_key: "local".into() };
    let aws = aws::Settings {
        region: Some("us-east-1".into()),
        endpoint_url: Some(cloud.http_url()),
        credentials: Some(credentials),
        ..Default::default()
    };
    let clients = Arc::new(aws::Clients::connect(&aws, None).await.unwrap());
    let live = live::Settings { local_candidates: true, sessions_per_speaker: 1_000, limits, ..Default::default() };
    let (tls, counts) = (crate::media::socket::tls(None).unwrap(), Arc::new(Counts::default()));
    let store = Arc::new(Store::memory());
    (Sessions::new(live, clients, store, Arc::new(catalogue()), tls, Arc::clone(&counts)), counts)
}

impl House {
    pub async fn open() -> House {
        House::open_with(|_| {}).await
    }

    pub async fn open_with(change: impl FnOnce(&mut Settings)) -> House {
        House::open_limited(live::Limits::OFF, change).await
    }

    pub async fn open_limited(limits: live::Limits, change: impl FnOnce(&mut Settings)) -> House {
        let issuer = Issuer::start().await;
        let mut settings = Settings {
            bind: "127.0.0.1:0".parse().unwrap(),
            auth: AuthSettings {
                issuer: issuer.url.clone(),
                client_ids: vec!["another-app".into(), CLIENT.into()],
                ..AuthSettings::default()
            },
            ..Settings::default()
        };
        settings.limits = LimitSettings::OFF;
        change(&mut settings);
        let cloud =
            LocalCloud::start(local_cloud::Settings { plain_signaling: true, ..Default::default() }).await.unwrap();
        let (sessions, counts) = behind(&cloud, limits).await;
        let catalogue = Arc::new(catalogue());
        let stop = CancellationToken::new();
        let doors = Doors::open(settings, Arc::clone(&sessions), catalogue, Arc::clone(&counts), &stop).unwrap();
        let url = Url::parse(&format!("http://{}", doors.local_addr())).unwrap();
        House { url, sessions, counts, issuer, doors, _cloud: cloud }
    }

    pub fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url.as_str().trim_end_matches('/'))
    }

    pub fn speaker(&self, sub: &str) -> SpeakerClient {
        SpeakerClient::new(self.url.clone(), Some(self.issuer.token(sub))).unwrap()
    }

    /// A session of the speaker `ana`.
    pub async fn session(&self) -> SessionId {
        self.speaker("ana").create(&talk()).await.unwrap().session_id
    }

    pub fn wish(&self, session: &SessionId) -> Wish {
        Wish {
            url: self.url.clone(),
            session: session.clone(),
            target_language: Some("es".into()),
            captions: Default::default(),
            token: None,
            access_code: None,
            resume: None,
        }
    }

    /// How many connections sit in the session.
    pub async fn listeners(&self, session: &SessionId) -> u64 {
        self.sessions.find(session).await.map_or(0, |found| found.listener_count)
    }

    pub async fn until_listeners(&self, session: &SessionId, count: u64) {
        let waited = async {
            while self.listeners(session).await != count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), waited).await.expect("never that many listeners");
    }

    pub fn count(&self, count: Count) -> u64 {
        self.counts.get(count)
    }
}

/// Collects what is logged on this thread.
#[derive(Clone, Default)]
pub(super) struct Journal(Arc<Mutex<Vec<u8>>>);

impl Journal {
    /// Everything down to DEBUG, until the guard is dropped.
    pub fn keep() -> (Journal, tracing::subscriber::DefaultGuard) {
        let journal = Journal::default();
        let writer = journal.clone();
        let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_ansi(false);
        let guard = tracing::subscriber::set_default(subscriber.with_writer(move || writer.clone()).finish());
        (journal, guard)
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl std::io::Write for Journal {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub(super) fn talk() -> CreateSession {
    serde_json::from_value(json!({ "sourceLanguage": "en", "title": "A talk" })).unwrap()
}

pub(super) fn http() -> reqwest::Client {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    reqwest::Client::new()
}

/// Waits for something to become true, for as long as a busy machine may need.
pub(super) async fn until(mut is: impl FnMut() -> bool) {
    let waited = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waited).await.expect("it never became true");
}

pub(super) fn brief() -> Timeouts {
    let short = Duration::from_millis(300);
    Timeouts { header: short, body: short, join: short, ..Timeouts::default() }
}
