//! One actor per session: the shell around [`babelcast_domain::session::Session`].
//!
//! One task, one `select!`: it feeds inputs to the machine and obeys its effects. It owns the fan-out, the log, the
//! ear, the scribe and every translation under way; when it ends, all of them do.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use babelcast_domain::counts::{Count, Counts};
use babelcast_domain::error::Problem;
use babelcast_domain::ids::{AccessCode, ListenerId};
use babelcast_domain::language::Language;
use babelcast_domain::ledger::{Ledger, Stage};
use babelcast_domain::quality::AudioLevel;
use babelcast_domain::record::{Change, Edit, EndReason, SessionRecord, Status};
use babelcast_domain::seldom::Seldom;
use babelcast_domain::session::{Effect, Input, Session, To};
use babelcast_domain::wire::{CaptionMode, ChangeLanguage, Resume, Role, ServerMessage, SetPlayback, StatusView};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::aws::Clients;
use crate::store::Presence;

use super::anteroom::Anteroom;
use super::book::Pen;
use super::clock::Clock;
use super::ear::EarEvent;
use super::fanout::Fanout;
use super::keeper::{KeeperEvent, Wishes};
use super::log::Log;
use super::mood::Mood;
use super::scribe::ScribeEvent;
use super::seat::{Departures, Seat};
use super::stats::Stats;
use super::task;

/// What a connection asks for when it joins.
#[derive(Debug, Clone)]
pub struct JoinRequest {
    pub role: Role,
    pub target_language: Option<String>,
    pub captions: CaptionMode,
    pub audio: bool,
    /// What the listener gave, if anything; the speaker is not asked.
    pub access_code: Option<AccessCode>,
    pub resume: Option<Resume>,
    pub request_id: Option<String>,
}

/// What the doors ask of a session. Answers come by oneshot, or through the asker's outbox.
#[derive(Debug)]
pub enum Command {
    Join {
        request: JoinRequest,
        answer: oneshot::Sender<Result<Seat, Problem>>,
    },
    Leave {
        listener: ListenerId,
    },
    ChangeLanguage {
        listener: ListenerId,
        wanted: ChangeLanguage,
        request_id: Option<String>,
        answer: oneshot::Sender<Result<(), Problem>>,
    },
    ReportStatus {
        listener: ListenerId,
        request_id: Option<String>,
    },
    SetPlayback {
        listener: ListenerId,
        wanted: SetPlayback,
    },
    /// The speaker's controls; everyone is told by `broadcastState`.
    Control(Control),
    /// The owner changes the record; `paused` beside what may be changed at any time.
    Edit {
        edit: Edit,
        paused: Option<bool>,
        answer: oneshot::Sender<SessionRecord>,
    },
    Status {
        answer: oneshot::Sender<StatusView>,
    },
    SpeakerSays {
        connected: bool,
        answer: oneshot::Sender<()>,
    },
    End {
        reason: EndReason,
        answer: oneshot::Sender<()>,
    },
    /// The process is going away: listeners are asked to reconnect. What outlives the process is handed over; what
    /// does not ends here.
    GoAway {
        hand_over: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Control {
    Pause(bool),
    Mute(bool),
    Volume(f32),
}

/// What others may see of a session without asking it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Snapshot {
    pub listeners: u64,
    pub speaker_connected: bool,
    pub ended: bool,
    pub level: Option<AudioLevel>,
}

/// Counters and latencies of one session, readable while it runs.
#[derive(Debug, Default)]
pub struct Meter {
    pub counts: Arc<Counts>,
    pub ledger: Mutex<Ledger>,
    /// Lines about listeners who found no room.
    pub full: Seldom,
}

impl Meter {
    pub fn note(&self, stage: Stage, took: std::time::Duration) {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).note(stage, took.as_micros() as u64);
    }
}

/// How a session left this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    Ended(EndReason),
    /// Given up on purpose, for another node to take.
    HandedOver,
    /// Another node has taken it.
    Lost,
}

type Answered = (Language, u64, Option<String>);

/// The session task's belongings.
pub struct Actor {
    /// As it is, whether the store has heard of it or not; the doors read it here.
    pub record: watch::Sender<SessionRecord>,
    pub session: Session,
    pub clock: Clock,
    pub clients: Arc<Clients>,
    pub wishes: Wishes,
    pub presence: watch::Sender<Presence>,
    pub kept: mpsc::Receiver<KeeperEvent>,
    pub meter: Arc<Meter>,
    pub commands: mpsc::Receiver<Command>,
    pub commands_sender: mpsc::WeakSender<Command>,
    pub snapshot: watch::Sender<Snapshot>,
    pub ear_events: mpsc::Receiver<EarEvent>,
    pub expect: watch::Sender<Option<bool>>,
    pub listening: watch::Sender<bool>,
    pub scribe_events: mpsc::Receiver<ScribeEvent>,
    pub flush: CancellationToken,
    /// Taken at the end, so that nothing is heard any more while the last words are said.
    pub ear: Option<AbortOnDropHandle<()>>,
    pub _scribe: AbortOnDropHandle<()>,
    pub fanout: Fanout,
    pub log: Log,
    pub pen: Pen,
    pub anteroom: Anteroom,
    pub mood: Mood,
    pub stats: Stats,
    pub jobs: JoinSet<Answered>,
    pub next_listener: u64,
    pub departures: Arc<Departures>,
    pub finished: Option<Gone>,
    pub ear_lives: bool,
    pub scribe_lives: bool,
    pub keeper_lives: bool,
}

