//! Bringing a lab up, or what of it is missing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use countersign_agent_api::{EncryptStatus, Request, Status};
use countersign_cluster::NodePublisher;
use serde_json::json;

use crate::config::{AgentMode, IdentitySource, LabConfig, LabOptions, lock_all};
use crate::names::{LabName, PodKey};
use crate::paths::Paths;
use crate::pod::{Phase, PodState};
use crate::process::{Record, open_log, wait_until};
use crate::{agent, mounts, spire, wire};

/// Says each step, where the caller wants to hear it.
struct Progress {
    aloud: bool,
    begun: Instant,
}

impl Progress {
    fn step(&self, what: &str) {
        if self.aloud {
            eprintln!("[{:5.2} s] {what}", self.begun.elapsed().as_secs_f64());
        }
    }
}

/// Makes everything a lab consists of, or repairs what is missing of it.
///
/// # Errors
/// What is missing on this machine, or did not become ready in time.
pub fn up(options: &LabOptions) -> Result<LabConfig> {
    let progress = Progress { aloud: options.verbose, begun: Instant::now() };
    let bin_dir = options.bin_dir.clone().map_or_else(default_bin_dir, Ok)?;
    check_prerequisites(options, &bin_dir)?;
    let config = prepare(options, bin_dir)?;
    progress.step(&format!("lab {} in {}", config.name, config.paths().root().display()));
    spire::prepare(&config)?;
    if wire::create_wire(&config)? {
        progress.step("the wire: a bridge in a namespace of its own");
    }
    for (number, name) in config.node_names() {
        if wire::create_node(&config, number, &name)? {
            let (v4, v6) = config.plan().node(number);
            let (pods4, pods6) = config.plan().pod_cidrs(number);
            progress.step(&format!("{name}: {v4} {v6}, pods in {pods4} {pods6}"));
        }
        publish_node(&config, number, &name)?;
    }
    if start_supervisor(&config)? {
        progress.step("the supervisor, which starts agents and pods");
    }
    if options.wait {
        wait_ready(&config, &progress, options.ready_timeout)?;
    }
    Ok(config)
}

/// Where the programs are: beside the running one, or above it where that is a test.
///
/// # Errors
/// Where the running program cannot be found.
pub fn default_bin_dir() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("COUNTERSIGN_BIN_DIR") {
        return Ok(dir.into());
    }
    let own = std::env::current_exe().context("the path of this program")?;
    let dir = own.parent().context("a program is in a directory")?;
    let is_deps = dir.file_name().is_some_and(|name| name == "deps");
    Ok(dir.parent().filter(|_| is_deps).unwrap_or(dir).to_owned())
}

fn check_prerequisites(options: &LabOptions, bin_dir: &Path) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("a lab is made of network namespaces, for which root is needed");
    }
    let ip = Command::new("ip").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
    ip.context("the lab needs `ip` (package iproute2)")?;
    let mut needed = vec!["countersign-lab"];
    if options.agent == AgentMode::Countersign {
        needed.extend(["countersign-agent", "countersign-wg"]);
    }
    if matches!(options.identity_source, IdentitySource::Spire { .. }) {
        needed.push("countersign-registrar");
    }
    for program in needed {
        if !bin_dir.join(program).is_file() {
            bail!(
                "{program} is not in {}: build the workspace, or set COUNTERSIGN_BIN_DIR",
                bin_dir.display()
            );
        }
    }
    Ok(())
}

/// The lab's directory and its configuration.
fn prepare(options: &LabOptions, bin_dir: PathBuf) -> Result<LabConfig> {
    let _lock = lock_all()?;
    let config = LabConfig::settle(options, bin_dir)?;
    let paths = config.paths();
    let status = paths.status();
    fs::create_dir_all(paths.root())?;
    mounts::hold_root(&paths)?;
    for dir in [status.join("nodes"), status.join("pods"), status.join("identities")] {
        fs::create_dir_all(dir)?;
    }
    for dir in [paths.pods(), paths.processes(), paths.logs(), paths.embedded_ca()] {
        fs::create_dir_all(dir)?;
    }
    place_manifests(&paths, options.manifests.as_deref())?;
    config.save()?;
    Ok(config)
}

/// A directory of the lab's own, or a link to the one given; what is there stays.
fn place_manifests(paths: &Paths, given: Option<&Path>) -> Result<()> {
    let place = paths.manifests();
    let Some(given) = given else {
        return match fs::create_dir(&place) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error.into()),
            _ => Ok(()),
        };
    };
    let given = fs::canonicalize(given).with_context(|| format!("--manifests {}", given.display()))?;
    if !given.is_dir() {
        bail!("--manifests {}: not a directory", given.display());
    }
    match fs::canonicalize(&place) {
        Ok(known) if known == given => Ok(()),
        Ok(known) => bail!("the lab watches {}: take it down first", known.display()),
        Err(_) => {
            let _ = fs::remove_file(&place);
            std::os::unix::fs::symlink(&given, &place).context("link the manifests")
        }
    }
}

