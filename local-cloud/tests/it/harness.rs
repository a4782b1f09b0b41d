//! Clients of every kind, each as its owner would build it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sdk_kinesisvideo::config::{BehaviorVersion, Region};
use aws_sdk_kinesisvideo::types::{ChannelProtocol, ChannelRole, SingleMasterChannelEndpointConfiguration};
use aws_sigv4::http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign};
use aws_sigv4::sign::v4;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use futures_util::{SinkExt, StreamExt};
use local_cloud::{LocalCloud, Settings};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream};

pub const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
/// Nothing on loopback takes this long; a test that waits for it has failed.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Checks signatures; everything else as it comes.
pub async fn cloud() -> LocalCloud {
    start(|_| {}).await
}

pub async fn start(change: impl FnOnce(&mut Settings)) -> LocalCloud {
    let mut settings = Settings { secret: Some(SECRET.into()), ..Settings::default() };
    change(&mut settings);
    LocalCloud::start(settings).await.expect("local-cloud starts")
}

pub fn credentials(secret: &str) -> Credentials {
    Credentials::new("AKIDEXAMPLE", secret, Some("IQoJb3JpZ2luX2VjE/+=dummyToken==".into()), None, "test")
}

/// An HTTP client that trusts only the development certificate.
pub fn trusting(cloud: &LocalCloud) -> aws_sdk_kinesisvideo::config::SharedHttpClient {
    let store = TrustStore::empty().with_pem_certificate(cloud.certificate_pem().as_bytes());
    let context = TlsContext::builder().with_trust_store(store).build().expect("a TLS context");
    aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
        .tls_context(context)
        .build_https()
}

pub fn kinesis(cloud: &LocalCloud, endpoint: &str, secret: &str) -> aws_sdk_kinesisvideo::Client {
    let config = aws_sdk_kinesisvideo::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(credentials(secret))
        .http_client(trusting(cloud))
        .endpoint_url(endpoint)
        .build();
    aws_sdk_kinesisvideo::Client::from_conf(config)
}

pub fn ice_client(cloud: &LocalCloud, endpoint: &str) -> aws_sdk_kinesisvideosignaling::Client {
    let config = aws_sdk_kinesisvideosignaling::Config::builder()
        .behavior_version(aws_sdk_kinesisvideosignaling::config::BehaviorVersion::latest())
        .region(aws_sdk_kinesisvideosignaling::config::Region::new("us-east-1"))
        .credentials_provider(credentials(SECRET))
        .http_client(trusting(cloud))
        .endpoint_url(endpoint)
        .build();
    aws_sdk_kinesisvideosignaling::Client::from_conf(config)
}

/// A channel and where its two roles connect.
pub struct Channel {
    pub arn: String,
    pub master: String,
    pub viewer: String,
    pub calls: String,
    secret: &'static str,
    connector: Connector,
}

impl Channel {
    /// Made with the SDK over plain http.
    pub async fn create(cloud: &LocalCloud, name: &str) -> Self {
        Self::create_with_ttl(cloud, name, 60).await
    }

    pub async fn create_with_ttl(cloud: &LocalCloud, name: &str, ttl_seconds: i32) -> Self {
        let kinesis = kinesis(cloud, &cloud.http_url(), SECRET);
        let configuration =
            aws_sdk_kinesisvideo::types::SingleMasterConfiguration::builder().message_ttl_seconds(ttl_seconds).build();
        let created = kinesis
            .create_signaling_channel()
            .channel_name(name)
            .single_master_configuration(configuration)
            .send()
            .await
            .expect("created");
        let arn = created.channel_arn.expect("an ARN");
        let (master, _) = endpoints(&kinesis, &arn, ChannelRole::Master).await;
        let (viewer, calls) = endpoints(&kinesis, &arn, ChannelRole::Viewer).await;
        Self { arn, master, viewer, calls, secret: SECRET, connector: connector(cloud) }
    }

    pub async fn master(&self) -> Peer {
        self.dial(&self.url(&self.master, None)).await.expect("the master connects")
    }

    pub async fn viewer(&self, client_id: &str) -> Peer {
        self.dial(&self.url(&self.viewer, Some(client_id))).await.expect("the viewer connects")
    }

    pub fn url(&self, endpoint: &str, client_id: Option<&str>) -> String {
        presigned(endpoint, &self.arn, client_id, self.secret, SystemTime::now())
    }

    pub async fn dial(&self, url: &str) -> Result<Peer, Refused> {
        dial(url, Some(self.connector.clone()), None).await
    }

    pub async fn dial_with_protocol(&self, url: &str, protocol: &str) -> Result<Peer, Refused> {
        dial(url, Some(self.connector.clone()), Some(protocol)).await
    }
}

/// The WSS and the HTTPS endpoint of a role.
pub async fn endpoints(kinesis: &aws_sdk_kinesisvideo::Client, arn: &str, role: ChannelRole) -> (String, String) {
    let configuration = SingleMasterChannelEndpointConfiguration::builder()
        .protocols(ChannelProtocol::Wss)
        .protocols(ChannelProtocol::Https)
        .role(role)
        .build();
    let answer = kinesis
        .get_signaling_channel_endpoint()
        .channel_arn(arn)
        .single_master_channel_endpoint_configuration(configuration)
        .send()
        .await
        .expect("endpoints");
    let list = answer.resource_endpoint_list();
    let of = |protocol: ChannelProtocol| {
        let entry = list.iter().find(|entry| entry.protocol() == Some(&protocol)).expect("the protocol");
        entry.resource_endpoint().expect("an endpoint").to_owned()
    };
    (of(ChannelProtocol::Wss), of(ChannelProtocol::Https))
}

