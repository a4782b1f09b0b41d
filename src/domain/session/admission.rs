//! Whether there is room for one more listener or one more language.

use std::time::Duration;

use serde_json::json;

use crate::error::{ErrorCode, Problem};
use crate::ids::ListenerId;
use crate::language::Language;
use crate::wire::Role;

use super::Session;

/// How much one session may cost. 0: no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Listeners at once.
    pub listeners: u64,
    /// Languages in demand at once, the source not counted: each is translated, and paid for, by itself.
    pub languages: usize,
}

impl Session {
    /// Whether somebody may join in this language. The speaker always may: what it reads is one language more at most.
    ///
    /// # Errors
    /// `SESSION_FULL`; `details.reason` is `listeners` or `languages`.
    pub fn admit(&self, now: Duration, role: Role, language: &Language) -> Result<(), Problem> {
        if role == Role::Speaker {
            return Ok(());
        }
        let most = self.terms.limits.listeners;
        if most > 0 && self.listeners() >= most {
            let message = format!("This session has {most} listeners, which is the most; try again in a moment");
            let details = json!({ "reason": "listeners", "limit": most, "retryAfterMs": 5_000 });
            return Err(Problem::new(ErrorCode::SessionFull, message).with(details));
        }
        self.admit_language(now, None, language)
    }

    /// Whether a listener may change to this language; the language it leaves makes room.
    ///
    /// # Errors
    /// As [`Session::admit`].
    pub fn admit_change(&self, now: Duration, listener: ListenerId, language: &Language) -> Result<(), Problem> {
        self.admit_language(now, Some(listener), language)
    }

    fn admit_language(&self, now: Duration, leaving: Option<ListenerId>, language: &Language) -> Result<(), Problem> {
        let most = self.terms.limits.languages;
        let demand = self.audience.demand_without(now, leaving);
        let translated: Vec<_> = demand.into_iter().filter(|one| **one != self.source).collect();
        if most == 0 || *language == self.source || translated.contains(&language) || translated.len() < most {
            return Ok(());
        }
        let message = format!(
            "This session is translated into {most} languages already, which is the most; choose one of details.languages"
        );
        let details = json!({ "reason": "languages", "limit": most, "languages": translated, "retryAfterMs": 30_000 });
        Err(Problem::new(ErrorCode::SessionFull, message).with(details))
    }
}
