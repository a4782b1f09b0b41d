//! AWS clients: one `SdkConfig`, endpoint overrides, and plain async functions from domain values to domain values.
//!
//! There is no trait over AWS: the endpoint URL is the switch between the real services and a local cloud, and the
//! same production clients talk to both. Names of the SDK appear in this room and in `store` only.
//!
//! Deliberately absent: retries around a Transcribe stream (the scribe's, who knows the audio), translation order and
//! caching (the session's), any state beyond connection pools.

pub mod kvs;
pub mod sign;
pub mod transcribe;
pub mod translate;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod kvs_tests;
#[cfg(test)]
mod transcribe_tests;

use std::error::Error;
use std::fmt;
use std::time::{Duration, SystemTime};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sdk_kinesisvideo::config::SharedHttpClient;
use aws_sdk_translate::config::retry::RetryConfig;
use aws_sdk_translate::config::timeout::TimeoutConfig;
use aws_sdk_translate::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_http_client::tls::{self, TlsContext, TrustStore, rustls_provider::CryptoMode};
use serde::Deserialize;

use sign::{SignError, SignedUrl};

/// Getting credentials may ask the container's metadata endpoint.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(5);

/// How to reach AWS, or what stands for it. Times are milliseconds.
///
/// What is not set here comes from the environment as every AWS tool reads it: `AWS_REGION`, `AWS_ENDPOINT_URL`,
/// `AWS_ENDPOINT_URL_TRANSLATE` and its like, and the credential chain (variables, profile, ECS, instance).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "snake_case")]
pub struct Settings {
    pub region: Option<String>,
    /// One URL for every service: a local cloud.
    pub endpoint_url: Option<String>,
    /// One service elsewhere; stronger than `endpoint_url`. Signaling has none: each channel names its own endpoint.
    pub kinesis_video_endpoint_url: Option<String>,
    pub transcribe_endpoint_url: Option<String>,
    pub translate_endpoint_url: Option<String>,
    /// Fixed keys, for a local cloud. Real keys belong in the environment.
    pub credentials: Option<StaticCredentials>,
    pub connect_timeout_ms: u64,
    /// One attempt of a control plane call (channels, endpoints, ICE servers).
    pub control_attempt_timeout_ms: u64,
    /// All attempts of one such call together.
    pub control_timeout_ms: u64,
    /// A new channel that is not ACTIVE by then is deleted again.
    pub channel_active_timeout_ms: u64,
    /// From asking for a transcription to the response headers.
    pub transcribe_start_timeout_ms: u64,
    pub translate_attempt_timeout_ms: u64,
    /// All attempts of one translation together. A caption that is later than this is shown untranslated.
    pub translate_timeout_ms: u64,
    pub translate_attempts: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            region: None,
            endpoint_url: None,
            kinesis_video_endpoint_url: None,
            transcribe_endpoint_url: None,
            translate_endpoint_url: None,
            credentials: None,
            connect_timeout_ms: 2_000,
            control_attempt_timeout_ms: 5_000,
            control_timeout_ms: 10_000,
            channel_active_timeout_ms: 15_000,
            transcribe_start_timeout_ms: 5_000,
            translate_attempt_timeout_ms: 1_000,
            translate_timeout_ms: 1_500,
            translate_attempts: 3,
        }
    }
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct StaticCredentials {
    pub access_key: String,
    pub secret_key: String,
}

impl fmt::Debug for StaticCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StaticCredentials({}, secret hidden)", self.access_key)
    }
}

/// No client can be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    #[error("no AWS region: set `aws.region` or AWS_REGION")]
    NoRegion,
    #[error("no AWS credentials in the environment, profile or container")]
    NoCredentials,
    #[error("trusted certificates: {0}")]
    Roots(String),
}

/// One client a service, sharing a connection pool; cheap to clone.
#[derive(Debug, Clone)]
pub struct Clients {
    region: String,
    credentials: SharedCredentialsProvider,
    sdk: SdkConfig,
    /// Whom every HTTP client trusts.
    roots: TlsContext,
    kinesis_video: aws_sdk_kinesisvideo::Client,
    control_timeout: Duration,
    channel_active_timeout: Duration,
    translate: aws_sdk_translate::Client,
    /// Without an HTTP client: every stream gets its own.
    transcribe: aws_sdk_transcribestreaming::config::Builder,
    transcribe_start_timeout: Duration,
}

