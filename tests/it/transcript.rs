//! What was said, to read later: live and after the end, in any language, as a file; and history for newcomers.

use std::time::Duration;

use babelcast::cli::client::Wish;
use babelcast_domain::counts::Count;
use babelcast_domain::ids::{AccessCode, SessionId};
use babelcast_domain::wire::{Caption, CaptionMode, ServerMessage, TranscriptView};
use local_cloud::translate::{Chaos, Fault};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::house::{House, PATIENCE, Seated, Speaker, talk, until};
use crate::life;

/// The transcript as somebody asks for it, with the speaker's token or without any.
async fn ask(house: &House, id: &SessionId, query: &str, speaker: Option<&str>) -> reqwest::Response {
    let url = format!("{}sessions/{id}/transcript{query}", house.stack.url());
    let mut request = reqwest::Client::new().get(url);
    if let Some(speaker) = speaker {
        request = request.bearer_auth(house.stack.token(speaker).unwrap().reveal());
    }
    request.send().await.unwrap()
}

async fn read(house: &House, id: &SessionId, query: &str) -> TranscriptView {
    let answer = ask(house, id, query, None).await;
    assert_eq!(answer.status(), StatusCode::OK, "{}", answer.text().await.unwrap());
    answer.json().await.unwrap()
}

fn texts(view: &TranscriptView) -> Vec<&str> {
    view.lines.iter().map(|line| line.text.as_str()).collect()
}

async fn refused(answer: reqwest::Response) -> (u16, Value) {
    let status = answer.status().as_u16();
    let problem: Value = answer.json().await.unwrap();
    (status, problem)
}

/// A session in which these sentences have been said, and nobody listened.
async fn spoken(house: &House, sentences: &[&str]) -> (SessionId, Speaker) {
    let id = house.session().await;
    let speaker = house.speaker(&id).await;
    say(house, &id, &speaker, sentences).await;
    (id, speaker)
}

async fn say(house: &House, id: &SessionId, speaker: &Speaker, sentences: &[&str]) {
    let before = house.count(id, Count::FinalsHeard);
    for sentence in sentences {
        speaker.say(sentence).await;
    }
    let heard = before + sentences.len() as u64;
    until("the finals", || house.count(id, Count::FinalsHeard) == heard).await;
}

