//! `babelcast serve` and `babelcast validate`: the server against real AWS.

use std::path::PathBuf;

use super::stop_signal;
use crate::app::{App, AppError, DRAIN};
use crate::config::{ConfigError, Settings};
use crate::telemetry::{self, TelemetryError};

/// Run the server; credentials, region and endpoints come from the environment as for every AWS tool
#[derive(Debug, Clone, clap::Args)]
pub struct ServeArgs {
    /// Settings file, read over the defaults (config/default.toml names and explains every key)
    #[arg(long, value_name = "FILE", env = "BABELCAST_CONFIG")]
    config: Option<PathBuf>,
    /// PEM file of a certificate to trust besides the machine's
    #[arg(long, value_name = "FILE")]
    extra_root: Option<PathBuf>,
}

/// Check the settings and say all that is wrong with them
#[derive(Debug, Clone, clap::Args)]
pub struct ValidateArgs {
    /// Settings file, read over the defaults
    #[arg(long, value_name = "FILE", env = "BABELCAST_CONFIG")]
    config: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    #[error("{file}: {error}", file = .file.display())]
    ExtraRoot { file: PathBuf, error: std::io::Error },
    #[error(transparent)]
    App(#[from] AppError),
}

/// Runs until Ctrl-C or SIGTERM; a second signal skips the goodbyes.
pub async fn run(args: ServeArgs) -> Result<(), ServeError> {
    let settings = Settings::load(args.config.as_deref())?;
    settings.check()?;
    telemetry::start(&settings.log)?;
    let extra_root = match args.extra_root {
        Some(file) => Some(std::fs::read(&file).map_err(|error| ServeError::ExtraRoot { file, error })?),
        None => None,
    };
    let app = App::start(settings, extra_root.as_deref()).await?;
    stop_signal().await;
    tracing::info!(within_s = DRAIN.as_secs(), "stopping; a second signal stops at once");
    tokio::select! {
        () = app.stop(DRAIN) => {}
        () = stop_signal() => tracing::warn!("stopped without goodbyes"),
    }
    Ok(())
}

pub fn validate(args: ValidateArgs) -> Result<(), ConfigError> {
    Settings::load(args.config.as_deref())?.check()?;
    println!("the settings are valid");
    Ok(())
}
