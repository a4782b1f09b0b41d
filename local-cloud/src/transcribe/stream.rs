//! One stream: audio frames in, the recogniser beside it, events out, until either side ends it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use aws_smithy_types::event_stream::Message;
use axum::body::Body;
use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::sync::mpsc;
use tokio::time::{Instant as Clock, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::caption::{Caption, Captions, heartbeat};
use super::chain::Chain;
use super::chaos::{How, count};
use super::frames::{ClientEvent, FrameReader, client_event, exception, is_signed, transcript_event};
use super::request::Options;
use super::{Exception, Refused, Seat, Transcribe};
use crate::engine::{EngineError, Heard, Hypothesis, Opening, listen};

/// Events that may wait for the connection. Full: the stream waits, at most [`SEND_LIMIT`].
const OUT_QUEUE: usize = 32;
/// A client that does not read for so long is gone.
const SEND_LIMIT: Duration = Duration::from_secs(20);

/// How long a stream that has ended goes on taking audio it throws away. Over HTTP/1.1 a connection closed on unread
/// audio is reset, and the client loses what it was told last.
const LINGER: Duration = Duration::from_secs(1);
/// The same before a cut, which is a reset all the same.
const LINGER_CUT: Duration = Duration::from_millis(50);

/// Starts the stream's task and gives the response body. When the connection drops the body before its end, the task
/// and the recogniser end.
pub(super) fn open(
    transcribe: Arc<Transcribe>,
    seat: Seat,
    options: &Options,
    input: Input,
    opening: Opening,
) -> Result<Body, Refused> {
    let (audio, heard) = listen(transcribe.settings.engine.clone(), opening, options.rate)
        .map_err(|e| Refused::Exception(Exception::InternalFailure, e.to_string()))?;
    let (out, events) = mpsc::channel(OUT_QUEUE);
    let now = Clock::now();
    let stream = Stream {
        captions: Captions::new(options.stability),
        bytes_per_second: u64::from(options.rate) * 2,
        audio: Some(audio),
        heard,
        input,
        out,
        waiting: None,
        audio_bytes: 0,
        events: 0,
        idle_at: now + transcribe.settings.idle,
        end_at: now + transcribe.settings.max_duration,
        beat_at: now,
        seat,
        transcribe,
    };
    let gone = CancellationToken::new();
    let answer = Answer { events, _gone: gone.clone().drop_guard() };
    stream.transcribe.clone().own(stream.run(gone));
    Ok(Body::from_stream(answer))
}

/// The response body.
struct Answer {
    events: mpsc::Receiver<io::Result<Bytes>>,
    _gone: DropGuard,
}

impl futures_util::Stream for Answer {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.poll_recv(context)
    }
}

/// The request body, cut into verified frames.
pub(super) struct Input {
    body: Body,
    reader: FrameReader,
    chain: Option<Chain>,
    signed: bool,
}

impl Input {
    pub(super) fn new(body: Body, chain: Option<Chain>) -> Input {
        Input { body, reader: FrameReader::default(), chain, signed: false }
    }

    /// What the client says next. Cancel-safe: unfinished frames stay in the reader.
    async fn next(&mut self) -> Result<ClientEvent, End> {
        loop {
            if let Some(frame) = self.reader.next_frame().map_err(|e| End::bad(e.to_string()))? {
                return self.take(&frame);
            }
            match self.body.frame().await {
                Some(Ok(piece)) => piece.data_ref().into_iter().for_each(|bytes| self.reader.push(bytes)),
                Some(Err(_)) => return Err(End::Gone),
                None => return self.over(),
            }
        }
    }

    fn take(&mut self, frame: &Message) -> Result<ClientEvent, End> {
        self.signed |= is_signed(frame);
        if let Some(chain) = &mut self.chain {
            chain.verify(frame).map_err(|e| End::bad(e.to_string()))?;
        }
        client_event(frame).map_err(|e| End::bad(e.to_string()))
    }

    /// The body ended without an empty frame: right for a client that does not sign, wrong for one that does.
    fn over(&self) -> Result<ClientEvent, End> {
        if !self.reader.is_empty() {
            return Err(End::bad("The stream ended in the middle of a frame."));
        }
        match self.signed || self.chain.is_some() {
            true => Err(End::bad("A complete signal was sent without the preceding empty frame.")),
            false => Ok(ClientEvent::End),
        }
    }
}

/// What a stream waits for.
enum Happened {
    Replaced,
    TooLong,
    Idle,
    Beat,
    Heard(Option<Result<Hypothesis, EngineError>>),
    /// The engine can take the waiting audio.
    Room,
    Said(Result<ClientEvent, End>),
}

