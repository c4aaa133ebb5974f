//! What a lab consists of at this moment.

use std::fs;

use comfy_table::{Table, presets};
use countersign_agent_api::{EndpointEntry, Request};
use serde::{Deserialize, Serialize};

use crate::config::{AgentMode, LabConfig};
use crate::names::PodKey;
use crate::paths::Paths;
use crate::pod::PodState;
use crate::process::{Record, unix_now};
use crate::{agent, up};

/// A lab, as `lab ps -o json` prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabView {
    /// Its name.
    pub name: String,
    /// Process id of the supervisor; none where it does not run.
    pub supervisor: Option<i32>,
    /// Its nodes.
    pub nodes: Vec<NodeView>,
    /// Its pods.
    pub pods: Vec<PodView>,
    /// What is wrong with manifests.
    pub problems: Vec<String>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// Its network namespace.
    pub netns: String,
    /// Its addresses.
    pub ips: Vec<String>,
    /// Prefixes of its pods.
    pub pod_cidrs: Vec<String>,
    /// Its agent, if it runs.
    pub agent: Option<ProcessView>,
    /// Whether its agent is held down.
    pub held: bool,
    /// Its WireGuard, if it runs.
    pub wireguard: Option<ProcessView>,
}

/// A process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessView {
    /// Process id.
    pub pid: i32,
    /// Seconds since the Unix epoch at which it was started.
    pub since: u64,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodView {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its node.
    pub node: String,
    /// Its network namespace.
    pub netns: String,
    /// Its addresses.
    pub ips: Vec<String>,
    /// The node's end of its veth; empty for one of its node's own namespaces.
    pub interface: String,
    /// Security identity, where its agent says one.
    pub identity: Option<u32>,
    /// `Pending`, `Running`, `Succeeded` or `Failed`.
    pub phase: String,
    /// Its command's process, if it runs.
    pub process: Option<ProcessView>,
    /// How often its command was run again.
    pub restarts: u32,
    /// What keeps it from running.
    pub message: String,
}

/// Looks at everything of a lab.
#[must_use]
pub fn view(config: &LabConfig) -> LabView {
    let paths = config.paths();
    let problems =
        fs::read_to_string(paths.problems()).ok().and_then(|text| serde_json::from_str(&text).ok());
    LabView {
        name: config.name.to_string(),
        supervisor: up::supervisor(&paths).map(|record| record.pid),
        nodes: config.node_names().map(|(number, name)| node(config, &paths, number, name)).collect(),
        pods: pods(config, &paths),
        problems: problems.unwrap_or_default(),
    }
}

fn node(config: &LabConfig, paths: &Paths, number: u8, name: String) -> NodeView {
    let (v4, v6) = config.plan().node(number);
    let (pods4, pods6) = config.plan().pod_cidrs(number);
    NodeView {
        netns: config.name.node_netns(&name),
        ips: vec![v4.to_string(), v6.to_string()],
        pod_cidrs: vec![pods4, pods6],
        agent: process(paths, &format!("agent-{name}")),
        held: paths.agent_hold(&name).exists(),
        wireguard: process(paths, &format!("wg-{name}")),
        name,
    }
}

fn process(paths: &Paths, what: &str) -> Option<ProcessView> {
    let record = Record::load_alive(&paths.processes().join(format!("{what}.json")))?;
    Some(ProcessView { pid: record.pid, since: record.since })
}

fn pods(config: &LabConfig, paths: &Paths) -> Vec<PodView> {
    let endpoints: Vec<EndpointEntry> = match config.agent {
        AgentMode::Countersign => config
            .node_names()
            .filter_map(|(_, name)| agent::list(&paths.agent_socket(&name), &Request::EndpointList).ok())
            .flat_map(|entries: Vec<EndpointEntry>| entries)
            .collect(),
        AgentMode::None => Vec::new(),
    };
    let identity = |key: &PodKey| {
        let of = endpoints.iter().find(|e| e.namespace == key.namespace && e.pod == key.name);
        of.map(|endpoint| endpoint.identity).filter(|identity| *identity != 0)
    };
    let view = |state: PodState| PodView {
        identity: identity(&state.key),
        ips: state.ips().iter().map(ToString::to_string).collect(),
        netns: state
            .net
            .as_ref()
            .map_or_else(|| config.name.node_netns(&state.node), |net| net.netns.clone()),
        interface: state.net.as_ref().map(|net| net.interface.clone()).unwrap_or_default(),
        phase: state.phase.as_str().to_owned(),
        process: process(paths, &format!("pod-{}", state.key.file_stem())),
        restarts: state.restarts,
        message: state.message,
        node: state.node,
        namespace: state.key.namespace,
        name: state.key.name,
    };
    PodState::load_all(paths).into_iter().map(view).collect()
}

