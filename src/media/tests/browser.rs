//! A real browser as the speaker: headless Chromium with a WAV file for a microphone. Skipped where there is none.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::{Child, Command};

use super::*;

/// A master's page in as few words as it takes; our own reference page is richer.
const PAGE: &str = r"<!doctype html><script type=module>
const audio = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
const microphone = await navigator.mediaDevices.getUserMedia({ audio });
const socket = new WebSocket(location.href.replace('http', 'ws') + 'm');
const calls = new Map();
const send = (action, payload, recipientClientId) =>
  socket.send(JSON.stringify({ action, messagePayload: btoa(JSON.stringify(payload)), recipientClientId }));
socket.onmessage = async ({ data }) => {
  const { messageType, messagePayload, senderClientId } = JSON.parse(data);
  const payload = JSON.parse(atob(messagePayload));
  if (messageType == 'SDP_OFFER') {
    const call = new RTCPeerConnection();
    calls.set(senderClientId, call);
    call.onicecandidate = ({ candidate }) => candidate && send('ICE_CANDIDATE', candidate, senderClientId);
    microphone.getTracks().forEach(track => call.addTrack(track, microphone));
    await call.setRemoteDescription(payload);
    await call.setLocalDescription();
    send('SDP_ANSWER', call.localDescription, senderClientId);
  } else if (messageType == 'ICE_CANDIDATE') {
    await calls.get(senderClientId)?.addIceCandidate(payload);
  }
};
</script>";

struct Browser {
    process: Child,
    home: PathBuf,
}

impl Browser {
    /// Kills the whole group: a browser is many processes, and its media lives in one of the others.
    fn kill(&self) {
        if let Some(group) = self.process.id() {
            let kill = std::process::Command::new("kill").args(["-9", "--", &format!("-{group}")]).status();
            assert!(kill.is_ok_and(|status| status.success()));
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.home);
    }
}

/// Chromium on the relay's page, speaking `spoken` again and again; none if it is not installed.
fn browser(relay: &Relay, name: &str, spoken: &[i16]) -> Option<Browser> {
    let chromium = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
    let Some(chromium) = chromium.iter().find(|path| Path::new(path).exists()) else {
        eprintln!("skipped: no Chromium here");
        return None;
    };
    let home = std::env::temp_dir().join(format!("babelcast-browser-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&home).unwrap();
    let file = home.join("spoken.wav");
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 16_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut wav = hound::WavWriter::create(&file, spec).unwrap();
    spoken.iter().for_each(|sample| wav.write_sample(*sample).unwrap());
    wav.finalize().unwrap();
    let process = Command::new(chromium)
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--use-fake-ui-for-media-stream"])
        .args(["--use-fake-device-for-media-stream", "--autoplay-policy=no-user-gesture-required"])
        .arg(format!("--use-file-for-fake-audio-capture={}", file.display()))
        .arg(format!("--user-data-dir={}", home.join("profile").display()))
        .arg(relay.page_url())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .process_group(0)
        .spawn()
        .unwrap();
    Some(Browser { process, home })
}

async fn hear_browser(relay: &Relay, client_id: &str, counts: &Arc<Counts>) -> Result<Hearing, ViewerError> {
    timeout(Duration::from_secs(60), relay.wait_for_master()).await.expect("the browser does not come");
    let attempt = attempt(relay, client_id);
    timeout(SOON, connect(attempt, Arc::clone(counts), CancellationToken::new())).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_is_heard_and_missed_when_it_is_killed() {
    let relay = Relay::start(Switches { page: PAGE, ..Switches::default() }).await;
    let spoken = speech();
    let Some(mut browser) = browser(&relay, "plain", &spoken) else { return };
    let counts = Arc::new(Counts::default());
    let mut hearing = hear_browser(&relay, "srv-a-1", &counts).await.unwrap();
    // The microphone's file loops: twice its length holds it whole.
    let length = Duration::from_secs_f64(2.0 * spoken.len() as f64 / 16_000.0);
    let heard = listen_for(&mut hearing, length).await;
    let share = audible(&spoken, &heard);
    eprintln!(
        "{:.1} % audible, {} lost, {} padding",
        share * 100.0,
        counts.get(Count::RtpLost),
        counts.get(Count::RtpPadding)
    );
    // The browser's own microphone stutters on a busy machine; nothing may be lost after it.
    assert!(share >= 0.85, "{share}");
    assert!(unbroken(&heard));
    assert_eq!((counts.get(Count::DecodeErrors), counts.get(Count::RtpForeign)), (0, 0));
    browser.kill();
    browser.process.wait().await.unwrap();
    let (lost, took) = event(&mut hearing, |event| matches!(event, Event::Lost(_))).await;
    eprintln!("{lost:?} after {took:?}");
    assert!(took < Duration::from_secs(4), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_is_heard_through_a_bad_network() {
    let relay = Relay::start(Switches { page: PAGE, network: Some(Network::losing(15)), ..Switches::default() }).await;
    let spoken = speech();
    let Some(_browser) = browser(&relay, "bad", &spoken) else { return };
    let counts = Arc::new(Counts::default());
    for n in 0..2 {
        let start = Instant::now();
        let hearing = hear_browser(&relay, &format!("srv-b-{n}"), &counts).await.unwrap();
        eprintln!("connected after {:?}", start.elapsed());
        hearing.close().await;
    }
    let mut hearing = hear_browser(&relay, "srv-a-1", &counts).await.unwrap();
    let heard = listen_for(&mut hearing, Duration::from_secs_f64(2.0 * spoken.len() as f64 / 16_000.0)).await;
    let share = audible(&spoken, &heard);
    eprintln!(
        "{:.1} % audible, {} lost, {} corrected, {} concealed",
        share * 100.0,
        counts.get(Count::RtpLost),
        counts.get(Count::FramesCorrected),
        counts.get(Count::FramesConcealed)
    );
    assert!(share >= 0.85, "{share}");
    assert!(unbroken(&heard));
}
