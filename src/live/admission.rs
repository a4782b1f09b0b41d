//! How much is too much: listeners of this node and of one session, its languages, and a speaker's new sessions.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use babelcast_domain::counts::Count;
use babelcast_domain::error::{ErrorCode, Problem};
use babelcast_domain::ids::{AccessCode, ListenerId, SpeakerId};
use babelcast_domain::language::Language;
use babelcast_domain::seldom::Seldom;
use babelcast_domain::session;
use babelcast_domain::wire::{ChangeLanguage, Role};
use serde::Deserialize;
use serde_json::json;

use super::session::{Actor, JoinRequest};
use super::sessions::Sessions;

const MINUTE: Duration = Duration::from_secs(60);

/// 0: no limit.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Listeners of one session at once.
    pub listeners_per_session: u64,
    /// Listeners of all sessions of this process at once.
    pub listeners_per_node: usize,
    /// Languages of one session in demand at once, the source not counted: each is translated, and paid for, by itself.
    pub languages_per_session: usize,
    /// Sessions one speaker may create in a minute, over all nodes.
    pub creations_per_minute: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            listeners_per_session: 10_000,
            listeners_per_node: 20_000,
            languages_per_session: 12,
            creations_per_minute: 10,
        }
    }
}

impl Limits {
    /// For benches and tests that measure something else.
    pub const OFF: Limits =
        Limits { listeners_per_session: 0, listeners_per_node: 0, languages_per_session: 0, creations_per_minute: 0 };

    pub(super) fn of_session(&self) -> session::Limits {
        session::Limits { listeners: self.listeners_per_session, languages: self.languages_per_session }
    }
}

/// The places for listeners that this node has.
#[derive(Debug, Default)]
pub(super) struct Places {
    taken: AtomicUsize,
    full: Seldom,
}

/// One of them; free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<Places>);

impl Places {
    /// # Errors
    /// `SESSION_FULL` when `most` are taken.
    pub fn take(self: &Arc<Self>, most: usize) -> Result<Place, Problem> {
        let room = |taken: usize| (most == 0 || taken < most).then_some(taken + 1);
        if self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_err() {
            let details = json!({ "reason": "node", "retryAfterMs": 5_000 });
            let message = "This server has all the listeners it can take; try again in a moment";
            return Err(Problem::new(ErrorCode::SessionFull, message).with(details));
        }
        Ok(Place(Arc::clone(self)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Actor {
    /// The language a newcomer means, if it knows the access code and there is room for one more. Nobody comes to a seat
    /// but by here.
    pub(super) fn admitted(&self, request: &JoinRequest) -> Result<Language, Problem> {
        if request.role == Role::Listener {
            self.record.borrow().admits(request.access_code.as_ref().map(AccessCode::reveal))?;
        }
        let language = self.session.resolve(request.target_language.as_deref())?;
        self.told(self.session.admit(self.clock.now().mono, request.role, &language))?;
        Ok(language)
    }

    /// The languages of text and voice a listener means, if there is room for them. No voice: it follows the text.
    pub(super) fn admitted_change(
        &self,
        listener: ListenerId,
        wanted: &ChangeLanguage,
    ) -> Result<(Language, Option<Language>), Problem> {
        let language = self.session.resolve(Some(&wanted.target_language))?;
        let voice = wanted.audio_language.as_deref().map(|asked| self.session.resolve(Some(asked))).transpose()?;
        self.told(self.session.admit_change(self.clock.now().mono, listener, &language))?;
        Ok((language, voice))
    }

    fn told(&self, admitted: Result<(), Problem>) -> Result<(), Problem> {
        admitted.inspect_err(|problem| {
            let of = |reason| problem.details.as_ref().is_some_and(|details| details["reason"] == reason);
            let count = if of("languages") { Count::LanguagesRefused } else { Count::SessionsFull };
            self.meter.counts.one(count);
            if let Some(times) = self.meter.full.again(self.clock.now().wall) {
                tracing::warn!(reason = count.name(), times, "the session is full: listeners are refused");
            }
        })
    }
}

impl Sessions {
    /// A place for one more listener on this node.
    pub(super) fn place(&self) -> Result<Place, Problem> {
        self.places.take(self.settings.limits.listeners_per_node).inspect_err(|_| {
            self.counts.one(Count::NodeFull);
            if let Some(times) = self.places.full.again(self.clock.now().wall) {
                tracing::warn!(times, "this node has all the listeners it may have: more are refused");
            }
        })
    }

    /// Counts one more session of this speaker; the count is shared by all nodes.
    ///
    /// # Errors
    /// `RATE_LIMITED` beyond the limit. A store that cannot count stops nobody: creating needs it anyway and says so.
    pub(super) async fn charge_creation(&self, speaker: &SpeakerId) -> Result<(), Problem> {
        let most = self.settings.limits.creations_per_minute;
        if most == 0 {
            return Ok(());
        }
        let (now, counter) = (self.clock.now().wall, format!("creations#{}", speaker.reveal()));
        match self.store.count(&counter, now, MINUTE).await {
            Ok(created) if created > most => {
                self.counts.one(Count::CreationsLimited);
                tracing::info!("a speaker creates sessions too fast and is refused");
                let window = MINUTE.as_millis() as u64;
                let details = json!({ "retryAfterMs": window - now.0 % window, "limit": most });
                let message = format!("you may create {most} sessions a minute; wait a little");
                Err(Problem::new(ErrorCode::RateLimited, message).with(details))
            }
            Ok(_) => Ok(()),
            Err(error) => {
                self.store_failed(&error);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_is_left_is_free_again() {
        let places = Arc::new(Places::default());
        let (one, _two) = (places.take(2).unwrap(), places.take(2).unwrap());
        assert_eq!(places.take(2).unwrap_err().code, ErrorCode::SessionFull);
        drop(one);
        assert!(places.take(2).is_ok());
        assert!(places.take(0).is_ok(), "0 is no limit");
    }
}
