//! The first half of `./dev bench`: what babelcast itself costs, as a table; `--write` puts it into docs/BENCHMARKS.md too.
//!
//! Options: `--rounds n` (3), `--seconds n` (30, of speech in a latency round), `--only latency|ear|demo|memory`. The
//! numbers are medians of the rounds. Each stands beside the goal of the project's plan and, where there is one, a
//! floor: what the machine takes for the same way with nothing done on it. A number never makes this fail; a goal that
//! was not reached is marked MISSED. On a machine that others use, the slowest in a hundred tell of the others; a group of
//! its own with priority keeps them out: `setsid bash -c 'echo -15 > /proc/self/autogroup; ./dev bench --write'` (root).
//! How each is taken is told where it is: [`latency`], [`ear`], [`whole`], [`floor`].

mod ear;
mod floor;
mod latency;
mod report;
mod whole;

use std::error::Error;
use std::time::Duration;

use babelcast::media::wav::Recording;
use latency::Latencies;
use report::{Goal, Row};
use tokio::runtime::{Builder, Runtime};

pub type Failed = Box<dyn Error + Send + Sync>;

const RECORDING: &[u8] = include_bytes!("../../demo/printing.wav");
const STREAMS: [usize; 2] = [1, 10];
/// Attempts for a round: a machine that is busy elsewhere spoils one now and then.
const ATTEMPTS: usize = 3;

struct Options {
    rounds: usize,
    seconds: u64,
    only: Option<String>,
    write: bool,
    speakers: Option<usize>,
}

fn main() -> Result<(), Failed> {
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let options = options()?;
    let recording = Recording::parse(RECORDING)?;
    if let Some(count) = options.speakers {
        return runtime(2)?.block_on(ear::speakers(count, recording));
    }
    let wanted = |part: &str| options.only.as_deref().is_none_or(|only| only == part);
    let mut rows = Vec::new();
    if wanted("latency") {
        rows.extend(latency_rows(&options, &recording)?);
    }
    if wanted("ear") {
        rows.extend(ear_rows(&options, &recording)?);
    }
    if wanted("demo") {
        rows.push(demo_row(&options, &recording));
    }
    if wanted("memory") {
        rows.extend(memory_rows(&options));
    }
    if rows.is_empty() {
        return Ok(());
    }
    println!("\n{}\n{}", report::machine().join("\n"), report::table(&rows));
    if options.write {
        report::write("One session", "benches/river/", &rows, options.rounds)?;
    }
    Ok(())
}

fn options() -> Result<Options, Failed> {
    let mut options = Options { rounds: 3, seconds: 30, only: None, write: false, speakers: None };
    let mut given = std::env::args().skip(1);
    while let Some(option) = given.next() {
        let mut value = || given.next().ok_or_else(|| format!("{option} needs a value"));
        match option.as_str() {
            "--rounds" => options.rounds = value()?.parse::<usize>()?.max(1),
            "--seconds" => options.seconds = value()?.parse::<u64>()?.max(5),
            "--only" => options.only = Some(value()?),
            "--speakers" => options.speakers = Some(value()?.parse()?),
            "--write" => options.write = true,
            "--listeners" => drop(value()?), // the crowd's
            "--bench" => {}                  // what cargo says to every bench
            other => return Err(format!("unknown option {other}").into()),
        }
    }
    if options.write && options.only.is_some() {
        return Err("--write keeps all numbers, so it goes without --only".into());
    }
    Ok(options)
}

fn runtime(threads: usize) -> Result<Runtime, Failed> {
    Ok(Builder::new_multi_thread().worker_threads(threads).enable_all().build()?)
}

/// The rounds that counted, and beside them what bare sockets cost here, in milliseconds.
struct Measured {
    rounds: Vec<Latencies>,
    /// A packet in, a chunk out.
    udp: Vec<f64>,
    /// An event to ten listeners.
    tcp: Vec<f64>,
}

fn measure_latency(options: &Options, recording: &Recording) -> Result<Measured, Failed> {
    let (server, speaker, listeners) = (runtime(2)?, runtime(1)?, runtime(1)?);
    let mut rounds: Vec<Latencies> = Vec::new();
    for round in 1..=options.rounds {
        eprintln!("latency: round {round} of {}, {} s of speech", options.rounds, options.seconds);
        let run = || {
            // In a task: what runs on the main thread is no part of the server.
            let (recording, seconds) = (recording.clone(), options.seconds);
            let (speaker, listeners) = (speaker.handle().clone(), listeners.handle().clone());
            let run = async move { latency::run(&recording, seconds, &speaker, &listeners).await };
            server.block_on(server.spawn(run))?
        };
        if let Some(round) = patiently(run) {
            let [audio, events] = [&round.audio, &round.events].map(|all| [0.5, 0.9, 0.99].map(|at| quantile(all, at)));
            eprintln!("  p50, p90, p99: audio {audio:.2?} ms, events {events:.2?} ms");
            rounds.push(round);
        }
    }
    let udp = server.block_on(floor::packet_to_chunk())?;
    let tcp = server.block_on(floor::event_to_listeners())?;
    Ok(Measured { rounds, udp, tcp })
}

