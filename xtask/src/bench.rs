//! Benchmarks: one by name, or all of them into `bench/RESULTS.md`.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};

use crate::{build, sh};

/// Every benchmark, in the order of the report.
const ALL: &[&str] = &[
    "datapath",
    "policy-scale",
    "policy-latency",
    "handshakes",
    "first-connection",
    "first-datagram",
    "renewal",
    "spire",
    "wireguard",
    "wireguard-flood",
];

/// Where the report goes.
const REPORT: &str = "bench/RESULTS.md";
/// What others measure on this kind of machine; copied into the report.
const PEERS: &str = "bench/PEERS.md";

/// Runs the benchmark `name` with `arguments`; with `json` its last line is one JSON object.
pub fn one(name: &str, json: bool, arguments: &[String]) -> Result<()> {
    build::run()?;
    let mut command = sh::command(&program(), [name]);
    command.args(json.then_some("--json")).args(arguments);
    sh::run(&mut command)
}

/// Runs one and puts what it says into the report, in place of what it said before.
pub fn report(name: &str, arguments: &[String]) -> Result<()> {
    build::run()?;
    if !ALL.contains(&name) {
        bail!("no benchmark {name} in the report; there are {}", ALL.join(", "));
    }
    let path = sh::root().join(REPORT);
    let output = run_captured(name, arguments)?;
    let old = std::fs::read_to_string(&path).context(REPORT)?;
    std::fs::write(&path, replaced(&old, name, &section(name, &stamp(), &output))).context(REPORT)?;
    println!("\nwritten to {REPORT}");
    Ok(())
}

/// `report` with another section of that name; a new one comes behind the others and before the peers.
fn replaced(report: &str, name: &str, section: &str) -> String {
    const SECTION: &str = "\n## ";
    let is_section = |at: &usize| report[*at..].starts_with(&format!("{SECTION}{name}\n"));
    let starts: Vec<usize> = report.match_indices(SECTION).map(|(at, _)| at).collect();
    let is_benchmark =
        |at: &usize| ALL.iter().any(|one| report[*at..].starts_with(&format!("{SECTION}{one}\n")));
    let end_of = |at: usize| starts.iter().copied().find(|next| *next > at).unwrap_or(report.len());
    let (from, to) = match starts.iter().copied().find(is_section) {
        Some(at) => (at, end_of(at)),
        None => {
            let end = starts.iter().rev().copied().find(is_benchmark).map_or(report.len(), end_of);
            (end, end)
        }
    };
    format!("{}{section}{}", &report[..from], &report[to..])
}

/// Runs all and writes the report. A benchmark that fails is reported as failed, and does not stop the others.
pub fn all() -> Result<()> {
    build::run()?;
    let mut report = heading();
    let mut failed = Vec::new();
    for name in ALL {
        println!("\n==> {name}");
        let section = match run_captured(name, &[]) {
            Ok(output) => section(name, &stamp(), &output),
            Err(error) => {
                println!("{name}: {error:#}");
                failed.push(*name);
                format!("\n## {name}\n\nfailed: {error:#}\n")
            }
        };
        report.push_str(&section);
    }
    report.push_str(&std::fs::read_to_string(sh::root().join(PEERS)).context(PEERS)?);
    std::fs::write(sh::root().join(REPORT), report).context(REPORT)?;
    println!("\nwritten to {REPORT}");
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

fn program() -> String {
    sh::binary("countersign-bench").to_string_lossy().into_owned()
}

/// Runs one with `--json`, passing its output on, and returns what it printed.
fn run_captured(name: &str, arguments: &[String]) -> Result<String> {
    let mut command = sh::command(&program(), [name, "--json"]);
    command.args(arguments);
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| sh::line(&command))?;
    let stdout = child.stdout.take().context("the child has no standard output")?;
    let mut output = String::new();
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        println!("{line}");
        output.push_str(&line);
        output.push('\n');
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("{}: {status}", sh::line(&command));
    }
    Ok(output)
}

/// The part of the report about one benchmark: its table for people, then its JSON.
fn section(name: &str, stamp: &str, output: &str) -> String {
    let (table, json) = output.trim_end().rsplit_once('\n').unwrap_or(("", output.trim_end()));
    format!("\n## {name}\n\n{stamp}\n\n```text\n{}\n```\n```json\n{json}\n```\n", table.trim_end())
}

/// When it was measured, and what.
fn stamp() -> String {
    format!("{}, commit {}", today(), commit())
}

fn heading() -> String {
    let mut text = String::from(
        "# Measured\n\nWritten by `make bench`; every number below comes from a command in this repository.\n\n",
    );
    let lines = [
        ("machine", machine()),
        ("kernel", sh::ask(&mut sh::command("uname", ["-sr"])).unwrap_or_default()),
        ("rustc", sh::ask(&mut sh::command("rustc", ["--version"])).unwrap_or_default()),
    ];
    for (what, value) in lines {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "- {what}: {value}");
    }
    text
}

fn commit() -> String {
    let hash = sh::ask(&mut sh::command("git", ["rev-parse", "--short", "HEAD"])).unwrap_or_default();
    let changed = sh::ask(&mut sh::command("git", ["status", "--porcelain", "--untracked-files=no"]));
    let suffix = if changed.is_some_and(|list| !list.is_empty()) { " with changes" } else { "" };
    format!("{hash}{suffix}")
}

fn machine() -> String {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = field(&cpus, "model name").unwrap_or("unknown processor");
    let count = cpus.lines().filter(|line| line.starts_with("processor")).count();
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib: u64 = field(&memory, "MemTotal").and_then(|v| v.split(' ').next()?.parse().ok()).unwrap_or(0);
    format!("{model}, {count} cores, {} MiB", kib / 1024)
}

/// The value of the first `name : value` line.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':')).map(str::trim)
}

fn today() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (year, month, day) = civil(seconds / 86_400);
    format!("{year}-{month:02}-{day:02}")
}

/// The date of a day counted from 1970-01-01 (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_takes_the_place_of_its_predecessor() {
        let report = "# Measured\n\n## datapath\n\nold\n\n## handshakes\n\nkept\n\n## Others\n\nkept too\n";
        let changed = replaced(report, "datapath", "\n## datapath\n\nnew\n");
        assert_eq!(changed, report.replace("old", "new"));
        let more = replaced(report, "spire", "\n## spire\n\nfirst\n");
        assert_eq!(more, report.replace("\n## Others", "\n## spire\n\nfirst\n\n## Others"));
    }

    #[test]
    fn dates_are_civil() {
        assert_eq!((civil(0), civil(11_016), civil(20_778)), ((1970, 1, 1), (2000, 2, 29), (2026, 11, 21)));
    }

    #[test]
    fn a_section_keeps_table_and_json_apart() {
        assert_eq!(
            section("renewal", "that day", "a table\nof lines\n{\"lost\":0}\n"),
            "\n## renewal\n\nthat day\n\n```text\na table\nof lines\n```\n```json\n{\"lost\":0}\n```\n"
        );
    }

    #[test]
    fn fields_of_proc_files() {
        assert_eq!(field("processor\t: 0\nmodel name\t: A B\n", "model name"), Some("A B"));
        assert_eq!(field("MemTotal:   8 kB\n", "MemTotal"), Some("8 kB"));
    }
}
