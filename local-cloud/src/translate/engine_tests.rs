//! Pipelines of `sed`, which knows null-terminated lines and misbehaves on order; then the real Apertium.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use proptest::prelude::*;

use super::wire_tests::{Cloud, Protocol, text};
use super::*;

/// Answers `hello` with `hola` and does what the text says: ends, falls silent, answers twice or for another.
const MISBEHAVING: &str =
    r"sed -u 's/hello/hola/;/crash/Q;s/twice/\x00/;s/stranger\.\[[0-9]*\]/x[0]/;/late/p;/silence/e sleep 60'";

#[tokio::test]
async fn a_pipeline_that_dies_over_a_text_costs_only_that_text() {
    let modes = Modes::new(&[("eng-spa", MISBEHAVING)]);
    let translate = modes.translate(5_000);
    for (trouble, deaths) in [("crash", 1), ("twice", 2), ("stranger", 3)] {
        assert_eq!(to_spanish(&translate, "hello").await, Ok("hola".to_owned()));
        // The first try meets a living pipeline, so there is a second one.
        assert_eq!(to_spanish(&translate, trouble).await, Err(EngineError::Died), "{trouble}");
        assert_eq!(translate.pipelines().deaths, deaths * 2, "{trouble}");
    }
    assert_eq!(to_spanish(&translate, "hello").await, Ok("hola".to_owned()));
}

#[tokio::test]
async fn an_answer_too_many_never_reaches_the_next_text() {
    let modes = Modes::new(&[("eng-spa", MISBEHAVING)]);
    let translate = modes.translate(5_000);
    for n in 0..20 {
        // Seen at once it ends the pipeline with this text, seen later with the next one.
        let doubled = to_spanish(&translate, "late").await;
        assert!(matches!(doubled.as_deref(), Ok("late") | Err(EngineError::Died)), "{doubled:?}");
        assert_eq!(to_spanish(&translate, &format!("hello {n}")).await, Ok(format!("hola {n}")));
    }
    assert!(translate.pipelines().deaths >= 20);
}

#[tokio::test]
async fn a_silent_pipeline_is_killed_and_replaced() {
    let modes = Modes::new(&[("eng-spa", MISBEHAVING)]);
    let translate = modes.translate(300);
    assert_eq!(to_spanish(&translate, "silence").await, Err(EngineError::TimedOut));
    assert_eq!(to_spanish(&translate, "hello").await, Ok("hola".to_owned()));
    assert_eq!(translate.pipelines(), Pipelines { starts: 2, deaths: 0, timeouts: 1, refused: 0 });
}

#[tokio::test]
async fn a_full_queue_refuses_at_once() {
    let modes = Modes::new(&[("eng-spa", MISBEHAVING)]);
    let translate = modes.translate(2_000);
    to_spanish(&translate, "hello").await.unwrap();
    let first = to_spanish(&translate, "silence");
    let others = join_all((0..80).map(|_| to_spanish(&translate, "hello")));
    let (first, others) = tokio::join!(first, others);
    assert_eq!(first, Err(EngineError::TimedOut));
    let refused = others.iter().filter(|answer| **answer == Err(EngineError::Busy)).count() as u64;
    let answered = others.iter().filter(|answer| answer.is_ok()).count() as u64;
    assert!(refused > 0 && answered > 0 && refused + answered == 80, "{others:?}");
    assert_eq!(translate.pipelines().refused, refused);
}

#[tokio::test]
async fn a_caller_who_leaves_does_not_leave_an_answer_to_the_next() {
    let modes = Modes::new(&[("eng-spa", r"sed -u '/slow/e sleep 0.3'")]);
    let translate = modes.translate(5_000);
    to_spanish(&translate, "hello").await.unwrap();
    for n in 0..3 {
        let left = tokio::time::timeout(Duration::from_millis(50), to_spanish(&translate, "slow one")).await;
        assert!(left.is_err());
        assert_eq!(to_spanish(&translate, &format!("mine {n}")).await, Ok(format!("mine {n}")));
    }
    assert_eq!(translate.pipelines().starts, 1);
}

