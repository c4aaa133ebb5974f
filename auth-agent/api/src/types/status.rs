//! `countersign status`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::auth::AuthState;

/// How the agent of one node is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Name of the node.
    pub node: String,
    /// Version of the agent.
    pub version: String,
    /// Seconds since the agent started.
    pub uptime_seconds: u64,
    /// Whether everything is as it should be.
    pub health: Health,
    /// Where SVIDs come from.
    pub identity_source: IdentitySource,
    /// Where pods, nodes and policies come from.
    pub cluster: ClusterSource,
    /// What is loaded in the kernel.
    pub datapath: Datapath,
    /// Packets held back for a proof.
    pub parking: Parking,
    /// Pairs and handshakes.
    pub authentication: Authentication,
    /// Traffic between nodes.
    pub encryption: EncryptSummary,
    /// Endpoints by state (`ready`, `regenerating`, `waiting-for-identity`, …).
    pub endpoints: BTreeMap<String, u64>,
    /// Policy documents.
    pub policies: PolicyCounts,
    /// What of policy is enforced, and what is only said.
    pub policy_mode: PolicyMode,
    /// Flow events that were lost, by where.
    pub events_lost: BTreeMap<String, u64>,
}

/// Whether everything is as it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// In one word.
    pub state: HealthState,
    /// Why not, the worst first; empty when `ok`.
    pub reasons: Vec<String>,
}

/// In one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthState {
    /// Everything works.
    Ok,
    /// Something does not; the reasons say what.
    #[default]
    Degraded,
}

/// Whether a source answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceState {
    /// It does.
    Ok,
    /// It does not.
    #[default]
    Failing,
}

/// Where SVIDs come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IdentitySource {
    /// `embedded CA`, `SPIRE Delegated Identity`, …
    pub kind: String,
    /// The trust domain's name, without `spiffe://`.
    pub trust_domain: String,
    /// Whether it answers.
    pub state: SourceState,
    /// Since when it is in this state.
    pub since: u64,
    /// SVIDs held now.
    pub svids_held: u64,
    /// When the first of them expires.
    pub next_expiry: Option<u64>,
    /// Its last failure, also after it recovered.
    pub last_error: Option<LastError>,
}

/// A failure remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LastError {
    /// For programs: `timeout`, `refused`, `untrusted`, …
    pub kind: String,
    /// For people.
    pub message: String,
    /// How long ago.
    pub ago_seconds: u64,
}

/// Where pods, nodes and policies come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterSource {
    /// `directory` or `kube-apiserver`.
    pub kind: String,
    /// The directory, or the server's address.
    pub location: String,
    /// Whether everything there has been read once.
    pub synced: bool,
    /// Objects known, by kind.
    pub objects: BTreeMap<String, u64>,
    /// Documents that were refused, and why.
    pub problems: Vec<Problem>,
}

/// A document that was refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Problem {
    /// File, or object reference.
    pub file: String,
    /// Line within the file, from 1; 0 is unknown.
    pub line: u64,
    /// Path of the field (`spec.ingress[0].toPorts`); may be empty.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

/// What is loaded in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Datapath {
    /// `tcx` or `clsact`.
    pub attach_mode: String,
    /// Programs attached.
    pub programs: u64,
    /// Maps and how full they are.
    pub maps: Vec<MapUse>,
}

/// How full a map is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MapUse {
    /// Its name.
    pub name: String,
    /// Entries in it, where that is known.
    pub entries: Option<u64>,
    /// Entries it can hold.
    pub max_entries: u64,
}

/// Packets held back for a proof.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Parking {
    /// Whether first packets are parked rather than dropped.
    pub enabled: bool,
    /// Packets parked now.
    pub parked_packets: u64,
    /// Bytes of them.
    pub parked_bytes: u64,
    /// Packets released since the start.
    pub released: u64,
    /// Packets discarded since the start, by reason.
    pub discarded: BTreeMap<String, u64>,
}

/// Pairs and handshakes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Authentication {
    /// Pairs by state.
    pub pairs: BTreeMap<AuthState, u64>,
    /// Handshakes that succeeded since the start.
    pub handshakes_ok: u64,
    /// Handshakes that failed since the start, by kind.
    pub handshakes_failed: BTreeMap<String, u64>,
    /// Handshakes under way.
    pub in_flight: u64,
    /// Median duration of a successful handshake, in milliseconds.
    pub latency_p50_ms: Option<f64>,
    /// Its 99th percentile.
    pub latency_p99_ms: Option<f64>,
}

/// Traffic between nodes, in short.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EncryptSummary {
    /// `Wireguard` or `Disabled`.
    pub mode: String,
    /// Network device.
    pub device: String,
    /// UDP port it listens on.
    pub listen_port: u16,
    /// This node's public key, base64.
    pub public_key: String,
    /// Peers configured.
    pub peers: u64,
    /// Plaintext packets of encrypted peers that were dropped.
    pub leaks_prevented: u64,
}

/// Policy documents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyCounts {
    /// In force.
    pub accepted: u64,
    /// Refused.
    pub refused: u64,
}

/// What of policy is enforced, and what is only said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyMode {
    /// When endpoints deny what nothing allows: `default`, `always` or `never`.
    pub enforcement: String,
    /// Every endpoint of this node is in audit mode: policies drop nothing here.
    pub audit_all: bool,
    /// Endpoints of this node in audit mode, `namespace/pod`.
    pub audited_endpoints: Vec<String>,
    /// Namespaces whose policies are in audit mode.
    pub audited_namespaces: Vec<String>,
    /// Policies in audit mode, by their own annotation or their namespace's.
    pub audited_policies: Vec<String>,
}
