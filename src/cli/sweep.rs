//! `babelcast sweep`: what a crash has left behind, put in order by hand or by a timer of one's own.

use std::path::PathBuf;

use crate::app::{App, AppError};
use crate::config::{ConfigError, Settings};
use crate::live::{SweepError, Verdict};
use crate::telemetry::{self, TelemetryError};

/// Delete signaling channels that no session owns, and end sessions that nobody runs any more (servers do it by themselves now and then)
#[derive(Debug, Clone, clap::Args)]
pub struct SweepArgs {
    /// Settings file, read over the defaults
    #[arg(long, value_name = "FILE", env = "BABELCAST_CONFIG")]
    config: Option<PathBuf>,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    #[error(transparent)]
    App(#[from] AppError),
    #[error(transparent)]
    Sweep(#[from] SweepError),
    #[error("{0} of them could not be put in order; the next sweep tries again")]
    Left(usize),
}

/// One look at everything; one line for each channel, and a sum.
pub async fn run(args: SweepArgs) -> Result<(), CommandError> {
    let settings = Settings::load(args.config.as_deref())?;
    settings.check()?;
    telemetry::start(&settings.log)?;
    let sessions = App::sessions_only(settings, None).await?;
    let swept = sessions.sweep(args.dry_run).await?;
    let (mut done, mut left) = (0, 0);
    for one in &swept {
        let what = match (one.verdict, args.dry_run, &one.error) {
            (Verdict::Kept, ..) => "kept: its session is open, or may still be taken up",
            (Verdict::Passed, ..) => "passed over: not ours, or too young to tell",
            (Verdict::Dead(_), true, _) => "would be deleted: its session is dead and would be ended",
            (Verdict::Dead(_), false, None) => "deleted: its session was dead and is ended",
            (Verdict::Orphan, true, _) => "would be deleted: no open session owns it",
            (Verdict::Orphan, false, None) => "deleted: no open session owned it",
            (_, false, Some(_)) => "left: it could not be put in order",
        };
        let wanted = matches!(one.verdict, Verdict::Orphan | Verdict::Dead(_));
        done += usize::from(wanted && one.error.is_none());
        left += usize::from(one.error.is_some());
        println!("{:<48} {what}{}", one.channel, one.error.as_ref().map(|why| format!(" ({why})")).unwrap_or_default());
    }
    let verb = if args.dry_run { "would be deleted" } else { "deleted" };
    println!("{} channels looked at, {done} {verb}", swept.len());
    if left > 0 { Err(CommandError::Left(left)) } else { Ok(()) }
}
