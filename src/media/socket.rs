//! The signaling socket, as viewer and master both need it: text frames over ws or wss, kept alive, bounded in time.
//!
//! Absent on purpose: what the frames say (`babelcast_domain::signaling`), signing (the URL comes presigned) and
//! reconnecting (its owner knows whether a socket is still needed).

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message, Utf8Bytes};
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream};

/// TCP, TLS and upgrade together.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// One frame into the kernel's buffer.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a polite close may take.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// KVS ends a socket that is idle for ten minutes; middle boxes after one.
const PING_PERIOD: Duration = Duration::from_secs(30);

/// Pings that may go unanswered before the socket counts as dead.
const MAX_UNANSWERED: u32 = 2;

/// Trusted roots for wss: the machine's, plus those in `extra_roots` (PEM), for a development certificate.
///
/// # Errors
/// [`TlsError`] if `extra_roots` holds no certificate or one that cannot be a root.
pub fn tls(extra_roots: Option<&[u8]>) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = rustls::RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    for error in native.errors {
        tracing::warn!(%error, "some of the machine's root certificates were not read");
    }
    roots.add_parsable_certificates(native.certs);
    if let Some(pem) = extra_roots {
        let mut found = 0;
        for certificate in CertificateDer::pem_slice_iter(pem) {
            roots.add(certificate.map_err(|_| TlsError::NotPem)?).map_err(TlsError::NotARoot)?;
            found += 1;
        }
        if found == 0 {
            return Err(TlsError::NotPem);
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(Arc::new(config.map_err(TlsError::Provider)?.with_root_certificates(roots).with_no_client_auth()))
}

/// Why no TLS configuration could be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the extra roots hold no PEM certificate")]
    NotPem,
    #[error("an extra root is not usable: {0}")]
    NotARoot(rustls::Error),
    #[error("the crypto provider lacks a TLS version: {0}")]
    Provider(rustls::Error),
}

/// Why a socket is not there, or no longer. Holds no URL: a presigned one is a credential.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("not a ws or wss URL")]
    BadUrl,
    #[error("no connection within {} s", OPEN_TIMEOUT.as_secs())]
    OpenTimeout,
    /// The service's verdict on the presigned URL: 403 is a bad or old signature or a missing permission.
    #[error("the service refused the socket: HTTP {status} {kind}")]
    Refused { status: u16, kind: String },
    #[error("signaling socket failed: {0}")]
    Io(std::io::Error),
    #[error("signaling socket failed: {0}")]
    Protocol(String),
    #[error("signaling socket takes nothing any more")]
    SendTimeout,
    #[error("signaling socket answers no ping")]
    Dead,
    #[error("signaling socket closed by the service (code {0:?})")]
    Closed(Option<u16>),
}

/// An open signaling socket.
#[derive(Debug)]
pub struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    next_ping: Instant,
    unanswered: u32,
}

impl Socket {
    /// Connects to a presigned URL.
    ///
    /// # Errors
    /// [`SocketError`]; after at most 5 s.
    pub async fn open(url: &str, tls: &Arc<ClientConfig>) -> Result<Self, SocketError> {
        timeout(OPEN_TIMEOUT, Self::connect(url, tls)).await.map_err(|_| SocketError::OpenTimeout)?
    }

    async fn connect(url: &str, tls: &Arc<ClientConfig>) -> Result<Self, SocketError> {
        let parsed = url::Url::parse(url).map_err(|_| SocketError::BadUrl)?;
        let default = match parsed.scheme() {
            "ws" => 80,
            "wss" => 443,
            _ => return Err(SocketError::BadUrl),
        };
        let host = parsed.host_str().ok_or(SocketError::BadUrl)?.trim_matches(['[', ']']);
        let tcp = TcpStream::connect((host, parsed.port().unwrap_or(default))).await.map_err(SocketError::Io)?;
        tcp.set_nodelay(true).map_err(SocketError::Io)?;
        // The defaults take 132 KiB a socket; frames here are at most 16 kB and rare.
        let config = WebSocketConfig::default()
            .read_buffer_size(4 << 10)
            .write_buffer_size(0)
            .max_message_size(Some(64 << 10))
            .max_frame_size(Some(64 << 10));
        let connector = Connector::Rustls(Arc::clone(tls));
        let opened = tokio_tungstenite::client_async_tls_with_config(url, tcp, Some(config), Some(connector)).await;
        let (stream, _) = opened.map_err(failed)?;
        Ok(Socket { stream, next_ping: Instant::now() + PING_PERIOD, unanswered: 0 })
    }

