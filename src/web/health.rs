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

/// Whether new visitors should come here: 200, or 503 once it is draining.
pub(super) async fn ready(State(house): State<Arc<House>>) -> (StatusCode, Json<Value>) {
    if house.is_ready() {
        (StatusCode::OK, Json(json!({ "status": "ready" })))
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": "draining" })))
    }
}

/// What a speaker may speak and a listener may ask for.
pub(super) async fn languages(State(house): State<Arc<House>>) -> Json<Value> {
    let sources: Vec<_> = house.catalogue.sources().collect();
    Json(json!({ "sourceLanguages": sources, "targetLanguages": house.catalogue.targets() }))
}
