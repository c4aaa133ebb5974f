//! `countersign policy get`.

use serde::{Deserialize, Serialize};

/// What is in force on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyView {
    /// Counts up with every change.
    pub revision: u64,
    /// Documents known, refused ones included.
    pub documents: Vec<PolicyDocument>,
    /// Entries of the endpoints of this node.
    pub entries: Vec<PolicyEntry>,
    /// Entries left out of `entries` to keep the answer short.
    pub entries_omitted: u64,
}

/// One policy document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyDocument {
    /// `CiliumNetworkPolicy`, …
    pub kind: String,
    /// Namespace; empty for cluster-wide ones.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Rules in it.
    pub rules: u64,
    /// Endpoints of this node that it selects.
    pub endpoints: u64,
    /// Whether a rule of it asks for authentication.
    pub auth_required: bool,
    /// `enforce`, or `audit`: it drops nothing.
    pub mode: String,
    /// Endpoints of this node where it is not in force: there is no room for it, or for another that comes with it.
    pub not_applied: u64,
    /// Why it was refused; none where it is in force.
    pub refused: Option<String>,
    /// What its author should know, though it is in force.
    pub conditions: Vec<PolicyCondition>,
}

/// A remark on a policy that is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyCondition {
    /// The field, as in `spec.ingress[0].toPorts[0].rules`; empty for the whole.
    pub path: String,
    /// Its line; 0 where it is not known.
    pub line: u64,
    /// What is to be known.
    pub message: String,
    /// Whether something that the field speaks of is denied because a part is missing.
    pub denied: bool,
}

/// `countersign policy explain`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyExplanation {
    /// The sender, as it was asked for.
    pub from: String,
    /// The receiver, as it was asked for.
    pub to: String,
    /// The protocol, as it was asked for.
    pub protocol: String,
    /// Destination port, or ICMP type.
    pub port: u16,
    /// What the sender's policies say; none where it has none of its own.
    pub egress: Option<ExplainSide>,
    /// What the receiver's policies say; none where it has none of its own.
    pub ingress: Option<ExplainSide>,
    /// `allowed` or `denied`.
    pub verdict: String,
    /// `none` or `required`.
    pub auth: String,
}

/// What one side of a flow says of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExplainSide {
    /// `ingress` or `egress`.
    pub direction: String,
    /// Whose policy this is.
    pub endpoint: String,
    /// Its identity.
    pub identity: u32,
    /// The other side.
    pub peer: String,
    /// Its identity.
    pub peer_identity: u32,
    /// Whether what no rule allows is denied in this direction.
    pub enforced: bool,
    /// Whether the flow passes this side.
    pub allowed: bool,
    /// `none`, `required` or `test-always-fail`.
    pub auth: String,
    /// One sentence.
    pub reason: String,
    /// The rule that decided; none where it was the default.
    pub rule: Option<ExplainRule>,
    /// What policies in audit mode would do, if that is different.
    pub audit: Option<String>,
    /// Every rule, and what it says or why it does not.
    pub rules: Vec<ExplainAccount>,
}

/// A rule of a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExplainRule {
    /// Kind of the document.
    pub kind: String,
    /// Its namespace; empty for a cluster-wide one.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `spec` or `specs[n]`.
    pub rule: String,
    /// `ingress` or `egress`.
    pub direction: String,
    /// `allow`, `deny`, `pass` or `withhold`.
    pub action: String,
    /// Position in its list.
    pub index: usize,
    /// Its line.
    pub line: Option<u32>,
}

/// What a rule has to do with a flow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExplainAccount {
    /// `kind namespace/name`.
    pub policy: String,
    /// The rule, as in `spec.ingress[0]`.
    pub rule: String,
    /// Its line.
    pub line: Option<u32>,
    /// `match`, `not-this-flow`, `other-direction` or `not-this-endpoint`.
    pub fit: String,
    /// What it does, or why not.
    pub why: String,
}

/// One entry of one endpoint's policy map.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyEntry {
    /// Slot of the endpoint.
    pub endpoint: u16,
    /// `namespace/pod` of the endpoint.
    pub pod: String,
    /// `ingress` or `egress`.
    pub direction: String,
    /// Identity of the peer; 0 is any.
    pub identity: u32,
    /// `TCP`, …, or `ANY`.
    pub protocol: String,
    /// First port; 0 with `port_end` 0 is any.
    pub port: u16,
    /// Last port.
    pub port_end: u16,
    /// `allow` or `deny`.
    pub verdict: String,
    /// `none`, `required` or `test-always-fail`.
    pub auth: String,
    /// Higher wins.
    pub precedence: u32,
    /// Policies the entry comes from, `kind namespace/name`.
    pub rules: Vec<String>,
}
