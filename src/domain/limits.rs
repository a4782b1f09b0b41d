//! Every bound of a session in one place: the number, and what happens there.

use std::time::Duration;

use crate::audio::MediaTime;

/// Translations of one language under way at once; further clauses wait in order.
pub const TRANSLATIONS_IN_FLIGHT: usize = 4;

/// Clauses of one language waiting for translation. Past it the oldest waiting one is shown untranslated:
/// a reader would rather have late words in the wrong language than none.
pub const CLAUSES_WAITING: usize = 32;

/// A translation that has not come back by then is given up; the clause is shown in the source language.
/// Above the client's own operation timeout, so that this is only the net under it.
pub const TRANSLATION_DEADLINE: Duration = Duration::from_secs(3);

/// After so many failures in a row a language's clauses are shown untranslated at once ...
pub const BREAKER_FAILURES: u32 = 3;

/// ... and one clause in this time tries whether the service is back.
pub const BREAKER_PAUSE: Duration = Duration::from_secs(2);

/// A listener whose socket was cut comes back within seconds as a rule; until then its language stays translated,
/// so that the finals it missed are there to be resumed.
pub const DEMAND_LINGER: Duration = Duration::from_secs(20);

/// After the recogniser was restarted, an utterance that was under way waits so long to be heard again;
/// then what was understood of it is published as final.
pub const ORPHAN_DEADLINE: Duration = Duration::from_secs(8);

/// A silence between two words at which a clause may end.
pub const CLAUSE_PAUSE: MediaTime = MediaTime::from_millis(350);

/// Words a clause has at least, unless a sentence ends: fewer translate badly.
pub const CLAUSE_MIN_WORDS: usize = 4;

/// Words after which a clause is cut even without punctuation or pause, at the widest gap: latency has a bound.
pub const CLAUSE_MAX_WORDS: usize = 10;

/// Segments are numbered anew, from the next multiple of this, on a node that takes a session over: a name is never
/// used twice. A day of speech has some 30,000.
pub const SEGMENTS_PER_LEASE: u64 = 1_000_000;

/// Items in one utterance. Past it the utterance is closed as final and the rest begins a new one.
pub const UTTERANCE_MAX_ITEMS: usize = 400;

/// Utterances that may be open at once. Transcribe has one; a second appears while a final is late.
pub const OPEN_UTTERANCES: usize = 4;
