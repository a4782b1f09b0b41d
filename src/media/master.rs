//! The speaker's side: a KVS MASTER that answers every viewer and sends one microphone to all of them. Used by
//! `babelcast speak`, by `demo` and by tests; behaves as a browser with the official SDK does.
//!
//! Absent on purpose: receiving anything, and video.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use babelcast_domain::signaling::CandidatePolicy;
use rustls::ClientConfig;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::desk::Desk;
use super::faults::Faults;
use super::mic::{FirstPacket, Line, Mic, QUEUE, Sound};
use super::opus::Encoder;
use super::peer::IceServer;
use super::socket::{Socket, SocketError};

/// For the peers' and the socket's goodbyes.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// What one opening of the signaling socket needs; fetched anew for each.
#[derive(Clone)]
pub struct Access {
    /// Presigned ws or wss URL of the channel's master endpoint. A credential: never logged.
    pub url: String,
    pub ice_servers: Vec<IceServer>,
}

/// How the master behaves.
#[derive(Clone)]
pub struct Settings {
    pub tls: Arc<ClientConfig>,
    pub policy: CandidatePolicy,
    /// Samples a second of what is played: 8,000, 12,000, 16,000, 24,000 or 48,000.
    pub rate: u32,
    /// The packet loss the encoder prepares for, percent.
    pub expected_loss: u8,
}

/// Why there is no master.
#[derive(Debug, thiserror::Error)]
pub enum MasterError {
    #[error("no access to the channel: {0}")]
    Access(Box<dyn Error + Send + Sync>),
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("libopus: {0}")]
    Opus(#[from] ::opus::Error),
    #[error("the master has ended")]
    Ended,
}

/// What the master has to tell.
#[derive(Debug, Clone, PartialEq)]
pub enum MasterEvent {
    ViewerConnected {
        client_id: String,
    },
    /// The first packet to this viewer left at `at`: the zero of the capture clock on its side.
    FirstPacket {
        client_id: String,
        at: Instant,
    },
    ViewerGone {
        client_id: String,
    },
    OfferRefused {
        client_id: String,
        reason: String,
    },
    SignalingClosed,
    SignalingReopened,
}

/// A speaker on the air. Dropping it ends it at once; [`Master::close`] ends it politely.
pub struct Master {
    sounds: mpsc::Sender<Sound>,
    frame: usize,
    faults: watch::Sender<Faults>,
    signaling: Signaling,
    _mic: AbortOnDropHandle<()>,
}

/// A socket on its way, with the relays that go with it.
pub(super) type Opening = Pin<Box<dyn Future<Output = Result<(Socket, Vec<IceServer>), MasterError>> + Send>>;

/// What every master has, wherever its sound comes from: viewers are answered, and become lines to send to.
pub(super) struct Signaling {
    pub events: mpsc::Receiver<MasterEvent>,
    pub lines: watch::Receiver<Vec<Line>>,
    pub firsts: mpsc::Sender<FirstPacket>,
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl Signaling {
    /// Opens the socket. `access` is asked before each opening: the service ends it every hour and after ten idle
    /// minutes.
    pub async fn open<F, A>(mut access: F, tls: Arc<ClientConfig>, policy: CandidatePolicy) -> Result<Self, MasterError>
    where
        F: FnMut() -> A + Send + 'static,
        A: Future<Output = Result<Access, Box<dyn Error + Send + Sync>>> + Send + 'static,
    {
        let mut open = move || -> Opening {
            let (access, tls) = (access(), Arc::clone(&tls));
            Box::pin(async move {
                let access = access.await.map_err(MasterError::Access)?;
                Ok((Socket::open(&access.url, &tls).await?, access.ice_servers))
            })
        };
        let (socket, ice_servers) = open().await?;
        let (line_sender, lines) = watch::channel(Vec::new());
        let (event_sender, events) = mpsc::channel(64);
        let (firsts, first_receiver) = mpsc::channel(16);
        let (from_peers, peer_news) = mpsc::channel(64);
        let stop = CancellationToken::new();
        let desk = Desk::new(policy, ice_servers, line_sender, event_sender, from_peers);
        let task = desk.run(socket, Box::new(open), peer_news, first_receiver, stop.clone());
        Ok(Signaling { events, lines, firsts, stop, task: AbortOnDropHandle::new(tokio::spawn(task)) })
    }

    /// Ends all calls and the socket so that the other sides know at once.
    pub async fn close(self) {
        self.stop.cancel();
        if timeout(CLOSE_TIMEOUT, self.task).await.is_err() {
            tracing::debug!("the master did not end in time");
        }
    }
}

impl Master {
    /// Opens the signaling socket and starts the microphone, silent at first. `access` is asked before each opening
    /// of the socket: the service ends it every hour and after ten idle minutes.
    ///
    /// # Errors
    /// [`MasterError`], if the first opening fails.
    pub async fn connect<F, A>(access: F, settings: Settings) -> Result<Self, MasterError>
    where
        F: FnMut() -> A + Send + 'static,
        A: Future<Output = Result<Access, Box<dyn Error + Send + Sync>>> + Send + 'static,
    {
        let encoder = Encoder::new(settings.rate, settings.expected_loss)?;
        let frame = encoder.samples();
        let signaling = Signaling::open(access, settings.tls, settings.policy).await?;
        let (sounds, to_mic) = mpsc::channel(QUEUE);
        let (faults, fault_receiver) = watch::channel(Faults::default());
        let (lines, firsts) = (signaling.lines.clone(), signaling.firsts.clone());
        let mic = Mic { encoder, sounds: to_mic, lines, faults: fault_receiver, firsts };
        let mic = AbortOnDropHandle::new(tokio::spawn(mic.run()));
        Ok(Master { sounds, frame, faults, signaling, _mic: mic })
    }

