//! `POST /`, the path the AWS JSON services share: `x-amz-target` says which service and operation is meant.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use http::HeaderMap;

use crate::error::{AwsError, ErrorKind};
use crate::translate::{TARGET_PREFIX, Translate};

pub(crate) fn router(translate: Arc<Translate>) -> Router {
    Router::new().route("/", post(call)).with_state(translate)
}

async fn call(State(translate): State<Arc<Translate>>, headers: HeaderMap, body: Bytes) -> Response {
    let target = headers.get("x-amz-target").and_then(|target| target.to_str().ok()).unwrap_or_default();
    match target.split_once('.') {
        Some((TARGET_PREFIX, operation)) => translate.json_rpc(operation, body).await,
        Some(_) | None => {
            let message = "x-amz-target names no operation local-cloud knows";
            AwsError::new(ErrorKind::UnknownOperation, message).into_response()
        }
    }
}
