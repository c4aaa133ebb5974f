//! Which identity every pod and address has: placements of pods, numbers of label sets and of prefixes.
//!
//! An address that two pods claim at once belongs to nobody ([`IpEntry`] of the unknown identity) until one
//! of them lets go: rather dropped for a moment than taken for another.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use countersign_cluster::IdentityRegistry;
use countersign_ebpf_common::ipcache::{IpEntry, flag};
use countersign_policy::identity::{FIRST_CIDR, reserved};
use countersign_policy::labels::Labels;
use countersign_policy::repository::PodAddresses;
use ipnet::IpNet;

use crate::node_ids::THIS_NODE;
use crate::world::PodKey;

/// Where a pod is and who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Its security identity.
    pub identity: u32,
    /// Number of its node; none while it is not placed, or its node is not known.
    pub node: Option<u16>,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
}

/// An identity of pods.
#[derive(Debug, Default)]
struct Record {
    labels: Labels,
    pods: BTreeSet<PodKey>,
}

/// What a change of placements means for the rest.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Identities that have their first pod.
    pub appeared: Vec<(u32, Labels)>,
    /// Identities that have lost their last pod.
    pub gone: Vec<u32>,
    /// Addresses whose entry is to be looked at again.
    pub addresses: BTreeSet<IpAddr>,
    /// Identities with other pods, or pods at other addresses, than before.
    pub moved: BTreeSet<u32>,
}

/// Prefixes and their numbers.
pub type Numbered = Vec<(IpNet, u32)>;

/// Numbers, placements and addresses.
#[derive(Debug)]
pub struct Identities {
    registry: IdentityRegistry,
    numbers: BTreeMap<Labels, u32>,
    records: BTreeMap<u32, Record>,
    placements: BTreeMap<PodKey, Placement>,
    owners: BTreeMap<IpAddr, BTreeSet<PodKey>>,
    prefixes: BTreeMap<IpNet, u32>,
    next_prefix: u32,
}

impl Identities {
    /// Knows nobody; numbers come from the cluster's registry.
    #[must_use]
    pub fn new(registry: IdentityRegistry) -> Self {
        Self {
            registry,
            numbers: BTreeMap::new(),
            records: BTreeMap::new(),
            placements: BTreeMap::new(),
            owners: BTreeMap::new(),
            prefixes: BTreeMap::new(),
            next_prefix: FIRST_CIDR,
        }
    }

    /// The number of a label set, claimed in the cluster if it has none.
    ///
    /// # Errors
    /// When the cluster gives none.
    pub fn number(&mut self, labels: &Labels) -> anyhow::Result<u32> {
        if let Some(number) = self.numbers.get(labels) {
            return Ok(*number);
        }
        let number = self.registry.claim(labels)?;
        self.numbers.insert(labels.clone(), number);
        Ok(number)
    }

    /// Places a pod, moves it, or (with `None`) forgets it.
    pub fn place(&mut self, key: &PodKey, placement: Option<(Placement, Labels)>, effects: &mut Effects) {
        let new = placement.as_ref().map(|(placement, _)| placement);
        if self.placements.get(key) == new {
            return;
        }
        if let Some(old) = self.placements.remove(key) {
            self.leave(key, &old, effects);
        }
        if let Some((placement, labels)) = placement {
            self.enter(key, &placement, labels, effects);
            self.placements.insert(key.clone(), placement);
        }
    }

    fn enter(&mut self, key: &PodKey, placement: &Placement, labels: Labels, effects: &mut Effects) {
        effects.moved.insert(placement.identity);
        let record = self.records.entry(placement.identity).or_default();
        if record.pods.is_empty() {
            record.labels = labels.clone();
            match effects.gone.iter().position(|gone| *gone == placement.identity) {
                Some(at) => drop(effects.gone.swap_remove(at)),
                None => effects.appeared.push((placement.identity, labels)),
            }
        }
        record.pods.insert(key.clone());
        for ip in &placement.ips {
            self.owners.entry(*ip).or_default().insert(key.clone());
            effects.addresses.insert(*ip);
        }
    }

    fn leave(&mut self, key: &PodKey, old: &Placement, effects: &mut Effects) {
        effects.moved.insert(old.identity);
        if let Some(record) = self.records.get_mut(&old.identity) {
            record.pods.remove(key);
            if record.pods.is_empty() {
                self.records.remove(&old.identity);
                effects.gone.push(old.identity);
            }
        }
        for ip in &old.ips {
            if let Some(owners) = self.owners.get_mut(ip) {
                owners.remove(key);
                if owners.is_empty() {
                    self.owners.remove(ip);
                }
            }
            effects.addresses.insert(*ip);
        }
    }

    /// What the datapath is to know of a pod's address; none if no pod has it.
    #[must_use]
    pub fn entry(&self, ip: IpAddr) -> Option<IpEntry> {
        let owners = self.owners.get(&ip)?;
        let mut owners = owners.iter().filter_map(|key| self.placements.get(key));
        let (first, second) = (owners.next()?, owners.next());
        let (Some(node), None) = (first.node, second) else {
            return Some(IpEntry { identity: reserved::UNKNOWN, node: THIS_NODE, flags: flag::POD });
        };
        let place = if node == THIS_NODE { flag::LOCAL } else { flag::ENCRYPTED };
        Some(IpEntry { identity: first.identity, node, flags: flag::POD | place })
    }

