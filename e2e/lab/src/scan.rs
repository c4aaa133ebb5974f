//! Finding processes by the network namespace they are in, and ending them.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;

use anyhow::{Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::limits::{KILL_ROUNDS, KILL_TIMEOUT};
use crate::process::{MARK, Record, wait_until};

/// Every process that is in one of these network namespaces, except this one.
#[must_use]
pub fn inside(net_inodes: &BTreeSet<u64>) -> Vec<i32> {
    let is_inside = |pid: &i32| {
        let net = fs::metadata(format!("/proc/{pid}/ns/net"));
        net.is_ok_and(|meta| net_inodes.contains(&meta.ino()))
    };
    processes().filter(is_inside).collect()
}

/// Every process with this mark of the supervisor's in its environment (children inherit it).
#[must_use]
pub fn marked(mark: &str) -> Vec<i32> {
    let wanted = format!("{MARK}={mark}").into_bytes();
    let is_marked = |pid: &i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == wanted)
    };
    processes().filter(is_marked).collect()
}

/// Kills whatever `find` finds until it finds nothing: what is killed may have forked a moment before.
///
/// # Errors
/// Where something does not go away.
pub fn kill_all(find: impl Fn() -> Vec<i32>) -> Result<()> {
    for _ in 0..KILL_ROUNDS {
        let found: Vec<Record> = find().into_iter().filter_map(|pid| Record::of(pid).ok()).collect();
        if found.is_empty() {
            return Ok(());
        }
        for record in &found {
            let _ = kill(Pid::from_raw(record.pid), Signal::SIGKILL);
        }
        if !wait_until(KILL_TIMEOUT, || found.iter().all(|record| !record.is_alive())) {
            break;
        }
    }
    bail!("processes that cannot be killed: {:?}", find())
}

fn processes() -> impl Iterator<Item = i32> {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let entries = fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).filter(move |pid| *pid != own)
}
