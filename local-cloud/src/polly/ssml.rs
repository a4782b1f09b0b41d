//! Speech markup as Amazon Polly takes it: what is refused, and what is left to speak.
//!
//! As strict as the service's guide says, tag by tag and engine by engine, so that what passes here passes there.

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use super::tags::Attributes;
use super::voices::{Engine, Voice};

/// What the service counts as a sentence's own pause, on top of the engine's.
const SENTENCE_PAUSE_MS: u32 = 150;
const PARAGRAPH_PAUSE_MS: u32 = 400;
/// Elements within each other; nothing sensible needs more.
const MAX_DEPTH: usize = 32;

/// How a stretch of text is spoken, beside the voice's own way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Manner {
    pub rate: f32,
    /// Minus infinity for `silent`.
    pub volume_db: f32,
    pub pitch_percent: f32,
}

impl Manner {
    pub const PLAIN: Manner = Manner { rate: 1.0, volume_db: 0.0, pitch_percent: 0.0 };
}

/// One stretch of speech in one manner, and the pause behind it.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    pub text: String,
    pub manner: Manner,
    pub pause_ms: u32,
}

/// What is to be spoken.
#[derive(Debug, Clone, PartialEq)]
pub struct Speech {
    pub spans: Vec<Span>,
    /// Characters that are billed: those that are no markup.
    pub characters: usize,
}

impl Speech {
    /// Text without markup, spoken as it is.
    pub fn plain(text: &str) -> Speech {
        let span = Span { text: text.to_owned(), manner: Manner::PLAIN, pause_ms: 0 };
        Speech { spans: vec![span], characters: text.chars().count() }
    }
}

/// Why the markup is refused; the words go to the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Invalid SSML request: {0}")]
pub struct InvalidSsml(pub String);

pub(super) fn refuse<T>(why: impl Into<String>) -> Result<T, InvalidSsml> {
    Err(InvalidSsml(why.into()))
}

/// Reads `text` as the engine of this voice takes it.
pub fn read(text: &str, engine: Engine, voice: &Voice) -> Result<Speech, InvalidSsml> {
    if !text.chars().all(is_xml) {
        return refuse("a character that XML does not know");
    }
    let mut reader = Reader::from_str(text);
    let config = reader.config_mut();
    config.expand_empty_elements = true;
    config.check_comments = true;
    let mut listener = Listener::new(engine, voice);
    loop {
        match reader.read_event().map_err(|error| InvalidSsml(error.to_string()))? {
            Event::Start(tag) => listener.open(&tag)?,
            Event::End(_) => listener.close(),
            Event::Text(text) if text.contains("]]>") => return refuse("]]> in a text"),
            Event::Text(text) => listener.text(&text.xml10_content())?,
            Event::CData(text) => listener.text(&text.xml10_content())?,
            Event::GeneralRef(entity) => {
                let character = match entity.resolve_char_ref().map_err(|error| InvalidSsml(error.to_string()))? {
                    Some(c) if is_xml(c) => c,
                    Some(_) => return refuse("a character that XML does not know"),
                    None => predefined(&entity)?,
                };
                listener.text(character.encode_utf8(&mut [0; 4]))?;
            }
            Event::Comment(_) | Event::Decl(_) => {}
            Event::PI(_) | Event::DocType(_) => return refuse("only elements and text"),
            Event::Empty(_) => return refuse("an element that is neither open nor closed"),
            Event::Eof => return listener.finish(),
        }
    }
}

fn predefined(name: &str) -> Result<char, InvalidSsml> {
    Ok(match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        other => return refuse(format!("unknown entity {other}")),
    })
}

/// What XML 1.0 calls a character.
pub(super) fn is_xml(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..)
}

struct Open {
    name: String,
    manner: Manner,
}

/// Walks through the document.
struct Listener<'a> {
    engine: Engine,
    voice: &'a Voice,
    open: Vec<Open>,
    /// The one root was closed.
    closed: bool,
    spans: Vec<Span>,
    characters: usize,
    /// The last text ended a sentence, or there was none.
    at_sentence: bool,
    /// A generative `prosody` ended within a sentence: no text may follow it.
    cut: bool,
}

