//! The AWS wire protocols babelcast needs, on loopback, backed by offline engines.
//!
//! [`LocalCloud::start`] binds one plain and one TLS port; both serve every part, because the paths of the services
//! do not collide. An unmodified AWS SDK (endpoint URL set to [`LocalCloud::http_url`]) and the npm package
//! `amazon-kinesis-video-streams-webrtc` work against it. Meant for one machine: the `/dev` paths have no lock.

mod certificate;
pub mod engine;
pub mod error;
pub mod issuer;
mod json_rpc;
pub mod kvs;
pub mod polly;
mod serve;
mod signed;
pub mod sigv4;
pub mod transcribe;
pub mod translate;
pub mod wer;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::certificate::Certificate;
pub use crate::certificate::CertificateError;
use crate::error::{AwsError, ErrorKind};
use crate::issuer::Issuer;
use crate::json_rpc::JsonRpc;
use crate::kvs::Kvs;
use crate::polly::Polly;
use crate::signed::Gate;
pub use crate::signed::Secret;
use crate::transcribe::Transcribe;
use crate::translate::Translate;

/// How long [`LocalCloud::stop`] waits for sockets and calls to end by themselves.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// What to start and how it behaves.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Plain http and ws; port 0 picks a free one.
    pub http: SocketAddr,
    /// TLS: https and wss.
    pub https: SocketAddr,
    /// Host name clients are sent to in endpoints; also in the certificate.
    pub host: String,
    /// Secret access key. With it every signature is checked (whatever the access key id), without it none is.
    pub secret: Option<Secret>,
    /// Signaling endpoints are answered as `ws://` and `http://`, for clients that will not trust the certificate.
    pub plain_signaling: bool,
    /// Where certificate and key are kept from one start to the next.
    pub certificate_file: Option<PathBuf>,
    pub kvs: kvs::Settings,
    pub issuer: issuer::Settings,
    /// `None`: no Translate.
    pub translate: Option<translate::Settings>,
    /// `None`: no Polly.
    pub polly: Option<polly::Settings>,
    /// `None`: no Transcribe. Its own secret is overwritten by the one above.
    pub transcribe: Option<transcribe::Settings>,
}

impl Default for Settings {
    /// Loopback, free ports, no signature checks; KVS and the issuer only, which need no engine.
    fn default() -> Self {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            http: loopback,
            https: loopback,
            host: "127.0.0.1".into(),
            secret: None,
            plain_signaling: false,
            certificate_file: None,
            kvs: kvs::Settings::default(),
            issuer: issuer::Settings::default(),
            translate: None,
            polly: None,
            transcribe: None,
        }
    }
}

