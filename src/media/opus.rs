//! Opus packets to 16 kHz mono on the capture clock, with nothing of the clock lost when packets are; and the
//! encoder of the speaker's side.
//!
//! libopus decodes straight to 16 kHz, which is cheaper than 48 kHz and a resampler. Absent on purpose: echo
//! cancelling and gain, which are the microphone's business.

use ::opus::packet::{get_nb_channels, get_nb_samples, parse};
use ::opus::{Application, Bitrate, Channels, Signal};
use babelcast_domain::audio::{MediaTime, Origin, PcmFrame, SAMPLE_RATE};
use babelcast_domain::counts::{Count, Counts};
use tokio::time::Instant;

use super::order::InOrder;

/// RTP ticks a second for every Opus stream (RFC 7587).
const TICKS: u64 = 48_000;

/// Ticks for one of our samples.
const TICKS_PER_SAMPLE: u32 = TICKS as u32 / SAMPLE_RATE;

/// The longest packet Opus has: 120 ms.
const MAX_TICKS: u32 = 5_760;

/// 20 ms: what every browser sends, assumed until the first packet says otherwise, and the length of a silence frame.
const USUAL_TICKS: u32 = 960;

/// Longer concealment only invents sound; silence follows.
const MAX_CONCEALED: u32 = 10;

/// A hole longer than this is not filled: the clock steps over it. 2 s.
const MAX_FILLED: u32 = 2 * TICKS as u32;

/// Decodes one connection's packets.
pub struct Decoder {
    opus: ::opus::Decoder,
    /// The RTP timestamp that follows the last packet, and where that is on our clock, in ticks.
    expected: Option<u32>,
    position: u64,
    /// Ticks of the last good packet.
    frame: u32,
    last_arrival: Option<(Instant, u64)>,
    pcm: [i16; (MAX_TICKS / TICKS_PER_SAMPLE) as usize],
}

impl Decoder {
    /// # Errors
    /// libopus could not allocate.
    pub fn new() -> Result<Self, ::opus::Error> {
        Ok(Decoder {
            opus: ::opus::Decoder::new(SAMPLE_RATE, Channels::Mono)?,
            expected: None,
            position: 0,
            frame: USUAL_TICKS,
            last_arrival: None,
            pcm: [0; (MAX_TICKS / TICKS_PER_SAMPLE) as usize],
        })
    }

    /// Decodes the next packet in order into `out`, after whatever stands for what is missing before it.
    ///
    /// `at` counts from this connection's first packet and follows the RTP timestamps, whatever was lost: a hole up
    /// to 2 s is filled with frames, a longer one shows as a step of `at`.
    pub fn decode(&mut self, next: &InOrder, counts: &Counts, out: &mut Vec<PcmFrame>) {
        let payload = &next.packet.payload[..];
        let ticks = match get_nb_samples(payload, TICKS as u32) {
            Ok(ticks) if (1..=MAX_TICKS as usize).contains(&ticks) => Some(ticks as u32),
            _ => None,
        };
        let hole = self.hole(next);
        if hole > MAX_FILLED {
            self.position += u64::from(hole);
        } else if hole > 0 {
            self.fill(hole, u32::from(next.lost), ticks.and(Some(payload)), counts, out);
        }
        self.last_arrival = Some((next.packet.arrived, self.position));
        let ticks = match ticks {
            Some(ticks) => {
                self.packet(payload, ticks, counts, out);
                ticks
            }
            None => {
                counts.one(Count::DecodeErrors);
                self.conceal(self.frame, counts, out);
                self.frame
            }
        };
        self.expected = Some(next.packet.timestamp.wrapping_add(ticks));
        self.frame = ticks;
    }

    /// Ticks between the end of the last packet and the start of this one.
    fn hole(&mut self, next: &InOrder) -> u32 {
        let Some(expected) = self.expected else { return 0 };
        if !next.new_run {
            let ahead = next.packet.timestamp.wrapping_sub(expected) as i32;
            return u32::try_from(ahead).unwrap_or(0);
        }
        // The timestamps tell nothing across runs; the wall clock does, well enough.
        if self.opus.reset_state().is_err() {
            tracing::warn!("libopus did not reset");
        }
        let Some((arrival, position)) = self.last_arrival else { return 0 };
        let passed = next.packet.arrived.saturating_duration_since(arrival).as_micros() as u64 * TICKS / 1_000_000;
        u32::try_from((position + passed).saturating_sub(self.position)).unwrap_or(u32::MAX)
    }

