//! A transcript as a file: JSON, plain text, SubRip (`.srt`) and WebVTT (`.vtt`).
//!
//! Subtitles follow what broadcasters agree on: at most two rows of 42 columns at a time (a wide East Asian character
//! takes two), broken where the script allows it (UAX #14), and never two cues at once. A longer line becomes several
//! cues that share its time by their length. Text is written in logical order: players do the rest for Arabic and
//! Hebrew. Deliberately absent: positions, colours and speakers' names.

use std::fmt::Write;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ids::SessionId;
use crate::language::Language;
use crate::line::Line;
use crate::track::segment_id;
use crate::wire::{TranscriptLine, TranscriptView};

/// Columns of a row, and rows of a cue.
const COLUMNS: usize = 42;
const ROWS: usize = 2;
/// A cue is never shorter: players drop cues that end where they begin.
const SHORTEST_MS: u64 = 200;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    #[default]
    Json,
    Txt,
    Srt,
    Vtt,
}

impl Format {
    pub const ALL: [Format; 4] = [Format::Json, Format::Txt, Format::Srt, Format::Vtt];

    /// The name in a query, and of a file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Format::Json => "json",
            Format::Txt => "txt",
            Format::Srt => "srt",
            Format::Vtt => "vtt",
        }
    }

    pub fn parse(text: &str) -> Option<Format> {
        Format::ALL.into_iter().find(|format| format.as_str() == text)
    }

    pub const fn media_type(self) -> &'static str {
        match self {
            Format::Json => "application/json",
            Format::Txt => "text/plain; charset=utf-8",
            Format::Srt => "application/x-subrip; charset=utf-8",
            Format::Vtt => "text/vtt; charset=utf-8",
        }
    }

    /// Whether it is something to keep on a disk rather than to show.
    pub const fn is_file(self) -> bool {
        !matches!(self, Format::Json)
    }

    /// Renders lines of one language, which come in the order of speech. Without any it is an empty document of its kind.
    pub fn render(self, session: &SessionId, source: &Language, language: &Language, lines: &[Line]) -> String {
        match self {
            Format::Json => json(session, source, language, lines),
            Format::Txt => txt(lines),
            Format::Srt => srt(&cues(lines)),
            Format::Vtt => vtt(&cues(lines)),
        }
    }
}

/// What is on the screen from one time to another.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Cue {
    start_ms: u64,
    end_ms: u64,
    rows: Vec<String>,
}

fn json(session: &SessionId, source: &Language, language: &Language, lines: &[Line]) -> String {
    let view = TranscriptView {
        session_id: session.clone(),
        language: language.clone(),
        source_language: source.clone(),
        lines: lines
            .iter()
            .map(|line| TranscriptLine {
                segment_id: segment_id(line.segment),
                start_ms: line.start_ms,
                end_ms: line.end_ms,
                text: line.text.clone(),
                untranslated: line.untranslated,
            })
            .collect(),
    };
    serde_json::to_string(&view).expect("our own shapes are always JSON")
}

/// A paragraph a line.
fn txt(lines: &[Line]) -> String {
    let mut text = String::new();
    for plain in lines.iter().map(|line| plain(&line.text)).filter(|plain| !plain.is_empty()) {
        text.push_str(&plain);
        text.push('\n');
    }
    text
}

/// Rows end with CR LF, as SubRip itself writes them.
fn srt(cues: &[Cue]) -> String {
    let mut text = String::new();
    for (number, cue) in cues.iter().enumerate() {
        let (start, end) = (clock(cue.start_ms, ','), clock(cue.end_ms, ','));
        let _ = write!(text, "{}\r\n{start} --> {end}\r\n", number + 1);
        for row in &cue.rows {
            // The format has no escapes, and a parser may take an arrow for a time line.
            text.push_str(&row.replace("-->", "→"));
            text.push_str("\r\n");
        }
        text.push_str("\r\n");
    }
    text
}

