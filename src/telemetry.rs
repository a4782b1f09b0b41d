//! Logs: one subscriber for the process, text for people and JSON for collectors.
//!
//! The law of this house: tokens, addresses, names and spoken text stay below INFO; their types see to it.

use serde::Deserialize;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// As in `RUST_LOG`, which wins when set.
    pub filter: String,
    pub format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Text,
    Json,
}

#[derive(Debug, thiserror::Error)]
#[error("log.filter: {0}")]
pub struct TelemetryError(#[from] tracing_subscriber::filter::ParseError);

/// Starts logging to standard error. A second call in one process changes nothing.
pub fn start(settings: &Settings) -> Result<(), TelemetryError> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(filter) if !filter.is_empty() => EnvFilter::try_new(filter)?,
        Ok(_) | Err(_) => EnvFilter::try_new(&settings.filter)?,
    };
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match settings.format {
        Format::Text => builder.with_target(false).try_init().ok(),
        Format::Json => builder.json().flatten_event(true).try_init().ok(),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use tracing::subscriber::with_default;
    use tracing_subscriber::EnvFilter;
    use tracing_subscriber::layer::SubscriberExt;

    use crate::config::Settings;

    /// The crate `webrtc` writes `TURN allocation failed from <address>` as an error.
    #[test]
    fn libraries_that_write_addresses_are_silent_by_default() {
        let settings = Settings::load(None).unwrap().log;
        let filter = EnvFilter::try_new(&settings.filter).unwrap();
        with_default(tracing_subscriber::registry().with(filter), || {
            assert!(!tracing::enabled!(target: "webrtc::peer_connection", tracing::Level::ERROR));
            assert!(!tracing::enabled!(target: "rtc_ice::agent", tracing::Level::ERROR));
            assert!(tracing::enabled!(target: "babelcast::web", tracing::Level::INFO));
        });
    }
}
