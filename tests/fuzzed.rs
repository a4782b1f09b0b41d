//! The HTTP API under schemathesis: calls made up from the OpenAPI document, good ones and bad ones, alone and in
//! sequences, against a whole house. Nothing may break, and no answer may be one that the document does not declare.
//! What is taken as it is, and why, stands in tests/schemathesis.toml.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use babelcast::cli::local::Stack;
use babelcast::config::Settings;
use babelcast::live::Sessions;
use babelcast_domain::counts::Count;
use babelcast_domain::ids::SpeakerId;
use babelcast_domain::record::{EndReason, Status};
use local_cloud::engine::Engine;
use local_cloud::engine::tones::Tones;
use local_cloud::translate::{EngineSettings, Scripted};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio_util::task::AbortOnDropHandle;

const SPEAKER: &str = "ana";

/// Where `./dev` keeps the tools of tests.
fn tool(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tools = std::env::var_os("BABELCAST_TEST_TOOLS").map_or_else(|| root.join(".venv/bin"), PathBuf::from);
    let tool = tools.join(name);
    assert!(tool.exists(), "{} is missing: run `./dev test`, or `./dev tools` once", tool.display());
    tool
}

async fn run(command: &mut Command) -> (bool, String) {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.success(), text)
}

async fn stack() -> Stack {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut settings = Settings::load(None).unwrap();
    settings.web.bind = ([127, 0, 0, 1], 0).into();
    settings.web.limits = babelcast::web::LimitSettings::OFF;
    settings.live.limits = babelcast::live::Limits::OFF;
    settings.live.sessions_per_speaker = 100;
    let cloud = local_cloud::Settings {
        plain_signaling: true,
        transcribe: Some(local_cloud::transcribe::Settings::new(Engine::Tones(Tones))),
        translate: Some(local_cloud::translate::Settings { engine: EngineSettings::Scripted(Scripted::default()) }),
        ..local_cloud::Settings::default()
    };
    Stack::start(cloud, settings).await.unwrap()
}

/// The document, told which languages this house offers: of all codes that are well formed, few are, and hardly a
/// made-up call would get past the first check.
fn with_languages(mut document: Value) -> Value {
    let schemas = &mut document["components"]["schemas"];
    schemas["CreateSession"]["properties"]["sourceLanguage"]["enum"] = json!(["en", "en-GB"]);
    schemas["AskedLanguage"]["enum"] = json!(["es", "FR", "de"]);
    document
}

/// Ends the older sessions now and then, so that new ones can be made for as long as it runs.
async fn make_room(sessions: Arc<Sessions>) {
    let ana = SpeakerId::new(SPEAKER);
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let (mut all, mut cursor) = sessions.list(&ana, None).await.unwrap();
        while let Some(place) = cursor {
            let (more, next) = sessions.list(&ana, Some(&place)).await.unwrap();
            all.extend(more);
            cursor = next;
        }
        let open = all.into_iter().filter(|found| found.record.status != Status::Ended);
        for old in open.skip(20) {
            let _ = sessions.end(&old.record.session_id, EndReason::Speaker).await;
        }
    }
}

/// `BABELCAST_FUZZ_SECONDS` makes it long, and another one each time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_breaks_anything_or_is_answered_as_the_document_does_not_say() {
    let seconds = std::env::var("BABELCAST_FUZZ_SECONDS").ok().map(|text| text.parse::<u64>().unwrap());
    let stack = stack().await;
    let room = AbortOnDropHandle::new(tokio::spawn(make_room(Arc::clone(&stack.app.sessions))));
    // The tools leave files where they run.
    let folder = std::env::temp_dir().join(format!("babelcast-fuzzed-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();

    let document = folder.join("openapi.json");
    let url = format!("{}/openapi.json", stack.app.url());
    let offered: Value = reqwest::get(&url).await.unwrap().json().await.unwrap();
    std::fs::write(&document, offered.to_string()).unwrap();
    let (valid, said) = run(Command::new(tool("openapi-spec-validator")).arg(&document)).await;
    assert!(valid, "the document is not OpenAPI 3.1: {said}");

    std::fs::write(&document, with_languages(offered).to_string()).unwrap();
    let token = stack.token(SPEAKER).unwrap();
    let mut fuzzer = Command::new(tool("schemathesis"));
    fuzzer.current_dir(&folder).env("PYTHONDONTWRITEBYTECODE", "1");
    fuzzer.arg("--config-file").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schemathesis.toml"));
    fuzzer.arg("run").arg(&document).args(["--url", &stack.app.url()]);
    fuzzer.args(["--continue-on-failure", "--request-timeout", "20", "--no-color"]);
    fuzzer.args(["--max-time", &seconds.unwrap_or(40).to_string()]);
    fuzzer.args(["--header", &format!("Authorization: Bearer {}", token.reveal())]);
    match seconds {
        Some(_) => fuzzer.args(["--max-examples", "1000"]),
        None => fuzzer.args(["--max-examples", "20", "--seed", "1"]),
    };
    let (passed, said) = run(&mut fuzzer).await;
    println!("{said}");
    assert!(passed, "schemathesis found something:\n{said}");

    drop(room);
    assert_eq!(stack.app.counts.get(Count::Panics), 0, "something panicked");
    let sessions = Arc::clone(&stack.app.sessions);
    stack.app.stop(Duration::from_secs(20)).await;
    assert_eq!(sessions.live_count(), 0, "sessions were left behind");
    assert_eq!(stack.cloud.kvs().channel_names(), Vec::<String>::new(), "channels were left behind");
    stack.cloud.stop().await;
    std::fs::remove_dir_all(&folder).unwrap();
}