/// Why a stream ends.
enum End {
    /// All was said.
    Done,
    Exception(Exception, String),
    /// By a chaos switch.
    Broken(How),
    /// The client went away.
    Gone,
}

impl End {
    fn bad(message: impl Into<String>) -> End {
        End::Exception(Exception::BadRequest, message.into())
    }
}

struct Stream {
    transcribe: Arc<Transcribe>,
    seat: Seat,
    input: Input,
    /// None after the client's last audio.
    audio: Option<mpsc::Sender<Bytes>>,
    heard: Heard,
    captions: Captions,
    out: mpsc::Sender<io::Result<Bytes>>,
    /// Audio the engine has no room for yet; meanwhile no more is read.
    waiting: Option<Bytes>,
    bytes_per_second: u64,
    audio_bytes: u64,
    /// Events with results, sent.
    events: u64,
    idle_at: Clock,
    end_at: Clock,
    beat_at: Clock,
}

impl Stream {
    async fn run(mut self, gone: CancellationToken) {
        let end = tokio::select! {
            end = self.until_end() => end,
            () = gone.cancelled() => End::Gone,
        };
        let counters = &self.transcribe.counters;
        let (last, linger) = match end {
            End::Done => (None, LINGER),
            End::Gone => {
                count(&counters.abandoned);
                return;
            }
            End::Exception(kind, message) => {
                count(&counters.exceptions);
                tracing::info!(stream = self.seat.number, exception = kind.name(), message, "a stream failed");
                (Some(Ok(exception(kind.name(), &message))).filter(|_| !self.transcribe.switches.silent()), LINGER)
            }
            End::Broken(how) => {
                count(&counters.broken);
                tracing::info!(stream = self.seat.number, ?how, "a stream is broken off on demand");
                (last_words(how), if how == How::Cut { LINGER_CUT } else { LINGER })
            }
        };
        self.leave(last, linger).await;
    }

    async fn until_end(&mut self) -> End {
        loop {
            if let Err(end) = self.step().await {
                return end;
            }
        }
    }

    /// Gives up seat and recogniser, says the last words, and throws away what audio still comes.
    async fn leave(self, last: Option<io::Result<Bytes>>, linger: Duration) {
        let Stream { out, mut input, seat, heard, audio, .. } = self;
        drop((seat, heard, audio));
        let cut = matches!(last, Some(Err(_)));
        let say = async move {
            if cut {
                tokio::time::sleep(linger).await;
            }
            if let Some(last) = last {
                // Whether it still arrives is up to the client.
                let _ = tokio::time::timeout(SEND_LIMIT, out.send(last)).await;
            }
        };
        let drain = async { while let Some(Ok(_)) = input.body.frame().await {} };
        let _ = tokio::time::timeout(linger * 2, async { tokio::join!(say, drain) }).await;
    }

    /// Waits for the next thing to happen and does what it asks for.
    async fn step(&mut self) -> Result<(), End> {
        match self.wait().await {
            Happened::Replaced => {
                let message = "A new stream started with the same session ID. The current stream has been terminated.";
                Err(End::Exception(Exception::Conflict, message.to_owned()))
            }
            Happened::TooLong => {
                let message = "Your stream is longer than the maximum duration of a stream.";
                Err(End::Exception(Exception::LimitExceeded, message.to_owned()))
            }
            Happened::Idle => {
                let seconds = self.transcribe.settings.idle.as_secs_f64();
                let message =
                    format!("Your request timed out because no new audio was received for {seconds} seconds.");
                Err(End::bad(message))
            }
            Happened::Beat => self.send(transcript_event(&heartbeat())).await,
            Happened::Heard(Some(heard)) => self.tell(heard).await,
            Happened::Heard(None) if self.audio.is_none() => Err(End::Done),
            Happened::Heard(None) => {
                Err(End::Exception(Exception::InternalFailure, "The recogniser is gone.".to_owned()))
            }
            Happened::Room => {
                self.feed();
                Ok(())
            }
            Happened::Said(event) => {
                let first = self.audio_bytes == 0;
                self.take(event?)?;
                match first && self.audio_bytes > 0 {
                    true => self.send(transcript_event(&heartbeat())).await,
                    false => Ok(()),
                }
            }
        }
    }

