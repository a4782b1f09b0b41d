//! A trigram language model from a few phrases, in the ARPA text format: fixed back-off with half of the mass set aside
//! for what the phrases do not say.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Share of each history's probability kept for unseen words.
const DISCOUNT: f64 = 0.5;

/// Cuts phrases into sentences of lower-case words. A phrase without spaces is in Transcribe's own form, with hyphens
/// for spaces.
pub(super) fn sentences(phrases: &[String]) -> Vec<Vec<String>> {
    let mut sentences = Vec::new();
    for phrase in phrases {
        let phrase = if phrase.contains(' ') { phrase.clone() } else { phrase.replace('-', " ") };
        let pieces = phrase.split(['.', '?', '!', ';', ':', '\n']);
        sentences.extend(pieces.map(crate::wer::normalise).filter(|words| !words.is_empty()));
    }
    sentences
}

/// The model of these sentences; None when there are no words.
pub(super) fn arpa(sentences: &[Vec<String>]) -> Option<String> {
    let mut counts: [BTreeMap<Vec<&str>, f64>; 3] = Default::default();
    for sentence in sentences.iter().filter(|s| !s.is_empty()) {
        let words: Vec<&str> = ["<s>"].into_iter().chain(sentence.iter().map(String::as_str)).chain(["</s>"]).collect();
        for (n, counts) in counts.iter_mut().enumerate() {
            for gram in words.windows(n + 1) {
                *counts.entry(gram.to_vec()).or_default() += 1.0;
            }
        }
    }
    if counts[0].is_empty() {
        return None;
    }
    let probability = probabilities(&counts);
    Some(write(&probability))
}

type Model<'a> = [BTreeMap<Vec<&'a str>, f64>; 3];

fn probabilities<'a>(counts: &Model<'a>) -> Model<'a> {
    let total: f64 = counts[0].values().sum();
    let of = |n: usize| {
        let mass = |gram: &[&str]| if n == 0 { total } else { counts[n - 1][&gram[..n]] };
        counts[n].iter().map(|(gram, count)| (gram.clone(), (1.0 - DISCOUNT) * count / mass(gram))).collect()
    };
    [of(0), of(1), of(2)]
}

/// What a history leaves to the shorter history: the mass not given to seen words, spread over the unseen ones.
fn back_offs<'a>(model: &Model<'a>, n: usize) -> BTreeMap<Vec<&'a str>, f64> {
    // Per history: probability of the seen words, and what the shorter history gives to the same words.
    let mut seen: BTreeMap<Vec<&str>, (f64, f64)> = BTreeMap::new();
    for (gram, p) in &model[n + 1] {
        let sums = seen.entry(gram[..=n].to_vec()).or_default();
        sums.0 += p;
        sums.1 += model[n][&gram[1..]];
    }
    let weight = |(seen, shorter): (f64, f64)| (1.0 - seen).max(1e-4) / (1.0 - shorter).max(1e-4);
    seen.into_iter().map(|(history, sums)| (history, weight(sums))).collect()
}

fn write(model: &Model<'_>) -> String {
    let mut text = String::from("\\data\\\n");
    for (n, grams) in model.iter().enumerate() {
        let _ = writeln!(text, "ngram {}={}", n + 1, grams.len());
    }
    for (n, grams) in model.iter().enumerate() {
        let _ = writeln!(text, "\n\\{}-grams:", n + 1);
        let back_off = if n < 2 { back_offs(model, n) } else { BTreeMap::new() };
        for (gram, p) in grams {
            // A sentence's beginning is given, never predicted.
            let log = if gram == &["<s>"] { -99.0 } else { p.log10() };
            let _ = write!(text, "{log:.4} {}", gram.join(" "));
            if n < 2 {
                let _ = write!(text, " {:.4}", back_off.get(gram).map_or(0.0, |w| w.log10()));
            }
            text.push('\n');
        }
    }
    text.push_str("\n\\end\\\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(phrases: &[&str]) -> Vec<String> {
        let phrases: Vec<String> = phrases.iter().map(|p| (*p).to_owned()).collect();
        arpa(&sentences(&phrases)).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn counts_probabilities_and_back_offs_are_right() {
        let lines = lines(&["The cat. The dog!"]);
        for start in
            ["ngram 1=5", "ngram 2=5", "ngram 3=4", "-0.3010 <s> the ", "-0.6021 the cat ", "-0.6021 <s> the cat"]
        {
            assert!(lines.iter().any(|l| l.starts_with(start)), "{start} in {lines:#?}");
        }
        // Half of the mass behind "the" is left, and "cat" and "dog" have 1/16 each without it.
        let the = lines.iter().find(|l| l.split(' ').nth(1) == Some("the") && l.split(' ').count() == 3).unwrap();
        assert_eq!(the, &format!("{:.4} the {:.4}", (0.5f64 * 2.0 / 8.0).log10(), (0.5f64 / 0.875).log10()));
        assert_eq!(lines.last().unwrap(), "\\end\\");
    }

    #[test]
    fn every_n_gram_of_the_header_is_listed() {
        let lines = lines(&["one two three one two", "Los-Angeles", "it's fine"]);
        for n in 1..=3 {
            let head = format!("ngram {n}=");
            let want: usize = lines.iter().find_map(|l| l.strip_prefix(&head)).unwrap().parse().unwrap();
            let start = lines.iter().position(|l| *l == format!("\\{n}-grams:")).unwrap();
            assert_eq!(lines[start + 1..].iter().take_while(|l| !l.is_empty()).count(), want);
        }
        assert!(lines.iter().any(|l| l.contains(" los angeles ")));
        assert!(arpa(&sentences(&["...".into()])).is_none());
    }
}
