//! The official client against a service that plays a script, frame by frame, on a real socket.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_smithy_eventstream::frame::{DecodedFrame, MessageFrameDecoder, read_message_from, write_message_to};
use aws_smithy_types::event_stream::{Header, HeaderValue, Message};
use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::response::Response;
use axum::routing::post;
use babelcast_domain::audio::MediaTime;
use babelcast_domain::language::Language;
use babelcast_domain::transcript::Heard;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;

use super::transcribe::{Options, TranscribeError, Transcription, start};
use super::{Settings, fake};

const PARTIAL: &str = r#"{"Transcript":{"Results":[{"ResultId":"r1","StartTime":0.25,"EndTime":1.5,"IsPartial":true,"Alternatives":[
    {"Transcript":"Hello, word","Items":[
     {"Content":"Hello","Type":"pronunciation","StartTime":0.25,"EndTime":0.75,"Stable":true},
     {"Content":",","Type":"punctuation","StartTime":0.75,"EndTime":0.75,"Stable":true},
     {"Content":"word","Type":"pronunciation","StartTime":0.8,"EndTime":1.5,"Stable":false}]}]}]}}"#;
const FINAL: &str = r#"{"Transcript":{"Results":[{"ResultId":"r1","StartTime":0.25,"EndTime":1.5,"IsPartial":false,"Alternatives":[
    {"Transcript":"Hello, world","Items":[
     {"Content":"Hello","Type":"pronunciation","StartTime":0.25,"EndTime":0.75,"Confidence":0.75},
     {"Content":",","Type":"punctuation","StartTime":0.75,"EndTime":0.75},
     {"Content":"world","Type":"pronunciation","StartTime":0.8,"EndTime":1.5,"Confidence":0.5}]}]}]}}"#;
const ODD: &str = r#"{"Transcript":{"Results":[{"StartTime":0,"EndTime":1,"IsPartial":true,"Alternatives":[]},
    {"ResultId":"r2","StartTime":-1,"EndTime":1e30,"IsPartial":true,"Alternatives":[{"Items":[{"Content":""},{"Content":"x"}]}]}]}}"#;

