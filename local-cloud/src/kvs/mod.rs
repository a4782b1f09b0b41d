//! Kinesis Video Streams for WebRTC: control plane, ICE configuration and signaling.
//!
//! [`control`] answers the REST calls, [`socket`] the WebSockets on `/m` (master) and `/v` (viewer); what they
//! share is in `channels` and `relay`. Absent on purpose: streams (PutMedia, GetMedia), WebRTC ingestion,
//! `SendAlexaOfferToMaster`, and the rates of the control plane (chaos can throttle instead).

mod channels;
mod chaos;
mod control;
mod frame;
mod ice;
mod rates;
mod relay;
mod socket;
mod turn;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::channels::{Channels, Which};
pub use self::chaos::{Chaos, Count, Counts};
pub use self::ice::{IceServer, IceServers};
pub use self::rates::Rates;
use self::relay::Order;
use crate::signed::{Gate, Secret};

/// How the emulated service behaves. Defaults are the real quotas.
#[derive(Debug, Clone)]
pub struct Settings {
    pub region: String,
    /// 12 digits, part of every ARN.
    pub account: String,
    pub max_viewers: usize,
    /// A socket silent this long is closed (10 min).
    pub idle: Duration,
    /// No socket lives longer (1 h); GO_AWAY comes `grace` earlier.
    pub lifetime: Duration,
    /// From GO_AWAY to the close (1 min).
    pub grace: Duration,
    pub ice: IceServers,
    /// Rates of handshakes and messages; `None`, the default, lets tests be quicker than the service allows.
    pub rates: Option<Rates>,
    /// Faults from the first call on.
    pub chaos: Chaos,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            region: "us-east-1".into(),
            account: "123456789012".into(),
            max_viewers: 10,
            idle: Duration::from_secs(600),
            lifetime: Duration::from_secs(3600),
            grace: Duration::from_secs(60),
            ice: IceServers::default(),
            rates: None,
            chaos: Chaos::default(),
        }
    }
}

/// Where clients are sent: scheme, host and port, without a path.
#[derive(Debug, Clone)]
pub struct Endpoints {
    /// Host name of the ICE responder.
    pub host: String,
    /// Base of the signaling sockets, `wss://127.0.0.1:8443`; the role is appended as `/m` or `/v`.
    pub sockets: String,
    /// Base of `GetIceServerConfig`, `https://127.0.0.1:8443`.
    pub calls: String,
}

/// The emulated service.
pub struct Kvs {
    settings: Settings,
    gate: Gate,
    endpoints: Endpoints,
    ice: ice::Ice,
    channels: Mutex<Channels>,
    switches: chaos::Switches,
    counts: Counts,
    stop: CancellationToken,
    sockets: TaskTracker,
}

impl Kvs {
    /// Starts the ICE responder on `udp` (another port if that one is taken); signatures are checked when there is a `secret`. Sockets end with `stop`.
    pub async fn start(
        settings: Settings,
        secret: Option<Secret>,
        endpoints: Endpoints,
        udp: SocketAddr,
        stop: CancellationToken,
    ) -> std::io::Result<Arc<Self>> {
        let ice = ice::Ice::start(&settings.ice, &endpoints.host, udp).await?;
        let switches = chaos::Switches::default();
        switches.with(|chaos| chaos.clone_from(&settings.chaos));
        Ok(Arc::new(Self {
            channels: Mutex::new(Channels::new(&settings.region, &settings.account)),
            settings,
            gate: Gate { secret, service: "kinesisvideo" },
            endpoints,
            ice,
            switches,
            counts: Counts::default(),
            stop,
            sockets: TaskTracker::new(),
        }))
    }

    /// The REST paths, `/m`, `/v`, and `/dev/kvs` for faults from outside the process.
    pub fn router(self: Arc<Self>) -> Router {
        control::routes().merge(socket::routes()).with_state(self)
    }

    /// Changes the chaos switches.
    pub fn chaos(&self, change: impl FnOnce(&mut Chaos)) {
        self.switches.with(change);
    }

    /// Every channel says that it was created so much earlier.
    pub fn make_older(&self, by: Duration) {
        for channel in self.channels().iter_mut() {
            channel.backdated += by;
        }
    }

    /// Sends GO_AWAY to every socket; those still open after the grace are closed with 1001.
    pub fn go_away(&self) {
        let close_at = socket::after(Instant::now(), self.settings.grace);
        for channel in self.channels().iter() {
            channel.relay.notify(&frame::notice("GO_AWAY"), &self.counts);
            channel.relay.order_all(Order::CloseBy(close_at));
        }
    }

    /// Sends RECONNECT_ICE_SERVER to every socket.
    pub fn reconnect_ice_server(&self) {
        for channel in self.channels().iter() {
            channel.relay.notify(&frame::notice("RECONNECT_ICE_SERVER"), &self.counts);
        }
    }

    /// Drops every socket without a close frame.
    pub fn cut_sockets(&self) {
        for channel in self.channels().iter() {
            channel.relay.order_all(Order::Cut);
        }
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Names of the channels that exist, those in DELETING included.
    pub fn channel_names(&self) -> Vec<String> {
        self.channels().iter().map(|channel| channel.name.clone()).collect()
    }

    /// Whether a master's socket is open on the channel of this name.
    pub fn has_master(&self, channel_name: &str) -> bool {
        let found = |channels: &mut Channels| {
            channels.find(Which::Name(channel_name), Instant::now()).is_ok_and(|channel| channel.relay.has_master())
        };
        found(&mut self.channels())
    }

    /// The client ids seated on the channel of this name.
    pub fn viewers(&self, channel_name: &str) -> Vec<String> {
        match self.channels().find(Which::Name(channel_name), Instant::now()) {
            Ok(channel) => channel.relay.viewers().map(|id| id.as_str().to_owned()).collect(),
            Err(_) => Vec::new(),
        }
    }

    /// Waits until every socket has ended; call after cancelling `stop`.
    pub async fn closed(&self) {
        self.sockets.close();
        self.sockets.wait().await;
    }

    fn channels(&self) -> MutexGuard<'_, Channels> {
        // A panic under the lock leaves plain values, each usable by itself.
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
