//! What the supervisor knows about a pod, and what it tells others about it.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use anyhow::Result;
use countersign_policy::objects::Pod;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::config::write_atomically;
use crate::names::PodKey;
use crate::paths::Paths;
use crate::podnet::PodNet;
use crate::process::Ended;

/// Asks for an address: `countersign.dev/lab-ip: 10.64.1.7`. For tests of what becomes of a reused one.
pub const IP_ANNOTATION: &str = "countersign.dev/lab-ip";

/// `status.phase`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Its network is made; the agent has not taken it yet.
    Pending,
    /// Its command runs, or will again.
    Running,
    /// Its command left with success and is not to run again.
    Succeeded,
    /// Its command failed and is not to run again.
    Failed,
}

impl Phase {
    /// As Kubernetes writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }
}

/// When a command that ended is run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Restart {
    /// Whenever it ends.
    Always,
    /// When it failed.
    OnFailure,
    /// Not at all.
    Never,
}

/// The part of a pod that cannot change without making it anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// Program and arguments; empty for one that only waits.
    pub command: Vec<String>,
    /// Its environment.
    pub env: BTreeMap<String, String>,
    /// When it is run again.
    pub restart: Restart,
    /// Whether it runs in its node's namespaces.
    pub host_network: bool,
    /// The address that was asked for.
    pub wanted_ip: Option<String>,
}

impl Launch {
    /// Of a pod's manifest.
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        let restart = match pod.restart_policy.as_str() {
            "Never" => Restart::Never,
            "OnFailure" => Restart::OnFailure,
            _ => Restart::Always,
        };
        Self {
            command: pod.command.clone(),
            env: pod.env.clone(),
            restart,
            host_network: pod.host_network,
            wanted_ip: pod.annotations.get(IP_ANNOTATION).cloned(),
        }
    }

    /// Whether a command that ended so is run again.
    #[must_use]
    pub fn runs_again(&self, ended: Ended) -> bool {
        match self.restart {
            Restart::Always => true,
            Restart::OnFailure => ended != Ended::Exited(0),
            Restart::Never => false,
        }
    }
}

/// One pod, as it is kept in `pods/<namespace>_<name>.json` of the lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodState {
    /// Which pod.
    pub key: PodKey,
    /// Its node.
    pub node: String,
    /// UID of this instance.
    pub uid: String,
    /// What it runs.
    pub launch: Launch,
    /// Its network; none where it uses its node's.
    pub net: Option<PodNet>,
    /// Address of its node.
    pub host_ip: IpAddr,
    /// Where it is.
    pub phase: Phase,
    /// Whether the agent has taken its endpoint.
    pub registered: bool,
    /// How often its command was run again.
    pub restarts: u32,
    /// How its command ended last.
    pub ended: Option<Ended>,
    /// What keeps it from running.
    pub message: String,
}

impl PodState {
    /// Where its process is recorded.
    #[must_use]
    pub fn process_file(paths: &Paths, key: &PodKey) -> std::path::PathBuf {
        paths.processes().join(format!("pod-{}.json", key.file_stem()))
    }

    /// Its addresses.
    #[must_use]
    pub fn ips(&self) -> Vec<IpAddr> {
        match &self.net {
            Some(net) => vec![net.v4.into(), net.v6.into()],
            None => vec![self.host_ip],
        }
    }

    /// The supplementary group that this instance of the pod has, and no other process of the machine: how SPIRE's
    /// agent tells pods of a lab apart.
    #[must_use]
    pub fn group(&self) -> u32 {
        crate::names::group(&self.uid)
    }

    /// All pods of a lab, in order.
    #[must_use]
    pub fn load_all(paths: &Paths) -> Vec<Self> {
        let entries = fs::read_dir(paths.pods()).into_iter().flatten();
        let mut all: Vec<Self> = entries.filter_map(|entry| load(&entry.ok()?.path())).collect();
        all.sort_by(|a, b| a.key.cmp(&b.key));
        all
    }

    /// One pod of a lab.
    #[must_use]
    pub fn load(paths: &Paths, key: &PodKey) -> Option<Self> {
        load(&file(paths, key))
    }

