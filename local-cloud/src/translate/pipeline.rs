//! One Apertium mode as a chain of living processes, and the task that owns it.
//!
//! `apertium -z` reads to the end of its input before it answers, so the programs of the mode are
//! started here, each with `-z` (null flush), joined by pipes. A request is the text, a numbered
//! empty format block, and a NUL; every program answers a NUL with a NUL. The number must come back
//! at the end of the answer: an answer can belong to no other request.
//!
//! Deliberately absent: concurrency within a chain (the protocol is strictly one after another) and a
//! stop for idle chains.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::engine::EngineError;

/// Requests waiting for one pipeline. Full: the request is refused with [`EngineError::Busy`].
const QUEUE: usize = 64;
/// An answer longer than this is a runaway pipeline; 10,000 bytes of text never come near it.
const MAX_ANSWER: usize = 1 << 20;

/// How long to wait for a pipeline.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// From spawning to the first answer.
    pub start: Duration,
    /// One text.
    pub answer: Duration,
}

/// What happened to the pipelines since the start.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub starts: AtomicU64,
    pub deaths: AtomicU64,
    pub timeouts: AtomicU64,
    pub refused: AtomicU64,
}

impl Tally {
    fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// The programs of a mode, in order, with their arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mode {
    pub name: &'static str,
    programs: Vec<Vec<String>>,
}

impl Mode {
    /// Reads `<folder>/<name>.mode`. `None`: not installed, or not a plain pipe of programs.
    pub fn read(folder: &Path, name: &'static str) -> Option<Mode> {
        let text = std::fs::read_to_string(folder.join(format!("{name}.mode"))).ok()?;
        let programs = text.trim().split('|').map(program).collect::<Option<Vec<_>>>()?;
        Some(Mode { name, programs })
    }
}

/// `lt-proc $1 'x y.bin'` as `["lt-proc", "-z", "-n", "x y.bin"]`: `$1` is the mark for unknown words (none),
/// `$2` is the debugging option of the tagger.
fn program(text: &str) -> Option<Vec<String>> {
    let mut words = vec![];
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (word, after) = match rest.strip_prefix('\'') {
            Some(quoted) => quoted.split_once('\'')?,
            None => rest.split_once(char::is_whitespace).unwrap_or((rest, "")),
        };
        match word {
            "$1" => words.push("-n".to_owned()),
            "$2" => {}
            _ => words.push(word.to_owned()),
        }
        rest = after.trim_start();
    }
    let null_flush = 1.min(words.len());
    words.insert(null_flush, "-z".to_owned());
    (words.len() > 1).then_some(words)
}

struct Job {
    text: String,
    answer: oneshot::Sender<Result<String, EngineError>>,
}

/// A mode at work. Its processes start with the first text and are killed when this is dropped.
#[derive(Debug)]
pub(super) struct Pipeline {
    jobs: mpsc::Sender<Job>,
    _task: AbortOnDropHandle<()>,
}

impl Pipeline {
    pub fn new(mode: Mode, patience: Patience, tally: Arc<Tally>) -> Pipeline {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let owner = Owner { mode, patience, tally, chain: None };
        Pipeline { jobs, _task: AbortOnDropHandle::new(tokio::spawn(owner.run(queue))) }
    }

    /// Queues one text and waits for its translation.
    pub async fn translate(&self, text: String) -> Result<String, EngineError> {
        let (answer, answered) = oneshot::channel();
        self.jobs.try_send(Job { text, answer }).map_err(|_| EngineError::Busy)?;
        answered.await.map_err(|_| EngineError::Died)?
    }
}

/// The task behind a [`Pipeline`]: a caller that gives up leaves no half-read answer behind.
struct Owner {
    mode: Mode,
    patience: Patience,
    tally: Arc<Tally>,
    chain: Option<Chain>,
}

impl Owner {
    async fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        while let Some(job) = queue.recv().await {
            if job.answer.is_closed() {
                continue;
            }
            let answer = self.serve(&job.text).await;
            if job.answer.send(answer).is_err() {
                tracing::debug!(mode = self.mode.name, "nobody waits for this translation any more");
            }
        }
    }

    /// A chain that died between two texts is replaced once, so nobody notices. One that dies again over
    /// the same text, or says nothing in time, costs that text its translation.
    async fn serve(&mut self, text: &str) -> Result<String, EngineError> {
        let fresh = self.chain.is_none();
        match self.attempt(text).await {
            Err(EngineError::Died) if !fresh => self.attempt(text).await,
            answer => answer,
        }
    }

    async fn attempt(&mut self, text: &str) -> Result<String, EngineError> {
        let mut chain = match self.chain.take() {
            Some(chain) => chain,
            None => self.start().await?,
        };
        match timeout(self.patience.answer, chain.exchange(text)).await {
            Ok(Ok(answer)) => {
                self.chain = Some(chain);
                Ok(answer)
            }
            Ok(Err(error)) => {
                Tally::count(&self.tally.deaths);
                tracing::warn!(mode = self.mode.name, %error, "translation pipeline lost; a new one starts with the next text");
                Err(EngineError::Died)
            }
            Err(_) => {
                Tally::count(&self.tally.timeouts);
                tracing::warn!(mode = self.mode.name, "translation pipeline says nothing; killed");
                Err(EngineError::TimedOut)
            }
        }
    }

    async fn start(&self) -> Result<Chain, EngineError> {
        Tally::count(&self.tally.starts);
        let failed = |error: String| {
            tracing::warn!(mode = self.mode.name, error, "translation pipeline does not start");
            EngineError::Start(format!("Apertium mode {}: {error}", self.mode.name))
        };
        let mut chain = Chain::spawn(&self.mode).map_err(|error| failed(error.to_string()))?;
        match timeout(self.patience.start, chain.exchange(".")).await {
            Ok(Ok(_)) => Ok(chain),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed("no answer after the start".to_owned())),
        }
    }
}

