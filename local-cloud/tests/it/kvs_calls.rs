//! The control plane and the ICE configuration, called by the official Rust SDK.

use aws_sdk_kinesisvideo::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kinesisvideo::types::{
    ChannelNameCondition, ChannelRole, ChannelType, ComparisonOperator, MediaStorageConfigurationStatus,
    SingleMasterConfiguration, Status, Tag,
};
use local_cloud::kvs::{Count, IceServer, IceServers};

use crate::harness::{self, Channel, SECRET, browser, cloud, endpoints, ice_client, kinesis, start};

#[tokio::test]
async fn the_sdk_leads_a_channel_through_its_life() {
    let cloud = cloud().await;
    let kinesis = kinesis(&cloud, &cloud.http_url(), SECRET);
    let created = kinesis
        .create_signaling_channel()
        .channel_name("session-blessed-covenant-420")
        .channel_type(ChannelType::SingleMaster)
        .single_master_configuration(SingleMasterConfiguration::builder().message_ttl_seconds(10).build())
        .tags(Tag::builder().key("owner").value("speaker-1").build().expect("a tag"))
        .send()
        .await
        .expect("created");
    let arn = created.channel_arn().expect("an ARN");
    assert!(arn.starts_with("arn:aws:kinesisvideo:us-east-1:123456789012:channel/session-blessed-covenant-420/"));

    let described = kinesis.describe_signaling_channel().channel_name("session-blessed-covenant-420").send().await;
    let info = described.expect("described").channel_info.expect("info");
    assert_eq!(info.channel_arn(), Some(arn));
    assert_eq!(info.channel_status(), Some(&Status::Active));
    assert_eq!(info.single_master_configuration().and_then(|c| c.message_ttl_seconds()), Some(10));
    let age = info.creation_time().expect("a time").secs() - jiffy();
    assert!(age.abs() < 60, "created {age} s from now");

    let update = kinesis.update_signaling_channel().channel_arn(arn).current_version(info.version().expect("one"));
    let longer = SingleMasterConfiguration::builder().message_ttl_seconds(20).build();
    update.single_master_configuration(longer).send().await.expect("updated");
    let stale = kinesis.delete_signaling_channel().channel_arn(arn).current_version(info.version().expect("one"));
    let stale = stale.send().await.expect_err("stale").into_service_error();
    assert!(stale.is_version_mismatch_exception());

    let tag = Tag::builder().key("expires").value("1").build().expect("a tag");
    kinesis.tag_resource().resource_arn(arn).tags(tag).send().await.expect("tagged");
    kinesis.untag_resource().resource_arn(arn).tag_key_list("owner").send().await.expect("untagged");
    let tags = kinesis.list_tags_for_resource().resource_arn(arn).send().await.expect("tags");
    assert_eq!(tags.tags().expect("a map").keys().collect::<Vec<_>>(), ["expires"]);

    let storage = kinesis.describe_media_storage_configuration().channel_arn(arn).send().await.expect("storage");
    let status = storage.media_storage_configuration().map(|c| c.status().clone());
    assert_eq!(status, Some(MediaStorageConfigurationStatus::Disabled));

    let twice = kinesis.create_signaling_channel().channel_name("session-blessed-covenant-420").send().await;
    assert!(twice.expect_err("taken").into_service_error().is_resource_in_use_exception());
    kinesis.delete_signaling_channel().channel_arn(arn).send().await.expect("deleted");
    let gone = kinesis.describe_signaling_channel().channel_arn(arn).send().await;
    assert!(gone.expect_err("gone").into_service_error().is_resource_not_found_exception());
}

fn jiffy() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    i64::try_from(now.as_secs()).expect("before the end of time")
}

