//! The broadcast as a machine: inputs in, effects out, time is an argument.
//!
//! [`Session`] composes smaller machines: [`Audience`] (who listens), [`Utterances`] (what was said) and one
//! [`Track`] per target language in demand. Deliberately absent: sockets, queues, clocks, AWS.

mod admission;
mod effect;
mod show;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::audience::Audience;
use crate::audio::MediaTime;
use crate::counts::Count;
use crate::error::{ErrorCode, Problem};
use crate::language::{Catalogue, Language};
use crate::limits::{ORPHAN_DEADLINE, SEGMENTS_PER_LEASE};
use crate::record::{Change, Edit, EndReason, SessionRecord, Status};
use crate::time::{Now, UnixMs};
use crate::track::Track;
use crate::transcript::Heard;
use crate::utterance::Utterances;
use crate::wire::{BroadcastState, GapReason, ServerMessage};

pub use admission::Limits;
pub use effect::{Effect, Input, To};

/// Where the broadcast stands. `(status, speakerKvsConnected)` in the record is its stored shadow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// No speaker yet.
    Waiting,
    Live,
    /// The speaker was here and is away.
    Interrupted,
    Ended,
}

/// What a session is told about itself at birth.
#[derive(Debug, Clone)]
pub struct Terms {
    /// A session without speaker media for so long is ended as abandoned.
    pub abandon_after: Duration,
    /// After `End`, translations under way get so long before the session is closed without them.
    pub flush_deadline: Duration,
    pub limits: Limits,
}

#[derive(Debug)]
pub struct Session {
    source: Language,
    allowed: Option<Vec<Language>>,
    catalogue: std::sync::Arc<Catalogue>,
    terms: Terms,
    expires_at: UnixMs,
    phase: Phase,
    connected: bool,
    broadcast: BroadcastState,
    audience: Audience,
    utterances: Utterances,
    tracks: BTreeMap<Language, Track>,
    tracks_opened: u64,
    /// Wall-clock time of [`MediaTime::ZERO`].
    first_audio: Option<UnixMs>,
    away_since: Option<MediaTime>,
    media_up: bool,
    idle_since: Duration,
    orphans_until: Option<Duration>,
    recogniser_down: bool,
    /// Languages in which something was shown since somebody last began to listen in them.
    shown: BTreeSet<Language>,
    ending: Option<Ending>,
}

#[derive(Debug)]
struct Ending {
    /// Absent when the session is handed over.
    reason: Option<EndReason>,
    flushed: bool,
    until: Duration,
}

impl Session {
    pub fn new(now: Now, record: &SessionRecord, catalogue: std::sync::Arc<Catalogue>, terms: Terms) -> Self {
        Session {
            source: record.source_language.clone(),
            allowed: record.target_languages.clone(),
            catalogue,
            terms,
            expires_at: UnixMs(record.expires_at.saturating_mul(1_000)),
            phase: if record.status == Status::Ended { Phase::Ended } else { Phase::Waiting },
            connected: record.speaker_kvs_connected,
            broadcast: BroadcastState { paused: record.status == Status::Paused, ..BroadcastState::default() },
            audience: Audience::default(),
            utterances: Utterances::starting_at(record.fence.saturating_sub(1) * SEGMENTS_PER_LEASE),
            tracks: BTreeMap::new(),
            tracks_opened: 0,
            first_audio: record.first_audio_at,
            // Taken over from another node: what is said until media comes is missing.
            away_since: record.first_audio_at.map(|first| since(first, now)),
            media_up: false,
            idle_since: now.mono,
            orphans_until: None,
            recogniser_down: false,
            shown: BTreeSet::new(),
            ending: None,
        }
    }

    /// The language a listener means, or a problem that lists what is offered. Absent: the source language.
    pub fn resolve(&self, asked: Option<&str>) -> Result<Language, Problem> {
        self.catalogue.choose(asked, &self.source, self.allowed.as_deref())
    }