    /// Writes its state for whoever supervises next, and its status for whoever watches the cluster.
    ///
    /// # Errors
    /// Those of writing.
    pub fn save(&self, paths: &Paths) -> Result<()> {
        write_atomically(&file(paths, &self.key), &serde_json::to_vec_pretty(self)?)?;
        write_atomically(&paths.pod_status(&self.key), self.status_object().as_bytes())
    }

    /// Removes both.
    pub fn forget(paths: &Paths, key: &PodKey) {
        let _ = fs::remove_file(paths.pod_status(key));
        let _ = fs::remove_file(file(paths, key));
    }

    /// The Pod object, as an API server would have it.
    fn status_object(&self) -> String {
        let ips = self.ips();
        let all: Vec<_> = ips.iter().map(|ip| json!({"ip": ip})).collect();
        let object = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"namespace": self.key.namespace, "name": self.key.name, "uid": self.uid},
            "spec": {
                "nodeName": self.node,
                "securityContext": {"supplementalGroups": [self.group()]},
            },
            "status": {
                "phase": self.phase.as_str(),
                "message": self.message,
                "hostIP": self.host_ip,
                "podIP": ips[0],
                "podIPs": all,
                "containerStatuses": [{
                    "name": "main",
                    "ready": self.phase == Phase::Running,
                    "restartCount": self.restarts,
                }],
            },
        });
        countersign_cluster::to_yaml(&object)
    }
}

fn file(paths: &Paths, key: &PodKey) -> std::path::PathBuf {
    paths.pods().join(format!("{}.json", key.file_stem()))
}

fn load(path: &Path) -> Option<PodState> {
    serde_json::from_str(&fs::read_to_string(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use countersign_policy::yaml;

    use super::*;

    fn state(net: Option<PodNet>) -> PodState {
        PodState {
            key: PodKey::parse("shop/web"),
            node: "node1".into(),
            uid: "u-1".into(),
            launch: Launch::of(&Pod::default()),
            net,
            host_ip: "192.168.64.11".parse().unwrap(),
            phase: Phase::Running,
            registered: true,
            restarts: 2,
            ended: Some(Ended::Signaled(9)),
            message: "a: \"b\"\n".into(),
        }
    }

    fn net() -> PodNet {
        let addresses = (std::net::Ipv4Addr::new(10, 64, 1, 2), "fd00:c5:0:1::2".parse().unwrap());
        PodNet::new("u-1", "cs-x-shop_web".into(), "cs-x-node1".into(), addresses)
    }

    #[test]
    fn its_status_is_one_that_agents_can_read() {
        let text = state(Some(net())).status_object();
        let pod = Pod::from_document(&yaml::parse(&text).unwrap()[0]).unwrap();
        assert_eq!((pod.namespace.as_str(), pod.name.as_str(), pod.uid.as_str()), ("shop", "web", "u-1"));
        assert_eq!(pod.ips, state(Some(net())).ips());
        assert_eq!((pod.phase.as_str(), pod.host_ip), ("Running", Some(state(None).host_ip)));
        assert_eq!(
            state(None).ips(),
            [state(None).host_ip],
            "in its node's namespaces it has its node's address"
        );
    }

    #[test]
    fn its_state_survives_its_supervisor() {
        for state in [state(Some(net())), state(None)] {
            let text = serde_json::to_string(&state).unwrap();
            assert_eq!(serde_json::from_str::<PodState>(&text).unwrap(), state);
        }
    }

    #[test]
    fn what_ends_runs_again_as_its_policy_says() {
        let launch = |policy: &str| Launch::of(&Pod { restart_policy: policy.into(), ..Pod::default() });
        let ends = [Ended::Exited(0), Ended::Exited(1), Ended::Signaled(9), Ended::Unknown];
        for (policy, again) in [
            ("", [true; 4]),
            ("Always", [true; 4]),
            ("OnFailure", [false, true, true, true]),
            ("Never", [false; 4]),
        ] {
            assert_eq!(ends.map(|ended| launch(policy).runs_again(ended)), again, "{policy}");
        }
    }
}
