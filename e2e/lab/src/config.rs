//! What a lab was asked to be: `lab.json`, and the index that its addresses come from.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::limits::{MAX_LABS, MAX_NODES, READY_TIMEOUT};
use crate::names::LabName;
use crate::paths::{Paths, ROOT};
use crate::plan::Plan;
use crate::spire::{PodsBy, Tuning};

/// What enforces on the nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum AgentMode {
    /// `countersign-agent` and `countersign-wg`.
    #[default]
    Countersign,
    /// Nothing: plain routing between nodes. For tests of the lab itself.
    None,
}

/// Whether first packets wait for the proof or are dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Parking {
    /// They wait.
    #[default]
    On,
    /// They are dropped.
    Off,
}

impl Parking {
    /// As on the agent's command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
        }
    }
}

/// Where SVIDs come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IdentitySource {
    /// The embedded CA.
    #[default]
    Embedded,
    /// SPIRE that the lab runs.
    Spire {
        /// How it is set up.
        tuning: Tuning,
        /// By which of its agent's interfaces the pods' SVIDs come.
        #[serde(default)]
        pods: PodsBy,
    },
    /// SPIRE that is there already; all nodes share its agent, and its entries are others' affair.
    External {
        /// Its agent's Workload API.
        workload_socket: PathBuf,
        /// Its agent's admin socket.
        admin_socket: PathBuf,
    },
}

/// What a caller asks for.
#[derive(Clone, Debug)]
pub struct LabOptions {
    /// Name of the lab.
    pub name: LabName,
    /// How many nodes: `node1`, `node2`, …
    pub nodes: u8,
    /// Directory with manifests; none for an empty one of the lab's own.
    pub manifests: Option<PathBuf>,
    /// Whether first packets are parked.
    pub parking: Parking,
    /// Where SVIDs come from.
    pub identity_source: IdentitySource,
    /// Life of the SVIDs.
    pub svid_ttl: Duration,
    /// What enforces.
    pub agent: AgentMode,
    /// Where the programs are; none for the directory of the running one.
    pub bin_dir: Option<PathBuf>,
    /// More arguments for every agent.
    pub agent_args: Vec<String>,
    /// Whether to wait until agents and pods are ready.
    pub wait: bool,
    /// For how long at most.
    pub ready_timeout: Duration,
    /// Whether to say each step on standard error.
    pub verbose: bool,
}

impl LabOptions {
    /// A lab of two nodes with this name, quiet, waited for.
    #[must_use]
    pub const fn new(name: LabName) -> Self {
        Self {
            name,
            nodes: 2,
            manifests: None,
            parking: Parking::On,
            identity_source: IdentitySource::Embedded,
            svid_ttl: Duration::from_secs(3600),
            agent: AgentMode::Countersign,
            bin_dir: None,
            agent_args: Vec::new(),
            wait: true,
            ready_timeout: READY_TIMEOUT,
            verbose: false,
        }
    }
}

/// What `up` made of it; read by everyone who comes later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabConfig {
    /// Name of the lab.
    pub name: LabName,
    /// Which of the disjoint address ranges it uses.
    pub index: u8,
    /// Number of nodes.
    pub nodes: u8,
    /// See [`LabOptions::parking`].
    pub parking: Parking,
    /// See [`LabOptions::identity_source`].
    #[serde(default)]
    pub identity_source: IdentitySource,
    /// Life of the SVIDs, in seconds.
    pub svid_ttl_seconds: u64,
    /// See [`LabOptions::agent`].
    pub agent: AgentMode,
    /// Where the programs are.
    pub bin_dir: PathBuf,
    /// See [`LabOptions::agent_args`].
    pub agent_args: Vec<String>,
}

