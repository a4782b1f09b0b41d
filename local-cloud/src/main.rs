//! `local-cloud` as a program of its own, for docker-compose and for clients in other languages.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, ValueEnum};
use local_cloud::engine::Engine;
use local_cloud::engine::pocketsphinx::PocketSphinx;
use local_cloud::engine::scripted::{Script, Scripted};
use local_cloud::engine::tones::Tones;
use local_cloud::{LocalCloud, Secret, Settings, issuer, kvs, polly, transcribe, translate};
use tokio::signal::unix::{SignalKind, signal};

/// AWS's wire protocols for babelcast, on this machine, without an AWS account.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// Address of plain http and ws.
    #[arg(long, env = "LOCAL_CLOUD_HTTP", default_value = "127.0.0.1:4900")]
    http: SocketAddr,
    /// Address of https and wss.
    #[arg(long, env = "LOCAL_CLOUD_HTTPS", default_value = "127.0.0.1:4943")]
    https: SocketAddr,
    /// Host name clients are sent to.
    #[arg(long, env = "LOCAL_CLOUD_HOST", default_value = "127.0.0.1")]
    host: String,
    /// Secret access key; with it every signature is checked.
    #[arg(long, env = "LOCAL_CLOUD_SECRET", hide_env_values = true)]
    secret: Option<String>,
    /// Answer signaling endpoints as ws:// and http:// instead of wss:// and https://.
    #[arg(long)]
    plain_signaling: bool,
    /// File that keeps the development certificate and its key.
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// ICE servers told to clients: `refusing` (a TURN server of our own that refuses at once), `empty`, or JSON
    /// `[{"Uris":[],"Username":"","Password":"","Ttl":300}]`.
    #[arg(long, default_value = "refusing", value_parser = ice_servers)]
    ice: kvs::IceServers,
    /// Hold clients to the service's rates: 3 handshakes a second a channel, 20 candidates and 5 SDP a second a socket.
    #[arg(long)]
    rates: bool,
    /// What recognises speech: PocketSphinx's Debian package, words coded as tones, a given script, or no Transcribe.
    #[arg(long, value_enum, default_value_t = Recogniser::Pocketsphinx)]
    engine: Recogniser,
    /// What every stream hears with `--engine scripted`: lines of `<from ms> <until ms> <text>`.
    #[arg(long, value_name = "FILE", required_if_eq("engine", "scripted"))]
    script: Option<PathBuf>,
    /// What translates: Apertium's Debian packages, marked texts without any engine, or no Translate at all.
    #[arg(long, value_enum, default_value_t = Translator::Apertium)]
    translator: Translator,
    /// What speaks: espeak-ng's Debian package, tones without any engine, or no Polly at all.
    #[arg(long, value_enum, default_value_t = Speaker::Espeak)]
    speaker: Speaker,
    /// Hold clients to the quotas of a Polly account: neural voices 8 requests a second and 18 at once.
    #[arg(long)]
    speech_quotas: bool,
    /// `iss` of the tokens, if it is not to be the pool's address here.
    #[arg(long, value_name = "URL")]
    issuer_url: Option<String>,
    /// App client id of the tokens.
    #[arg(long, default_value = "babelcast-local")]
    client_id: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Recogniser {
    Pocketsphinx,
    Tones,
    Scripted,
    Off,
}

impl Recogniser {
    fn settings(self, script: Option<&Path>) -> Result<Option<transcribe::Settings>, Box<dyn std::error::Error>> {
        let engine = match self {
            Self::Pocketsphinx => Engine::PocketSphinx(PocketSphinx::start(None)?),
            Self::Tones => Engine::Tones(Tones),
            Self::Scripted => {
                let text = script.map(std::fs::read_to_string).transpose()?.unwrap_or_default();
                Engine::Scripted(Arc::new(Scripted::same(read_script(&text)?)))
            }
            Self::Off => return Ok(None),
        };
        Ok(Some(transcribe::Settings::new(engine)))
    }
}

