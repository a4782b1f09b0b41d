//! The session machine under any sequence of inputs: late, doubled, contradictory, at any time of the capture clock.
//!
//! What must hold: what stable listeners saw is never taken back; revisions only grow; nothing of a segment comes after
//! its final; finals come in the order of the source's, none twice; nothing is translated that nobody listens to; whatever was shown
//! becomes final; a tick does what its deadline asked for; the end comes once and is the last word.

#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use babelcast_domain::audio::MediaTime;
use babelcast_domain::ids::{ListenerId, SessionId, SpeakerId};
use babelcast_domain::language::{Catalogue, Language};
use babelcast_domain::limits::DEMAND_LINGER;
use babelcast_domain::record::{Change, EndReason, QualityTier, SessionRecord, SignalingEndpoints, Status};
use babelcast_domain::session::{Effect, Input, Limits, Phase, Session, Terms, To};
use babelcast_domain::time::{Now, UnixMs};
use babelcast_domain::transcript::{Heard, Word};
use babelcast_domain::wire::{Caption, CaptionMode, Role, ServerMessage};
use libfuzzer_sys::fuzz_target;

const LANGUAGES: [&str; 4] = ["en", "es", "fr", "ja"];
const TEXTS: [&str; 12] = ["we", "go", "to", "the", "river", "a.b", "é日", "", " ", ",", ".", "。"];
const FLUSH: Duration = Duration::from_secs(4);

#[derive(Debug, Clone, arbitrary::Arbitrary)]
enum Step {
    Join { id: u8, language: u8, speaker: bool },
    Leave { id: u8, cut: bool },
    Change { id: u8, language: u8 },
    Says(bool),
    Pause(bool),
    Mute(bool),
    Volume(u8),
    MediaUp,
    MediaUpAt(u64),
    MediaLost,
    Heard { id: u8, at: u16, words: Vec<Spoken>, is_final: bool },
    HeardAt { id: u8, start: u64, end: u64, text: u8, is_final: bool },
    Restarted(Option<(u64, u64)>),
    Down(bool),
    AudioLost(u64, u64),
    Answer { which: u8, ok: bool, text: u8 },
    AnswerTwice { which: u8 },
    AnswerUnasked { language: u8, job: u64 },
    End(u8),
    Flushed,
    Wait(u16),
    WaitLong(u16),
}

#[derive(Debug, Clone, arbitrary::Arbitrary)]
struct Spoken {
    text: u8,
    gap: u8,
    length: u8,
    stable: bool,
    punctuation: bool,
}

fuzz_target!(|steps: Vec<Step>| {
    let mut stage = Stage::new();
    for step in steps {
        stage.step(step);
    }
    stage.finish();
});

/// What one language has seen of one segment.
#[derive(Default)]
struct Shown {
    revisions: BTreeMap<CaptionMode, u32>,
    stable: String,
}

struct Stage {
    session: Session,
    now: Now,
    here: BTreeMap<u64, Language>,
    /// Languages whose listener was cut off, and when.
    cut: BTreeMap<Language, Duration>,
    asked: Vec<(Language, u64, String)>,
    jobs: BTreeSet<u64>,
    open: BTreeMap<(Language, String), Shown>,
    finals: BTreeMap<Language, Vec<String>>,
    saved_end: u32,
    finished: u32,
    /// The recogniser has said its last word.
    flushed: bool,
}

impl Stage {
    fn new() -> Self {
        let targets = LANGUAGES[1..].iter().map(|text| language(text)).collect();
        let catalogue = Catalogue::new([(language("en"), language("en-US"))], targets);
        let now = Now { mono: Duration::ZERO, wall: UnixMs(1_000_000) };
        let terms = Terms { abandon_after: Duration::from_secs(600), flush_deadline: FLUSH, limits: Limits::default() };
        Stage {
            session: Session::new(now, &record(), Arc::new(catalogue), terms),
            now,
            here: BTreeMap::new(),
            cut: BTreeMap::new(),
            asked: Vec::new(),
            jobs: BTreeSet::new(),
            open: BTreeMap::new(),
            finals: BTreeMap::new(),
            saved_end: 0,
            finished: 0,
            flushed: false,
        }
    }

