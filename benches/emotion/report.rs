//! The verdicts as tables.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use babelcast_domain::emotion::{Emotion, Feeling, Scores};
use babelcast_domain::prosody::Measure;

use crate::corpus::{Clip, Corpus, Line};
use crate::{Acquaintance, FOUR, Failed, Verdict, high_arousal};

const MARK: &str = "<!-- below: ./dev eval emotion --write -->\n";

const WORDS: [Emotion; 6] =
    [Emotion::Calm, Emotion::Neutral, Emotion::Happy, Emotion::Excited, Emotion::Sad, Emotion::Angry];

/// Truth and guess, as numbers of classes.
type Guess = Option<(usize, usize)>;

pub fn about(clips: &[Clip]) -> String {
    let mut text = String::from("\n### What was heard\n\n");
    for corpus in Corpus::BOTH {
        let own = clips.iter().filter(|clip| clip.corpus == corpus);
        let speakers: BTreeSet<&str> = own.clone().map(|clip| clip.speaker.as_str()).collect();
        let speakers = speakers.into_iter().collect::<Vec<_>>().join(", ");
        let _ = writeln!(text, "- {}: {} recordings; speakers {speakers}", corpus.name(), own.count());
    }
    text
}

/// Unweighted average recall, percent; `None` if a class has no example.
fn uar(guesses: impl Iterator<Item = Guess>, classes: usize) -> Option<f64> {
    let mut all = vec![0u32; classes];
    let mut right = vec![0u32; classes];
    for (truth, guess) in guesses.flatten() {
        all[truth] += 1;
        right[truth] += u32::from(truth == guess);
    }
    let recall = |class: usize| (all[class] > 0).then(|| f64::from(right[class]) / f64::from(all[class]));
    let recalls: Option<Vec<f64>> = (0..classes).map(recall).collect();
    Some(100.0 * recalls?.iter().sum::<f64>() / classes as f64)
}

fn arousal(verdict: &Verdict<'_>) -> Guess {
    let guess = verdict.scores.is_some_and(|scores| scores.arousal > 0.0);
    Some((usize::from(high_arousal(verdict.clip.emotion)?), usize::from(guess)))
}

fn best(scores: &Scores) -> usize {
    (0..4).max_by(|&a, &b| scores.classes[a].total_cmp(&scores.classes[b])).unwrap_or(2)
}

/// A clip without a verdict counts as neutral.
fn four(verdict: &Verdict<'_>) -> Guess {
    let truth = FOUR.iter().position(|emotion| *emotion == verdict.clip.emotion)?;
    Some((truth, verdict.scores.as_ref().map_or(2, best)))
}

/// A table of the two goals over all lines and ways of getting to know the speaker.
pub fn goals<'a>(
    lines: &[(Line, Vec<Measure>)],
    hear: impl Fn(&[Measure], Acquaintance) -> Vec<Verdict<'a>>,
) -> String {
    let mut text = String::from(
        "\n### Goals: unweighted average recall, %\n\n| line | the speaker is known by | arousal: Emo-DB | RAVDESS | mean (goal 85) | four classes: Emo-DB | RAVDESS | mean (goal 60) |\n|---|---|--:|--:|--:|--:|--:|--:|\n| | chance | 50 | 50 | 50 | 25 | 25 | 25 |\n",
    );
    for (line, measures) in lines {
        let running = hear(measures, Acquaintance::Running);
        let known = hear(measures, Acquaintance::Known);
        let all = running.iter();
        let mut row = |how: &str, verdicts: &mut dyn Iterator<Item = &Verdict<'_>>| {
            let verdicts: Vec<&Verdict<'_>> = verdicts.collect();
            let of = |corpus: Corpus, guess: fn(&Verdict<'_>) -> Guess, classes| {
                uar(
                    verdicts.iter().filter(|verdict| verdict.clip.corpus == corpus).map(|verdict| guess(verdict)),
                    classes,
                )
            };
            let _ = write!(text, "| {} | {how} |", line.name());
            for (guess, classes, goal) in [(arousal as fn(&Verdict<'_>) -> Guess, 2, 85.0), (four, 4, 60.0)] {
                let [emodb, ravdess] = Corpus::BOTH.map(|corpus| of(corpus, guess, classes));
                let mean = emodb.zip(ravdess).map(|(a, b)| f64::midpoint(a, b));
                let met = mean.map_or("", |mean| if mean >= goal { " met" } else { " MISSED" });
                let _ = write!(text, " {} | {} | {}{met} |", number(emodb), number(ravdess), number(mean));
            }
            text.push('\n');
        };
        row("what came before (all)", &mut all.clone());
        row("at most 2 recordings before", &mut all.clone().filter(|verdict| verdict.heard <= 2));
        row("3 to 9 before", &mut all.clone().filter(|verdict| (3..10).contains(&verdict.heard)));
        row("10 or more before", &mut all.clone().filter(|verdict| verdict.heard >= 10));
        row("all recordings, unlabelled", &mut known.iter());
    }
    text
}

fn number(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.0}"))
}

