//! The ear: keeps hearing the speaker over as many WebRTC connections as it takes.
//!
//! [`babelcast_domain::signaling::viewer`] decides when to try; this shell tries, puts every frame on the session's one
//! capture clock, measures its level and hands it to the scribe's queue. It never waits for anybody downstream.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use babelcast_domain::audio::{MediaTime, Origin, PcmFrame};
use babelcast_domain::counts::Count;
use babelcast_domain::ledger::Stage;
use babelcast_domain::microphone::Microphone;
use babelcast_domain::quality::AudioLevel;
use babelcast_domain::signaling::CandidatePolicy;
use babelcast_domain::signaling::viewer::{Effect, Input, Viewer, Word};
use babelcast_domain::wire::QualityReport;
use rand::Rng;
use rustls::ClientConfig;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::aws::Clients;
use crate::aws::kvs::{self, Endpoints, KvsError, Role};
use crate::aws::sign::SignError;
use crate::media::IceServer;
use crate::media::viewer::{self, Attempt, Event, Hearing, ViewerError};

use super::frames::Frames;
use super::mood::Voiceprint;
use super::session::Meter;
use super::task;

/// After the first second without a packet (`Event::Quiet`) the speaker gets so long before listeners are told.
/// The connection itself is kept: if packets come again, nothing has to be negotiated.
const GRACE: Duration = Duration::from_millis(600);

/// What the session hears from its ear.
#[derive(Debug)]
pub enum EarEvent {
    /// The speaker's audio reaches us, from this place of the capture clock on.
    Up {
        at: MediaTime,
    },
    Lost {
        reason: &'static str,
    },
    /// Every 100 ms while audio comes.
    Level(AudioLevel),
    /// Every 5 s while audio comes, and soon when there is news.
    Quality(QualityReport),
}

pub struct Ear {
    pub clients: Arc<Clients>,
    pub channel_arn: String,
    pub session: String,
    pub policy: CandidatePolicy,
    pub tls: Arc<ClientConfig>,
    pub frames: Frames,
    pub events: mpsc::Sender<EarEvent>,
    /// The speaker's last word on whether it is connected; `None` while it has said nothing.
    pub expect: watch::Receiver<Option<bool>>,
    /// How the voice sounds, for the session to ask.
    pub voice: Voiceprint,
    /// False while the broadcast is paused or muted: the recogniser then hears nothing.
    pub listening: watch::Receiver<bool>,
    pub meter: Arc<Meter>,
    /// The channel's viewer endpoints, asked for once and again only after a failure: the service limits the calls.
    pub endpoints: KnownEndpoints,
    /// Numbers the first attempt: seconds since 1970, so that no client id is used twice over restarts.
    pub first_attempt: u64,
    /// How long ago media time 0 was, when another node has begun to count.
    pub clock_started: Option<Duration>,
}

pub type KnownEndpoints = Arc<Mutex<Option<Endpoints>>>;

