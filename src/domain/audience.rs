//! Who listens in which language, and therefore which languages are worth translating.
//!
//! Counts are kept beside the members, so that a join or a leave costs the same however many are there.

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

/// Connections in one language. A language that nobody listens to has none of these.
#[derive(Debug, Default)]
struct Heads {
    connections: u64,
    /// Of these, those that are not the speaker's own.
    listeners: u64,
}

#[derive(Debug, Default)]
pub struct Audience {
    members: BTreeMap<ListenerId, Member>,
    languages: BTreeMap<Language, Heads>,
    /// Languages whose last listener was cut off, and until when they stay in demand.
    lingering: BTreeMap<Language, Duration>,
}

impl Audience {
    pub fn join(&mut self, listener: ListenerId, language: Language, role: Role) {
        self.lingering.remove(&language);
        self.arrive(&language, role);
        if let Some(before) = self.members.insert(listener, Member { language, role }) {
            self.depart(&before);
        }
    }

    /// `cut`: the connection broke, so the listener is likely to be back.
    pub fn leave(&mut self, now: Duration, listener: ListenerId, cut: bool) {
        let Some(member) = self.members.remove(&listener) else { return };
        self.depart(&member);
        if cut && !self.languages.contains_key(&member.language) {
            self.lingering.insert(member.language, now + DEMAND_LINGER);
        }
    }

    pub fn change(&mut self, listener: ListenerId, language: Language) {
        // Who is gone already changes nothing.
        if let Some(&Member { role, .. }) = self.members.get(&listener) {
            self.join(listener, language, role);
        }
    }

    /// Languages somebody listens to, or is about to come back to.
    pub fn demand(&self, now: Duration) -> BTreeSet<&Language> {
        self.demand_without(now, None)
    }

    /// As it would be without one listener.
    pub fn demand_without(&self, now: Duration, leaving: Option<ListenerId>) -> BTreeSet<&Language> {
        let waiting = self.lingering.iter().filter(|(_, until)| **until > now).map(|(language, _)| language);
        let left = leaving.and_then(|listener| self.members.get(&listener)).map(|member| &member.language);
        let stays = |language: &Language, heads: &Heads| heads.connections > u64::from(left == Some(language));
        let heard = self.languages.iter().filter(|(language, heads)| stays(language, heads));
        heard.map(|(language, _)| language).chain(waiting).collect()
    }

    /// Listeners, the speaker's own connections not counted.
    pub fn listeners(&self) -> u64 {
        self.languages.values().map(|heads| heads.listeners).sum()
    }

    pub fn by_language(&self) -> BTreeMap<Language, u64> {
        let heard = self.languages.iter().filter(|(_, heads)| heads.listeners > 0);
        heard.map(|(language, heads)| (language.clone(), heads.listeners)).collect()
    }

    /// The next moment at which a language falls out of demand by itself.
    pub fn deadline(&self) -> Option<Duration> {
        self.lingering.values().min().copied()
    }

    pub fn forget_lingering(&mut self, now: Duration) {
        self.lingering.retain(|_, until| *until > now);
    }

    fn arrive(&mut self, language: &Language, role: Role) {
        if !self.languages.contains_key(language) {
            self.languages.insert(language.clone(), Heads::default());
        }
        if let Some(heads) = self.languages.get_mut(language) {
            heads.connections += 1;
            heads.listeners += u64::from(role == Role::Listener);
        }
    }

    fn depart(&mut self, member: &Member) {
        let Some(heads) = self.languages.get_mut(&member.language) else { return };
        heads.connections -= 1;
        heads.listeners -= u64::from(member.role == Role::Listener);
        if heads.connections == 0 {
            self.languages.remove(&member.language);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    #[derive(Debug, Clone)]
    enum Step {
        Join(u64, usize, bool),
        Leave(u64, bool),
        Change(u64, usize),
        Wait(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..6u64, 0..3usize, any::<bool>()).prop_map(|(id, at, speaker)| Step::Join(id, at, speaker)),
            (0..6u64, any::<bool>()).prop_map(|(id, cut)| Step::Leave(id, cut)),
            (0..6u64, 0..3usize).prop_map(|(id, at)| Step::Change(id, at)),
            (0..15_000u64).prop_map(Step::Wait),
        ];
        proptest::collection::vec(step, 1..60)
    }

    proptest! {
        /// The kept counts against counting everybody anew.
        #[test]
        fn the_counts_are_what_counting_everybody_gives(steps in steps()) {
            let codes = ["en", "es", "fr"].map(lang);
            let (mut audience, mut now) = (Audience::default(), Duration::ZERO);
            let mut seated: BTreeMap<u64, (usize, Role)> = BTreeMap::new();
            let mut waited_for: BTreeMap<usize, Duration> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Join(id, at, speaker) => {
                        let role = if speaker { Role::Speaker } else { Role::Listener };
                        audience.join(ListenerId(id), codes[at].clone(), role);
                        seated.insert(id, (at, role));
                        waited_for.remove(&at);
                    }
                    Step::Leave(id, cut) => {
                        audience.leave(now, ListenerId(id), cut);
                        if let Some((at, _)) = seated.remove(&id)
                            && cut && seated.values().all(|(other, _)| *other != at)
                        {
                            waited_for.insert(at, now + DEMAND_LINGER);
                        }
                    }
                    Step::Change(id, at) => {
                        audience.change(ListenerId(id), codes[at].clone());
                        if let Some(place) = seated.get_mut(&id) {
                            place.0 = at;
                            waited_for.remove(&at);
                        }
                    }
                    Step::Wait(ms) => now += Duration::from_millis(ms),
                }
                let listeners = |at: usize| {
                    seated.values().filter(|(other, role)| *other == at && *role == Role::Listener).count() as u64
                };
                let is_wanted = |at: &usize, without: Option<u64>| {
                    seated.iter().any(|(id, (other, _))| other == at && Some(*id) != without)
                        || waited_for.get(at).is_some_and(|until| *until > now)
                };
                let by_language: BTreeMap<Language, u64> =
                    (0..3).filter(|at| listeners(*at) > 0).map(|at| (codes[at].clone(), listeners(at))).collect();
                for without in (0..6).map(Some).chain([None]) {
                    let demand: BTreeSet<&Language> =
                        (0..3).filter(|at| is_wanted(at, without)).map(|at| &codes[at]).collect();
                    prop_assert_eq!(audience.demand_without(now, without.map(ListenerId)), demand);
                }
                prop_assert_eq!(audience.listeners(), (0..3).map(listeners).sum::<u64>());
                prop_assert_eq!(audience.by_language(), by_language);
            }
        }
    }
}
