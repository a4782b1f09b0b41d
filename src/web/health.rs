//! For probes, and what the house can do.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::House;

/// The process runs and answers.
pub(super) async fn live() -> Json<Value> {
    Json(json!({ "status": "live" }))
}

/// Whether new visitors should come here: 200, or 503 once it is draining or while the store is away.
pub(super) async fn ready(State(house): State<Arc<House>>) -> (StatusCode, Json<Value>) {
    let status = match house.is_ready() {
        false => "draining",
        true if !house.sessions.store_answers().await => "storeUnavailable",
        true => return (StatusCode::OK, Json(json!({ "status": "ready" }))),
    };
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": status })))
}

/// What a speaker may speak and a listener may ask for.
pub(super) async fn languages(State(house): State<Arc<House>>) -> Json<Value> {
    let sources: Vec<_> = house.catalogue.sources().collect();
    Json(json!({ "sourceLanguages": sources, "targetLanguages": house.catalogue.targets() }))
}
