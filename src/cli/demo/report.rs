//! The demo's summary: what came out, how late, and where the time went.

use std::time::Duration;

use babelcast_domain::counts::Count;
use babelcast_domain::ledger::{Samples, Stage};
use local_cloud::wer;

use super::reader::Reader;
use super::screen::Screen;
use crate::live::Meter;

/// What the summary is made of.
pub struct Outcome<'a> {
    pub readers: &'a [Reader],
    pub transcript: Option<&'a str>,
    pub meter: &'a Meter,
    /// From a packet's sending to its arrival, for the fastest packets.
    pub path: Duration,
}

/// Prints the summary; answers whether captions came out in every language.
pub fn print(outcome: &Outcome<'_>, screen: &mut Screen) -> bool {
    screen.say("");
    screen.say(&screen.bold("What came out"));
    for reader in outcome.readers {
        let words: usize = reader.finals.iter().map(|text| text.split_whitespace().count()).sum();
        let note = match reader.untranslated {
            0 => String::new(),
            n => format!(", {n} partly untranslated"),
        };
        screen.say(&format!("  {:<6} {} sentences, {words} words{note}", reader.language, reader.finals.len()));
    }
    if let (Some(transcript), Some(source)) = (outcome.transcript, outcome.readers.first()) {
        let rate = wer::word_errors(transcript, &source.finals.join(" ")).rate();
        screen.say(&format!("  word error rate against the transcript: {:.1} %", rate * 100.0));
    }
    lags(outcome, screen);
    ledger(outcome, screen);
    wire(outcome.meter, screen);
    let silent: Vec<&str> = outcome
        .readers
        .iter()
        .filter(|reader| reader.finals.is_empty())
        .map(|reader| reader.language.as_str())
        .collect();
    screen.say("");
    if silent.is_empty() {
        screen.say("Captions came out in every language.");
    } else {
        screen.say(&format!("No captions came out in: {}", silent.join(", ")));
    }
    silent.is_empty()
}

fn lags(outcome: &Outcome<'_>, screen: &mut Screen) {
    screen.say("");
    screen.say(&screen.bold("How late (s, from the microphone to the listener)"));
    screen.say("         first text   words p50    p95   sentences p50    p95");
    for reader in outcome.readers {
        let first = reader.first.map_or("-".to_owned(), |first| format!("{:.2}", first.as_secs_f32()));
        screen.say(&format!(
            "  {:<6} {:>10} {:>11} {:>6} {:>15} {:>6}",
            reader.language,
            first,
            seconds(&reader.shown, 0.5),
            seconds(&reader.shown, 0.95),
            seconds(&reader.finished, 0.5),
            seconds(&reader.finished, 0.95),
        ));
    }
}

fn ledger(outcome: &Outcome<'_>, screen: &mut Screen) {
    let Ok(ledger) = outcome.meter.ledger.lock() else { return };
    screen.say("");
    screen.say(&screen.bold("Where the time goes (ms)        p50      p95"));
    for stage in Stage::ALL {
        let samples = ledger.stage(stage);
        let path = if stage == Stage::Network { outcome.path.as_secs_f64() * 1e3 } else { 0.0 };
        let value = |share: f64| match samples.quantile(share) {
            Some(micros) => format!("{:.1}", f64::from(micros) / 1e3 + path),
            None => "-".to_owned(),
        };
        screen.say(&format!("  {:<10} {:<18} {:>6} {:>8}", stage.name(), what(stage), value(0.5), value(0.95)));
    }
}

fn what(stage: Stage) -> &'static str {
    match stage {
        Stage::Network => "mic -> packet here",
        Stage::Decode => "order + Opus",
        Stage::Recognise => "sound -> words",
        Stage::Translate => "clause -> clause",
        Stage::Deliver => "event -> socket",
    }
}

fn wire(meter: &Meter, screen: &mut Screen) {
    let get = |count| meter.counts.get(count);
    screen.say("");
    screen.say(&screen.bold("On the wire"));
    screen.say(&format!(
        "  packets: {} received, {} lost, {} reordered; frames: {} corrected, {} concealed",
        get(Count::RtpReceived),
        get(Count::RtpLost),
        get(Count::RtpReordered),
        get(Count::FramesCorrected),
        get(Count::FramesConcealed),
    ));
    let (spoken, translated) = (get(Count::CharactersSpoken), get(Count::CharactersTranslated));
    let times = translated as f64 / spoken.max(1) as f64;
    screen.say(&format!("  characters: {spoken} spoken, {translated} translated ({times:.2} × spoken, all languages)"));
}

fn seconds(samples: &Samples, share: f64) -> String {
    samples.quantile(share).map_or("-".to_owned(), |micros| format!("{:.2}", f64::from(micros) / 1e6))
}
