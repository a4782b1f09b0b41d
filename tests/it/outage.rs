//! Sessions on DynamoDB, and what becomes of them while it is away (contract S9).

use std::time::Duration;

use babelcast::cli::client::{ClientError, Wish};
use babelcast::cli::local::Stack;
use babelcast::live::Lease;
use babelcast_domain::counts::Count;
use babelcast_domain::error::ErrorCode;
use babelcast_domain::ids::SessionId;
use babelcast_domain::language::Language;
use babelcast_domain::record::{EndReason, SessionRecord, Status};
use babelcast_domain::wire::{PatchSession, ServerMessage};
use url::Url;

use crate::house::{House, PATIENCE, Seated, talk, until};
use crate::store::bench::{self, Bench};
use crate::store::proxy::{Fault, Proxy};

const LEASE: Lease = Lease {
    lasts: Duration::from_millis(2_000),
    renew_every: Duration::from_millis(300),
    publish_every: Duration::from_millis(200),
};

/// A house on DynamoDB, the wire between them, and a view of the tables past it.
async fn on_dynamodb() -> (House, Proxy, Bench) {
    let tables = Bench::moto().await;
    let proxy = Proxy::before(&tables.url).await;
    let settings = babelcast::store::Settings {
        attempt_timeout_ms: 1_000,
        timeout_ms: 2_500,
        ..bench::patient(&proxy.url, &tables.prefix)
    };
    let house = House::open_with(|all, _| {
        all.store = settings;
        all.live.lease = LEASE;
    })
    .await;
    (house, proxy, tables)
}

async fn stored(tables: &Bench, id: &SessionId) -> SessionRecord {
    tables.store.get(id).await.unwrap().unwrap()
}

