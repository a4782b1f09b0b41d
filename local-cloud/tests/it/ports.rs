//! What both ports do for every part: CORS, request ids, unknown paths, slow clients, certificates, the stop.

use std::time::Duration;

use local_cloud::{CertificateError, LocalCloud, Settings, StartError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Channel, PATIENCE, browser, cloud, start};

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
async fn clients_that_send_nothing_or_half_a_request_are_cut() {
    let cloud = cloud().await;
    let halves =
        ["", "POST /descri", "P", "POST /describeSignalingChannel HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{"];
    let address = cloud.http_url().trim_start_matches("http://").to_owned();
    let cut = halves.map(async |half| {
        let mut client = tokio::net::TcpStream::connect(&address).await.expect("connected");
        client.write_all(half.as_bytes()).await.expect("written");
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(40), client.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "no timeout came after {half:?}");
    });
    futures_util::future::join_all(cut).await;
}

#[tokio::test]
async fn the_plain_port_speaks_http2_to_those_who_begin_with_it() {
    let cloud = cloud().await;
    let address = cloud.http_url().trim_start_matches("http://").to_owned();
    let mut client = tokio::net::TcpStream::connect(address).await.expect("connected");
    // In two parts: the version must not be decided too early. The nine bytes are an empty SETTINGS frame.
    client.write_all(b"PR").await.expect("written");
    tokio::time::sleep(Duration::from_millis(50)).await;
    client.write_all(b"I * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.expect("written");
    let mut head = [0u8; 9];
    tokio::time::timeout(PATIENCE, client.read_exact(&mut head)).await.expect("in time").expect("a frame");
    assert_eq!(head[3], 4, "the server's first frame is SETTINGS");
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
