//! Markup for the synthesised voice: from a text, how it was said, and how much the voice has to hurry.
//!
//! The only way to a [`Script`] is [`scripts`], so whatever reaches the service has been cleaned, escaped and cut to
//! the service's limits, and holds only the tags that its engine takes: what an engine lacks has no field to be written
//! from. Deliberately absent: every tag besides `prosody`. Breaks come with the punctuation; whispering and its like
//! belong to the standard engine alone, and a listener who changes voices would hear the difference.

use crate::emotion::Emotion;
use crate::voices::Engine;

/// Characters in one request, as they stand between the tags. Amazon Polly bills at most 3,000 and takes 6,000 in all;
/// counting the escaped text against the smaller limit keeps both, whichever way an entity is counted.
pub const MAX_CHARACTERS: usize = 3_000;

/// How a sentence is to be spoken, whatever the voice can do of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Delivery {
    /// 1 is the voice's own pace.
    pub rate: f32,
    /// 0 is the voice's own level.
    pub volume_db: f32,
    /// 0 is the voice's own pitch.
    pub pitch_percent: f32,
}

impl Delivery {
    pub const PLAIN: Delivery = Delivery { rate: 1.0, volume_db: 0.0, pitch_percent: 0.0 };

    /// Emotion may not make a dub hard to follow: 85 to 120 % of the pace, 6 dB up or down.
    const RATE: (f32, f32) = (0.85, 1.2);
    const VOLUME_DB: f32 = 6.0;
    const PITCH_PERCENT: f32 = 15.0;

    /// `arousal` -1 (drowsy) to 1 (beside oneself), `confidence` in the emotion 0 to 1. Arousal is measured well, so it
    /// does most of the work; the feeling adds to it as far as it is sure.
    pub fn of(emotion: Emotion, arousal: f32, confidence: f32) -> Delivery {
        let arousal = within(arousal, (-1.0, 1.0), 0.0);
        let sure = within(confidence, (0.0, 1.0), 0.0);
        let (rate, volume_db, pitch_percent) = match emotion {
            Emotion::Neutral => (0.0, 0.0, 0.0),
            Emotion::Calm => (-0.04, -1.0, -2.0),
            Emotion::Happy => (0.02, 0.5, 4.0),
            Emotion::Excited => (0.05, 1.0, 6.0),
            Emotion::Sad => (-0.07, -1.5, -5.0),
            Emotion::Angry => (0.02, 2.0, -2.0),
        };
        Delivery {
            rate: 1.0 + 0.1 * arousal + rate * sure,
            volume_db: 3.0 * arousal + volume_db * sure,
            pitch_percent: 6.0 * arousal + pitch_percent * sure,
        }
    }
}

/// One request's worth of markup, good for one engine.
#[derive(Clone, PartialEq, Eq)]
pub struct Script {
    ssml: String,
    characters: usize,
    engine: Engine,
}

impl Script {
    pub fn as_str(&self) -> &str {
        &self.ssml
    }

    /// Characters without tags and escapes: what the service bills.
    pub fn characters(&self) -> usize {
        self.characters
    }

    pub fn engine(&self) -> Engine {
        self.engine
    }
}

/// What is spoken does not reach a log by `{:?}`.
impl std::fmt::Debug for Script {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Script({} characters, {})", self.characters, self.engine.as_str())
    }
}

/// The markup for `text`: one script as a rule, several in order when it is too long for one request, none when
/// there is nothing to say in it (no letter and no digit).
///
/// `rate` is what the governor asks for, percent of the voice's own; the delivery's rate comes on top.
pub fn scripts(text: &str, delivery: Delivery, rate: u16, engine: Engine) -> Vec<Script> {
    let manner = Manner::of(delivery, rate, engine);
    let cleaned = clean(text);
    let spoken = pieces(&cleaned).into_iter().filter(|piece| piece.contains(char::is_alphanumeric));
    spoken.map(|piece| manner.script(piece, engine)).collect()
}

