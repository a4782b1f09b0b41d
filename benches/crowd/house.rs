//! The server under test as a process of its own, and this process's way to it: a line of JSON from it when it is open,
//! then one for every line it is sent, telling what is in it. It ends with its input.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::str::FromStr;
use std::time::Duration;

use babelcast::cli::local::Stack;
use babelcast::cli::speaker::SpeakerClient;
use babelcast::config::Settings;
use babelcast::live::Limits;
use babelcast::web::LimitSettings;
use babelcast_domain::wire::CreateSession;
use futures_util::{SinkExt, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::{Failed, allocated};

pub const SPEAKERS: usize = 32;
/// As long as `sessionJoined` of a session without history.
const MESSAGE_BYTES: usize = 460;

/// What kind of server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// babelcast on a local cloud without engines.
    Full,
    /// Accepts, upgrades to a WebSocket, says one message, waits.
    Upgrade,
    /// Accepts and waits.
    Bare,
}

impl FromStr for Kind {
    type Err = Failed;

    fn from_str(text: &str) -> Result<Self, Failed> {
        Ok(serde_json::from_value(text.into())?)
    }
}

/// What an open house says.
#[derive(Debug, Serialize, Deserialize)]
pub struct Words {
    pub address: SocketAddr,
    /// An open session.
    pub session: String,
    /// One for each of [`SPEAKERS`].
    pub tokens: Vec<String>,
}

/// What there is in it now.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Inventory {
    /// Bytes, as the kernel counts them and as the program does.
    pub resident: f64,
    pub allocated: f64,
    pub sessions: usize,
    pub channels: usize,
}

pub struct House {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    pub words: Words,
}

impl House {
    pub fn start(kind: Kind) -> Result<House, Failed> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("--house")
            .arg(format!("{kind:?}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (input, output) = (child.stdin.take().ok_or("no input")?, child.stdout.take().ok_or("no output")?);
        let mut output = BufReader::new(output);
        let words = serde_json::from_str(&line(&mut output)?)?;
        Ok(House { child, input, output, words })
    }

    pub fn inventory(&mut self) -> Result<Inventory, Failed> {
        self.input.write_all(b"inventory\n")?;
        self.input.flush()?;
        Ok(serde_json::from_str(&line(&mut self.output)?)?)
    }
}

fn line(output: &mut impl BufRead) -> Result<String, Failed> {
    let mut line = String::new();
    output.read_line(&mut line)?;
    if line.is_empty() { Err("the house is gone".into()) } else { Ok(line) }
}

impl Drop for House {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts this process anew with more files if it may have too few.
pub fn allow_files(wanted: usize) -> Result<(), Failed> {
    let limits = std::fs::read_to_string("/proc/self/limits")?;
    let line = limits.lines().find(|line| line.starts_with("Max open files")).ok_or("the kernel does not say")?;
    let mut numbers = line.split_whitespace().skip(3).map(|word| word.parse().unwrap_or(usize::MAX));
    let (soft, hard) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    if soft >= wanted {
        return Ok(());
    }
    if hard < wanted {
        return Err(format!(
            "{wanted} open files are needed and {hard} allowed: raise `ulimit -Hn`, or give --listeners"
        )
        .into());
    }
    let again = format!("ulimit -Sn {wanted} && exec \"$0\" \"$@\"");
    let program = std::env::current_exe()?;
    let error = std::os::unix::process::CommandExt::exec(
        Command::new("sh").arg("-c").arg(again).arg(program).args(std::env::args_os().skip(1)),
    );
    Err(error.into())
}

/// The child's side.
pub async fn run(kind: Kind) -> Result<(), Failed> {
    match kind {
        Kind::Full => full().await,
        Kind::Upgrade => plain(|stream| async { upgrade(stream).await.unwrap_or_default() }).await,
        Kind::Bare => plain(wait).await,
    }
}

async fn full() -> Result<(), Failed> {
    let mut settings = Settings::load(None)?;
    settings.web.bind = ([127, 0, 0, 1], 0).into();
    settings.web.limits = LimitSettings::OFF;
    settings.live.limits = Limits::OFF;
    settings.live.sessions_per_speaker = 1_000;
    let cloud = local_cloud::Settings { plain_signaling: true, ..local_cloud::Settings::default() };
    let stack = Stack::start(cloud, settings).await?;
    let client = SpeakerClient::new(stack.url(), Some(stack.token("host")?))?;
    let session = client.create(&CreateSession::new("en")).await?.session_id.to_string();
    let token = |n: usize| Ok(stack.token(&format!("speaker-{n}"))?.reveal().to_owned());
    let tokens = (0..SPEAKERS).map(token).collect::<Result<_, Failed>>()?;
    let words = Words { address: stack.app.local_addr(), session, tokens };
    answer(&words, || (stack.app.sessions.live_count(), stack.cloud.kvs().channel_names().len()))?;
    stack.stop(Duration::from_secs(5)).await;
    Ok(())
}

async fn plain<F: Future<Output = ()> + Send + 'static>(serve: fn(TcpStream) -> F) -> Result<(), Failed> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let accepting = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    answer(&Words { address, session: String::new(), tokens: Vec::new() }, || (0, 0))?;
    accepting.abort();
    Ok(())
}

async fn upgrade(stream: TcpStream) -> Result<(), Failed> {
    stream.set_nodelay(true)?;
    let config = WebSocketConfig::default().read_buffer_size(512).write_buffer_size(0);
    let mut socket = tokio_tungstenite::accept_async_with_config(stream, Some(config)).await?;
    socket.send(Message::text("x".repeat(MESSAGE_BYTES))).await?;
    while let Some(Ok(_)) = socket.next().await {}
    Ok(())
}

async fn wait(mut stream: TcpStream) {
    let _ = stream.read_u8().await;
}

/// Says what is to be known of the house, then what is in it whenever it is asked. Waits on the main thread, which is none
/// of the server's.
fn answer(words: &Words, count: impl Fn() -> (usize, usize)) -> Result<(), Failed> {
    println!("{}", serde_json::to_string(words)?);
    for asked in std::io::stdin().lines() {
        asked?;
        let status = std::fs::read_to_string("/proc/self/status")?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = resident.and_then(|line| line.split_whitespace().next()).ok_or("the kernel does not say")?;
        let resident = resident.parse::<f64>()? * 1024.0;
        let (sessions, channels) = count();
        let allocated = allocated::bytes() as f64;
        println!("{}", serde_json::to_string(&Inventory { resident, allocated, sessions, channels })?);
    }
    Ok(())
}
