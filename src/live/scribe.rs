//! The scribe: keeps one transcription going over as many recogniser streams as it takes.
//!
//! A stream is opened when somebody speaks and closed after a long silence of the line. It may be cut, close cleanly,
//! refuse, fall silent or grow too old; each time a new one hears again what was not yet final, and times stay on
//! the capture clock. What cannot be heard again is declared.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use babelcast_domain::audio::MediaTime;
use babelcast_domain::counts::{Count, Counts};
use babelcast_domain::feed::{CHUNK, Feed};
use babelcast_domain::transcript::Heard;
use bytes::Bytes;
use rand::Rng;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::aws::Clients;
use crate::aws::transcribe::{self, Options, TranscribeError, Transcription};

use super::frames::{Frames, Taken};
use super::settings::Patience;
use super::task;

/// What the session hears from its scribe.
#[derive(Debug)]
pub enum ScribeEvent {
    /// Times are on the capture clock.
    Heard(Heard),
    /// A new stream hears again what was not final; `lost` is gone for good.
    Restarted {
        lost: Option<(MediaTime, MediaTime)>,
    },
    AudioLost {
        from: MediaTime,
        to: MediaTime,
    },
    /// The recogniser refuses or fails again and again (true), or is back (false).
    Down(bool),
    Flushed,
}

/// What a refusal for good counts for: the backoff is at its longest from then on.
const HOPELESS: u32 = 8;
/// Attempts in a row after which listeners are told.
const DOWN_AFTER: u32 = 3;
/// Chunks that may wait for the network: 0.8 s.
const CHUNKS: usize = 8;

pub struct Scribe {
    pub clients: Arc<Clients>,
    pub options: Options,
    pub patience: Patience,
    pub frames: Frames,
    pub events: mpsc::Sender<ScribeEvent>,
    pub counts: Arc<Counts>,
    /// Cancelled when the session ends: say the last words and stop.
    pub flush: CancellationToken,
}

/// Why a stream is over.
enum Ended {
    /// The service ended it: cleanly, by an error, or the connection broke.
    ByService(Option<TranscribeError>),
    Stalled,
    Rotated,
    Idle,
    Flushed,
}

/// A stream whose time has come waits so long for a pause; then it is changed in mid-sentence.
const ROTATE_GRACE: Duration = Duration::from_secs(300);
/// A stream that leaves so much audio untaken is as good as dead.
const MAX_BACKLOG: MediaTime = MediaTime::from_millis(25_000);

/// One stream of the recogniser, while it lives.
struct Stream {
    /// `None` once our end is closed.
    audio: Option<mpsc::Sender<Bytes>>,
    results: mpsc::Receiver<Result<Vec<Heard>, TranscribeError>>,
    _reader: AbortOnDropHandle<()>,
    number: u64,
    opened: Instant,
    last_frame: Instant,
    last_answer: Instant,
    spoke: bool,
}

impl Scribe {
    /// Runs until flushed. Dropping the future drops everything.
    pub async fn run(self) {
        let mut feed = Feed::default();
        let mut failures = 0u32;
        let mut number = 0u64;
        loop {
            if !feed.has_audio() {
                tokio::select! {
                    biased;
                    () = self.flush.cancelled() => break,
                    taken = self.frames.take() => self.give(&mut feed, taken).await,
                }
                continue;
            }
            let (given, lost) = feed.start();
            if number > 0 {
                self.counts.add(Count::AudioReplayedMs, given.as_millis());
                if let Some((from, to)) = lost {
                    self.counts.add(Count::AudioLostMs, (to - from).as_millis());
                }
                self.tell(ScribeEvent::Restarted { lost }).await;
            }
            number += 1;
            let mut stream = self.open(number);
            let ended = self.listen(&mut stream, &mut feed).await;
            let lived = stream.opened.elapsed();
            drop(stream);
            match ended {
                Ended::Flushed => break,
                Ended::Idle => feed.forget(),
                Ended::ByService(_) | Ended::Stalled | Ended::Rotated => feed.stop(),
            }
            if lived >= self.patience.healthy_after {
                failures = 0;
            }
            failures = self.account(&ended, failures).await;
            if failures > 0 && !self.rest(failures, &mut feed).await {
                break;
            }
        }
        self.tell(ScribeEvent::Flushed).await;
    }

