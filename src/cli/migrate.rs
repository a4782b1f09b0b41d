//! `babelcast migrate`: the DynamoDB tables of a deployment.

use std::path::PathBuf;
use std::time::Duration;

use crate::aws::{Clients, ConnectError};
use crate::config::{ConfigError, Settings};
use crate::store::{MigrateError, Migrations, StoreKind};
use crate::telemetry::{self, TelemetryError};

/// Compare the DynamoDB tables with what this version needs and say what is missing; with --apply, add it
///
/// Adds only: tables, indexes, TTL. It never deletes or rewrites, and running it again does nothing more. What it may not
/// change it says, and fails. Region, credentials and endpoints come from the environment as for `serve`.
#[derive(Debug, Clone, clap::Args)]
pub struct MigrateArgs {
    /// Say what would be done and change nothing (what happens without --apply too)
    #[arg(long, conflicts_with = "apply")]
    plan: bool,
    /// Do it, and wait until every table serves
    #[arg(long)]
    apply: bool,
    /// How long to wait for each table or index, in seconds; a new index on a large table takes long
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    wait: u64,
    /// Settings file, read over the defaults
    #[arg(long, value_name = "FILE", env = "BABELCAST_CONFIG")]
    config: Option<PathBuf>,
    /// PEM file of a certificate to trust besides the machine's
    #[arg(long, value_name = "FILE")]
    extra_root: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum MigrateCommandError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("these settings are wrong: {0}")]
    Wrong(String),
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    #[error("{file}: {error}", file = .file.display())]
    ExtraRoot { file: PathBuf, error: std::io::Error },
    #[error(transparent)]
    Aws(#[from] ConnectError),
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    #[error("{0} of what differs must be changed by hand (see above)")]
    Differs(usize),
}

pub async fn run(args: MigrateArgs) -> Result<(), MigrateCommandError> {
    let settings = Settings::load(args.config.as_deref())?;
    // Only what concerns the tables: they are made before there is an issuer to name.
    settings.store.check().map_err(MigrateCommandError::Wrong)?;
    telemetry::start(&settings.log)?;
    let extra_root = match args.extra_root {
        Some(file) => Some(std::fs::read(&file).map_err(|error| MigrateCommandError::ExtraRoot { file, error })?),
        None => None,
    };
    let clients = Clients::connect(&settings.aws, extra_root.as_deref()).await?;
    let migrations = Migrations::new(&settings.store, clients.dynamodb())?;
    let plan = migrations.plan().await?;
    for difference in &plan.differences {
        println!("differs  {difference}");
    }
    if plan.steps.is_empty() && plan.differences.is_empty() {
        println!("every table is as it should be");
    }
    if args.apply {
        migrations.apply(&plan, Duration::from_secs(args.wait), |line| println!("{line}")).await?;
        if !plan.steps.is_empty() {
            println!("done");
        }
    } else {
        for step in &plan.steps {
            println!("missing  would {step}");
        }
        if !plan.steps.is_empty() {
            println!("nothing was changed; run `babelcast migrate --apply` to do it");
        }
    }
    if settings.store.kind == StoreKind::Memory {
        println!("note: `store.kind` is \"memory\" in these settings: `serve` would not use the tables");
    }
    match plan.differences.len() {
        0 => Ok(()),
        differences => Err(MigrateCommandError::Differs(differences)),
    }
}