    /// The next text frame. Pings and answers pings meanwhile; may be dropped and called again at any point.
    ///
    /// # Errors
    /// How the socket ended.
    pub async fn next(&mut self) -> Result<Utf8Bytes, SocketError> {
        loop {
            tokio::select! {
                message = self.stream.next() => {
                    self.unanswered = 0;
                    match message {
                        Some(Ok(Message::Text(text))) => return Ok(text),
                        Some(Ok(Message::Close(frame))) => {
                            return Err(SocketError::Closed(frame.map(|frame| frame.code.into())));
                        }
                        // Binary frames mean nothing in this protocol; pongs have done their work by coming.
                        Some(Ok(_)) => {}
                        Some(Err(error)) => return Err(failed(error)),
                        None => return Err(SocketError::Closed(None)),
                    }
                }
                () = sleep_until(self.next_ping) => {
                    if self.unanswered >= MAX_UNANSWERED {
                        return Err(SocketError::Dead);
                    }
                    self.unanswered += 1;
                    self.next_ping = Instant::now() + PING_PERIOD;
                    self.put(Message::Ping(Vec::new().into())).await?;
                }
            }
        }
    }

    /// Sends one text frame.
    ///
    /// # Errors
    /// [`SocketError::SendTimeout`] after 5 s, or how the socket ended.
    pub async fn send(&mut self, text: String) -> Result<(), SocketError> {
        self.put(Message::Text(text.into())).await
    }

    async fn put(&mut self, message: Message) -> Result<(), SocketError> {
        let sent = timeout(SEND_TIMEOUT, self.stream.send(message)).await.map_err(|_| SocketError::SendTimeout)?;
        sent.map_err(failed)
    }

    /// Says goodbye, so that the service frees the viewer's place at once (a channel has ten).
    pub async fn close(mut self) {
        if timeout(CLOSE_TIMEOUT, self.stream.close(None)).await.is_err() {
            tracing::debug!("signaling socket did not take its close in time");
        }
    }
}

fn failed(error: tungstenite::Error) -> SocketError {
    match error {
        tungstenite::Error::Http(response) => {
            let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
            let kind = header("x-amzn-errortype").unwrap_or_default();
            // The type may carry `:http://internal…` after it.
            let kind: String =
                kind.split(':').next().unwrap_or_default().chars().filter(char::is_ascii_graphic).take(64).collect();
            SocketError::Refused { status: response.status().as_u16(), kind }
        }
        tungstenite::Error::Io(error) => SocketError::Io(error),
        tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => SocketError::Closed(None),
        tungstenite::Error::Protocol(error) => SocketError::Protocol(error.to_string()),
        tungstenite::Error::Tls(error) => SocketError::Protocol(error.to_string()),
        tungstenite::Error::Capacity(error) => SocketError::Protocol(error.to_string()),
        tungstenite::Error::Url(_) => SocketError::BadUrl,
        _ => SocketError::Protocol("unexpected".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn answer_once(response: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/?X-Amz-Signature=secret", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let _ = tcp.read(&mut [0; 2_048]).await;
            let _ = tcp.write_all(response.as_bytes()).await;
        });
        url
    }

    #[tokio::test]
    async fn a_refusal_names_status_and_type_and_no_url() {
        let url = answer_once(
            "HTTP/1.1 403 Forbidden\r\nx-amzn-ErrorType: AccessDeniedException:http://x/\r\ncontent-length: 0\r\n\r\n",
        )
        .await;
        let error = Socket::open(&url, &tls(None).unwrap()).await.unwrap_err();
        assert!(
            matches!(&error, SocketError::Refused { status: 403, kind } if kind == "AccessDeniedException"),
            "{error}"
        );
        assert!(!format!("{error} {error:?}").contains("secret"));
    }

    #[tokio::test]
    async fn what_is_no_signaling_url_is_said_so() {
        let tls = tls(None).unwrap();
        for url in ["", "https://example.com/", "ws://", "wss"] {
            assert!(matches!(Socket::open(url, &tls).await, Err(SocketError::BadUrl)), "{url}");
        }
    }

    #[test]
    fn extra_roots_must_be_certificates() {
        assert!(matches!(tls(Some(b"not a certificate")), Err(TlsError::NotPem)));
    }
}