    /// Counts and tells why a stream ended; answers with the failures in a row.
    async fn account(&self, ended: &Ended, failures: u32) -> u32 {
        let failures = match ended {
            Ended::Rotated => {
                self.counts.one(Count::TranscribeRotations);
                return 0;
            }
            Ended::Idle | Ended::Flushed => return 0,
            Ended::Stalled => {
                self.counts.one(Count::TranscribeStalled);
                tracing::warn!("the recogniser hears a voice and says nothing; opening a new stream");
                failures + 1
            }
            Ended::ByService(None) => {
                tracing::info!("the recogniser closed its stream; opening a new one");
                failures + 1
            }
            Ended::ByService(Some(error)) => {
                self.counts.one(Count::TranscribeRefused);
                if (failures + 1).is_power_of_two() {
                    tracing::warn!(%error, failures, "the recogniser's stream failed; opening a new one");
                }
                // What asking again cannot mend is asked at the slowest pace: an operator may mend it meanwhile.
                failures.saturating_add(if error.retryable() { 1 } else { HOPELESS })
            }
        };
        self.counts.one(Count::TranscribeReconnects);
        if failures >= DOWN_AFTER {
            self.tell(ScribeEvent::Down(true)).await; // the session tells listeners once
        }
        failures
    }

    /// Waits with jitter before the next attempt, while audio goes on being kept. False: the session is over.
    async fn rest(&self, failures: u32, feed: &mut Feed) -> bool {
        let (first, longest) = (self.patience.backoff_first, self.patience.backoff_longest);
        let limit = first.saturating_mul(1 << (failures - 1).min(10)).min(longest);
        let until = Instant::now() + limit.mul_f64(rand::rng().random_range(0.5..1.0));
        loop {
            tokio::select! {
                biased;
                () = self.flush.cancelled() => return false,
                () = sleep_until(until) => return true,
                taken = self.frames.take() => self.give(feed, taken).await,
            }
        }
    }

    fn open(&self, number: u64) -> Stream {
        self.counts.one(Count::TranscribeStarts);
        let (audio, chunks) = mpsc::channel(CHUNKS);
        let (answers, results) = mpsc::channel(32);
        let (clients, options) = (Arc::clone(&self.clients), self.options.clone());
        // Some servers send their headers only after the first audio, so opening and feeding go on side by side.
        let reader = task::owned(async move {
            let mut transcription: Transcription = match transcribe::start(&clients, options, chunks).await {
                Ok(transcription) => transcription,
                Err(error) => {
                    answers.send(Err(error)).await.ok();
                    return;
                }
            };
            loop {
                let answer = match transcription.next().await {
                    Ok(Some(heard)) => answers.send(Ok(heard)).await,
                    Ok(None) => return,
                    Err(error) => {
                        answers.send(Err(error)).await.ok();
                        return;
                    }
                };
                if answer.is_err() {
                    return;
                }
            }
        });
        let now = Instant::now();
        Stream {
            audio: Some(audio),
            results,
            _reader: reader,
            number,
            opened: now,
            last_frame: now,
            last_answer: now,
            spoke: false,
        }
    }

