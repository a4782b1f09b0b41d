//! The speaker's side of the HTTP API: make a session, say whether there is media, end it.

use std::time::Duration;

use babelcast_domain::error::{ErrorCode, Problem};
use babelcast_domain::ids::SessionId;
use babelcast_domain::wire::{ConnectionView, CreateSession, KvsStatus, SessionView};
use reqwest::{Method, Response};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use url::Url;

use super::client::{ClientError, at};
use crate::web::Token;

/// Making a signaling channel can take a few seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// A deployment, and who asks.
#[derive(Debug, Clone)]
pub struct SpeakerClient {
    http: reqwest::Client,
    url: Url,
    token: Option<Token>,
}

impl SpeakerClient {
    pub fn new(url: Url, token: Option<Token>) -> Result<Self, ClientError> {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let http = reqwest::Client::builder().timeout(PATIENCE).connect_timeout(Duration::from_secs(10)).build();
        let http = http.map_err(|error| ClientError::Url(format!("no HTTP client: {error}")))?;
        Ok(SpeakerClient { http, url, token })
    }

    pub async fn create(&self, session: &CreateSession) -> Result<SessionView, ClientError> {
        read(self.call(Method::POST, "/sessions", Some(session)).await?).await
    }

    /// The owner's view with the owner's token, otherwise the public one.
    pub async fn show(&self, id: &SessionId) -> Result<SessionView, ClientError> {
        read(self.call(Method::GET, &format!("/sessions/{id}"), NOTHING).await?).await
    }

    pub async fn set_kvs_connected(&self, id: &SessionId, kvs_connected: bool) -> Result<SessionView, ClientError> {
        let path = format!("/sessions/{id}/kvs-status");
        read(self.call(Method::PUT, &path, Some(&KvsStatus { kvs_connected })).await?).await
    }

    /// What a MASTER needs to connect without AWS credentials.
    pub async fn connection(&self, id: &SessionId) -> Result<ConnectionView, ClientError> {
        read(self.call(Method::POST, &format!("/sessions/{id}/kvs-connection"), NOTHING).await?).await
    }

    pub async fn end(&self, id: &SessionId) -> Result<(), ClientError> {
        self.call(Method::DELETE, &format!("/sessions/{id}"), NOTHING).await.map(|_| ())
    }

    async fn call<B: Serialize>(&self, method: Method, path: &str, body: Option<&B>) -> Result<Response, ClientError> {
        let mut request = self.http.request(method, at(&self.url, path));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.reveal());
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.map_err(|error| self.unreachable(error))?;
        if answer.status().is_success() { Ok(answer) } else { Err(refusal(answer).await) }
    }

    fn unreachable(&self, error: reqwest::Error) -> ClientError {
        let error = error.without_url();
        let mut why = error.to_string();
        let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(&error);
        while let Some(inner) = cause {
            why = inner.to_string();
            cause = inner.source();
        }
        ClientError::Unreachable { at: self.url.to_string(), why }
    }
}

const NOTHING: Option<&()> = None;

async fn read<T: DeserializeOwned>(answer: Response) -> Result<T, ClientError> {
    answer.json().await.map_err(|error| ClientError::Protocol(error.without_url().to_string()))
}

/// The problem in a refusal, or at least its status.
async fn refusal(answer: Response) -> ClientError {
    #[derive(Deserialize)]
    struct Told {
        code: ErrorCode,
        detail: String,
        details: Option<serde_json::Value>,
    }
    let status = answer.status();
    match answer.json::<Told>().await {
        Ok(Told { code, detail, details }) => ClientError::Refused(Problem { code, message: detail, details }),
        Err(_) => ClientError::Protocol(format!("HTTP {status} without a reason")),
    }
}
