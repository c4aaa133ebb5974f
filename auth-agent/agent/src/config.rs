//! The agent's configuration: one flat structure, each field a flag and an environment variable.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use countersign_ebpf_common::limits::POLICY_LPM_ENTRIES;

/// Countersign's node agent: proves workload identities to peers and enforces policy in eBPF.
///
/// It needs root (CAP_BPF, CAP_NET_ADMIN), a mounted bpffs, and /dev/net/tun. Everything it decides is kept in
/// pinned maps and links, so traffic goes on as decided while it restarts.
#[derive(Clone, Debug, Parser)]
#[command(name = "countersign-agent", version)]
pub struct Config {
    /// Name of this node, as in the cluster's Node objects.
    #[arg(long, env = "COUNTERSIGN_NODE_NAME")]
    pub node_name: String,

    /// Directory of the control socket and of state that outlives a restart.
    #[arg(long, env = "COUNTERSIGN_RUN_DIR", default_value = "/run/countersign")]
    pub run_dir: PathBuf,

    /// Directory on a bpffs where maps and links are pinned.
    #[arg(long, env = "COUNTERSIGN_PIN_DIR", default_value = "/sys/fs/bpf/countersign")]
    pub pin_dir: PathBuf,

    /// Directory of Kubernetes manifests to follow (Pod, Namespace, Node, policies).
    #[arg(long, env = "COUNTERSIGN_MANIFESTS")]
    pub manifests: PathBuf,

    /// Directory of what the cluster knows of itself: pod addresses, node objects, identities.
    #[arg(long, env = "COUNTERSIGN_STATUS_DIR")]
    pub status_dir: PathBuf,

    /// The interface that leads to the other nodes.
    #[arg(long, env = "COUNTERSIGN_UPLINK", default_value = "eth0")]
    pub uplink: String,

    /// SPIFFE trust domain of this cluster's workloads.
    #[arg(long, env = "COUNTERSIGN_TRUST_DOMAIN", default_value = "countersign.lab")]
    pub trust_domain: String,