fn spanish_calls(house: &House) -> u64 {
    house.translate().traffic().get("es").map_or(0, |traffic| traffic.requests)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_said_can_be_read_in_every_form_while_live_and_after_the_end() {
    let house = House::open().await;
    let (id, _speaker) = spoken(&house, &["the river is long .", "the boat is small ."]).await;
    let live = read(&house, &id, "").await;
    assert_eq!(texts(&live), ["the river is long.", "the boat is small."]);
    assert_eq!((live.language.as_str(), live.session_id.as_str()), ("en", id.as_str()));
    assert!(live.lines[0].start_ms < live.lines[0].end_ms && live.lines[0].end_ms <= live.lines[1].start_ms);
    house.client("ana").end(&id).await.unwrap();
    until("the end", || house.stack.app.sessions.live_count() == 0).await;
    assert_eq!(read(&house, &id, "").await, live, "the end changes nothing of what was said");
    for (format, media_type, begins) in [
        ("txt", "text/plain; charset=utf-8", "the river is long.\nthe boat is small.\n"),
        ("srt", "application/x-subrip; charset=utf-8", "1\r\n00:00:0"),
        ("vtt", "text/vtt; charset=utf-8", "WEBVTT\n\n00:00:0"),
    ] {
        let answer = ask(&house, &id, &format!("?format={format}"), None).await;
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("content-type"), media_type);
        assert_eq!(header("content-disposition"), format!("attachment; filename=\"{id}.en.{format}\""));
        assert_eq!(header("cache-control"), "no-cache");
        let text = answer.text().await.unwrap();
        assert!(text.starts_with(begins) && text.contains("the boat is small."), "{text}");
    }
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_who_has_it_already_is_told_so_until_more_is_said() {
    let house = House::open().await;
    let (id, speaker) = spoken(&house, &["the river is long ."]).await;
    let first = ask(&house, &id, "?format=vtt", None).await;
    let tag = first.headers()["etag"].to_str().unwrap().to_owned();
    let again = || {
        let url = format!("{}sessions/{id}/transcript?format=vtt", house.stack.url());
        reqwest::Client::new().get(url).header("if-none-match", &tag).send()
    };
    assert_eq!(again().await.unwrap().status(), StatusCode::NOT_MODIFIED);
    say(&house, &id, &speaker, &["the boat is small ."]).await;
    assert_eq!(again().await.unwrap().status(), StatusCode::OK);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_language_nobody_heard_is_translated_once_for_all_who_ask() {
    let house = House::open().await;
    let (id, speaker) = spoken(&house, &["the river is long .", "the boat is small .", "we see you ."]).await;
    house.translate().set_chaos(Chaos { delay_ms: 150, ..Chaos::default() });
    let all = futures_util::future::join_all((0..10).map(|_| read(&house, &id, "?language=es"))).await;
    for view in &all {
        assert_eq!(texts(view), ["[es] the river is long.", "[es] the boat is small.", "[es] we see you."]);
    }
    assert_eq!(spanish_calls(&house), 3, "one call a line, whoever asks");
    say(&house, &id, &speaker, &["yes we go ."]).await;
    assert_eq!(texts(&read(&house, &id, "?language=es").await)[3], "[es] yes we go.");
    house.client("ana").end(&id).await.unwrap();
    until("the end", || house.stack.app.sessions.live_count() == 0).await;
    assert_eq!(read(&house, &id, "?language=es-AR").await.lines.len(), 4);
    assert_eq!(spanish_calls(&house), 4, "and what is known is not asked for again");
    assert_eq!(read(&house, &id, "?language=fr").await.lines[3].text, "[fr] yes we go.", "also after the end");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_listeners_were_shown_is_what_the_transcript_says_and_the_rest_is_filled_in() {
    let house = House::open().await;
    let (id, speaker) = spoken(&house, &["the river is long ."]).await;
    let mut listener = house.listener(&id, "es").await;
    speaker.say("good bread and good water .").await;
    let shown = listener.final_text().await;
    listener.listener.close().await;
    let view = read(&house, &id, "?language=es").await;
    assert_eq!(texts(&view), ["[es] the river is long.", shown.as_str()]);
    assert_eq!(spanish_calls(&house), 2);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_translation_that_fails_is_told_and_the_next_reader_goes_on_from_there() {
    let house = House::open().await;
    let (id, _speaker) = spoken(&house, &["the river is long .", "the boat is small ."]).await;
    house.translate().set_chaos(Chaos { error_rate: 1.0, fault: Fault::ServiceUnavailable, ..Chaos::default() });
    let (status, problem) = refused(ask(&house, &id, "?language=es", None).await).await;
    assert_eq!((status, problem["code"].as_str()), (503, Some("UPSTREAM_UNAVAILABLE")));
    assert_eq!(problem["retryable"], true);
    assert!(problem["details"]["retryAfterMs"].as_u64().is_some());
    assert_eq!(read(&house, &id, "").await.lines.len(), 2, "the source language needs no translation");
    house.translate().set_chaos(Chaos::default());
    let patience = Instant::now() + Duration::from_secs(30);
    let view = loop {
        let answer = ask(&house, &id, "?language=es", None).await;
        if answer.status() == StatusCode::OK {
            break answer.json::<TranscriptView>().await.unwrap();
        }
        assert!(Instant::now() < patience, "never translated");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert_eq!(texts(&view), ["[es] the river is long.", "[es] the boat is small."]);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn translation_on_demand_has_a_limit_and_what_was_heard_live_is_outside_of_it() {
    let house = House::open_with(|settings, _| settings.live.transcripts.languages = 1).await;
    let (id, _speaker) = spoken(&house, &["the river is long ."]).await;
    read(&house, &id, "?language=es").await;
    let (status, problem) = refused(ask(&house, &id, "?language=fr", None).await).await;
    assert_eq!((status, problem["code"].as_str()), (429, Some("RATE_LIMITED")));
    assert_eq!(problem["details"]["translated"], json!(["es"]));
    read(&house, &id, "?language=es").await;
    let listener = house.listener(&id, "fr").await;
    assert!(listener.joined.history.is_empty(), "a newcomer may join all the same");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_transcript_is_the_speakers_and_a_session_with_a_code_asks_for_it() {
    let house = House::open().await;
    let mut request = talk();
    request.private_transcript = true;
    let private = house.client("ana").create(&request).await.unwrap().session_id;
    assert_eq!(refused(ask(&house, &private, "", None).await).await.1["code"], "UNAUTHORIZED");
    assert_eq!(refused(ask(&house, &private, "", Some("eve")).await).await.1["code"], "FORBIDDEN");
    let own = ask(&house, &private, "", Some("ana")).await;
    assert_eq!((own.status(), own.headers()["cache-control"].to_str().unwrap()), (StatusCode::OK, "private, no-cache"));
    let mut request = talk();
    request.access_code = Some(AccessCode::parse("tulip-7").unwrap());
    let coded = house.client("ana").create(&request).await.unwrap().session_id;
    for query in ["", "?accessCode=tulip-8"] {
        assert_eq!(refused(ask(&house, &coded, query, None).await).await.1["code"], "FORBIDDEN", "{query}");
    }
    assert_eq!(ask(&house, &coded, "?accessCode=tulip-7", None).await.status(), StatusCode::OK);
    assert_eq!(ask(&house, &coded, "", Some("ana")).await.status(), StatusCode::OK);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_had_is_refused_with_what_can() {
    let house = House::open().await;
    let id = house.session().await;
    for (query, code, names) in [
        ("?langauge=es", "INVALID_REQUEST", "langauge"),
        ("?format=pdf", "INVALID_REQUEST", "`format`"),
        ("?language=es&language=fr", "INVALID_REQUEST", "language"),
        ("?language=tlh", "UNSUPPORTED_LANGUAGE", "tlh"),
    ] {
        let (status, problem) = refused(ask(&house, &id, query, None).await).await;
        assert_eq!((status, problem["code"].as_str()), (400, Some(code)), "{query}");
        assert!(problem["detail"].as_str().unwrap().contains(names), "{problem}");
    }
    let unknown = SessionId::parse("never-was-123").unwrap();
    assert_eq!(refused(ask(&house, &unknown, "", None).await).await.0, 404);
    for (query, empty) in [("?format=srt", ""), ("?format=vtt", "WEBVTT\n\n"), ("?format=txt&language=es", "")] {
        assert_eq!(ask(&house, &id, query, None).await.text().await.unwrap(), empty, "nothing was said yet");
    }
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_said_is_known_at_every_server_and_to_the_one_that_takes_over() {
    let (house, store) = life::shared().await;
    let victim = life::another(&house, &store).await;
    let ana = life::client(&house, &victim, "ana");
    let id = ana.create(&talk()).await.unwrap().session_id;
    let speaker = house.speaker_by(ana, &id).await;
    speaker.say("the river is long .").await;
    speaker.say("the boat is small .").await;
    let patience = Instant::now() + PATIENCE;
    let view = loop {
        let view = read(&house, &id, "?language=es").await;
        if view.lines.len() == 2 {
            break view;
        }
        assert!(Instant::now() < patience, "the lines never reached the store");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(texts(&view), ["[es] the river is long.", "[es] the boat is small."]);
    let spanish = view.language.clone();
    while store.lines(&id, &spanish).await.unwrap().len() < 2 {
        assert!(Instant::now() < patience, "what was translated was not kept");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(victim);
    let back = life::join_when_free(&house, &id).await;
    let history: Vec<&str> = back.joined.history.iter().map(|caption| caption.text.as_str()).collect();
    assert_eq!(history, texts(&view), "who comes back finds what was said before the crash");
    assert_eq!(spanish_calls(&house), 2, "and nobody translated it twice");
    house.client("ana").end(&id).await.unwrap();
    until("the end", || house.stack.app.sessions.live_count() == 0).await;
}

async fn changed(listener: &mut Seated, target: &str) -> Vec<Caption> {
    listener.listener.change_language(target).await.unwrap();
    loop {
        let envelope = listener.listener.next().await.unwrap();
        if let ServerMessage::LanguageChanged { target_language, history, .. } = envelope.message {
            assert_eq!(target_language.as_str(), target);
            listener.seq = envelope.seq.unwrap();
            return history;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_in_a_language_gets_its_history_and_nobody_pays_for_it_twice() {
    let house = House::open().await;
    let (id, speaker) = spoken(&house, &["the river is long .", "the boat is small ."]).await;
    let wishes: Vec<Wish> = (0..5).map(|_| house.wish(&id, "es")).collect();
    let mut seated = futures_util::future::join_all(wishes.iter().map(Seated::join)).await;
    for one in &seated {
        let history: Vec<&str> = one.joined.history.iter().map(|caption| caption.text.as_str()).collect();
        assert_eq!(history, ["[es] the river is long.", "[es] the boat is small."]);
        let last = one.joined.history.last().unwrap();
        assert_eq!(last.source_text.as_deref(), Some("the boat is small."));
        assert!(last.is_final && last.heard_at.is_some() && last.end_ms > last.start_ms);
    }
    assert_eq!(spanish_calls(&house), 2);
    speaker.say("we see you .").await;
    for one in &mut seated {
        assert_eq!(one.final_text().await, "[es] we see you.", "and then the live captions, in order");
    }
    let history = changed(&mut seated[0], "fr").await;
    let history: Vec<&str> = history.iter().map(|caption| caption.text.as_str()).collect();
    assert_eq!(history, ["[fr] the river is long.", "[fr] the boat is small.", "[fr] we see you."]);
    speaker.say("yes we go .").await;
    assert_eq!(seated[0].final_text().await, "[fr] yes we go.");
    assert_eq!(seated[1].final_text().await, "[es] yes we go.");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_waits_for_its_history_no_longer_than_a_moment() {
    let house = House::open().await;
    let (id, speaker) = spoken(&house, &["the river is long ."]).await;
    house.translate().set_chaos(Chaos { hang: true, target: Some("es".to_owned()), ..Chaos::default() });
    let before = Instant::now();
    let mut listener = house.listener(&id, "es").await;
    let waited = before.elapsed();
    assert!(listener.joined.history.is_empty());
    // The promise is 1.5 s; a machine that stands still for a moment does not break the test.
    assert!(waited < Duration::from_secs(6), "{waited:?}");
    house.translate().set_chaos(Chaos::default());
    speaker.say("the boat is small .").await;
    assert_eq!(listener.final_text().await, "[es] the boat is small.");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_goes_on_talking_while_the_history_is_fetched_is_seated_first() {
    let house = House::open_with(|settings, _| settings.live.transcripts.history_wait = Duration::from_secs(30)).await;
    let (id, speaker) = spoken(&house, &["the river is long ."]).await;
    house.translate().set_chaos(Chaos { hang: true, target: Some("es".to_owned()), ..Chaos::default() });
    let mut reader = house.reader(&id, "en", CaptionMode::Final).await;
    reader.listener.change_language("es").await.unwrap();
    reader.listener.change_language("en").await.unwrap();
    let mut languages = Vec::new();
    while languages.len() < 2 {
        let envelope = reader.listener.next().await.unwrap();
        if let ServerMessage::LanguageChanged { target_language, .. } = envelope.message {
            languages.push(target_language.to_string());
            reader.seq = envelope.seq.unwrap();
        }
    }
    assert_eq!(languages, ["es", "en"]);
    speaker.say("we see you .").await;
    assert_eq!(reader.final_text().await, "we see you.");
    house.close().await;
}
