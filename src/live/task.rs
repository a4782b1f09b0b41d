//! The only place of this room that starts tasks: each has an owner, a span, and ends with its owner.

use std::future::Future;

use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

/// Runs `future` in the current span until it ends or the handle is dropped.
pub fn owned<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> AbortOnDropHandle<T> {
    AbortOnDropHandle::new(tokio::spawn(future.instrument(tracing::Span::current())))
}