impl LabConfig {
    /// Of the lab with this name.
    ///
    /// # Errors
    /// Where there is no such lab, or its file cannot be read.
    pub fn load(lab: &LabName) -> Result<Self> {
        let path = Paths::new(lab).config();
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                bail!("there is no lab {lab}: `countersign lab up --name {lab}` makes it");
            }
            other => other.with_context(|| format!("read {}", path.display()))?,
        };
        serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))
    }

    /// Writes it where [`Self::load`] finds it.
    ///
    /// # Errors
    /// Those of writing.
    pub fn save(&self) -> Result<()> {
        write_atomically(&Paths::new(&self.name).config(), &serde_json::to_vec_pretty(self)?)
    }

    /// Its files.
    #[must_use]
    pub fn paths(&self) -> Paths {
        Paths::new(&self.name)
    }

    /// Its addresses.
    #[must_use]
    pub const fn plan(&self) -> Plan {
        Plan::new(self.index)
    }

    /// Its nodes, by number and name.
    pub fn node_names(&self) -> impl Iterator<Item = (u8, String)> + use<> {
        (1..=self.nodes).map(|number| (number, format!("node{number}")))
    }

    /// Takes what `options` say; a lab that exists keeps its index and must have as many nodes.
    ///
    /// # Errors
    /// Where an option is out of range, or all indices are in use.
    pub fn settle(options: &LabOptions, bin_dir: PathBuf) -> Result<Self> {
        if options.nodes == 0 || options.nodes > MAX_NODES {
            bail!("--nodes: 1 to {MAX_NODES}");
        }
        let known = Self::load(&options.name).ok();
        if let Some(known) = known.as_ref().filter(|known| known.nodes != options.nodes) {
            bail!("lab {} has {} nodes: take it down first", known.name, known.nodes);
        }
        let index = known.map_or_else(free_index, |known| Ok(known.index))?;
        Ok(Self {
            name: options.name.clone(),
            index,
            nodes: options.nodes,
            parking: options.parking,
            identity_source: options.identity_source.clone(),
            svid_ttl_seconds: options.svid_ttl.as_secs(),
            agent: options.agent,
            bin_dir,
            agent_args: options.agent_args.clone(),
        })
    }
}

/// Names of all labs of this machine.
#[must_use]
pub fn all_labs() -> Vec<LabName> {
    let Ok(entries) = fs::read_dir(ROOT) else { return Vec::new() };
    let mut names: Vec<LabName> =
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    names.sort();
    names
}

/// Held while labs come and go, so that two never choose one index.
///
/// # Errors
/// Needs root.
pub fn lock_all() -> Result<Flock<File>> {
    let path = Paths::all_labs_lock();
    let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    loop {
        // The last lab to go deletes the directory, at any moment until the lock is held.
        let made = fs::create_dir_all(ROOT).and_then(|()| File::create(&path));
        let file = match made {
            Err(error) if gone(&error) => continue,
            made => made.with_context(|| format!("make {} (root is needed)", path.display()))?,
        };
        let lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
        // The last lab to go deletes the file: a lock on a deleted one guards nothing.
        if same_file(&lock, &path) {
            return Ok(lock);
        }
    }
}

fn same_file(open: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let ids = |m: &fs::Metadata| (m.dev(), m.ino());
    matches!((open.metadata(), fs::metadata(path)), (Ok(a), Ok(b)) if ids(&a) == ids(&b))
}

fn free_index() -> Result<u8> {
    let used: Vec<u8> = all_labs().iter().filter_map(|lab| Some(LabConfig::load(lab).ok()?.index)).collect();
    (0..MAX_LABS)
        .find(|index| !used.contains(index))
        .context("all address ranges are in use: take a lab down")
}

/// Readers see the old content or the new one, never a part.
pub(crate) fn write_atomically(path: &Path, content: &[u8]) -> Result<()> {
    let dir = path.parent().context("a file has a directory")?;
    let name = path.file_name().context("a file has a name")?.to_string_lossy();
    // The thread's id keeps two writers of one file apart.
    let temporary = dir.join(format!(".{name}.{}", nix::unistd::gettid()));
    let mut file = File::create(&temporary).with_context(|| format!("create {}", temporary.display()))?;
    file.write_all(content)?;
    fs::rename(&temporary, path).with_context(|| format!("replace {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_see_whole_files_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write_atomically(&path, &[b'0'; 4096]).unwrap();
        std::thread::scope(|scope| {
            for writer in b'1'..b'4' {
                let path = &path;
                scope.spawn(move || (0..200).for_each(|_| write_atomically(path, &[writer; 4096]).unwrap()));
            }
            for _ in 0..200 {
                let seen = fs::read(&path).unwrap();
                assert!(seen.len() == 4096 && seen.iter().all(|byte| *byte == seen[0]));
            }
        });
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_lab_without_nodes_is_none() {
        for nodes in [0, MAX_NODES + 1] {
            let options = LabOptions { nodes, ..LabOptions::new("labnone".parse().unwrap()) };
            assert!(LabConfig::settle(&options, PathBuf::new()).is_err());
        }
        let error = LabConfig::load(&"labnone".parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains("there is no lab labnone"), "{error}");
    }
}
