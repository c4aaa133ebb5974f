//! Verdicts without a cluster: manifests and flows in, what the datapath would decide out.

use std::collections::BTreeMap;
use std::net::IpAddr;

use countersign_ebpf_common::ladder::Decision;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::documents::{self, Settings};
use crate::endpoint::EndpointPolicy;
use crate::explain;
use crate::fields::DocumentError;
use crate::identity::{FIRST_CIDR, candidates, cidr_labels, reserved, security_labels};
use crate::labels::Labels;
use crate::model::Direction;
use crate::objects::{Namespace, Node, Pod};
use crate::repository::{NamedPorts, PodAddresses, Repository, RuleOrigin};
use crate::yaml::Document;

/// One flow to decide.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Flow {
    /// `namespace/pod`, or an address.
    pub from: String,
    /// `namespace/pod`, or an address.
    pub to: String,
    /// `TCP`, `UDP`, `SCTP`, `ICMP`, `ICMPv6` or a protocol number.
    #[serde(default = "tcp")]
    pub protocol: String,
    /// Destination port; the type for ICMP.
    #[serde(default)]
    pub port: u16,
}

fn tcp() -> String {
    "TCP".to_owned()
}

/// What was decided of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// What the sender's policies say.
    pub egress: Outcome,
    /// What the receiver's policies say.
    pub ingress: Outcome,
    /// Both together.
    pub verdict: Outcome,
    /// Whether the two must authenticate first.
    pub auth: Auth,
    /// The rules that decided, egress first; none where no rule did.
    pub rules: Vec<RuleOrigin>,
    /// What policies in audit mode would do, egress first, where that is different.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub audit: Vec<String>,
}

/// Why a flow passes or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The sender, as it was asked for.
    pub from: String,
    /// The receiver, as it was asked for.
    pub to: String,
    /// The protocol, as it was asked for.
    pub protocol: String,
    /// Destination port; the type for ICMP.
    pub port: u16,
    /// What the sender's policies say; nothing where it has none of its own.
    pub egress: Option<explain::Side>,
    /// What the receiver's policies say; nothing where it has none of its own.
    pub ingress: Option<explain::Side>,
    /// Both together.
    pub verdict: Outcome,
    /// Whether the two must authenticate first.
    pub auth: Auth,
}

/// Whether a flow passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It does, once authenticated where that is asked for.
    Allowed,
    /// It is dropped.
    Denied,
}

/// Whether authentication is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Auth {
    /// It is not.
    None,
    /// It is.
    Required,
}

/// Why a flow cannot be decided.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlowError {
    /// The line is not a flow.
    #[error("not a flow: {0}")]
    Syntax(String),
    /// No manifest speaks of the pod.
    #[error("{0:?} is neither an address nor a pod of the manifests")]
    Unknown(String),
    /// The protocol has no number.
    #[error("{0:?} is not a protocol")]
    Protocol(String),
}

/// The manifests, document by document.
#[derive(Clone, Debug, Default)]
pub struct Manifests {
    settings: Settings,
    pods: Vec<Pod>,
    namespaces: BTreeMap<String, Namespace>,
    nodes: Vec<Node>,
    policies: Vec<crate::Policy>,
}

impl Manifests {
    /// No manifests, for a cluster with these settings.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, ..Self::default() }
    }

    /// The policies that were added.
    #[must_use]
    pub fn policies(&self) -> &[crate::Policy] {
        &self.policies
    }

    /// The pods that were added.
    #[must_use]
    pub fn pods(&self) -> &[Pod] {
        &self.pods
    }

    /// Adds a document; what is no pod, namespace, node or policy has no bearing and is left out.
    ///
    /// # Errors
    /// The first field of the document that is not what it must be; nothing of it is added then.
    pub fn add(&mut self, document: &Document) -> Result<(), DocumentError> {
        if documents::kind(document).is_some() {
            self.policies.push(documents::parse(document, &self.settings)?);
            return Ok(());
        }
        match (document.api_version(), document.kind()) {
            ("v1", "Pod") => self.pods.push(Pod::from_document(document)?),
            ("v1", "Node") => self.nodes.push(Node::from_document(document)?),
            ("v1", "Namespace") => {
                let namespace = Namespace::from_document(document)?;
                self.namespaces.insert(namespace.name.clone(), namespace);
            }
            _ => {}
        }
        Ok(())
    }
}