/// What is written into `prosody`. Only the form of the standard engine has a pitch.
enum Manner {
    WithPitch { pace: Pace, pitch_percent: i32 },
    WithoutPitch(Pace),
}

/// What every engine takes.
struct Pace {
    rate_percent: i32,
    volume_db: i32,
}

impl Manner {
    fn of(delivery: Delivery, rate: u16, engine: Engine) -> Manner {
        let rate = within(delivery.rate, Delivery::RATE, 1.0) * f32::from(rate);
        let volume = within(delivery.volume_db, (-Delivery::VOLUME_DB, Delivery::VOLUME_DB), 0.0);
        // The service takes 20 to 200 %.
        let rate_percent = (rate.round() as i32).clamp(20, 200);
        let pace = Pace { rate_percent, volume_db: volume.round() as i32 };
        match engine {
            Engine::Standard => {
                let limits = (-Delivery::PITCH_PERCENT, Delivery::PITCH_PERCENT);
                let pitch_percent = within(delivery.pitch_percent, limits, 0.0).round() as i32;
                Manner::WithPitch { pace, pitch_percent }
            }
            Engine::Neural | Engine::LongForm | Engine::Generative => Manner::WithoutPitch(pace),
        }
    }

    /// The generative engine wants `prosody` around whole sentences only, so it goes around everything.
    fn script(&self, piece: &str, engine: Engine) -> Script {
        let (pace, pitch_percent) = match self {
            Manner::WithPitch { pace, pitch_percent } => (pace, *pitch_percent),
            Manner::WithoutPitch(pace) => (pace, 0),
        };
        let mut attributes = String::new();
        if pace.rate_percent != 100 {
            attributes.push_str(&format!(" rate=\"{}%\"", pace.rate_percent));
        }
        if pace.volume_db != 0 {
            attributes.push_str(&format!(" volume=\"{:+}dB\"", pace.volume_db));
        }
        if pitch_percent != 0 {
            attributes.push_str(&format!(" pitch=\"{pitch_percent:+}%\""));
        }
        let escaped = escape(piece);
        let ssml = match attributes.is_empty() {
            true => format!("<speak>{escaped}</speak>"),
            false => format!("<speak><prosody{attributes}>{escaped}</prosody></speak>"),
        };
        Script { ssml, characters: piece.chars().count(), engine }
    }
}

/// `value` held between `limits`; what is no number becomes `otherwise`.
fn within(value: f32, (least, most): (f32, f32), otherwise: f32) -> f32 {
    if value.is_nan() { otherwise } else { value.clamp(least, most) }
}

/// One space for every run of white space, none at the ends; without control characters and what XML cannot hold.
fn clean(text: &str) -> String {
    let mut cleaned = String::with_capacity(text.len());
    for c in text.trim().chars() {
        match c {
            _ if c.is_whitespace() => {
                if !cleaned.ends_with(' ') && !cleaned.is_empty() {
                    cleaned.push(' ');
                }
            }
            '\u{FFFE}' | '\u{FFFF}' => {}
            _ if c.is_control() => {}
            _ => cleaned.push(c),
        }
    }
    cleaned.truncate(cleaned.trim_end().len());
    cleaned
}

/// What a character that means something to XML is written as.
fn entity(c: char) -> Option<&'static str> {
    match c {
        '&' => Some("&amp;"),
        '<' => Some("&lt;"),
        '>' => Some("&gt;"),
        '"' => Some("&quot;"),
        '\'' => Some("&apos;"),
        _ => None,
    }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match entity(c) {
            Some(entity) => escaped.push_str(entity),
            None => escaped.push(c),
        }
    }
    escaped
}

/// Cuts to [`MAX_CHARACTERS`]: behind the last sentence that fits, or the last word, or wherever it must be.
fn pieces(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(limit) = overflow(rest) {
        let head = &rest[..limit];
        let sentence = sentence_end(head);
        let word = head.rfind(' ').filter(|at| *at > 0);
        let (piece, tail) = rest.split_at(sentence.or(word).unwrap_or(limit));
        pieces.push(piece.trim_end());
        rest = tail.trim_start();
    }
    pieces.push(rest);
    pieces
}