#[tokio::test]
async fn a_program_that_is_missing_is_named() {
    let modes = Modes::new(&[("eng-spa", "sed -u 's/a/b/' | no-such-program 'x'")]);
    let error = to_spanish(&modes.translate(1_000), "hello").await.unwrap_err();
    assert!(matches!(&error, EngineError::Start(reason) if reason.contains("no-such-program")), "{error:?}");
}

#[tokio::test]
async fn engine_trouble_arrives_as_an_error_of_the_service() {
    let modes = Modes::new(&[("eng-spa", MISBEHAVING), ("eng-cat", "no-such-program 'x'")]);
    let cloud = Cloud::start(EngineSettings::Apertium(modes.settings(300))).await;
    let client = cloud.client(Protocol::Cbor);
    assert!(text(&client, "en", "es", "crash").await.unwrap_err().is_internal_server_exception());
    assert!(text(&client, "en", "es", "silence").await.unwrap_err().is_internal_server_exception());
    assert!(text(&client, "en", "ca", "hello").await.unwrap_err().is_service_unavailable_exception());
    assert!(text(&client, "en", "fr", "hello").await.unwrap_err().is_unsupported_language_pair_exception());
    assert_eq!(text(&client, "en", "es", "hello").await.unwrap(), "hola");
}

#[tokio::test]
async fn apertium_speaks_the_languages_of_the_demo() {
    let cloud = Cloud::start(EngineSettings::Apertium(ApertiumSettings::default())).await;
    let client = cloud.client(Protocol::Cbor);
    for (target, expected) in [
        ("es", "La casa es grande."),
        ("ca", "La casa és gran."),
        ("fr", "La maison est grande."),
        ("it", "La casa è grande."),
        ("pt", "A casa é grande."),
        ("pt-PT", "A casa é grande."),
    ] {
        assert!(cloud.translate.languages().contains(&target), "{target}: apt install {PACKAGES}");
        cloud.translate.warm(target).await.unwrap();
        assert_eq!(text(&client, "en", target, "The house is big.").await.unwrap(), expected);
    }
    assert_eq!(text(&client, "es", "en", "La casa es grande.").await.unwrap(), "The house is big.");
    // One pipeline a mode: eng-spa, eng-cat, cat-fra, cat-ita, es-pt_BR, es-pt, spa-eng.
    assert_eq!(cloud.translate.pipelines(), Pipelines { starts: 7, ..Pipelines::default() });
}

#[tokio::test]
async fn a_clause_without_full_stop_gets_none() {
    let translate = apertium();
    assert_eq!(to_spanish(&translate, "the house").await.unwrap(), "la casa");
    assert_eq!(to_spanish(&translate, "the house,").await.unwrap(), "la casa,");
    assert_eq!(to_spanish(&translate, "Is it the house?").await.unwrap().chars().last(), Some('?'));
}

#[tokio::test]
async fn hostile_text_comes_through_and_leaves_no_trace() {
    let translate = apertium();
    let long = "word ".repeat(2_000);
    let brackets = "[".repeat(10_000);
    let hostile = [
        r"^ $ @ / < > [ ] { } \ * + #",
        r"hello ^world$ @me a/b <b>x</b> [b] {c} \ end",
        "[[t:b:123456]]bold[[/]]",
        "one\ntwo\r\n\r\nthree\u{2028}four",
        "nul\0in\0side",
        "😀 👨\u{200d}👩\u{200d}👧 e\u{301} \u{feff} \u{10ffff} \u{1} \u{7f}",
        "[1]",
        ".[]",
        "\\",
        "|",
        "'; exit 1; '",
        "$(reboot) `reboot` && ||",
        &long,
        &brackets,
    ];
    for target in ["es", "ca", "fr"] {
        let canary = translate.engine.translate("en", target, "The house is big.").await.unwrap();
        for text in hostile {
            let answer = translate.engine.translate("en", target, text).await;
            assert!(answer.as_ref().is_ok_and(|answer| !answer.is_empty()), "{target} {text:?} {answer:?}");
            let again = translate.engine.translate("en", target, "The house is big.").await;
            assert_eq!(again.as_ref(), Ok(&canary), "{target} after {text:?}");
        }
    }
    for nothing_to_say in [" ", "\0", "~", "\u{a0}\n"] {
        assert_eq!(to_spanish(&translate, nothing_to_say).await.as_deref(), Ok(nothing_to_say));
    }
    assert_eq!(to_spanish(&translate, r"a^b$ [c] {d} <e> \ / @f").await.unwrap(), r"un^b$ [c] {d} <e> \ / @f");
    assert_eq!(translate.pipelines().deaths + translate.pipelines().timeouts, 0);
}

