//! A program that is fed bytes and answers with bytes, within limits of time and size.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::engine::EngineError;

/// Runs `program` (called `name` in errors) over `input` to its end. It is killed when it takes longer, says more than
/// `most` bytes, or when nobody waits any more.
pub(super) async fn run(
    name: &'static str,
    program: &Path,
    arguments: &[impl AsRef<OsStr>],
    input: &[u8],
    most: usize,
    timeout: Duration,
) -> Result<Vec<u8>, EngineError> {
    let failed = |why: String| EngineError::Failed { program: name, why };
    // Its complaints may quote what was spoken. A group of its own: Ctrl-C at a terminal is for us, and we end it.
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => EngineError::NotInstalled(name),
            _ => failed(error.to_string()),
        })?;
    let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(failed("no pipes".to_owned()));
    };
    let feed = async move {
        // A program that does not read to the end says by its exit status whether that was well.
        let _ = stdin.write_all(input).await;
        let _ = stdin.shutdown().await;
    };
    let mut output = Vec::new();
    let mut limited = stdout.take(most as u64 + 1);
    let work = async {
        let ((), read) = tokio::join!(feed, limited.read_to_end(&mut output));
        read.map_err(|error| failed(error.to_string()))?;
        if output.len() > most {
            return Err(failed(format!("more than {most} bytes")));
        }
        match child.wait().await {
            Ok(status) if status.success() => Ok(output),
            Ok(status) => Err(failed(status.to_string())),
            Err(error) => Err(failed(error.to_string())),
        }
    };
    tokio::time::timeout(timeout, work).await.unwrap_or(Err(EngineError::TimedOut(name)))
}
