//! What a client asks for: the `x-amzn-transcribe-*` headers, checked as the service checks them, and their echo.

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use super::Exception;
use crate::engine::Engine;

/// A checked request.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Options {
    pub language: String,
    /// Hz, 8,000 to 48,000.
    pub rate: u32,
    /// Given by the client, or made up.
    pub session: String,
    /// With stabilisation: for how many ticks of 100 ms a word must stay the same before it is promised.
    pub stability: Option<u32>,
    stability_name: Option<&'static str>,
    pub vocabulary: Option<String>,
}

/// Values that do not change what comes back, or are off; anything else asks for something that is absent here.
const HARMLESS: [(&str, &str); 5] = [
    ("show-speaker-label", "false"),
    ("enable-channel-identification", "false"),
    ("identify-language", "false"),
    ("identify-multiple-languages", "false"),
    ("number-of-channels", "1"),
];
/// What `local-cloud` does not do.
const ABSENT: [&str; 11] = [
    "language-options",
    "preferred-language",
    "vocabulary-names",
    "vocabulary-filter-name",
    "vocabulary-filter-names",
    "vocabulary-filter-method",
    "content-identification-type",
    "content-redaction-type",
    "pii-entity-types",
    "language-model-name",
    "session-resume-window",
];

impl Options {
    /// Reads and checks the headers; the error is the text of a BadRequestException.
    pub(super) fn read(headers: &HeaderMap, engine: &Engine) -> Result<Options, Refusal> {
        let value = |name: &str| headers.get(format!("x-amzn-transcribe-{name}")).and_then(|v| v.to_str().ok());
        for (name, harmless) in HARMLESS {
            if value(name).is_some_and(|v| v != harmless) {
                return Err(Refusal::absent(name));
            }
        }
        if let Some(name) = ABSENT.into_iter().find(|name| value(name).is_some()) {
            return Err(Refusal::absent(name));
        }
        let language = value("language-code").ok_or_else(|| {
            Refusal::new("Exactly one of LanguageCode, IdentifyLanguage or IdentifyMultipleLanguages must be given")
        })?;
        if !engine.understands(language) || !looks_like_a_language(language) {
            return Err(Refusal::new(format!(
                "The language code {} is not supported by local-cloud's engine: {}",
                language.escape_debug(),
                engine.name()
            )));
        }
        let rate = value("sample-rate").and_then(|v| v.parse().ok()).filter(|rate| (8_000..=48_000).contains(rate));
        let rate = rate.ok_or_else(|| Refusal::new("The sample rate must be from 8000 to 48000 Hz"))?;
        if value("media-encoding") != Some("pcm") {
            return Err(Refusal::new("local-cloud takes the media encoding pcm only"));
        }
        let (stability, stability_name) = stability(value)?;
        Ok(Options {
            language: language.to_owned(),
            rate,
            session: session(value("session-id"))?,
            stability,
            stability_name,
            vocabulary: value("vocabulary-name").map(str::to_owned),
        })
    }

    /// The response's headers: what the service says it will do.
    pub(super) fn echo(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let mut put = |name: &'static str, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        };
        put("content-type", "application/vnd.amazon.eventstream");
        put("x-amzn-request-id", &uuid());
        put("x-amzn-transcribe-session-id", &self.session);
        put("x-amzn-transcribe-language-code", &self.language);
        put("x-amzn-transcribe-sample-rate", &self.rate.to_string());
        put("x-amzn-transcribe-media-encoding", "pcm");
        put("x-amzn-transcribe-show-speaker-label", "false");
        put("x-amzn-transcribe-enable-channel-identification", "false");
        let stabilised = if self.stability.is_some() { "true" } else { "false" };
        put("x-amzn-transcribe-enable-partial-results-stabilization", stabilised);
        if let Some(name) = self.stability_name {
            put("x-amzn-transcribe-partial-results-stability", name);
        }
        if let Some(name) = &self.vocabulary {
            put("x-amzn-transcribe-vocabulary-name", name);
        }
        headers
    }
}

/// Why a request is refused, as a BadRequestException's text.
#[derive(Debug, PartialEq)]
pub(super) struct Refusal(pub String);