#[tokio::test]
async fn of_many_at_once_each_gets_its_own_answer() {
    let translate = apertium();
    translate.warm("fr").await.unwrap();
    translate.warm("es").await.unwrap();
    let one = async |n: u32| {
        let target = ["es", "fr"][n as usize % 2];
        let answer = translate.engine.translate("en", target, &format!("The house Zq{n}x is big.")).await;
        (n, answer)
    };
    for (n, answer) in join_all((0..100).map(one)).await {
        let answer = answer.unwrap();
        assert!(answer.contains(&format!("Zq{n}x")), "{n}: {answer}");
    }
}

#[tokio::test]
async fn a_killed_program_is_replaced_before_anybody_notices() {
    let modes = Modes::linked("eng-spa", "apertium-eng-spa");
    let translate = modes.translate(10_000);
    let expected = to_spanish(&translate, "The house is big.").await.unwrap();
    let programs = modes.processes().len();
    assert!(programs > 5, "{programs}");
    for victim in [0, programs / 2, programs - 1] {
        let processes = modes.processes();
        kill(processes[victim]);
        assert_eq!(to_spanish(&translate, "The house is big.").await.as_ref(), Ok(&expected), "victim {victim}");
    }
    let pipelines = translate.pipelines();
    assert_eq!((pipelines.starts, pipelines.deaths), (4, 3));
    drop(translate);
    modes.wait_until_no_process_is_left().await;
}

#[tokio::test]
async fn a_stopped_program_is_noticed_by_the_watchdog() {
    let modes = Modes::linked("eng-spa", "apertium-eng-spa");
    let translate = modes.translate(1_000);
    let expected = to_spanish(&translate, "The house is big.").await.unwrap();
    signal(modes.processes()[3], "STOP");
    assert_eq!(to_spanish(&translate, "The house is big.").await, Err(EngineError::TimedOut));
    assert_eq!(to_spanish(&translate, "The house is big.").await, Ok(expected));
}

#[tokio::test]
async fn the_middle_of_a_sentence_does_not_begin_with_a_capital() {
    let translate = apertium();
    for (text, begins) in [("differs from most of the arts", 'd'), ("The house is old", 'L')] {
        let answer = translate.engine.translate("en", "es", text).await.unwrap();
        assert!(answer.starts_with(begins), "{answer}");
    }
}

#[tokio::test]
async fn characters_beyond_the_basic_plane_travel_through_untouched() {
    let translate = apertium();
    let answer = translate.engine.translate("en", "ca", "\u{1005C}[ the house \u{1F600}").await.unwrap();
    assert!(answer.contains('\u{1005C}') && answer.contains('\u{1F600}') && answer.contains("casa"), "{answer}");
}

