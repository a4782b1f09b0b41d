//! Records in DynamoDB. A record is changed by reading it, deciding over it with the rules that every form of the store
//! shares, and writing what differs under the condition that nobody wrote meanwhile.
//!
//! Deliberately absent: transactions (two writers of a popular item would only collide), any item that several nodes
//! count in, caching.

mod call;
mod keys;
mod lines;
pub(super) mod migrate;
mod presence;
mod sessions;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::config;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::types::AttributeValue;
use babelcast_domain::counts::{Count, Counts};
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::call::{Answer, Attempts};
use super::{Settings, StoreError};

type Item = HashMap<String, AttributeValue>;

/// The tables of one deployment; cheap to clone are its clients, not itself.
pub struct Dynamo {
    client: aws_sdk_dynamodb::Client,
    /// Asks once only: for what must not happen twice, and for probes that come again anyway.
    once: aws_sdk_dynamodb::Client,
    sessions: String,
    presence: String,
    keys: String,
    lines: String,
    timeout: Duration,
    counts: Arc<Counts>,
}

impl fmt::Debug for Dynamo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dynamo").field("sessions", &self.sessions).finish_non_exhaustive()
    }
}

impl Dynamo {
    /// Calls nothing. `sdk`: region, credentials and HTTP client.
    pub fn new(settings: &Settings, sdk: config::Builder, counts: Arc<Counts>) -> Dynamo {
        let client = |attempts| aws_sdk_dynamodb::Client::from_conf(call::configured(sdk.clone(), settings, attempts));
        let name = |table: &str| format!("{}{table}", settings.table_prefix);
        Dynamo {
            client: client(settings.attempts),
            once: client(1),
            sessions: name("sessions"),
            presence: name("presence"),
            keys: name("keys"),
            lines: name("lines"),
            timeout: Duration::from_millis(settings.timeout_ms),
            counts,
        }
    }

    /// Reads something that is not there from every table: whether it could have been read is the answer.
    pub async fn ping(&self) -> Result<(), StoreError> {
        tokio::try_join!(
            self.probe(&self.sessions, &["sessionId"]),
            self.probe(&self.presence, &["sessionId", "nodeId"]),
            self.probe(&self.keys, &["key"]),
            self.probe(&self.lines, &["sessionId", "line"]),
        )?;
        Ok(())
    }

    async fn probe(&self, table: &str, key: &[&str]) -> Result<(), StoreError> {
        let key: Item = key.iter().map(|name| ((*name).to_owned(), text("#ping"))).collect();
        let asked = self.once.get_item().table_name(table).set_key(Some(key)).send().await;
        asked.map(drop).map_err(|error| call::failure(table, &error))
    }

    /// Sends a request; what it took is counted and told.
    async fn ask<O, E, F>(&self, table: &str, send: impl FnOnce(Attempts) -> F) -> Answer<O, E>
    where
        F: Future<Output = Result<O, SdkError<E, config::http::HttpResponse>>>,
    {
        let attempts = Attempts::default();
        let result = send(attempts.clone()).await;
        let retries = attempts.retries();
        if retries > 0 {
            self.counts.add(Count::StoreRetries, retries);
            tracing::warn!(table, retries, "the store was asked again");
        }
        Answer { result, retried: retries > 0 }
    }

    /// One call of the store takes no longer than this, however many requests it is made of.
    async fn within<T>(&self, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        tokio::time::timeout(self.timeout, work).await.unwrap_or(Err(StoreError::Timeout))
    }
}

fn text(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}

fn number(number: u64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

fn to_item(value: &impl Serialize) -> Result<Item, StoreError> {
    serde_dynamo::to_item(value).map_err(|error| StoreError::Unreadable(error.to_string()))
}

fn from_item<T: DeserializeOwned>(item: Item) -> Result<T, StoreError> {
    serde_dynamo::from_item(item).map_err(|error| StoreError::Unreadable(error.to_string()))
}
