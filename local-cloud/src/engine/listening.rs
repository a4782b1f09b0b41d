//! The thread a stream's recogniser lives on, and the two bounded queues that join it to the async side.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::resample::Resampler;
use super::{Engine, EngineError, Hypothesis, Opening, RATE, Recogniser, TICK};

/// Pieces of audio that may wait for the engine, for example while a decoder loads. Full: the sender waits, nothing is
/// dropped, and the wait reaches the client as TCP back pressure.
const AUDIO_QUEUE: usize = 64;
/// Hypotheses that may wait for the stream. Full: the engine waits.
const HEARD_QUEUE: usize = 64;

/// What a recogniser at work says. Dropping it stops the thread after the tick at hand.
pub struct Heard {
    heard: mpsc::Receiver<Result<Hypothesis, EngineError>>,
    stop: Arc<AtomicBool>,
}

/// Starts the thread. Audio goes into the sender: s16le mono at `rate` Hz, in pieces of any length; dropping it ends the
/// audio, the engine closes its open utterance, and [`Heard::next`] gives None after that. An engine that cannot open
/// says so as the first thing heard.
pub fn listen(engine: Engine, opening: Opening, rate: u32) -> Result<(mpsc::Sender<Bytes>, Heard), EngineError> {
    let (audio, audio_in) = mpsc::channel(AUDIO_QUEUE);
    let (heard_out, heard) = mpsc::channel(HEARD_QUEUE);
    let stop = Arc::new(AtomicBool::new(false));
    let thread = Thread { audio: audio_in, heard: heard_out, stop: stop.clone(), rate };
    std::thread::Builder::new()
        .name(format!("recogniser-{}", opening.stream))
        .spawn(move || thread.run(&engine, &opening))
        .map_err(EngineError::Thread)?;
    Ok((audio, Heard { heard, stop }))
}

impl Heard {
    /// The next hypothesis, or None when the engine has said all. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<Hypothesis, EngineError>> {
        self.heard.recv().await
    }
}

impl Drop for Heard {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Thread {
    audio: mpsc::Receiver<Bytes>,
    heard: mpsc::Sender<Result<Hypothesis, EngineError>>,
    stop: Arc<AtomicBool>,
    rate: u32,
}

impl Thread {
    fn run(mut self, engine: &Engine, opening: &Opening) {
        if let Err(e) = self.listen(engine, opening) {
            tracing::warn!(stream = opening.stream, error = %e, "the recogniser stopped");
            let _ = self.heard.blocking_send(Err(e));
        }
    }

    fn listen(&mut self, engine: &Engine, opening: &Opening) -> Result<(), EngineError> {
        let mut recogniser = engine.open(opening)?;
        let mut ticks = Ticks::new(self.rate);
        while let Some(bytes) = self.audio.blocking_recv() {
            ticks.push(&bytes);
            while let Some(tick) = ticks.next() {
                if self.stop.load(Ordering::Relaxed) || !self.tell(recogniser.hear(&tick)?) {
                    return Ok(());
                }
            }
        }
        if self.stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.close(recogniser.as_mut(), &ticks.rest())
    }

    fn close(&self, recogniser: &mut dyn Recogniser, rest: &[i16]) -> Result<(), EngineError> {
        if rest.is_empty() || self.tell(recogniser.hear(rest)?) {
            self.tell(recogniser.finish()?);
        }
        Ok(())
    }

    /// False when nobody listens to the listener any more.
    fn tell(&self, hypotheses: Vec<Hypothesis>) -> bool {
        hypotheses.into_iter().all(|h| self.heard.blocking_send(Ok(h)).is_ok())
    }
}

/// Bytes of any length in, ticks of 16 kHz samples out, so that no result depends on how the sender cut its audio.
struct Ticks {
    half: Option<u8>,
    resampler: Resampler,
    samples: Vec<i16>,
}

impl Ticks {
    fn new(rate: u32) -> Ticks {
        Ticks { half: None, resampler: Resampler::new(rate, RATE), samples: Vec::with_capacity(TICK * 2) }
    }

    fn push(&mut self, bytes: &[u8]) {
        let mut pcm = Vec::with_capacity(bytes.len() / 2 + 1);
        for &byte in bytes {
            match self.half.take() {
                Some(low) => pcm.push(i16::from_le_bytes([low, byte])),
                None => self.half = Some(byte),
            }
        }
        self.resampler.push(&pcm, &mut self.samples);
    }

    fn next(&mut self) -> Option<Vec<i16>> {
        (self.samples.len() >= TICK).then(|| self.samples.drain(..TICK).collect())
    }

    fn rest(self) -> Vec<i16> {
        self.samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn audio_cut_at_odd_bytes_gives_the_same_ticks() {
        let pcm: Vec<i16> = (0..5_000).map(|i| (i * 37 % 20_011) as i16).collect();
        let bytes: Vec<u8> = pcm.iter().flat_map(|s| s.to_le_bytes()).collect();
        let mut ticks = Ticks::new(16_000);
        let mut heard = Vec::new();
        for piece in bytes.chunks(333) {
            ticks.push(piece);
            while let Some(tick) = ticks.next() {
                assert_eq!(tick.len(), TICK);
                heard.extend(tick);
            }
        }
        heard.extend(ticks.rest());
        assert_eq!(heard, pcm);
    }
}
