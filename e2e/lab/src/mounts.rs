//! What a node's processes see: a `/run`, a `/sys` and a bpffs of the node's own.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::limits::MOUNT_ROUNDS;
use crate::ns::{Space, bind, is_namespace, remove_bound};
use crate::paths::Paths;

const NONE: Option<&str> = None;

/// Mounts the lab's directory onto itself, privately: mount namespaces can be bound only below a private mount.
///
/// # Errors
/// Those of mounting; root is needed.
pub fn hold_root(paths: &Paths) -> Result<()> {
    if !is_mount_point(paths.root()) {
        bind(paths.root(), paths.root())?;
    }
    mount(NONE, paths.root(), NONE, MsFlags::MS_PRIVATE, NONE).context("make the lab's directory private")
}

/// Undoes [`hold_root`]; no error if it was not done.
///
/// # Errors
/// Those of unmounting.
pub fn release_root(paths: &Paths) -> Result<()> {
    while is_mount_point(paths.root()) {
        umount2(paths.root(), MntFlags::MNT_DETACH).context("unmount the lab's directory")?;
    }
    Ok(())
}

/// Makes the mount namespace of a node whose network namespace exists, unless there is one. Returns whether it
/// was made.
///
/// # Errors
/// Those of mounting.
pub fn create_node(paths: &Paths, node: &str, netns: &str) -> Result<bool> {
    let pin = paths.node_mnt(node);
    if is_namespace(&pin) {
        return Ok(false);
    }
    for dir in [paths.node_run(node), paths.node_wireguard(node)] {
        fs::create_dir_all(dir)?;
    }
    File::create(&pin)?;
    // The link is resolved outside: inside it may lead to where nothing is mounted yet.
    let manifests = fs::canonicalize(paths.manifests())?;
    Space::net(netns)?.run(|| {
        let host = File::open("/proc/thread-self/ns/mnt")?;
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).context("make a mount namespace")?;
        arrange(paths, node, &manifests)?;
        let inside = File::open("/proc/thread-self/ns/mnt")?;
        setns(host.as_fd(), CloneFlags::CLONE_NEWNS).context("return to the host's mounts")?;
        bind(&descriptor(&inside), &pin)
    })?;
    Ok(true)
}

/// Lets go of a node's mount namespace and, with its last process, of its bpffs.
///
/// # Errors
/// Those of unmounting.
pub fn remove_node(pin: &Path) -> Result<()> {
    remove_bound(pin)
}

/// Whether something is mounted at `path` in this mount namespace.
#[must_use]
pub fn is_mount_point(path: &Path) -> bool {
    mount_points(Path::new("/proc/self/mountinfo")).is_ok_and(|points| points.iter().any(|p| p == path))
}

/// Runs inside the new mount namespace.
fn arrange(paths: &Paths, node: &str, manifests: &Path) -> Result<()> {
    // Unmounts on the host still reach us, mounts here do not reach the host.
    mount(NONE, "/", NONE, MsFlags::MS_SLAVE | MsFlags::MS_REC, NONE)
        .context("detach from the host's mounts")?;
    forget_host_namespaces()?;
    let run = Directories::open(paths, node, manifests)?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=0755"))
        .context("mount a /run")?;
    run.bind_all()?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("sysfs"), "/sys", Some("sysfs"), flags, NONE).context("mount a /sys")?;
    mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), flags, Some("mode=0700")).context("mount a bpffs")
}

/// Unmounts the copies of whatever is mounted below `/run`: a hidden copy of a named network namespace would
/// keep it alive after its owner has deleted it.
fn forget_host_namespaces() -> Result<()> {
    // Others come and go meanwhile, and what they unmount vanishes here, too: look again until there is nothing.
    for _ in 0..MOUNT_ROUNDS {
        let mut below = mount_points(Path::new("/proc/thread-self/mountinfo"))?;
        below.retain(|point| point.starts_with("/run") && point != Path::new("/run"));
        if below.is_empty() {
            return Ok(());
        }
        below.sort();
        for point in below.iter().rev() {
            let _ = umount2(point, MntFlags::MNT_DETACH);
        }
    }
    bail!("something below /run cannot be unmounted")
}

/// Directories of the host that a node sees, held open while its `/run` is put over them.
struct Directories {
    bound: Vec<(File, PathBuf)>,
}

impl Directories {
    fn open(paths: &Paths, node: &str, manifests: &Path) -> Result<Self> {
        let mut wanted = vec![
            (paths.node_run(node), PathBuf::from("/run/countersign")),
            (paths.node_wireguard(node), PathBuf::from("/run/wireguard")),
            // The lab's directory has the same path inside as outside.
            (paths.root().to_owned(), paths.root().to_owned()),
        ];
        if manifests.starts_with("/run") && !manifests.starts_with(paths.root()) {
            wanted.push((manifests.to_owned(), manifests.to_owned()));
        }
        let open = |(from, to): (PathBuf, PathBuf)| -> Result<_> {
            Ok((File::open(&from).with_context(|| format!("open {}", from.display()))?, to))
        };
        Ok(Self { bound: wanted.into_iter().map(open).collect::<Result<_>>()? })
    }

    fn bind_all(&self) -> Result<()> {
        for (from, to) in &self.bound {
            fs::create_dir_all(to)?;
            bind(&descriptor(from), to)?;
        }
        Ok(())
    }
}

fn descriptor(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/thread-self/fd/{}", file.as_raw_fd()))
}

fn mount_points(mountinfo: &Path) -> Result<Vec<PathBuf>> {
    let text = fs::read_to_string(mountinfo)?;
    Ok(text
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|field| PathBuf::from(unescape(field)))
        .collect())
}

/// `/proc` writes blanks and backslashes of paths as three octal digits.
fn unescape(field: &str) -> String {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 8).ok());
        match octal {
            Some(byte) if first == b'\\' => {
                out.push(byte);
                rest = &tail[3..];
            }
            _ => {
                out.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_with_blanks_are_read() {
        assert_eq!(unescape("/a\\040b\\134c"), "/a b\\c");
        assert_eq!(unescape("/plain\\04"), "/plain\\04");
    }
}