#[test]
fn no_text_wedges_a_pipeline_or_leaks_into_the_next_answer() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let translate = runtime.block_on(async {
        let translate = apertium();
        for target in ["es", "ca", "fr"] {
            translate.warm(target).await.unwrap();
        }
        translate
    });
    let serial = AtomicU32::new(0);
    proptest!(ProptestConfig::with_cases(150), |(text in any_text(), target in prop::sample::select(&["es", "ca", "fr"][..]))| {
        let word = format!("Zq{}x", serial.fetch_add(1, Ordering::Relaxed));
        let answer = runtime.block_on(translate.engine.translate("en", target, &text));
        prop_assert!(answer.is_ok(), "{answer:?}");
        let next = runtime.block_on(translate.engine.translate("en", target, &word));
        prop_assert_eq!(next, Ok(word));
    });
    assert_eq!(translate.pipelines().deaths + translate.pipelines().timeouts, 0);
}

/// Words, Apertium's own characters and all of Unicode, up to about what one request may hold.
fn any_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => prop::sample::select(&["the", "house", "I'm", "don't", "going to", "of which", "1990,", "Mr.", "New York"][..]).prop_map(str::to_owned),
        3 => r"[\^$@/<>\[\]{}\\~*+#|.?!\n\r\t \x00-]{1,6}",
        1 => any::<char>().prop_map(String::from),
        1 => "\\PC{0,8}",
    ];
    let glue = prop::sample::select(&["", " ", "\n"][..]);
    prop::collection::vec((piece, glue), 1..200).prop_map(|pieces| {
        let text: String = pieces.into_iter().map(|(piece, glue)| piece + glue).collect();
        text.chars().take(2_500).collect()
    })
}

fn apertium() -> Translate {
    let engine = EngineSettings::Apertium(ApertiumSettings { timeout_ms: 20_000, ..ApertiumSettings::default() });
    Translate::new(&Settings { engine }).unwrap()
}

async fn to_spanish(translate: &Translate, text: &str) -> Result<String, EngineError> {
    translate.engine.translate("en", "es", text).await
}

fn kill(process: u32) {
    signal(process, "KILL");
}

fn signal(process: u32, name: &str) {
    let sent = std::process::Command::new("kill").args(["-s", name, &process.to_string()]).status().unwrap();
    assert!(sent.success());
}

/// A folder of mode files, gone with the test. Its name is in the command line of every linked process.
struct Modes(PathBuf);

impl Modes {
    fn new(modes: &[(&str, &str)]) -> Modes {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("apertium-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(unique);
        std::fs::create_dir_all(&folder).unwrap();
        for (name, programs) in modes {
            std::fs::write(folder.join(format!("{name}.mode")), programs).unwrap();
        }
        Modes(folder)
    }

    /// The installed mode, its data reached through this folder.
    fn linked(mode: &str, package: &str) -> Modes {
        let modes = Modes::new(&[]);
        let installed = Path::new("/usr/share/apertium");
        let programs = std::fs::read_to_string(installed.join("modes").join(format!("{mode}.mode"))).unwrap();
        let programs = programs.replace(installed.to_str().unwrap(), modes.0.to_str().unwrap());
        std::fs::write(modes.0.join(format!("{mode}.mode")), programs).unwrap();
        std::os::unix::fs::symlink(installed.join(package), modes.0.join(package)).unwrap();
        modes
    }

    fn settings(&self, timeout_ms: u64) -> ApertiumSettings {
        ApertiumSettings { modes: self.0.clone(), timeout_ms, ..ApertiumSettings::default() }
    }

    fn translate(&self, timeout_ms: u64) -> Translate {
        Translate::new(&Settings { engine: EngineSettings::Apertium(self.settings(timeout_ms)) }).unwrap()
    }

    fn processes(&self) -> Vec<u32> {
        let folder = self.0.to_str().unwrap();
        let mut processes: Vec<u32> = std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|process| {
                let command = std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
                String::from_utf8_lossy(&command).contains(folder)
            })
            .collect();
        processes.sort_unstable();
        processes
    }

    async fn wait_until_no_process_is_left(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.processes().is_empty() {
            assert!(Instant::now() < deadline, "left: {:?}", self.processes());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Modes {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}