impl Actor {
    /// Runs until the session has left this process; answers with how.
    pub async fn run(mut self) -> Gone {
        loop {
            let now = self.clock.now();
            let deadline = [self.session.deadline(now), self.stats.deadline()].into_iter().flatten().min();
            let deadline = deadline.map(|at| self.clock.instant(at));
            let input = tokio::select! {
                biased;
                event = self.scribe_events.recv(), if self.scribe_lives => match event {
                    Some(event) => self.scribe_input(event),
                    None => { self.scribe_lives = false; self.died("scribe") }
                },
                Some(joined) = self.jobs.join_next() => match joined {
                    Ok((language, job, result)) => Some(Input::Translated { language, job, result }),
                    // The job's deadline in the machine gives its clause up.
                    Err(error) => { self.panicked(&error); None }
                },
                event = self.ear_events.recv(), if self.ear_lives => match event {
                    Some(event) => self.ear_input(event),
                    None => { self.ear_lives = false; self.died("ear") }
                },
                event = self.kept.recv(), if self.keeper_lives => match event {
                    Some(KeeperEvent::Seen(record)) => {
                        self.record.send_replace(SessionRecord::clone(&record));
                        Some(Input::Seen(record))
                    }
                    Some(KeeperEvent::Lost) => { self.lost(); None }
                    None => { self.keeper_lives = false; self.died("keeper") }
                },
                // None: the registry has dropped us and this task is about to end; the session itself goes on elsewhere.
                Some(command) = self.commands.recv() => self.obey_command(command),
                () = self.departures.notified() => None,
                () = self.anteroom.stirred() => None,
                () = at(deadline) => Some(Input::Tick),
            };
            let mut inputs: VecDeque<Input> = input.into_iter().collect();
            for listener in self.departures.take() {
                if self.fanout.remove(listener) {
                    inputs.push_back(Input::Left { listener, cut: true });
                }
            }
            for input in inputs {
                self.handle(input);
            }
            self.seat_ready();
            self.publish();
            if let Some(gone) = self.finished {
                match gone {
                    Gone::Ended(_) => self.fanout.close_all(4404, "session ended"),
                    Gone::HandedOver | Gone::Lost => self.fanout.close_all(1012, "session moved"),
                }
                return gone;
            }
        }
    }

    /// Gives one input to the machine and does what it says.
    pub(super) fn handle(&mut self, input: Input) {
        if matches!(input, Input::Joined { .. } | Input::Left { .. } | Input::LanguageChanged { .. }) {
            self.stats.audience_changed();
        }
        let mut effects = Vec::new();
        self.session.handle(self.clock.now(), input, &mut effects);
        for effect in effects {
            match effect {
                Effect::Show { mode, caption } => {
                    self.stats.shown(&caption, self.clock.now().wall);
                    let (language, segment) = (caption.language.clone(), caption.segment_id.clone());
                    let message = ServerMessage::Transcription(caption);
                    self.fanout.show(&language, mode, &segment, self.clock.now().wall, message);
                }
                Effect::Append { to, message } => self.append(&to, &message),
                Effect::Tell { to, message } => {
                    let language = match &to {
                        To::Everyone => None,
                        To::Language(language) => Some(language),
                    };
                    self.fanout.tell(language, self.clock.now().wall, message);
                }
                Effect::Translate { language, job, text } => self.translate(language, job, text),
                Effect::Expect { speaker } => {
                    self.expect.send_replace(Some(speaker));
                }
                Effect::Flush => {
                    self.ear = None;
                    self.flush.cancel();
                }
                Effect::Listen(listening) => {
                    self.listening.send_replace(listening);
                }
                Effect::Save(change) => self.save(change),
                Effect::Count(count, n) => self.meter.counts.add(count, n),
                Effect::Finish(reason) => self.finished = Some(reason.map_or(Gone::HandedOver, Gone::Ended)),
            }
        }
    }