/// What an API server would know of a node; annotations that are there stay.
fn publish_node(config: &LabConfig, number: u8, name: &str) -> Result<()> {
    let (v4, v6) = config.plan().node(number);
    let (pods4, pods6) = config.plan().pod_cidrs(number);
    let publisher = NodePublisher::new(&config.paths().status(), name)?;
    publisher.update(|node| {
        node["spec"] = json!({"podCIDR": pods4, "podCIDRs": [pods4, pods6]});
        node["status"] = json!({"addresses": [
            {"type": "InternalIP", "address": v4},
            {"type": "InternalIP", "address": v6},
            {"type": "Hostname", "address": name},
        ]});
    })?;
    Ok(())
}

/// The process that supervises this lab, if one does.
#[must_use]
pub fn supervisor(paths: &Paths) -> Option<Record> {
    Record::load_alive(&paths.supervisor_lock())
}

/// Returns whether one had to be started.
fn start_supervisor(config: &LabConfig) -> Result<bool> {
    let paths = config.paths();
    if supervisor(&paths).is_some() {
        return Ok(false);
    }
    let log = open_log(&paths.log("supervisor"))?;
    let mut command = Command::new(config.bin_dir.join("countersign-lab"));
    command.args(["supervise", "--name", config.name.as_str()]).current_dir("/");
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // It detaches itself: what we start ends at once, and its child is nobody's.
    let status = command.status().context("start countersign-lab")?;
    let started = status.success() && wait_until(Duration::from_secs(5), || supervisor(&paths).is_some());
    if !started {
        bail!("the supervisor did not start; see {}", paths.log("supervisor").display());
    }
    Ok(true)
}

/// Waits until agents answer and every pod of the manifests runs (or has run).
fn wait_ready(config: &LabConfig, progress: &Progress, at_most: Duration) -> Result<()> {
    let paths = config.paths();
    if config.agent == AgentMode::Countersign {
        for (_, name) in config.node_names() {
            wait_agent(&paths, &name, at_most)?;
            progress.step(&format!("{name}: the agent answers"));
        }
    }
    let count = wait_pods(config, at_most)?;
    progress.step(&format!("{count} pods run"));
    if config.agent == AgentMode::Countersign {
        for (_, name) in config.node_names() {
            wait_encrypted(config, &name, at_most)?;
        }
        progress.step("every node has proved its WireGuard key to the others");
    }
    Ok(())
}

/// Waits until a node has every other one as a peer: before that, pods there are unreachable.
fn wait_encrypted(config: &LabConfig, node: &str, at_most: Duration) -> Result<()> {
    let socket = config.paths().agent_socket(node);
    let others = usize::from(config.nodes) - 1;
    let mut errors = Vec::new();
    let ready = wait_until(at_most, || {
        let Ok(status) = agent::call::<EncryptStatus>(&socket, &Request::EncryptStatus) else { return false };
        let ready = status.is_encrypted() && status.peers.len() == others;
        errors = status.errors;
        errors.extend(status.peers.into_iter().filter_map(|peer| peer.error));
        ready
    });
    if !ready {
        bail!("{node}: no encryption to every other node: {}", errors.join("; "));
    }
    Ok(())
}

/// Waits until the agent of a node answers.
///
/// # Errors
/// Where it does not in time.
pub fn wait_agent(paths: &Paths, node: &str, at_most: Duration) -> Result<Status> {
    let socket = paths.agent_socket(node);
    let mut answer = None;
    wait_until(at_most, || {
        answer = agent::call::<Status>(&socket, &Request::Status).ok();
        answer.is_some()
    });
    let log = paths.log(&format!("agent-{node}"));
    answer.with_context(|| format!("the agent of {node} does not answer; see {}", log.display()))
}

/// Waits until every pod that manifests ask for runs, or has run. Returns how many there are.
///
/// # Errors
/// Which are missing, and why where that is known.
pub fn wait_pods(config: &LabConfig, at_most: Duration) -> Result<usize> {
    let paths = config.paths();
    let mut missing = Vec::new();
    let mut count = 0;
    let ready = wait_until(at_most, || {
        let wanted = wanted_pods(&paths.manifests());
        count = wanted.len();
        missing = wanted.into_iter().filter_map(|key| not_ready(&paths, key)).collect();
        missing.is_empty()
    });
    if !ready {
        bail!("pods that do not run: {}; see {}", missing.join("; "), paths.log("supervisor").display());
    }
    Ok(count)
}

fn not_ready(paths: &Paths, key: PodKey) -> Option<String> {
    match PodState::load(paths, &key) {
        Some(state) if state.phase != Phase::Pending => None,
        Some(state) if !state.message.is_empty() => Some(format!("{key} ({})", state.message)),
        _ => Some(key.to_string()),
    }
}

/// Pods that the files of a directory speak of; files that make no sense are the supervisor's to report.
fn wanted_pods(manifests: &Path) -> Vec<PodKey> {
    let files = fs::read_dir(manifests).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let yaml =
        files.filter(|path| path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json"));
    let texts = yaml.filter_map(|path| fs::read_to_string(path).ok());
    let documents = texts.flat_map(|text| countersign_policy::yaml::parse(&text).unwrap_or_default());
    let pods = documents.filter(|document| document.kind() == "Pod" && !document.name().is_empty());
    pods.map(|document| {
        let namespace = if document.namespace().is_empty() { "default" } else { document.namespace() };
        PodKey::new(namespace, document.name())
    })
    .collect()
}

/// Names of labs that are up or half up, for messages.
#[must_use]
pub fn exists(lab: &LabName) -> bool {
    Paths::new(lab).config().exists()
}
