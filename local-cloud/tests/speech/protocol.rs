//! The wire: headers, events, frames of both styles, the chain of signatures.

use std::collections::BTreeMap;
use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sdk_transcribestreaming::config::{BehaviorVersion, Region};
use aws_sdk_transcribestreaming::types::{ItemType, PartialResultsStability};
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use aws_smithy_eventstream::frame::{read_message_from, write_message_to};
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_types::event_stream::{Header, HeaderValue, Message};
use local_cloud::engine::Engine;
use local_cloud::engine::scripted::{Script, Scripted};
use local_cloud::engine::tones::Tones;
use local_cloud::transcribe::{Break, How, Settings, When};

use crate::harness::{SECRET, Server, Talk, say, serve, tones, usual};

#[tokio::test]
async fn tones_come_back_as_growing_partials_and_finals_of_the_same_segment() {
    let server = tones().await;
    let mut pcm = say("we go to the sea, today.");
    pcm.extend(say("yes"));
    let talk = server.open().await;
    let said = talk.run(&pcm).await;
    said.end.as_ref().unwrap();
    assert_eq!(said.finals(), ["we go to the sea, today.", "yes"]);
    assert!(said.heartbeats > 0, "an event without results comes first");
    let mut ids: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for result in &said.results {
        let counts = ids.entry(result.result_id().unwrap()).or_default();
        assert_eq!(counts.1, 0, "nothing comes after a segment's final");
        *counts = (counts.0 + usize::from(result.is_partial), counts.1 + usize::from(!result.is_partial));
        for item in result.alternatives()[0].items() {
            let word = item.r#type() == Some(&ItemType::Pronunciation);
            assert_eq!(item.confidence().is_some(), word && !result.is_partial);
            assert!(item.stable().is_none(), "nobody asked for stabilisation");
            assert!(word || item.start_time == item.end_time);
        }
    }
    assert_eq!(ids.len(), 2);
    assert!(ids.values().all(|(partials, finals)| *partials >= 1 && *finals == 1));
    let first = said.results.iter().find(|r| !r.is_partial).unwrap();
    assert!(first.start_time < 0.05 && (first.end_time - 1.7).abs() < 0.3, "{first:?}");
}

#[tokio::test]
async fn the_answer_echoes_the_request() {
    let server = tones().await;
    let id = "5ee7b1a2-0f3c-4a61-9c3e-0123456789ab";
    let request = server
        .request()
        .session_id(id)
        .enable_partial_results_stabilization(true)
        .partial_results_stability(PartialResultsStability::Low);
    let talk = Talk::open(request).await.unwrap();
    assert_eq!(talk.output.session_id(), Some(id));
    assert_eq!(talk.output.language_code().map(|l| l.as_str()), Some("en-US"));
    assert_eq!(talk.output.media_sample_rate_hertz(), Some(16_000));
    assert_eq!(talk.output.partial_results_stability(), Some(&PartialResultsStability::Low));
    assert!(talk.output.enable_partial_results_stabilization());
    assert!(!talk.output.show_speaker_label());
    assert!(talk.output.request_id().is_some_and(|id| !id.is_empty()));
}

#[tokio::test]
async fn scripted_words_come_at_their_audio_times_however_fast_the_audio_comes() {
    let script = Script::of(&[(500, 1_500, "we ship on tuesday."), (2_000, 2_400, "good")]);
    let server = serve(Settings::new(Engine::Scripted(Scripted::same(script).into()))).await;
    let said = server.open().await.run(&[0; 16_000 * 3]).await;
    assert_eq!(said.finals(), ["we ship on tuesday.", "good"]);
    let finals: Vec<_> = said.results.iter().filter(|r| !r.is_partial).collect();
    assert_eq!((finals[0].start_time, finals[0].end_time), (0.5, 1.5));
    assert_eq!((finals[1].start_time, finals[1].end_time), (2.0, 2.4));
    let partials: Vec<_> = said.results.iter().filter(|r| r.is_partial).map(crate::harness::transcript).collect();
    assert_eq!(partials, ["we", "we ship", "we ship on"]);
}

#[tokio::test]
async fn a_signed_stream_is_accepted_and_a_wrong_secret_is_not() {
    let server = signing().await;
    let said = server.open().await.run(&say("one two three")).await;
    said.end.as_ref().unwrap();
    assert_eq!(said.text(), "one two three");
    let refused = Talk::open(usual(&server.client_with("wrong"))).await.err().unwrap();
    let status = refused.raw_response().unwrap().status().as_u16();
    assert_eq!((status, format!("{refused:?}").contains("InvalidSignatureException")), (403, true));
    assert_eq!(server.transcribe.counts().refused, 1);
}

