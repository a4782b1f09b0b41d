//! A wire that fails: what is told, how often is asked, and that nothing happens twice.

use std::collections::BTreeMap;
use std::time::Duration;

use babelcast::store::{Claim, Expected, Presence, Settings, StoreError};
use babelcast_domain::counts::Count;
use babelcast_domain::line::Line;
use babelcast_domain::record::{Change, Edit, EndReason, SessionRecord, Status};
use tokio::time::timeout;

use super::bench::{Bench, NOW, ana, at, id, lang, moto, node, patient, record};
use super::proxy::{Fault, Proxy};
use crate::house::PATIENCE;

const FREE: Expected = Expected { version: None, fence: None };

/// A store behind a proxy, and one that reaches the same tables directly.
struct Pair {
    proxy: Proxy,
    over: Bench,
    direct: Bench,
}

impl Pair {
    async fn open() -> Pair {
        // Long enough for a busy machine to answer in, short enough to wait for a few times.
        Pair::with(|settings| (settings.attempt_timeout_ms, settings.timeout_ms) = (1_500, 30_000)).await
    }

    async fn with(change: impl FnOnce(&mut Settings)) -> Pair {
        let direct = Bench::moto().await;
        let proxy = Proxy::before(moto()).await;
        let mut settings = patient(&proxy.url, &direct.prefix);
        change(&mut settings);
        Pair { over: Bench::at(&proxy.url, settings).await, proxy, direct }
    }

    async fn session(&self, name: &str) -> SessionRecord {
        let record = record(name);
        self.direct.store.create(&record).await.unwrap();
        record
    }

    async fn stored(&self, record: &SessionRecord) -> SessionRecord {
        self.direct.store.get(&record.session_id).await.unwrap().unwrap()
    }
}

/// The ways in which an answer is lost after the work was done.
const LOST: [Fault; 3] = [Fault::CutAfter, Fault::ErrorAfter, Fault::SilenceAfter];

#[tokio::test]
async fn what_is_throttled_or_fails_for_a_moment_is_asked_again() {
    let pair = Pair::open().await;
    let session = pair.session("calm-river-1").await;
    for (number, fault) in [
        Fault::Refused(400, "ProvisionedThroughputExceededException"),
        Fault::Refused(400, "ThrottlingException"),
        Fault::Refused(500, "InternalServerError"),
        Fault::Refused(503, "ServiceUnavailable"),
        Fault::Cut,
    ]
    .into_iter()
    .enumerate()
    {
        pair.proxy.next("UpdateItem", [fault, fault]);
        let paused = Change::Paused(number % 2 == 0);
        let changed = pair.over.store.change(&session.session_id, at(1), FREE, &paused).await.unwrap();
        assert_eq!(pair.proxy.seen(), ["GetItem", "UpdateItem", "UpdateItem", "UpdateItem"], "{fault:?}");
        assert_eq!((changed.version, &changed), (number as u64 + 2, &pair.stored(&session).await));
        assert_eq!(pair.over.count(Count::StoreRetries), 2 * (number as u64 + 1));
    }
    assert_eq!(pair.over.count(Count::StoreConflicts), 0);
}

#[tokio::test]
async fn what_stays_wrong_is_told_after_three_attempts_and_in_words() {
    let pair = Pair::open().await;
    let session = pair.session("calm-river-1").await;
    for (fault, attempts, words) in [
        (Fault::Refused(400, "ProvisionedThroughputExceededException"), 3, "throttles"),
        (Fault::Refused(400, "ThrottlingException"), 3, "throttles"),
        (Fault::Refused(500, "InternalServerError"), 3, "InternalServerError"),
        (Fault::Refused(400, "AccessDeniedException"), 1, "denies access"),
        (Fault::Refused(400, "UnrecognizedClientException"), 1, "denies access"),
        (Fault::Refused(400, "ResourceNotFoundException"), 1, "babelcast migrate --apply"),
        (Fault::Nonsense, 1, "unreadable"),
    ] {
        pair.proxy.always(fault);
        let error = pair.over.store.get(&session.session_id).await.unwrap_err();
        assert!(matches!(&error, StoreError::Unavailable(why) if why.contains(words)), "{fault:?}: {error}");
        assert!(error.retryable());
        assert_eq!(pair.proxy.seen().len(), attempts, "{fault:?}");
        let error = pair.over.store.create(&record("calm-river-2")).await.unwrap_err();
        assert!(matches!(&error, StoreError::Unavailable(why) if why.contains(words)), "{fault:?}: {error}");
    }
    // Last: a probe that fails leaves the others on their way.
    pair.proxy.always(Fault::Refused(400, "ResourceNotFoundException"));
    let error = pair.over.store.ping().await.unwrap_err();
    assert!(matches!(&error, StoreError::Unavailable(why) if why.contains("babelcast migrate")), "{error}");
    assert_eq!(pair.stored(&session).await, session);
    assert_eq!(pair.direct.store.get(&id("calm-river-2")).await.unwrap(), None);
}

