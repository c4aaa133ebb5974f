//! What changes of the cluster mean: placements, addresses, nodes, and whose policy is to be worked out anew.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use countersign_auth_proto::Event;
use countersign_ebpf_common::ipcache::{IpEntry, flag};
use countersign_policy::Touched;
use countersign_policy::identity::{DEFAULT_CLUSTER, cidr_labels, reserved, security_labels};
use countersign_policy::repository::NamedPorts;
use ipnet::IpNet;

use super::Node;
use crate::clock;
use crate::identities::{Effects, Placement};
use crate::node_ids::THIS_NODE;
use crate::world::{PodKey, PolicyChange, Touched as Changed};

/// What the datapath knows of addresses.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    /// Every address and prefix with its entry.
    pub(super) known: BTreeMap<IpNet, IpEntry>,
    /// Those that are nodes' own, or their pods'.
    pub(super) of_nodes: BTreeMap<String, BTreeSet<IpNet>>,
}

impl Node {
    /// Works out what a batch of changes means. `synced` says that it completes the first picture.
    pub(super) fn follow(&mut self, touched: Changed, synced: bool) {
        self.names.forget_workloads();
        self.watch_endpoints();
        let nodes_changed = !touched.nodes.is_empty();
        let mut pods = touched.pods;
        if nodes_changed {
            pods.extend(self.follow_nodes(&touched.nodes));
        }
        let mut affected = self.follow_modes();
        let mut effects = Effects::default();
        for key in &pods {
            self.follow_pod(key, &mut effects);
        }
        let renamed =
            effects.appeared.iter().map(|(identity, _)| *identity).chain(effects.gone.iter().copied());
        self.name_identities(renamed);
        for (identity, labels) in std::mem::take(&mut effects.appeared) {
            affected.extend(self.policies.upsert_identity(identity, labels));
        }
        affected.extend(self.follow_pod_addresses(&std::mem::take(&mut effects.moved)));
        if nodes_changed {
            affected.extend(self.follow_node_addresses());
        }
        affected.extend(self.follow_named_ports(&pods));
        let mut concern_changed = false;
        for change in touched.policies {
            affected.extend(match change {
                PolicyChange::Upsert(policy) => {
                    concern_changed |= self.svids.concern.upsert(&policy);
                    self.policies.upsert_policy((*policy).clone())
                }
                PolicyChange::Delete(id) => {
                    concern_changed |= self.svids.concern.remove(&id);
                    self.policies.remove_policy(&id)
                }
            });
            self.policy_revision += 1;
        }
        affected.extend(self.follow_prefixes());
        if !self.world.synced || synced {
            self.follow_addresses(&effects.addresses);
        }
        self.follow_local_pods(&pods);
        // What SPIRE knows a pod by may have come after the pod itself.
        if concern_changed || pods.iter().any(|key| self.endpoints.slot_of(key).is_some()) {
            self.want_svids();
        }
        for identity in std::mem::take(&mut effects.gone) {
            affected.extend(self.policies.remove_identity(identity));
            self.machine.handle(Event::IdentityGone { identity }, clock::boot_ns());
        }
        if synced {
            self.first_picture();
        } else if self.world.synced {
            self.regenerate(&affected);
            // After policy: a new pod must not be taken for one that nothing is said of.
            self.follow_addresses(&effects.addresses);
        }
        self.release_addresses(&effects.addresses);
        if nodes_changed || synced {
            self.encryption.dirty = true;
            self.refresh_encryption();
        }
        self.serve_waiting();
    }

    /// The first complete picture: what was restored is compared with it, and policy takes over.
    fn first_picture(&mut self) {
        tracing::info!(pods = self.world.pods.len(), nodes = self.world.nodes.len(), "the cluster is known");
        self.drop_unknown_addresses();
        let slots: Vec<u16> = self.endpoints.iter().map(|endpoint| endpoint.saved.slot).collect();
        slots.into_iter().for_each(|slot| self.settle_endpoint(slot));
        self.told.restored_are(&self.svids.wanted_identities());
        self.regenerate_all();
        self.listen();
    }

