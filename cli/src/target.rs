//! Which agents to talk to.

use std::path::PathBuf;
use std::{fs, io};

use anyhow::{Context, Result, bail, ensure};

use crate::args::Global;
use crate::limits::MAX_NODES;

/// One agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Name of its node, where that is known beforehand.
    pub node: Option<String>,
    /// Its control socket.
    pub socket: PathBuf,
}

/// Agents to talk to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Targets {
    /// In the order of their nodes' names, at least one.
    pub all: Vec<Target>,
    /// Whether rows must say which node they are from.
    pub named: bool,
}

impl Targets {
    /// What `--socket`, `--lab` and `--node` say.
    ///
    /// # Errors
    /// A lab or node that does not exist; `--node` without `--lab`.
    pub fn resolve(global: &Global) -> Result<Self> {
        let Some(lab) = &global.lab else {
            ensure!(global.node.is_empty(), "--node picks nodes of a lab: name the lab with --lab");
            let only = Target { node: None, socket: global.socket.clone() };
            return Ok(Self { all: vec![only], named: false });
        };
        let mut nodes = nodes(global, lab)?;
        if let Some(unknown) = global.node.iter().find(|wanted| !nodes.contains(wanted)) {
            bail!("lab {lab} has no node {unknown}: its nodes are {}", nodes.join(", "));
        }
        nodes.retain(|node| global.node.is_empty() || global.node.contains(node));
        let root = global.lab_root.join(lab);
        let target = |node: String| {
            let socket = root.join(&node).join("run/agent.sock");
            Target { node: Some(node), socket }
        };
        Ok(Self { all: nodes.into_iter().map(target).collect(), named: true })
    }
}

/// Nodes of a lab: each has a directory with a run directory in it.
fn nodes(global: &Global, lab: &str) -> Result<Vec<String>> {
    let fine = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
    ensure!(!lab.is_empty() && fine(lab) && !lab.starts_with('.'), "{lab:?} is not the name of a lab");
    let directory = global.lab_root.join(lab);
    let entries = match fs::read_dir(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!("there is no lab {lab}: `countersign lab up --name {lab}` makes one")
        }
        other => other.with_context(|| format!("cannot read {}", directory.display()))?,
    };
    let mut nodes = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read {}", directory.display()))?;
        if entry.path().join("run").is_dir()
            && let Ok(name) = entry.file_name().into_string()
        {
            nodes.push(name);
        }
    }
    ensure!(!nodes.is_empty(), "lab {lab} has no nodes yet: see `countersign lab logs --name {lab}`");
    ensure!(nodes.len() <= MAX_NODES, "lab {lab} has more than {MAX_NODES} nodes: pick some with --node");
    nodes.sort_unstable();
    Ok(nodes)
}
