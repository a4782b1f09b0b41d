//! The viewer's signaling after its offer: a task of its own, so that its socket may die alone.

use std::sync::Arc;

use babelcast_domain::counts::{Count, Counts};
use babelcast_domain::signaling::exchange::{Exchange, Step};
use babelcast_domain::signaling::{self, Candidate, Message};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::peer::Peer;
use super::socket::{Socket, SocketError};
use super::viewer::ViewerError;

/// What the signaling task tells the rest.
pub(super) enum Signal {
    Answered,
    Failed(ViewerError),
    Closed(SocketError),
    GoAway,
}

/// The signaling side of one attempt.
pub(super) struct Talk {
    pub socket: Socket,
    pub exchange: Exchange,
    pub peer: Arc<Peer>,
    /// Local candidates that came too late for the offer; none when gathering has ended.
    pub candidates: Option<mpsc::Receiver<Option<Candidate>>>,
    pub started: Instant,
    pub counts: Arc<Counts>,
}

impl Talk {
    /// Runs until the socket ends, the attempt fails or `stop`.
    pub async fn run(mut self, signals: mpsc::Sender<Signal>, stop: CancellationToken) {
        let end = loop {
            let deadline = self.exchange.deadline().map(|deadline| self.started + deadline);
            let worked = tokio::select! {
                () = stop.cancelled() => return self.socket.close().await,
                text = self.socket.next() => match text {
                    Ok(text) => self.received(&text, &signals).await,
                    Err(error) => Err(Signal::Closed(error)),
                },
                candidate = found(&mut self.candidates) => self.trickle(candidate).await,
                () = until(deadline) => {
                    let steps = self.exchange.tick(self.started.elapsed());
                    self.follow(steps, &signals).await
                }
            };
            if let Err(end) = worked {
                break end;
            }
        };
        let failed = match &end {
            Signal::Closed(error) => {
                self.counts.one(Count::SignalingClosed);
                tracing::debug!(%error, "signaling ended");
                false
            }
            _ => true,
        };
        tell(&signals, end);
        if failed {
            self.socket.close().await;
        }
    }

    async fn received(&mut self, text: &str, signals: &mpsc::Sender<Signal>) -> Result<(), Signal> {
        match signaling::parse(text) {
            Ok(frame) => {
                let steps = self.exchange.receive(frame);
                self.follow(steps, signals).await
            }
            Err(error) => {
                self.counts.one(Count::SignalingIgnored);
                tracing::debug!(%error, "a signaling frame is skipped");
                Ok(())
            }
        }
    }

    async fn follow(
        &mut self,
        steps: impl IntoIterator<Item = Step>,
        signals: &mpsc::Sender<Signal>,
    ) -> Result<(), Signal> {
        for step in steps {
            match step {
                Step::SetAnswer(sdp) => {
                    self.peer.set_remote_answer(&sdp).await.map_err(|error| Signal::Failed(error.into()))?;
                    tell(signals, Signal::Answered);
                }
                Step::Add(candidate) => {
                    if let Err(error) = self.peer.add_candidate(candidate).await {
                        self.counts.one(Count::CandidatesRefused);
                        tracing::debug!(%error, "the WebRTC library refused a candidate");
                    }
                }
                Step::Refused(refusal) => {
                    self.counts.one(Count::CandidatesRefused);
                    tracing::debug!(%refusal, "a remote candidate is refused");
                }
                Step::Ignored(reason) => {
                    self.counts.one(Count::SignalingIgnored);
                    tracing::debug!(%reason, "a signaling frame is ignored");
                }
                Step::Complaint(status) => {
                    tracing::warn!(code = ?status.code, kind = ?status.error_type, "the signaling service complains");
                }
                Step::GoAway => tell(signals, Signal::GoAway),
                // Running relays go on until their allocation ends; the next attempt fetches fresh ones anyway.
                Step::ReconnectIceServer => tracing::info!("the service wants its relays back"),
                Step::Fail(failed) => return Err(Signal::Failed(failed.into())),
            }
        }
        Ok(())
    }

    async fn trickle(&mut self, candidate: Option<Candidate>) -> Result<(), Signal> {
        let Some(candidate) = candidate else {
            self.candidates = None;
            return Ok(());
        };
        match signaling::frame(&Message::Candidate(&candidate), None, None) {
            Ok(frame) => self.socket.send(frame).await.map_err(Signal::Closed),
            Err(error) => {
                tracing::debug!(%error, "a local candidate is not sent");
                Ok(())
            }
        }
    }
}

async fn found(candidates: &mut Option<mpsc::Receiver<Option<Candidate>>>) -> Option<Candidate> {
    match candidates {
        Some(candidates) => candidates.recv().await.flatten(),
        None => std::future::pending().await,
    }
}

/// Few signals exist, so the channel is never full unless nobody listens any more.
fn tell(signals: &mpsc::Sender<Signal>, signal: Signal) {
    if signals.try_send(signal).is_err() {
        tracing::debug!("a signal found nobody to hear it");
    }
}

/// Waits for `deadline`, or for ever if there is none.
pub(super) async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
