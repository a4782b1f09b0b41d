//! Every route of the API, and with it its page in the document: what is not annotated cannot be routed here.

use std::sync::Arc;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{House, docs, health, openapi, sessions, socket, status, transcript};

pub(super) fn routes() -> OpenApiRouter<Arc<House>> {
    OpenApiRouter::with_openapi(openapi::cover())
        .routes(routes!(sessions::create, sessions::list))
        .routes(routes!(sessions::show, sessions::edit, sessions::end))
        .routes(routes!(sessions::set_kvs_status))
        .routes(routes!(sessions::connection))
        .routes(routes!(status::show))
        .routes(routes!(transcript::show))
        .routes(routes!(health::languages))
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
        .routes(routes!(socket::open))
        .routes(routes!(docs::openapi))
        .routes(routes!(docs::asyncapi))
        .routes(routes!(docs::page))
}
