//! Amazon Translate's two wire forms, Smithy RPC v2 CBOR (the Rust SDK's default) and AWS JSON 1.1, over one set of
//! requests, answers and errors.

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Shape ids in CBOR errors carry the model's namespace; JSON errors the bare name.
const NAMESPACE: &str = "com.amazonaws.translate#";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    Cbor,
    Json,
}

impl Wire {
    pub fn decode<T: DeserializeOwned>(self, body: &Bytes) -> Result<T, Problem> {
        let unreadable = |error: String| Problem::Serialization(error);
        match self {
            // An empty body stands for an operation without input.
            Wire::Cbor if body.is_empty() => serde_json::from_str("{}").map_err(|error| unreadable(error.to_string())),
            Wire::Cbor => ciborium::from_reader(body.as_ref()).map_err(|error| unreadable(error.to_string())),
            Wire::Json => serde_json::from_slice(body).map_err(|error| unreadable(error.to_string())),
        }
    }

    pub fn answer(self, answer: &impl Serialize) -> Response {
        self.respond(StatusCode::OK, answer)
    }

    pub fn problem(self, problem: &Problem) -> Response {
        let name = problem.name();
        let kind = match self {
            Wire::Cbor => format!("{NAMESPACE}{name}"),
            Wire::Json => name.to_owned(),
        };
        let mut body = ProblemBody { kind, message: problem.to_string(), ..ProblemBody::default() };
        match problem {
            Problem::UnsupportedLanguagePair { from, to } => {
                body.source_language_code = Some(from.clone());
                body.target_language_code = Some(to.clone());
            }
            Problem::UnsupportedDisplayLanguage(code) => body.display_language_code = Some(code.clone()),
            Problem::Serialization(_)
            | Problem::UnknownOperation
            | Problem::InvalidRequest(_)
            | Problem::TextSizeLimitExceeded(_)
            | Problem::UndetectedLanguage
            | Problem::NoTerminology(_)
            | Problem::TooManyRequests
            | Problem::InternalServer(_)
            | Problem::ServiceUnavailable(_) => {}
        }
        self.respond(problem.status(), &body)
    }

    fn respond(self, status: StatusCode, value: &impl Serialize) -> Response {
        let (kind, body) = match self {
            Wire::Cbor => {
                let mut body = vec![];
                let written = ciborium::into_writer(value, &mut body).map_err(|error| error.to_string());
                ("application/cbor", written.map(|()| body))
            }
            Wire::Json => ("application/x-amz-json-1.1", serde_json::to_vec(value).map_err(|error| error.to_string())),
        };
        let Ok(body) = body else {
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        };
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        if self == Wire::Cbor {
            headers.insert("smithy-protocol", HeaderValue::from_static("rpc-v2-cbor"));
        }
        let id = format!("{:032x}", rand::random::<u128>());
        if let Ok(id) = HeaderValue::from_str(&id) {
            headers.insert("x-amzn-requestid", id);
        }
        response
    }
}

/// Everything the service can answer instead of a translation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Problem {
    #[error("The request body cannot be read: {0}")]
    Serialization(String),
    #[error("Unknown operation")]
    UnknownOperation,
    #[error("{0}")]
    InvalidRequest(String),
    #[error(
        "Input text size exceeds limit. Max length of request text allowed is 10000 bytes while in this request the text size is {0} bytes"
    )]
    TextSizeLimitExceeded(usize),
    #[error("Unsupported language pair: {from} to {to}.")]
    UnsupportedLanguagePair { from: String, to: String },
    #[error("Display language {0} is not supported here, only en")]
    UnsupportedDisplayLanguage(String),
    #[error("There is no language detection in the local cloud. Name the source language.")]
    UndetectedLanguage,
    #[error("Terminology {0} does not exist")]
    NoTerminology(String),
    #[error("Too many requests")]
    TooManyRequests,
    #[error("Internal server error: {0}")]
    InternalServer(String),
    #[error("Service unavailable: {0}")]
    ServiceUnavailable(String),
}

impl Problem {
    fn name(&self) -> &'static str {
        match self {
            Problem::Serialization(_) => "SerializationException",
            Problem::UnknownOperation => "UnknownOperationException",
            Problem::InvalidRequest(_) => "InvalidRequestException",
            Problem::TextSizeLimitExceeded(_) => "TextSizeLimitExceededException",
            Problem::UnsupportedLanguagePair { .. } => "UnsupportedLanguagePairException",
            Problem::UnsupportedDisplayLanguage(_) => "UnsupportedDisplayLanguageCodeException",
            Problem::UndetectedLanguage => "DetectedLanguageLowConfidenceException",
            Problem::NoTerminology(_) => "ResourceNotFoundException",
            Problem::TooManyRequests => "TooManyRequestsException",
            Problem::InternalServer(_) => "InternalServerException",
            Problem::ServiceUnavailable(_) => "ServiceUnavailableException",
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Problem::Serialization(_)
            | Problem::UnknownOperation
            | Problem::InvalidRequest(_)
            | Problem::TextSizeLimitExceeded(_)
            | Problem::UnsupportedLanguagePair { .. }
            | Problem::UnsupportedDisplayLanguage(_)
            | Problem::UndetectedLanguage => StatusCode::BAD_REQUEST,
            Problem::NoTerminology(_) => StatusCode::NOT_FOUND,
            Problem::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Problem::InternalServer(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Problem::ServiceUnavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

#[derive(Debug, Default, Serialize)]
struct ProblemBody {
    #[serde(rename = "__type")]
    kind: String,
    #[serde(rename = "Message")]
    message: String,
    #[serde(rename = "SourceLanguageCode", skip_serializing_if = "Option::is_none")]
    source_language_code: Option<String>,
    #[serde(rename = "TargetLanguageCode", skip_serializing_if = "Option::is_none")]
    target_language_code: Option<String>,
    #[serde(rename = "DisplayLanguageCode", skip_serializing_if = "Option::is_none")]
    display_language_code: Option<String>,
}

/// Members that the model requires are optional here, so that their absence is told by name.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct TranslateText {
    pub text: Option<String>,
    pub source_language_code: Option<String>,
    pub target_language_code: Option<String>,
    #[serde(default)]
    pub terminology_names: Option<Vec<String>>,
    #[serde(default)]
    pub settings: Option<TranslationSettings>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct TranslationSettings {
    pub formality: Option<String>,
    pub profanity: Option<String>,
    pub brevity: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct TranslatedText {
    pub translated_text: String,
    pub source_language_code: String,
    pub target_language_code: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListLanguages {
    pub display_language_code: Option<String>,
    pub max_results: Option<usize>,
    pub next_token: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Languages {
    pub languages: Vec<Language>,
    pub display_language_code: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_token: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Language {
    pub language_name: String,
    pub language_code: String,
}
