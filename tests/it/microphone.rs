//! How the microphone sounds: told to the speaker, and to nobody else.

use babelcast::media::wav::Recording;
use babelcast_domain::wire::{AudioWarning, QualityReport, ServerMessage};

use crate::house::{House, Seated};

fn printing() -> Vec<i16> {
    let recording = Recording::read(std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/demo/printing.wav")));
    recording.unwrap().samples
}

/// As a microphone sounds that is turned up far too high.
fn clipped(samples: &[i16]) -> Vec<i16> {
    samples.iter().map(|sample| (f32::from(*sample) * 16.0).clamp(-32_768.0, 32_767.0) as i16).collect()
}

async fn report(speaker: &mut Seated, wanted: impl Fn(&QualityReport) -> bool) -> QualityReport {
    let of = |message: &ServerMessage| match message {
        ServerMessage::AudioQuality(report) if wanted(report) => Some(report.clone()),
        _ => None,
    };
    speaker.until(of).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_speaker_hears_of_clipping_and_of_its_end_and_listeners_hear_of_neither() {
    let house = House::open().await;
    let id = house.session().await;
    let mut wish = house.wish(&id, "en");
    wish.token = Some(house.stack.token("ana").unwrap());
    let mut page = Seated::join(&wish).await;
    let mut listener = house.listener(&id, "en").await;
    let speaker = house.speaker(&id).await;
    let clean = printing();
    let second = 16_000;
    speaker.master.play(&clipped(&clean[..4 * second])).await.unwrap();
    let told = report(&mut page, |report| report.warnings.contains(&AudioWarning::Clipping)).await;
    assert!(told.clipping_ratio > 0.0 && told.peak_db > -0.1, "{told:?}");
    speaker.master.play(&clean[4 * second..14 * second]).await.unwrap();
    let told = report(&mut page, |report| !report.warnings.contains(&AudioWarning::Clipping)).await;
    assert!(told.snr_db.is_some(), "{told:?}");
    house.client("ana").end(&id).await.unwrap();
    listener
        .until(|message| {
            assert!(!matches!(message, ServerMessage::AudioQuality(_)), "that is the speaker's own business");
            matches!(message, ServerMessage::SessionEnded { .. }).then_some(())
        })
        .await;
    house.close().await;
}
