//! Speech by espeak-ng (GPL, so a child process and never linked): one process for each stretch of one manner.
//!
//! It reads SSML itself, but not as Polly means it: decibels are taken for a number, rate and pitch move less than
//! asked, and a pause behind a fast sentence lasts seconds. Its options do as they are told, so it gets plain text and
//! those, and pauses are made here.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::Semaphore;

use super::child;
use super::engine::{EngineError, Sound};
use super::ssml::{Manner, Speech};
use super::voices::{Gender, Voice};

const NAME: &str = "espeak-ng";
/// Processes at work at once; a sentence takes 20 to 50 ms.
const AT_ONCE: usize = 4;
/// Ten minutes of sound, the most that Polly makes of one text.
const MAX_SOUND: usize = 600 * RATE as usize * 2;
/// Samples a second of all its voices.
const RATE: u32 = 22_050;
/// Words a minute at the voice's own pace; 80 is the slowest it knows.
const PACE: f32 = 175.0;
/// Ten points of its pitch scale of 0 to 99 are this factor.
const PITCH_STEP: f32 = 1.1;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "snake_case")]
pub struct Settings {
    pub program: PathBuf,
    /// One text, in milliseconds, waiting for its turn included.
    pub timeout_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { program: PathBuf::from(NAME), timeout_ms: 10_000 }
    }
}

#[derive(Debug)]
pub(super) struct Espeak {
    program: PathBuf,
    timeout: Duration,
    /// Its own language codes: `en-us`, `cmn`.
    languages: BTreeSet<String>,
    turns: Semaphore,
}

impl Espeak {
    /// Asks the program which languages it has.
    pub async fn start(settings: &Settings) -> Result<Espeak, EngineError> {
        let timeout = Duration::from_millis(settings.timeout_ms);
        let listed = child::run(NAME, &settings.program, &["--voices"], b"", 1 << 20, timeout).await?;
        let listed = String::from_utf8_lossy(&listed);
        let codes = listed.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1));
        let languages = codes.map(str::to_owned).collect();
        Ok(Espeak { program: settings.program.clone(), timeout, languages, turns: Semaphore::new(AT_ONCE) })
    }

    pub fn speaks(&self, language: &str) -> bool {
        self.own_code(language).is_some()
    }

    fn own_code(&self, language: &str) -> Option<&str> {
        let wanted = match language {
            "arb" => "ar",
            "cmn-CN" => "cmn",
            "yue-CN" => "yue",
            "en-US" => "en-us",
            "es-MX" | "es-US" => "es-419",
            "fr-BE" => "fr-be",
            "pt-BR" => "pt-br",
            other if other.starts_with("en-") => "en-gb",
            other if other.starts_with("fr-") => "fr-fr",
            other => other.split('-').next().unwrap_or(other),
        };
        self.languages.get(wanted).map(String::as_str)
    }

    pub async fn speak(&self, voice: &Voice, language: &str, speech: &Speech) -> Result<Sound, EngineError> {
        let code = self.own_code(language).ok_or_else(|| failed("no such language"))?;
        // Of its variants those that the recogniser here understands best.
        let variant = match voice.gender {
            Gender::Female => "f2",
            Gender::Male => "m5",
        };
        let name = format!("{code}+{variant}");
        let spoken = async {
            let _turn = self.turns.acquire().await.map_err(|_| failed("stopped"))?;
            let mut samples = Vec::new();
            for span in &speech.spans {
                if !span.text.trim().is_empty() {
                    samples.append(&mut self.span(&name, &span.text, span.manner).await?);
                }
                let pause = u64::from(span.pause_ms) * u64::from(RATE) / 1_000;
                samples.resize(samples.len() + pause as usize, 0);
            }
            Ok(Sound { rate: RATE, samples })
        };
        tokio::time::timeout(self.timeout, spoken).await.unwrap_or(Err(EngineError::TimedOut(NAME)))
    }

    async fn span(&self, voice: &str, text: &str, manner: Manner) -> Result<Vec<i16>, EngineError> {
        let Options { pace, volume, pitch } = Options::of(manner);
        // By standard input: a command line can be read by everyone on the machine.
        let form = ["-b", "1", "--stdin", "--stdout", "-v", voice, "-s", &pace, "-a", &volume, "-p", &pitch];
        let text = without_phonemes(text);
        let wav = child::run(NAME, &self.program, &form, text.as_bytes(), MAX_SOUND, self.timeout).await?;
        samples(&wav).ok_or_else(|| failed("not a WAV of 16 bits, one channel and 22,050 Hz"))
    }
}

