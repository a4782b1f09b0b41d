//! The table of records and its index by speaker.

use std::collections::{BTreeSet, HashMap};

use aws_sdk_dynamodb::types::{AttributeValue, KeysAndAttributes, ReturnValue, ReturnValuesOnConditionCheckFailure};
use babelcast_domain::counts::Count;
use babelcast_domain::ids::{NodeId, SessionId, SpeakerId};
use babelcast_domain::record::{Change, SessionRecord, Status};
use babelcast_domain::time::UnixMs;

use super::call::{self, Answer};
use super::{Dynamo, Item, from_item, number, text, to_item};
use crate::store::{Expected, Page, StoreError, rules};

const SESSION_ID: &str = "sessionId";
const BY_SPEAKER: &str = "bySpeaker";

/// Every write changes one of these, so while they are as they were read, the whole record is.
const WITNESSES: [&str; 4] = ["version", "fence", "leaseOwner", "leaseUntil"];

/// How often a change is decided anew because somebody else wrote first. A record has few writers: its node, a node that
/// wants to take it over, and its owner's requests.
const TRIES: u32 = 16;

/// DynamoDB reads so many items at once.
const BATCH: usize = 100;

/// What became of a conditional write.
enum Written {
    Done(SessionRecord),
    /// Somebody wrote first: the record as it is now, if it is.
    Lost(Option<SessionRecord>),
}

impl Dynamo {
    pub async fn create(&self, record: &SessionRecord) -> Result<(), StoreError> {
        let item = to_item(record)?;
        let Answer { result, retried } = self
            .ask(&self.sessions, |attempts| {
                let put = self.client.put_item().table_name(&self.sessions).set_item(Some(item));
                let put =
                    put.condition_expression("attribute_not_exists(#id)").expression_attribute_names("#id", SESSION_ID);
                let put = put.return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
                put.customize().interceptor(attempts).send()
            })
            .await;
        let Err(error) = result else { return Ok(()) };
        let Some(there) = call::unmet(&error) else { return Err(call::failure(&self.sessions, &error)) };
        // The answer to the first attempt was lost: what is there is what it wrote. No two records share a channel.
        let there = if retried { read(there)? } else { None };
        let ours = there.is_some_and(|there| {
            (&there.kvs_channel_arn, there.created_at) == (&record.kvs_channel_arn, record.created_at)
                && there.speaker_id == record.speaker_id
        });
        if ours { Ok(()) } else { Err(StoreError::Exists) }
    }

    pub async fn get(&self, id: &SessionId) -> Result<Option<SessionRecord>, StoreError> {
        let answer = self
            .ask(&self.sessions, |attempts| {
                let get = self.client.get_item().table_name(&self.sessions).key(SESSION_ID, text(id.as_str()));
                get.consistent_read(true).customize().interceptor(attempts).send()
            })
            .await;
        let output = answer.result.map_err(|error| call::failure(&self.sessions, &error))?;
        read(output.item.unwrap_or_default())
    }

    pub async fn change(
        &self,
        id: &SessionId,
        now: UnixMs,
        expected: Expected,
        change: &Change,
    ) -> Result<SessionRecord, StoreError> {
        self.rewrite(id, |record| rules::change(record, now, expected, change)).await
    }

    pub async fn lease(
        &self,
        id: &SessionId,
        now: UnixMs,
        node: &NodeId,
        until: UnixMs,
    ) -> Result<SessionRecord, StoreError> {
        self.rewrite(id, |record| rules::lease(record, now, node, until)).await
    }

    pub async fn renew(
        &self,
        id: &SessionId,
        node: &NodeId,
        fence: u64,
        until: UnixMs,
    ) -> Result<SessionRecord, StoreError> {
        self.rewrite(id, |record| rules::renew(record, node, fence, until)).await
    }

    pub async fn release(&self, id: &SessionId, node: &NodeId, fence: u64) -> Result<(), StoreError> {
        self.rewrite(id, |record| rules::release(record, node, fence)).await.map(drop)
    }

