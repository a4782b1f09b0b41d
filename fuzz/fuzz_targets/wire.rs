//! What browsers may send us, and what our own clients take from a server: no text may panic, refusals are fit to be
//! answered, and what is understood reads back as itself.

#![no_main]

use babelcast_domain::error::Problem;
use babelcast_domain::ids::SessionId;
use babelcast_domain::language::Language;
use babelcast_domain::wire::{ClientMessage, CreateSession, Envelope, KvsStatus, SessionView};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match ClientMessage::parse(text) {
        Ok(message) => short(message.request_id.as_deref()),
        Err((problem, id)) => {
            short(id.as_deref());
            answerable(&problem);
        }
    }
    if let Ok(session) = serde_json::from_str::<CreateSession>(text) {
        if let Err(problem) = session.check() {
            answerable(&problem);
        }
        assert_eq!(again(&session), session);
    }
    if let Ok(status) = serde_json::from_str::<KvsStatus>(text) {
        assert_eq!(again(&status), status);
    }
    if let Ok(view) = serde_json::from_str::<SessionView>(text) {
        assert_eq!(again(&view), view);
    }
    if let Ok(envelope) = serde_json::from_str::<Envelope>(text) {
        assert_eq!(again(&envelope), envelope);
    }
    if let Ok(id) = SessionId::parse(text) {
        assert_eq!(SessionId::parse(id.as_str()), Ok(id));
    }
    if let Ok(language) = Language::parse(text) {
        assert_eq!(Language::parse(language.as_str()), Ok(language));
    }
});

/// What we echo has a bound.
fn short(request_id: Option<&str>) {
    assert!(request_id.is_none_or(|id| id.chars().count() <= 128));
}

fn answerable(problem: &Problem) {
    assert!(!problem.message.is_empty());
    serde_json::to_string(&problem.message).expect("a message is always JSON");
}

fn again<T: serde::Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
    let text = serde_json::to_string(value).expect("what was read can be written");
    serde_json::from_str(&text).expect("what was written can be read")
}
