//! The house put together: everyone is known here and nowhere else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use babelcast_domain::counts::Counts;
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

/// A running server.
pub struct App {
    pub sessions: Arc<Sessions>,
    pub counts: Arc<Counts>,
    doors: Doors,
    _sweeping: Option<AbortOnDropHandle<()>>,
}

impl App {
    /// Builds everything and opens the doors. `extra_root`: PEM of a certificate to trust besides the machine's.
    pub async fn start(settings: Settings, extra_root: Option<&[u8]>) -> Result<App, AppError> {
        App::start_on(Arc::new(Store::memory()), settings, extra_root).await
    }

    /// As [`App::start`], on a store that others may share.
    pub async fn start_on(store: Arc<Store>, settings: Settings, extra_root: Option<&[u8]>) -> Result<App, AppError> {
        let counts = Arc::new(Counts::default());
        let catalogue = Arc::new(settings.languages.catalogue());
        let tls: Arc<ClientConfig> = socket::tls(extra_root)?;
        let clients = Arc::new(Clients::connect(&settings.aws, extra_root).await?);
        let sessions = Sessions::new(settings.live, clients, store, Arc::clone(&catalogue), tls, Arc::clone(&counts));
        let doors =
            Doors::open(settings.web, Arc::clone(&sessions), catalogue, Arc::clone(&counts), &CancellationToken::new())
                .await?;
        let _sweeping = sessions.keep_sweeping();
        Ok(App { sessions, counts, doors, _sweeping })
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
