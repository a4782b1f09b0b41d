//! Who listens in which language, and therefore which languages are worth translating.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::ids::ListenerId;
use crate::language::Language;
use crate::limits::DEMAND_LINGER;
use crate::wire::Role;

#[derive(Debug, Clone)]
struct Member {
    language: Language,
    role: Role,
}

#[derive(Debug, Default)]
pub struct Audience {
    members: BTreeMap<ListenerId, Member>,
    /// Languages whose last listener was cut off, and until when they stay in demand.
    lingering: BTreeMap<Language, Duration>,
}

impl Audience {
    pub fn join(&mut self, listener: ListenerId, language: Language, role: Role) {
        self.lingering.remove(&language);
        self.members.insert(listener, Member { language, role });
    }

    /// `cut`: the connection broke, so the listener is likely to be back.
    pub fn leave(&mut self, now: Duration, listener: ListenerId, cut: bool) {
        let Some(member) = self.members.remove(&listener) else { return };
        if cut && !self.is_heard(&member.language) {
            self.lingering.insert(member.language, now + DEMAND_LINGER);
        }
    }

    pub fn change(&mut self, listener: ListenerId, language: Language) {
        // Who is gone already changes nothing.
        if let Some(member) = self.members.get_mut(&listener) {
            self.lingering.remove(&language);
            member.language = language;
        }
    }

    /// Languages somebody listens to, or is about to come back to.
    pub fn demand(&self, now: Duration) -> BTreeSet<&Language> {
        self.demand_without(now, None)
    }

    /// As it would be without one listener.
    pub fn demand_without(&self, now: Duration, leaving: Option<ListenerId>) -> BTreeSet<&Language> {
        let waiting = self.lingering.iter().filter(|(_, until)| **until > now).map(|(language, _)| language);
        let staying = self.members.iter().filter(|(listener, _)| Some(**listener) != leaving);
        staying.map(|(_, member)| &member.language).chain(waiting).collect()
    }

    /// Listeners, the speaker's own connections not counted.
    pub fn listeners(&self) -> u64 {
        self.members.values().filter(|member| member.role == Role::Listener).count() as u64
    }

    pub fn by_language(&self) -> BTreeMap<Language, u64> {
        let mut counts = BTreeMap::new();
        for member in self.members.values().filter(|member| member.role == Role::Listener) {
            *counts.entry(member.language.clone()).or_default() += 1;
        }
        counts
    }

    /// The next moment at which a language falls out of demand by itself.
    pub fn deadline(&self) -> Option<Duration> {
        self.lingering.values().min().copied()
    }

    pub fn forget_lingering(&mut self, now: Duration) {
        self.lingering.retain(|_, until| *until > now);
    }

    fn is_heard(&self, language: &Language) -> bool {
        self.members.values().any(|member| member.language == *language)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lang(text: &str) -> Language {
        Language::parse(text).unwrap()
    }

    #[test]
    fn a_cut_listener_keeps_the_language_in_demand_for_a_while_and_a_goodbye_does_not() {
        let mut audience = Audience::default();
        let (cut, goodbye) = (ListenerId(1), ListenerId(2));
        audience.join(cut, lang("es"), Role::Listener);
        audience.join(goodbye, lang("fr"), Role::Listener);
        let now = Duration::from_secs(5);
        audience.leave(now, cut, true);
        audience.leave(now, goodbye, false);
        assert_eq!(audience.demand(now).into_iter().cloned().collect::<Vec<_>>(), [lang("es")]);
        assert!(audience.demand(now + DEMAND_LINGER).is_empty());
        assert_eq!(audience.deadline(), Some(now + DEMAND_LINGER));
    }

    #[test]
    fn a_change_of_language_by_a_connection_that_is_gone_changes_nothing() {
        let mut audience = Audience::default();
        audience.join(ListenerId(1), lang("es"), Role::Listener);
        audience.leave(Duration::ZERO, ListenerId(1), true);
        audience.change(ListenerId(1), lang("es"));
        assert_eq!(audience.demand(Duration::ZERO).len(), 1, "its return is still waited for");
    }

    #[test]
    fn the_speaker_is_no_listener() {
        let mut audience = Audience::default();
        audience.join(ListenerId(1), lang("en"), Role::Speaker);
        audience.join(ListenerId(2), lang("en"), Role::Listener);
        assert_eq!(audience.listeners(), 1);
    }
}
