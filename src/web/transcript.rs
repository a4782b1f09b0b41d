//! `/sessions/{id}/transcript`: what was said, in any language the session offers, to read or to take home.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use axum::extract::Query;
use axum::extract::State;
use axum::extract::rejection::QueryRejection;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use babelcast_domain::error::{ErrorCode, Problem};
use babelcast_domain::record::SessionRecord;
use babelcast_domain::subtitles::Format;
use serde::Deserialize;

use super::auth::Caller;
use super::error::Refusal;
use super::sessions::Named;
use super::{House, internal};

/// As it stands in the address. The format is text here, so that a wrong one is answered with the right ones.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Wanted {
    language: Option<String>,
    format: Option<String>,
    access_code: Option<String>,
}

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
    let tag = tag_of(&text);
    let mut answer = if is_known(&headers, &tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, format.media_type())], text).into_response()
    };
    let value = |text: &str| HeaderValue::from_str(text).map_err(|_| internal());
    let shared = !record.private_transcript && record.access_code.is_none();
    let caching = if shared { "no-cache" } else { "private, no-cache" };
    answer.headers_mut().insert(header::ETAG, value(&tag)?);
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
    match &record.access_code {
        Some(right) if !code.is_some_and(|code| right.is(code)) => {
            Err(Problem::new(ErrorCode::Forbidden, "This session needs its access code: send it as `accessCode`"))
        }
        _ => Ok(()),
    }
}

fn tag_of(text: &str) -> String {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    format!("\"{:016x}-{:x}\"", hasher.finish(), text.len())
}

fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let given = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut tags = given.flat_map(|list| list.split(',')).map(|one| one.trim().trim_start_matches("W/"));
    tags.any(|one| one == tag || one == "*")
}

/// Serde's own sentence, which names the field, without axum's wrapping.
fn reason(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(inner) = deepest.source() {
        deepest = inner;
    }
    deepest.to_string()
}
