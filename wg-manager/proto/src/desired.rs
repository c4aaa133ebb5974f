//! From what is known about the other nodes to what this node's device and routes should be.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::claims::{Claims, Contested, contested};
use crate::{AttestedKey, Device, Peer, PresharedKey, PublicKey, Shrink, Slot, Way};

/// This node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnNode {
    /// Its name.
    pub name: String,
    /// The prefixes of its own pods.
    pub pod_cidrs: BTreeSet<IpNet>,
    /// Its addresses on the underlay.
    pub addresses: BTreeSet<IpAddr>,
}

/// A tunnel to another node, whose key is proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteNode {
    /// Its key; also says which node it is.
    pub key: AttestedKey,
    /// In which device.
    pub slot: Slot,
    /// Where its device listens.
    pub endpoint: SocketAddr,
    /// The prefixes of its pods: routed into the device, and accepted from it.
    pub pod_cidrs: BTreeSet<IpNet>,
    /// Its own addresses: accepted from its tunnel, but not routed into it (the tunnel's own packets go
    /// there).
    pub addresses: BTreeSet<IpAddr>,
    /// The preshared key of this pair of nodes.
    pub preshared_key: Option<PresharedKey>,
}

/// Everything this node knows about the cluster's nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// This node.
    pub own: OwnNode,
    /// Tunnels to nodes whose key is proved. Of those to one node the best first.
    pub nodes: Vec<RemoteNode>,
    /// Devices that have to be there, whether they have tunnels yet or not.
    pub slots: BTreeSet<Slot>,
    /// Nodes that are known, but whose key is not proved, and their pods' prefixes: those are unreachable.
    pub unproved: BTreeMap<String, BTreeSet<IpNet>>,
    /// Grows with every picture: of two that overtake each other on their way, the later one counts.
    pub revision: u64,
    /// False while the picture is still being gathered: nothing is taken away then.
    pub complete: bool,
}

/// What device and routes should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goal {
    /// The devices, and the peers of each (without private key and port).
    pub devices: BTreeMap<Slot, Device>,
    /// Every remote pod prefix, and the tunnels that packets to it may enter, the best first.
    pub routes: BTreeMap<IpNet, Vec<Way>>,
    /// Names of the peers.
    pub names: BTreeMap<PublicKey, AttestedKey>,
    /// What cannot be as wished, one sentence each.
    pub problems: Vec<String>,
    /// Whether what is not named above may go.
    pub shrink: Shrink,
    /// Unix seconds when the first of the keys expires, and the goal must be computed anew.
    pub valid_until: Option<u64>,
}

impl Desired {
    /// The goal at `now_unix` (seconds). `keepalive` (seconds) is every peer's.
    ///
    /// A node gets no peer if its key has expired, or if another node has the same key. A prefix is nobody's
    /// if two nodes claim it, or if it covers an address of the underlay (whose packets would loop).
    pub fn goal(&self, keepalive: u16, now_unix: u64) -> Goal {
        let mut problems = Vec::new();
        let proved = self.proved(now_unix, &mut problems);
        let refused = self.refused_prefixes(&mut problems);
        let usable = |net: &IpNet| !refused.contains(net);
        let mut devices: BTreeMap<Slot, Device> =
            self.slots.iter().map(|slot| (*slot, Device::default())).collect();
        let mut routes: BTreeMap<IpNet, Vec<Way>> = BTreeMap::new();
        for net in self.unproved.values().chain(self.nodes.iter().map(|node| &node.pod_cidrs)).flatten() {
            routes.entry(net.trunc()).or_default();
        }
        for node in &proved {
            let pods: BTreeSet<IpNet> = node.pod_cidrs.iter().map(IpNet::trunc).filter(usable).collect();
            let way = Way { slot: node.slot, peer: *node.key.public_key() };
            pods.iter().for_each(|net| routes.entry(*net).or_default().push(way));
            let device = devices.entry(node.slot).or_default();
            device.peers.insert(way.peer, node.peer(pods, usable, keepalive));
        }
        // What covers the underlay, or this node's own pods, gets no route at all: not even a fallback.
        routes.retain(|net, ways| !ways.is_empty() || !self.is_ours(net));
        Goal {
            devices,
            routes,
            names: proved.iter().map(|node| (*node.key.public_key(), node.key.clone())).collect(),
            problems,
            shrink: if self.complete { Shrink::Allowed } else { Shrink::Forbidden },
            valid_until: proved.iter().map(|node| node.key.not_after()).min(),
        }
    }

