//! Around every request: its id, its log line, and a net under panics.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use babelcast_domain::counts::Count;
use babelcast_domain::error::ErrorCode;
use futures_util::FutureExt;

use super::error::{Refusal, Refused};
use super::{House, internal};

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Gives every answer its `x-request-id` and every refusal one line: route, status, reason. Never a path, query,
/// address or header as it was sent, because ids and tokens travel there.
pub(super) async fn log(mut request: Request, next: Next) -> Response {
    let id = request.headers().get(REQUEST_ID).filter(|id| is_fit(id)).cloned().unwrap_or_else(made);
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let mut response = next.run(request).await;
    let status = response.status().as_u16();
    if status >= 400 {
        let route = route.as_ref().map_or("-", MatchedPath::as_str);
        let refused = response.extensions().get::<Refused>();
        let code = refused.map_or("-", |refused| refused.code.as_str());
        let session = refused.and_then(|refused| refused.session_status.as_deref()).unwrap_or("-");
        let request_id = id.to_str().unwrap_or("-");
        if refused.is_some_and(|refused| matches!(refused.code, ErrorCode::RateLimited | ErrorCode::SessionFull)) {
            // These come by the thousand; the limits tell of them once in a while.
            tracing::debug!(%method, route, status, code, request_id, "request limited");
        } else if status >= 500 {
            tracing::warn!(%method, route, status, code, request_id, "request failed");
        } else {
            tracing::info!(%method, route, status, code, session, request_id, "request refused");
        }
    }
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// How large a request's head may be. Past twice of it hyper does not read on, and answers 431 without a body.
pub(super) const HEAD_BYTES: usize = 32 << 10;

/// Refuses a head that is too large in our own words.
pub(super) async fn bound_head(request: Request, next: Next) -> Response {
    let field = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 4;
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if target + request.headers().iter().map(field).sum::<usize>() > HEAD_BYTES {
        let why = format!("the address and the headers together may have at most {HEAD_BYTES} bytes");
        return Refusal::of_http(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, why).into_response();
    }
    next.run(request).await
}

/// A panic in a handler costs that request only.
pub(super) async fn catch_panic(State(house): State<Arc<House>>, request: Request, next: Next) -> Response {
    match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(_) => {
            house.counts.one(Count::Panics);
            tracing::error!("a request panicked");
            Refusal::from(internal()).into_response()
        }
    }
}

/// Somebody else's id is taken when it is short and plain, because it goes into the log.
fn is_fit(id: &HeaderValue) -> bool {
    (1..=128).contains(&id.len())
        && id.as_bytes().iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':'))
}

fn made() -> HeaderValue {
    let id = format!("{:032x}", rand::random::<u128>());
    HeaderValue::from_str(&id).unwrap_or(HeaderValue::from_static("-"))
}
