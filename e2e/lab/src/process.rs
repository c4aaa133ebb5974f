//! Processes that outlive whoever started them: a record on disk tells the next supervisor which they are.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::config::write_atomically;
use crate::limits::LOG_LIMIT;
use crate::ns::Space;

/// In the environment of everything the supervisor starts: `<lab>:<what>`. It tells strays (started, but not
/// recorded, because the supervisor was killed in between) from what people run in a namespace by hand.
pub const MARK: &str = "COUNTERSIGN_LAB_PROCESS";

/// A process, told from a later one with the same number by when it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Process id.
    pub pid: i32,
    /// When it started, in the kernel's ticks since boot (field 22 of `/proc/<pid>/stat`).
    pub start_ticks: u64,
    /// When it started, in seconds since the Unix epoch.
    pub since: u64,
}

impl Record {
    /// Of a process that runs now.
    ///
    /// # Errors
    /// Where it does not.
    pub fn of(pid: i32) -> io::Result<Self> {
        let start_ticks = start_ticks(pid).ok_or(io::ErrorKind::NotFound)?;
        Ok(Self { pid, start_ticks, since: unix_now() })
    }

    /// Whether that very process runs (a zombie does not).
    #[must_use]
    pub fn is_alive(&self) -> bool {
        start_ticks(self.pid) == Some(self.start_ticks)
    }

    /// Reads the record at `path`, if there is one whose process is alive.
    #[must_use]
    pub fn load_alive(path: &Path) -> Option<Self> {
        let record: Self = serde_json::from_str(&fs::read_to_string(path).ok()?).ok()?;
        record.is_alive().then_some(record)
    }

    /// Sends a signal to that process, if it still is that one. Returns whether it was sent.
    #[must_use]
    pub fn signal(&self, signal: Signal) -> bool {
        self.is_alive() && nix::sys::signal::kill(Pid::from_raw(self.pid), signal).is_ok()
    }
}

/// A running process of ours, or one that a supervisor before us started.
#[derive(Debug)]
pub struct Running {
    record: Record,
    handle: OwnedFd,
    file: PathBuf,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// It left with this code.
    Exited(i32),
    /// This signal ended it.
    Signaled(i32),
    /// It was not our child, so that only its parent knew.
    Unknown,
}

impl Running {
    /// Starts `command` inside `space`, output to `log`, and records it at `file`.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn start(space: &Space, command: &mut Command, log: &Path, file: &Path) -> Result<Self> {
        let output = open_log(log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let program = command.get_program().to_string_lossy().into_owned();
        let child = space.run(|| command.spawn().with_context(|| format!("start {program}")))?;
        let pid = i32::try_from(child.id())?;
        // A child that has ended already keeps its number, and its record, until we wait for it.
        let record = Record::of(pid).or_else(|_| zombie(pid))?;
        write_atomically(file, &serde_json::to_vec(&record)?)?;
        Ok(Self { record, handle: open_handle(pid)?, file: file.to_owned() })
    }

    /// Takes over the process recorded at `file`, if it is alive.
    #[must_use]
    pub fn adopt(file: &Path) -> Option<Self> {
        let record = Record::load_alive(file)?;
        let handle = open_handle(record.pid).ok()?;
        // Between the look and the handle it may have become another's number.
        record.is_alive().then(|| Self { record, handle, file: file.to_owned() })
    }

    /// Which process.
    #[must_use]
    pub const fn record(&self) -> Record {
        self.record
    }

    /// Readable once it has ended.
    #[must_use]
    pub fn handle(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }

