//! The status file: one line of JSON that is always whole.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use countersign_spire_proto::{RegistrarStatus, Turn};

use crate::config::Config;

/// Seconds since the Unix epoch.
pub(crate) fn unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// What can be said before anything is known.
///
/// # Errors
/// Where the settings are refused.
pub(crate) fn first(config: &Config, turn: Option<Turn>) -> anyhow::Result<RegistrarStatus> {
    // The first time that this is called, which is at the start.
    static BEGAN: OnceLock<u64> = OnceLock::new();
    Ok(RegistrarStatus {
        cluster: config.cluster.cluster().to_owned(),
        trust_domain: config.trust_domain.to_string(),
        server: config.target()?.to_string(),
        since: *BEGAN.get_or_init(unix),
        turn,
        ..RegistrarStatus::default()
    })
}

/// Writes a status where it is different from the last.
#[derive(Debug)]
pub(crate) struct StatusFile {
    path: PathBuf,
    written: Option<RegistrarStatus>,
    failed: bool,
}

impl StatusFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, written: None, failed: false }
    }

    /// A file that cannot be written is nobody's outage: it is said once.
    pub(crate) fn write(&mut self, status: &RegistrarStatus) {
        if self.written.as_ref() == Some(status) {
            return;
        }
        match replace(&self.path, status) {
            Ok(()) => self.written = Some(status.clone()),
            Err(error) if !self.failed => {
                tracing::warn!(%error, file = %self.path.display(), "the status cannot be written");
                self.failed = true;
                return;
            }
            Err(_) => return,
        }
        self.failed = false;
    }
}

fn replace(path: &Path, status: &RegistrarStatus) -> io::Result<()> {
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(directory)?;
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy().into_owned();
    let temporary = directory.join(format!(".{name}.{}", std::process::id()));
    let _ = fs::remove_file(&temporary);
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_CLOEXEC;
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o644).custom_flags(flags).open(&temporary)?;
    let line = serde_json::to_string(status)? + "\n";
    let written = file.write_all(line.as_bytes()).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_one_line_that_replaces_the_last() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("below/status.json");
        let mut file = StatusFile::new(path.clone());
        for managed in [1, 2] {
            let status = RegistrarStatus { managed, ..RegistrarStatus::default() };
            file.write(&status);
            let text = fs::read_to_string(&path).unwrap();
            assert_eq!(text.lines().count(), 1);
            assert_eq!(serde_json::from_str::<RegistrarStatus>(&text).unwrap(), status);
        }
        fs::write(&path, "untouched").unwrap();
        file.write(&RegistrarStatus { managed: 2, ..RegistrarStatus::default() });
        assert_eq!(fs::read_to_string(&path).unwrap(), "untouched", "nothing new, nothing written");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        let mut nowhere = StatusFile::new(PathBuf::from("/proc/none/status"));
        nowhere.write(&RegistrarStatus::default());
    }
}