fn latency_rows(options: &Options, recording: &Recording) -> Result<Vec<Row>, Failed> {
    let Measured { rounds, udp, tcp } = measure_latency(options, recording)?;
    let of = |pick: fn(&Latencies) -> &Vec<f64>, share: f64| {
        median(rounds.iter().map(|round| quantile(pick(round), share)).collect())
    };
    let row = |what: &str, value: Option<f64>, goal, floor, meaning: &str| Row {
        what: what.to_owned(),
        unit: "ms",
        value,
        goal,
        floor,
        meaning: meaning.to_owned(),
    };
    let last = "packet that completes a chunk sent -> chunk at Transcribe";
    let event = "result sent by Transcribe -> source-language listener has it";
    let (chunk_floor, event_floor) =
        ("a packet and 3.2 kB through one task", "an event to ten readers through one task");
    Ok(vec![
        row(
            &format!("{last}, p50"),
            of(|round| &round.audio, 0.5),
            None,
            Some((quantile(&udp, 0.5), chunk_floor)),
            "beyond the 100 ms of chunking; the speaker's encoder, SRTP and two ways over loopback included",
        ),
        row(
            &format!("{last}, p99"),
            of(|round| &round.audio, 0.99),
            Some(Goal::AtMost(20.0)),
            Some((quantile(&udp, 0.99), chunk_floor)),
            "the same, for the one chunk in a hundred that is slowest",
        ),
        row(
            "packet here -> samples waiting for Transcribe, p99",
            of(|round| &round.decode, 1.0),
            None,
            None,
            "part of the above, from the session's ledger: order and Opus",
        ),
        row(
            &format!("{event}, p50"),
            of(|round| &round.events, 0.5),
            None,
            Some((quantile(&tcp, 0.5), event_floor)),
            "fifty listeners in five languages; two ways over loopback and the client's own reading included",
        ),
        row(
            &format!("{event}, p99"),
            of(|round| &round.events, 0.99),
            Some(Goal::AtMost(5.0)),
            Some((quantile(&tcp, 0.99), event_floor)),
            "the same, for the slowest in a hundred",
        ),
        row(
            "event encoded -> written to its socket, p99",
            of(|round| &round.deliver, 1.0),
            None,
            None,
            "part of the above, from the session's ledger; all fifty listeners, from the first to the last",
        ),
    ])
}

fn ear_rows(options: &Options, recording: &Recording) -> Result<Vec<Row>, Failed> {
    let mut bare = Vec::new();
    let mut ears = STREAMS.map(|_| Vec::new());
    for round in 1..=options.rounds {
        eprintln!("ear: round {round} of {}", options.rounds);
        bare.push(ear::decode(recording)?);
        for (streams, found) in STREAMS.iter().zip(&mut ears) {
            // A runtime of its own each, so that nothing of the round before is counted.
            let hear = || runtime(1)?.block_on(ear::hear(*streams, Duration::from_secs(10)));
            found.extend(patiently(hear));
        }
    }
    let floor = median(bare).unwrap_or(f64::NAN);
    let mut rows = vec![Row {
        what: "bare libopus decode of the same packets, CPU per stream-second".to_owned(),
        unit: "ms",
        value: Some(floor),
        goal: None,
        floor: None,
        meaning: "the floor of the two below".to_owned(),
    }];
    rows.extend(STREAMS.iter().zip(ears).map(|(streams, found)| {
        Row {
            what: format!("ear, {streams} at once, CPU per stream-second"),
            unit: "ms",
            value: median(found),
            goal: None,
            floor: Some((floor, "libopus")),
            meaning:
                "receive, decrypt, order, decode, measure; a lone stream pays a whole sleep and wake for every packet"
                    .to_owned(),
        }
    }));
    Ok(rows)
}

fn demo_row(options: &Options, recording: &Recording) -> Row {
    let mut found = Vec::new();
    let mut why = String::new();
    for round in 1..=options.rounds {
        eprintln!("demo: round {round} of {}", options.rounds);
        match whole::first_text(recording) {
            Ok(seconds) => found.push(seconds),
            Err(error) => why = error.to_string(),
        }
    }
    let value = median(found);
    let meaning = "from the first sound of the first word, where the recogniser places it, to text at the listener; PocketSphinx, the demo's own summary";
    let meaning = if value.is_some() { meaning.to_owned() } else { format!("no number: {why}") };
    let what = "demo, first word -> first partial on screen".to_owned();
    Row { what, unit: "s", value, goal: Some(Goal::AtMost(2.0)), floor: None, meaning }
}

fn memory_rows(options: &Options) -> Vec<Row> {
    let found: Vec<(f64, f64)> = (0..options.rounds).filter_map(|_| patiently(whole::idle_memory)).collect();
    let row = |what: &str, value, goal, meaning: &str| Row {
        what: what.to_owned(),
        unit: "MiB",
        value,
        goal,
        floor: None,
        meaning: meaning.to_owned(),
    };
    let (all, own): (Vec<f64>, Vec<f64>) = found.into_iter().unzip();
    vec![
        row(
            "`babelcast local --engines none`, idle, resident",
            median(all),
            Some(Goal::AtMost(64.0)),
            "API, WebSocket and local cloud in one process, three seconds after start",
        ),
        row("of which its own, without pages of the program file", median(own), None, "RssAnon"),
    ]
}

/// Tries a few times; a failure is told.
fn patiently<T>(mut run: impl FnMut() -> Result<T, Failed>) -> Option<T> {
    for _ in 0..ATTEMPTS {
        match run() {
            Ok(done) => return Some(done),
            Err(error) => eprintln!("  this one does not count: {error}"),
        }
    }
    None
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len().checked_sub(1)? / 2;
    Some(if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle], values[middle + 1]) })
}

/// The value below which `share` of the values lie.
fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted.get((share * last as f64).round() as usize).copied().unwrap_or(f64::NAN)
}
