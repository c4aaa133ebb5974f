//! Namespaces: making them with a name, entering them, letting them go.
//!
//! A namespace is kept by a bind mount of its `/proc` file, not by a process, so that no kill takes it away. It
//! is entered by a thread made for the purpose: whatever that thread starts is born inside, and there is no
//! moment at which a process of the lab is outside of it.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::mounts;
use crate::paths::{NETNS, Paths};

/// Open namespaces that a thread or a command can enter.
#[derive(Debug)]
pub struct Space {
    net: File,
    mnt: Option<File>,
}

impl Space {
    /// The network namespace with this name, and the mounts of the host.
    ///
    /// # Errors
    /// Where it does not exist.
    pub fn net(name: &str) -> Result<Self> {
        let net = File::open(Paths::netns(name)).with_context(|| format!("network namespace {name}"))?;
        Ok(Self { net, mnt: None })
    }

    /// The same, with the mount namespace bound to `mnt`.
    ///
    /// # Errors
    /// Where one of them does not exist.
    pub fn net_and_mnt(name: &str, mnt: &Path) -> Result<Self> {
        let mnt = File::open(mnt).with_context(|| format!("mount namespace {}", mnt.display()))?;
        Ok(Self { mnt: Some(mnt), ..Self::net(name)? })
    }

    /// The inode by which `/proc/<pid>/ns/net` tells who is inside.
    ///
    /// # Errors
    /// Those of `fstat`.
    pub fn net_inode(&self) -> io::Result<u64> {
        Ok(self.net.metadata()?.ino())
    }

    /// Runs `work` in a thread of its own inside.
    ///
    /// # Errors
    /// Those of entering, and those of `work`.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        in_thread(|| {
            if let Some(mnt) = &self.mnt {
                // A thread shares its root and working directory with its process until it says otherwise.
                unshare(CloneFlags::CLONE_FS).context("unshare the working directory")?;
                setns(mnt.as_fd(), CloneFlags::CLONE_NEWNS).context("enter the mount namespace")?;
            }
            setns(self.net.as_fd(), CloneFlags::CLONE_NEWNET).context("enter the network namespace")?;
            work()
        })
    }
}

/// Runs `work` in a thread that ends afterwards, so that no namespace it entered clings to anything.
pub(crate) fn in_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("inside".into()).spawn_scoped(scope, work)?;
        thread.join().map_err(|_| anyhow!("a thread inside a namespace panicked"))?
    })
}

/// Makes the network namespace `name` unless there is one. Returns whether it was made.
///
/// # Errors
/// Needs root; otherwise those of the mount table.
pub fn create_net(name: &str) -> Result<bool> {
    let path = Paths::netns(name);
    if is_namespace(&path) {
        return Ok(false);
    }
    ensure_netns_dir()?;
    File::create(&path).with_context(|| format!("create {}", path.display()))?;
    in_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace (root is needed)")?;
        bind(Path::new("/proc/thread-self/ns/net"), &path)
    })?;
    Ok(true)
}

/// Lets go of the network namespace `name`; the kernel removes it with its last process. No error if it is gone.
///
/// # Errors
/// Those of the mount table.
pub fn remove_net(name: &str) -> Result<()> {
    remove_bound(&Paths::netns(name))
}

/// Names of all network namespaces that begin with `prefix`.
///
/// # Errors
/// Those of reading `/run/netns`, its absence apart.
pub fn list_net(prefix: &str) -> Result<Vec<String>> {
    let entries = match fs::read_dir(NETNS) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| name.starts_with(prefix)).collect();
    names.sort();
    Ok(names)
}

/// Unmounts and deletes a file that a namespace is bound to, however often it is.
pub(crate) fn remove_bound(path: &Path) -> Result<()> {
    while is_namespace(path) {
        umount2(path, MntFlags::MNT_DETACH).with_context(|| format!("unmount {}", path.display()))?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Binds `from` to `to`.
pub(crate) fn bind(from: &Path, to: &Path) -> Result<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("bind {} to {}", from.display(), to.display()))
}

/// Whether a namespace is bound to `path`: its files are those of one file system of the kernel's.
pub(crate) fn is_namespace(path: &Path) -> bool {
    const NSFS_MAGIC: nix::sys::statfs::FsType = nix::sys::statfs::FsType(0x6e73_6673);
    nix::sys::statfs::statfs(path).is_ok_and(|fs| fs.filesystem_type() == NSFS_MAGIC)
}

/// Makes `/run/netns` as iproute2 does: a shared mount of its own, so that an unmount reaches every copy of it
/// that other mount namespaces have.
fn ensure_netns_dir() -> Result<()> {
    fs::create_dir_all(NETNS)?;
    let shared =
        || mount(None::<&str>, NETNS, None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>);
    if shared().is_err() {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(NETNS), NETNS, None::<&str>, flags, None::<&str>).context("mount /run/netns")?;
        shared().context("share /run/netns")?;
        fs::write(Paths::netns_marker(), "")?;
    }
    Ok(())
}

/// Undoes [`ensure_netns_dir`] where it was us and nobody else has put anything there.
pub(crate) fn remove_netns_dir() {
    let ours = Paths::netns_marker();
    let empty = fs::read_dir(NETNS).is_ok_and(|mut entries| entries.next().is_none());
    if ours.exists() && empty && mounts::is_mount_point(Path::new(NETNS)) {
        // Not detached by force: if somebody is faster, it stays.
        if umount2(NETNS, MntFlags::empty()).is_ok() {
            let _ = fs::remove_dir(NETNS);
        }
    }
    let _ = fs::remove_file(ours);
}
