//! WireGuard's own script for implementations in user space (`tests/netns.sh` of wireguard-go, unmodified): preshared
//! keys, large transfers, MTUs, roaming, NAT, sources of answers, 130,560 prefixes, what is destroyed in the end.
//! Needs root; `cargo xtask peers` fetches it.

mod rig;

use std::process::Command;

const BINARY: &str = env!("CARGO_BIN_EXE_countersign-wg");

#[test]
fn the_script_of_wireguard_passes() {
    let Some(script) = rig::of_wireguard_go("netns.sh").filter(|_| rig::possible()) else { return };
    let runs = std::env::var("COUNTERSIGN_NETNS_RUNS").map_or(1, |runs| runs.parse().unwrap());
    for run in 1..=runs {
        // Sockets in a place of its own: other tests have devices of the same names.
        let inside =
            "mkdir -p /run/wireguard && mount -t tmpfs none /run/wireguard && exec bash \"$0\" \"$1\"";
        let output = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-ec", inside])
            .arg(&script)
            .arg(BINARY)
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let last: Vec<&str> = said[0].lines().rev().take(40).collect();
        let story: Vec<&str> = last.into_iter().rev().collect();
        assert!(output.status.success(), "run {run} of {runs}:\n{}\n{}", story.join("\n"), said[1]);
        println!("run {run} of {runs} passed");
    }
}
