//! The numbers as a table for people, and as a section of docs/BENCHMARKS.md. Both benches use it.

use std::fmt::Write as _;
use std::process::Command;

/// What a number should be.
#[derive(Debug, Clone, Copy)]
#[allow(dead_code, reason = "shared by the benches; not each has both")]
pub enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

/// One number.
#[derive(Debug, Clone)]
pub struct Row {
    pub what: String,
    pub unit: &'static str,
    /// Median of the rounds; none if it could not be measured.
    pub value: Option<f64>,
    pub goal: Option<Goal>,
    /// What the machine takes for as much, and its name.
    pub floor: Option<(f64, &'static str)>,
    /// What the number says; or why there is none.
    pub meaning: String,
}

impl Row {
    fn verdict(&self) -> &'static str {
        match (self.value, self.goal) {
            (Some(value), Some(Goal::AtMost(goal))) if value > goal => "MISSED",
            (Some(value), Some(Goal::AtLeast(goal))) if value < goal => "MISSED",
            (Some(_), Some(_)) => "met",
            (None, _) => "not measured",
            (Some(_), None) => "",
        }
    }

    fn goal(&self) -> String {
        match self.goal {
            Some(Goal::AtMost(goal)) => format!("<= {goal}"),
            Some(Goal::AtLeast(goal)) => format!(">= {goal}"),
            None => String::new(),
        }
    }

    fn value(&self) -> String {
        self.value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2} {}", self.unit).trim_end().to_owned())
    }

    fn floor(&self) -> String {
        let ratio = |value: f64| {
            let (floor, name) = self.floor?;
            Some(match value / floor {
                small if small < 0.1 => format!("1/{:.0} of {name} ({floor:.2})", floor / value),
                times => format!("{times:.1} x {name} ({floor:.2})"),
            })
        };
        self.value.and_then(ratio).unwrap_or_default()
    }
}

pub fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{:<64} {:>10} {:>8} {:<12} beside a floor", "", "measured", "goal", "");
    for row in rows {
        let (goal, verdict) = (row.goal(), row.verdict());
        let _ = writeln!(text, "{:<64} {:>10} {goal:>8} {verdict:<12} {}", row.what, row.value(), row.floor());
        if row.value.is_none() {
            let _ = writeln!(text, "    {}", row.meaning);
        }
    }
    text
}

/// Puts the numbers into docs/BENCHMARKS.md as the section `title`, in place of what it said before; the sections of
/// other benches stay. `method`: where it is told how they are taken.
pub fn write(title: &str, method: &str, rows: &[Row], rounds: usize) -> std::io::Result<()> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/BENCHMARKS.md");
    let before = std::fs::read_to_string(path).unwrap_or_default();
    let mut sections: Vec<&str> = before.split("\n## ").skip(1).map(str::trim_end).collect();
    let section = section(title, method, rows, rounds);
    let fresh = section.trim_end();
    match sections.iter_mut().find(|section| section.lines().next() == Some(title)) {
        Some(old) => *old = fresh,
        None => sections.push(fresh),
    }
    let mut text = String::from("# Benchmarks\n\nWritten by `./dev bench --write`, each part by its bench.\n");
    for section in sections {
        let _ = writeln!(text, "\n## {section}");
    }
    std::fs::write(path, text)?;
    eprintln!("written: docs/BENCHMARKS.md, {title}");
    Ok(())
}

fn section(title: &str, method: &str, rows: &[Row], rounds: usize) -> String {
    let mut text = format!("{title}\n\nThe method is told in `{method}`. Medians of {rounds} rounds.\n\n");
    for line in machine() {
        let _ = writeln!(text, "- {line}");
    }
    text += "\n| what | measured | goal | | beside a floor | what it says |\n|---|--:|--:|---|---|---|\n";
    for row in rows {
        let (value, goal, verdict) = (row.value(), row.goal(), row.verdict());
        let _ = writeln!(text, "| {} | {value} | {goal} | {verdict} | {} | {} |", row.what, row.floor(), row.meaning);
    }
    text
}

/// What it was measured on, and how busy that was.
pub fn machine() -> Vec<String> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let of = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
        line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let says = |program: &str, args: &[&str]| {
        let said = Command::new(program).args(args).output().map(|run| run.stdout).unwrap_or_default();
        String::from_utf8_lossy(&said).trim().to_owned()
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = of(&read("/proc/meminfo"), "MemTotal");
    let load = read("/proc/loadavg").split_whitespace().take(3).collect::<Vec<_>>().join(" ");
    let priority = read("/proc/self/autogroup").split_whitespace().last().unwrap_or("0").to_owned();
    vec![
        format!("machine: {}, {cores} cores, {memory}", of(&read("/proc/cpuinfo"), "model name")),
        format!("kernel: {}; {}", says("uname", &["-sr"]), says("rustc", &["--version"])),
        "build: profile `bench` (release without link-time optimisation, level 2)".to_owned(),
        format!(
            "date: {}; commit {}",
            says("date", &["-u", "+%F %H:%M UTC"]),
            says("git", &["rev-parse", "--short", "HEAD"])
        ),
        format!(
            "load averages at the end: {load} (above {cores} others were at work, and times are longer than they need be)"
        ),
        format!("scheduling priority of the bench's group: {priority} (0 is usual, negative is before others)"),
    ]
}
