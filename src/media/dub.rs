//! One language's sound for any number of listeners: a timeline in real time, one encoder, packets to everyone.
//!
//! A consumer that is too slow loses packets, which are counted, and delays nobody: the packets lie in a ring that is
//! written whether anybody reads or not. Absent on purpose: what is said when (`babelcast_domain::voice`), and how
//! packets reach people (`ogg`, `egress`).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use babelcast_domain::audio::{MediaTime, PcmFrame};
use babelcast_domain::counts::{Count, Counts};
use bytes::Bytes;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use super::opus::Encoder;
use super::timeline::Timeline;

/// One packet.
pub const FRAME: Duration = Duration::from_millis(20);

/// The same in ticks of the RTP and Ogg clocks (48 kHz).
pub const FRAME_TICKS: u32 = 960;

/// Packets of a block: who needs no packet at once is woken five times a second instead of fifty.
const BLOCK: usize = 10;

/// Blocks that a new consumer is given at once, so that a player need not wait: a second.
const RECENT: usize = 5;

/// What a consumer may be behind before it loses something: 2.5 s of packets, 5 s of blocks.
const PACKETS_KEPT: usize = 128;
const BLOCKS_KEPT: usize = 32;

/// Clips on their way to the timeline.
const PLACING: usize = 64;

/// A clock that is late by less catches up, packet after packet; what a longer stall has cost is left out.
const STALL: Duration = Duration::from_secs(2);

/// Silent frames after which the last packet stands for all that follow: by then neither encoder nor decoder
/// remembers a voice.
const SETTLED: u32 = 10;

/// The packet loss that the encoder prepares for, percent. Listeners are on phones.
const EXPECTED_LOSS: u8 = 10;

/// 20 ms of the language's sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Frames since the start; a hole is a stall.
    pub number: u64,
    pub payload: Bytes,
}

/// Ten packets.
#[derive(Debug)]
pub struct Block {
    pub payloads: Vec<Bytes>,
}

struct Placing {
    at: u64,
    samples: Arc<[i16]>,
}

/// A language on the air. Dropping it ends its consumers.
#[derive(Debug)]
pub struct Dub {
    rate: u32,
    start: Instant,
    placing: mpsc::Sender<Placing>,
    air: Arc<Air>,
    counts: Arc<Counts>,
    _clock: AbortOnDropHandle<()>,
}

/// Where consumers find packets. The senders live in the clock's task and nowhere else.
#[derive(Debug)]
struct Air {
    packets: broadcast::WeakSender<Packet>,
    blocks: broadcast::WeakSender<Arc<Block>>,
    /// Locked while a block goes out, so that a new consumer misses none and hears none twice.
    recent: Mutex<VecDeque<Arc<Block>>>,
}

impl Dub {
    /// Starts with silence. `rate` is samples a second of what will be placed: 8,000, 12,000, 16,000, 24,000 or 48,000.
    ///
    /// # Errors
    /// libopus refused the rate or could not allocate.
    pub fn start(rate: u32, counts: Arc<Counts>) -> Result<Self, ::opus::Error> {
        let encoder = Encoder::new(rate, EXPECTED_LOSS)?;
        let (placing, to_place) = mpsc::channel(PLACING);
        let (packets, blocks) = (broadcast::channel(PACKETS_KEPT).0, broadcast::channel(BLOCKS_KEPT).0);
        let recent = Mutex::new(VecDeque::with_capacity(RECENT + 1));
        let air = Arc::new(Air { packets: packets.downgrade(), blocks: blocks.downgrade(), recent });
        let start = Instant::now();
        let clock = Clock {
            start,
            timeline: Timeline::new(rate),
            rate,
            voice: Quieting { encoder, silent: 0, silence: None },
            to_place,
            packets,
            blocks,
            block: Vec::with_capacity(BLOCK),
            air: Arc::clone(&air),
            counts: Arc::clone(&counts),
        };
        Ok(Dub { rate, start, placing, air, counts, _clock: AbortOnDropHandle::new(tokio::spawn(clock.run())) })
    }

    /// Samples a second.
    pub fn rate(&self) -> u32 {
        self.rate
    }

    /// Puts a clip where it is to begin. One whose place is past or taken follows as soon as it can. False: too much
    /// waits already, and the clip is thrown away and counted.
    pub fn place(&self, at: Instant, samples: Arc<[i16]>) -> bool {
        let since = at.saturating_duration_since(self.start);
        let at = (since.as_nanos() * u128::from(self.rate) / 1_000_000_000) as u64;
        let taken = self.placing.try_send(Placing { at, samples }).is_ok();
        if !taken {
            self.counts.one(Count::ClipsRefused);
        }
        taken
    }

