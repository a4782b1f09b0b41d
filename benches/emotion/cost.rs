//! What measuring costs, beside libopus decoding the same second: CPU of this thread, so neighbours do not count.

use std::hint::black_box;
use std::time::Duration;

use babelcast::media::opus::Encoder;
use babelcast_domain::audio::{MediaTime, Origin, PcmFrame, SAMPLE_RATE};
use babelcast_domain::emotion::Judge;
use babelcast_domain::prosody::Prosody;

use crate::Failed;
use crate::corpus::{self, Clip};

const ROUNDS: usize = 5;

pub fn table(clips: &[Clip]) -> Result<String, Failed> {
    let mut samples = Vec::new();
    for clip in clips.iter().take(40) {
        samples.extend(corpus::at_our_rate(&clip.path)?);
    }
    let seconds = samples.len() as f64 / f64::from(SAMPLE_RATE);
    let frames: Vec<PcmFrame> = (0u64..)
        .zip(samples.chunks_exact(320))
        .map(|(number, part)| PcmFrame {
            at: MediaTime::from_samples(number * 320),
            samples: part.to_vec(),
            origin: Origin::Received,
        })
        .collect();
    let mut encoder = Encoder::new(SAMPLE_RATE, 10)?;
    let packets: Vec<Vec<u8>> = frames.iter().map(|frame| encoder.encode(&frame.samples)).collect::<Result<_, _>>()?;
    let (mut measuring, mut decoding, mut judging) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let mut prosody = Prosody::default();
        measuring.push(took(|| frames.iter().for_each(|frame| prosody.push(frame)))? / seconds);
        let mut judge = Judge::default();
        let end = MediaTime::from_samples(samples.len() as u64);
        let start = end - MediaTime::from_millis(5_000);
        judging.push(took(|| {
            black_box(judge.feel(&prosody.over(start, end)));
        })?);
        let mut decoder = opus::Decoder::new(SAMPLE_RATE, opus::Channels::Mono)?;
        let mut pcm = [0; 1_920];
        decoding
            .push(took(|| packets.iter().for_each(|packet| drop(decoder.decode(packet, &mut pcm, false))))? / seconds);
    }
    let median = |mut all: Vec<f64>| {
        all.sort_by(f64::total_cmp);
        all[ROUNDS / 2]
    };
    Ok(format!(
        "\n### Cost\n\n| what | CPU |\n|---|--:|\n| measuring, per stream-second | {:.2} ms |\n| libopus decoding the same, per stream-second | {:.2} ms |\n| the verdict on a sentence of 5 s | {:.3} ms |\n",
        median(measuring),
        median(decoding),
        median(judging),
    ))
}

/// CPU milliseconds of this thread in `work`.
fn took(work: impl FnOnce()) -> Result<f64, Failed> {
    let before = cpu_of_thread()?;
    work();
    Ok((cpu_of_thread()? - before).as_secs_f64() * 1e3)
}

fn cpu_of_thread() -> Result<Duration, Failed> {
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let ran = schedstat.split_whitespace().next().ok_or("empty schedstat")?;
    Ok(Duration::from_nanos(ran.parse()?))
}
