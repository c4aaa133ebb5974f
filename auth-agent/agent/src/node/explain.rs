//! Why a flow passes or not, by what this agent knows: all pods, all policies.

use std::net::IpAddr;

use countersign_agent_api as api;
use countersign_policy::explain::{self, Account, Fit, Question, Side};
use countersign_policy::identity::reserved;
use countersign_policy::model::{Action, Direction};
use countersign_policy::repository::RuleOrigin;
use countersign_policy::verdicts::protocol_number;

use super::Node;
use crate::world::PodKey;

/// One side of a flow.
struct Who {
    name: String,
    /// The pod's identity, if it has a network namespace of its own.
    pod: Option<u32>,
    /// The node it is on; empty for what is outside.
    node: String,
    /// What else it is: a node's, or the world's.
    other: u32,
    /// It is an endpoint of this node in audit mode.
    audited: bool,
}

impl Node {
    pub(super) fn explain(&self, flow: &api::ExplainRequest) -> Result<api::PolicyExplanation, api::Error> {
        let bad = |message: String| api::Error::new(api::ErrorKind::BadRequest, message);
        let protocol = protocol_number(&flow.protocol)
            .ok_or_else(|| bad(format!("protocol: {:?} is not a protocol", flow.protocol)))?;
        let (from, to) = (self.who(&flow.from)?, self.who(&flow.to)?);
        let side = |direction, of: &Who, peer: &Who| {
            let identity = of.pod.filter(|_| of.name != peer.name)?;
            let peer = (peer.name.as_str(), peer.seen_from(&of.node));
            let endpoint = (of.name.as_str(), identity);
            let question = Question { direction, endpoint, peer, protocol, port: flow.port };
            let side = explain::side(&self.policies, &question);
            Some(if of.audited { let_through(side) } else { side })
        };
        let egress = side(Direction::Egress, &from, &to);
        let ingress = side(Direction::Ingress, &to, &from);
        let both = || egress.iter().chain(&ingress);
        let passes = both().all(|side| side.allowed);
        let asks = passes && both().any(|side| side.auth != "none");
        Ok(api::PolicyExplanation {
            from: flow.from.clone(),
            to: flow.to.clone(),
            protocol: flow.protocol.clone(),
            port: flow.port,
            verdict: if passes { "allowed" } else { "denied" }.to_owned(),
            auth: if asks { "required" } else { "none" }.to_owned(),
            egress: egress.map(said),
            ingress: ingress.map(said),
        })
    }

    fn who(&self, side: &str) -> Result<Who, api::Error> {
        let address: Option<IpAddr> = side.parse().ok();
        let key = match (address, side.split_once('/')) {
            (Some(address), _) => self.identities.pod_at(address).cloned(),
            (None, Some((namespace, name))) => Some((namespace.to_owned(), name.to_owned())),
            (None, None) => None,
        };
        if let Some(key) = key {
            return self.pod_of(&key);
        }
        let Some(address) = address else { return Err(unknown(side)) };
        let outside =
            |node: String, other| Who { name: side.to_owned(), pod: None, node, other, audited: false };
        let node = self.world.nodes.values().find(|node| node.internal_ips.contains(&address));
        if let Some(node) = node {
            return Ok(outside(node.name.clone(), reserved::REMOTE_NODE));
        }
        let around = self.addresses.known.iter().filter(|(net, _)| net.contains(&address));
        let narrowest = around.max_by_key(|(net, _)| net.prefix_len()).map(|(_, entry)| entry.identity);
        Ok(outside(String::new(), narrowest.unwrap_or(reserved::WORLD)))
    }

    fn pod_of(&self, key: &PodKey) -> Result<Who, api::Error> {
        let name = format!("{}/{}", key.0, key.1);
        let pod = self.world.pods.get(key).ok_or_else(|| unknown(&name))?;
        let identity = self.identities.placement(key).map(|placement| placement.identity);
        if identity.is_none() && !pod.host_network {
            return Err(api::Error::new(api::ErrorKind::Unavailable, format!("{name} has no identity yet")));
        }
        let endpoint = self.endpoints.slot_of(key).and_then(|slot| self.endpoints.get(slot));
        let audited = endpoint.is_some_and(|endpoint| endpoint.audited);
        let node = pod.node.clone();
        Ok(Who { name, pod: identity, node, other: reserved::REMOTE_NODE, audited })
    }
}

impl Who {
    /// Its identity, as the pods of a node see it.
    fn seen_from(&self, node: &str) -> u32 {
        match self.pod {
            Some(identity) => identity,
            None if self.other == reserved::REMOTE_NODE && self.node == node => reserved::HOST,
            None => self.other,
        }
    }
}

/// What is said of a flow at an endpoint in audit mode: there, everything passes.
fn let_through(side: Side) -> Side {
    if side.allowed && side.auth == "none" {
        return side;
    }
    let audit = Some(side.audit.unwrap_or_else(|| format!("without it: {}", side.reason)));
    let reason = "allowed: the endpoint is in audit mode".to_owned();
    Side { allowed: true, auth: "none".to_owned(), reason, rule: None, audit, ..side }
}

fn unknown(side: &str) -> api::Error {
    api::Error::new(api::ErrorKind::NotFound, format!("{side}: no pod or address of that name is known"))
}

fn said(side: Side) -> api::ExplainSide {
    api::ExplainSide {
        direction: way(side.direction).to_owned(),
        endpoint: side.endpoint,
        identity: side.identity,
        peer: side.peer,
        peer_identity: side.peer_identity,
        enforced: side.enforced,
        allowed: side.allowed,
        auth: side.auth,
        reason: side.reason,
        rule: side.rule.map(rule),
        audit: side.audit,
        rules: side.rules.into_iter().map(account).collect(),
    }
}

fn way(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

fn rule(of: RuleOrigin) -> api::ExplainRule {
    let action = match of.action {
        Action::Allow => "allow",
        Action::Deny => "deny",
        Action::Pass => "pass",
        Action::Withhold => "withhold",
    };
    api::ExplainRule {
        kind: of.kind.name().to_owned(),
        namespace: of.namespace,
        name: of.name,
        rule: of.rule,
        direction: way(of.direction).to_owned(),
        action: action.to_owned(),
        index: of.index,
        line: of.line,
    }
}

fn account(of: Account) -> api::ExplainAccount {
    let fit = match of.fit {
        Fit::Match => "match",
        Fit::NotThisFlow => "not-this-flow",
        Fit::OtherDirection => "other-direction",
        Fit::NotThisEndpoint => "not-this-endpoint",
    };
    api::ExplainAccount { policy: of.policy, rule: of.rule, line: of.line, fit: fit.to_owned(), why: of.why }
}