#[derive(Debug, thiserror::Error)]
enum AttemptError {
    #[error("signaling channel: {0}")]
    Kvs(#[from] KvsError),
    #[error("signaling address: {0}")]
    Sign(#[from] SignError),
    #[error(transparent)]
    Viewer(#[from] ViewerError),
}

type Outcome = Result<Hearing, AttemptError>;

/// What is going on besides the machine.
#[derive(Default)]
struct Work {
    attempt: Option<(u64, AbortOnDropHandle<Outcome>, CancellationToken)>,
    hearing: Option<(u64, Hearing, CancellationToken)>,
    /// Connections saying goodbye.
    closing: JoinSet<()>,
    /// When listeners are told that a quiet speaker is gone.
    quiet_until: Option<Instant>,
    /// Whether the session believes that audio comes.
    up: bool,
    /// Why nobody is heard, as the log has it already: a channel without a speaker is tried every few seconds.
    logged: Option<String>,
}

/// Puts frames of successive connections on one clock.
#[derive(Debug, Default)]
struct CaptureClock {
    /// When the sound at [`MediaTime::ZERO`] arrived.
    zero: Option<Instant>,
    /// What this connection's own times are moved by; `None` before its first frame.
    base: Option<MediaTime>,
    /// Arrival of this connection's time zero by its fastest packet.
    fastest: Option<Instant>,
    end: MediaTime,
}

impl CaptureClock {
    fn started(since: Option<Duration>) -> Self {
        let Some(since) = since else { return CaptureClock::default() };
        // A machine that is younger than the talk cannot name the instant; then the wait for media is left out.
        let zero = Instant::now().checked_sub(since);
        CaptureClock { zero, end: MediaTime::from_millis(since.as_millis() as u64), ..CaptureClock::default() }
    }
}

impl Ear {
    /// Runs until dropped.
    pub async fn run(mut self) {
        let started = Instant::now();
        let mut machine = Viewer::new(self.session.clone(), self.first_attempt, Duration::ZERO);
        let mut work = Work::default();
        let mut clock = CaptureClock::started(self.clock_started);
        let mut microphone = Microphone::default();
        self.give(&mut machine, started, Input::Tick, &mut work).await;
        let said = *self.expect.borrow_and_update();
        if let Some(said) = said {
            self.give(&mut machine, started, Input::Speaker(word(said)), &mut work).await;
        }
        loop {
            let deadline = machine.deadline().map(|at| started + at);
            let input = tokio::select! {
                event = heard(&mut work.hearing) => self.hear(event, &mut work, &mut clock, &mut microphone).await,
                outcome = tried(&mut work.attempt) => Self::settle(outcome, &mut work, &mut clock),
                changed = self.expect.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.expect.borrow_and_update().map(|said| Input::Speaker(word(said)))
                }
                () = at(work.quiet_until) => {
                    work.quiet_until = None;
                    self.lost("mediaLost", &mut work).await;
                    None
                }
                () = at(deadline) => Some(Input::Tick),
                Some(_) = work.closing.join_next() => None,
            };
            if let Some(input) = input {
                self.give(&mut machine, started, input, &mut work).await;
            }
        }
    }

    async fn give(&self, machine: &mut Viewer, started: Instant, input: Input, work: &mut Work) {
        let mut effects = Vec::new();
        machine.handle(started.elapsed(), rand::rng().random(), input, &mut effects);
        for effect in effects {
            match effect {
                Effect::Open { number, client_id } => {
                    let stop = CancellationToken::new();
                    let attempt = self.attempt(client_id, stop.clone());
                    work.attempt = Some((number, task::owned(attempt), stop));
                }
                Effect::Close { number } => {
                    if work.attempt.as_ref().is_some_and(|(n, ..)| *n == number)
                        && let Some((_, _, stop)) = work.attempt.take()
                    {
                        stop.cancel();
                    }
                    if work.hearing.as_ref().is_some_and(|(n, ..)| *n == number)
                        && let Some((_, hearing, _)) = work.hearing.take()
                    {
                        task::join(&mut work.closing, hearing.close());
                        self.lost("speaker", work).await;
                    }
                }
                Effect::Heard => {}
                Effect::Unheard => self.lost("mediaLost", work).await,
            }
        }
    }

    /// One try, from the channel's endpoint to the first packet.
    fn attempt(&self, client_id: String, stop: CancellationToken) -> impl Future<Output = Outcome> + Send + 'static {
        let clients = Arc::clone(&self.clients);
        let (arn, policy, tls) = (self.channel_arn.clone(), self.policy, Arc::clone(&self.tls));
        let (counts, known) = (Arc::clone(&self.meter.counts), Arc::clone(&self.endpoints));
        async move {
            // Taken out, and put back when the socket could be opened there: a stale one is not used twice.
            let cached = known.lock().unwrap_or_else(PoisonError::into_inner).take();
            let endpoints = match cached {
                Some(endpoints) => endpoints,
                None => kvs::endpoints(&clients, &arn, Role::Viewer).await?,
            };
            let Endpoints { wss, https } = endpoints.clone();
            let ice_servers = kvs::ice_servers(&clients, &arn, &https, &client_id).await?;
            let url = clients.presign_viewer(&wss, &arn, &client_id).await?.into_string();
            let ice_servers = ice_servers.into_iter().map(|server| IceServer {
                urls: server.urls,
                username: server.username.unwrap_or_default(),
                credential: server.credential.unwrap_or_default(),
            });
            let attempt = Attempt { url, client_id, ice_servers: ice_servers.collect(), policy, tls };
            let outcome = viewer::connect(attempt, counts, stop).await;
            if !matches!(outcome, Err(ViewerError::Socket(_))) {
                *known.lock().unwrap_or_else(PoisonError::into_inner) = Some(endpoints);
            }
            Ok(outcome?)
        }
    }

    fn settle((number, outcome): (u64, Outcome), work: &mut Work, clock: &mut CaptureClock) -> Option<Input> {
        let stop = work.attempt.take().map(|(_, _, stop)| stop).unwrap_or_default();
        match outcome {
            Ok(hearing) => {
                clock.base = None;
                clock.fastest = None;
                work.hearing = Some((number, hearing, stop));
                work.logged = None;
                Some(Input::Connected(number))
            }
            Err(error) => {
                let why = error.to_string();
                if work.logged.as_ref() != Some(&why) {
                    match error {
                        AttemptError::Viewer(ViewerError::Stopped) => {}
                        AttemptError::Viewer(_) => tracing::info!(why, "no media from the speaker; trying on"),
                        _ => tracing::warn!(why, "could not try to hear the speaker; trying on"),
                    }
                    work.logged = Some(why);
                }
                Some(Input::Failed(number))
            }
        }
    }

    async fn hear(
        &self,
        (number, event): (u64, Event),
        work: &mut Work,
        clock: &mut CaptureClock,
        microphone: &mut Microphone,
    ) -> Option<Input> {
        match event {
            Event::Frame { frame, arrived } => {
                let frame = self.place(frame, arrived, clock);
                work.quiet_until = None;
                if !work.up {
                    work.up = true;
                    self.events.send(EarEvent::Up { at: frame.at }).await.ok();
                }
                let reading = microphone.push(&frame);
                // What finds no room is as good as the next one.
                if let Some(report) = reading.report {
                    self.events.try_send(EarEvent::Quality(report)).ok();
                }
                if let Some(level) = reading.level {
                    self.events.try_send(EarEvent::Level(level)).ok();
                }
                if *self.listening.borrow() {
                    self.voice.push(&frame);
                    let dropped = self.frames.push(frame);
                    self.meter.counts.add(Count::FramesDropped, dropped);
                }
                Some(Input::Sound(number))
            }
            Event::Quiet => {
                work.quiet_until = Some(Instant::now() + GRACE);
                Some(Input::Quiet(number))
            }
            Event::Lost(why) => {
                tracing::debug!(?why, "the speaker's media ended");
                work.hearing = None;
                work.quiet_until = None;
                Some(Input::Lost(number))
            }
            Event::SignalingClosed => {
                tracing::debug!("signaling ended; media goes on");
                Some(Input::SignalingClosed(number))
            }
            Event::GoAway => None,
        }
    }

    /// Moves a frame to the session's capture clock and notes how long it took to get here.
    fn place(&self, mut frame: PcmFrame, arrived: Instant, clock: &mut CaptureClock) -> PcmFrame {
        let own = Duration::from_micros(frame.at.as_micros());
        let zero = *clock.zero.get_or_insert_with(|| arrived.checked_sub(own).unwrap_or(arrived));
        let base = *clock.base.get_or_insert_with(|| {
            let since = arrived.saturating_duration_since(zero).saturating_sub(own);
            MediaTime::from_micros(since.as_micros() as u64).max(clock.end)
        });
        if frame.origin == Origin::Received {
            let start = arrived.checked_sub(own).unwrap_or(arrived);
            let fastest = clock.fastest.map_or(start, |fastest| fastest.min(start));
            clock.fastest = Some(fastest);
            self.meter.note(Stage::Network, start.saturating_duration_since(fastest));
            self.meter.note(Stage::Decode, arrived.elapsed());
        }
        frame.at = frame.at + base;
        clock.end = clock.end.max(frame.end());
        frame
    }

    async fn lost(&self, reason: &'static str, work: &mut Work) {
        if std::mem::take(&mut work.up) {
            self.events.send(EarEvent::Lost { reason }).await.ok();
        }
    }
}

fn word(said: bool) -> Word {
    if said { Word::Connected } else { Word::Gone }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

async fn heard(hearing: &mut Option<(u64, Hearing, CancellationToken)>) -> (u64, Event) {
    match hearing {
        Some((number, hearing, _)) => (*number, hearing.next().await),
        None => std::future::pending().await,
    }
}

async fn tried(attempt: &mut Option<(u64, AbortOnDropHandle<Outcome>, CancellationToken)>) -> (u64, Outcome) {
    match attempt {
        Some((number, handle, _)) => match handle.await {
            Ok(outcome) => (*number, outcome),
            Err(error) => {
                tracing::error!(%error, "an attempt to hear the speaker died");
                (*number, Err(AttemptError::Viewer(ViewerError::Stopped)))
            }
        },
        None => std::future::pending().await,
    }
}
