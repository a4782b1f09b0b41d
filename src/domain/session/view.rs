//! What others may know of a session without asking for a change.

use std::collections::{BTreeMap, BTreeSet};

use crate::language::Language;
use crate::record::Status;
use crate::track::Track;
use crate::wire::{BroadcastState, LanguageState, LanguageStatus, StatusView};

use super::{Phase, Session};

impl Session {
    pub fn broadcast(&self) -> BroadcastState {
        self.broadcast
    }

    pub fn status(&self) -> Status {
        match (self.phase, self.broadcast.paused) {
            (Phase::Ended, _) => Status::Ended,
            (_, true) => Status::Paused,
            (_, false) => Status::Active,
        }
    }

    pub fn listeners_by_language(&self) -> BTreeMap<Language, u64> {
        self.audience.by_language()
    }

    /// Languages that are being translated into.
    pub fn translating(&self) -> impl Iterator<Item = &Language> {
        self.tracks.keys()
    }

    /// Segments whose finals in this language are still to come.
    pub fn under_way(&self, language: &Language) -> BTreeSet<u64> {
        self.tracks.get(language).map(Track::under_way).unwrap_or_default()
    }

    /// What pollers are told.
    pub fn status_view(&self) -> StatusView {
        let listeners = self.audience.by_language();
        let in_demand = listeners.keys().chain(self.shown.iter()).cloned().collect::<BTreeSet<_>>();
        let status_of = |language: Language| {
            let count = listeners.get(&language).copied().unwrap_or(0);
            let state = match (count, self.shown.contains(&language)) {
                (0, _) => LanguageState::Idle,
                (_, true) => LanguageState::Live,
                (_, false) => LanguageState::Warming,
            };
            (language, LanguageStatus { listeners: count, state })
        };
        StatusView {
            status: self.status(),
            speaker_kvs_connected: self.connected,
            listener_count: self.listeners(),
            languages: in_demand.into_iter().map(status_of).collect(),
        }
    }
}
