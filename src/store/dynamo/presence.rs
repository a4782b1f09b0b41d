//! Who listens: one item a session and node, written by that node alone.

use std::collections::BTreeMap;

use babelcast_domain::ids::{NodeId, SessionId};
use babelcast_domain::language::Language;
use babelcast_domain::time::UnixMs;
use serde::{Deserialize, Serialize};

use super::{Dynamo, call, from_item, text, to_item};
use crate::store::{Presence, StoreError};

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    session_id: SessionId,
    node_id: NodeId,
    total: u64,
    by_language: BTreeMap<Language, u64>,
    /// Epoch seconds.
    expires_at: u64,
}

impl Dynamo {
    pub async fn put_presence(
        &self,
        id: &SessionId,
        node: &NodeId,
        presence: &Presence,
        expires_at: u64,
    ) -> Result<(), StoreError> {
        let Presence { total, by_language } = presence.clone();
        let stored = Stored { session_id: id.clone(), node_id: node.clone(), total, by_language, expires_at };
        let item = to_item(&stored)?;
        let answer = self
            .ask(&self.presence, |attempts| {
                let put = self.client.put_item().table_name(&self.presence).set_item(Some(item));
                put.customize().interceptor(attempts).send()
            })
            .await;
        answer.result.map(drop).map_err(|error| call::failure(&self.presence, &error))
    }

    pub async fn presence(&self, id: &SessionId, now: UnixMs) -> Result<BTreeMap<NodeId, Presence>, StoreError> {
        let (mut found, mut from) = (BTreeMap::new(), None);
        loop {
            let output = self
                .ask(&self.presence, |attempts| {
                    let query = self.client.query().table_name(&self.presence).consistent_read(true);
                    query
                        .key_condition_expression("#id = :id")
                        .expression_attribute_names("#id", "sessionId")
                        .expression_attribute_values(":id", text(id.as_str()))
                        .set_exclusive_start_key(from.take())
                        .customize()
                        .interceptor(attempts)
                        .send()
                })
                .await
                .result
                .map_err(|error| call::failure(&self.presence, &error))?;
            for item in output.items.unwrap_or_default() {
                let Stored { node_id, total, by_language, expires_at, .. } = from_item(item)?;
                if expires_at > now.as_secs() {
                    found.insert(node_id, Presence { total, by_language });
                }
            }
            from = output.last_evaluated_key;
            if from.is_none() {
                return Ok(found);
            }
        }
    }
}
