//! The documents, and a page to browse the first of them with.
//!
//! The page is Swagger UI as its kept crate vendors it: the files are part of the binary (1.2 MB, compressed), so that
//! it works where nothing else can be reached. Its policy lets the browser load nothing from anywhere else.

use std::sync::{Arc, LazyLock};

use axum::extract::Path;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use utoipa_swagger_ui::Config;

use super::error::Refusal;
use super::{asyncapi, internal, openapi};

static OPENAPI: LazyLock<String> = LazyLock::new(|| openapi::document().to_string());
static ASYNCAPI: LazyLock<String> = LazyLock::new(|| asyncapi::document().to_string());
static UI: LazyLock<Arc<Config<'static>>> = LazyLock::new(|| {
    // Without this the page asks a service on the Internet what it thinks of the document.
    let config = Config::new(["/openapi.json"]).validator_url("none");
    Arc::new(config.try_it_out_enabled(true).display_request_duration(true).persist_authorization(false))
});

/// The page's own scripts and styles, and calls to this very server.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                      connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// This document
#[utoipa::path(get, path = "/openapi.json", operation_id = "openapi", tag = "documents",
    responses((status = 200, content_type = "application/json", body = Object, description = "OpenAPI 3.1.")))]
pub(super) async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI.as_str())
}

/// The messages of the WebSocket
#[utoipa::path(get, path = "/asyncapi.json", operation_id = "asyncapi", tag = "documents",
    responses((status = 200, content_type = "application/json", body = Object, description = "AsyncAPI 3.0.")))]
pub(super) async fn asyncapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], ASYNCAPI.as_str())
}

/// A page to browse this document with
#[utoipa::path(get, path = "/docs", operation_id = "docs", tag = "documents",
    responses((status = 308, description = "The page is at `/docs/`.", headers(("Location" = String)))))]
pub(super) async fn page() -> impl IntoResponse {
    (StatusCode::PERMANENT_REDIRECT, [(header::LOCATION, "/docs/")])
}

/// `/docs/` and what belongs to it.
pub(super) async fn file(path: Option<Path<String>>) -> Result<Response, Refusal> {
    let path = path.map(|Path(path)| path).unwrap_or_default();
    let found = utoipa_swagger_ui::serve(&path, Arc::clone(&UI)).map_err(|error| {
        tracing::error!(%error, "the documents' page could not be written");
        internal()
    })?;
    let Some(file) = found else {
        return Err(Refusal::of_http(StatusCode::NOT_FOUND, "there is nothing at this path"));
    };
    let kind = HeaderValue::from_str(&file.content_type).map_err(|_| internal())?;
    let fixed = [
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600")),
        (header::CONTENT_TYPE, kind),
    ];
    let mut answer = (fixed, file.bytes.into_owned()).into_response();
    if file.gzpipped {
        answer.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(answer)
}
