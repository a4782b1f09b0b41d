//! The house put together: everyone is known here and nowhere else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use babelcast_domain::counts::Counts;
use babelcast_domain::language::Catalogue;
use rustls::ClientConfig;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::aws::{Clients, ConnectError};
use crate::config::Settings;
use crate::live::Sessions;
use crate::media::socket::{self, TlsError};
use crate::store::Store;
use crate::web::{Doors, OpenError};

/// From SIGTERM to the end; below the 30 s a container gets by default.
pub const DRAIN: Duration = Duration::from_secs(20);

#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error(transparent)]
    Aws(#[from] ConnectError),
    #[error("trusted certificates: {0}")]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Doors(#[from] OpenError),
}

/// A running server. Dropping it is a crash: everything ends at once, and nothing is put in order.
pub struct App {
    pub sessions: Arc<Sessions>,
    pub counts: Arc<Counts>,
    doors: Doors,
    _sweeping: Option<AbortOnDropHandle<()>>,
    _cut: Cut,
}

/// Sessions hold each other's registry, so that dropping it alone would leave them running.
struct Cut(Arc<Sessions>);

impl Drop for Cut {
    fn drop(&mut self) {
        self.0.cut();
    }
}

impl App {
    /// Builds everything and opens the doors. `extra_root`: PEM of a certificate to trust besides the machine's.
    pub async fn start(settings: Settings, extra_root: Option<&[u8]>) -> Result<App, AppError> {
        App::start_on(None, settings, extra_root).await
    }

    /// As [`App::start`], on a store that others may share instead of the one of the settings.
    pub async fn start_on(
        store: Option<Arc<Store>>,
        settings: Settings,
        extra_root: Option<&[u8]>,
    ) -> Result<App, AppError> {
        let counts = Arc::new(Counts::default());
        let web = settings.web.clone();
        let (sessions, catalogue) = sessions(store, settings, extra_root, &counts).await?;
        let doors = Doors::open(web, Arc::clone(&sessions), catalogue, Arc::clone(&counts), &CancellationToken::new())?;
        let _sweeping = sessions.keep_sweeping();
        let _cut = Cut(Arc::clone(&sessions));
        Ok(App { sessions, counts, doors, _sweeping, _cut })
    }

    /// The sessions without doors, for work on what the store and AWS hold.
    pub async fn sessions_only(settings: Settings, extra_root: Option<&[u8]>) -> Result<Arc<Sessions>, AppError> {
        Ok(sessions(None, settings, extra_root, &Arc::default()).await?.0)
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.doors.local_addr()
    }

    /// `http://…` of the API.
    pub fn url(&self) -> String {
        format!("http://{}", self.local_addr())
    }

    /// Not ready any more; listeners are asked to come back elsewhere, last words are said, then the doors close.
    pub async fn stop(self, within: Duration) {
        self.doors.drain();
        self.sessions.drain(within.mul_f32(0.7)).await;
        if !self.doors.close(within.mul_f32(0.3)).await {
            tracing::warn!("some connections did not end in time and were cut");
        }
    }
}

async fn sessions(
    store: Option<Arc<Store>>,
    settings: Settings,
    extra_root: Option<&[u8]>,
    counts: &Arc<Counts>,
) -> Result<(Arc<Sessions>, Arc<Catalogue>), AppError> {
    let catalogue = Arc::new(settings.languages.catalogue());
    let tls: Arc<ClientConfig> = socket::tls(extra_root)?;
    let clients = Arc::new(Clients::connect(&settings.aws, extra_root).await?);
    let store = match store {
        Some(store) => store,
        None => Arc::new(Store::open(&settings.store, clients.dynamodb(), Arc::clone(counts))),
    };
    if !store.is_durable() {
        tracing::info!("records live in this process only: its sessions end with it");
    }
    if let Err(error) = store.ping().await {
        tracing::error!(%error, "the store does not answer; this server is not ready until it does");
    }
    let sessions = Sessions::new(settings.live, clients, store, Arc::clone(&catalogue), tls, Arc::clone(counts));
    Ok((sessions, catalogue))
}
