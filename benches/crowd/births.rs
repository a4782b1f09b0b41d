//! Sessions made and ended as fast as it goes.

use std::time::Duration;

use babelcast::cli::speaker::SpeakerClient;
use babelcast::web::Token;
use babelcast_domain::wire::CreateSession;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use url::Url;

use crate::house::{House, Words};
use crate::{Failed, quantile};

#[derive(Debug)]
pub struct Births {
    pub per_second: f64,
    pub failed: usize,
    /// p50 and p99.
    pub create_ms: [f64; 2],
    /// Pairs of requests that do nothing.
    pub idle_per_second: f64,
    /// Bytes that stay allocated for each session that is over.
    pub left: f64,
}

/// How long sessions may take to be gone after the last was ended.
const PATIENCE: Duration = Duration::from_secs(15);

/// Every speaker of the house creates and ends, one session after the other.
pub async fn run(house: &mut House, time: Duration) -> Result<Births, Failed> {
    let before = house.inventory()?;
    let words: &Words = &house.words;
    let url = Url::parse(&format!("http://{}", words.address))?;
    let clients = words.tokens.iter().map(|token| Ok(SpeakerClient::new(url.clone(), Token::new(token))?));
    let clients = clients.collect::<Result<Vec<_>, Failed>>()?;
    let end = Instant::now() + time;
    let mut speakers = JoinSet::new();
    for client in clients {
        speakers.spawn(async move {
            let (mut create_ms, mut failed, mut done) = (Vec::new(), Vec::new(), 0_usize);
            while Instant::now() < end {
                let begun = Instant::now();
                let made = match client.create(&CreateSession::new("en")).await {
                    Ok(view) => {
                        create_ms.push(begun.elapsed().as_secs_f64() * 1e3);
                        client.end(&view.session_id).await
                    }
                    Err(error) => Err(error),
                };
                match made {
                    Ok(()) => done += 1,
                    Err(error) => failed.push(error.to_string()),
                }
            }
            (create_ms, failed, done)
        });
    }
    let begun = Instant::now();
    let (mut create_ms, mut failed, mut done) = (Vec::new(), 0, 0);
    while let Some(speaker) = speakers.join_next().await {
        let (took, wrong, right) = speaker?;
        if let Some(why) = wrong.first() {
            eprintln!("  {} failed: {why}", wrong.len());
        }
        create_ms.extend(took);
        failed += wrong.len();
        done += right;
    }
    let speakers = words.tokens.len();
    let after = loop {
        let now = house.inventory()?;
        if (now.sessions, now.channels) == (before.sessions, before.channels) || Instant::now() > end + PATIENCE {
            break now;
        }
        sleep(Duration::from_millis(20)).await;
    };
    failed += (after.sessions - before.sessions).max(after.channels - before.channels);
    let per_second = done as f64 / begun.elapsed().as_secs_f64();
    let idle_per_second = idle(&url, speakers, time / 4).await?;
    let left = (house.inventory()?.allocated - before.allocated) / done as f64;
    let create_ms = [0.5, 0.99].map(|share| quantile(&create_ms, share));
    Ok(Births { per_second, failed, create_ms, idle_per_second, left })
}

/// As many clients, each asking twice in a turn for what costs the server nothing.
async fn idle(url: &Url, clients: usize, time: Duration) -> Result<f64, Failed> {
    let (end, begun) = (Instant::now() + time, Instant::now());
    let at = url.join("/health/live")?;
    let mut asking = JoinSet::new();
    for _ in 0..clients {
        let (http, at) = (reqwest::Client::new(), at.clone());
        asking.spawn(async move {
            let mut pairs = 0_usize;
            while Instant::now() < end {
                for _ in 0..2 {
                    http.get(at.clone()).send().await?.error_for_status()?.bytes().await?;
                }
                pairs += 1;
            }
            Ok::<_, Failed>(pairs)
        });
    }
    let mut pairs = 0;
    while let Some(asked) = asking.join_next().await {
        pairs += asked??;
    }
    Ok(pairs as f64 / begun.elapsed().as_secs_f64())
}