#[tokio::test]
async fn a_lost_answer_makes_no_false_refusal_and_nothing_twice() {
    let pair = Pair::open().await;
    for (number, lost) in LOST.into_iter().enumerate() {
        let store = &pair.over.store;
        let name = format!("calm-river-{number}");
        let mut expected = record(&name);
        let id = expected.session_id.clone();

        pair.proxy.next("PutItem", [lost]);
        assert_eq!(store.create(&expected).await, Ok(()), "{lost:?}");

        // By version, by nothing, and by fence.
        pair.proxy.next("UpdateItem", [lost]);
        let by_version = Expected { version: Some(1), fence: None };
        expected.apply(at(1), &Change::Paused(true)).unwrap();
        assert_eq!(store.change(&id, at(1), by_version, &Change::Paused(true)).await, Ok(expected.clone()), "{lost:?}");

        pair.proxy.next("UpdateItem", [lost, lost]);
        expected.apply(at(2), &Change::KvsConnected(true)).unwrap();
        assert_eq!(store.change(&id, at(2), FREE, &Change::KvsConnected(true)).await, Ok(expected.clone()), "{lost:?}");

        pair.proxy.next("UpdateItem", [lost]);
        (expected.lease_owner, expected.lease_until, expected.fence) = (Some(node("a")), Some(at(100)), 1);
        assert_eq!(store.lease(&id, at(3), &node("a"), at(100)).await, Ok(expected.clone()), "{lost:?}");

        pair.proxy.next("UpdateItem", [lost]);
        expected.lease_until = Some(at(200));
        assert_eq!(store.renew(&id, &node("a"), 1, at(200)).await, Ok(expected.clone()), "{lost:?}");

        pair.proxy.next("UpdateItem", [lost]);
        (expected.lease_owner, expected.lease_until) = (None, None);
        assert_eq!(store.release(&id, &node("a"), 1).await, Ok(()), "{lost:?}");

        pair.proxy.next("UpdateItem", [lost]);
        let end = Change::Ended(EndReason::Speaker);
        expected.apply(at(4), &end).unwrap();
        let fenced = Expected { version: None, fence: Some(1) };
        assert_eq!(store.change(&id, at(4), fenced, &end).await, Ok(expected.clone()), "{lost:?}");
        assert_eq!((pair.stored(&expected).await.version, pair.stored(&expected).await), (4, expected));
    }
    assert_eq!(pair.over.count(Count::StoreConflicts), 0);
}

