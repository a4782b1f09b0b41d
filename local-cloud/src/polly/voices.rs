//! The voices of Amazon Polly, as `DescribeVoices` lists them.
//!
//! Ids, names, genders and languages are those of the service (2026); the engines follow its developer guide, where a few
//! of the generative ones could not be checked against an account. Clients must ask, not know.

use serde::{Deserialize, Serialize};

use Gender::{Female, Male};

/// How a voice is made. The markup it understands depends on this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    Standard,
    Neural,
    LongForm,
    Generative,
}

impl Engine {
    pub const ALL: [Engine; 4] = [Engine::Standard, Engine::Neural, Engine::LongForm, Engine::Generative];

    pub const fn name(self) -> &'static str {
        match self {
            Engine::Standard => "standard",
            Engine::Neural => "neural",
            Engine::LongForm => "long-form",
            Engine::Generative => "generative",
        }
    }

    pub fn of(name: &str) -> Option<Engine> {
        Engine::ALL.into_iter().find(|engine| engine.name() == name)
    }

    const fn letter(self) -> u8 {
        match self {
            Engine::Standard => b'S',
            Engine::Neural => b'N',
            Engine::LongForm => b'L',
            Engine::Generative => b'G',
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Gender {
    Female,
    Male,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Voice {
    pub id: &'static str,
    /// As it is written in its language.
    pub name: &'static str,
    pub gender: Gender,
    pub language: &'static str,
    pub language_name: &'static str,
    engines: &'static str,
    /// Besides its own.
    pub additional: &'static [&'static str],
}

impl Voice {
    pub fn find(id: &str) -> Option<&'static Voice> {
        VOICES.iter().find(|voice| voice.id == id)
    }

    pub fn has(&self, engine: Engine) -> bool {
        self.engines.as_bytes().contains(&engine.letter())
    }

    pub fn engines(&self) -> impl Iterator<Item = Engine> {
        Engine::ALL.into_iter().filter(|engine| self.has(*engine))
    }

    pub fn speaks(&self, language: &str) -> bool {
        self.language == language || self.additional.contains(&language)
    }

    /// The newscaster's way of speaking, `<amazon:domain name="news">`.
    pub fn reads_news(&self) -> bool {
        matches!(self.id, "Matthew" | "Joanna" | "Lupe" | "Amy")
    }
}

/// Every language code of the service, whether or not a voice has it first.
pub fn is_language(code: &str) -> bool {
    VOICES.iter().any(|voice| voice.speaks(code))
}

const fn voice(
    id: &'static str,
    name: &'static str,
    gender: Gender,
    language: &'static str,
    language_name: &'static str,
    engines: &'static str,
    additional: &'static [&'static str],
) -> Voice {
    Voice { id, name, gender, language, language_name, engines, additional }
}

