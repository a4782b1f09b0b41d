//! Row 31 of the threats: what is said in one session is never heard in another, nor told to who may not listen.

use babelcast::cli::client::{ClientError, Listener, Wish};
use babelcast_domain::error::ErrorCode;
use babelcast_domain::ids::{AccessCode, SessionId};
use babelcast_domain::wire::{CaptionMode, CreateSession, ServerMessage};
use tokio::time::timeout;

use crate::house::{House, PATIENCE, Seated, talk};

/// Said in one session only.
const CANARIES: [&str; 2] = ["bread", "river"];

/// Everything a listener hears until its second final, as one text.
async fn everything(wish: &Wish) -> String {
    let mut seated = Seated::join(wish).await;
    let mut heard = format!("{:?}", seated.joined.history.iter().map(|one| one.text.clone()).collect::<Vec<_>>());
    let mut finals = seated.joined.history.len();
    while finals < 2 {
        let envelope = seated.next().await;
        assert_eq!(envelope.session_id.as_ref(), Some(&wish.session));
        if let ServerMessage::Transcription(caption) = &envelope.message {
            finals += usize::from(caption.is_final);
        }
        heard.push_str(&serde_json::to_string(&envelope).unwrap());
    }
    heard
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_of_one_session_never_sees_a_word_of_another() {
    let house = House::open().await;
    let mut sessions: Vec<(SessionId, _)> = Vec::new();
    for _ in CANARIES {
        let id = house.session().await;
        let speaker = house.speaker(&id).await;
        sessions.push((id, speaker));
    }
    // A place in one session, brought along to the other.
    let stranger = house.listener(&sessions[0].0, "es").await.place();
    let wishes: Vec<(usize, Wish)> =
        [("en", CaptionMode::Raw), ("es", CaptionMode::Stable), ("fr", CaptionMode::Final)]
            .into_iter()
            .flat_map(|(language, captions)| (0..2).map(move |session| (session, language, captions)))
            .map(|(session, language, captions)| {
                let wish = house.wish(&sessions[session].0, language);
                (session, Wish { captions, resume: (session == 1).then_some(stranger), ..wish })
            })
            .collect();
    let listening = wishes.iter().map(|(session, wish)| async move { (*session, everything(wish).await) });
    let speaking = async {
        for _ in 0..2 {
            let said = sessions.iter().zip(CANARIES).map(|((_, speaker), word)| async move {
                speaker.say(&format!("we see the good {word} today .")).await;
            });
            futures_util::future::join_all(said).await;
        }
    };
    let (heard, ()) = tokio::join!(futures_util::future::join_all(listening), speaking);
    assert_eq!(heard.len(), 6);
    for (session, heard) in heard {
        let (own, other) = (CANARIES[session], CANARIES[1 - session]);
        assert!(heard.contains(own), "{session}: {heard}");
        assert!(!heard.contains(other), "{session}: {heard}");
        assert!(!heard.contains(sessions[1 - session].0.as_str()), "not even its name");
    }
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lacks_the_access_code_hears_not_a_word_live_or_later() {
    let house = House::open().await;
    let request = CreateSession { access_code: Some(AccessCode::parse("tulip").unwrap()), ..talk() };
    let id = house.client("ana").create(&request).await.unwrap().session_id;
    let speaker = house.speaker(&id).await;
    let mut wish = house.wish(&id, "en");
    wish.token = Some(house.stack.token("ana").unwrap());
    let mut own = Seated::join(&wish).await;
    speaker.say("we see the good bread today .").await;
    assert!(own.final_text().await.contains("bread"), "the owner needs no code");

    wish.token = Some(house.stack.token("eve").unwrap());
    let mut refused = Listener::connect(&wish).await.unwrap();
    let told = timeout(PATIENCE, refused.next()).await.unwrap().unwrap();
    assert!(matches!(told.message, ServerMessage::Error { code: ErrorCode::Forbidden, .. }), "{:?}", told.message);
    let closed = timeout(PATIENCE, refused.next()).await.unwrap().unwrap_err();
    assert!(matches!(closed, ClientError::Closed { code: 4403, .. }), "{closed}");

    let transcript = |query: &'static str| {
        let url = format!("{}/sessions/{id}/transcript?format=txt{query}", house.stack.app.url());
        async move {
            let answer = reqwest::get(url).await.unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        }
    };
    for query in ["", "&accessCode=wrong"] {
        let (status, text) = transcript(query).await;
        assert!(status == 403 && !text.contains("bread"), "{query}: {status} {text}");
    }
    let (status, text) = transcript("&accessCode=tulip").await;
    assert!(status == 200 && text.contains("bread"), "{status} {text}");
    house.close().await;
}
