//! What was said, as it is kept: one line per finished segment and language.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::language::Language;
use crate::time::UnixMs;
use crate::track::{segment_id, segment_number};
use crate::wire::Caption;

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

impl Line {
    /// What is kept of a final caption; `None` for a partial one.
    pub fn of(caption: &Caption) -> Option<Line> {
        let segment = segment_number(&caption.segment_id).filter(|_| caption.is_final)?;
        Some(Line {
            segment,
            language: caption.language.clone(),
            text: caption.text.clone(),
            start_ms: caption.start_ms,
            end_ms: caption.end_ms,
            untranslated: caption.untranslated,
        })
    }

    /// As a final caption again; `spoken`: the same segment in the source language, if this is not that.
    pub fn caption(&self, heard_at: Option<UnixMs>, spoken: Option<&Caption>) -> Caption {
        Caption {
            segment_id: segment_id(self.segment),
            revision: 1,
            is_final: true,
            language: self.language.clone(),
            text: self.text.clone(),
            stable_chars: self.text.chars().count(),
            start_ms: self.start_ms,
            end_ms: self.end_ms,
            heard_at,
            source_language: spoken.map(|spoken| spoken.language.clone()),
            source_text: spoken.map(|spoken| spoken.text.clone()),
            untranslated: self.untranslated,
        }
    }
}

// Spoken text stays out of logs.
impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Line({} {}, {} chars)", self.segment, self.language, self.text.chars().count())
    }
}
