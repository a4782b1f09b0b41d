//! The elements of speech markup, one by one: which attributes and values they take, and which engine takes them.

use quick_xml::XmlVersion;
use quick_xml::events::BytesStart;

use super::ssml::{InvalidSsml, Manner, is_xml, refuse};
use super::voices::{self, Engine, Voice};

/// The longest pause a `break` may ask for.
const MAX_BREAK_MS: u32 = 10_000;

/// The attributes of one element, none twice.
pub(super) struct Attributes(Vec<(String, String)>);

impl Attributes {
    pub fn of(tag: &BytesStart<'_>) -> Result<Attributes, InvalidSsml> {
        let mut all = Vec::new();
        for attribute in tag.attributes() {
            let attribute = attribute.map_err(|error| InvalidSsml(error.to_string()))?;
            if attribute.value.contains('<') {
                return refuse("< in an attribute");
            }
            let value = attribute.normalized_value(XmlVersion::Implicit1_0);
            let value = value.map_err(|error| InvalidSsml(error.to_string()))?;
            if !value.chars().all(is_xml) {
                return refuse("a character that XML does not know");
            }
            all.push((attribute.key.into_inner().to_owned(), value.into_owned()));
        }
        Ok(Attributes(all))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn only(&self, names: &[&str]) -> Result<(), InvalidSsml> {
        match self.0.iter().find(|(key, _)| !names.contains(&key.as_str())) {
            Some((key, _)) => refuse(format!("unsupported attribute {key}")),
            None => Ok(()),
        }
    }

    /// The one attribute that `element` has to have.
    pub fn required(&self, element: &str, name: &str) -> Result<&str, InvalidSsml> {
        self.only(&[name])?;
        self.get(name).map_or_else(|| refuse(format!("{element} needs {name}")), Ok)
    }

    fn one_of(&self, element: &str, name: &str, values: &[&str]) -> Result<(), InvalidSsml> {
        let value = self.required(element, name)?;
        match values.contains(&value) {
            true => Ok(()),
            false => refuse(format!("{element} {name} cannot be {value}")),
        }
    }

    /// The elements that change nothing of what is heard here, or are refused by the engine.
    pub fn check(&self, element: &str, engine: Engine, voice: &Voice) -> Result<(), InvalidSsml> {
        let only_for = |possible: bool| match possible {
            true => Ok(()),
            false => refuse(format!("{element} is not supported by {} voices", engine.name())),
        };
        match element {
            "speak" => {
                let foreign = |key: &str| !matches!(key, "version" | "xml:lang" | "xmlns" | "xsi:schemaLocation");
                match self.0.iter().find(|(key, _)| foreign(key) && !key.starts_with("xmlns:")) {
                    Some((key, _)) => refuse(format!("unsupported attribute {key}")),
                    None => Ok(()),
                }
            }
            "lang" => match self.required(element, "xml:lang")? {
                code if voices::is_language(code) => Ok(()),
                code => refuse(format!("unknown language {code}")),
            },
            "mark" => self.required(element, "name").map(drop),
            "w" => self.required(element, "role").map(drop),
            "phoneme" => {
                self.only(&["alphabet", "ph"])?;
                match (self.get("ph"), self.get("alphabet")) {
                    (Some(_), None | Some("ipa" | "x-sampa" | "x-amazon-pinyin" | "x-amazon-jyutping")) => Ok(()),
                    _ => refuse("phoneme needs ph and a known alphabet"),
                }
            }
            "say-as" => {
                self.only(&["interpret-as", "format"])?;
                match self.get("interpret-as") {
                    Some(kind) if SAY_AS.contains(&kind) => Ok(()),
                    _ => refuse("say-as needs a known interpret-as"),
                }
            }
            "amazon:breath" | "amazon:auto-breaths" => only_for(engine == Engine::Standard),
            "amazon:domain" => {
                only_for(engine == Engine::Neural && voice.reads_news())?;
                self.one_of(element, "name", &["news"])
            }
            "amazon:effect" => {
                self.only(&["name", "phonation", "vocal-tract-length"])?;
                match self.0.as_slice() {
                    [(key, value)] if key == "name" && value == "drc" => only_for(engine != Engine::Generative),
                    [(key, value)] if key == "name" && value == "whispered" => only_for(engine == Engine::Standard),
                    [(key, value)] if key == "phonation" && value == "soft" => only_for(engine == Engine::Standard),
                    [(key, value)] if key == "vocal-tract-length" && percent(value, -50.0, 200.0).is_some() => {
                        only_for(engine == Engine::Standard)
                    }
                    _ => refuse("amazon:effect needs one known effect"),
                }
            }
            other => refuse(format!("unsupported element {other}")),
        }
    }

    pub fn prosody(&self, engine: Engine, manner: &mut Manner) -> Result<(), InvalidSsml> {
        self.only(&["rate", "volume", "pitch", "amazon:max-duration"])?;
        if self.0.is_empty() {
            return refuse("prosody needs an attribute");
        }
        for (key, value) in &self.0 {
            if matches!(key.as_str(), "pitch" | "amazon:max-duration") && engine != Engine::Standard {
                return refuse(format!("prosody {key} is not supported by {} voices", engine.name()));
            }
            let wrong = || InvalidSsml(format!("prosody {key} cannot be {value}"));
            match key.as_str() {
                "rate" => manner.rate *= rate(value).ok_or_else(wrong)?,
                "volume" => manner.volume_db += volume_db(value).ok_or_else(wrong)?,
                "pitch" => manner.pitch_percent += pitch_percent(value).ok_or_else(wrong)?,
                _ => milliseconds(value).map(drop).ok_or_else(wrong)?,
            }
        }
        Ok(())
    }

    pub fn emphasis(&self, engine: Engine, manner: &mut Manner) -> Result<(), InvalidSsml> {
        if engine != Engine::Standard {
            return refuse(format!("emphasis is not supported by {} voices", engine.name()));
        }
        self.only(&["level"])?;
        let (rate, volume_db) = match self.get("level").unwrap_or("moderate") {
            "strong" => (0.9, 4.0),
            "moderate" => (0.95, 2.0),
            "reduced" => (1.05, -2.0),
            other => return refuse(format!("emphasis level cannot be {other}")),
        };
        manner.rate *= rate;
        manner.volume_db += volume_db;
        Ok(())
    }

    pub fn pause(&self) -> Result<u32, InvalidSsml> {
        self.only(&["strength", "time"])?;
        let strength = match self.get("strength").unwrap_or("medium") {
            "none" | "x-weak" => 0,
            "weak" | "medium" => 150,
            "strong" => 400,
            "x-strong" => 800,
            other => return refuse(format!("break strength cannot be {other}")),
        };
        match self.get("time") {
            None => Ok(strength),
            Some(time) => match milliseconds(time) {
                Some(ms) if ms <= MAX_BREAK_MS => Ok(ms),
                _ => refuse(format!("break time cannot be {time}")),
            },
        }
    }
}

const SAY_AS: &[&str] = &[
    "characters",
    "spell-out",
    "cardinal",
    "number",
    "ordinal",
    "digits",
    "fraction",
    "unit",
    "date",
    "time",
    "address",
    "expletive",
    "telephone",
];

fn rate(value: &str) -> Option<f32> {
    Some(match value {
        "x-slow" => 0.5,
        "slow" => 0.75,
        "medium" | "default" => 1.0,
        "fast" => 1.25,
        "x-fast" => 1.5,
        percents if percents.starts_with(['+', '-']) => return None,
        percents => percent(percents, 20.0, 200.0)? / 100.0,
    })
}

fn volume_db(value: &str) -> Option<f32> {
    Some(match value {
        "silent" => f32::NEG_INFINITY,
        "x-soft" => -12.0,
        "soft" => -6.0,
        "medium" | "default" => 0.0,
        "loud" => 3.0,
        "x-loud" => 6.0,
        relative if relative.starts_with(['+', '-']) => number(relative.strip_suffix("dB")?)?,
        _ => return None,
    })
}

fn pitch_percent(value: &str) -> Option<f32> {
    Some(match value {
        "x-low" => -20.0,
        "low" => -10.0,
        "medium" | "default" => 0.0,
        "high" => 10.0,
        "x-high" => 20.0,
        relative if relative.starts_with(['+', '-']) => percent(relative, -100.0, 100.0)?,
        _ => return None,
    })
}

fn percent(value: &str, least: f32, most: f32) -> Option<f32> {
    number(value.strip_suffix('%')?).filter(|number| (least..=most).contains(number))
}

fn milliseconds(value: &str) -> Option<u32> {
    let (digits, factor) = match value.strip_suffix("ms") {
        Some(digits) => (digits, 1.0),
        None => (value.strip_suffix('s')?, 1_000.0),
    };
    number(digits).filter(|number| (0.0..=600_000.0).contains(number)).map(|number| (number * factor) as u32)
}

/// Digits, a point and a sign; not `inf`, `nan` or `1e9`.
fn number(text: &str) -> Option<f32> {
    let plain =
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'+' | b'-'));
    plain.then(|| text.parse().ok())?
}
