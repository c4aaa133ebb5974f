//! The registrar's configuration: one flat structure, each field a flag and an environment variable.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser};
use countersign_certs::{IdTemplate, TrustDomain};
use countersign_cluster::election::Timing;
use countersign_spire_proto::{Layout, LayoutConfig, NodeTemplate, Owner, SelectorTemplate};

use crate::connection::Target;

/// Keeps a SPIRE server's registration entries as the cluster's pods and policies want them.
///
/// Every pod that a policy with authentication can concern gets an entry: its SPIFFE ID by --spiffe-id-template,
/// its parent the SPIRE agent of the one node it is on, its selectors by --workload-selector. So a node can obtain the
/// identities of its own pods, and no others. Entries go when their pods do.
///
/// Its entries have IDs that begin with "countersign.<cluster>."; no other entry is ever changed or deleted. One
/// that somebody else wrote and that does the same (spire-controller-manager) is left to do it.
///
/// A pod with the annotation "countersign.dev/svid: none" gets no entry.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "countersign-registrar",
    version,
    after_long_help = "Examples:\n\
        \n  Beside the SPIRE server, agents attested with k8s_psat:\n    \
        countersign-registrar --manifests /etc/countersign/manifests --status-dir /var/lib/countersign/status \\\n      \
        --trust-domain example.org --cluster east --server-socket /tmp/spire-server/private/api.sock \\\n      \
        --node-selector k8s_psat:cluster:east --node-selector 'k8s_psat:agent_node_name:{node}' \\\n      \
        --agent-selector k8s:ns:countersign --agent-selector k8s:sa:countersign-agent\n\
        \n  Over the network; the server has this registrar's SPIFFE ID in its admin_ids:\n    \
        … --server-address spire-server.spire:8081 --workload-socket /run/spire/agent/api.sock\n\
        \n  In a cluster, two of them (deploy/registrar):\n    \
        countersign-registrar --kubernetes --spiffe-id-template '/ns/{namespace}/sa/{service_account}' …\n\
        \n  What each SPIRE agent needs: authorized_delegates = [\"spiffe://<trust domain>/node/<node>\"]"
)]
pub struct Config {
    /// Directory of Kubernetes manifests to follow (Pod, Namespace, Node, policies), as the agents do.
    #[arg(
        long,
        env = "COUNTERSIGN_MANIFESTS",
        requires = "status_dir",
        required_unless_present = "kubernetes"
    )]
    pub manifests: Option<PathBuf>,

    /// Directory of what the cluster knows of itself: pods' addresses and UIDs, nodes, identities' numbers.
    #[arg(long, env = "COUNTERSIGN_STATUS_DIR")]
    pub status_dir: Option<PathBuf>,

    /// Follow the API server in the place of a directory, as the service account of the pod that this runs in.
    /// Several may run: one leads (--leader-elect-…), the others write nothing.
    #[arg(long, env = "COUNTERSIGN_KUBERNETES", conflicts_with_all = ["manifests", "status_dir", "state_dir"])]
    pub kubernetes: bool,

    /// Follow the API server of this file's current context (with --kubernetes).
    #[arg(long, env = "COUNTERSIGN_KUBECONFIG", requires = "kubernetes")]
    pub kubeconfig: Option<PathBuf>,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub election: ElectionConfig,

    /// SPIFFE trust domain of the SPIRE server.
    #[arg(long, env = "COUNTERSIGN_TRUST_DOMAIN")]
    pub trust_domain: TrustDomain,

    /// Name of this cluster in the IDs of its entries. Clusters that share a SPIRE server need different ones, or
    /// each takes the other's entries for its own left-overs.
    #[arg(long, env = "COUNTERSIGN_CLUSTER", default_value = "default")]
    pub cluster: Owner,

    /// Socket of the SPIRE server (its `socket_path`), on the same machine.
    #[arg(long, env = "COUNTERSIGN_SPIRE_SERVER_SOCKET", conflicts_with = "server_address")]
    #[arg(required_unless_present = "server_address")]
    pub server_socket: Option<PathBuf>,

    /// Address of the SPIRE server (host:port), which has this registrar's SPIFFE ID in its `admin_ids`.
    #[arg(long, env = "COUNTERSIGN_SPIRE_SERVER_ADDRESS", requires = "workload_socket")]
    pub server_address: Option<String>,

    /// Workload API of the SPIRE agent beside this registrar, for its own SVID (with --server-address).
    #[arg(long, env = "COUNTERSIGN_WORKLOAD_SOCKET")]
    pub workload_socket: Option<PathBuf>,

    /// SPIFFE ID of a pod; {trust_domain}, {number} (of its identity), {namespace} and {service_account} are
    /// replaced. The agents need the same.
    #[arg(
        long,
        env = "COUNTERSIGN_SPIFFE_ID_TEMPLATE",
        default_value = "spiffe://{trust_domain}/identity/{number}"
    )]
    pub spiffe_id_template: IdTemplate,

    /// SPIFFE ID that stands for the SPIRE agent of a node, the parent of its pods' entries; {trust_domain} and
    /// {node} are replaced.
    #[arg(
        long,
        env = "COUNTERSIGN_NODE_PARENT_TEMPLATE",
        default_value = "spiffe://{trust_domain}/spire-node/{node}"
    )]
    pub node_parent_template: NodeTemplate,

    /// Selector of a pod's processes, several are all needed; {pod_uid}, {pod}, {namespace}, {service_account},
    /// {node} and {supplemental_group} are replaced. The agents need the same.
    #[arg(long = "workload-selector", env = "COUNTERSIGN_WORKLOAD_SELECTORS", value_delimiter = ',')]
    #[arg(default_value = "k8s:pod-uid:{pod_uid}")]
    pub workload_selectors: Vec<SelectorTemplate>,

    /// Selector of a node's SPIRE agent, such as k8s_psat:agent_node_name:{node}: makes it the parent of the node's
    /// entries. Without any, somebody else does (`spire-server token generate -spiffeID`).
    #[arg(long = "node-selector", env = "COUNTERSIGN_NODE_SELECTORS", value_delimiter = ',')]
    pub node_selectors: Vec<SelectorTemplate>,

    /// Selector of the Countersign agent's process, such as k8s:sa:countersign-agent: writes the entry of every
    /// node's agent, spiffe://<trust domain>/node/<node>. Choose what no other process on the node has.
    #[arg(long = "agent-selector", env = "COUNTERSIGN_AGENT_SELECTORS", value_delimiter = ',')]
    pub agent_selectors: Vec<SelectorTemplate>,

    /// Lifetime of pods' and agents' SVIDs, such as 1h, 90s; 0 is the server's default.
    #[arg(long, env = "COUNTERSIGN_X509_SVID_TTL", default_value = "0", value_parser = parse_seconds)]
    pub x509_svid_ttl: u32,

    /// Trust domain that pods and agents federate with; the server must have its bundle.
    #[arg(long = "federates-with", env = "COUNTERSIGN_FEDERATES_WITH", value_delimiter = ',')]
    pub federates_with: Vec<TrustDomain>,

    /// Hint of pods' entries, for workloads that use the Workload API as well and get several SVIDs.
    #[arg(long, env = "COUNTERSIGN_HINT", default_value = "")]
    pub hint: String,

    /// Entries for all pods, not only for those that a policy with authentication can concern.
    #[arg(long, env = "COUNTERSIGN_ALL_PODS")]
    pub all_pods: bool,

    /// How often all of the server's entries are looked at, in seconds, to repair what others changed.
    #[arg(long, env = "COUNTERSIGN_RESYNC_SECONDS", default_value_t = 60)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub resync_seconds: u64,

    /// File with one line of JSON about what this registrar does, for `countersign spire status`.
    #[arg(long, env = "COUNTERSIGN_REGISTRAR_STATUS", default_value = "/run/countersign/registrar.json")]
    pub status_file: PathBuf,

    /// Directory for copies of manifests as they were when they last made sense, so that one that makes none at
    /// the next start leaves in force what it said.
    #[arg(long, env = "COUNTERSIGN_REGISTRAR_STATE_DIR")]
    pub state_dir: Option<PathBuf>,

    /// Log filter, as tracing's EnvFilter: info, countersign_registrar=debug.
    #[arg(long, env = "COUNTERSIGN_LOG", default_value = "info")]
    pub log: String,
}

