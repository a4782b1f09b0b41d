//! A `Problem` as an HTTP answer: RFC 9457 `application/problem+json`.
//!
//! Own code rather than the `problem_details` crate: the whole shape is one JSON object, the code and the details
//! come from `domain`, and most of this page is reading bodies, which that crate does not do. Details stay one
//! member (`details`), because `details.status` (of a session) would collide with RFC 9457's `status`.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body as HttpBody;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, Request};
use axum::response::{IntoResponse, Response};
use axum::{Json, http};
use babelcast_domain::error::{ErrorCode, Problem};
use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body_util::BodyExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use utoipa::ToSchema;

use super::House;
use super::limits::is_guess;

/// What a handler refuses with: the problem, and a status where HTTP has a finer one than the code's own.
#[derive(Debug)]
pub(super) struct Refusal {
    problem: Problem,
    status: StatusCode,
    headers: Vec<(HeaderName, &'static str)>,
}

/// What is wrong with a request, or with us (RFC 9457).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct ProblemBody {
    #[serde(rename = "type")]
    #[schema(examples("urn:babelcast:problem:invalid-request"))]
    kind: String,
    /// In a few words, the same for all problems of the kind.
    title: &'static str,
    /// The HTTP status once more.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What is wrong here and what to do.
    detail: String,
    code: ErrorCode,
    /// Whether the same request may succeed later, unchanged.
    retryable: bool,
    /// More for programs: `retryAfterMs`, `status` (of the session), `supported` (languages), `service`, `reason`, `limit`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>, nullable = false)]
    details: Option<Value>,
}

/// Left on the answer for the access log: why it was refused.
#[derive(Debug, Clone)]
pub(super) struct Refused {
    pub code: ErrorCode,
    /// The actual status of a session that is not to be had.
    pub session_status: Option<String>,
    /// Whether this tells a guesser that the guess was wrong.
    pub guess: bool,
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        let status = StatusCode::from_u16(problem.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Refusal { problem, status, headers: Vec::new() }
    }
}

impl Refusal {
    /// For what only HTTP knows: a path, a method, a media type.
    pub fn of_http(status: StatusCode, message: impl Into<String>) -> Self {
        Refusal { problem: Problem::invalid(message), status, headers: Vec::new() }
    }

    pub fn with_header(mut self, name: HeaderName, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Refusal { problem, status, headers: added } = self;
        let code = problem.code.as_str();
        let guess = is_guess(&problem);
        let member = |name: &str| problem.details.as_ref().map(|details| details[name].clone()).unwrap_or_default();
        let (wait, session_status) = (member("retryAfterMs").as_u64(), member("status").as_str().map(str::to_owned));
        let body = ProblemBody {
            kind: format!("urn:babelcast:problem:{}", code.to_ascii_lowercase().replace('_', "-")),
            title: title(problem.code, status),
            status: status.as_u16(),
            detail: problem.message,
            code: problem.code,
            retryable: problem.code.retryable() || wait.is_some(),
            details: problem.details,
        };
        let mut headers: HeaderMap =
            added.into_iter().map(|(name, value)| (name, HeaderValue::from_static(value))).collect();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(wait) = wait {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.div_ceil(1_000)));
        }
        // Text, numbers and JSON: writing them cannot fail.
        let body = serde_json::to_string(&body).unwrap_or_default();
        let mut response = (status, headers, body).into_response();
        response.extensions_mut().insert(Refused { code: problem.code, session_status, guess });
        response
    }
}

fn title(code: ErrorCode, status: StatusCode) -> &'static str {
    match code {
        ErrorCode::SessionNotFound => "Session not found",
        ErrorCode::Unauthorized => "The token was refused",
        ErrorCode::Forbidden => "Not allowed",
        ErrorCode::InvalidRequest => status.canonical_reason().unwrap_or("Invalid request"),
        ErrorCode::UnsupportedLanguage => "Language not offered",
        ErrorCode::Conflict => "Conflict",
        ErrorCode::RateLimited => "Too many requests",
        ErrorCode::SessionFull => "Session is full",
        ErrorCode::PayloadTooLarge => "Too large",
        ErrorCode::UpstreamUnavailable => "A service behind us does not answer",
        ErrorCode::Internal => "Something broke on our side",
    }
}

/// A JSON body of the given shape. Refuses by name what is unknown, wrong, too large or too slow.
pub(super) struct Body<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Arc<House>> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, house: &Arc<House>) -> Result<Self, Refusal> {
        if !is_json(request.headers()) {
            let why = "the body must be JSON: send `Content-Type: application/json`";
            return Err(Refusal::of_http(StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
        }
        let bytes = read(request.into_body(), house.settings.max_body_bytes, house.settings.timeouts.body).await?;
        // Serde takes an array for a struct, field by field; this API does not.
        if bytes.trim_ascii_start().first() == Some(&b'[') {
            return Err(Problem::invalid("the body must be a JSON object").into());
        }
        match Json::<T>::from_bytes(&bytes) {
            Ok(Json(value)) => Ok(Body(value)),
            Err(JsonRejection::JsonDataError(error)) => Err(Problem::invalid(reason(&error)).into()),
            Err(JsonRejection::JsonSyntaxError(error)) => {
                Err(Problem::invalid(format!("the body is not JSON: {}", reason(&error))).into())
            }
            Err(_) => Err(Problem::invalid("the body is not JSON").into()),
        }
    }
}

/// Reads at most `limit` bytes within `patience`.
///
/// What is over the limit is thrown away rather than left unread (up to 4 MiB): closing a socket with unread
/// data resets it, and the client would never see the answer.
async fn read(mut body: HttpBody, limit: usize, patience: Duration) -> Result<bytes::Bytes, Refusal> {
    const THROWN_AWAY: usize = 4 << 20;
    let reading = async {
        let (mut kept, mut total) = (BytesMut::new(), 0);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Problem::invalid("the body broke off"))?;
            let Ok(data) = frame.into_data() else { continue };
            total += data.len();
            if total <= limit {
                kept.extend_from_slice(&data);
            } else if total > limit + THROWN_AWAY {
                break;
            }
        }
        if total > limit {
            let why = format!("the body may have at most {limit} bytes");
            return Err(Problem::new(ErrorCode::PayloadTooLarge, why));
        }
        Ok(kept.freeze())
    };
    match tokio::time::timeout(patience, reading).await {
        Ok(read) => Ok(read?),
        Err(_) => {
            let why = format!("the body did not arrive within {} s", patience.as_secs_f32());
            Err(Refusal::of_http(StatusCode::REQUEST_TIMEOUT, why).with_header(header::CONNECTION, "close"))
        }
    }
}

/// Serde's own sentence with the path of the field, without axum's wrapping.
fn reason(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

fn is_json(headers: &HeaderMap) -> bool {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media_type == "application/json" || (media_type.starts_with("application/") && media_type.ends_with("+json"))
}
