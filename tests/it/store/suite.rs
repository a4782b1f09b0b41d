//! What every form of the store does alike.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use babelcast::store::{Claim, Expected, Page, Presence, Store, StoreError};
use babelcast_domain::ids::SpeakerId;
use babelcast_domain::line::Line;
use babelcast_domain::record::{Change, Edit, EndReason, SessionRecord, Status};
use babelcast_domain::time::UnixMs;

use super::bench::{Bench, NOW, ana, at, id, lang, migrate, new_prefix, node, patient, record};
use crate::house::PATIENCE;

type Case = fn(Arc<Store>) -> Pin<Box<dyn Future<Output = ()> + Send>>;

macro_rules! on_every_store {
    ($($case:ident,)+) => {
        mod memory {
            use std::sync::Arc;
            use babelcast::store::Store;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::$case(Arc::new(Store::memory())).await;
            })+
        }

        mod dynamodb {
            use std::sync::Arc;
            use super::Bench;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::$case(Arc::new(Bench::moto().await.store)).await;
            })+
        }

        /// Each by its name.
        const CASES: &[(&str, Case)] = &[$((stringify!($case), |store| Box::pin($case(store))),)+];
    };
}

on_every_store! {
    a_record_is_written_once_and_read_as_it_was,
    what_is_not_there_is_not_found,
    the_largest_texts_are_kept_whole,
    a_change_answers_with_the_record_and_leaves_the_rest_alone,
    an_edit_sets_takes_away_and_leaves,
    nothing_changes_what_has_ended,
    a_change_of_an_older_version_is_stale,
    an_owner_whose_lease_was_taken_over_writes_nothing,
    a_lease_is_taken_by_one_node_at_a_time,
    a_lease_that_ran_out_is_renewed_until_somebody_takes_it,
    a_lease_that_is_given_back_is_free_at_once,
    the_end_of_a_session_ends_its_lease,
    of_two_hundred_who_change_the_same_version_one_wins,
    those_who_name_no_version_all_get_their_turn,
    of_many_nodes_one_gets_the_lease,
    sessions_are_listed_newest_first_a_page_at_a_time,
    sessions_of_the_same_moment_are_each_listed_once,
    a_speaker_sees_no_one_elses_sessions,
    what_has_expired_is_read_but_neither_listed_nor_counted,
    a_cursor_of_somebody_elses_making_is_refused,
    open_sessions_are_counted,
    who_listens_is_known_by_node_until_it_is_old,
    a_counter_starts_anew_with_its_window,
    concurrent_counts_are_all_different,
    a_key_is_claimed_by_one_and_answered_to_the_rest,
    a_claim_that_is_given_back_or_forgotten_is_free,
    of_many_claims_at_once_one_is_fresh,
    lines_come_back_in_order_and_by_language,
    a_line_said_again_replaces_the_first,
    hundreds_of_lines_are_kept_at_once,
    the_store_answers,
}

/// All of it at the endpoint that is named, if one is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_named_dynamodb_behaves_alike() {
    let Ok(url) = std::env::var("BABELCAST_TEST_DYNAMODB") else { return };
    for (name, case) in CASES {
        let prefix = new_prefix();
        migrate(&url, &prefix).await;
        let Bench { store, counts, .. } = Bench::at(&url, patient(&url, &prefix)).await;
        let store = Arc::new(store);
        eprintln!("{name}");
        case(Arc::clone(&store)).await;
        let store = Arc::into_inner(store).expect("the case is over");
        Bench { store, counts, url: url.clone(), prefix }.tear_down().await;
    }
}

const FREE: Expected = Expected { version: None, fence: None };

fn version(version: u64) -> Expected {
    Expected { version: Some(version), fence: None }
}

fn fence(fence: u64) -> Expected {
    Expected { version: None, fence: Some(fence) }
}

fn titled(title: &str) -> Change {
    Change::Edited(Edit { title: Some(Some(title.to_owned())), ..Edit::default() })
}

