//! Settings are defined by each room and gathered here: built-in defaults, then a file, then the environment.

use std::collections::BTreeMap;
use std::path::Path;

use babelcast_domain::language::{Catalogue, Language};
use config::{Environment, File, FileFormat};
use serde::Deserialize;

use crate::{aws, live, store, telemetry, web};

/// The documented defaults are the ones in force: this very file is compiled in.
const DEFAULTS: &str = include_str!("../config/default.toml");

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub web: web::Settings,
    pub aws: aws::Settings,
    pub store: store::Settings,
    pub live: live::Settings,
    pub languages: Languages,
    pub log: telemetry::Settings,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Languages {
    /// What a speaker may speak, and the recogniser's dialect for it.
    pub sources: BTreeMap<String, Language>,
    pub targets: Vec<Language>,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{0}")]
    Unreadable(#[from] config::ConfigError),
    #[error("these settings are wrong:\n{}", .0.iter().map(|line| format!("  - {line}")).collect::<Vec<_>>().join("\n"))]
    Wrong(Vec<String>),
}

impl Settings {
    /// Reads the defaults, `file` if given, and `BABELCAST__…` variables.
    pub fn load(file: Option<&Path>) -> Result<Settings, ConfigError> {
        let mut builder = config::Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml));
        if let Some(file) = file {
            builder = builder.add_source(File::from(file).format(FileFormat::Toml));
        }
        let environment = Environment::with_prefix("BABELCAST").prefix_separator("__").separator("__");
        let environment = environment
            .try_parsing(true)
            .list_separator(",")
            .with_list_parse_key("web.auth.client_ids")
            .with_list_parse_key("web.allowed_origins")
            .with_list_parse_key("languages.targets");
        Ok(builder.add_source(environment).build()?.try_deserialize()?)
    }

    /// All that is wrong, at once.
    pub fn check(&self) -> Result<(), ConfigError> {
        let mut wrong: Vec<String> =
            [self.web.check(), self.live.check(), self.store.check()].into_iter().filter_map(Result::err).collect();
        if self.languages.sources.is_empty() {
            wrong.push("languages.sources must name a language".to_owned());
        }
        wrong.extend(
            self.languages
                .sources
                .keys()
                .filter(|code| Language::parse(code).is_err())
                .map(|code| format!("languages.sources: `{code}` is no language code")),
        );
        if wrong.is_empty() { Ok(()) } else { Err(ConfigError::Wrong(wrong)) }
    }
}

impl Languages {
    pub fn catalogue(&self) -> Catalogue {
        let source = |(code, dialect): (&String, &Language)| Some((Language::parse(code).ok()?, dialect.clone()));
        Catalogue::new(self.sources.iter().filter_map(source), self.targets.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_defaults_are_complete_and_only_lack_an_issuer() {
        let settings = Settings::load(None).unwrap();
        let Err(ConfigError::Wrong(wrong)) = settings.check() else { panic!("an issuer must be demanded") };
        assert_eq!(wrong.len(), 1, "{wrong:?}");
        assert!(wrong[0].contains("issuer"), "{wrong:?}");
    }

    #[test]
    fn the_example_files_are_valid() {
        for file in ["config/aws.toml", "config/local.toml"] {
            let settings = Settings::load(Some(&Path::new(env!("CARGO_MANIFEST_DIR")).join(file))).unwrap();
            settings.check().unwrap();
        }
    }

    #[test]
    fn an_unknown_key_is_refused_by_its_name() {
        let folder = std::env::temp_dir().join(format!("babelcast-config-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("bad.toml");
        std::fs::write(&file, "[live]\nisActive = true\n").unwrap();
        let error = Settings::load(Some(&file)).unwrap_err().to_string();
        std::fs::remove_dir_all(&folder).ok();
        assert!(error.contains("isActive"), "{error}");
    }
}
