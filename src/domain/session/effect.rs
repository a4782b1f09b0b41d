//! What a session is told and what it asks for.

use crate::audio::MediaTime;
use crate::counts::Count;
use crate::ids::ListenerId;
use crate::language::Language;
use crate::record::{Change, Edit, EndReason, SessionRecord};
use crate::transcript::Heard;
use crate::wire::{Caption, CaptionMode, Role, ServerMessage};

#[derive(Debug)]
pub enum Input {
    Joined {
        listener: ListenerId,
        language: Language,
        role: Role,
    },
    /// `cut`: the connection broke; otherwise the listener said goodbye.
    Left {
        listener: ListenerId,
        cut: bool,
    },
    LanguageChanged {
        listener: ListenerId,
        language: Language,
    },
    /// The speaker's own word, by `kvs-status`.
    SpeakerSays {
        connected: bool,
    },
    /// The first frame of a (new) media connection, at this place of the capture clock.
    MediaUp {
        at: MediaTime,
    },
    MediaLost {
        reason: &'static str,
    },
    /// The speaker's controls.
    Pause(bool),
    Mute(bool),
    /// 0..1
    Volume(f32),
    /// The owner changes what may be changed at any time.
    Edit(Edit),
    /// The record as the store holds it: another node may have changed something.
    Seen(Box<SessionRecord>),
    /// A result of the recogniser, with times on the capture clock.
    Heard(Heard),
    /// The recogniser lost its state; `lost` is audio that cannot be replayed.
    RecogniserRestarted {
        lost: Option<(MediaTime, MediaTime)>,
    },
    /// The recogniser fails again and again (true), or answers again (false).
    RecogniserDown(bool),
    /// Audio that never reached the recogniser.
    AudioLost {
        from: MediaTime,
        to: MediaTime,
    },
    Translated {
        language: Language,
        job: u64,
        result: Option<String>,
    },
    End(EndReason),
    /// This node gives the session up to another: last words are said, nothing ends.
    HandOver,
    /// After `End` or `HandOver`: the recogniser has said its last word.
    RecogniserFlushed,
    /// A deadline of [`Session::deadline`] has come.
    Tick,
}

/// To whom something is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum To {
    Everyone,
    Language(Language),
}

#[derive(Debug, PartialEq)]
pub enum Effect {
    /// A partial: replaced by the next of its segment, never owed.
    Show {
        mode: CaptionMode,
        caption: Caption,
    },
    /// A durable event: it gets its place in the log and reaches every listener it concerns, in every caption mode.
    Append {
        to: To,
        message: ServerMessage,
    },
    /// Worth knowing now, not worth keeping.
    Tell {
        to: To,
        message: ServerMessage,
    },
    Translate {
        language: Language,
        job: u64,
        text: String,
    },
    /// Whether the ear should expect the speaker (true: try eagerly; false: the speaker said goodbye).
    Expect {
        speaker: bool,
    },
    /// Stop hearing, let the recogniser finish what it has.
    Flush,
    /// Whether what the ear hears goes on to the recogniser: not while paused or muted.
    Listen(bool),
    /// The record is to be made to say so.
    Save(Change),
    Count(Count, u64),
    /// Nothing more will come; the session's task may end. Without a reason the session itself goes on elsewhere.
    Finish(Option<EndReason>),
}
