//! What the doors ask of a session, and how it answers: joining, leaving, changing, the speaker's controls.

use std::sync::Arc;

use babelcast_domain::counts::Count;
use babelcast_domain::error::Problem;
use babelcast_domain::ids::ListenerId;
use babelcast_domain::language::Language;
use babelcast_domain::record::{Edit, EndReason, Status};
use babelcast_domain::session::Input;
use babelcast_domain::wire::{ChangeLanguage, Role, ServerMessage, SessionJoined};
use tokio::sync::oneshot;

use super::anteroom::Answer;
use super::outbox::{MAX_REPLAY, outbox};
use super::seat::Seat;
use super::session::{Actor, Command, Control, JoinRequest};

impl Actor {
    pub(super) fn obey_command(&mut self, command: Command) -> Option<Input> {
        match command {
            Command::Join { request, answer } => {
                self.join(request, answer);
                None
            }
            Command::Leave { listener } => self.fanout.remove(listener).then_some(Input::Left { listener, cut: false }),
            Command::ChangeLanguage { listener, wanted, request_id, answer } => {
                let changed = self.change_language(listener, &wanted, request_id);
                answer.send(changed).ok();
                None
            }
            Command::ReportStatus { listener, request_id } => {
                self.seat_now(listener);
                let message = ServerMessage::SessionStatus(self.session.status_view());
                self.fanout.answer(listener, self.clock.now().wall, None, request_id, message);
                None
            }
            Command::SetPlayback { listener, wanted } => {
                self.seat_now(listener);
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
                    self.handle(Input::Edit(edit));
                }
                if let Some(paused) = paused {
                    self.handle(Input::Pause(paused));
                }
                answer.send(self.record.borrow().clone()).ok();
                None
            }
            Command::Status { answer } => {
                answer.send(self.session.status_view()).ok();
                None
            }
            Command::SpeakerSays { connected, answer } => {
                self.handle(Input::SpeakerSays { connected });
                self.publish_snapshot();
                answer.send(()).ok();
                None
            }
            Command::End { reason, answer } => {
                self.handle(Input::End(reason));
                self.publish_snapshot();
                answer.send(()).ok();
                None
            }
            Command::GoAway { hand_over } => {
                self.go_away("the server is stopping");
                Some(if hand_over { Input::HandOver } else { Input::End(EndReason::Failed) })
            }
        }
    }

    fn join(&mut self, request: JoinRequest, answer: oneshot::Sender<Result<Seat, Problem>>) {
        if self.record.borrow().status == Status::Ended {
            answer.send(Err(Problem::session_not_found("ended"))).ok();
            return;
        }
        let language = match self.admitted(&request) {
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
        if request.role == Role::Speaker {
            // One page speaks; the older one is told, so that it does not go on believing.
            for older in self.fanout.speakers().into_iter().filter(|older| *older != listener) {
                self.meter.counts.one(Count::SpeakersReplaced);
                self.fanout.close(older, 4409, "replaced by a newer connection of the speaker");
            }
        }
        self.handle(Input::Joined { listener, language: language.clone(), role: request.role });
        self.answer_with_history(listener, language, Answer::Joined(request));
        let seat = Seat::new(
            listener,
            reader,
            self.commands_sender.clone(),
            Arc::clone(&self.departures),
            Arc::clone(&self.meter),
        );
        // If the connection is gone already, the seat is dropped here and its departure noted.
        answer.send(Ok(seat)).ok();
    }

    /// `sessionJoined`, then what a resuming listener has missed.
    pub(super) fn welcome(&mut self, listener: ListenerId, language: &Language, request: JoinRequest) {
        let now = self.clock.now();
        let missed = request.resume.and_then(|resume| self.log.since(language, resume.epoch, resume.seq));
        let missed = missed.filter(|missed| missed.len() <= MAX_REPLAY);
        let resumed = missed.is_some();
        let seq = request.resume.filter(|_| resumed).map_or(self.log.last_seq(language), |resume| resume.seq);
        let joined = SessionJoined {
            connection_id: format!("c{}", listener.0),
            role: request.role,
            status: self.session.status(),
            source_language: self.session.source().clone(),
            target_language: language.clone(),
            speaker_kvs_connected: self.session.speaker_connected(),
            listener_count: self.session.listeners(),
            captions: request.captions,
            audio: request.audio,
            epoch: self.log.epoch(),
            resumed,
            history: if resumed { Vec::new() } else { self.history(language) },
            broadcast_state: self.session.broadcast(),
        };
        let message = ServerMessage::SessionJoined(Box::new(joined));
        self.fanout.seat(listener);
        self.fanout.answer(listener, now.wall, Some(seq), request.request_id, message);
        for entry in missed.into_iter().flatten() {
            self.fanout.answer(listener, now.wall, Some(entry.seq), None, entry.message);
        }
    }

    fn change_language(
        &mut self,
        listener: ListenerId,
        wanted: &ChangeLanguage,
        request_id: Option<String>,
    ) -> Result<(), Problem> {
        let (language, audio_language) = self.admitted_change(listener, wanted)?;
        self.seat_now(listener);
        self.log.open(&language);
        self.handle(Input::LanguageChanged { listener, language: language.clone() });
        self.answer_with_history(listener, language, Answer::Changed { request_id, audio_language });
        Ok(())
    }

    pub(super) fn language_changed(
        &mut self,
        listener: ListenerId,
        language: &Language,
        audio_language: Option<Language>,
        request: Option<String>,
    ) {
        self.fanout.change_language(listener, language.clone());
        let message = ServerMessage::LanguageChanged {
            target_language: language.clone(),
            audio_language,
            history: self.history(language),
            epoch: self.log.epoch(),
        };
        let (wall, seq) = (self.clock.now().wall, self.log.last_seq(language));
        self.fanout.answer(listener, wall, Some(seq), request, message);
    }
}
