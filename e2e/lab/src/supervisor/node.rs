//! One node: its services and its pods, tended by one thread that owns them all.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::config::{AgentMode, IdentitySource, LabConfig};
use crate::limits::HOUSEKEEPING;
use crate::ns::Space;
use crate::paths::Paths;
use crate::process::{MARK, Record, Running};
use crate::scan;
use crate::spire::{PodsBy, SpirePaths, TRUST_DOMAIN};

use super::inbox::{Inbox, Order};
use super::pods::Pods;
use super::service::Service;

/// How SPIRE's agent would know a pod of a lab: each has a supplementary group of its own.
pub(super) const WORKLOAD_SELECTOR: &str = "unix:supplementary_gid:{supplemental_group}";

/// How long an agent waits for WireGuard's socket before it is started all the same.
const WIREGUARD_FIRST: Duration = Duration::from_secs(2);

/// A node's thread.
pub(super) struct Worker {
    config: LabConfig,
    paths: Paths,
    name: String,
    space: Arc<Space>,
    inbox: Arc<Inbox>,
    started: Instant,
    wireguard: Option<Service>,
    agent: Option<Service>,
    pods: Pods,
}

impl Worker {
    pub(super) fn new(config: &LabConfig, number: u8, name: &str, inbox: Arc<Inbox>) -> Result<Self> {
        let paths = config.paths();
        let space = Arc::new(Space::net_and_mnt(&config.name.node_netns(name), &paths.node_mnt(name))?);
        let service = |what: &'static str, hold| {
            let record = paths.processes().join(format!("{what}-{name}.json"));
            end_strays(&config.name.to_string(), &format!("{what}-{name}"), &record);
            Service::new(what, paths.log(&format!("{what}-{name}")), record, hold)
        };
        let enforced = config.agent == AgentMode::Countersign;
        Ok(Self {
            wireguard: enforced.then(|| service("wg", None)),
            agent: enforced.then(|| service("agent", Some(paths.agent_hold(name)))),
            pods: Pods::new(config, number, name, space.clone(), inbox.clone()),
            config: config.clone(),
            paths,
            name: name.to_owned(),
            space,
            inbox,
            started: Instant::now(),
        })
    }

    pub(super) fn run(&mut self) {
        loop {
            while let Some(order) = self.inbox.next() {
                match order {
                    Order::Apply(pod) => self.pods.apply(&pod),
                    Order::Delete { key, done } => {
                        self.pods.delete(&key);
                        let _ = done.try_send(());
                    }
                    Order::Told(told) => self.pods.told(told),
                    Order::Synced => self.pods.synced(),
                }
            }
            self.tend_services();
            self.pods.tend();
            self.wait();
        }
    }

    fn tend_services(&mut self) {
        // The file says what is wanted now; it may have been changed since the last start.
        let config = || LabConfig::load(&self.config.name).unwrap_or_else(|_| self.config.clone());
        if let Some(wireguard) = &mut self.wireguard {
            wireguard.tend(&self.space, || wireguard_command(&self.config, &self.name));
        }
        let socket = self.paths.node_wireguard(&self.name).join("cs_wg0.sock");
        if !socket.exists() && self.started.elapsed() < WIREGUARD_FIRST {
            return;
        }
        if let Some(agent) = &mut self.agent {
            agent.tend(&self.space, || agent_command(&config(), &self.paths, &self.name));
        }
    }

    /// Until an order comes, a process ends or something is due.
    fn wait(&self) {
        let services = [&self.wireguard, &self.agent].into_iter().flatten().filter_map(Service::running);
        let handles = services.chain(self.pods.running()).map(Running::handle);
        let mut fds: Vec<PollFd<'_>> =
            handles.chain([self.inbox.bell()]).map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let idle = self.pods.due().unwrap_or(HOUSEKEEPING).min(HOUSEKEEPING);
        let timeout = PollTimeout::try_from(idle).unwrap_or(PollTimeout::ZERO);
        // Interrupted or not: whatever is ready is looked for anyway.
        let _ = poll(&mut fds, timeout);
    }
}

fn wireguard_command(config: &LabConfig, node: &str) -> Command {
    let mut command = program(config, "countersign-wg", &format!("wg-{node}"));
    command.args(["-f", "cs_wg0"]);
    command
}

fn agent_command(config: &LabConfig, paths: &Paths, node: &str) -> Command {
    let mut command = program(config, "countersign-agent", &format!("agent-{node}"));
    command
        .args(["--node-name", node])
        .args(["--run-dir", "/run/countersign", "--pin-dir", "/sys/fs/bpf/countersign"])
        .arg("--manifests")
        .arg(paths.manifests())
        .arg("--status-dir")
        .arg(paths.status())
        .args(["--uplink", "eth0"])
        .args(["--trust-domain", TRUST_DOMAIN])
        .args(["--parking", config.parking.as_str()])
        // It is started here; whoever wants the kernel's says so among the agent's arguments.
        .env("COUNTERSIGN_WIREGUARD_BACKEND", "userspace")
        .args(&config.agent_args);
    identity_arguments(&mut command, config, paths, node);
    command
}

fn identity_arguments(command: &mut Command, config: &LabConfig, paths: &Paths, node: &str) {
    let spire = SpirePaths::new(paths);
    let (workload, admin) = match &config.identity_source {
        IdentitySource::Embedded => {
            command.arg("--embedded-ca").arg(paths.embedded_ca());
            command.args(["--svid-ttl", &format!("{}s", config.svid_ttl_seconds)]);
            return;
        }
        IdentitySource::Spire { pods, .. } => {
            command.arg("--registrar-status").arg(spire.registrar_status());
            if *pods == PodsBy::Broker {
                command.arg("--spire-workload-socket").arg(spire.workload_socket(node));
                command.arg("--spire-broker-socket").arg(spire.broker_socket(node));
                return;
            }
            (spire.workload_socket(node), spire.admin_socket(node))
        }
        IdentitySource::External { workload_socket, admin_socket } => {
            (workload_socket.clone(), admin_socket.clone())
        }
    };
    command.arg("--spire-workload-socket").arg(workload).arg("--spire-admin-socket").arg(admin);
    command.args(["--workload-selector", WORKLOAD_SELECTOR]);
}

pub(super) fn program(config: &LabConfig, name: &str, what: &str) -> Command {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(config.bin_dir.join(name));
    command.env(MARK, format!("{}:{what}", config.name)).process_group(0).current_dir("/");
    command
}

/// Kills processes that bear the mark of `what` while none is recorded: the supervisor that started them was
/// killed before it could write them down.
pub(super) fn end_strays(lab: &str, what: &str, record: &Path) {
    if Record::load_alive(record).is_some() {
        return;
    }
    let mark = format!("{lab}:{what}");
    if let Err(error) = scan::kill_all(|| scan::marked(&mark)) {
        tracing::warn!(what, "{error:#}");
    }
}
