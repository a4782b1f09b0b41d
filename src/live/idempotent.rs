//! Creating a session once, however often a client has to ask: its key makes a repeated request find the first one's
//! session. A process that dies between the session and the note of it leaves the key free again after [`HOLD`]; only
//! then can a repetition make a second session.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use babelcast_domain::error::{ErrorCode, Problem};
use babelcast_domain::ids::SpeakerId;
use babelcast_domain::record::SessionRecord;
use babelcast_domain::wire::CreateSession;
use serde_json::json;

use super::sessions::Sessions;
use crate::store::{Claim, StoreError};

/// How long a finished request is remembered.
const KEPT: Duration = Duration::from_secs(24 * 3_600);
/// How long a request may be under way: longer than every attempt and timeout of a creation together.
const HOLD: Duration = Duration::from_secs(60);
/// When to ask again while the first request is under way.
const ASK_AGAIN_MS: u64 = 1_000;

/// A client's name for one request, valid for its own speaker only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// 1 to 255 printable ASCII characters.
    ///
    /// # Errors
    /// `INVALID_REQUEST`.
    pub fn parse(text: &[u8]) -> Result<Self, Problem> {
        let fits = (1..=255).contains(&text.len()) && text.iter().all(|b| (b' '..=b'~').contains(b));
        let text = str::from_utf8(text).ok().filter(|_| fits);
        let wrong = || Problem::invalid("`Idempotency-Key` must have 1 to 255 printable ASCII characters");
        text.map(|text| IdempotencyKey(text.to_owned())).ok_or_else(wrong)
    }

    /// What the store knows it by: of bounded length, and it tells neither the key nor whose it is.
    fn stored(&self, speaker: &SpeakerId) -> String {
        sha256(format!("{}\n{}", speaker.reveal(), self.0).as_bytes())
    }
}

impl Sessions {
    /// As [`Sessions::create`]. With a key, the same request finds the same session for 24 hours, and another request
    /// with the same key is a `CONFLICT`; so is one whose first is still under way (`details.retryAfterMs`).
    pub async fn create_once(
        self: &Arc<Self>,
        speaker: &SpeakerId,
        key: Option<IdempotencyKey>,
        request: CreateSession,
    ) -> Result<SessionRecord, Problem> {
        let Some(key) = key else { return self.create(speaker, request).await };
        request.check()?;
        let (key, fingerprint) = (key.stored(speaker), fingerprint(&request));
        let now = self.clock.now().wall;
        let failed = |error: StoreError| self.store_failed(&error);
        match self.store.claim_key(&key, &fingerprint, now, HOLD).await.map_err(failed)? {
            Claim::Fresh => {}
            Claim::Done(id) => {
                let record = self.store.get(&id).await.map_err(failed)?;
                return record
                    .ok_or_else(|| conflict("the session made with this `Idempotency-Key` is gone; use a new key"));
            }
            Claim::Mismatch => {
                return Err(conflict("this `Idempotency-Key` was used for another request; use a new key"));
            }
            Claim::Pending => {
                let problem = conflict("a request with this `Idempotency-Key` is under way; ask again in a second");
                return Err(problem.with(json!({ "retryAfterMs": ASK_AGAIN_MS })));
            }
        }
        let created = self.create(speaker, request).await;
        let noted = match &created {
            Ok(record) => {
                let until = now.plus(KEPT).as_secs().min(record.expires_at);
                self.store.settle_key(&key, &record.session_id, until).await
            }
            Err(_) => self.store.release_key(&key).await,
        };
        if let Err(error) = noted {
            // The answer stands. The key stays held for a minute; a repetition after that is a new request.
            self.store_failed(&error);
        }
        created
    }
}

fn conflict(message: &str) -> Problem {
    Problem::new(ErrorCode::Conflict, message)
}

/// Of what was understood, not of the bytes: order, spaces and spelt-out defaults make no other request.
fn fingerprint(request: &CreateSession) -> String {
    sha256(&serde_json::to_vec(request).unwrap_or_default())
}

fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().fold(String::with_capacity(64), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> CreateSession {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_fingerprint_is_of_the_meaning() {
        let plain = fingerprint(&request(r#"{"sourceLanguage":"en","title":"A"}"#));
        let spelt_out = r#" {"title":"A","qualityTier":"standard","sourceLanguage":"en","glossary":null}"#;
        assert_eq!(fingerprint(&request(spelt_out)), plain);
        assert_ne!(fingerprint(&request(r#"{"sourceLanguage":"en","title":"B"}"#)), plain);
    }

    #[test]
    fn a_key_is_a_speakers_own_and_printable() {
        let key = IdempotencyKey::parse(b"retry 1").unwrap();
        assert_ne!(key.stored(&SpeakerId::new("ana")), key.stored(&SpeakerId::new("eve")));
        for bad in [&b""[..], &[b'x'; 256], b"a\tb", "é".as_bytes(), b"\xff"] {
            assert!(IdempotencyKey::parse(bad).is_err(), "{bad:?}");
        }
        assert!(IdempotencyKey::parse(&[b'x'; 255]).is_ok());
    }
}
