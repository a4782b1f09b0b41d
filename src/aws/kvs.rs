//! Kinesis Video signaling channels: the control plane and ICE servers.
//!
//! Every call has one retry policy, here, because the SDK does not retry what this service throttles with
//! (`ClientLimitExceededException`). Callers keep ARN and endpoints: describing a channel is limited to five a second.
//!
//! Deliberately absent: the signaling socket (`media`), channel updates, streams.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use aws_sdk_kinesisvideo::types::{
    ChannelInfo, ChannelNameCondition, ChannelProtocol, ChannelRole, ComparisonOperator,
    SingleMasterChannelEndpointConfiguration, SingleMasterConfiguration, Status, Tag,
};
use aws_sdk_kinesisvideosignaling::config::retry::RetryConfig;
use babelcast_domain::time::UnixMs;
use tokio::time::{Instant, sleep};

use super::{Clients, Failure};

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Under the limit of five descriptions a second and channel.
const ACTIVE_POLL: Duration = Duration::from_millis(250);

/// How far the service's clock may be behind ours when a channel is recognised as our own by its age.
const CLOCK_SKEW: Duration = Duration::from_secs(30);

/// Channels in one page of a list, and pages at most: more than an account may have.
const PAGE: i32 = 1_000;
const PAGES: usize = 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    pub arn: String,
    pub name: String,
    pub created_at: UnixMs,
}

/// Whose endpoints: the address decides the role on the signaling socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Master,
    Viewer,
}

/// Base URLs of one channel and role, without query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoints {
    pub wss: String,
    pub https: String,
}

/// A TURN server, as `RTCPeerConnection` takes it. The credentials live for minutes: get them just before use.
#[derive(Clone, PartialEq, Eq)]
pub struct IceServer {
    pub urls: Vec<String>,
    pub username: Option<String>,
    pub credential: Option<String>,
}

impl fmt::Debug for IceServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IceServer({} urls)", self.urls.len())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KvsError {
    #[error("signaling channels are throttled")]
    Throttled,
    #[error("no such signaling channel")]
    NotFound,
    /// Creating: the name is taken; take another.
    #[error("the signaling channel is in use")]
    InUse,
    #[error("the account has as many signaling channels as it may")]
    TooMany,
    #[error("signaling channels are not allowed: {0}")]
    Denied(String),
    #[error("signaling channels refused the request: {0}")]
    Refused(String),
    #[error("signaling channels are unavailable: {0}")]
    Unavailable(String),
    #[error("signaling channels did not answer in time")]
    Timeout,
}

impl KvsError {
    /// Whether the same call may succeed later. The retries in this file have failed by then.
    pub fn retryable(&self) -> bool {
        match self {
            KvsError::Throttled | KvsError::Unavailable(_) | KvsError::Timeout => true,
            KvsError::NotFound | KvsError::InUse | KvsError::TooMany | KvsError::Denied(_) | KvsError::Refused(_) => {
                false
            }
        }
    }
}

impl From<Failure> for KvsError {
    fn from(failure: Failure) -> KvsError {
        match failure {
            Failure::Timeout => KvsError::Timeout,
            Failure::Unreachable(why) => KvsError::Unavailable(why),
            Failure::Invalid(why) => KvsError::Refused(why),
            Failure::Refused { code, message } => match code.as_str() {
                "ClientLimitExceededException" | "ThrottlingException" | "TooManyRequestsException" => {
                    KvsError::Throttled
                }
                "ResourceNotFoundException" => KvsError::NotFound,
                "ResourceInUseException" => KvsError::InUse,
                "AccountChannelLimitExceededException" => KvsError::TooMany,
                "AccessDeniedException"
                | "NotAuthorizedException"
                | "UnrecognizedClientException"
                | "InvalidSignatureException"
                | "InvalidClientException" => KvsError::Denied(message),
                "InvalidArgumentException"
                | "ValidationException"
                | "VersionMismatchException"
                | "TagsPerResourceExceededLimitException" => KvsError::Refused(message),
                _ => KvsError::Unavailable(format!("{code} {message}")),
            },
        }
    }
}

