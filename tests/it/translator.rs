//! Translation fails, is slow, and comes back: text goes on, the listener is told, other languages do not notice.

use babelcast_domain::counts::Count;
use babelcast_domain::error::ErrorCode;
use babelcast_domain::wire::{Caption, ServerMessage};
use local_cloud::translate::{Chaos, Fault};

use crate::house::House;

#[tokio::test(flavor = "multi_thread")]
async fn a_language_that_fails_is_shown_untranslated_and_recovers_by_itself() {
    let house = House::open().await;
    let id = house.session().await;
    let speaker = house.speaker(&id).await;
    let mut spanish = house.listener(&id, "es").await;
    let mut french = house.listener(&id, "fr").await;
    let broken =
        Chaos { error_rate: 1.0, fault: Fault::ServiceUnavailable, target: Some("es".to_owned()), ..Chaos::default() };
    house.translate().set_chaos(broken);
    let mut told = 0;
    for text in ["one two three .", "four five six .", "seven eight nine .", "we see you ."] {
        speaker.say(text).await;
        let caption: Caption = spanish
            .until(|message| match message {
                ServerMessage::Error { code: ErrorCode::UpstreamUnavailable, retryable: true, .. } => {
                    told += 1;
                    None
                }
                ServerMessage::Transcription(caption) if caption.is_final => Some(caption.clone()),
                _ => None,
            })
            .await;
        assert!(caption.untranslated, "the reader can see that it is not Spanish");
        assert_eq!(caption.text, text.replace(" .", "."));
        assert_eq!(french.final_text().await, format!("[fr] {}", text.replace(" .", ".")));
    }
    assert_eq!(told, 1, "an outage is told once");
    house.translate().set_chaos(Chaos::default());
    let mut recovered = false;
    for _ in 0..6 {
        speaker.say("good bread .").await;
        let caption = spanish.final_caption().await;
        if !caption.untranslated {
            assert_eq!(caption.text, "[es] good bread.");
            recovered = true;
            break;
        }
    }
    assert!(recovered);
    assert!(house.count(&id, Count::CaptionsUntranslated) >= 4);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttled_call_is_tried_again_and_nobody_notices() {
    let house = House::open().await;
    let id = house.session().await;
    let speaker = house.speaker(&id).await;
    let mut spanish = house.listener(&id, "es").await;
    house.translate().set_chaos(Chaos { fail_next: 1, fault: Fault::TooManyRequests, ..Chaos::default() });
    speaker.say("the story is long .").await;
    let caption = spanish.final_caption().await;
    assert_eq!((caption.text.as_str(), caption.untranslated), ("[es] the story is long.", false));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_translation_that_hangs_delays_nobody_but_its_own_language() {
    let house = House::open().await;
    let id = house.session().await;
    let speaker = house.speaker(&id).await;
    let mut spanish = house.listener(&id, "es").await;
    let mut english = house.listener(&id, "en").await;
    house.translate().set_chaos(Chaos { hang: true, target: Some("es".to_owned()), ..Chaos::default() });
    speaker.say("the water is good .").await;
    assert_eq!(english.final_text().await, "the water is good.");
    let caption = spanish.final_caption().await;
    assert!(caption.untranslated);
    assert_eq!(caption.text, "the water is good.");
    house.close().await;
}
