//! Answers to a refused call, in the shape the AWS SDKs read.
//!
//! Status, `x-amzn-ErrorType`, `x-amzn-RequestId` and the body `{"__type": "...", "Message": "..."}`. REST clients
//! take the type from the header, JSON-RPC ones (botocore) from the body; both read `Message` or `message`.

use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};

use crate::sigv4::SignatureError;

pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");
pub const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");

/// The kinds of refusal, each with its AWS name and status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    AccessDenied,
    AccountChannelLimitExceeded,
    ClientLimitExceeded,
    IncompleteSignature,
    InternalFailure,
    InvalidArgument,
    InvalidSignature,
    MissingAuthenticationToken,
    ResourceInUse,
    ResourceNotFound,
    Serialization,
    TagsPerResourceExceededLimit,
    UnknownOperation,
    VersionMismatch,
}

impl ErrorKind {
    /// The type as the AWS models spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AccessDenied => "AccessDeniedException",
            Self::AccountChannelLimitExceeded => "AccountChannelLimitExceededException",
            Self::ClientLimitExceeded => "ClientLimitExceededException",
            Self::IncompleteSignature => "IncompleteSignatureException",
            Self::InternalFailure => "InternalFailure",
            Self::InvalidArgument => "InvalidArgumentException",
            Self::InvalidSignature => "InvalidSignatureException",
            Self::MissingAuthenticationToken => "MissingAuthenticationTokenException",
            Self::ResourceInUse => "ResourceInUseException",
            Self::ResourceNotFound => "ResourceNotFoundException",
            Self::Serialization => "SerializationException",
            Self::TagsPerResourceExceededLimit => "TagsPerResourceExceededLimitException",
            Self::UnknownOperation => "UnknownOperationException",
            Self::VersionMismatch => "VersionMismatchException",
        }
    }

    pub const fn status(self) -> StatusCode {
        match self {
            Self::AccessDenied | Self::InvalidSignature | Self::MissingAuthenticationToken => StatusCode::FORBIDDEN,
            Self::ResourceNotFound | Self::UnknownOperation => StatusCode::NOT_FOUND,
            Self::InternalFailure => StatusCode::INTERNAL_SERVER_ERROR,
            Self::AccountChannelLimitExceeded
            | Self::ClientLimitExceeded
            | Self::IncompleteSignature
            | Self::InvalidArgument
            | Self::ResourceInUse
            | Self::Serialization
            | Self::TagsPerResourceExceededLimit
            | Self::VersionMismatch => StatusCode::BAD_REQUEST,
        }
    }
}

/// One refusal. Its text goes to the client as it is, so it holds nothing secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", kind.name())]
pub struct AwsError {
    pub kind: ErrorKind,
    pub message: String,
}

impl AwsError {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgument, message)
    }
}

impl From<SignatureError> for AwsError {
    fn from(reason: SignatureError) -> Self {
        let kind = match reason {
            SignatureError::Missing => ErrorKind::MissingAuthenticationToken,
            SignatureError::Incomplete(_) | SignatureError::Malformed(_) => ErrorKind::IncompleteSignature,
            SignatureError::HeaderAbsent(_)
            | SignatureError::Expired(_)
            | SignatureError::NotYetCurrent(_)
            | SignatureError::Mismatch => ErrorKind::InvalidSignature,
        };
        Self::new(kind, reason.to_string())
    }
}

impl IntoResponse for AwsError {
    fn into_response(self) -> Response {
        let body = serde_json::json!({ "__type": self.kind.name(), "Message": self.message }).to_string();
        let mut response = (self.kind.status(), [(header::CONTENT_TYPE, "application/json")], body).into_response();
        response.headers_mut().insert(ERROR_TYPE, HeaderValue::from_static(self.kind.name()));
        response.headers_mut().insert(REQUEST_ID, request_id());
        response
    }
}

/// A fresh id in the form of a random UUID.
pub fn request_id() -> HeaderValue {
    let id = rand::random::<u128>();
    let text = format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        id >> 96,
        (id >> 80) & 0xffff,
        (id >> 64) & 0xfff,
        0x8000 | ((id >> 48) & 0x3fff),
        id & 0xffff_ffff_ffff
    );
    HeaderValue::from_str(&text).expect("hex digits and dashes are a header value")
}