#[tokio::test]
async fn a_lost_answer_leaves_keys_counters_presence_and_lines_as_they_were_meant() {
    let pair = Pair::open().await;
    let store = &pair.over.store;
    let hold = Duration::from_secs(30);
    for (number, lost) in LOST.into_iter().enumerate() {
        let key = format!("key-{number}");
        pair.proxy.next("PutItem", [lost]);
        assert_eq!(store.claim_key(&key, "print", NOW, hold).await, Ok(Claim::Fresh), "{lost:?}");
        // The very same request from elsewhere, in the same millisecond, is another one.
        pair.proxy.next("PutItem", [Fault::Refused(500, "InternalServerError")]);
        assert_eq!(store.claim_key(&key, "print", NOW, hold).await, Ok(Claim::Pending), "{lost:?}");
        pair.proxy.next("UpdateItem", [lost]);
        assert_eq!(store.settle_key(&key, &id("calm-river-1"), NOW.as_secs() + 60).await, Ok(()));
        assert_eq!(store.claim_key(&key, "print", NOW, hold).await, Ok(Claim::Done(id("calm-river-1"))));
        pair.proxy.next("DeleteItem", [lost]);
        assert_eq!(store.release_key(&key).await, Ok(()));

        // A counter is asked once: it may not know its value, but it never counts twice.
        let counter = format!("counter-{number}");
        pair.proxy.next("UpdateItem", [lost]);
        let told = store.count(&counter, NOW, hold).await.unwrap_err();
        assert!(told.retryable(), "{told}");
        assert_eq!(pair.proxy.seen(), ["UpdateItem"]);
        assert_eq!(store.count(&counter, NOW, hold).await, Ok(2));

        let presence = Presence { total: 2, by_language: BTreeMap::from([(lang("es"), 2)]) };
        pair.proxy.next("PutItem", [lost]);
        store.put_presence(&id("calm-river-1"), &node("a"), &presence, NOW.as_secs() + 9).await.unwrap();
        let known = store.presence(&id("calm-river-1"), NOW).await.unwrap();
        assert_eq!(known, BTreeMap::from([(node("a"), presence)]));

        pair.proxy.next("BatchWriteItem", [lost]);
        let lines: Vec<Line> = (0..30).map(line).collect();
        store.put_lines(&id("calm-river-1"), &lines, NOW.as_secs() + 9).await.unwrap();
        assert_eq!(store.lines(&id("calm-river-1"), &lang("es")).await, Ok(lines));
    }
}

fn line(segment: u64) -> Line {
    let text = format!("frase {segment}");
    Line { segment, language: lang("es"), text, start_ms: segment, end_ms: segment + 1, untranslated: false }
}

#[tokio::test]
async fn a_change_by_somebody_else_while_the_answer_was_lost_is_still_stale() {
    let pair = Pair::open().await;
    let session = pair.session("calm-river-1").await;
    // Both attempts never arrive, and somebody else pauses meanwhile: this one must not take that for its own doing.
    let direct = pair.direct.store.change(&session.session_id, at(1), FREE, &Change::Paused(true)).await.unwrap();
    pair.proxy.next("UpdateItem", [Fault::Cut]);
    let by_version = Expected { version: Some(1), fence: None };
    let answer = pair.over.store.change(&session.session_id, at(2), by_version, &Change::Paused(true)).await;
    assert_eq!(answer, Err(StoreError::Stale));
    assert_eq!(pair.stored(&session).await, direct);
    // A name that is taken stays taken, whatever happened to the first attempt.
    pair.proxy.next("PutItem", [Fault::Cut]);
    let rival = SessionRecord { kvs_channel_arn: "another".to_owned(), ..session.clone() };
    assert_eq!(pair.over.store.create(&rival).await, Err(StoreError::Exists));
    assert_eq!(pair.stored(&session).await, direct);
}

#[tokio::test]
async fn a_failed_condition_is_decided_over_anew_and_not_for_ever() {
    let pair = Pair::with(|settings| (settings.attempt_timeout_ms, settings.timeout_ms) = (1_500, 4_000)).await;
    let session = pair.session("calm-river-1").await;
    pair.proxy.rule({
        let mut asked = 0;
        move |operation| match operation {
            "UpdateItem" => {
                asked += 1;
                if asked == 1 { Fault::ConditionFailed } else { Fault::None }
            }
            _ => Fault::None,
        }
    });
    // It names no item: the record is gone.
    let gone = pair.over.store.change(&session.session_id, at(1), FREE, &Change::Paused(true)).await;
    assert_eq!(gone, Err(StoreError::NotFound));

    // Somebody always writes first.
    let rival = tokio::spawn({
        let (store, id) =
            (Bench::at(moto(), patient(moto(), &pair.direct.prefix)).await.store, session.session_id.clone());
        async move {
            for number in 0_u64.. {
                store.change(&id, at(number), FREE, &titled(number)).await.unwrap();
            }
        }
    });
    let rival = tokio_util::task::AbortOnDropHandle::new(rival);
    for number in 0..5 {
        // One answer or another, but one.
        match timeout(PATIENCE, pair.over.store.change(&session.session_id, at(number), FREE, &titled(number))).await {
            Ok(Ok(_) | Err(StoreError::Timeout | StoreError::Unavailable(_))) => {}
            other => panic!("{other:?}"),
        }
    }
    drop(rival);
}

