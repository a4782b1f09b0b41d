//! The chaos switches of the KVS part, seen from the clients' side.

use std::time::{Duration, Instant};

use local_cloud::kvs::Count;
use serde_json::json;

use crate::harness::{Channel, Ended, SECRET, browser, cloud, kinesis, start, until};

const OFFER: &str = r#"{"action":"SDP_OFFER","messagePayload":"b2ZmZXI="}"#;
const CANDIDATE: &str = r#"{"action":"ICE_CANDIDATE","messagePayload":"Yw=="}"#;

#[tokio::test]
async fn go_away_is_announced_and_carried_out_after_the_grace() {
    let cloud = start(|settings| settings.kvs.grace = Duration::from_millis(300)).await;
    let channel = Channel::create(&cloud, "s").await;
    let (mut master, mut viewer) = (channel.master().await, channel.viewer("a").await);
    let told = Instant::now();
    cloud.kvs().go_away();
    assert_eq!(master.hear().await, r#"{"messageType":"GO_AWAY"}"#);
    assert_eq!(viewer.hear().await, r#"{"messageType":"GO_AWAY"}"#);
    viewer.say(OFFER).await;
    assert_eq!(master.hear_kind().await.0, "SDP_OFFER", "messages pass during the grace");
    let mut reopened = channel.viewer("a").await;
    assert_eq!(master.ended().await, Ended::Closed(1001));
    assert!(told.elapsed() >= Duration::from_millis(300));
    let mut master = channel.master().await;
    reopened.say(OFFER).await;
    assert_eq!(master.hear_kind().await.0, "SDP_OFFER", "a connection made after GO_AWAY stays");
}

#[tokio::test]
async fn reconnect_ice_server_is_told_to_everyone() {
    let cloud = cloud().await;
    let channel = Channel::create(&cloud, "s").await;
    let mut viewer = channel.viewer("a").await;
    cloud.kvs().reconnect_ice_server();
    assert_eq!(viewer.hear().await, r#"{"messageType":"RECONNECT_ICE_SERVER"}"#);
}

#[tokio::test]
async fn cut_sockets_end_without_a_close_frame() {
    let cloud = cloud().await;
    let channel = Channel::create(&cloud, "s").await;
    let mut viewer = channel.viewer("a").await;
    cloud.kvs().cut_sockets();
    assert_eq!(viewer.ended().await, Ended::Broken);
    channel.viewer("a").await;
}

#[tokio::test]
async fn messages_vanish_or_come_twice_as_counted() {
    let cloud = cloud().await;
    let channel = Channel::create(&cloud, "s").await;
    let (mut master, mut viewer) = (channel.master().await, channel.viewer("a").await);
    cloud.kvs().chaos(|chaos| chaos.drop_messages = 1);
    viewer.say(OFFER).await;
    viewer.say(CANDIDATE).await;
    assert_eq!(master.hear_kind().await.0, "ICE_CANDIDATE");
    assert_eq!(cloud.kvs().counts().get(Count::MessagesDropped), 1);
    cloud.kvs().chaos(|chaos| chaos.duplicate_messages = 1);
    viewer.say(OFFER).await;
    viewer.say(CANDIDATE).await;
    let mut kinds = Vec::new();
    for _ in 0..3 {
        kinds.push(master.hear_kind().await.0);
    }
    assert_eq!(kinds, ["SDP_OFFER", "SDP_OFFER", "ICE_CANDIDATE"]);
}

#[tokio::test]
async fn a_candidate_overtakes_the_sdp() {
    let cloud = cloud().await;
    let channel = Channel::create(&cloud, "s").await;
    let (mut master, mut viewer) = (channel.master().await, channel.viewer("a").await);
    cloud.kvs().chaos(|chaos| chaos.hold_sdp_ms = 10_000);
    viewer.say(OFFER).await;
    viewer.say(CANDIDATE).await;
    assert_eq!(master.hear_kind().await.0, "ICE_CANDIDATE");
    assert_eq!(master.hear_kind().await.0, "SDP_OFFER");
}

#[tokio::test]
async fn messages_are_late_by_the_delay() {
    let cloud = start(|settings| settings.kvs.chaos.message_delay_ms = 200).await;
    let channel = Channel::create(&cloud, "s").await;
    let (mut master, mut viewer) = (channel.master().await, channel.viewer("a").await);
    let said = Instant::now();
    viewer.say(OFFER).await;
    master.hear().await;
    assert!(said.elapsed() >= Duration::from_millis(200));
}

#[tokio::test]
async fn handshakes_are_forbidden_and_throttled_as_counted() {
    let cloud = cloud().await;
    let channel = Channel::create(&cloud, "s").await;
    cloud.kvs().chaos(|chaos| {
        chaos.forbid_handshakes = 1;
        chaos.throttle_handshakes = 1;
    });
    let url = channel.url(&channel.master, None);
    let refused = channel.dial(&url).await.err().expect("forbidden");
    assert_eq!((refused.status, refused.error_type.as_str()), (403, "AccessDeniedException"));
    let refused = channel.dial(&url).await.err().expect("throttled");
    assert_eq!((refused.status, refused.error_type.as_str()), (400, "ClientLimitExceededException"));
    channel.dial(&url).await.expect("connected");
}

#[tokio::test]
async fn held_messages_expire() {
    let cloud = cloud().await;
    // The shortest life the service allows is 5 s: the one test that has to wait for it.
    let channel = Channel::create_with_ttl(&cloud, "s", 5).await;
    let mut viewer = channel.viewer("a").await;
    viewer.say(OFFER).await;
    tokio::time::sleep(Duration::from_millis(5_100)).await;
    viewer.say(CANDIDATE).await;
    let mut master = channel.master().await;
    assert_eq!(master.hear_kind().await.0, "ICE_CANDIDATE");
    assert_eq!(cloud.kvs().counts().get(Count::MessagesExpired), 1);
}

#[tokio::test]
async fn faults_can_be_ordered_from_another_process() {
    let cloud = start(|settings| settings.kvs.grace = Duration::from_millis(50)).await;
    let channel = Channel::create(&cloud, "s").await;
    let mut viewer = channel.viewer("a").await;
    let url = format!("{}/dev/kvs", cloud.http_url());
    let client = browser();
    let order = json!({ "chaos": { "throttleCalls": 2 }, "do": ["goAway"] });
    let answer = client.post(&url).json(&order).send().await.expect("an answer");
    let state: serde_json::Value = answer.json().await.expect("json");
    assert_eq!((&state["chaos"]["throttleCalls"], &state["channels"]), (&json!(2), &json!(["s"])));
    assert_eq!(viewer.hear().await, r#"{"messageType":"GO_AWAY"}"#);
    assert_eq!(viewer.ended().await, Ended::Closed(1001));
    let wrong = client.post(&url).json(&json!({ "chaos": { "throtleCalls": 2 } })).send().await.expect("an answer");
    assert_eq!(wrong.status(), 400);
}

#[tokio::test]
async fn fifty_channels_come_and_go_without_leaving_anything_behind() {
    let cloud = start(|settings| settings.kvs.lifetime = Duration::MAX).await;
    let kinesis = kinesis(&cloud, &cloud.http_url(), SECRET);
    for round in 0..50 {
        let channel = Channel::create(&cloud, &format!("s{round}")).await;
        let (mut master, mut viewer) = (channel.master().await, channel.viewer("a").await);
        viewer.say(OFFER).await;
        master.hear().await;
        match round % 3 {
            0 => drop((master, viewer)),
            1 => cloud.kvs().cut_sockets(),
            _ => viewer.close().await,
        }
        kinesis.delete_signaling_channel().channel_arn(&channel.arn).send().await.expect("deleted");
    }
    let counts = cloud.kvs().counts();
    until("every socket has ended", || counts.get(Count::SocketsClosed) == counts.get(Count::SocketsOpened)).await;
    assert_eq!(counts.get(Count::SocketsOpened), 100);
    assert!(cloud.kvs().channel_names().is_empty());
}