    /// Fills a hole of `ticks` of which `lost` packets are known to be missing; the rest is a sender's silence (DTX).
    fn fill(&mut self, ticks: u32, lost: u32, after: Option<&[u8]>, counts: &Counts, out: &mut Vec<PcmFrame>) {
        let lost = lost.min(ticks / self.frame);
        let corrected = if lost > 0 { after } else { None };
        let concealed = (lost - u32::from(corrected.is_some())).min(MAX_CONCEALED);
        for _ in 0..concealed {
            self.conceal(self.frame, counts, out);
        }
        let rest = ticks - self.frame * (concealed + u32::from(corrected.is_some()));
        self.silence(rest, counts, out);
        if let Some(payload) = corrected {
            self.correct(payload, counts, out);
        }
    }

    fn packet(&mut self, payload: &[u8], ticks: u32, counts: &Counts, out: &mut Vec<PcmFrame>) {
        match self.opus.decode(payload, &mut self.pcm, false) {
            Ok(samples) if samples as u32 * TICKS_PER_SAMPLE == ticks => {
                counts.one(Count::FramesDecoded);
                self.emit(samples, Origin::Received, out);
            }
            _ => {
                counts.one(Count::DecodeErrors);
                self.conceal(ticks, counts, out);
            }
        }
    }

    /// The packet before `payload`, from the copy `payload` carries of it; libopus conceals if it carries none.
    fn correct(&mut self, payload: &[u8], counts: &Counts, out: &mut Vec<PcmFrame>) {
        let samples = (self.frame / TICKS_PER_SAMPLE) as usize;
        match self.opus.decode(payload, &mut self.pcm[..samples], true) {
            Ok(given) if given == samples && carries_copy(payload) => {
                counts.one(Count::FramesCorrected);
                self.emit(samples, Origin::Corrected, out);
            }
            Ok(given) if given == samples => {
                counts.one(Count::FramesConcealed);
                self.emit(samples, Origin::Concealed, out);
            }
            _ => {
                counts.one(Count::DecodeErrors);
                self.silence(self.frame, counts, out);
            }
        }
    }

    fn conceal(&mut self, ticks: u32, counts: &Counts, out: &mut Vec<PcmFrame>) {
        let samples = (ticks / TICKS_PER_SAMPLE) as usize;
        match self.opus.decode(&[], &mut self.pcm[..samples], false) {
            Ok(given) if given == samples => {
                counts.one(Count::FramesConcealed);
                self.emit(samples, Origin::Concealed, out);
            }
            _ => self.silence(ticks, counts, out),
        }
    }

    fn silence(&mut self, ticks: u32, counts: &Counts, out: &mut Vec<PcmFrame>) {
        let end = self.position + u64::from(ticks);
        while self.position < end {
            let ticks = u64::from(USUAL_TICKS).min(end - self.position);
            // Senders' ticks need not be ours: what does not make a whole sample moves the clock all the same.
            let samples = (ticks / u64::from(TICKS_PER_SAMPLE)) as usize;
            if samples > 0 {
                self.pcm[..samples].fill(0);
                counts.one(Count::FramesSilence);
                self.emit(samples, Origin::Silence, out);
                self.position -= samples as u64 * u64::from(TICKS_PER_SAMPLE);
            }
            self.position += ticks;
        }
    }

    fn emit(&mut self, samples: usize, origin: Origin, out: &mut Vec<PcmFrame>) {
        let at = MediaTime::from_micros(self.position.saturating_mul(1_000_000) / TICKS);
        out.push(PcmFrame { at, samples: self.pcm[..samples].to_vec(), origin });
        self.position += samples as u64 * u64::from(TICKS_PER_SAMPLE);
    }
}

