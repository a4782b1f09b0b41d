//! From an engine's hypotheses to the results a client sees: what is promised stays, partials come at a pace, and the
//! JSON has the service's shape.

use serde_json::{Map, Value, json};

use super::request::uuid;
use crate::engine::{Hypothesis, Word};

/// A word that ends less than this before the edge of what was heard may be the beginning of a longer one, and is not
/// promised yet ("exit" of "exhibition"). With PocketSphinx it spares 3 points of word error rate at low stability.
const EDGE_MS: u64 = 300;
/// Least audio between two partials of a segment.
const PACE_MS: u64 = 200;

/// The results of one stream.
pub(super) struct Captions {
    /// Ticks of 100 ms a word must stay the same to be promised; None without stabilisation.
    stability: Option<u32>,
    /// End of the last final: what lies before it has been told.
    told_ms: u64,
    segment: Option<Segment>,
}

/// One utterance in growth.
struct Segment {
    utterance: u64,
    id: String,
    /// Words that will not change any more.
    promised: Vec<Word>,
    /// What the last hypothesis came to, and since when each word stands unchanged behind unchanged words.
    shown: Vec<(Word, u64)>,
    /// Audio time of the last partial sent, how many words of it were promised, and its text.
    sent: Option<(u64, usize, String)>,
}

/// One result, ready to be written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Caption {
    pub id: String,
    pub words: Vec<Word>,
    /// How many of the words are promised; None without stabilisation.
    pub stable: Option<usize>,
    pub is_final: bool,
}

impl Captions {
    pub(super) fn new(stability: Option<u32>) -> Captions {
        Captions { stability, told_ms: 0, segment: None }
    }

    /// What to tell the client now: nothing, when the hypothesis says nothing new or too soon after the last.
    pub(super) fn hear(&mut self, heard: &Hypothesis) -> Option<Caption> {
        let mut segment = match self.segment.take() {
            Some(segment) if segment.utterance == heard.utterance => segment,
            _ => Segment::new(heard.utterance),
        };
        let words = segment.splice(heard, self.told_ms);
        if heard.is_final {
            return self.finish(segment, words);
        }
        segment.show(words, heard.at_ms);
        if let Some(ticks) = self.stability {
            segment.promise(heard.at_ms, u64::from(ticks.saturating_sub(1)) * 100);
        }
        let caption = segment.partial(heard.at_ms, self.stability.is_some());
        self.segment = Some(segment);
        caption
    }

    fn finish(&mut self, segment: Segment, words: Vec<Word>) -> Option<Caption> {
        // A final that lost all its words keeps what was shown, else a client would wait for the end of the segment.
        let shown = || segment.shown.iter().map(|(word, _)| word.clone()).collect();
        let words: Vec<Word> = if words.is_empty() && segment.sent.is_some() { shown() } else { words };
        self.told_ms = self.told_ms.max(words.last()?.end_ms);
        let stable = self.stability.map(|_| words.len());
        Some(Caption { id: segment.id, words, stable, is_final: true })
    }
}

impl Segment {
    fn new(utterance: u64) -> Segment {
        Segment { utterance, id: uuid(), promised: Vec::new(), shown: Vec::new(), sent: None }
    }

    /// The hypothesis with its beginning replaced by what was promised, and without what an earlier final told.
    fn splice(&self, heard: &Hypothesis, told_ms: u64) -> Vec<Word> {
        let after = |from: u64| {
            move |word: &&Word| word.start_ms + word.end_ms >= 2 * from && (word.end_ms > from || word.is_punctuation)
        };
        let words: Vec<Word> = heard.words.iter().filter(after(told_ms)).cloned().collect();
        let agrees = words.len() >= self.promised.len()
            && self.promised.iter().zip(&words).all(|(promised, word)| promised.text == word.text);
        let Some(last) = self.promised.last() else { return words };
        let rest: Vec<Word> = match agrees {
            true => words[self.promised.len()..].to_vec(),
            false => words.iter().filter(after(last.end_ms)).cloned().collect(),
        };
        let doubled = last.is_punctuation && rest.first().is_some_and(|w| w.is_punctuation);
        let confident = |(i, word): (usize, &Word)| {
            // The promise stands, the engine's belief in it is what its final says of the same word.
            let confidence = words.get(i).filter(|w| w.text == word.text).and_then(|w| w.confidence);
            let unconfirmed = (heard.is_final && !word.is_punctuation).then_some(0.0);
            Word { confidence: confidence.or(unconfirmed), ..word.clone() }
        };
        self.promised.iter().enumerate().map(confident).chain(rest.into_iter().skip(usize::from(doubled))).collect()
    }