/// The living processes. Dropping it kills every one of them.
#[derive(Debug)]
struct Chain {
    _processes: Vec<Child>,
    input: ChildStdin,
    output: ChildStdout,
    number: u64,
}

impl Chain {
    fn spawn(mode: &Mode) -> io::Result<Chain> {
        let mut processes: Vec<Child> = vec![];
        let mut input = None;
        let mut from: Option<ChildStdout> = None;
        for words in &mode.programs {
            let stdin = match from.take() {
                Some(output) => output.try_into()?,
                None => Stdio::piped(),
            };
            // Their complaints may quote what the speaker said, and a full pipe nobody reads would stop them.
            // A group of their own: Ctrl-C at a terminal is for us, and we end them.
            let mut process = Command::new(&words[0])
                .args(&words[1..])
                .stdin(stdin)
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .process_group(0)
                .kill_on_drop(true)
                .spawn()
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", words[0])))?;
            input = input.or_else(|| process.stdin.take());
            from = process.stdout.take();
            processes.push(process);
        }
        let lost = || io::Error::other("a mode without programs");
        Ok(Chain { _processes: processes, input: input.ok_or_else(lost)?, output: from.ok_or_else(lost)?, number: 0 })
    }

    /// Not to be cancelled and then used again: half an answer would stay in the pipe.
    async fn exchange(&mut self, text: &str) -> io::Result<String> {
        self.number += 1;
        let text = text.split(|c: char| c == '\0' || c.is_whitespace()).filter(|word| !word.is_empty());
        let text = text.collect::<Vec<_>>().join(" ");
        let ended = text.ends_with(['.', '?', '!']);
        let tag = format!("[{}]", self.number);
        // Without a full stop the tagger waits for more of the sentence and holds words back.
        let request = format!("{}{}{tag}\0", escape(&text), if ended { "" } else { "." });
        let (input, output) = (&mut self.input, &mut self.output);
        let ((), answer) = tokio::try_join!(send(input, request.as_bytes()), receive(output))?;
        let answer = String::from_utf8(answer).map_err(|_| io::Error::other("an answer that is not UTF-8"))?;
        let answer = answer.strip_suffix(&tag).ok_or_else(|| io::Error::other("an answer to another request"))?;
        Ok(clean(answer, ended))
    }
}

async fn send(input: &mut ChildStdin, request: &[u8]) -> io::Result<()> {
    input.write_all(request).await?;
    input.flush().await
}

async fn receive(output: &mut ChildStdout) -> io::Result<Vec<u8>> {
    let mut answer = Vec::with_capacity(1024);
    loop {
        let before = answer.len();
        if output.read_buf(&mut answer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match answer[before..].iter().position(|byte| *byte == 0) {
            Some(end) if before + end + 1 == answer.len() => {
                answer.pop();
                return Ok(answer);
            }
            Some(_) => return Err(io::Error::other("more than one answer")),
            None if answer.len() > MAX_ANSWER => return Err(io::Error::other("an answer without end")),
            None => {}
        }
    }
}

/// Characters with a meaning in Apertium's stream get a backslash. `~` would be swallowed even so: it wakes the
/// post-generator, which no text needs.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if c > '\u{FFFF}' {
            // lttoolbox stumbles over some of these; a format block travels through it untouched.
            escaped.push_str(&format!("[U+{:X}]", u32::from(c)));
            continue;
        }
        if matches!(c, '^' | '$' | '@' | '/' | '<' | '>' | '[' | ']' | '{' | '}' | '\\' | '~') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

/// Takes away the backslashes, format blocks, runs of spaces, and the full stop that the request added.
fn clean(answer: &str, ended: bool) -> String {
    let mut plain = String::with_capacity(answer.len());
    let mut chars = answer.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => plain.extend(chars.next()),
            '[' => {
                let block: String = chars.by_ref().take_while(|inside| *inside != ']').collect();
                let code = block.strip_prefix("U+").and_then(|code| u32::from_str_radix(code, 16).ok());
                plain.extend(code.and_then(char::from_u32));
            }
            _ => plain.push(c),
        }
    }
    let words = plain.split_whitespace().collect::<Vec<_>>().join(" ");
    match words.strip_suffix('.') {
        Some(without) if !ended => without.trim_end().to_owned(),
        _ => words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_file_becomes_programs_with_null_flush() {
        assert_eq!(
            program(" lt-proc $1 '/usr/share/x y.bin' "),
            Some(words(&["lt-proc", "-z", "-n", "/usr/share/x y.bin"]))
        );
        assert_eq!(program("apertium-tagger -g $2 'a.prob'"), Some(words(&["apertium-tagger", "-z", "-g", "a.prob"])));
        assert_eq!(program("  "), None);
        assert_eq!(program("lt-proc 'open"), None);
    }

    #[test]
    fn cleaning_undoes_escaping() {
        let hostile = r"a^b$ @c/d <e> [f] {g} \ h";
        assert_eq!(clean(&escape(hostile), true), hostile);
        assert_eq!(clean("uno  dos [ \n]tres.", false), "uno dos tres");
        assert_eq!(clean("fin .", false), "fin");
        assert_eq!(clean("fin.", true), "fin.");
        assert_eq!(clean("open [ block", true), "open");
        assert_eq!(clean("lonely \\", true), "lonely");
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }
}
