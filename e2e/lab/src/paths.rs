//! Where a lab's files are.

use std::path::{Path, PathBuf};

use crate::names::{LabName, PodKey};

/// Where all labs are.
pub const ROOT: &str = "/run/countersign/lab";

/// Where iproute2 keeps named network namespaces.
pub const NETNS: &str = "/run/netns";

/// The directory of one lab and what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    root: PathBuf,
}

impl Paths {
    /// Of the lab with this name.
    #[must_use]
    pub fn new(lab: &LabName) -> Self {
        Self { root: Path::new(ROOT).join(lab.as_str()) }
    }

    /// The directory itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What the lab was asked to be.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.root.join("lab.json")
    }

    /// Manifests: a directory, or a link to the one that was given.
    #[must_use]
    pub fn manifests(&self) -> PathBuf {
        self.root.join("manifests")
    }

    /// What an API server would hold and components write.
    #[must_use]
    pub fn status(&self) -> PathBuf {
        self.root.join("status")
    }

    /// The Node object of a node.
    #[must_use]
    pub fn node_status(&self, node: &str) -> PathBuf {
        self.status().join("nodes").join(format!("{node}.yaml"))
    }

    /// The status of a pod.
    #[must_use]
    pub fn pod_status(&self, pod: &PodKey) -> PathBuf {
        self.status().join("pods").join(format!("{}.yaml", pod.file_stem()))
    }

    /// The embedded CA, which the first agent makes.
    #[must_use]
    pub fn embedded_ca(&self) -> PathBuf {
        self.root.join("ca")
    }

    /// Held locked by the supervisor, with its process id inside.
    #[must_use]
    pub fn supervisor_lock(&self) -> PathBuf {
        self.root.join("supervisor.lock")
    }

    /// Everything of one node.
    #[must_use]
    pub fn node(&self, node: &str) -> PathBuf {
        self.root.join(node)
    }

    /// `/run/countersign` of a node.
    #[must_use]
    pub fn node_run(&self, node: &str) -> PathBuf {
        self.node(node).join("run")
    }

    /// The control socket of a node's agent.
    #[must_use]
    pub fn agent_socket(&self, node: &str) -> PathBuf {
        self.node_run(node).join("agent.sock")
    }

    /// `/var/run/wireguard` of a node.
    #[must_use]
    pub fn node_wireguard(&self, node: &str) -> PathBuf {
        self.node(node).join("wireguard")
    }

    /// What a node's mount namespace is bound to.
    #[must_use]
    pub fn node_mnt(&self, node: &str) -> PathBuf {
        self.node(node).join("mnt")
    }

    /// While this exists, the supervisor leaves the node's agent down.
    #[must_use]
    pub fn agent_hold(&self, node: &str) -> PathBuf {
        self.node(node).join("agent.hold")
    }

    /// Records of processes that outlive the supervisor.
    #[must_use]
    pub fn processes(&self) -> PathBuf {
        self.root.join("processes")
    }

    /// What the supervisor knows about its pods.
    #[must_use]
    pub fn pods(&self) -> PathBuf {
        self.root.join("pods")
    }

    /// What is wrong with manifests, as a JSON list of texts.
    #[must_use]
    pub fn problems(&self) -> PathBuf {
        self.root.join("problems.json")
    }

    /// Logs of supervisor, agents, WireGuard and pods.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// The log of one of them.
    #[must_use]
    pub fn log(&self, of: &str) -> PathBuf {
        self.logs().join(format!("{of}.log"))
    }

    /// Held locked while a lab comes or goes.
    #[must_use]
    pub fn all_labs_lock() -> PathBuf {
        Path::new(ROOT).join(".lock")
    }

    /// Says that `/run/netns` was made by a lab, to be removed with the last one.
    #[must_use]
    pub fn netns_marker() -> PathBuf {
        Path::new(ROOT).join(".made-netns")
    }

    /// Where a named network namespace is.
    #[must_use]
    pub fn netns(name: &str) -> PathBuf {
        Path::new(NETNS).join(name)
    }
}
