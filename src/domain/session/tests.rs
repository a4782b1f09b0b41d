use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::ids::{ListenerId, SessionId, SpeakerId};
use crate::record::{QualityTier, SignalingEndpoints};
use crate::transcript::Word;
use crate::wire::Caption;
use crate::wire::Role;

fn lang(text: &str) -> Language {
    Language::parse(text).unwrap()
}

fn record() -> SessionRecord {
    SessionRecord {
        session_id: SessionId::parse("calm-river-7").unwrap(),
        speaker_id: SpeakerId::new("sub"),
        title: None,
        source_language: lang("en"),
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
        first_audio_at: None,
        version: 1,
        access_code: None,
        private_transcript: false,
        lease_owner: None,
        lease_until: None,
        fence: 1,
    }
}

/// A session with a clock one can turn and a record of all it did.
struct Stage {
    session: Session,
    now: Now,
    done: Vec<Effect>,
}

impl Stage {
    fn new() -> Self {
        Stage::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        let catalogue = Catalogue::new([(lang("en"), lang("en-US"))], vec![lang("es"), lang("fr")]);
        let now = Now { mono: Duration::ZERO, wall: UnixMs(0) };
        let (abandon_after, flush_deadline) = (Duration::from_secs(1_800), Duration::from_secs(4));
        let terms = Terms { abandon_after, flush_deadline, limits };
        Stage { session: Session::new(now, &record(), Arc::new(catalogue), terms), now, done: Vec::new() }
    }

    fn wait(&mut self, ms: u64) {
        self.now.mono += Duration::from_millis(ms);
        self.now.wall = UnixMs(self.now.wall.0 + ms);
    }

    fn give(&mut self, input: Input) -> Vec<Effect> {
        let mut out = Vec::new();
        self.session.handle(self.now, input, &mut out);
        self.done.extend(out.iter().map(copy));
        out
    }

    fn join(&mut self, id: u64, language: &str) {
        self.give(Input::Joined { listener: ListenerId(id), language: lang(language), role: Role::Listener });
    }

    fn messages(&self) -> Vec<&ServerMessage> {
        let mut messages = Vec::new();
        for effect in &self.done {
            if let Effect::Append { message, .. } = effect {
                messages.push(message);
            }
        }
        messages
    }

    /// Final texts of one language, in the order they were published.
    fn finals(&self, language: &str) -> Vec<(String, String)> {
        let is = |caption: &&Caption| caption.language.as_str() == language;
        let caption = |message: &'_ ServerMessage| match message {
            ServerMessage::Transcription(caption) => Some(caption.clone()),
            _ => None,
        };
        let captions: Vec<Caption> = self.messages().into_iter().filter_map(caption).collect();
        captions.iter().filter(is).map(|caption| (caption.segment_id.clone(), caption.text.clone())).collect()
    }
}

fn copy(effect: &Effect) -> Effect {
    match effect {
        Effect::Show { mode, caption } => Effect::Show { mode: *mode, caption: caption.clone() },
        Effect::Append { to, message } => Effect::Append { to: to.clone(), message: message.clone() },
        Effect::Tell { to, message } => Effect::Tell { to: to.clone(), message: message.clone() },
        Effect::Translate { language, job, text } => {
            Effect::Translate { language: language.clone(), job: *job, text: text.clone() }
        }
        Effect::Expect { speaker } => Effect::Expect { speaker: *speaker },
        Effect::Flush => Effect::Flush,
        Effect::Save(change) => Effect::Save(change.clone()),
        Effect::Listen(listen) => Effect::Listen(*listen),
        Effect::Count(count, n) => Effect::Count(*count, *n),
        Effect::Finish(reason) => Effect::Finish(*reason),
    }
}

fn heard(id: &str, at_ms: u64, text: &str, stable: usize, is_final: bool) -> Heard {
    let word = |(index, text): (usize, &str)| Word {
        text: text.into(),
        punctuation: false,
        start: MediaTime::from_millis(at_ms + index as u64 * 100),
        end: MediaTime::from_millis(at_ms + index as u64 * 100 + 80),
        stable: index < stable,
        confidence: None,
    };
    let words: Vec<Word> = text.split(' ').enumerate().map(word).collect();
    let end = words.last().map(|word| word.end).unwrap_or_default();
    Heard { result_id: id.into(), is_final, start: MediaTime::from_millis(at_ms), end, words }
}

fn jobs(effects: &[Effect]) -> Vec<(Language, u64, String)> {
    let only = |effect: &Effect| match effect {
        Effect::Translate { language, job, text } => Some((language.clone(), *job, text.clone())),
        _ => None,
    };
    effects.iter().filter_map(only).collect()
}

