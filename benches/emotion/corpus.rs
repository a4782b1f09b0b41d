//! The labelled recordings: whose voice, which feeling, and the way from the file to a measure, clean or over a bad line.
//!
//! File names tell everything. Emo-DB: `03a01Wa.wav` is speaker 03, sentence a01, W for anger. RAVDESS:
//! `03-01-05-01-02-01-12.wav` has the feeling in the third place and the actor in the last. A prefix `emodb-` or `rav-` is
//! taken off.

use std::path::{Path, PathBuf};
use std::time::Duration;

use babelcast::media::opus::{Decoder, Encoder};
use babelcast::media::order::{InOrder, Packet};
use babelcast::media::wav::Recording;
use babelcast_domain::audio::{MediaTime, Origin, PcmFrame, SAMPLE_RATE};
use babelcast_domain::counts::Counts;
use babelcast_domain::prosody::{Measure, Prosody};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Resampler};

use crate::Failed;

/// Samples of a packet: 20 ms.
const PACKET: usize = 320;

/// Packets of silence between two recordings.
const PAUSE: usize = 20;

const LOSS: f64 = 0.15;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Corpus {
    EmoDb,
    Ravdess,
}

impl Corpus {
    pub const BOTH: [Corpus; 2] = [Corpus::EmoDb, Corpus::Ravdess];

    pub fn name(self) -> &'static str {
        match self {
            Corpus::EmoDb => "Emo-DB",
            Corpus::Ravdess => "RAVDESS",
        }
    }
}

#[derive(Debug, Clone)]
pub struct Clip {
    pub corpus: Corpus,
    pub speaker: String,
    pub emotion: &'static str,
    pub path: PathBuf,
}

/// What lies between the recording and the measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    Clean,
    /// Opus at 24 kbit/s with in-band error correction, 15 % of the packets lost one by one.
    Random,
    /// The same in bursts of four on average.
    Bursts,
}

impl Line {
    pub const ALL: [Line; 3] = [Line::Clean, Line::Random, Line::Bursts];

    pub fn name(self) -> &'static str {
        match self {
            Line::Clean => "clean",
            Line::Random => "Opus, 15 % lost",
            Line::Bursts => "Opus, 15 % lost in bursts",
        }
    }
}

/// Speaker and feeling from a file's name without its ending.
pub fn parse(name: &str) -> Option<(Corpus, String, &'static str)> {
    let name = name.trim_start_matches("emodb-").trim_start_matches("rav-");
    if let [_, _, emotion, _, _, _, actor] = name.split('-').collect::<Vec<_>>()[..] {
        let emotions = ["neutral", "calm", "happiness", "sadness", "anger", "fear", "disgust", "surprise"];
        let emotion = emotions.get(emotion.parse::<usize>().ok()?.checked_sub(1)?)?;
        return Some((Corpus::Ravdess, actor.to_owned(), emotion));
    }
    let emotion = match name.as_bytes().get(5)? {
        b'W' => "anger",
        b'L' => "boredom",
        b'E' => "disgust",
        b'A' => "fear",
        b'F' => "happiness",
        b'T' => "sadness",
        b'N' => "neutral",
        _ => return None,
    };
    (name.len() == 7).then(|| (Corpus::EmoDb, name[..2].to_owned(), emotion))
}

/// All labelled recordings in the folders, speaker by speaker.
pub fn find(folders: &[PathBuf]) -> Result<Vec<Clip>, Failed> {
    let mut clips = Vec::new();
    for folder in folders {
        for entry in std::fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))? {
            let path = entry?.path();
            let named = path.file_stem().and_then(|stem| parse(stem.to_str()?));
            if let Some((corpus, speaker, emotion)) = named.filter(|_| path.extension().is_some_and(|it| it == "wav")) {
                clips.push(Clip { corpus, speaker, emotion, path });
            }
        }
    }
    clips.sort_by(|a, b| (a.corpus, &a.speaker, &a.path).cmp(&(b.corpus, &b.speaker, &b.path)));
    Ok(clips)
}

