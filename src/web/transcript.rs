//! `/sessions/{id}/transcript`: what was said, in any language the session offers, to read or to take home.

use std::sync::Arc;

use axum::extract::Query;
use axum::extract::State;
use axum::extract::rejection::QueryRejection;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use babelcast_domain::error::{ErrorCode, Problem};
use babelcast_domain::ids::SessionId;
use babelcast_domain::record::SessionRecord;
use babelcast_domain::subtitles::Format;
use babelcast_domain::wire::TranscriptView;
use headers::HeaderMapExt;
use serde::Deserialize;
use utoipa::IntoParams;

use super::auth::Caller;
use super::error::Refusal;
use super::etag::{is_known, tag_of};
use super::sessions::Named;
use super::{House, internal};

/// As it stands in the address. The format is text here, so that a wrong one is answered with the right ones.
#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// Left out: the language of the speaker.
    #[param(nullable = false, max_length = 35, example = "en")]
    language: Option<String>,
    #[param(inline, value_type = Option<Format>, nullable = false)]
    format: Option<String>,
    /// Where the session has one.
    #[param(nullable = false)]
    access_code: Option<String>,
}

/// What was said
///
/// Every finished sentence so far, in any language that the session offers; one that nobody has heard is translated
/// once, now.
#[utoipa::path(
    get,
    path = "/sessions/{id}/transcript",
    operation_id = "transcript",
    tag = "everybody",
    security((), ("bearer" = [])),
    params(
        ("id" = SessionId, Path),
        Wanted,
        ("If-None-Match" = Option<String>, Header, nullable = false, description = "The `ETag` of an earlier answer.")
    ),
    responses(
        (status = 200, description = "As `format` says: JSON, plain text, SubRip or WebVTT.",
            content((TranscriptView = "application/json"), (String = "text/plain"), (String = "application/x-subrip"),
                (String = "text/vtt")),
            headers(("ETag" = String), ("Cache-Control" = String),
                ("Content-Disposition" = String, description = "A file's name, for all but JSON."))),
        (status = 304, description = "As it was.", headers(("ETag" = String), ("Cache-Control" = String))),
        (status = 400, description = "The language is not offered, or the query is not what is described here."),
        (status = 403, description = "The transcript is the speaker's only, or needs the session's access code."),
        (status = 404, description = "Unknown or expired (`details.status`)."),
    )
)]
pub(super) async fn show(
    State(house): State<Arc<House>>,
    caller: Option<Caller>,
    Named(id): Named,
    headers: HeaderMap,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(wanted) = wanted.map_err(|error| Problem::invalid(format!("the query: {}", reason(&error))))?;
    let format = match wanted.format.as_deref() {
        Some(name) => Format::parse(name).ok_or_else(|| Problem::invalid("`format` must be json, txt, srt or vtt"))?,
        None => Format::default(),
    };
    let record = house.sessions.find(&id?).await?.record;
    may_read(&record, caller.as_ref(), wanted.access_code.as_deref())?;
    let sessions = Arc::clone(&house.sessions);
    let language = sessions.choose(&record, wanted.language.as_deref())?;
    let lines = sessions.transcript(&record, &language).await?;
    let text = format.render(&record.session_id, &record.source_language, &language, &lines);
    // The same on every replica; it grows while the session is live, so a cache must ask each time.
    let tag = tag_of(text.as_bytes())?;
    let mut answer = if is_known(&headers, &tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, format.media_type())], text).into_response()
    };
    let value = |text: &str| HeaderValue::from_str(text).map_err(|_| internal());
    let shared = !record.private_transcript && record.access_code.is_none();
    let caching = if shared { "no-cache" } else { "private, no-cache" };
    answer.headers_mut().typed_insert(tag);
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(caching));
    if format.is_file() && answer.status() == StatusCode::OK {
        let name = format!("attachment; filename=\"{}.{language}.{}\"", record.session_id, format.as_str());
        answer.headers_mut().insert(header::CONTENT_DISPOSITION, value(&name)?);
    }
    Ok(answer)
}

/// The owner may read everything; others what is not private, with the access code where there is one.
fn may_read(record: &SessionRecord, caller: Option<&Caller>, code: Option<&str>) -> Result<(), Problem> {
    if caller.is_some_and(|caller| caller.id == record.speaker_id) {
        return Ok(());
    }
    if record.private_transcript {
        return Err(match caller {
            None => {
                Problem::new(ErrorCode::Unauthorized, "This transcript is the speaker's only; send the speaker's token")
            }
            Some(_) => Problem::new(ErrorCode::Forbidden, "This transcript is the speaker's only"),
        });
    }
    record.admits(code)
}

/// Serde's own sentence, which names the field, without axum's wrapping.
fn reason(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(inner) = deepest.source() {
        deepest = inner;
    }
    deepest.to_string()
}