    /// SPIFFE ID of an identity; {trust_domain}, {number}, {namespace} and {service_account} are replaced.
    /// Without {number} it proves namespace and service account, not the labels that make the identity.
    #[arg(
        long,
        env = "COUNTERSIGN_SPIFFE_ID_TEMPLATE",
        default_value = "spiffe://{trust_domain}/identity/{number}"
    )]
    pub spiffe_id_template: String,

    /// Workload API socket of this node's SPIRE agent, which gives this agent the node's SVID.
    #[arg(
        long,
        env = "COUNTERSIGN_SPIRE_WORKLOAD_SOCKET",
        value_name = "SOCKET",
        requires = "spire_pods",
        required_unless_present = "embedded_ca"
    )]
    pub spire_workload_socket: Option<PathBuf>,

    /// Admin socket of this node's SPIRE agent, whose Delegated Identity API gives the SVIDs of its pods; this
    /// agent's SPIFFE ID has to be in its `authorized_delegates`.
    #[arg(
        long,
        env = "COUNTERSIGN_SPIRE_ADMIN_SOCKET",
        value_name = "SOCKET",
        group = "spire_pods",
        requires = "spire_workload_socket"
    )]
    pub spire_admin_socket: Option<PathBuf>,

    /// Instead of the admin socket: that of its Broker API (experimental in SPIRE 1.15), which attests a process of
    /// the pod itself; this agent's SPIFFE ID has to be among its `brokers`.
    #[arg(
        long,
        env = "COUNTERSIGN_SPIRE_BROKER_SOCKET",
        value_name = "SOCKET",
        group = "spire_pods",
        requires = "spire_workload_socket"
    )]
    pub spire_broker_socket: Option<PathBuf>,

    /// A selector by which SPIRE knows a pod, `type:value`; {pod_uid}, {pod}, {namespace}, {service_account},
    /// {node} and {supplemental_group} are replaced. May be given several times.
    #[arg(
        long = "workload-selector",
        env = "COUNTERSIGN_WORKLOAD_SELECTORS",
        value_name = "SELECTOR",
        value_delimiter = ',',
        default_value = "k8s:pod-uid:{pod_uid}"
    )]
    pub workload_selectors: Vec<String>,

    /// File in which countersign-registrar says what it does, shown by `countersign spire status` where it is there.
    #[arg(long, env = "COUNTERSIGN_REGISTRAR_STATUS", default_value = "/run/countersign/registrar.json")]
    pub registrar_status: PathBuf,

    /// danger: directory of a development CA that stands in for SPIRE; every node that reads it can make
    /// every identity.
    #[arg(long, env = "COUNTERSIGN_EMBEDDED_CA", conflicts_with = "spire_workload_socket")]
    pub embedded_ca: Option<PathBuf>,

    /// Lifetime of the SVIDs that the embedded CA issues, such as 1h, 90s.
    #[arg(long, env = "COUNTERSIGN_SVID_TTL", default_value = "1h", value_parser = parse_duration)]
    pub svid_ttl: Duration,

    /// Longest life of a proof, whatever the certificates say.
    #[arg(long, env = "COUNTERSIGN_AUTH_MAX_AGE", default_value = "1h", value_parser = parse_duration)]
    pub auth_max_age: Duration,

    /// Address to listen on for handshakes; the node's first InternalIP by default.
    #[arg(long, env = "COUNTERSIGN_HANDSHAKE_LISTEN")]
    pub handshake_listen: Option<SocketAddr>,

    /// TCP port of the handshake, here and at the other nodes.
    #[arg(long, env = "COUNTERSIGN_HANDSHAKE_PORT", default_value_t = 4250)]
    pub handshake_port: u16,

    /// Whether packets that wait for a proof are held (on) or dropped (off).
    #[arg(long, env = "COUNTERSIGN_PARKING", value_enum, default_value_t = Switch::On)]
    pub parking: Switch,

    /// Whether the key exchange must be post-quantum (X25519MLKEM768): preferred, or required.
    #[arg(long, env = "COUNTERSIGN_KEY_EXCHANGE", value_enum, default_value_t = KeyExchange::Prefer)]
    pub post_quantum: KeyExchange,

    /// What moves encrypted packets. auto: what is there already, else the kernel's WireGuard if it has one, else
    /// countersign-wg; kernel: the kernel's, or this agent does not start; userspace: countersign-wg, which is to be
    /// started beside this agent. Tunnels that the other one has left are deleted first, and nothing passes until
    /// there are new ones. Nodes of both kinds understand each other.
    #[arg(long, env = "COUNTERSIGN_WIREGUARD_BACKEND", value_enum, default_value_t = WireguardBackend::Auto)]
    pub wireguard_backend: WireguardBackend,

    /// WireGuard device of this node.
    #[arg(long, env = "COUNTERSIGN_WIREGUARD_DEVICE", default_value = "cs_wg0")]
    pub wireguard_device: String,

    /// UDP port of WireGuard, here and at the other nodes. The three ports after it are used as well: keys change
    /// in devices beside the first one.
    #[arg(long, env = "COUNTERSIGN_WIREGUARD_PORT", default_value_t = 51871)]
    pub wireguard_port: u16,

    /// How old this node's WireGuard key gets before it is changed, such as 24h; off: only by `countersign encrypt
    /// rotate-key`.
    #[arg(long, env = "COUNTERSIGN_WIREGUARD_ROTATE_EVERY", value_name = "AGE", default_value = "off", value_parser = parse_every)]
    pub wireguard_rotate_every: Every,

    /// How long the old key lives on beside the next one if a node does not come along. Nodes that have not by then
    /// are cut off until they do.
    #[arg(long, env = "COUNTERSIGN_WIREGUARD_KEY_OVERLAP", value_name = "SPAN", default_value = "10m", value_parser = parse_duration)]
    pub wireguard_key_overlap: Duration,

    /// Longest life of a preshared key between two nodes; they agree on another after half of it.
    #[arg(long, env = "COUNTERSIGN_PRESHARED_KEY_LIFE", value_name = "SPAN", default_value = "1h", value_parser = parse_preshared_life)]
    pub preshared_key_life: Duration,

    /// Program that makes WireGuard devices in userspace; countersign-wg beside this program by default.
    #[arg(long, env = "COUNTERSIGN_WIREGUARD_PROGRAM", value_name = "PATH")]
    pub wireguard_program: Option<PathBuf>,

    /// When endpoints deny what no policy allows: in the directions in which a policy chooses them (default),
    /// always, or (danger) never: then no policy denies anything.
    #[arg(long, env = "COUNTERSIGN_ENABLE_POLICY", value_enum, default_value_t = EnablePolicy::Default)]
    pub enable_policy: EnablePolicy,

    /// danger: on lets everything through that policies would drop, and says so in the flows (verdict AUDIT). One
    /// pod, policy or namespace is audited by its annotation `policy.countersign.dev/mode: audit`.
    #[arg(long, env = "COUNTERSIGN_POLICY_AUDIT_MODE", value_enum, default_value_t = Switch::Off)]
    pub policy_audit_mode: Switch,

    /// Policy entries with wildcards or port ranges that all endpoints of this node have room for; there is twice
    /// as much for exact ones. Maps that are pinned keep their size.
    #[arg(
        long,
        env = "COUNTERSIGN_BPF_POLICY_MAP_MAX",
        default_value_t = POLICY_LPM_ENTRIES,
        value_parser = clap::value_parser!(u32).range(256..=16_777_216)
    )]
    pub bpf_policy_map_max: u32,

    /// Log filter, as tracing's EnvFilter: info, countersign_agent=debug.
    #[arg(long, env = "COUNTERSIGN_LOG", default_value = "info")]
    pub log: String,
}

