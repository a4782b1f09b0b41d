//! The house rules that a machine can check: who may import whom, where outside names may appear, how long a file may be.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Lines a file may have before its tests.
const CEILING: usize = 500;

/// Who may name whom: `crate::<room>` seen in a file of the room on the left.
fn allowed() -> BTreeMap<&'static str, Vec<&'static str>> {
    BTreeMap::from([
        ("main", vec![]),
        ("lib", vec![]),
        ("cli", vec!["app", "aws", "cli", "config", "live", "media", "store", "telemetry", "web"]),
        ("app", vec!["aws", "config", "live", "media", "store", "web"]),
        ("config", vec!["aws", "live", "store", "telemetry", "web"]),
        ("telemetry", vec![]),
        ("web", vec!["live", "web"]),
        ("live", vec!["aws", "live", "media", "store"]),
        ("media", vec!["media"]),
        ("aws", vec!["aws"]),
        ("store", vec!["store"]),
    ])
}

/// Names from outside and the rooms they may appear in.
const KEPT_IN: [(&str, &[&str]); 9] = [
    ("aws_sdk_", &["aws", "store"]),
    ("aws_config", &["aws"]),
    ("aws_sigv4", &["aws"]),
    ("aws_smithy", &["aws", "store"]),
    ("webrtc::", &["media"]),
    ("rtc::", &["media"]),
    ("axum::", &["web", "app"]),
    ("opus::", &["media"]),
    ("local_cloud", &["cli"]),
];

struct Source {
    path: PathBuf,
    room: String,
    /// Code of the product: tests are free to name what they like.
    lines: Vec<String>,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            rust_files(&entry, found);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            found.push(entry);
        }
    }
}

/// The files of `folder`, without tests and without what follows `#[cfg(test)]`.
fn sources(folder: &str) -> Vec<Source> {
    let base = root().join(folder);
    let mut paths = Vec::new();
    rust_files(&base, &mut paths);
    let is_test = |path: &Path| {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        name.ends_with("_tests")
            || name == "tests"
            || path.components().any(|part| part.as_os_str() == "tests")
            || name == "fake"
    };
    let source = |path: PathBuf| {
        let relative = path.strip_prefix(&base).unwrap().to_path_buf();
        let first = relative.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).unwrap();
        let lines = text.lines().take_while(|line| *line != "#[cfg(test)]");
        Source { room: first.trim_end_matches(".rs").to_owned(), lines: lines.map(str::to_owned).collect(), path }
    };
    paths.into_iter().filter(|path| !is_test(path)).map(source).collect()
}

fn everything() -> Vec<Source> {
    ["src", "local-cloud/src"].into_iter().flat_map(sources).collect()
}

fn complain(offences: &[String]) {
    assert!(offences.is_empty(), "\n{}\n", offences.join("\n"));
}

#[test]
fn imports_go_downstream_only() {
    let allowed = allowed();
    let mut offences = Vec::new();
    for source in sources("src").iter().filter(|source| source.room != "domain") {
        let may = allowed
            .get(source.room.as_str())
            .unwrap_or_else(|| panic!("{} is a new room: say whom it may know", source.room));
        for (number, line) in source.lines.iter().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            for (at, _) in line.match_indices("crate::") {
                let rest = &line[at + "crate::".len()..];
                let names: Vec<String> = match rest.strip_prefix('{') {
                    Some(list) => list
                        .split([',', '}'])
                        .map(|name| name.trim().split(':').next().unwrap_or("").to_owned())
                        .collect(),
                    None => vec![rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()],
                };
                for name in names.iter().filter(|name| !name.is_empty() && !name.starts_with(';')) {
                    if !may.contains(&name.as_str()) && *name != source.room {
                        offences.push(format!(
                            "{}:{}: {} may not know {name}",
                            source.path.display(),
                            number + 1,
                            source.room
                        ));
                    }
                }
            }
        }
    }
    complain(&offences);
}

#[test]
fn outside_names_stay_in_their_rooms() {
    let mut offences = Vec::new();
    for source in sources("src").iter().filter(|source| source.room != "domain") {
        for (number, line) in source.lines.iter().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            for (name, rooms) in KEPT_IN {
                let named = line.match_indices(name).any(|(at, _)| {
                    !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') && !line[..at].ends_with("media::")
                });
                if named && !rooms.contains(&source.room.as_str()) {
                    offences.push(format!("{}:{}: {name} belongs in {rooms:?}", source.path.display(), number + 1));
                }
            }
        }
    }
    complain(&offences);
}

#[test]
fn no_file_is_longer_than_one_can_read() {
    let all = everything();
    let long = all.iter().filter(|source| source.lines.len() > CEILING);
    let offences: Vec<String> =
        long.map(|source| format!("{}: {} lines", source.path.display(), source.lines.len())).collect();
    complain(&offences);
}

#[test]
fn the_ground_knows_no_runtime_no_network_and_no_clock() {
    let mut offences = Vec::new();
    for source in sources("src/domain") {
        for (number, line) in source.lines.iter().enumerate() {
            for name in ["tokio", "Instant::now", "SystemTime", "axum", "aws_", "HashMap", "std::net::Tcp", "thread::"]
            {
                if line.contains(name) && !line.trim_start().starts_with("//") {
                    offences.push(format!("{}:{}: {name}", source.path.display(), number + 1));
                }
            }
        }
    }
    complain(&offences);
}

/// A name with three underscores or more, in backticks behind `::`, is a test that somebody relies on.
#[test]
fn the_tests_that_security_md_names_exist() {
    let mut paths = Vec::new();
    for folder in ["src", "tests"] {
        rust_files(&root().join(folder), &mut paths);
    }
    let all: String = paths.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let page = fs::read_to_string(root().join("docs/SECURITY.md")).unwrap();
    let named = page.split('`').skip(1).step_by(2).filter_map(|code| Some(code.rsplit_once("::")?.1));
    let named: Vec<&str> = named.filter(|name| name.matches('_').count() >= 3).collect();
    assert!(named.len() > 30, "{}", named.len());
    let gone: Vec<String> =
        named.into_iter().filter(|name| !all.contains(&format!("fn {name}("))).map(str::to_owned).collect();
    complain(&gone);
}

#[test]
fn no_queue_is_without_a_bound() {
    let all = everything();
    let mut offences = Vec::new();
    for source in &all {
        for (number, line) in source.lines.iter().enumerate() {
            if line.contains("unbounded") && !line.trim_start().starts_with("//") {
                offences.push(format!("{}:{}", source.path.display(), number + 1));
            }
        }
    }
    complain(&offences);
}
