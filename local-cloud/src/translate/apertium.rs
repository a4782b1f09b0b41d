//! Apertium: which modes are installed, which of them lead from one language to another, and the pipelines that run them.
//!
//! Rule-based and literal: good enough to show the product on a laptop, not to publish. The programs are GPL and stay
//! separate processes.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::StartError;
use super::engine::EngineError;
use super::pipeline::{Mode, Patience, Pipeline, Tally};

/// Debian packages for the languages of the demo; the first three alone give es, ca and fr.
pub const PACKAGES: &str =
    "apertium apertium-eng-spa apertium-eng-cat apertium-fra-cat apertium-cat-ita apertium-es-pt";

/// Mode, from, to. Of two routes of equal length the one with the earlier rows wins: Catalan is the better bridge to
/// French and Italian, Spanish the only good one to Portuguese. Amazon's `pt` is Brazilian.
const MODES: &[(&str, &str, &str)] = &[
    ("eng-cat", "en", "ca"),
    ("eng-spa", "en", "es"),
    ("en-gl", "en", "gl"),
    ("en-eo", "en", "eo"),
    ("cat-fra", "ca", "fr"),
    ("cat-ita", "ca", "it"),
    ("es-pt_BR", "es", "pt"),
    ("es-pt", "es", "pt-PT"),
    ("cat-spa", "ca", "es"),
    ("spa-cat", "es", "ca"),
    ("cat-eng", "ca", "en"),
    ("spa-eng", "es", "en"),
    ("gl-en", "gl", "en"),
    ("eo-en", "eo", "en"),
    ("fra-cat", "fr", "ca"),
    ("ita-cat", "it", "ca"),
    ("pt-es", "pt", "es"),
    ("pt-es", "pt-PT", "es"),
];

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "snake_case")]
pub struct Settings {
    /// Folder of the `.mode` files.
    pub modes: PathBuf,
    /// One text, in milliseconds; past it the pipeline is killed and started anew.
    pub timeout_ms: u64,
    /// From spawning the programs to their first answer, in milliseconds. French takes 2 s on a quiet machine.
    pub start_timeout_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { modes: PathBuf::from("/usr/share/apertium/modes"), timeout_ms: 5_000, start_timeout_ms: 30_000 }
    }
}

/// What happened to the processes since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Pipelines {
    pub starts: u64,
    pub deaths: u64,
    pub timeouts: u64,
    /// Texts refused because a pipeline's queue was full.
    pub refused: u64,
}

#[derive(Debug)]
pub(super) struct Apertium {
    patience: Patience,
    tally: Arc<Tally>,
    stages: BTreeMap<&'static str, (Mode, OnceLock<Pipeline>)>,
}

impl Apertium {
    pub fn new(settings: &Settings) -> Result<Apertium, StartError> {
        let stages = MODES
            .iter()
            .filter_map(|(name, ..)| Some((*name, (Mode::read(&settings.modes, name)?, OnceLock::new()))))
            .collect::<BTreeMap<_, _>>();
        if stages.is_empty() {
            return Err(StartError::NoApertium { modes: settings.modes.clone(), packages: PACKAGES });
        }
        let patience = Patience {
            start: Duration::from_millis(settings.start_timeout_ms),
            answer: Duration::from_millis(settings.timeout_ms),
        };
        Ok(Apertium { patience, tally: Arc::new(Tally::default()), stages })
    }

    pub fn knows(&self, language: &str) -> bool {
        MODES.iter().any(|(mode, from, to)| self.stages.contains_key(mode) && [*from, *to].contains(&language))
    }

