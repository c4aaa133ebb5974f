//! The lab's caretaker: one process a lab, one thread a node.
//!
//! It owns nothing that dies with it. Namespaces are kept by mounts, processes by records; the next one takes
//! over whatever it finds. Everything it does is a reaction to a manifest, to the end of a process, or to time.

mod addresses;
mod inbox;
mod node;
mod pods;
mod registrar;
mod service;
mod spire;
mod unit;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use anyhow::{Context, Result};
use countersign_cluster::{Change, DirConfig, DirSource};
use countersign_policy::objects::Pod;
use nix::fcntl::{Flock, FlockArg};

use crate::config::{IdentitySource, LabConfig, write_atomically};
use crate::limits::{KILL_TIMEOUT, MOVE_TIMEOUT};
use crate::names::{LabName, PodKey};
use crate::paths::Paths;
use crate::process::{Record, wait_until};
use crate::up;
use inbox::{Inbox, Order};

/// Supervises a lab that `up` has prepared; returns when another one does already, otherwise never.
///
/// # Errors
/// Where the lab is not there.
pub fn supervise(lab: &LabName) -> Result<()> {
    let config = LabConfig::load(lab)?;
    let paths = config.paths();
    let Some(_lock) = lock(&paths)? else { return Ok(()) };
    let mut dispatcher = Dispatcher::new(paths.clone());
    for (number, name) in config.node_names() {
        let inbox = Arc::new(Inbox::new()?);
        let mut worker = node::Worker::new(&config, number, &name, inbox.clone())?;
        std::thread::Builder::new().name(name.clone()).spawn(move || worker.run())?;
        dispatcher.nodes.insert(name, inbox);
    }
    if matches!(config.identity_source, IdentitySource::Spire { .. }) {
        let mut worker = spire::Worker::new(&config)?;
        std::thread::Builder::new().name("spire".into()).spawn(move || worker.run())?;
    }
    let directories = DirConfig::new(paths.manifests(), paths.status());
    let (mut changes, _handle) = DirSource::spawn(directories)?;
    while let Some(change) = changes.blocking_recv() {
        dispatcher.take(change);
    }
    Ok(())
}

/// One supervisor a lab. The file says which process it is.
fn lock(paths: &Paths) -> Result<Option<Flock<File>>> {
    let path = paths.supervisor_lock();
    let mut taken = None;
    // One that was killed this moment may have threads that are not quite gone, and with them its lock.
    wait_until(KILL_TIMEOUT, || {
        taken = try_lock(&path);
        taken.is_some() || up::supervisor(paths).is_some()
    });
    let Some(lock) = taken else { return Ok(None) };
    let own = Record::of(i32::try_from(std::process::id())?)?;
    fs::write(&path, serde_json::to_vec(&own)?).with_context(|| format!("write {}", path.display()))?;
    Ok(Some(lock))
}

fn try_lock(path: &Path) -> Option<Flock<File>> {
    let file = File::options().write(true).create(true).truncate(false).open(path).ok()?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()
}

/// Hands what the directory says to the nodes it concerns.
struct Dispatcher {
    paths: Paths,
    nodes: BTreeMap<String, Arc<Inbox>>,
    /// Where each pod is.
    placed: BTreeMap<PodKey, String>,
    problems: BTreeMap<PathBuf, Vec<String>>,
}

impl Dispatcher {
    fn new(paths: Paths) -> Self {
        Self { paths, nodes: BTreeMap::new(), placed: BTreeMap::new(), problems: BTreeMap::new() }
    }

    fn take(&mut self, change: Change) {
        match change {
            Change::PodUpsert(pod) => self.apply(pod),
            Change::PodDelete { namespace, name } => drop(self.delete(&PodKey::new(namespace, name))),
            Change::Problem(problem) => {
                tracing::warn!(%problem, "a manifest is not in force");
                self.problems.entry(problem.file.clone()).or_default().push(problem.to_string());
                self.save_problems();
            }
            Change::ProblemCleared { file } => {
                self.problems.remove(&file);
                self.save_problems();
            }
            Change::Synced => self.nodes.values().for_each(|inbox| inbox.send(Order::Synced)),
            // For agents.
            Change::NamespaceUpsert(_)
            | Change::NamespaceDelete(_)
            | Change::NodeUpsert(_)
            | Change::NodeDelete(_)
            | Change::PolicyUpsert(_)
            | Change::PolicyDelete(_)
            | Change::IdentityUpsert(_)
            | Change::IdentityDelete(_) => {}
        }
    }

    fn apply(&mut self, pod: Arc<Pod>) {
        let key = PodKey::new(&pod.namespace, &pod.name);
        if self.placed.get(&key).is_some_and(|node| *node != pod.node) {
            // Both instances have the same names: the old one must be gone first.
            if let Some(done) = self.delete(&key) {
                let _ = done.recv_timeout(MOVE_TIMEOUT);
            }
        }
        let known = self.nodes.get(&pod.node).filter(|_| key.is_valid()).cloned();
        self.complain(&key, known.is_none().then(|| unplaceable(&key, &pod)));
        if let Some(inbox) = known {
            inbox.send(Order::Apply(pod.clone()));
            self.placed.insert(key, pod.node.clone());
        }
    }

    /// Returns what can be waited on for its end.
    fn delete(&mut self, key: &PodKey) -> Option<Receiver<()>> {
        self.complain(key, None);
        let inbox = self.placed.remove(key).and_then(|node| self.nodes.get(&node))?;
        let (done, is_done) = sync_channel(1);
        inbox.send(Order::Delete { key: key.clone(), done });
        Some(is_done)
    }

    /// Problems of pods are kept beside those of files.
    fn complain(&mut self, key: &PodKey, problem: Option<String>) {
        let of = PathBuf::from(format!("pod {key}"));
        let before = match problem {
            Some(problem) => {
                self.problems.insert(of, vec![problem.clone()]).is_none_or(|old| old != [problem])
            }
            None => self.problems.remove(&of).is_some(),
        };
        if before {
            self.save_problems();
        }
    }

    fn save_problems(&self) {
        let all: Vec<&String> = self.problems.values().flatten().collect();
        let written = serde_json::to_vec(&all).map_err(anyhow::Error::from);
        let written = written.and_then(|text| write_atomically(&self.paths.problems(), &text));
        if let Err(error) = written {
            tracing::warn!("{error:#}");
        }
    }
}

fn unplaceable(key: &PodKey, pod: &Pod) -> String {
    match pod.node.as_str() {
        "" => format!("Pod {key}: spec.nodeName is missing; a lab has no scheduler"),
        node => format!("Pod {key}: there is no node {node} in this lab (or the pod's name is too long)"),
    }
}
