//! What can be wrong, as users see it: a stable code, a sentence that says what to do, and whether retrying helps.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// What went wrong, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ErrorCode {
    SessionNotFound,
    Unauthorized,
    Forbidden,
    InvalidRequest,
    UnsupportedLanguage,
    Conflict,
    RateLimited,
    SessionFull,
    PayloadTooLarge,
    UpstreamUnavailable,
    Internal,
}

impl ErrorCode {
    pub const ALL: [ErrorCode; 11] = [
        ErrorCode::SessionNotFound,
        ErrorCode::Unauthorized,
        ErrorCode::Forbidden,
        ErrorCode::InvalidRequest,
        ErrorCode::UnsupportedLanguage,
        ErrorCode::Conflict,
        ErrorCode::RateLimited,
        ErrorCode::SessionFull,
        ErrorCode::PayloadTooLarge,
        ErrorCode::UpstreamUnavailable,
        ErrorCode::Internal,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            ErrorCode::SessionNotFound => "SESSION_NOT_FOUND",
            ErrorCode::Unauthorized => "UNAUTHORIZED",
            ErrorCode::Forbidden => "FORBIDDEN",
            ErrorCode::InvalidRequest => "INVALID_REQUEST",
            ErrorCode::UnsupportedLanguage => "UNSUPPORTED_LANGUAGE",
            ErrorCode::Conflict => "CONFLICT",
            ErrorCode::RateLimited => "RATE_LIMITED",
            ErrorCode::SessionFull => "SESSION_FULL",
            ErrorCode::PayloadTooLarge => "PAYLOAD_TOO_LARGE",
            ErrorCode::UpstreamUnavailable => "UPSTREAM_UNAVAILABLE",
            ErrorCode::Internal => "INTERNAL",
        }
    }

    pub const fn http_status(self) -> u16 {
        match self {
            ErrorCode::SessionNotFound => 404,
            ErrorCode::Unauthorized => 401,
            ErrorCode::Forbidden => 403,
            ErrorCode::InvalidRequest | ErrorCode::UnsupportedLanguage => 400,
            ErrorCode::Conflict => 409,
            ErrorCode::RateLimited => 429,
            ErrorCode::SessionFull | ErrorCode::UpstreamUnavailable => 503,
            ErrorCode::PayloadTooLarge => 413,
            ErrorCode::Internal => 500,
        }
    }

    /// Close code of the WebSocket when this error ends the connection.
    pub const fn close_code(self) -> u16 {
        match self {
            ErrorCode::SessionNotFound => 4404,
            ErrorCode::Unauthorized => 4401,
            ErrorCode::Forbidden => 4403,
            ErrorCode::InvalidRequest | ErrorCode::UnsupportedLanguage | ErrorCode::Conflict => 4400,
            ErrorCode::RateLimited | ErrorCode::SessionFull => 4429,
            ErrorCode::PayloadTooLarge => 1009,
            ErrorCode::UpstreamUnavailable | ErrorCode::Internal => 1012,
        }
    }

    /// Whether the same request may succeed later, unchanged.
    pub const fn retryable(self) -> bool {
        matches!(
            self,
            ErrorCode::RateLimited | ErrorCode::SessionFull | ErrorCode::UpstreamUnavailable | ErrorCode::Internal
        )
    }
}

/// A refusal or failure, ready to be told to a user. `message` says what to do; it never holds a token or an address.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{}: {message}", .code.as_str())]
pub struct Problem {
    pub code: ErrorCode,
    pub message: String,
    pub details: Option<Value>,
}

impl Problem {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Problem { code, message: message.into(), details: None }
    }

    pub fn with(mut self, details: Value) -> Self {
        self.details = Some(details);
        self
    }

    /// The one wording of `SESSION_NOT_FOUND`. `status` is the actual one: `unknown`, `expired`, `ended`.
    pub fn session_not_found(status: &str) -> Self {
        Problem::new(ErrorCode::SessionNotFound, "Session does not exist or is inactive")
            .with(serde_json::json!({ "status": status }))
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Problem::new(ErrorCode::InvalidRequest, message)
    }

    pub fn unsupported_language(asked: &str, supported: &[crate::language::Language]) -> Self {
        Problem::new(
            ErrorCode::UnsupportedLanguage,
            format!("The language `{asked}` is not offered here; choose one of details.supported"),
        )
        .with(serde_json::json!({ "language": asked, "supported": supported }))
    }

    pub fn upstream(service: &str) -> Self {
        Problem::new(ErrorCode::UpstreamUnavailable, format!("{service} does not answer; try again in a few seconds"))
            .with(serde_json::json!({ "service": service }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_on_the_wire_is_the_code_in_the_book() {
        for code in ErrorCode::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
    }

    #[test]
    fn session_not_found_has_exactly_one_wording() {
        let problem = Problem::session_not_found("ended");
        assert_eq!(problem.message, "Session does not exist or is inactive");
        assert_eq!(problem.details.unwrap()["status"], "ended");
    }
}
