//! Which voice speaks which language.
//!
//! What the synthesis service has is told to [`Voices`] once; it answers with the best voice for a language, a quality
//! tier and the wishes of the settings. Deliberately absent: prices, and which voices sound better than others: the
//! service's own order decides between equals.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::language::Language;
use crate::record::QualityTier;

/// How a voice is made; what markup it understands depends on this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    Standard,
    Neural,
    LongForm,
    Generative,
}

impl Engine {
    pub const ALL: [Engine; 4] = [Engine::Standard, Engine::Neural, Engine::LongForm, Engine::Generative];

    /// As Amazon Polly writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Engine::Standard => "standard",
            Engine::Neural => "neural",
            Engine::LongForm => "long-form",
            Engine::Generative => "generative",
        }
    }

    pub fn parse(text: &str) -> Option<Engine> {
        Engine::ALL.into_iter().find(|engine| engine.as_str() == text)
    }

    /// The engines of a tier, the best first. Long-form is slow and the dearest by far: only when nothing else speaks
    /// the language.
    const fn of_tier(tier: QualityTier) -> [Engine; 4] {
        match tier {
            QualityTier::Standard => [Engine::Neural, Engine::Standard, Engine::Generative, Engine::LongForm],
            QualityTier::Premium => [Engine::Generative, Engine::Neural, Engine::Standard, Engine::LongForm],
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gender {
    Female,
    Male,
}

/// A language that a voice speaks, under both names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tongue {
    pub language: Language,
    /// What the service calls it: `cmn-CN` for our `zh-CN`.
    pub code: String,
}

impl Tongue {
    /// `None`: not a language code. The service's codes of 2026 are all understood.
    pub fn parse(code: &str) -> Option<Tongue> {
        let ours = match code {
            "arb" => "ar",
            "cmn-CN" => "zh-CN",
            "nb-NO" => "no-NO",
            // Welsh English is no region of its own in BCP 47.
            "en-GB-WLS" => "en-GB",
            other => other,
        };
        let language = Language::parse(ours).ok()?;
        Some(Tongue { language, code: code.to_owned() })
    }
}

/// One voice as the service describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Voice {
    pub id: String,
    pub gender: Gender,
    /// Its own language first, then those it was taught besides.
    pub speaks: Vec<Tongue>,
    pub engines: Vec<Engine>,
}

/// Who speaks, and what the service must be told to make it so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    pub voice: String,
    pub engine: Engine,
    pub tongue: Tongue,
}

/// What the settings ask for one language. `voice` beats `gender`; what cannot be had is passed over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "snake_case")]
pub struct Wish {
    pub voice: Option<String>,
    pub engine: Option<Engine>,
    pub gender: Option<Gender>,
}

/// The settings' say in who speaks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "snake_case")]
pub struct Preferences {
    /// For every language that has no wish of its own.
    pub gender: Option<Gender>,
    pub languages: BTreeMap<Language, Wish>,
}

/// A wish that no voice fulfils. The language is spoken by the next best voice, if there is one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unmet {
    #[error("there is no voice {voice} for {language}")]
    Voice { language: Language, voice: String },
    #[error("the voice {voice} does not speak by the {} engine", engine.as_str())]
    Engine { voice: String, engine: Engine },
}

/// Every voice there is, and the settings' preferences.
#[derive(Debug, Clone, Default)]
pub struct Voices {
    voices: Vec<Voice>,
    preferences: Preferences,
}

impl Voices {
    pub fn new(voices: Vec<Voice>, preferences: Preferences) -> Voices {
        Voices { voices, preferences }
    }

    /// The wishes of the settings that cannot be fulfilled, for the log at the start.
    pub fn unmet(&self) -> Vec<Unmet> {
        let mut unmet = Vec::new();
        for (language, wish) in &self.preferences.languages {
            let Some(name) = &wish.voice else { continue };
            let named = self.voices.iter().find(|voice| voice.id == *name);
            match named.filter(|voice| nearest(voice, language).is_some()) {
                None => unmet.push(Unmet::Voice { language: language.clone(), voice: name.clone() }),
                Some(voice) => unmet.extend(
                    wish.engine
                        .filter(|engine| !voice.engines.contains(engine))
                        .map(|engine| Unmet::Engine { voice: name.clone(), engine }),
                ),
            }
        }
        unmet
    }

