//! `babelcast listen`: a listener in a terminal.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::time::SystemTime;

use babelcast_domain::ids::{AccessCode, NotAnAccessCode, SessionId};
use babelcast_domain::time::UnixMs;
use babelcast_domain::wire::{Caption, CaptionMode, Envelope, GapReason, ServerMessage};
use url::Url;

use super::client::{ClientError, Following, Sight, Wish};
use crate::web::Token;

/// Follow a session's captions
#[derive(Debug, Clone, clap::Args)]
pub struct ListenArgs {
    /// The session, such as `blessed-covenant-420`
    pub session: String,
    /// Where babelcast runs
    #[arg(long, env = "BABELCAST_URL", default_value = "http://127.0.0.1:8080")]
    pub url: Url,
    /// The language to read, such as `es`; without it, the one that is spoken
    #[arg(long)]
    pub to: Option<String>,
    /// How much of the growing text to show: raw, stable or final
    #[arg(long, default_value = "stable", value_parser = caption_mode)]
    pub captions: CaptionMode,
    /// Print every message as one line of JSON
    #[arg(long)]
    pub json: bool,
    /// A speaker's token; a listener needs none
    #[arg(long, env = "BABELCAST_TOKEN", hide_env_values = true)]
    pub token: Option<Token>,
    /// What the speaker has told listeners, where the session asks for it
    #[arg(long, value_name = "CODE", env = "BABELCAST_ACCESS_CODE", hide_env_values = true, value_parser = access_code)]
    pub access_code: Option<AccessCode>,
}

fn access_code(text: &str) -> Result<AccessCode, NotAnAccessCode> {
    AccessCode::parse(text)
}

/// Why listening ended early.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("`{0}` is not a session id such as `blessed-covenant-420`")]
    NotASession(String),
    #[error("cannot print: {0}")]
    Print(#[from] io::Error),
}

/// Prints captions until the session ends or Ctrl-C. Captions go to stdout, everything about them to stderr.
pub async fn run(args: ListenArgs) -> Result<(), ListenError> {
    let session = SessionId::parse(&args.session).map_err(|_| ListenError::NotASession(args.session.clone()))?;
    let mut following = Following::new(Wish {
        url: args.url,
        session,
        target_language: args.to,
        captions: args.captions,
        token: args.token.filter(|token| !token.reveal().is_empty()),
        access_code: args.access_code,
        resume: None,
    });
    let stdout = io::stdout();
    let style = match (args.json, stdout.is_terminal()) {
        (true, _) => Style::Json,
        (false, true) => Style::Terminal,
        (false, false) => Style::Plain,
    };
    let mut screen = Screen::new(stdout, io::stderr(), style);
    loop {
        let sight = tokio::select! {
            sight = following.next() => sight?,
            _ = tokio::signal::ctrl_c() => break,
        };
        match screen.show(&sight, wall()) {
            Ok(Shown::More) => {}
            Ok(Shown::Last) => break,
            // `| head` has had enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            Err(error) => return Err(error.into()),
        }
    }
    following.close().await;
    Ok(())
}

