//! `/sessions/{id}/status`, for pollers: small, the same for everybody, and cacheable.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use babelcast_domain::ids::SessionId;
use babelcast_domain::wire::StatusView;
use headers::HeaderMapExt;

use super::error::Refusal;
use super::etag::{is_known, tag_of};
use super::sessions::Named;
use super::{House, internal};

/// A page of pollers costs a cache in front of us one look a second.
const CACHED: &str = "public, max-age=1";

/// What there is to poll of a session
///
/// Ask again with the answer's `ETag` as `If-None-Match`: 304 as long as nothing has changed.
#[utoipa::path(
    get,
    path = "/sessions/{id}/status",
    operation_id = "sessionStatus",
    tag = "everybody",
    params(
        ("id" = SessionId, Path),
        ("If-None-Match" = Option<String>, Header, nullable = false, description = "The `ETag` of an earlier answer.")
    ),
    responses(
        (status = 200, body = StatusView, headers(
            ("ETag" = String, description = "Names this state of the session; the same on every replica."),
            ("Cache-Control" = String))),
        (status = 304, description = "As it was.", headers(("ETag" = String), ("Cache-Control" = String))),
        (status = 404, description = "Unknown or expired (`details.status`)."),
    )
)]
pub(super) async fn show(
    State(house): State<Arc<House>>,
    headers: HeaderMap,
    Named(id): Named,
) -> Result<Response, Refusal> {
    let view = house.sessions.status(&id?).await?;
    let body = serde_json::to_vec(&view).map_err(|_| internal())?;
    let tag = tag_of(&body)?;
    let mut answer = if is_known(&headers, &tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, "application/json")], body).into_response()
    };
    answer.headers_mut().typed_insert(tag);
    answer.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static(CACHED));
    Ok(answer)
}
