//! What is in a directory, and which of it has changed since the last look.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use countersign_policy::Settings;

use crate::accepted::Accepted;
use crate::change::Problem;
use crate::limits::{FILE_BYTES, FILES, QUIET};
use crate::object::{Entry, Role, parse};

/// A directory of files of one role, and what they said when they last made sense.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) role: Role,
    pub(crate) path: PathBuf,
    settings: Settings,
    accepted: Option<Accepted>,
    pub(crate) files: BTreeMap<PathBuf, Known>,
    /// What is wrong with the directory itself.
    pub(crate) problem: Option<Problem>,
}

/// A file and its last good content.
#[derive(Debug, Default)]
pub(crate) struct Known {
    stamp: Option<Stamp>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) problem: Option<Problem>,
}

/// What of a file is different once it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(meta: &fs::Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// Changed so lately that one more write would leave the same stamp: clocks of file systems are coarse.
    fn is_hot(&self) -> bool {
        let seconds = u64::try_from(self.changed.0).unwrap_or(0);
        let nanos = u32::try_from(self.changed.1).unwrap_or(0);
        let changed = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos);
        SystemTime::now().duration_since(changed).is_ok_and(|age| age < QUIET)
    }
}

/// How a look at a directory went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Looked {
    /// Something is different from before.
    pub(crate) changed: bool,
    /// Something is being written and must be looked at again soon.
    pub(crate) unsettled: bool,
}

impl Directory {
    pub(crate) fn new(role: Role, path: PathBuf, settings: &Settings) -> Self {
        Self { role, path, settings: settings.clone(), accepted: None, files: BTreeMap::new(), problem: None }
    }

    /// Keeps copies of what is accepted, and starts from those there are.
    pub(crate) fn with_copies(mut self, accepted: Option<Accepted>) -> Self {
        self.accepted = accepted;
        self
    }

    /// Reads what is new; `busy` says which files somebody is writing at this moment.
    pub(crate) fn look(&mut self, busy: impl Fn(&Path) -> bool) -> Looked {
        let listed = match self.list() {
            Ok(listed) => listed,
            // A directory that cannot be read says nothing, least of all that everything in it is gone.
            Err(error) => {
                let problem = Problem::of_file(&self.path, format!("cannot be read: {error}"));
                return self.set_problem(Some(problem));
            }
        };
        let too_many = (listed.len() > FILES)
            .then(|| Problem::of_file(&self.path, format!("more than {FILES} files; the rest is ignored")));
        let mut looked = self.set_problem(too_many);
        let before = self.files.len();
        self.files.retain(|path, _| listed.binary_search(path).is_ok());
        looked.changed |= self.files.len() != before;
        if let Some(accepted) = self.accepted.as_ref().filter(|_| looked.changed || before == 0) {
            accepted.retain(&listed);
        }
        for path in listed.into_iter().take(FILES) {
            let of_file = self.look_at(path, &busy);
            looked.changed |= of_file.changed;
            looked.unsettled |= of_file.unsettled;
        }
        looked
    }

    fn set_problem(&mut self, problem: Option<Problem>) -> Looked {
        let changed = self.problem != problem;
        self.problem = problem;
        Looked { changed, unsettled: false }
    }

    /// Files that count, in order of their paths. Listed twice where one seems to be gone: a listing may miss a
    /// file that is renamed at the same time under both its names.
    fn list(&self) -> io::Result<Vec<PathBuf>> {
        let mut listed = list_once(&self.path)?;
        if self.files.keys().any(|path| listed.binary_search(path).is_err()) {
            listed.extend(list_once(&self.path)?);
            listed.retain(|path| path.symlink_metadata().is_ok());
            listed.sort();
            listed.dedup();
        }
        Ok(listed)
    }

    fn look_at(&mut self, path: PathBuf, busy: &impl Fn(&Path) -> bool) -> Looked {
        let read = self.target(&path).and_then(|target| {
            let meta = fs::symlink_metadata(&target).map_err(|error| error.to_string())?;
            Ok((target, Stamp::of(&meta)))
        });
        let recalled = !self.files.contains_key(&path) && self.recall(&path);
        let mut looked = self.look_into(path, read, busy);
        looked.changed |= recalled;
        looked
    }

    /// Starts a file that was not known with what it said when it was last accepted.
    fn recall(&mut self, path: &Path) -> bool {
        let Some(text) = self.accepted.as_ref().and_then(|accepted| accepted.recall(path)) else {
            return false;
        };
        let entries = parse(self.role, path, &text, &self.settings).unwrap_or_default();
        let recalled = !entries.is_empty();
        self.files.insert(path.to_owned(), Known { entries, ..Known::default() });
        recalled
    }

