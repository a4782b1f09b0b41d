//! The ground floor of babelcast: values and state machines.
//!
//! Values in, effects out, time is an argument. No runtime, no SDK, no network and no clock here,
//! and the crate boundary sees to it.

pub mod audience;
pub mod audio;
pub mod channels;
pub mod counts;
pub mod emotion;
pub mod error;
pub mod feed;
pub mod ids;
pub mod language;
pub mod ledger;
pub mod limits;
pub mod line;
pub mod microphone;
pub mod prosody;
pub mod quality;
pub mod quota;
pub mod rate;
pub mod record;
pub mod seldom;
pub mod session;
pub mod signaling;
pub mod ssml;
pub mod subtitles;
pub mod time;
pub mod track;
pub mod transcript;
pub mod utterance;
pub mod voice;
pub mod voices;
pub mod wire;