async fn with(store: &Store, record: SessionRecord) -> SessionRecord {
    store.create(&record).await.unwrap();
    record
}

/// An index may lag behind the table.
async fn in_the_end<T: PartialEq + std::fmt::Debug, F: Future<Output = T>>(wanted: T, mut look: impl FnMut() -> F) {
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        let found = look().await;
        if found == wanted {
            return;
        }
        assert!(tokio::time::Instant::now() < end, "wanted {wanted:?}, found {found:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn a_record_is_written_once_and_read_as_it_was(store: Arc<Store>) {
    let full = with(&store, record("calm-river-1")).await;
    assert_eq!(store.get(&full.session_id).await.unwrap(), Some(full.clone()));

    let other = SessionRecord { kvs_channel_arn: "another".to_owned(), title: None, ..full.clone() };
    assert_eq!(store.create(&other).await, Err(StoreError::Exists));
    assert_eq!(store.create(&full).await, Err(StoreError::Exists));
    assert_eq!(store.get(&full.session_id).await.unwrap(), Some(full));

    // As little as a record can have.
    let bare = SessionRecord {
        title: None,
        target_languages: None,
        glossary: None,
        access_code: None,
        ..record("calm-river-2")
    };
    let bare = with(&store, bare).await;
    assert_eq!(store.get(&bare.session_id).await.unwrap(), Some(bare));
}

async fn what_is_not_there_is_not_found(store: Arc<Store>) {
    let nobody = id("no-body-1");
    assert_eq!(store.get(&nobody).await.unwrap(), None);
    assert_eq!(store.change(&nobody, NOW, FREE, &Change::Paused(true)).await, Err(StoreError::NotFound));
    assert_eq!(store.lease(&nobody, NOW, &node("a"), at(1_000)).await, Err(StoreError::NotFound));
    assert_eq!(store.renew(&nobody, &node("a"), 1, at(1_000)).await, Err(StoreError::NotFound));
    assert_eq!(store.release(&nobody, &node("a"), 1).await, Err(StoreError::NotFound));
    assert_eq!(store.list(&ana(), NOW, None, 10).await.unwrap(), Page { records: vec![], cursor: None });
    assert_eq!(store.count_open(&ana(), NOW).await.unwrap(), 0);
    assert_eq!(store.presence(&nobody, NOW).await.unwrap(), BTreeMap::new());
    assert_eq!(store.lines(&nobody, &lang("en")).await.unwrap(), vec![]);
    store.settle_key("nothing", &nobody, NOW.as_secs() + 60).await.unwrap();
    store.release_key("nothing").await.unwrap();
}

async fn the_largest_texts_are_kept_whole(store: Arc<Store>) {
    let title = "🎙".repeat(120);
    let speaker = SpeakerId::new("s".repeat(1_024));
    let targets = (0..26 * 26).map(|n| {
        let (a, b) = (b'a' + (n / 26) as u8, b'a' + (n % 26) as u8);
        lang(&format!("{}{}", a as char, b as char))
    });
    let big = SessionRecord {
        title: Some(title),
        speaker_id: speaker.clone(),
        target_languages: Some(targets.collect()),
        ..record(&format!("a{}", "b".repeat(63)))
    };
    let big = with(&store, big).await;
    assert_eq!(store.get(&big.session_id).await.unwrap(), Some(big.clone()));
    in_the_end(vec![big], || async { store.list(&speaker, NOW, None, 5).await.unwrap().records }).await;
}

async fn a_change_answers_with_the_record_and_leaves_the_rest_alone(store: Arc<Store>) {
    let mut expected = with(&store, record("calm-river-1")).await;
    let changes = [
        Change::KvsConnected(true),
        Change::Paused(true),
        Change::Paused(true),
        Change::KvsConnected(false),
        Change::Paused(false),
        Change::Ended(EndReason::Abandoned),
    ];
    for (number, change) in changes.iter().enumerate() {
        let now = at(1_000 * (number as u64 + 1));
        expected.apply(now, change).unwrap();
        assert_eq!(store.change(&expected.session_id, now, FREE, change).await.unwrap(), expected);
        assert_eq!(store.get(&expected.session_id).await.unwrap(), Some(expected.clone()));
    }
    assert_eq!((expected.status, expected.version), (Status::Ended, 7));
}

async fn an_edit_sets_takes_away_and_leaves(store: Arc<Store>) {
    let mut expected = with(&store, record("calm-river-1")).await;
    let edits = [
        Edit::default(),
        Edit { title: Some(None), private_transcript: Some(true), ..Edit::default() },
        Edit { target_languages: Some(None), ..Edit::default() },
        Edit {
            title: Some(Some("neu: Straße".into())),
            target_languages: Some(Some(vec![lang("de")])),
            ..Edit::default()
        },
        Edit { target_languages: Some(Some(vec![])), ..Edit::default() },
    ];
    for edit in edits {
        let change = Change::Edited(edit);
        let before = Expected { version: Some(expected.version), fence: Some(0) };
        expected.apply(at(5), &change).unwrap();
        assert_eq!(store.change(&expected.session_id, at(5), before, &change).await.unwrap(), expected);
        assert_eq!(store.get(&expected.session_id).await.unwrap(), Some(expected.clone()));
    }
}

async fn nothing_changes_what_has_ended(store: Arc<Store>) {
    let id = with(&store, record("calm-river-1")).await.session_id;
    let ended = store.change(&id, at(1), FREE, &Change::Ended(EndReason::Speaker)).await.unwrap();
    let refused = StoreError::Refused(Status::Ended);
    for change in [
        Change::Paused(true),
        Change::Paused(false),
        Change::KvsConnected(true),
        Change::Ended(EndReason::Failed),
        titled("late"),
    ] {
        assert_eq!(store.change(&id, at(2), FREE, &change).await, Err(refused.clone()));
        // What has ended is told before what is stale: the writer can stop.
        assert_eq!(store.change(&id, at(2), version(1), &change).await, Err(refused.clone()));
    }
    assert_eq!(store.lease(&id, at(2), &node("a"), at(9)).await, Err(refused.clone()));
    assert_eq!(store.renew(&id, &node("a"), 0, at(9)).await, Err(refused.clone()));
    assert_eq!(store.release(&id, &node("a"), 0).await, Err(refused));
    assert_eq!(store.get(&id).await.unwrap(), Some(ended));
}

async fn a_change_of_an_older_version_is_stale(store: Arc<Store>) {
    let id = with(&store, record("calm-river-1")).await.session_id;
    let second = store.change(&id, at(1), version(1), &Change::Paused(true)).await.unwrap();
    for old in [0, 1, 3] {
        assert_eq!(store.change(&id, at(2), version(old), &titled("x")).await, Err(StoreError::Stale));
    }
    assert_eq!(store.get(&id).await.unwrap(), Some(second));
    assert_eq!(store.change(&id, at(2), version(2), &titled("y")).await.unwrap().version, 3);
}

async fn an_owner_whose_lease_was_taken_over_writes_nothing(store: Arc<Store>) {
    let id = with(&store, record("calm-river-1")).await.session_id;
    let first = store.lease(&id, at(0), &node("a"), at(10)).await.unwrap();
    assert_eq!(first.version, 1, "a lease is no change");
    store.change(&id, at(1), fence(first.fence), &Change::KvsConnected(true)).await.unwrap();
    let second = store.lease(&id, at(11), &node("b"), at(30)).await.unwrap();
    assert_eq!(second.fence, first.fence + 1);

    let late = Change::KvsConnected(false);
    assert_eq!(store.change(&id, at(12), fence(first.fence), &late).await, Err(StoreError::Leased));
    let both = Expected { version: Some(second.version), fence: Some(first.fence) };
    assert_eq!(store.change(&id, at(12), both, &late).await, Err(StoreError::Leased));
    assert_eq!(store.renew(&id, &node("a"), first.fence, at(50)).await, Err(StoreError::Leased));
    assert_eq!(store.release(&id, &node("a"), first.fence).await, Err(StoreError::Leased));
    assert_eq!(store.renew(&id, &node("b"), first.fence, at(50)).await, Err(StoreError::Leased));
    assert_eq!(store.get(&id).await.unwrap(), Some(second));
}

async fn a_lease_is_taken_by_one_node_at_a_time(store: Arc<Store>) {
    let id = with(&store, record("calm-river-1")).await.session_id;
    let (a, b) = (node("node-a"), node("node-b"));
    let first = store.lease(&id, at(0), &a, at(10)).await.unwrap();
    assert_eq!((first.lease_owner.as_ref(), first.lease_until, first.fence), (Some(&a), Some(at(10)), 1));
    assert_eq!(store.lease(&id, at(9), &b, at(20)).await, Err(StoreError::Leased));
    // Its own node may take it again: a new fence shuts out what it had under way.
    assert_eq!(store.lease(&id, at(9), &a, at(20)).await.unwrap().fence, 2);
    assert_eq!(store.lease(&id, at(19), &b, at(30)).await, Err(StoreError::Leased));
    let taken = store.lease(&id, at(20), &b, at(30)).await.unwrap();
    assert_eq!((taken.lease_owner.as_ref(), taken.fence), (Some(&b), 3));
    assert_eq!(store.get(&id).await.unwrap(), Some(taken));
}

async fn a_lease_that_ran_out_is_renewed_until_somebody_takes_it(store: Arc<Store>) {
    let id = with(&store, record("calm-river-1")).await.session_id;
    let (a, b) = (node("node-a"), node("node-b"));
    let leased = store.lease(&id, at(0), &a, at(10)).await.unwrap();
    assert_eq!(store.renew(&id, &a, 1, at(20)).await.unwrap().lease_until, Some(at(20)));
    // Long after at(20), and another node has changed something meanwhile: the answer shows it.
    store.change(&id, at(70), FREE, &titled("new")).await.unwrap();
    let renewed = store.renew(&id, &a, 1, at(90)).await.unwrap();
    assert_eq!((renewed.lease_until, renewed.fence, renewed.title.as_deref()), (Some(at(90)), 1, Some("new")));
    assert_eq!(renewed.version, leased.version + 1);
    // Renewing it to the same time is no harm.
    assert_eq!(store.renew(&id, &a, 1, at(90)).await.unwrap(), renewed);
    store.lease(&id, at(100), &b, at(200)).await.unwrap();
    assert_eq!(store.renew(&id, &a, 1, at(300)).await, Err(StoreError::Leased));
}

async fn a_lease_that_is_given_back_is_free_at_once(store: Arc<Store>) {
    let id = with(&store, record("calm-river-1")).await.session_id;
    let (a, b) = (node("node-a"), node("node-b"));
    store.lease(&id, at(0), &a, at(1_000)).await.unwrap();
    store.release(&id, &a, 1).await.unwrap();
    let free = store.get(&id).await.unwrap().unwrap();
    assert_eq!((free.lease_owner, free.lease_until, free.fence), (None, None, 1));
    assert_eq!(store.release(&id, &a, 1).await, Err(StoreError::Leased), "it is not ours any more");
    assert_eq!(store.lease(&id, at(1), &b, at(1_000)).await.unwrap().fence, 2);
}

async fn the_end_of_a_session_ends_its_lease(store: Arc<Store>) {
    let id = with(&store, record("calm-river-1")).await.session_id;
    store.lease(&id, at(0), &node("a"), at(1_000)).await.unwrap();
    let ended = store.change(&id, at(1), FREE, &Change::Ended(EndReason::Expired)).await.unwrap();
    assert_eq!((ended.lease_owner.as_ref(), ended.lease_until, ended.fence), (None, None, 1));
    assert_eq!(store.get(&id).await.unwrap(), Some(ended));
    assert_eq!(store.renew(&id, &node("a"), 1, at(2_000)).await, Err(StoreError::Refused(Status::Ended)));
}

/// Runs so many at once; what each answered.
async fn at_once<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    count: u64,
    mut one: impl FnMut(u64) -> F,
) -> Vec<T> {
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..count {
        tasks.spawn(one(number));
    }
    tasks.join_all().await
}