impl Clients {
    /// Reads the environment and builds the clients; calls no service. `extra_root`: PEM of a certificate to trust
    /// besides the machine's, such as a local cloud's, whose channels may name `https` endpoints.
    pub async fn connect(settings: &Settings, extra_root: Option<&[u8]>) -> Result<Clients, ConnectError> {
        let roots = roots(extra_root)?;
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http_client(&roots))
            .timeout_config(timeouts(settings, settings.control_attempt_timeout_ms, None));
        if let Some(region) = &settings.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(url) = &settings.endpoint_url {
            loader = loader.endpoint_url(url);
        }
        if let Some(StaticCredentials { access_key, secret_key }) = &settings.credentials {
            let keys = aws_credential_types::Credentials::new(access_key, secret_key, None, None, "settings");
            loader = loader.credentials_provider(keys);
        }
        let sdk = loader.load().await;
        let region = sdk.region().ok_or(ConnectError::NoRegion)?.to_string();
        let credentials = sdk.credentials_provider().ok_or(ConnectError::NoCredentials)?;

        let mut kinesis_video = aws_sdk_kinesisvideo::config::Builder::from(&sdk).retry_config(RetryConfig::disabled());
        if let Some(url) = &settings.kinesis_video_endpoint_url {
            kinesis_video = kinesis_video.endpoint_url(url);
        }
        let mut translate = aws_sdk_translate::config::Builder::from(&sdk)
            .retry_config(quick_retries(settings.translate_attempts))
            .timeout_config(timeouts(
                settings,
                settings.translate_attempt_timeout_ms,
                Some(settings.translate_timeout_ms),
            ));
        if let Some(url) = &settings.translate_endpoint_url {
            translate = translate.endpoint_url(url);
        }
        // The operation timeouts of the SDK end at the response headers, where `start` has its own.
        let mut transcribe = aws_sdk_transcribestreaming::config::Builder::from(&sdk)
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::builder().connect_timeout(millis(settings.connect_timeout_ms)).build());
        if let Some(url) = &settings.transcribe_endpoint_url {
            transcribe = transcribe.endpoint_url(url);
        }
        Ok(Clients {
            region,
            credentials,
            kinesis_video: aws_sdk_kinesisvideo::Client::from_conf(kinesis_video.build()),
            control_timeout: millis(settings.control_timeout_ms),
            channel_active_timeout: millis(settings.channel_active_timeout_ms),
            translate: aws_sdk_translate::Client::from_conf(translate.build()),
            transcribe,
            transcribe_start_timeout: millis(settings.transcribe_start_timeout_ms),
            sdk,
            roots,
        })
    }

    /// What the store makes its clients of: region, credentials, trust, connections.
    pub fn dynamodb(&self) -> aws_sdk_dynamodb::config::Builder {
        aws_sdk_dynamodb::config::Builder::from(&self.sdk)
    }

    /// The URL a viewer opens its signaling socket with, good for 299 s. `endpoint` is the viewer's `wss`.
    pub async fn presign_viewer(&self, endpoint: &str, arn: &str, client_id: &str) -> Result<SignedUrl, SignError> {
        self.presign(endpoint, arn, Some(client_id)).await
    }

    /// The URL a master opens its signaling socket with, good for 299 s. `endpoint` is the master's `wss`.
    pub async fn presign_master(&self, endpoint: &str, arn: &str) -> Result<SignedUrl, SignError> {
        self.presign(endpoint, arn, None).await
    }

    async fn presign(&self, endpoint: &str, arn: &str, client_id: Option<&str>) -> Result<SignedUrl, SignError> {
        let provided = tokio::time::timeout(CREDENTIALS_TIMEOUT, self.credentials.provide_credentials()).await;
        let credentials = provided
            .map_err(|_| SignError::NoCredentials("no answer".to_owned()))?
            .map_err(|error| SignError::NoCredentials(causes(&error)))?;
        sign::presign_wss(endpoint, arn, client_id, &credentials, &self.region, SystemTime::now())
    }
}

