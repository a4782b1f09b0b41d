//! Many listeners: some of them stalled, all of them cut at once (S7, S10). Real sockets, real back-pressure.

use std::collections::BTreeMap;
use std::time::Duration;

use babelcast::cli::client::Wish;
use babelcast::web::LimitSettings;
use babelcast_domain::counts::Count;
use babelcast_domain::ids::SessionId;
use babelcast_domain::wire::{CaptionMode, Envelope, Resume, ServerMessage};
use futures_util::StreamExt;
use local_cloud::translate::{self, EngineSettings, Scripted};
use serde_json::json;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::house::{House, PATIENCE, Seated, Speaker, until};

const LANGUAGES: [&str; 5] = ["en", "es", "fr", "it", "pt"];
const NUMBERS: [&str; 10] = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"];
/// Sentences that can be told apart.
const SENTENCES: usize = 30;

/// A final that was seen: its place in the log, its text, when.
type Final = (u64, String, Instant);

/// A house whose kernel takes little for those who do not read, and whose translator is wordy, so that they are felt
/// within seconds.
async fn narrow_house() -> House {
    House::open_with(|settings, cloud| {
        settings.web.send_buffer_bytes = 4 << 10;
        settings.web.timeouts.write = Duration::from_secs(2);
        let translations =
            |language: &str| (0..SENTENCES).map(|n| (sentence(n), wordy(language, &sentence(n)))).collect();
        let table = LANGUAGES[1..].iter().map(|language| ((*language).to_owned(), translations(language))).collect();
        cloud.translate = Some(translate::Settings { engine: EngineSettings::Scripted(Scripted { table }) });
    })
    .await
}

fn sentence(n: usize) -> String {
    format!("we see {} and {}.", NUMBERS[n / 10 % 10], NUMBERS[n % 10])
}

fn wordy(language: &str, text: &str) -> String {
    format!("[{language}] {text}{}", " and so on,".repeat(200))
}

/// Listeners in five languages in turn, each of whom notes every final until the session ends, and fails at a durable
/// event that is missing or doubled. Every tenth wants partials too.
async fn seat(house: &House, id: &SessionId, count: usize) -> JoinSet<(&'static str, Vec<Final>)> {
    let mut seats = JoinSet::new();
    for n in 0..count {
        let language = LANGUAGES[n % LANGUAGES.len()];
        let captions = if n % 10 == 0 { CaptionMode::Stable } else { CaptionMode::Final };
        let wish = Wish { captions, ..house.wish(id, language) };
        seats.spawn(async move {
            let mut seated = Seated::join(&wish).await;
            (language, finals(&mut seated).await)
        });
    }
    until_listening(house, id, count).await;
    seats
}

async fn until_listening(house: &House, id: &SessionId, count: usize) {
    let listeners = || house.stack.app.sessions.snapshot(id).map(|snapshot| snapshot.listeners);
    until(&format!("{count} listeners"), || listeners() == Some(count as u64)).await;
}

/// Every final until the session ends.
async fn finals(seated: &mut Seated) -> Vec<Final> {
    let mut finals = Vec::new();
    loop {
        let envelope = seated.next().await;
        match envelope.message {
            ServerMessage::Transcription(caption) if caption.is_final => {
                finals.push((seated.seq, caption.text, Instant::now()));
            }
            ServerMessage::SessionEnded { .. } => return finals,
            _ => {}
        }
    }
}

/// A socket whose owner never looks at it, with as little room as the kernel allows.
struct Stalled {
    socket: WebSocketStream<TcpStream>,
    place: Resume,
}

impl Stalled {
    async fn join(house: &House, id: &SessionId, language: &str) -> Stalled {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(1_024).unwrap();
        let stream = socket.connect(house.stack.app.local_addr()).await.unwrap();
        let url = format!("ws://babelcast/ws?sessionId={id}&targetLanguage={language}&captions=raw");
        let config = WebSocketConfig::default().read_buffer_size(512);
        let (socket, _) = client_async_with_config(url, stream, Some(config)).await.unwrap();
        let mut stalled = Stalled { socket, place: Resume { epoch: 0, seq: 0 } };
        let joined = stalled.next().await.expect("an answer to the join");
        let ServerMessage::SessionJoined(welcome) = joined.message else { panic!("not joined: {:?}", joined.message) };
        stalled.place = Resume { epoch: welcome.epoch, seq: joined.seq.unwrap() };
        stalled
    }

    /// What had still reached it; none when the line is dead.
    async fn next(&mut self) -> Option<Envelope> {
        match timeout(PATIENCE, self.socket.next()).await.expect("neither message nor end") {
            Some(Ok(Message::Text(text))) => Some(serde_json::from_str(&text).unwrap()),
            _ => None,
        }
    }
}