/// S standard, N neural, L long-form, G generative.
#[rustfmt::skip]
pub const VOICES: &[Voice] = &[
    voice("Hala", "Hala", Female, "ar-AE", "Gulf Arabic", "N", &["arb"]),
    voice("Zayd", "Zayd", Male, "ar-AE", "Gulf Arabic", "N", &["arb"]),
    voice("Zeina", "Zeina", Female, "arb", "Arabic", "S", &[]),
    voice("Arlet", "Arlet", Female, "ca-ES", "Catalan", "N", &[]),
    voice("Zhiyu", "Zhiyu", Female, "cmn-CN", "Chinese Mandarin", "SN", &[]),
    voice("Jitka", "Jitka", Female, "cs-CZ", "Czech", "N", &[]),
    voice("Gwyneth", "Gwyneth", Female, "cy-GB", "Welsh", "S", &[]),
    voice("Mads", "Mads", Male, "da-DK", "Danish", "S", &[]),
    voice("Naja", "Naja", Female, "da-DK", "Danish", "S", &[]),
    voice("Sofie", "Sofie", Female, "da-DK", "Danish", "N", &[]),
    voice("Hannah", "Hannah", Female, "de-AT", "Austrian German", "NG", &[]),
    voice("Sabrina", "Sabrina", Female, "de-CH", "Swiss Standard German", "NG", &[]),
    voice("Daniel", "Daniel", Male, "de-DE", "German", "NG", &[]),
    voice("Hans", "Hans", Male, "de-DE", "German", "S", &[]),
    voice("Lennart", "Lennart", Male, "de-DE", "German", "G", &[]),
    voice("Marlene", "Marlene", Female, "de-DE", "German", "S", &[]),
    voice("Vicki", "Vicki", Female, "de-DE", "German", "SNG", &[]),
    voice("Nicole", "Nicole", Female, "en-AU", "Australian English", "S", &[]),
    voice("Olivia", "Olivia", Female, "en-AU", "Australian English", "NG", &[]),
    voice("Russell", "Russell", Male, "en-AU", "Australian English", "S", &[]),
    voice("Amy", "Amy", Female, "en-GB", "British English", "SNG", &[]),
    voice("Arthur", "Arthur", Male, "en-GB", "British English", "N", &[]),
    voice("Brian", "Brian", Male, "en-GB", "British English", "SNG", &[]),
    voice("Emma", "Emma", Female, "en-GB", "British English", "SN", &[]),
    voice("Geraint", "Geraint", Male, "en-GB-WLS", "Welsh English", "S", &[]),
    voice("Niamh", "Niamh", Female, "en-IE", "Irish English", "NG", &[]),
    voice("Aditi", "Aditi", Female, "en-IN", "Indian English", "S", &["hi-IN"]),
    voice("Kajal", "Kajal", Female, "en-IN", "Indian English", "NG", &["hi-IN"]),
    voice("Raveena", "Raveena", Female, "en-IN", "Indian English", "S", &[]),
    voice("Aria", "Aria", Female, "en-NZ", "New Zealand English", "NG", &[]),
    voice("Jasmine", "Jasmine", Female, "en-SG", "Singaporean English", "NG", &[]),
    voice("Danielle", "Danielle", Female, "en-US", "US English", "NLG", &[]),
    voice("Gregory", "Gregory", Male, "en-US", "US English", "NL", &[]),
    voice("Ivy", "Ivy", Female, "en-US", "US English", "SN", &[]),
    voice("Joanna", "Joanna", Female, "en-US", "US English", "SNG", &[]),
    voice("Joey", "Joey", Male, "en-US", "US English", "SN", &[]),
    voice("Justin", "Justin", Male, "en-US", "US English", "SN", &[]),
    voice("Kendra", "Kendra", Female, "en-US", "US English", "SN", &[]),
    voice("Kevin", "Kevin", Male, "en-US", "US English", "N", &[]),
    voice("Kimberly", "Kimberly", Female, "en-US", "US English", "SN", &[]),
    voice("Matthew", "Matthew", Male, "en-US", "US English", "SNG", &[]),
    voice("Ruth", "Ruth", Female, "en-US", "US English", "NLG", &[]),
    voice("Salli", "Salli", Female, "en-US", "US English", "SNG", &[]),
    voice("Stephen", "Stephen", Male, "en-US", "US English", "NG", &[]),
    voice("Tiffany", "Tiffany", Female, "en-US", "US English", "G", &[]),
    voice("Ayanda", "Ayanda", Female, "en-ZA", "South African English", "NG", &[]),
    voice("Conchita", "Conchita", Female, "es-ES", "Castilian Spanish", "S", &[]),
    voice("Enrique", "Enrique", Male, "es-ES", "Castilian Spanish", "S", &[]),
    voice("Lucia", "Lucia", Female, "es-ES", "Castilian Spanish", "SNG", &[]),
    voice("Sergio", "Sergio", Male, "es-ES", "Castilian Spanish", "NG", &[]),
    voice("Andres", "Andrés", Male, "es-MX", "Mexican Spanish", "NG", &[]),
    voice("Mia", "Mia", Female, "es-MX", "Mexican Spanish", "SNG", &[]),
    voice("Lupe", "Lupe", Female, "es-US", "US Spanish", "SNG", &[]),
    voice("Miguel", "Miguel", Male, "es-US", "US Spanish", "S", &[]),
    voice("Pedro", "Pedro", Male, "es-US", "US Spanish", "NG", &[]),
    voice("Penelope", "Penélope", Female, "es-US", "US Spanish", "S", &[]),
    voice("Suvi", "Suvi", Female, "fi-FI", "Finnish", "N", &[]),
    voice("Isabelle", "Isabelle", Female, "fr-BE", "Belgian French", "NG", &[]),
    voice("Chantal", "Chantal", Female, "fr-CA", "Canadian French", "S", &[]),
    voice("Gabrielle", "Gabrielle", Female, "fr-CA", "Canadian French", "NG", &[]),
    voice("Liam", "Liam", Male, "fr-CA", "Canadian French", "NG", &[]),
    voice("Ambre", "Ambre", Female, "fr-FR", "French", "G", &[]),
    voice("Celine", "Céline", Female, "fr-FR", "French", "S", &[]),
    voice("Florian", "Florian", Male, "fr-FR", "French", "G", &[]),
    voice("Lea", "Léa", Female, "fr-FR", "French", "SNG", &[]),
    voice("Mathieu", "Mathieu", Male, "fr-FR", "French", "S", &[]),
    voice("Remi", "Rémi", Male, "fr-FR", "French", "NG", &[]),
    voice("Dora", "Dóra", Female, "is-IS", "Icelandic", "S", &[]),
    voice("Karl", "Karl", Male, "is-IS", "Icelandic", "S", &[]),
    voice("Adriano", "Adriano", Male, "it-IT", "Italian", "N", &[]),
    voice("Beatrice", "Beatrice", Female, "it-IT", "Italian", "G", &[]),
    voice("Bianca", "Bianca", Female, "it-IT", "Italian", "SNG", &[]),
    voice("Carla", "Carla", Female, "it-IT", "Italian", "S", &[]),
    voice("Giorgio", "Giorgio", Male, "it-IT", "Italian", "S", &[]),
    voice("Lorenzo", "Lorenzo", Male, "it-IT", "Italian", "G", &[]),
    voice("Kazuha", "Kazuha", Female, "ja-JP", "Japanese", "N", &[]),
    voice("Mizuki", "Mizuki", Female, "ja-JP", "Japanese", "S", &[]),
    voice("Takumi", "Takumi", Male, "ja-JP", "Japanese", "SN", &[]),
    voice("Tomoko", "Tomoko", Female, "ja-JP", "Japanese", "N", &[]),
    voice("Jihye", "Jihye", Female, "ko-KR", "Korean", "N", &[]),
    voice("Seoyeon", "Seoyeon", Female, "ko-KR", "Korean", "SNG", &[]),
    voice("Ida", "Ida", Female, "nb-NO", "Norwegian", "N", &[]),
    voice("Liv", "Liv", Female, "nb-NO", "Norwegian", "S", &[]),
    voice("Lisa", "Lisa", Female, "nl-BE", "Belgian Dutch", "NG", &[]),
    voice("Laura", "Laura", Female, "nl-NL", "Dutch", "NG", &[]),
    voice("Lotte", "Lotte", Female, "nl-NL", "Dutch", "S", &[]),
    voice("Ruben", "Ruben", Male, "nl-NL", "Dutch", "S", &[]),
    voice("Ewa", "Ewa", Female, "pl-PL", "Polish", "S", &[]),
    voice("Jacek", "Jacek", Male, "pl-PL", "Polish", "S", &[]),
    voice("Jan", "Jan", Male, "pl-PL", "Polish", "S", &[]),
    voice("Maja", "Maja", Female, "pl-PL", "Polish", "S", &[]),
    voice("Ola", "Ola", Female, "pl-PL", "Polish", "NG", &[]),
    voice("Camila", "Camila", Female, "pt-BR", "Brazilian Portuguese", "SNG", &[]),
    voice("Ricardo", "Ricardo", Male, "pt-BR", "Brazilian Portuguese", "S", &[]),
    voice("Thiago", "Thiago", Male, "pt-BR", "Brazilian Portuguese", "N", &[]),
    voice("Vitoria", "Vitória", Female, "pt-BR", "Brazilian Portuguese", "SN", &[]),
    voice("Cristiano", "Cristiano", Male, "pt-PT", "Portuguese", "S", &[]),
    voice("Ines", "Inês", Female, "pt-PT", "Portuguese", "SN", &[]),
    voice("Carmen", "Carmen", Female, "ro-RO", "Romanian", "S", &[]),
    voice("Maxim", "Maxim", Male, "ru-RU", "Russian", "S", &[]),
    voice("Tatyana", "Tatyana", Female, "ru-RU", "Russian", "S", &[]),
    voice("Astrid", "Astrid", Female, "sv-SE", "Swedish", "S", &[]),
    voice("Elin", "Elin", Female, "sv-SE", "Swedish", "N", &[]),
    voice("Burcu", "Burcu", Female, "tr-TR", "Turkish", "N", &[]),
    voice("Filiz", "Filiz", Female, "tr-TR", "Turkish", "S", &[]),
    voice("Hiujin", "Hiujin", Female, "yue-CN", "Cantonese", "N", &[]),
];
