//! One WebSocket as a line: upgrade, pings, timeouts and a close that really arrives.
//!
//! tokio-tungstenite directly instead of axum's wrapper around the same crate, for two things the wrapper hides: the
//! task that serves the socket is ours to own and to stop, and after a broken or too large frame the raw stream can be
//! emptied, without which the kernel resets the connection and the close code is lost.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use babelcast_domain::counts::Count;
use babelcast_domain::rate::{Bucket, Rate};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use super::House;
use super::error::Refusal;

/// The one subprotocol that is answered. `bearer.<jwt>` beside it only carries the token.
pub(super) const SUBPROTOCOL: &str = "babelcast.v1";

/// How long a peer may take to answer a close before the connection is dropped.
const GOODBYE: Duration = Duration::from_secs(2);
/// tungstenite's read buffer, of which every connection has one for as long as it lives; its default is 128 KiB. Listeners
/// hardly say anything, and a long message makes room for itself.
const BUFFER_BYTES: usize = 512;

/// Longer text goes out in frames of this size: tungstenite keeps the room its longest frame needed for as long as the
/// connection lives, and the welcome to a long talk would be kept ten thousand times.
const FRAME_BYTES: usize = 2 << 10;

pub(super) struct Line {
    socket: WebSocketStream<TokioIo<Upgraded>>,
    house: Arc<House>,
    heard_at: Instant,
    /// When to ping next, or to look whether the peer is still there. One timer for the line's whole life: a new one a
    /// message would cost more than the message.
    alarm: Pin<Box<Sleep>>,
    /// What the peer may still say at once, and how much in the long run. Without a rate: anything.
    words: Bucket,
    rate: Option<Rate>,
}

pub(super) enum Heard {
    Text(Utf8Bytes),
    /// A message too many, and how long the next one should wait. The text is for its `requestId` only.
    TooMany(Utf8Bytes, Duration),
    Binary(Bytes),
    End(End),
}

/// Why a line is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The peer closed, or its connection is gone.
    Left,
    Silent,
    /// It did not take a message within the write timeout.
    TooSlow,
    TooBig,
    NotUtf8,
    NotWebSocket,
    /// It does not stop sending too much.
    Flood,
}

impl End {
    fn close_frame(self) -> Option<(u16, &'static str)> {
        match self {
            End::Left | End::TooSlow => None,
            End::Silent => Some((4408, "nothing heard for too long")),
            End::TooBig => Some((1009, "the message is too big")),
            End::NotUtf8 => Some((1007, "the text is not UTF-8")),
            End::NotWebSocket => Some((1002, "not the WebSocket protocol")),
            End::Flood => Some((4429, "too many messages")),
        }
    }
}

/// Answers an upgrade, and serves the line in a task that the house owns.
pub(super) fn answer<F>(
    house: &Arc<House>,
    mut request: Request,
    max_message_bytes: usize,
    rate: Option<Rate>,
    serve: impl FnOnce(Line) -> F + Send + 'static,
) -> Result<Response, Refusal>
where
    F: Future<Output = ()> + Send,
{
    let mut response = create_response_with_body(&request, Body::empty).map_err(|error| {
        let message = format!("this is a WebSocket: {error}");
        Refusal::of_http(StatusCode::UPGRADE_REQUIRED, message)
            .with_header(header::UPGRADE, "websocket")
            .with_header(header::SEC_WEBSOCKET_VERSION, "13")
    })?;
    if offered(request.headers()).any(|name| name == SUBPROTOCOL) {
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let (owner, cut) = (Arc::clone(house), house.cut.clone());
    // Boxed, both: what a task is made of it carries to its end, and a future that passes through several hands is
    // copied into each. A listener's task lives for hours and the opening is over in a moment.
    let opening = Box::pin(async move {
        let upgraded = timeout(owner.settings.timeouts.write, upgrade).await.ok()?.ok()?;
        Some(Box::pin(serve(Line::new(upgraded, owner, max_message_bytes, rate).await)))
    });
    house.tasks.spawn(async move {
        match cut.run_until_cancelled(opening).await {
            Some(Some(serving)) => drop(cut.run_until_cancelled(serving).await),
            _ => tracing::debug!("a socket was gone before it was open"),
        }
    });
    Ok(response)
}

/// The subprotocols a client offers.
pub(super) fn offered(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lists = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).map(str::trim)
}

