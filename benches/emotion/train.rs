//! From the table of measured Emo-DB clips to weights: two multinomial logistic regressions, full gradient, fixed steps,
//! so that the same table always gives the same weights.

use std::fmt::Write;
use std::path::PathBuf;

use babelcast_domain::emotion::Weights;
use babelcast_domain::prosody::Voice;

use crate::corpus::{self, Clip, Corpus, Line};
use crate::{Failed, high_arousal};

const FEATURES: usize = Voice::FEATURES;

/// The only speakers weights are made from. Emo-DB's other five, and all of RAVDESS (whose licence forbids more than
/// evaluation), are left for the test.
const SPEAKERS: [&str; 5] = ["03", "08", "09", "10", "11"];

/// Weight of the examples beside the penalty on large weights; balanced over the classes.
const TRUST: f64 = 0.1;
const STEPS: usize = 4_000;

const FOLDER: &str = env!("CARGO_MANIFEST_DIR");

/// One measured clip.
#[derive(Debug, Clone)]
pub struct Row {
    pub speaker: String,
    emotion: &'static str,
    voice: [f64; FEATURES],
}

fn table() -> PathBuf {
    PathBuf::from(FOLDER).join("benches/emotion/emodb.csv")
}

/// Measures the training speakers' clips of Emo-DB in `folder` into the table.
pub fn measure(folder: PathBuf) -> Result<(), Failed> {
    let mut text = String::from("clip,pitch,spread,slope,tilt,centroid,clarity\n");
    let clips: Vec<Clip> = corpus::find(&[folder])?.into_iter().filter(|clip| clip.corpus == Corpus::EmoDb).collect();
    for speaker in SPEAKERS {
        let own: Vec<Clip> = clips.iter().filter(|clip| clip.speaker == speaker).cloned().collect();
        let (measures, _) = corpus::measure(&own, Line::Clean)?;
        for (clip, measure) in own.iter().zip(measures) {
            let (Some(voice), Some(name)) = (measure.voice, clip.path.file_stem()) else { continue };
            let name = name.to_string_lossy();
            write!(text, "{}", name.trim_start_matches("emodb-"))?;
            voice.features().iter().try_for_each(|feature| write!(text, ",{feature:.3}"))?;
            text.push('\n');
        }
    }
    std::fs::write(table(), text)?;
    Ok(())
}

pub fn read() -> Result<Vec<Row>, Failed> {
    let text = std::fs::read_to_string(table())?;
    let row = |line: &str| {
        let (name, features) = line.split_once(',')?;
        let (_, speaker, emotion) = corpus::parse(name)?;
        let features: Vec<f64> = features.split(',').map(str::parse).collect::<Result<_, _>>().ok()?;
        Some(Row { speaker, emotion, voice: features.try_into().ok()? })
    };
    let rows = text.lines().skip(1).map(|line| row(line).ok_or_else(|| format!("not a row: {line}").into()));
    rows.collect()
}

/// Weights from `rows`. Each is first set against the mean of its speaker.
pub fn train(rows: &[Row]) -> Weights {
    let mut speakers: Vec<&str> = rows.iter().map(|row| row.speaker.as_str()).collect();
    speakers.dedup();
    let mean = |of: &dyn Fn(&Row) -> Option<f64>| {
        let values: Vec<f64> = rows.iter().filter_map(of).collect();
        values.iter().sum::<f64>() / values.len().max(1) as f64
    };
    let usual_of = |speaker: &str| -> [f64; FEATURES] {
        std::array::from_fn(|i| mean(&|row| (row.speaker == speaker).then_some(row.voice[i])))
    };
    let usuals: Vec<[f64; FEATURES]> = speakers.iter().map(|speaker| usual_of(speaker)).collect();
    let off = |row: &Row, i: usize| {
        let speaker = speakers.iter().position(|speaker| *speaker == row.speaker).unwrap_or_default();
        row.voice[i] - usuals[speaker][i]
    };
    let spread: [f64; FEATURES] = std::array::from_fn(|i| mean(&|row| Some(off(row, i).powi(2))).sqrt());
    let usual =
        std::array::from_fn(|i| (usuals.iter().map(|usual| usual[i]).sum::<f64>() / usuals.len() as f64) as f32);
    let examples = |class: &dyn Fn(&Row) -> Option<usize>| -> Vec<([f64; FEATURES + 1], usize)> {
        let scaled = |row: &Row| std::array::from_fn(|i| if i < FEATURES { off(row, i) / spread[i] } else { 1.0 });
        rows.iter().filter_map(|row| Some((scaled(row), class(row)?))).collect()
    };
    let mut stirred = examples(&|row| high_arousal(row.emotion).map(usize::from));
    stirred.iter_mut().for_each(|(features, _)| features[FEATURES] = 0.0);
    let [low, high] = fit(&stirred);
    let classes = fit(&examples(&|row| crate::FOUR.iter().position(|emotion| *emotion == row.emotion)));
    Weights {
        usual,
        spread: spread.map(|spread| spread as f32),
        arousal: std::array::from_fn(|i| (high[i] - low[i]) as f32),
        classes: classes.map(|class| class.map(|weight| weight as f32)),
    }
}