    fn follow_pod(&mut self, key: &PodKey, effects: &mut Effects) {
        let placement = self.placement_of(key);
        self.identities.place(key, placement, effects);
    }

    fn placement_of(&mut self, key: &PodKey) -> Option<(Placement, countersign_policy::labels::Labels)> {
        let pod = self.world.pods.get(key)?.clone();
        // Pods in the node's own network namespace have the node's identity and addresses.
        if pod.host_network || pod.node.is_empty() {
            return None;
        }
        let namespace = self.world.namespaces.get(&pod.namespace);
        let labels = security_labels(&pod, namespace.map(|namespace| &**namespace), DEFAULT_CLUSTER);
        let identity = match self.identities.number(&labels) {
            Ok(identity) => identity,
            Err(error) => {
                tracing::warn!(namespace = %pod.namespace, pod = %pod.name, %error, "no identity: the pod stays closed");
                return None;
            }
        };
        let known = pod.node == self.config.node_name || self.world.nodes.contains_key(&pod.node);
        let node = if known { self.node_ids.claim(&pod.node) } else { None };
        Some((Placement { identity, node, ips: pod.ips.clone() }, labels))
    }

    fn follow_named_ports(&mut self, pods: &BTreeSet<PodKey>) -> Touched {
        let mut affected = Touched::default();
        for key in pods {
            let (Some(pod), Some(placement)) = (self.world.pods.get(key), self.identities.placement(key))
            else {
                continue;
            };
            if pod.ports.is_empty() {
                continue;
            }
            let mut ports = NamedPorts::new();
            for port in &pod.ports {
                ports
                    .entry((protocol_number(&port.protocol), port.name.clone()))
                    .or_default()
                    .insert(port.port);
            }
            affected.extend(self.policies.set_named_ports(placement.identity, ports));
        }
        affected
    }

    /// Every prefix that policies mention has an identity and a place among the addresses.
    fn follow_prefixes(&mut self) -> Touched {
        let wanted = self.policies.cidrs();
        let (new, gone) = self.identities.set_prefixes(&wanted);
        let mut affected = Touched::default();
        for (net, identity) in new {
            affected.extend(self.policies.upsert_identity(identity, cidr_labels(net)));
            self.set_address(net, Some(IpEntry { identity, node: THIS_NODE, flags: 0 }));
        }
        for (net, identity) in gone {
            affected.extend(self.policies.remove_identity(identity));
            let node_prefix = self.node_prefix(net);
            self.set_address(net, node_prefix);
        }
        affected
    }

    fn follow_addresses(&mut self, addresses: &BTreeSet<IpAddr>) {
        let mut changed = false;
        for ip in addresses {
            let entry = self.identities.entry(*ip).or_else(|| self.node_entry(*ip));
            let before = self.addresses.known.get(&IpNet::from(*ip)).copied();
            changed |= self.set_address(IpNet::from(*ip), entry);
            if before.is_some() && before != entry {
                // Whoever had the address has it no more: what was asserted about it is void.
                self.machine.handle(Event::AddressGone { ip: *ip }, clock::boot_ns());
            }
        }
        if changed {
            self.bump_policy_of_all();
        }
    }

    /// Nodes that came, changed or went; returns the pods that are on them.
    fn follow_nodes(&mut self, names: &BTreeSet<String>) -> BTreeSet<PodKey> {
        for name in names {
            match self.world.nodes.get(name).cloned() {
                Some(node) => self.enter_node(&node),
                None => self.leave_node(name),
            }
        }
        let on_them = self.world.pods.iter().filter(|(_, pod)| names.contains(&pod.node));
        on_them.map(|(key, _)| key.clone()).collect()
    }

