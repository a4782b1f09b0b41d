//! Tokens, addresses, signatures, names and spoken text never reach a log above DEBUG.

use crate::house::{House, LOG};

#[tokio::test(flavor = "multi_thread")]
async fn nothing_private_reaches_the_log() {
    let house = House::open().await;
    let id = house.session().await;
    let mut speaker = house.speaker(&id).await;
    let mut listener = house.listener(&id, "es").await;
    // Trouble of every kind, because trouble is what gets logged.
    house.transcribe().chaos().end = Some(local_cloud::transcribe::Break {
        when: local_cloud::transcribe::When::Events(2),
        how: local_cloud::transcribe::How::Fail,
        once: true,
    });
    house.translate().set_chaos(local_cloud::translate::Chaos { fail_next: 3, ..Default::default() });
    speaker.say("bread book story water friend .").await;
    listener.final_text().await;
    house.stack.cloud.kvs().cut_sockets();
    speaker.client.set_kvs_connected(&id, false).await.unwrap();
    listener.disconnected().await;
    speaker.client.set_kvs_connected(&id, true).await.unwrap();
    speaker.wait_until_heard().await;
    let token = house.stack.token("ana").unwrap().reveal().to_owned();
    house.close().await;

    let log = LOG.lock().unwrap().clone();
    assert!(log.contains("session ended"), "the log was captured");
    for private in ["bread book", "book story", "candidate:", "a=ice-ufrag", "X-Amz-", "eyJ", "\"ana\"", "=ana", &token]
    {
        let line = log.lines().find(|line| line.contains(private));
        assert_eq!(line, None, "{private}");
    }
}
