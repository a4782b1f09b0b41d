//! A connection's place in a session: what a socket task holds besides its socket.

use std::sync::Arc;

use babelcast_domain::error::Problem;
use babelcast_domain::ids::ListenerId;
use babelcast_domain::ledger::Stage;
use babelcast_domain::wire::{ChangeLanguage, SetPlayback};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use super::admission::Place;
use super::outbox::{Delivery, OutboxReader};
use super::session::{Command, Control, Meter};

/// Dropping it leaves the session as if the connection had been cut; [`Seat::leave`] says goodbye on purpose.
#[derive(Debug)]
pub struct Seat {
    listener: ListenerId,
    // Before the farewell: the session looks for dropped readers when it is woken.
    reader: OutboxReader,
    _farewell: Farewell,
    commands: mpsc::WeakSender<Command>,
    meter: Arc<Meter>,
    /// When the delivery now being written was handed to the outbox.
    writing: Option<Instant>,
    /// A listener's; the speaker needs none.
    _place: Option<Place>,
}

#[derive(Debug)]
struct Farewell(Arc<Notify>);

impl Drop for Farewell {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl Seat {
    pub(super) fn new(
        listener: ListenerId,
        reader: OutboxReader,
        commands: mpsc::WeakSender<Command>,
        departures: Arc<Notify>,
        meter: Arc<Meter>,
    ) -> Self {
        Seat { listener, reader, _farewell: Farewell(departures), commands, meter, writing: None, _place: None }
    }

    pub(super) fn at(self, place: Option<Place>) -> Self {
        Seat { _place: place, ..self }
    }

    /// The next thing to send; `sessionJoined` is the first. Cancel safe.
    ///
    /// Asking for the next one means that the one before is written, which is how delivery is measured.
    pub async fn next(&mut self) -> Delivery {
        if let Some(queued) = self.writing.take() {
            self.meter.note(Stage::Deliver, queued.elapsed());
        }
        let (delivery, queued) = self.reader.next().await;
        self.writing = Some(queued);
        delivery
    }

    /// `languageChanged` then comes through [`Seat::next`].
    pub async fn change_language(&self, wanted: ChangeLanguage, request_id: Option<String>) -> Result<(), Problem> {
        let (answer, answered) = oneshot::channel();
        self.send(Command::ChangeLanguage { listener: self.listener, wanted, request_id, answer }).await?;
        answered.await.unwrap_or_else(|_| Err(Problem::session_not_found("ended")))
    }

    /// `sessionStatus` then comes through [`Seat::next`].
    pub async fn report_status(&self, request_id: Option<String>) -> Result<(), Problem> {
        self.send(Command::ReportStatus { listener: self.listener, request_id }).await
    }

    pub async fn set_playback(&self, wanted: SetPlayback) -> Result<(), Problem> {
        self.send(Command::SetPlayback { listener: self.listener, wanted }).await
    }

    /// The speaker's controls; who may use them is the door's to know. Everyone hears of it by `broadcastState`.
    pub async fn control(&self, control: Control) -> Result<(), Problem> {
        self.send(Command::Control(control)).await
    }

    pub async fn leave(self) {
        self.send(Command::Leave { listener: self.listener }).await.ok();
    }

    async fn send(&self, command: Command) -> Result<(), Problem> {
        let gone = || Problem::session_not_found("ended");
        let commands = self.commands.upgrade().ok_or_else(gone)?;
        commands.send(command).await.map_err(|_| gone())
    }
}