fn roots(extra: Option<&[u8]>) -> Result<TlsContext, ConnectError> {
    let machine = TrustStore::empty().with_native_roots(true);
    let trusted = extra.iter().fold(machine, |trusted, pem| trusted.with_pem_certificate(*pem));
    TlsContext::builder().with_trust_store(trusted).build().map_err(|error| ConnectError::Roots(error.to_string()))
}

/// HTTP/1.1 and 2, rustls with aws-lc; serves `http://` too.
fn http_client(roots: &TlsContext) -> SharedHttpClient {
    let builder = aws_smithy_http_client::Builder::new().tls_provider(tls::Provider::Rustls(CryptoMode::AwsLc));
    builder.tls_context(roots.clone()).build_https()
}

/// The SDK's own pauses (1 s and more) are made for batch work; a live caption cannot wait for them.
fn quick_retries(attempts: u32) -> RetryConfig {
    RetryConfig::standard()
        .with_max_attempts(attempts.max(1))
        .with_initial_backoff(Duration::from_millis(50))
        .with_max_backoff(Duration::from_millis(400))
}

fn timeouts(settings: &Settings, attempt_ms: u64, operation_ms: Option<u64>) -> TimeoutConfig {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(millis(settings.connect_timeout_ms))
        .operation_attempt_timeout(millis(attempt_ms));
    match operation_ms {
        Some(operation) => timeouts.operation_timeout(millis(operation)).build(),
        None => timeouts.build(),
    }
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// What went wrong with a call, before it becomes the error of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Failure {
    Timeout,
    /// No answer, or one that makes no sense.
    Unreachable(String),
    /// Never sent.
    Invalid(String),
    /// The service said no. `code` is the exception's name, empty if it gave none.
    Refused {
        code: String,
        message: String,
    },
}

impl<E, R> From<SdkError<E, R>> for Failure
where
    E: ProvideErrorMetadata + Error + 'static,
    R: fmt::Debug,
{
    fn from(error: SdkError<E, R>) -> Failure {
        match error {
            SdkError::TimeoutError(_) => Failure::Timeout,
            SdkError::DispatchFailure(failure) => match failure.as_connector_error() {
                Some(error) if error.is_timeout() => Failure::Timeout,
                Some(error) => Failure::Unreachable(causes(error)),
                None => Failure::Unreachable("the request could not be sent".to_owned()),
            },
            SdkError::ServiceError(refusal) => {
                let error = refusal.err();
                let code = error.code().unwrap_or_default().to_owned();
                let message = error.message().map_or_else(|| causes(error), str::to_owned);
                Failure::Refused { code, message }
            }
            SdkError::ConstructionFailure(failure) => Failure::Invalid(format!("{failure:?}")),
            other => Failure::Unreachable(format!("unreadable answer: {}", brief(&other))),
        }
    }
}

fn brief<E, R>(error: &SdkError<E, R>) -> String
where
    E: Error + 'static,
    R: fmt::Debug,
{
    error.source().map_or_else(|| error.to_string(), causes)
}

/// An error and what caused it, on one line without control characters.
fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_strict_and_hide_the_secret() {
        let read = |text: &str| serde_json::from_str::<Settings>(text);
        let settings =
            read(r#"{"region":"eu-west-1","credentials":{"access_key":"AKID","secret_key":"hush"}}"#).unwrap();
        assert_eq!(settings.translate_attempts, 3);
        assert!(!format!("{settings:?}").contains("hush"));
        assert!(read(r#"{"regoin":"eu-west-1"}"#).is_err());
    }

    #[test]
    fn an_error_is_told_with_its_causes_on_one_line() {
        let inner = std::io::Error::other("in\nner");
        assert_eq!(causes(&SignError::NoCredentials("none".to_owned())), "no credentials to sign with: none");
        assert_eq!(causes(&std::io::Error::other(inner)), "in ner");
    }
}