/// Says the `n`th sentence.
async fn say(speaker: &Speaker, n: usize) -> String {
    let text = sentence(n);
    speaker.say(&text.replace('.', " .")).await;
    text
}

/// What the listeners of each language have read, who must all have read the same, and at least what was said. More than that,
/// or otherwise, a busy machine may have heard.
fn agree(seen: &[(&'static str, Vec<Final>)], said: &[String]) -> BTreeMap<&'static str, Vec<String>> {
    let mut all: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
    for (language, finals) in seen {
        let texts: Vec<String> = finals.iter().map(|(_, text, _)| text.clone()).collect();
        assert!(texts.len() >= said.len(), "{language}: {} of {} finals", texts.len(), said.len());
        assert_eq!(all.entry(language).or_insert_with(|| texts.clone()), &texts);
    }
    all
}

/// How long after the first of its readers the others had an event, in milliseconds: half of them, and 99 in a hundred.
fn spread<'a>(seen: impl Iterator<Item = (&'static str, &'a Final)>) -> [f64; 2] {
    let mut events: BTreeMap<(&str, u64), Vec<Instant>> = BTreeMap::new();
    for (language, (seq, _, at)) in seen {
        events.entry((language, *seq)).or_default().push(*at);
    }
    let mut late: Vec<f64> = Vec::new();
    for arrivals in events.values() {
        let first = arrivals.iter().min().unwrap();
        late.extend(arrivals.iter().map(|at| (*at - *first).as_secs_f64() * 1e3));
    }
    late.sort_by(f64::total_cmp);
    [0.5, 0.99].map(|share| late[(share * (late.len() - 1) as f64) as usize])
}

#[tokio::test(flavor = "multi_thread")]
async fn s7_one_in_a_hundred_of_a_thousand_stalls_and_nobody_else_notices() {
    let house = narrow_house().await;
    let id = house.session().await;
    let speaker = house.speaker(&id).await;
    let (healthy, stalled) = (990, 10);
    let seats = seat(&house, &id, healthy).await;
    let mut said = Vec::new();
    for n in 0..3 {
        said.push(say(&speaker, n).await);
    }
    let begun = Instant::now();
    let mut asleep = Vec::new();
    for n in 0..stalled {
        asleep.push(Stalled::join(&house, &id, LANGUAGES[1 + n % 4]).await);
    }
    until_listening(&house, &id, healthy + stalled).await;
    let slow = || house.stack.app.counts.get(Count::ListenersTooSlow);
    while slow() < stalled as u64 || said.len() < 6 {
        assert!(said.len() < SENTENCES, "{} of {stalled} are still there", stalled as u64 - slow());
        said.push(say(&speaker, said.len()).await);
    }
    // Their seats are free: nothing is held for them any more.
    until_listening(&house, &id, healthy).await;
    house.client("ana").end(&id).await.unwrap();
    let seen = seats.join_all().await;
    assert_eq!(seen.len(), healthy);
    agree(&seen, &said);
    let all = || seen.iter().flat_map(|(language, finals)| finals.iter().map(|one| (*language, one)));
    let without = spread(all().filter(|(_, (_, _, at))| *at < begun));
    let with = spread(all().filter(|(_, (_, _, at))| *at >= begun));
    println!(
        "{} sentences; {healthy} listeners, first to last of an event: p50 {:.1} ms, p99 {:.1} ms; with {stalled} stalled beside them: \
         p50 {:.1} ms, p99 {:.1} ms ({:.2} and {:.2} times as long)",
        said.len(),
        without[0],
        without[1],
        with[0],
        with[1],
        with[0] / without[0],
        with[1] / without[1]
    );
    assert_eq!(slow(), stalled as u64, "somebody else was cut too");
    drop(asleep);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s7_a_stalled_one_of_two_hundred_comes_back_and_has_lost_nothing() {
    let house = narrow_house().await;
    let id = house.session().await;
    let speaker = house.speaker(&id).await;
    let seats = seat(&house, &id, 199).await;
    let mut stalled = Stalled::join(&house, &id, "es").await;
    let mut said = Vec::new();
    while house.stack.app.counts.get(Count::ListenersTooSlow) < 1 {
        assert!(said.len() < SENTENCES, "the stalled one is still there");
        said.push(say(&speaker, said.len()).await);
    }
    // It wakes up, reads what its own kernel still has, and comes back.
    let mut texts = Vec::new();
    while let Some(envelope) = stalled.next().await {
        if let Some(seq) = envelope.seq {
            assert_eq!(seq, stalled.place.seq + 1, "{:?}", envelope.message);
            stalled.place.seq = seq;
        }
        match envelope.message {
            ServerMessage::Transcription(caption) if caption.is_final => texts.push(caption.text),
            _ => {}
        }
    }
    assert!(texts.len() < said.len(), "it was never behind");
    let mut back = Seated::join(&Wish { resume: Some(stalled.place), ..house.wish(&id, "es") }).await;
    assert!(back.joined.resumed);
    said.push(say(&speaker, said.len()).await);
    house.client("ana").end(&id).await.unwrap();
    texts.extend(finals(&mut back).await.into_iter().map(|(_, text, _)| text));
    assert_eq!(texts, agree(&seats.join_all().await, &said)["es"]);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s10_a_thousand_who_are_cut_at_once_come_back_and_lose_nothing() {
    let house = House::open().await;
    let id = house.session().await;
    let speaker = house.speaker(&id).await;
    let count = 1_000;
    let stayed = seat(&house, &id, LANGUAGES.len()).await;
    let (cut, _) = tokio::sync::watch::channel(false);
    let mut seats = JoinSet::new();
    for n in 0..count {
        let language = LANGUAGES[n % LANGUAGES.len()];
        let wish = Wish { captions: CaptionMode::Final, ..house.wish(&id, language) };
        let mut cut = cut.subscribe();
        seats.spawn(async move {
            let mut seated = Seated::join(&wish).await;
            let mut texts = Vec::new();
            tokio::select! {
                () = follow(&mut seated, &mut texts) => panic!("ended before it was cut"),
                _ = cut.wait_for(|cut| *cut) => {}
            }
            let place = seated.place();
            drop(seated); // no goodbye
            let mut back = Seated::join(&Wish { resume: Some(place), ..wish }).await;
            assert!(back.joined.resumed && back.joined.history.is_empty());
            follow(&mut back, &mut texts).await;
            (language, texts)
        });
    }
    until_listening(&house, &id, count + LANGUAGES.len()).await;
    let mut said = Vec::new();
    for n in 0..6 {
        said.push(say(&speaker, n).await);
        if n == 2 {
            cut.send_replace(true);
        }
    }
    until_listening(&house, &id, count + LANGUAGES.len()).await;
    house.client("ana").end(&id).await.unwrap();
    let wanted = agree(&stayed.join_all().await, &said);
    for (language, texts) in seats.join_all().await {
        assert_eq!(texts, wanted[language]);
    }
    let joined = house.stack.app.counts.get(Count::ListenersJoined);
    assert_eq!(joined, (2 * count + LANGUAGES.len()) as u64, "everybody came twice");
    assert_eq!(house.stack.app.counts.get(Count::ListenersTooSlow), 0);
    house.close().await;
}

/// Notes the text of every final until the session ends. Cancel safe.
async fn follow(seated: &mut Seated, texts: &mut Vec<String>) {
    loop {
        match seated.next().await.message {
            ServerMessage::Transcription(caption) if caption.is_final => texts.push(caption.text),
            ServerMessage::SessionEnded { .. } => return,
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_missed_more_than_a_queue_holds_is_told_so_and_not_cut_for_it() {
    let house = House::open_with(|settings, _| settings.web.limits = LimitSettings::OFF).await;
    let id = house.session().await;
    let mut listener = house.listener(&id, "es").await;
    let token = Some(house.stack.token("ana").unwrap());
    let mut knob = Seated::join(&Wish { token, ..house.wish(&id, "en") }).await;
    let mut turns = 0_u32;
    for (missed, resumes) in [(400, true), (600, false)] {
        let place = listener.place();
        drop(listener);
        let last = turns + missed;
        while turns < last {
            turns += 1;
            knob.listener.ask("setVolume", json!({ "volume": f64::from(turns) / 2_000.0 })).await.unwrap();
            // One by one, so that the speaker's own queue stays short.
            knob.until(|message| matches!(message, ServerMessage::BroadcastState(_)).then_some(())).await;
        }
        listener = Seated::join(&Wish { resume: Some(place), ..house.wish(&id, "es") }).await;
        assert_eq!(listener.joined.resumed, resumes, "{missed} events");
        if resumes {
            for _ in 0..missed {
                listener.next().await;
            }
        }
        assert_eq!(listener.joined.broadcast_state.volume, turns as f32 / 2_000.0);
    }
    knob.listener.ask("setVolume", json!({ "volume": 1.0 })).await.unwrap();
    listener.until(|message| matches!(message, ServerMessage::BroadcastState(_)).then_some(())).await;
    assert_eq!(house.stack.app.counts.get(Count::ListenersTooSlow), 0);
    house.close().await;
}
