//! WebRTC and codecs: audio in from the speaker, and the speaker's own side for `speak`, `demo` and tests.

pub mod opus;
pub mod order;
mod peer;
pub mod socket;
pub mod viewer;

pub use peer::{IceServer, PeerError};