fn caption_mode(text: &str) -> Result<CaptionMode, String> {
    match text {
        "raw" => Ok(CaptionMode::Raw),
        "stable" => Ok(CaptionMode::Stable),
        "final" => Ok(CaptionMode::Final),
        _ => Err("one of raw, stable, final".into()),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    /// One line grows and is rewritten until it is final.
    Terminal,
    /// A line a finished sentence.
    Plain,
    /// A line a message.
    Json,
}

#[derive(Debug, PartialEq, Eq)]
enum Shown {
    More,
    Last,
}

/// How many finished sentences are remembered, so that a history after a cut repeats none of them.
const REMEMBERED: usize = 256;

struct Screen<Out, Notes> {
    out: Out,
    notes: Notes,
    style: Style,
    /// Whether an unfinished line stands on the terminal.
    open: bool,
    finished: VecDeque<String>,
}

impl<Out: Write, Notes: Write> Screen<Out, Notes> {
    fn new(out: Out, notes: Notes, style: Style) -> Self {
        Screen { out, notes, style, open: false, finished: VecDeque::new() }
    }

    fn show(&mut self, sight: &Sight, now: UnixMs) -> io::Result<Shown> {
        match sight {
            Sight::Message(envelope) => self.message(envelope, now),
            Sight::Missed(count) => self.note(&format!("{count} sentences or events were lost on the way")),
            Sight::Cut { why, wait } => self.note(&format!("{why}; trying again in {:.1} s", wait.as_secs_f32())),
        }
    }

    fn message(&mut self, envelope: &Envelope, now: UnixMs) -> io::Result<Shown> {
        if self.style == Style::Json {
            writeln!(self.out, "{}", serde_json::to_string(envelope)?)?;
            self.out.flush()?;
        }
        match &envelope.message {
            ServerMessage::SessionJoined(joined) => {
                let state = if joined.speaker_kvs_connected { "the speaker is on" } else { "waiting for the speaker" };
                let id = envelope.session_id.as_ref().map_or("-", SessionId::as_str);
                self.note(&format!("joined {id} in {}, {state}", joined.target_language))?;
                self.history(&joined.history)
            }
            ServerMessage::LanguageChanged { target_language, history, .. } => {
                self.note(&format!("the language is {target_language} now"))?;
                self.history(history)
            }
            ServerMessage::Transcription(caption) if caption.is_final => self.finish(caption, Some(now)),
            ServerMessage::Transcription(caption) => self.grow(caption),
            ServerMessage::SpeakerKvsReady => self.note("the speaker is on"),
            ServerMessage::SpeakerKvsDisconnected { reason } => {
                self.note(&format!("the speaker is away ({})", clean(reason)))
            }
            ServerMessage::Gap { from_ms, to_ms, reason } => {
                let seconds = to_ms.saturating_sub(*from_ms) as f64 / 1_000.0;
                self.note(&format!("{seconds:.1} s are missing: {}", why(*reason)))
            }
            ServerMessage::GoAway { .. } => self.note("the server is restarting"),
            ServerMessage::Error { message, .. } => self.note(&clean(message)),
            ServerMessage::SessionEnded { .. } => {
                self.note("the session is over")?;
                Ok(Shown::Last)
            }
            ServerMessage::BroadcastState(state) if state.paused => self.note("the speaker has paused"),
            ServerMessage::BroadcastState(_)
            | ServerMessage::SessionStatus(_)
            | ServerMessage::SessionCreated { .. }
            | ServerMessage::ListenerStats { .. }
            | ServerMessage::AudioQuality(_)
            | ServerMessage::Emotion { .. }
            | ServerMessage::Reauthenticate { .. }
            | ServerMessage::Authenticated { .. }
            | ServerMessage::Pong => Ok(Shown::More),
        }
    }

    fn history(&mut self, history: &[Caption]) -> io::Result<Shown> {
        for caption in history {
            self.finish(caption, None)?;
        }
        Ok(Shown::More)
    }

    /// A finished sentence; `now` is absent for one out of the history, which has no lag worth telling.
    fn finish(&mut self, caption: &Caption, now: Option<UnixMs>) -> io::Result<Shown> {
        if self.style == Style::Json || self.finished.contains(&caption.segment_id) {
            return Ok(Shown::More);
        }
        if self.finished.len() == REMEMBERED {
            self.finished.pop_front();
        }
        self.finished.push_back(caption.segment_id.clone());
        let lag = now.zip(caption.heard_at).map(|(now, heard)| now.0.saturating_sub(heard.0) as f64 / 1_000.0);
        let lag = lag.map(|lag| format!(" +{lag:.1}s")).unwrap_or_default();
        let mark = if caption.untranslated { " (not translated)" } else { "" };
        self.wipe()?;
        writeln!(self.out, "[{}{lag}]{mark} {}", caption.language, clean(&caption.text))?;
        self.out.flush()?;
        Ok(Shown::More)
    }

    /// An unfinished sentence: its end, as far as the terminal is wide.
    fn grow(&mut self, caption: &Caption) -> io::Result<Shown> {
        if self.style == Style::Terminal && !self.finished.contains(&caption.segment_id) {
            let width = terminal_size::terminal_size().map_or(80, |(width, _)| usize::from(width.0));
            let line = format!("[{}] {}", caption.language, clean(&caption.text));
            write!(self.out, "\r\x1b[2K{}", tail(&line, width.saturating_sub(1)))?;
            self.out.flush()?;
            self.open = true;
        }
        Ok(Shown::More)
    }

    fn note(&mut self, text: &str) -> io::Result<Shown> {
        self.wipe()?;
        writeln!(self.notes, "-- {text}")?;
        Ok(Shown::More)
    }

    fn wipe(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.open) {
            write!(self.out, "\r\x1b[2K")?;
            self.out.flush()?;
        }
        Ok(())
    }
}