    fn show(&mut self, words: Vec<Word>, at_ms: u64) {
        let same = self.shown.iter().zip(&words).take_while(|((old, _), new)| old.text == new.text).count();
        let since = |i: usize| if i < same { self.shown[i].1 } else { at_ms };
        self.shown = words.into_iter().enumerate().map(|(i, word)| (word, since(i))).collect();
    }

    fn promise(&mut self, at_ms: u64, stand_ms: u64) {
        let ripe = self.shown.iter().take_while(|(word, since)| at_ms >= (since + stand_ms).max(word.end_ms + EDGE_MS));
        let ripe = ripe.count();
        let more = self.shown.iter().take(ripe).skip(self.promised.len()).map(|(word, _)| word.clone());
        self.promised.extend(more.collect::<Vec<_>>());
    }

    fn partial(&mut self, at_ms: u64, stabilised: bool) -> Option<Caption> {
        let words: Vec<Word> = self.shown.iter().map(|(word, _)| word.clone()).collect();
        let text = transcript(&words);
        let news = |(at, promised, told): &(u64, usize, String)| {
            at_ms >= at + PACE_MS && (*told != text || *promised != self.promised.len())
        };
        if words.is_empty() || !self.sent.as_ref().is_none_or(news) {
            return None;
        }
        self.sent = Some((at_ms, self.promised.len(), text));
        let stable = stabilised.then_some(self.promised.len());
        Some(Caption { id: self.id.clone(), words, stable, is_final: false })
    }
}

impl Caption {
    /// The `TranscriptEvent` payload with this one result.
    pub(super) fn json(&self) -> String {
        let items: Vec<Value> = self.words.iter().enumerate().map(|(i, word)| self.item(i, word)).collect();
        let (start, end) = (self.words.first().map_or(0, |w| w.start_ms), self.words.last().map_or(0, |w| w.end_ms));
        let alternative = json!({ "Items": items, "Transcript": transcript(&self.words) });
        let result = json!({
            "Alternatives": [alternative],
            "EndTime": seconds(end),
            "IsPartial": !self.is_final,
            "ResultId": self.id,
            "StartTime": seconds(start),
        });
        json!({ "Transcript": { "Results": [result] } }).to_string()
    }

    fn item(&self, index: usize, word: &Word) -> Value {
        let mut item = Map::new();
        if let Some(confidence) = word.confidence.filter(|_| self.is_final && !word.is_punctuation) {
            // Four digits, as the service writes them.
            item.insert("Confidence".into(), json!((f64::from(confidence) * 1e4).round() / 1e4));
        }
        item.insert("Content".into(), json!(word.text));
        item.insert("EndTime".into(), seconds(word.end_ms));
        if let Some(stable) = self.stable {
            item.insert("Stable".into(), json!(index < stable));
        }
        item.insert("StartTime".into(), seconds(word.start_ms));
        item.insert("Type".into(), json!(if word.is_punctuation { "punctuation" } else { "pronunciation" }));
        item.insert("VocabularyFilterMatch".into(), json!(false));
        Value::Object(item)
    }
}

/// An event that says nothing, as the service sends while it has nothing to say.
pub(super) fn heartbeat() -> String {
    json!({ "Transcript": { "Results": [] } }).to_string()
}

fn seconds(ms: u64) -> Value {
    json!(ms as f64 / 1000.0)
}

