//! Where records live, as an operator says it.

use serde::Deserialize;

/// Times are milliseconds. Region, credentials and trust are those of `[aws]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "snake_case")]
pub struct Settings {
    pub kind: Kind,
    /// Begins the name of every table, so that several deployments fit into one account.
    pub table_prefix: String,
    /// DynamoDB elsewhere; stronger than `aws.endpoint_url`.
    pub endpoint_url: Option<String>,
    /// One attempt of one request.
    pub attempt_timeout_ms: u64,
    /// Everything that one call takes: reading, deciding, writing, all attempts together.
    pub timeout_ms: u64,
    pub attempts: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// In this process: sessions end with it, and one replica is all there can be.
    Memory,
    DynamoDb,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            kind: Kind::Memory,
            table_prefix: "babelcast-".to_owned(),
            endpoint_url: None,
            attempt_timeout_ms: 1_000,
            timeout_ms: 2_500,
            attempts: 3,
        }
    }
}

impl Settings {
    /// # Errors
    /// What is wrong, in a sentence.
    pub fn check(&self) -> Result<(), String> {
        let of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if self.table_prefix.len() > 200 || !self.table_prefix.chars().all(of_name) {
            return Err("store.table_prefix may hold letters, digits, `-`, `_` and `.`, 200 at most".to_owned());
        }
        if self.attempts == 0 || self.attempt_timeout_ms == 0 {
            return Err("store.attempts and store.attempt_timeout_ms must be at least 1".to_owned());
        }
        if self.timeout_ms < self.attempt_timeout_ms {
            return Err("store.timeout_ms must not be below store.attempt_timeout_ms".to_owned());
        }
        Ok(())
    }
}
