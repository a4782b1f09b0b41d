//! One actor per session: the shell around [`babelcast_domain::session::Session`].
//!
//! One task, one `select!`: it feeds inputs to the machine and obeys its effects. It owns the fan-out, the log, the
//! ear, the scribe and every translation under way; when it ends, all of them do.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use babelcast_domain::counts::{Count, Counts};
use babelcast_domain::error::Problem;
use babelcast_domain::ids::ListenerId;
use babelcast_domain::language::Language;
use babelcast_domain::ledger::{Ledger, Stage};
use babelcast_domain::quality::AudioLevel;
use babelcast_domain::record::{Change, Edit, EndReason, SessionRecord, Status};
use babelcast_domain::session::{Effect, Input, Session, To};
use babelcast_domain::wire::{CaptionMode, Resume, Role, ServerMessage, SessionJoined, SetPlayback, StatusView};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::aws::Clients;
use crate::store::{Expected, Store};

use super::book::Pen;
use super::clock::Clock;
use super::ear::EarEvent;
use super::fanout::Fanout;
use super::log::Log;
use super::outbox::outbox;
use super::scribe::ScribeEvent;
use super::seat::Seat;
use super::task;

/// What a connection asks for when it joins.
#[derive(Debug, Clone)]
pub struct JoinRequest {
    pub role: Role,
    pub target_language: Option<String>,
    pub captions: CaptionMode,
    pub audio: bool,
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
        target: String,
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
    /// The process is going away: listeners are asked to reconnect, then the session ends here.
    GoAway,
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
}

impl Meter {
    pub fn note(&self, stage: Stage, took: std::time::Duration) {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).note(stage, took.as_micros() as u64);
    }
}

type Answered = (Language, u64, Option<String>);

/// The session task's belongings.
pub struct Actor {
    pub record: SessionRecord,
    pub session: Session,
    pub clock: Clock,
    pub clients: Arc<Clients>,
    pub store: Arc<Store>,
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
    pub jobs: JoinSet<Answered>,
    pub next_listener: u64,
    pub departures: Arc<tokio::sync::Notify>,
    pub finished: Option<EndReason>,
    pub ear_lives: bool,
    pub scribe_lives: bool,
}

