//! `POST /`, the path the AWS JSON services share: `x-amz-target` says which service and operation is meant.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;

use crate::error::{AwsError, ErrorKind};
use crate::signed::{Gate, Secret};
use crate::transcribe::{self, Transcribe};
use crate::translate::{self, Translate};

/// Who answers here; a service that is off is unknown.
#[derive(Clone)]
pub(crate) struct JsonRpc {
    pub translate: Option<Arc<Translate>>,
    pub transcribe: Option<Arc<Transcribe>>,
    pub secret: Option<Secret>,
}

impl JsonRpc {
    pub fn router(self) -> Router {
        Router::new().route("/", post(call)).with_state(self)
    }

    async fn answer(&self, request: Request) -> Result<Response, AwsError> {
        let target = request.headers().get("x-amz-target").and_then(|target| target.to_str().ok()).unwrap_or_default();
        let (service, operation) = target.split_once('.').unwrap_or_default();
        let operation = operation.to_owned();
        let gate = |service| Gate { secret: self.secret.clone(), service };
        match (service, &self.translate, &self.transcribe) {
            (translate::TARGET_PREFIX, Some(translate), _) => {
                let (_, body) = gate("translate").admit(request).await?;
                Ok(translate.json_rpc(&operation, body).await)
            }
            (transcribe::TARGET_PREFIX, _, Some(transcribe)) => {
                let (_, body) = gate("transcribe").admit(request).await?;
                Ok(transcribe.json_rpc(&operation, &body))
            }
            _ => {
                let message = "x-amz-target names no operation local-cloud knows";
                Err(AwsError::new(ErrorKind::UnknownOperation, message))
            }
        }
    }
}

async fn call(State(rpc): State<JsonRpc>, request: Request) -> Response {
    rpc.answer(request).await.unwrap_or_else(IntoResponse::into_response)
}