async fn until_stored(tables: &Bench, id: &SessionId, is: impl Fn(&SessionRecord) -> bool) {
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        let record = stored(tables, id).await;
        if is(&record) {
            return;
        }
        assert!(tokio::time::Instant::now() < end, "the store never heard of it: {record:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn ready(house: &House) -> u16 {
    reqwest::get(house.stack.url().join("health/ready").unwrap()).await.unwrap().status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn s9_captions_joins_and_controls_go_on_while_dynamodb_is_away_and_it_hears_of_all_of_it_afterwards() {
    let (house, mut proxy, tables) = on_dynamodb().await;
    let id = house.session().await;
    let speaker = house.speaker(&id).await;
    let mut listener = house.listener(&id, "es").await;
    speaker.say("one two three").await;
    let first = listener.final_text().await;
    assert!(first.contains("two"), "{first}");
    until_stored(&tables, &id, |record| record.speaker_kvs_connected && record.first_audio_at.is_some()).await;

    proxy.close().await;
    // Longer than the lease lasts.
    tokio::time::sleep(LEASE.lasts * 2).await;
    assert_eq!(ready(&house).await, 503);
    speaker.say("four five six").await;
    let second = listener.final_text().await;
    assert!(second.contains("five"), "{second}");
    let mut late = house.listener(&id, "fr").await;
    let patch = PatchSession {
        title: Some(Some("Changed while away".to_owned())),
        status: Some(Status::Paused),
        ..PatchSession::default()
    };
    let found = house.stack.app.sessions.edit(&id, patch).await.unwrap();
    assert_eq!((found.record.title.as_deref(), found.record.status), (Some("Changed while away"), Status::Paused));
    late.until(|message| matches!(message, ServerMessage::BroadcastState(state) if state.paused).then_some(())).await;
    let Err(ClientError::Refused(problem)) = house.client("ana").create(&talk()).await else { panic!("no store") };
    assert_eq!(problem.code, ErrorCode::UpstreamUnavailable);
    assert_eq!(house.stack.cloud.kvs().channel_names().len(), 1, "a session that could not be made left a channel");

    proxy.open().await;
    let changed = |record: &SessionRecord| {
        record.status == Status::Paused && record.title.as_deref() == Some("Changed while away")
    };
    until_stored(&tables, &id, changed).await;
    assert!(house.stack.app.counts.get(Count::StoreErrors) > 0);
    assert_eq!(house.stack.app.sessions.live_count(), 1, "nobody took it, so it is still ours");
    let spanish = Language::parse("es").unwrap();
    let end = tokio::time::Instant::now() + PATIENCE;
    while tables.store.lines(&id, &spanish).await.unwrap().len() < 2 {
        assert!(tokio::time::Instant::now() < end, "lines were lost");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    while ready(&house).await != 200 {
        assert!(tokio::time::Instant::now() < end, "never ready again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    house.client("ana").end(&id).await.unwrap();
    until_stored(&tables, &id, |record| record.end_reason == Some(EndReason::Speaker)).await;
    until("the session is gone", || house.stack.app.sessions.live_count() == 0).await;
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_while_dynamodb_says_nothing_is_over_for_its_listeners_at_once_and_in_the_table_later() {
    let (house, proxy, tables) = on_dynamodb().await;
    let id = house.session().await;
    let mut listener = house.listener(&id, "es").await;
    proxy.always(Fault::Silence);
    house.client("ana").end(&id).await.unwrap();
    let reason = listener
        .until(|message| match message {
            ServerMessage::SessionEnded { reason } => Some(*reason),
            _ => None,
        })
        .await;
    assert_eq!(reason, EndReason::Speaker);
    until("the channel is gone", || house.stack.cloud.kvs().channel_names().is_empty()).await;
    assert_eq!(stored(&tables, &id).await.status, Status::Active);
    proxy.always(Fault::None);
    until_stored(&tables, &id, |record| record.status == Status::Ended).await;
    until("the session is gone", || house.stack.app.sessions.live_count() == 0).await;
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_third_of_all_requests_throttled_costs_a_running_session_nothing() {
    let (house, proxy, tables) = on_dynamodb().await;
    let throttled = |_: &str| match rand::random_range(0..3) {
        0 => Fault::Refused(400, "ProvisionedThroughputExceededException"),
        _ => Fault::None,
    };
    let id = house.session().await;
    proxy.rule(throttled);
    let speaker = house.speaker(&id).await;
    let mut listener = house.listener(&id, "es").await;
    for words in ["one two three", "four five six", "seven eight nine"] {
        speaker.say(words).await;
        let heard = listener.final_text().await;
        assert!(heard.contains(words.split(' ').nth(1).unwrap()), "{heard}");
    }
    house.client("ana").end(&id).await.unwrap();
    until_stored(&tables, &id, |record| record.status == Status::Ended).await;
    until("the session is gone", || house.stack.app.sessions.live_count() == 0).await;
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_on_dynamodb_hand_sessions_over_and_take_those_of_the_dead() {
    let (house, _proxy, tables) = on_dynamodb().await;
    let replica = || Stack::replica(&house.stack.cloud, None, house.settings.clone());
    for crash in [false, true] {
        let other = replica().await.unwrap();
        let url = Url::parse(&other.url()).unwrap();
        let token = house.stack.token("ana").unwrap();
        let ana = babelcast::cli::speaker::SpeakerClient::new(url.clone(), Some(token)).unwrap();
        let id = ana.create(&talk()).await.unwrap().session_id;
        let mut listener = Seated::join(&Wish { url, ..house.wish(&id, "es") }).await;
        if crash {
            drop(other);
        } else {
            other.stop(Duration::from_secs(10)).await;
            listener.until(|message| matches!(message, ServerMessage::GoAway { .. }).then_some(())).await;
        }
        let end = tokio::time::Instant::now() + PATIENCE;
        let seated = loop {
            match Seated::try_join(&house.wish(&id, "es")).await {
                Ok(seated) => break seated,
                Err(problem) => assert_eq!(problem.code, ErrorCode::UpstreamUnavailable, "{problem:?}"),
            }
            assert!(tokio::time::Instant::now() < end, "the session was never to be had again");
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        assert_eq!(seated.joined.status, Status::Active);
        let record = stored(&tables, &id).await;
        assert_eq!((record.fence, record.status), (2, Status::Active));
        house.client("ana").end(&id).await.unwrap();
        until_stored(&tables, &id, |record| record.status == Status::Ended).await;
    }
    assert_eq!(house.stack.app.counts.get(Count::SessionsAdopted), 2);
    until("nothing lives", || house.stack.app.sessions.live_count() == 0).await;
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_creation_was_written_but_never_answered_is_ended_and_counts_against_nobody() {
    let (house, proxy, tables) = on_dynamodb().await;
    let mut lost = 0;
    // Each attempt is carried out, and no answer comes back.
    proxy.rule(move |operation| {
        lost += usize::from(operation == "PutItem");
        if operation == "PutItem" && lost <= 9 { Fault::SilenceAfter } else { Fault::None }
    });
    let Err(ClientError::Refused(problem)) = house.client("ana").create(&talk()).await else { panic!("unanswered") };
    assert_eq!(problem.code, ErrorCode::UpstreamUnavailable);
    assert!(house.stack.cloud.kvs().channel_names().is_empty());
    let ana = babelcast_domain::ids::SpeakerId::new("ana");
    let now = house.stack.app.sessions.now();
    let written = tables.store.list(&ana, now, None, 10).await.unwrap().records;
    assert_eq!(written.len(), 1, "the record was written: {written:?}");
    until_stored(&tables, &written[0].session_id, |record| record.end_reason == Some(EndReason::Failed)).await;
    assert_eq!(tables.store.count_open(&ana, now).await.unwrap(), 0);
    house.close().await;
}
