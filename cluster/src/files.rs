//! Files that others read while we write them.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::{Flock, FlockArg, OFlag, RenameFlags, renameat2};

/// Whether a file may replace one of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replace {
    Yes,
    /// It must be the first of its name.
    No,
}

/// Writes a file that is there whole or not at all, whoever dies in between.
///
/// It is not forced to the disk: what components write is under `/run`, which a power cut empties anyway, and
/// an agent that waits for a busy disk keeps its handshakes waiting.
///
/// # Errors
/// `AlreadyExists` where it may not replace; a full disk leaves what was there.
pub(crate) fn write(path: &Path, content: &str, replace: Replace) -> io::Result<()> {
    let temporary = temporary(path)?;
    let written = write_whole(&temporary, content).and_then(|()| rename(&temporary, path, replace));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn write_whole(path: &Path, content: &str) -> io::Result<()> {
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC).bits();
    let mut file = File::options().write(true).create_new(true).mode(0o644).custom_flags(flags).open(path)?;
    file.write_all(content.as_bytes())
}

fn rename(from: &Path, to: &Path, replace: Replace) -> io::Result<()> {
    match replace {
        Replace::Yes => fs::rename(from, to),
        Replace::No => {
            let here = nix::fcntl::AT_FDCWD;
            renameat2(here, from, here, to, RenameFlags::RENAME_NOREPLACE).map_err(io::Error::from)
        }
    }
}

/// A name that nobody reads and no other writer uses.
fn temporary(path: &Path) -> io::Result<PathBuf> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    let (pid, count) = (std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
    Ok(path.with_file_name(format!(".{name}.{pid}.{count}")))
}

/// Waits until no other writer has `directory`.
pub(crate) fn lock(directory: &Path) -> io::Result<Flock<File>> {
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC).bits();
    let path = directory.join(".lock");
    let file = File::options().write(true).create(true).truncate(false).custom_flags(flags).open(path)?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
}
