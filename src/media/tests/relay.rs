//! A signaling relay as small as these tests need: one channel, frames passed on as KVS passes them.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_util::task::AbortOnDropHandle;

use super::network::Network;

/// What the relay does to frames for viewers and to sockets.
#[derive(Default)]
pub struct Switches {
    /// Answers wait until this many candidates have gone before them.
    pub candidates_first: usize,
    /// Replaces the SDP of every answer.
    pub answer: Option<String>,
    /// Answers are swallowed.
    pub no_answer: bool,
    /// Puts another certificate's fingerprint into answers.
    pub wrong_fingerprint: bool,
    /// Served to a browser.
    pub page: &'static str,
    /// All media goes through this.
    pub network: Option<Network>,
    /// Sent to a viewer right before each answer.
    pub before_answer: Vec<String>,
}

#[derive(Default)]
struct Channel {
    parties: BTreeMap<Option<String>, mpsc::UnboundedSender<Option<String>>>,
    /// For a master that is not there yet.
    held: VecDeque<String>,
    switches: Switches,
    waiting_answers: Vec<(String, String)>,
    candidates: usize,
}

pub struct Relay {
    address: SocketAddr,
    channel: Arc<Mutex<Channel>>,
    _accept: AbortOnDropHandle<()>,
}

impl Relay {
    pub async fn start(switches: Switches) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let channel = Arc::new(Mutex::new(Channel { switches, ..Channel::default() }));
        let shared = Arc::clone(&channel);
        let accept = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                tokio::spawn(serve(tcp, Arc::clone(&shared)));
            }
        });
        Relay { address, channel, _accept: AbortOnDropHandle::new(accept) }
    }

    pub fn master_url(&self) -> String {
        format!("ws://{}/m", self.address)
    }

    pub fn page_url(&self) -> String {
        format!("http://{}/", self.address)
    }

    pub async fn wait_for_master(&self) {
        while !self.channel.lock().unwrap().parties.contains_key(&None) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn viewer_url(&self, client_id: &str) -> String {
        format!("ws://{}/v?X-Amz-ClientId={client_id}", self.address)
    }

    /// Ends the socket of a viewer, or of the master.
    pub fn cut(&self, client_id: Option<&str>) {
        let party = self.channel.lock().unwrap().parties.remove(&client_id.map(str::to_owned));
        party.unwrap().send(None).unwrap();
    }

    /// Sends a raw frame to a viewer, or to the master.
    pub fn send(&self, client_id: Option<&str>, text: &str) {
        let channel = self.channel.lock().unwrap();
        channel.parties[&client_id.map(str::to_owned)].send(Some(text.to_owned())).unwrap();
    }
}

async fn serve(mut tcp: TcpStream, channel: Arc<Mutex<Channel>>) {
    let mut head = [0; 6];
    if tcp.peek(&mut head).await.is_ok() && head == *b"GET / " {
        let page = channel.lock().unwrap().switches.page;
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {}\r\n\r\n", page.len());
        let _ = tcp.write_all((head + page).as_bytes()).await;
        let _ = tcp.read(&mut [0; 4_096]).await;
        return;
    }
    let mut client = None;
    #[allow(clippy::result_large_err, reason = "the library's signature")]
    let look = |request: &Request, response: Response| {
        client =
            request.uri().query().and_then(|query| query.split_once("X-Amz-ClientId=")).map(|(_, id)| id.to_owned());
        Ok(response)
    };
    let Ok(mut socket) = tokio_tungstenite::accept_hdr_async(tcp, look).await else { return };
    let (sender, mut frames) = mpsc::unbounded_channel();
    {
        let mut channel = channel.lock().unwrap();
        if client.is_none() {
            let held = std::mem::take(&mut channel.held);
            held.into_iter().for_each(|text| sender.send(Some(text)).unwrap());
        }
        channel.parties.insert(client.clone(), sender);
    }
    loop {
        tokio::select! {
            frame = frames.recv() => match frame.flatten() {
                Some(text) => if socket.send(Message::Text(text.into())).await.is_err() { return },
                None => return,
            },
            message = socket.next() => match message {
                Some(Ok(Message::Text(text))) => channel.lock().unwrap().pass(client.as_deref(), &text),
                Some(Ok(_)) => {}
                _ => return,
            },
        }
    }
}

impl Channel {
    fn pass(&mut self, from: Option<&str>, text: &str) {
        let frame: Value = serde_json::from_str(text).unwrap();
        let kind = frame["action"].as_str().unwrap();
        let mut passed = json!({"messageType": kind, "messagePayload": frame["messagePayload"]});
        if let Some(network) = &self.switches.network {
            match kind {
                "ICE_CANDIDATE" => return,
                "SDP_OFFER" => edit(&mut passed, |sdp| network.between(sdp)),
                _ => edit(&mut passed, Network::hide),
            }
        }
        if let Some(from) = from {
            passed["senderClientId"] = from.into();
            match self.parties.get(&None) {
                Some(master) => drop(master.send(Some(passed.to_string()))),
                None => self.held.push_back(passed.to_string()),
            }
            return;
        }
        let to = frame["recipientClientId"].as_str().unwrap().to_owned();
        if kind == "SDP_ANSWER" {
            if self.switches.no_answer {
                return;
            }
            if let Some(sdp) = &self.switches.answer {
                passed["messagePayload"] = encode(&json!({"type": "answer", "sdp": sdp})).into();
            }
            if self.switches.wrong_fingerprint {
                edit(&mut passed, |sdp| {
                    let at = sdp.find("a=fingerprint:sha-256 ").unwrap() + "a=fingerprint:sha-256 ".len();
                    let other = if &sdp[at..at + 2] == "00" { "01" } else { "00" };
                    format!("{}{other}{}", &sdp[..at], &sdp[at + 2..])
                });
            }
            for text in self.switches.before_answer.clone() {
                self.put(&to, text);
            }
            if self.candidates < self.switches.candidates_first {
                return self.waiting_answers.push((to, passed.to_string()));
            }
        }
        self.put(&to, passed.to_string());
        self.candidates += usize::from(kind == "ICE_CANDIDATE");
        if self.candidates >= self.switches.candidates_first {
            for (to, text) in std::mem::take(&mut self.waiting_answers) {
                self.put(&to, text);
            }
        }
    }

    fn put(&self, to: &str, text: String) {
        if let Some(viewer) = self.parties.get(&Some(to.to_owned())) {
            let _ = viewer.send(Some(text));
        }
    }
}

/// Changes the SDP inside a frame.
fn edit(frame: &mut Value, change: impl FnOnce(&str) -> String) {
    use base64::Engine as _;
    let payload = frame["messagePayload"].as_str().unwrap();
    let payload = base64::engine::general_purpose::STANDARD.decode(payload).unwrap();
    let mut description: Value = serde_json::from_slice(&payload).unwrap();
    description["sdp"] = change(description["sdp"].as_str().unwrap()).into();
    frame["messagePayload"] = encode(&description).into();
}

pub fn encode(payload: &Value) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(payload.to_string())
}

/// A frame as the service sends it to a viewer.
pub fn candidate_frame(address: &str, sender: Option<&str>) -> String {
    let line = format!("candidate:9 1 udp 2122194687 {address} 50000 typ host");
    let payload = encode(&json!({"candidate": line, "sdpMid": "0", "sdpMLineIndex": 0}));
    let mut frame = json!({"messageType": "ICE_CANDIDATE", "messagePayload": payload});
    if let Some(sender) = sender {
        frame["senderClientId"] = sender.into();
    }
    frame.to_string()
}
