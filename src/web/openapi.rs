//! The OpenAPI document: what every handler says of itself, and what is true of all of them.

use axum::http::StatusCode;
use serde_json::{Map, Value, json};
use utoipa::OpenApi;

use super::error::ProblemBody;
use super::routes;

/// What the document says before the first route.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "babelcast",
        description = "Live speech translation: a speaker talks, any number of listeners read along in their own \
            language.\n\nSpeakers send `Authorization: Bearer <Cognito access token>`; listeners need none. Every \
            refusal is `application/problem+json` (RFC 9457) with a stable `code` and a `detail` that says what to \
            do. Times are integer milliseconds since the Unix epoch. Captions travel over the WebSocket `/ws`, whose \
            messages `/asyncapi.json` describes.",
    ),
    servers((url = "/", description = "The server that this document comes from.")),
    tags(
        (name = "speaker", description = "With a speaker's token."),
        (name = "everybody", description = "Needs no token."),
        (name = "probes", description = "For load balancers."),
        (name = "documents"),
    ),
    components(schemas(ProblemBody))
)]
struct Cover;

pub(super) fn cover() -> utoipa::openapi::OpenApi {
    Cover::openapi()
}

pub(super) fn document() -> Value {
    // What the derives wrote is JSON.
    let mut document = serde_json::to_value(routes::routes().to_openapi()).unwrap_or_default();
    document["info"]["version"] = env!("CARGO_PKG_VERSION").into();
    document["components"]["securitySchemes"] = json!({
        "bearer": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT",
                    "description": "A Cognito access token of one of the configured app clients." }
    });
    document["components"]["headers"] = json!({
        "RequestId": { "description": "The request's own `x-request-id`, or one made here; it is in our log.",
                       "required": true, "schema": { "type": "string", "pattern": "^[A-Za-z0-9._:-]{1,128}$" } },
        "RetryAfter": { "description": "Seconds after which to ask again, where that is known.",
                        "schema": { "type": "integer", "minimum": 0 } },
        "Challenge": { "description": "`Bearer`", "required": true, "schema": { "type": "string" } },
    });
    if let Some(info) = document["info"].as_object_mut() {
        info.remove("license"); // the derive writes one without a name
    }
    for (path, item) in document["paths"].as_object_mut().into_iter().flatten() {
        // As `limits::guard` has it.
        let limited = !path.starts_with("/ws") && !path.starts_with("/health/");
        members(item).for_each(|operation| complete(operation, limited));
        link(item);
    }
    document
}

/// Adds the answers that come of how requests are read, and to every answer what all have in common.
fn complete(operation: &mut Value, limited: bool) {
    let takes_body = operation.get("requestBody").is_some();
    let takes_token = operation.get("security").is_some();
    let Some(answers) = operation["responses"].as_object_mut() else { return };
    let mut add = |status: &str, why: &str| {
        answers.entry(status).or_insert_with(|| json!({ "description": why }));
    };
    add("431", "The address and the headers together are too large.");
    add("500", "Something broke on our side.");
    if limited {
        add("429", "Too many requests from this network.");
    }
    if takes_body {
        add("400", "The body is not what is described here; `detail` names the field.");
        add("408", "The body did not arrive in time.");
        add("413", "The body is too large.");
        add("415", "The body is not said to be JSON.");
    }
    if takes_token {
        add("401", "The token was refused, or is needed; `details.reason`.");
        add("503", "A service behind us does not answer (`details.service`); try again.");
    }
    for (status, answer) in answers.iter_mut() {
        let number: u16 = status.parse().unwrap_or_default();
        if answer["description"].as_str().unwrap_or_default().is_empty() {
            let known = StatusCode::from_u16(number).ok().and_then(|status| status.canonical_reason());
            answer["description"] = known.unwrap_or_default().into();
        }
        let is_problem = number >= 400 && answer.get("content").is_none();
        if is_problem {
            let problem = json!({ "schema": { "$ref": "#/components/schemas/Problem" } });
            answer["content"] = json!({ "application/problem+json": problem });
        }
        let mut header = |name: &str, component: &str| {
            answer["headers"][name] = json!({ "$ref": format!("#/components/headers/{component}") });
        };
        header("x-request-id", "RequestId");
        match number {
            401 => header("WWW-Authenticate", "Challenge"),
            409 | 429 | 503 if is_problem => header("Retry-After", "RetryAfter"),
            _ => {}
        }
    }
}

/// Says where the id of a created session can be used.
fn link(item: &mut Value) {
    if let Some(created) = item.pointer_mut("/post/responses/201") {
        let names = ["showSession", "changeSession", "endSession", "setKvsStatus", "kvsConnection", "sessionStatus"];
        let link = |name: &str| {
            let link = json!({ "operationId": name, "parameters": { "id": "$response.body#/sessionId" } });
            (name.to_owned(), link)
        };
        created["links"] = Value::Object(names.into_iter().map(link).collect::<Map<_, _>>());
    }
}

fn members(value: &mut Value) -> impl Iterator<Item = &mut Value> {
    value.as_object_mut().into_iter().flat_map(|members| members.values_mut())
}
