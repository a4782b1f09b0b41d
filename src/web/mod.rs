//! The doors: HTTP and WebSocket, and who may pass.
//!
//! A door checks, asks the sessions and answers; nothing is decided here that the sessions could decide. Only HTTP/1.1
//! is spoken: a load balancer in front may speak anything, WebSockets need 1.1, and hyper's protocol detection waits
//! for ever for the first byte. Deliberately absent: TLS (the load balancer's).

mod access;
mod arrival;
mod asyncapi;
mod auth;
mod docs;
mod doors;
mod echo;
mod error;
mod etag;
mod health;
mod impatient;
mod keys;
mod limits;
mod line;
mod openapi;
mod origins;
mod routes;
mod sessions;
mod socket;
mod speaking;
mod status;
mod transcript;

#[cfg(test)]
mod tests;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use babelcast_domain::counts::{Count, Counts};
use babelcast_domain::error::{ErrorCode, Problem};
use babelcast_domain::language::Catalogue;
use babelcast_domain::time::UnixMs;
use serde::{Deserialize, Deserializer};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use auth::{AuthSettings, Token};
pub use doors::{Doors, OpenError};
pub use limits::LimitSettings;

use self::limits::Limits;
use self::origins::Origins;
use crate::live::Sessions;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where to listen; port 0 takes a free one.
    pub bind: SocketAddr,
    pub auth: AuthSettings,
    pub timeouts: Timeouts,
    /// The largest WebSocket message taken; 1009 beyond.
    pub max_message_bytes: usize,
    /// The largest HTTP body taken; 413 beyond.
    pub max_body_bytes: usize,
    /// What the kernel holds for a peer that does not read, about; 0 leaves it to the kernel, which lets it grow to
    /// megabytes, and what waits there cannot be conflated any more.
    pub send_buffer_bytes: u32,
    /// Offers `/ws/echo`, for conformance suites. Never in production.
    pub echo_route: bool,
    /// Pages that may use the API from a browser, besides those of this very host: `https://app.example.com`; `*`: all.
    pub allowed_origins: Vec<String>,
    /// Load balancers and proxies in front, each of which adds one address to `X-Forwarded-For`. 0: the connection's own
    /// address counts and the header is not looked at.
    pub trusted_hops: usize,
    pub limits: LimitSettings,
}

/// How long a peer may keep us waiting. In milliseconds in the configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// From the connection, or the last answer, to the end of a request's header.
    #[serde(rename = "header_ms", deserialize_with = "millis")]
    pub header: Duration,
    /// For a whole request body.
    #[serde(rename = "body_ms", deserialize_with = "millis")]
    pub body: Duration,
    /// From the upgrade to `joinSession`.
    #[serde(rename = "join_ms", deserialize_with = "millis")]
    pub join: Duration,
    /// Between two pings.
    #[serde(rename = "ping_ms", deserialize_with = "millis")]
    pub ping: Duration,
    /// A peer that sent nothing for this long, not even a pong, is gone.
    #[serde(rename = "silent_ms", deserialize_with = "millis")]
    pub silent: Duration,
    /// For one message to leave.
    #[serde(rename = "write_ms", deserialize_with = "millis")]
    pub write: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            bind: (Ipv4Addr::LOCALHOST, 8080).into(),
            auth: AuthSettings::default(),
            timeouts: Timeouts::default(),
            max_message_bytes: 128 << 10,
            max_body_bytes: 64 << 10,
            send_buffer_bytes: 64 << 10,
            echo_route: false,
            allowed_origins: Vec::new(),
            trusted_hops: 0,
            limits: LimitSettings::default(),
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            header: Duration::from_secs(10),
            body: Duration::from_secs(10),
            join: Duration::from_secs(15),
            ping: Duration::from_secs(25),
            silent: Duration::from_secs(60),
            write: Duration::from_secs(10),
        }
    }
}

impl Settings {
    /// # Errors
    /// A sentence that names the setting and what it must be.
    pub fn check(&self) -> Result<(), String> {
        self.auth.check()?;
        Origins::new(&self.allowed_origins)?;
        let Timeouts { header, body, join, ping, silent, write } = self.timeouts;
        if [header, body, join, ping, silent, write].contains(&Duration::ZERO) {
            return Err("web.timeouts: none may be 0".into());
        }
        if ping >= silent {
            return Err("web.timeouts.ping_ms must be less than silent_ms".into());
        }
        if self.max_message_bytes < 1_024 || self.max_body_bytes < 1_024 {
            return Err("web.max_message_bytes and web.max_body_bytes must be 1024 at least".into());
        }
        Ok(())
    }
}

/// What every door can reach.
struct House {
    settings: Settings,
    sessions: Arc<Sessions>,
    catalogue: Arc<Catalogue>,
    counts: Arc<Counts>,
    tokens: auth::Tokens,
    origins: Origins,
    limits: Arc<Limits>,
    /// Told to finish: accept nothing more, say goodbye.
    stop: CancellationToken,
    /// Out of patience: whatever is left is dropped.
    cut: CancellationToken,
    /// Sockets, and work that must end even when the one who asked hangs up.
    tasks: TaskTracker,
    draining: AtomicBool,
}

impl House {
    fn is_ready(&self) -> bool {
        !self.draining.load(Ordering::Relaxed) && !self.stop.is_cancelled()
    }

    /// Runs what changes something to its end, also when the client hangs up half-way: hyper drops the handler then,
    /// and half a change is worse than one nobody waited for.
    async fn to_the_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Problem>> + Send + 'static,
    ) -> Result<T, Problem> {
        let cut = self.cut.clone();
        let done = self.tasks.spawn(async move { cut.run_until_cancelled_owned(work).await }).await;
        match done {
            Ok(Some(result)) => result,
            Ok(None) => Err(Problem::new(ErrorCode::UpstreamUnavailable, "The server is stopping; try again")),
            Err(_) => {
                self.counts.one(Count::Panics);
                tracing::error!("a request panicked");
                Err(internal())
            }
        }
    }
}

fn internal() -> Problem {
    Problem::new(
        ErrorCode::Internal,
        "Something broke on our side; try again, and quote the answer's x-request-id if it stays",
    )
}

/// The wall clock.
fn wall() -> UnixMs {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixMs(since.as_millis() as u64)
}

fn millis<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    u64::deserialize(deserializer).map(Duration::from_millis)
}