/// Creates a single-master channel and waits until it is ACTIVE. `ttl` (5 to 120 s) is how long the service keeps a
/// message for a peer that is not there yet.
///
/// On an error nothing is left behind, as far as the service still answers. Dropping the future may leave a channel.
pub async fn create_channel(
    clients: &Clients,
    name: &str,
    ttl: Duration,
    tags: &[(&str, &str)],
) -> Result<Channel, KvsError> {
    let started = SystemTime::now();
    let ttl = i32::try_from(ttl.as_secs()).unwrap_or(i32::MAX);
    let master = SingleMasterConfiguration::builder().message_ttl_seconds(ttl).build();
    let tags = tags
        .iter()
        .map(|(key, value)| Tag::builder().key(*key).value(*value).build())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| KvsError::Refused(error.to_string()))?;
    let create = |attempt| {
        let request = clients.kinesis_video.create_signaling_channel().channel_name(name);
        let request = request.single_master_configuration(master.clone());
        let sent = request.set_tags((!tags.is_empty()).then(|| tags.clone())).send();
        async move {
            match sent.await.map_err(|error| KvsError::from(Failure::from(error))) {
                Ok(created) => required(created.channel_arn, "ChannelARN"),
                // An earlier attempt may have succeeded without our hearing of it.
                Err(KvsError::InUse) if attempt > 0 => own_channel(clients, name, started).await,
                Err(error) => Err(error),
            }
        }
    };
    let created_at = unix_ms(started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
    let arn = patiently(clients, "create channel", create).await?;
    let channel = Channel { arn, name: name.to_owned(), created_at };
    match wait_until_active(clients, &channel.arn).await {
        Ok(()) => Ok(channel),
        Err(error) => {
            if let Err(left) = delete_channel(clients, &channel.arn).await {
                tracing::warn!(channel = channel.name, error = %left, "a channel that never became active is left behind");
            }
            Err(error)
        }
    }
}

/// Where one role connects. The addresses do not change while the channel lives.
pub async fn endpoints(clients: &Clients, arn: &str, role: Role) -> Result<Endpoints, KvsError> {
    let role = match role {
        Role::Master => ChannelRole::Master,
        Role::Viewer => ChannelRole::Viewer,
    };
    let wanted = SingleMasterChannelEndpointConfiguration::builder()
        .protocols(ChannelProtocol::Wss)
        .protocols(ChannelProtocol::Https)
        .role(role)
        .build();
    let ask = |_| {
        let request = clients.kinesis_video.get_signaling_channel_endpoint().channel_arn(arn);
        let sent = request.single_master_channel_endpoint_configuration(wanted.clone()).send();
        async move { sent.await.map_err(|error| KvsError::from(Failure::from(error))) }
    };
    let list = patiently(clients, "channel endpoints", ask).await?.resource_endpoint_list.unwrap_or_default();
    let find = |protocol: ChannelProtocol| {
        let found = list.iter().find(|item| item.protocol.as_ref() == Some(&protocol));
        required(found.and_then(|item| item.resource_endpoint.clone()), protocol.as_str())
    };
    Ok(Endpoints { wss: find(ChannelProtocol::Wss)?, https: find(ChannelProtocol::Https)? })
}

/// STUN and relays for one peer connection, from the channel's own HTTPS endpoint.
///
/// The service lists relays only; its STUN server is known by name, and exists where the service itself is asked.
pub async fn ice_servers(
    clients: &Clients,
    arn: &str,
    https_endpoint: &str,
    client_id: &str,
) -> Result<Vec<IceServer>, KvsError> {
    let config = aws_sdk_kinesisvideosignaling::config::Builder::from(&clients.sdk)
        .endpoint_url(https_endpoint)
        .retry_config(RetryConfig::disabled())
        .build();
    let signaling = aws_sdk_kinesisvideosignaling::Client::from_conf(config);
    let ask = |_| {
        let sent = signaling.get_ice_server_config().channel_arn(arn).client_id(client_id).send();
        async move { sent.await.map_err(|error| KvsError::from(Failure::from(error))) }
    };
    let list = patiently(clients, "ICE servers", ask).await?.ice_server_list.unwrap_or_default();
    let servers = list.into_iter().map(|server| IceServer {
        urls: server.uris.unwrap_or_default(),
        username: server.username,
        credential: server.password,
    });
    let is_aws = https_endpoint.trim_end_matches('/').ends_with(".amazonaws.com");
    let stun = is_aws.then(|| IceServer {
        urls: vec![format!("stun:stun.kinesisvideo.{}.amazonaws.com:443", clients.region)],
        username: None,
        credential: None,
    });
    Ok(stun.into_iter().chain(servers).collect())
}

/// A channel that is gone already is deleted.
pub async fn delete_channel(clients: &Clients, arn: &str) -> Result<(), KvsError> {
    let delete = |_| {
        let sent = clients.kinesis_video.delete_signaling_channel().channel_arn(arn).send();
        async move {
            match sent.await.map_err(|error| KvsError::from(Failure::from(error))) {
                Ok(_) | Err(KvsError::NotFound) => Ok(()),
                Err(KvsError::InUse) => Err(KvsError::Unavailable("the channel is changing".to_owned())),
                Err(error) => Err(error),
            }
        }
    };
    patiently(clients, "delete channel", delete).await
}

