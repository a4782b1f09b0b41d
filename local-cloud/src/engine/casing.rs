//! The capitals of names, which the decoder does not know, taken from the vocabulary's own spelling.

use std::collections::{BTreeMap, BTreeSet};

/// Words that the phrases write with a capital wherever no sentence begins, by their lower-case form.
pub(super) fn names(phrases: &[String]) -> BTreeMap<String, String> {
    let (mut names, mut plain) = (BTreeMap::new(), BTreeSet::new());
    for phrase in phrases {
        // Transcribe's own form, with hyphens for spaces, is no sentence: each of its capitals is meant.
        let own_form = !phrase.contains(' ');
        let mut begins = !own_form;
        for token in phrase.split(|c: char| c.is_whitespace() || (own_form && c == '-')) {
            let word = token.trim_matches(|c: char| !c.is_alphanumeric());
            let lower = word.to_lowercase();
            if word == lower {
                plain.insert(lower);
            } else if !begins {
                names.insert(lower, word.to_owned());
            }
            begins = (begins && word.is_empty()) || token.ends_with(['.', '?', '!', ':']);
        }
    }
    names.retain(|lower, _| !plain.contains(lower));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(phrases: &[&str]) -> Vec<(String, String)> {
        names(&phrases.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>()).into_iter().collect()
    }

    #[test]
    fn capitals_inside_a_sentence_are_names() {
        let text = "Printers in Mainz, the home of Gutenberg. Then printers left; \"Venice\" was next";
        let names = of(&[text]);
        let expected = [("gutenberg", "Gutenberg"), ("mainz", "Mainz"), ("venice", "Venice")];
        assert_eq!(names, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    }

    #[test]
    fn phrases_in_the_service_s_own_form_mean_every_capital_and_doubtful_words_stay_plain() {
        let names = of(&["Los-Angeles", "NASA", "the March of time", "they march on"]);
        let lower: Vec<&str> = names.iter().map(|(lower, _)| lower.as_str()).collect();
        assert_eq!(lower, ["angeles", "los", "nasa"]);
    }
}
