//! A wire that fails as it is told to, between the store and its DynamoDB.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// What happens to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Never carried out: refused with this status and name.
    Refused(u16, &'static str),
    /// Never carried out: the condition is said to have failed, with no item.
    ConditionFailed,
    /// Never carried out and never answered.
    Silence,
    /// Never carried out; the connection is cut.
    Cut,
    /// Never carried out: something that no DynamoDB would say.
    Nonsense,
    /// Carried out; the connection is cut instead of an answer.
    CutAfter,
    /// Carried out; never answered.
    SilenceAfter,
    /// Carried out; the answer is an internal error.
    ErrorAfter,
    /// Of a batch, only the first half is carried out; the rest is said to be unprocessed.
    Half,
    /// Carried out; the table that is described is said to be still in the making.
    InTheMaking,
    /// Carried out; so are its indexes.
    IndexInTheMaking,
}

type Rule = Box<dyn FnMut(&str) -> Fault + Send>;

struct Wire {
    upstream: String,
    client: reqwest::Client,
    rule: Mutex<Rule>,
    seen: Mutex<Vec<String>>,
}

pub struct Proxy {
    pub url: String,
    address: SocketAddr,
    wire: Arc<Wire>,
    server: Option<AbortOnDropHandle<()>>,
}

impl Proxy {
    pub async fn before(upstream: &str) -> Proxy {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let wire = Arc::new(Wire {
            upstream: upstream.to_owned(),
            client: reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap(),
            rule: Mutex::new(Box::new(|_| Fault::None)),
            seen: Mutex::default(),
        });
        let server = serve(listener, Arc::clone(&wire));
        Proxy { url: format!("http://{address}"), address, wire, server: Some(server) }
    }

    /// From now on: what happens to a request for this operation. What was seen is forgotten.
    pub fn rule(&self, rule: impl FnMut(&str) -> Fault + Send + 'static) {
        *self.wire.rule.lock().unwrap() = Box::new(rule);
        self.wire.seen.lock().unwrap().clear();
    }

    /// The next requests for this operation fail so, one after the other; whatever else comes is served.
    pub fn next(&self, operation: &'static str, faults: impl IntoIterator<Item = Fault>) {
        let mut faults: Vec<Fault> = faults.into_iter().collect();
        faults.reverse();
        self.rule(move |asked| if asked == operation { faults.pop().unwrap_or(Fault::None) } else { Fault::None });
    }

    pub fn always(&self, fault: Fault) {
        self.rule(move |_| fault);
    }

    /// The operations that were asked for since the last rule.
    pub fn seen(&self) -> Vec<String> {
        self.wire.seen.lock().unwrap().clone()
    }

    /// Nobody listens any more, and all connections are cut.
    pub async fn close(&mut self) {
        let server = self.server.take().unwrap();
        server.abort();
        let _ = server.await;
    }

    /// The same address is served again.
    pub async fn open(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.server = Some(serve(listener, Arc::clone(&self.wire)));
    }
}

fn serve(listener: TcpListener, wire: Arc<Wire>) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        // Connections end with the server.
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let wire = Arc::clone(&wire);
            connections.spawn(async move {
                let service = service_fn(move |request| answer(Arc::clone(&wire), request));
                let http = hyper::server::conn::http1::Builder::new();
                // A service that fails cuts the connection: that is what it is for here.
                let _ = http.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    }))
}

#[derive(Debug, thiserror::Error)]
#[error("cut")]
struct Cut;

async fn answer(wire: Arc<Wire>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Cut> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
    let target =
        parts.headers.get("x-amz-target").map(|target| target.to_str().unwrap().to_owned()).unwrap_or_default();
    let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
    wire.seen.lock().unwrap().push(operation.clone());
    let fault = (wire.rule.lock().unwrap())(&operation);
    match fault {
        Fault::None => Ok(forward(&wire, &parts, body).await),
        Fault::Refused(status, name) => Ok(error(status, name)),
        Fault::ConditionFailed => Ok(error(400, "ConditionalCheckFailedException")),
        Fault::Silence => Ok(silence().await),
        Fault::Cut => Err(Cut),
        Fault::Nonsense => Ok(Response::new(Full::from("<html>moved</html>"))),
        Fault::CutAfter => {
            forward(&wire, &parts, body).await;
            Err(Cut)
        }
        Fault::SilenceAfter => {
            forward(&wire, &parts, body).await;
            Ok(silence().await)
        }
        Fault::ErrorAfter => {
            forward(&wire, &parts, body).await;
            Ok(error(500, "InternalServerError"))
        }
        Fault::Half => Ok(half(&wire, &parts, &body).await),
        Fault::InTheMaking | Fault::IndexInTheMaking => {
            Ok(in_the_making(forward(&wire, &parts, body).await, fault == Fault::IndexInTheMaking).await)
        }
    }
}

async fn silence() -> Response<Full<Bytes>> {
    std::future::pending::<Infallible>().await;
    unreachable!("pending")
}

fn error(status: u16, name: &str) -> Response<Full<Bytes>> {
    let body = json!({ "__type": format!("com.amazonaws.dynamodb.v20120810#{name}"), "message": "so it was told" });
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

async fn forward(wire: &Wire, parts: &http::request::Parts, body: Bytes) -> Response<Full<Bytes>> {
    let mut request = wire.client.post(&wire.upstream).body(body);
    for name in ["authorization", "content-type", "x-amz-target", "x-amz-date"] {
        if let Some(value) = parts.headers.get(name) {
            request = request.header(name, value);
        }
    }
    let answer = request.send().await.unwrap();
    let status = answer.status();
    let mut response = Response::new(Full::new(answer.bytes().await.unwrap()));
    *response.status_mut() = status;
    response
}

async fn half(wire: &Wire, parts: &http::request::Parts, body: &Bytes) -> Response<Full<Bytes>> {
    let mut request: Value = serde_json::from_slice(body).unwrap();
    let mut rest = json!({});
    for (table, asked) in request["RequestItems"].as_object_mut().unwrap() {
        let is_write = asked.is_array();
        let list = if is_write { asked.as_array_mut() } else { asked["Keys"].as_array_mut() }.unwrap();
        let left: Vec<Value> = list.split_off(list.len().div_ceil(2));
        if !left.is_empty() {
            rest[table] = if is_write { json!(left) } else { json!({ "Keys": left, "ConsistentRead": true }) };
        }
    }
    let answer = forward(wire, parts, request.to_string().into()).await;
    let answer = answer.into_body().collect().await.unwrap().to_bytes();
    let mut answer: Value = serde_json::from_slice(&answer).unwrap();
    let name = if answer.get("Responses").is_some() { "UnprocessedKeys" } else { "UnprocessedItems" };
    answer[name] = rest;
    Response::new(Full::from(answer.to_string()))
}

async fn in_the_making(answer: Response<Full<Bytes>>, index_only: bool) -> Response<Full<Bytes>> {
    let answer = answer.into_body().collect().await.unwrap().to_bytes();
    let mut answer: Value = serde_json::from_slice(&answer).unwrap();
    if !index_only {
        answer["Table"]["TableStatus"] = json!("CREATING");
    }
    for index in answer["Table"]["GlobalSecondaryIndexes"].as_array_mut().into_iter().flatten() {
        index["IndexStatus"] = json!("CREATING");
    }
    Response::new(Full::from(answer.to_string()))
}