async fn of_two_hundred_who_change_the_same_version_one_wins(store: Arc<Store>) {
    let session = with(&store, record("calm-river-1")).await.session_id;
    let answers = at_once(200, |number| {
        let (store, session) = (Arc::clone(&store), session.clone());
        async move { store.change(&session, at(number), version(1), &titled(&number.to_string())).await }
    })
    .await;
    let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert!(lost.iter().all(|answer| *answer == Err(StoreError::Stale)), "{lost:?}");
    let [Ok(winner)] = won.as_slice() else { panic!("{} winners", won.len()) };
    assert_eq!(store.get(&session).await.unwrap().as_ref(), Some(winner));
    assert_eq!(winner.version, 2);
}

async fn those_who_name_no_version_all_get_their_turn(store: Arc<Store>) {
    let session = with(&store, record("calm-river-1")).await.session_id;
    let answers = at_once(5, |number| {
        let (store, session) = (Arc::clone(&store), session.clone());
        async move { store.change(&session, at(number), FREE, &titled(&number.to_string())).await }
    })
    .await;
    let versions: BTreeSet<u64> = answers.into_iter().map(|answer| answer.unwrap().version).collect();
    assert_eq!(versions, (2..=6).collect());
}

async fn of_many_nodes_one_gets_the_lease(store: Arc<Store>) {
    let session = with(&store, record("calm-river-1")).await.session_id;
    let answers = at_once(40, |number| {
        let (store, session) = (Arc::clone(&store), session.clone());
        async move { store.lease(&session, NOW, &node(&format!("node-{number}")), at(1_000)).await }
    })
    .await;
    let won: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().ok()).collect();
    let [winner] = won.as_slice() else { panic!("{} winners", won.len()) };
    assert_eq!((winner.fence, store.get(&session).await.unwrap().as_ref()), (1, Some(*winner)));
    assert_eq!(answers.iter().filter(|answer| **answer == Err(StoreError::Leased)).count(), 39);
}

