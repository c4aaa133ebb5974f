//! The node's private key, on disk.
//!
//! The file holds two lines: the key as `wg genkey` writes it, and its epoch. It is written to a temporary
//! file (mode 0600, created anew), flushed, and renamed over the old one; it is never followed through a
//! symbolic link, and is refused when somebody else may read it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use countersign_wg_proto::{PrivateKey, PublicKey};
use rand::TryRngCore as _;
use zeroize::Zeroizing;

use crate::limits::MAX_KEY_FILE;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system said no.
    #[error("key file {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is there and is not a key file. It is left as it is: move it away to have a new key made.
    #[error("key file {0} is not a key file; move it away to have a new key made")]
    Malformed(PathBuf),
    /// Others than the owner may read or write the file, or it is not ours.
    #[error("key file {0} must belong to this user and have mode 0600")]
    Exposed(PathBuf),
    /// The system has no random bytes.
    #[error("no random bytes: {0}")]
    Random(#[from] rand::rand_core::OsError),
}

/// A private key and its epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeKey {
    /// The key.
    pub private: PrivateKey,
    /// Milliseconds since the Unix epoch when it was made, or one more than its predecessor's if the clock
    /// stood: announcements of later keys have later epochs, also after the file was lost.
    pub epoch: u64,
}

impl NodeKey {
    /// The public half.
    pub fn public(&self) -> PublicKey {
        self.private.public()
    }

    fn follows(&self, before: &Self) -> bool {
        self.epoch > before.epoch && (self.epoch ^ before.epoch) & 1 == 1
    }
}

/// This node's keys: the one it has, and while it changes keys the next one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeKeys {
    /// The key that everybody is to know.
    pub current: NodeKey,
    /// What takes its place when everybody does.
    pub next: Option<NodeKey>,
}

impl NodeKeys {
    /// What is in `directory`; a first key is made and stored when there is none.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let current = load_or_create(&current_file(directory))?;
        // One that is not later was left behind by hand: it would be refused by everybody.
        let next = load(&next_file(directory))?.filter(|next| next.follows(&current));
        Ok(Self { current, next })
    }

    /// The same with a next key, made and stored when there is none.
    pub fn with_next(&self, directory: &Path) -> Result<Self, Error> {
        if self.next.is_some() {
            return Ok(self.clone());
        }
        let next = generate(Some(self.current.epoch))?;
        store(&next_file(directory), &next)?;
        Ok(Self { next: Some(next), ..self.clone() })
    }

    /// The next key alone. The old one is in no file any more.
    pub fn without_old(&self, directory: &Path) -> Result<Self, Error> {
        let Some(next) = self.next.clone() else { return Ok(self.clone()) };
        let (from, path) = (next_file(directory), current_file(directory));
        std::fs::rename(from, &path).map_err(|source| Error::Io { path, source })?;
        Ok(Self { current: next, next: None })
    }

    /// Both, or the only one.
    pub fn iter(&self) -> impl Iterator<Item = &NodeKey> {
        std::iter::once(&self.current).chain(&self.next)
    }
}

fn current_file(directory: &Path) -> PathBuf {
    directory.join("wireguard.key")
}

fn next_file(directory: &Path) -> PathBuf {
    directory.join("wireguard-next.key")
}

/// The key in `path`; made and stored when there is none.
pub fn load_or_create(path: &Path) -> Result<NodeKey, Error> {
    match load(path)? {
        Some(key) => Ok(key),
        None => {
            let key = generate(None)?;
            store(path, &key)?;
            Ok(key)
        }
    }
}

/// A new key: a node's first one, or one whose epoch is later than `after` and of the other kind, so that both can
/// be in use at the same time ([`countersign_wg_proto::Slot`]). First ones are of one kind: while nobody has changed
/// keys, everybody needs one device.
pub fn generate(after: Option<u64>) -> Result<NodeKey, Error> {
    let mut bytes = Zeroizing::new([0; 32]);
    rand::rngs::OsRng.try_fill_bytes(&mut *bytes)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    let now = u64::try_from(now).unwrap_or(0);
    let epoch = match after {
        None => now & !1,
        Some(after) if now > after => now - ((now - after + 1) & 1),
        Some(after) => after.saturating_add(1),
    };
    Ok(NodeKey { private: PrivateKey::from_bytes(*bytes), epoch })
}

