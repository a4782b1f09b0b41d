//! The only place of this room that starts tasks: each has an owner, a span, and ends with its owner.

use std::future::Future;

use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

/// Runs `future` in the current span until it ends or the handle is dropped.
pub fn owned<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> AbortOnDropHandle<T> {
    AbortOnDropHandle::new(tokio::spawn(future.instrument(tracing::Span::current())))
}

/// Runs `future` in the current span as a child of the set's owner.
pub fn join<T: Send + 'static>(children: &mut JoinSet<T>, future: impl Future<Output = T> + Send + 'static) {
    children.spawn(future.instrument(tracing::Span::current()));
}
