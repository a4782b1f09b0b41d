//! `babelcast local`: the whole stack in one process, without an AWS account. The same server code as in production,
//! pointed at `local-cloud` on loopback. Also what `demo` and the tests stand on.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use babelcast_domain::language::Language;
use local_cloud::engine::pocketsphinx::PocketSphinx;
use local_cloud::issuer::{Claims, IssuerError};
use local_cloud::{LocalCloud, StartError};
use url::Url;

use crate::app::{App, AppError, DRAIN};
use crate::config::{ConfigError, Settings};
use crate::store::Store;
use crate::web::{LimitSettings, Token};
use crate::{aws, telemetry};

use super::stop_signal;

/// How long the development token is good for.
const TOKEN_LIFETIME_S: i64 = 24 * 3_600;

/// Run everything on this machine: the API, the WebSocket, a local AWS with real offline engines, a token issuer
#[derive(Debug, Clone, clap::Args)]
pub struct LocalArgs {
    /// Where the API and the WebSocket listen
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub bind: SocketAddr,
    /// Where local-cloud listens for plain http and ws
    #[arg(long, default_value = "127.0.0.1:4900")]
    pub cloud_http: SocketAddr,
    /// Where local-cloud listens for https and wss, under a development certificate
    #[arg(long, default_value = "127.0.0.1:4943")]
    pub cloud_https: SocketAddr,
    /// Answer signaling endpoints as wss:// for clients that insist on it; they must trust the certificate
    #[arg(long)]
    pub tls_signaling: bool,
    /// File that keeps the development certificate and its key from one start to the next
    #[arg(long, value_name = "FILE")]
    pub certificate: Option<PathBuf>,
    /// Settings file, read over the defaults
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What recognises and translates; `none` leaves both out: sessions and signaling work, captions do not come
    #[arg(long, value_enum, default_value_t)]
    pub engines: Engines,
}

/// What stands behind the local Transcribe and Translate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Engines {
    #[default]
    Real,
    None,
}