    fn enter_node(&mut self, node: &countersign_policy::objects::Node) {
        let Some(id) = self.node_ids.claim(&node.name) else {
            tracing::error!(node = %node.name, "there are more nodes than numbers for them");
            return;
        };
        let before = self.addresses.of_nodes.remove(&node.name).unwrap_or_default();
        let mut nets = BTreeSet::new();
        for ip in &node.internal_ips {
            nets.insert(IpNet::from(*ip));
        }
        nets.extend(node.pod_cidrs.iter().map(IpNet::trunc));
        self.addresses.of_nodes.insert(node.name.clone(), nets.clone());
        for net in before.difference(&nets) {
            self.set_address(*net, None);
        }
        for ip in &node.internal_ips {
            let entry = self.node_entry(*ip);
            self.set_address(IpNet::from(*ip), entry);
        }
        let place = if id == THIS_NODE { flag::LOCAL } else { flag::ENCRYPTED };
        for net in &node.pod_cidrs {
            let entry = IpEntry { identity: reserved::UNKNOWN, node: id, flags: flag::POD | place };
            self.set_address(net.trunc(), Some(entry));
        }
        if before != nets {
            self.bump_policy_of_all();
        }
    }

    fn leave_node(&mut self, name: &str) {
        for net in self.addresses.of_nodes.remove(name).unwrap_or_default() {
            self.set_address(net, None);
        }
        if let Some(node) = self.node_ids.id(name).filter(|id| *id != THIS_NODE) {
            self.machine.handle(Event::NodeGone { node }, clock::boot_ns());
            self.act();
            self.node_ids.release(name);
        }
        self.bump_policy_of_all();
    }

    /// What the datapath is to know of an address that is a node's.
    fn node_entry(&self, ip: IpAddr) -> Option<IpEntry> {
        let node = self.world.nodes.values().find(|node| node.internal_ips.contains(&ip))?;
        let id = self.node_ids.id(&node.name)?;
        let identity = if id == THIS_NODE { reserved::HOST } else { reserved::REMOTE_NODE };
        Some(IpEntry { identity, node: id, flags: if id == THIS_NODE { flag::LOCAL } else { 0 } })
    }

    fn node_prefix(&self, net: IpNet) -> Option<IpEntry> {
        let node =
            self.world.nodes.values().find(|node| node.pod_cidrs.iter().any(|own| own.trunc() == net))?;
        let id = self.node_ids.id(&node.name)?;
        let place = if id == THIS_NODE { flag::LOCAL } else { flag::ENCRYPTED };
        Some(IpEntry { identity: reserved::UNKNOWN, node: id, flags: flag::POD | place })
    }

    /// Writes or removes an entry; says whether anything is different.
    fn set_address(&mut self, net: IpNet, entry: Option<IpEntry>) -> bool {
        let known = self.addresses.known.get(&net).copied();
        if known == entry {
            return false;
        }
        let done = match entry {
            Some(entry) => self.datapath.ipcache_upsert(net, entry),
            None => self.datapath.ipcache_remove(net).map(drop),
        };
        match (done, entry) {
            (Ok(()), Some(entry)) => drop(self.addresses.known.insert(net, entry)),
            (Ok(()), None) => drop(self.addresses.known.remove(&net)),
            (Err(error), _) => {
                tracing::error!(%net, %error, "an address is not as it should be in the datapath")
            }
        }
        true
    }

    /// Addresses that were pinned before a restart and that nobody knows any more.
    fn drop_unknown_addresses(&mut self) {
        for (net, _) in self.datapath.ipcache() {
            if !self.addresses.known.contains_key(&net)
                && let Err(error) = self.datapath.ipcache_remove(net)
            {
                tracing::error!(%net, %error, "a stale address stays in the datapath");
            }
        }
        for (ip, _) in self.datapath.bound() {
            if self.identities.entry(ip).is_none() {
                self.machine.handle(Event::AddressGone { ip }, clock::boot_ns());
            }
        }
    }
}

/// As in a container's `ports`; what else there is was refused when the manifest was read.
fn protocol_number(name: &str) -> u8 {
    match name {
        "UDP" => 17,
        "SCTP" => 132,
        _ => 6,
    }
}
