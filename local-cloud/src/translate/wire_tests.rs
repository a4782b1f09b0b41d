//! The service as an official SDK sees it, over real sockets, in both protocols.

use std::sync::Arc;
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_sdk_translate::Client;
use aws_sdk_translate::config::retry::RetryConfig;
use aws_sdk_translate::config::{BehaviorVersion, Region};
use aws_sdk_translate::error::ProvideErrorMetadata;
use aws_sdk_translate::operation::translate_text::TranslateTextError;
use aws_sdk_translate::types::{DisplayLanguageCode, Formality, TranslationSettings};
use aws_smithy_json::protocol::aws_json_rpc::AwsJsonRpcProtocol;
use axum::body::to_bytes;
use http::{HeaderMap, StatusCode};
use tokio_util::task::AbortOnDropHandle;

use super::*;

#[tokio::test]
async fn both_protocols_translate() {
    for protocol in PROTOCOLS {
        let cloud = Cloud::scripted().await;
        let answer = text(&cloud.client(protocol), "en", "es", "Ünïcode 😀 \"quoted\"\n").await.unwrap();
        assert_eq!(answer, "[es] Ünïcode 😀 \"quoted\"\n", "{protocol:?}");
        assert_eq!(cloud.translate.traffic()["es"], Traffic { requests: 1, characters: 19, failures: 0 });
    }
}

#[tokio::test]
async fn the_answer_names_both_languages() {
    for protocol in PROTOCOLS {
        let cloud = Cloud::scripted().await;
        let answer = request(&cloud.client(protocol), "en", "pt-PT", "hi").send().await.unwrap();
        assert_eq!((answer.source_language_code(), answer.target_language_code()), ("en", "pt-PT"));
    }
}