async fn sessions_are_listed_newest_first_a_page_at_a_time(store: Arc<Store>) {
    let mut newest_first = Vec::new();
    // Created in an order that is neither theirs nor that of their names.
    for number in [3_u64, 0, 6, 1, 5, 2, 4] {
        with(&store, SessionRecord { created_at: at(number), ..record(&format!("calm-river-{}", 9 - number)) }).await;
    }
    for number in (0..7).rev() {
        newest_first.push(id(&format!("calm-river-{}", 9 - number)));
    }
    let names = |page: Page| page.records.into_iter().map(|record| record.session_id).collect::<Vec<_>>();
    in_the_end(newest_first.clone(), || async { names(store.list(&ana(), NOW, None, 50).await.unwrap()) }).await;
    let (mut found, mut cursor, mut sizes) = (Vec::new(), None, Vec::new());
    loop {
        let page = store.list(&ana(), NOW, cursor.as_deref(), 3).await.unwrap();
        cursor.clone_from(&page.cursor);
        sizes.push(page.records.len());
        found.extend(names(page));
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!((found, sizes), (newest_first, vec![3, 3, 1]));
    // A page that ends with the last session is the last page.
    assert_eq!(store.list(&ana(), NOW, None, 7).await.unwrap().cursor, None);
}

async fn sessions_of_the_same_moment_are_each_listed_once(store: Arc<Store>) {
    let mut all = BTreeSet::new();
    for number in 0..9_u64 {
        let record = SessionRecord { created_at: at(number / 4), ..record(&format!("calm-river-{number}")) };
        all.insert(with(&store, record).await.session_id);
    }
    in_the_end(9, || async { store.list(&ana(), NOW, None, 50).await.unwrap().records.len() }).await;
    for limit in [1, 2, 3, 4] {
        let (mut found, mut cursor, mut last) = (Vec::new(), None, UnixMs(u64::MAX));
        loop {
            let page = store.list(&ana(), NOW, cursor.as_deref(), limit).await.unwrap();
            for record in page.records {
                assert!(record.created_at <= last);
                last = record.created_at;
                found.push(record.session_id);
            }
            cursor = page.cursor;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(found.len(), 9, "a session is missing or doubled in pages of {limit}");
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), all);
    }
}

