//! Everything there is to check, in one run: a step that fails does not keep the later ones from running, and
//! the last line says how many tests passed and failed.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::sh;
use crate::tally::Tally;

/// One step of the run.
struct Step {
    name: &'static str,
    run: fn() -> Result<Tally>,
}

/// How a step ended.
struct Outcome {
    name: &'static str,
    took: Duration,
    tally: Tally,
    error: Option<String>,
}

const LINT: &[Step] = &[
    Step { name: "fmt", run: || check(fmt) },
    // The loader embeds the programs: without them it is not even linted.
    Step { name: "ebpf", run: || check(crate::build_ebpf::run) },
    Step { name: "clippy", run: || check(clippy) },
    Step { name: "deps", run: || check(crate::deps::run) },
    Step { name: "size", run: || check(crate::size::run) },
];

const BUILD_AND_TEST: &[Step] = &[
    Step { name: "build", run: || check(crate::build::run_with_tests) },
    // Real peers of the tests; a machine builds each version once.
    Step { name: "peers", run: || check(|| crate::peers::run(false)) },
    Step { name: "tests", run: tests },
];

/// Formatting, lints, and the rules about imports and sizes.
pub fn lint() -> Result<()> {
    finish(run_all(LINT.iter()))
}

/// The lints, the build and every test.
pub fn ci() -> Result<()> {
    finish(run_all(LINT.iter().chain(BUILD_AND_TEST)))
}

fn run_all<'a>(steps: impl Iterator<Item = &'a Step>) -> Vec<Outcome> {
    steps.map(run_step).collect()
}

fn run_step(step: &Step) -> Outcome {
    println!("\n==> {}", step.name);
    let start = Instant::now();
    let (tally, error) = match (step.run)() {
        Ok(tally) if tally.failed == 0 => (tally, None),
        Ok(tally) => (tally, Some(format!("{} failed", tally.failed))),
        Err(error) => (Tally::ONE_FAILURE, Some(format!("{error:#}"))),
    };
    if let Some(error) = &error {
        println!("==> {}: {error}", step.name);
    }
    Outcome { name: step.name, took: start.elapsed(), tally, error }
}

/// Prints the summary; the last line is the tally alone.
fn finish(outcomes: Vec<Outcome>) -> Result<()> {
    println!("\n{:<10} {:>8}  result", "step", "seconds");
    let mut sum = Tally::default();
    for Outcome { name, took, tally, error } in &outcomes {
        let result = error.as_deref().unwrap_or("ok");
        println!("{name:<10} {:>8.1}  {result}", took.as_secs_f64());
        sum += *tally;
    }
    println!("{sum}");
    if sum.failed > 0 {
        // The lines above say it all; an error of anyhow's would come after the tally.
        std::process::exit(1);
    }
    Ok(())
}

/// A check has no tests of its own: it passes silently or fails as one.
fn check(run: fn() -> Result<()>) -> Result<Tally> {
    run().map(|()| Tally::default())
}

fn fmt() -> Result<()> {
    sh::run(&mut sh::cargo(["fmt", "--all", "--", "--check"]))?;
    if sh::root().join(PROGRAMS).exists() {
        sh::run(&mut sh::cargo(["fmt", "--manifest-path", PROGRAMS, "--", "--check"]))?;
    }
    Ok(())
}

/// The eBPF programs' manifest: a workspace of their own.
pub const PROGRAMS: &str = "ebpf/programs/Cargo.toml";

fn clippy() -> Result<()> {
    sh::run(&mut sh::cargo(["clippy", "--release", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

fn tests() -> Result<Tally> {
    let tally = test_run(sh::cargo(["test", "--release", "--workspace", "--no-fail-fast"]))?;
    if tally == Tally::default() {
        bail!("no test ran");
    }
    Ok(tally)
}

/// Runs one `cargo test`, passing its output on, and adds up its `test result:` lines.
fn test_run(mut command: Command) -> Result<Tally> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", sh::line(&command)))?;
    let stdout = child.stdout.take().context("the child has no standard output")?;
    let mut tally = Tally::default();
    for line in BufReader::new(stdout).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        println!("{line}");
        if let Some(more) = Tally::of_line(&line) {
            tally += more;
        }
    }
    // A test program that crashed or did not build has no result line of its own.
    if !child.wait()?.success() && tally.failed == 0 {
        tally += Tally::ONE_FAILURE;
    }
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Tally {
        test_run(sh::command("sh", ["-c", script])).unwrap()
    }

    #[test]
    fn results_of_several_programs_add_up() {
        let script = "echo 'test result: ok. 2 passed; 0 failed; 0 ignored'
                      echo 'test result: FAILED. 3 passed; 1 failed; 0 ignored'; exit 101";
        assert_eq!(shell(script), Tally { passed: 5, failed: 1 });
    }

    #[test]
    fn a_program_that_does_not_build_is_a_failure() {
        assert_eq!(
            shell("echo 'test result: ok. 2 passed; 0 failed'; exit 101"),
            Tally { passed: 2, failed: 1 }
        );
    }

    #[test]
    fn odd_bytes_do_no_harm() {
        assert_eq!(
            shell(r"printf '\377\n'; echo 'test result: ok. 1 passed; 0 failed'"),
            Tally { passed: 1, failed: 0 }
        );
    }

    #[test]
    fn a_step_that_fails_counts_as_one() {
        let failing = Step { name: "failing", run: || bail!("on purpose") };
        let outcome = run_step(&failing);
        assert_eq!((outcome.tally, outcome.error.as_deref()), (Tally::ONE_FAILURE, Some("on purpose")));
    }
}
