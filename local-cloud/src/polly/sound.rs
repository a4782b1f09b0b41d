//! Sound in the formats that clients ask for.
//!
//! MP3 is made by the Debian package lame as a child process: there is no encoder in Rust that is kept, and its library
//! would have to be linked. Opus is made by libopus. Deliberately absent: Vorbis, the telephone codecs and speech marks.

use std::path::Path;
use std::time::Duration;

use ogg::{PacketWriteEndInfo, PacketWriter};
use opus::{Application, Bitrate, Channels};

use super::child;
use super::engine::{EngineError, Sound};
use super::request::Format;
use crate::engine::resample::Resampler;

const LAME_TIMEOUT: Duration = Duration::from_secs(20);
const MAX_MP3: usize = 16 << 20;
/// What the encoder is fed; decoders hear 48 kHz whatever this is.
const OPUS_RATE: u32 = 24_000;
const OPUS_FRAME: usize = OPUS_RATE as usize / 50;
/// Ticks of the 48 kHz clock in 20 ms.
const OPUS_TICKS: u64 = 960;
const SERIAL: u32 = 0x706f_6c6c;

/// `rate` is what the client asked for, one that the format has.
pub(super) async fn encode(sound: Sound, format: Format, rate: u32) -> Result<Vec<u8>, EngineError> {
    match format {
        Format::Mp3 => mp3(&sound, rate).await,
        Format::Pcm => off_the_runtime(move || Ok(bytes(&Resampler::all(sound.rate, rate, &sound.samples)))).await,
        Format::OggOpus => off_the_runtime(move || ogg_opus(&sound)).await,
        Format::OggVorbis => Err(EngineError::NoSuchFormat("ogg_vorbis")),
        Format::Mulaw => Err(EngineError::NoSuchFormat("mulaw")),
        Format::Alaw => Err(EngineError::NoSuchFormat("alaw")),
        Format::Marks => Err(EngineError::NoSuchFormat("speech marks")),
    }
}

async fn off_the_runtime<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
) -> Result<T, EngineError> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.unwrap_or_else(|error| Err(EngineError::Failed { program: "the encoder", why: error.to_string() }))
}

fn bytes(samples: &[i16]) -> Vec<u8> {
    samples.iter().flat_map(|sample| sample.to_le_bytes()).collect()
}

async fn mp3(sound: &Sound, rate: u32) -> Result<Vec<u8>, EngineError> {
    let kilohertz = |rate: u32| format!("{}", f64::from(rate) / 1_000.0);
    let (from, to) = (kilohertz(sound.rate), kilohertz(rate));
    // Constant bit rate and no info frame: what comes first is sound, as with Polly.
    let form = ["--quiet", "-t", "--cbr", "-r", "--bitwidth", "16", "--signed", "--little-endian", "-m", "m"];
    let arguments = form.into_iter().chain(["-s", &from, "--resample", &to, "-b", bit_rate(rate), "-", "-"]);
    let arguments: Vec<&str> = arguments.collect();
    let input = bytes(&sound.samples);
    child::run("lame", Path::new("lame"), &arguments, &input, MAX_MP3, LAME_TIMEOUT).await
}

/// In kbit/s. MPEG 2.5, 2 and 1 have different lists of rates; Polly's choices.
const fn bit_rate(rate: u32) -> &'static str {
    match rate {
        0..=8_000 => "24",
        8_001..=24_000 => "48",
        24_001.. => "64",
    }
}

fn ogg_opus(sound: &Sound) -> Result<Vec<u8>, EngineError> {
    let failed = |error: &dyn std::error::Error| EngineError::Failed { program: "libopus", why: error.to_string() };
    let samples = Resampler::all(sound.rate, OPUS_RATE, &sound.samples);
    let mut encoder =
        opus::Encoder::new(OPUS_RATE, Channels::Mono, Application::Audio).map_err(|error| failed(&error))?;
    encoder.set_bitrate(Bitrate::Bits(32_000)).map_err(|error| failed(&error))?;
    let ahead = encoder.get_lookahead().map_err(|error| failed(&error))?;
    // What decoders drop at the beginning, in ticks of 48 kHz.
    let skip = u64::from(ahead.unsigned_abs()) * u64::from(48_000 / OPUS_RATE);
    let length = samples.len() as u64 * u64::from(48_000 / OPUS_RATE);
    // As many frames as bring out the last sample behind what is dropped.
    let frames = (skip + length).div_ceil(OPUS_TICKS).max(1);

    let mut ogg = Vec::new();
    let mut writer = PacketWriter::new(&mut ogg);
    let mut write = |packet: Vec<u8>, end, position| {
        writer.write_packet(packet, SERIAL, end, position).map_err(|error| failed(&error))
    };
    let mut head = b"OpusHead\x01\x01".to_vec();
    head.extend((skip as u16).to_le_bytes());
    head.extend(48_000_u32.to_le_bytes());
    head.extend([0; 3]);
    write(head, PacketWriteEndInfo::EndPage, 0)?;
    let mut tags = b"OpusTags\x0b\0\0\0local-cloud".to_vec();
    tags.extend([0; 4]);
    write(tags, PacketWriteEndInfo::EndPage, 0)?;
    for index in 0..frames {
        let from = (index as usize * OPUS_FRAME).min(samples.len());
        let until = (from + OPUS_FRAME).min(samples.len());
        let mut frame = samples[from..until].to_vec();
        frame.resize(OPUS_FRAME, 0);
        let packet = encoder.encode_vec(&frame, 4_000).map_err(|error| failed(&error))?;
        match index + 1 == frames {
            // The last position tells where the sound ends within the last frame.
            true => write(packet, PacketWriteEndInfo::EndStream, skip + length)?,
            false => write(packet, PacketWriteEndInfo::NormalPacket, (index + 1) * OPUS_TICKS)?,
        }
    }
    Ok(ogg)
}