    /// The best voice for what listeners of `language` asked for. `None`: nobody speaks it, they get text only.
    ///
    /// What counts, most first: the voice that the settings name; the dialect; the engine that the settings name; the
    /// tier's engine; the gender; the service's order. `gender` is this session's wish and beats the settings'.
    pub fn choose(&self, language: &Language, tier: QualityTier, gender: Option<Gender>) -> Option<Choice> {
        let none = Wish::default();
        let wish = self.preferences.languages.get(language).unwrap_or(&none);
        let gender = gender.or(wish.gender).or(self.preferences.gender);
        let ranks = Engine::of_tier(tier);
        let spoken = self.voices.iter().filter_map(|voice| nearest(voice, language).map(|near| (voice, near)));
        let ways = spoken.flat_map(|(voice, near)| voice.engines.iter().map(move |engine| (voice, near, *engine)));
        let best = ways.min_by_key(|(voice, (distance, _), engine)| {
            (
                wish.voice.as_ref().is_some_and(|name| *name != voice.id),
                *distance,
                wish.engine.is_some_and(|wanted| wanted != *engine),
                ranks.iter().position(|candidate| candidate == engine),
                gender.is_some_and(|wanted| wanted != voice.gender),
            )
        });
        best.map(|(voice, (_, tongue), engine)| Choice { voice: voice.id.clone(), engine, tongue: tongue.clone() })
    }

    /// Whether listeners of this language can have a voice.
    pub fn speak(&self, language: &Language) -> bool {
        self.voices.iter().any(|voice| !voice.engines.is_empty() && nearest(voice, language).is_some())
    }

    /// Those of `languages` that have a voice, in their order: what `/languages` says.
    pub fn spoken<'a>(&'a self, languages: &'a [Language]) -> impl Iterator<Item = &'a Language> {
        languages.iter().filter(|language| self.speak(language))
    }
}

/// The voice's tongue that is nearest to what is asked, and how far that is. `None`: it does not speak the language.
fn nearest<'a>(voice: &'a Voice, asked: &Language) -> Option<(u8, &'a Tongue)> {
    let distances = voice.speaks.iter().filter_map(|tongue| distance(&tongue.language, asked).map(|far| (far, tongue)));
    distances.min_by_key(|(far, _)| *far)
}

/// 0: the same; 1: the dialect that is meant when none is named; 2: another dialect. `None`: another language.
fn distance(spoken: &Language, asked: &Language) -> Option<u8> {
    if root(spoken) != root(asked) {
        return None;
    }
    match spoken == asked {
        true => Some(0),
        false if spoken.as_str() == usual(root(asked)) => Some(1),
        false => Some(2),
    }
}

/// The base language, one name for those that have several.
fn root(language: &Language) -> &str {
    match language.base() {
        "nb" | "nn" => "no",
        "cmn" => "zh",
        base => base,
    }
}

