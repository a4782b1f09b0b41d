//! Signaling channels against the local cloud, signatures checked; and one service that answers too late.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use http::StatusCode;
use local_cloud::LocalCloud;
use serde_json::json;

use super::fake::{self, Fake};
use super::kvs::{self, Channel, KvsError, Role};
use super::{Clients, Settings};

const TTL: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_channel_lives_from_creation_to_deletion() {
    let (cloud, clients) = cloud(Settings::default()).await;
    let channel = kvs::create_channel(&clients, "session-a", TTL, &[("app", "babelcast")]).await.unwrap();
    assert_eq!(channel.name, "session-a");
    assert!(channel.arn.starts_with("arn:aws:kinesisvideo:us-east-1:123456789012:channel/session-a/"));

    let master = kvs::endpoints(&clients, &channel.arn, Role::Master).await.unwrap();
    let viewer = kvs::endpoints(&clients, &channel.arn, Role::Viewer).await.unwrap();
    assert_ne!(master.wss, viewer.wss);
    let servers = kvs::ice_servers(&clients, &channel.arn, &viewer.https, "viewer-1").await.unwrap();
    assert!(!servers.is_empty());
    assert!(servers.iter().all(|server| !server.urls.is_empty() && server.credential.is_some()));

    kvs::delete_channel(&clients, &channel.arn).await.unwrap();
    kvs::delete_channel(&clients, &channel.arn).await.unwrap();
    assert!(cloud.kvs().channel_names().is_empty());
    assert_eq!(kvs::endpoints(&clients, &channel.arn, Role::Viewer).await, Err(KvsError::NotFound));
}

#[tokio::test]
async fn a_name_that_is_taken_is_told_at_once() {
    let (_cloud, clients) = cloud(Settings::default()).await;
    kvs::create_channel(&clients, "session-a", TTL, &[]).await.unwrap();
    let error = kvs::create_channel(&clients, "session-a", TTL, &[]).await.unwrap_err();
    assert_eq!(error, KvsError::InUse);
    assert!(!error.retryable());
}

#[tokio::test]
async fn throttling_is_waited_out() {
    let (cloud, clients) = cloud(Settings::default()).await;
    cloud.kvs().chaos(|chaos| chaos.throttle_calls = 3);
    let channel = kvs::create_channel(&clients, "session-a", TTL, &[]).await.unwrap();
    cloud.kvs().chaos(|chaos| chaos.throttle_calls = 2);
    kvs::delete_channel(&clients, &channel.arn).await.unwrap();
}

#[tokio::test]
async fn lasting_throttling_is_told() {
    let (cloud, clients) = cloud(Settings { control_timeout_ms: 600, ..Settings::default() }).await;
    cloud.kvs().chaos(|chaos| chaos.throttle_calls = 1_000);
    let error = kvs::create_channel(&clients, "session-a", TTL, &[]).await.unwrap_err();
    assert_eq!(error, KvsError::Throttled);
    assert!(error.retryable());
}

#[tokio::test]
async fn creation_waits_until_the_channel_is_active() {
    let (cloud, clients) = cloud(Settings::default()).await;
    cloud.kvs().chaos(|chaos| chaos.creating_ms = 800);
    let channel = kvs::create_channel(&clients, "session-a", TTL, &[]).await.unwrap();
    kvs::endpoints(&clients, &channel.arn, Role::Master).await.unwrap();
}

#[tokio::test]
async fn a_channel_that_never_becomes_active_is_not_left_behind() {
    let settings = Settings { channel_active_timeout_ms: 500, ..Settings::default() };
    let (cloud, clients) = cloud(settings).await;
    cloud.kvs().chaos(|chaos| chaos.creating_ms = 1_500);
    assert_eq!(kvs::create_channel(&clients, "session-a", TTL, &[]).await, Err(KvsError::Timeout));
    assert!(cloud.kvs().channel_names().is_empty());
}

#[tokio::test]
async fn channels_are_listed_by_prefix() {
    let (_cloud, clients) = cloud(Settings::default()).await;
    for name in ["session-a", "session-b", "other-c"] {
        kvs::create_channel(&clients, name, TTL, &[]).await.unwrap();
    }
    let mut names: Vec<_> = kvs::list_channels(&clients, "session-").await.unwrap().into_iter().map(named).collect();
    names.sort();
    assert_eq!(names, ["session-a", "session-b"]);
    assert!(kvs::list_channels(&clients, "nothing").await.unwrap().is_empty());
}

