//! The official JS client (`amazon-kinesis-video-streams-webrtc`), unmodified, with its own signer and TLS.

use std::path::PathBuf;

use crate::harness::{Channel, SECRET, cloud};

/// Where `tests/js/fetch` puts the bundle.
fn bundle() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| here().join("../target"), PathBuf::from);
    target.join("js/package/dist/kvs-webrtc.min.js")
}

fn here() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

#[tokio::test]
async fn the_official_js_client_holds_a_session_in_both_roles() {
    if !bundle().exists() {
        println!("skipped: no JS client; run local-cloud/tests/js/fetch (needs npm)");
        return;
    }
    let version = tokio::process::Command::new("node").arg("--version").output().await;
    if !version.is_ok_and(|output| output.status.success()) {
        println!("skipped: no node");
        return;
    }
    let cloud = cloud().await;
    let channel = Channel::create(&cloud, "s").await;
    let trusted = std::env::temp_dir().join(format!("local-cloud-js-{}.pem", std::process::id()));
    std::fs::write(&trusted, cloud.certificate_pem()).expect("written");
    let session = tokio::process::Command::new("node")
        .arg("--experimental-websocket")
        .arg(here().join("tests/js/session.mjs"))
        .arg(bundle())
        .env("NODE_EXTRA_CA_CERTS", &trusted)
        .env("MASTER", &channel.master)
        .env("VIEWER", &channel.viewer)
        .env("ARN", &channel.arn)
        .env("SECRET", SECRET)
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(std::time::Duration::from_secs(60), session).await;
    std::fs::remove_file(&trusted).expect("removed");
    let output = output.expect("node ends in time").expect("node runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
}
