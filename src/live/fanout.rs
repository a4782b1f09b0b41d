//! From one event to every listener it concerns: encoded once per language and caption mode, the same bytes for all.

use std::collections::{BTreeMap, BTreeSet};

use babelcast_domain::counts::{Count, Counts};
use babelcast_domain::ids::{ListenerId, SessionId};
use babelcast_domain::language::Language;
use babelcast_domain::time::UnixMs;
use babelcast_domain::wire::{CaptionMode, Envelope, Role, ServerMessage, SetPlayback};
use bytes::Bytes;

use super::outbox::{Outbox, Pushed, SegmentKey};

struct Member {
    mode: CaptionMode,
    /// No partials while the listener has paused.
    paused: bool,
    /// `sessionJoined` comes first: before that it hears nothing.
    seated: bool,
    outbox: Outbox,
}

/// Everybody who hears one language.
struct Group {
    language: Language,
    members: BTreeMap<ListenerId, Member>,
}

/// The outboxes of one session.
///
/// Kept by language, so that an event costs no more than those it concerns, and a join or a leave the same however many
/// are there.
pub struct Fanout {
    session: SessionId,
    /// One for each language that was ever heard, and there are only so many languages. None is taken out again, so that
    /// places stay true.
    groups: Vec<Group>,
    /// In which group each one is.
    places: BTreeMap<ListenerId, usize>,
    speakers: BTreeSet<ListenerId>,
    counts: std::sync::Arc<Counts>,
}

impl Fanout {
    pub fn new(session: SessionId, counts: std::sync::Arc<Counts>) -> Self {
        Fanout { session, groups: Vec::new(), places: BTreeMap::new(), speakers: BTreeSet::new(), counts }
    }

    /// Who is added hears nothing before it is seated.
    pub fn add(&mut self, listener: ListenerId, language: Language, mode: CaptionMode, role: Role, outbox: Outbox) {
        if role == Role::Speaker {
            self.speakers.insert(listener);
        }
        self.put(listener, language, Member { mode, paused: false, seated: false, outbox });
    }

    pub fn seat(&mut self, listener: ListenerId) {
        if let Some(member) = self.member_mut(listener) {
            member.seated = true;
        }
    }

    pub fn set_playback(&mut self, listener: ListenerId, wanted: SetPlayback) {
        if let Some(member) = self.member_mut(listener) {
            member.mode = wanted.captions.unwrap_or(member.mode);
            member.paused = wanted.paused.unwrap_or(member.paused);
        }
    }

    /// The connections of the speaker.
    pub fn speakers(&self) -> Vec<ListenerId> {
        self.speakers.iter().copied().collect()
    }

    /// Something to know now, for the speaker only.
    pub fn tell_speaker(&self, wall: UnixMs, message: ServerMessage) {
        if self.speakers.is_empty() {
            return;
        }
        let text = self.encode(message, wall, None, None);
        for member in self.speakers.iter().filter_map(|speaker| self.member(*speaker)) {
            let pushed = member.outbox.push_durable(None, text.clone());
            self.count(pushed);
        }
    }

    /// Lets one connection have what waits for it, then close.
    pub fn close(&self, listener: ListenerId, code: u16, reason: &'static str) {
        if let Some(member) = self.member(listener) {
            member.outbox.close(code, reason);
        }
    }

    /// Whether it was there.
    pub fn remove(&mut self, listener: ListenerId) -> bool {
        self.speakers.remove(&listener);
        self.take(listener).is_some()
    }

    pub fn change_language(&mut self, listener: ListenerId, language: Language) {
        if let Some(member) = self.take(listener) {
            self.put(listener, language, member);
        }
    }

    /// A partial, for the listeners of this language who see partials in this mode.
    pub fn show(&self, language: &Language, mode: CaptionMode, segment: &str, wall: UnixMs, message: ServerMessage) {
        let mut concerned = self.of(language).filter(|member| member.mode == mode && !member.paused).peekable();
        if concerned.peek().is_none() {
            return;
        }
        let text = self.encode(message, wall, None, None);
        let key = SegmentKey::from(segment);
        for member in concerned {
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
        for member in concerned {
            let pushed = member.outbox.push_durable(key.as_ref(), text.clone());
            self.count(pushed);
        }
    }

    /// Something to know now, for one language or (`None`) for everyone.
    pub fn tell(&self, language: Option<&Language>, wall: UnixMs, message: ServerMessage) {
        let text = self.encode(message, wall, None, None);
        let groups = self.groups.iter().filter(|group| language.is_none_or(|one| group.language == *one));
        for member in groups.flat_map(|group| group.members.values()).filter(|member| member.seated) {
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
        let Some(member) = self.member(to) else { return };
        let text = self.encode(message, wall, seq, request);
        let pushed = member.outbox.push_durable(None, text);
        self.count(pushed);
    }

    /// Lets everyone have what waits for them, then close.
    pub fn close_all(&self, code: u16, reason: &'static str) {
        for member in self.groups.iter().flat_map(|group| group.members.values()) {
            member.outbox.close(code, reason);
        }
    }

    fn of(&self, language: &Language) -> impl Iterator<Item = &Member> {
        let group = self.groups.iter().find(|group| group.language == *language);
        group.into_iter().flat_map(|group| group.members.values()).filter(|member| member.seated)
    }

    fn member(&self, listener: ListenerId) -> Option<&Member> {
        self.groups.get(*self.places.get(&listener)?)?.members.get(&listener)
    }

    fn member_mut(&mut self, listener: ListenerId) -> Option<&mut Member> {
        self.groups.get_mut(*self.places.get(&listener)?)?.members.get_mut(&listener)
    }

    fn put(&mut self, listener: ListenerId, language: Language, member: Member) {
        let known = self.groups.iter().position(|group| group.language == language);
        let place = known.unwrap_or_else(|| {
            self.groups.push(Group { language, members: BTreeMap::new() });
            self.groups.len() - 1
        });
        self.places.insert(listener, place);
        self.groups[place].members.insert(listener, member);
    }

    fn take(&mut self, listener: ListenerId) -> Option<Member> {
        let place = self.places.remove(&listener)?;
        self.groups.get_mut(place)?.members.remove(&listener)
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