/// The four classes, forced to choose.
pub fn confusion(verdicts: &[Verdict<'_>]) -> String {
    let mut text = String::from("\n### Which of the four is taken for which (clean, what came before), % of the row\n");
    for corpus in Corpus::BOTH {
        let mut counts = [[0u32; 4]; 4];
        let own = verdicts.iter().filter(|verdict| verdict.clip.corpus == corpus);
        own.filter_map(four).for_each(|(truth, guess)| counts[truth][guess] += 1);
        let _ = write!(text, "\n| {} | {} |\n|---|--:|--:|--:|--:|\n", corpus.name(), FOUR.join(" | "));
        for (name, row) in FOUR.iter().zip(counts) {
            let all: u32 = row.iter().sum();
            let row = row.map(|count| format!("{:.0}", 100.0 * f64::from(count) / f64::from(all.max(1))));
            let _ = writeln!(text, "| {name} | {} |", row.join(" | "));
        }
    }
    text
}

/// What a listener is told, for every feeling that was acted.
pub fn said(verdicts: &[Verdict<'_>]) -> String {
    let mut text = String::from(
        "\n### What is sent (both corpora, clean, what came before), % of the row\n\n| acted | calm | neutral | happy | excited | sad | angry | mean arousal |\n|---|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    let mut by_truth: BTreeMap<&str, Vec<&Verdict<'_>>> = BTreeMap::new();
    verdicts.iter().for_each(|verdict| by_truth.entry(verdict.clip.emotion).or_default().push(verdict));
    for (truth, own) in by_truth {
        let share =
            |of: &dyn Fn(&Verdict<'_>) -> f64| own.iter().map(|verdict| of(verdict)).sum::<f64>() / own.len() as f64;
        let shares = WORDS.map(|word| {
            format!("{:.0}", 100.0 * share(&|verdict| f64::from(u8::from(verdict.feeling.emotion == word))))
        });
        let mean = share(&|verdict| f64::from(verdict.feeling.arousal.unwrap_or_default()));
        let _ = writeln!(text, "| {truth} | {} | {mean:+.2} |", shares.join(" | "));
    }
    text
}

/// Whether a word fits what was acted, as far as words can.
fn fits(said: Emotion, acted: &str) -> bool {
    match said {
        Emotion::Angry => acted == "anger",
        Emotion::Happy => acted == "happiness",
        Emotion::Sad => acted == "sadness",
        Emotion::Excited => high_arousal(acted) == Some(true),
        Emotion::Calm => high_arousal(acted) == Some(false),
        Emotion::Neutral => matches!(acted, "neutral" | "calm" | "boredom"),
    }
}

/// How often what is sent fits, by how sure it was said.
pub fn confidence(verdicts: &[Verdict<'_>]) -> String {
    let mut text = String::from(
        "\n### Whether the confidence is honest (clean, what came before; disgust left out)\n\n| confidence | Emo-DB: share | fits | RAVDESS: share | fits |\n|---|--:|--:|--:|--:|\n",
    );
    for tenths in [(0, 3), (3, 5), (5, 6), (6, 7), (7, 8), (8, 11)] {
        let (from, to) = (tenths.0 as f32 / 10.0, tenths.1 as f32 / 10.0);
        let _ = write!(text, "| {from:.1} to {:.1} |", to.min(1.0));
        for corpus in Corpus::BOTH {
            let own =
                verdicts.iter().filter(|verdict| verdict.clip.corpus == corpus && verdict.clip.emotion != "disgust");
            let here = own.clone().filter(|verdict| (from..to).contains(&verdict.feeling.confidence));
            let right = here.clone().filter(|verdict| fits(verdict.feeling.emotion, verdict.clip.emotion)).count();
            let (all, here) = (own.count(), here.count());
            let percent = |part: usize, of: usize| (of > 0).then(|| 100.0 * part as f64 / of as f64);
            let _ = write!(text, " {} | {} |", number(percent(here, all)), number(percent(right, here)));
        }
        text.push('\n');
    }
    text
}

/// What is sent where nobody acted.
pub fn ordinary(feelings: &[Feeling]) -> String {
    let many = feelings.len().max(1) as f64;
    let share =
        |of: &dyn Fn(&Feeling) -> bool| 100.0 * feelings.iter().filter(|feeling| of(feeling)).count() as f64 / many;
    let shares = WORDS.map(|word| format!("{:.0}", share(&|feeling| feeling.emotion == word)));
    let mean = feelings.iter().map(|feeling| f64::from(feeling.arousal.unwrap_or_default())).sum::<f64>() / many;
    format!(
        "\n### What is sent of ordinary reading ({many:.0} pieces of 4 s), %\n\n| calm | neutral | happy | excited | sad | angry | mean arousal |\n|--:|--:|--:|--:|--:|--:|--:|\n| {} | {mean:+.2} |\n",
        shares.join(" | ")
    )
}

/// Puts the tables behind the mark in docs/EMOTION.md.
pub fn write(tables: &str) -> Result<(), Failed> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/EMOTION.md");
    let page = std::fs::read_to_string(path)?;
    let (prose, _) = page.split_once(MARK).ok_or("docs/EMOTION.md has lost its mark")?;
    std::fs::write(path, format!("{prose}{MARK}{tables}"))?;
    Ok(())
}
