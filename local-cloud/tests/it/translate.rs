//! Translate behind the shared ports: both wire forms, and the signatures the ports check for it.

use aws_sdk_kinesisvideo::error::ProvideErrorMetadata;
use aws_sdk_translate::config::{BehaviorVersion, Region};
use local_cloud::{LocalCloud, translate};
use serde_json::{Value, json};

use crate::harness::{SECRET, browser, credentials, start};

async fn cloud(secret: Option<&str>) -> LocalCloud {
    let engine = translate::EngineSettings::Scripted(translate::Scripted::default());
    start(|settings| {
        settings.secret = secret.map(Into::into);
        settings.translate = Some(translate::Settings { engine });
    })
    .await
}

fn client(cloud: &LocalCloud, secret: &str) -> aws_sdk_translate::Client {
    let config = aws_sdk_translate::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(credentials(secret))
        .endpoint_url(cloud.http_url())
        .build();
    aws_sdk_translate::Client::from_conf(config)
}

fn ask(
    client: &aws_sdk_translate::Client,
) -> aws_sdk_translate::operation::translate_text::builders::TranslateTextFluentBuilder {
    client.translate_text().text("hello").source_language_code("en").target_language_code("es")
}

#[tokio::test]
async fn the_sdk_translates_with_a_good_signature() {
    let cloud = cloud(Some(SECRET)).await;
    let answer = ask(&client(&cloud, SECRET)).send().await.expect("translated");
    assert_eq!(answer.translated_text(), "[es] hello");
}

#[tokio::test]
async fn a_wrong_secret_is_refused_in_the_clients_own_protocol() {
    let cloud = cloud(Some(SECRET)).await;
    let refused = ask(&client(&cloud, "wrong")).send().await.expect_err("refused");
    assert_eq!(refused.code(), Some("InvalidSignatureException"));
    assert!(refused.message().is_some_and(|message| message.contains("does not match")));
    let traffic = cloud.translate().expect("there").traffic();
    assert!(traffic.is_empty(), "a refused call reaches no engine");
}

#[tokio::test]
async fn json_services_share_one_path_and_unknown_targets_are_refused() {
    let cloud = cloud(None).await;
    let call = async |target: &str| {
        let body = json!({ "Text": "hello", "SourceLanguageCode": "en", "TargetLanguageCode": "es" }).to_string();
        let request = browser().post(cloud.http_url()).header("x-amz-target", target).body(body);
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.json::<Value>().await.expect("json"))
    };
    let (status, answer) = call("AWSShineFrontendService_20170701.TranslateText").await;
    assert_eq!((status, &answer["TranslatedText"]), (200, &json!("[es] hello")));
    let (status, answer) = call("DynamoDB_20120810.GetItem").await;
    assert_eq!((status, &answer["__type"]), (404, &json!("UnknownOperationException")));
}

#[tokio::test]
async fn the_ports_work_without_translate() {
    let cloud = start(|_| {}).await;
    assert!(cloud.translate().is_none());
    let refused = ask(&client(&cloud, SECRET)).send().await.expect_err("refused");
    assert_eq!(refused.raw_response().map(|raw| raw.status().as_u16()), Some(404));
}