    /// Reads, decides, writes; decides anew when somebody else wrote meanwhile.
    async fn rewrite(
        &self,
        id: &SessionId,
        decide: impl Fn(&mut SessionRecord) -> Result<(), StoreError>,
    ) -> Result<SessionRecord, StoreError> {
        self.within(async {
            let mut before = self.get(id).await?.ok_or(StoreError::NotFound)?;
            for tries in 0..TRIES {
                let mut after = before.clone();
                decide(&mut after)?;
                match self.replace(&before, after).await? {
                    Written::Done(record) => return Ok(record),
                    Written::Lost(now) => before = now.ok_or(StoreError::NotFound)?,
                }
                self.counts.one(Count::StoreConflicts);
                tracing::debug!(session = %id, tries, "somebody else changed the record first");
                tokio::time::sleep(call::pause(tries)).await;
            }
            Err(StoreError::Unavailable("too many write to the same record at once".to_owned()))
        })
        .await
    }

    /// Writes what differs, if the record is still as it was read.
    async fn replace(&self, before: &SessionRecord, after: SessionRecord) -> Result<Written, StoreError> {
        let (old, new) = (to_item(before)?, to_item(&after)?);
        let Some(rewrite) = Rewrite::of(&old, &new) else { return Ok(Written::Done(after)) };
        let Answer { result, retried } = self
            .ask(&self.sessions, |attempts| {
                let update = self.client.update_item().table_name(&self.sessions);
                let update = update.key(SESSION_ID, text(before.session_id.as_str()));
                update
                    .update_expression(rewrite.update)
                    .condition_expression(rewrite.condition)
                    .set_expression_attribute_names(Some(rewrite.names))
                    .set_expression_attribute_values(Some(rewrite.values))
                    .return_values(ReturnValue::None)
                    .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
                    .customize()
                    .interceptor(attempts)
                    .send()
            })
            .await;
        let Err(error) = result else { return Ok(Written::Done(after)) };
        let Some(there) = call::unmet(&error) else { return Err(call::failure(&self.sessions, &error)) };
        Ok(match read(there)? {
            // The answer to an earlier attempt was lost, not its effect.
            Some(there) if retried && shows(&there, before, &after) => Written::Done(there),
            there => Written::Lost(there),
        })
    }

    pub async fn list(
        &self,
        speaker: &SpeakerId,
        now: UnixMs,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let mut from = cursor.map(rules::place).transpose()?.map(|(created_at, id)| {
            HashMap::from([
                ("speakerId".to_owned(), text(speaker.reveal())),
                ("createdAt".to_owned(), number(created_at.0)),
                (SESSION_ID.to_owned(), text(id.as_str())),
            ])
        });
        let mut records: Vec<SessionRecord> = Vec::new();
        // One more than asked for tells whether there is another page.
        while records.len() <= limit {
            let wanted = (limit + 1 - records.len()).min(BATCH);
            let output = self
                .ask(&self.sessions, |attempts| {
                    let query = self.client.query().table_name(&self.sessions).index_name(BY_SPEAKER);
                    query
                        .key_condition_expression("#speaker = :speaker")
                        .filter_expression("#expires > :now")
                        .expression_attribute_names("#speaker", "speakerId")
                        .expression_attribute_names("#expires", "expiresAt")
                        .expression_attribute_values(":speaker", text(speaker.reveal()))
                        .expression_attribute_values(":now", number(now.as_secs()))
                        .scan_index_forward(false)
                        .limit(i32::try_from(wanted).unwrap_or(i32::MAX))
                        .set_exclusive_start_key(from.take())
                        .customize()
                        .interceptor(attempts)
                        .send()
                })
                .await
                .result
                .map_err(|error| call::failure(&self.sessions, &error))?;
            let ids: Vec<AttributeValue> =
                output.items.unwrap_or_default().into_iter().filter_map(|mut item| item.remove(SESSION_ID)).collect();
            records.extend(self.get_all(ids).await?);
            from = output.last_evaluated_key;
            if from.is_none() {
                break;
            }
        }
        let more = records.len() > limit;
        records.truncate(limit);
        let cursor = records.last().filter(|_| more).map(rules::cursor);
        Ok(Page { records, cursor })
    }

