//! Taking a lab down: everything of it, whoever was killed before.
//!
//! Nothing here asks the supervisor. What belongs to a lab is found by name (namespaces, files) and by being
//! inside (processes), so that it makes no difference which of them were still alive.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::config::{LabConfig, all_labs, lock_all};
use crate::limits::{KILL_TIMEOUT, MAX_NODES};
use crate::names::LabName;
use crate::ns::{self, Space};
use crate::paths::{Paths, ROOT};
use crate::process::{Record, wait_until};
use crate::{mounts, scan, up};

/// Removes everything a lab consists of. Returns whether there was anything.
///
/// # Errors
/// What cannot be removed; doing it again is always right.
pub fn down(lab: &LabName) -> Result<bool> {
    let _lock = lock_all()?;
    let paths = Paths::new(lab);
    let namespaces = ns::list_net(&lab.netns_prefix())?;
    let found = paths.root().exists() || !namespaces.is_empty();
    end_supervisor(&paths);
    end_processes(&paths, &namespaces)?;
    for name in &namespaces {
        ns::remove_net(name)?;
    }
    for node in nodes(lab) {
        mounts::remove_node(&paths.node_mnt(&node))?;
    }
    mounts::release_root(&paths)?;
    remove_tree(paths.root())?;
    remove_common();
    Ok(found)
}

/// First, since it would start again what we end.
fn end_supervisor(paths: &Paths) {
    let Some(supervisor) = up::supervisor(paths) else { return };
    let _ = supervisor.signal(Signal::SIGKILL);
    wait_until(KILL_TIMEOUT, || !supervisor.is_alive());
}

fn end_processes(paths: &Paths, namespaces: &[String]) -> Result<()> {
    let inodes: BTreeSet<u64> =
        namespaces.iter().filter_map(|name| Space::net(name).ok()?.net_inode().ok()).collect();
    // Agents and commands may want to say goodbye to nobody: nothing of theirs outlives the lab.
    scan::kill_all(|| {
        let mut all = scan::inside(&inodes);
        all.extend(recorded(paths));
        all
    })
}

/// Processes that a supervisor wrote down; those that moved to another namespace are found this way alone.
fn recorded(paths: &Paths) -> Vec<i32> {
    let entries = fs::read_dir(paths.processes()).into_iter().flatten();
    entries.filter_map(|entry| Some(Record::load_alive(&entry.ok()?.path())?.pid)).collect()
}

/// Where the configuration is lost, every node there may have been.
fn nodes(lab: &LabName) -> Vec<String> {
    LabConfig::load(lab).map_or_else(
        |_| (1..=MAX_NODES).map(|number| format!("node{number}")).collect(),
        |config| config.node_names().map(|(_, name)| name).collect(),
    )
}

/// A process that was killed this moment may still be writing a file.
fn remove_tree(path: &Path) -> Result<()> {
    let mut last = Ok(());
    wait_until(Duration::from_secs(1), || {
        last = match fs::remove_dir_all(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        last.is_ok()
    });
    last.with_context(|| format!("remove {}", path.display()))
}

/// What all labs share goes with the last one.
fn remove_common() {
    if !all_labs().is_empty() {
        return;
    }
    ns::remove_netns_dir();
    let _ = fs::remove_file(Paths::all_labs_lock());
    let _ = fs::remove_dir(ROOT);
    let _ = Path::new(ROOT).parent().map(fs::remove_dir);
}