    fn step(&mut self, step: Step) {
        let input = match step {
            Step::Join { id, language: asked, speaker } => {
                // A connection joins once; the actor never gives a number again.
                if self.here.contains_key(&u64::from(id)) {
                    return;
                }
                let language = pick(asked);
                self.here.insert(u64::from(id), language.clone());
                self.cut.remove(&language);
                let role = if speaker { Role::Speaker } else { Role::Listener };
                Input::Joined { listener: ListenerId(u64::from(id)), language, role }
            }
            Step::Leave { id, cut } => {
                let left = self.here.remove(&u64::from(id)).filter(|_| cut);
                if let Some(language) = left.filter(|left| !self.here.values().any(|one| one == left)) {
                    self.cut.insert(language, self.now.mono);
                }
                Input::Left { listener: ListenerId(u64::from(id)), cut }
            }
            Step::Change { id, language: asked } => {
                let language = pick(asked);
                if let Some(here) = self.here.get_mut(&u64::from(id)) {
                    here.clone_from(&language);
                    self.cut.remove(&language);
                }
                Input::LanguageChanged { listener: ListenerId(u64::from(id)), language }
            }
            Step::Says(connected) => Input::SpeakerSays { connected },
            Step::Pause(paused) => Input::Pause(paused),
            Step::Mute(muted) => Input::Mute(muted),
            Step::Volume(volume) => Input::Volume(f32::from(volume) / 255.0),
            Step::MediaUp => Input::MediaUp { at: MediaTime::from_millis(self.now.mono.as_millis() as u64) },
            Step::MediaUpAt(at) => Input::MediaUp { at: MediaTime::from_micros(at) },
            Step::MediaLost => Input::MediaLost { reason: "mediaLost" },
            Step::Heard { id, at, words, is_final } => Input::Heard(heard(id, at, &words, is_final)),
            Step::HeardAt { id, start, end, text, is_final } => {
                let (start, end) = (MediaTime::from_micros(start), MediaTime::from_micros(end));
                let word = word(TEXTS[usize::from(text) % TEXTS.len()], start, end, true, false);
                Input::Heard(Heard { result_id: format!("r{id}"), is_final, start, end, words: vec![word] })
            }
            Step::Restarted(lost) => {
                Input::RecogniserRestarted { lost: lost.map(|(from, to)| (micros(from), micros(to))) }
            }
            Step::Down(down) => Input::RecogniserDown(down),
            Step::AudioLost(from, to) => Input::AudioLost { from: micros(from), to: micros(to) },
            Step::Answer { which, ok, text } => {
                if self.asked.is_empty() {
                    return;
                }
                let (language, job, _) = self.asked.swap_remove(usize::from(which) % self.asked.len());
                let result = ok.then(|| TEXTS[usize::from(text) % TEXTS.len()].to_owned());
                Input::Translated { language, job, result }
            }
            Step::AnswerTwice { which } => {
                if self.asked.is_empty() {
                    return;
                }
                let (language, job, text) = self.asked[usize::from(which) % self.asked.len()].clone();
                Input::Translated { language, job, result: Some(text) }
            }
            Step::AnswerUnasked { language: of, job } => {
                let job = if self.jobs.contains(&job) { u64::MAX } else { job };
                Input::Translated { language: pick(of), job, result: Some("never asked".to_owned()) }
            }
            Step::End(reason) => Input::End(match reason % 3 {
                0 => EndReason::Speaker,
                1 => EndReason::Failed,
                _ => EndReason::Abandoned,
            }),
            // Only a session that ends is flushed.
            Step::Flushed if self.saved_end == 0 => return,
            Step::Flushed => Input::RecogniserFlushed,
            Step::Wait(ms) => return self.wait(u64::from(ms)),
            Step::WaitLong(seconds) => return self.wait(u64::from(seconds) * 1_000),
        };
        self.give(input);
    }