    /// Every packet from now on.
    pub fn packets(&self) -> Packets {
        let from = self.air.packets.upgrade().map(|sender| sender.subscribe());
        Packets { from, counts: Arc::clone(&self.counts) }
    }

    /// Every block from now on, after those of the last second.
    pub fn blocks(&self) -> Blocks {
        let recent = self.air.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let from = self.air.blocks.upgrade().map(|sender| sender.subscribe());
        Blocks { recent: recent.clone(), from, counts: Arc::clone(&self.counts) }
    }
}

/// A consumer of packets.
#[derive(Debug)]
pub struct Packets {
    from: Option<broadcast::Receiver<Packet>>,
    counts: Arc<Counts>,
}

impl Packets {
    /// The next packet; none when the language is off the air. May be dropped and called again at any point.
    pub async fn next(&mut self) -> Option<Packet> {
        next(&mut self.from, 1, &self.counts).await
    }
}

/// A consumer of blocks.
#[derive(Debug)]
pub struct Blocks {
    recent: VecDeque<Arc<Block>>,
    from: Option<broadcast::Receiver<Arc<Block>>>,
    counts: Arc<Counts>,
}

impl Blocks {
    /// The next block; none when the language is off the air. May be dropped and called again at any point.
    pub async fn next(&mut self) -> Option<Arc<Block>> {
        match self.recent.pop_front() {
            Some(block) => Some(block),
            None => next(&mut self.from, BLOCK as u64, &self.counts).await,
        }
    }
}

async fn next<T: Clone>(from: &mut Option<broadcast::Receiver<T>>, each: u64, counts: &Counts) -> Option<T> {
    let from = from.as_mut()?;
    loop {
        match from.recv().await {
            Ok(next) => return Some(next),
            Err(RecvError::Lagged(lost)) => counts.add(Count::VoicePacketsLost, lost * each),
            Err(RecvError::Closed) => return None,
        }
    }
}

/// What makes the packets, one every 20 ms.
struct Clock {
    start: Instant,
    timeline: Timeline,
    rate: u32,
    voice: Quieting,
    to_place: mpsc::Receiver<Placing>,
    packets: broadcast::Sender<Packet>,
    blocks: broadcast::Sender<Arc<Block>>,
    block: Vec<Bytes>,
    air: Arc<Air>,
    counts: Arc<Counts>,
}

impl Clock {
    async fn run(mut self) {
        let mut frame = vec![0; self.rate as usize / 50];
        let mut number = 0u64;
        loop {
            let due = self.start + FRAME * u32::try_from(number).unwrap_or(u32::MAX);
            sleep_until(due).await;
            let late = due.elapsed();
            if late > STALL {
                let missed = (late.as_millis() / FRAME.as_millis()) as u64;
                tracing::warn!(late_ms = late.as_millis() as u64, "a voice stood still");
                self.counts.add(Count::VoicePacketsLost, missed);
                self.timeline.skip(missed * frame.len() as u64);
                number += missed;
            }
            while let Ok(Placing { at, samples }) = self.to_place.try_recv() {
                if let Err(error) = self.timeline.place(at, samples) {
                    tracing::warn!(%error, "a clip was thrown away");
                    self.counts.one(Count::ClipsRefused);
                }
            }
            let sounds = self.timeline.next(&mut frame);
            match self.voice.encode(&frame, sounds) {
                Ok(payload) => self.send(Packet { number, payload }),
                Err(error) => tracing::warn!(%error, "a frame was not encoded"),
            }
            number += 1;
        }
    }

    fn send(&mut self, packet: Packet) {
        self.block.push(packet.payload.clone());
        // Nobody needs to listen.
        let _ = self.packets.send(packet);
        if self.block.len() == BLOCK {
            let payloads = std::mem::replace(&mut self.block, Vec::with_capacity(BLOCK));
            let block = Arc::new(Block { payloads });
            let mut recent = self.air.recent.lock().unwrap_or_else(PoisonError::into_inner);
            recent.push_back(Arc::clone(&block));
            if recent.len() > RECENT {
                recent.pop_front();
            }
            let _ = self.blocks.send(block);
        }
    }
}

/// An encoder that does not work for silence: a packet of settled silence is as good as the next.
struct Quieting {
    encoder: Encoder,
    silent: u32,
    silence: Option<Bytes>,
}

impl Quieting {
    fn encode(&mut self, frame: &[i16], sounds: bool) -> Result<Bytes, ::opus::Error> {
        if sounds {
            (self.silent, self.silence) = (0, None);
            return self.encoder.encode(frame).map(Bytes::from);
        }
        if let Some(silence) = &self.silence {
            return Ok(silence.clone());
        }
        let payload = Bytes::from(self.encoder.encode(frame)?);
        self.silent += 1;
        if self.silent >= SETTLED {
            self.silence = Some(payload.clone());
        }
        Ok(payload)
    }
}