fn titled(number: u64) -> Change {
    Change::Edited(Edit { title: Some(Some(number.to_string())), ..Edit::default() })
}

#[tokio::test]
async fn silence_is_not_waited_for_beyond_the_settings() {
    let pair = Pair::with(|settings| (settings.attempt_timeout_ms, settings.timeout_ms) = (100, 3_000)).await;
    let session = pair.session("calm-river-1").await;
    let (id, store, a) = (session.session_id.clone(), &pair.over.store, node("a"));
    pair.proxy.always(Fault::Silence);
    let hold = Duration::from_secs(1);
    let presence = Presence::default();
    let all = async {
        assert_eq!(store.ping().await, Err(StoreError::Timeout));
        assert_eq!(store.get(&id).await, Err(StoreError::Timeout));
        assert_eq!(pair.over.count(Count::StoreRetries), 2, "an attempt does not take up the time of the next");
        assert_eq!(store.create(&record("calm-river-2")).await, Err(StoreError::Timeout));
        assert_eq!(store.list(&ana(), NOW, None, 5).await, Err(StoreError::Timeout));
        assert_eq!(store.count_open(&ana(), NOW).await, Err(StoreError::Timeout));
        assert_eq!(store.change(&id, NOW, FREE, &Change::Paused(true)).await, Err(StoreError::Timeout));
        assert_eq!(store.lease(&id, NOW, &a, at(9)).await, Err(StoreError::Timeout));
        assert_eq!(store.renew(&id, &a, 0, at(9)).await, Err(StoreError::Timeout));
        assert_eq!(store.release(&id, &a, 0).await, Err(StoreError::Timeout));
        assert_eq!(store.put_presence(&id, &a, &presence, 9).await, Err(StoreError::Timeout));
        assert_eq!(store.presence(&id, NOW).await, Err(StoreError::Timeout));
        assert_eq!(store.count("c", NOW, hold).await, Err(StoreError::Timeout));
        assert_eq!(store.claim_key("k", "p", NOW, hold).await, Err(StoreError::Timeout));
        assert_eq!(store.settle_key("k", &id, 9).await, Err(StoreError::Timeout));
        assert_eq!(store.release_key("k").await, Err(StoreError::Timeout));
        assert_eq!(store.put_lines(&id, &[line(1)], 9).await, Err(StoreError::Timeout));
        assert_eq!(store.lines(&id, &lang("es")).await, Err(StoreError::Timeout));
    };
    timeout(PATIENCE, all).await.expect("something waits for ever");
    // All attempts together have their time as well, however long one may take.
    let mut endless = patient(&pair.proxy.url, &pair.direct.prefix);
    (endless.attempt_timeout_ms, endless.timeout_ms) = (600_000, 200);
    let endless = Bench::at(&pair.proxy.url, endless).await.store;
    assert_eq!(timeout(PATIENCE, endless.get(&id)).await.unwrap(), Err(StoreError::Timeout));
    // Four probes and a counter are asked once each, the other fifteen three times at most.
    assert!(pair.proxy.seen().len() <= 4 + 1 + 15 * 3 + 1, "{:?}", pair.proxy.seen());
    assert_eq!(pair.stored(&session).await, session);
}

#[tokio::test]
async fn a_store_that_was_away_is_used_again_when_it_is_back() {
    let mut pair = Pair::open().await;
    let session = pair.session("calm-river-1").await;
    let id = &session.session_id;
    assert_eq!(pair.over.store.ping().await, Ok(()));
    pair.proxy.close().await;
    for _ in 0..5 {
        let error = pair.over.store.get(id).await.unwrap_err();
        assert!(matches!(&error, StoreError::Unavailable(why) if why.contains("cannot be reached")), "{error}");
        let error = pair.over.store.change(id, at(1), FREE, &Change::Paused(true)).await.unwrap_err();
        assert!(error.retryable(), "{error}");
        assert!(pair.over.store.ping().await.is_err());
    }
    assert!(pair.over.count(Count::StoreRetries) > 0);
    pair.proxy.open().await;
    assert_eq!(pair.over.store.ping().await, Ok(()));
    let changed = pair.over.store.change(id, at(1), FREE, &Change::Paused(true)).await.unwrap();
    assert_eq!((changed.version, changed.status), (2, Status::Paused));
}