    /// The nodes that may have a peer.
    fn proved(&self, now_unix: u64, problems: &mut Vec<String>) -> Vec<&RemoteNode> {
        let mut by_key: BTreeMap<&PublicKey, BTreeSet<&str>> = BTreeMap::new();
        let mut in_slot: BTreeMap<(&str, Slot), usize> = BTreeMap::new();
        for node in &self.nodes {
            by_key.entry(node.key.public_key()).or_default().insert(node.key.node());
            *in_slot.entry((node.key.node(), node.slot)).or_default() += 1;
        }
        let mut proved = Vec::new();
        for node in &self.nodes {
            let name = node.key.node();
            if node.key.not_after() <= now_unix {
                problems.push(format!("node {name}: its key's announcement has expired"));
            } else if by_key.get(node.key.public_key()).is_some_and(|nodes| nodes.len() > 1) {
                problems.push(format!("node {name}: another node has the same WireGuard key"));
            } else if in_slot.get(&(name, node.slot)).is_some_and(|tunnels| *tunnels > 1) {
                // A device gives a prefix to one peer.
                problems.push(format!("node {name}: two of its tunnels would be in one device"));
            } else {
                proved.push(node);
            }
        }
        proved
    }

    /// Prefixes that nobody gets.
    fn refused_prefixes(&self, problems: &mut Vec<String>) -> BTreeSet<IpNet> {
        let mut refused = BTreeSet::new();
        for Contested { outer, inner } in contested(&self.claims()) {
            problems
                .push(format!("{} of node {} overlaps {} of node {}", inner.0, inner.1, outer.0, outer.1));
            refused.extend([outer.0, inner.0]);
        }
        for node in &self.nodes {
            for net in node.pod_cidrs.iter().filter(|net| self.covers_underlay(net)) {
                problems.push(format!("{net} of node {} covers a node's own address", node.key.node()));
                refused.insert(net.trunc());
            }
        }
        refused
    }

    fn claims(&self) -> Claims {
        let mut claims = self.unproved.clone();
        claims.entry(self.own.name.clone()).or_default().extend(&self.own.pod_cidrs);
        claims
            .entry(self.own.name.clone())
            .or_default()
            .extend(self.own.addresses.iter().map(|a| IpNet::from(*a)));
        for node in &self.nodes {
            let mine = claims.entry(node.key.node().to_owned()).or_default();
            mine.extend(&node.pod_cidrs);
            mine.extend(node.addresses.iter().map(|address| IpNet::from(*address)));
        }
        claims
    }

    fn covers_underlay(&self, net: &IpNet) -> bool {
        let endpoints = self.nodes.iter().map(|node| node.endpoint.ip());
        let addresses = self.nodes.iter().flat_map(|node| &node.addresses).copied();
        endpoints.chain(addresses).chain(self.own.addresses.iter().copied()).any(|ip| net.contains(&ip))
    }

    fn is_ours(&self, net: &IpNet) -> bool {
        let overlaps = |own: &IpNet| own.contains(net) || net.contains(own);
        self.covers_underlay(net) || self.own.pod_cidrs.iter().any(overlaps)
    }
}

impl RemoteNode {
    fn peer(&self, pods: BTreeSet<IpNet>, usable: impl Fn(&IpNet) -> bool, keepalive: u16) -> Peer {
        let mut allowed_ips = pods;
        allowed_ips.extend(self.addresses.iter().map(|address| IpNet::from(*address)).filter(usable));
        Peer {
            preshared_key: self.preshared_key.clone(),
            endpoint: Some(self.endpoint),
            keepalive,
            allowed_ips,
        }
    }
}
