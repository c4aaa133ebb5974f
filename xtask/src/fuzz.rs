//! Fuzzing for longer than the tests do.

use anyhow::Result;

use crate::sh;

/// What can be fuzzed with the stable compiler. What reads certificates has targets of cargo-fuzz, see `certs/fuzz`.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Target {
    /// Policies and the objects they are about, as YAML and as JSON
    Policy,
    /// Packets that a peer sends and the data plane joins for the kernel
    Packets,
    /// Handshake and data messages between two peers on a bad network
    Wireguard,
    /// The configuration protocol of WireGuard devices
    Uapi,
}

/// Runs the fuzzer of `target` for so long; fails with the document that did harm.
pub fn run(target: Target, minutes: u32, seed: u64) -> Result<()> {
    let (package, place, name): (_, &[&str], _) = match target {
        Target::Policy => {
            ("countersign-policy", &["--test", "fuzz"], "mutated_documents_and_noise_do_no_harm")
        }
        Target::Wireguard => {
            ("countersign-wg-core", &["--test", "two_peers"], "messages_on_a_bad_network_do_no_harm")
        }
        Target::Uapi => ("countersign-wg-proto", &["--test", "uapi"], "mutated_messages_do_no_harm"),
        Target::Packets => ("countersign-wg", &["--lib"], "whatever_peers_send_is_kept_as_it_was"),
    };
    let test = [&["test", "--release", "-p", package], place].concat();
    sh::run(sh::cargo(test.iter().copied()).arg("--no-run"))?;
    let mut command = sh::command("nice", ["-n", "19", "cargo"]);
    command.args(&test).args(["--", "--nocapture", name]);
    command
        .env("CS_FUZZ_SECONDS", (u64::from(minutes) * 60).to_string())
        .env("CS_FUZZ_SEED", seed.to_string());
    sh::run(&mut command)
}