#[tokio::test]
async fn channels_are_listed_in_pages_by_prefix() {
    let cloud = cloud().await;
    let kinesis = kinesis(&cloud, &cloud.http_url(), SECRET);
    for name in ["other", "session-a", "session-b", "session-c"] {
        kinesis.create_signaling_channel().channel_name(name).send().await.expect("created");
    }
    let condition = ChannelNameCondition::builder()
        .comparison_operator(ComparisonOperator::BeginsWith)
        .comparison_value("session-")
        .build();
    let list = kinesis.list_signaling_channels().channel_name_condition(condition).max_results(2);
    let mut pages = list.into_paginator().send();
    let mut names = Vec::new();
    while let Some(page) = pages.next().await {
        names.push(
            page.expect("a page")
                .channel_info_list()
                .iter()
                .map(|i| i.channel_name().expect("a name").to_owned())
                .collect::<Vec<_>>(),
        );
    }
    assert_eq!(names, [vec!["session-a", "session-b"], vec!["session-c"]]);
}

#[tokio::test]
async fn each_role_gets_its_own_socket_endpoint() {
    let cloud = cloud().await;
    let channel = Channel::create(&cloud, "s").await;
    assert_eq!(channel.master, format!("{}/m", cloud.wss_url()));
    assert_eq!(channel.viewer, format!("{}/v", cloud.wss_url()));
    assert_eq!(channel.calls, cloud.https_url());
}

