//! State that outlives the agent: small JSON files in the run directory.
//!
//! A file is written whole to a temporary name and renamed, 0600, never through a symbolic link; it is not
//! forced to the disk, since `/run` does not outlive a power cut, and the node task waits for it. One that
//! cannot be read is reported and treated as absent: what it says can be learnt again, only slower.

use std::fs::{File, OpenOptions, rename};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// No state file of ours comes near; a larger one is not ours.
const MAX_BYTES: u64 = 16 << 20;

/// One state file.
#[derive(Clone, Debug)]
pub struct StateFile {
    path: PathBuf,
}

impl StateFile {
    /// The file `name` in the run directory.
    #[must_use]
    pub fn new(run_dir: &Path, name: &str) -> Self {
        Self { path: run_dir.join(name) }
    }

    /// What was saved last, if it can be read.
    pub fn load<T: DeserializeOwned>(&self) -> Option<T> {
        let file =
            OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC).open(&self.path);
        let file = match file {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "state file not readable; starting without it");
                return None;
            }
        };
        match parse(file) {
            Ok(value) => Some(value),
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "state file damaged; starting without it");
                None
            }
        }
    }

    /// Replaces what is saved.
    ///
    /// # Errors
    /// When the file cannot be written; the old one is then still whole.
    pub fn save<T: Serialize>(&self, value: &T) -> std::io::Result<()> {
        let temporary = self.path.with_extension("new");
        let _ = std::fs::remove_file(&temporary);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(&temporary)?;
        file.write_all(&serde_json::to_vec(value)?)?;
        rename(&temporary, &self.path)
    }
}

fn parse<T: DeserializeOwned>(file: File) -> anyhow::Result<T> {
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn what_is_saved_is_loaded_and_private() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = StateFile::new(dir.path(), "x.json");
        assert_eq!(file.load::<Vec<u32>>(), None);
        file.save(&vec![1, 2]).expect("save");
        file.save(&vec![1, 2, 3]).expect("save again");
        assert_eq!(file.load::<Vec<u32>>(), Some(vec![1, 2, 3]));
        let mode = std::fs::metadata(dir.path().join("x.json")).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn damage_and_planted_links_are_ignored() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = StateFile::new(dir.path(), "x.json");
        std::fs::write(dir.path().join("x.json"), b"[1, 2").expect("write");
        assert_eq!(file.load::<Vec<u32>>(), None);
        std::fs::remove_file(dir.path().join("x.json")).expect("remove");
        let victim = dir.path().join("victim");
        std::fs::write(&victim, b"[7]").expect("write");
        symlink(&victim, dir.path().join("x.json")).expect("link");
        assert_eq!(file.load::<Vec<u32>>(), None);
        file.save(&vec![1]).expect("save replaces the link");
        assert_eq!(std::fs::read(&victim).expect("victim"), b"[7]");
        assert_eq!(file.load::<Vec<u32>>(), Some(vec![1]));
    }
}