    /// The records of these ids, in their order; what is gone meanwhile is left out.
    async fn get_all(&self, ids: Vec<AttributeValue>) -> Result<Vec<SessionRecord>, StoreError> {
        let order = ids.clone();
        let mut found: HashMap<String, SessionRecord> = HashMap::new();
        let mut keys: Vec<Item> = ids.into_iter().map(|id| HashMap::from([(SESSION_ID.to_owned(), id)])).collect();
        let mut tries = 0;
        while !keys.is_empty() {
            if tries == TRIES {
                return Err(StoreError::Unavailable(format!("DynamoDB throttles requests to {}", self.sessions)));
            }
            if tries > 0 {
                self.counts.one(Count::StoreRetries);
                tokio::time::sleep(call::pause(tries)).await;
            }
            tries += 1;
            let asked = KeysAndAttributes::builder().set_keys(Some(keys)).consistent_read(true).build();
            let asked = asked.map_err(|error| StoreError::Unavailable(call::causes(&error)))?;
            let output = self
                .ask(&self.sessions, |attempts| {
                    let get = self.client.batch_get_item().request_items(&self.sessions, asked);
                    get.customize().interceptor(attempts).send()
                })
                .await
                .result
                .map_err(|error| call::failure(&self.sessions, &error))?;
            let items = output.responses.unwrap_or_default().remove(&self.sessions).unwrap_or_default();
            for item in items {
                let record: SessionRecord = from_item(item)?;
                found.insert(record.session_id.as_str().to_owned(), record);
            }
            let left = output.unprocessed_keys.unwrap_or_default().remove(&self.sessions);
            keys = left.map(|left| left.keys).unwrap_or_default();
        }
        Ok(order.iter().filter_map(|id| found.remove(id.as_s().ok()?)).collect())
    }

    pub async fn count_open(&self, speaker: &SpeakerId, now: UnixMs) -> Result<usize, StoreError> {
        let (mut open, mut from) = (0, None);
        loop {
            let output = self
                .ask(&self.sessions, |attempts| {
                    let query = self.client.query().table_name(&self.sessions).index_name(BY_SPEAKER);
                    query
                        .select(aws_sdk_dynamodb::types::Select::Count)
                        .key_condition_expression("#speaker = :speaker")
                        .filter_expression("#expires > :now AND #status <> :ended")
                        .expression_attribute_names("#speaker", "speakerId")
                        .expression_attribute_names("#expires", "expiresAt")
                        .expression_attribute_names("#status", "status")
                        .expression_attribute_values(":speaker", text(speaker.reveal()))
                        .expression_attribute_values(":now", number(now.as_secs()))
                        .expression_attribute_values(":ended", text(Status::Ended.as_str()))
                        .set_exclusive_start_key(from.take())
                        .customize()
                        .interceptor(attempts)
                        .send()
                })
                .await
                .result
                .map_err(|error| call::failure(&self.sessions, &error))?;
            open += usize::try_from(output.count).unwrap_or_default();
            from = output.last_evaluated_key;
            if from.is_none() {
                return Ok(open);
            }
        }
    }
}

fn read(item: Item) -> Result<Option<SessionRecord>, StoreError> {
    if item.is_empty() { Ok(None) } else { from_item(item).map(Some) }
}

/// Whether a record shows what we wrote, though it may have been written to since. A change is told by its version, and
/// whoever renews the lease leaves that alone; what only moves the lease is told by the lease.
fn shows(there: &SessionRecord, before: &SessionRecord, after: &SessionRecord) -> bool {
    let lease = |record: &SessionRecord| (record.lease_owner.clone(), record.lease_until, record.fence);
    if after.version == before.version {
        return lease(there) == lease(after);
    }
    let mut alike = after.clone();
    (alike.lease_owner, alike.lease_until, alike.fence) = lease(there);
    *there == alike
}

/// An update expression that makes one item of another.
struct Rewrite {
    update: String,
    condition: String,
    names: HashMap<String, String>,
    values: Item,
}

