//! Births, deaths and what comes after: replicas that take over, crashes, sweeps (contract S13).

use std::sync::Arc;
use std::time::Duration;

use babelcast::app::App;
use babelcast::cli::client::{ClientError, Wish};
use babelcast::cli::local::Stack;
use babelcast::cli::speaker::SpeakerClient;
use babelcast::live::{Lease, Verdict};
use babelcast::store::Store;
use babelcast_domain::counts::Count;
use babelcast_domain::error::ErrorCode;
use babelcast_domain::ids::{SessionId, SpeakerId};
use babelcast_domain::record::{EndReason, Status};
use babelcast_domain::time::UnixMs;
use babelcast_domain::wire::{PatchSession, ServerMessage};
use url::Url;

use crate::house::{House, PATIENCE, Seated, talk, until};

const QUICK: Lease = Lease {
    lasts: Duration::from_millis(1_000),
    renew_every: Duration::from_millis(200),
    publish_every: Duration::from_millis(100),
};

/// A house whose store a second server shares.
pub async fn shared() -> (House, Arc<Store>) {
    let store = Arc::new(Store::shared_memory());
    let house = House::open_on(Some(Arc::clone(&store)), |settings, _| settings.live.lease = QUICK).await;
    (house, store)
}

pub async fn another(house: &House, store: &Arc<Store>) -> App {
    let settings = house.settings.clone();
    Stack::replica(&house.stack.cloud, Some(Arc::clone(store)), settings).await.unwrap()
}

fn url(app: &App) -> Url {
    Url::parse(&app.url()).unwrap()
}

pub fn client(house: &House, app: &App, speaker: &str) -> SpeakerClient {
    SpeakerClient::new(url(app), Some(house.stack.token(speaker).unwrap())).unwrap()
}

async fn status(store: &Store, id: &SessionId) -> (Status, Option<EndReason>) {
    let record = store.get(id).await.unwrap().unwrap();
    (record.status, record.end_reason)
}