#[test]
fn media_that_simply_arrives_makes_the_speaker_connected() {
    let mut stage = Stage::new();
    let effects = stage.give(Input::MediaUp { at: MediaTime::ZERO });
    assert!(effects.contains(&Effect::Save(Change::KvsConnected(true))));
    assert_eq!(stage.messages(), [&ServerMessage::SpeakerKvsReady]);
    stage.give(Input::SpeakerSays { connected: true });
    assert_eq!(stage.messages().len(), 1, "told once");
}

#[test]
fn a_lost_speaker_leaves_a_gap_and_a_goodbye_does_not() {
    let mut stage = Stage::new();
    stage.give(Input::MediaUp { at: MediaTime::ZERO });
    stage.wait(5_000);
    stage.give(Input::MediaLost { reason: "mediaLost" });
    assert_eq!(stage.session.phase(), Phase::Interrupted);
    assert!(!stage.session.speaker_connected());
    stage.wait(3_000);
    stage.give(Input::MediaUp { at: MediaTime::from_millis(8_000) });
    let gap = ServerMessage::Gap { from_ms: 5_000, to_ms: 8_000, reason: GapReason::SpeakerAway };
    assert!(stage.messages().contains(&&gap));
    stage.give(Input::SpeakerSays { connected: false });
    stage.wait(3_000);
    stage.give(Input::MediaUp { at: MediaTime::from_millis(11_000) });
    assert_eq!(stage.messages().iter().filter(|message| matches!(message, ServerMessage::Gap { .. })).count(), 1);
}

#[test]
fn s1_a_listener_ten_minutes_after_the_speaker_is_as_welcome_as_the_first() {
    let mut stage = Stage::new();
    stage.give(Input::MediaUp { at: MediaTime::ZERO });
    for _ in 0..20 {
        stage.wait(30_000);
        stage.give(Input::Tick);
    }
    assert_eq!(stage.session.phase(), Phase::Live);
    stage.join(1, "es");
    let asked = jobs(&stage.give(Input::Heard(heard("a", 600_000, "hello there everybody", 0, true))));
    stage.give(Input::Translated { language: lang("es"), job: asked[0].1, result: Some("hola a todos".into()) });
    assert_eq!(stage.finals("es")[0].1, "hola a todos");
}

#[test]
fn nothing_is_translated_for_nobody() {
    let mut stage = Stage::new();
    stage.give(Input::MediaUp { at: MediaTime::ZERO });
    stage.join(1, "en");
    let effects = stage.give(Input::Heard(heard("a", 0, "hello there everybody", 0, true)));
    assert!(jobs(&effects).is_empty());
    assert_eq!(stage.finals("en").len(), 1);
}

#[test]
fn who_joins_in_mid_sentence_gets_a_whole_final() {
    let mut stage = Stage::new();
    stage.give(Input::MediaUp { at: MediaTime::ZERO });
    let long: Vec<String> = (0..18).map(|n| format!("w{n}")).collect();
    stage.give(Input::Heard(heard("a", 0, &long.join(" "), 18, false)));
    stage.join(1, "es");
    stage.give(Input::Heard(heard("a", 0, &long.join(" "), 18, true)));
    for (language, job, text) in jobs(&stage.done.iter().map(copy).collect::<Vec<_>>()) {
        stage.give(Input::Translated { language, job, result: Some(text.to_uppercase()) });
    }
    assert_eq!(stage.finals("es")[0].1, long.join(" ").to_uppercase());
}

#[test]
fn the_end_waits_for_the_last_translation_but_not_for_ever() {
    for answered in [true, false] {
        let mut stage = Stage::new();
        stage.give(Input::MediaUp { at: MediaTime::ZERO });
        stage.join(1, "es");
        stage.give(Input::Heard(heard("a", 0, "the last words", 0, false)));
        let effects = stage.give(Input::End(EndReason::Speaker));
        assert!(effects.contains(&Effect::Flush) && effects.contains(&Effect::Save(Change::Ended(EndReason::Speaker))));
        let asked = jobs(&stage.give(Input::RecogniserFlushed));
        assert_eq!(stage.session.phase(), Phase::Live);
        if answered {
            stage.give(Input::Translated { language: lang("es"), job: asked[0].1, result: Some("fin".into()) });
        } else {
            let deadline = stage.session.deadline(stage.now).unwrap();
            stage.wait(deadline.as_millis() as u64 + 1_000);
            stage.give(Input::Tick);
        }
        assert_eq!(stage.session.phase(), Phase::Ended);
        assert_eq!(stage.finals("es").len(), 1);
        assert_eq!(stage.messages().last(), Some(&&ServerMessage::SessionEnded { reason: EndReason::Speaker }));
    }
}

