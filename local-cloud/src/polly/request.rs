//! A `SynthesizeSpeech` request: what AWS would refuse of it, and why.

use serde::Deserialize;

use super::ssml::{self, InvalidSsml, Speech};
use super::voices::{self, Engine, VOICES, Voice};

/// Characters of the whole text, markup included.
const MAX_TOTAL: usize = 6_000;
/// Characters that are billed.
const MAX_BILLED: usize = 3_000;

/// Everything the service answers instead of audio.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("{0}")]
    Serialization(String),
    #[error("1 validation error detected: {0}")]
    Validation(String),
    #[error(transparent)]
    InvalidSsml(#[from] InvalidSsml),
    #[error("Maximum text length has been exceeded")]
    TextLengthExceeded,
    #[error("The specified sample rate is not supported for this output format")]
    InvalidSampleRate,
    #[error("This voice does not support the selected engine: {}", .0.name())]
    EngineNotSupported(Engine),
    #[error("{language} is not supported for voice {voice}")]
    LanguageNotSupported { voice: &'static str, language: String },
    #[error("Lexicon {0} not found")]
    LexiconNotFound(String),
    #[error("Speech marks are not supported for output format {0}")]
    MarksNotSupportedForFormat(String),
    #[error("Ssml speech marks are not supported for plain text")]
    SsmlMarksNotSupportedForTextType,
    #[error("The NextToken is invalid")]
    InvalidNextToken,
    #[error("Rate exceeded")]
    Throttling,
    #[error("Service failure: {0}")]
    ServiceFailure(String),
}

impl Problem {
    pub const fn name(&self) -> &'static str {
        match self {
            Problem::Serialization(_) => "SerializationException",
            Problem::Validation(_) => "ValidationException",
            Problem::InvalidSsml(_) => "InvalidSsmlException",
            Problem::TextLengthExceeded => "TextLengthExceededException",
            Problem::InvalidSampleRate => "InvalidSampleRateException",
            Problem::EngineNotSupported(_) => "EngineNotSupportedException",
            Problem::LanguageNotSupported { .. } => "LanguageNotSupportedException",
            Problem::LexiconNotFound(_) => "LexiconNotFoundException",
            Problem::MarksNotSupportedForFormat(_) => "MarksNotSupportedForFormatException",
            Problem::SsmlMarksNotSupportedForTextType => "SsmlMarksNotSupportedForTextTypeException",
            Problem::InvalidNextToken => "InvalidNextTokenException",
            Problem::Throttling => "ThrottlingException",
            Problem::ServiceFailure(_) => "ServiceFailureException",
        }
    }

    /// HTTP status. Throttling is 400 here, not 429.
    pub const fn status(&self) -> u16 {
        match self {
            Problem::LexiconNotFound(_) => 404,
            Problem::ServiceFailure(_) => 500,
            _ => 400,
        }
    }
}

/// The formats there are. What this house cannot make is refused by the engine room, not here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Mp3,
    OggOpus,
    OggVorbis,
    Pcm,
    Mulaw,
    Alaw,
    Marks,
}

impl Format {
    const ALL: [(&'static str, Format); 7] = [
        ("json", Format::Marks),
        ("mp3", Format::Mp3),
        ("ogg_opus", Format::OggOpus),
        ("ogg_vorbis", Format::OggVorbis),
        ("pcm", Format::Pcm),
        ("mulaw", Format::Mulaw),
        ("alaw", Format::Alaw),
    ];

    fn of(name: &str) -> Option<Format> {
        Format::ALL.iter().find(|(known, _)| *known == name).map(|(_, format)| *format)
    }

    pub const fn content_type(self) -> &'static str {
        match self {
            Format::Mp3 => "audio/mpeg",
            Format::OggOpus | Format::OggVorbis => "audio/ogg",
            Format::Pcm => "audio/pcm",
            Format::Mulaw => "audio/mulaw",
            Format::Alaw => "audio/alaw",
            Format::Marks => "application/x-json-stream",
        }
    }

    /// Samples a second: what is asked for, or the format's own.
    fn rate(self, asked: Option<&str>, engine: Engine) -> Result<u32, Problem> {
        let (rates, own): (&[u32], u32) = match self {
            Format::Mp3 | Format::OggVorbis => {
                let own = if engine == Engine::Standard { 22_050 } else { 24_000 };
                (&[8_000, 16_000, 22_050, 24_000, 44_100, 48_000], own)
            }
            Format::OggOpus => (&[48_000], 48_000),
            Format::Pcm => (&[8_000, 16_000], 16_000),
            Format::Mulaw | Format::Alaw => (&[8_000], 8_000),
            Format::Marks => return Ok(16_000),
        };
        let Some(asked) = asked else { return Ok(own) };
        rates.iter().copied().find(|rate| rate.to_string() == asked).ok_or(Problem::InvalidSampleRate)
    }
}