/// Every channel whose name begins with `prefix`, whatever its state.
pub async fn list_channels(clients: &Clients, prefix: &str) -> Result<Vec<Channel>, KvsError> {
    let condition = ChannelNameCondition::builder()
        .comparison_operator(ComparisonOperator::BeginsWith)
        .comparison_value(prefix)
        .build();
    let mut channels = vec![];
    let mut token: Option<String> = None;
    for _ in 0..PAGES {
        let ask = |_| {
            let request = clients.kinesis_video.list_signaling_channels().max_results(PAGE);
            let sent = request.channel_name_condition(condition.clone()).set_next_token(token.clone()).send();
            async move { sent.await.map_err(|error| KvsError::from(Failure::from(error))) }
        };
        let page = patiently(clients, "list channels", ask).await?;
        let found = page.channel_info_list.unwrap_or_default().into_iter();
        channels.extend(found.filter_map(|info| {
            let created = info.creation_time.and_then(|at| at.to_millis().ok()).unwrap_or_default();
            let created_at = UnixMs(u64::try_from(created).unwrap_or_default());
            Some(Channel { arn: info.channel_arn?, name: info.channel_name?, created_at })
        }));
        token = page.next_token.filter(|token| !token.is_empty());
        if token.is_none() {
            return Ok(channels);
        }
    }
    Err(KvsError::Unavailable("a list of channels without end".to_owned()))
}

/// The tags of a channel.
pub async fn tags(clients: &Clients, arn: &str) -> Result<BTreeMap<String, String>, KvsError> {
    let ask = |_| {
        let sent = clients.kinesis_video.list_tags_for_resource().resource_arn(arn).send();
        async move { sent.await.map_err(|error| KvsError::from(Failure::from(error))) }
    };
    // A channel has fewer tags than a page.
    let page = patiently(clients, "list tags", ask).await?;
    Ok(page.tags.unwrap_or_default().into_iter().collect())
}

fn unix_ms(since_epoch: Duration) -> UnixMs {
    UnixMs(since_epoch.as_millis() as u64)
}

/// Repeats a call that failed in passing, with growing pauses, within `control_timeout_ms`. The call is told the number
/// of its attempt, from 0.
async fn patiently<T, F>(clients: &Clients, what: &'static str, mut call: impl FnMut(u32) -> F) -> Result<T, KvsError>
where
    F: Future<Output = Result<T, KvsError>>,
{
    let deadline = Instant::now() + clients.control_timeout;
    let mut pause = FIRST_PAUSE;
    let mut attempt = 0;
    loop {
        let jittered = pause.mul_f64(rand::random_range(0.5..1.5));
        match call(attempt).await {
            Err(error) if error.retryable() && Instant::now() + jittered < deadline => {
                tracing::warn!(what, attempt, %error, "trying again");
                sleep(jittered).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
                attempt += 1;
            }
            answer => return answer,
        }
    }
}

/// The ARN of the channel `name`, if its age says that we have just created it.
async fn own_channel(clients: &Clients, name: &str, started: SystemTime) -> Result<String, KvsError> {
    let info = describe(clients.kinesis_video.describe_signaling_channel().channel_name(name)).await?;
    let created = info.creation_time.and_then(|created| SystemTime::try_from(created).ok());
    match created {
        Some(created) if created + CLOCK_SKEW >= started => required(info.channel_arn, "ChannelARN"),
        _ => Err(KvsError::InUse),
    }
}

async fn wait_until_active(clients: &Clients, arn: &str) -> Result<(), KvsError> {
    let deadline = Instant::now() + clients.channel_active_timeout;
    loop {
        match describe(clients.kinesis_video.describe_signaling_channel().channel_arn(arn)).await {
            Ok(info) => match info.channel_status {
                Some(Status::Active) => return Ok(()),
                Some(Status::Deleting) => return Err(KvsError::NotFound),
                status => tracing::debug!(?status, "channel is not active yet"),
            },
            // A channel may be unknown for a moment after its creation.
            Err(error) if error.retryable() || error == KvsError::NotFound => {
                tracing::debug!(%error, "channel is not described yet");
            }
            Err(error) => return Err(error),
        }
        if Instant::now() + ACTIVE_POLL > deadline {
            return Err(KvsError::Timeout);
        }
        sleep(ACTIVE_POLL).await;
    }
}

async fn describe(
    request: aws_sdk_kinesisvideo::operation::describe_signaling_channel::builders::DescribeSignalingChannelFluentBuilder,
) -> Result<ChannelInfo, KvsError> {
    let described = request.send().await.map_err(|error| KvsError::from(Failure::from(error)))?;
    required(described.channel_info, "ChannelInfo")
}

fn required<T>(member: Option<T>, name: &str) -> Result<T, KvsError> {
    member.ok_or_else(|| KvsError::Unavailable(format!("an answer without {name}")))
}
