//! `./dev eval emotion`: how well the server's own code tells feelings in recordings whose feeling is known.
//!
//! Every speaker's recordings go through as one stream, clean and over two bad lines; the judge hears them in random
//! order and knows of the speaker what it has heard so far. No speaker is judged by weights that were made from their
//! voice: for the training speakers of Emo-DB the weights are made again without the one. Nothing here fails because a
//! goal is missed; it is said.
//!
//! Options: `--recordings folder` (may come again; `../shared/data/emotion`); `--write` puts the numbers into
//! docs/EMOTION.md; `--train` makes the shipped weights from benches/emotion/emodb.csv; `--measure folder` makes that
//! table from the recordings of Emo-DB.

mod corpus;
mod cost;
mod report;
mod train;

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};

use babelcast_domain::emotion::{Feeling, Judge, SHIPPED, Scores, Weights};
use babelcast_domain::prosody::Measure;
use corpus::{Clip, Line};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

pub type Failed = Box<dyn Error + Send + Sync>;

/// The four that the goal is about, in the judge's order.
pub const FOUR: [&str; 4] = ["anger", "happiness", "neutral", "sadness"];

/// Orders in which the recordings of each speaker are heard.
const ORDERS: u64 = 20;

/// High or low arousal, as reference/SPEECH.md divides them; `None` for disgust, which is either.
pub fn high_arousal(emotion: &str) -> Option<bool> {
    match emotion {
        "anger" | "happiness" | "fear" | "surprise" => Some(true),
        "sadness" | "boredom" | "neutral" | "calm" => Some(false),
        _ => None,
    }
}

/// What was said of one recording.
pub struct Verdict<'a> {
    pub clip: &'a Clip,
    /// How many of the speaker's other recordings the judge had heard.
    pub heard: usize,
    pub scores: Option<Scores>,
    pub feeling: Feeling,
}

/// How the judge got to know the speaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acquaintance {
    /// By what came before, as in a broadcast.
    Running,
    /// By all recordings once, without labels: what the "norm" columns of reference/SPEECH.md are.
    Known,
}

fn main() -> Result<(), Failed> {
    let mut recordings = Vec::new();
    let (mut write, mut make) = (false, false);
    let mut given = std::env::args().skip(1);
    while let Some(option) = given.next() {
        let mut folder = || given.next().map(PathBuf::from).ok_or_else(|| format!("{option} needs a folder"));
        match option.as_str() {
            "--recordings" => recordings.push(folder()?),
            "--measure" => return train::measure(folder()?),
            "--train" => make = true,
            "--write" => write = true,
            "--bench" => {} // what cargo says to every bench
            other => return Err(format!("unknown option {other}").into()),
        }
    }
    let rows = train::read()?;
    let all = train::train(&rows);
    if make {
        train::write(&all)?;
        println!("written: src/domain/emotion/weights.rs");
        return Ok(());
    }
    if !train::same(&all, &SHIPPED) {
        return Err("the shipped weights are not those of benches/emotion/emodb.csv: ./dev eval emotion --train".into());
    }
    let data = shared_data();
    if recordings.is_empty() {
        recordings.push(data.join("emotion"));
    }
    let text = evaluate(&corpus::find(&recordings)?, &data.join("long"), &rows)?;
    println!("{text}");
    if write {
        report::write(&text)?;
        eprintln!("written: docs/EMOTION.md");
    }
    Ok(())
}

/// All tables.
fn evaluate(clips: &[Clip], reading: &Path, rows: &[train::Row]) -> Result<String, Failed> {
    let mut speakers: Vec<&str> = rows.iter().map(|row| row.speaker.as_str()).collect();
    speakers.dedup();
    let without = |speaker: &&str| {
        let others: Vec<_> = rows.iter().filter(|row| row.speaker != **speaker).cloned().collect();
        (speaker.to_string(), train::train(&others))
    };
    let folds: BTreeMap<String, Weights> = speakers.iter().map(without).collect();
    let mut text = report::about(clips);
    let mut lines = Vec::new();
    for line in Line::ALL {
        eprintln!("measuring: {}", line.name());
        lines.push((line, measure(clips, line)?));
    }
    text += &report::goals(&lines, |measures, way| hear_all(clips, measures, &folds, way));
    let clean = hear_all(clips, &lines[0].1, &folds, Acquaintance::Running);
    text += &report::confusion(&clean);
    text += &report::said(&clean);
    text += &report::confidence(&clean);
    text += &report::ordinary(&ordinary(reading)?);
    text += &if cfg!(debug_assertions) {
        "\nNo cost: this build is not optimised.\n".to_owned()
    } else {
        cost::table(clips)?
    };
    Ok(text)
}

/// Beside the project's folder or, in a work tree, further up.
fn shared_data() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let found = here.ancestors().map(|above| above.join("shared/data")).find(|data| data.is_dir());
    found.unwrap_or_else(|| here.join("../shared/data"))
}

/// The verdicts on every four seconds of people who read a book.
fn ordinary(folder: &Path) -> Result<Vec<Feeling>, Failed> {
    let mut feelings = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(feelings) };
    for path in entries.map(|entry| entry.map(|entry| entry.path())) {
        let path = path?;
        if path.extension().is_some_and(|it| it == "wav") {
            let mut judge = Judge::default();
            feelings.extend(corpus::pieces(&path)?.iter().map(|measure| judge.feel(measure)));
        }
    }
    Ok(feelings)
}

/// One measure a clip, in the clips' order.
fn measure(clips: &[Clip], line: Line) -> Result<Vec<Measure>, Failed> {
    let mut measures = Vec::new();
    for own in clips.chunk_by(|a, b| (a.corpus, &a.speaker) == (b.corpus, &b.speaker)) {
        measures.extend(corpus::measure(own, line)?.0);
    }
    Ok(measures)
}

/// The verdicts on every clip, in each of the orders.
fn hear_all<'a>(
    clips: &'a [Clip],
    measures: &[Measure],
    folds: &BTreeMap<String, Weights>,
    way: Acquaintance,
) -> Vec<Verdict<'a>> {
    let mut verdicts = Vec::new();
    for seed in 0..ORDERS {
        let mut chance = StdRng::seed_from_u64(seed);
        let mut pairs: Vec<(&Clip, &Measure)> = clips.iter().zip(measures).collect();
        pairs.shuffle(&mut chance);
        pairs.sort_by(|(a, _), (b, _)| (a.corpus, &a.speaker).cmp(&(b.corpus, &b.speaker)));
        for own in pairs.chunk_by(|(a, _), (b, _)| (a.corpus, &a.speaker) == (b.corpus, &b.speaker)) {
            let clip = own[0].0;
            let fold = folds.get(&clip.speaker).filter(|_| clip.corpus == corpus::Corpus::EmoDb);
            let mut judge = Judge::new(*fold.unwrap_or(&SHIPPED));
            if way == Acquaintance::Known {
                for (_, measure) in own {
                    let _ = judge.scores(measure);
                }
            }
            for (heard, (clip, measure)) in own.iter().enumerate() {
                let feeling = judge.clone().feel(measure);
                verdicts.push(Verdict { clip, heard, scores: judge.scores(measure), feeling });
            }
        }
    }
    verdicts
}