    /// How it ended, once it has.
    #[must_use]
    pub fn ended(&self) -> Option<Ended> {
        wait_readable(self.handle.as_fd(), Duration::ZERO).then(|| {
            let ended = match waitpid(Pid::from_raw(self.record.pid), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(_, code)) => Ended::Exited(code),
                Ok(WaitStatus::Signaled(_, signal, _)) => Ended::Signaled(signal as i32),
                _ => Ended::Unknown,
            };
            let _ = fs::remove_file(&self.file);
            ended
        })
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let _ = self.record.signal(signal);
    }

    /// Waits for it to end.
    #[must_use]
    pub fn wait(&self, at_most: Duration) -> Option<Ended> {
        if !wait_readable(self.handle.as_fd(), at_most) {
            return None;
        }
        self.ended()
    }
}

/// Opens a log to append to; one that has grown too long is put aside first.
pub(crate) fn open_log(path: &Path) -> Result<File> {
    if fs::metadata(path).is_ok_and(|meta| meta.len() > LOG_LIMIT) {
        fs::rename(path, path.with_extension("log.old"))?;
    }
    File::options().append(true).create(true).open(path).with_context(|| format!("open {}", path.display()))
}

/// Polls until `ready` says so. Returns whether it did in time.
pub(crate) fn wait_until(at_most: Duration, mut ready: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + at_most;
    loop {
        if ready() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn zombie(pid: i32) -> io::Result<Record> {
    let fields = stat_fields(pid).ok_or(io::ErrorKind::NotFound)?;
    Ok(Record { pid, start_ticks: parse_ticks(&fields).unwrap_or(0), since: unix_now() })
}

fn start_ticks(pid: i32) -> Option<u64> {
    let fields = stat_fields(pid)?;
    let state = fields.split(' ').next()?;
    if matches!(state, "Z" | "X") { None } else { parse_ticks(&fields) }
}

/// What follows the name, which is in brackets and may hold anything.
fn stat_fields(pid: i32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(") ").map(|(_, fields)| fields.to_owned())
}

/// The start time is field 22 of the line, counted from 1; the state, with which `fields` begin, is field 3.
fn parse_ticks(fields: &str) -> Option<u64> {
    fields.split(' ').nth(19)?.parse().ok()
}

fn wait_readable(fd: BorrowedFd<'_>, at_most: Duration) -> bool {
    let deadline = Instant::now() + at_most;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], timeout) {
            Ok(ready) => return ready > 0,
            Err(Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
}

/// A descriptor of the process, readable once it has ended, whosoever child it is.
fn open_handle(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and returns a new descriptor or -1; no memory is involved.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(fd).unwrap_or(-1);
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor to us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_of_one_process_alone() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let record = Record::of(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(record.is_alive());
        assert!(!Record { start_ticks: record.start_ticks + 1, ..record }.is_alive());
        assert!(record.signal(Signal::SIGKILL));
        assert!(wait_until(Duration::from_secs(5), || !record.is_alive()), "a zombie is not alive");
        child.wait().unwrap();
        assert!(!record.signal(Signal::SIGKILL));
    }

    #[test]
    fn a_log_that_grew_too_long_starts_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        File::create(&path).unwrap().set_len(LOG_LIMIT + 1).unwrap();
        drop(open_log(&path).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().len(), 0);
        assert_eq!(fs::metadata(dir.path().join("a.log.old")).unwrap().len(), LOG_LIMIT + 1);
    }

    #[test]
    fn one_that_others_started_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("p.json");
        assert!(Running::adopt(&file).is_none(), "no record");
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let record = Record::of(i32::try_from(child.id()).unwrap()).unwrap();
        let write = |record: Record| fs::write(&file, serde_json::to_vec(&record).unwrap()).unwrap();
        write(Record { start_ticks: record.start_ticks + 1, ..record });
        assert!(Running::adopt(&file).is_none(), "another process of that number");
        write(record);
        let running = Running::adopt(&file).unwrap();
        assert!(running.ended().is_none());
        running.signal(Signal::SIGTERM);
        assert_eq!(running.wait(Duration::from_secs(5)), Some(Ended::Signaled(15)));
        assert!(!file.exists(), "its record goes with it");
        let _ = child.wait();
    }
}