fn read_script(text: &str) -> Result<Script, String> {
    let mut lines = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let mut parts = line.splitn(3, ' ');
        let times = (parts.next().map(str::parse), parts.next().map(str::parse), parts.next());
        let (Some(Ok(from)), Some(Ok(until)), Some(said)) = times else {
            return Err(format!("the script's line {line:?} is not `<from ms> <until ms> <text>`"));
        };
        lines.push((from, until, said));
    }
    Ok(Script::of(&lines))
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Translator {
    Apertium,
    Scripted,
    Off,
}

impl Translator {
    fn settings(self) -> Option<translate::Settings> {
        let engine = match self {
            Self::Apertium => translate::EngineSettings::Apertium(translate::ApertiumSettings::default()),
            Self::Scripted => translate::EngineSettings::Scripted(translate::Scripted::default()),
            Self::Off => return None,
        };
        Some(translate::Settings { engine })
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Speaker {
    Espeak,
    Scripted,
    Off,
}

impl Speaker {
    fn settings(self, quotas: bool) -> Option<polly::Settings> {
        let engine = match self {
            Self::Espeak => polly::EngineSettings::Espeak(polly::EspeakSettings::default()),
            Self::Scripted => polly::EngineSettings::Scripted(polly::Scripted::default()),
            Self::Off => return None,
        };
        let quotas = quotas.then(polly::Quotas::default);
        Some(polly::Settings { engine, quotas, ..polly::Settings::default() })
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match run(Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = error.as_ref() as &dyn std::error::Error, "local-cloud did not start");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<(), Box<dyn std::error::Error>> {
    let mut terminated = signal(SignalKind::terminate())?;
    let cloud = LocalCloud::start(Settings {
        http: options.http,
        https: options.https,
        host: options.host,
        secret: options.secret.map(Secret::from),
        plain_signaling: options.plain_signaling,
        certificate_file: options.certificate,
        kvs: kvs::Settings {
            ice: options.ice,
            rates: options.rates.then_some(kvs::Rates::AWS),
            ..kvs::Settings::default()
        },
        issuer: issuer::Settings {
            issuer_url: options.issuer_url,
            client_id: options.client_id,
            ..issuer::Settings::default()
        },
        translate: options.translator.settings(),
        polly: options.speaker.settings(options.speech_quotas),
        transcribe: options.engine.settings(options.script.as_deref())?,
    })
    .await?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "endpoint     {}", cloud.http_url())?;
    writeln!(out, "endpoint tls {}", cloud.https_url())?;
    writeln!(out, "issuer       {}", cloud.issuer().url())?;
    writeln!(out, "jwks         {}", cloud.issuer().jwks_url())?;
    writeln!(out, "client id    {}", cloud.issuer().client_id())?;
    writeln!(out, "tokens       POST {}/dev/token", cloud.http_url())?;
    writeln!(out, "chaos        POST {}/dev/kvs", cloud.http_url())?;
    if let Some(transcribe) = cloud.transcribe() {
        writeln!(out, "recogniser   {}", transcribe.engine().name())?;
    }
    if let Some(translate) = cloud.translate() {
        writeln!(out, "languages    en to {}", translate.languages().join(" "))?;
    }
    if let Some(polly) = cloud.polly() {
        writeln!(out, "voices       {}", polly.voices().count())?;
    }
    out.flush()?;
    drop(out);
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminated.recv() => {}
    }
    cloud.stop().await;
    Ok(())
}

fn ice_servers(text: &str) -> Result<kvs::IceServers, String> {
    match text {
        "refusing" => Ok(kvs::IceServers::Refusing),
        "empty" => Ok(kvs::IceServers::Empty),
        json => serde_json::from_str(json).map(kvs::IceServers::Given).map_err(|error| error.to_string()),
    }
}