#[tokio::test]
async fn a_flipped_byte_breaks_the_chain_of_signatures() {
    let server = signing().await;
    assert!(post(&server, &Wire::default()).await.contains("one two"));
    for flip in [Flip::Audio, Flip::Date, Flip::Signature, Flip::Missing] {
        let answer = post(&server, &Wire { flip: Some((2, flip)), ..Wire::default() }).await;
        assert!(answer.contains("BadRequestException"), "{flip:?}: {answer}");
        assert!(answer.contains("signature") || answer.contains("lacks"), "{flip:?}: {answer}");
    }
    let answer = post(&server, &Wire { twice: Some(1), ..Wire::default() }).await;
    assert!(answer.contains("signature we calculated"), "a frame sent twice: {answer}");
}

#[tokio::test]
async fn a_signed_stream_without_the_empty_frame_is_an_error() {
    for server in [signing().await, tones().await] {
        let answer = post(&server, &Wire { end: false, ..Wire::default() }).await;
        assert!(answer.contains("A complete signal was sent without the preceding empty frame."), "{answer}");
        assert!(post(&server, &Wire::default()).await.contains("\"IsPartial\":false"));
    }
}

#[tokio::test]
async fn bare_frames_end_with_the_body() {
    let server = tones().await;
    let answer = post(&server, &Wire { bare: true, ..Wire::default() }).await;
    assert!(answer.contains("\"IsPartial\":false") && !answer.contains("Exception"), "{answer}");
    let answer = post(&server, &Wire { bare: true, cut: 40, ..Wire::default() }).await;
    assert!(answer.contains("in the middle of a frame"), "{answer}");
}

#[tokio::test]
async fn garbage_instead_of_frames_is_a_bad_request() {
    let server = tones().await;
    for garbage in [vec![0xff; 500], vec![0; 500], b"hello, this is not an event stream".to_vec()] {
        let answer = send(&server, garbage, SystemTime::now()).await;
        assert!(answer.contains("BadRequestException"), "{answer}");
    }
    assert_eq!(server.transcribe.counts().exceptions, 3);
    assert_eq!(server.transcribe.counts().open, 0);
}

async fn signing() -> Server {
    serve(Settings { secret: Some(SECRET.into()), ..Settings::new(Engine::Tones(Tones)) }).await
}

/// The whole cloud, as the SDK meets AWS: TLS, HTTP/2, everything signed.
#[tokio::test]
async fn the_assembled_cloud_serves_it_over_tls_and_http_2() {
    let transcribe = Some(Settings::new(Engine::Tones(Tones)));
    let settings =
        local_cloud::Settings { secret: Some(SECRET.into()), transcribe, ..local_cloud::Settings::default() };
    let cloud = local_cloud::LocalCloud::start(settings).await.unwrap();
    let store = TrustStore::empty().with_pem_certificate(cloud.certificate_pem().as_bytes());
    let http = aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
        .tls_context(TlsContext::builder().with_trust_store(store).build().unwrap())
        .build_https();
    let config = aws_sdk_transcribestreaming::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(credentials())
        .http_client(http)
        .endpoint_url(cloud.https_url())
        .build();
    let client = aws_sdk_transcribestreaming::Client::from_conf(config);
    let said = Talk::open(usual(&client)).await.unwrap().run(&say("the sea is great")).await;
    assert_eq!((said.text().as_str(), said.end), ("the sea is great", Ok(())));
    let chaos = &cloud.transcribe().unwrap();
    chaos.chaos().end = Some(Break { when: When::Events(1), how: How::Cut, once: true });
    let said = Talk::open(usual(&client)).await.unwrap().run(&say("the sea is great")).await;
    assert!(said.end.is_err() && said.finals().is_empty(), "{said:?}");
    cloud.stop().await;
}

/// What to do to one frame.
#[derive(Clone, Copy, Debug)]
enum Flip {
    Audio,
    Date,
    Signature,
    Missing,
}

/// A stream put together by hand.
struct Wire {
    /// Spoiled frame, and how.
    flip: Option<(usize, Flip)>,
    /// A frame to send twice.
    twice: Option<usize>,
    end: bool,
    bare: bool,
    /// Bytes left off at the end.
    cut: usize,
}

impl Default for Wire {
    fn default() -> Wire {
        Wire { flip: None, twice: None, end: true, bare: false, cut: 0 }
    }
}

