//! The second half of `./dev bench`: many sessions and many listeners; `--write` puts it into docs/BENCHMARKS.md too.
//!
//! Options: `--rounds n` (3), `--listeners n` (10000), `--only births|idle|storm`. The server is a process of its own
//! ([`house`]), started anew for every round, so that its memory is its own; speakers and listeners are in this one, and
//! share the machine's cores with it. Numbers are medians of the rounds, each beside its goal and a floor: the same with
//! nothing done in it. All over loopback, against local services, with the store in memory and limits per address off.
//!
//! - *births*: 32 speakers create a session by HTTP, end it, and begin anew, for ten seconds; the time counts until the
//!   last session and its channel are gone. Beside it: pairs of requests that do nothing, by as many clients through the
//!   same doors.
//! - *idle*: 10,000 listeners in five languages join one session at 2,000 a second and are left alone. Memory of the
//!   server's process when they sit, less what it was before the first of them; as the kernel counts it (resident) and as
//!   the program does (allocated). The kernel's own buffers are in neither. Beside it: a task that waits at a TCP stream.
//! - *storm*: 10,000 listeners join one session, evenly over ten seconds, each when it is its turn, whether those before
//!   it are in or not. A join is from that moment to `sessionJoined`: connect, upgrade and all. Beside it: a server of
//!   the same WebSocket library that accepts, upgrades and sends one message as long.

mod allocated;
mod births;
mod house;
#[path = "../river/report.rs"]
mod report;
mod visit;

use std::error::Error;
use std::time::Duration;

use house::{House, Kind};
use report::{Goal, Row};
use tokio::runtime::{Builder, Runtime};

pub type Failed = Box<dyn Error + Send + Sync>;

/// Files one process may have open beyond its sockets.
const SPARE_FILES: usize = 500;
const BIRTHS_FOR: Duration = Duration::from_secs(10);
const STORM_OVER: Duration = Duration::from_secs(10);

struct Options {
    rounds: usize,
    listeners: usize,
    only: Option<String>,
    write: bool,
    house: Option<Kind>,
}

fn main() -> Result<(), Failed> {
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let options = options()?;
    if let Some(kind) = options.house {
        return runtime(2)?.block_on(house::run(kind));
    }
    house::allow_files(options.listeners + SPARE_FILES)?;
    let wanted = |part: &str| options.only.as_deref().is_none_or(|only| only == part);
    let mut rows = Vec::new();
    if wanted("births") {
        rows.extend(birth_rows(&options)?);
    }
    if wanted("idle") {
        rows.extend(idle_rows(&options)?);
    }
    if wanted("storm") {
        rows.extend(storm_rows(&options)?);
    }
    if rows.is_empty() {
        return Ok(());
    }
    println!("\n{}\n{}", report::machine().join("\n"), report::table(&rows));
    if options.write {
        report::write("Many sessions, many listeners", "benches/crowd/", &rows, options.rounds)?;
    }
    Ok(())
}

