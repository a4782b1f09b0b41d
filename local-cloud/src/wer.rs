//! Word error rate, the usual measure of a recogniser: (substitutions + deletions + insertions) / words of the reference.

/// How a recognised text differs from what was really said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WordErrors {
    /// Least number of words to replace, remove and add.
    pub errors: usize,
    /// Words of the reference.
    pub words: usize,
}

impl WordErrors {
    /// The rate, 0.0 for no error; above 1.0 when more was added than was said. An empty reference has rate 0.
    pub fn rate(self) -> f64 {
        if self.words == 0 { 0.0 } else { self.errors as f64 / self.words as f64 }
    }
}

/// Compares word by word after [`normalise`].
pub fn word_errors(reference: &str, heard: &str) -> WordErrors {
    let (reference, heard) = (normalise(reference), normalise(heard));
    // One row of the Levenshtein table.
    let mut row: Vec<usize> = (0..=heard.len()).collect();
    for (i, said) in reference.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, word) in heard.iter().enumerate() {
            let substituted = diagonal + usize::from(said != word);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    WordErrors { errors: row[heard.len()], words: reference.len() }
}

/// Lower case, no punctuation but the apostrophe inside a word; numbers as they are.
pub fn normalise(text: &str) -> Vec<String> {
    let plain = text.to_lowercase().replace('\u{2019}', "'");
    plain
        .split(|c: char| !c.is_alphanumeric() && c != '\'')
        .map(|word| word.trim_matches('\'').to_owned())
        .filter(|word| !word.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(reference: &str, heard: &str) -> (usize, usize) {
        let e = word_errors(reference, heard);
        (e.errors, e.words)
    }

    #[test]
    fn each_kind_of_error_counts_once() {
        assert_eq!(errors("a b c d", "a b c d"), (0, 4));
        assert_eq!(errors("a b c d", "a x c d"), (1, 4));
        assert_eq!(errors("a b c d", "a c d"), (1, 4));
        assert_eq!(errors("a b c d", "a b b c d"), (1, 4));
        assert_eq!(errors("a b", ""), (2, 2));
        assert_eq!(errors("", "a"), (1, 0));
        assert_eq!(word_errors("a b c d", "x").rate(), 1.0);
    }

    #[test]
    fn case_and_punctuation_do_not_count_but_apostrophes_inside_do() {
        assert_eq!(errors("\"It's 1 o'clock,\" he said.", "it\u{2019}s 1 O'CLOCK he said"), (0, 5));
        assert_eq!(errors("its", "it's"), (1, 1));
    }
}
