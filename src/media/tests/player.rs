//! The endless stream and real players: ffmpeg and ffprobe, where they are installed.

use std::process::Stdio;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::media::dub::Dub;
use crate::media::ogg::Endless;

/// 24 kHz.
fn tone(hertz: f64, seconds: f64) -> Arc<[i16]> {
    let sample = |i| (8_000.0 * (f64::from(i) * hertz * std::f64::consts::TAU / 24_000.0).sin()) as i16;
    (0..(seconds * 24_000.0) as u32).map(sample).collect()
}

/// The dub over HTTP as small as it gets; the real door is in `web`.
pub(super) async fn serve(dub: Arc<Dub>) -> (String, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/audio/es", listener.local_addr().unwrap());
    let accept = async move {
        let mut clients = tokio::task::JoinSet::new();
        while let Ok((mut tcp, _)) = listener.accept().await {
            let mut endless = Endless::new(dub.blocks(), dub.rate(), "es");
            clients.spawn(async move {
                let _ = tcp.read(&mut [0; 4_096]).await;
                let header = b"HTTP/1.1 200 OK\r\ncontent-type: audio/ogg\r\nconnection: close\r\n\r\n";
                if tcp.write_all(header).await.is_err() {
                    return;
                }
                while let Some(page) = endless.next().await {
                    if tcp.write_all(&page).await.is_err() {
                        return;
                    }
                }
            });
        }
    };
    (url, AbortOnDropHandle::new(tokio::spawn(accept)))
}

async fn run(program: &str, arguments: &[&str]) -> Option<(Vec<u8>, String)> {
    let child = Command::new(program).args(arguments).stdin(Stdio::null()).kill_on_drop(true).output();
    match timeout(SOON, child).await.unwrap_or_else(|_| panic!("{program} does not end")) {
        Ok(done) => {
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            assert!(done.status.success(), "{program}: {said}");
            Some((done.stdout, said))
        }
        Err(_) => {
            eprintln!("skipped: no {program} here");
            None
        }
    }
}

/// The strength of a tone in 24 kHz samples, beside the whole.
fn share_of(hertz: f64, samples: &[i16]) -> f64 {
    let step = hertz * std::f64::consts::TAU / 24_000.0;
    let (mut re, mut im, mut all) = (0.0, 0.0, 0.0f64);
    for (i, sample) in samples.iter().enumerate() {
        let (sample, phase) = (f64::from(*sample), i as f64 * step);
        re += sample * phase.cos();
        im += sample * phase.sin();
        all += sample * sample;
    }
    2.0 * (re * re + im * im) / (samples.len() as f64 * all.max(1.0))
}

#[tokio::test(flavor = "multi_thread")]
async fn ffmpeg_hears_what_is_said_in_a_stream_that_it_joins_in_the_middle() {
    let dub = Arc::new(Dub::start(24_000, Arc::default()).unwrap());
    let start = Instant::now();
    let (url, _server) = serve(Arc::clone(&dub)).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    dub.place(start + Duration::from_millis(3_000), tone(440.0, 1.0));
    dub.place(start + Duration::from_millis(5_000), tone(880.0, 1.0));
    let arguments = ["-v", "warning", "-i", &url, "-t", "6", "-f", "s16le", "-ac", "1", "-ar", "24000", "-"];
    let began = Instant::now();
    let Some((pcm, said)) = run("ffmpeg", &arguments).await else { return };
    eprintln!("ffmpeg took {:?} for 6 s", began.elapsed());
    assert!(!said.contains("rror") && !said.contains("orrupt") && !said.contains("monoton"), "{said}");
    let heard: Vec<i16> = pcm.chunks_exact(2).map(|two| i16::from_le_bytes([two[0], two[1]])).collect();
    assert!(heard.len() >= 6 * 24_000 - 4_800, "{}", heard.len());
    let tenths: Vec<(f64, f64)> =
        heard.chunks_exact(2_400).map(|tenth| (share_of(440.0, tenth), share_of(880.0, tenth))).collect();
    let low = tenths.iter().filter(|(low, _)| *low > 0.9).count();
    let high = tenths.iter().filter(|(_, high)| *high > 0.9).count();
    assert!((8..=11).contains(&low) && (8..=11).contains(&high), "{tenths:?}");
    let at = |found: fn(&(f64, f64)) -> bool| tenths.iter().position(found).unwrap();
    let apart = at(|(_, high)| *high > 0.9) - at(|(low, _)| *low > 0.9);
    assert!((19..=21).contains(&apart), "two seconds apart: {apart}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ffprobe_knows_the_stream_and_its_clock_runs_as_ours() {
    let dub = Arc::new(Dub::start(24_000, Arc::default()).unwrap());
    let (url, _server) = serve(Arc::clone(&dub)).await;
    dub.place(Instant::now(), tone(440.0, 4.0));
    let entries = "stream=codec_name,sample_rate,channels:stream_tags:packet=pts_time,duration_time";
    let arguments = ["-v", "warning", "-show_entries", entries, "-of", "json", "-read_intervals", "%+4", &url];
    let Some((json, said)) = run("ffprobe", &arguments).await else { return };
    assert!(!said.contains("rror") && !said.contains("orrupt"), "{said}");
    let found: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let stream = &found["streams"][0];
    assert_eq!((stream["codec_name"].as_str(), stream["sample_rate"].as_str()), (Some("opus"), Some("48000")));
    assert_eq!(stream["channels"].as_u64(), Some(1));
    assert!(stream["tags"].to_string().to_lowercase().contains(r#""language":"es""#), "{stream}");
    let times: Vec<f64> =
        found["packets"].as_array().unwrap().iter().map(|p| p["pts_time"].as_str().unwrap().parse().unwrap()).collect();
    assert!(times.len() >= 190, "{}", times.len());
    assert!(times.windows(2).all(|pair| (pair[1] - pair[0] - 0.02).abs() < 1e-6), "{times:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_reading_loses_sound_and_neither_its_place_nor_anybody_elses() {
    let counts = Arc::new(Counts::default());
    let dub = Dub::start(16_000, Arc::clone(&counts)).unwrap();
    let (mut asleep, mut awake) = (Endless::new(dub.blocks(), 16_000, "es"), Endless::new(dub.blocks(), 16_000, "es"));
    let (mut late, mut whole) = (asleep.next().await.unwrap().to_vec(), Vec::new());
    // Longer than what is kept for a consumer.
    for _ in 0..40 {
        whole.extend(timeout(SOON, awake.next()).await.unwrap().unwrap());
    }
    assert_eq!(counts.get(Count::VoicePacketsLost), 0);
    for _ in 0..10 {
        late.extend(timeout(SOON, asleep.next()).await.unwrap().unwrap());
    }
    assert!(counts.get(Count::VoicePacketsLost) >= 50);
    for (bytes, pages) in [(whole, 40), (late, 11)] {
        let mut reader = ogg::PacketReader::new(std::io::Cursor::new(bytes));
        let packets: Vec<_> = std::iter::from_fn(|| reader.read_packet().expect("an unbroken stream")).collect();
        assert_eq!((packets.len(), packets.last().unwrap().absgp_page()), (2 + pages * 10, pages as u64 * 9_600));
    }
}