/// The body of `POST /v1/speech`. Members that the model requires are optional here, so that their absence is told by
/// name.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SynthesizeSpeech {
    pub engine: Option<String>,
    pub language_code: Option<String>,
    pub lexicon_names: Option<Vec<String>>,
    pub output_format: Option<String>,
    pub sample_rate: Option<String>,
    pub speech_mark_types: Option<Vec<String>>,
    pub text: Option<String>,
    pub text_type: Option<String>,
    pub voice_id: Option<String>,
}

/// A request that can be spoken.
#[derive(Debug)]
pub struct Order {
    pub voice: &'static Voice,
    pub engine: Engine,
    /// The voice's own, or one it was taught besides.
    pub language: String,
    pub format: Format,
    pub rate: u32,
    pub speech: Speech,
}

impl SynthesizeSpeech {
    /// Every check that AWS makes, in no order that clients could rely on.
    pub fn check(&self) -> Result<Order, Problem> {
        let text = required("text", &self.text)?;
        let id = required("voiceId", &self.voice_id)?;
        let voice = Voice::find(id).ok_or_else(|| unknown("voiceId", id, VOICES.iter().map(|voice| voice.id)))?;
        let name = required("outputFormat", &self.output_format)?;
        let format = Format::of(name).ok_or_else(|| {
            let names = Format::ALL.iter().map(|(name, _)| *name);
            unknown("outputFormat", name, names)
        })?;
        let engine = match self.engine.as_deref() {
            None => Engine::Standard,
            Some(name) => Engine::of(name)
                .ok_or_else(|| unknown("engine", name, Engine::ALL.iter().map(|engine| engine.name())))?,
        };
        let ssml = match self.text_type.as_deref() {
            None | Some("text") => false,
            Some("ssml") => true,
            Some(other) => return Err(unknown("textType", other, ["ssml", "text"].into_iter())),
        };
        if !voice.has(engine) {
            return Err(Problem::EngineNotSupported(engine));
        }
        let language = self.language(voice)?;
        let rate = format.rate(self.sample_rate.as_deref(), engine)?;
        self.check_marks(name, format, ssml)?;
        if let Some(lexicon) = self.lexicon_names.iter().flatten().next() {
            return Err(Problem::LexiconNotFound(lexicon.clone()));
        }
        if text.chars().count() > MAX_TOTAL {
            return Err(Problem::TextLengthExceeded);
        }
        let speech = match ssml {
            true => ssml::read(text, engine, voice)?,
            false => Speech::plain(text),
        };
        if speech.characters > MAX_BILLED {
            return Err(Problem::TextLengthExceeded);
        }
        Ok(Order { voice, engine, language, format, rate, speech })
    }

    fn language(&self, voice: &'static Voice) -> Result<String, Problem> {
        match self.language_code.as_deref() {
            None => Ok(voice.language.to_owned()),
            Some(code) if voice.speaks(code) => Ok(code.to_owned()),
            Some(code) if voices::is_language(code) => {
                Err(Problem::LanguageNotSupported { voice: voice.id, language: code.to_owned() })
            }
            Some(code) => Err(unknown("languageCode", code, VOICES.iter().map(|voice| voice.language))),
        }
    }

    fn check_marks(&self, name: &str, format: Format, ssml: bool) -> Result<(), Problem> {
        let marks = self.speech_mark_types.as_deref().unwrap_or_default();
        match (format, marks.is_empty()) {
            (Format::Marks, false) if !ssml && marks.iter().any(|mark| mark == "ssml") => {
                Err(Problem::SsmlMarksNotSupportedForTextType)
            }
            (Format::Marks, false) => Ok(()),
            (Format::Marks, true) => Err(Problem::MarksNotSupportedForFormat(name.to_owned())),
            (_, true) => Ok(()),
            (_, false) => Err(Problem::MarksNotSupportedForFormat(name.to_owned())),
        }
    }
}

fn required<'a>(member: &str, value: &'a Option<String>) -> Result<&'a str, Problem> {
    let missing = || format!("Value null at '{member}' failed to satisfy constraint: Member must not be null");
    value.as_deref().ok_or_else(|| Problem::Validation(missing()))
}