impl LabView {
    /// As tables for people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let supervisor = self.supervisor.map_or_else(|| "not running".to_owned(), |pid| format!("pid {pid}"));
        let mut text = format!(
            "lab {}, supervisor {supervisor}\n\n{}\n\n{}",
            self.name,
            self.node_table(),
            self.pod_table()
        );
        for problem in &self.problems {
            text.push_str(&format!("\nproblem: {problem}"));
        }
        text
    }

    fn node_table(&self) -> Table {
        let mut table = table(&["NODE", "ADDRESSES", "PODS", "AGENT", "WIREGUARD"]);
        for node in &self.nodes {
            let agent = if node.held { "held down".to_owned() } else { up_since(node.agent) };
            let (ips, pods) = (node.ips.join(" "), node.pod_cidrs.join(" "));
            table.add_row([node.name.clone(), ips, pods, agent, up_since(node.wireguard)]);
        }
        table
    }

    fn pod_table(&self) -> Table {
        let mut table = table(&["NAMESPACE", "POD", "NODE", "ADDRESSES", "IDENTITY", "STATE", "RESTARTS"]);
        for pod in &self.pods {
            let state = if pod.message.is_empty() {
                pod.phase.clone()
            } else {
                format!("{}: {}", pod.phase, pod.message)
            };
            let identity = pod.identity.map_or_else(|| "-".to_owned(), |identity| identity.to_string());
            let (namespace, name, node) = (pod.namespace.clone(), pod.name.clone(), pod.node.clone());
            table.add_row([
                namespace,
                name,
                node,
                pod.ips.join(" "),
                identity,
                state,
                pod.restarts.to_string(),
            ]);
        }
        table
    }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    table
}

fn up_since(process: Option<ProcessView>) -> String {
    let shown = process
        .map(|process| format!("pid {}, up {} s", process.pid, unix_now().saturating_sub(process.since)));
    shown.unwrap_or_else(|| "-".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lab() -> LabView {
        let process = Some(ProcessView { pid: 7, since: unix_now() });
        let node = |name: &str, held, agent| NodeView {
            name: name.into(),
            netns: format!("cs-x-{name}"),
            ips: vec!["192.168.64.11".into()],
            pod_cidrs: vec!["10.64.1.0/24".into()],
            agent,
            held,
            wireguard: None,
        };
        let pod = PodView {
            namespace: "default".into(),
            name: "web".into(),
            node: "node1".into(),
            netns: "cs-x-default_web".into(),
            ips: vec!["10.64.1.2".into()],
            interface: "lxc00000001".into(),
            identity: Some(300),
            phase: "Pending".into(),
            process: None,
            restarts: 4,
            message: "waits".into(),
        };
        LabView {
            name: "x".into(),
            supervisor: None,
            nodes: vec![node("node1", false, process), node("node2", true, None)],
            pods: vec![pod],
            problems: vec!["a.yaml:3: kind: is missing".into()],
        }
    }

    #[test]
    fn people_see_what_is_wrong() {
        let text = lab().to_text();
        for shown in [
            "supervisor not running",
            "pid 7, up 0 s",
            "held down",
            "Pending: waits",
            "300",
            "problem: a.yaml:3",
        ] {
            assert!(text.contains(shown), "{shown} is not in\n{text}");
        }
    }

    #[test]
    fn programs_read_what_was_written() {
        let text = serde_json::to_string(&lab()).unwrap();
        assert_eq!(serde_json::from_str::<LabView>(&text).unwrap(), lab());
    }
}