/// Where `text` has to end to fit. `None`: it fits.
fn overflow(text: &str) -> Option<usize> {
    let mut length = 0;
    let too_far = |(_, c): &(usize, char)| {
        length += entity(*c).map_or(1, str::len);
        length > MAX_CHARACTERS
    };
    text.char_indices().find(too_far).map(|(at, _)| at)
}

/// Behind the last sentence that ends within `head`.
fn sentence_end(head: &str) -> Option<usize> {
    let mut end = None;
    let mut chars = head.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let spaced = chars.peek().is_some_and(|(_, next)| *next == ' ');
        let ends = match c {
            // Scripts that put no space between sentences.
            '。' | '！' | '？' | '।' | '។' => true,
            '.' | '!' | '?' | '…' | '؟' | '۔' => spaced,
            _ => false,
        };
        if ends {
            end = Some(at + c.len_utf8());
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EMOTIONS: [Emotion; 6] =
        [Emotion::Calm, Emotion::Neutral, Emotion::Happy, Emotion::Excited, Emotion::Sad, Emotion::Angry];

    #[test]
    fn a_plain_sentence_needs_no_prosody() {
        assert_eq!(one("Hello you.", Delivery::PLAIN, 100, Engine::Neural), "<speak>Hello you.</speak>");
    }

    #[test]
    fn only_the_standard_engine_is_told_a_pitch() {
        let delivery = Delivery { rate: 1.1, volume_db: -2.4, pitch_percent: 8.2 };
        assert_eq!(
            one("Hi.", delivery, 100, Engine::Standard),
            "<speak><prosody rate=\"110%\" volume=\"-2dB\" pitch=\"+8%\">Hi.</prosody></speak>"
        );
        for engine in [Engine::Neural, Engine::LongForm, Engine::Generative] {
            assert_eq!(
                one("Hi.", delivery, 100, engine),
                "<speak><prosody rate=\"110%\" volume=\"-2dB\">Hi.</prosody></speak>"
            );
        }
    }

    #[test]
    fn a_text_never_becomes_markup() {
        let hostile = "</prosody></speak><speak>\u{0}& \"x\" 'y'\u{1b}[0m\n<break time=\"10s\"/>";
        assert_eq!(
            one(hostile, Delivery::PLAIN, 100, Engine::Standard),
            "<speak>&lt;/prosody&gt;&lt;/speak&gt;&lt;speak&gt;&amp; &quot;x&quot; &apos;y&apos;[0m \
             &lt;break time=&quot;10s&quot;/&gt;</speak>"
        );
    }

    #[test]
    fn nothing_to_say_is_not_said() {
        for silent in ["", "  \n ", "...", "\u{0}\u{7}", "?!", "—", "\u{FFFE}"] {
            assert_eq!(scripts(silent, Delivery::PLAIN, 100, Engine::Neural), [], "{silent:?}");
        }
    }

    #[test]
    fn the_governors_rate_comes_on_top_of_the_emotion_and_stays_within_the_services_limits() {
        let sad = Delivery { rate: 0.9, ..Delivery::PLAIN };
        assert!(one("Hi.", sad, 130, Engine::Neural).contains("rate=\"117%\""));
        assert!(one("Hi.", sad, 9_000, Engine::Neural).contains("rate=\"200%\""));
        assert!(one("Hi.", sad, 0, Engine::Neural).contains("rate=\"20%\""));
        let odd = Delivery { rate: f32::NAN, volume_db: f32::INFINITY, pitch_percent: f32::NEG_INFINITY };
        assert_eq!(
            one("Hi.", odd, 100, Engine::Standard),
            "<speak><prosody volume=\"+6dB\" pitch=\"-15%\">Hi.</prosody></speak>"
        );
    }

    #[test]
    fn an_unsure_emotion_leaves_the_work_to_the_arousal() {
        for emotion in EMOTIONS {
            assert_eq!(Delivery::of(emotion, 0.0, 0.0), Delivery::PLAIN);
            let (tired, eager) = (Delivery::of(emotion, -1.0, 0.4), Delivery::of(emotion, 1.0, 0.4));
            assert!(tired.rate < eager.rate && tired.volume_db < eager.volume_db);
        }
        let (sad, glad) = (Delivery::of(Emotion::Sad, 0.0, 1.0), Delivery::of(Emotion::Happy, 0.0, 1.0));
        assert!(sad.rate < 1.0 && sad.pitch_percent < 0.0 && glad.pitch_percent > 0.0);
        assert_eq!(Delivery::of(Emotion::Sad, f32::NAN, f32::NAN), Delivery::PLAIN);
    }

    #[test]
    fn a_long_text_is_cut_behind_sentences_then_words_then_anywhere() {
        let sentence = "So it goes on, and on. ";
        let scripts = super::scripts(&sentence.repeat(400), Delivery::PLAIN, 100, Engine::Neural);
        assert!(scripts.len() > 2);
        assert!(scripts.iter().all(|script| script.as_str().ends_with("and on.</speak>")));

        let words = super::scripts(&"bla ".repeat(1_000), Delivery::PLAIN, 100, Engine::Neural);
        assert_eq!(words.iter().map(Script::characters).collect::<Vec<_>>(), [2_999, 999]);

        let chinese = super::scripts(&"一句话。".repeat(1_000), Delivery::PLAIN, 100, Engine::Neural);
        assert_eq!(chinese.iter().map(Script::characters).collect::<Vec<_>>(), [3_000, 1_000]);

        let solid = super::scripts(&"&a".repeat(1_000), Delivery::PLAIN, 100, Engine::Neural);
        assert_eq!(solid.iter().map(Script::characters).collect::<Vec<_>>(), [1_000, 1_000]);
    }

    #[test]
    fn debug_does_not_show_what_is_spoken() {
        let scripts = scripts("A secret.", Delivery::PLAIN, 100, Engine::Neural);
        assert_eq!(format!("{scripts:?}"), "[Script(9 characters, neural)]");
    }

    proptest! {
        #[test]
        fn every_word_of_any_text_is_spoken_once_and_in_order(text in "\\PC{0,200}", copies in 1_usize..40) {
            let text = format!("a{text} ").repeat(copies);
            let scripts = scripts(&text, Delivery::PLAIN, 100, Engine::Standard);
            let spoken: String = scripts.iter().flat_map(|script| text_of(script.as_str())).collect();
            let squeeze = |text: &str| text.chars().filter(|c| c.is_alphanumeric()).collect::<String>();
            prop_assert_eq!(squeeze(&spoken), squeeze(&text));
        }

        #[test]
        fn no_script_is_longer_than_the_service_takes(text in ".{0,300}", copies in 1_usize..30, rate: f32, db: f32, pitch: f32, percent: u16) {
            let text = text.repeat(copies);
            let delivery = Delivery { rate, volume_db: db, pitch_percent: pitch };
            for engine in Engine::ALL {
                for script in scripts(&text, delivery, percent, engine) {
                    prop_assert!(script.as_str().chars().count() <= 6_000);
                    prop_assert!((1..=MAX_CHARACTERS).contains(&script.characters()));
                    prop_assert!(engine == Engine::Standard || !script.as_str().contains(" pitch=\""));
                }
            }
        }
    }

    fn one(text: &str, delivery: Delivery, rate: u16, engine: Engine) -> String {
        let scripts = scripts(text, delivery, rate, engine);
        assert_eq!(scripts.len(), 1);
        scripts[0].as_str().to_owned()
    }

    /// What an XML reader sees between the tags.
    fn text_of(ssml: &str) -> Option<String> {
        let inner = ssml.strip_prefix("<speak>")?.strip_suffix("</speak>")?;
        let plain = inner.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&apos;", "'");
        Some(plain.replace("&amp;", "&"))
    }
}