/// Sends a whole stream at once and gives the answer's body as text.
async fn post(server: &Server, wire: &Wire) -> String {
    let now = SystemTime::now();
    let mut prior = request(server, now).1;
    let mut body = Vec::new();
    let pcm = say("one two");
    for (i, piece) in pcm.chunks(1_600).enumerate() {
        let bytes: Vec<u8> = piece.iter().flat_map(|s| s.to_le_bytes()).collect();
        let event = Message::new(bytes)
            .add_header(Header::new(":message-type", HeaderValue::String("event".into())))
            .add_header(Header::new(":event-type", HeaderValue::String("AudioEvent".into())));
        let frame = if wire.bare { event } else { signed(Some(&event), &mut prior, now) };
        let frame = match wire.flip {
            Some((at, flip)) if at == i => spoil(frame, flip),
            _ => frame,
        };
        for _ in 0..if wire.twice == Some(i) { 2 } else { 1 } {
            write_message_to(&frame, &mut body).unwrap();
        }
    }
    if wire.end && !wire.bare {
        write_message_to(&signed(None, &mut prior, now), &mut body).unwrap();
    }
    body.truncate(body.len() - wire.cut);
    send(server, body, now).await
}

async fn send(server: &Server, body: Vec<u8>, now: SystemTime) -> String {
    let mut call = crate::harness::http().post(format!("{}/stream-transcription", server.url)).body(body);
    for (name, value) in request(server, now).0 {
        call = call.header(name, value);
    }
    let bytes = call.send().await.unwrap().bytes().await.unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Headers of the request, and its signature.
fn request(server: &Server, now: SystemTime) -> (Vec<(String, String)>, String) {
    let usual = [("language-code", "en-US"), ("sample-rate", "16000"), ("media-encoding", "pcm")];
    let mut headers: Vec<(String, String)> =
        usual.iter().map(|(name, value)| (format!("x-amzn-transcribe-{name}"), (*value).to_owned())).collect();
    let identity = credentials().into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region("us-east-1")
        .name("transcribe")
        .time(now)
        .settings(SigningSettings::default())
        .build()
        .unwrap();
    let url = format!("{}/stream-transcription", server.url);
    let pairs = headers.iter().map(|(n, v)| (n.as_str(), v.as_str()));
    let signable = SignableRequest::new("POST", url, pairs, SignableBody::Bytes(&[])).unwrap();
    let (instructions, signature) = sign(signable, &params.into()).unwrap().into_parts();
    headers.extend(instructions.headers().map(|(n, v)| (n.to_owned(), v.to_owned())));
    (headers, signature)
}

fn credentials() -> Credentials {
    Credentials::new("AKIDEXAMPLE", SECRET, None, None, "test")
}

fn signed(event: Option<&Message>, prior: &mut String, now: SystemTime) -> Message {
    let identity = credentials().into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region("us-east-1")
        .name("transcribe")
        .time(now)
        .settings(())
        .build()
        .unwrap();
    let output = match event {
        Some(event) => aws_sigv4::event_stream::sign_message(event, prior, &params),
        None => aws_sigv4::event_stream::sign_empty_message(prior, &params),
    };
    let (frame, signature) = output.unwrap().into_parts();
    *prior = signature;
    frame
}

fn spoil(frame: Message, flip: Flip) -> Message {
    let mut payload = frame.payload().to_vec();
    if let Flip::Audio = flip {
        // One byte of audio, in a frame that is whole again.
        let inner = read_message_from(&payload[..]).unwrap();
        let mut audio = inner.payload().to_vec();
        audio[100] ^= 1;
        let inner = Message::new_from_parts(inner.headers().to_vec(), audio);
        payload.clear();
        write_message_to(&inner, &mut payload).unwrap();
    }
    let headers = frame.headers().iter().filter_map(|h| match (flip, h.value()) {
        (Flip::Signature, HeaderValue::ByteArray(bytes)) => {
            let mut bytes = bytes.to_vec();
            bytes[0] ^= 1;
            Some(Header::new(":chunk-signature", HeaderValue::ByteArray(bytes.into())))
        }
        (Flip::Missing, HeaderValue::ByteArray(_)) => None,
        (Flip::Date, HeaderValue::Timestamp(date)) => {
            let later = aws_smithy_types::DateTime::from_secs(date.secs() + 1);
            Some(Header::new(":date", HeaderValue::Timestamp(later)))
        }
        _ => Some(h.clone()),
    });
    Message::new_from_parts(headers.collect::<Vec<_>>(), payload)
}
