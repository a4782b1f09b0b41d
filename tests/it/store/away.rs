//! A whole house on DynamoDB: the store goes away and comes back, or fails now and then, and nobody in the room notices.

use std::time::Duration;

use babelcast::cli::client::Wish;
use babelcast::cli::local::Stack;
use babelcast::cli::speaker::SpeakerClient;
use babelcast::live::Lease;
use babelcast_domain::counts::Count;
use babelcast_domain::error::ErrorCode;
use babelcast_domain::ids::SessionId;
use babelcast_domain::record::{EndReason, SessionRecord, Status};
use babelcast_domain::wire::PatchSession;
use tokio::time::{Instant, sleep};

use super::bench::{Bench, moto, patient};
use super::proxy::{Fault, Proxy};
use crate::house::{House, PATIENCE, Seated, talk, until};

/// So that an outage of a few seconds is one of several leases.
const QUICK: Lease = Lease {
    lasts: Duration::from_millis(1_000),
    renew_every: Duration::from_millis(200),
    publish_every: Duration::from_millis(100),
};

struct OnDynamo {
    house: House,
    proxy: Proxy,
    /// The same tables, past the proxy.
    direct: Bench,
}

async fn open() -> OnDynamo {
    let direct = Bench::moto().await;
    let proxy = Proxy::before(moto()).await;
    let mut store = patient(&proxy.url, &direct.prefix);
    (store.attempt_timeout_ms, store.timeout_ms) = (1_500, 4_000);
    let house = House::open_with(|settings, _| {
        settings.store = store;
        settings.live.lease = QUICK;
    })
    .await;
    OnDynamo { house, proxy, direct }
}

impl OnDynamo {
    async fn stored(&self, id: &SessionId) -> SessionRecord {
        self.direct.store.get(id).await.unwrap().unwrap()
    }

    /// Waits until the table shows it.
    async fn until_stored(&self, id: &SessionId, what: &str, is: impl Fn(&SessionRecord) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !is(&self.stored(id).await) {
            assert!(Instant::now() < end, "the table never showed: {what}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    fn store_errors(&self) -> u64 {
        self.house.stack.app.counts.get(Count::StoreErrors)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn captions_go_on_while_the_store_is_away_and_what_was_wanted_meanwhile_is_kept() {
    let mut on = open().await;
    let id = on.house.session().await;
    let speaker = on.house.speaker(&id).await;
    let mut listener = on.house.listener(&id, "es").await;
    speaker.say("one two three").await;
    assert!(listener.final_text().await.contains("three"));
    on.until_stored(&id, "the speaker's arrival", |record| record.speaker_kvs_connected).await;

    on.proxy.close().await;
    let before = on.store_errors();
    speaker.say("four five six").await;
    assert!(listener.final_text().await.contains("six"));
    let title = Some(Some("renamed in the dark".to_owned()));
    let patch = PatchSession { title, ..PatchSession::default() };
    on.house.stack.app.sessions.edit(&id, patch).await.unwrap();
    // Whoever comes to a session that lives here is let in; a new session cannot be promised and is refused.
    let mut late = on.house.listener(&id, "es").await;
    let refused = on.house.client("ana").create(&talk()).await.unwrap_err().to_string();
    assert!(refused.contains("UPSTREAM_UNAVAILABLE") || refused.contains("store"), "{refused}");
    assert!(!on.house.stack.app.sessions.store_answers().await);
    // Until the lease has run out several times over.
    sleep(QUICK.lasts * 4).await;
    assert!(on.store_errors() > before);
    speaker.say("one two").await;
    assert!(late.final_text().await.contains("two"));
    assert!(listener.final_text().await.contains("two"));

    on.proxy.open().await;
    let renamed = |record: &SessionRecord| record.title.as_deref() == Some("renamed in the dark");
    on.until_stored(&id, "what was edited meanwhile", renamed).await;
    let leased = on.stored(&id).await;
    on.until_stored(&id, "a lease that is renewed", |record| record.lease_until > leased.lease_until).await;
    assert_eq!(on.stored(&id).await.fence, 1, "nobody had to take it over");
    let channels = on.house.stack.cloud.kvs().channel_names();
    assert_eq!(channels.len(), 1, "the session that was refused left something behind: {channels:?}");

    speaker.client.end(&id).await.unwrap();
    on.until_stored(&id, "the end", |record| record.status == Status::Ended).await;
    assert_eq!(on.stored(&id).await.end_reason, Some(EndReason::Speaker));
    drop(speaker);
    on.house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_while_the_store_is_away_is_ended_in_it_when_it_is_back() {
    let mut on = open().await;
    let id = on.house.session().await;
    on.proxy.close().await;
    on.house.stack.app.sessions.end(&id, EndReason::Speaker).await.unwrap();
    sleep(QUICK.lasts * 2).await;
    assert_eq!(on.stored(&id).await.status, Status::Active);
    on.proxy.open().await;
    on.until_stored(&id, "the end", |record| record.status == Status::Ended).await;
    on.house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_throttles_every_third_request_is_not_noticed() {
    let on = open().await;
    let mut number = 0;
    on.proxy.rule(move |_| {
        number += 1;
        if number % 3 == 0 { Fault::Refused(400, "ProvisionedThroughputExceededException") } else { Fault::None }
    });
    let id = on.house.session().await;
    let speaker = on.house.speaker(&id).await;
    let mut listener = on.house.listener(&id, "es").await;
    speaker.say("one two three").await;
    assert!(listener.final_text().await.contains("three"));
    speaker.client.end(&id).await.unwrap();
    on.until_stored(&id, "the end", |record| record.status == Status::Ended).await;
    assert!(on.house.stack.app.counts.get(Count::StoreRetries) > 0);
    drop(speaker);
    on.house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_server_was_killed_is_taken_over_by_one_that_only_shares_the_tables() {
    let on = open().await;
    let victim = Stack::replica(&on.house.stack.cloud, None, on.house.settings.clone()).await.unwrap();
    let url = url::Url::parse(&victim.url()).unwrap();
    let ana = SpeakerClient::new(url.clone(), Some(on.house.stack.token("ana").unwrap())).unwrap();
    let id = ana.create(&talk()).await.unwrap().session_id;
    let there = Seated::join(&Wish { url, ..on.house.wish(&id, "es") }).await;
    let wish = on.house.wish(&id, "es");
    let refused = Seated::try_join(&wish).await.err().unwrap();
    assert_eq!(refused.code, ErrorCode::UpstreamUnavailable, "one server runs a session");
    drop(victim);
    drop(there);
    let end = Instant::now() + PATIENCE;
    while Seated::try_join(&wish).await.is_err() {
        assert!(Instant::now() < end, "the lease of a dead server never ran out");
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(on.house.stack.app.counts.get(Count::SessionsAdopted), 1);
    assert_eq!(on.stored(&id).await.fence, 2);
    on.house.stack.app.sessions.end(&id, EndReason::Speaker).await.unwrap();
    until("the session is gone", || on.house.stack.app.sessions.live_count() == 0).await;
    on.until_stored(&id, "the end", |record| record.status == Status::Ended).await;
    on.house.close().await;
}
