//! What was said, as it is kept: one line per finished segment and language.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::language::Language;

/// A finished segment in one language. Lines of one language are ordered by `segment`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    pub segment: u64,
    pub language: Language,
    pub text: String,
    /// On the capture clock.
    pub start_ms: u64,
    pub end_ms: u64,
    /// Part of `text` is in the source language, because the translation service failed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub untranslated: bool,
}

// Spoken text stays out of logs.
impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Line({} {}, {} chars)", self.segment, self.language, self.text.chars().count())
    }
}
