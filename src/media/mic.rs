//! The speaker's microphone: one Opus stream in real time to every connected viewer.
//!
//! Like a real one it never stops: while nothing is played it sends silence, so viewers know it is there. Frames
//! leave at absolute deadlines, so a late one does not delay those after it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rtc::rtp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};
use webrtc::media_stream::track_local::TrackLocal;
use webrtc::media_stream::track_local::static_rtp::TrackLocalStaticRTP;

use super::faults::{BadWire, Faults};
use super::opus::Encoder;

/// One frame.
pub(super) const FRAME: Duration = Duration::from_millis(20);

/// The same in RTP ticks.
const FRAME_TICKS: u32 = 960;

/// A peer that takes no packet for this long loses it, as it would on a full network.
const WRITE_TIMEOUT: Duration = Duration::from_millis(100);

/// Frames waiting to be sent; whoever plays waits beyond that.
pub(super) const QUEUE: usize = 4;

/// 20 ms of sound; `sent` hears when it leaves.
pub(super) struct Sound {
    pub samples: Vec<i16>,
    pub sent: Option<oneshot::Sender<Instant>>,
}

/// A connected viewer, as the microphone sees it.
#[derive(Clone)]
pub(super) struct Line {
    pub client_id: String,
    pub track: Arc<TrackLocalStaticRTP>,
    pub ssrc: u32,
    pub payload_type: u8,
}

impl Line {
    /// The packet of this number as it goes to this viewer; `tick` is its time on the 48 kHz clock.
    pub fn packet(&self, number: u64, tick: u32, payload: Bytes) -> rtp::Packet {
        let header = rtp::Header {
            version: 2,
            payload_type: self.payload_type,
            ssrc: self.ssrc,
            // Each stream begins somewhere else, as RFC 3550 wants; the stream's number says where.
            sequence_number: (number as u16).wrapping_add(self.ssrc as u16),
            timestamp: tick.wrapping_add(self.ssrc.rotate_left(16)),
            ..Default::default()
        };
        rtp::Packet { header, payload }
    }
}

/// A viewer's first packet left: the zero of its capture clock.
pub(super) struct FirstPacket {
    pub client_id: String,
    pub at: Instant,
}

/// What the microphone works with.
pub(super) struct Mic {
    pub encoder: Encoder,
    pub sounds: mpsc::Receiver<Sound>,
    pub lines: watch::Receiver<Vec<Line>>,
    pub faults: watch::Receiver<Faults>,
    pub firsts: mpsc::Sender<FirstPacket>,
}

#[derive(Clone)]
struct Numbered {
    number: u64,
    tick: u32,
    payload: Bytes,
}

impl Mic {
    /// Runs until dropped.
    pub async fn run(mut self) {
        let start = Instant::now();
        let silence = vec![0; self.encoder.samples()];
        let mut wire = BadWire::new();
        let mut known = BTreeMap::new();
        let mut number = 0u64;
        for frame in 0u32.. {
            sleep_until(start + FRAME * frame).await;
            let now = Instant::now();
            let sound = self.sounds.try_recv().ok();
            let samples = sound.as_ref().map_or(&silence, |sound| &sound.samples);
            let faults = self.faults.borrow().clone();
            if !faults.paused(now) {
                let payload = match self.encoder.encode(samples) {
                    Ok(payload) => Bytes::from(payload),
                    Err(error) => {
                        tracing::warn!(%error, "a frame was not encoded");
                        continue;
                    }
                };
                let packet = Numbered { number, tick: frame.wrapping_mul(FRAME_TICKS), payload };
                let leaving = wire.pass(number, packet, &faults, now);
                number += 1;
                self.send(&leaving, &mut known).await;
            }
            if let Some(sent) = sound.and_then(|sound| sound.sent) {
                // Whoever played it may have gone.
                let _ = sent.send(now);
            }
        }
    }

    async fn send(&mut self, packets: &[Numbered], known: &mut BTreeMap<u32, ()>) {
        let lines = self.lines.borrow().clone();
        known.retain(|ssrc, ()| lines.iter().any(|line| line.ssrc == *ssrc));
        for line in &lines {
            for packet in packets {
                let packet = line.packet(packet.number, packet.tick, packet.payload.clone());
                match timeout(WRITE_TIMEOUT, line.track.write_rtp(packet)).await {
                    Ok(Ok(())) => {
                        if known.insert(line.ssrc, ()).is_none() {
                            let first = FirstPacket { client_id: line.client_id.clone(), at: Instant::now() };
                            if self.firsts.try_send(first).is_err() {
                                tracing::debug!("a first packet found nobody to hear of it");
                            }
                        }
                    }
                    Ok(Err(error)) => tracing::debug!(%error, "a packet was not taken"),
                    Err(_) => tracing::debug!("a packet was not taken in time"),
                }
            }
        }
    }
}