fn failed(why: &str) -> EngineError {
    EngineError::Failed { program: NAME, why: why.to_owned() }
}

/// A manner in the program's own numbers.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    pace: String,
    volume: String,
    pitch: String,
}

impl Options {
    fn of(manner: Manner) -> Options {
        let ratio = (1.0 + manner.pitch_percent / 100.0).max(0.1);
        Options {
            pace: format!("{:.0}", (PACE * manner.rate).clamp(80.0, 450.0)),
            // 200 is as loud as it gets, about 6 dB.
            volume: format!("{:.0}", (100.0 * 10_f32.powf(manner.volume_db / 20.0)).clamp(0.0, 200.0)),
            pitch: format!("{:.0}", (50.0 + 10.0 * ratio.log(PITCH_STEP)).clamp(0.0, 99.0)),
        }
    }
}

/// What stands in double brackets it would take for phonemes.
fn without_phonemes(text: &str) -> String {
    text.replace('[', " [ ").chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The samples of a WAV whose sizes are not known at its head: everything behind `data` and its size.
fn samples(wav: &[u8]) -> Option<Vec<i16>> {
    let number = |at: usize, length: usize| {
        let bytes = wav.get(at..at + length)?;
        Some(bytes.iter().rev().fold(0_u32, |number, byte| number << 8 | u32::from(*byte)))
    };
    if wav.get(..4)? != b"RIFF" || wav.get(8..12)? != b"WAVE" {
        return None;
    }
    let (mut at, mut known) = (12, false);
    loop {
        let (kind, length) = (wav.get(at..at + 4)?, number(at + 4, 4)?);
        at += 8;
        match kind {
            b"fmt " => {
                let form = (number(at, 2)?, number(at + 2, 2)?, number(at + 4, 4)?, number(at + 14, 2)?);
                known = form == (1, 1, RATE, 16);
            }
            b"data" => {
                let samples = wav[at..].chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]]));
                return known.then(|| samples.collect());
            }
            _ => {}
        }
        at = at.checked_add(usize::try_from(length).ok()?)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manner_becomes_the_programs_own_numbers() {
        let options = |rate, volume_db, pitch_percent| {
            let Options { pace, volume, pitch } = Options::of(Manner { rate, volume_db, pitch_percent });
            [pace, volume, pitch]
        };
        assert_eq!(options(1.0, 0.0, 0.0), ["175", "100", "50"]);
        assert_eq!(options(1.2, 6.0, 10.0), ["210", "200", "60"]);
        assert_eq!(options(0.2, f32::NEG_INFINITY, -100.0), ["80", "0", "0"]);
        assert_eq!(options(20.0, 99.0, 900.0), ["450", "200", "99"]);
    }

    #[test]
    fn text_is_no_phonemes_and_no_control_codes() {
        assert_eq!(without_phonemes("a[[h@loU]]\u{1b}b"), "a [  [ h@loU]] b");
    }

    #[test]
    fn what_is_no_wav_is_no_sound() {
        let mut wav =
            b"RIFF\xff\xff\xff\x7fWAVEfmt \x10\0\0\0\x01\0\x01\0\x22\x56\0\0\x44\xac\0\0\x02\0\x10\0".to_vec();
        wav.extend(b"data\xff\xff\xff\x7f");
        wav.extend([1, 0, 255, 255, 9]);
        assert_eq!(samples(&wav), Some(vec![1, -1]));
        for length in 0..44 {
            assert_eq!(samples(&wav[..length]), None, "{length}");
        }
    }
}