/// A cluster as manifests describe it.
#[derive(Debug)]
pub struct World {
    repository: Repository,
    pods: BTreeMap<String, Place>,
    addresses: BTreeMap<IpAddr, String>,
    nodes: BTreeMap<IpAddr, String>,
    ranges: BTreeMap<IpNet, u32>,
    resolved: BTreeMap<u32, EndpointPolicy>,
}

/// Where a side of a flow is.
#[derive(Clone, Debug)]
enum Place {
    /// A pod with an identity of its own, on a node.
    Pod(u32, String),
    /// A node, or a pod in its network namespace.
    Node(String),
    /// Outside, with the identity of the narrowest range around it.
    Outside(u32),
}

impl World {
    /// Builds identities and policies from manifests.
    #[must_use]
    pub fn new(manifests: Manifests) -> Self {
        let mut repository = Repository::new();
        for policy in manifests.policies.clone() {
            repository.upsert_policy(policy);
        }
        let mut ranges = BTreeMap::new();
        for (number, net) in (FIRST_CIDR..).zip(repository.cidrs()) {
            repository.upsert_identity(number, cidr_labels(net));
            ranges.insert(net, number);
        }
        let empty = BTreeMap::new();
        let (pods, addresses, nodes) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut world = Self { repository, pods, addresses, nodes, ranges, resolved: empty };
        for node in &manifests.nodes {
            world.nodes.extend(node.internal_ips.iter().map(|ip| (*ip, node.name.clone())));
        }
        let audited = manifests.namespaces.values().filter(|namespace| namespace.is_audited());
        world.repository.set_audited(audited.map(|namespace| namespace.name.clone()).collect());
        let mut addresses: BTreeMap<u32, PodAddresses> = BTreeMap::new();
        for pod in &manifests.pods {
            if let Some(identity) = world.add_pod(pod, &manifests).filter(|_| !pod.ips.is_empty()) {
                addresses.entry(identity).or_default().insert(pod.ips.iter().copied().collect());
            }
        }
        for (identity, pods) in addresses {
            world.repository.set_addresses(identity, pods);
        }
        world
    }

    /// Returns its identity, if it has one of its own.
    fn add_pod(&mut self, pod: &Pod, manifests: &Manifests) -> Option<u32> {
        let name = format!("{}/{}", pod.namespace, pod.name);
        if pod.host_network {
            self.pods.insert(name, Place::Node(pod.node.clone()));
            return None;
        }
        let labels =
            security_labels(pod, manifests.namespaces.get(&pod.namespace), &manifests.settings.cluster);
        let identity = self.allocate(labels);
        let mut named = NamedPorts::new();
        for port in &pod.ports {
            let Some(protocol) = protocol_number(&port.protocol) else { continue };
            named.entry((protocol, port.name.clone())).or_default().insert(port.port);
        }
        self.repository.set_named_ports(identity, named);
        if !matches!(pod.phase.as_str(), "Succeeded" | "Failed") {
            self.addresses.extend(pod.ips.iter().map(|ip| (*ip, name.clone())));
        }
        self.pods.insert(name, Place::Pod(identity, pod.node.clone()));
        Some(identity)
    }

    fn allocate(&mut self, labels: Labels) -> u32 {
        let free = |number: &u32| self.repository.identity(*number).is_none_or(|other| *other == labels);
        let number = candidates(&labels).find(free).unwrap_or_default();
        self.repository.upsert_identity(number, labels);
        number
    }