fn options() -> Result<Options, Failed> {
    let mut options = Options { rounds: 3, listeners: 10_000, only: None, write: false, house: None };
    let mut given = std::env::args().skip(1);
    while let Some(option) = given.next() {
        let mut value = || given.next().ok_or_else(|| format!("{option} needs a value"));
        match option.as_str() {
            "--rounds" => options.rounds = value()?.parse::<usize>()?.max(1),
            "--listeners" => options.listeners = value()?.parse::<usize>()?.max(1),
            "--only" => options.only = Some(value()?),
            "--house" => options.house = Some(value()?.parse()?),
            "--write" => options.write = true,
            "--seconds" => drop(value()?), // the river's
            "--bench" => {}                // what cargo says to every bench
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

fn birth_rows(options: &Options) -> Result<Vec<Row>, Failed> {
    let clients = runtime(1)?;
    let mut rounds = Vec::new();
    for round in 1..=options.rounds {
        eprintln!("births: round {round} of {}", options.rounds);
        let births = clients.block_on(births::run(&mut House::start(Kind::Full)?, BIRTHS_FOR))?;
        eprintln!("  {births:.1?}");
        rounds.push(births);
    }
    let of = |pick: fn(&births::Births) -> f64| median(rounds.iter().map(pick).collect());
    let floor = of(|births| births.idle_per_second).unwrap_or(f64::NAN);
    let row = |what: &str, unit, value, goal, floor, meaning: &str| Row {
        what: what.to_owned(),
        unit,
        value,
        goal,
        floor,
        meaning: meaning.to_owned(),
    };
    Ok(vec![
        row(
            "sessions created and ended, 32 speakers at once",
            "/s",
            of(|births| births.per_second),
            Some(Goal::AtLeast(200.0)),
            Some((floor, "two requests that do nothing")),
            "with channel, ear, scribe and their end; server, local cloud and speakers share the cores",
        ),
        row(
            "of these, with an error",
            "",
            of(|births| births.failed as f64),
            Some(Goal::AtMost(0.0)),
            None,
            "anything but 201 and 204, and sessions or channels that are left behind",
        ),
        row(
            "memory that stays with each session that is over, allocated",
            "KiB",
            of(|births| births.left / 1024.0),
            None,
            None,
            "its record, which is shown until it expires, and what of its transcript and its channel is kept",
        ),
        row(
            "creation, p50",
            "ms",
            of(|births| births.create_ms[0]),
            None,
            None,
            "as the speaker sees it, under that load",
        ),
        row("creation, p99", "ms", of(|births| births.create_ms[1]), None, None, "the same"),
    ])
}

fn idle_rows(options: &Options) -> Result<Vec<Row>, Failed> {
    let clients = runtime(1)?;
    let over = Duration::from_millis(options.listeners as u64 / 2);
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for round in 1..=options.rounds {
        for (kind, found) in [(Kind::Full, &mut ours), (Kind::Bare, &mut bare)] {
            eprintln!("idle: round {round} of {}, {kind:?}", options.rounds);
            let mut house = House::start(kind)?;
            let before = house.inventory()?;
            let visits = clients.block_on(visit::all(&house.words, kind, options.listeners, over));
            visits.nobody_missing()?;
            std::thread::sleep(Duration::from_secs(2));
            let after = house.inventory()?;
            let each = |before: f64, after: f64| (after - before) / options.listeners as f64 / 1024.0;
            let each = (each(before.resident, after.resident), each(before.allocated, after.allocated));
            clients.block_on(async move { drop(visits) });
            std::thread::sleep(Duration::from_secs(2));
            let left = (house.inventory()?.allocated - before.allocated) / options.listeners as f64;
            eprintln!("  resident {:.2} KiB, allocated {:.2} KiB each; left behind {left:.0} B", each.0, each.1);
            found.push(each);
        }
    }
    let (resident, allocated): (Vec<f64>, Vec<f64>) = ours.into_iter().unzip();
    let (bare_resident, bare_allocated): (Vec<f64>, Vec<f64>) = bare.into_iter().unzip();
    let row = |what: &str, value, goal, floor: Option<f64>, meaning: &str| Row {
        what: what.to_owned(),
        unit: "KiB",
        value,
        goal,
        floor: floor.map(|floor| (floor, "a task at a TCP stream")),
        meaning: meaning.to_owned(),
    };
    Ok(vec![
        row(
            &format!("memory per idle listener of {}, resident", options.listeners),
            median(resident),
            Some(Goal::AtMost(8.0)),
            median(bare_resident),
            "the server's process as the kernel counts it: with what the allocator has not given back after the joins",
        ),
        row("of which allocated", median(allocated), None, median(bare_allocated), "as the program counts it"),
    ])
}

fn storm_rows(options: &Options) -> Result<Vec<Row>, Failed> {
    let clients = runtime(1)?;
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    let mut lost = Vec::new();
    for round in 1..=options.rounds {
        for (kind, found) in [(Kind::Full, &mut ours), (Kind::Upgrade, &mut floor)] {
            eprintln!("storm: round {round} of {}, {kind:?}", options.rounds);
            let house = House::start(kind)?;
            let visits = clients.block_on(visit::all(&house.words, kind, options.listeners, STORM_OVER));
            let at = [0.5, 0.99, 1.0].map(|share| quantile(&visits.joined_ms, share));
            eprintln!("  p50, p99, max: {at:.2?} ms; not in: {} {}", visits.missing.len(), visits.why());
            if kind == Kind::Full {
                lost.push(visits.missing.len() as f64);
            }
            found.push(at);
            clients.block_on(async move { drop(visits) });
        }
    }
    let of = |rounds: &[[f64; 3]], at: usize| median(rounds.iter().map(|round| round[at]).collect());
    let row = |what: String, unit, value, goal, floor: Option<f64>, meaning: &str| Row {
        what,
        unit,
        value,
        goal,
        floor: floor.map(|floor| (floor, "accept, upgrade, one message")),
        meaning: meaning.to_owned(),
    };
    let joins = format!("{} joins in {} s", options.listeners, STORM_OVER.as_secs());
    Ok(vec![
        row(format!("{joins}: refused or lost"), "", median(lost), Some(Goal::AtMost(0.0)), None, "of one session"),
        row(
            format!("{joins}: connect -> sessionJoined, p50"),
            "ms",
            of(&ours, 0),
            None,
            of(&floor, 0),
            "server and listeners share the cores",
        ),
        row(
            format!("{joins}: connect -> sessionJoined, p99"),
            "ms",
            of(&ours, 1),
            Some(Goal::AtMost(250.0)),
            of(&floor, 1),
            "the same, for the slowest in a hundred",
        ),
    ])
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
