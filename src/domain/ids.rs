//! Names of sessions, people and connections.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `adjective-noun-number`, `blessed-covenant-420`. Guessable on purpose (people read it aloud), so it opens
/// nothing but the public view of a session.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = String, pattern = "^[a-z][a-z0-9-]{2,63}$", examples("blessed-covenant-420"))]
pub struct SessionId(String);

/// The text cannot be a session id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a session id such as `blessed-covenant-420`")]
pub struct NotASessionId;

impl SessionId {
    /// 3 to 64 characters of `a-z`, `0-9` and `-`, starting with a letter. Upper case is accepted, as people type it.
    pub fn parse(text: &str) -> Result<Self, NotASessionId> {
        let text = text.to_ascii_lowercase();
        let shape = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let fits = (3..=64).contains(&text.len()) && text.bytes().all(shape) && text.as_bytes()[0].is_ascii_lowercase();
        if fits { Ok(SessionId(text)) } else { Err(NotASessionId) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the session's KVS signaling channel.
    pub fn channel_name(&self) -> String {
        format!("session-{}", self.0)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SessionId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        SessionId::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// A speaker's identity: the `sub` of the token. No `Display`, so that it cannot reach a log or a public view by accident.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SpeakerId(String);

impl SpeakerId {
    pub fn new(sub: impl Into<String>) -> Self {
        SpeakerId(sub.into())
    }

    /// The `sub` itself, for the store and the owner's view only.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SpeakerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SpeakerId(…)")
    }
}

/// One WebSocket connection in one session, as the session's actor counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId(pub u64);

/// One running server, as leases and presence counters know it. New with every start: a restarted process is
/// another node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(String);

impl NodeId {
    pub fn new(name: impl Into<String>) -> Self {
        NodeId(name.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a listener must know to join, where the speaker wants it.
#[derive(Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = String, pattern = "^[!-~]{4,64}$", examples("tulip-42"))]
pub struct AccessCode(String); // no `Display`, and a `Debug` that hides it

/// The text cannot be an access code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an access code has 4 to 64 printable characters without spaces")]
pub struct NotAnAccessCode;

impl AccessCode {
    pub fn parse(text: &str) -> Result<Self, NotAnAccessCode> {
        let fits = (4..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        if fits { Ok(AccessCode(text.to_owned())) } else { Err(NotAnAccessCode) }
    }

    /// The code itself, to be compared or handed to its owner.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Compares in a time that does not tell how much of it is right.
    pub fn is(&self, offered: &str) -> bool {
        let (mine, theirs) = (self.0.as_bytes(), offered.as_bytes());
        let differs = mine.iter().zip(theirs).fold(mine.len() ^ theirs.len(), |sum, (a, b)| sum | usize::from(a ^ b));
        differs == 0
    }
}

impl fmt::Debug for AccessCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessCode(…)")
    }
}

impl<'de> Deserialize<'de> for AccessCode {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        AccessCode::parse(&text).map_err(serde::de::Error::custom)
    }
}