pub(super) fn unknown<'a>(member: &str, value: &str, known: impl Iterator<Item = &'a str>) -> Problem {
    let known = known.collect::<Vec<_>>().join(", ");
    let constraint = "failed to satisfy constraint: Member must satisfy enum value set";
    Problem::Validation(format!("Value '{value}' at '{member}' {constraint}: [{known}]"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> SynthesizeSpeech {
        let some = |text: &str| Some(text.to_owned());
        SynthesizeSpeech {
            engine: some("neural"),
            output_format: some("pcm"),
            text: some("Hi."),
            voice_id: some("Matthew"),
            ..SynthesizeSpeech::default()
        }
    }

    fn refused(change: impl FnOnce(&mut SynthesizeSpeech)) -> &'static str {
        let mut request = request();
        change(&mut request);
        request.check().err().map_or("", |problem| problem.name())
    }

    #[test]
    fn each_refusal_has_the_name_that_aws_gives_it() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(refused(|_| {}), "");
        assert_eq!(refused(|r| r.text = None), "ValidationException");
        assert_eq!(refused(|r| r.voice_id = some("Nobody")), "ValidationException");
        assert_eq!(refused(|r| r.engine = some("quantum")), "ValidationException");
        assert_eq!(refused(|r| r.output_format = some("wav")), "ValidationException");
        assert_eq!(refused(|r| r.text_type = some("html")), "ValidationException");
        assert_eq!(refused(|r| r.language_code = some("xx-XX")), "ValidationException");
        assert_eq!(refused(|r| r.language_code = some("de-DE")), "LanguageNotSupportedException");
        assert_eq!(refused(|r| r.engine = some("long-form")), "EngineNotSupportedException");
        assert_eq!(refused(|r| r.voice_id = some("Maxim")), "EngineNotSupportedException");
        let neural_only = |r: &mut SynthesizeSpeech| (r.engine, r.voice_id) = (None, some("Stephen"));
        assert_eq!(refused(neural_only), "EngineNotSupportedException");
        assert_eq!(refused(|r| r.sample_rate = some("22050")), "InvalidSampleRateException");
        assert_eq!(refused(|r| r.lexicon_names = Some(vec!["a".to_owned()])), "LexiconNotFoundException");
        assert_eq!(refused(|r| r.output_format = some("json")), "MarksNotSupportedForFormatException");
        assert_eq!(
            refused(|r| r.speech_mark_types = Some(vec!["word".to_owned()])),
            "MarksNotSupportedForFormatException"
        );
        assert_eq!(refused(|r| r.text_type = some("ssml")), "InvalidSsmlException");
    }

    #[test]
    fn markup_counts_to_the_total_and_is_not_billed() {
        assert_eq!(refused(|r| r.text = Some("é".repeat(3_000))), "");
        assert_eq!(refused(|r| r.text = Some("é".repeat(3_001))), "TextLengthExceededException");
        let marked = |characters: usize, marks: usize| {
            let text = format!("<speak>{}{}</speak>", "a".repeat(characters), "<break/>".repeat(marks));
            refused(|r| (r.text, r.text_type) = (Some(text), Some("ssml".to_owned())))
        };
        assert_eq!(marked(3_000, 300), "");
        assert_eq!(marked(3_001, 0), "TextLengthExceededException");
        assert_eq!(marked(3_000, 374), "TextLengthExceededException");
    }

    #[test]
    fn each_format_has_its_own_sample_rates() {
        let rate = |format: &str, engine: &str| {
            let (output_format, engine) = (Some(format.to_owned()), Some(engine.to_owned()));
            SynthesizeSpeech { output_format, engine, ..request() }.check().map(|order| order.rate)
        };
        assert_eq!(rate("pcm", "neural"), Ok(16_000));
        assert_eq!(rate("mp3", "neural"), Ok(24_000));
        assert_eq!(rate("mp3", "standard"), Ok(22_050));
        assert_eq!(rate("ogg_opus", "generative"), Ok(48_000));
        assert_eq!(
            refused(|r| (r.output_format, r.sample_rate) = (Some("ogg_opus".into()), Some("16000".into()))),
            "InvalidSampleRateException"
        );
        assert_eq!(refused(|r| r.sample_rate = Some("08000".into())), "InvalidSampleRateException");
    }

    #[test]
    fn a_bilingual_voice_is_told_which_language_to_speak() {
        let mut request = SynthesizeSpeech { voice_id: Some("Kajal".to_owned()), ..request() };
        assert_eq!(request.check().unwrap().language, "en-IN");
        request.language_code = Some("hi-IN".to_owned());
        assert_eq!(request.check().unwrap().language, "hi-IN");
    }
}