    /// The repository behind it.
    #[must_use]
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The repository alone.
    #[must_use]
    pub fn into_repository(self) -> Repository {
        self.repository
    }

    /// The identity of a pod, if it has one of its own.
    #[must_use]
    pub fn identity_of(&self, pod: &str) -> Option<u32> {
        match self.pods.get(pod) {
            Some(Place::Pod(identity, _)) => Some(*identity),
            _ => None,
        }
    }

    /// Decides a flow. A pod always reaches itself; what is outside and nodes have no policy of their own.
    ///
    /// # Errors
    /// A side or protocol that is not known.
    pub fn verdict(&mut self, flow: &Flow) -> Result<Verdict, FlowError> {
        let protocol =
            protocol_number(&flow.protocol).ok_or_else(|| FlowError::Protocol(flow.protocol.clone()))?;
        let (from, to) = (self.find(&flow.from)?, self.find(&flow.to)?);
        if self.pod_name(&flow.from) == self.pod_name(&flow.to) {
            return Ok(self.combine(None, None));
        }
        let at = (protocol, flow.port);
        let egress = self.decide(Direction::Egress, &from, &to, at);
        let ingress = self.decide(Direction::Ingress, &to, &from, at);
        let mut verdict = self.combine(egress, ingress);
        verdict.audit.extend(self.audit(Direction::Egress, &from, &to, at, egress));
        verdict.audit.extend(self.audit(Direction::Ingress, &to, &from, at, ingress));
        Ok(verdict)
    }

    /// Explains a flow: what each side says of it, and why every other rule says nothing.
    ///
    /// # Errors
    /// A side or protocol that is not known.
    pub fn explain(&mut self, flow: &Flow) -> Result<Explanation, FlowError> {
        let verdict = self.verdict(flow)?;
        let protocol =
            protocol_number(&flow.protocol).ok_or_else(|| FlowError::Protocol(flow.protocol.clone()))?;
        let (from, to) = (self.find(&flow.from)?, self.find(&flow.to)?);
        let itself = self.pod_name(&flow.from) == self.pod_name(&flow.to);
        let side = |direction, (name, place): (&str, &Place), (peer_name, peer): (&str, &Place)| {
            let Place::Pod(identity, node) = place else { return None };
            let peer = (peer_name, peer_identity(peer, node));
            let question =
                explain::Question { direction, endpoint: (name, *identity), peer, protocol, port: flow.port };
            (!itself).then(|| explain::side(&self.repository, &question))
        };
        let (sender, receiver) = ((self.pod_name(&flow.from), &from), (self.pod_name(&flow.to), &to));
        Ok(Explanation {
            from: flow.from.clone(),
            to: flow.to.clone(),
            protocol: flow.protocol.clone(),
            port: flow.port,
            egress: side(Direction::Egress, sender, receiver),
            ingress: side(Direction::Ingress, receiver, sender),
            verdict: verdict.verdict,
            auth: verdict.auth,
        })
    }

    /// Decides a line of JSON: the same object with the verdict's fields added, or with `error`.
    #[must_use]
    pub fn annotate(&mut self, line: &str) -> String {
        let mut object: Map<String, Value> = match serde_json::from_str(line) {
            Ok(object) => object,
            Err(error) => return error_line(Map::new(), &FlowError::Syntax(error.to_string())),
        };
        let flow =
            Flow::deserialize(Value::Object(object.clone())).map_err(|e| FlowError::Syntax(e.to_string()));
        match flow.and_then(|flow| self.verdict(&flow)) {
            Ok(verdict) => {
                if let Ok(Value::Object(fields)) = serde_json::to_value(verdict) {
                    object.extend(fields);
                }
                Value::Object(object).to_string()
            }
            Err(error) => error_line(object, &error),
        }
    }

