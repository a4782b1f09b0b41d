//! The river: one actor per session, and where the wings meet.
//!
//! `ear` (audio in) → `frames` → `scribe` (transcription) → `session` (the machine's shell) → `fanout` → `outbox` → `seat`.

mod admission;
mod anteroom;
mod birth;
mod book;
mod clock;
mod ear;
mod fanout;
mod frames;
mod idempotent;
mod keeper;
mod library;
mod life;
mod log;
mod mood;
mod outbox;
mod scribe;
mod seat;
mod session;
mod sessions;
mod settings;
mod stats;
mod sweep;
mod task;
mod visits;

pub use admission::Limits;
pub use idempotent::IdempotencyKey;
pub use library::Transcripts;
pub use outbox::Delivery;

pub use seat::Seat;
pub use session::{Control, JoinRequest, Meter, Snapshot};
pub use sessions::{Found, Sessions};
pub use settings::{Lease, Patience, Settings};
pub use sweep::{SweepError, Swept, Verdict};
