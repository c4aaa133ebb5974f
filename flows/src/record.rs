//! One flow record. Its JSON is what the control socket carries.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::time::rfc3339;

/// One line of a reader's stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FlowEvent {
    /// A flow.
    Flow(Arc<Flow>),
    /// Flows that cannot be shown.
    Lost {
        /// Where they were lost.
        source: LossSource,
        /// How many.
        count: u64,
    },
}

/// Where flows are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LossSource {
    /// Between the kernel and the agent.
    RingBuffer,
    /// On the way to this reader, which reads too slowly.
    Subscriber,
}

impl LossSource {
    /// All of them, in order.
    pub const ALL: [Self; 2] = [Self::RingBuffer, Self::Subscriber];

    /// Its name, as in JSON and in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RingBuffer => "ring_buffer",
            Self::Subscriber => "subscriber",
        }
    }
}

/// What happened to a packet of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Flow {
    /// When, in nanoseconds since the Unix epoch.
    #[serde(serialize_with = "as_rfc3339")]
    pub time: u64,
    /// Node that saw it.
    pub node: Arc<str>,
    /// Seen from the endpoint that decided.
    pub direction: Direction,
    /// What was decided.
    pub verdict: Verdict,
    /// Number of the drop reason, in audit mode of what it would have been; 0 where it was not dropped.
    pub drop_reason: u8,
    /// Its name (`AUTH_REQUIRED`); empty where it was not dropped.
    pub drop_reason_desc: &'static str,
    /// Name of our own, more exact reason (`AUTH_BACKOFF`), where there is one.
    pub drop_detail: &'static str,
    /// The most exact reason in words; empty where it was not dropped.
    pub drop_text: &'static str,
    /// `SPIRE` where the verdict depends on a proof, else empty.
    pub auth_type: &'static str,
    /// Who sent it.
    pub source: Endpoint,
    /// Whom it was for.
    pub destination: Endpoint,
    /// The transport header.
    pub l4: L4,
    /// Policies that decided.
    pub policies: Arc<[PolicyName]>,
    /// What the rule that decided wants to be logged (`log.value`).
    pub policy_log: Arc<str>,
    /// `drop`, `policy-verdict`, `trace`, `auth-required`, …
    pub event_type: &'static str,
    /// For people (`TCP Flags: SYN`).
    pub summary: String,
    /// Packets of the same flow and verdict that were not reported since the last event about them.
    pub suppressed: u64,
    /// Packets of other flows that were not reported meanwhile.
    pub suppressed_other: u64,
    /// Whether the packet is a reply, where that is known.
    pub is_reply: Option<bool>,
}

/// Direction relative to the endpoint that decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum Direction {
    /// Towards it.
    #[serde(rename = "INGRESS")]
    Ingress,
    /// From it.
    #[serde(rename = "EGRESS")]
    Egress,
    /// No endpoint decided.
    #[serde(rename = "")]
    Unknown,
}

/// What was decided; the names of Hubble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// The packet went on.
    Forwarded,
    /// The packet went nowhere.
    Dropped,
    /// The packet waits in the parking for a proof.
    Redirected,
    /// The packet would have been dropped.
    Audit,
    /// The packet was seen, nothing was decided.
    Traced,
    /// Something went wrong on the way to a verdict.
    Error,
}

impl Verdict {
    /// Its name, as in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Forwarded => "FORWARDED",
            Self::Dropped => "DROPPED",
            Self::Redirected => "REDIRECTED",
            Self::Audit => "AUDIT",
            Self::Traced => "TRACED",
            Self::Error => "ERROR",
        }
    }

    /// The verdict of that name, in any case.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        const ALL: [Verdict; 6] = [
            Verdict::Forwarded,
            Verdict::Dropped,
            Verdict::Redirected,
            Verdict::Audit,
            Verdict::Traced,
            Verdict::Error,
        ];
        ALL.into_iter().find(|verdict| verdict.as_str().eq_ignore_ascii_case(name))
    }
}

/// One side of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    /// Security identity.
    pub identity: u32,
    /// Whose address it is.
    #[serde(flatten)]
    pub workload: Arc<Workload>,
    /// The address.
    pub ip: Option<IpAddr>,
}

/// What is behind an address. Shared between all records that name it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Workload {
    /// Namespace of its pod; empty for none.
    pub namespace: String,
    /// Name of its pod.
    pub pod: String,
    /// Identity labels.
    pub labels: Vec<String>,
}

/// The transport header.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct L4 {
    /// What follows the IP header; none for what is not IP.
    #[serde(serialize_with = "as_name")]
    pub protocol: Option<Protocol>,
    /// Source port.
    pub source_port: Option<u16>,
    /// Destination port.
    pub destination_port: Option<u16>,
    /// Names of the TCP flags set.
    pub tcp_flags: Vec<&'static str>,
    /// ICMP type.
    pub icmp_type: Option<u8>,
    /// ICMP code.
    pub icmp_code: Option<u8>,
}

/// An IP protocol number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP.
    pub const ICMPV4: Self = Self(1);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// ICMPv6.
    pub const ICMPV6: Self = Self(58);
    /// SCTP.
    pub const SCTP: Self = Self(132);
    const NAMED: [(Self, &'static str); 5] = [
        (Self::TCP, "TCP"),
        (Self::UDP, "UDP"),
        (Self::SCTP, "SCTP"),
        (Self::ICMPV4, "ICMPv4"),
        (Self::ICMPV6, "ICMPv6"),
    ];

    /// The protocol of that name (any case) or number.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let named = Self::NAMED.iter().find(|(_, name)| name.eq_ignore_ascii_case(text));
        named.map(|&(protocol, _)| protocol).or_else(|| text.parse().ok().map(Self))
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMED.iter().find(|(protocol, _)| protocol == self) {
            Some((_, name)) => f.pad(name),
            None => self.0.fmt(f),
        }
    }
}

/// A policy that decided.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct PolicyName {
    /// `CiliumNetworkPolicy`, …
    pub kind: String,
    /// Namespace; empty for cluster-wide ones.
    pub namespace: String,
    /// Name.
    pub name: String,
}

// serde hands over a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn as_rfc3339<S: Serializer>(unix_ns: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&rfc3339(*unix_ns))
}

// serde hands over a reference.
#[allow(clippy::ref_option)]
fn as_name<S: Serializer>(protocol: &Option<Protocol>, serializer: S) -> Result<S::Ok, S::Error> {
    match protocol {
        Some(protocol) => serializer.collect_str(protocol),
        None => serializer.serialize_str(""),
    }
}
