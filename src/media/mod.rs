//! WebRTC and codecs: audio in from the speaker, and the speaker's own side for `speak`, `demo` and tests.

pub mod channel;
pub mod clip;
mod desk;
pub mod dub;
pub mod egress;
mod faults;
pub mod master;
mod mic;
pub mod ogg;
pub mod opus;
pub mod order;
mod peer;
mod repeat;
pub mod socket;
mod talk;
mod timeline;
pub mod viewer;
pub mod wav;

pub use faults::Faults;
pub use peer::{IceServer, PeerError};

#[cfg(test)]
mod tests;
