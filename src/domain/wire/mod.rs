//! The JSON names of babelcast's own protocol: each shape once. Times are integer milliseconds, names camelCase.

pub mod audio;
mod client;
mod http;
mod server;
mod transcript;

pub use client::{
    Action, AudioFormat, Authenticate, CaptionMode, ChangeLanguage, ClientMessage, JoinSession, Resume, SetPlayback,
    SetVolume,
};
pub use http::{
    ConnectionView, CreateSession, IceServerView, KvsStatus, LanguageState, LanguageStatus, PatchSession, SessionPage,
    SessionView, StatusView,
};
pub use server::{
    AudioWarning, BroadcastState, Caption, Envelope, GapReason, QualityReport, Role, ServerMessage, SessionJoined,
};
pub use transcript::{TranscriptLine, TranscriptView};
