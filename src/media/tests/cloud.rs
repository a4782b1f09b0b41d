//! Viewer and master over local-cloud's signaling, under TLS with the development certificate.

use local_cloud::LocalCloud;

use super::*;
use crate::media::socket::{SocketError, tls};

/// A channel's name in every signaling URL; local-cloud asks for no signature here.
async fn channel(cloud: &LocalCloud) -> String {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let create = reqwest::Client::new().post(format!("{}/createSignalingChannel", cloud.http_url()));
    let created = create.json(&serde_json::json!({"ChannelName": "session-a"})).send().await.unwrap();
    let created: serde_json::Value = created.json().await.unwrap();
    created["ChannelARN"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn speech_comes_over_wss_with_the_development_certificate() {
    let cloud = LocalCloud::start(local_cloud::Settings::default()).await.unwrap();
    let arn = channel(&cloud).await;
    let master_url = format!("{}/m?X-Amz-ChannelARN={arn}", cloud.wss_url());
    let access = move || {
        let url = master_url.clone();
        async move { Ok(Access { url, ice_servers: vec![] }) }
    };
    let trust = tls(Some(cloud.certificate_pem().as_bytes())).unwrap();
    let policy = CandidatePolicy::LOCAL;
    let settings = Settings { tls: Arc::clone(&trust), policy, rate: 16_000, expected_loss: 10 };
    let _master = Master::connect(access, settings).await.unwrap();
    let url = format!("{}/v?X-Amz-ChannelARN={arn}&X-Amz-ClientId=srv-a-1", cloud.wss_url());
    let attempt = Attempt { url, client_id: "srv-a-1".into(), ice_servers: vec![], policy, tls: trust };
    let counts = Arc::new(Counts::default());
    let hear = connect(attempt.clone(), Arc::clone(&counts), CancellationToken::new());
    let mut hearing = timeout(SOON, hear).await.unwrap().unwrap();
    listen_for(&mut hearing, Duration::from_millis(200)).await;

    let suspicious = Attempt { tls: tls(None).unwrap(), ..attempt };
    let refused = connect(suspicious, counts, CancellationToken::new()).await;
    assert!(matches!(refused, Err(ViewerError::Socket(SocketError::Io(_) | SocketError::Protocol(_)))));

    cloud.kvs().go_away();
    event(&mut hearing, |event| *event == Event::GoAway).await;
    listen_for(&mut hearing, Duration::from_millis(200)).await;
    cloud.stop().await;
    event(&mut hearing, |event| *event == Event::SignalingClosed).await;
    listen_for(&mut hearing, Duration::from_millis(500)).await;
}
