//! `/ws/echo`: sends back what comes, on the same line as everything else. For conformance suites, off by default.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;

use super::House;
use super::error::Refusal;
use super::line::{self, Heard, Line};

/// The suites send up to 16 MiB, which is why this route has a limit of its own.
const MAX_MESSAGE_BYTES: usize = 16 << 20;

pub(super) async fn open(State(house): State<Arc<House>>, request: Request) -> Result<Response, Refusal> {
    let stop = house.stop.child_token();
    line::answer(&house, request, MAX_MESSAGE_BYTES, None, move |mut line: Line| async move {
        loop {
            let heard = tokio::select! {
                heard = line.hear() => heard,
                () = stop.cancelled() => return Box::pin(line.close(1001, "going away")).await,
            };
            let said = match heard {
                Heard::Text(text) | Heard::TooMany(text, _) => line.say(text).await,
                Heard::Binary(bytes) => line.say_binary(bytes).await,
                Heard::End(end) => Err(end),
            };
            if let Err(end) = said {
                return Box::pin(line.end(end)).await;
            }
        }
    })
}
