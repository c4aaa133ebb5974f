//! `countersign observe`.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// One line of the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::large_enum_variant)] // nearly all of them are flows, and a box each would be the dearer
pub enum FlowEvent {
    /// A flow.
    Flow(Flow),
    /// Flows that cannot be shown.
    Lost {
        /// Where: `ring_buffer` (kernel to agent), `subscriber` (this client reads too slowly).
        source: String,
        /// How many.
        count: u64,
    },
}

/// What happened to a packet of a flow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Flow {
    /// When, RFC 3339 with nanoseconds, UTC.
    pub time: String,
    /// Node that saw it.
    pub node: String,
    /// `INGRESS`, `EGRESS` or empty.
    pub direction: String,
    /// `FORWARDED`, `DROPPED`, `REDIRECTED` (parked), …
    pub verdict: String,
    /// Number of the drop reason, in audit mode of what it would have been; 0 where it was not dropped.
    pub drop_reason: u8,
    /// Its name (`AUTH_REQUIRED`).
    pub drop_reason_desc: String,
    /// Name of our own, more exact reason (`AUTH_BACKOFF`), where there is one.
    pub drop_detail: String,
    /// The most exact reason in words; empty where it was not dropped.
    pub drop_text: String,
    /// `SPIRE` where the verdict depends on a proof, else empty.
    pub auth_type: String,
    /// Who sent it.
    pub source: FlowEndpoint,
    /// Whom it was for.
    pub destination: FlowEndpoint,
    /// The transport header.
    pub l4: FlowL4,
    /// Policies that decided.
    pub policies: Vec<FlowPolicy>,
    /// What the rule that decided wants to be logged (`log.value`).
    pub policy_log: String,
    /// `drop`, `policy-verdict`, `trace`, `auth-required`, …
    pub event_type: String,
    /// For people (`TCP Flags: SYN`).
    pub summary: String,
    /// Packets of the same flow and verdict that were not reported since the last event about them.
    pub suppressed: u64,
    /// Packets of other flows that were not reported meanwhile.
    pub suppressed_other: u64,
    /// Whether the packet is a reply.
    pub is_reply: Option<bool>,
}

/// One side of a flow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FlowEndpoint {
    /// Security identity.
    pub identity: u32,
    /// Namespace of its pod; empty for none.
    pub namespace: String,
    /// Name of its pod.
    pub pod: String,
    /// Identity labels.
    pub labels: Vec<String>,
    /// Address.
    pub ip: Option<IpAddr>,
}

/// The transport header of a flow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FlowL4 {
    /// `TCP`, `UDP`, `SCTP`, `ICMPv4`, `ICMPv6` or a number.
    pub protocol: String,
    /// Source port.
    pub source_port: Option<u16>,
    /// Destination port.
    pub destination_port: Option<u16>,
    /// Names of the TCP flags set.
    pub tcp_flags: Vec<String>,
    /// ICMP type.
    pub icmp_type: Option<u8>,
    /// ICMP code.
    pub icmp_code: Option<u8>,
}

/// A policy that decided.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FlowPolicy {
    /// `CiliumNetworkPolicy`, …
    pub kind: String,
    /// Namespace; empty for cluster-wide ones.
    pub namespace: String,
    /// Name.
    pub name: String,
}
