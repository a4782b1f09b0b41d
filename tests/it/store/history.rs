//! Two replicas at odds: whatever they do to one record, in whatever order and with however old a copy of it, the record
//! has one legal history.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use babelcast::store::{Expected, Store, StoreError};
use babelcast_domain::ids::{NodeId, SessionId};
use babelcast_domain::record::{Change, Edit, EndReason, SessionRecord, Status};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::bench::{Bench, at, id, node, record};

/// What a replica does.
#[derive(Debug, Clone)]
enum Deed {
    /// Looks again; otherwise its copy is as old as its last success.
    Look,
    Change(Change, Belief),
    Lease,
    Renew,
    Release,
}

/// Which parts of its copy a replica insists on.
#[derive(Debug, Clone, Copy)]
struct Belief {
    version: bool,
    fence: bool,
}

#[derive(Debug, Clone)]
struct Step {
    replica: usize,
    deed: Deed,
    /// Since the step before; a lease lasts for `LEASE`.
    passes: Duration,
}

const LEASE: Duration = Duration::from_millis(100);

fn deed() -> impl Strategy<Value = Deed> {
    let change = prop_oneof![
        3 => any::<bool>().prop_map(Change::Paused),
        3 => any::<bool>().prop_map(Change::KvsConnected),
        3 => "[a-z]{1,4}".prop_map(|title| Change::Edited(Edit { title: Some(Some(title)), ..Edit::default() })),
        1 => Just(Change::Ended(EndReason::Speaker)),
    ];
    let belief = (any::<bool>(), any::<bool>()).prop_map(|(version, fence)| Belief { version, fence });
    prop_oneof![
        2 => Just(Deed::Look),
        8 => (change, belief).prop_map(|(change, belief)| Deed::Change(change, belief)),
        3 => Just(Deed::Lease),
        2 => Just(Deed::Renew),
        1 => Just(Deed::Release),
    ]
}

fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = (0..2_usize, deed(), 0..60_u64);
    let step = step.prop_map(|(replica, deed, ms)| Step { replica, deed, passes: Duration::from_millis(ms) });
    proptest::collection::vec(step, 1..most)
}

/// A replica: its name and the record as it knows it.
#[derive(Clone)]
struct Replica {
    name: NodeId,
    copy: SessionRecord,
}

impl Replica {
    fn two(record: &SessionRecord) -> [Replica; 2] {
        ["replica-0", "replica-1"].map(|name| Replica { name: node(name), copy: record.clone() })
    }

    fn expects(&self, belief: Belief) -> Expected {
        Expected {
            version: belief.version.then_some(self.copy.version),
            fence: belief.fence.then_some(self.copy.fence),
        }
    }

    /// Does it; the record as the store answered, if the deed answers with one.
    async fn act(&mut self, store: &Store, deed: &Deed, ms: u64) -> Result<Option<SessionRecord>, StoreError> {
        let session = self.copy.session_id.clone();
        let until = at(ms).plus(LEASE);
        let answered = match deed {
            Deed::Look => store.get(&session).await?,
            Deed::Change(change, belief) => Some(store.change(&session, at(ms), self.expects(*belief), change).await?),
            Deed::Lease => Some(store.lease(&session, at(ms), &self.name, until).await?),
            Deed::Renew => Some(store.renew(&session, &self.name, self.copy.fence, until).await?),
            Deed::Release => {
                store.release(&session, &self.name, self.copy.fence).await?;
                None
            }
        };
        if let Some(answered) = &answered {
            self.copy = answered.clone();
        }
        Ok(answered)
    }
}

/// What may have become of a record by a deed that one replica did alone.
fn judge(
    before: &SessionRecord,
    after: &SessionRecord,
    replica: &Replica,
    step: (&Deed, u64),
    done: bool,
) -> Result<(), TestCaseError> {
    let (deed, ms) = step;
    if !done || matches!(deed, Deed::Look) {
        prop_assert_eq!(before, after, "a refusal changes nothing");
        return Ok(());
    }
    prop_assert_eq!(before.status == Status::Ended, false, "nothing comes after the end");
    let mut legal = before.clone();
    match deed {
        Deed::Look => {}
        Deed::Change(change, belief) => {
            prop_assert!(!belief.version || replica.copy.version == before.version, "an old version wrote");
            prop_assert!(!belief.fence || replica.copy.fence == before.fence, "an old fence wrote");
            legal.apply(at(ms), change).unwrap();
        }
        Deed::Lease => {
            let free = before.lease_owner.as_ref().is_none_or(|owner| *owner == replica.name)
                || before.lease_until.is_none_or(|until| until <= at(ms));
            prop_assert!(free, "a lease was taken that another node holds");
            legal.lease_owner = Some(replica.name.clone());
            legal.lease_until = Some(at(ms).plus(LEASE));
            legal.fence += 1;
        }
        Deed::Renew | Deed::Release => {
            prop_assert_eq!(before.lease_owner.as_ref(), Some(&replica.name), "a lease was touched that is another's");
            prop_assert_eq!(before.fence, replica.copy.fence, "an old fence wrote");
            legal.lease_until = matches!(deed, Deed::Renew).then(|| at(ms).plus(LEASE));
            legal.lease_owner = legal.lease_until.map(|_| replica.name.clone());
        }
    }
    prop_assert_eq!(after, &legal);
    Ok(())
}