/// One long stream for all the clips of one speaker, measured as the server measures; and the seconds of it.
pub fn measure(clips: &[Clip], line: Line) -> Result<(Vec<Measure>, f64), Failed> {
    let mut road = Road::new(line)?;
    let mut prosody = Prosody::default();
    let mut measures = Vec::new();
    let mut now = MediaTime::ZERO;
    for clip in clips {
        let samples = at_our_rate(&clip.path)?;
        let start = now;
        let pause = std::iter::repeat_n(&[0; PACKET][..], PAUSE);
        for packet in samples.chunks_exact(PACKET).chain(pause) {
            for frame in road.carry(packet)? {
                prosody.push(&frame);
                now = frame.end();
            }
        }
        measures.push(prosody.over(start, now));
    }
    Ok((measures, now.as_millis() as f64 / 1e3))
}

/// A recording in pieces of four seconds, each measured.
pub fn pieces(path: &Path) -> Result<Vec<Measure>, Failed> {
    let mut prosody = Prosody::default();
    let mut measures = Vec::new();
    for (number, samples) in at_our_rate(path)?.chunks_exact(4 * SAMPLE_RATE as usize).enumerate() {
        let at = MediaTime::from_samples((number * samples.len()) as u64);
        for (packet, samples) in samples.chunks(PACKET).enumerate() {
            let at = at + MediaTime::from_samples((packet * PACKET) as u64);
            prosody.push(&PcmFrame { at, samples: samples.to_vec(), origin: Origin::Received });
        }
        measures.push(prosody.over(at, at + MediaTime::from_millis(4_000)));
    }
    Ok(measures)
}

/// The samples of a file, at 16 kHz.
pub fn at_our_rate(path: &Path) -> Result<Vec<i16>, Failed> {
    let Recording { rate, samples } = Recording::read(path)?;
    if rate == SAMPLE_RATE {
        return Ok(samples);
    }
    let samples: Vec<f32> = samples.into_iter().map(f32::from).collect();
    let mut resampler = Fft::<f32>::new(rate as usize, SAMPLE_RATE as usize, 1_024, 1, FixedSync::Both)?;
    let input = InterleavedSlice::new(&samples, 1, samples.len())?;
    let resampled = resampler.process_all(&input, samples.len(), None)?.take_data();
    Ok(resampled.into_iter().map(|sample| sample as i16).collect())
}

/// The line a speaker's packets go over.
struct Road {
    line: Line,
    encoder: Encoder,
    decoder: Decoder,
    chance: StdRng,
    in_burst: bool,
    sent: u64,
    lost: u16,
    counts: Counts,
}

impl Road {
    fn new(line: Line) -> Result<Self, Failed> {
        Ok(Road {
            line,
            encoder: Encoder::new(SAMPLE_RATE, (LOSS * 100.0) as u8)?,
            decoder: Decoder::new()?,
            chance: StdRng::seed_from_u64(15),
            in_burst: false,
            sent: 0,
            lost: 0,
            counts: Counts::default(),
        })
    }

    /// What comes out when `samples` goes in: nothing for a lost packet, which is made good with the next.
    fn carry(&mut self, samples: &[i16]) -> Result<Vec<PcmFrame>, Failed> {
        let number = self.sent;
        self.sent += 1;
        if self.line == Line::Clean {
            let at = MediaTime::from_samples(number * PACKET as u64);
            return Ok(vec![PcmFrame { at, samples: samples.to_vec(), origin: Origin::Received }]);
        }
        let payload = self.encoder.encode(samples)?;
        if self.loses() {
            self.lost += 1;
            return Ok(Vec::new());
        }
        let packet = Packet {
            ssrc: 1,
            sequence: number as u16,
            timestamp: (number as u32).wrapping_mul(960),
            payload: payload.into(),
            arrived: tokio::time::Instant::now() + Duration::from_millis(number * 20),
        };
        let mut frames = Vec::new();
        let next = InOrder { packet, lost: std::mem::take(&mut self.lost), new_run: false };
        self.decoder.decode(&next, &self.counts, &mut frames);
        Ok(frames)
    }

    fn loses(&mut self) -> bool {
        let chance = match (self.line, self.in_burst) {
            (Line::Bursts, true) => 0.75,
            (Line::Bursts, false) => 0.25 * LOSS / (1.0 - LOSS),
            _ => LOSS,
        };
        self.in_burst = self.chance.random_bool(chance);
        self.in_burst
    }
}