#[test]
fn a_session_without_speaker_is_abandoned_and_an_old_one_expires() {
    let mut stage = Stage::new();
    stage.wait(1_800_000);
    stage.give(Input::Tick);
    assert!(stage.done.contains(&Effect::Save(Change::Ended(EndReason::Abandoned))));
    let mut stage = Stage::new();
    stage.give(Input::MediaUp { at: MediaTime::ZERO });
    stage.wait(86_400_000);
    stage.give(Input::Tick);
    assert!(stage.done.contains(&Effect::Save(Change::Ended(EndReason::Expired))));
}

#[test]
fn a_tick_never_leaves_its_own_deadline_behind() {
    for away in [1_800_000, 86_400_000] {
        let mut stage = Stage::new();
        stage.wait(away);
        stage.give(Input::Tick);
        let next = stage.session.deadline(stage.now).unwrap();
        assert!(next > stage.now.mono, "the actor would spin until the end is flushed");
    }
}

#[test]
fn an_unsupported_language_is_answered_with_what_is_supported() {
    let stage = Stage::new();
    let problem = stage.session.resolve(Some("tlh")).unwrap_err();
    assert_eq!(problem.details.unwrap()["supported"], serde_json::json!(["en", "es", "fr"]));
}

#[derive(Debug, Clone)]
enum Step {
    Join(u64, usize),
    Leave(u64, bool),
    Change(u64, usize),
    Partial(usize),
    Final,
    Restart,
    Answer(usize, bool),
    AnswerTwice(usize),
    Wait(u64),
    Flag(bool),
    Media(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u64..4, 0usize..3).prop_map(|(id, language)| Step::Join(id, language)),
        (0u64..4, any::<bool>()).prop_map(|(id, cut)| Step::Leave(id, cut)),
        (0u64..4, 0usize..3).prop_map(|(id, language)| Step::Change(id, language)),
        (1usize..20).prop_map(Step::Partial),
        Just(Step::Final),
        Just(Step::Restart),
        (0usize..8, any::<bool>()).prop_map(|(which, ok)| Step::Answer(which, ok)),
        (0usize..8).prop_map(Step::AnswerTwice),
        (0u64..4_000).prop_map(Step::Wait),
        any::<bool>().prop_map(Step::Flag),
        any::<bool>().prop_map(Step::Media),
    ]
}

fn refusal(refused: Result<(), Problem>) -> (ErrorCode, String) {
    let problem = refused.unwrap_err();
    assert!(problem.code.retryable());
    (problem.code, problem.details.unwrap()["reason"].as_str().unwrap().to_owned())
}

#[test]
fn a_full_session_takes_no_listener_more_but_its_speaker() {
    let mut stage = Stage::with(Limits { listeners: 2, languages: 0 });
    stage.join(1, "es");
    let now = stage.now.mono;
    assert_eq!(stage.session.admit(now, Role::Listener, &lang("es")), Ok(()));
    stage.join(2, "en");
    let full = (ErrorCode::SessionFull, "listeners".to_owned());
    assert_eq!(refusal(stage.session.admit(now, Role::Listener, &lang("es"))), full);
    assert_eq!(stage.session.admit(now, Role::Speaker, &lang("en")), Ok(()));
    stage.give(Input::Left { listener: ListenerId(1), cut: false });
    assert_eq!(stage.session.admit(now, Role::Listener, &lang("es")), Ok(()));
}

#[test]
fn one_language_too_many_is_refused_and_the_one_that_is_left_makes_room() {
    let mut stage = Stage::with(Limits { listeners: 0, languages: 1 });
    stage.join(1, "es");
    let now = stage.now.mono;
    let full = (ErrorCode::SessionFull, "languages".to_owned());
    for free in ["es", "en"] {
        assert_eq!(stage.session.admit(now, Role::Listener, &lang(free)), Ok(()), "{free}");
    }
    assert_eq!(refusal(stage.session.admit(now, Role::Listener, &lang("fr"))), full);
    assert_eq!(stage.session.admit_change(now, ListenerId(1), &lang("fr")), Ok(()), "its own language goes");
    stage.join(2, "es");
    assert_eq!(refusal(stage.session.admit_change(now, ListenerId(1), &lang("fr"))), full);
    // A language whose listener was cut off is still paid for.
    for id in [1, 2] {
        stage.give(Input::Left { listener: ListenerId(id), cut: true });
    }
    assert_eq!(refusal(stage.session.admit(now, Role::Listener, &lang("fr"))), full);
    stage.wait(crate::limits::DEMAND_LINGER.as_millis() as u64 + 1);
    assert_eq!(stage.session.admit(stage.now.mono, Role::Listener, &lang("fr")), Ok(()));
}