/// The key in `path`, if there is a file.
pub fn load(path: &Path) -> Result<Option<NodeKey>, Error> {
    let failed = |source| Error::Io { path: path.to_owned(), source };
    let options = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC).clone();
    let file = match options.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let metadata = file.metadata().map_err(failed)?;
    let own = metadata.uid() == nix::unistd::geteuid().as_raw();
    if !metadata.is_file() || metadata.mode() & 0o077 != 0 || !own {
        return Err(Error::Exposed(path.to_owned()));
    }
    // Large enough at once, so that no reallocation leaves a copy of the key behind.
    let mut text = Zeroizing::new(String::with_capacity(MAX_KEY_FILE as usize + 1));
    file.take(MAX_KEY_FILE).read_to_string(&mut text).map_err(failed)?;
    parse(&text).map(Some).ok_or_else(|| Error::Malformed(path.to_owned()))
}

fn parse(text: &str) -> Option<NodeKey> {
    let (key, rest) = text.split_once('\n')?;
    let epoch = rest.strip_prefix("epoch ")?.strip_suffix('\n')?;
    Some(NodeKey { private: PrivateKey::from_base64(key).ok()?, epoch: epoch.parse().ok()? })
}

/// Put `key` into `path`, in one step: whatever happens, the file holds the old key or the new one.
pub fn store(path: &Path, key: &NodeKey) -> Result<(), Error> {
    write(path, key).map_err(|source| Error::Io { path: path.to_owned(), source })
}

fn write(path: &Path, key: &NodeKey) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    // One that a killed predecessor with this process id left behind.
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = write_new(&temporary, key).and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written?;
    File::open(directory)?.sync_all()
}

fn write_new(path: &Path, key: &NodeKey) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC);
    let mut file = options.open(path)?;
    file.write_all(key.private.to_base64().as_bytes())?;
    file.write_all(format!("\nepoch {}\n", key.epoch).as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    fn directory() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn a_key_is_made_once_and_kept() {
        let dir = directory();
        let path = dir.path().join("wireguard.key");
        let made = load_or_create(&path).unwrap();
        assert_eq!(load_or_create(&path).unwrap(), made);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn a_replaced_key_has_a_later_epoch() {
        let dir = directory();
        let path = dir.path().join("wireguard.key");
        let old = load_or_create(&path).unwrap();
        let new = generate(Some(old.epoch)).unwrap();
        store(&path, &new).unwrap();
        assert!(new.follows(&old) && new.private != old.private);
        assert_eq!(load(&path).unwrap(), Some(new));
        assert_eq!(generate(Some(u64::MAX - 1)).unwrap().epoch, u64::MAX);
        for after in [0, 1, old.epoch - 7, old.epoch + 1_000_000] {
            let next = generate(Some(after)).unwrap().epoch;
            assert!(next > after && (next ^ after) & 1 == 1, "{next} after {after}");
        }
        assert_eq!(old.epoch & 1, 0);
    }

    #[test]
    fn the_next_key_takes_the_place_of_the_old_one_over_restarts() {
        let dir = directory();
        let first = NodeKeys::open(dir.path()).unwrap();
        assert_eq!(first.next, None);
        let both = first.with_next(dir.path()).unwrap();
        assert_eq!(both.with_next(dir.path()).unwrap(), both, "there is one already");
        assert_eq!(NodeKeys::open(dir.path()).unwrap(), both);
        let last = both.without_old(dir.path()).unwrap();
        assert_eq!((Some(&last.current), &last.next), (both.next.as_ref(), &None));
        assert_eq!(NodeKeys::open(dir.path()).unwrap(), last);
        assert_eq!(last.without_old(dir.path()).unwrap(), last);
        // What somebody put there is not a next key.
        store(&dir.path().join("wireguard-next.key"), &both.current).unwrap();
        assert_eq!(NodeKeys::open(dir.path()).unwrap(), last);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn links_and_exposed_files_are_refused() {
        let dir = directory();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        load_or_create(&real).unwrap();
        symlink(&real, &link).unwrap();
        assert!(matches!(load_or_create(&link), Err(Error::Io { .. })));
        std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(load(&real), Err(Error::Exposed(_))));
    }

    #[test]
    fn what_is_no_key_file_is_left_alone() {
        let dir = directory();
        let path = dir.path().join("wireguard.key");
        for text in ["", "x\n", "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eH2A=\n", &"y".repeat(1000)] {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            assert!(matches!(load_or_create(&path), Err(Error::Malformed(_))), "{text}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }
}