async fn a_speaker_sees_no_one_elses_sessions(store: Arc<Store>) {
    let mine = with(&store, record("calm-river-1")).await;
    with(&store, SessionRecord { speaker_id: SpeakerId::new("sub-ana2"), ..record("calm-river-2") }).await;
    in_the_end(vec![mine], || async { store.list(&ana(), NOW, None, 10).await.unwrap().records }).await;
    in_the_end(1, || async { store.count_open(&ana(), NOW).await.unwrap() }).await;
}

async fn what_has_expired_is_read_but_neither_listed_nor_counted(store: Arc<Store>) {
    let end = NOW.as_secs() + 100;
    let old = with(&store, SessionRecord { expires_at: end, ..record("calm-river-1") }).await;
    let young = with(&store, SessionRecord { expires_at: end + 1, created_at: at(1), ..record("calm-river-2") }).await;
    in_the_end(2, || async { store.count_open(&ana(), UnixMs(end * 1_000 - 1)).await.unwrap() }).await;
    let then = UnixMs(end * 1_000);
    assert_eq!(store.count_open(&ana(), then).await.unwrap(), 1);
    let page = store.list(&ana(), then, None, 10).await.unwrap();
    assert_eq!(page, Page { records: vec![young], cursor: None });
    assert_eq!(store.get(&old.session_id).await.unwrap(), Some(old));
}