/// Words joined by spaces, punctuation to the word before it.
fn transcript(words: &[Word]) -> String {
    let mut text = String::new();
    for word in words {
        if !text.is_empty() && !word.is_punctuation {
            text.push(' ');
        }
        text.push_str(&word.text);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn heard(at_ms: u64, text: &str, is_final: bool) -> Hypothesis {
        let words = text.split_whitespace().enumerate();
        let words = words.map(|(i, w)| Word::spoken(w, i as u64 * 200, i as u64 * 200 + 180)).collect();
        Hypothesis { utterance: 0, at_ms, words, is_final }
    }

    fn text(caption: &Caption) -> String {
        transcript(&caption.words)
    }

    #[test]
    fn a_segment_keeps_its_id_and_partials_keep_their_pace() {
        let mut captions = Captions::new(None);
        let first = captions.hear(&heard(300, "we", false)).unwrap();
        assert!(captions.hear(&heard(400, "we go", false)).is_none(), "too soon");
        let second = captions.hear(&heard(500, "we go", false)).unwrap();
        assert!(captions.hear(&heard(900, "we go", false)).is_none(), "nothing new");
        let last = captions.hear(&heard(950, "we go", true)).unwrap();
        assert!(first.id == second.id && second.id == last.id && last.is_final);
        let mut next = heard(1_300, "", false);
        (next.utterance, next.words) = (1, vec![Word::spoken("on", 1_000, 1_200)]);
        assert_ne!(captions.hear(&next).unwrap().id, first.id);
    }

    #[test]
    fn a_promised_word_stays_even_when_the_final_disagrees() {
        let mut captions = Captions::new(Some(3));
        for at in [500, 600, 700] {
            captions.hear(&heard(at, "good day", false));
        }
        let partial = captions.hear(&heard(900, "good date to", false)).unwrap();
        assert_eq!((text(&partial).as_str(), partial.stable), ("good day to", Some(2)));
        let last = captions.hear(&heard(1_000, "bad date too you", true)).unwrap();
        assert_eq!((text(&last).as_str(), last.stable), ("good day too you", Some(4)));
        assert_eq!(last.words[0].confidence, Some(0.0));
    }

    #[test]
    fn a_word_at_the_edge_of_what_was_heard_is_not_promised() {
        let mut captions = Captions::new(Some(1));
        let partial = captions.hear(&heard(600, "in the exit", false)).unwrap();
        assert_eq!(partial.stable, Some(1), "the second word ended 220 ms ago");
        assert_eq!(captions.hear(&heard(900, "in the exhibition", false)).unwrap().stable, Some(3));
    }

    #[test]
    fn what_one_final_told_is_not_told_again_by_the_next() {
        let mut captions = Captions::new(Some(3));
        captions.hear(&heard(700, "one two three", true)).unwrap();
        let mut next = heard(900, "one two three four", false);
        next.utterance = 1;
        assert_eq!(text(&captions.hear(&next).unwrap()), "four");
    }

    #[test]
    fn a_final_without_words_keeps_what_was_shown() {
        let mut captions = Captions::new(None);
        captions.hear(&heard(300, "hm", false)).unwrap();
        assert_eq!(text(&captions.hear(&heard(600, "", true)).unwrap()), "hm");
        assert!(captions.hear(&Hypothesis { utterance: 1, ..heard(900, "", true) }).is_none());
    }

    #[test]
    fn the_json_is_the_service_s_own() {
        let mut word = Word::spoken("Good", 130, 190);
        word.confidence = Some(0.98768);
        let words = vec![word, Word::punctuation(".", 190)];
        let caption = Caption { id: "id".into(), words, stable: None, is_final: true };
        let expected = r#"{"Transcript":{"Results":[{"Alternatives":[{"Items":[{"Confidence":0.9877,"Content":"Good","EndTime":0.19,"StartTime":0.13,"Type":"pronunciation","VocabularyFilterMatch":false},{"Content":".","EndTime":0.19,"StartTime":0.19,"Type":"punctuation","VocabularyFilterMatch":false}],"Transcript":"Good."}],"EndTime":0.19,"IsPartial":false,"ResultId":"id","StartTime":0.13}]}}"#;
        let parse = |s: &str| serde_json::from_str::<Value>(s).unwrap();
        assert_eq!(parse(&caption.json()), parse(expected));
        assert_eq!(heartbeat(), r#"{"Transcript":{"Results":[]}}"#);
    }

    proptest! {
        /// Hypotheses of random rewriting: what was stable once stands in every later result of its segment, the final
        /// included, with the same times.
        #[test]
        fn stable_items_never_change(rewrites in prop::collection::vec(prop::collection::vec(0u8..4, 0..7), 1..40), ticks in 1u32..9) {
            let mut captions = Captions::new(Some(ticks));
            let mut stable: Vec<Word> = Vec::new();
            let last = rewrites.len() - 1;
            for (i, words) in rewrites.iter().enumerate() {
                let text = words.iter().map(|w| ["a", "b", "c", "d"][usize::from(*w)]).collect::<Vec<_>>().join(" ");
                let Some(caption) = captions.hear(&heard(i as u64 * 100, &text, i == last)) else { continue };
                let bare = |w: &Word| Word { confidence: None, ..w.clone() };
                let words: Vec<Word> = caption.words.iter().map(bare).collect();
                prop_assert!(words.len() >= stable.len() && words[..stable.len()] == stable[..]);
                stable = words[..caption.stable.unwrap()].to_vec();
            }
        }
    }
}