/// The dialect a voice should have when only the language is named, where voices differ.
fn usual(base: &str) -> &str {
    match base {
        "ar" => "ar",
        "de" => "de-DE",
        "en" => "en-US",
        "es" => "es-ES",
        "fr" => "fr-FR",
        "nl" => "nl-NL",
        "pt" => "pt-BR",
        "zh" => "zh-CN",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_language_without_a_dialect_gets_the_usual_one() {
        let voices = voices();
        for (asked, code) in [
            ("es", "es-ES"),
            ("es-AR", "es-ES"),
            ("es-MX", "es-MX"),
            ("es-419", "es-ES"),
            ("pt", "pt-BR"),
            ("pt-PT", "pt-PT"),
            ("zh", "cmn-CN"),
            ("zh-TW", "cmn-CN"),
            ("zh-Hant-TW", "cmn-CN"),
            ("no", "nb-NO"),
            ("nb", "nb-NO"),
            ("ar", "arb"),
            ("ar-EG", "arb"),
            ("ar-AE", "ar-AE"),
            ("hi", "hi-IN"),
        ] {
            let choice = voices.choose(&lang(asked), QualityTier::Standard, None).unwrap();
            assert_eq!(choice.tongue.code, code, "{asked}");
        }
    }

    #[test]
    fn a_language_nobody_speaks_has_no_voice() {
        let voices = voices();
        for asked in ["uk", "el", "th", "yue", "ca"] {
            assert_eq!(voices.choose(&lang(asked), QualityTier::Premium, None), None, "{asked}");
            assert!(!voices.speak(&lang(asked)));
        }
        let targets = ["uk", "es", "no", "el", "pt-PT"].map(lang);
        let spoken: Vec<&str> = voices.spoken(&targets).map(Language::as_str).collect();
        assert_eq!(spoken, ["es", "no", "pt-PT"]);
    }

    #[test]
    fn the_tier_decides_the_engine_where_the_language_has_several() {
        let voices = voices();
        for (asked, tier, voice, engine) in [
            ("es", QualityTier::Standard, "Lucia", Engine::Neural),
            ("es", QualityTier::Premium, "Lucia", Engine::Generative),
            ("pt-PT", QualityTier::Premium, "Ines", Engine::Neural),
            ("ar", QualityTier::Premium, "Zeina", Engine::Standard),
            ("en", QualityTier::Standard, "Gregory", Engine::Neural),
        ] {
            let choice = voices.choose(&lang(asked), tier, None).unwrap();
            assert_eq!((choice.voice.as_str(), choice.engine), (voice, engine), "{asked} {tier:?}");
        }
    }

    #[test]
    fn the_gender_counts_between_voices_of_the_same_engine() {
        let voices = voices();
        let who = |asked, gender| voices.choose(&lang(asked), QualityTier::Standard, gender).unwrap().voice;
        assert_eq!(who("es", Some(Gender::Male)), "Sergio");
        assert_eq!(who("es", Some(Gender::Female)), "Lucia");
        assert_eq!(who("es", None), "Lucia");
        assert_eq!(who("pt-BR", Some(Gender::Male)), "Camila", "her engine is better than the male voice's");
    }

    #[test]
    fn the_settings_name_voices_engines_and_genders() {
        let preferences = serde_json::from_str(
            r#"{"gender":"male","languages":{"pt-br":{"voice":"Ricardo"},"es":{"engine":"standard"},"es-MX":{"gender":"female"}}}"#,
        );
        let voices = Voices::new(known(), preferences.unwrap());
        assert_eq!(voices.unmet(), []);
        let choose = |asked| {
            let choice = voices.choose(&lang(asked), QualityTier::Standard, None).unwrap();
            (choice.voice, choice.engine)
        };
        assert_eq!(choose("pt-BR"), ("Ricardo".to_owned(), Engine::Standard));
        assert_eq!(choose("es"), ("Enrique".to_owned(), Engine::Standard));
        assert_eq!(choose("es-MX"), ("Mia".to_owned(), Engine::Neural));
        let own = voices.choose(&lang("es-MX"), QualityTier::Standard, Some(Gender::Male)).unwrap();
        assert_eq!(own.voice, "Andres");
    }

    #[test]
    fn a_wish_that_cannot_be_met_is_told_and_passed_over() {
        let preferences = serde_json::from_str(
            r#"{"languages":{"es":{"voice":"Nobody"},"fr":{"voice":"Lucia"},"pt-BR":{"voice":"Ricardo","engine":"neural"}}}"#,
        );
        let voices = Voices::new(known(), preferences.unwrap());
        let unmet: Vec<String> = voices.unmet().iter().map(ToString::to_string).collect();
        assert_eq!(
            unmet,
            [
                "there is no voice Nobody for es",
                "there is no voice Lucia for fr",
                "the voice Ricardo does not speak by the neural engine"
            ]
        );
        assert_eq!(voices.choose(&lang("es"), QualityTier::Standard, None).unwrap().voice, "Lucia");
        let brazil = voices.choose(&lang("pt-BR"), QualityTier::Standard, None).unwrap();
        assert_eq!((brazil.voice.as_str(), brazil.engine), ("Ricardo", Engine::Standard));
    }

    #[test]
    fn a_voice_speaks_every_language_it_was_taught() {
        let choice = voices().choose(&lang("hi"), QualityTier::Standard, None).unwrap();
        assert_eq!((choice.voice.as_str(), choice.tongue.code.as_str()), ("Kajal", "hi-IN"));
    }

    fn lang(text: &str) -> Language {
        Language::parse(text).unwrap()
    }

    fn voices() -> Voices {
        Voices::new(known(), Preferences::default())
    }

    fn known() -> Vec<Voice> {
        use Engine::{Generative, LongForm, Neural, Standard};
        use Gender::{Female, Male};
        let rows: [(&str, Gender, &[&str], &[Engine]); 16] = [
            ("Geraint", Male, &["en-GB-WLS"], &[Standard]),
            ("Amy", Female, &["en-GB"], &[Neural, Standard, Generative]),
            ("Gregory", Male, &["en-US"], &[LongForm, Neural]),
            ("Kajal", Female, &["en-IN", "hi-IN"], &[Neural]),
            ("Lupe", Female, &["es-US"], &[Neural]),
            ("Mia", Female, &["es-MX"], &[Neural, Standard]),
            ("Andres", Male, &["es-MX"], &[Neural]),
            ("Enrique", Male, &["es-ES"], &[Standard]),
            ("Lucia", Female, &["es-ES"], &[Standard, Neural, Generative]),
            ("Sergio", Male, &["es-ES"], &[Neural]),
            ("Ines", Female, &["pt-PT"], &[Neural]),
            ("Ricardo", Male, &["pt-BR"], &[Standard]),
            ("Camila", Female, &["pt-BR"], &[Neural, Standard]),
            ("Zhiyu", Female, &["cmn-CN"], &[Neural]),
            ("Ida", Female, &["nb-NO"], &[Neural]),
            ("Hala", Female, &["ar-AE"], &[Neural]),
        ];
        let mut known: Vec<Voice> =
            rows.iter().map(|(id, gender, codes, engines)| voice(id, *gender, codes, engines)).collect();
        known.push(voice("Zeina", Female, &["arb"], &[Standard]));
        known.push(voice("Mute", Female, &["ca-ES"], &[]));
        known
    }

    fn voice(id: &str, gender: Gender, codes: &[&str], engines: &[Engine]) -> Voice {
        let speaks = codes.iter().map(|code| Tongue::parse(code).unwrap()).collect();
        Voice { id: id.to_owned(), gender, speaks, engines: engines.to_vec() }
    }
}
