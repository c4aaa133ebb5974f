//! The lab's SPIRE: its server, an agent a node, and the registrar, tended by one thread.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::config::LabConfig;
use crate::ns::Space;
use crate::paths::Paths;
use crate::spire::{self, SpirePaths, TRUST_DOMAIN};

use super::node::{end_strays, program};
use super::service::Service;

/// How often the services are looked after.
const ROUND: Duration = Duration::from_millis(50);

pub(super) struct Worker {
    config: LabConfig,
    spire: SpirePaths,
    space: Space,
    server: Service,
    agents: Vec<(String, Service)>,
    registrar: Service,
}

impl Worker {
    pub(super) fn new(config: &LabConfig) -> Result<Self> {
        let paths = config.paths();
        let spire = SpirePaths::new(&paths);
        let service = |kind: &'static str, what: &str, hold| {
            let record = paths.processes().join(format!("{what}.json"));
            end_strays(config.name.as_str(), what, &record);
            Service::new(kind, paths.log(what), record, hold)
        };
        let nodes = config.node_names().map(|(_, node)| {
            let agent = service("spire-agent", &format!("spire-agent-{node}"), Some(spire.agent_hold(&node)));
            (node, agent)
        });
        Ok(Self {
            space: Space::net(&spire::netns(config))?,
            server: service("spire-server", "spire-server", Some(spire.server_hold())),
            agents: nodes.collect(),
            registrar: service("registrar", "registrar", Some(spire.registrar_hold())),
            config: config.clone(),
            spire,
        })
    }

    pub(super) fn run(&mut self) {
        loop {
            self.tend();
            std::thread::sleep(ROUND);
        }
    }

    fn tend(&mut self) {
        let Self { config, spire, space, server, agents, registrar } = self;
        server.tend(space, || server_command(config, spire));
        if !spire.server_socket().exists() {
            return;
        }
        registrar.tend(space, || registrar_command(config, &config.paths(), spire));
        for (node, agent) in agents {
            agent.tend(space, || agent_command(config, spire, node));
        }
    }
}

fn server_command(config: &LabConfig, spire: &SpirePaths) -> Command {
    let mut command = foreign(config, "spire-server", "spire-server");
    command.arg("run").arg("-config").arg(spire.server_config());
    command
}

fn agent_command(config: &LabConfig, spire: &SpirePaths, node: &str) -> Command {
    let mut command = foreign(config, "spire-agent", &format!("spire-agent-{node}"));
    command.arg("run").arg("-config").arg(spire.agent_config(node));
    match spire::introduce_agent(config, node) {
        Ok(Some(token)) => drop(command.args(["-joinToken", &token])),
        Ok(None) => {}
        // It will not attest itself, end, and be started again with the next attempt.
        Err(error) => tracing::warn!(node, "no token for the SPIRE agent yet: {error:#}"),
    }
    command
}

fn registrar_command(config: &LabConfig, paths: &Paths, spire: &SpirePaths) -> Command {
    let mut command = program(config, "countersign-registrar", "registrar");
    command
        .arg("--manifests")
        .arg(paths.manifests())
        .arg("--status-dir")
        .arg(paths.status())
        .args(["--trust-domain", TRUST_DOMAIN])
        .arg("--server-socket")
        .arg(spire.server_socket())
        .args(["--workload-selector", super::node::WORKLOAD_SELECTOR])
        .args(["--agent-selector", "unix:uid:0"])
        .args(["--x509-svid-ttl", &format!("{}s", config.svid_ttl_seconds)])
        .arg("--status-file")
        .arg(spire.registrar_status());
    command
}

/// A program that is not ours.
fn foreign(config: &LabConfig, name: &str, what: &str) -> Command {
    use std::os::unix::process::CommandExt;
    let program = spire::program(name).unwrap_or_else(|_| name.into());
    let mut command = Command::new(program);
    let mark = format!("{}:{what}", config.name);
    command.env(crate::process::MARK, mark).process_group(0).current_dir("/");
    command
}
