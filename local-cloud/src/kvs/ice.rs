//! What `GetIceServerConfig` answers.

use std::net::SocketAddr;
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
    Refusing { authority: String, passwords: turn::Passwords, _task: AbortOnDropHandle<()> },
    Fixed(Vec<IceServer>),
}

impl Ice {
    /// Binds the responder, if the setting asks for it: on `wanted`, so that whoever publishes the TCP port of
    /// that number can publish this one too, or else on any port.
    pub async fn start(setting: &IceServers, host: &str, wanted: SocketAddr) -> std::io::Result<Self> {
        match setting {
            IceServers::Refusing => {
                let socket = match UdpSocket::bind(wanted).await {
                    Ok(socket) => socket,
                    Err(_) => UdpSocket::bind((wanted.ip(), 0)).await?,
                };
                let authority = format!("{}:{}", crate::bracketed(host), socket.local_addr()?.port());
                let passwords = turn::Passwords::new();
                let task = AbortOnDropHandle::new(tokio::spawn(turn::respond(socket, passwords.clone())));
                Ok(Self::Refusing { authority, passwords, _task: task })
            }
            IceServers::Empty => Ok(Self::Fixed(Vec::new())),
            IceServers::Given(servers) => Ok(Self::Fixed(servers.clone())),
        }
    }

    /// The servers for one asker. User names have the form `timestamp:name` that GStreamer's sink parses.
    pub fn servers(&self, asker: &str, now: SystemTime) -> Vec<IceServer> {
        match self {
            Self::Fixed(servers) => servers.clone(),
            Self::Refusing { authority, passwords, .. } => {
                let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                let username = format!("{}:{asker}", now + u64::from(TTL_SECONDS));
                let password = passwords.of(&username);
                let uris = vec![format!("turn:{authority}?transport=udp")];
                vec![IceServer { uris, username, password, ttl: TTL_SECONDS }]
            }
        }
    }
}