/// Who of several registrars in a cluster leads: by a Lease, with client-go's times.
#[derive(Clone, Debug, Args)]
pub struct ElectionConfig {
    /// Name of the Lease by which several registrars take turns (with --kubernetes).
    #[arg(long = "leader-elect-resource-name", env = "COUNTERSIGN_LEASE_NAME", value_name = "NAME")]
    #[arg(default_value = "countersign-registrar")]
    pub name: String,

    /// Its namespace; by default the pod's own, or that of the kubeconfig's context.
    #[arg(
        long = "leader-elect-resource-namespace",
        env = "COUNTERSIGN_LEASE_NAMESPACE",
        value_name = "NAMESPACE"
    )]
    pub namespace: Option<String>,

    /// How long the others wait for a leader that says nothing before one of them takes its place.
    #[arg(long = "leader-elect-lease-duration", env = "COUNTERSIGN_LEASE_DURATION", value_name = "TIME")]
    #[arg(default_value = "15s", value_parser = parse_seconds)]
    pub lease_duration: u32,

    /// How long a leader that cannot reach the API server goes on writing entries; shorter than the lease.
    #[arg(long = "leader-elect-renew-deadline", env = "COUNTERSIGN_RENEW_DEADLINE", value_name = "TIME")]
    #[arg(default_value = "10s", value_parser = parse_seconds)]
    pub renew_deadline: u32,

    /// Time between two attempts to renew, or to become the leader.
    #[arg(long = "leader-elect-retry-period", env = "COUNTERSIGN_RETRY_PERIOD", value_name = "TIME")]
    #[arg(default_value = "2s", value_parser = parse_seconds)]
    pub retry_period: u32,
}