proptest! {
    /// Late, shuffled, doubled and failing answers; listeners that come and go; a recogniser that restarts:
    /// every word becomes final exactly once in the source language and at most once, in order, in any other;
    /// and nothing is translated that nobody listens to.
    #[test]
    fn no_final_is_lost_or_doubled_and_nothing_is_translated_without_demand(steps in prop::collection::vec(step(), 1..80)) {
        let languages = ["en", "es", "fr"];
        let mut stage = Stage::new();
        stage.give(Input::MediaUp { at: MediaTime::ZERO });
        let (mut pending, mut said, mut at, mut words, mut stream) = (Vec::new(), 0usize, 0u64, 0usize, 0u32);
        let mut here: BTreeMap<u64, usize> = BTreeMap::new();
        let mut left: BTreeMap<usize, Duration> = BTreeMap::new();
        let mut sentences: Vec<String> = Vec::new();
        let sentence = |n: usize| (0..n).map(|n| format!("w{n}")).collect::<Vec<_>>().join(" ");
        for step in steps {
            let effects = match step {
                Step::Join(id, language) if !here.contains_key(&id) => {
                    here.insert(id, language);
                    stage.give(Input::Joined { listener: ListenerId(id), language: lang(languages[language]), role: Role::Listener })
                }
                Step::Leave(id, cut) if here.contains_key(&id) => {
                    if let (Some(language), true) = (here.remove(&id), cut) { left.insert(language, stage.now.mono); }
                    stage.give(Input::Left { listener: ListenerId(id), cut })
                }
                Step::Change(id, language) if here.contains_key(&id) => {
                    here.insert(id, language);
                    stage.give(Input::LanguageChanged { listener: ListenerId(id), language: lang(languages[language]) })
                }
                Step::Partial(more) => {
                    words = (words + more).min(60);
                    stage.give(Input::Heard(heard(&format!("r{stream}-{said}"), at, &sentence(words), words / 2, false)))
                }
                Step::Final if words > 0 => {
                    let heard = heard(&format!("r{stream}-{said}"), at, &sentence(words), 0, true);
                    at = heard.end.as_millis() + 500;
                    sentences.push(sentence(words));
                    (said, words) = (said + 1, 0);
                    stage.give(Input::Heard(heard))
                }
                Step::Restart => { stream += 1; stage.give(Input::RecogniserRestarted { lost: None }) }
                Step::Answer(which, ok) if !pending.is_empty() => {
                    let (language, job, text): (Language, u64, String) = pending.remove(which % pending.len());
                    stage.give(Input::Translated { language, job, result: ok.then(|| text.to_uppercase()) })
                }
                Step::AnswerTwice(which) if !pending.is_empty() => {
                    let (language, job, text) = pending[which % pending.len()].clone();
                    stage.give(Input::Translated { language, job, result: Some(text.to_uppercase()) })
                }
                Step::Wait(ms) => { stage.wait(ms); stage.give(Input::Tick) }
                Step::Flag(connected) => stage.give(Input::SpeakerSays { connected }),
                Step::Media(true) => { let at = MediaTime::from_millis(stage.now.wall.0); stage.give(Input::MediaUp { at }) }
                Step::Media(false) => stage.give(Input::MediaLost { reason: "mediaLost" }),
                _ => Vec::new(),
            };
            for (language, job, text) in jobs(&effects) {
                let index = languages.iter().position(|one| *one == language.as_str()).unwrap();
                let lingering = left.get(&index).is_some_and(|at| stage.now.mono <= *at + crate::limits::DEMAND_LINGER);
                prop_assert!(here.values().any(|one| *one == index) || lingering, "translated for nobody");
                pending.push((language, job, text));
            }
        }
        stage.give(Input::End(EndReason::Speaker));
        stage.give(Input::RecogniserFlushed);
        stage.wait(10_000);
        stage.give(Input::Tick);
        prop_assert_eq!(stage.session.phase(), Phase::Ended);
        let spoken = stage.finals("en");
        sentences.extend((words > 0).then(|| sentence(words)));
        let told: Vec<&str> = spoken.iter().map(|(_, text)| text.as_str()).collect();
        prop_assert_eq!(told.join(" "), sentences.join(" "), "every word is final once");
        for language in ["es", "fr"] {
            let finals = stage.finals(language);
            prop_assert!(finals.windows(2).all(|pair| pair[0].0 < pair[1].0), "in order, none twice");
            for (segment, text) in &finals {
                let source = &spoken.iter().find(|(one, _)| one == segment).unwrap().1;
                prop_assert_eq!(&text.to_lowercase(), source, "whole sentences only");
            }
        }
    }
}