    /// Time passes as for the actor: it ticks whenever it is due.
    fn wait(&mut self, ms: u64) {
        let until = self.now.mono + Duration::from_millis(ms);
        while let Some(due) = self.session.deadline(self.now).filter(|due| *due <= until) {
            self.advance(due.max(self.now.mono));
            self.give(Input::Tick);
            if let Some(next) = self.session.deadline(self.now) {
                assert!(next > self.now.mono, "a tick leaves its own deadline behind: the actor would spin");
            }
        }
        self.advance(until);
    }

    /// The wall clock counts whole milliseconds; a deadline between two of them is kept at the later one.
    fn advance(&mut self, to: Duration) {
        let ms = (to - self.now.mono).as_nanos().div_ceil(1_000_000) as u64;
        self.now.mono += Duration::from_millis(ms);
        self.now.wall = UnixMs(self.now.wall.0 + ms);
    }

    fn give(&mut self, input: Input) {
        self.flushed |= matches!(input, Input::RecogniserFlushed);
        if self.flushed && matches!(input, Input::Heard(_)) {
            return;
        }
        let over = self.session.phase() == Phase::Ended;
        let mut out = Vec::new();
        self.session.handle(self.now, input, &mut out);
        assert!(!over || out.is_empty(), "after the end nothing happens");
        for effect in out {
            self.check(effect);
        }
        assert_eq!(self.finished > 0, self.session.phase() == Phase::Ended);
        // A language that fell out of demand begins anew when somebody comes for it.
        let wanted = |language: &Language| *language == self.language_spoken() || self.in_demand(language);
        let gone: Vec<_> = self.open.keys().filter(|(language, _)| !wanted(language)).cloned().collect();
        gone.iter().for_each(|key| drop(self.open.remove(key)));
    }

    fn check(&mut self, effect: Effect) {
        assert_eq!(self.finished, 0, "the end is the last word");
        match effect {
            Effect::Show { mode, caption } => self.shown(mode, &caption),
            Effect::Append { to, message: ServerMessage::Transcription(caption) } => {
                assert_eq!(to, To::Language(caption.language.clone()));
                assert!(caption.is_final, "only finals are durable");
                self.finals_of(&caption);
            }
            Effect::Append { message: ServerMessage::Gap { from_ms, to_ms, .. }, .. } => assert!(from_ms <= to_ms),
            Effect::Translate { language, job, text } => {
                assert!(self.in_demand(&language), "translated for nobody");
                assert!(self.jobs.insert(job), "a job's number is used once");
                assert!(!text.trim().is_empty());
                self.asked.push((language, job, text));
            }
            Effect::Save(Change::Ended(_)) => self.saved_end += 1,
            Effect::Finish(_) => self.finished += 1,
            _ => {}
        }
        assert!(self.saved_end <= 1 && self.finished <= self.saved_end);
    }

    fn shown(&mut self, mode: CaptionMode, caption: &Caption) {
        assert!(!caption.is_final && mode != CaptionMode::Final);
        assert!(
            self.finals.get(&caption.language).is_none_or(|all| !all.contains(&caption.segment_id)),
            "after its final"
        );
        self.seen(Some(mode), caption);
    }

    fn finals_of(&mut self, caption: &Caption) {
        self.seen(None, caption);
        self.open.remove(&(caption.language.clone(), caption.segment_id.clone()));
        let all = self.finals.entry(caption.language.clone()).or_default();
        assert!(!all.contains(&caption.segment_id), "a final comes once");
        all.push(caption.segment_id.clone());
    }

