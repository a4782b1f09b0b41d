//! One request to DynamoDB: its attempts counted, its failure told in the store's own words.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::config::interceptors::BeforeTransmitInterceptorContextRef;
use aws_sdk_dynamodb::config::retry::{RetryConfig, RetryPartition};
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::config::{self, ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_dynamodb::error::{BoxError, ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::types::error::ConditionalCheckFailedException;
use rand::Rng;

use super::Item;
use crate::store::{Settings, StoreError};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);

/// Counts the attempts of one request: an answer to the second may tell what the first one did.
#[derive(Debug, Clone, Default)]
pub(super) struct Attempts(Arc<AtomicU64>);

impl Attempts {
    pub fn retries(&self) -> u64 {
        self.0.load(Ordering::Relaxed).saturating_sub(1)
    }
}

impl Intercept for Attempts {
    fn name(&self) -> &'static str {
        "Attempts"
    }

    fn read_before_attempt(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// What came back.
pub(super) struct Answer<O, E> {
    pub result: Result<O, SdkError<E, HttpResponse>>,
    /// There was an attempt before the one that was answered, and it may have been carried out.
    pub retried: bool,
}

/// The settings of every request. The SDK's own pauses (1 s and more) are made for batch work.
pub(super) fn configured(sdk: config::Builder, settings: &Settings, attempts: u32) -> config::Config {
    let millis = Duration::from_millis;
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(millis(settings.attempt_timeout_ms))
        .operation_attempt_timeout(millis(settings.attempt_timeout_ms))
        .operation_timeout(millis(settings.timeout_ms));
    let retries = RetryConfig::standard()
        .with_max_attempts(attempts.max(1))
        .with_initial_backoff(FIRST_PAUSE)
        .with_max_backoff(LONGEST_PAUSE);
    // The budget of retries is this deployment's own: when it is used up in an outage, each request is tried once.
    let budget = RetryPartition::new(format!("store {}", settings.table_prefix));
    let sdk = sdk.timeout_config(timeouts.build()).retry_config(retries).retry_partition(budget);
    match &settings.endpoint_url {
        Some(url) => sdk.endpoint_url(url).build(),
        None => sdk.build(),
    }
}

/// A pause before another try, with full jitter, so that those who met do not meet again.
pub(super) fn pause(tries: u32) -> Duration {
    let longest = FIRST_PAUSE.saturating_mul(1 << tries.min(8)).min(LONGEST_PAUSE);
    longest.mul_f32(rand::rng().random_range(0.0..1.0))
}

/// An operation whose condition may fail.
pub(super) trait Conditional {
    fn failed_condition(&self) -> Option<&ConditionalCheckFailedException>;
}

macro_rules! conditional {
    ($($operation:ident::$error:ident),+) => {$(
        impl Conditional for aws_sdk_dynamodb::operation::$operation::$error {
            fn failed_condition(&self) -> Option<&ConditionalCheckFailedException> {
                match self {
                    Self::ConditionalCheckFailedException(failed) => Some(failed),
                    _ => None,
                }
            }
        }
    )+};
}
conditional!(put_item::PutItemError, update_item::UpdateItemError);

/// The item that did not meet the condition, empty where there was none; nothing when something else went wrong.
pub(super) fn unmet<E: Conditional>(error: &SdkError<E, HttpResponse>) -> Option<Item> {
    let failed = error.as_service_error()?.failed_condition()?;
    Some(failed.item().cloned().unwrap_or_default())
}

/// What the store says of a request that failed.
pub(super) fn failure<E>(table: &str, error: &SdkError<E, HttpResponse>) -> StoreError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let unavailable = StoreError::Unavailable;
    match error {
        SdkError::TimeoutError(_) => StoreError::Timeout,
        SdkError::DispatchFailure(failure) => match failure.as_connector_error() {
            Some(error) if error.is_timeout() => StoreError::Timeout,
            Some(error) => unavailable(format!("DynamoDB cannot be reached: {}", causes(error))),
            None => unavailable("the request to DynamoDB could not be sent".to_owned()),
        },
        SdkError::ServiceError(refusal) => {
            let error = refusal.err();
            let message = error.message().unwrap_or("no reason given");
            match error.code().unwrap_or_default() {
                "ResourceNotFoundException" => unavailable(format!(
                    "the table {table} does not exist, or lacks an index: run `babelcast migrate --apply`"
                )),
                code @ ("ProvisionedThroughputExceededException"
                | "RequestLimitExceeded"
                | "ThrottlingException"
                | "Throttling") => unavailable(format!("DynamoDB throttles requests to {table} ({code})")),
                code @ ("AccessDeniedException"
                | "ExpiredTokenException"
                | "IncompleteSignatureException"
                | "InvalidSignatureException"
                | "MissingAuthenticationTokenException"
                | "UnrecognizedClientException") => unavailable(format!(
                    "DynamoDB denies access to {table} ({code}: {}); see docs/OPERATIONS.md for what is needed",
                    printable(message)
                )),
                // No name of an error: not an answer of DynamoDB's at all.
                "" => unavailable(format!("unreadable answer of DynamoDB: {}", causes(error))),
                code => unavailable(format!("DynamoDB refused: {code}: {}", printable(message))),
            }
        }
        other => unavailable(format!("unreadable answer of DynamoDB: {}", causes(other))),
    }
}

/// An error and what caused it, on one line.
pub(in crate::store) fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    printable(&text)
}

fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound() {
        for tries in 0..40 {
            assert!(pause(tries) <= LONGEST_PAUSE);
        }
        assert!((0..100).all(|_| pause(0) <= FIRST_PAUSE));
    }
}
