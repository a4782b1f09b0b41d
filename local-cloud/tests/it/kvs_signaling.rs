//! The signaling sockets, dialled with presigned URLs as viewers and masters do.

use std::time::{Duration, SystemTime};

use tokio_tungstenite::tungstenite::Message;

use crate::harness::{Channel, Ended, SECRET, cloud, kinesis, presigned, start, until};

const OFFER: &str = r#"{"action":"SDP_OFFER","messagePayload":"b2ZmZXI=","correlationId":"corr-1"}"#;

async fn an_offer_is_answered(plain: bool) {
    let cloud = start(|settings| settings.plain_signaling = plain).await;
    let channel = Channel::create(&cloud, "s").await;
    assert!(channel.master.starts_with(if plain { "ws://" } else { "wss://" }));
    let mut master = channel.master().await;
    let mut viewer = channel.viewer("server-viewer_1.x").await;
    viewer.say(OFFER).await;
    assert_eq!(
        master.hear().await,
        r#"{"messagePayload":"b2ZmZXI=","messageType":"SDP_OFFER","senderClientId":"server-viewer_1.x"}"#
    );
    master.say(r#"{"action":"SDP_ANSWER","messagePayload":"YW5zd2Vy","recipientClientId":"server-viewer_1.x"}"#).await;
    assert_eq!(viewer.hear().await, r#"{"messagePayload":"YW5zd2Vy","messageType":"SDP_ANSWER"}"#);
    // As AWS's C SDK writes it.
    let c = "{\n\t\"action\": \"ICE_CANDIDATE\",\n\t\"RecipientClientId\": \"server-viewer_1.x\",\n\t\"MessagePayload\": \"Yw==\"\n}";
    master.say(c).await;
    assert_eq!(viewer.hear().await, r#"{"messagePayload":"Yw==","messageType":"ICE_CANDIDATE"}"#);
    viewer.close().await;
    until("the viewer's seat is free", || cloud.kvs().viewers("s").is_empty()).await;
    master.say("{}").await;
    cloud.stop().await;
    assert_eq!(master.ended().await, Ended::Closed(1001));
}

#[tokio::test]
async fn an_offer_is_answered_over_wss() {
    an_offer_is_answered(false).await;
}

#[tokio::test]
async fn an_offer_is_answered_over_ws() {
    an_offer_is_answered(true).await;
}

#[tokio::test]
async fn a_late_master_gets_the_held_offer_once() {
    let cloud = cloud().await;
    let channel = Channel::create(&cloud, "s").await;
    let mut viewer = channel.viewer("a").await;
    viewer.say(r#"{"action":"SDP_OFFER","messagePayload":"b2xk"}"#).await;
    viewer.say(r#"{"action":"ICE_CANDIDATE","messagePayload":"Yw=="}"#).await;
    viewer.say(r#"{"action":"SDP_OFFER","messagePayload":"bmV3"}"#).await;
    until("all three are held", || cloud.kvs().counts().get(local_cloud::kvs::Count::MessagesHeld) == 3).await;
    let mut master = channel.master().await;
    assert_eq!(master.hear_kind().await, ("SDP_OFFER".into(), "bmV3".into()));
    assert_eq!(master.hear_kind().await, ("ICE_CANDIDATE".into(), "Yw==".into()));
    let mut reloaded = channel.master().await;
    viewer.say(r#"{"action":"ICE_CANDIDATE","messagePayload":"bGFzdA=="}"#).await;
    assert_eq!(reloaded.hear_kind().await.1, "bGFzdA==", "delivery consumed the offer");
}

#[tokio::test]
async fn a_late_viewer_gets_the_held_answer() {
    let cloud = cloud().await;
    let channel = Channel::create(&cloud, "s").await;
    let mut master = channel.master().await;
    master.say(r#"{"action":"SDP_ANSWER","messagePayload":"YQ==","recipientClientId":"late"}"#).await;
    until("the answer is held", || cloud.kvs().counts().get(local_cloud::kvs::Count::MessagesHeld) == 1).await;
    assert_eq!(channel.viewer("late").await.hear_kind().await, ("SDP_ANSWER".into(), "YQ==".into()));
}

#[tokio::test]
async fn the_newest_master_and_the_newest_of_a_client_id_win() {
    let cloud = cloud().await;
    let channel = Channel::create(&cloud, "s").await;
    let mut old_master = channel.master().await;
    let mut master = channel.master().await;
    assert_eq!(old_master.ended().await, Ended::Closed(1001));
    let mut old_viewer = channel.viewer("a").await;
    let mut viewer = channel.viewer("a").await;
    assert_eq!(old_viewer.ended().await, Ended::Closed(1001));
    viewer.say(OFFER).await;
    assert_eq!(master.hear_kind().await.0, "SDP_OFFER");
    assert_eq!(cloud.kvs().viewers("s"), ["a"]);
}

#[tokio::test]
async fn the_eleventh_viewer_is_refused_before_the_upgrade() {
    let cloud = cloud().await;
    let channel = Channel::create(&cloud, "s").await;
    let mut viewers = Vec::new();
    for n in 0..10 {
        viewers.push(channel.viewer(&format!("viewer-{n}")).await);
    }
    let refused = channel.dial(&channel.url(&channel.viewer, Some("viewer-10"))).await.err().expect("refused");
    assert_eq!((refused.status, refused.error_type.as_str()), (400, "ClientLimitExceededException"));
    viewers.remove(0).close().await;
    until("a seat is free", || cloud.kvs().viewers("s").len() == 9).await;
    channel.viewer("viewer-10").await;
}

#[tokio::test]
async fn refused_handshakes_say_why() {
    let cloud = cloud().await;
    let channel = Channel::create(&cloud, "s").await;
    let refusal = async |url: String| {
        let refused = channel.dial(&url).await.err().expect("refused");
        (refused.status, refused.error_type, refused.body)
    };
    let now = SystemTime::now();
    let (status, kind, _) = refusal(presigned(&channel.master, &channel.arn, None, "wrong", now)).await;
    assert_eq!((status, kind.as_str()), (403, "AccessDeniedException"));
    let past = now - Duration::from_secs(400);
    let (status, _, body) = refusal(presigned(&channel.master, &channel.arn, None, SECRET, past)).await;
    assert!(status == 403 && body.contains("Signature expired"), "{body}");
    let future = now + Duration::from_secs(400);
    let (status, _, body) = refusal(presigned(&channel.master, &channel.arn, None, SECRET, future)).await;
    assert!(status == 403 && body.contains("not yet current"), "{body}");
    let (status, kind, _) = refusal(format!("{}?X-Amz-ChannelARN=x", channel.master)).await;
    assert_eq!((status, kind.as_str()), (403, "AccessDeniedException"));

    let unknown = channel.arn.replace("channel/s/", "channel/t/");
    let (status, kind, _) = refusal(presigned(&channel.master, &unknown, None, SECRET, now)).await;
    assert_eq!((status, kind.as_str()), (404, "ResourceNotFoundException"));
    for client_id in [None, Some("AWS_x"), Some("a%20b")] {
        let (status, kind, _) = refusal(channel.url(&channel.viewer, client_id)).await;
        assert_eq!((status, kind.as_str()), (400, "InvalidArgumentException"), "{client_id:?}");
    }
    channel.master().await;
}

#[tokio::test]
async fn a_refused_message_is_answered_only_when_it_has_a_correlation_id() {
    let cloud = cloud().await;
    let channel = Channel::create(&cloud, "s").await;
    let mut master = channel.master().await;
    master.say(r#"{"action":"SDP_ANSWER","messagePayload":"YQ=="}"#).await;
    master.say("not json").await;
    master.say("").await;
    master.send(Message::Binary(vec![1, 2, 3].into())).await;
    let long = "A".repeat(10_001);
    master
        .say(&format!(
            r#"{{"action":"SDP_ANSWER","messagePayload":"{long}","recipientClientId":"a","correlationId":"corr_2"}}"#
        ))
        .await;
    let status = master.hear_json().await;
    assert_eq!(status["messageType"], "STATUS_RESPONSE");
    assert_eq!(status["statusResponse"]["correlationId"], "corr_2");
    assert_eq!(status["statusResponse"]["errorType"], "InvalidArgumentException");
    assert_eq!(status["statusResponse"]["statusCode"], "400");
}

#[tokio::test]
async fn the_sub_protocol_of_the_c_client_is_echoed_and_none_is_made_up() {
    let cloud = cloud().await;
    let channel = Channel::create(&cloud, "s").await;
    let asked = channel.dial_with_protocol(&channel.url(&channel.master, None), "wss").await.expect("connected");
    assert_eq!(asked.protocol.as_deref(), Some("wss"));
    assert_eq!(channel.viewer("a").await.protocol, None);
}

#[tokio::test]
async fn pings_are_answered() {
    let cloud = cloud().await;
    let channel = Channel::create(&cloud, "s").await;
    let mut viewer = channel.viewer("a").await;
    viewer.send(Message::Ping(vec![7].into())).await;
    let pong = viewer.next().await;
    assert!(matches!(&pong, Some(Ok(Message::Pong(data))) if data[..] == [7]), "{pong:?}");
}

#[tokio::test]
async fn an_oversize_frame_ends_its_own_socket_only() {
    let cloud = cloud().await;
    let channel = Channel::create(&cloud, "s").await;
    let mut master = channel.master().await;
    let mut loud = channel.viewer("loud").await;
    let mut other = channel.viewer("other").await;
    loud.say(&"x".repeat(200 * 1024)).await;
    assert!(matches!(loud.ended().await, Ended::Closed(1009) | Ended::Broken));
    other.say(OFFER).await;
    assert_eq!(master.hear_json().await["senderClientId"], "other");
}

#[tokio::test]
async fn deleting_a_channel_closes_its_sockets() {
    let cloud = cloud().await;
    let channel = Channel::create(&cloud, "s").await;
    let mut master = channel.master().await;
    let kinesis = kinesis(&cloud, &cloud.http_url(), SECRET);
    kinesis.delete_signaling_channel().channel_arn(&channel.arn).send().await.expect("deleted");
    assert_eq!(master.ended().await, Ended::Closed(1001));
}

#[tokio::test]
async fn silent_sockets_are_closed_and_pings_keep_them_open() {
    let cloud = start(|settings| settings.kvs.idle = Duration::from_millis(400)).await;
    let channel = Channel::create(&cloud, "s").await;
    let mut silent = channel.viewer("silent").await;
    let mut lively = channel.viewer("lively").await;
    let mut pings = tokio::time::interval(Duration::from_millis(50));
    let ended = loop {
        tokio::select! {
            ended = silent.ended() => break ended,
            _ = pings.tick() => lively.send(Message::Ping(Vec::new().into())).await,
        }
    };
    assert_eq!(ended, Ended::Closed(1001));
    assert_eq!(cloud.kvs().viewers("s"), ["lively"]);
}

#[tokio::test]
async fn a_socket_is_told_to_go_before_its_hour_is_over() {
    let cloud = start(|settings| {
        settings.kvs.lifetime = Duration::from_millis(400);
        settings.kvs.grace = Duration::from_millis(200);
    })
    .await;
    let channel = Channel::create(&cloud, "s").await;
    let mut master = channel.master().await;
    assert_eq!(master.hear().await, r#"{"messageType":"GO_AWAY"}"#);
    assert_eq!(master.ended().await, Ended::Closed(1001));
}

#[tokio::test]
async fn rates_are_those_of_the_service_when_asked_for() {
    let cloud =
        start(|settings| settings.kvs.rates = Some(local_cloud::kvs::Rates { connects: 2, candidates: 20, sdp: 1 }))
            .await;
    let channel = Channel::create(&cloud, "s").await;
    let mut viewer = channel.viewer("a").await;
    channel.viewer("b").await;
    let refused = channel.dial(&channel.url(&channel.viewer, Some("c"))).await.err().expect("refused");
    assert_eq!((refused.status, refused.error_type.as_str()), (400, "ClientLimitExceededException"));
    viewer.say(OFFER).await;
    viewer.say(OFFER).await;
    let status = viewer.hear_json().await;
    assert_eq!(status["statusResponse"]["errorType"], "ClientLimitExceededException");
    assert_eq!(status["statusResponse"]["correlationId"], "corr-1");
}
