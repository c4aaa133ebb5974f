//! A world of one's own for a test: network and mount namespace, bpffs, programs loaded.
#![allow(dead_code, reason = "every test file takes what it needs")]

pub mod device;
pub mod lab;
pub mod scene;

use std::path::PathBuf;

use countersign_ebpf_loader::{Datapath, MapSizes, OpenConfig};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// The namespaces of this thread, and where its pins go.
pub struct World {
    pub config: OpenConfig,
    dir: tempfile::TempDir,
}

impl World {
    /// `None` where there are no rights for it; with `CI=true` that is a failure.
    pub fn new() -> Option<Self> {
        match Self::make() {
            Ok(world) => Some(world),
            Err(error) => {
                let ci = std::env::var("CI").is_ok_and(|value| value == "true");
                assert!(!ci, "this test needs root: {error}");
                eprintln!("not run, it needs root: {error}");
                None
            }
        }
    }

    fn make() -> Result<Self, Box<dyn std::error::Error>> {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        let dir = tempfile::tempdir()?;
        mount(Some("bpf"), dir.path(), Some("bpf"), MsFlags::empty(), none)?;
        let config = OpenConfig { pin_dir: dir.path().join("cs"), sizes: small(), force_clsact: false };
        Ok(Self { config, dir })
    }

    pub fn open(&self) -> Datapath {
        Datapath::open(&self.config).unwrap_or_else(|error| panic!("{error}\n{error:?}"))
    }

    pub fn links(&self) -> Vec<String> {
        let links = std::fs::read_dir(self.pins().join("links")).unwrap();
        let mut names: Vec<_> =
            links.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    pub fn pins(&self) -> PathBuf {
        self.config.pin_dir.clone()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // The directory can only be removed once nothing is mounted there.
        let unmounted = nix::mount::umount2(self.dir.path(), nix::mount::MntFlags::MNT_DETACH);
        assert!(unmounted.is_ok() || std::thread::panicking());
    }
}

fn small() -> MapSizes {
    MapSizes { flows: 65_536, addresses: 65_536, policy: 65_536, policy_lpm: 65_536, ..MapSizes::default() }
}