#[tokio::test]
async fn endpoints_can_be_plain_and_name_another_host() {
    let cloud = start(|settings| {
        settings.plain_signaling = true;
        settings.host = "localhost".into();
    })
    .await;
    let channel = Channel::create(&cloud, "s").await;
    assert!(channel.master.starts_with("ws://localhost:") && channel.master.ends_with("/m"), "{}", channel.master);
    assert_eq!(channel.calls, cloud.http_url());
    let mut master = channel.master().await;
    channel.viewer("a").await.say(r#"{"action":"SDP_OFFER","messagePayload":"e30="}"#).await;
    assert_eq!(master.hear_kind().await.0, "SDP_OFFER");
}

#[tokio::test]
async fn calls_work_over_tls_with_the_development_certificate() {
    let cloud = cloud().await;
    let kinesis = kinesis(&cloud, &cloud.https_url(), SECRET);
    kinesis.create_signaling_channel().channel_name("s").send().await.expect("created over TLS");
}

#[tokio::test]
async fn a_wrong_secret_is_refused_and_changes_nothing() {
    let cloud = cloud().await;
    let kinesis = kinesis(&cloud, &cloud.http_url(), "another secret");
    let refused = kinesis.create_signaling_channel().channel_name("s").send().await.expect_err("refused");
    assert_eq!(refused.raw_response().map(|raw| raw.status().as_u16()), Some(403));
    assert_eq!(refused.code(), Some("InvalidSignatureException"));
    assert!(cloud.kvs().channel_names().is_empty());
}

#[tokio::test]
async fn without_a_secret_every_signature_and_none_will_do() {
    let cloud = start(|settings| settings.secret = None).await;
    let kinesis = kinesis(&cloud, &cloud.http_url(), "whatever");
    kinesis.create_signaling_channel().channel_name("s").send().await.expect("created");
    let unsigned = browser().post(format!("{}/listSignalingChannels", cloud.http_url())).send().await;
    assert_eq!(unsigned.expect("an answer").status(), 200);
}

#[tokio::test]
async fn a_new_channel_is_creating_for_as_long_as_chaos_says() {
    let cloud = start(|settings| settings.kvs.chaos.creating_ms = 300).await;
    let kinesis = kinesis(&cloud, &cloud.http_url(), SECRET);
    let created = kinesis.create_signaling_channel().channel_name("s").send().await.expect("created");
    let arn = created.channel_arn.expect("an ARN");
    let early = kinesis.get_signaling_channel_endpoint().channel_arn(&arn).send().await.expect_err("early");
    assert!(early.into_service_error().is_resource_in_use_exception());
    loop {
        let described = kinesis.describe_signaling_channel().channel_arn(&arn).send().await.expect("described");
        match described.channel_info.expect("info").channel_status.expect("a status") {
            Status::Creating => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
            Status::Active => break,
            other => panic!("unexpected {other:?}"),
        }
    }
    endpoints(&kinesis, &arn, ChannelRole::Master).await;
}

#[tokio::test]
async fn bad_arguments_have_the_type_the_sdk_knows() {
    let cloud = cloud().await;
    let kinesis = kinesis(&cloud, &cloud.http_url(), SECRET);
    let named = kinesis.create_signaling_channel().channel_name("not a name").send().await.expect_err("refused");
    assert!(named.into_service_error().is_invalid_argument_exception());
    let mesh = kinesis.create_signaling_channel().channel_name("s").channel_type(ChannelType::FullMesh).send().await;
    assert!(mesh.expect_err("refused").into_service_error().is_invalid_argument_exception());
    let nobody = kinesis.describe_signaling_channel().send().await.expect_err("refused");
    assert!(nobody.into_service_error().is_invalid_argument_exception());
}

#[tokio::test]
async fn throttling_and_failing_calls_run_out_as_counted() {
    let cloud = cloud().await;
    let kinesis = kinesis(&cloud, &cloud.http_url(), SECRET);
    cloud.kvs().chaos(|chaos| chaos.throttle_calls = 1);
    let throttled = kinesis.create_signaling_channel().channel_name("s").send().await.expect_err("throttled");
    assert!(throttled.into_service_error().is_client_limit_exceeded_exception());
    cloud.kvs().chaos(|chaos| chaos.error_rate = 1.0);
    let refused_before = cloud.kvs().counts().get(Count::CallsRefused);
    let failed = kinesis.create_signaling_channel().channel_name("s").send().await.expect_err("failed");
    assert!(matches!(failed, SdkError::ServiceError(_)));
    assert!(cloud.kvs().counts().get(Count::CallsRefused) > refused_before + 1, "the SDK retries HTTP 500");
    cloud.kvs().chaos(|chaos| chaos.error_rate = 0.0);
    kinesis.create_signaling_channel().channel_name("s").send().await.expect("created");
}

#[tokio::test]
async fn the_ice_server_answers_binding_and_refuses_relaying_at_once() {
    let cloud = cloud().await;
    let channel = Channel::create(&cloud, "s").await;
    let ice = ice_client(&cloud, &channel.calls);
    let answer = ice.get_ice_server_config().channel_arn(&channel.arn).client_id("viewer-1").send().await.expect("ice");
    let [server] = answer.ice_server_list() else { panic!("one server, got {answer:?}") };
    assert_eq!(server.ttl(), Some(300));
    let username = server.username().expect("a user name");
    let (expiry, name) = username.split_once(':').expect("timestamp:name");
    assert!(expiry.parse::<i64>().expect("a number") > jiffy() && name == "viewer-1");
    let [uri] = server.uris() else { panic!("one URI") };
    let address =
        uri.strip_prefix("turn:").and_then(|rest| rest.strip_suffix("?transport=udp")).expect("turn over udp");

    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    socket.connect(address).await.expect("connected");
    for (request, answer) in [([0x00, 0x01], [0x01, 0x01]), ([0x00, 0x03], [0x01, 0x13])] {
        let mut datagram = request.to_vec();
        datagram.extend_from_slice(&[0, 0, 0x21, 0x12, 0xA4, 0x42]);
        datagram.extend_from_slice(b"transactions");
        socket.send(&datagram).await.expect("sent");
        let mut buffer = [0u8; 512];
        let received = tokio::time::timeout(harness::PATIENCE, socket.recv(&mut buffer)).await.expect("in time");
        assert!(received.expect("received") > 20);
        assert_eq!(buffer[..2], answer);
    }
}

#[tokio::test]
async fn the_ice_list_can_be_empty_or_given() {
    let given = IceServer {
        uris: vec!["turn:192.0.2.1:3478?transport=udp".into()],
        username: "u".into(),
        password: "p".into(),
        ttl: 30,
    };
    for (setting, expected) in [(IceServers::Empty, 0), (IceServers::Given(vec![given]), 1)] {
        let cloud = start(|settings| settings.kvs.ice = setting).await;
        let channel = Channel::create(&cloud, "s").await;
        let ice = ice_client(&cloud, &channel.calls);
        let answer = ice.get_ice_server_config().channel_arn(&channel.arn).send().await.expect("ice");
        assert_eq!(answer.ice_server_list().len(), expected);
    }
}