    fn look_into(
        &mut self,
        path: PathBuf,
        found: Result<(PathBuf, Stamp), String>,
        busy: &impl Fn(&Path) -> bool,
    ) -> Looked {
        let known = self.files.entry(path.clone()).or_default();
        let (target, stamp) = match found {
            Ok(found) => found,
            Err(message) => return known.refuse(None, Problem::of_file(path, message)),
        };
        if known.stamp == Some(stamp) {
            return Looked::default();
        }
        if stamp.is_hot() || busy(&path) {
            return Looked { changed: false, unsettled: true };
        }
        match read_regular(&target) {
            Err(ReadError::Gone) => Looked { changed: false, unsettled: true },
            Err(ReadError::Refused(message)) => known.refuse(Some(stamp), Problem::of_file(path, message)),
            Ok((_, after)) if after != stamp => Looked { changed: false, unsettled: true },
            Ok((text, stamp)) => match parse(self.role, &path, &text, &self.settings) {
                Ok(entries) => {
                    if let Some(accepted) = &self.accepted {
                        accepted.keep(&path, &text);
                    }
                    known.accept(stamp, entries)
                }
                Err(problem) => known.refuse(Some(stamp), problem),
            },
        }
    }

    /// Where a file really is. Links are followed within a directory of manifests (as Kubernetes' own mounts of
    /// ConfigMaps have them), never out of it, and not at all where components write.
    fn target(&self, path: &Path) -> Result<PathBuf, String> {
        let meta = fs::symlink_metadata(path).map_err(|error| error.to_string())?;
        if !meta.is_symlink() {
            return Ok(path.to_owned());
        }
        if self.role != Role::Manifest {
            return Err("is a symbolic link, which nobody should have put here".to_owned());
        }
        let root = fs::canonicalize(&self.path).map_err(|error| error.to_string())?;
        let target = fs::canonicalize(path).map_err(|error| format!("leads nowhere: {error}"))?;
        if target.starts_with(root) { Ok(target) } else { Err("is a link out of its directory".to_owned()) }
    }
}

impl Known {
    fn accept(&mut self, stamp: Stamp, entries: Vec<Entry>) -> Looked {
        *self = Self { stamp: Some(stamp), entries, problem: None };
        Looked { changed: true, unsettled: false }
    }

    /// Keeps what the file said before.
    fn refuse(&mut self, stamp: Option<Stamp>, problem: Problem) -> Looked {
        self.stamp = stamp;
        let changed = self.problem.as_ref() != Some(&problem);
        self.problem = Some(problem);
        Looked { changed, unsettled: false }
    }
}

fn list_once(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        // The listing itself says so, but for links, and on file systems that leave it out: there the file may be
        // gone by now, and is read, or not found, as any other.
        let kind = entry.file_type();
        let is_directory = kind.is_ok_and(|kind| kind.is_dir() || (kind.is_symlink() && path.is_dir()));
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        if !name.starts_with('.') && matches!(ending, "yaml" | "yml" | "json") && !is_directory {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

enum ReadError {
    /// It went away while we looked.
    Gone,
    Refused(String),
}

/// Reads a regular file of bearable size; whatever else lies there (a pipe that would never end, a device) is
/// refused without waiting for it.
fn read_regular(path: &Path) -> Result<(String, Stamp), ReadError> {
    let refused = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => ReadError::Gone,
        _ => ReadError::Refused(format!("cannot be read: {error}")),
    };
    let flags = nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_NONBLOCK;
    let mut options = File::options();
    let file = options.read(true).custom_flags(flags.bits()).open(path).map_err(refused)?;
    let meta = file.metadata().map_err(refused)?;
    if !meta.is_file() {
        return Err(ReadError::Refused("is not a regular file".to_owned()));
    }
    let mut bytes = Vec::new();
    (&file).take(FILE_BYTES + 1).read_to_end(&mut bytes).map_err(refused)?;
    if bytes.len() as u64 > FILE_BYTES {
        return Err(ReadError::Refused(format!("is larger than {FILE_BYTES} bytes")));
    }
    let text = String::from_utf8(bytes).map_err(|_| ReadError::Refused("is not UTF-8 text".to_owned()))?;
    Ok((text, Stamp::of(&file.metadata().map_err(refused)?)))
}