#[tokio::test]
async fn partials_and_finals_arrive_as_words() {
    let service = Service::plays(vec![
        Step::Audio(2),
        Step::Event(r#"{"Transcript":{"Results":[]}}"#),
        Step::Event(PARTIAL),
        Step::Event(FINAL),
        Step::End,
    ])
    .await;
    let (audio, mut stream) = service.start().await.unwrap();
    audio.send(Bytes::from_static(&[1; 3200])).await.unwrap();
    audio.send(Bytes::new()).await.unwrap();
    audio.send(Bytes::from_static(&[2; 3200])).await.unwrap();
    assert_eq!(stream.next().await.unwrap(), Some(vec![]), "the heartbeat");

    let partial = one(&mut stream).await;
    assert_eq!((partial.result_id.as_str(), partial.is_final, partial.text().as_str()), ("r1", false, "Hello, word"));
    assert_eq!((partial.start, partial.end), (MediaTime::from_millis(250), MediaTime::from_millis(1_500)));
    assert_eq!(partial.words.iter().map(|word| word.stable).collect::<Vec<_>>(), [true, true, false]);
    assert_eq!(partial.words.iter().map(|word| word.punctuation).collect::<Vec<_>>(), [false, true, false]);
    assert_eq!(partial.words[2].start, MediaTime::from_millis(800));

    let last = one(&mut stream).await;
    assert_eq!((last.result_id.as_str(), last.is_final, last.text().as_str()), ("r1", true, "Hello, world"));
    assert!(last.words.iter().all(|word| word.stable));
    assert_eq!(last.words.iter().map(|word| word.confidence).collect::<Vec<_>>(), [Some(0.75), None, Some(0.5)]);

    drop(audio);
    assert_eq!(stream.next().await.unwrap(), None, "our own end");
    let seen = service.seen();
    assert_eq!(seen.audio, [vec![1; 3200], vec![2; 3200]].concat());
    assert!(seen.ended, "the end is announced with an empty frame");
}

#[tokio::test]
async fn the_request_asks_for_stable_partials_of_16_khz_pcm() {
    let service = Service::plays(vec![]).await;
    let options = Options { vocabulary: Some("talk".to_owned()), session_id: Some(SESSION.to_owned()), ..english() };
    let (_audio, audio) = mpsc::channel(8);
    let stream = start(&service.clients().await, options, audio).await.unwrap();
    assert_eq!(stream.session_id(), Some(SESSION));
    let headers = service.seen().headers;
    for (name, value) in [
        ("language-code", "en-US"),
        ("sample-rate", "16000"),
        ("media-encoding", "pcm"),
        ("enable-partial-results-stabilization", "true"),
        ("partial-results-stability", "high"),
        ("vocabulary-name", "talk"),
        ("session-id", SESSION),
    ] {
        assert_eq!(headers[format!("x-amzn-transcribe-{name}").as_str()], value, "{name}");
    }
}

#[tokio::test]
async fn a_service_that_waits_for_audio_before_it_answers_gets_it() {
    let service = Service::plays(vec![Step::LateHeaders(3), Step::Event(FINAL)]).await;
    let (audio, receiver) = mpsc::channel(8);
    for _ in 0..3 {
        audio.send(Bytes::from_static(&[7; 3200])).await.unwrap();
    }
    let mut stream = start(&service.clients().await, english(), receiver).await.unwrap();
    assert_eq!(one(&mut stream).await.text(), "Hello, world");
}

#[tokio::test]
async fn refusals_are_told_by_their_kind_after_one_attempt() {
    type Expected = fn(&TranscribeError) -> bool;
    let cases: [(u16, &str, Expected, bool); 6] = [
        (429, "LimitExceededException", |e| matches!(e, TranscribeError::LimitExceeded(_)), true),
        (400, "BadRequestException", |e| matches!(e, TranscribeError::Bad(_)), false),
        (409, "ConflictException", |e| matches!(e, TranscribeError::Conflict), true),
        (500, "InternalFailureException", |e| matches!(e, TranscribeError::Unavailable(_)), true),
        (503, "ServiceUnavailableException", |e| matches!(e, TranscribeError::Unavailable(_)), true),
        (403, "AccessDeniedException", |e| matches!(e, TranscribeError::Denied(_)), false),
    ];
    for (status, name, expected, retryable) in cases {
        let service = Service::plays(vec![Step::Refuse(status, name)]).await;
        let error = service.start().await.map(drop).unwrap_err();
        assert!(expected(&error), "{name}: {error:?}");
        assert_eq!(error.retryable(), retryable, "{name}");
        assert_eq!(service.seen().requests, 1, "{name}");
    }
}

#[tokio::test]
async fn exceptions_in_mid_stream_are_told_by_their_kind() {
    let starved = "Your request timed out because no new audio was received for 15 seconds.";
    for (name, message, expected) in [
        ("BadRequestException", starved, TranscribeError::Starved),
        ("BadRequestException", "nonsense", TranscribeError::Bad("nonsense".to_owned())),
        ("LimitExceededException", "4 h", TranscribeError::LimitExceeded("4 h".to_owned())),
        ("ConflictException", "taken", TranscribeError::Conflict),
    ] {
        let service = Service::plays(vec![Step::Event(PARTIAL), Step::Exception(name, message)]).await;
        let (_audio, mut stream) = service.start().await.unwrap();
        one(&mut stream).await;
        assert_eq!(stream.next().await.unwrap_err(), expected);
    }
}

#[tokio::test]
async fn a_broken_connection_is_a_cut() {
    let service = Service::plays(vec![Step::Event(PARTIAL), Step::Audio(1), Step::Cut]).await;
    let (audio, mut stream) = service.start().await.unwrap();
    one(&mut stream).await;
    audio.send(Bytes::from_static(&[1; 3200])).await.unwrap();
    let error = stream.next().await.unwrap_err();
    assert!(matches!(error, TranscribeError::Cut(_)) && error.retryable(), "{error:?}");
}

#[tokio::test]
async fn a_clean_end_by_the_service_is_no_error() {
    let service = Service::plays(vec![Step::Event(PARTIAL), Step::Close]).await;
    let (_audio, mut stream) = service.start().await.unwrap();
    one(&mut stream).await;
    assert_eq!(stream.next().await, Ok(None));
}

#[tokio::test]
async fn a_service_that_never_answers_is_given_up() {
    let service = Service::plays(vec![Step::LateHeaders(1_000)]).await;
    let settings = Settings { transcribe_start_timeout_ms: 200, ..Settings::default() };
    let (_audio, audio) = mpsc::channel(8);
    let error = start(&fake::clients(&service.url, settings).await, english(), audio).await.map(drop).unwrap_err();
    assert_eq!(error, TranscribeError::Timeout);
    let (_audio, audio) = mpsc::channel(8);
    let nobody = fake::clients("http://127.0.0.1:1", Settings::default()).await;
    let error = start(&nobody, english(), audio).await.map(drop).unwrap_err();
    assert!(matches!(error, TranscribeError::Unavailable(_)), "{error:?}");
}

#[tokio::test]
async fn odd_results_are_left_out_and_odd_times_are_bounded() {
    let service = Service::plays(vec![Step::Event(ODD)]).await;
    let (_audio, mut stream) = service.start().await.unwrap();
    let heard = one(&mut stream).await;
    assert_eq!((heard.result_id.as_str(), heard.text().as_str()), ("r2", "x"));
    assert_eq!(heard.start, MediaTime::ZERO);
}

#[tokio::test]
async fn every_stream_has_a_connection_of_its_own() {
    let service = Service::plays(vec![Step::End]).await;
    let clients = service.clients().await;
    for _ in 0..3 {
        let (audio, receiver) = mpsc::channel(8);
        let mut stream = start(&clients, english(), receiver).await.unwrap();
        drop(audio);
        assert_eq!(stream.next().await, Ok(None));
    }
    let mut ports = service.seen().ports;
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 3);
}

