//! The REST calls: channels, tags, endpoints, ICE configuration; and `/dev/kvs` for faults from outside.
//!
//! Every call is a POST of PascalCase JSON (rest-json). Unknown members are ignored, as at AWS.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Kvs;
use super::channels::{DEFAULT_TTL_SECONDS, Tags, Which, check_tags};
use super::chaos::{Chaos, Count};
use super::frame::ClientId;
use crate::error::{AwsError, ErrorKind};

const DEFAULT_PAGE: usize = 500;
const MAX_PAGE: usize = 10_000;

type Answer = Result<Value, AwsError>;

pub(super) fn routes() -> Router<Arc<Kvs>> {
    Router::new()
        .route("/createSignalingChannel", post(|kvs, request| call(kvs, request, create)))
        .route("/describeSignalingChannel", post(|kvs, request| call(kvs, request, describe)))
        .route("/getSignalingChannelEndpoint", post(|kvs, request| call(kvs, request, endpoint)))
        .route("/deleteSignalingChannel", post(|kvs, request| call(kvs, request, delete)))
        .route("/listSignalingChannels", post(|kvs, request| call(kvs, request, list)))
        .route("/updateSignalingChannel", post(|kvs, request| call(kvs, request, update)))
        .route("/describeMediaStorageConfiguration", post(|kvs, request| call(kvs, request, describe_storage)))
        .route("/TagResource", post(|kvs, request| call(kvs, request, tag)))
        .route("/UntagResource", post(|kvs, request| call(kvs, request, untag)))
        .route("/ListTagsForResource", post(|kvs, request| call(kvs, request, list_tags)))
        .route("/v1/get-ice-server-config", post(|kvs, request| call(kvs, request, ice_config)))
        .route("/dev/kvs", get(look).post(meddle))
}

/// One call: read, signature, chaos, members, act.
async fn call<T: DeserializeOwned>(
    State(kvs): State<Arc<Kvs>>,
    request: Request,
    act: fn(&Kvs, T) -> Answer,
) -> Response {
    let answer = match kvs.admit(request).await {
        Ok(body) => read(&body).and_then(|asked| act(&kvs, asked)),
        Err(refusal) => Err(refusal),
    };
    match answer {
        Ok(value) => {
            kvs.counts.add(Count::CallsAnswered);
            axum::Json(value).into_response()
        }
        Err(refusal) => {
            kvs.counts.add(Count::CallsRefused);
            tracing::debug!(kvs.error = refusal.kind.name(), "KVS call refused");
            refusal.into_response()
        }
    }
}

