//! `ETag` and `If-None-Match`: one name for one content, the same on every replica.

use aws_lc_rs::digest::{SHA256, digest};
use axum::http::HeaderMap;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use headers::{ETag, HeaderMapExt, IfNoneMatch};

use super::error::Refusal;
use super::internal;

pub(super) fn tag_of(body: &[u8]) -> Result<ETag, Refusal> {
    let hash = digest(&SHA256, body);
    let tag = format!("\"{}\"", URL_SAFE_NO_PAD.encode(&hash.as_ref()[..12]));
    tag.parse().map_err(|_| internal().into())
}

/// Whether the client has what this tag names. What cannot be read as `If-None-Match` matches nothing.
pub(super) fn is_known(headers: &HeaderMap, tag: &ETag) -> bool {
    headers.typed_get::<IfNoneMatch>().is_some_and(|known| !known.precondition_passes(tag))
}
