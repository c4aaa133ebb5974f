//! The socket's place in the file system: made safely, replaced safely, removed by its owner only.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::geteuid;

use crate::limits::MAX_SOCKET_PATH;

/// Ownership of a socket path. Dropping it removes the socket.
#[derive(Debug)]
pub(super) struct Socket {
    path: PathBuf,
    /// Locked for as long as the path is ours: two agents can never both believe that the other is dead.
    _lock: File,
}

impl Socket {
    pub(super) fn bind(path: &Path) -> io::Result<(Self, UnixListener)> {
        let fresh = with_suffix(path, ".new");
        if fresh.as_os_str().as_bytes().len() > MAX_SOCKET_PATH {
            return Err(invalid(format!("{} is too long for the path of a socket", path.display())));
        }
        let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        own_directory(directory)?;
        let lock = lock(&with_suffix(path, ".lock"), path)?;
        only_a_socket(path)?;
        only_a_socket(&fresh)?;
        remove(&fresh)?;
        // Under another name until its mode is right, then moved over what a dead agent left.
        let listener = UnixListener::bind(&fresh)?;
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))?;
        fs::rename(&fresh, path)?;
        Ok((Self { path: path.to_owned(), _lock: lock }, listener))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Nobody is left to be told, and the next agent replaces what stays.
        let _ = remove(&self.path);
    }
}

/// The effective user of this process.
pub(super) fn own_uid() -> u32 {
    geteuid().as_raw()
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Makes the directory for us alone, or checks that nobody else can put things into it.
fn own_directory(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let meta = fs::metadata(directory)?;
    if meta.mode() & 0o022 != 0 {
        return Err(invalid(format!(
            "others can write to {}: choose a directory of mode 0700 for the socket",
            directory.display()
        )));
    }
    if meta.uid() != own_uid() && meta.uid() != 0 {
        return Err(invalid(format!("{} belongs to user {}", directory.display(), meta.uid())));
    }
    Ok(())
}

fn lock(path: &Path, socket: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("another agent listens at {}", socket.display()),
        )),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn only_a_socket(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => Ok(()),
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!("{} exists and is not a socket: remove it or choose another path", path.display()),
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}