#[tokio::test]
async fn a_given_table_is_spoken() {
    let table = serde_json::from_str(r#"{"table":{"es":{"hello":"hola"}}}"#).unwrap();
    let cloud = Cloud::start(EngineSettings::Scripted(table)).await;
    let client = cloud.client(Protocol::Cbor);
    assert_eq!(text(&client, "en", "es", "hello").await.unwrap(), "hola");
    assert_eq!(text(&client, "en", "fr", "hello").await.unwrap(), "[fr] hello");
}

#[tokio::test]
async fn the_same_language_twice_returns_the_text() {
    let cloud = Cloud::scripted().await;
    assert_eq!(text(&cloud.client(Protocol::Cbor), "en", "en", " as  is ").await.unwrap(), " as  is ");
}

#[tokio::test]
async fn an_unsupported_pair_is_told_with_its_languages() {
    for protocol in PROTOCOLS {
        let cloud = Cloud::scripted().await;
        for (source, target) in [("en", "xx"), ("xx", "es"), ("xx", "xx"), ("en", "ES"), ("en", "auto")] {
            let error = text(&cloud.client(protocol), source, target, "hi").await.unwrap_err();
            let TranslateTextError::UnsupportedLanguagePairException(pair) = error else {
                panic!("{protocol:?} {source} {target}: {error:?}");
            };
            assert_eq!(pair.source_language_code(), Some(source));
            assert_eq!(pair.target_language_code(), Some(target));
        }
        assert!(cloud.translate.traffic().is_empty());
    }
}

#[tokio::test]
async fn text_has_one_to_ten_thousand_bytes() {
    for protocol in PROTOCOLS {
        let cloud = Cloud::scripted().await;
        let client = cloud.client(protocol);
        assert!(text(&client, "en", "es", &"é".repeat(5_000)).await.is_ok());
        let error = text(&client, "en", "es", &format!("{}x", "é".repeat(5_000))).await.unwrap_err();
        assert!(matches!(error, TranslateTextError::TextSizeLimitExceededException(_)), "{protocol:?} {error:?}");
        assert!(error.message().unwrap().contains("10001 bytes"));
        let error = text(&client, "en", "es", "").await.unwrap_err();
        assert!(matches!(error, TranslateTextError::InvalidRequestException(_)), "{protocol:?} {error:?}");
    }
}

#[tokio::test]
async fn other_bad_requests_are_told_by_their_kind() {
    for protocol in PROTOCOLS {
        let cloud = Cloud::scripted().await;
        let client = cloud.client(protocol);
        let error = text(&client, "auto", "es", "hi").await.unwrap_err();
        assert!(matches!(error, TranslateTextError::DetectedLanguageLowConfidenceException(_)), "{error:?}");
        let error = text(&client, "english", "es", "hi").await.unwrap_err();
        assert!(matches!(error, TranslateTextError::InvalidRequestException(_)), "{error:?}");
        let error = request(&client, "en", "es", "hi").terminology_names("names").send().await.unwrap_err();
        assert!(error.into_service_error().is_resource_not_found_exception());
        let two = request(&client, "en", "es", "hi").terminology_names("a").terminology_names("b");
        assert!(two.send().await.unwrap_err().into_service_error().is_invalid_request_exception());
        let formal = TranslationSettings::builder().formality(Formality::Formal).build();
        assert!(request(&client, "en", "es", "hi").settings(formal).send().await.is_ok());
        let odd = TranslationSettings::builder().formality("CASUAL".into()).build();
        let error = request(&client, "en", "es", "hi").settings(odd).send().await.unwrap_err();
        assert!(error.into_service_error().is_invalid_request_exception());
    }
}

#[tokio::test]
async fn bytes_that_are_no_request_get_a_serialization_error() {
    let translate = Translate::new(&scripted()).unwrap();
    for (wire, body) in [
        (Wire::Json, "{"),
        (Wire::Json, "[]"),
        (Wire::Json, r#"{"Text":7}"#),
        (Wire::Json, "\u{0}"),
        (Wire::Cbor, "\u{1f}"),
        (Wire::Cbor, "hello"),
    ] {
        let response = translate.rpc(wire, "TranslateText", Bytes::from_static(body.as_bytes())).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{wire:?} {body:?}");
        let bytes = to_bytes(response.into_body(), 10_000).await.unwrap();
        assert!(String::from_utf8_lossy(&bytes).contains("SerializationException"), "{wire:?} {body:?}");
    }
    let response = translate.json_rpc("TranslateText", Bytes::from_static(b"{}")).await;
    let bytes = to_bytes(response.into_body(), 10_000).await.unwrap();
    let body: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(body["__type"], "InvalidRequestException");
    assert!(body["Message"].as_str().unwrap().contains("'text'"));
    let response = translate.json_rpc("ImportTerminology", Bytes::from_static(b"{}")).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn languages_are_listed_page_by_page() {
    for protocol in PROTOCOLS {
        let cloud = Cloud::scripted().await;
        let client = cloud.client(protocol);
        let all = client.list_languages().send().await.unwrap();
        assert!(all.languages().len() >= 75 && all.next_token().is_none());
        let mut codes = vec![];
        let mut token = None;
        loop {
            let page = client.list_languages().max_results(20).set_next_token(token).send().await.unwrap();
            codes.extend(page.languages().iter().map(|language| language.language_code().to_owned()));
            token = page.next_token().map(str::to_owned);
            if token.is_none() {
                break;
            }
        }
        assert_eq!(codes, all.languages().iter().map(|language| language.language_code()).collect::<Vec<_>>());
        let error = client.list_languages().display_language_code(DisplayLanguageCode::Fr).send().await.unwrap_err();
        assert!(error.into_service_error().is_unsupported_display_language_code_exception());
    }
}

#[tokio::test]
async fn ordered_faults_come_as_the_errors_of_the_service() {
    for protocol in PROTOCOLS {
        let cloud = Cloud::scripted().await;
        let client = cloud.client(protocol);
        for (fault, name) in [
            (Fault::TooManyRequests, "TooManyRequestsException"),
            (Fault::InternalServer, "InternalServerException"),
            (Fault::ServiceUnavailable, "ServiceUnavailableException"),
        ] {
            cloud.translate.set_chaos(Chaos { fail_next: 2, fault, ..Chaos::default() });
            for _ in 0..2 {
                let error = text(&client, "en", "es", "hi").await.unwrap_err();
                assert_eq!(error.code(), Some(name), "{protocol:?}");
            }
            assert!(text(&client, "en", "es", "hi").await.is_ok());
        }
        assert_eq!(cloud.translate.traffic()["es"], Traffic { requests: 9, characters: 18, failures: 6 });
    }
}

#[tokio::test]
async fn the_sdk_retries_every_one_of_these_faults() {
    for fault in [Fault::TooManyRequests, Fault::InternalServer, Fault::ServiceUnavailable] {
        let cloud = Cloud::scripted().await;
        cloud.translate.set_chaos(Chaos { fail_next: 2, fault, ..Chaos::default() });
        let retry = RetryConfig::standard().with_max_attempts(3).with_initial_backoff(Duration::from_millis(1));
        let client = Client::from_conf(cloud.config(Protocol::Cbor).retry_config(retry).build());
        assert_eq!(text(&client, "en", "es", "hi").await.unwrap(), "[es] hi");
        assert_eq!(cloud.translate.traffic()["es"].requests, 3);
    }
}

#[tokio::test]
async fn chaos_for_one_language_leaves_the_others_alone() {
    let cloud = Cloud::scripted().await;
    let client = cloud.client(Protocol::Cbor);
    let target = Some("es".to_owned());
    cloud.translate.set_chaos(Chaos { fail_next: 1, error_rate: 1.0, target, ..Chaos::default() });
    assert!(text(&client, "en", "fr", "hi").await.is_ok());
    assert_eq!(cloud.translate.chaos().fail_next, 1);
    assert!(text(&client, "en", "es", "hi").await.is_err());
    assert_eq!(cloud.translate.chaos().fail_next, 0);
    assert!(text(&client, "en", "es", "hi").await.is_err(), "by the error rate");
    assert!(text(&client, "en", "fr", "hi").await.is_ok());
}

#[tokio::test]
async fn a_hanging_service_answers_when_the_switch_goes_off() {
    let cloud = Cloud::scripted().await;
    cloud.translate.set_chaos(Chaos { hang: true, target: Some("es".to_owned()), ..Chaos::default() });
    let client = cloud.client(Protocol::Cbor);
    let mut hanging = Box::pin(text(&client, "en", "es", "hi"));
    assert!(tokio::time::timeout(Duration::from_millis(200), &mut hanging).await.is_err());
    assert!(text(&client, "en", "fr", "hi").await.is_ok());
    cloud.translate.set_chaos(Chaos::default());
    assert_eq!(hanging.await.unwrap(), "[es] hi");
}

#[tokio::test]
async fn a_delay_holds_every_answer_back() {
    let cloud = Cloud::scripted().await;
    cloud.translate.set_chaos(Chaos { delay_ms: 150, ..Chaos::default() });
    let before = std::time::Instant::now();
    text(&cloud.client(Protocol::Cbor), "en", "es", "hi").await.unwrap();
    assert!(before.elapsed() >= Duration::from_millis(150));
}

#[tokio::test]
async fn faults_can_be_set_from_outside() {
    let translate = Arc::new(Translate::new(&scripted()).unwrap());
    let bad = Bytes::from_static(br#"{"chaos":{"failNxt":1}}"#);
    assert_eq!(meddle(State(Arc::clone(&translate)), bad).await.status(), StatusCode::BAD_REQUEST);
    let good = Bytes::from_static(br#"{"chaos":{"failNext":1,"fault":"tooManyRequests","target":"es"}}"#);
    let response = meddle(State(Arc::clone(&translate)), good).await;
    let shown = to_bytes(response.into_body(), 10_000).await.unwrap();
    let shown: serde_json::Value = serde_json::from_slice(&shown).unwrap();
    assert_eq!(shown["chaos"]["fault"], "tooManyRequests");
    let target = Some("es".to_owned());
    assert_eq!(translate.chaos(), Chaos { fail_next: 1, fault: Fault::TooManyRequests, target, ..Chaos::default() });
}

const PROTOCOLS: [Protocol; 2] = [Protocol::Cbor, Protocol::Json];

#[derive(Debug, Clone, Copy)]
pub(super) enum Protocol {
    Cbor,
    Json,
}

/// The service on a port of its own, with `POST /` dispatched the way the assembly does it.
pub(super) struct Cloud {
    pub translate: Arc<Translate>,
    url: String,
    _server: AbortOnDropHandle<()>,
}

impl Cloud {
    async fn scripted() -> Cloud {
        Cloud::start(EngineSettings::Scripted(Scripted::default())).await
    }

    pub async fn start(engine: EngineSettings) -> Cloud {
        let translate = Arc::new(Translate::new(&Settings { engine }).unwrap());
        let json = |State(translate): State<Arc<Translate>>, headers: HeaderMap, body: Bytes| async move {
            let target = headers["x-amz-target"].to_str().unwrap().to_owned();
            let (prefix, operation) = target.split_once('.').unwrap();
            assert_eq!(prefix, TARGET_PREFIX);
            translate.json_rpc(operation, body).await
        };
        let root = Router::new().route("/", post(json)).with_state(Arc::clone(&translate));
        let router = root.merge(Arc::clone(&translate).router());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Cloud { translate, url, _server: AbortOnDropHandle::new(server) }
    }

    /// One attempt a call, so that a test sees every error.
    pub fn client(&self, protocol: Protocol) -> Client {
        Client::from_conf(self.config(protocol).retry_config(RetryConfig::disabled()).build())
    }

    fn config(&self, protocol: Protocol) -> aws_sdk_translate::config::Builder {
        let config = aws_sdk_translate::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new("test", "test", None, None, "test"))
            .endpoint_url(&self.url);
        match protocol {
            Protocol::Cbor => config,
            Protocol::Json => config.protocol(AwsJsonRpcProtocol::aws_json_1_1().with_target_prefix(TARGET_PREFIX)),
        }
    }
}

fn scripted() -> Settings {
    Settings { engine: EngineSettings::Scripted(Scripted::default()) }
}

pub(super) async fn text(client: &Client, from: &str, to: &str, text: &str) -> Result<String, TranslateTextError> {
    let answer = request(client, from, to, text).send().await.map_err(|error| error.into_service_error())?;
    Ok(answer.translated_text().to_owned())
}

fn request(
    client: &Client,
    from: &str,
    to: &str,
    text: &str,
) -> aws_sdk_translate::operation::translate_text::builders::TranslateTextFluentBuilder {
    client.translate_text().source_language_code(from).target_language_code(to).text(text)
}