    /// Samples in 20 ms at this master's rate.
    pub fn frame_samples(&self) -> usize {
        self.frame
    }

    /// Sends 20 ms of sound after what is already waiting; a shorter frame is padded with silence. Waits while four
    /// frames are waiting, so that its caller is paced by real time.
    ///
    /// # Errors
    /// [`MasterError::Ended`].
    pub async fn push(&self, frame: &[i16]) -> Result<(), MasterError> {
        self.put(frame, None).await
    }

    /// Plays mono samples in real time. Comes back when the last of them is queued, with the instant at which the
    /// first one left.
    ///
    /// # Errors
    /// [`MasterError::Ended`].
    pub async fn play(&self, samples: &[i16]) -> Result<Instant, MasterError> {
        let (sent, started) = oneshot::channel();
        let mut sent = Some(sent);
        for frame in samples.chunks(self.frame) {
            self.put(frame, sent.take()).await?;
        }
        drop(sent);
        started.await.map_err(|_| MasterError::Ended)
    }

    async fn put(&self, frame: &[i16], sent: Option<oneshot::Sender<Instant>>) -> Result<(), MasterError> {
        let mut samples = frame.to_vec();
        samples.resize(self.frame, 0);
        self.sounds.send(Sound { samples, sent }).await.map_err(|_| MasterError::Ended)
    }

    /// The next event; none when the master has ended. Up to 64 wait to be read, then new ones are dropped.
    pub async fn next(&mut self) -> Option<MasterEvent> {
        self.signaling.events.recv().await
    }

    /// Waits until a viewer is connected and its first packet has left.
    ///
    /// # Errors
    /// [`MasterError::Ended`].
    pub async fn wait_for_viewer(&mut self) -> Result<(String, Instant), MasterError> {
        loop {
            match self.next().await.ok_or(MasterError::Ended)? {
                MasterEvent::FirstPacket { client_id, at } => return Ok((client_id, at)),
                event => tracing::debug!(?event, "while waiting for a viewer"),
            }
        }
    }

    /// Switches faults on the wire on or off, for all viewers, from the next packet.
    pub fn set_faults(&self, faults: Faults) {
        self.faults.send_replace(faults);
    }

    /// Loses every packet for a while, as a broken network does.
    pub fn outage(&self, length: Duration) {
        self.faults.send_modify(|faults| faults.outage(length));
    }

    /// Makes no packets for a while, as an encoder with discontinuous transmission does.
    pub fn pause(&self, length: Duration) {
        self.faults.send_modify(|faults| faults.pause(length));
    }

    /// Ends all calls and the socket so that the other sides know at once.
    pub async fn close(self) {
        self.signaling.close().await;
    }
}
