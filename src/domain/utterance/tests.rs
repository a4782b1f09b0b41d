use proptest::prelude::*;

use super::*;

fn word(text: &str, at_ms: u64, stable: bool) -> Word {
    Word {
        text: text.into(),
        punctuation: text.chars().all(|c| c.is_ascii_punctuation()),
        start: MediaTime::from_millis(at_ms),
        end: MediaTime::from_millis(at_ms + if text.chars().all(|c| c.is_ascii_punctuation()) { 0 } else { 200 }),
        stable,
        confidence: None,
    }
}

/// Words 250 ms apart from `at_ms` on; the first `stable` of them are stable.
fn heard(id: &str, at_ms: u64, text: &str, stable: usize, is_final: bool) -> Heard {
    let mut at = at_ms;
    let mut words = Vec::new();
    for (index, item) in text.split_whitespace().enumerate() {
        let mark = item.chars().all(|c| c.is_ascii_punctuation());
        let start = if mark { at.saturating_sub(50) } else { at };
        words.push(word(item, start, index < stable));
        if !mark {
            at += 250;
        }
    }
    let end = words.iter().map(|word| word.end).max().unwrap_or_default();
    Heard { result_id: id.into(), is_final, start: MediaTime::from_millis(at_ms), end, words }
}

fn clauses(out: &[Understood]) -> Vec<(String, bool)> {
    let only = |one: &Understood| match one {
        Understood::Clause(clause) => Some((clause.text.clone(), clause.last)),
        Understood::Transcript(_) | Understood::Repeated => None,
    };
    out.iter().filter_map(only).collect()
}

fn finals(out: &[Understood]) -> Vec<String> {
    let only = |one: &Understood| match one {
        Understood::Transcript(transcript) if transcript.is_final => Some(transcript.text.clone()),
        Understood::Transcript(_) | Understood::Clause(_) | Understood::Repeated => None,
    };
    out.iter().filter_map(only).collect()
}

#[test]
fn a_sentence_is_cut_at_its_punctuation_as_soon_as_that_is_stable() {
    let mut book = Utterances::default();
    let mut out = Vec::new();
    book.hear(heard("a", 0, "now all of this , is", 3, false), &mut out);
    assert!(clauses(&out).is_empty());
    book.hear(heard("a", 0, "now all of this , is good . and", 8, false), &mut out);
    assert_eq!(clauses(&out), [("now all of this,".into(), false), ("is good.".into(), false)]);
    book.hear(heard("a", 0, "now all of this , is good . and so on .", 0, true), &mut out);
    assert_eq!(clauses(&out)[2..], [("and so on.".into(), false), (String::new(), true)]);
    assert_eq!(finals(&out), ["now all of this, is good. and so on."]);
}

#[test]
fn what_was_promised_stays_even_when_the_final_says_otherwise() {
    let mut book = Utterances::default();
    let mut out = Vec::new();
    book.hear(heard("a", 0, "we meet on the day after", 5, false), &mut out);
    book.hear(heard("a", 0, "we meet on a date after lunch", 0, true), &mut out);
    assert_eq!(finals(&out), ["we meet on the day after lunch"]);
}

#[test]
fn a_restart_in_mid_sentence_neither_loses_nor_doubles_words() {
    let mut book = Utterances::default();
    let mut out = Vec::new();
    book.hear(heard("a", 0, "first one .", 0, true), &mut out);
    book.hear(heard("b", 1_000, "we meet on the day", 4, false), &mut out);
    book.restarted();
    // The replay begins in the final part and hears the same words under another id.
    book.hear(heard("x", 250, "one", 0, true), &mut out);
    assert_eq!(out.last(), Some(&Understood::Repeated));
    book.hear(heard("y", 1_000, "we meet on the day after lunch", 0, true), &mut out);
    assert_eq!(finals(&out), ["first one.", "we meet on the day after lunch"]);
    assert!(!book.has_orphans());
}

#[test]
fn an_utterance_that_is_never_heard_again_becomes_final_as_it_was() {
    let mut book = Utterances::default();
    let mut out = Vec::new();
    book.hear(heard("b", 0, "we meet on", 0, false), &mut out);
    book.restarted();
    book.hear(heard("y", 9_000, "something else", 0, true), &mut out);
    assert_eq!(finals(&out), ["we meet on", "something else"]);
}