impl Kvs {
    async fn admit(&self, request: Request) -> Result<Bytes, AwsError> {
        let (_, body) = self.gate.admit(request).await?;
        let chaos = self.switches.get();
        if !chaos.call_delay().is_zero() {
            tokio::time::sleep(chaos.call_delay()).await;
        }
        if self.switches.take(|chaos| &mut chaos.throttle_calls) {
            return Err(AwsError::new(ErrorKind::ClientLimitExceeded, "Rate exceeded"));
        }
        if rand::random::<f64>() < chaos.error_rate {
            return Err(AwsError::new(ErrorKind::InternalFailure, "Chaos: this call fails"));
        }
        Ok(body)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Named {
    channel_name: Option<String>,
    #[serde(rename = "ChannelARN")]
    channel_arn: Option<String>,
}

impl Named {
    fn which(&self) -> Result<Which<'_>, AwsError> {
        match (&self.channel_arn, &self.channel_name) {
            (Some(arn), _) => Ok(Which::Arn(arn)),
            (None, Some(name)) => Ok(Which::Name(name)),
            (None, None) => Err(AwsError::invalid("ChannelName or ChannelARN is required")),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SingleMaster {
    message_ttl_seconds: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Tag {
    key: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Create {
    channel_name: Option<String>,
    channel_type: Option<String>,
    single_master_configuration: Option<SingleMaster>,
    tags: Option<Vec<Tag>>,
}

fn create(kvs: &Kvs, asked: Create) -> Answer {
    let name = required(asked.channel_name, "ChannelName")?;
    if asked.channel_type.is_some_and(|kind| kind != "SINGLE_MASTER") {
        return Err(AwsError::invalid("ChannelType must be SINGLE_MASTER"));
    }
    let ttl = asked.single_master_configuration.and_then(|configuration| configuration.message_ttl_seconds);
    let tags = asked.tags.unwrap_or_default().into_iter().map(|tag| (tag.key, tag.value)).collect();
    let creating = Duration::from_millis(kvs.switches.get().creating_ms);
    let arn = kvs.channels().create(&name, ttl.unwrap_or(DEFAULT_TTL_SECONDS), tags, creating, Instant::now())?;
    tracing::debug!(kvs.channel = %name, "signaling channel created");
    Ok(json!({ "ChannelARN": arn }))
}

fn describe(kvs: &Kvs, asked: Named) -> Answer {
    let now = Instant::now();
    let info = kvs.channels().find(asked.which()?, now)?.info(now);
    Ok(json!({ "ChannelInfo": info }))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Endpoint {
    #[serde(rename = "ChannelARN")]
    channel_arn: Option<String>,
    single_master_channel_endpoint_configuration: Option<EndpointConfiguration>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct EndpointConfiguration {
    protocols: Option<Vec<String>>,
    role: Option<String>,
}

fn endpoint(kvs: &Kvs, asked: Endpoint) -> Answer {
    let arn = required(asked.channel_arn, "ChannelARN")?;
    let configuration = asked.single_master_channel_endpoint_configuration.unwrap_or_default();
    let path = match configuration.role.as_deref() {
        Some("MASTER") => "m",
        Some("VIEWER") | None => "v",
        Some(_) => return Err(AwsError::invalid("Role must be MASTER or VIEWER")),
    };
    let protocols = configuration.protocols.unwrap_or_else(|| vec!["WSS".into(), "HTTPS".into()]);
    if !(1..=5).contains(&protocols.len()) {
        return Err(AwsError::invalid("Protocols must name 1 to 5 of WSS, HTTPS, WEBRTC"));
    }
    kvs.channels().find_active(Which::Arn(&arn), Instant::now())?;
    let mut list = Vec::new();
    for protocol in protocols {
        let endpoint = match protocol.as_str() {
            "WSS" => format!("{}/{path}", kvs.endpoints.sockets),
            "HTTPS" => kvs.endpoints.calls.clone(),
            "WEBRTC" => return Err(AwsError::invalid("WEBRTC needs a channel with media storage")),
            _ => return Err(AwsError::invalid("Protocols must name 1 to 5 of WSS, HTTPS, WEBRTC")),
        };
        list.push(json!({ "Protocol": protocol, "ResourceEndpoint": endpoint }));
    }
    Ok(json!({ "ResourceEndpointList": list }))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Versioned {
    #[serde(rename = "ChannelARN")]
    channel_arn: Option<String>,
    current_version: Option<String>,
    single_master_configuration: Option<SingleMaster>,
}

fn delete(kvs: &Kvs, asked: Versioned) -> Answer {
    let arn = required(asked.channel_arn, "ChannelARN")?;
    let deleting = Duration::from_millis(kvs.switches.get().deleting_ms);
    kvs.channels().delete(Which::Arn(&arn), asked.current_version.as_deref(), deleting, Instant::now())?;
    tracing::debug!(kvs.channel_arn = %arn, "signaling channel deleted");
    Ok(json!({}))
}

fn update(kvs: &Kvs, asked: Versioned) -> Answer {
    let arn = required(asked.channel_arn, "ChannelARN")?;
    let version = required(asked.current_version, "CurrentVersion")?;
    let ttl = asked.single_master_configuration.and_then(|configuration| configuration.message_ttl_seconds);
    kvs.channels().update(Which::Arn(&arn), &version, ttl, Instant::now())?;
    Ok(json!({}))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct List {
    max_results: Option<usize>,
    next_token: Option<String>,
    channel_name_condition: Option<NameCondition>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NameCondition {
    comparison_operator: Option<String>,
    comparison_value: Option<String>,
}

fn list(kvs: &Kvs, asked: List) -> Answer {
    let max = asked.max_results.unwrap_or(DEFAULT_PAGE);
    if !(1..=MAX_PAGE).contains(&max) {
        return Err(AwsError::invalid("MaxResults must be 1 to 10000"));
    }
    let condition = asked.channel_name_condition;
    if condition.as_ref().and_then(|c| c.comparison_operator.as_deref()).is_some_and(|o| o != "BEGINS_WITH") {
        return Err(AwsError::invalid("ComparisonOperator must be BEGINS_WITH"));
    }
    let prefix = condition.and_then(|condition| condition.comparison_value).unwrap_or_default();
    let after = match asked.next_token {
        None => String::new(),
        Some(token) => STANDARD
            .decode(token)
            .ok()
            .and_then(|name| String::from_utf8(name).ok())
            .ok_or_else(|| AwsError::invalid("NextToken is not one of ours"))?,
    };
    let (page, last) = kvs.channels().list(&prefix, &after, max, Instant::now());
    let mut answer = json!({ "ChannelInfoList": page });
    if let Some(last) = last {
        answer["NextToken"] = STANDARD.encode(last).into();
    }
    Ok(answer)
}

/// Storage is never on; AWS's samples ask before each connect.
fn describe_storage(kvs: &Kvs, asked: Named) -> Answer {
    kvs.channels().find(asked.which()?, Instant::now())?;
    Ok(json!({ "MediaStorageConfiguration": { "Status": "DISABLED" } }))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Tagging {
    #[serde(rename = "ResourceARN")]
    resource_arn: Option<String>,
    tags: Option<Vec<Tag>>,
    tag_key_list: Option<Vec<String>>,
}

fn tag(kvs: &Kvs, asked: Tagging) -> Answer {
    let arn = required(asked.resource_arn, "ResourceARN")?;
    let new = required(asked.tags, "Tags")?;
    let mut channels = kvs.channels();
    let channel = channels.find(Which::Arn(&arn), Instant::now())?;
    let mut tags: Tags = channel.tags.clone();
    tags.extend(new.into_iter().map(|tag| (tag.key, tag.value)));
    check_tags(&tags)?;
    channel.tags = tags;
    Ok(json!({}))
}

fn untag(kvs: &Kvs, asked: Tagging) -> Answer {
    let arn = required(asked.resource_arn, "ResourceARN")?;
    let keys = required(asked.tag_key_list, "TagKeyList")?;
    let mut channels = kvs.channels();
    let channel = channels.find(Which::Arn(&arn), Instant::now())?;
    channel.tags.retain(|key, _| !keys.contains(key));
    Ok(json!({}))
}

fn list_tags(kvs: &Kvs, asked: Tagging) -> Answer {
    let arn = required(asked.resource_arn, "ResourceARN")?;
    let mut channels = kvs.channels();
    Ok(json!({ "Tags": channels.find(Which::Arn(&arn), Instant::now())?.tags }))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct IceConfig {
    #[serde(rename = "ChannelARN")]
    channel_arn: Option<String>,
    client_id: Option<String>,
    service: Option<String>,
}

fn ice_config(kvs: &Kvs, asked: IceConfig) -> Answer {
    let arn = required(asked.channel_arn, "ChannelARN")?;
    if asked.service.is_some_and(|service| service != "TURN") {
        return Err(AwsError::invalid("Service must be TURN"));
    }
    let asker = match asked.client_id {
        None => "master".to_owned(),
        Some(id) if ClientId::parse(&id).is_some() => id,
        Some(_) => return Err(AwsError::invalid("ClientId must be 1 to 256 of [a-zA-Z0-9_.-]")),
    };
    kvs.channels().find_active(Which::Arn(&arn), Instant::now())?;
    Ok(json!({ "IceServerList": kvs.ice.servers(&asker, SystemTime::now()) }))
}

async fn look(State(kvs): State<Arc<Kvs>>) -> axum::Json<Value> {
    axum::Json(json!({
        "channels": kvs.channel_names(),
        "counts": kvs.counts.snapshot(),
        "chaos": kvs.switches.get(),
    }))
}

/// Sets the switches (those not named go off) and does what `do` lists.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Meddle {
    chaos: Option<Chaos>,
    #[serde(default, rename = "do")]
    actions: Vec<Mischief>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum Mischief {
    GoAway,
    ReconnectIceServer,
    CutSockets,
}

async fn meddle(State(kvs): State<Arc<Kvs>>, body: Bytes) -> Result<axum::Json<Value>, AwsError> {
    let asked: Meddle = read(&body)?;
    if let Some(chaos) = asked.chaos {
        kvs.chaos(|switches| *switches = chaos);
    }
    for action in asked.actions {
        match action {
            Mischief::GoAway => kvs.go_away(),
            Mischief::ReconnectIceServer => kvs.reconnect_ice_server(),
            Mischief::CutSockets => kvs.cut_sockets(),
        }
    }
    Ok(look(State(kvs)).await)
}

/// The JSON members; an empty body counts as `{}`.
fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, AwsError> {
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|error| {
        AwsError::new(ErrorKind::Serialization, format!("The body is not what the call asks for: {error}"))
    })
}

fn required<T>(member: Option<T>, name: &'static str) -> Result<T, AwsError> {
    member.ok_or_else(|| AwsError::invalid(format!("{name} is required")))
}
