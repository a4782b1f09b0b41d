//! What people run, and the real clients it is made of: they know a deployment by its URL and nothing else.

pub mod client;
pub mod demo;
pub mod listen;
pub mod local;
mod migrate;
mod serve;
pub mod speak;
pub mod speaker;
mod sweep;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

/// Live speech translation broadcast: a speaker's voice in, captions in every listener's language out.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::DemoArgs),
    Local(local::LocalArgs),
    Speak(speak::SpeakArgs),
    Listen(listen::ListenArgs),
    Serve(serve::ServeArgs),
    Validate(serve::ValidateArgs),
    Sweep(sweep::SweepArgs),
    Migrate(migrate::MigrateArgs),
}

/// The whole of `main`: parse, run, say in one sentence what went wrong.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // One TLS provider in the whole process; the SDKs and reqwest ask for the installed one.
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("babelcast: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        match cli.command {
            Command::Demo(args) => demo::run(args).await.map_err(|error| error.to_string()),
            Command::Local(args) => local::run(args).await.map_err(|error| error.to_string()),
            Command::Speak(args) => speak::run(args).await.map_err(|error| error.to_string()),
            Command::Listen(args) => listen::run(args).await.map_err(|error| error.to_string()),
            Command::Serve(args) => serve::run(args).await.map_err(|error| error.to_string()),
            Command::Sweep(args) => sweep::run(args).await.map_err(|error| error.to_string()),
            Command::Validate(args) => serve::validate(args).map_err(|error| error.to_string()),
            Command::Migrate(args) => migrate::run(args).await.map_err(|error| error.to_string()),
        }
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("babelcast: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Waits for Ctrl-C or SIGTERM.
async fn stop_signal() {
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => {
                terminate.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminated => {}
    }
}
