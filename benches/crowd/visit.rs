//! Listeners by the thousand.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::Failed;
use crate::house::{Kind, Words};

const LANGUAGES: [&str; 5] = ["en", "es", "fr", "it", "pt"];
const PATIENCE: Duration = Duration::from_secs(30);

/// Everybody who came. They stay, and answer pings, until this is dropped.
pub struct Visits {
    /// From one's turn to being in, in milliseconds.
    pub joined_ms: Vec<f64>,
    /// Why the others are not in.
    pub missing: Vec<String>,
    _seated: JoinSet<()>,
}

impl Visits {
    pub fn why(&self) -> &str {
        self.missing.first().map_or("", String::as_str)
    }

    pub fn nobody_missing(&self) -> Result<(), Failed> {
        match self.missing.first() {
            None => Ok(()),
            Some(why) => Err(format!("{} did not get in: {why}", self.missing.len()).into()),
        }
    }
}

/// Opens `count` connections, evenly over a time.
pub async fn all(words: &Words, kind: Kind, count: usize, over: Duration) -> Visits {
    let start = Instant::now() + Duration::from_millis(100);
    let mut coming = JoinSet::new();
    for n in 0..count {
        let turn = start + over.mul_f64(n as f64 / count as f64);
        sleep_until(turn).await;
        let (address, language) = (words.address, LANGUAGES[n % LANGUAGES.len()]);
        let path = format!("/ws?sessionId={}&targetLanguage={language}", words.session);
        coming.spawn(async move {
            let stream = TcpStream::connect(address).await?;
            if kind == Kind::Bare {
                return Ok((turn.elapsed(), Seat::Bare(stream)));
            }
            let socket = timeout(PATIENCE, join(stream, kind, address.to_string(), path)).await??;
            Ok::<_, Failed>((turn.elapsed(), Seat::Socket(Box::new(socket))))
        });
    }
    let (mut joined_ms, mut missing, mut seated) = (Vec::new(), Vec::new(), JoinSet::new());
    while let Some(came) = coming.join_next().await {
        match came.map_err(Failed::from).flatten() {
            Ok((took, seat)) => {
                joined_ms.push(took.as_secs_f64() * 1e3);
                seated.spawn(seat.stay());
            }
            Err(error) => missing.push(error.to_string()),
        }
    }
    Visits { joined_ms, missing, _seated: seated }
}

enum Seat {
    Bare(TcpStream),
    Socket(Box<WebSocketStream<TcpStream>>),
}

impl Seat {
    async fn stay(self) {
        match self {
            Seat::Bare(stream) => {
                let _ = stream.readable().await;
            }
            // Reading answers the pings.
            Seat::Socket(mut socket) => while let Some(Ok(_)) = socket.next().await {},
        }
    }
}

async fn join(stream: TcpStream, kind: Kind, host: String, path: String) -> Result<WebSocketStream<TcpStream>, Failed> {
    stream.set_nodelay(true)?;
    let config = WebSocketConfig::default().read_buffer_size(1_024).write_buffer_size(0);
    let url = format!("ws://{host}{path}");
    let (mut socket, _) = tokio_tungstenite::client_async_with_config(url, stream, Some(config)).await?;
    match socket.next().await.ok_or("closed at once")?? {
        Message::Text(text) if kind == Kind::Upgrade || text.contains("\"sessionJoined\"") => Ok(socket),
        other => Err(format!("not joined: {other}").into()),
    }
}
