//! For probes, and what the house can do.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use babelcast_domain::language::Language;
use serde::Serialize;
use utoipa::ToSchema;

use super::House;

#[derive(Serialize, ToSchema)]
pub(super) struct Health {
    status: Condition,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
enum Condition {
    Live,
    Ready,
    Draining,
    StoreUnavailable,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Languages {
    /// What a speaker may speak.
    source_languages: Vec<Language>,
    /// What a listener may ask for.
    target_languages: Vec<Language>,
}

/// Whether the process runs and answers
#[utoipa::path(get, path = "/health/live", operation_id = "live", tag = "probes",
    responses((status = 200, body = Health, description = "It does.")))]
pub(super) async fn live() -> Json<Health> {
    Json(Health { status: Condition::Live })
}

/// Whether new visitors should come here
#[utoipa::path(get, path = "/health/ready", operation_id = "ready", tag = "probes",
    responses(
        (status = 200, body = Health, description = "They should."),
        (status = 503, body = Health, description = "They should not: the server is stopping, or the store is away."),
    ))]
pub(super) async fn ready(State(house): State<Arc<House>>) -> (StatusCode, Json<Health>) {
    let status = match house.is_ready() {
        false => Condition::Draining,
        true if !house.sessions.store_answers().await => Condition::StoreUnavailable,
        true => return (StatusCode::OK, Json(Health { status: Condition::Ready })),
    };
    (StatusCode::SERVICE_UNAVAILABLE, Json(Health { status }))
}

/// What a speaker may speak and a listener may ask for
#[utoipa::path(get, path = "/languages", operation_id = "languages", tag = "everybody",
    responses((status = 200, body = Languages)))]
pub(super) async fn languages(State(house): State<Arc<House>>) -> Json<Languages> {
    let source_languages = house.catalogue.sources().cloned().collect();
    Json(Languages { source_languages, target_languages: house.catalogue.targets().to_vec() })
}