impl ElectionConfig {
    /// The times.
    ///
    /// # Errors
    /// Where two could lead at a time.
    pub fn timing(&self) -> anyhow::Result<Timing> {
        let seconds = |number: u32| Duration::from_secs(number.into());
        let (lease, renew) = (seconds(self.lease_duration), seconds(self.renew_deadline));
        let timing = Timing { lease, renew, retry: seconds(self.retry_period) };
        timing.check().context("--leader-elect-lease-duration, -renew-deadline, -retry-period")
    }
}

impl Config {
    /// Whether these settings go together, as far as nothing has to be asked for it.
    ///
    /// # Errors
    /// What does not.
    pub fn check(&self) -> anyhow::Result<()> {
        self.layout()?;
        self.election.timing()?;
        // clap does not ask for what another argument excludes.
        if self.kubeconfig.is_some() && !self.kubernetes {
            anyhow::bail!(
                "--kubeconfig is for --kubernetes, and that excludes --manifests: give one of the two"
            );
        }
        // Whoever gave the numbers of identities would have to be asked, and in Kubernetes nobody gives them yet.
        if self.kubernetes && self.spiffe_id_template.to_string().contains("{number}") {
            anyhow::bail!(
                "with --kubernetes identities have no numbers yet, so --spiffe-id-template cannot have {{number}} (as \
                 its default has): give \"spiffe://{{trust_domain}}/ns/{{namespace}}/sa/{{service_account}}\", to the \
                 agents as well"
            );
        }
        Ok(())
    }

    /// The layout of entries.
    ///
    /// # Errors
    /// Where it would give somebody more than is theirs.
    pub fn layout(&self) -> anyhow::Result<Layout> {
        let config = LayoutConfig {
            trust_domain: self.trust_domain.clone(),
            owner: self.cluster.clone(),
            pod_id: self.spiffe_id_template.clone(),
            node_parent: self.node_parent_template.clone(),
            pod_selectors: self.workload_selectors.clone(),
            node_selectors: self.node_selectors.clone(),
            agent_selectors: self.agent_selectors.clone(),
            x509_svid_ttl_seconds: self.x509_svid_ttl,
            federates_with: self.federates_with.iter().cloned().collect(),
            hint: self.hint.clone(),
        };
        Layout::new(config).context("these settings are refused")
    }

    /// Where the server is.
    ///
    /// # Errors
    /// Where nothing says it.
    pub fn target(&self) -> anyhow::Result<Target> {
        match (&self.server_socket, &self.server_address, &self.workload_socket) {
            (Some(socket), None, _) => Ok(Target::Socket(socket.clone())),
            (None, Some(address), Some(workload_socket)) => {
                Ok(Target::Network { address: address.clone(), workload_socket: workload_socket.clone() })
            }
            _ => anyhow::bail!("either --server-socket, or --server-address and --workload-socket"),
        }
    }

    /// Time between two looks at all of the server's entries.
    #[must_use]
    pub fn resync(&self) -> Duration {
        Duration::from_secs(self.resync_seconds)
    }
}

