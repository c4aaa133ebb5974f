//! Fuzzing for longer than the tests do.

use anyhow::Result;

use crate::sh;

/// What can be fuzzed with the stable compiler. What reads certificates has targets of cargo-fuzz, see `certs/fuzz`.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Target {
    /// Policies and the objects they are about, as YAML and as JSON
    Policy,
}

/// Runs the fuzzer of `target` for so long; fails with the document that did harm.
pub fn run(target: Target, minutes: u32, seed: u64) -> Result<()> {
    let (package, test, name) = match target {
        Target::Policy => ("countersign-policy", "fuzz", "mutated_documents_and_noise_do_no_harm"),
    };
    sh::run(&mut sh::cargo(["test", "--release", "-p", package, "--test", test, "--no-run"]))?;
    let words =
        ["-n", "19", "cargo", "test", "--release", "-p", package, "--test", test, "--", "--nocapture", name];
    let mut command = sh::command("nice", words);
    command
        .env("CS_FUZZ_SECONDS", (u64::from(minutes) * 60).to_string())
        .env("CS_FUZZ_SEED", seed.to_string());
    sh::run(&mut command)
}