    async fn wait(&mut self) -> Happened {
        let (reading, feeding) = (self.audio.is_some() && self.waiting.is_none(), self.waiting.is_some());
        tokio::select! {
            biased;
            () = self.seat.replaced.cancelled() => Happened::Replaced,
            () = sleep_until(self.end_at) => Happened::TooLong,
            heard = self.heard.next() => Happened::Heard(heard),
            () = room(self.audio.as_ref()), if feeding => Happened::Room,
            event = self.input.next(), if reading => Happened::Said(event),
            () = sleep_until(self.idle_at), if reading => Happened::Idle,
            () = sleep_until(self.beat_at), if self.audio_bytes > 0 => Happened::Beat,
        }
    }

    /// Hands the waiting audio to the engine, for which there is room now.
    fn feed(&mut self) {
        if let (Some(audio), Some(bytes)) = (&self.audio, self.waiting.take()) {
            // An engine that is gone tells so by itself.
            let _ = audio.try_send(bytes);
        }
        self.idle_at = Clock::now() + self.transcribe.settings.idle;
    }

    fn take(&mut self, event: ClientEvent) -> Result<(), End> {
        match event {
            ClientEvent::Nothing => Ok(()),
            ClientEvent::End => {
                self.audio = None;
                Ok(())
            }
            ClientEvent::Audio(bytes) if bytes.len() as u64 > self.bytes_per_second => {
                Err(End::bad("An audio event must not be longer than 1 second of audio."))
            }
            ClientEvent::Audio(bytes) => {
                self.arrived(bytes.len() as u64);
                self.waiting = Some(bytes);
                self.broken()
            }
        }
    }

    fn arrived(&mut self, bytes: u64) {
        let now = Instant::now();
        let ms = |bytes: u64| bytes * 1000 / self.bytes_per_second;
        let counters = &self.transcribe.counters;
        counters.audio_bytes.fetch_add(bytes, Ordering::Relaxed);
        counters.audio_ms.fetch_add(ms(self.audio_bytes + bytes) - ms(self.audio_bytes), Ordering::Relaxed);
        *counters.last_audio.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        self.audio_bytes += bytes;
        self.idle_at = Clock::now() + self.transcribe.settings.idle;
        let observer = self.transcribe.on_audio.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(observer) = observer {
            observer(self.seat.number, self.audio_bytes, now);
        }
    }

    async fn tell(&mut self, heard: Result<Hypothesis, EngineError>) -> Result<(), End> {
        let heard = heard.map_err(|e| End::Exception(Exception::InternalFailure, e.to_string()))?;
        let Some(caption) = self.captions.hear(&heard) else { return Ok(()) };
        self.broken()?;
        self.send(transcript_event(&caption.json())).await?;
        self.sent(&caption);
        self.broken()
    }

    fn sent(&mut self, caption: &Caption) {
        self.events += 1;
        count(&self.transcribe.counters.events);
        if caption.is_final {
            count(&self.transcribe.counters.finals);
        }
        let observer = self.transcribe.on_event.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(observer) = observer {
            observer(self.seat.number, self.events, Instant::now());
        }
    }

    /// Whether the chaos switches end the stream here.
    fn broken(&self) -> Result<(), End> {
        let audio_ms = self.audio_bytes * 1000 / self.bytes_per_second;
        self.transcribe.switches.due(self.events, audio_ms).map_or(Ok(()), |how| Err(End::Broken(how)))
    }

    async fn send(&mut self, frame: Bytes) -> Result<(), End> {
        self.beat_at = Clock::now() + self.transcribe.settings.heartbeat;
        if self.transcribe.switches.silent() {
            return Ok(());
        }
        match tokio::time::timeout(SEND_LIMIT, self.out.send(Ok(frame))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => {
                tracing::info!(stream = self.seat.number, "a client does not read its events: dropped");
                Err(End::Gone)
            }
        }
    }
}

/// Waits until the engine has room for a piece of audio, or is gone.
async fn room(audio: Option<&mpsc::Sender<Bytes>>) {
    if let Some(audio) = audio {
        drop(audio.reserve().await);
    }
}

/// What a broken stream says last.
fn last_words(how: How) -> Option<io::Result<Bytes>> {
    match how {
        How::Close => None,
        How::Cut => Some(Err(io::Error::other("cut on demand"))),
        How::Fail => Some(Ok(exception(Exception::InternalFailure.name(), "failed on demand"))),
        How::BadFrame => {
            let mut frame = transcript_event(&heartbeat()).to_vec();
            frame.iter_mut().next_back().into_iter().for_each(|byte| *byte ^= 0xff);
            Some(Ok(frame.into()))
        }
    }
}
