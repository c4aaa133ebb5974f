//! Policies as they are understood: what every kind of document becomes.

use std::fmt;

use ipnet::IpNet;

use crate::labels::Labels;
use crate::selector::Selector;

/// Kinds of policy documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub enum Kind {
    /// `cilium.io/v2` CiliumNetworkPolicy.
    CiliumNetworkPolicy,
    /// `cilium.io/v2` CiliumClusterwideNetworkPolicy.
    CiliumClusterwideNetworkPolicy,
    /// `networking.k8s.io/v1` NetworkPolicy.
    NetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy.
    ClusterNetworkPolicy,
    /// `cilium.io/v2` CiliumCIDRGroup: no policy itself, a part that policies refer to.
    CiliumCidrGroup,
}

impl Kind {
    /// The kind as documents write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::CiliumNetworkPolicy => "CiliumNetworkPolicy",
            Self::CiliumClusterwideNetworkPolicy => "CiliumClusterwideNetworkPolicy",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
            Self::CiliumCidrGroup => "CiliumCIDRGroup",
        }
    }

    /// Whether its documents are in a namespace.
    #[must_use]
    pub fn is_namespaced(self) -> bool {
        matches!(self, Self::CiliumNetworkPolicy | Self::NetworkPolicy)
    }
}

/// What tells one policy from another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct PolicyId {
    /// The kind of document.
    pub kind: Kind,
    /// Its namespace; empty for a cluster-wide one.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind.name())?;
        if self.namespace.is_empty() {
            write!(f, "{}", self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// A policy document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What tells it from others.
    pub id: PolicyId,
    /// `metadata.uid`, or nothing.
    pub uid: String,
    /// Its rules: `spec` first, then `specs`.
    pub rules: Vec<Rule>,
    /// What a CiliumCIDRGroup holds; nothing for every other kind.
    pub group: Option<CidrGroup>,
    /// The annotation `policy.countersign.dev/mode: audit`: what it would drop is said and not dropped.
    pub audit: bool,
    /// What its author should know, though it is applied.
    pub notes: Vec<Note>,
}

/// Address ranges under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CidrGroup {
    /// `metadata.labels`, by which rules may choose it.
    pub labels: Labels,
    /// `spec.externalCIDRs`.
    pub nets: Vec<IpNet>,
}

/// A remark on a document that is applied all the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Note {
    /// Whether the document does what it says.
    pub kind: NoteKind,
    /// The field it is about.
    pub path: String,
    /// The field's line, where the document came from text.
    pub line: Option<u32>,
    /// The remark.
    pub message: String,
}

/// What a remark means for the traffic that a document speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NoteKind {
    /// It is decided as the author meant; the remark says how it was read.
    Remark,
    /// It needs a part that is not there: it is denied.
    Missing,
}

/// One rule: whom it is for, and what they may receive and send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Where it stands: `spec` or `specs[n]`.
    pub path: String,
    /// The endpoints it is for.
    pub subject: Selector,
    /// What nothing allows is denied: towards the endpoint.
    pub default_deny_ingress: bool,
    /// What nothing allows is denied: from the endpoint.
    pub default_deny_egress: bool,
    /// What is allowed and denied.
    pub clauses: Vec<Clause>,
    /// `labels`, as `source:key=value`.
    pub labels: Vec<String>,
    /// `description`.
    pub description: String,
    /// `log.value`, or nothing.
    pub log: String,
}

/// One entry of `ingress`, `ingressDeny`, `egress` or `egressDeny`, or the part of one that needs what is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clause {
    /// The direction, as the endpoint sees it.
    pub direction: Direction,
    /// What it does with what it matches.
    pub action: Action,
    /// Where it stands among all rules: 0 is the strongest. See [`crate::endpoint::tier`].
    pub priority: u32,
    /// Its position in its list.
    pub index: usize,
    /// Its line, where the document came from text.
    pub line: Option<u32>,
    /// The other side.
    pub peers: Peers,
    /// Protocols and ports.
    pub ports: Ports,
    /// `authentication.mode`, if it is there.
    pub auth: Option<AuthMode>,
}

/// Direction of a flow, as the endpoint sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Towards the endpoint.
    Ingress,
    /// From the endpoint.
    Egress,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    /// As policy keys write it.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Ingress => countersign_ebpf_common::policy::direction::INGRESS,
            Self::Egress => countersign_ebpf_common::policy::direction::EGRESS,
        }
    }
}

/// What a clause does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Lets it pass.
    Allow,
    /// Drops it, whatever allows it.
    Deny,
    /// Leaves it to the next tier.
    Pass,
    /// Would let a part of it pass, by what is not built yet: drops it where nothing else of its tier allows it.
    Withhold,
}

/// The other side of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peers {
    /// Everybody, the world included.
    Any,
    /// Whom one of these chooses; nobody, if there are none.
    Of(Vec<Selector>),
}

/// Protocols and ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ports {
    /// Every protocol.
    All,
    /// One of these.
    Of(Vec<PortMatch>),
}

/// A protocol and some of its ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortMatch {
    /// Every port of the protocol.
    Protocol(u8),
    /// The ports of the protocol (for ICMP the types) from the first to the last, both included.
    Range(u8, u16, u16),
    /// The port that the receiving pod's containers give this name, for the protocol.
    Named(u8, String),
}

impl fmt::Display for PortMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protocol(protocol) => write!(f, "{}", protocol_name(*protocol)),
            Self::Range(protocol, first, last) if first == last => {
                write!(f, "{}/{first}", protocol_name(*protocol))
            }
            Self::Range(protocol, first, last) => write!(f, "{}/{first}-{last}", protocol_name(*protocol)),
            Self::Named(protocol, name) => write!(f, "{}/{name}", protocol_name(*protocol)),
        }
    }
}

/// The protocol's name, or its number.
#[must_use]
pub fn protocol_name(protocol: u8) -> String {
    let name = match protocol {
        1 => "ICMP",
        6 => "TCP",
        17 => "UDP",
        58 => "ICMPv6",
        132 => "SCTP",
        number => return number.to_string(),
    };
    name.to_owned()
}

/// `authentication.mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AuthMode {
    /// No authentication, also where a broader rule asks for it.
    Disabled,
    /// Mutual authentication before the first packet.
    Required,
    /// Authentication that never succeeds.
    AlwaysFail,
}

impl AuthMode {
    /// As policy entries write it; the stricter, the larger.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Disabled => countersign_ebpf_common::policy::auth_type::NONE,
            Self::Required => countersign_ebpf_common::policy::auth_type::SPIRE,
            Self::AlwaysFail => countersign_ebpf_common::policy::auth_type::ALWAYS_FAIL,
        }
    }
}