    fn pod_name<'a>(&'a self, side: &'a str) -> &'a str {
        let named = side.parse().ok().and_then(|ip: IpAddr| self.addresses.get(&ip));
        named.map_or(side, String::as_str)
    }

    fn find(&self, side: &str) -> Result<Place, FlowError> {
        let name = self.pod_name(side);
        if let Some(place) = self.pods.get(name) {
            return Ok(place.clone());
        }
        let address: IpAddr = side.parse().map_err(|_| FlowError::Unknown(side.to_owned()))?;
        if let Some(node) = self.nodes.get(&address) {
            return Ok(Place::Node(node.clone()));
        }
        let around = self.ranges.iter().filter(|(net, _)| net.contains(&address));
        let narrowest = around.max_by_key(|(net, _)| net.prefix_len()).map(|(_, number)| *number);
        Ok(Place::Outside(narrowest.unwrap_or(reserved::WORLD)))
    }

    /// What the policies of `side` say of the flow with `peer`; nothing where `side` has none.
    fn decide(
        &mut self,
        direction: Direction,
        side: &Place,
        peer: &Place,
        at: (u8, u16),
    ) -> Option<Decision> {
        let Place::Pod(identity, node) = side else { return None };
        let peer = peer_identity(peer, node);
        let repository = &self.repository;
        let policy = self.resolved.entry(*identity).or_insert_with(|| repository.resolve(*identity, 1));
        Some(policy.lookup(direction, peer, at.0, at.1))
    }

    /// What the policies of `side` would say if none were only audited, where that is different.
    fn audit(
        &self,
        direction: Direction,
        side: &Place,
        peer: &Place,
        at: (u8, u16),
        enforced: Option<Decision>,
    ) -> Option<String> {
        let Place::Pod(identity, node) = side else { return None };
        let policy = self.repository.resolve_as_if(*identity, 1)?;
        let would = policy.lookup(direction, peer_identity(peer, node), at.0, at.1);
        explain::difference(&self.repository, enforced.as_ref(), &would)
    }

    fn combine(&self, egress: Option<Decision>, ingress: Option<Decision>) -> Verdict {
        let outcome = |decision: Option<Decision>| match decision {
            Some(Decision { allow: false, .. }) => Outcome::Denied,
            _ => Outcome::Allowed,
        };
        let sides = [egress, ingress];
        let passes = sides.iter().all(|decision| outcome(*decision) == Outcome::Allowed);
        let asks = passes && sides.iter().flatten().any(|decision| decision.auth_type != 0);
        let rules = sides.iter().flatten().filter_map(|decision| self.repository.rule(decision.rule_id));
        Verdict {
            egress: outcome(egress),
            ingress: outcome(ingress),
            verdict: if passes { Outcome::Allowed } else { Outcome::Denied },
            auth: if asks { Auth::Required } else { Auth::None },
            rules: rules.cloned().collect(),
            audit: Vec::new(),
        }
    }
}

/// Who a peer is to a pod on `node`.
fn peer_identity(peer: &Place, node: &str) -> u32 {
    match peer {
        Place::Pod(identity, _) | Place::Outside(identity) => *identity,
        Place::Node(other) if other == node => reserved::HOST,
        Place::Node(_) => reserved::REMOTE_NODE,
    }
}

fn error_line(mut object: Map<String, Value>, error: &FlowError) -> String {
    object.insert("error".to_owned(), Value::String(error.to_string()));
    Value::Object(object).to_string()
}

/// The number of a protocol by its name, or by its number.
#[must_use]
pub fn protocol_number(name: &str) -> Option<u8> {
    match name.to_ascii_uppercase().as_str() {
        "TCP" => Some(documents::protocol::TCP),
        "UDP" => Some(documents::protocol::UDP),
        "SCTP" => Some(documents::protocol::SCTP),
        "ICMP" | "ICMPV4" => Some(documents::protocol::ICMP),
        "ICMPV6" => Some(documents::protocol::ICMPV6),
        number => number.parse().ok(),
    }
}
