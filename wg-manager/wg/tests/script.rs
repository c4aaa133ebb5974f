//! WireGuard's own script for implementations in user space (`tests/netns.sh` of wireguard-go, unmodified): preshared
//! keys, large transfers, MTUs, roaming, NAT, sources of answers, 130,560 prefixes, what is destroyed in the end.
//! Needs root; `cargo xtask peers` fetches it.

mod rig;

use std::path::{Path, PathBuf};
use std::process::Command;

const BINARY: &str = env!("CARGO_BIN_EXE_countersign-wg");

/// The script in the cache of peers.
fn script() -> Option<PathBuf> {
    let given = std::env::var_os("COUNTERSIGN_CACHE_DIR").map(PathBuf::from);
    let xdg = || std::env::var_os("XDG_CACHE_HOME").map(|dir| Path::new(&dir).join("countersign"));
    let home = || std::env::var_os("HOME").map(|dir| Path::new(&dir).join(".cache/countersign"));
    let peers = given.or_else(xdg).or_else(home)?.join("peers");
    let mut places: Vec<PathBuf> =
        std::fs::read_dir(peers).ok()?.flatten().map(|entry| entry.path()).collect();
    places.sort();
    places.into_iter().map(|place| place.join("netns.sh")).rfind(|script| script.is_file())
}

#[test]
fn the_script_of_wireguard_passes() {
    if !rig::possible() {
        return;
    }
    let Some(script) = script() else {
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "no netns.sh: run `cargo xtask peers`");
        return eprintln!("skipped: no netns.sh; `cargo xtask peers` fetches it");
    };
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
