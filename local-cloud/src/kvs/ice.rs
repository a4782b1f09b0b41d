//! What `GetIceServerConfig` answers.

use std::net::{IpAddr, SocketAddr};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::net::UdpSocket;
use tokio_util::task::AbortOnDropHandle;

use super::turn;

/// Life of TURN credentials, seconds: what the real service gives.
const TTL_SECONDS: u32 = 300;

/// Which ICE servers clients are told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum IceServers {
    /// One TURN server of our own on loopback that refuses quickly. Suits every known client.
    #[default]
    Refusing,
    /// An empty list. AWS's C SDK does not start with it.
    Empty,
    Given(Vec<IceServer>),
}

/// One entry of `IceServerList`, in the spelling of the service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct IceServer {
    pub uris: Vec<String>,
    pub username: String,
    pub password: String,
    /// Seconds.
    pub ttl: u32,
}

/// The list, and the responder behind it where there is one.
pub(super) enum Ice {
    Refusing { address: SocketAddr, passwords: turn::Passwords, _task: AbortOnDropHandle<()> },
    Fixed(Vec<IceServer>),
}

impl Ice {
    /// Binds the responder, on `ip`, if the setting asks for it.
    pub async fn start(setting: &IceServers, ip: IpAddr) -> std::io::Result<Self> {
        match setting {
            IceServers::Refusing => {
                let socket = UdpSocket::bind((ip, 0)).await?;
                let address = socket.local_addr()?;
                let passwords = turn::Passwords::new();
                let task = AbortOnDropHandle::new(tokio::spawn(turn::respond(socket, passwords.clone())));
                Ok(Self::Refusing { address, passwords, _task: task })
            }
            IceServers::Empty => Ok(Self::Fixed(Vec::new())),
            IceServers::Given(servers) => Ok(Self::Fixed(servers.clone())),
        }
    }

    /// The servers for one asker. User names have the form `timestamp:name` that GStreamer's sink parses.
    pub fn servers(&self, asker: &str, now: SystemTime) -> Vec<IceServer> {
        match self {
            Self::Fixed(servers) => servers.clone(),
            Self::Refusing { address, passwords, .. } => {
                let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                let username = format!("{}:{asker}", now + u64::from(TTL_SECONDS));
                let password = passwords.of(&username);
                let uris = vec![format!("turn:{address}?transport=udp")];
                vec![IceServer { uris, username, password, ttl: TTL_SECONDS }]
            }
        }
    }
}