impl Rewrite {
    /// Nothing when the two are alike.
    fn of(old: &Item, new: &Item) -> Option<Rewrite> {
        let (mut names, mut values) = (HashMap::new(), Item::new());
        let (mut set, mut remove, mut condition) =
            (Vec::new(), Vec::new(), vec![format!("attribute_exists(#{SESSION_ID})")]);
        names.insert(format!("#{SESSION_ID}"), SESSION_ID.to_owned());
        let all: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        for name in all.into_iter().filter(|name| old.get(*name) != new.get(*name)) {
            names.insert(format!("#{name}"), name.clone());
            match new.get(name) {
                Some(value) => {
                    values.insert(format!(":{name}"), value.clone());
                    set.push(format!("#{name} = :{name}"));
                }
                None => remove.push(format!("#{name}")),
            }
        }
        if set.is_empty() && remove.is_empty() {
            return None;
        }
        for name in WITNESSES {
            names.insert(format!("#{name}"), name.to_owned());
            match old.get(name) {
                Some(value) => {
                    values.insert(format!(":was_{name}"), value.clone());
                    condition.push(format!("#{name} = :was_{name}"));
                }
                None => condition.push(format!("attribute_not_exists(#{name})")),
            }
        }
        let clause = |word: &str, parts: &[String]| {
            if parts.is_empty() { String::new() } else { format!("{word} {} ", parts.join(", ")) }
        };
        let update = (clause("SET", &set) + &clause("REMOVE", &remove)).trim_end().to_owned();
        Some(Rewrite { update, condition: condition.join(" AND "), names, values })
    }
}

#[cfg(test)]
mod tests {
    use babelcast_domain::ids::AccessCode;
    use babelcast_domain::language::Language;
    use babelcast_domain::record::{Edit, EndReason, QualityTier, SignalingEndpoints};
    use proptest::prelude::*;

    use super::*;

    fn record() -> SessionRecord {
        SessionRecord {
            session_id: SessionId::parse("calm-river-1").unwrap(),
            speaker_id: SpeakerId::new("ana"),
            title: Some("A talk".into()),
            source_language: Language::parse("en").unwrap(),
            target_languages: None,
            quality_tier: QualityTier::Standard,
            status: Status::Active,
            end_reason: None,
            speaker_kvs_connected: true,
            kvs_channel_arn: "arn".into(),
            kvs_channel_name: "session-calm-river-1".into(),
            kvs_signaling_endpoints: SignalingEndpoints { wss: "wss://m".into(), https: "https://r".into() },
            kvs_stream_name: None,
            glossary: None,
            vocabulary: None,
            access_code: Some(AccessCode::parse("tulip").unwrap()),
            private_transcript: false,
            created_at: UnixMs(1_000),
            updated_at: UnixMs(1_000),
            expires_at: 90_000,
            first_audio_at: None,
            version: 1,
            lease_owner: None,
            lease_until: None,
            fence: 0,
        }
    }

    /// Whether each of the four witnesses is an attribute of the record; a renamed one would always be absent.
    #[test]
    fn the_names_in_expressions_are_those_of_the_record() {
        let mut leased = record();
        rules::lease(&mut leased, UnixMs(1), &NodeId::new("a"), UnixMs(9)).unwrap();
        let item = to_item(&leased).unwrap();
        for name in WITNESSES.into_iter().chain([SESSION_ID, "speakerId", "createdAt", "expiresAt", "status"]) {
            assert!(item.contains_key(name), "{name}");
        }
        let definitions = crate::store::tables::tables("").unwrap();
        let sessions = definitions.iter().find(|table| table.name == "sessions").unwrap();
        let keys = sessions.key_attributes(&sessions.indexes).into_iter().map(|attribute| &attribute.name);
        let carried = sessions.indexes.iter().flat_map(|index| &index.include);
        for name in keys.chain(carried).chain(&sessions.ttl) {
            assert!(item.contains_key(name), "{name}");
        }
        assert_eq!(sessions.indexes[0].name, BY_SPEAKER);
    }

    #[test]
    fn a_record_and_its_item_are_the_same() {
        let full = record();
        assert_eq!(from_item::<SessionRecord>(to_item(&full).unwrap()).unwrap(), full);
        let mut newer = to_item(&full).unwrap();
        newer.insert("ofTheNextVersion".to_owned(), text("x"));
        assert_eq!(from_item::<SessionRecord>(newer).unwrap(), full, "what is not known yet is left out");
        let mut broken = to_item(&full).unwrap();
        broken.insert("status".to_owned(), text("isActive"));
        assert!(matches!(from_item::<SessionRecord>(broken), Err(StoreError::Unreadable(_))));
    }