#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Telemetry(#[from] telemetry::TelemetryError),
    #[error("local-cloud did not start: {0}")]
    Cloud(#[from] StartError),
    #[error("the recogniser did not start: {0}")]
    Recogniser(#[from] local_cloud::engine::EngineError),
    #[error(transparent)]
    App(#[from] AppError),
    #[error("no token could be made: {0}")]
    Issuer(#[from] IssuerError),
}

/// A local cloud and a babelcast that is pointed at it.
pub struct Stack {
    pub cloud: LocalCloud,
    pub app: App,
}

impl Stack {
    /// Starts both. `settings` is taken as it is, but for what must point at the local cloud.
    pub async fn start(cloud: local_cloud::Settings, settings: Settings) -> Result<Stack, LocalError> {
        Stack::start_on(None, cloud, settings).await
    }

    /// As [`Stack::start`], on a store that others may share.
    pub async fn start_on(
        store: Option<Arc<Store>>,
        cloud: local_cloud::Settings,
        settings: Settings,
    ) -> Result<Stack, LocalError> {
        let cloud = LocalCloud::start(cloud).await?;
        let app = Stack::replica(&cloud, store, settings).await?;
        Ok(Stack { cloud, app })
    }

    /// One more server on the same cloud.
    pub async fn replica(
        cloud: &LocalCloud,
        store: Option<Arc<Store>>,
        mut settings: Settings,
    ) -> Result<App, LocalError> {
        let issuer = cloud.issuer();
        settings.web.auth.issuer = issuer.url().to_owned();
        settings.web.auth.jwks_url = Some(issuer.jwks_url().to_owned());
        settings.web.auth.client_ids = vec![issuer.client_id().to_owned()];
        settings.aws.region = Some("us-east-1".to_owned());
        settings.aws.endpoint_url = Some(cloud.http_url());
        settings.aws.credentials =
            Some(aws::StaticCredentials { access_key: "local".to_owned(), secret_key: "local".to_owned() });
        settings.live.local_candidates = true;
        if let Some(translate) = cloud.translate() {
            let targets = translate.languages().into_iter().filter_map(|code| Language::parse(code).ok());
            settings.languages.targets = targets.collect();
        }
        if let Some(transcribe) = cloud.transcribe() {
            // A speaker learns at once that the engine here does not know the language, not by captions that never come.
            settings.languages.sources.retain(|_, dialect| transcribe.engine().understands(dialect.as_str()));
        }
        settings.check()?;
        Ok(App::start_on(store, settings, Some(cloud.certificate_pem().as_bytes())).await?)
    }

    pub fn url(&self) -> Url {
        Url::parse(&self.app.url()).expect("a socket address makes a URL")
    }

    /// An access token for a speaker of this name.
    pub fn token(&self, speaker: &str) -> Result<Token, IssuerError> {
        let claims = Claims { sub: Some(speaker.to_owned()), expires_in: Some(TOKEN_LIFETIME_S), ..Claims::default() };
        Ok(Token::new(&self.cloud.issuer().token(claims)?).expect("the issuer makes tokens"))
    }

    pub async fn stop(self, within: Duration) {
        self.app.stop(within).await;
        self.cloud.stop().await;
    }
}

/// Settings of a local cloud with the real offline engines.
pub fn with_real_engines() -> Result<local_cloud::Settings, LocalError> {
    let recogniser = local_cloud::engine::Engine::PocketSphinx(PocketSphinx::start(None)?);
    Ok(local_cloud::Settings {
        plain_signaling: true,
        transcribe: Some(local_cloud::transcribe::Settings::new(recogniser)),
        translate: Some(local_cloud::translate::Settings::default()),
        ..local_cloud::Settings::default()
    })
}

/// Runs until Ctrl-C or SIGTERM; a second signal skips the goodbyes.
pub async fn run(args: LocalArgs) -> Result<(), LocalError> {
    let mut settings = Settings::load(args.config.as_deref())?;
    telemetry::start(&settings.log)?;
    settings.web.bind = args.bind;
    for_one_machine(&mut settings);
    let engines = match args.engines {
        Engines::Real => with_real_engines()?,
        Engines::None => local_cloud::Settings::default(),
    };
    let cloud = local_cloud::Settings {
        http: args.cloud_http,
        https: args.cloud_https,
        plain_signaling: !args.tls_signaling,
        certificate_file: args.certificate,
        ..engines
    };
    let stack = Stack::start(cloud, settings).await?;
    print_welcome(&stack, args.engines)?;
    stop_signal().await;
    eprintln!("stopping; once more to stop at once");
    tokio::select! {
        () = stack.stop(DRAIN) => {}
        () = stop_signal() => {}
    }
    Ok(())
}

/// Everybody on a developer's machine has the same address, and pages come from any port of it: only guesses are
/// limited, as everywhere, and what one socket may send.
pub fn for_one_machine(settings: &mut Settings) {
    let limits = &mut settings.web.limits;
    *limits = LimitSettings {
        guesses_per_minute: limits.guesses_per_minute,
        messages_per_second: limits.messages_per_second,
        messages_burst: limits.messages_burst,
        ..LimitSettings::OFF
    };
    settings.live.limits.creations_per_minute = 0;
    if settings.web.allowed_origins.is_empty() {
        settings.web.allowed_origins = vec!["*".to_owned()];
    }
}

fn print_welcome(stack: &Stack, engines: Engines) -> Result<(), LocalError> {
    let token = stack.token("local-speaker")?;
    let url = stack.app.url();
    println!("babelcast is running on this machine alone; nothing leaves it.");
    println!();
    println!("  API and WebSocket   {url}  ({}/ws)", url.replacen("http", "ws", 1));
    println!("  local AWS           {}  {}", stack.cloud.http_url(), stack.cloud.https_url());
    println!("  token issuer        {}", stack.cloud.issuer().url());
    let (speech, translation) = match engines {
        Engines::Real => ("PocketSphinx", "Apertium"),
        Engines::None => ("none", "none"),
    };
    println!("  speech              {speech} (Amazon Transcribe in production)");
    println!("  translation         {translation} (Amazon Translate in production)");
    println!();
    println!("Speak, in another terminal (the token is good for 24 h):");
    println!();
    println!("  export BABELCAST_URL={url} BABELCAST_TOKEN={}", token.reveal());
    println!("  babelcast speak --file demo/printing.wav");
    println!();
    println!("Listen, in a third, with the session's name that `speak` prints:");
    println!();
    println!("  babelcast listen <session> --to es --url {url}");
    println!();
    Ok(())
}