impl Line {
    async fn new(upgraded: Upgraded, house: Arc<House>, max_message_bytes: usize, rate: Option<Rate>) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER_BYTES)
            .write_buffer_size(0)
            .max_message_size(Some(max_message_bytes))
            .max_frame_size(Some(max_message_bytes));
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
        let (alarm, now) = (Box::pin(sleep(house.settings.timeouts.ping)), Instant::now());
        Line { socket, house, heard_at: now, alarm, words: Bucket::full(now.into_std()), rate }
    }

    /// The next message. Pings meanwhile, and gives up on a peer that stays silent. Cancel safe.
    pub async fn hear(&mut self) -> Heard {
        loop {
            tokio::select! {
                message = self.socket.next() => {
                    self.heard_at = Instant::now();
                    let message = match message {
                        Some(Ok(Message::Close(_))) | None => return Heard::End(End::Left),
                        Some(Ok(message)) => message,
                        Some(Err(error)) => return Heard::End(end(&error)),
                    };
                    let wait = match self.overdrawn() {
                        Ok(wait) => wait,
                        Err(flood) => return Heard::End(flood),
                    };
                    match message {
                        Message::Text(text) if wait.is_zero() => return Heard::Text(text),
                        Message::Binary(bytes) if wait.is_zero() => return Heard::Binary(bytes),
                        Message::Text(text) => return Heard::TooMany(text, wait),
                        Message::Binary(_) => return Heard::TooMany(Utf8Bytes::default(), wait),
                        // tungstenite has queued the pong; its next read sends it.
                        Message::Ping(_) | Message::Pong(_) | Message::Frame(_) | Message::Close(_) => {}
                    }
                }
                () = self.alarm.as_mut() => {
                    let timeouts = &self.house.settings.timeouts;
                    let (now, silent_at) = (Instant::now(), self.heard_at + timeouts.silent);
                    if now >= silent_at {
                        return Heard::End(End::Silent);
                    }
                    self.alarm.as_mut().reset((now + timeouts.ping).min(silent_at));
                    if let Err(end) = self.put(Message::Ping(Bytes::new())).await {
                        return Heard::End(end);
                    }
                }
            }
        }
    }

    /// One more frame, whatever it is: how far the peer is beyond its rate, and the end when it does not care.
    fn overdrawn(&mut self) -> Result<Duration, End> {
        let Some(rate) = self.rate else { return Ok(Duration::ZERO) };
        let wait = self.words.charge(rate, self.heard_at.into_std());
        if wait >= rate.brim() { Err(End::Flood) } else { Ok(wait) }
    }

    /// One message of text.
    pub async fn say(&mut self, text: Utf8Bytes) -> Result<(), End> {
        if text.len() <= FRAME_BYTES {
            return self.put(Message::Text(text)).await;
        }
        Box::pin(self.say_long(text)).await
    }

    /// In several frames, none of which ends inside a character.
    async fn say_long(&mut self, text: Utf8Bytes) -> Result<(), End> {
        let mut kind = Data::Text;
        let mut from = 0;
        while from < text.len() {
            let to = text.floor_char_boundary(from + FRAME_BYTES);
            let part = Bytes::copy_from_slice(&text.as_bytes()[from..to]);
            let frame = Frame::message(part, OpCode::Data(kind), to == text.len());
            self.put(Message::Frame(frame)).await?;
            (kind, from) = (Data::Continue, to);
        }
        Ok(())
    }

    pub async fn say_binary(&mut self, bytes: Bytes) -> Result<(), End> {
        self.put(Message::Binary(bytes)).await
    }

    /// Ends the line from our side and waits a moment for the peer to agree.
    pub async fn close(mut self, code: u16, reason: &'static str) {
        if self.put_close(code, reason).await.is_ok() {
            let agreed = async { while let Some(Ok(_)) = self.socket.next().await {} };
            let _ = timeout(GOODBYE, agreed).await;
        }
    }

    /// Ends a line that is over for the given reason: says so if there is anybody to say it to.
    pub async fn end(mut self, end: End) {
        match end {
            // A flood is counted by the limits.
            End::Left | End::Silent | End::Flood => {}
            End::TooSlow => self.house.counts.one(Count::ListenersTooSlow),
            End::TooBig | End::NotUtf8 | End::NotWebSocket => self.house.counts.one(Count::MessagesRefused),
        }
        tracing::debug!(?end, "socket over");
        match end.close_frame() {
            None => {
                // The answer to the peer's close is queued in tungstenite; reading on sends it.
                let answered = async { while let Some(Ok(_)) = self.socket.next().await {} };
                if end == End::Left {
                    let _ = timeout(GOODBYE, answered).await;
                }
            }
            Some((code, reason)) => {
                if self.put_close(code, reason).await.is_ok() {
                    self.empty().await;
                }
            }
        }
    }

    /// Reads and throws away what is still coming, past tungstenite, which must not be read after an error.
    async fn empty(mut self) {
        let raw = self.socket.get_mut();
        let emptied = async {
            raw.shutdown().await?;
            let mut waste = vec![0; 4 << 10]; // not in the future: every socket would carry it
            while raw.read(&mut waste).await? > 0 {}
            std::io::Result::Ok(())
        };
        let _ = timeout(GOODBYE, emptied).await;
    }

    async fn put_close(&mut self, code: u16, reason: &'static str) -> Result<(), End> {
        let frame = CloseFrame { code: CloseCode::from(code), reason: Utf8Bytes::from_static(reason) };
        self.put(Message::Close(Some(frame))).await
    }

    async fn put(&mut self, message: Message) -> Result<(), End> {
        match timeout(self.house.settings.timeouts.write, self.socket.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Left),
            Err(_) => Err(End::TooSlow),
        }
    }
}

fn end(error: &Error) -> End {
    match error {
        Error::Capacity(_) => End::TooBig,
        Error::Utf8(_) => End::NotUtf8,
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => End::Left,
        Error::Protocol(_) => End::NotWebSocket,
        _ => End::Left,
    }
}