async fn a_cursor_of_somebody_elses_making_is_refused(store: Arc<Store>) {
    for bad in ["", ".", "x", "12", "12.", ".calm-river-1", "-1.calm-river-1", "1e3.calm-river-1", "12.Ünknown"] {
        assert_eq!(store.list(&ana(), NOW, Some(bad), 10).await, Err(StoreError::BadCursor), "{bad}");
    }
    // A place where no session is, or none any more, is still a place.
    with(&store, record("calm-river-1")).await;
    let after = format!("{}.zzz-zzz-1", NOW.0 + 1);
    in_the_end(1, || async { store.list(&ana(), NOW, Some(&after), 10).await.unwrap().records.len() }).await;
    let before = format!("{}.zzz-zzz-1", NOW.0 - 1);
    assert!(store.list(&ana(), NOW, Some(&before), 10).await.unwrap().records.is_empty());
}

async fn open_sessions_are_counted(store: Arc<Store>) {
    for number in 0..6 {
        with(&store, record(&format!("calm-river-{number}"))).await;
    }
    in_the_end(6, || async { store.count_open(&ana(), NOW).await.unwrap() }).await;
    store.change(&id("calm-river-0"), at(1), FREE, &Change::Ended(EndReason::Speaker)).await.unwrap();
    store.change(&id("calm-river-1"), at(1), FREE, &Change::Paused(true)).await.unwrap();
    in_the_end(5, || async { store.count_open(&ana(), NOW).await.unwrap() }).await;
    assert_eq!(store.list(&ana(), NOW, None, 10).await.unwrap().records.len(), 6, "ended ones are listed");
}

