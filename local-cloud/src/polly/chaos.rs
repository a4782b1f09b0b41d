//! Trouble on demand. AWS cannot be asked to fail; this can.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::request::Problem;
use super::ssml::InvalidSsml;

/// The switches, all off by default. Set them at any time with [`super::Polly::set_chaos`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Chaos {
    /// Every answer waits this long, in milliseconds.
    pub delay_ms: u64,
    /// The next so many requests fail; counts down.
    pub fail_next: u32,
    /// Share of requests that fail, 0 to 1.
    pub error_rate: f64,
    /// What a failure looks like.
    pub fault: Fault,
    /// The next so many answers break off after half of their body; counts down.
    pub cut_next: u32,
    /// The next so many answers say nothing more after half of their body; counts down.
    pub stall_next: u32,
    /// The switches touch only requests for this language. `None`: all of them.
    pub language: Option<String>,
    /// No answer, until this is switched off or the client goes.
    pub hang: bool,
}

impl Default for Chaos {
    fn default() -> Self {
        Chaos {
            delay_ms: 0,
            fail_next: 0,
            error_rate: 0.0,
            fault: Fault::ServiceFailure,
            cut_next: 0,
            stall_next: 0,
            language: None,
            hang: false,
        }
    }
}

/// The failures of the real service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Fault {
    /// 400 `ThrottlingException`
    Throttling,
    /// 500 `ServiceFailureException`
    ServiceFailure,
    /// 400 `InvalidSsmlException`, whatever the markup
    InvalidSsml,
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Problem {
        match fault {
            Fault::Throttling => Problem::Throttling,
            Fault::ServiceFailure => Problem::ServiceFailure("chaos".to_owned()),
            Fault::InvalidSsml => Problem::InvalidSsml(InvalidSsml("chaos".to_owned())),
        }
    }
}

/// What becomes of the body of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Whole,
    Cut,
    Stalled,
}

/// Does to one request what the switches say, and tells how its body is to end.
pub(super) async fn disturb(chaos: &watch::Sender<Chaos>, language: &str) -> Result<Ending, Problem> {
    let concerns = |chaos: &Chaos| chaos.language.as_deref().is_none_or(|only| only == language);
    let now = chaos.borrow().clone();
    if !concerns(&now) {
        return Ok(Ending::Whole);
    }
    if now.hang {
        let on = |chaos: &Chaos| chaos.hang && concerns(chaos);
        // The sender is borrowed, so waiting ends only by the switch or with the client.
        let _ = chaos.subscribe().wait_for(|chaos| !on(chaos)).await;
    }
    tokio::time::sleep(Duration::from_millis(now.delay_ms)).await;
    let count_down = |counter: fn(&mut Chaos) -> &mut u32| {
        chaos.send_if_modified(|chaos| {
            let concerned = concerns(chaos);
            let left = counter(chaos);
            let counted = concerned && *left > 0;
            *left -= u32::from(counted);
            counted
        })
    };
    if count_down(|chaos| &mut chaos.fail_next) || rand::random_bool(now.error_rate.clamp(0.0, 1.0)) {
        return Err(now.fault.into());
    }
    if count_down(|chaos| &mut chaos.cut_next) {
        return Ok(Ending::Cut);
    }
    match count_down(|chaos| &mut chaos.stall_next) {
        true => Ok(Ending::Stalled),
        false => Ok(Ending::Whole),
    }
}