    #[test]
    fn a_write_names_what_differs_and_all_that_must_not_have_changed() {
        let before = record();
        let mut after = before.clone();
        after.apply(UnixMs(2_000), &Change::Edited(Edit { title: Some(None), ..Edit::default() })).unwrap();
        let rewrite = Rewrite::of(&to_item(&before).unwrap(), &to_item(&after).unwrap()).unwrap();
        assert_eq!(rewrite.update, "SET #updatedAt = :updatedAt, #version = :version REMOVE #title");
        assert_eq!(
            rewrite.condition,
            "attribute_exists(#sessionId) AND #version = :was_version AND #fence = :was_fence \
             AND attribute_not_exists(#leaseOwner) AND attribute_not_exists(#leaseUntil)"
        );
        assert!(Rewrite::of(&to_item(&before).unwrap(), &to_item(&before).unwrap()).is_none());
    }

    #[test]
    fn a_change_is_known_again_though_the_lease_was_renewed_since_and_not_when_it_is_another() {
        let mut before = record();
        rules::lease(&mut before, UnixMs(1), &NodeId::new("a"), UnixMs(9)).unwrap();
        let mut after = before.clone();
        after.apply(UnixMs(5), &Change::Paused(true)).unwrap();
        let mut renewed = after.clone();
        rules::renew(&mut renewed, &NodeId::new("a"), 1, UnixMs(99)).unwrap();
        assert!(shows(&renewed, &before, &after));
        // Somebody else's change of the same version.
        let mut other = before.clone();
        other.apply(UnixMs(5), &Change::Paused(false)).unwrap();
        assert!(!shows(&other, &before, &after));
        assert!(!shows(&before, &before, &after));
        // A lease is known though the record was changed since, and not when another node has it.
        let mut leased = before.clone();
        rules::lease(&mut leased, UnixMs(2), &NodeId::new("a"), UnixMs(50)).unwrap();
        let mut changed = leased.clone();
        changed.apply(UnixMs(6), &Change::KvsConnected(false)).unwrap();
        assert!(shows(&changed, &before, &leased));
        let mut theirs = before.clone();
        rules::lease(&mut theirs, UnixMs(20), &NodeId::new("b"), UnixMs(50)).unwrap();
        assert!(!shows(&theirs, &before, &leased));
    }

    /// Carries out what an update expression says.
    fn carry_out(rewrite: &Rewrite, item: &Item) -> Item {
        let mut item = item.clone();
        let (set, remove) = rewrite.update.split_once("REMOVE ").unwrap_or((&rewrite.update, ""));
        for part in set.trim_start_matches("SET ").split(',').filter(|part| !part.trim().is_empty()) {
            let (name, value) = part.trim().split_once(" = ").unwrap();
            item.insert(rewrite.names[name].clone(), rewrite.values[value].clone());
        }
        for name in remove.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            item.remove(&rewrite.names[name]);
        }
        item
    }

    fn any_change() -> impl Strategy<Value = Change> {
        let reasons = [EndReason::Speaker, EndReason::Expired, EndReason::Abandoned, EndReason::Failed];
        let titles = proptest::option::of(proptest::option::of(".{0,20}"));
        let targets = proptest::option::of(proptest::option::of(proptest::collection::vec(
            proptest::sample::select(vec!["es", "fr", "zh-TW"]).prop_map(|code| Language::parse(code).unwrap()),
            0..3,
        )));
        prop_oneof![
            any::<bool>().prop_map(Change::KvsConnected),
            any::<u64>().prop_map(|at| Change::FirstAudio(UnixMs(at))),
            any::<bool>().prop_map(Change::Paused),
            proptest::sample::select(reasons.to_vec()).prop_map(Change::Ended),
            (titles, targets, proptest::option::of(any::<bool>())).prop_map(
                |(title, target_languages, private_transcript)| Change::Edited(Edit {
                    title,
                    target_languages,
                    private_transcript
                })
            ),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_apply_decides(changes in proptest::collection::vec(any_change(), 1..8), leased: bool) {
            let mut record = record();
            if leased {
                rules::lease(&mut record, UnixMs(1), &NodeId::new("a"), UnixMs(9)).unwrap();
            }
            for change in changes {
                let before = to_item(&record).unwrap();
                if record.apply(UnixMs(7), &change).is_err() {
                    break;
                }
                let after = to_item(&record).unwrap();
                let rewrite = Rewrite::of(&before, &after).unwrap();
                prop_assert_eq!(carry_out(&rewrite, &before), after);
            }
        }
    }
}