/// How often, or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Every(pub Option<Duration>);

/// What moves encrypted packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WireguardBackend {
    /// What is there already, else the kernel's if it has one, else userspace.
    Auto,
    /// The kernel's WireGuard, or none.
    Kernel,
    /// countersign-wg, a process of its own.
    Userspace,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

/// When endpoints deny what no policy allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EnablePolicy {
    /// In the directions in which a policy chooses them.
    Default,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How the post-quantum key exchange is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KeyExchange {
    /// X25519MLKEM768 first, X25519 for peers without it.
    Prefer,
    /// Nothing but X25519MLKEM768.
    Require,
}

fn parse_every(text: &str) -> Result<Every, String> {
    if text == "off" { Ok(Every(None)) } else { parse_duration(text).map(|span| Every(Some(span))) }
}

fn parse_preshared_life(text: &str) -> Result<Duration, String> {
    let longest = Duration::from_nanos(countersign_wg_proto::limits::PRESHARED_KEY_LIFE);
    let life = parse_duration(text)?;
    if life > longest { Err(format!("at most {} s", longest.as_secs())) } else { Ok(life) }
}

/// Reads `90s`, `15m`, `1h` or a bare number of seconds.
///
/// # Errors
/// When the text is none of these, or zero.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let (digits, factor) = match text.strip_suffix(['s', 'm', 'h']) {
        Some(digits) if text.ends_with('s') => (digits, 1),
        Some(digits) if text.ends_with('m') => (digits, 60),
        Some(digits) => (digits, 3600),
        None => (text, 1),
    };
    let number: u64 =
        digits.parse().map_err(|_| format!("{text:?} is not a duration such as 30s, 15m or 1h"))?;
    match number.checked_mul(factor) {
        Some(0) | None => Err(format!("{text:?} is out of range")),
        Some(seconds) => Ok(Duration::from_secs(seconds)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("15m"), Ok(Duration::from_secs(900)));
        assert_eq!(parse_duration("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(parse_duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_every("off"), Ok(Every(None)));
        assert_eq!(parse_every("24h"), Ok(Every(Some(Duration::from_secs(86_400)))));
        assert!(parse_every("never").is_err() && parse_preshared_life("61m").is_err());
        for bad in ["", "s", "1d", "-1s", "0", "99999999999999999999h", "1 h"] {
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
    }
}