/// The speaker's own voice on a [`Dub`] (language `source`): frames of the capture clock keep their distances, a
/// little later than they come.
#[derive(Debug)]
pub struct Original {
    dub: Dub,
    delay: Duration,
    anchor: Option<(MediaTime, Instant)>,
}

/// A frame whose place is this much before or after where the delay would put it moves all that follow: the capture
/// clock has stepped, or runs at another pace than ours.
const SLACK: Duration = Duration::from_millis(400);

impl Original {
    /// `delay` is what the network's unevenness needs, or more, to have the original in step with a dub of it. The dub's
    /// rate must be that of [`PcmFrame`]s.
    pub fn new(dub: Dub, delay: Duration) -> Self {
        Original { dub, delay, anchor: None }
    }

    pub fn dub(&self) -> &Dub {
        &self.dub
    }

    /// Takes the next frame, which came at `now`.
    pub fn push(&mut self, frame: &PcmFrame, now: Instant) {
        let wanted = now + self.delay;
        let place = |(media, at): (MediaTime, Instant)| at + Duration::from_micros((frame.at - media).as_micros());
        let kept = self.anchor.map(place).filter(|at| {
            *at >= now
                && at.saturating_duration_since(wanted) <= SLACK
                && wanted.saturating_duration_since(*at) <= SLACK
        });
        let at = kept.unwrap_or_else(|| {
            self.anchor = Some((frame.at, wanted));
            wanted
        });
        self.dub.place(at, frame.samples.as_slice().into());
    }
}

#[cfg(test)]
mod tests {
    use std::f64::consts::TAU;

    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn tone(hertz: f64, rate: u32, seconds: f64) -> Arc<[i16]> {
        let sample = |i| (8_000.0 * (f64::from(i) * hertz * TAU / f64::from(rate)).sin()) as i16;
        (0..(seconds * f64::from(rate)) as u32).map(sample).collect()
    }

    fn energy(samples: &[i16]) -> f64 {
        samples.iter().map(|s| f64::from(*s).powi(2)).sum::<f64>() / samples.len().max(1) as f64
    }

    async fn heard(packets: &mut Packets, count: usize) -> Vec<Packet> {
        let mut heard = Vec::new();
        while heard.len() < count {
            heard.push(timeout(SOON, packets.next()).await.expect("the air is dead").expect("off the air"));
        }
        heard
    }

    fn decoded(packets: &[Packet], rate: u32) -> Vec<i16> {
        let mut decoder = ::opus::Decoder::new(rate, ::opus::Channels::Mono).unwrap();
        let mut pcm = vec![0; rate as usize / 50];
        let decode = |packet: &Packet| {
            let given = decoder.decode(&packet.payload, &mut pcm, false).unwrap();
            pcm[..given].to_vec()
        };
        packets.iter().flat_map(decode).collect()
    }

    #[tokio::test]
    async fn a_clip_is_heard_at_its_place_by_everyone_alike() {
        let dub = Dub::start(24_000, Arc::default()).unwrap();
        let (mut one, mut other) = (dub.packets(), dub.packets());
        assert!(dub.place(dub.start + Duration::from_millis(500), tone(400.0, 24_000, 0.4)));
        let (mine, theirs) = tokio::join!(heard(&mut one, 60), heard(&mut other, 60));
        assert_eq!(mine, theirs);
        assert!(mine.windows(2).all(|pair| pair[0].number + 1 == pair[1].number));
        let sound = decoded(&mine, 24_000);
        let first = mine[0].number as usize * 480;
        let loud = |from: usize, to: usize| energy(&sound[from * 24 - first..to * 24 - first]);
        assert!(
            loud(100, 480) < 100.0 && loud(540, 880) > 1e7 && loud(960, 1_150) < 100.0,
            "{} {} {}",
            loud(100, 480),
            loud(540, 880),
            loud(960, 1_150)
        );
    }

    #[tokio::test]
    async fn a_consumer_that_sleeps_loses_packets_which_are_counted_and_nobody_else_does() {
        let counts = Arc::new(Counts::default());
        let dub = Dub::start(16_000, Arc::clone(&counts)).unwrap();
        let (mut awake, mut asleep) = (dub.packets(), dub.packets());
        let all = PACKETS_KEPT + 40;
        let mine = heard(&mut awake, all).await;
        assert!(mine.windows(2).all(|pair| pair[0].number + 1 == pair[1].number));
        let late = heard(&mut asleep, 1).await;
        let lost = counts.get(Count::VoicePacketsLost);
        assert!(late[0].number >= 40 && lost == late[0].number - mine[0].number, "{} {lost}", late[0].number);
    }