    /// Feeds one stream and takes its results until it is over.
    async fn listen(&self, stream: &mut Stream, feed: &mut Feed) -> Ended {
        let tick = Duration::from_millis(100);
        let mut next_tick = Instant::now() + tick;
        let mut closing: Option<(Instant, Ended)> = None;
        loop {
            if let Some(sender) = &stream.audio {
                while sender.capacity() > 0 {
                    let Some(chunk) = feed.chunk() else { break };
                    sender.try_send(Bytes::from(chunk)).ok();
                }
            }
            let full = stream.audio.as_ref().filter(|sender| sender.capacity() == 0).cloned();
            tokio::select! {
                biased;
                () = self.flush.cancelled(), if closing.is_none() => {
                    closing = Some((Instant::now() + self.patience.flush_within, Ended::Flushed));
                    self.close(stream, feed).await;
                }
                answer = stream.results.recv() => match answer {
                    Some(Ok(results)) => self.hear(stream, feed, results).await,
                    Some(Err(error)) => return closing.map_or(Ended::ByService(Some(error)), |(_, ended)| ended),
                    None => return closing.map_or(Ended::ByService(None), |(_, ended)| ended),
                },
                taken = self.frames.take() => {
                    stream.last_frame = Instant::now();
                    self.give(feed, taken).await;
                }
                () = room(full) => {}
                () = sleep_until(next_tick) => {
                    next_tick = (next_tick + tick).max(Instant::now());
                    match closing.take() {
                        Some((until, ended)) if Instant::now() >= until => return ended,
                        Some(waiting) => closing = Some(waiting),
                        None => if let Some(ended) = self.look(stream, feed) {
                            if matches!(ended, Ended::Stalled) {
                                return ended;
                            }
                            closing = Some((Instant::now() + self.patience.flush_within, ended));
                            self.close(stream, feed).await;
                        },
                    }
                }
            }
        }
    }

    /// Every 100 ms: feeds silence where nothing comes, and says when the stream has had its time.
    fn look(&self, stream: &Stream, feed: &mut Feed) -> Option<Ended> {
        let without = stream.last_frame.elapsed();
        if without >= self.patience.idle_after {
            return Some(Ended::Idle);
        }
        if without >= self.patience.hush_after {
            feed.hush(CHUNK);
            self.counts.add(Count::SilenceFedMs, 100);
        }
        let voice = MediaTime::from_millis(self.patience.stall_after.as_millis() as u64 / 2);
        let deaf = stream.last_answer.elapsed() >= self.patience.stall_after && feed.unanswered() >= voice;
        if deaf || feed.backlog() >= MAX_BACKLOG {
            return Some(Ended::Stalled);
        }
        let age = stream.opened.elapsed();
        let pause = feed.quiet() >= MediaTime::from_millis(300);
        let overdue = age >= self.patience.rotate_after + ROTATE_GRACE;
        (age >= self.patience.rotate_after && (pause || overdue)).then_some(Ended::Rotated)
    }

    /// Sends what is left and our end of the stream, so that the recogniser says its last word.
    async fn close(&self, stream: &mut Stream, feed: &mut Feed) {
        let Some(sender) = stream.audio.take() else { return };
        let send = async {
            while let Some(chunk) = feed.chunk().or_else(|| feed.rest()) {
                if sender.send(Bytes::from(chunk)).await.is_err() {
                    return;
                }
            }
        };
        timeout(Duration::from_millis(500), send).await.ok();
    }

    async fn hear(&self, stream: &mut Stream, feed: &mut Feed, results: Vec<Heard>) {
        for mut heard in results {
            if !stream.spoke {
                stream.spoke = true;
                self.tell(ScribeEvent::Down(false)).await;
            }
            stream.last_answer = Instant::now();
            // Streams name their results as they like; the number keeps two streams apart.
            heard.result_id = format!("{}:{}", stream.number, heard.result_id);
            self.tell(ScribeEvent::Heard(feed.place(heard))).await;
        }
    }

    async fn give(&self, feed: &mut Feed, taken: Taken) {
        if let Some((from, to)) = taken.dropped {
            self.tell(ScribeEvent::AudioLost { from, to }).await;
        }
        for frame in taken.frames {
            feed.push(frame);
        }
    }

    async fn tell(&self, event: ScribeEvent) {
        // The session drains this queue between any two other things it does; when it is gone, so is the scribe.
        self.events.send(event).await.ok();
    }
}

/// Ready when a chunk fits again; never, while there is room already.
fn room(full: Option<mpsc::Sender<Bytes>>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    match full {
        Some(sender) => Box::pin(async move {
            if sender.reserve().await.is_err() {
                // The stream is gone; its result channel says why.
                std::future::pending::<()>().await;
            }
        }),
        None => Box::pin(std::future::pending()),
    }
}