    /// Where a pod is.
    #[must_use]
    pub fn placement(&self, key: &PodKey) -> Option<&Placement> {
        self.placements.get(key)
    }

    /// The one pod with this address.
    #[must_use]
    pub fn pod_at(&self, ip: IpAddr) -> Option<&PodKey> {
        let owners = self.owners.get(&ip)?;
        if owners.len() == 1 { owners.iter().next() } else { None }
    }

    /// The labels of an identity of pods.
    #[must_use]
    pub fn labels(&self, identity: u32) -> Option<&Labels> {
        self.records.get(&identity).map(|record| &record.labels)
    }

    /// The addresses of each pod of an identity.
    #[must_use]
    pub fn addresses(&self, identity: u32) -> PodAddresses {
        let pods = self.records.get(&identity).into_iter().flat_map(|record| &record.pods);
        let placed = pods.filter_map(|key| self.placements.get(key)).filter(|at| !at.ips.is_empty());
        placed.map(|placement| placement.ips.iter().copied().collect()).collect()
    }

    /// All identities of pods, with how many pods have each.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Labels, usize)> {
        self.records.iter().map(|(number, record)| (*number, &record.labels, record.pods.len()))
    }

    /// Gives every prefix that policies speak of a number of this node's own, and takes those of the others
    /// back. Returns what is new, and what is gone.
    pub fn set_prefixes(&mut self, wanted: &BTreeSet<IpNet>) -> (Numbered, Numbered) {
        let gone: Vec<(IpNet, u32)> = self
            .prefixes
            .iter()
            .filter(|(net, _)| !wanted.contains(net))
            .map(|(net, id)| (*net, *id))
            .collect();
        for (net, _) in &gone {
            self.prefixes.remove(net);
        }
        let mut new = Vec::new();
        for net in wanted {
            if !self.prefixes.contains_key(net) {
                self.prefixes.insert(*net, self.next_prefix);
                new.push((*net, self.next_prefix));
                self.next_prefix += 1;
            }
        }
        (new, gone)
    }
}

#[cfg(test)]
mod tests {
    use countersign_policy::labels::Source;

    use super::*;

    fn labels(app: &str) -> Labels {
        let mut labels = Labels::new();
        labels.insert(Source::K8s, "app", app);
        labels
    }

    fn key(name: &str) -> PodKey {
        ("ns".to_owned(), name.to_owned())
    }

    fn at(identity: u32, node: u16, ip: &str) -> Placement {
        Placement { identity, node: Some(node), ips: vec![ip.parse().expect("an address")] }
    }

    #[test]
    fn an_address_of_two_pods_is_nobodys() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut all = Identities::new(IdentityRegistry::new(dir.path()));
        let ip: IpAddr = "10.0.0.1".parse().expect("an address");
        let mut effects = Effects::default();
        all.place(&key("a"), Some((at(300, 1, "10.0.0.1"), labels("a"))), &mut effects);
        assert_eq!(all.entry(ip).map(|entry| (entry.identity, entry.node)), Some((300, 1)));
        all.place(&key("b"), Some((at(301, 1, "10.0.0.1"), labels("b"))), &mut effects);
        assert_eq!(all.entry(ip).map(|entry| entry.identity), Some(reserved::UNKNOWN));
        assert_eq!(all.pod_at(ip), None);
        all.place(&key("a"), None, &mut effects);
        assert_eq!(all.entry(ip).map(|entry| entry.identity), Some(301));
        all.place(&key("b"), None, &mut effects);
        assert_eq!(all.entry(ip), None);
        assert_eq!(effects.gone, [300, 301]);
        assert_eq!(effects.addresses.len(), 1);
    }

    #[test]
    fn an_identity_lives_as_long_as_a_pod_of_it() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut all = Identities::new(IdentityRegistry::new(dir.path()));
        let mut first = Effects::default();
        all.place(&key("a"), Some((at(300, 0, "10.0.0.1"), labels("a"))), &mut first);
        all.place(&key("b"), Some((at(300, 0, "10.0.0.2"), labels("a"))), &mut first);
        assert_eq!(first.appeared.len(), 1);
        let mut second = Effects::default();
        all.place(&key("a"), None, &mut second);
        assert!(second.gone.is_empty());
        // Moved within one batch: neither gone nor new.
        all.place(&key("b"), Some((at(300, 1, "10.0.0.3"), labels("a"))), &mut second);
        assert!(second.gone.is_empty() && second.appeared.is_empty());
        assert!(second.addresses.contains(&"10.0.0.2".parse::<IpAddr>().expect("an address")));
    }

    #[test]
    fn prefixes_keep_their_number() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut all = Identities::new(IdentityRegistry::new(dir.path()));
        let nets: Vec<IpNet> =
            ["10.0.0.0/8", "192.0.2.0/24"].iter().map(|n| n.parse().expect("a prefix")).collect();
        let (new, _) = all.set_prefixes(&nets.iter().copied().collect());
        assert_eq!(new.len(), 2);
        let (new, gone) = all.set_prefixes(&BTreeSet::from([nets[1]]));
        assert!(new.is_empty());
        assert_eq!(gone, [(nets[0], FIRST_CIDR)]);
        let (new, _) = all.set_prefixes(&nets.iter().copied().collect());
        assert_eq!(
            new,
            [(nets[0], FIRST_CIDR + 2)],
            "a number is not used again while old packets may carry it"
        );
    }
}
