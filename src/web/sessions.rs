//! `/sessions`: making, showing and ending broadcasts. Deliberately absent: listing, changing, idempotency keys.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use babelcast_domain::error::{ErrorCode, Problem};
use babelcast_domain::ids::SessionId;
use babelcast_domain::record::EndReason;
use babelcast_domain::wire::{CreateSession, KvsStatus, SessionView};

use super::House;
use super::auth::Caller;
use super::error::{Body, Refusal};
use crate::live::Found;

/// A session, named in the path. What cannot be a session id names a session that does not exist.
pub(super) struct Named(pub Result<SessionId, Problem>);

/// Views of a session differ by who asks, and some carry credentials: no cache may keep them.
const NO_STORE: [(header::HeaderName, &str); 1] = [(header::CACHE_CONTROL, "no-store")];

pub(super) async fn create(
    State(house): State<Arc<House>>,
    caller: Caller,
    Body(request): Body<CreateSession>,
) -> Result<Response, Refusal> {
    request.check()?;
    let sessions = Arc::clone(&house.sessions);
    let record = house.to_the_end(async move { sessions.create(&caller.id, request).await }).await?;
    let location = [(header::LOCATION, format!("/sessions/{}", record.session_id))];
    Ok((StatusCode::CREATED, NO_STORE, location, Json(SessionView::for_owner(&record, 0))).into_response())
}

pub(super) async fn show(
    State(house): State<Arc<House>>,
    caller: Option<Caller>,
    Named(id): Named,
) -> Result<Response, Refusal> {
    let Found { record, listener_count } = house.sessions.find(&id?).await?;
    let owns = caller.is_some_and(|caller| caller.id == record.speaker_id);
    let view = if owns { SessionView::for_owner } else { SessionView::public };
    Ok((NO_STORE, Json(view(&record, listener_count))).into_response())
}

pub(super) async fn end(
    State(house): State<Arc<House>>,
    caller: Caller,
    Named(id): Named,
) -> Result<StatusCode, Refusal> {
    let id = id?;
    owned(&house, &caller, &id).await?;
    let sessions = Arc::clone(&house.sessions);
    house.to_the_end(async move { sessions.end(&id, EndReason::Speaker).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn set_kvs_status(
    State(house): State<Arc<House>>,
    caller: Caller,
    Named(id): Named,
    Body(KvsStatus { kvs_connected }): Body<KvsStatus>,
) -> Result<Response, Refusal> {
    let id = id?;
    owned(&house, &caller, &id).await?;
    let sessions = Arc::clone(&house.sessions);
    let changed = house.to_the_end(async move { sessions.set_kvs_connected(&id, kvs_connected).await }).await?;
    Ok((NO_STORE, Json(SessionView::for_owner(&changed.record, changed.listener_count))).into_response())
}

/// Credentials for the speaker's browser: handed to the owner only, and never to a cache.
pub(super) async fn connection(
    State(house): State<Arc<House>>,
    caller: Caller,
    Named(id): Named,
) -> Result<Response, Refusal> {
    let id = id?;
    owned(&house, &caller, &id).await?;
    let view = house.sessions.speaker_connection(&id).await?;
    Ok((NO_STORE, Json(view)).into_response())
}

async fn owned(house: &House, caller: &Caller, id: &SessionId) -> Result<(), Problem> {
    let found = house.sessions.find(id).await?;
    if found.record.speaker_id == caller.id {
        Ok(())
    } else {
        Err(Problem::new(ErrorCode::Forbidden, "Only the speaker who created this session may do this"))
    }
}

impl FromRequestParts<Arc<House>> for Named {
    type Rejection = Infallible;
    async fn from_request_parts(parts: &mut Parts, house: &Arc<House>) -> Result<Self, Infallible> {
        let text = Path::<String>::from_request_parts(parts, house).await.map(|Path(text)| text).unwrap_or_default();
        Ok(Named(SessionId::parse(&text).map_err(|_| Problem::session_not_found("unknown"))))
    }
}
