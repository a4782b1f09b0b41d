//! The ground floor of babelcast: values and state machines.
//!
//! Values in, effects out, time is an argument. No runtime, no SDK, no network and no clock here,
//! and the crate boundary sees to it.

pub mod audio;
pub mod counts;
pub mod error;
pub mod ids;
pub mod language;
pub mod quality;
pub mod record;
pub mod signaling;
pub mod time;
pub mod transcript;
pub mod wire;
