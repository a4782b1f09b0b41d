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
