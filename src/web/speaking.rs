//! A speaker's connection lives longer than the token it came with: it is asked for a fresh one in time.

use std::time::Duration;

use babelcast_domain::error::{ErrorCode, Problem};
use babelcast_domain::time::UnixMs;
use tokio::time::sleep;

use super::auth::{AuthSettings, Caller};
use super::wall;

/// Clocks are set and machines sleep: the wall clock is looked at this often at least.
const LOOK: Duration = Duration::from_secs(60);

/// The owner of a session, on the owner's connection.
pub(super) struct Speaking {
    pub caller: Caller,
    asked: bool,
    ask_at: UnixMs,
    close_at: UnixMs,
}

/// What a token's end asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// A fresh token, before this one ends at the given time.
    Ask(UnixMs),
    /// Nobody sent one.
    Close,
}

impl Speaking {
    pub fn new(caller: Caller, settings: &AuthSettings) -> Box<Self> {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let ask_at = UnixMs(caller.expires_at.0.saturating_sub(millis(settings.ask_before)));
        let close_at = UnixMs(caller.good_until.0.saturating_add(millis(settings.close_after)));
        Box::new(Speaking { caller, asked: false, ask_at, close_at })
    }

    /// Whether this caller may go on in the place of the present one.
    ///
    /// # Errors
    /// `FORBIDDEN` for anybody else: a connection does not change hands.
    pub fn may_become(&self, caller: &Caller) -> Result<(), Problem> {
        if caller.id == self.caller.id {
            return Ok(());
        }
        let message = "This token belongs to somebody else; send a fresh one of the speaker who is connected here";
        Err(Problem::new(ErrorCode::Forbidden, message))
    }

    /// Waits until something is due. Cancel safe. The timer is boxed, because a listener's task has room for this
    /// future too and never runs it.
    pub async fn due(&mut self) -> Due {
        loop {
            let now = wall();
            if now >= self.close_at {
                return Due::Close;
            }
            if !self.asked && now >= self.ask_at {
                self.asked = true;
                return Due::Ask(self.caller.expires_at);
            }
            let next = if self.asked { self.close_at } else { self.ask_at };
            Box::pin(sleep(Duration::from_millis(next.0 - now.0).min(LOOK))).await;
        }
    }
}

/// Never, for a listener.
pub(super) async fn due(speaking: Option<&mut Speaking>) -> Due {
    match speaking {
        Some(speaking) => speaking.due().await,
        None => std::future::pending().await,
    }
}
