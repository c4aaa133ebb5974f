//! A directory of manifests as the source of what the cluster says.
//!
//! A thread of its own looks at the directories whenever the kernel says that something happened in them, and
//! once a second in any case. It waits for writers: a file is read when it has been quiet, and closed by
//! whoever had it open for writing, so that the half of a policy that happens to be valid YAML is not taken
//! for the whole. A reader that is slow makes the thread wait, and what changes meanwhile is told as one.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use countersign_policy::Settings;
use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::mpsc;

use crate::accepted::Accepted;
use crate::change::Change;
use crate::limits::{CHANGES, QUIET, QUIET_AT_MOST, RESCAN, WRITER};
use crate::object::Role;
use crate::scan::Directory;
use crate::world::World;

/// Which directories.
#[derive(Clone, Debug)]
pub struct DirConfig {
    /// What people write: Pods, Namespaces, policies. May be a symbolic link to a directory.
    pub manifests: PathBuf,
    /// What components write: `nodes/`, `pods/` and `identities/` below it.
    pub status: PathBuf,
    /// What policies mean here.
    pub settings: Settings,
    /// Where copies of accepted manifests are kept, so that a file which makes no sense at the next start leaves
    /// in force what it said before it. A directory for this alone.
    pub accepted: Option<PathBuf>,
}

impl DirConfig {
    /// These directories, and the defaults for all else.
    pub fn new(manifests: impl Into<PathBuf>, status: impl Into<PathBuf>) -> Self {
        Self {
            manifests: manifests.into(),
            status: status.into(),
            settings: Settings::default(),
            accepted: None,
        }
    }
}

/// The source; see [`DirSource::spawn`].
#[derive(Debug)]
pub struct DirSource;

/// Keeps the source going; it ends when this is dropped.
#[derive(Debug)]
pub struct DirHandle {
    stop: Arc<AtomicBool>,
}

impl Drop for DirHandle {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl DirSource {
    /// Starts to watch. The first changes are everything there is, then [`Change::Synced`]. Directories that do
    /// not exist (yet) are reported as problems and watched as soon as they do.
    ///
    /// The thread ends within a second of handle or receiver being dropped. No runtime is needed.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn spawn(config: DirConfig) -> std::io::Result<(mpsc::Receiver<Change>, DirHandle)> {
        let (sender, receiver) = mpsc::channel(CHANGES);
        let stop = Arc::new(AtomicBool::new(false));
        let mut watcher = Watcher::new(&config, sender, stop.clone());
        std::thread::Builder::new().name("dir-source".into()).spawn(move || watcher.run())?;
        Ok((receiver, DirHandle { stop }))
    }
}

struct Watcher {
    directories: Vec<Directory>,
    world: World,
    sender: mpsc::Sender<Change>,
    stop: Arc<AtomicBool>,
    /// None where the kernel has no watch left for us: then there is the second's look alone.
    inotify: Option<Inotify>,
    watched: HashMap<WatchDescriptor, PathBuf>,
    /// Files that were written to and not closed since, and when last.
    writers: BTreeMap<PathBuf, Instant>,
    /// At the last look something was being written.
    unsettled: bool,
}

/// Nobody listens any more.
struct Closed;

impl Watcher {
    fn new(config: &DirConfig, sender: mpsc::Sender<Change>, stop: Arc<AtomicBool>) -> Self {
        let directory = |role, path: PathBuf| Directory::new(role, path, &config.settings);
        let accepted = config.accepted.as_deref().and_then(Accepted::open);
        let status = |name: &str| config.status.join(name);
        let directories = vec![
            // First, so that what a node says of itself outranks a manifest of the same name.
            directory(Role::NodeStatus, status("nodes")),
            directory(Role::Manifest, config.manifests.clone()).with_copies(accepted),
            directory(Role::PodStatus, status("pods")),
            directory(Role::Identity, status("identities")),
        ];
        let inotify = Inotify::init()
            .inspect_err(|error| tracing::warn!(%error, "no inotify: changes are seen once a second"))
            .ok();
        Self {
            directories,
            world: World::default(),
            sender,
            stop,
            inotify,
            watched: HashMap::new(),
            writers: BTreeMap::new(),
            unsettled: false,
        }
    }

