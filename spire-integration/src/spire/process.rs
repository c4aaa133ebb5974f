//! Which process stands for a workload, and whether it is still the same one: process IDs are used again.

use std::fs;
use std::os::unix::fs::MetadataExt;

/// A process, by what no other has at another time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Process {
    /// When it was started, in ticks since boot; the older one of two comes first.
    started: u64,
    /// Its ID.
    pub(super) pid: i32,
}

impl Process {
    /// The process that has this ID now.
    pub(super) fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // Its name, in brackets, may have brackets and spaces in it.
        let (_, rest) = stat.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace();
        let is_dead = matches!(fields.next()?, "Z" | "X");
        // The 22nd field of all; what follows the name begins with the third.
        let started = fields.nth(18)?.parse().ok()?;
        (!is_dead).then_some(Self { started, pid })
    }

    /// The oldest process in a network namespace, which has this inode.
    pub(super) fn in_namespace(inode: u64) -> Option<Self> {
        let all =
            fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let inside = all.filter(|pid: &i32| namespace(*pid) == Some(inode));
        inside.filter_map(Self::of).min()
    }

    /// Whether it is alive, and in that namespace.
    pub(super) fn is_in(self, inode: u64) -> bool {
        namespace(self.pid) == Some(inode) && self.is_alive()
    }

    /// Whether its ID is still its own.
    pub(super) fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }
}

fn namespace(pid: i32) -> Option<u64> {
    fs::metadata(format!("/proc/{pid}/ns/net")).ok().map(|meta| meta.ino())
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn an_id_that_is_used_again_is_another_process() {
        let own = Process::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(own.is_alive());
        assert!(!Process { started: own.started + 1, ..own }.is_alive());
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let process = Process::of(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(process.is_alive() && process >= own);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!process.is_alive());
    }

    #[test]
    fn a_process_is_found_by_its_namespace() {
        let own = Process::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        let inode = namespace(own.pid).unwrap();
        assert!(own.is_in(inode));
        let oldest = Process::in_namespace(inode).unwrap();
        assert!(oldest <= own && oldest.is_in(inode));
        assert_eq!(Process::in_namespace(1), None);
        assert!(!own.is_in(1));
    }
}