impl<'a> Listener<'a> {
    fn new(engine: Engine, voice: &'a Voice) -> Listener<'a> {
        let (open, spans) = (Vec::new(), Vec::new());
        Listener { engine, voice, open, closed: false, spans, characters: 0, at_sentence: true, cut: false }
    }

    fn open(&mut self, tag: &BytesStart<'_>) -> Result<(), InvalidSsml> {
        let name = tag.name().into_inner().to_owned();
        let attributes = Attributes::of(tag)?;
        match (name == "speak", self.open.is_empty()) {
            (true, true) if !self.closed => {}
            (false, false) => {}
            (_, true) => return refuse("the document must be one speak element"),
            (true, false) => return refuse("speak within speak"),
        }
        if self.open.len() >= MAX_DEPTH {
            return refuse("elements too deep within each other");
        }
        let mut manner = self.manner();
        match name.as_str() {
            "prosody" => {
                self.check_whole_sentence()?;
                attributes.prosody(self.engine, &mut manner)?;
            }
            "break" => {
                let pause = attributes.pause()?;
                self.pause(pause);
            }
            "emphasis" => attributes.emphasis(self.engine, &mut manner)?,
            "sub" => {
                let alias = attributes.required("sub", "alias")?.to_owned();
                self.say(&alias);
            }
            "p" | "s" => {
                attributes.only(&[])?;
                if name == "s" && self.inside("s") || self.inside("p") && name == "p" {
                    return refuse(format!("{name} within {name}"));
                }
                self.boundary();
            }
            other => attributes.check(other, self.engine, self.voice)?,
        }
        self.open.push(Open { name, manner });
        Ok(())
    }

    fn close(&mut self) {
        let Some(Open { name, .. }) = self.open.pop() else { return };
        match name.as_str() {
            "s" => self.end_of(SENTENCE_PAUSE_MS),
            "p" => self.end_of(PARAGRAPH_PAUSE_MS),
            "prosody" if self.engine == Engine::Generative => self.cut = !self.at_sentence,
            _ => {}
        }
        self.closed = self.open.is_empty();
    }

    fn text(&mut self, text: &str) -> Result<(), InvalidSsml> {
        let Some(Open { name, .. }) = self.open.last() else {
            return if text.trim().is_empty() { Ok(()) } else { refuse("text outside of speak") };
        };
        if matches!(name.as_str(), "break" | "mark" | "amazon:breath") && !text.trim().is_empty() {
            return refuse(format!("text within {name}"));
        }
        self.characters += text.chars().count();
        if text.trim().is_empty() {
            if let Some(span) = self.spans.last_mut() {
                span.text.push(' ');
            }
            return Ok(());
        }
        if self.cut {
            return refuse("prosody of a generative voice goes around whole sentences only");
        }
        self.at_sentence = ends_sentence(text);
        if name != "sub" {
            self.say(text);
        }
        Ok(())
    }

    fn say(&mut self, text: &str) {
        let manner = self.manner();
        match self.spans.last_mut() {
            Some(span) if span.manner == manner && span.pause_ms == 0 => span.text.push_str(text),
            Some(_) | None => self.spans.push(Span { text: text.to_owned(), manner, pause_ms: 0 }),
        }
    }

    fn manner(&self) -> Manner {
        self.open.last().map_or(Manner::PLAIN, |open| open.manner)
    }

    fn inside(&self, name: &str) -> bool {
        self.open.iter().any(|open| open.name == name)
    }

    fn pause(&mut self, ms: u32) {
        match self.spans.last_mut() {
            Some(span) => span.pause_ms += ms,
            None => self.spans.push(Span { text: String::new(), manner: Manner::PLAIN, pause_ms: ms }),
        }
    }

    fn boundary(&mut self) {
        self.at_sentence = true;
        self.cut = false;
    }

    fn end_of(&mut self, pause_ms: u32) {
        self.pause(pause_ms);
        self.boundary();
    }

    /// The generative engine takes `prosody` around whole sentences only.
    fn check_whole_sentence(&self) -> Result<(), InvalidSsml> {
        let among_sentences =
            self.open.last().is_some_and(|open| matches!(open.name.as_str(), "speak" | "p" | "s" | "prosody" | "lang"));
        match self.engine != Engine::Generative || self.at_sentence && among_sentences {
            true => Ok(()),
            false => refuse("prosody of a generative voice goes around whole sentences only"),
        }
    }

    fn finish(self) -> Result<Speech, InvalidSsml> {
        match self.closed {
            true => Ok(Speech { spans: self.spans, characters: self.characters }),
            false => refuse("the document must be one closed speak element"),
        }
    }
}

/// Whether the text ends with what ends a sentence, quotes and brackets behind it aside.
fn ends_sentence(text: &str) -> bool {
    let end = text.trim_end().trim_end_matches(['"', '\'', ')', ']', '»', '”', '’', '」']);
    end.ends_with(['.', '!', '?', '…', '。', '！', '？', '।', '؟', '۔', '។'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ssml: &str, engine: Engine) -> Result<Speech, InvalidSsml> {
        read(ssml, engine, Voice::find("Matthew").unwrap())
    }

    fn passes(inner: &str) -> [bool; 4] {
        Engine::ALL.map(|engine| check(&format!("<speak>{inner}</speak>"), engine).is_ok())
    }

    #[test]
    fn every_engine_takes_the_tags_of_its_own_only() {
        const ALL: [bool; 4] = [true; 4];
        const STANDARD: [bool; 4] = [true, false, false, false];
        for (inner, engines) in [
            ("Hi.", ALL),
            ("<p><s>One.</s><s>Two.</s></p>", ALL),
            ("a<break time=\"2s\"/>b<break strength=\"x-strong\"/>", ALL),
            ("<lang xml:lang=\"fr-FR\">Bonjour.</lang>", ALL),
            ("<sub alias=\"aluminium\">Al</sub>", ALL),
            ("<w role=\"amazon:VB\">read</w>", ALL),
            ("<say-as interpret-as=\"digits\">12</say-as>", ALL),
            ("<prosody rate=\"120%\" volume=\"-3dB\">Hi.</prosody>", ALL),
            ("<prosody volume=\"x-loud\">Hi.</prosody>", ALL),
            ("<prosody pitch=\"+10%\">Hi.</prosody>", STANDARD),
            ("<prosody amazon:max-duration=\"2s\">Hi.</prosody>", STANDARD),
            ("<emphasis level=\"strong\">Hi.</emphasis>", STANDARD),
            ("<amazon:breath/>", STANDARD),
            ("<amazon:auto-breaths>Hi.</amazon:auto-breaths>", STANDARD),
            ("<amazon:effect name=\"whispered\">Hi.</amazon:effect>", STANDARD),
            ("<amazon:effect phonation=\"soft\">Hi.</amazon:effect>", STANDARD),
            ("<amazon:effect vocal-tract-length=\"+10%\">Hi.</amazon:effect>", STANDARD),
            ("<amazon:effect name=\"drc\">Hi.</amazon:effect>", [true, true, true, false]),
            ("<amazon:domain name=\"news\">Hi.</amazon:domain>", [false, true, false, false]),
        ] {
            assert_eq!(passes(inner), engines, "{inner}");
        }
    }

    #[test]
    fn the_newscaster_is_of_few_voices() {
        let ssml = "<speak><amazon:domain name=\"news\">Hi.</amazon:domain></speak>";
        assert!(read(ssml, Engine::Neural, Voice::find("Vicki").unwrap()).is_err());
    }

    #[test]
    fn generative_voices_take_prosody_around_whole_sentences_only() {
        for (inner, passes) in [
            ("<prosody rate=\"90%\">One. Two</prosody>", true),
            ("One. <prosody rate=\"90%\">Two.</prosody> Three.", true),
            ("<p><prosody rate=\"90%\">Two</prosody></p>Three.", true),
            ("He said: <prosody rate=\"90%\">no.</prosody>", false),
            ("<prosody rate=\"90%\">No</prosody> he said.", false),
            ("One. <sub alias=\"b\"><prosody rate=\"90%\">Two.</prosody></sub>", false),
        ] {
            let ssml = format!("<speak>{inner}</speak>");
            assert_eq!(check(&ssml, Engine::Generative).is_ok(), passes, "{inner}");
            assert!(check(&ssml, Engine::Neural).is_ok(), "{inner}");
        }
    }

    #[test]
    fn what_is_not_well_formed_or_unknown_is_refused() {
        for ssml in [
            "",
            "Hi.",
            "<speak>Hi.",
            "<speak>Hi.</speak",
            "<speak>Hi.</speak>more",
            "more<speak>Hi.</speak>",
            "<speak>Hi.</speak><speak>Hi.</speak>",
            "<speak><speak>Hi.</speak></speak>",
            "<speak>a & b</speak>",
            "<speak>a < b</speak>",
            "<speak>&nbsp;</speak>",
            "<speak>&#0;</speak>",
            "<speak>&#8;</speak>",
            "<speak>\u{1}</speak>",
            "<speak>\u{FFFE}</speak>",
            "<speak>]]></speak>",
            "<speak><p>a</speak></p>",
            "<speak><p a=\"1\">a</p></speak>",
            "<speak><s><s>a</s></s></speak>",
            "<speak><voice name=\"x\">a</voice></speak>",
            "<speak><audio src=\"x\"/></speak>",
            "<speak><prosody>a</prosody></speak>",
            "<speak><prosody rate=\"19%\">a</prosody></speak>",
            "<speak><prosody rate=\"201%\">a</prosody></speak>",
            "<speak><prosody rate=\"+10%\">a</prosody></speak>",
            "<speak><prosody rate=\"NaN%\">a</prosody></speak>",
            "<speak><prosody rate='90%' rate='80%'>a</prosody></speak>",
            "<speak><prosody volume=\"6dB\">a</prosody></speak>",
            "<speak><prosody volume=\"+6db\">a</prosody></speak>",
            "<speak><prosody pitch=\"10%\">a</prosody></speak>",
            "<speak><prosody pitch=\"<\">a</prosody></speak>",
            "<speak><break time=\"11s\"/></speak>",
            "<speak><break>a</break></speak>",
            "<speak><sub>a</sub></speak>",
            "<speak><lang xml:lang=\"xx\">a</lang></speak>",
            "<!DOCTYPE speak [<!ENTITY a \"b\">]><speak>&a;</speak>",
            "<?x y?><speak>a</speak>",
        ] {
            assert!(check(ssml, Engine::Standard).is_err(), "{ssml:?}");
        }
        let deep = format!("<speak>{}a{}</speak>", "<lang xml:lang=\"fr-FR\">".repeat(40), "</lang>".repeat(40));
        assert!(check(&deep, Engine::Standard).is_err());
    }

    #[test]
    fn what_is_left_to_speak_is_text_manner_and_pauses() {
        let speech = check(
            "<?xml version=\"1.0\"?><speak version=\"1.1\"><!-- no -->Tom &amp; <prosody rate=\"50%\"><prosody rate=\"150%\" \
             volume=\"+6dB\">I&#33;</prosody></prosody><break time=\"700ms\"/><sub alias=\"et cetera\">etc</sub></speak>",
            Engine::Standard,
        );
        let speech = speech.unwrap();
        let slow = Manner { rate: 0.75, volume_db: 6.0, pitch_percent: 0.0 };
        let span = |text: &str, manner, pause_ms| Span { text: text.to_owned(), manner, pause_ms };
        assert_eq!(
            speech.spans,
            [span("Tom & ", Manner::PLAIN, 0), span("I!", slow, 700), span("et cetera", Manner::PLAIN, 0)]
        );
        assert_eq!(speech.characters, "Tom & I!etc".len());
    }
}
