//! From one event to every listener it concerns: encoded once per language and caption mode, the same bytes for all.

use std::collections::BTreeMap;

use babelcast_domain::counts::{Count, Counts};
use babelcast_domain::ids::{ListenerId, SessionId};
use babelcast_domain::language::Language;
use babelcast_domain::time::UnixMs;
use babelcast_domain::wire::{CaptionMode, Envelope, Role, ServerMessage, SetPlayback};
use bytes::Bytes;

use super::outbox::{Outbox, Pushed, SegmentKey};

struct Member {
    language: Language,
    mode: CaptionMode,
    /// No partials while the listener has paused.
    paused: bool,
    role: Role,
    outbox: Outbox,
}

/// The outboxes of one session.
pub struct Fanout {
    session: SessionId,
    members: BTreeMap<ListenerId, Member>,
    counts: std::sync::Arc<Counts>,
}

impl Fanout {
    pub fn new(session: SessionId, counts: std::sync::Arc<Counts>) -> Self {
        Fanout { session, members: BTreeMap::new(), counts }
    }

    pub fn add(&mut self, listener: ListenerId, language: Language, mode: CaptionMode, role: Role, outbox: Outbox) {
        self.members.insert(listener, Member { language, mode, paused: false, role, outbox });
    }

    pub fn set_playback(&mut self, listener: ListenerId, wanted: SetPlayback) {
        if let Some(member) = self.members.get_mut(&listener) {
            member.mode = wanted.captions.unwrap_or(member.mode);
            member.paused = wanted.paused.unwrap_or(member.paused);
        }
    }

    /// The connections of the speaker.
    pub fn speakers(&self) -> Vec<ListenerId> {
        self.members.iter().filter(|(_, member)| member.role == Role::Speaker).map(|(id, _)| *id).collect()
    }

    /// Something to know now, for the speaker only.
    pub fn tell_speaker(&self, wall: UnixMs, message: ServerMessage) {
        let mut speakers = self.members.values().filter(|member| member.role == Role::Speaker).peekable();
        if speakers.peek().is_none() {
            return;
        }
        let text = self.encode(message, wall, None, None);
        for member in speakers {
            let pushed = member.outbox.push_durable(None, text.clone());
            self.count(pushed);
        }
    }

    /// Lets one connection have what waits for it, then close.
    pub fn close(&self, listener: ListenerId, code: u16, reason: &'static str) {
        if let Some(member) = self.members.get(&listener) {
            member.outbox.close(code, reason);
        }
    }

    pub fn remove(&mut self, listener: ListenerId) {
        self.members.remove(&listener);
    }

    pub fn change_language(&mut self, listener: ListenerId, language: Language) {
        if let Some(member) = self.members.get_mut(&listener) {
            member.language = language;
        }
    }

    /// Listeners whose socket task is gone without a goodbye.
    pub fn gone(&self) -> Vec<ListenerId> {
        self.members.iter().filter(|(_, member)| member.outbox.reader_gone()).map(|(id, _)| *id).collect()
    }

    /// A partial, for the listeners of this language who see partials in this mode.
    pub fn show(&self, language: &Language, mode: CaptionMode, segment: &str, wall: UnixMs, message: ServerMessage) {
        let mut concerned = self.of(language).filter(|(_, member)| member.mode == mode && !member.paused).peekable();
        if concerned.peek().is_none() {
            return;
        }
        let text = self.encode(message, wall, None, None);
        let key = SegmentKey::from(segment);
        for (_, member) in concerned {
            let pushed = member.outbox.push_partial(&key, text.clone());
            self.count(pushed);
        }
    }

    /// A durable event of one language, with its place in the log.
    pub fn append(&self, language: &Language, wall: UnixMs, seq: u64, message: ServerMessage) {
        let key = match &message {
            ServerMessage::Transcription(caption) => Some(SegmentKey::from(caption.segment_id.as_str())),
            _ => None,
        };
        let mut concerned = self.of(language).peekable();
        if concerned.peek().is_none() {
            return;
        }
        let text = self.encode(message, wall, Some(seq), None);
        for (_, member) in concerned {
            let pushed = member.outbox.push_durable(key.as_ref(), text.clone());
            self.count(pushed);
        }
    }

    /// Something to know now, for one language or (`None`) for everyone.
    pub fn tell(&self, language: Option<&Language>, wall: UnixMs, message: ServerMessage) {
        let text = self.encode(message, wall, None, None);
        for member in self.members.values().filter(|member| language.is_none_or(|one| member.language == *one)) {
            let pushed = member.outbox.push_durable(None, text.clone());
            self.count(pushed);
        }
    }

    /// An answer to one listener.
    pub fn answer(
        &self,
        to: ListenerId,
        wall: UnixMs,
        seq: Option<u64>,
        request: Option<String>,
        message: ServerMessage,
    ) {
        let Some(member) = self.members.get(&to) else { return };
        let text = self.encode(message, wall, seq, request);
        let pushed = member.outbox.push_durable(None, text);
        self.count(pushed);
    }

    /// Lets everyone have what waits for them, then close.
    pub fn close_all(&self, code: u16, reason: &'static str) {
        for member in self.members.values() {
            member.outbox.close(code, reason);
        }
    }

    fn of(&self, language: &Language) -> impl Iterator<Item = (&ListenerId, &Member)> {
        self.members.iter().filter(move |(_, member)| member.language == *language)
    }

    fn encode(&self, message: ServerMessage, wall: UnixMs, seq: Option<u64>, request_id: Option<String>) -> Bytes {
        let envelope = Envelope { message, session_id: Some(self.session.clone()), timestamp: wall, seq, request_id };
        Bytes::from(serde_json::to_vec(&envelope).expect("our own messages are always JSON"))
    }

    fn count(&self, pushed: Pushed) {
        match pushed {
            Pushed::Queued => self.counts.one(Count::EventsPublished),
            Pushed::Conflated => self.counts.one(Count::PartialsConflated),
            Pushed::TooSlow => self.counts.one(Count::ListenersTooSlow),
            Pushed::Closed => {}
        }
    }
}
