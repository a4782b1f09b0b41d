//! Language codes (BCP 47) and which of them this house can serve.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::Problem;

/// A language code in canonical case: `en`, `pt-BR`, `zh-Hant-TW`, `ca-valencia`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ToSchema)]
#[serde(transparent)]
#[schema(
    value_type = String,
    max_length = 35,
    pattern = "^[a-z]{2,3}(-([A-Z]{2}|[0-9]{3}|[A-Z][a-z]{3}|[a-z0-9]{4,8}))*$",
    examples("es", "pt-BR")
)]
pub struct Language(String);

/// The text is not a language code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a language code such as `en` or `pt-BR`")]
pub struct NotALanguage;

impl Language {
    /// Matches without regard to case and answers in canonical case.
    ///
    /// Accepts language, optional script, optional region and variants; no extensions or private use,
    /// because no engine knows them. At most 35 characters (RFC 5646 4.4.1).
    pub fn parse(text: &str) -> Result<Self, NotALanguage> {
        if text.len() > 35 {
            return Err(NotALanguage);
        }
        let mut canonical = String::with_capacity(text.len());
        let mut parts = text.split('-');
        let first = parts.next().ok_or(NotALanguage)?;
        if !(2..=3).contains(&first.len()) || !first.bytes().all(|b| b.is_ascii_alphabetic()) {
            return Err(NotALanguage);
        }
        canonical.push_str(&first.to_ascii_lowercase());
        for part in parts {
            if !part.bytes().all(|b| b.is_ascii_alphanumeric()) {
                return Err(NotALanguage);
            }
            canonical.push('-');
            let letters = part.bytes().all(|b| b.is_ascii_alphabetic());
            let digits = part.bytes().all(|b| b.is_ascii_digit());
            match part.len() {
                2 if letters => canonical.push_str(&part.to_ascii_uppercase()),
                3 if digits => canonical.push_str(part),
                4 if letters => {
                    canonical.push_str(&part[..1].to_ascii_uppercase());
                    canonical.push_str(&part[1..].to_ascii_lowercase());
                }
                4..=8 => canonical.push_str(&part.to_ascii_lowercase()),
                _ => return Err(NotALanguage),
            }
        }
        Ok(Language(canonical))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The language without script, region and variant: `pt` of `pt-BR`.
    pub fn base(&self) -> &str {
        self.0.split('-').next().unwrap_or(&self.0)
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Language {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Language::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// Which languages a speaker may speak and a listener may ask for.
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    sources: BTreeMap<Language, Language>,
    targets: Vec<Language>,
}

impl Catalogue {
    /// `sources` maps what a speaker says (`en`) to the recogniser's dialect (`en-US`); a dialect maps to itself.
    pub fn new(sources: impl IntoIterator<Item = (Language, Language)>, targets: Vec<Language>) -> Self {
        let mut map = BTreeMap::new();
        for (spoken, dialect) in sources {
            map.entry(dialect.clone()).or_insert_with(|| dialect.clone());
            map.insert(spoken, dialect);
        }
        Catalogue { sources: map, targets }
    }

    /// The recogniser's dialect for what the speaker speaks.
    pub fn dialect(&self, source: &Language) -> Option<&Language> {
        self.sources.get(source)
    }

    pub fn sources(&self) -> impl Iterator<Item = &Language> {
        self.sources.keys()
    }

    pub fn targets(&self) -> &[Language] {
        &self.targets
    }

    /// What a listener of this session may ask for: the source, and the targets that the session allows.
    pub fn offered(&self, source: &Language, allowed: Option<&[Language]>) -> Vec<Language> {
        let mut offered = vec![source.clone()];
        let targets = self.targets.iter().filter(|target| allowed.is_none_or(|allowed| allowed.contains(target)));
        offered.extend(targets.filter(|target| *target != source && target.as_str() != source.base()).cloned());
        offered
    }

    /// The offered language a listener means: an exact match, the source for any of its dialects,
    /// otherwise the base of what was asked (`es` for `es-AR`).
    pub fn resolve(&self, asked: &Language, source: &Language, allowed: Option<&[Language]>) -> Option<Language> {
        let offered = self.offered(source, allowed);
        let exact = offered.iter().find(|language| *language == asked);
        let own = || (asked.base() == source.base()).then_some(source);
        let base = || offered.iter().skip(1).find(|language| language.as_str() == asked.base());
        exact.or_else(own).or_else(base).cloned()
    }

    /// The same for text as somebody sent it; absent: the source language.
    ///
    /// # Errors
    /// `UNSUPPORTED_LANGUAGE`, with what is offered.
    pub fn choose(
        &self,
        asked: Option<&str>,
        source: &Language,
        allowed: Option<&[Language]>,
    ) -> Result<Language, Problem> {
        let Some(asked) = asked else { return Ok(source.clone()) };
        let found = Language::parse(asked).ok().and_then(|asked| self.resolve(&asked, source, allowed));
        found.ok_or_else(|| {
            let asked: String = asked.chars().filter(|c| !c.is_control()).take(35).collect();
            Problem::unsupported_language(&asked, &self.offered(source, allowed))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lang(text: &str) -> Language {
        Language::parse(text).unwrap()
    }

    #[test]
    fn codes_are_answered_in_canonical_case() {
        for (given, canonical) in [
            ("EN", "en"),
            ("en-us", "en-US"),
            ("ZH-hant-tw", "zh-Hant-TW"),
            ("es-419", "es-419"),
            ("CA-Valencia", "ca-valencia"),
        ] {
            assert_eq!(lang(given).as_str(), canonical);
        }
    }

    #[test]
    fn what_is_no_code_is_refused() {
        for bad in [
            "",
            "e",
            "english",
            "en_US",
            "en-",
            "-en",
            "en-é",
            "12",
            "en-US-x-private-use-subtag-too-long-by-far",
            "日本",
        ] {
            assert_eq!(Language::parse(bad), Err(NotALanguage), "{bad}");
        }
    }

    #[test]
    fn a_listener_gets_the_nearest_language_that_is_offered() {
        let catalogue = Catalogue::new([(lang("en"), lang("en-US"))], vec![lang("es"), lang("fr"), lang("en")]);
        let source = lang("en");
        let resolve = |asked: &str| catalogue.resolve(&lang(asked), &source, None).map(|found| found.to_string());
        assert_eq!(resolve("es-AR").as_deref(), Some("es"));
        assert_eq!(resolve("en-US").as_deref(), Some("en"));
        assert_eq!(resolve("en-GB").as_deref(), Some("en"));
        assert_eq!(resolve("EN").as_deref(), Some("en"));
        assert_eq!(resolve("de"), None);
        assert_eq!(catalogue.resolve(&lang("fr"), &source, Some(&[lang("es")])), None);
    }
}
