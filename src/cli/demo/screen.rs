//! The terminal: lines that stay, and a panel at the bottom that is redrawn. Without a terminal only the lines.

use std::io::{self, IsTerminal, Write};

/// Widest line drawn when the terminal does not say how wide it is.
const WIDTH: usize = 100;

pub struct Screen {
    live: bool,
    width: usize,
    drawn: usize,
}

impl Screen {
    pub fn new() -> Self {
        let live = io::stdout().is_terminal();
        let width = terminal_size::terminal_size().map_or(WIDTH, |(width, _)| usize::from(width.0).max(40));
        Screen { live, width, drawn: 0 }
    }

    /// Whether somebody watches: partials are worth drawing.
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// A line that stays.
    pub fn say(&mut self, line: &str) {
        let mut out = io::stdout().lock();
        self.wipe(&mut out);
        // A pipe that was closed early (`| head`) ends the demo by its own exit code, not by a panic.
        writeln!(out, "{line}").ok();
        out.flush().ok();
    }

    /// A line that stays: a dim head of fixed width and a text that is wrapped under itself, not under the head.
    pub fn say_under(&mut self, head: &str, text: &str) {
        let indent = head.chars().count() + 2;
        if !self.live || self.width < indent + 20 {
            self.say(&format!("{head}  {text}"));
            return;
        }
        let mut head = self.dim(head);
        for line in wrap(text, self.width - indent) {
            self.say(&format!("{head}  {line}"));
            head = " ".repeat(indent - 2);
        }
    }

    /// Draws the panel anew; does nothing without a terminal.
    pub fn panel(&mut self, lines: &[String]) {
        if !self.live {
            return;
        }
        let mut out = io::stdout().lock();
        self.wipe(&mut out);
        for line in lines {
            writeln!(out, "{}", clip(line, self.width - 1)).ok();
        }
        out.flush().ok();
        self.drawn = lines.len();
    }

    /// Takes the panel away.
    pub fn clear(&mut self) {
        let mut out = io::stdout().lock();
        self.wipe(&mut out);
        out.flush().ok();
    }

    fn wipe(&mut self, out: &mut impl Write) {
        if self.drawn > 0 {
            write!(out, "\x1b[{}A\x1b[J", self.drawn).ok();
            self.drawn = 0;
        }
    }

    pub fn dim(&self, text: &str) -> String {
        if self.live { format!("\x1b[2m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub fn bold(&self, text: &str) -> String {
        if self.live { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// The end of a text that grows at its end, as far as it fits into the panel.
    pub fn tail<'a>(&self, text: &'a str, before: usize) -> &'a str {
        let room = self.width.saturating_sub(before + 2).max(10);
        let length = text.chars().count();
        match text.char_indices().nth(length.saturating_sub(room)) {
            Some((at, _)) => &text[at..],
            None => text,
        }
    }
}

/// Breaks a text between words into lines of at most `width` characters; a longer word has a line of its own.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last().map_or(0, |line| line.chars().count());
        if line > 0 && line + 1 + word.chars().count() > width {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

/// Cuts a line to a number of visible characters; escape sequences take no room.
fn clip(line: &str, width: usize) -> String {
    let (mut clipped, mut seen, mut escape) = (String::new(), 0, false);
    for c in line.chars() {
        if c == '\x1b' {
            escape = true;
        }
        if escape || seen < width {
            clipped.push(c);
        }
        if !escape {
            seen += 1;
        }
        if escape && c.is_ascii_alphabetic() {
            escape = false;
        }
    }
    clipped
}

/// A level meter of 24 cells for -60..0 dBFS.
pub fn meter(rms_db: f32, peak_db: f32) -> String {
    let cell = |db: f32| (((db + 60.0) / 60.0).clamp(0.0, 1.0) * 24.0).round() as usize;
    let (level, peak) = (cell(rms_db), cell(peak_db));
    let draw = |n: usize| match n {
        n if n < level => '█',
        n if n + 1 == peak => '│',
        _ => '·',
    };
    (0..24).map(draw).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clipped_line_keeps_its_colours_and_loses_its_length() {
        assert_eq!(clip("\x1b[2mabcdef\x1b[0m", 3), "\x1b[2mabc\x1b[0m");
    }

    #[test]
    fn a_long_text_is_broken_between_words() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("incomprehensibly long", 5), ["incomprehensibly", "long"]);
        assert_eq!(wrap("", 5), [""]);
    }

    #[test]
    fn the_meter_spans_sixty_decibels() {
        assert_eq!(meter(-90.0, -90.0), "·".repeat(24));
        assert_eq!(meter(0.0, 0.0), "█".repeat(24));
        assert_eq!(meter(-30.0, -15.0).chars().filter(|c| *c == '█').count(), 12);
    }
}