    /// Checks a caption against what the same reader saw of the segment before; `None`: every reader.
    fn seen(&mut self, mode: Option<CaptionMode>, caption: &Caption) {
        assert!(caption.stable_chars <= caption.text.chars().count());
        assert!(caption.start_ms <= caption.end_ms, "{} {}", caption.start_ms, caption.end_ms);
        let shown = self.open.entry((caption.language.clone(), caption.segment_id.clone())).or_default();
        for one in [CaptionMode::Raw, CaptionMode::Stable] {
            if mode.is_none_or(|mode| mode == one)
                && let Some(before) = shown.revisions.insert(one, caption.revision)
            {
                assert!(before < caption.revision, "a revision goes back");
            }
        }
        if mode != Some(CaptionMode::Raw) {
            assert!(caption.text.starts_with(&shown.stable), "taken back: {:?} -> {:?}", shown.stable, caption.text);
            shown.stable.clone_from(&caption.text);
        }
    }

    fn in_demand(&self, language: &Language) -> bool {
        let lingers = self.cut.get(language).is_some_and(|at| self.now.mono < *at + DEMAND_LINGER);
        lingers || self.here.values().any(|one| one == language)
    }

    fn language_spoken(&self) -> Language {
        language(LANGUAGES[0])
    }

    /// Ends the session; whatever was begun must come to its end.
    fn finish(mut self) {
        if self.session.phase() != Phase::Ended {
            self.give(Input::End(EndReason::Speaker));
            self.give(Input::RecogniserFlushed);
            self.wait(FLUSH.as_millis() as u64);
        }
        assert_eq!((self.session.phase(), self.finished, self.saved_end), (Phase::Ended, 1, 1));
        assert_eq!(self.session.deadline(self.now), None);
        let here: BTreeSet<Language> = self.here.values().cloned().chain([self.language_spoken()]).collect();
        let left = self.open.keys().find(|(language, _)| here.contains(language));
        assert_eq!(left, None, "shown and never final");
        let spoken = self.finals.remove(&self.language_spoken()).unwrap_or_default();
        for finals in self.finals.values() {
            let mut spoken = spoken.iter();
            assert!(
                finals.iter().all(|one| spoken.any(|other| other == one)),
                "in the order in which they were spoken"
            );
        }
    }
}

fn heard(id: u8, at: u16, spoken: &[Spoken], is_final: bool) -> Heard {
    let start = u64::from(at) * 10;
    let mut now = start;
    let mut words = Vec::new();
    for one in spoken.iter().take(60) {
        let from = now + u64::from(one.gap) * 5;
        let length = if one.punctuation { 0 } else { u64::from(one.length) * 4 };
        now = from + length;
        let text = TEXTS[usize::from(one.text) % TEXTS.len()];
        words.push(word(text, MediaTime::from_millis(from), MediaTime::from_millis(now), one.stable, one.punctuation));
    }
    let (start, end) = (MediaTime::from_millis(start), MediaTime::from_millis(now));
    Heard { result_id: format!("r{}", id % 6), is_final, start, end, words }
}

fn word(text: &str, start: MediaTime, end: MediaTime, stable: bool, punctuation: bool) -> Word {
    Word { text: text.to_owned(), punctuation, start, end, stable, confidence: None }
}

fn micros(at: u64) -> MediaTime {
    MediaTime::from_micros(at)
}

fn language(text: &str) -> Language {
    Language::parse(text).expect("a language of the list")
}

fn pick(which: u8) -> Language {
    language(LANGUAGES[usize::from(which) % LANGUAGES.len()])
}

fn record() -> SessionRecord {
    SessionRecord {
        session_id: SessionId::parse("calm-river-7").expect("an id"),
        speaker_id: SpeakerId::new("sub"),
        title: None,
        source_language: language(LANGUAGES[0]),
        target_languages: None,
        quality_tier: QualityTier::Standard,
        status: Status::Active,
        end_reason: None,
        speaker_kvs_connected: false,
        kvs_channel_arn: String::new(),
        kvs_channel_name: String::new(),
        kvs_signaling_endpoints: SignalingEndpoints { wss: String::new(), https: String::new() },
        kvs_stream_name: None,
        glossary: None,
        vocabulary: None,
        created_at: UnixMs(0),
        updated_at: UnixMs(0),
        expires_at: 86_400,
        access_code: None,
        private_transcript: false,
        first_audio_at: None,
        version: 1,
        lease_owner: None,
        lease_until: None,
        fence: 1,
    }
}