async fn who_listens_is_known_by_node_until_it_is_old(store: Arc<Store>) {
    let session = id("calm-river-1");
    let (a, b) = (node("node-a"), node("node-b"));
    let many = Presence { total: 5, by_language: BTreeMap::from([(lang("es"), 3), (lang("zh-Hant-TW"), 2)]) };
    let none = Presence::default();
    let soon = NOW.as_secs() + 15;
    store.put_presence(&session, &a, &many, soon).await.unwrap();
    store.put_presence(&session, &b, &none, soon + 10).await.unwrap();
    store.put_presence(&id("calm-river-10"), &b, &many, soon).await.unwrap();
    let both = BTreeMap::from([(a.clone(), many.clone()), (b.clone(), none.clone())]);
    assert_eq!(store.presence(&session, NOW).await.unwrap(), both);
    // A node that does not say it again is forgotten, also before the table forgets it.
    let one = BTreeMap::from([(b.clone(), none)]);
    assert_eq!(store.presence(&session, UnixMs(soon * 1_000)).await.unwrap(), one);
    let fewer = Presence { total: 1, by_language: BTreeMap::from([(lang("es"), 1)]) };
    store.put_presence(&session, &a, &fewer, soon + 20).await.unwrap();
    let later = store.presence(&session, UnixMs((soon + 10) * 1_000)).await.unwrap();
    assert_eq!(later, BTreeMap::from([(a, fewer)]));
}

async fn a_counter_starts_anew_with_its_window(store: Arc<Store>) {
    let window = Duration::from_secs(10);
    for expected in 1..=3 {
        assert_eq!(store.count("joins#1.2.3.4", at(expected * 1_000), window).await.unwrap(), expected);
    }
    assert_eq!(store.count("joins#1.2.3.5", NOW, window).await.unwrap(), 1, "another counter");
    assert_eq!(store.count("joins#1.2.3.4", at(9_999), window).await.unwrap(), 4);
    assert_eq!(store.count("joins#1.2.3.4", at(10_000), window).await.unwrap(), 1);
    // A counter and a key of the same name do not meet.
    assert_eq!(store.claim_key("joins#1.2.3.4", "x", NOW, window).await.unwrap(), Claim::Fresh);
    assert_eq!(store.count("joins#1.2.3.4", at(10_001), window).await.unwrap(), 2);
}

async fn concurrent_counts_are_all_different(store: Arc<Store>) {
    let values = at_once(60, |_| {
        let store = Arc::clone(&store);
        async move { store.count("c", NOW, Duration::from_secs(60)).await.unwrap() }
    })
    .await;
    assert_eq!(values.into_iter().collect::<BTreeSet<_>>(), (1..=60).collect());
}

async fn a_key_is_claimed_by_one_and_answered_to_the_rest(store: Arc<Store>) {
    let hold = Duration::from_secs(30);
    let claim = |key: &'static str, print: &'static str, now: UnixMs| {
        let store = Arc::clone(&store);
        async move { store.claim_key(key, print, now, hold).await.unwrap() }
    };
    assert_eq!(claim("k", "print", at(0)).await, Claim::Fresh);
    assert_eq!(claim("k", "print", at(1)).await, Claim::Pending);
    assert_eq!(claim("k", "other", at(1)).await, Claim::Mismatch);
    assert_eq!(claim("l", "other", at(1)).await, Claim::Fresh);
    let day = NOW.as_secs() + 86_400;
    store.settle_key("k", &id("calm-river-1"), day).await.unwrap();
    // Far beyond the hold: the outcome has a time of its own.
    assert_eq!(claim("k", "print", at(80_000_000)).await, Claim::Done(id("calm-river-1")));
    assert_eq!(claim("k", "other", at(80_000_000)).await, Claim::Mismatch);
    assert_eq!(claim("k", "other", UnixMs(day * 1_000)).await, Claim::Fresh);
}