fn why(reason: GapReason) -> &'static str {
    match reason {
        GapReason::TranscriptionRestarted => "the recogniser was restarted",
        GapReason::AudioLost => "the sound did not arrive",
        GapReason::SlowConnection => "this connection is too slow",
        GapReason::SpeakerAway => "the speaker was away",
    }
}

/// What comes over the network may not steer the terminal.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The end of a line that fits into `width` columns; wide scripts are taken as two columns a character.
fn tail(line: &str, width: usize) -> &str {
    let mut left = width;
    for (at, c) in line.char_indices().rev() {
        let columns = if c >= '\u{1100}' { 2 } else { 1 };
        if columns > left {
            return &line[at + c.len_utf8()..];
        }
        left -= columns;
    }
    line
}

fn wall() -> UnixMs {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixMs(since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn caption(segment: &str, text: &str, is_final: bool) -> Sight {
        let envelope = json!({
            "type": "transcription", "sessionId": "calm-river-7", "timestamp": 5_000, "segmentId": segment, "revision": 1,
            "isFinal": is_final, "language": "es", "text": text, "stableChars": 0, "startMs": 0, "endMs": 1,
            "heardAt": 3_800,
        });
        Sight::Message(serde_json::from_value(envelope).unwrap())
    }

    fn shown(style: Style, sights: &[Sight]) -> (String, String) {
        let (mut out, mut notes) = (Vec::new(), Vec::new());
        let mut screen = Screen::new(&mut out, &mut notes, style);
        for sight in sights {
            screen.show(sight, UnixMs(5_000)).unwrap();
        }
        (String::from_utf8(out).unwrap(), String::from_utf8(notes).unwrap())
    }

    #[test]
    fn a_pipe_gets_finished_sentences_with_their_lag() {
        let sights = [caption("s1", "Ho", false), caption("s1", "Hola.", true), caption("s1", "Hola.", true)];
        assert_eq!(shown(Style::Plain, &sights).0, "[es +1.2s] Hola.\n");
    }

    #[test]
    fn a_terminal_sees_the_sentence_grow_in_place() {
        let sights = [caption("s1", "Ho", false), caption("s1", "Hola.", true), caption("s1", "late", false)];
        let (out, _) = shown(Style::Terminal, &sights);
        assert_eq!(out, "\r\x1b[2K[es] Ho\r\x1b[2K[es +1.2s] Hola.\n");
    }

    #[test]
    fn text_from_the_network_cannot_steer_the_terminal() {
        let (out, _) = shown(Style::Plain, &[caption("s1", "a\x1b[2Jb\r\nc\u{9b}d", true)]);
        assert_eq!(out, "[es +1.2s] a [2Jb  c d\n");
    }

    #[test]
    fn json_is_the_message_as_it_came() {
        let (out, _) = shown(Style::Json, &[caption("s1", "Hola.", true)]);
        let value: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!((&value["type"], &value["text"]), (&json!("transcription"), &json!("Hola.")));
    }

    #[test]
    fn what_is_lost_is_told() {
        let gap = json!({ "type": "gap", "timestamp": 1, "fromMs": 1_000, "toMs": 3_500, "reason": "audioLost" });
        let sights = [Sight::Missed(2), Sight::Message(serde_json::from_value(gap).unwrap())];
        let (_, notes) = shown(Style::Plain, &sights);
        assert_eq!(
            notes,
            "-- 2 sentences or events were lost on the way\n-- 2.5 s are missing: the sound did not arrive\n"
        );
    }

    #[test]
    fn a_long_line_shows_its_end_in_whole_characters() {
        assert_eq!(tail("hello", 5), "hello");
        assert_eq!(tail("hello", 3), "llo");
        assert_eq!(tail("año", 2), "ño");
        assert_eq!(tail("日本語", 5), "本語");
        assert_eq!(tail("x", 0), "");
    }

    #[test]
    fn arguments_are_read_as_written() {
        use clap::Parser;
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            listen: ListenArgs,
        }
        let line = ["babelcast", "calm-river-7", "--url", "https://x.example", "--to", "ca", "--captions", "raw"];
        let listen = Line::try_parse_from(line).unwrap().listen;
        assert_eq!((listen.session.as_str(), listen.captions), ("calm-river-7", CaptionMode::Raw));
        assert!(Line::try_parse_from(["babelcast", "calm-river-7", "--captions", "loud"]).is_err());
    }
}