    pub fn source(&self) -> &Language {
        &self.source
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    pub fn speaker_connected(&self) -> bool {
        self.connected
    }

    pub fn listeners(&self) -> u64 {
        self.audience.listeners()
    }

    /// Audio before this time is final and need not be replayed to a new recogniser stream.
    pub fn final_until(&self) -> MediaTime {
        self.utterances.final_until()
    }

    pub fn handle(&mut self, now: Now, input: Input, out: &mut Vec<Effect>) {
        if self.phase == Phase::Ended {
            return;
        }
        match input {
            Input::Joined { listener, language, role } => {
                self.audience.join(listener, language, role);
                out.push(Effect::Count(Count::ListenersJoined, 1));
                self.follow_demand(now, out);
            }
            Input::Left { listener, cut } => {
                self.audience.leave(now.mono, listener, cut);
                out.push(Effect::Count(Count::ListenersLeft, 1));
                self.follow_demand(now, out);
            }
            Input::LanguageChanged { listener, language } => {
                self.audience.change(listener, language);
                self.follow_demand(now, out);
            }
            Input::SpeakerSays { connected } => self.speaker_says(now, connected, out),
            Input::MediaUp { at } => self.media_up(now, at, out),
            Input::MediaLost { reason } => self.media_lost(now, reason, out),
            Input::Pause(paused) => self.set_broadcast(BroadcastState { paused, ..self.broadcast }, out),
            Input::Mute(muted) => self.set_broadcast(BroadcastState { muted, ..self.broadcast }, out),
            Input::Volume(volume) => self.set_broadcast(BroadcastState { volume, ..self.broadcast }, out),
            Input::Edit(edit) => self.edit(edit, out),
            Input::Seen(record) => self.seen(now, &record, out),
            Input::Heard(heard) => {
                let mut understood = Vec::new();
                self.count_heard(&heard, out);
                self.utterances.hear(heard, &mut understood);
                self.tell(now, understood, out);
            }
            Input::RecogniserRestarted { lost } => {
                self.utterances.restarted();
                self.orphans_until = self.utterances.has_orphans().then(|| now.mono + ORPHAN_DEADLINE);
                if let Some((from, to)) = lost {
                    gap(from, to, GapReason::TranscriptionRestarted, out);
                }
            }
            Input::RecogniserDown(down) => self.recogniser_down(down, out),
            Input::AudioLost { from, to } => gap(from, to, GapReason::AudioLost, out),
            Input::Translated { language, job, result } => {
                out.push(Effect::Count(
                    if result.is_some() { Count::Translations } else { Count::TranslationsFailed },
                    1,
                ));
                let mut asks = Vec::new();
                if let Some(track) = self.tracks.get_mut(&language) {
                    track.translated(now.mono, job, result, &mut asks);
                }
                self.obey(&language, asks, out);
            }
            Input::End(reason) => self.end(now, reason, out),
            Input::HandOver => self.begin_end(now, None, out),
            Input::RecogniserFlushed => {
                if let Some(ending) = &mut self.ending {
                    ending.flushed = true;
                    self.close_utterances(now, out);
                }
            }
            Input::Tick => self.tick(now, out),
        }
        self.finish_if_done(now, out);
    }

    /// When [`Input::Tick`] is due. Expiry is told by the wall clock and translated here.
    pub fn deadline(&self, now: Now) -> Option<Duration> {
        if self.phase == Phase::Ended {
            return None;
        }
        // What would end the session is not waited for any more when it is ending: it would be due at every moment.
        let lives = self.ending.is_none();
        let expiry = lives.then(|| now.mono + Duration::from_millis(self.expires_at.0.saturating_sub(now.wall.0)));
        let abandoned = (lives && !self.media_up).then(|| self.idle_since + self.terms.abandon_after);
        let ending = self.ending.as_ref().map(|ending| ending.until);
        let tracks = self.tracks.values().filter_map(Track::deadline).min();
        [expiry, abandoned, ending, tracks, self.audience.deadline(), self.orphans_until].into_iter().flatten().min()
    }

    fn speaker_says(&mut self, now: Now, connected: bool, out: &mut Vec<Effect>) {
        out.push(Effect::Expect { speaker: connected });
        if connected {
            self.set_connected(true, "", out);
        } else {
            self.media_gone(now);
            self.away_since = None; // a goodbye leaves no gap
            self.set_connected(false, "speaker", out);
        }
    }

    /// The speaker turns a knob: told, and saved where it is a matter of record.
    fn set_broadcast(&mut self, next: BroadcastState, out: &mut Vec<Effect>) {
        if next.paused != self.broadcast.paused {
            out.push(Effect::Save(Change::Paused(next.paused)));
        }
        self.show_broadcast(next, out);
    }

    /// The one place where the broadcast's controls change: told once per change.
    fn show_broadcast(&mut self, next: BroadcastState, out: &mut Vec<Effect>) {
        let before = std::mem::replace(&mut self.broadcast, next);
        if before == next {
            return;
        }
        let heard = |state: BroadcastState| !state.paused && !state.muted;
        if heard(before) != heard(next) {
            out.push(Effect::Listen(heard(next)));
        }
        out.push(Effect::Append { to: To::Everyone, message: ServerMessage::BroadcastState(next) });
    }

    fn edit(&mut self, edit: Edit, out: &mut Vec<Effect>) {
        if let Some(languages) = &edit.target_languages {
            self.allowed.clone_from(languages);
        }
        out.push(Effect::Save(Change::Edited(edit)));
    }

    /// Another node has spoken: what it says of the session is so, and need not be saved again.
    fn seen(&mut self, now: Now, record: &SessionRecord, out: &mut Vec<Effect>) {
        self.allowed.clone_from(&record.target_languages);
        if record.status == Status::Ended {
            self.begin_end(now, Some(record.end_reason.unwrap_or(EndReason::Failed)), out);
            return;
        }
        if record.speaker_kvs_connected != self.connected {
            self.speaker_says(now, record.speaker_kvs_connected, out);
        }
        self.show_broadcast(BroadcastState { paused: record.status == Status::Paused, ..self.broadcast }, out);
    }

    fn media_up(&mut self, now: Now, at: MediaTime, out: &mut Vec<Effect>) {
        if self.first_audio.is_none() {
            let first = UnixMs(now.wall.0.saturating_sub(at.as_millis()));
            self.first_audio = Some(first);
            out.push(Effect::Save(Change::FirstAudio(first)));
        }
        self.media_up = true;
        self.phase = Phase::Live;
        if let Some(since) = self.away_since.take() {
            gap(since, at, GapReason::SpeakerAway, out);
        }
        self.set_connected(true, "", out);
    }

    fn media_lost(&mut self, now: Now, reason: &'static str, out: &mut Vec<Effect>) {
        if !self.media_up {
            return;
        }
        out.push(Effect::Count(Count::SpeakerLost, 1));
        self.media_gone(now);
        self.set_connected(false, reason, out);
    }

    fn media_gone(&mut self, now: Now) {
        if !self.media_up {
            return;
        }
        self.media_up = false;
        self.idle_since = now.mono;
        self.phase = Phase::Interrupted;
        self.away_since = self.first_audio.map(|first| since(first, now));
    }

    /// The one place where the flag changes: told and saved once per change.
    fn set_connected(&mut self, connected: bool, reason: &str, out: &mut Vec<Effect>) {
        if self.connected == connected {
            return;
        }
        self.connected = connected;
        let message = if connected {
            ServerMessage::SpeakerKvsReady
        } else {
            ServerMessage::SpeakerKvsDisconnected { reason: reason.to_owned() }
        };
        out.push(Effect::Append { to: To::Everyone, message });
        out.push(Effect::Save(Change::KvsConnected(connected)));
    }

    /// Opens a track for every language in demand and drops the others: no translation without demand.
    fn follow_demand(&mut self, now: Now, out: &mut Vec<Effect>) {
        let demand: BTreeSet<Language> =
            self.audience.demand(now.mono).into_iter().filter(|language| **language != self.source).cloned().collect();
        let before: usize = self.tracks.len();
        self.tracks.retain(|language, _| demand.contains(language));
        self.shown.retain(|language| demand.contains(language) || *language == self.source);
        let dropped = (before - self.tracks.len()) as u64;
        if dropped > 0 {
            out.push(Effect::Count(Count::TranslationsSkipped, dropped));
        }
        for language in demand {
            if self.tracks.contains_key(&language) {
                continue;
            }
            self.tracks_opened += 1;
            let mut track = Track::new(language.clone(), self.source.clone(), self.tracks_opened << 32);
            let mut asks = Vec::new();
            // A sentence under way is translated from its beginning, so that its final is whole.
            for clause in self.utterances.open_clauses() {
                track.push(now.mono, clause.clone(), &mut asks);
            }
            self.tracks.insert(language.clone(), track);
            self.obey(&language, asks, out);
        }
    }

    /// Listeners are told once when captions stop coming; the captions themselves tell that they are back.
    fn recogniser_down(&mut self, down: bool, out: &mut Vec<Effect>) {
        if down && !self.recogniser_down {
            out.push(Effect::Tell {
                to: To::Everyone,
                message: outage("transcribe", "Recognition does not answer; captions go on when it is back"),
            });
        }
        self.recogniser_down = down;
    }

    /// When the sound at this place of the capture clock reached us.
    pub fn heard_at(&self, end_ms: u64) -> Option<UnixMs> {
        self.first_audio.map(|first| UnixMs(first.0 + end_ms))
    }

    fn count_heard(&self, heard: &Heard, out: &mut Vec<Effect>) {
        out.push(Effect::Count(if heard.is_final { Count::FinalsHeard } else { Count::PartialsHeard }, 1));
    }

    fn end(&mut self, now: Now, reason: EndReason, out: &mut Vec<Effect>) {
        if self.ending.is_some() {
            return;
        }
        out.push(Effect::Save(Change::Ended(reason)));
        self.begin_end(now, Some(reason), out);
    }

    fn begin_end(&mut self, now: Now, reason: Option<EndReason>, out: &mut Vec<Effect>) {
        if self.ending.is_none() {
            self.ending = Some(Ending { reason, flushed: false, until: now.mono + self.terms.flush_deadline });
            out.push(Effect::Flush);
        }
    }

    fn close_utterances(&mut self, now: Now, out: &mut Vec<Effect>) {
        let mut understood = Vec::new();
        self.utterances.close_all(&mut understood);
        self.tell(now, understood, out);
    }

    fn tick(&mut self, now: Now, out: &mut Vec<Effect>) {
        if self.orphans_until.is_some_and(|until| until <= now.mono) {
            self.orphans_until = None;
            let mut understood = Vec::new();
            self.utterances.close_orphans(&mut understood);
            self.tell(now, understood, out);
        }
        let languages: Vec<Language> = self.tracks.keys().cloned().collect();
        for language in languages {
            let mut asks = Vec::new();
            if let Some(track) = self.tracks.get_mut(&language) {
                track.tick(now.mono, &mut asks);
            }
            self.obey(&language, asks, out);
        }
        self.audience.forget_lingering(now.mono);
        self.follow_demand(now, out);
        if now.wall >= self.expires_at {
            self.end(now, EndReason::Expired, out);
        } else if !self.media_up && now.mono >= self.idle_since + self.terms.abandon_after {
            self.end(now, EndReason::Abandoned, out);
        }
        if self.ending.as_ref().is_some_and(|ending| ending.until <= now.mono) {
            self.close_utterances(now, out);
            self.close_tracks(out);
        }
    }

    /// The end does not wait any longer: what is still being translated is shown as it was spoken.
    fn close_tracks(&mut self, out: &mut Vec<Effect>) {
        for (language, mut track) in std::mem::take(&mut self.tracks) {
            let mut asks = Vec::new();
            track.close(&mut asks);
            self.obey(&language, asks, out);
        }
    }

    fn finish_if_done(&mut self, now: Now, out: &mut Vec<Effect>) {
        let Some(ending) = &self.ending else { return };
        let drained = ending.flushed && self.tracks.values().all(Track::is_idle);
        if !drained && now.mono < ending.until {
            return;
        }
        let reason = ending.reason;
        self.phase = Phase::Ended;
        self.connected = false;
        if let Some(reason) = reason {
            out.push(Effect::Append { to: To::Everyone, message: ServerMessage::SessionEnded { reason } });
        }
        out.push(Effect::Finish(reason));
    }
}

fn since(first_audio: UnixMs, now: Now) -> MediaTime {
    MediaTime::from_millis(now.wall.0.saturating_sub(first_audio.0))
}

fn outage(service: &str, message: &str) -> ServerMessage {
    let details = Problem::upstream(service).details;
    ServerMessage::Error { code: ErrorCode::UpstreamUnavailable, message: message.to_owned(), retryable: true, details }
}

fn gap(from: MediaTime, to: MediaTime, reason: GapReason, out: &mut Vec<Effect>) {
    let message = ServerMessage::Gap { from_ms: from.as_millis(), to_ms: to.as_millis().max(from.as_millis()), reason };
    out.push(Effect::Append { to: To::Everyone, message });
}

#[cfg(test)]
mod tests;