#[tokio::test]
async fn presigned_urls_open_signaling_sockets() {
    let (cloud, clients) = cloud(Settings::default()).await;
    let channel = kvs::create_channel(&clients, "session-a", TTL, &[]).await.unwrap();
    let master = kvs::endpoints(&clients, &channel.arn, Role::Master).await.unwrap();
    let viewer = kvs::endpoints(&clients, &channel.arn, Role::Viewer).await.unwrap();
    let url = clients.presign_master(&master.wss, &channel.arn).await.unwrap();
    let (_master, _) = tokio_tungstenite::connect_async(url.as_str()).await.unwrap();
    let url = clients.presign_viewer(&viewer.wss, &channel.arn, "srv-a-1").await.unwrap();
    let (_viewer, _) = tokio_tungstenite::connect_async(url.as_str()).await.unwrap();
    assert!(cloud.kvs().has_master("session-a"));
    assert_eq!(cloud.kvs().viewers("session-a"), ["srv-a-1"]);
}

#[tokio::test]
async fn a_wrong_secret_is_denied() {
    let settings =
        local_cloud::Settings { secret: Some("another".to_owned().into()), ..local_cloud::Settings::default() };
    let cloud = LocalCloud::start(settings).await.unwrap();
    let clients = fake::clients(&cloud.http_url(), Settings::default()).await;
    let error = kvs::create_channel(&clients, "session-a", TTL, &[]).await.unwrap_err();
    assert!(matches!(error, KvsError::Denied(_)) && !error.retryable(), "{error:?}");
}

#[tokio::test]
async fn nobody_there_is_unavailable() {
    let settings = Settings { control_timeout_ms: 300, ..Settings::default() };
    let clients = fake::clients("http://127.0.0.1:1", settings).await;
    let error = kvs::delete_channel(&clients, ARN).await.unwrap_err();
    assert!(matches!(error, KvsError::Unavailable(_)) && error.retryable(), "{error:?}");
}

#[tokio::test]
async fn a_creation_whose_answer_was_lost_is_recognised_as_our_own() {
    let fake = Fake::serve(forgetful(SystemTime::now())).await;
    let created = kvs::create_channel(&fake.clients(Settings::default()).await, "session-a", TTL, &[]).await;
    let created = created.map(|channel| (channel.arn, channel.name));
    assert_eq!(created, Ok((ARN.to_owned(), "session-a".to_owned())));
}

#[tokio::test]
async fn an_older_channel_of_the_same_name_is_not_taken_over() {
    let fake = Fake::serve(forgetful(SystemTime::now() - Duration::from_secs(3_600))).await;
    let created = kvs::create_channel(&fake.clients(Settings::default()).await, "session-a", TTL, &[]).await;
    assert_eq!(created, Err(KvsError::InUse));
}

const ARN: &str = "arn:aws:kinesisvideo:us-east-1:123456789012:channel/session-a/1700000000123";

/// Fails the first creation and then says that the channel is there, since `created`.
fn forgetful(created: SystemTime) -> Router {
    let create = |State(calls): State<Arc<AtomicU32>>| async move {
        match calls.fetch_add(1, Ordering::Relaxed) {
            0 => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            _ => in_use(),
        }
    };
    let seconds = created.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let info = json!({"ChannelInfo": {"ChannelARN": ARN, "ChannelStatus": "ACTIVE", "CreationTime": seconds}});
    Router::new()
        .route("/createSignalingChannel", post(create))
        .route("/describeSignalingChannel", post(async move || Json(info)))
        .with_state(Arc::default())
}

fn in_use() -> Response {
    let error = [("x-amzn-errortype", "ResourceInUseException")];
    (StatusCode::BAD_REQUEST, error, Json(json!({"Message": "taken"}))).into_response()
}

/// Signatures are checked, and signaling is plain `ws`.
async fn cloud(settings: Settings) -> (LocalCloud, Clients) {
    let local = local_cloud::Settings {
        secret: Some("test".to_owned().into()),
        plain_signaling: true,
        ..local_cloud::Settings::default()
    };
    let cloud = LocalCloud::start(local).await.unwrap();
    let clients = fake::clients(&cloud.http_url(), settings).await;
    (cloud, clients)
}

fn named(channel: Channel) -> String {
    channel.name
}