/// Reads `90s`, `15m`, `1h` or a bare number as seconds.
fn parse_seconds(text: &str) -> Result<u32, String> {
    let (digits, factor) = match text.char_indices().last() {
        Some((end, 's')) => (text.get(..end), 1),
        Some((end, 'm')) => (text.get(..end), 60),
        Some((end, 'h')) => (text.get(..end), 3600),
        _ => (Some(text), 1),
    };
    let number: Option<u32> = digits.and_then(|digits| digits.parse().ok());
    let seconds = number.and_then(|number| number.checked_mul(factor));
    seconds.ok_or_else(|| format!("{text:?} is not a duration such as 30s, 15m or 1h"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    const BASE: [&str; 9] = [
        "countersign-registrar",
        "--manifests",
        "m",
        "--status-dir",
        "s",
        "--trust-domain",
        "example.org",
        "--server-socket",
        "/s",
    ];

    fn refusal(more: &[&str]) -> Option<String> {
        let config = match Config::try_parse_from(BASE.iter().chain(more)) {
            Ok(config) => config,
            Err(error) => return Some(error.to_string()),
        };
        config.check().err().map(|error| format!("{error:#}"))
    }

    #[test]
    fn flags_are_consistent() {
        Config::command().debug_assert();
        assert_eq!(refusal(&[]), None);
        let config = Config::try_parse_from(BASE).unwrap();
        assert_eq!(config.target().unwrap(), Target::Socket("/s".into()));
        let network =
            ["x", "--manifests", "m", "--status-dir", "s", "--trust-domain", "t", "--server-address", "h:1"];
        assert!(Config::try_parse_from(network).is_err(), "no socket to get an SVID from");
        assert!(Config::try_parse_from(network.iter().chain(&["--workload-socket", "/w"])).is_ok());
        assert!(Config::try_parse_from(&BASE[..7]).is_err(), "no server");
    }

    #[test]
    fn a_cluster_is_a_directory_or_an_api_server() {
        let refusal = |flags: &[&str]| {
            let base = ["x", "--trust-domain", "example.org", "--server-socket", "/s"];
            match Config::try_parse_from(base.iter().chain(flags)) {
                Ok(config) => config.check().err().map(|error| format!("{error:#}")),
                Err(error) => Some(error.to_string()),
            }
        };
        let good = ["--kubernetes", "--spiffe-id-template", "/ns/{namespace}/sa/{service_account}"];
        assert_eq!(refusal(&good), None);
        assert_eq!(refusal(&[&good[..], &["--kubeconfig", "k"]].concat()), None);
        let cases: [(&[&str], &str); 8] = [
            (&[], "--manifests"),
            (&["--manifests", "m"], "--status-dir"),
            (&["--kubernetes"], "--spiffe-id-template cannot have {number}"),
            (&["--kubernetes", "--manifests", "m"], "cannot be used with"),
            (&["--kubeconfig", "k", "--manifests", "m", "--status-dir", "s"], "--kubernetes"),
            (&[&good[..], &["--leader-elect-renew-deadline", "15s"]].concat(), "longer than the renew"),
            (&[&good[..], &["--leader-elect-retry-period", "9s"]].concat(), "1.2 retry periods"),
            (&[&good[..], &["--leader-elect-lease-duration", "0"]].concat(), "whole seconds"),
        ];
        for (flags, expected) in cases {
            let message = refusal(flags).unwrap_or_else(|| panic!("{flags:?} is taken"));
            assert!(message.contains(expected), "{flags:?}: {message}");
        }
    }

    #[test]
    fn durations_have_units() {
        for (text, seconds) in [("0", 0), ("90", 90), ("30s", 30), ("15m", 900), ("1h", 3600)] {
            assert_eq!(parse_seconds(text), Ok(seconds));
        }
        for bad in ["", "s", "1d", "-1s", "1 h", "1ü", "99999999h"] {
            assert!(parse_seconds(bad).is_err(), "{bad:?}");
        }
    }

    /// What is wrong is refused at the start, in words that say what would be right.
    #[test]
    fn invalid_settings_are_refused_at_the_start() {
        let cases: [(&[&str], &str); 14] = [
            (&["--spiffe-id-template", "spiffe://{trust_domain}/x/{id}"], "unknown gap {id}"),
            (&["--spiffe-id-template", "spiffe://{trust_domain}/x"], "needs {number}"),
            (&["--spiffe-id-template", "identity/{number}"], "begins with spiffe://{trust_domain}/"),
            (&["--spiffe-id-template", "spiffe://{trust_domain}//{number}"], "segment is empty"),
            (&["--spiffe-id-template", "spiffe://{trust_domain}/node/{number}"], "those of nodes"),
            (&["--spiffe-id-template", "spiffe://{trust_domain}/{namespace}-{service_account}"], "between"),
            (&["--node-parent-template", "spiffe://{trust_domain}/nodes"], "every key"),
            (&["--workload-selector", "k8s:ns:{namespace}"], "{pod_uid}"),
            (&["--workload-selector", "k8s:pod-uid:{uid}"], "unknown variable {uid}: there are {pod_uid}"),
            (&["--node-selector", "k8s_psat:cluster:east"], "every SPIRE agent would be every node"),
            (&["--agent-selector", "k8s:pod-uid:{pod_uid}"], "{node} is the only variable"),
            (&["--cluster", "a.b"], "a cluster's name has"),
            (&["--x509-svid-ttl", "5s"], "out of range"),
            (&["--federates-with", "example.org"], "does not federate with itself"),
        ];
        for (flags, expected) in cases {
            let message = refusal(flags).unwrap_or_else(|| panic!("{flags:?} is taken"));
            assert!(message.contains(expected), "{flags:?}: {message}");
        }
    }
}