/// Multinomial logistic regression with a penalty on all but the bias, which is the last feature and 1 (or 0 for none).
fn fit<const N: usize>(examples: &[([f64; FEATURES + 1], usize)]) -> [[f64; FEATURES + 1]; N] {
    let many = |class: usize| examples.iter().filter(|(_, own)| *own == class).count().max(1) as f64;
    let weight: [f64; N] = std::array::from_fn(|class| TRUST * examples.len() as f64 / (N as f64 * many(class)));
    let step = 1.0 / (1.0 + TRUST * examples.len() as f64 * (FEATURES + 1) as f64 / 2.0);
    let mut weights = [[0.0; FEATURES + 1]; N];
    for _ in 0..STEPS {
        let mut slope = weights;
        slope.iter_mut().for_each(|slope| slope[FEATURES] = 0.0);
        for (features, class) in examples {
            let raised = weights.map(|own| own.iter().zip(features).map(|(w, x)| w * x).sum::<f64>().exp());
            let sum: f64 = raised.iter().sum();
            for other in 0..N {
                let wrong = raised[other] / sum - f64::from(u8::from(other == *class));
                slope[other].iter_mut().zip(features).for_each(|(slope, x)| *slope += weight[*class] * wrong * x);
            }
        }
        for (weight, slope) in weights.iter_mut().flatten().zip(slope.iter().flatten()) {
            *weight -= step * slope;
        }
    }
    weights
}

/// Writes weights as the source file the server is built with.
pub fn write(weights: &Weights) -> Result<(), Failed> {
    let numbers = |numbers: &[f32]| {
        let numbers: Vec<String> = numbers.iter().map(|number| format!("{:?}", rounded(*number))).collect();
        format!("[{}]", numbers.join(", "))
    };
    let mut text = String::from(
        "//! Made by `./dev eval emotion --train` from benches/emotion/emodb.csv. Features: pitch, spread, slope, tilt,\n//! centroid, clarity; for the classes then the bias.\n\nuse super::Weights;\n\npub const SHIPPED: Weights = Weights {\n",
    );
    for (name, row) in [("usual", &weights.usual[..]), ("spread", &weights.spread), ("arousal", &weights.arousal)] {
        writeln!(text, "    {name}: {},", numbers(row))?;
    }
    writeln!(text, "    classes: [")?;
    weights.classes.iter().try_for_each(|class| writeln!(text, "        {},", numbers(class)))?;
    text.push_str("    ],\n};\n");
    std::fs::write(PathBuf::from(FOLDER).join("src/domain/emotion/weights.rs"), text)?;
    Ok(())
}

fn rounded(number: f32) -> f32 {
    (number * 1e3).round() / 1e3
}

/// Whether these are the same weights, but for what rounding took.
pub fn same(a: &Weights, b: &Weights) -> bool {
    let flat = |weights: &Weights| -> Vec<f32> {
        let heads = weights.usual.iter().chain(&weights.spread).chain(&weights.arousal);
        heads.chain(weights.classes.iter().flatten()).copied().collect()
    };
    flat(a).iter().zip(flat(b)).all(|(a, b)| (a - b).abs() < 2e-3)
}
