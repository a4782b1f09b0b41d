//! Accepting connections and serving the one router on them: plain http and TLS.
//!
//! TLS connections speak HTTP/1.1 or 2 as agreed by ALPN; plain ones may begin with HTTP/2's preface, as the JS SDK's
//! Transcribe client does. hyper-util's `auto` builder is not used: it waits without a limit for a client that sends
//! nothing, and its `serve_connection_with_upgrades` guesses even after `http1_only`.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::error;

/// Connections of one port; past it new ones wait in the kernel's backlog.
const MAX_CONNECTIONS: usize = 4096;
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// From the accept to the first bytes, or to the end of the TLS handshake.
const OPENING_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks at a connection whose first bytes could still become either version.
const PEEK_PAUSE: Duration = Duration::from_millis(10);
/// An HTTP/2 peer is pinged this often, and gone when it does not answer for as long.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// What calls in flight get to finish after the stop.
const STOP_GRACE: Duration = Duration::from_secs(2);
/// Pause of the accept loop when the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts until `stop`; owns every connection it accepted.
pub(crate) async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, router: Router, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, peer)) => {
                    connections.spawn(connection(stream, peer, tls.clone(), router.clone(), stop.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP_GRACE, drained).await.is_err() {
        tracing::debug!("connections outlived the stop: ended");
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    router: Router,
    stop: CancellationToken,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "TCP_NODELAY could not be set");
    }
    // A stop does not wait for those who have not said anything yet.
    let opening = opening(stream, tls);
    let Some(opened) = stop.run_until_cancelled(tokio::time::timeout(OPENING_TIMEOUT, opening)).await else { return };
    match opened {
        Ok(Ok(Opened::Plain(stream, version))) => http(stream, version, router, stop).await,
        Ok(Ok(Opened::Tls(stream, version))) => http(stream, version, router, stop).await,
        Ok(Err(error)) => tracing::debug!(%peer, %error, "connection ended before its first request"),
        Err(_) => tracing::debug!(%peer, "nothing came on a new connection: closed"),
    }
}

enum Opened {
    Plain(TcpStream, Version),
    Tls(Box<TlsStream<TcpStream>>, Version),
}

async fn opening(stream: TcpStream, tls: Option<TlsAcceptor>) -> std::io::Result<Opened> {
    let Some(tls) = tls else {
        let version = announced(&stream).await?;
        return Ok(Opened::Plain(stream, version));
    };
    let stream = tls.accept(stream).await?;
    let version = match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => Version::Two,
        Some(_) | None => Version::One,
    };
    Ok(Opened::Tls(Box::new(stream), version))
}

enum Version {
    One,
    Two,
}

/// The version a plain connection begins with. No method but HTTP/2's preface begins with `PRI`.
async fn announced(stream: &TcpStream) -> std::io::Result<Version> {
    const PREFACE: &[u8] = b"PRI";
    let mut start = [0u8; PREFACE.len()];
    loop {
        let seen = stream.peek(&mut start).await?;
        match &start[..seen] {
            PREFACE => return Ok(Version::Two),
            [] => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            part if PREFACE.starts_with(part) => tokio::time::sleep(PEEK_PAUSE).await,
            _ => return Ok(Version::One),
        }
    }
}

async fn http<S>(stream: S, version: Version, router: Router, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (io, service) = (TokioIo::new(stream), TowerToHyperService::new(router));
    let served = match version {
        Version::One => {
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
            let mut connection = std::pin::pin!(builder.serve_connection(io, service).with_upgrades());
            tokio::select! {
                served = connection.as_mut() => served,
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        }
        Version::Two => {
            let executor = Owned { stop: stop.clone(), tasks: TaskTracker::new() };
            let mut builder = http2::Builder::new(executor);
            builder.timer(TokioTimer::new()).keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(KEEP_ALIVE);
            let mut connection = std::pin::pin!(builder.serve_connection(io, service));
            tokio::select! {
                served = connection.as_mut() => served,
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "connection ended early");
    }
}

/// Runs the streams of an HTTP/2 connection; they end with the stop token.
#[derive(Clone)]
struct Owned {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl<F> Executor<F> for Owned
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move { stop.run_until_cancelled(future).await });
    }
}

/// What every answer gets and every request needs: a request id, CORS for browsers, `host` under HTTP/2.
pub(crate) async fn dress(mut request: Request, next: Next) -> Response {
    let authority = request.uri().authority().map(|authority| authority.as_str().to_owned());
    if let (None, Some(authority)) = (request.headers().get(header::HOST), authority) {
        // Signatures cover `host`; HTTP/2 carries it as `:authority`.
        if let Ok(host) = HeaderValue::from_str(&authority) {
            request.headers_mut().insert(header::HOST, host);
        }
    }
    let preflight =
        request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if preflight {
        let asked = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
        let mut response = StatusCode::NO_CONTENT.into_response();
        allow(response.headers_mut(), asked);
        response
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    headers.entry(error::REQUEST_ID).or_insert_with(error::request_id);
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static("x-amzn-errortype, x-amzn-requestid, x-amzn-trace-id, date"),
    );
    response
}

/// The answer to a preflight: what was asked for is allowed. `*` would not cover `authorization`.
fn allow(headers: &mut HeaderMap, asked: Option<HeaderValue>) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, OPTIONS"));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    headers.insert("access-control-allow-private-network", HeaderValue::from_static("true"));
    if let Some(asked) = asked {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked);
    }
}
