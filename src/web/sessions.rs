//! `/sessions`: making, showing, changing and ending broadcasts.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use babelcast_domain::error::{ErrorCode, Problem};
use babelcast_domain::ids::SessionId;
use babelcast_domain::record::EndReason;
use babelcast_domain::wire::{ConnectionView, CreateSession, KvsStatus, PatchSession, SessionPage, SessionView};
use serde::Deserialize;
use utoipa::IntoParams;

use super::House;
use super::auth::Caller;
use super::error::{Body, Refusal};
use crate::live::{Found, IdempotencyKey};

/// A session, named in the path. What cannot be a session id names a session that does not exist.
pub(super) struct Named(pub Result<SessionId, Problem>);

/// Views of a session differ by who asks, and some carry credentials: no cache may keep them.
const NO_STORE: [(header::HeaderName, &str); 1] = [(header::CACHE_CONTROL, "no-store")];

pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Opens a session
///
/// When this answers, the session's signaling channel is ACTIVE. If anything fails, nothing is left behind.
#[utoipa::path(
    post,
    path = "/sessions",
    operation_id = "createSession",
    tag = "speaker",
    security(("bearer" = [])),
    params(
        ("Idempotency-Key" = Option<String>, Header, pattern = "^[ -~]{1,255}$", nullable = false,
            description = "Makes a repetition harmless for 24 hours: the same key and body find the session of the \
                first request.")
    ),
    request_body = CreateSession,
    responses(
        (status = 201, body = SessionView, description = "The owner's view of the new session.",
            headers(("Location" = String, description = "`/sessions/{id}`"))),
        (status = 409, description = "The `Idempotency-Key` was used for another request, or its first request is \
            still under way (`details.retryAfterMs`)."),
        (status = 429, description = "The speaker has as many open sessions as are allowed."),
    )
)]
pub(super) async fn create(
    State(house): State<Arc<House>>,
    caller: Caller,
    headers: HeaderMap,
    Body(request): Body<CreateSession>,
) -> Result<Response, Refusal> {
    request.check()?;
    let key = idempotency_key(&headers)?;
    let sessions = Arc::clone(&house.sessions);
    let record = house.to_the_end(async move { sessions.create_once(&caller.id, key, request).await }).await?;
    let location = [(header::LOCATION, format!("/sessions/{}", record.session_id))];
    Ok((StatusCode::CREATED, NO_STORE, location, Json(SessionView::for_owner(&record, 0))).into_response())
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Problem> {
    let mut given = headers.get_all(IDEMPOTENCY_KEY).iter();
    let key = given.next().map(|value| IdempotencyKey::parse(value.as_bytes())).transpose()?;
    match given.next() {
        None => Ok(key),
        Some(_) => Err(Problem::invalid("send one `Idempotency-Key`")),
    }
}

/// Where a list goes on.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Place {
    /// `cursor` of the page before, as it was given; left out for the first page.
    #[param(nullable = false, min_length = 1, max_length = 1024)]
    cursor: Option<String>,
}

/// Own sessions, newest first
///
/// Ended ones too, until they expire.
#[utoipa::path(
    get,
    path = "/sessions",
    operation_id = "listSessions",
    tag = "speaker",
    security(("bearer" = [])),
    params(Place),
    responses(
        (status = 200, body = SessionPage, description = "One page, in the owner's view."),
        (status = 400, description = "The cursor is none of ours."),
    )
)]
pub(super) async fn list(
    State(house): State<Arc<House>>,
    caller: Caller,
    place: Result<Query<Place>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(Place { cursor }) = place.map_err(|_| Problem::invalid("`cursor` must be given once, as text"))?;
    let (found, cursor) = house.sessions.list(&caller.id, cursor.as_deref()).await?;
    let view = |found: &Found| SessionView::for_owner(&found.record, found.listener_count);
    Ok((NO_STORE, Json(SessionPage { sessions: found.iter().map(view).collect(), cursor })).into_response())
}

/// A session
///
/// The public view; the owner's, which has the KVS channel in it, with the owner's token.
#[utoipa::path(
    get,
    path = "/sessions/{id}",
    operation_id = "showSession",
    tag = "everybody",
    security((), ("bearer" = [])),
    params(("id" = SessionId, Path)),
    responses(
        (status = 200, body = SessionView, description = "Ended sessions are shown until they expire."),
        (status = 404, description = "Unknown or expired (`details.status`)."),
    )
)]
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

/// Changes a session
///
/// What is left out stays as it is. Pausing tells every listener; nothing is heard until the session is active again.
#[utoipa::path(
    patch,
    path = "/sessions/{id}",
    operation_id = "changeSession",
    tag = "speaker",
    security(("bearer" = [])),
    params(("id" = SessionId, Path)),
    request_body = PatchSession,
    responses(
        (status = 200, body = SessionView, description = "The owner's view after the change."),
        (status = 403, description = "Somebody else's session."),
        (status = 404, description = "Unknown or expired (`details.status`)."),
        (status = 409, description = "The session has ended: nothing changes it any more."),
    )
)]
pub(super) async fn edit(
    State(house): State<Arc<House>>,
    caller: Caller,
    Named(id): Named,
    Body(patch): Body<PatchSession>,
) -> Result<Response, Refusal> {
    patch.check()?;
    let id = id?;
    owned(&house, &caller, &id).await?;
    let sessions = Arc::clone(&house.sessions);
    let changed = house.to_the_end(async move { sessions.edit(&id, patch).await }).await?;
    Ok((NO_STORE, Json(SessionView::for_owner(&changed.record, changed.listener_count))).into_response())
}

/// Ends a session
///
/// Last words are flushed, listeners told, the channel deleted. Ending an ended session changes nothing.
#[utoipa::path(
    delete,
    path = "/sessions/{id}",
    operation_id = "endSession",
    tag = "speaker",
    security(("bearer" = [])),
    params(("id" = SessionId, Path)),
    responses(
        (status = 204, description = "It has ended."),
        (status = 403, description = "Somebody else's session."),
        (status = 404, description = "Unknown or expired (`details.status`)."),
    )
)]
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

/// Says whether the speaker is on the air
///
/// Listeners are told. Media that simply arrives is found as well.
#[utoipa::path(
    put,
    path = "/sessions/{id}/kvs-status",
    operation_id = "setKvsStatus",
    tag = "speaker",
    security(("bearer" = [])),
    params(("id" = SessionId, Path)),
    request_body = KvsStatus,
    responses(
        (status = 200, body = SessionView, description = "The owner's view after the change."),
        (status = 403, description = "Somebody else's session."),
        (status = 404, description = "Unknown, expired or ended (`details.status`)."),
    )
)]
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

/// What a browser needs to become MASTER
///
/// A presigned signaling URL and ICE servers, so that no AWS credentials are needed. For the owner only, and for no
/// cache.
#[utoipa::path(
    post,
    path = "/sessions/{id}/kvs-connection",
    operation_id = "kvsConnection",
    tag = "speaker",
    security(("bearer" = [])),
    params(("id" = SessionId, Path)),
    responses(
        (status = 200, body = ConnectionView),
        (status = 403, description = "Somebody else's session."),
        (status = 404, description = "Unknown, expired or ended (`details.status`)."),
    )
)]
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
