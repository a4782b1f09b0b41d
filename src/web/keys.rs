//! The issuer's public keys (JWKS), kept by `kid`.
//!
//! One task fetches; askers wait for it. So there is never more than one request on its way, a caller who hangs up
//! cuts nobody's fetch, and a storm of unknown `kid`s costs one fetch per `pause` (10 s) at most. What a token's header
//! says about where keys are (`jku`, `x5u`, `jwk`) is never looked at.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use babelcast_domain::error::Problem;
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, KeyAlgorithm, PublicKeyUse};
use serde::Deserialize;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use url::Url;

const FETCH_TIMEOUT: Duration = Duration::from_secs(3);
/// Also fetched when nobody asks, so that a withdrawn key does not live for ever.
const REFRESH: Duration = Duration::from_secs(3_600);
/// A key set is a few kB.
const MAX_BYTES: usize = 256 << 10;

pub(super) struct Keys {
    known: watch::Receiver<Known>,
    wanted: Arc<Notify>,
    pause: Duration,
    _fetching: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct Known {
    keys: HashMap<String, Arc<DecodingKey>>,
    /// Whether any fetch ever succeeded.
    loaded: bool,
    fetched_at: Option<Instant>,
}

/// Why a fetch brought nothing. Holds no address: the log line names the setting.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("no answer within {} s", FETCH_TIMEOUT.as_secs())]
    Timeout,
    #[error("{0}")]
    Http(reqwest::Error),
    #[error("larger than {MAX_BYTES} bytes")]
    TooLarge,
    #[error("not a key set: {0}")]
    NotAKeySet(#[from] serde_json::Error),
    #[error("no RS256 key in it")]
    NoKey,
}

impl Keys {
    /// Starts fetching at once; [`Keys::find`] waits for the first answer. `pause`: at most one fetch in this time.
    pub fn new(url: Url, pause: Duration) -> Result<Self, reqwest::Error> {
        // reqwest takes the process's TLS provider; whoever comes first installs the only one this house has.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let http = reqwest::Client::builder().timeout(FETCH_TIMEOUT).redirect(reqwest::redirect::Policy::none());
        let http = http.build()?;
        let (send, known) = watch::channel(Known::default());
        let wanted = Arc::new(Notify::new());
        let fetching = tokio::spawn(keep_fetching(http, url, pause, send, Arc::clone(&wanted)));
        Ok(Keys { known, wanted, pause, _fetching: AbortOnDropHandle::new(fetching) })
    }

    /// The key of this `kid`; `None` when the issuer does not have it. Waits for a fetch at most.
    ///
    /// # Errors
    /// `UPSTREAM_UNAVAILABLE` while the issuer has never answered: nothing can be said about any token then.
    pub async fn find(&self, kid: &str) -> Result<Option<Arc<DecodingKey>>, Problem> {
        let mut known = self.known.clone();
        let seen = {
            let known = known.borrow_and_update();
            if let Some(key) = known.keys.get(kid) {
                return Ok(Some(Arc::clone(key)));
            }
            known.fetched_at
        };
        if seen.is_none_or(|at| at.elapsed() >= self.pause) {
            self.wanted.notify_one();
            let answered = known.wait_for(|known| known.fetched_at != seen);
            let _ = tokio::time::timeout(FETCH_TIMEOUT + Duration::from_secs(1), answered).await;
        }
        let known = known.borrow();
        match known.keys.get(kid) {
            Some(key) => Ok(Some(Arc::clone(key))),
            None if known.loaded => Ok(None),
            None => Err(Problem::upstream("The token issuer")),
        }
    }
}

async fn keep_fetching(
    http: reqwest::Client,
    url: Url,
    pause: Duration,
    known: watch::Sender<Known>,
    wanted: Arc<Notify>,
) {
    loop {
        let fetched = tokio::time::timeout(FETCH_TIMEOUT, fetch(&http, &url)).await;
        match fetched.unwrap_or(Err(FetchError::Timeout)) {
            Ok(keys) => {
                tracing::debug!(keys = keys.len(), "the issuer's keys are here");
                known.send_modify(|known| {
                    *known = Known { keys, loaded: true, fetched_at: Some(Instant::now()) };
                });
            }
            Err(error) => {
                let kept = known.borrow().keys.len();
                tracing::warn!(%error, kept, "the issuer's keys (web.auth.jwks_url) could not be fetched; the old ones stay");
                known.send_modify(|known| known.fetched_at = Some(Instant::now()));
            }
        }
        tokio::time::sleep(pause).await;
        tokio::select! {
            () = wanted.notified() => {}
            () = tokio::time::sleep(REFRESH) => {}
        }
    }
}

async fn fetch(http: &reqwest::Client, url: &Url) -> Result<HashMap<String, Arc<DecodingKey>>, FetchError> {
    let answer = http.get(url.clone()).send().await.and_then(reqwest::Response::error_for_status);
    let mut answer = answer.map_err(|error| FetchError::Http(error.without_url()))?;
    let mut body = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(|error| FetchError::Http(error.without_url()))? {
        if body.len() + part.len() > MAX_BYTES {
            return Err(FetchError::TooLarge);
        }
        body.extend_from_slice(&part);
    }
    let keys = usable(&body)?;
    if keys.is_empty() { Err(FetchError::NoKey) } else { Ok(keys) }
}

/// The RS256 signing keys that have a `kid`. Keys of other kinds, also ones nobody has heard of yet, are passed over.
fn usable(body: &[u8]) -> Result<HashMap<String, Arc<DecodingKey>>, serde_json::Error> {
    #[derive(Deserialize)]
    struct KeySet {
        keys: Vec<serde_json::Value>,
    }
    let set: KeySet = serde_json::from_slice(body)?;
    let keys = set.keys.into_iter().filter_map(|key| {
        let key: Jwk = serde_json::from_value(key).ok()?;
        let rs256 = key.common.key_algorithm.is_none_or(|algorithm| algorithm == KeyAlgorithm::RS256);
        let signs = key.common.public_key_use.as_ref().is_none_or(|of| *of == PublicKeyUse::Signature);
        let AlgorithmParameters::RSA(_) = &key.algorithm else { return None };
        if !(rs256 && signs) {
            return None;
        }
        let decoding = DecodingKey::from_jwk(&key).ok()?;
        Some((key.common.key_id?, Arc::new(decoding)))
    });
    Ok(keys.collect())
}