    fn append(&mut self, to: &To, message: &ServerMessage) {
        let now = self.clock.now();
        if matches!(message, ServerMessage::SessionEnded { .. }) {
            self.seat_everyone();
        }
        if let ServerMessage::Transcription(caption) = message {
            self.stats.shown(caption, now.wall);
            self.pen.write(caption, self.session.translating(), Instant::now());
        }
        let languages = match to {
            To::Everyone => self.log.languages(),
            To::Language(language) => vec![language.clone()],
        };
        for language in languages {
            let seq = self.log.append(&language, now.mono, message.clone());
            self.fanout.append(&language, now.wall, seq, message.clone());
        }
        if let ServerMessage::Transcription(caption) = message
            && caption.source_language.is_none()
        {
            // Everyone hears how it was said, also those whose translation is still under way.
            let emotion = self.mood.of(caption);
            self.append(&To::Everyone, &emotion);
        }
    }

    fn translate(&mut self, language: Language, job: u64, text: String) {
        let (clients, meter) = (Arc::clone(&self.clients), Arc::clone(&self.meter));
        let (source, glossary) = (self.session.source().clone(), self.record.borrow().glossary.clone());
        let work = async move {
            let started = Instant::now();
            let result = crate::aws::translate::translate(
                &clients,
                &text,
                source.as_str(),
                language.as_str(),
                glossary.as_deref(),
            )
            .await;
            let result = match result {
                Ok(translated) => {
                    meter.note(Stage::Translate, started.elapsed());
                    Some(translated)
                }
                Err(error) => {
                    tracing::warn!(%error, %language, "a clause could not be translated");
                    None
                }
            };
            (language, job, result)
        };
        task::join(&mut self.jobs, work);
    }

    /// So it is from now on; the keeper tells the store.
    fn save(&mut self, change: Change) {
        let now = self.clock.now().wall;
        if self.record.send_if_modified(|record| record.apply(now, &change).is_ok()) {
            self.wishes.save(change);
        }
    }

    /// Another node runs the session: whoever is here is sent there.
    fn lost(&mut self) {
        self.go_away("the session moved to another server");
        self.finished = Some(Gone::Lost);
    }

    pub(super) fn go_away(&mut self, reason: &str) {
        self.seat_everyone();
        let message = ServerMessage::GoAway { reason: reason.to_owned(), reconnect_within_ms: 5_000 };
        self.fanout.tell(None, self.clock.now().wall, message);
    }

    fn scribe_input(&mut self, event: ScribeEvent) -> Option<Input> {
        Some(match event {
            ScribeEvent::Heard(heard) => {
                self.note_recognition(&heard);
                Input::Heard(heard)
            }
            ScribeEvent::Restarted { lost } => Input::RecogniserRestarted { lost },
            ScribeEvent::AudioLost { from, to } => Input::AudioLost { from, to },
            ScribeEvent::Down(down) => Input::RecogniserDown(down),
            ScribeEvent::Flushed => Input::RecogniserFlushed,
        })
    }

    fn note_recognition(&self, heard: &babelcast_domain::transcript::Heard) {
        let last = heard.words.iter().map(|word| word.end).max();
        let arrived = last.and_then(|end| self.session.heard_at(end.as_millis()));
        if let (Some(arrived), false) = (arrived, heard.is_final) {
            let late = self.clock.now().wall.0.saturating_sub(arrived.0);
            self.meter.note(Stage::Recognise, std::time::Duration::from_millis(late));
        }
    }

    fn ear_input(&mut self, event: EarEvent) -> Option<Input> {
        match event {
            EarEvent::Up { at } => Some(Input::MediaUp { at }),
            EarEvent::Lost { reason } => Some(Input::MediaLost { reason }),
            EarEvent::Quality(report) => {
                let message = self.stats.audio_quality(report);
                self.fanout.tell_speaker(self.clock.now().wall, message);
                None
            }
            EarEvent::Level(level) => {
                self.snapshot.send_modify(|snapshot| snapshot.level = Some(level));
                None
            }
        }
    }

    fn publish(&mut self) {
        self.publish_snapshot();
        let now = self.clock.now();
        if let Some(listeners) = self.stats.due(now.mono, || self.session.listeners_by_language()) {
            self.presence.send_replace(listeners.clone());
            self.fanout.tell_speaker(now.wall, self.stats.message());
        }
    }

    pub(super) fn publish_snapshot(&self) {
        let fresh = |snapshot: &mut Snapshot| {
            let before = *snapshot;
            snapshot.listeners = self.session.listeners();
            snapshot.speaker_connected = self.session.speaker_connected();
            snapshot.ended = self.record.borrow().status == Status::Ended;
            *snapshot != before
        };
        self.snapshot.send_if_modified(fresh);
    }

    /// A part that ends before it is told to has panicked: a session that has gone deaf must not look alive.
    fn died(&self, who: &str) -> Option<Input> {
        if self.flush.is_cancelled() {
            return None;
        }
        self.meter.counts.one(Count::Panics);
        tracing::error!(who, "a task of the session died; the session is ended");
        Some(Input::End(EndReason::Failed))
    }

    fn panicked(&self, error: &tokio::task::JoinError) {
        self.meter.counts.one(Count::Panics);
        tracing::error!(%error, "a translation task died");
    }
}

/// Ready at the deadline, never without one.
async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
