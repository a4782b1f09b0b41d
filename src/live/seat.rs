//! A connection's place in a session: what a socket task holds besides its socket.

use std::sync::{Arc, Mutex, PoisonError};

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
    reader: OutboxReader,
    farewell: Farewell,
    commands: mpsc::WeakSender<Command>,
    meter: Arc<Meter>,
    /// When the delivery now being written was handed to the outbox.
    writing: Option<Instant>,
    /// A listener's; the speaker needs none.
    place: Option<Place>,
}

/// Who has gone without a goodbye, for the session to notice. Everybody goes once, so it holds no more than were there.
#[derive(Debug, Default)]
pub struct Departures {
    gone: Mutex<Vec<ListenerId>>,
    news: Notify,
}

impl Departures {
    /// Ready when somebody has gone since it was last asked. Cancel safe.
    pub async fn notified(&self) {
        self.news.notified().await;
    }

    pub fn take(&self) -> Vec<ListenerId> {
        std::mem::take(&mut *self.gone.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(&self, listener: ListenerId) {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner).push(listener);
        self.news.notify_one();
    }
}

/// Tells the session of a seat that was dropped.
#[derive(Debug)]
struct Farewell {
    listener: ListenerId,
    departures: Arc<Departures>,
    /// A goodbye was said in words.
    said: bool,
}

impl Drop for Farewell {
    fn drop(&mut self) {
        if !self.said {
            self.departures.add(self.listener);
        }
    }
}

impl Seat {
    pub(super) fn new(
        listener: ListenerId,
        reader: OutboxReader,
        commands: mpsc::WeakSender<Command>,
        departures: Arc<Departures>,
        meter: Arc<Meter>,
    ) -> Self {
        let farewell = Farewell { listener, departures, said: false };
        Seat { listener, reader, farewell, commands, meter, writing: None, place: None }
    }

    pub(super) fn hold(&mut self, place: Place) {
        self.place = Some(place);
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

    pub async fn leave(mut self) {
        self.farewell.said = self.send(Command::Leave { listener: self.listener }).await.is_ok();
    }

    async fn send(&self, command: Command) -> Result<(), Problem> {
        let gone = || Problem::session_not_found("ended");
        let commands = self.commands.upgrade().ok_or_else(gone)?;
        commands.send(command).await.map_err(|_| gone())
    }
}
