//! Trouble on demand. AWS cannot be asked to fail; this can.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::wire::Problem;

/// The switches, all off by default. Set them at any time with [`super::Translate::set_chaos`].
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
    /// The switches touch only requests for this target language. `None`: all of them.
    pub target: Option<String>,
    /// No answer, until this is switched off or the client goes.
    pub hang: bool,
}

impl Default for Chaos {
    fn default() -> Self {
        Chaos { delay_ms: 0, fail_next: 0, error_rate: 0.0, fault: Fault::InternalServer, target: None, hang: false }
    }
}

/// The failures of the real service that have nothing to do with the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Fault {
    /// 429 `TooManyRequestsException`
    TooManyRequests,
    /// 500 `InternalServerException`
    InternalServer,
    /// 503 `ServiceUnavailableException`
    ServiceUnavailable,
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Problem {
        match fault {
            Fault::TooManyRequests => Problem::TooManyRequests,
            Fault::InternalServer => Problem::InternalServer("chaos".to_owned()),
            Fault::ServiceUnavailable => Problem::ServiceUnavailable("chaos".to_owned()),
        }
    }
}

/// Does to one request what the switches say.
pub(super) async fn disturb(chaos: &watch::Sender<Chaos>, target: &str) -> Result<(), Problem> {
    let concerns = |chaos: &Chaos| chaos.target.as_deref().is_none_or(|only| only == target);
    let now = chaos.borrow().clone();
    if !concerns(&now) {
        return Ok(());
    }
    if now.hang {
        let on = |chaos: &Chaos| chaos.hang && concerns(chaos);
        // The sender is borrowed, so waiting ends only by the switch or with the client.
        let _ = chaos.subscribe().wait_for(|chaos| !on(chaos)).await;
    }
    tokio::time::sleep(Duration::from_millis(now.delay_ms)).await;
    let counted = chaos.send_if_modified(|chaos| {
        let fails = chaos.fail_next > 0 && concerns(chaos);
        chaos.fail_next -= u32::from(fails);
        fails
    });
    if counted || rand::random_bool(now.error_rate.clamp(0.0, 1.0)) {
        return Err(now.fault.into());
    }
    Ok(())
}