/// Whether a packet holds a copy of the one before it: the LBRR flag in the first SILK frame (RFC 6716, 4.2.4).
/// CELT-only packets, which browsers send for most speech at their default rate, never do.
fn carries_copy(payload: &[u8]) -> bool {
    let Ok(packet) = parse(payload) else { return false };
    let Some(first) = packet.frames.first().and_then(|frame| frame.first()) else { return false };
    let (toc, stereo) = (payload[0], matches!(get_nb_channels(payload), Ok(Channels::Stereo)));
    if toc & 0x80 != 0 {
        return false;
    }
    // SILK-only configurations 0 to 11 come as 10, 20, 40, 60 ms: one, one, two, three SILK frames. Hybrids have one.
    let silk_frames = match (toc >> 3, (toc >> 3) & 3) {
        (0..=11, 2) => 2,
        (0..=11, 3) => 3,
        _ => 1,
    };
    let flag = |bit: u8| first & (0x80 >> bit) != 0;
    flag(silk_frames) || stereo && flag(2 * silk_frames + 1)
}

/// Encodes the speaker's side: 20 ms mono frames at 24 kbit/s, VoIP, with in-band error correction.
pub struct Encoder {
    opus: ::opus::Encoder,
    samples: usize,
}

impl Encoder {
    /// `rate` is 8,000, 12,000, 16,000, 24,000 or 48,000 samples a second. `loss_percent` is the loss the error
    /// correction prepares for: the more, the more of each packet repeats the one before.
    ///
    /// # Errors
    /// libopus refused the rate or could not allocate.
    pub fn new(rate: u32, loss_percent: u8) -> Result<Self, ::opus::Error> {
        let mut opus = ::opus::Encoder::new(rate, Channels::Mono, Application::Voip)?;
        opus.set_bitrate(Bitrate::Bits(24_000))?;
        opus.set_complexity(5)?;
        opus.set_signal(Signal::Voice)?;
        opus.set_inband_fec(true)?;
        opus.set_packet_loss_perc(i32::from(loss_percent.min(100)))?;
        Ok(Encoder { opus, samples: rate as usize / 50 })
    }

    /// Samples in a frame: 20 ms.
    pub fn samples(&self) -> usize {
        self.samples
    }

    /// Samples that the encoder holds back: what is put in comes out so much later.
    ///
    /// # Errors
    /// libopus does not say.
    pub fn lookahead(&mut self) -> Result<usize, ::opus::Error> {
        Ok(self.opus.get_lookahead()?.max(0) as usize)
    }

    /// One frame of exactly [`Encoder::samples`].
    ///
    /// # Errors
    /// A frame of another length.
    pub fn encode(&mut self, frame: &[i16]) -> Result<Vec<u8>, ::opus::Error> {
        self.opus.encode_vec(frame, 1_275)
    }
}

#[cfg(test)]
mod tests {
    use babelcast_domain::audio::MediaTime;
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::super::order::Packet;
    use super::*;

    /// Something libopus takes for speech, 16 kHz: a buzz of gliding pitch in syllables of a quarter second.
    fn voice(samples: usize) -> Vec<i16> {
        let mut phase = 0.0f64;
        (0..samples)
            .map(|i| {
                let t = i as f64 / 16_000.0;
                phase += (140.0 + 30.0 * (t * 5.0).sin()) / 16_000.0;
                let buzz: f64 =
                    (1..14).map(|k| (phase * f64::from(k) * std::f64::consts::TAU).sin() / f64::from(k)).sum();
                let syllable = (t * 4.0 * std::f64::consts::PI).sin().powi(4);
                (buzz * 9_000.0 * syllable) as i16
            })
            .collect()
    }

    fn packets(frames: usize) -> Vec<Packet> {
        let mut encoder = Encoder::new(16_000, 20).unwrap();
        let pcm = voice(frames * 320);
        let chunks = pcm.chunks_exact(320).enumerate();
        let now = Instant::now();
        chunks.map(|(i, frame)| at(i as u16, i as u32 * 960, encoder.encode(frame).unwrap(), now)).collect()
    }

