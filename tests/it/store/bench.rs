//! Stores to test, and things to put into them.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use babelcast::aws::{self, Clients, StaticCredentials};
use babelcast::store::{Migrations, Settings, Store, StoreKind};
use babelcast_domain::counts::{Count, Counts};
use babelcast_domain::ids::{AccessCode, NodeId, SessionId, SpeakerId};
use babelcast_domain::language::Language;
use babelcast_domain::record::{QualityTier, SessionRecord, SignalingEndpoints, Status};
use babelcast_domain::time::UnixMs;

/// When the tests take place: far enough ahead that no real TTL deletes what they write.
pub const NOW: UnixMs = UnixMs(2_000_000_000_000);
pub const DAY: Duration = Duration::from_secs(86_400);

/// A server that ends with this process, because its standard input does.
struct Moto {
    url: String,
    _process: Child,
}

/// One server for all tests of this process; each test has tables of its own.
pub fn moto() -> &'static str {
    static MOTO: OnceLock<Moto> = OnceLock::new();
    &MOTO.get_or_init(start_moto).url
}

fn start_moto() -> Moto {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let tools = std::env::var_os("BABELCAST_TEST_TOOLS").map_or_else(|| root.join(".venv/bin"), PathBuf::from);
    let python = tools.join("python");
    assert!(python.exists(), "{} is missing: run `./dev test`, or `./dev tools` once", python.display());
    let mut process = Command::new(python)
        .arg(root.join("tests/dynamodb.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python starts");
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let port: u16 = line.trim().parse().expect("tests/dynamodb.py prints its port when it listens");
    Moto { url: format!("http://127.0.0.1:{port}"), _process: process }
}

/// A prefix that no other test uses.
pub fn new_prefix() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    format!("babelcast-test-{}-{}-{number}-", std::process::id(), rand::random::<u32>())
}

/// Settings that leave a busy machine time.
pub fn patient(url: &str, prefix: &str) -> Settings {
    Settings {
        kind: StoreKind::DynamoDb,
        table_prefix: prefix.to_owned(),
        endpoint_url: Some(url.to_owned()),
        attempt_timeout_ms: 20_000,
        timeout_ms: 60_000,
        attempts: 3,
    }
}

pub async fn clients(url: &str) -> Clients {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let made_up = StaticCredentials { access_key: "test".to_owned(), secret_key: "test".to_owned() };
    let local = url.starts_with("http://");
    let settings = aws::Settings {
        region: local.then(|| "us-east-1".to_owned()),
        credentials: local.then_some(made_up),
        ..aws::Settings::default()
    };
    Clients::connect(&settings, None).await.unwrap()
}

/// A DynamoDB with tables of its own.
pub struct Bench {
    pub store: Store,
    pub counts: Arc<Counts>,
    pub url: String,
    pub prefix: String,
}

impl Bench {
    pub async fn moto() -> Bench {
        let bench = Bench::at(moto(), patient(moto(), &new_prefix())).await;
        migrate(&bench.url, &bench.prefix).await;
        bench
    }

    /// Opens the store only; whether there are tables is the test's affair.
    pub async fn at(url: &str, settings: Settings) -> Bench {
        let counts = Arc::new(Counts::default());
        let prefix = settings.table_prefix.clone();
        let store = Store::open(&settings, clients(url).await.dynamodb(), Arc::clone(&counts));
        Bench { store, counts, url: url.to_owned(), prefix }
    }

    pub fn count(&self, count: Count) -> u64 {
        self.counts.get(count)
    }

    /// Deletes the tables: for an endpoint that outlives the test.
    pub async fn tear_down(self) {
        let config = clients(&self.url).await.dynamodb().endpoint_url(&self.url).build();
        let client = aws_sdk_dynamodb::Client::from_conf(config);
        for table in ["sessions", "presence", "keys", "lines"] {
            client.delete_table().table_name(format!("{}{table}", self.prefix)).send().await.unwrap();
        }
    }
}

pub async fn migrations(url: &str, prefix: &str) -> Migrations {
    Migrations::new(&patient(url, prefix), clients(url).await.dynamodb()).unwrap()
}

pub async fn migrate(url: &str, prefix: &str) {
    let migrations = migrations(url, prefix).await;
    let plan = migrations.plan().await.unwrap();
    migrations.apply(&plan, Duration::from_secs(300), drop).await.unwrap();
}

pub fn id(name: &str) -> SessionId {
    SessionId::parse(name).unwrap()
}

pub fn lang(code: &str) -> Language {
    Language::parse(code).unwrap()
}

pub fn node(name: &str) -> NodeId {
    NodeId::new(name)
}

pub fn ana() -> SpeakerId {
    SpeakerId::new("sub-ana")
}

/// A session of ana's, with every attribute that a new one can have.
pub fn record(name: &str) -> SessionRecord {
    SessionRecord {
        session_id: id(name),
        speaker_id: ana(),
        title: Some("Un título con ñ, 日本語, 🎙 y \u{200f}עברית".to_owned()),
        source_language: lang("en"),
        target_languages: Some(vec![lang("es"), lang("zh-TW")]),
        quality_tier: QualityTier::Premium,
        status: Status::Active,
        end_reason: None,
        speaker_kvs_connected: false,
        kvs_channel_arn: format!("arn:aws:kinesisvideo:us-east-1:1:channel/session-{name}/1"),
        kvs_channel_name: format!("session-{name}"),
        kvs_signaling_endpoints: SignalingEndpoints { wss: "wss://m".into(), https: "https://r".into() },
        kvs_stream_name: None,
        glossary: Some("terms".to_owned()),
        vocabulary: None,
        access_code: Some(AccessCode::parse("tulip").unwrap()),
        private_transcript: false,
        created_at: NOW,
        updated_at: NOW,
        expires_at: NOW.plus(DAY).as_secs(),
        first_audio_at: None,
        version: 1,
        lease_owner: None,
        lease_until: None,
        fence: 0,
    }
}

/// So many milliseconds after the beginning.
pub fn at(ms: u64) -> UnixMs {
    NOW.plus(Duration::from_millis(ms))
}
