//! What happened, counted. One set of counters a session and one for the whole process.
//!
//! Every drop, refusal, retry and repair adds to a counter here, so "nothing fails silently" can be
//! checked by looking. Counters only grow; gauges live where the thing they measure lives.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counts {
    ($($(#[$doc:meta])* $variant:ident => $name:literal,)+) => {
        /// A thing that is counted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Count { $($(#[$doc])* $variant,)+ }

        impl Count {
            pub const ALL: &'static [Count] = &[$(Count::$variant,)+];

            /// Stable snake_case name, used in metrics (`babelcast_<name>_total`) and in the demo's summary.
            pub const fn name(self) -> &'static str {
                match self { $(Count::$variant => $name,)+ }
            }
        }
    };
}

counts! {
    // ear
    RtpReceived => "rtp_received",
    RtpLost => "rtp_lost",
    RtpReordered => "rtp_reordered",
    RtpDuplicate => "rtp_duplicate",
    /// Arrived after its place had been given up.
    RtpLate => "rtp_late",
    /// Empty payload: a bandwidth probe, never audio.
    RtpPadding => "rtp_padding",
    /// Of a payload type that was not negotiated.
    RtpForeign => "rtp_foreign",
    /// Far more packets than speech has.
    RtpFlood => "rtp_flood",
    FramesDecoded => "frames_decoded",
    FramesCorrected => "frames_corrected",
    FramesConcealed => "frames_concealed",
    FramesSilence => "frames_silence",
    DecodeErrors => "decode_errors",
    ViewerAttempts => "viewer_attempts",
    ViewerConnected => "viewer_connected",
    ViewerFailed => "viewer_failed",
    /// A connection to the speaker ended.
    MediaLost => "media_lost",
    /// Listeners were told that the speaker is gone.
    SpeakerLost => "speaker_lost",
    SignalingClosed => "signaling_closed",
    SignalingIgnored => "signaling_ignored",
    CandidatesRefused => "candidates_refused",
    // scribe
    /// Frames thrown away because the recogniser did not take them in time.
    FramesDropped => "frames_dropped",
    TranscribeStarts => "transcribe_starts",
    TranscribeReconnects => "transcribe_reconnects",
    TranscribeRefused => "transcribe_refused",
    TranscribeStalled => "transcribe_stalled",
    TranscribeRotations => "transcribe_rotations",
    SilenceFedMs => "silence_fed_ms",
    AudioReplayedMs => "audio_replayed_ms",
    AudioLostMs => "audio_lost_ms",
    PartialsHeard => "partials_heard",
    FinalsHeard => "finals_heard",
    /// A result for audio that was already final: the echo of a replay.
    ResultsRepeated => "results_repeated",
    CharactersSpoken => "characters_spoken",
    // translation
    Translations => "translations",
    TranslationsFailed => "translations_failed",
    TranslationsSkipped => "translations_skipped",
    CharactersTranslated => "characters_translated",
    CaptionsUntranslated => "captions_untranslated",
    // voice
    /// Clips that found too much waiting on their language's timeline.
    ClipsRefused => "clips_refused",
    /// 20 ms of a voice that a consumer was too slow for, or the clock.
    VoicePacketsLost => "voice_packets_lost",
    EgressOffers => "egress_offers",
    EgressRefused => "egress_refused",
    EgressConnected => "egress_connected",
    /// Connected listeners that went, with a goodbye or without.
    EgressEnded => "egress_ended",
    /// Answered, and never connected.
    EgressFailed => "egress_failed",
    // transcript
    /// Lines translated because somebody asked for them later.
    LinesTranslated => "lines_translated",
    LinesSaved => "lines_saved",
    /// Lines that could not be saved, and that the bound of the book or the end of the process has thrown away.
    LinesLost => "lines_lost",
    TranscriptsRefused => "transcripts_refused",
    // listeners
    ListenersJoined => "listeners_joined",
    ListenersLeft => "listeners_left",
    ListenersTooSlow => "listeners_too_slow",
    ListenersRefused => "listeners_refused",
    EventsPublished => "events_published",
    PartialsConflated => "partials_conflated",
    MessagesRefused => "messages_refused",
    // limits
    /// Connections closed at once: too many of one address, or of all.
    ConnectionsRefused => "connections_refused",
    RequestsLimited => "requests_limited",
    JoinsLimited => "joins_limited",
    /// Unknown session ids and wrong access codes: somebody guesses.
    Guesses => "guesses",
    /// Refused because of too many guesses before.
    GuessesLimited => "guesses_limited",
    MessagesLimited => "messages_limited",
    OriginsRefused => "origins_refused",
    SessionsFull => "sessions_full",
    NodeFull => "node_full",
    LanguagesRefused => "languages_refused",
    CreationsLimited => "creations_limited",
    // house
    SessionsCreated => "sessions_created",
    SessionsEnded => "sessions_ended",
    SessionsFailed => "sessions_failed",
    TokensRefused => "tokens_refused",
    StoreErrors => "store_errors",
    /// A session was taken over from another node.
    SessionsAdopted => "sessions_adopted",
    /// Given to another node, on purpose.
    SessionsHandedOver => "sessions_handed_over",
    /// Another node has taken a session from this one, or its record is gone.
    LeasesLost => "leases_lost",
    SpeakersReplaced => "speakers_replaced",
    /// Found by the sweep and put in order.
    ChannelsSwept => "channels_swept",
    RecordsSwept => "records_swept",
    /// Attempts after the first.
    StoreRetries => "store_retries",
    /// Somebody else changed a record first; it was read and decided over anew.
    StoreConflicts => "store_conflicts",
    ChannelDeletesFailed => "channel_deletes_failed",
    Panics => "panics",
}

/// A set of counters. `Counts::under(&process)` also adds to its parent.
#[derive(Debug)]
pub struct Counts {
    values: Vec<AtomicU64>,
    parent: Option<Arc<Counts>>,
}

impl Default for Counts {
    fn default() -> Self {
        Counts { values: Count::ALL.iter().map(|_| AtomicU64::new(0)).collect(), parent: None }
    }
}

impl Counts {
    pub fn under(parent: &Arc<Counts>) -> Self {
        Counts { parent: Some(Arc::clone(parent)), ..Counts::default() }
    }

    pub fn add(&self, count: Count, n: u64) {
        self.values[count as usize].fetch_add(n, Ordering::Relaxed);
        if let Some(parent) = &self.parent {
            parent.add(count, n);
        }
    }

    pub fn one(&self, count: Count) {
        self.add(count, 1);
    }

    pub fn get(&self, count: Count) -> u64 {
        self.values[count as usize].load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_counts_into_the_process_too() {
        let process = Arc::new(Counts::default());
        let session = Counts::under(&process);
        session.add(Count::RtpLost, 3);
        process.one(Count::RtpLost);
        assert_eq!((session.get(Count::RtpLost), process.get(Count::RtpLost)), (3, 4));
    }

    #[test]
    fn every_count_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = Count::ALL.iter().map(|count| count.name()).collect();
        assert_eq!(names.len(), Count::ALL.len());
    }
}
