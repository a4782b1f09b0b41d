//! What a WebSocket's upgrade request says. Wrong values are told on the line, not by HTTP, because browsers cannot read
//! an HTTP status there.

use std::sync::Arc;

use axum::extract::Request;
use babelcast_domain::counts::Count;
use babelcast_domain::error::{ErrorCode, Problem};
use babelcast_domain::ids::{AccessCode, SessionId};
use babelcast_domain::wire::{CaptionMode, JoinSession, Resume};
use serde_json::json;
use url::form_urlencoded;

use super::auth::Token;
use super::limits::{Address, Peer, Place};
use super::{House, internal, line};

pub(super) struct Arrival {
    pub address: Address,
    /// Held as long as the socket lives.
    pub place: Arc<Place>,
    /// Whether it may come in at all.
    pub admitted: Result<(), Problem>,
    pub token: Result<Option<Token>, Problem>,
    pub join: Result<Option<JoinSession>, Problem>,
}

impl Arrival {
    /// `?sessionId=&targetLanguage=&captions=&epoch=&seq=&accessCode=&token=`; other parameters are passed over, because
    /// proxies and campaign links add their own. A token in the header wins over one in the subprotocol, that over
    /// one in the query.
    pub fn read(house: &House, request: &Request) -> Result<Box<Arrival>, Problem> {
        let query = request.uri().query().unwrap_or_default();
        let given = |name: &str| {
            let mut pairs = form_urlencoded::parse(query.as_bytes());
            pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned()).filter(|value| !value.is_empty())
        };
        let in_protocol = || line::offered(request.headers()).find_map(|name| name.strip_prefix("bearer."));
        let token = Token::from_headers(request.headers()).map(|token| {
            let token = token.or_else(|| in_protocol().and_then(Token::new));
            token.or_else(|| given("token").as_deref().and_then(Token::new))
        });
        let join = given("sessionId").map(|id| join_of(&id, given)).transpose();
        let extensions = request.extensions();
        let (Some(peer), Some(address)) = (extensions.get::<Peer>(), extensions.get::<Address>().copied()) else {
            return Err(internal());
        };
        let (place, room) = house.limits.socket(peer, address);
        let admitted = room.and_then(|()| admit_origin(house, request));
        Ok(Box::new(Arrival { address, place, admitted, token, join }))
    }
}

/// A page that is not ours may not act as its visitor, who may sit behind our firewall.
fn admit_origin(house: &House, request: &Request) -> Result<(), Problem> {
    if house.origins.admit(request.headers()) {
        return Ok(());
    }
    house.limits.refused(Count::OriginsRefused);
    let message = "Pages of this origin may not connect here; the operator lists them in web.allowed_origins";
    Err(Problem::new(ErrorCode::Forbidden, message).with(json!({ "reason": "origin" })))
}

fn join_of(id: &str, given: impl Fn(&str) -> Option<String>) -> Result<JoinSession, Problem> {
    let session_id = SessionId::parse(id).map_err(|_| Problem::session_not_found("unknown"))?;
    let captions = match given("captions").as_deref() {
        None => CaptionMode::default(),
        Some("raw") => CaptionMode::Raw,
        Some("stable") => CaptionMode::Stable,
        Some("final") => CaptionMode::Final,
        Some(_) => return Err(Problem::invalid("`captions` must be one of raw, stable, final")),
    };
    let number = |name: &str| match given(name) {
        None => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| Problem::invalid(format!("`{name}` must be a number"))),
    };
    let resume = match (number("epoch")?, number("seq")?) {
        (Some(epoch), Some(seq)) => Some(Resume { epoch, seq }),
        (None, None) => None,
        _ => return Err(Problem::invalid("`epoch` and `seq` go together")),
    };
    let access_code = given("accessCode").map(|code| AccessCode::parse(&code)).transpose();
    let access_code = access_code.map_err(|error| Problem::invalid(format!("`accessCode`: {error}")))?;
    let target_language = given("targetLanguage");
    Ok(JoinSession { session_id, target_language, captions, audio: false, audio_format: None, access_code, resume })
}
