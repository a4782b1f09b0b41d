//! What listeners see: modes, growing text that is never taken back, languages, demand.

use babelcast_domain::counts::Count;
use babelcast_domain::wire::{Caption, CaptionMode, ServerMessage};

use crate::house::{House, until};

const SENTENCE: &str = "today we go to the old house on the river , and tomorrow we go to the new city .";

#[tokio::test(flavor = "multi_thread")]
async fn stable_captions_only_ever_grow_and_end_in_their_final() {
    let house = House::open().await;
    let id = house.session().await;
    let speaker = house.speaker(&id).await;
    let mut source = house.listener(&id, "en").await;
    let mut target = house.listener(&id, "es").await;
    speaker.say(SENTENCE).await;
    for listener in [&mut source, &mut target] {
        let mut shown = String::new();
        let mut revision = 0;
        let mut partials = 0;
        loop {
            let caption = listener.caption().await;
            assert!(caption.text.starts_with(&shown), "taken back: {shown:?} -> {:?}", caption.text);
            assert!(caption.revision > revision, "a revision went back");
            (shown, revision) = (caption.text, caption.revision);
            if caption.is_final {
                break;
            }
            partials += 1;
        }
        assert!(partials >= 1, "the text grew before it was final");
    }
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_mode_shows_what_it_promises() {
    let house = House::open().await;
    let id = house.session().await;
    let speaker = house.speaker(&id).await;
    let mut raw = house.reader(&id, "en", CaptionMode::Raw).await;
    let mut finals = house.reader(&id, "en", CaptionMode::Final).await;
    speaker.say(SENTENCE).await;
    let only = finals.caption().await;
    assert!(only.is_final, "final mode shows finals only");
    let mut seen: Vec<Caption> = Vec::new();
    while seen.last().is_none_or(|caption| !caption.is_final) {
        seen.push(raw.caption().await);
    }
    assert!(seen.len() > 3, "raw mode shows the text grow word by word: {}", seen.len());
    assert!(
        seen.iter().any(|caption| caption.stable_chars < caption.text.chars().count()),
        "and what may still change"
    );
    assert_eq!(seen.last().unwrap().text, only.text);
    assert_eq!(only.text, "today we go to the old house on the river, and tomorrow we go to the new city.");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_translation_names_its_source_and_its_place_on_the_capture_clock() {
    let house = House::open().await;
    let id = house.session().await;
    let speaker = house.speaker(&id).await;
    let mut listener = house.listener(&id, "pt-BR").await;
    speaker.say("the boat is small .").await;
    let caption = listener.final_caption().await;
    assert_eq!(caption.source_text.as_deref(), Some("the boat is small."));
    assert_eq!(caption.source_language.unwrap().as_str(), "en");
    assert!(caption.end_ms > caption.start_ms, "{} {}", caption.start_ms, caption.end_ms);
    assert!((500..2_500).contains(&(caption.end_ms - caption.start_ms)), "four words take a second");
    assert!(caption.heard_at.is_some());
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_clause_is_translated_once_per_language_whatever_the_number_of_listeners() {
    let house = House::open().await;
    let id = house.session().await;
    let speaker = house.speaker(&id).await;
    let mut listeners = Vec::new();
    for language in ["es", "es", "es", "fr", "en"] {
        listeners.push(house.listener(&id, language).await);
    }
    speaker.say("good bread and good water .").await;
    for listener in &mut listeners {
        listener.final_text().await;
    }
    let traffic = house.translate().traffic();
    assert_eq!(traffic["es"].requests, 1);
    assert_eq!(traffic["fr"].requests, 1);
    assert_eq!(traffic.len(), 2, "nothing else was translated: {traffic:?}");
    let spoken = house.count(&id, Count::CharactersSpoken);
    assert_eq!(house.count(&id, Count::CharactersTranslated), 2 * spoken);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_listening_costs_no_translation_and_loses_no_history() {
    let house = House::open().await;
    let id = house.session().await;
    let speaker = house.speaker(&id).await;
    drop(house.listener(&id, "en").await);
    speaker.say("people come and go .").await;
    until("the final", || house.count(&id, Count::FinalsHeard) == 1).await;
    assert!(house.translate().traffic().is_empty());
    let late = house.listener(&id, "en").await;
    assert_eq!(late.joined.history.last().unwrap().text, "people come and go.");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_never_hear_each_other() {
    let house = House::open().await;
    let (one, two) = (house.session().await, house.session().await);
    let (ana, bea) = (house.speaker(&one).await, house.speaker(&two).await);
    let (mut hears_ana, mut hears_bea) = (house.listener(&one, "es").await, house.listener(&two, "es").await);
    tokio::join!(ana.say("the river is long ."), bea.say("the story is new ."));
    assert_eq!(hears_ana.final_text().await, "[es] the river is long.");
    assert_eq!(hears_bea.final_text().await, "[es] the story is new.");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_numbers_of_a_session_can_be_asked_for() {
    let house = House::open().await;
    let id = house.session().await;
    let mut listener = house.listener(&id, "es").await;
    let _other = house.listener(&id, "fr").await;
    listener.listener.ask("getSessionStatus", serde_json::json!({ "requestId": "q1" })).await.unwrap();
    let answer = loop {
        let envelope = listener.next().await;
        if let ServerMessage::SessionStatus(view) = envelope.message {
            break (view.listener_count, view.speaker_kvs_connected, envelope.request_id);
        }
    };
    assert_eq!(answer, (2, false, Some("q1".to_owned())));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn how_a_sentence_was_said_is_told_in_every_language_and_kept_in_the_log() {
    let house = House::open().await;
    let id = house.session().await;
    let speaker = house.speaker(&id).await;
    let mut source = house.listener(&id, "en").await;
    let mut target = house.listener(&id, "es").await;
    speaker.say("one two three four").await;
    let said = source.final_caption().await;
    for listener in [&mut source, &mut target] {
        let (segment, loudness, pace, times) = listener
            .until(|message| match message {
                ServerMessage::Emotion { segment_id, loudness, pace, start_ms, end_ms, .. } => {
                    Some((segment_id.clone(), *loudness, *pace, (*start_ms, *end_ms)))
                }
                _ => None,
            })
            .await;
        assert_eq!((segment, times), (said.segment_id.clone(), (said.start_ms, said.end_ms)));
        assert!(loudness.is_some_and(|lufs| (-60.0..0.0).contains(&lufs)), "{loudness:?}");
        assert!(pace.is_some_and(|words| (60.0..600.0).contains(&words)), "{pace:?}");
    }
    house.close().await;
}