#[tokio::test]
async fn waiting_for_results_can_be_cancelled_without_loss() {
    let service = Service::plays(vec![Step::Audio(1), Step::Event(PARTIAL), Step::Event(FINAL)]).await;
    let (audio, mut stream) = service.start().await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(100), stream.next()).await.is_err());
    audio.send(Bytes::from_static(&[1; 3200])).await.unwrap();
    assert!(!one(&mut stream).await.is_final);
    assert!(one(&mut stream).await.is_final);
}

const SESSION: &str = "0c1f3b8e-6a57-4d7b-9d4e-1f1d3f0b8a11";

fn english() -> Options {
    Options { language: Language::parse("en-US").unwrap(), vocabulary: None, session_id: None }
}

async fn one(stream: &mut Transcription) -> Heard {
    let next = tokio::time::timeout(Duration::from_secs(20), stream.next()).await.unwrap();
    let mut results = next.unwrap().unwrap();
    assert_eq!(results.len(), 1);
    results.remove(0)
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// Answers nothing before so many audio frames came.
    LateHeaders(usize),
    Refuse(u16, &'static str),
    /// Waits for so many audio frames.
    Audio(usize),
    Event(&'static str),
    Exception(&'static str, &'static str),
    /// Waits for the client's end and closes.
    End,
    Close,
    Cut,
}

#[derive(Debug, Clone, Default)]
struct Seen {
    requests: usize,
    headers: HeaderMap,
    ports: Vec<u16>,
    audio: Vec<u8>,
    ended: bool,
}

struct Service {
    url: String,
    seen: Arc<Mutex<Seen>>,
    _server: AbortOnDropHandle<()>,
}

type Script = (Arc<Vec<Step>>, Arc<Mutex<Seen>>);

impl Service {
    /// Plays the steps to every request; after the last it stays silent.
    async fn plays(steps: Vec<Step>) -> Service {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let state: Script = (Arc::new(steps), Arc::clone(&seen));
        let router = Router::new().route("/stream-transcription", post(serve)).with_state(state);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = router.into_make_service_with_connect_info::<std::net::SocketAddr>();
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Service { url, seen, _server: AbortOnDropHandle::new(server) }
    }

    async fn clients(&self) -> super::Clients {
        fake::clients(&self.url, Settings::default()).await
    }

    async fn start(&self) -> Result<(mpsc::Sender<Bytes>, Transcription), TranscribeError> {
        let (sender, audio) = mpsc::channel(8);
        Ok((sender, start(&self.clients().await, english(), audio).await?))
    }

    fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }
}

async fn serve(
    State((steps, seen)): State<Script>,
    ConnectInfo(peer): ConnectInfo<std::net::SocketAddr>,
    request: Request,
) -> Response {
    let session = request.headers().get("x-amzn-transcribe-session-id").cloned();
    {
        let mut seen = seen.lock().unwrap();
        seen.requests += 1;
        seen.headers = request.headers().clone();
        seen.ports.push(peer.port());
    }
    let mut steps = steps.to_vec();
    let mut audio =
        Audio { body: request.into_body(), buffer: BytesMut::new(), decoder: MessageFrameDecoder::new(), seen };
    match steps.first().copied() {
        Some(Step::Refuse(status, name)) => {
            let response = Response::builder().status(StatusCode::from_u16(status).unwrap());
            return response.header("x-amzn-errortype", name).body(Body::from(r#"{"Message":"no"}"#)).unwrap();
        }
        Some(Step::LateHeaders(frames)) => {
            steps.remove(0);
            for _ in 0..frames {
                audio.frame().await;
            }
        }
        _ => {}
    }
    let (out, body) = mpsc::channel::<Result<Bytes, std::io::Error>>(8);
    // Ends with its client or the runtime of the test.
    drop(tokio::spawn(play(steps, audio, out)));
    let mut response = Response::builder().header("content-type", "application/vnd.amazon.eventstream");
    if let Some(session) = session {
        response = response.header("x-amzn-transcribe-session-id", session);
    }
    response.body(Body::from_stream(ReceiverStream::new(body))).unwrap()
}

async fn play(steps: Vec<Step>, mut audio: Audio, out: mpsc::Sender<Result<Bytes, std::io::Error>>) {
    for step in steps {
        let sent = match step {
            Step::LateHeaders(_) | Step::Refuse(..) => continue,
            Step::Audio(frames) => {
                for _ in 0..frames {
                    audio.frame().await;
                }
                continue;
            }
            Step::End => {
                while audio.frame().await {}
                return;
            }
            Step::Close => return,
            Step::Cut => Err(std::io::Error::other("cut")),
            Step::Event(json) => Ok(frame([("event-type", "TranscriptEvent"), ("message-type", "event")], json)),
            Step::Exception(name, text) => {
                let json = serde_json::json!({ "Message": text }).to_string();
                Ok(frame([("exception-type", name), ("message-type", "exception")], &json))
            }
        };
        if out.send(sent).await.is_err() {
            return;
        }
    }
    while audio.frame().await {}
    out.closed().await;
}

fn frame(headers: [(&'static str, &'static str); 2], json: &str) -> Bytes {
    let mut message = Message::new(Bytes::copy_from_slice(json.as_bytes()));
    for (name, value) in headers.into_iter().chain([("content-type", "application/json")]) {
        message = message.add_header(Header::new(format!(":{name}"), HeaderValue::String(value.into())));
    }
    let mut bytes = vec![];
    write_message_to(&message, &mut bytes).unwrap();
    bytes.into()
}

struct Audio {
    body: Body,
    buffer: BytesMut,
    decoder: MessageFrameDecoder,
    seen: Arc<Mutex<Seen>>,
}

impl Audio {
    /// The next signed frame; false at the end, announced or not.
    async fn frame(&mut self) -> bool {
        use http_body_util::BodyExt;
        loop {
            if let DecodedFrame::Complete(outer) = self.decoder.decode_frame(&mut self.buffer).unwrap() {
                let mut seen = self.seen.lock().unwrap();
                if outer.payload().is_empty() {
                    seen.ended = true;
                    return false;
                }
                let inner = read_message_from(outer.payload().clone()).unwrap();
                seen.audio.extend_from_slice(inner.payload());
                return true;
            }
            match self.body.frame().await {
                Some(Ok(data)) => self.buffer.extend_from_slice(&data.into_data().unwrap_or_default()),
                Some(Err(_)) | None => return false,
            }
        }
    }
}