#[tokio::test]
async fn what_a_batch_left_undone_is_done() {
    let pair = Pair::open().await;
    let store = &pair.over.store;
    let lines: Vec<Line> = (0..60).map(line).collect();
    pair.proxy.next("BatchWriteItem", [Fault::Half, Fault::Half, Fault::None, Fault::Half]);
    store.put_lines(&id("calm-river-1"), &lines, NOW.as_secs() + 9).await.unwrap();
    assert_eq!(store.lines(&id("calm-river-1"), &lang("es")).await, Ok(lines.clone()));
    assert!(pair.over.count(Count::StoreRetries) >= 3);

    for number in 0..10 {
        let session = record(&format!("calm-river-{number}"));
        pair.direct.store.create(&SessionRecord { created_at: at(number), ..session }).await.unwrap();
    }
    pair.proxy.next("BatchGetItem", [Fault::Half, Fault::Half]);
    let page = store.list(&ana(), NOW, None, 20).await.unwrap();
    let times: Vec<_> = page.records.iter().map(|record| record.created_at).collect();
    assert_eq!(times, (0..10).rev().map(at).collect::<Vec<_>>());

    // Never done: told, not tried for ever.
    pair.proxy.rule(|operation| match operation {
        "BatchWriteItem" => Fault::Refused(400, "ProvisionedThroughputExceededException"),
        _ => Fault::None,
    });
    let error = store.put_lines(&id("calm-river-2"), &lines, NOW.as_secs() + 9).await.unwrap_err();
    assert!(error.retryable(), "{error}");
}

#[tokio::test]
async fn in_an_outage_the_budget_of_retries_is_used_up_and_refilled_by_what_succeeds() {
    let pair = Pair::open().await;
    let session = pair.session("calm-river-1").await;
    pair.proxy.always(Fault::Refused(500, "InternalServerError"));
    for _ in 0..10 {
        let calls = (0..20).map(|_| pair.over.store.get(&session.session_id));
        let answers = futures_util::future::join_all(calls).await;
        assert!(answers.iter().all(Result::is_err));
    }
    // Two hundred calls: three attempts each at first, one each in the end.
    let seen = pair.proxy.seen().len();
    assert!((201..=400).contains(&seen), "{seen}");
    pair.proxy.always(Fault::None);
    for _ in 0..20 {
        assert_eq!(pair.over.store.get(&session.session_id).await, Ok(Some(session.clone())));
    }
    pair.proxy.next("GetItem", [Fault::Refused(500, "InternalServerError")]);
    assert_eq!(pair.over.store.get(&session.session_id).await, Ok(Some(session)));
}

/// A third of all requests fail in some way: what was answered with success happened once, in order; what was not may
/// have happened or not, but not twice.
#[tokio::test]
async fn under_a_third_of_failures_the_history_has_no_gap_and_nothing_twice() {
    let pair = Pair::with(|settings| (settings.attempt_timeout_ms, settings.timeout_ms) = (300, 1_500)).await;
    let session = pair.session("calm-river-1").await;
    let faults = [
        Fault::Refused(400, "ProvisionedThroughputExceededException"),
        Fault::Refused(500, "InternalServerError"),
        Fault::Silence,
        Fault::Cut,
        Fault::CutAfter,
        Fault::ErrorAfter,
        Fault::SilenceAfter,
    ];
    pair.proxy.rule(move |_| {
        if rand::random_range(0..3) == 0 { faults[rand::random_range(0..faults.len())] } else { Fault::None }
    });
    let (mut last, mut unknown) = (1, 0);
    for number in 0..50 {
        match pair.over.store.change(&session.session_id, at(number), FREE, &titled(number)).await {
            Ok(changed) => {
                let fresh = changed.version - last;
                assert!(
                    fresh >= 1 && fresh <= 1 + unknown,
                    "{fresh} versions for one change and {unknown} unknown ones"
                );
                assert_eq!(changed.title, Some(number.to_string()));
                (last, unknown) = (changed.version, 0);
            }
            Err(error) => {
                assert!(error.retryable(), "{error}");
                unknown += 1;
            }
        }
    }
    assert!(last > 10, "hardly anything succeeded");
    let stored = pair.stored(&session).await;
    assert!((last..=last + unknown).contains(&stored.version));
}