    #[tokio::test]
    async fn a_new_consumer_of_blocks_begins_with_the_last_second_and_misses_nothing_after() {
        let dub = Dub::start(16_000, Arc::default()).unwrap();
        // Packets that can be told apart: noise.
        let noise: Arc<[i16]> = (0..16_000 * 3u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 18) as i16).collect();
        dub.place(dub.start, noise);
        let mut packets = dub.packets();
        let first = heard(&mut packets, 70).await;
        let mut blocks = dub.blocks();
        let mut given = Vec::new();
        for _ in 0..RECENT {
            given.extend(
                timeout(Duration::from_millis(5), blocks.next()).await.expect("at once").unwrap().payloads.clone(),
            );
        }
        let rest = heard(&mut packets, 40).await;
        while given.len() < RECENT * BLOCK + 30 {
            given.extend(timeout(SOON, blocks.next()).await.unwrap().unwrap().payloads.clone());
        }
        let all: Vec<Bytes> = first.into_iter().chain(rest).map(|packet| packet.payload).collect();
        let begin = all.iter().position(|payload| *payload == given[0]).expect("known packets");
        assert_eq!(all[begin..begin + given.len()], given[..]);
        drop(dub);
        while timeout(SOON, blocks.next()).await.unwrap().is_some() {}
    }

    #[test]
    fn settled_silence_costs_nothing_and_does_not_hurt_the_voice_after_it() {
        let rate = 24_000;
        let voice = tone(300.0, rate, 1.0);
        let mut sound = voice.to_vec();
        sound.extend(vec![0; rate as usize * 3]);
        sound.extend(&voice[..]);
        let mut quieting = Quieting { encoder: Encoder::new(rate, 10).unwrap(), silent: 0, silence: None };
        let mut plain = Encoder::new(rate, 10).unwrap();
        let mut same = 0;
        let (mut quiet, mut reference) = (Vec::new(), Vec::new());
        for (n, frame) in sound.chunks_exact(480).enumerate() {
            let sounds = frame.iter().any(|s| *s != 0);
            let payload = quieting.encode(frame, sounds).unwrap();
            same += u32::from(quieting.silent >= SETTLED);
            quiet.push(Packet { number: n as u64, payload });
            reference.push(Packet { number: n as u64, payload: plain.encode(frame).unwrap().into() });
        }
        assert!(same >= 130, "the encoder rests: {same}");
        let (quiet, reference) = (decoded(&quiet, rate), decoded(&reference, rate));
        let second = rate as usize;
        assert!(energy(&quiet[second + second / 2..4 * second]) < 10.0, "silence is silent");
        let ratio = energy(&quiet[4 * second..]) / energy(&reference[4 * second..]);
        assert!((0.9..1.1).contains(&ratio), "{ratio}");
        let onset = energy(&quiet[4 * second..4 * second + 2_400]) / energy(&reference[4 * second..4 * second + 2_400]);
        assert!((0.7..1.4).contains(&onset), "{onset}");
    }

    #[tokio::test]
    async fn the_original_comes_through_whole_over_uneven_arrivals_and_steps_of_its_clock() {
        use babelcast_domain::audio::Origin;
        let dub = Dub::start(16_000, Arc::default()).unwrap();
        let mut packets = dub.packets();
        let mut original = Original::new(dub, Duration::from_millis(200));
        let sound = tone(400.0, 16_000, 1.0);
        let frames = |base: u64| {
            let frame = move |(n, samples): (usize, &[i16])| PcmFrame {
                at: MediaTime::from_millis(base + n as u64 * 20),
                samples: samples.to_vec(),
                origin: Origin::Received,
            };
            sound.chunks_exact(320).enumerate().map(frame).collect::<Vec<_>>()
        };
        let begin = original.dub().start + Duration::from_millis(100);
        // In handfuls, at the wrong times.
        for (n, frame) in frames(0).iter().enumerate() {
            original.push(frame, begin + FRAME * (n as u32 / 5 * 5));
        }
        let mut all = heard(&mut packets, 60).await;
        // The speaker comes back on a clock that has gone on by an hour.
        for (n, frame) in frames(3_600_000).iter().enumerate() {
            original.push(frame, begin + Duration::from_millis(1_500) + FRAME * n as u32);
        }
        all.extend(heard(&mut packets, 110).await);
        let heard = decoded(&all, 16_000);
        let loud: Vec<bool> = heard.chunks_exact(320).map(|frame| energy(frame) > 1e6).collect();
        let runs: Vec<usize> = loud.split(|loud| !loud).map(<[bool]>::len).filter(|run| *run > 0).collect();
        assert_eq!(runs.len(), 2, "two unbroken seconds: {runs:?}");
        assert!(runs.iter().all(|run| (48..=53).contains(run)), "{runs:?}");
    }
}