    fn at(sequence: u16, timestamp: u32, payload: Vec<u8>, arrived: Instant) -> Packet {
        let timestamp = timestamp.wrapping_add(u32::MAX - 5_000);
        Packet { ssrc: 1, sequence, timestamp, payload: Bytes::from(payload), arrived }
    }

    fn decode(packets: impl IntoIterator<Item = InOrder>, counts: &Counts) -> Vec<PcmFrame> {
        let mut decoder = Decoder::new().unwrap();
        let mut out = Vec::new();
        packets.into_iter().for_each(|next| decoder.decode(&next, counts, &mut out));
        out
    }

    fn plain(packet: Packet, lost: u16) -> InOrder {
        InOrder { packet, lost, new_run: false }
    }

    fn energy(frames: &[PcmFrame]) -> f64 {
        frames.iter().flat_map(|frame| &frame.samples).map(|&s| f64::from(s) * f64::from(s)).sum()
    }

    fn unbroken(frames: &[PcmFrame]) -> bool {
        frames.windows(2).all(|pair| pair[0].end() == pair[1].at)
    }

    #[test]
    fn a_stream_comes_out_whole_on_an_unbroken_clock() {
        let counts = Counts::default();
        let frames = decode(packets(100).into_iter().map(|packet| plain(packet, 0)), &counts);
        assert_eq!(
            (frames.len(), frames[0].at, frames[99].end()),
            (100, MediaTime::ZERO, MediaTime::from_millis(2_000))
        );
        assert!(unbroken(&frames) && frames.iter().all(|frame| frame.origin == Origin::Received));
        assert_eq!(counts.get(Count::FramesDecoded), 100);
    }

    #[test]
    fn lost_packets_are_corrected_then_concealed_and_the_clock_stays() {
        let counts = Counts::default();
        let whole = decode(packets(100).into_iter().map(|packet| plain(packet, 0)), &Counts::default());
        let with_copy =
            |from: u16| packets(100).iter().find(|p| p.sequence > from && carries_copy(&p.payload)).unwrap().sequence;
        let (one, three) = (with_copy(40), with_copy(63));
        let lossy =
            packets(100).into_iter().filter(|p| p.sequence != one - 1 && !(three - 3..three).contains(&p.sequence));
        let lost = |n: u16| match n {
            n if n == one => 1,
            n if n == three => 3,
            _ => 0,
        };
        let frames = decode(lossy.map(|packet| plain(packet.clone(), lost(packet.sequence))), &counts);
        assert!(unbroken(&frames) && frames.len() == 100);
        let origins = [one - 1, three - 3, three - 2, three - 1].map(|n| frames[usize::from(n)].origin);
        assert_eq!(origins, [Origin::Corrected, Origin::Concealed, Origin::Concealed, Origin::Corrected]);
        assert!(energy(&frames) > 0.9 * energy(&whole));
    }

    #[test]
    fn a_long_loss_is_concealed_for_ten_frames_and_then_silent() {
        let counts = Counts::default();
        let mut all = packets(100);
        all.drain(30..80);
        let frames = decode(
            all.into_iter().map(|packet| {
                let lost = if packet.sequence == 80 { 50 } else { 0 };
                plain(packet, lost)
            }),
            &counts,
        );
        assert!(unbroken(&frames) && frames.last().unwrap().end() == MediaTime::from_millis(2_000));
        assert_eq!(counts.get(Count::FramesConcealed), 10);
        assert_eq!(counts.get(Count::FramesSilence), 39);
        assert_eq!(counts.get(Count::FramesCorrected), 1);
    }

    #[test]
    fn a_senders_pause_without_loss_is_silence_of_the_right_length() {
        let counts = Counts::default();
        let later = |packet: Packet| Packet {
            timestamp: packet.timestamp.wrapping_add(if packet.sequence < 50 { 0 } else { 19_200 }),
            ..packet
        };
        let frames = decode(packets(100).into_iter().map(|packet| plain(later(packet), 0)), &counts);
        assert!(unbroken(&frames) && frames.last().unwrap().end() == MediaTime::from_millis(2_400));
        assert_eq!(counts.get(Count::FramesSilence), 20);
    }