    pub fn targets(&self, source: &str) -> Vec<&'static str> {
        self.routes(source).into_keys().filter(|target| *target != source).collect()
    }

    /// Runs of white space come back as one space. A text without any word comes back as it is.
    pub async fn translate(&self, source: &str, target: &str, text: &str) -> Result<String, EngineError> {
        let route = self.routes(source).remove(target).ok_or(EngineError::NoRoute)?;
        let original = text;
        let mut text = text.to_owned();
        for mode in route {
            let Some((mode, pipeline)) = self.stages.get(mode) else { return Err(EngineError::NoRoute) };
            let start = || Pipeline::new(mode.clone(), self.patience, Arc::clone(&self.tally));
            let answer = pipeline.get_or_init(start).translate(text).await;
            if answer == Err(EngineError::Busy) {
                self.tally.refused.fetch_add(1, Ordering::Relaxed);
            }
            text = answer?;
            if text.is_empty() {
                return Ok(original.to_owned());
            }
        }
        Ok(begin_alike(original, text))
    }

    pub fn pipelines(&self) -> Pipelines {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Pipelines {
            starts: read(&self.tally.starts),
            deaths: read(&self.tally.deaths),
            timeouts: read(&self.tally.timeouts),
            refused: read(&self.tally.refused),
        }
    }

    /// The shortest way from `source` to every language that can be reached over installed modes.
    fn routes(&self, source: &str) -> BTreeMap<&'static str, Vec<&'static str>> {
        let mut routes: BTreeMap<&'static str, Vec<&'static str>> = BTreeMap::new();
        let mut open = VecDeque::from([(source, vec![])]);
        while let Some((language, way)) = open.pop_front() {
            for (mode, from, to) in MODES {
                if *from != language || *to == source || routes.contains_key(to) || !self.stages.contains_key(mode) {
                    continue;
                }
                let mut way: Vec<&'static str> = way.clone();
                way.push(mode);
                routes.insert(to, way.clone());
                open.push_back((to, way));
            }
        }
        routes
    }
}

/// Apertium begins some answers with a capital as if each were a sentence. A piece that began in lower case goes on
/// in lower case: it is the middle of somebody's sentence.
fn begin_alike(text: &str, answer: String) -> String {
    let lower = text.chars().find(|c| c.is_alphabetic()).is_some_and(char::is_lowercase);
    match answer.char_indices().find(|(_, c)| c.is_alphabetic()) {
        Some((at, first)) if lower && first.is_uppercase() => {
            let rest = &answer[at + first.len_utf8()..];
            // An abbreviation stays one.
            if rest.chars().next().is_some_and(char::is_uppercase) {
                return answer;
            }
            format!("{}{}{rest}", &answer[..at], first.to_lowercase())
        }
        Some(_) | None => answer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_any_mode_the_error_names_the_packages() {
        let settings = Settings { modes: PathBuf::from("nowhere"), ..Settings::default() };
        let error = Apertium::new(&settings).unwrap_err().to_string();
        assert!(error.contains("apertium-eng-spa") && error.contains("nowhere"), "{error}");
    }

    #[test]
    fn routes_take_the_better_bridge_and_only_installed_modes() {
        let engine = installed(&["eng-cat", "eng-spa", "cat-fra", "cat-ita", "es-pt_BR"]);
        assert_eq!(engine.targets("en"), ["ca", "es", "fr", "it", "pt"]);
        let routes = engine.routes("en");
        assert_eq!(routes["es"], ["eng-spa"]);
        assert_eq!(routes["fr"], ["eng-cat", "cat-fra"]);
        assert_eq!(routes["pt"], ["eng-spa", "es-pt_BR"]);
        assert!(engine.targets("de").is_empty());
        assert_eq!(engine.targets("ca"), ["fr", "it"]);
        assert!(engine.knows("en") && !engine.knows("gl"));
    }

    fn installed(modes: &[&str]) -> Apertium {
        let folder = std::env::temp_dir().join(format!("apertium-modes-{}-{}", std::process::id(), modes.len()));
        std::fs::create_dir_all(&folder).unwrap();
        for mode in modes {
            std::fs::write(folder.join(format!("{mode}.mode")), "cat 'x' | cat").unwrap();
        }
        let engine = Apertium::new(&Settings { modes: folder.clone(), ..Settings::default() }).unwrap();
        std::fs::remove_dir_all(folder).unwrap();
        engine
    }
}
