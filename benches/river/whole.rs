//! The binary as people start it: how soon the demo shows text, and what an idle house weighs.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use babelcast::media::wav::Recording;

use crate::Failed;

const BINARY: &str = env!("CARGO_BIN_EXE_babelcast");
/// Of the recording, from its beginning: its first sentence and some more.
const EXCERPT_S: u32 = 12;
const SETTLE: Duration = Duration::from_secs(3);

/// Seconds from the first sound of the first word to the first text at the source-language listener, as the demo says
/// in its own summary; real engine.
pub fn first_text(recording: &Recording) -> Result<f64, Failed> {
    let excerpt = Excerpt::write(recording)?;
    let run = Command::new(BINARY).arg("demo").arg("--file").arg(&excerpt.0).stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&run.stdout);
    let mut lines = said.lines().skip_while(|line| !line.contains("first text"));
    let source = lines.nth(1).and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    source.ok_or_else(|| match String::from_utf8_lossy(&run.stderr).lines().last() {
        Some(why) => why.to_owned().into(),
        None => "the demo did not say when its first text came".into(),
    })
}

/// The beginning of the recording as a file that goes when this does.
struct Excerpt(PathBuf);

impl Excerpt {
    fn write(recording: &Recording) -> Result<Excerpt, Failed> {
        let path = std::env::temp_dir().join(format!("babelcast-bench-{}.wav", std::process::id()));
        let spec = hound::WavSpec {
            channels: 1,
            sample_rate: recording.rate,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        let mut writer = hound::WavWriter::create(&path, spec)?;
        for sample in recording.samples.iter().take((EXCERPT_S * recording.rate) as usize) {
            writer.write_sample(*sample)?;
        }
        writer.finalize()?;
        Ok(Excerpt(path))
    }
}

impl Drop for Excerpt {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Resident MiB of `babelcast local --engines none`, three seconds after it says that it runs: all of it, and the part
/// that is its own (not pages of the program file, which the kernel takes back when it likes).
pub fn idle_memory() -> Result<(f64, f64), Failed> {
    let any = "127.0.0.1:0";
    let child = Command::new(BINARY)
        .args(["local", "--engines", "none", "--bind", any, "--cloud-http", any, "--cloud-https", any])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut house = House(child);
    let output = house.0.stdout.take().ok_or("no output")?;
    let mut lines = BufReader::new(output).lines();
    if !lines.any(|line| line.is_ok_and(|line| line.contains("babelcast listen"))) {
        return Err("babelcast local did not start".into());
    }
    std::thread::sleep(SETTLE);
    let status = std::fs::read_to_string(format!("/proc/{}/status", house.0.id()))?;
    let mib = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()).map(|kib| kib / 1024.0)
    };
    mib("VmRSS").zip(mib("RssAnon")).ok_or_else(|| "the kernel does not say".into())
}

struct House(Child);

impl Drop for House {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
