//! The JSON names of babelcast's own protocol: each shape once. Times are integer milliseconds, names camelCase.

mod client;
mod http;
mod server;

pub use client::{Action, CaptionMode, ClientMessage, JoinSession, Resume};
pub use http::{ConnectionView, CreateSession, IceServerView, KvsStatus, SessionView};
pub use server::{BroadcastState, Caption, Envelope, GapReason, Role, ServerMessage, SessionJoined};
