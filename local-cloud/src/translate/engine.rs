//! The engines behind the Translate wire: one small interface, so that another engine is one more variant.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::apertium::{self, Apertium};

/// Which engine translates.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum EngineSettings {
    /// Apertium's Debian packages, as living processes.
    Apertium(apertium::Settings),
    /// Given answers, at once.
    Scripted(Scripted),
}

impl Default for EngineSettings {
    fn default() -> Self {
        EngineSettings::Apertium(apertium::Settings::default())
    }
}

/// An engine without machinery, for tests: every pair of languages of Amazon Translate, no delay.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "snake_case")]
pub struct Scripted {
    /// Target language -> source text -> translation. A text that is not here is marked: `hello` in `es` is `[es] hello`.
    pub table: BTreeMap<String, BTreeMap<String, String>>,
}

impl Scripted {
    /// What [`Scripted`] answers, so that a test can say what it expects.
    pub fn translate(&self, target: &str, text: &str) -> String {
        match self.table.get(target).and_then(|texts| texts.get(text)) {
            Some(translation) => translation.clone(),
            None => format!("[{target}] {text}"),
        }
    }
}

/// Why a text has no translation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    #[error("no route between these languages")]
    NoRoute,
    #[error("too many texts are waiting")]
    Busy,
    #[error("the engine did not answer in time")]
    TimedOut,
    #[error("the engine died over this text")]
    Died,
    #[error("the engine does not start: {0}")]
    Start(String),
}

#[derive(Debug)]
pub(super) enum Engine {
    Apertium(Apertium),
    Scripted(Scripted),
}

impl Engine {
    /// The languages that `source` can be translated into, sorted, without `source`.
    pub fn targets(&self, source: &str) -> Vec<&'static str> {
        match self {
            Engine::Apertium(engine) => engine.targets(source),
            Engine::Scripted(_) if name_of(source).is_none() => vec![],
            Engine::Scripted(_) => AWS_LANGUAGES.iter().map(|(code, _)| *code).filter(|code| *code != source).collect(),
        }
    }

    pub fn knows(&self, language: &str) -> bool {
        match self {
            Engine::Apertium(engine) => engine.knows(language),
            Engine::Scripted(_) => name_of(language).is_some(),
        }
    }

    pub async fn translate(&self, source: &str, target: &str, text: &str) -> Result<String, EngineError> {
        match self {
            Engine::Apertium(engine) => engine.translate(source, target, text).await,
            Engine::Scripted(scripted) => Ok(scripted.translate(target, text)),
        }
    }
}

/// The English name of a language that some engine here, or Amazon Translate, can name.
pub(super) fn name_of(code: &str) -> Option<&'static str> {
    AWS_LANGUAGES.iter().find(|(known, _)| *known == code).map(|(_, name)| *name)
}

/// Codes of Amazon Translate (2023), and two at the end that only Apertium offers.
pub(super) const AWS_LANGUAGES: &[(&str, &str)] = &[
    ("af", "Afrikaans"),
    ("am", "Amharic"),
    ("ar", "Arabic"),
    ("az", "Azerbaijani"),
    ("bg", "Bulgarian"),
    ("bn", "Bengali"),
    ("bs", "Bosnian"),
    ("ca", "Catalan"),
    ("cs", "Czech"),
    ("cy", "Welsh"),
    ("da", "Danish"),
    ("de", "German"),
    ("el", "Greek"),
    ("en", "English"),
    ("es", "Spanish"),
    ("es-MX", "Spanish (Mexico)"),
    ("et", "Estonian"),
    ("fa", "Farsi (Persian)"),
    ("fa-AF", "Dari"),
    ("fi", "Finnish"),
    ("fr", "French"),
    ("fr-CA", "French (Canada)"),
    ("ga", "Irish"),
    ("gu", "Gujarati"),
    ("ha", "Hausa"),
    ("he", "Hebrew"),
    ("hi", "Hindi"),
    ("hr", "Croatian"),
    ("ht", "Haitian Creole"),
    ("hu", "Hungarian"),
    ("hy", "Armenian"),
    ("id", "Indonesian"),
    ("is", "Icelandic"),
    ("it", "Italian"),
    ("ja", "Japanese"),
    ("ka", "Georgian"),
    ("kk", "Kazakh"),
    ("kn", "Kannada"),
    ("ko", "Korean"),
    ("lt", "Lithuanian"),
    ("lv", "Latvian"),
    ("mk", "Macedonian"),
    ("ml", "Malayalam"),
    ("mn", "Mongolian"),
    ("mr", "Marathi"),
    ("ms", "Malay"),
    ("mt", "Maltese"),
    ("nl", "Dutch"),
    ("no", "Norwegian"),
    ("pa", "Punjabi"),
    ("pl", "Polish"),
    ("ps", "Pashto"),
    ("pt", "Portuguese (Brazil)"),
    ("pt-PT", "Portuguese (Portugal)"),
    ("ro", "Romanian"),
    ("ru", "Russian"),
    ("si", "Sinhala"),
    ("sk", "Slovak"),
    ("sl", "Slovenian"),
    ("so", "Somali"),
    ("sq", "Albanian"),
    ("sr", "Serbian"),
    ("sv", "Swedish"),
    ("sw", "Swahili"),
    ("ta", "Tamil"),
    ("te", "Telugu"),
    ("th", "Thai"),
    ("tl", "Filipino, Tagalog"),
    ("tr", "Turkish"),
    ("uk", "Ukrainian"),
    ("ur", "Urdu"),
    ("uz", "Uzbek"),
    ("vi", "Vietnamese"),
    ("zh", "Chinese (Simplified)"),
    ("zh-TW", "Chinese (Traditional)"),
    ("eo", "Esperanto"),
    ("gl", "Galician"),
];
