//! Reading a call and checking its signature, the same for every REST-like service.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, header};

use crate::error::{AwsError, ErrorKind};
use crate::sigv4;

/// The longest body any of our calls has; a Translate text is at most 10,000 bytes.
const MAX_BODY: usize = 256 * 1024;
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// A secret access key. Its `Debug` form does not show it.
#[derive(Clone)]
pub struct Secret(Arc<str>);

impl Secret {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<T: Into<Arc<str>>> From<T> for Secret {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

/// What calls of one service must be signed with.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    /// `None`: nothing is checked.
    pub secret: Option<Secret>,
    /// The service name in the credential's scope.
    pub service: &'static str,
}

impl Gate {
    /// The whole body, within size and time limits, after the signature was found good.
    pub async fn admit(&self, request: Request) -> Result<(Parts, Bytes), AwsError> {
        let (parts, body) = request.into_parts();
        let body = match tokio::time::timeout(BODY_TIMEOUT, axum::body::to_bytes(body, MAX_BODY)).await {
            Ok(Ok(body)) => body,
            Ok(Err(_)) => return Err(AwsError::new(ErrorKind::Serialization, "The body is too long or broke off")),
            Err(_) => return Err(AwsError::new(ErrorKind::Serialization, "The body did not come within 10 s")),
        };
        self.check(&parts, &body)?;
        Ok((parts, body))
    }

    fn check(&self, parts: &Parts, body: &[u8]) -> Result<(), AwsError> {
        let Some(secret) = &self.secret else { return Ok(()) };
        let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
        let hash = sigv4::sha256_hex(body);
        let verified = sigv4::verify_headers(secret.as_str(), parts.method.as_str(), target, &parts.headers, &hash)?;
        sigv4::check_skew(&parts.headers, SystemTime::now())?;
        self.check_service(&verified)
    }

    /// The credential must be meant for this service.
    pub fn check_service(&self, verified: &sigv4::Verified) -> Result<(), AwsError> {
        match verified.service() == self.service {
            true => Ok(()),
            false => Err(AwsError::new(
                ErrorKind::InvalidSignature,
                format!("Credential should be scoped to correct service: '{}'", self.service),
            )),
        }
    }
}

/// Middleware in front of a service that does not look at signatures itself. `/dev` paths stay open.
pub(crate) async fn guard(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    if request.uri().path().starts_with("/dev/") {
        return next.run(request).await;
    }
    let cbor = request.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/cbor");
    match gate.admit(request).await {
        Ok((parts, body)) => next.run(Request::from_parts(parts, Body::from(body))).await,
        Err(refusal) if cbor => in_cbor(refusal),
        Err(refusal) => refusal.into_response(),
    }
}

/// The refusal as Smithy RPC v2 CBOR has it: clients of that protocol read no JSON.
fn in_cbor(refusal: AwsError) -> Response {
    let fields = [("__type", refusal.kind.name()), ("message", refusal.message.as_str())];
    let fields = std::collections::BTreeMap::from(fields);
    let mut body = Vec::new();
    ciborium::into_writer(&fields, &mut body).expect("a map of strings always encodes");
    let mut response = refusal.into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/cbor"));
    response.headers_mut().insert("smithy-protocol", HeaderValue::from_static("rpc-v2-cbor"));
    response.headers_mut().remove(header::CONTENT_LENGTH);
    *response.body_mut() = Body::from(body);
    response
}