/// Why it did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{address} could not be bound: {source}")]
    Bind { address: SocketAddr, source: std::io::Error },
    #[error("the ICE responder could not be bound on {ip}: {source}")]
    Ice { ip: IpAddr, source: std::io::Error },
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error(transparent)]
    Issuer(#[from] issuer::IssuerError),
    #[error(transparent)]
    Translate(#[from] translate::StartError),
    #[error("nothing to speak with: {0}")]
    Polly(#[from] polly::EngineError),
}

/// The running servers. Dropping it ends everything at once; [`LocalCloud::stop`] does so politely.
pub struct LocalCloud {
    http: SocketAddr,
    https: SocketAddr,
    host: String,
    certificate_pem: String,
    issuer: Arc<Issuer>,
    kvs: Arc<Kvs>,
    translate: Option<Arc<Translate>>,
    polly: Option<Arc<Polly>>,
    transcribe: Option<Arc<Transcribe>>,
    stop: CancellationToken,
    tasks: Vec<AbortOnDropHandle<()>>,
}

impl LocalCloud {
    /// Binds the ports and serves. Takes about 0.2 s, most of it for the issuer's RSA key.
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        let secret = settings.secret;
        let translate = settings.translate.as_ref().map(Translate::new).transpose()?.map(Arc::new);
        let polly = match &settings.polly {
            Some(polly) => Some(Arc::new(Polly::start(polly).await?)),
            None => None,
        };
        let transcribe = settings.transcribe.map(|own| {
            let secret = secret.as_ref().map(|secret| Arc::from(secret.as_str()));
            Arc::new(Transcribe::new(transcribe::Settings { secret, ..own }))
        });
        let certificate = match &settings.certificate_file {
            Some(path) => Certificate::keep(path, &settings.host)?,
            None => Certificate::make(&settings.host)?,
        };
        let tls = TlsAcceptor::from(Arc::new(certificate.server_config()?));
        let (plain_port, http) = bind(settings.http).await?;
        let (tls_port, https) = bind(settings.https).await?;
        let host = settings.host;
        let base = |scheme: &str, address: SocketAddr| base_url(scheme, &host, address.port());
        let endpoints = match settings.plain_signaling {
            true => kvs::Endpoints { host: host.clone(), sockets: base("ws", http), calls: base("http", http) },
            false => kvs::Endpoints { host: host.clone(), sockets: base("wss", https), calls: base("https", https) },
        };
        let stop = CancellationToken::new();
        let kvs = Kvs::start(settings.kvs, secret.clone(), endpoints, http, stop.clone())
            .await
            .map_err(|source| StartError::Ice { ip: http.ip(), source })?;
        let issuer_base = base("http", http);
        // Finding an RSA key is work for a thread of its own.
        let issuer = tokio::task::spawn_blocking(move || Issuer::new(settings.issuer, &issuer_base));
        let issuer = issuer.await.unwrap_or(Err(issuer::IssuerError::Key))?;
        let parts = Parts {
            kvs: Arc::clone(&kvs),
            issuer: Arc::clone(&issuer),
            polly: polly.clone(),
            rpc: JsonRpc { translate: translate.clone(), transcribe: transcribe.clone(), secret },
        };
        let router = parts.router();
        let tasks = vec![
            tokio::spawn(serve::accept(plain_port, None, router.clone(), stop.clone())),
            tokio::spawn(serve::accept(tls_port, Some(tls), router, stop.clone())),
        ];
        let tasks = tasks.into_iter().map(AbortOnDropHandle::new).collect();
        let certificate_pem = certificate.pem;
        Ok(Self { http, https, host, certificate_pem, issuer, kvs, translate, polly, transcribe, stop, tasks })
    }

    /// `http://127.0.0.1:<port>`: endpoint URL for every AWS client.
    pub fn http_url(&self) -> String {
        base_url("http", &self.host, self.http.port())
    }

    /// `https://127.0.0.1:<port>`, under the development certificate.
    pub fn https_url(&self) -> String {
        base_url("https", &self.host, self.https.port())
    }

    /// `ws://127.0.0.1:<port>`: base of the plain signaling sockets (`/m`, `/v`).
    pub fn ws_url(&self) -> String {
        base_url("ws", &self.host, self.http.port())
    }

    /// `wss://127.0.0.1:<port>`: base of the signaling sockets under TLS.
    pub fn wss_url(&self) -> String {
        base_url("wss", &self.host, self.https.port())
    }

    /// The development certificate, PEM, for a client's list of trusted roots.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    pub fn issuer(&self) -> &Arc<Issuer> {
        &self.issuer
    }

    pub fn kvs(&self) -> &Arc<Kvs> {
        &self.kvs
    }

    /// `None` when the settings named none.
    pub fn translate(&self) -> Option<&Arc<Translate>> {
        self.translate.as_ref()
    }

    /// `None` when the settings named none.
    pub fn polly(&self) -> Option<&Arc<Polly>> {
        self.polly.as_ref()
    }

    /// `None` when the settings named none.
    pub fn transcribe(&self) -> Option<&Arc<Transcribe>> {
        self.transcribe.as_ref()
    }

    /// Closes sockets with 1001, lets calls in flight finish for a moment, then ends everything.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let tasks = std::mem::take(&mut self.tasks);
        let ended = async {
            self.kvs.closed().await;
            for task in tasks {
                // A panic of the accept loop has been printed already; there is nothing left to save.
                drop(task.await);
            }
        };
        if tokio::time::timeout(STOP_LIMIT, ended).await.is_err() {
            tracing::warn!("local-cloud did not stop within 5 s: aborted");
        }
    }
}

impl Drop for LocalCloud {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What answers on both ports.
struct Parts {
    kvs: Arc<Kvs>,
    issuer: Arc<Issuer>,
    polly: Option<Arc<Polly>>,
    rpc: JsonRpc,
}

impl Parts {
    fn router(self) -> Router {
        let mut router = Router::new().merge(self.kvs.router()).merge(self.issuer.router());
        let guarded = |router: Router, service| {
            let gate = Gate { secret: self.rpc.secret.clone(), service };
            router.route_layer(axum::middleware::from_fn_with_state(gate, signed::guard))
        };
        if let Some(translate) = &self.rpc.translate {
            router = router.merge(guarded(Arc::clone(translate).router(), "translate"));
        }
        if let Some(polly) = &self.polly {
            router = router.merge(guarded(Arc::clone(polly).router(), "polly"));
        }
        if let Some(transcribe) = &self.rpc.transcribe {
            // Signs its frames too, so it looks at signatures itself.
            router = router.merge(Arc::clone(transcribe).router());
        }
        router.merge(self.rpc.router()).fallback(unknown).layer(axum::middleware::from_fn(serve::dress))
    }
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Bind { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// `scheme://host:port` without the scheme's own port: AWS's C SDK takes no port in a URL (and so needs 443), and
/// clients that drop the port from `Host` would have signed another host.
fn base_url(scheme: &str, host: &str, port: u16) -> String {
    let own = match scheme {
        "http" | "ws" => 80,
        _ => 443,
    };
    match port == own {
        true => format!("{scheme}://{}", bracketed(host)),
        false => format!("{scheme}://{}:{port}", bracketed(host)),
    }
}

/// The host as it stands in a URL: an IPv6 address in brackets.
pub(crate) fn bracketed(host: &str) -> String {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => format!("[{address}]"),
        Ok(IpAddr::V4(_)) | Err(_) => host.to_owned(),
    }
}

async fn unknown() -> AwsError {
    AwsError::new(ErrorKind::UnknownOperation, "local-cloud does not know this operation")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_the_port_only_where_it_is_not_the_schemes_own() {
        assert_eq!(base_url("wss", "localhost", 443), "wss://localhost");
        assert_eq!(base_url("https", "::1", 443), "https://[::1]");
        assert_eq!(base_url("https", "127.0.0.1", 80), "https://127.0.0.1:80");
        assert_eq!(base_url("ws", "127.0.0.1", 80), "ws://127.0.0.1");
        assert_eq!(base_url("http", "::1", 4900), "http://[::1]:4900");
    }
}