fn vtt(cues: &[Cue]) -> String {
    let mut text = String::from("WEBVTT\n\n");
    for cue in cues {
        let (start, end) = (clock(cue.start_ms, '.'), clock(cue.end_ms, '.'));
        let _ = writeln!(text, "{start} --> {end}");
        for row in &cue.rows {
            text.push_str(&row.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;"));
            text.push('\n');
        }
        text.push('\n');
    }
    text
}

fn clock(ms: u64, mark: char) -> String {
    let (seconds, rest) = (ms / 1_000, ms % 1_000);
    format!("{:02}:{:02}:{:02}{mark}{rest:03}", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

/// One row of words: no control characters, no line breaks, single spaces.
fn plain(text: &str) -> String {
    let spaced: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    spaced.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Cues in order, none beginning before the one before it has ended.
fn cues(lines: &[Line]) -> Vec<Cue> {
    let mut cues: Vec<Cue> = Vec::new();
    let mut free_from = 0;
    for line in lines {
        let text = plain(&line.text);
        let rows = textwrap::wrap(&text, COLUMNS);
        let rows: Vec<&str> = rows.iter().map(|row| row.trim()).filter(|row| !row.is_empty()).collect();
        let pages: Vec<&[&str]> = rows.chunks(ROWS).collect();
        let start = line.start_ms.max(free_from);
        let end = line.end_ms.max(start + SHORTEST_MS * pages.len() as u64);
        let sizes: Vec<u64> =
            pages.iter().map(|page| page.iter().map(|row| row.chars().count() as u64).sum()).collect();
        let (mut size_left, mut from) = (sizes.iter().sum::<u64>(), start);
        for (index, page) in pages.iter().enumerate() {
            let pages_after = (pages.len() - index - 1) as u64;
            let share = (end - from) * sizes[index] / size_left.max(1);
            let latest = end - SHORTEST_MS * pages_after;
            let until = if pages_after == 0 { end } else { (from + share.max(SHORTEST_MS)).min(latest) };
            cues.push(Cue { start_ms: from, end_ms: until, rows: page.iter().map(|row| (*row).to_owned()).collect() });
            (size_left, from) = (size_left - sizes[index], until);
        }
        if !pages.is_empty() {
            free_from = end;
        }
    }
    cues
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use subtp::srt::{SrtTimestamp, SubRip};
    use subtp::vtt::{VttBlock, VttTimestamp, WebVtt};

    use super::*;

    fn line(segment: u64, start_ms: u64, end_ms: u64, text: &str) -> Line {
        let language = Language::parse("es").unwrap();
        Line { segment, language, text: text.into(), start_ms, end_ms, untranslated: false }
    }

    fn render(format: Format, lines: &[Line]) -> String {
        let (source, language) = (Language::parse("en").unwrap(), Language::parse("es").unwrap());
        format.render(&SessionId::parse("calm-river-7").unwrap(), &source, &language, lines)
    }

    fn ms(hours: u16, minutes: u16, seconds: u16, milliseconds: u16) -> u64 {
        ((u64::from(hours) * 60 + u64::from(minutes)) * 60 + u64::from(seconds)) * 1_000 + u64::from(milliseconds)
    }

    /// What somebody else's parser reads: start, end, rows.
    fn read_srt(text: &str) -> Vec<(u64, u64, Vec<String>)> {
        if text.is_empty() {
            return Vec::new(); // that parser wants a cue; an empty file has none
        }
        let at = |t: &SrtTimestamp| ms(t.hours.into(), t.minutes.into(), t.seconds.into(), t.milliseconds);
        let parsed = SubRip::parse(text).unwrap();
        for (index, cue) in parsed.subtitles.iter().enumerate() {
            assert_eq!(cue.sequence as usize, index + 1);
        }
        parsed.subtitles.into_iter().map(|cue| (at(&cue.start), at(&cue.end), cue.text)).collect()
    }

    fn read_vtt(text: &str) -> Vec<(u64, u64, Vec<String>)> {
        let at = |t: &VttTimestamp| ms(t.hours.into(), t.minutes.into(), t.seconds.into(), t.milliseconds);
        let shown = |row: &String| row.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
        let cue = |block| match block {
            VttBlock::Que(cue) => {
                Some((at(&cue.timings.start), at(&cue.timings.end), cue.payload.iter().map(shown).collect()))
            }
            _ => None,
        };
        WebVtt::parse(text).unwrap().blocks.into_iter().filter_map(cue).collect()
    }

    #[test]
    fn a_subrip_file_is_what_the_format_says() {
        let lines = [line(0, 1_500, 3_000, "Hola."), line(1, 3_600_000, 3_723_456, "a --> b < c & d")];
        let expected = "1\r\n00:00:01,500 --> 00:00:03,000\r\nHola.\r\n\r\n\
                        2\r\n01:00:00,000 --> 01:02:03,456\r\na → b < c & d\r\n\r\n";
        assert_eq!(render(Format::Srt, &lines), expected);
    }

    #[test]
    fn a_webvtt_file_is_what_the_format_says() {
        let lines = [line(0, 1_500, 3_000, "Hola."), line(1, 3_600_000, 3_723_456, "a --> b <i> c & d")];
        let expected = "WEBVTT\n\n00:00:01.500 --> 00:00:03.000\nHola.\n\n\
                        01:00:00.000 --> 01:02:03.456\na --&gt; b &lt;i&gt; c &amp; d\n\n";
        assert_eq!(render(Format::Vtt, &lines), expected);
    }

    #[test]
    fn json_and_text_hold_every_line() {
        let lines = [line(0, 1, 2, "Uno\ndos."), Line { untranslated: true, ..line(7, 3, 4, "three") }];
        assert_eq!(render(Format::Txt, &lines), "Uno dos.\nthree\n");
        let json: serde_json::Value = serde_json::from_str(&render(Format::Json, &lines)).unwrap();
        assert_eq!(
            json,
            serde_json::json!({ "sessionId": "calm-river-7", "language": "es", "sourceLanguage": "en", "lines": [
                { "segmentId": "s000000", "startMs": 1, "endMs": 2, "text": "Uno\ndos." },
                { "segmentId": "s000007", "startMs": 3, "endMs": 4, "text": "three", "untranslated": true },
            ]})
        );
    }

    #[test]
    fn nothing_said_is_an_empty_document_of_its_kind() {
        for lines in [vec![], vec![line(0, 0, 10, " \n ")]] {
            assert_eq!(render(Format::Srt, &lines), "");
            assert_eq!(render(Format::Vtt, &lines), "WEBVTT\n\n");
            assert_eq!(render(Format::Txt, &lines), "");
        }
        assert!(read_vtt("WEBVTT\n\n").is_empty());
        assert!(render(Format::Json, &[]).ends_with("\"lines\":[]}"));
    }

    #[test]
    fn a_long_line_is_shown_two_rows_at_a_time_and_shares_its_time_by_length() {
        let text = "The earliest book printed with movable types, the Gutenberg, or forty-two line Bible of about \
                    fourteen fifty-five, has never been surpassed.";
        let read = read_srt(&render(Format::Srt, &[line(0, 1_000, 11_000, text)]));
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].0, read[1].1), (1_000, 11_000));
        assert_eq!(read[0].1, read[1].0);
        assert!((5_000..8_000).contains(&read[0].1), "{read:?}");
        let words: Vec<String> = read.into_iter().flat_map(|cue| cue.2).collect();
        assert_eq!(words.join(" "), text);
    }

    #[test]
    fn scripts_without_spaces_and_from_right_to_left_keep_their_characters() {
        let japanese =
            "これはとても長い文章なので、画面の一行には収まりません。ですから、どこかで改行しなければならないのです。";
        let arabic = "مرحبا بكم في هذا البث المباشر، نتحدث اليوم عن الكتاب والكلمة والترجمة الفورية.";
        for text in [japanese, arabic] {
            let read = read_vtt(&render(Format::Vtt, &[line(0, 0, 6_000, text)]));
            let rows: Vec<String> = read.into_iter().flat_map(|cue| cue.2).collect();
            assert!(rows.len() > 1);
            assert!(rows.iter().all(|row| textwrap::core::display_width(row) <= COLUMNS), "{rows:?}");
            let squeezed = |text: &str| text.replace(' ', "");
            assert_eq!(squeezed(&rows.concat()), squeezed(text));
            assert!(!rows.iter().any(|row| row.starts_with(['。', '、', '،'])), "a mark begins no row: {rows:?}");
        }
    }

    #[test]
    fn lines_that_overlap_are_shown_one_after_the_other() {
        let lines = [line(0, 0, 2_000, "one"), line(1, 1_500, 3_000, "two"), line(2, 3_000, 3_000, "three")];
        let read = read_srt(&render(Format::Srt, &lines));
        let times: Vec<_> = read.iter().map(|cue| (cue.0, cue.1)).collect();
        assert_eq!(times, [(0, 2_000), (2_000, 3_000), (3_000, 3_200)]);
    }

    fn said() -> impl Strategy<Value = Vec<Line>> {
        let word = prop_oneof![
            "[a-zé]{1,12}",
            "[A-Z]?[a-z]{1,7}[,.!?]?",
            "[ぁ-ん一-鿋]{1,30}",
            "[ا-ي]{1,10}",
            Just("-->".to_owned()),
            Just("<b>&amp;".to_owned()),
            Just("\r\n\u{0}\u{2028}".to_owned()),
            "[a-z]{50,90}",
        ];
        let text = prop::collection::vec(word, 0..30).prop_map(|words| words.join(" "));
        prop::collection::vec((0u64..4_000, 0u64..20_000, text), 0..12).prop_map(|lines| {
            let mut at = 0;
            let mut line_of = |(index, (gap, length, text)): (usize, (u64, u64, String))| {
                at += gap;
                line(index as u64, at, at + length, &text)
            };
            lines.into_iter().enumerate().map(&mut line_of).collect()
        })
    }

    proptest! {
        #[test]
        fn any_transcript_is_read_back_whole_by_somebody_elses_parser(lines in said()) {
            let letters = |text: String| text.chars().filter(|c| c.is_alphanumeric()).collect::<String>();
            let spoken = letters(lines.iter().map(|line| line.text.clone()).collect());
            for cues in [read_srt(&render(Format::Srt, &lines)), read_vtt(&render(Format::Vtt, &lines))] {
                let mut last_end = 0;
                for (start, end, rows) in &cues {
                    prop_assert!(*start >= last_end && end > start);
                    prop_assert!((1..=ROWS).contains(&rows.len()));
                    prop_assert!(rows.iter().all(|row| textwrap::core::display_width(row) <= COLUMNS), "{rows:?}");
                    last_end = *end;
                }
                let shown: String = cues.into_iter().flat_map(|(_, _, rows)| rows).collect();
                prop_assert_eq!(letters(shown), spoken.clone());
            }
        }
    }
}
