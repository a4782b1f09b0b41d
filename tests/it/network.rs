//! The speaker's network: loss, reordering, duplicates, an outage (S11); and listeners on bad lines.

use std::time::Duration;

use babelcast_domain::counts::Count;
use babelcast_domain::wire::{GapReason, ServerMessage};

use crate::house::{House, until};

const SENTENCE: &str = "today we go to the old house on the river .";

/// `count`: what must have been counted for the fault to have happened, where it can be seen.
async fn survives(change: impl FnOnce(&mut babelcast::media::Faults), count: Option<Count>) {
    let house = House::open().await;
    let id = house.session().await;
    let speaker = house.speaker(&id).await;
    let mut listener = house.listener(&id, "en").await;
    speaker.faults(change);
    for _ in 0..2 {
        speaker.say(SENTENCE).await;
        assert_eq!(listener.final_text().await, "today we go to the old house on the river.");
    }
    if let Some(count) = count {
        assert!(house.count(&id, count) > 0, "the fault did happen: {}", count.name());
    }
    assert_eq!(house.count(&id, Count::ViewerConnected), 1, "no disconnect");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s11_five_percent_loss_costs_no_word() {
    survives(|faults| (faults.loss_percent, faults.seed) = (5.0, 11), Some(Count::RtpLost)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s11_fifteen_percent_loss_costs_no_word() {
    survives(|faults| (faults.loss_percent, faults.seed) = (15.0, 7), Some(Count::RtpLost)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s11_reordered_packets_are_put_in_order() {
    survives(|faults| (faults.reorder_percent, faults.seed) = (10.0, 3), Some(Count::RtpReordered)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s11_packets_that_come_twice_are_heard_once() {
    // SRTP's replay protection drops the copies before anybody could count them: only the words can tell.
    survives(|faults| (faults.duplicate_percent, faults.seed) = (20.0, 5), None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s11_three_seconds_of_silence_on_the_wire_are_told_and_survived() {
    let house = House::open().await;
    let id = house.session().await;
    let speaker = house.speaker(&id).await;
    let mut listener = house.listener(&id, "es").await;
    speaker.say("good morning people .").await;
    assert_eq!(listener.final_text().await, "[es] good morning people.");
    speaker.master.outage(Duration::from_secs(3));
    assert_eq!(listener.disconnected().await, "mediaLost");
    let away = listener
        .until(|message| match message {
            ServerMessage::Gap { reason: GapReason::SpeakerAway, from_ms, to_ms } => Some(to_ms - from_ms),
            _ => None,
        })
        .await;
    assert!(away > 0, "what was not heard is declared");
    listener.ready().await;
    speaker.say(SENTENCE).await;
    let text = listener.final_text().await;
    assert!(text.ends_with("river."), "{text}");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_never_reads_and_one_that_vanished_cost_the_others_nothing() {
    let house = House::open().await;
    let id = house.session().await;
    let speaker = house.speaker(&id).await;
    let _deaf = house.reader(&id, "en", babelcast_domain::wire::CaptionMode::Raw).await; // never asked for its next message
    drop(house.listener(&id, "fr").await);
    let mut good = house.listener(&id, "es").await;
    for text in ["one two .", "three four .", "five six ."] {
        speaker.say(text).await;
        assert_eq!(good.final_text().await, format!("[es] {}", text.replace(" .", ".")));
    }
    until("the vanished one is gone", || house.count(&id, Count::ListenersLeft) == 1).await;
    house.close().await;
}
