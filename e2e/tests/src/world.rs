//! A lab for one test or benchmark: up when it is made, down when it is dropped.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use countersign_lab::ns::Space;
use countersign_lab::pod::Phase;
use countersign_lab::spire::{PodsBy, Spire, Tuning};
use countersign_lab::{AgentMode, IdentitySource, Lab, LabName, LabOptions, Parking, PodKey, Target, down};
use nix::sys::signal::Signal;

use crate::agent::Agent;

/// Where this is set in the environment, labs are left up for a look at them.
const KEEP: &str = "COUNTERSIGN_KEEP_LABS";
/// How long everything may need to be ready.
const READY: Duration = Duration::from_secs(60);
/// Lines of each log that are shown after a failure.
const LOG_LINES: usize = 30;

/// What lab to make.
#[derive(Clone, Debug)]
pub struct WorldOptions {
    /// Its name; an older lab of this name is taken down first.
    pub name: LabName,
    /// Whether first packets wait for the proof.
    pub parking: Parking,
    /// Where SVIDs come from.
    pub identity_source: IdentitySource,
    /// Life of the SVIDs.
    pub svid_ttl: Duration,
    /// What enforces.
    pub agent: AgentMode,
    /// More arguments for every agent.
    pub agent_args: Vec<String>,
}

impl WorldOptions {
    /// The same with real SPIRE, set up to be quick.
    ///
    /// # Errors
    /// Where `name` cannot be a lab's.
    pub fn with_spire(name: &str) -> Result<Self> {
        let identity_source = IdentitySource::Spire { tuning: Tuning::Fast, pods: PodsBy::Delegated };
        Ok(Self { identity_source, ..Self::new(name)? })
    }

    /// Two nodes, parking, SVIDs that last.
    ///
    /// # Errors
    /// Where `name` cannot be a lab's.
    pub fn new(name: &str) -> Result<Self> {
        Ok(Self {
            name: name.parse()?,
            parking: Parking::On,
            identity_source: IdentitySource::Embedded,
            svid_ttl: Duration::from_secs(3600),
            agent: AgentMode::Countersign,
            agent_args: Vec::new(),
        })
    }
}

/// A lab that is up.
#[derive(Debug)]
pub struct World {
    lab: Lab,
}

/// Where a pod is.
#[derive(Debug)]
pub struct Place {
    /// Its network namespace.
    pub space: Space,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
}

impl Place {
    /// Its address of one family.
    ///
    /// # Errors
    /// Where it has none.
    pub fn address(&self, ipv6: bool) -> Result<IpAddr> {
        self.ips.iter().copied().find(|ip| ip.is_ipv6() == ipv6).context("no address of that family")
    }
}

impl World {
    /// Brings a lab up with `documents` as its manifests, and waits until every pod runs.
    ///
    /// # Errors
    /// Without root, or where something does not become ready.
    pub fn up(options: WorldOptions, documents: &[String]) -> Result<Self> {
        down::down(&options.name).context("take an older lab down")?;
        let lab = Lab::up(&LabOptions {
            parking: options.parking,
            identity_source: options.identity_source,
            svid_ttl: options.svid_ttl,
            agent: options.agent,
            agent_args: options.agent_args,
            ..LabOptions::new(options.name)
        })?;
        let world = Self { lab };
        world.apply("all.yaml", documents)?;
        world.wait_ready().inspect_err(|_| world.show_logs())?;
        Ok(world)
    }

    /// Waits until every pod runs, and every node knows all of them and the other nodes' keys.
    fn wait_ready(&self) -> Result<()> {
        self.lab.wait_pods(READY)?;
        self.lab.wait_known(READY)
    }

    /// The lab itself.
    #[must_use]
    pub const fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The same, to change it.
    pub const fn lab_mut(&mut self) -> &mut Lab {
        &mut self.lab
    }

    /// Its SPIRE.
    ///
    /// # Errors
    /// Where it has none.
    pub fn spire(&self) -> Result<Spire> {
        Spire::of(self.lab.config())
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> LabName {
        self.lab.config().name.clone()
    }

    /// The namespaces of a node.
    ///
    /// # Errors
    /// Where there is no such node.
    pub fn node(&self, node: &str) -> Result<Space> {
        self.lab.space(&Target::Node(node.to_owned()))
    }

    /// The place of a pod of namespace `default`.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn place(&self, pod: &str) -> Result<Place> {
        let key = PodKey::parse(pod);
        Ok(Place { ips: self.lab.pod(&key)?.ips(), space: self.lab.space(&Target::Pod(key))? })
    }

    /// Whether a pod of namespace `default` has its network, and its command runs.
    #[must_use]
    pub fn is_running(&self, pod: &str) -> bool {
        self.lab.pod(&PodKey::parse(pod)).is_ok_and(|state| state.phase == Phase::Running)
    }

    /// The agent of a node.
    ///
    /// # Errors
    /// Where there is no such node.
    pub fn agent(&self, node: &str) -> Result<Agent> {
        Agent::new(self.lab.node(node)?.agent_socket())
    }

    /// Process id of a node's agent.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn agent_pid(&self, node: &str) -> Result<i32> {
        Ok(self.lab.node(node)?.agent().with_context(|| format!("no agent runs on {node}"))?.pid)
    }

    /// Writes `documents` as the file `name` of the manifests.
    ///
    /// # Errors
    /// Those of writing.
    pub fn apply(&self, name: &str, documents: &[String]) -> Result<()> {
        self.lab.apply(name, &documents.join("---\n"))
    }

    /// Kills a node's agent, and keeps it from being started again.
    ///
    /// # Errors
    /// Where it does not end.
    pub fn kill_agent(&self, node: &str) -> Result<()> {
        self.lab.node(node)?.stop_agent(Signal::SIGKILL)
    }

    /// Lets a node's agent be started again, and waits until it answers.
    ///
    /// # Errors
    /// Where it does not in time.
    pub fn start_agent(&self, node: &str) -> Result<()> {
        self.lab.node(node)?.start_agent().map(drop)
    }

    /// Prints the last lines of every log of the lab.
    pub fn show_logs(&self) {
        let entries = std::fs::read_dir(self.lab.paths().logs()).into_iter().flatten();
        let mut logs: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        logs.sort();
        for log in logs {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let shown = &lines[lines.len().saturating_sub(LOG_LINES)..];
            eprintln!("--- {}\n{}", log.display(), shown.join("\n"));
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if thread::panicking() {
            self.show_logs();
        }
        if std::env::var_os(KEEP).is_some() {
            eprintln!("lab {} stays up ({KEEP})", self.name());
            self.lab.keep();
        }
    }
}

/// Runs `test` in a lab of its own; if it fails, shows the ends of the lab's logs first.
///
/// # Errors
/// Those of `test`, and of bringing the lab up.
pub fn in_world(
    options: WorldOptions,
    documents: &[String],
    test: impl FnOnce(&World) -> Result<()>,
) -> Result<()> {
    let world = World::up(options, documents)?;
    test(&world).inspect_err(|_| world.show_logs())
}

/// Waits until `condition` holds, asking every 10 ms. Returns how long that took.
///
/// # Errors
/// Where it does not hold within `limit`, or asking fails.
pub fn eventually(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<bool>,
) -> Result<Duration> {
    let start = Instant::now();
    while !condition()? {
        if start.elapsed() > limit {
            bail!("not within {limit:?}: {what}");
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(start.elapsed())
}