/// Joins on a server until the session may be had there.
pub async fn join_when_free(house: &House, id: &SessionId) -> Seated {
    let wish = house.wish(id, "es");
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        match Seated::try_join(&wish).await {
            Ok(seated) => return seated,
            Err(problem) => assert_eq!(problem.code, ErrorCode::UpstreamUnavailable, "{problem:?}"),
        }
        assert!(tokio::time::Instant::now() < end, "the lease of a dead server never ran out");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_server_was_killed_goes_on_at_another_one_with_time_and_segments_counting_on() {
    let (house, store) = shared().await;
    let victim = another(&house, &store).await;
    let ana = client(&house, &victim, "ana");
    let id = ana.create(&talk()).await.unwrap().session_id;
    let mut speaker = house.speaker_by(ana, &id).await;
    let mut listener = Seated::join(&Wish { url: url(&victim), ..house.wish(&id, "es") }).await;
    speaker.say("one two three").await;
    let before = listener.final_caption().await;

    drop(victim);
    let mut listener = join_when_free(&house, &id).await;
    let other = &house.stack.app;
    assert_eq!(other.counts.get(Count::SessionsAdopted), 1);
    speaker.wait_until_heard().await;
    speaker.say("four five six").await;
    let after = listener.final_caption().await;
    assert!(after.text.contains("four") && after.text.contains("six"), "{}", after.text);
    assert!(after.start_ms > before.end_ms, "{} after {}", after.start_ms, before.end_ms);
    assert_ne!(after.segment_id, before.segment_id);
    drop(speaker);
    other.sessions.end(&id, EndReason::Speaker).await.unwrap();
    until("the session is gone", || other.sessions.live_count() == 0).await;
    assert_eq!(status(&store, &id).await, (Status::Ended, Some(EndReason::Speaker)));
    assert!(house.stack.cloud.kvs().channel_names().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_another_server_is_changed_through_the_store_and_its_owner_hears_of_it() {
    let (house, store) = shared().await;
    let id = house.session().await;
    let mut listener = house.listener(&id, "es").await;
    let other = another(&house, &store).await;
    let ana = client(&house, &other, "ana");

    let wish = Wish { url: url(&other), ..house.wish(&id, "es") };
    let refused = Seated::try_join(&wish).await.err().unwrap();
    assert_eq!(refused.code, ErrorCode::UpstreamUnavailable, "one server runs a session");

    let patch = PatchSession { status: Some(Status::Paused), ..PatchSession::default() };
    let found = other.sessions.edit(&id, patch).await.unwrap();
    assert_eq!(found.record.status, Status::Paused);
    let paused = listener
        .until(|message| match message {
            ServerMessage::BroadcastState(state) => Some(state.paused),
            _ => None,
        })
        .await;
    assert!(paused);
    let public = ana.show(&id).await.unwrap();
    assert_eq!((public.status, public.listener_count), (Status::Paused, 1), "listeners of all servers count");

    ana.set_kvs_connected(&id, true).await.unwrap();
    listener.ready().await;
    ana.end(&id).await.unwrap();
    let reason = listener
        .until(|message| match message {
            ServerMessage::SessionEnded { reason } => Some(*reason),
            _ => None,
        })
        .await;
    assert_eq!(reason, EndReason::Speaker);
    until("the channel is gone", || house.stack.cloud.kvs().channel_names().is_empty()).await;
    assert_eq!(ana.end(&id).await.map_err(|error| error.to_string()), Ok(()), "ending it again changes nothing");
    other.stop(Duration::from_secs(5)).await;
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_taken_by_another_server_sends_its_listeners_there() {
    let (house, store) = shared().await;
    let id = house.session().await;
    let mut listener = house.listener(&id, "es").await;
    // As if this server had been cut off from the store until its lease ran out.
    let thief = babelcast_domain::ids::NodeId::new("thief");
    let future = UnixMs(u64::MAX / 4);
    store.lease(&id, future, &thief, future.plus(Duration::from_secs(60))).await.unwrap();
    listener.until(|message| matches!(message, ServerMessage::GoAway { .. }).then_some(())).await;
    let closed = listener.closed().await;
    assert!(matches!(closed, ClientError::Closed { code: 1012, .. }), "{closed:?}");
    assert_eq!(status(&store, &id).await.0, Status::Active, "the session itself goes on");
    until("nothing is left here", || house.stack.app.sessions.live_count() == 0).await;
    assert_eq!(house.stack.cloud.kvs().channel_names().len(), 1, "its channel is wanted");
    assert_eq!(house.stack.app.counts.get(Count::LeasesLost), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_speaker_connection_replaces_the_older_one() {
    let house = House::open().await;
    let id = house.session().await;
    let wish = Wish { token: Some(house.stack.token("ana").unwrap()), ..house.wish(&id, "en") };
    let mut older = Seated::join(&wish).await;
    let _newer = Seated::join(&wish).await;
    let closed = older.closed().await;
    assert!(matches!(closed, ClientError::Closed { code: 4409, .. }), "{closed:?}");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_speaker_hears_how_many_listen_and_in_which_language() {
    let house = House::open().await;
    let id = house.session().await;
    let wish = Wish { token: Some(house.stack.token("ana").unwrap()), ..house.wish(&id, "en") };
    let mut speaker = Seated::join(&wish).await;
    let _one = house.listener(&id, "es").await;
    let _two = house.listener(&id, "fr").await;
    let told = speaker
        .until(|message| match message {
            ServerMessage::ListenerStats { total: 2, by_language, .. } => Some(by_language.clone()),
            _ => None,
        })
        .await;
    let told: Vec<_> = told.iter().map(|(language, count)| (language.as_str(), *count)).collect();
    assert_eq!(told, [("es", 1), ("fr", 1)]);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_while_paused_or_muted_is_not_captioned() {
    let house = House::open().await;
    let id = house.session().await;
    let speaker = house.speaker(&id).await;
    let mut listener = house.listener(&id, "es").await;
    let wish = Wish { token: Some(house.stack.token("ana").unwrap()), ..house.wish(&id, "en") };
    let mut control = Seated::join(&wish).await;
    for (off, on) in [("pauseBroadcast", "resumeBroadcast"), ("muteBroadcast", "unmuteBroadcast")] {
        control.listener.ask(off, serde_json::json!({})).await.unwrap();
        let state = |message: &ServerMessage| match message {
            ServerMessage::BroadcastState(state) => Some(*state),
            _ => None,
        };
        let told = listener.until(state).await;
        assert!(told.paused || told.muted);
        speaker.say("one two three").await;
        control.listener.ask(on, serde_json::json!({})).await.unwrap();
        let told = listener.until(state).await;
        assert!(!told.paused && !told.muted);
        speaker.say("seven eight nine").await;
        let heard = listener.final_text().await;
        assert!(heard.contains("seven") && !heard.contains("two"), "{off}: {heard}");
    }
    control.listener.ask("setVolume", serde_json::json!({ "volume": 0.5 })).await.unwrap();
    let volume = listener
        .until(|message| match message {
            ServerMessage::BroadcastState(state) => Some(state.volume),
            _ => None,
        })
        .await;
    assert_eq!(volume, 0.5);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s13_hundreds_of_sessions_killed_at_random_points_leave_no_channel_record_or_task() {
    const SESSIONS: usize = 500;
    let store = Arc::new(Store::shared_memory());
    let house = House::open_on(Some(Arc::clone(&store)), |settings, _| {
        settings.live.lease = QUICK;
        settings.live.sessions_per_speaker = SESSIONS;
        settings.live.abandon_after = Duration::from_millis(500);
        settings.live.sweep_every = Duration::ZERO;
    })
    .await;
    let victim = another(&house, &store).await;
    // Made by many at once, a third ended by their speaker, and the server dies in the middle of it all.
    let mut makers = tokio::task::JoinSet::new();
    let room = Arc::new(tokio::sync::Semaphore::new(40));
    for number in 0..SESSIONS {
        let (ana, room) = (client(&house, &victim, "ana"), Arc::clone(&room));
        makers.spawn(async move {
            let _room = room.acquire_owned().await;
            let Ok(session) = ana.create(&talk()).await else { return };
            if number % 3 == 0 {
                ana.end(&session.session_id).await.ok();
            }
        });
    }
    for _ in 0..SESSIONS / 2 {
        makers.join_next().await;
    }
    drop(victim);
    while makers.join_next().await.is_some() {}
    let kvs = house.stack.cloud.kvs();
    let left = kvs.channel_names().len();
    assert!(left > 0, "a crash that leaves nothing proves nothing");

    let sessions = &house.stack.app.sessions;
    let looked = sessions.sweep(true).await.unwrap();
    assert_eq!((looked.len(), kvs.channel_names().len()), (left, left), "a dry run changes nothing");
    // Channels whose record was never written are told by their age, the others by their lapsed lease.
    kvs.make_older(Duration::from_secs(3_600));
    let end = tokio::time::Instant::now() + PATIENCE;
    while !kvs.channel_names().is_empty() {
        let swept = sessions.sweep(false).await.unwrap();
        assert!(swept.iter().all(|one| one.error.is_none() && one.verdict != Verdict::Passed), "{swept:?}");
        assert!(tokio::time::Instant::now() < end, "{swept:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let open = store.count_open(&SpeakerId::new("ana"), sessions.now()).await.unwrap();
    assert_eq!(open, 0, "an open record that nobody runs");
    assert_eq!(sessions.live_count(), 0);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_hands_its_sessions_over_and_ends_none() {
    let (house, store) = shared().await;
    let victim = another(&house, &store).await;
    let ana = client(&house, &victim, "ana");
    let id = ana.create(&talk()).await.unwrap().session_id;
    let mut listener = Seated::join(&Wish { url: url(&victim), ..house.wish(&id, "es") }).await;
    victim.stop(Duration::from_secs(10)).await;
    listener.until(|message| matches!(message, ServerMessage::GoAway { .. }).then_some(())).await;
    assert_eq!(status(&store, &id).await, (Status::Active, None));
    // At once: the lease was given back.
    let back = Seated::try_join(&house.wish(&id, "es")).await.unwrap();
    assert_eq!(back.joined.status, Status::Active);
    house.stack.app.sessions.end(&id, EndReason::Speaker).await.unwrap();
    until("the session is gone", || house.stack.app.sessions.live_count() == 0).await;
    house.close().await;
}