    fn run(&mut self) {
        if self.first_look().is_ok() {
            while self.next_look().is_ok() {}
        }
    }

    fn first_look(&mut self) -> Result<(), Closed> {
        let deadline = Instant::now() + WRITER;
        self.look()?;
        while self.unsettled && Instant::now() < deadline {
            self.wait(QUIET);
            self.look()?;
        }
        self.send(Change::Synced)
    }

    fn next_look(&mut self) -> Result<(), Closed> {
        self.wait(RESCAN);
        self.settle();
        self.look()
    }

    /// Looks at everything once and says what is different.
    fn look(&mut self) -> Result<(), Closed> {
        self.watch();
        let now = Instant::now();
        self.writers.retain(|_, last| now.duration_since(*last) < WRITER);
        let mut changed = false;
        self.unsettled = false;
        for directory in &mut self.directories {
            let looked = directory.look(|path| self.writers.contains_key(path));
            changed |= looked.changed;
            self.unsettled |= looked.unsettled;
        }
        let changes = if changed { self.world.update(&self.directories) } else { Vec::new() };
        for change in changes {
            self.send(change)?;
        }
        if self.stop.load(Ordering::Relaxed) || self.sender.is_closed() { Err(Closed) } else { Ok(()) }
    }

    fn send(&self, change: Change) -> Result<(), Closed> {
        self.sender.blocking_send(change).map_err(|_| Closed)
    }

    /// Waits until no event has come for a while, or they have come for too long.
    fn settle(&mut self) {
        let deadline = Instant::now() + QUIET_AT_MOST;
        while self.wait(QUIET) && Instant::now() < deadline {}
    }

    /// Waits for events at most so long; returns whether any came.
    fn wait(&mut self, at_most: Duration) -> bool {
        let at_most = if self.unsettled { at_most.min(QUIET) } else { at_most };
        let Some(inotify) = &self.inotify else {
            std::thread::sleep(at_most);
            return false;
        };
        let timeout = PollTimeout::try_from(at_most).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut fds, timeout).is_ok_and(|ready| ready > 0);
        if ready {
            self.take_events();
        }
        ready
    }

    fn take_events(&mut self) {
        let Some(inotify) = &mut self.inotify else { return };
        let mut buffer = [0; 64 << 10];
        let Ok(events) = inotify.read_events(&mut buffer) else { return };
        for event in events {
            let Some(path) = path_of(&self.watched, &event.wd, event.name) else { continue };
            if event.mask.intersects(EventMask::MODIFY | EventMask::CREATE) {
                self.writers.insert(path, Instant::now());
            } else if event.mask.intersects(EventMask::CLOSE_WRITE | EventMask::DELETE | EventMask::MOVED_TO)
            {
                self.writers.remove(&path);
            }
        }
    }

    /// (Re)adds all watches: a directory may have been made, or replaced, since.
    fn watch(&mut self) {
        let Some(inotify) = &mut self.inotify else { return };
        let mask = WatchMask::MODIFY
            | WatchMask::CREATE
            | WatchMask::CLOSE_WRITE
            | WatchMask::DELETE
            | WatchMask::MOVE
            | WatchMask::ATTRIB
            | WatchMask::ONLYDIR;
        for directory in &self.directories {
            if let Ok(descriptor) = inotify.watches().add(&directory.path, mask) {
                self.watched.insert(descriptor, directory.path.clone());
            }
        }
    }
}

fn path_of(
    watched: &HashMap<WatchDescriptor, PathBuf>,
    descriptor: &WatchDescriptor,
    name: Option<&OsStr>,
) -> Option<PathBuf> {
    let directory: &Path = watched.get(descriptor)?;
    Some(directory.join(name?))
}