async fn a_claim_that_is_given_back_or_forgotten_is_free(store: Arc<Store>) {
    let hold = Duration::from_secs(30);
    assert_eq!(store.claim_key("k", "a", at(0), hold).await.unwrap(), Claim::Fresh);
    store.release_key("k").await.unwrap();
    assert_eq!(store.claim_key("k", "b", at(0), hold).await.unwrap(), Claim::Fresh);
    assert_eq!(store.claim_key("k", "b", at(29_999), hold).await.unwrap(), Claim::Pending);
    assert_eq!(store.claim_key("k", "b", at(30_000), hold).await.unwrap(), Claim::Fresh);
}

async fn of_many_claims_at_once_one_is_fresh(store: Arc<Store>) {
    let claims = at_once(40, |_| {
        let store = Arc::clone(&store);
        async move { store.claim_key("k", "same", NOW, Duration::from_secs(30)).await.unwrap() }
    })
    .await;
    assert_eq!(claims.iter().filter(|claim| **claim == Claim::Fresh).count(), 1);
    assert_eq!(claims.iter().filter(|claim| **claim == Claim::Pending).count(), 39);
}

fn line(segment: u64, language: &str, text: &str) -> Line {
    Line {
        segment,
        language: lang(language),
        text: text.to_owned(),
        start_ms: segment * 1_000,
        end_ms: segment * 1_000 + 700,
        untranslated: segment % 2 == 1,
    }
}

const LATER: u64 = NOW.as_secs() + 1_000;

async fn lines_come_back_in_order_and_by_language(store: Arc<Store>) {
    let session = id("calm-river-1");
    let wanted: Vec<Line> =
        [0, 1, 2, 9, 10, 100, u64::MAX].map(|segment| line(segment.min(1 << 50), "pt", "olá 🌍")).to_vec();
    let mut mixed: Vec<Line> = wanted.iter().rev().cloned().collect();
    mixed.push(line(5, "pt-BR", "not this"));
    mixed.push(line(5, "en", "nor this"));
    store.put_lines(&session, &mixed, LATER).await.unwrap();
    store.put_lines(&id("calm-river-10"), &[line(3, "pt", "of another session")], LATER).await.unwrap();
    assert_eq!(store.lines(&session, &lang("pt")).await.unwrap(), wanted);
    assert_eq!(store.lines(&session, &lang("pt-BR")).await.unwrap(), [line(5, "pt-BR", "not this")]);
    assert_eq!(store.lines(&session, &lang("fr")).await.unwrap(), []);
}

async fn a_line_said_again_replaces_the_first(store: Arc<Store>) {
    let session = id("calm-river-1");
    store.put_lines(&session, &[], LATER).await.unwrap();
    store.put_lines(&session, &[line(1, "es", "uno"), line(2, "es", "dos")], LATER).await.unwrap();
    store
        .put_lines(&session, &[line(1, "es", "once"), line(3, "es", "a"), line(3, "es", "tres")], LATER)
        .await
        .unwrap();
    let texts: Vec<String> =
        store.lines(&session, &lang("es")).await.unwrap().into_iter().map(|line| line.text).collect();
    assert_eq!(texts, ["once", "dos", "tres"]);
}

async fn hundreds_of_lines_are_kept_at_once(store: Arc<Store>) {
    let session = id("calm-river-1");
    // More than one page of a query, which ends at 1 MB.
    let text = "palabra ".repeat(1_000);
    let all: Vec<Line> = (0..160).map(|segment| line(segment, "es", &text)).collect();
    store.put_lines(&session, &all, LATER).await.unwrap();
    assert_eq!(store.lines(&session, &lang("es")).await.unwrap(), all);
}

async fn the_store_answers(store: Arc<Store>) {
    assert_eq!(store.ping().await, Ok(()));
}