impl Actor {
    /// Runs until the session has ended; answers with why.
    pub async fn run(mut self) -> EndReason {
        loop {
            let now = self.clock.now();
            let deadline = self.session.deadline(now).map(|at| self.clock.instant(at));
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
                command = self.commands.recv() => match command {
                    Some(command) => self.obey_command(command).await,
                    None => Some(Input::End(EndReason::Failed)),
                },
                () = self.departures.notified() => None,
                () = at(deadline) => Some(Input::Tick),
            };
            let mut inputs: VecDeque<Input> = input.into_iter().collect();
            for listener in self.fanout.gone() {
                self.fanout.remove(listener);
                inputs.push_back(Input::Left { listener, cut: true });
            }
            for input in inputs {
                self.handle(input).await;
            }
            self.publish_snapshot();
            if let Some(reason) = self.finished {
                self.fanout.close_all(4404, "session ended");
                return reason;
            }
        }
    }

    /// Gives one input to the machine and does what it says.
    async fn handle(&mut self, input: Input) {
        let mut effects = Vec::new();
        self.session.handle(self.clock.now(), input, &mut effects);
        for effect in effects {
            match effect {
                Effect::Show { mode, caption } => {
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
                Effect::Save(change) => self.save(change).await,
                Effect::Count(count, n) => self.meter.counts.add(count, n),
                Effect::Finish(reason) => self.finished = Some(reason),
            }
        }
    }

    fn append(&mut self, to: &To, message: &ServerMessage) {
        let now = self.clock.now();
        if let ServerMessage::Transcription(caption) = message {
            self.pen.write(caption, self.session.translating());
        }
        let languages = match to {
            To::Everyone => self.log.languages(),
            To::Language(language) => vec![language.clone()],
        };
        for language in languages {
            let seq = self.log.append(&language, now.mono, message.clone());
            self.fanout.append(&language, now.wall, seq, message.clone());
        }
    }

    fn translate(&mut self, language: Language, job: u64, text: String) {
        let (clients, meter) = (Arc::clone(&self.clients), Arc::clone(&self.meter));
        let (source, glossary) = (self.record.source_language.clone(), self.record.glossary.clone());
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

    /// A store that fails costs nobody a caption: it is logged, counted, and the live state stands.
    async fn save(&mut self, change: Change) {
        let now = self.clock.now().wall;
        match self.store.change(&self.record.session_id, now, Expected::default(), &change).await {
            Ok(record) => self.record = record,
            Err(error) => {
                self.meter.counts.one(Count::StoreErrors);
                tracing::error!(%error, ?change, "the session's record could not be changed");
            }
        }
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
            EarEvent::Level(level) => {
                self.snapshot.send_modify(|snapshot| snapshot.level = Some(level));
                None
            }
        }
    }

    async fn obey_command(&mut self, command: Command) -> Option<Input> {
        match command {
            Command::Join { request, answer } => {
                self.join(request, answer).await;
                None
            }
            Command::Leave { listener } => {
                self.fanout.remove(listener);
                Some(Input::Left { listener, cut: false })
            }
            Command::ChangeLanguage { listener, target, request_id, answer } => {
                let changed = self.change_language(listener, &target, request_id).await;
                answer.send(changed).ok();
                None
            }
            Command::ReportStatus { listener, request_id } => {
                let message = ServerMessage::SessionStatus(self.session.status_view());
                self.fanout.answer(listener, self.clock.now().wall, None, request_id, message);
                None
            }
            Command::SetPlayback { listener, wanted } => {
                self.fanout.set_playback(listener, wanted);
                None
            }
            Command::Control(control) => Some(match control {
                Control::Pause(paused) => Input::Pause(paused),
                Control::Mute(muted) => Input::Mute(muted),
                Control::Volume(volume) => Input::Volume(volume),
            }),
            Command::Edit { edit, paused, answer } => {
                if edit != Edit::default() {
                    self.handle(Input::Edit(edit)).await;
                }
                if let Some(paused) = paused {
                    self.handle(Input::Pause(paused)).await;
                }
                answer.send(self.record.clone()).ok();
                None
            }
            Command::Status { answer } => {
                answer.send(self.session.status_view()).ok();
                None
            }
            Command::SpeakerSays { connected, answer } => {
                self.handle(Input::SpeakerSays { connected }).await;
                self.publish_snapshot();
                answer.send(()).ok();
                None
            }
            Command::End { reason, answer } => {
                self.handle(Input::End(reason)).await;
                self.publish_snapshot();
                answer.send(()).ok();
                None
            }
            Command::GoAway => {
                let message = ServerMessage::GoAway { reason: "shutdown".into(), reconnect_within_ms: 5_000 };
                self.fanout.tell(None, self.clock.now().wall, message);
                Some(Input::End(EndReason::Failed))
            }
        }
    }

    async fn join(&mut self, request: JoinRequest, answer: oneshot::Sender<Result<Seat, Problem>>) {
        if self.record.status == Status::Ended {
            answer.send(Err(Problem::session_not_found("ended"))).ok();
            return;
        }
        let language = match self.session.resolve(request.target_language.as_deref()) {
            Ok(language) => language,
            Err(problem) => {
                answer.send(Err(problem)).ok();
                return;
            }
        };
        let listener = ListenerId(self.next_listener);
        self.next_listener += 1;
        let (outbox, reader) = outbox();
        self.log.open(&language);
        self.fanout.add(listener, language.clone(), request.captions, request.role, outbox);
        self.handle(Input::Joined { listener, language: language.clone(), role: request.role }).await;
        self.welcome(listener, &language, request);
        let seat = Seat::new(
            listener,
            reader,
            self.commands_sender.clone(),
            Arc::clone(&self.departures),
            Arc::clone(&self.meter),
        );
        // A connection that is gone already is noticed by its dropped reader.
        answer.send(Ok(seat)).ok();
    }

    /// `sessionJoined`, then what a resuming listener has missed.
    fn welcome(&mut self, listener: ListenerId, language: &Language, request: JoinRequest) {
        let now = self.clock.now();
        let missed = request.resume.and_then(|resume| self.log.since(language, resume.epoch, resume.seq));
        let resumed = missed.is_some();
        let seq = request.resume.filter(|_| resumed).map_or(self.log.last_seq(language), |resume| resume.seq);
        let joined = SessionJoined {
            connection_id: format!("c{}", listener.0),
            role: request.role,
            status: self.record.status,
            source_language: self.session.source().clone(),
            target_language: language.clone(),
            speaker_kvs_connected: self.session.speaker_connected(),
            listener_count: self.session.listeners(),
            captions: request.captions,
            audio: request.audio,
            epoch: self.log.epoch(),
            resumed,
            history: if resumed { Vec::new() } else { self.log.history(language, now.mono) },
            broadcast_state: self.session.broadcast(),
        };
        let message = ServerMessage::SessionJoined(Box::new(joined));
        self.fanout.answer(listener, now.wall, Some(seq), request.request_id, message);
        for entry in missed.into_iter().flatten() {
            self.fanout.answer(listener, now.wall, Some(entry.seq), None, entry.message);
        }
    }

    async fn change_language(
        &mut self,
        listener: ListenerId,
        target: &str,
        request: Option<String>,
    ) -> Result<(), Problem> {
        let language = self.session.resolve(Some(target))?;
        self.log.open(&language);
        self.fanout.change_language(listener, language.clone());
        self.handle(Input::LanguageChanged { listener, language: language.clone() }).await;
        let now = self.clock.now();
        let message = ServerMessage::LanguageChanged {
            target_language: language.clone(),
            audio_language: None,
            history: self.log.history(&language, now.mono),
            epoch: self.log.epoch(),
        };
        self.fanout.answer(listener, now.wall, Some(self.log.last_seq(&language)), request, message);
        Ok(())
    }

    fn publish_snapshot(&self) {
        let fresh = |snapshot: &mut Snapshot| {
            let before = *snapshot;
            snapshot.listeners = self.session.listeners();
            snapshot.speaker_connected = self.session.speaker_connected();
            snapshot.ended = self.record.status == Status::Ended;
            *snapshot != before
        };
        self.snapshot.send_if_modified(fresh);
    }

    /// An ear or a scribe that ends before it is told to has panicked: a session that has gone deaf must not look alive.
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