async fn one_after_the_other(store: &Store, session: &SessionId, steps: &[Step]) -> Result<(), TestCaseError> {
    let first = store.get(session).await.unwrap().unwrap();
    let (mut replicas, mut before, mut ms) = (Replica::two(&first), first, 0);
    for step in steps {
        ms += step.passes.as_millis() as u64;
        let replica = &mut replicas[step.replica];
        let believed = replica.clone();
        let answer = replica.act(store, &step.deed, ms).await;
        if let Err(error) = &answer {
            prop_assert!(!error.retryable(), "{}", error);
        }
        let after = store.get(session).await.unwrap().unwrap();
        judge(&before, &after, &believed, (&step.deed, ms), answer.is_ok())?;
        if let Ok(Some(answered)) = answer {
            prop_assert_eq!(&answered, &after, "the answer is the record");
        }
        before = after;
    }
    Ok(())
}

/// Both at the same time: what each was told must fit together.
async fn at_once(store: Arc<Store>, session: SessionId, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let first = store.get(&session).await.unwrap().unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for (number, mut replica) in Replica::two(&first).into_iter().enumerate() {
        let mine: Vec<Step> = steps.iter().filter(|step| step.replica == number).cloned().collect();
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            let (mut done, mut ms) = (Vec::new(), 0);
            for step in mine {
                ms += step.passes.as_millis() as u64;
                let fence = replica.copy.fence;
                if let Ok(Some(answered)) = replica.act(&store, &step.deed, ms).await {
                    done.push((step.deed, fence, answered));
                }
            }
            done
        });
    }
    let done: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    let last = store.get(&session).await.unwrap().unwrap();

    let mut versions: BTreeMap<u64, &SessionRecord> = BTreeMap::new();
    let mut fences: Vec<u64> = Vec::new();
    for (deed, fence, answered) in &done {
        match deed {
            Deed::Change(change, belief) => {
                prop_assert!(versions.insert(answered.version, answered).is_none(), "two changes made one version");
                prop_assert!(!belief.fence || answered.fence == *fence, "an old fence wrote");
                if matches!(change, Change::Ended(_)) {
                    prop_assert_eq!(answered.version, last.version, "something was written after the end");
                }
            }
            Deed::Lease => fences.push(answered.fence),
            Deed::Look | Deed::Renew | Deed::Release => {}
        }
    }
    let made: Vec<u64> = versions.keys().copied().collect();
    prop_assert_eq!(made, (first.version + 1..=last.version).collect::<Vec<_>>(), "versions are contiguous");
    fences.sort_unstable();
    prop_assert_eq!(fences, (first.fence + 1..=last.fence).collect::<Vec<_>>(), "every lease had a fence of its own");
    // Each version is the one before and one change.
    let mut title = first.title.clone();
    for record in versions.values() {
        let by = done.iter().find_map(|(deed, _, answered)| match deed {
            Deed::Change(change, _) if answered.version == record.version => Some(change),
            _ => None,
        });
        if let Some(Change::Edited(Edit { title: Some(edited), .. })) = by {
            title.clone_from(edited);
        }
        prop_assert_eq!(&record.title, &title, "an edit was lost or came back");
    }
    prop_assert_eq!(&last.title, &title);
    Ok(())
}

/// Each case has a session of its own, in the same store.
fn check(store: &Arc<Store>, cases: u32, most: usize) {
    let runtime = tokio::runtime::Handle::current();
    let number = std::sync::atomic::AtomicU64::new(0);
    let fresh = || {
        let session = id(&format!("calm-river-{}", number.fetch_add(1, std::sync::atomic::Ordering::Relaxed)));
        runtime.block_on(store.create(&record(session.as_str()))).unwrap();
        session
    };
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(config);
    runner.run(&steps(most), |steps| runtime.block_on(one_after_the_other(store, &fresh(), &steps))).unwrap();
    runner.run(&steps(most), |steps| runtime.block_on(at_once(Arc::clone(store), fresh(), steps))).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_leave_one_legal_history_in_memory() {
    let store = Arc::new(Store::memory());
    tokio::task::spawn_blocking(move || check(&store, 600, 40)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_leave_one_legal_history_in_dynamodb() {
    let store = Arc::new(Bench::moto().await.store);
    tokio::task::spawn_blocking(move || check(&store, 12, 25)).await.unwrap();
}