#[test]
fn long_speech_without_punctuation_is_cut_at_the_widest_gap() {
    let mut book = Utterances::default();
    let mut out = Vec::new();
    let text = (0..20).map(|n| format!("w{n}")).collect::<Vec<_>>().join(" ");
    let mut long = heard("a", 0, &text, 20, false);
    for word in &mut long.words[9..] {
        word.start = word.start + MediaTime::from_millis(100);
        word.end = word.end + MediaTime::from_millis(100);
    }
    book.hear(long, &mut out);
    assert_eq!(clauses(&out)[0].0.split(' ').count(), 9);
}

#[test]
fn a_pause_ends_a_clause_once_somebody_speaks_again() {
    let mut book = Utterances::default();
    let mut out = Vec::new();
    let mut pause = heard("a", 0, "one two three four five", 5, false);
    pause.words[4].start = MediaTime::from_millis(2_000);
    pause.words[4].end = MediaTime::from_millis(2_200);
    book.hear(pause, &mut out);
    assert_eq!(clauses(&out), [("one two three four".into(), false)]);
}

proptest! {
    /// Whatever the recogniser says, in whatever order: the stable text only grows, every final is told once,
    /// and the clauses of a segment are exactly its final text.
    #[test]
    fn promised_text_is_append_only_and_clauses_add_up(
        steps in prop::collection::vec((0usize..3, 0u64..6, prop::collection::vec("[a-c]{1,3}|[.,]", 0..12), 0usize..12, any::<bool>(), 0u8..10), 1..60)
    ) {
        let mut book = Utterances::default();
        let mut out = Vec::new();
        for (id, at, words, stable, is_final, restart) in steps {
            if restart == 0 {
                book.restarted();
            }
            book.hear(heard(&format!("r{id}"), at * 700, &words.join(" "), stable, is_final), &mut out);
        }
        book.close_all(&mut out);
        let mut stable: std::collections::BTreeMap<u64, (u32, String, bool)> = Default::default();
        let mut pieces: std::collections::BTreeMap<u64, (String, bool)> = Default::default();
        for one in &out {
            match one {
                Understood::Transcript(t) => {
                    prop_assert!(t.text.starts_with(&t.stable));
                    let entry = stable.entry(t.segment).or_insert((0, String::new(), false));
                    prop_assert!(t.revision > entry.0 && !entry.2 && t.stable.starts_with(&entry.1));
                    *entry = (t.revision, t.stable.clone(), t.is_final);
                }
                Understood::Clause(clause) => {
                    let entry = pieces.entry(clause.segment).or_default();
                    prop_assert!(!entry.1);
                    let glue = clause.text.is_empty() || entry.0.is_empty() || clause.text.starts_with(|c: char| c.is_ascii_punctuation());
                    if !glue { entry.0.push(' '); }
                    entry.0.push_str(&clause.text);
                    entry.1 = clause.last;
                }
                Understood::Repeated => {}
            }
        }
        for (segment, (_, text, is_final)) in &stable {
            prop_assert!(*is_final);
            prop_assert_eq!(&(text.clone(), true), pieces.get(segment).unwrap());
        }
    }
}

#[test]
fn times_that_go_backwards_or_nowhere_make_neither_a_panic_nor_a_caption_that_does() {
    let far = MediaTime::from_micros(u64::MAX);
    for (start, end) in [(far, MediaTime::from_millis(1)), (far, far), (MediaTime::from_millis(900), MediaTime::ZERO)] {
        let mut book = Utterances::default();
        let mut out = Vec::new();
        let words = vec![Word { start, end, ..word("late", 0, true) }, word("early", 0, true), word(".", 0, true)];
        let result = Heard { result_id: "a".into(), is_final: false, start, end, words };
        book.hear(Heard { end: far, ..result.clone() }, &mut out);
        book.hear(result, &mut out);
        book.close_all(&mut out);
        assert!(!out.is_empty());
        for one in &out {
            match one {
                Understood::Transcript(transcript) => assert!(transcript.start <= transcript.end),
                Understood::Clause(clause) => assert!(clause.start <= clause.end),
                Understood::Repeated => {}
            }
        }
    }
}