/// The connect URL as the crate aws-sigv4 signs it.
pub fn presigned(endpoint: &str, arn: &str, client_id: Option<&str>, secret: &str, time: SystemTime) -> String {
    let mut url = format!("{endpoint}?X-Amz-ChannelARN={}", arn.replace(':', "%3A").replace('/', "%2F"));
    if let Some(id) = client_id {
        url.push_str(&format!("&X-Amz-ClientId={id}"));
    }
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::QueryParams;
    settings.expires_in = Some(Duration::from_secs(299));
    let identity = credentials(secret).into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region("us-east-1")
        .name("kinesisvideo")
        .time(time)
        .settings(settings)
        .build()
        .expect("all parameters given")
        .into();
    let request = SignableRequest::new("GET", &url, std::iter::empty(), SignableBody::Bytes(b"")).expect("signable");
    let (instructions, _) = sign(request, &params).expect("signed").into_parts();
    let mut request = http::Request::builder().uri(&url).body(()).expect("a request");
    instructions.apply_to_request_http1x(&mut request);
    request.uri().to_string()
}

/// TLS for tungstenite that trusts only the development certificate.
pub fn connector(cloud: &LocalCloud) -> Connector {
    let mut roots = rustls::RootCertStore::empty();
    let certificate = CertificateDer::from_pem_slice(cloud.certificate_pem().as_bytes()).expect("PEM");
    roots.add(certificate).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Connector::Rustls(Arc::new(config))
}

/// A handshake that ended in an HTTP answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    pub status: u16,
    pub error_type: String,
    pub body: String,
}

async fn dial(url: &str, connector: Option<Connector>, protocol: Option<&str>) -> Result<Peer, Refused> {
    let mut request = url.into_client_request().expect("a request");
    if let Some(protocol) = protocol {
        request.headers_mut().insert("sec-websocket-protocol", protocol.parse().expect("a value"));
    }
    let dialled = tokio_tungstenite::connect_async_tls_with_config(request, None, true, connector);
    match tokio::time::timeout(PATIENCE, dialled).await.expect("an answer in time") {
        Ok((socket, response)) => {
            let protocol = response.headers().get("sec-websocket-protocol");
            Ok(Peer { socket, protocol: protocol.map(|value| value.to_str().expect("text").to_owned()) })
        }
        Err(tungstenite::Error::Http(response)) => {
            let header =
                |name: &str| response.headers().get(name).map(|value| value.to_str().expect("text").to_owned());
            assert!(header("x-amzn-requestid").is_some(), "every answer has a request id");
            Err(Refused {
                status: response.status().as_u16(),
                error_type: header("x-amzn-errortype").unwrap_or_default(),
                body: String::from_utf8_lossy(response.body().as_deref().unwrap_or_default()).into_owned(),
            })
        }
        Err(other) => panic!("the handshake broke: {other}"),
    }
}

/// One signaling socket.
pub struct Peer {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    pub protocol: Option<String>,
}

/// How a socket ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    Closed(u16),
    ClosedWithoutCode,
    /// No close frame came.
    Broken,
}

impl Peer {
    pub async fn say(&mut self, frame: &str) {
        self.send(Message::Text(frame.into())).await;
    }

    pub async fn send(&mut self, message: Message) {
        self.socket.send(message).await.expect("sent");
    }

    /// The next message that is no text frame of the service, or the next text frame.
    pub async fn next(&mut self) -> Option<Result<Message, tungstenite::Error>> {
        tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("something in time")
    }

    /// The next text frame as sent.
    pub async fn hear(&mut self) -> String {
        match self.next().await {
            Some(Ok(Message::Text(text))) => text.to_string(),
            other => panic!("expected a text frame, got {other:?}"),
        }
    }

    pub async fn hear_json(&mut self) -> Value {
        serde_json::from_str(&self.hear().await).expect("json")
    }

    /// `messageType` and `messagePayload` of the next frame.
    pub async fn hear_kind(&mut self) -> (String, String) {
        let frame = self.hear_json().await;
        let field = |name: &str| frame[name].as_str().unwrap_or_default().to_owned();
        (field("messageType"), field("messagePayload"))
    }

    /// Waits for the end; text frames before it are skipped.
    pub async fn ended(&mut self) -> Ended {
        loop {
            match self.next().await {
                Some(Ok(Message::Close(Some(frame)))) => return Ended::Closed(frame.code.into()),
                Some(Ok(Message::Close(None))) => return Ended::ClosedWithoutCode,
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Ended::Broken,
            }
        }
    }

    pub async fn close(mut self) {
        self.socket.close(None).await.expect("closed");
        while let Some(Ok(_)) = self.next().await {}
    }
}

/// A plain HTTP client, as any script would use.
pub fn browser() -> reqwest::Client {
    // Fails when another test has installed it already, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    reqwest::Client::new()
}

/// Waits until `check` holds.
pub async fn until(what: &str, mut check: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !check() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "waited in vain for: {what}");
}
