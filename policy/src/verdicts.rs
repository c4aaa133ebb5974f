//! Verdicts without a cluster: manifests and flows in, what the datapath would decide out.

use std::collections::BTreeMap;
use std::net::IpAddr;

use countersign_ebpf_common::ladder::Decision;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::documents::{self, Settings};
use crate::endpoint::EndpointPolicy;
use crate::fields::DocumentError;
use crate::identity::{FIRST_CIDR, candidates, cidr_labels, pod_labels, reserved};
use crate::labels::{Labels, Source};
use crate::model::Direction;
use crate::objects::{Namespace, Node, Pod};
use crate::repository::{NamedPorts, Repository, RuleOrigin};
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
        for pod in &manifests.pods {
            world.add_pod(pod, &manifests);
        }
        world
    }

    fn add_pod(&mut self, pod: &Pod, manifests: &Manifests) {
        let name = format!("{}/{}", pod.namespace, pod.name);
        if pod.host_network {
            self.pods.insert(name, Place::Node(pod.node.clone()));
            return;
        }
        let mut labels =
            pod_labels(pod, manifests.namespaces.get(&pod.namespace), &manifests.settings.cluster);
        for net in self.repository.pod_cidrs(&pod.ips) {
            labels.insert(Source::Cidr, &net.to_string(), "");
        }
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
        let egress = self.decide(Direction::Egress, &from, &to, (protocol, flow.port));
        let ingress = self.decide(Direction::Ingress, &to, &from, (protocol, flow.port));
        Ok(self.combine(egress, ingress))
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
        let peer = match peer {
            Place::Pod(identity, _) | Place::Outside(identity) => *identity,
            Place::Node(other) if other == node => reserved::HOST,
            Place::Node(_) => reserved::REMOTE_NODE,
        };
        let repository = &self.repository;
        let policy = self.resolved.entry(*identity).or_insert_with(|| repository.resolve(*identity, 1));
        Some(policy.lookup(direction, peer, at.0, at.1))
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
        }
    }
}

fn error_line(mut object: Map<String, Value>, error: &FlowError) -> String {
    object.insert("error".to_owned(), Value::String(error.to_string()));
    Value::Object(object).to_string()
}

fn protocol_number(name: &str) -> Option<u8> {
    match name.to_ascii_uppercase().as_str() {
        "TCP" => Some(documents::protocol::TCP),
        "UDP" => Some(documents::protocol::UDP),
        "SCTP" => Some(documents::protocol::SCTP),
        "ICMP" | "ICMPV4" => Some(documents::protocol::ICMP),
        "ICMPV6" => Some(documents::protocol::ICMPV6),
        number => number.parse().ok(),
    }
}
