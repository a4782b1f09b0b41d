//! Listening, serving and stopping: the life of the doors.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::{Method, Request, StatusCode, header};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::{any, get};
use babelcast_domain::counts::{Count, Counts};
use babelcast_domain::language::Catalogue;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tower_http::cors::CorsLayer;

use super::auth::Tokens;
use super::error::Refusal;
use super::impatient::Impatient;
use super::limits::{self, Limits, Peer};
use super::origins::Origins;
use super::{House, Settings, access, docs, echo, routes, sessions};
use crate::live::Sessions;

/// Connections the kernel holds for us while we are busy; past it their first packet is lost and sent again a second later.
const BACKLOG: u32 = 4_096;

/// Why the doors stay shut.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{0}")]
    Settings(String),
    #[error("cannot listen on {bind}: {error}")]
    Bind { bind: SocketAddr, error: io::Error },
    #[error("the client for the token issuer's keys: {0}")]
    Client(reqwest::Error),
}

/// The open doors. Dropping them cuts every connection; [`Doors::close`] says goodbye first.
pub struct Doors {
    local_addr: SocketAddr,
    pub(super) house: Arc<House>,
    accepting: AbortOnDropHandle<()>,
    _cut: DropGuard,
}

impl Doors {
    /// Binds first, so that whoever holds the result can already be connected to, and serves until closed or until
    /// `stop` is cancelled. To be called in a runtime.
    ///
    /// # Errors
    /// A setting that makes no sense, or an address that cannot be had.
    pub fn open(
        settings: Settings,
        sessions: Arc<Sessions>,
        catalogue: Arc<Catalogue>,
        counts: Arc<Counts>,
        stop: &CancellationToken,
    ) -> Result<Doors, OpenError> {
        settings.check().map_err(OpenError::Settings)?;
        let bind = settings.bind;
        let listener = listen(&settings).map_err(|error| OpenError::Bind { bind, error })?;
        let local_addr = listener.local_addr().map_err(|error| OpenError::Bind { bind, error })?;
        let tokens = Tokens::new(&settings.auth, Arc::clone(&counts))?;
        let origins = Origins::new(&settings.allowed_origins).map_err(OpenError::Settings)?;
        let limits = Limits::new(settings.limits.clone(), settings.trusted_hops, Arc::clone(&counts));
        let cut = CancellationToken::new();
        let house = Arc::new(House {
            settings,
            sessions,
            catalogue,
            counts,
            tokens,
            origins,
            limits,
            stop: stop.child_token(),
            cut: cut.clone(),
            tasks: TaskTracker::new(),
            draining: AtomicBool::new(false),
        });
        let accepting = tokio::spawn(accept(listener, router(&house), Arc::clone(&house)));
        tracing::info!(%local_addr, "doors open");
        Ok(Doors { local_addr, house, accepting: AbortOnDropHandle::new(accepting), _cut: cut.drop_guard() })
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Turns `/health/ready`, while everything else goes on: the load balancer looks elsewhere first.
    pub fn drain(&self) {
        self.house.draining.store(true, Ordering::Relaxed);
    }

    /// Accepts nothing more, tells every socket `goAway` (close code 1001), lets requests finish, and after `grace` cuts
    /// what is left. Returns whether everybody left in time.
    pub async fn close(self, grace: Duration) -> bool {
        self.house.stop.cancel();
        self.house.tasks.close();
        let Doors { house, mut accepting, .. } = self;
        let everybody = async {
            let _ = (&mut accepting).await;
            house.tasks.wait().await;
        };
        let in_time = timeout(grace, everybody).await.is_ok();
        if !in_time {
            tracing::warn!(left = house.limits.open(), "connections cut: they did not end in time");
            house.cut.cancel();
            accepting.abort();
            house.tasks.wait().await;
        }
        in_time
    }
}

fn listen(settings: &Settings) -> io::Result<TcpListener> {
    let socket = if settings.bind.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    if settings.send_buffer_bytes > 0 {
        // Every accepted socket inherits it.
        socket.set_send_buffer_size(settings.send_buffer_bytes)?;
    }
    socket.bind(settings.bind)?;
    socket.listen(BACKLOG)
}

pub(super) fn router(house: &Arc<House>) -> Router {
    let mut router =
        Router::from(routes::routes()).route("/docs/", get(docs::file)).route("/docs/{*file}", get(docs::file));
    if house.settings.echo_route {
        router = router.route("/ws/echo", any(echo::open));
    }
    // No cookie is ever read and credentials are never allowed, so that a foreign page can do nothing in a visitor's name.
    let cors = CorsLayer::new()
        .allow_origin(house.origins.cors())
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::IF_NONE_MATCH,
            sessions::IDEMPOTENCY_KEY,
            access::REQUEST_ID,
        ])
        .expose_headers([header::ETAG, header::LOCATION, header::RETRY_AFTER, access::REQUEST_ID])
        .max_age(Duration::from_secs(3_600));
    router
        .fallback(|| async { Refusal::of_http(StatusCode::NOT_FOUND, "there is nothing at this path") })
        .method_not_allowed_fallback(|| async {
            Refusal::of_http(StatusCode::METHOD_NOT_ALLOWED, "this path takes other methods; see the `Allow` header")
        })
        .layer(from_fn_with_state(Arc::clone(house), limits::guard))
        .layer(from_fn_with_state(Arc::clone(house), access::catch_panic))
        .layer(from_fn(access::bound_head))
        .layer(cors)
        .layer(from_fn(access::log))
        .with_state(Arc::clone(house))
}

async fn accept(listener: TcpListener, router: Router, house: Arc<House>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = house.stop.cancelled() => break,
            Some(ended) = connections.join_next() => reap(ended, &house),
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) => match house.limits.connect(from.ip()) {
                    Some(peer) => drop(connections.spawn(serve(stream, peer, router.clone(), Arc::clone(&house)))),
                    None => limits::turn_away(stream),
                },
                // Out of file descriptors, or a peer gone before we looked: open connections live on, new ones wait.
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    drop(listener);
    while let Some(ended) = connections.join_next().await {
        reap(ended, &house);
    }
}

fn reap(ended: Result<(), JoinError>, house: &House) {
    if let Err(error) = ended
        && error.is_panic()
    {
        house.counts.one(Count::Panics);
        tracing::error!("a connection panicked");
    }
}

/// The router for one connection: every request over it says whose it is.
struct Desk {
    router: TowerToHyperService<Router>,
    peer: Peer,
}

impl Service<Request<Incoming>> for Desk {
    type Response = Response;
    type Error = Infallible;
    type Future = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.peer.clone());
        self.router.call(request)
    }
}

async fn serve(stream: TcpStream, peer: Peer, router: Router, house: Arc<House>) {
    let _ = stream.set_nodelay(true);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(house.settings.timeouts.header)
        .max_buf_size(2 * access::HEAD_BYTES);
    let desk = Desk { router: TowerToHyperService::new(router), peer };
    // WebSockets look at their own clock; this one is a little slower, so that theirs tells why.
    let stream = Impatient::new(stream, house.settings.timeouts.write + Duration::from_secs(1));
    let connection = http.serve_connection(TokioIo::new(stream), desk).with_upgrades();
    tokio::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = house.stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        // Cut lines, timeouts and garbage: daily bread, and none of it ours.
        tracing::debug!(%error, "a connection ended badly");
    }
}
