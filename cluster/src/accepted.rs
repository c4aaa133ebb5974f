//! Copies of files as they were when they last made sense.
//!
//! A file that makes no sense leaves in force what it said before. Whoever is started while it makes no sense
//! knows nothing of before, and a policy that is missing allows: so what was accepted is kept on disk, too.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::files::{self, Replace};
use crate::limits::FILE_BYTES;

/// The directory of copies. Its failures are told to the log alone: without copies there is still the rest.
#[derive(Clone, Debug)]
pub(crate) struct Accepted {
    directory: PathBuf,
}

impl Accepted {
    /// Copies in `directory`, which is made for root alone.
    pub(crate) fn open(directory: &Path) -> Option<Self> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
        if let Err(error) = made {
            tracing::warn!(%error, directory = %directory.display(), "accepted manifests cannot be kept");
            return None;
        }
        Some(Self { directory: directory.to_owned() })
    }

    /// What `file` said when it was last accepted.
    pub(crate) fn recall(&self, file: &Path) -> Option<String> {
        let path = self.path(file)?;
        let meta = fs::symlink_metadata(&path).ok()?;
        if !meta.is_file() || meta.len() > FILE_BYTES {
            return None;
        }
        fs::read_to_string(path).ok()
    }

    /// Keeps what `file` says.
    pub(crate) fn keep(&self, file: &Path, text: &str) {
        let Some(path) = self.path(file) else { return };
        if self.recall(file).as_deref() == Some(text) {
            return;
        }
        if let Err(error) = files::write(&path, text, Replace::Yes) {
            tracing::warn!(%error, file = %file.display(), "an accepted manifest cannot be kept");
        }
    }

    /// Forgets every file that is not in `listed`.
    pub(crate) fn retain(&self, listed: &[PathBuf]) {
        let names: BTreeSet<&OsStr> = listed.iter().filter_map(|path| path.file_name()).collect();
        for name in self.names().unwrap_or_default() {
            if !names.contains(name.as_os_str()) {
                let _ = fs::remove_file(self.directory.join(name));
            }
        }
    }

    fn names(&self) -> io::Result<Vec<OsString>> {
        fs::read_dir(&self.directory)?.map(|entry| Ok(entry?.file_name())).collect()
    }

    fn path(&self, file: &Path) -> Option<PathBuf> {
        file.file_name().map(|name| self.directory.join(name))
    }
}
