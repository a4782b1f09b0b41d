//! What was said, one item a segment and language.

use std::collections::BTreeMap;

use aws_sdk_dynamodb::types::{PutRequest, WriteRequest};
use babelcast_domain::counts::Count;
use babelcast_domain::ids::SessionId;
use babelcast_domain::language::Language;
use babelcast_domain::line::Line;

use super::{Dynamo, call, from_item, number, text, to_item};
use crate::store::StoreError;

/// DynamoDB writes so many items at once.
const BATCH: usize = 25;

/// How often what DynamoDB left undone is sent again before giving up.
const TRIES: u32 = 8;

/// Sorts by segment within a language: as many digits as the largest number has.
fn place(language: &Language, segment: u64) -> String {
    format!("{language}#{segment:020}")
}

impl Dynamo {
    /// A batch at a time. After a failure some lines may have been written; writing them again changes nothing.
    pub async fn put_lines(&self, id: &SessionId, lines: &[Line], expires_at: u64) -> Result<(), StoreError> {
        // A batch may not name an item twice: the later line stands, as if they had been written one by one.
        let newest: BTreeMap<String, &Line> =
            lines.iter().map(|line| (place(&line.language, line.segment), line)).collect();
        let mut requests = Vec::with_capacity(newest.len());
        for (place, line) in newest {
            let mut item = to_item(line)?;
            item.insert("sessionId".to_owned(), text(id.as_str()));
            item.insert("line".to_owned(), text(place));
            item.insert("expiresAt".to_owned(), number(expires_at));
            let put = PutRequest::builder().set_item(Some(item)).build();
            let put = put.map_err(|error| StoreError::Unavailable(call::causes(&error)))?;
            requests.push(WriteRequest::builder().put_request(put).build());
        }
        for batch in requests.chunks(BATCH) {
            self.put_batch(batch.to_vec()).await?;
        }
        Ok(())
    }

    async fn put_batch(&self, mut batch: Vec<WriteRequest>) -> Result<(), StoreError> {
        for tries in 0..TRIES {
            let output = self
                .ask(&self.lines, |attempts| {
                    let write = self.client.batch_write_item().request_items(&self.lines, batch);
                    write.customize().interceptor(attempts).send()
                })
                .await
                .result
                .map_err(|error| call::failure(&self.lines, &error))?;
            batch = output.unprocessed_items.unwrap_or_default().remove(&self.lines).unwrap_or_default();
            if batch.is_empty() {
                return Ok(());
            }
            self.counts.one(Count::StoreRetries);
            tracing::warn!(
                table = self.lines,
                left = batch.len(),
                "the store left lines unwritten; they are sent again"
            );
            tokio::time::sleep(call::pause(tries)).await;
        }
        Err(StoreError::Unavailable(format!("DynamoDB throttles requests to {}", self.lines)))
    }

    pub async fn lines(&self, id: &SessionId, language: &Language) -> Result<Vec<Line>, StoreError> {
        let (mut found, mut from) = (Vec::new(), None);
        loop {
            let output = self
                .ask(&self.lines, |attempts| {
                    let query = self.client.query().table_name(&self.lines).consistent_read(true);
                    query
                        .key_condition_expression("#id = :id AND begins_with(#line, :language)")
                        .expression_attribute_names("#id", "sessionId")
                        .expression_attribute_names("#line", "line")
                        .expression_attribute_values(":id", text(id.as_str()))
                        .expression_attribute_values(":language", text(format!("{language}#")))
                        .set_exclusive_start_key(from.take())
                        .customize()
                        .interceptor(attempts)
                        .send()
                })
                .await
                .result
                .map_err(|error| call::failure(&self.lines, &error))?;
            for item in output.items.unwrap_or_default() {
                found.push(from_item(item)?);
            }
            from = output.last_evaluated_key;
            if from.is_none() {
                return Ok(found);
            }
        }
    }
}
