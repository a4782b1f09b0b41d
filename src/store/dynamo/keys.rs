//! Counters that all replicas share (`rl#…`) and idempotency keys (`idem#…`).

use std::time::Duration;

use aws_sdk_dynamodb::types::{ReturnValue, ReturnValuesOnConditionCheckFailure};
use babelcast_domain::ids::SessionId;
use babelcast_domain::time::UnixMs;
use rand::Rng;
use serde::{Deserialize, Serialize};

use super::call::{self, Answer};
use super::{Dynamo, from_item, number, text, to_item};
use crate::store::{Claim, StoreError, rules};

/// An idempotency key.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    key: String,
    fingerprint: String,
    /// Of one call of `claim_key`: by it that call knows its own claim when the first answer was lost.
    claim: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<SessionId>,
    /// Epoch milliseconds: until then the claim, or the outcome, stands.
    until: u64,
    /// Epoch seconds.
    expires_at: u64,
}

fn idem(key: &str) -> String {
    format!("idem#{key}")
}

impl Dynamo {
    /// Asks once only: an attempt whose answer was lost may have counted, and counting it again would be wrong.
    pub async fn count(&self, counter: &str, now: UnixMs, window: Duration) -> Result<u64, StoreError> {
        let (window, expires_at) = rules::window(now, window);
        let update = self.once.update_item().table_name(&self.keys).key("key", text(format!("rl#{counter}#{window}")));
        let counted = update
            .update_expression("SET #expires = :expires ADD #n :one")
            .expression_attribute_names("#expires", "expiresAt")
            .expression_attribute_names("#n", "n")
            .expression_attribute_values(":expires", number(expires_at))
            .expression_attribute_values(":one", number(1))
            .return_values(ReturnValue::UpdatedNew)
            .send()
            .await
            .map_err(|error| call::failure(&self.keys, &error))?;
        let value = counted.attributes.and_then(|attributes| attributes.get("n")?.as_n().ok()?.parse().ok());
        value.ok_or_else(|| StoreError::Unreadable("a counter without a value".to_owned()))
    }

    pub async fn claim_key(
        &self,
        key: &str,
        fingerprint: &str,
        now: UnixMs,
        hold: Duration,
    ) -> Result<Claim, StoreError> {
        let until = now.plus(hold).0;
        let claim = format!("{:032x}", rand::rng().random::<u128>());
        let (key, fingerprint) = (idem(key), fingerprint.to_owned());
        let fresh = Stored { key, fingerprint, claim, outcome: None, until, expires_at: until.div_ceil(1_000) };
        let item = to_item(&fresh)?;
        let Answer { result, .. } = self
            .ask(&self.keys, |attempts| {
                let put = self.client.put_item().table_name(&self.keys).set_item(Some(item));
                put.condition_expression("attribute_not_exists(#key) OR #until <= :now")
                    .expression_attribute_names("#key", "key")
                    .expression_attribute_names("#until", "until")
                    .expression_attribute_values(":now", number(now.0))
                    .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
                    .customize()
                    .interceptor(attempts)
                    .send()
            })
            .await;
        let Err(error) = result else { return Ok(Claim::Fresh) };
        let Some(there) = call::unmet(&error) else { return Err(call::failure(&self.keys, &error)) };
        let there: Stored = from_item(there)?;
        Ok(match there.outcome {
            _ if there.claim == fresh.claim => Claim::Fresh,
            _ if there.fingerprint != fresh.fingerprint => Claim::Mismatch,
            Some(session) => Claim::Done(session),
            None => Claim::Pending,
        })
    }

    pub async fn settle_key(&self, key: &str, outcome: &SessionId, expires_at: u64) -> Result<(), StoreError> {
        let Answer { result, .. } = self
            .ask(&self.keys, |attempts| {
                let update = self.client.update_item().table_name(&self.keys).key("key", text(idem(key)));
                update
                    .update_expression("SET #outcome = :outcome, #until = :until, #expires = :expires")
                    .condition_expression("attribute_exists(#key)")
                    .expression_attribute_names("#key", "key")
                    .expression_attribute_names("#outcome", "outcome")
                    .expression_attribute_names("#until", "until")
                    .expression_attribute_names("#expires", "expiresAt")
                    .expression_attribute_values(":outcome", text(outcome.as_str()))
                    .expression_attribute_values(":until", number(expires_at.saturating_mul(1_000)))
                    .expression_attribute_values(":expires", number(expires_at))
                    .customize()
                    .interceptor(attempts)
                    .send()
            })
            .await;
        match result {
            Err(error) if call::unmet(&error).is_none() => Err(call::failure(&self.keys, &error)),
            // A key that is not there was released, or swept after its time: there is nothing to settle.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    pub async fn release_key(&self, key: &str) -> Result<(), StoreError> {
        let answer = self
            .ask(&self.keys, |attempts| {
                let delete = self.client.delete_item().table_name(&self.keys).key("key", text(idem(key)));
                delete.customize().interceptor(attempts).send()
            })
            .await;
        answer.result.map(drop).map_err(|error| call::failure(&self.keys, &error))
    }
}