    #[test]
    fn an_outage_steps_the_clock() {
        let counts = Counts::default();
        let later = |packet: Packet| Packet {
            timestamp: packet.timestamp.wrapping_add(if packet.sequence < 50 { 0 } else { 144_000 }),
            ..packet
        };
        let lost = |n: u16| if n == 50 { 150 } else { 0 };
        let frames = decode(
            packets(100).into_iter().map(|packet| {
                let lost = lost(packet.sequence);
                plain(later(packet), lost)
            }),
            &counts,
        );
        assert_eq!(frames.len(), 100);
        assert_eq!((frames[49].end(), frames[50].at), (MediaTime::from_millis(1_000), MediaTime::from_millis(4_000)));
    }

    #[test]
    fn a_new_run_goes_on_by_the_wall_clock() {
        let now = Instant::now();
        let mut out = Vec::new();
        let (mut decoder, counts) = (Decoder::new().unwrap(), Counts::default());
        let mut all = packets(2).into_iter();
        decoder.decode(&plain(all.next().unwrap(), 0), &counts, &mut out);
        let packet = Packet { timestamp: 7, arrived: now + std::time::Duration::from_secs(5), ..all.next().unwrap() };
        decoder.decode(&InOrder { packet, lost: 0, new_run: true }, &counts, &mut out);
        let step = out[1].at.as_millis();
        assert!((4_900..=5_200).contains(&step), "{step}");
    }

    #[test]
    fn frames_of_every_length_keep_the_clock() {
        for ms_tenths in [25, 50, 100, 200, 400, 600, 800, 1_000, 1_200usize] {
            let mut encoder = ::opus::Encoder::new(48_000, Channels::Mono, Application::Voip).unwrap();
            let ticks = ms_tenths * 48 / 10;
            let Ok(payload) = encoder.encode_vec(&vec![500; ticks], 1_500) else { panic!("{ms_tenths}") };
            let now = Instant::now();
            let counts = Counts::default();
            let frames = decode(
                [(0u16, 0), (1, 0), (3, 1)]
                    .map(|(n, lost)| plain(at(n, u32::from(n) * ticks as u32, payload.clone(), now), lost)),
                &counts,
            );
            assert!(unbroken(&frames), "{ms_tenths}");
            assert_eq!(frames.last().unwrap().end(), MediaTime::from_micros(ms_tenths as u64 * 400), "{ms_tenths}");
            assert_eq!(counts.get(Count::DecodeErrors), 0);
        }
    }

    #[test]
    fn garbage_is_counted_and_concealed_and_the_stream_goes_on() {
        let counts = Counts::default();
        let frames = decode(
            packets(50).into_iter().map(|packet| {
                let payload =
                    if packet.sequence % 10 == 5 { Bytes::from_static(&[0xff; 3]) } else { packet.payload.clone() };
                plain(Packet { payload, ..packet }, 0)
            }),
            &counts,
        );
        assert_eq!(counts.get(Count::DecodeErrors), 5);
        assert!(unbroken(&frames) && frames.last().unwrap().end() == MediaTime::from_millis(1_000));
    }

    proptest! {
        #[test]
        fn no_packet_panics_and_the_clock_never_goes_back(
            packets in prop::collection::vec(
                (prop::collection::vec(any::<u8>(), 1..60), prop_oneof![Just(960u32), 0u32..6_000, any::<u32>()], 0u16..9, prop::bool::weighted(0.05)),
                1..40,
            ),
        ) {
            let (mut decoder, counts) = (Decoder::new().unwrap(), Counts::default());
            let (mut timestamp, mut out) = (0u32, Vec::new());
            let now = Instant::now();
            for (payload, step, lost, new_run) in packets {
                timestamp = timestamp.wrapping_add(step);
                decoder.decode(&InOrder { packet: at(0, timestamp, payload, now), lost, new_run }, &counts, &mut out);
            }
            prop_assert!(out.windows(2).all(|pair| pair[0].end() <= pair[1].at + MediaTime::from_micros(1)));
            prop_assert!(out.iter().all(|frame| !frame.samples.is_empty() && frame.samples.len() <= 1_920));
        }
    }
}