impl Refusal {
    fn new(text: impl Into<String>) -> Refusal {
        Refusal(text.into())
    }

    fn absent(name: &str) -> Refusal {
        Refusal(format!("local-cloud does not do {name}"))
    }
}

impl From<Refusal> for (Exception, String) {
    fn from(refusal: Refusal) -> Self {
        (Exception::BadRequest, refusal.0)
    }
}

/// The brief of the stability levels: how long a word must have stood still.
fn stability<'a>(value: impl Fn(&str) -> Option<&'a str>) -> Result<(Option<u32>, Option<&'static str>), Refusal> {
    match (value("enable-partial-results-stabilization"), value("partial-results-stability")) {
        (Some("true"), Some("high")) => Ok((Some(8), Some("high"))),
        (Some("true"), Some("medium")) => Ok((Some(5), Some("medium"))),
        (Some("true"), Some("low")) => Ok((Some(3), Some("low"))),
        (Some("true"), None) => Ok((Some(8), None)),
        (Some("false") | None, None) => Ok((None, None)),
        _ => Err(Refusal::new(
            "PartialResultsStability is high, medium or low, and needs EnablePartialResultsStabilization",
        )),
    }
}

fn looks_like_a_language(code: &str) -> bool {
    code.len() >= 4
        && code.len() <= 8
        && code.contains('-')
        && code.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

/// The client's session id, which must be a UUID, or a new one.
fn session(given: Option<&str>) -> Result<String, Refusal> {
    let Some(id) = given else { return Ok(uuid()) };
    let groups: Vec<usize> = id.split('-').map(str::len).collect();
    let fits = groups == [8, 4, 4, 4, 12] && id.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    fits.then(|| id.to_owned()).ok_or_else(|| Refusal::new("The session id must be a UUID of 36 characters"))
}

/// A random UUID, version 4.
pub(super) fn uuid() -> String {
    let id = rand::random::<u128>() & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{id:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tones::Tones;

    fn read(extra: &[(&str, &str)]) -> Result<Options, Refusal> {
        let mut headers = HeaderMap::new();
        let usual = [("language-code", "en-US"), ("sample-rate", "16000"), ("media-encoding", "pcm")];
        for (name, value) in usual.iter().chain(extra) {
            let name = HeaderName::try_from(format!("x-amzn-transcribe-{name}")).unwrap();
            headers.insert(name, HeaderValue::from_str(value).unwrap());
        }
        Options::read(&headers, &Engine::Tones(Tones))
    }

    #[test]
    fn a_usual_request_is_taken_and_echoed() {
        let id = uuid();
        let options = read(&[
            ("session-id", &id),
            ("enable-partial-results-stabilization", "true"),
            ("partial-results-stability", "medium"),
            ("vocabulary-name", "talk"),
        ])
        .unwrap();
        assert_eq!((options.rate, options.stability), (16_000, Some(5)));
        let echo = options.echo();
        let value = |name: &str| echo[format!("x-amzn-transcribe-{name}")].to_str().unwrap().to_owned();
        assert_eq!(value("session-id"), id);
        assert_eq!(value("sample-rate"), "16000");
        assert_eq!(value("partial-results-stability"), "medium");
        assert_eq!(value("enable-partial-results-stabilization"), "true");
        assert_eq!(value("vocabulary-name"), "talk");
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name() {
        for (name, value) in [
            ("sample-rate", "7999"),
            ("sample-rate", "fast"),
            ("media-encoding", "flac"),
            ("language-code", "english"),
            ("session-id", "me"),
            ("show-speaker-label", "true"),
            ("number-of-channels", "2"),
            ("identify-language", "true"),
            ("vocabulary-filter-name", "rude"),
            ("partial-results-stability", "high"),
        ] {
            assert!(read(&[(name, value)]).is_err(), "{name}: {value}");
        }
        assert!(read(&[("show-speaker-label", "false")]).is_ok());
    }

    #[test]
    fn made_up_session_ids_are_accepted_again() {
        assert!((0..50).all(|_| read(&[("session-id", &uuid())]).is_ok()));
    }
}
