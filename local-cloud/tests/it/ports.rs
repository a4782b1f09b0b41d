//! What both ports do for every part: CORS, request ids, unknown paths, slow clients, certificates, the stop.

use std::time::Duration;

use local_cloud::{CertificateError, LocalCloud, Settings, StartError};
use tokio::io::AsyncReadExt;

use crate::harness::{Channel, browser, cloud, start};

#[tokio::test]
async fn browsers_may_call_from_any_page() {
    let cloud = cloud().await;
    let url = format!("{}/describeSignalingChannel", cloud.http_url());
    let client = browser();
    let preflight = client
        .request(reqwest::Method::OPTIONS, &url)
        .header("origin", "http://127.0.0.1:18099")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization,x-amz-date,amz-sdk-request")
        .send()
        .await
        .expect("an answer");
    assert_eq!(preflight.status(), 204);
    assert_eq!(preflight.headers()["access-control-allow-origin"], "*");
    assert_eq!(preflight.headers()["access-control-allow-headers"], "authorization,x-amz-date,amz-sdk-request");
    let refused = client.post(&url).header("origin", "http://x").body("{}").send().await.expect("an answer");
    assert_eq!(refused.status(), 403);
    assert_eq!(refused.headers()["x-amzn-errortype"], "MissingAuthenticationTokenException");
    assert_eq!(refused.headers()["access-control-allow-origin"], "*");
    let exposed = refused.headers()["access-control-expose-headers"].to_str().expect("text");
    assert!(exposed.contains("x-amzn-errortype") && exposed.contains("date"));
}

#[tokio::test]
async fn unknown_operations_are_refused_in_the_shape_of_aws() {
    let cloud = cloud().await;
    let client = browser();
    let answer = client.post(format!("{}/createStream", cloud.http_url())).body("{}").send().await.expect("an answer");
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["x-amzn-errortype"]),
        (404, &"UnknownOperationException".parse().expect("a value"))
    );
    assert!(answer.headers().contains_key("x-amzn-requestid"));
    let body: serde_json::Value = answer.json().await.expect("json");
    assert!(body["Message"].is_string());
}

#[tokio::test]
async fn a_client_that_sends_nothing_is_cut() {
    let cloud = cloud().await;
    let address = cloud.http_url().trim_start_matches("http://").to_owned();
    let mut silent = tokio::net::TcpStream::connect(address).await.expect("connected");
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(30), silent.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the header timeout never came");
}

#[tokio::test]
async fn a_kept_certificate_survives_a_restart() {
    let folder = std::env::temp_dir().join(format!("local-cloud-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join("certificate.pem");
    let settings = Settings { certificate_file: Some(file.clone()), ..Settings::default() };
    let first = LocalCloud::start(settings.clone()).await.expect("started");
    let pem = first.certificate_pem().to_owned();
    assert!(!pem.contains("PRIVATE KEY"));
    first.stop().await;
    let second = start(|changed| changed.certificate_file = Some(file.clone())).await;
    assert_eq!(second.certificate_pem(), pem);
    Channel::create(&second, "s").await.master().await;
    std::fs::write(&file, "no certificate").expect("written");
    let refused = LocalCloud::start(settings).await.err().expect("refused");
    assert!(matches!(refused, StartError::Certificate(CertificateError::Content { .. })), "{refused}");
    std::fs::remove_dir_all(folder).expect("removed");
}

#[tokio::test]
async fn a_taken_port_is_an_error_that_names_it() {
    let cloud = cloud().await;
    let taken = cloud.http_url().trim_start_matches("http://").parse().expect("an address");
    let refused = LocalCloud::start(Settings { http: taken, ..Settings::default() }).await.err().expect("refused");
    assert!(refused.to_string().contains(&taken.to_string()));
}

#[tokio::test]
async fn nothing_listens_after_the_stop() {
    let cloud = cloud().await;
    let address = cloud.http_url().trim_start_matches("http://").to_owned();
    cloud.stop().await;
    assert!(tokio::net::TcpStream::connect(&address).await.is_err());
}
