//! Who is where, and who asks for it: ranges of addresses that selectors name, identities that stand for ranges, and
//! addresses of pods. Asked by containment, so that ten thousand ranges are not each tried against ten thousand
//! others.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::cache::{PodAddresses, SelectorId};
use crate::labels::Labels;

#[derive(Debug, Default)]
pub(super) struct Ranges {
    /// Selectors by the range that they name, exceptions apart.
    selectors: BTreeMap<IpNet, BTreeSet<SelectorId>>,
    /// Identities by the ranges that they stand for. Ranges are in the order of their first address, then from
    /// the broadest to the narrowest.
    outside: BTreeMap<IpNet, BTreeSet<u32>>,
    /// Identities by the addresses of their pods.
    pods: BTreeMap<IpAddr, BTreeSet<u32>>,
}

impl Ranges {
    /// Files a selector under its range, or takes it out.
    pub(super) fn file(&mut self, id: SelectorId, net: IpNet, there: bool) {
        put(&mut self.selectors, net.trunc(), id, there);
    }

    /// Enters the ranges that an identity's labels name, or takes them out.
    pub(super) fn register(&mut self, identity: u32, labels: &Labels, there: bool) {
        for net in labels.cidrs() {
            put(&mut self.outside, net.trunc(), identity, there);
        }
    }

    /// Enters the addresses of an identity's pods, or takes them out.
    pub(super) fn register_pods(&mut self, identity: u32, pods: &PodAddresses, there: bool) {
        for address in pods.iter().flatten() {
            put(&mut self.pods, *address, identity, there);
        }
    }

    /// The identities that stand for a range inside of `net`.
    pub(super) fn outside(&self, net: IpNet) -> impl Iterator<Item = u32> + use<'_> {
        let all = self.outside.range(net.trunc()..=narrowest(net.broadcast()));
        all.flat_map(|(_, identities)| identities).copied()
    }

    /// The identities with a pod inside of `net`.
    pub(super) fn pods(&self, net: IpNet) -> impl Iterator<Item = u32> + use<'_> {
        self.pods.range(net.network()..=net.broadcast()).flat_map(|(_, identities)| identities).copied()
    }

    /// The selectors whose range is around one that these labels name.
    pub(super) fn around_labels<'a>(&'a self, labels: &'a Labels) -> impl Iterator<Item = SelectorId> + 'a {
        labels.cidrs().flat_map(|net| self.around(net))
    }

    /// The selectors whose range is around an address of one of these pods.
    pub(super) fn around_pods<'a>(&'a self, pods: &'a PodAddresses) -> impl Iterator<Item = SelectorId> + 'a {
        pods.iter().flatten().flat_map(|address| self.around(IpNet::from(*address)))
    }

    fn around(&self, net: IpNet) -> impl Iterator<Item = SelectorId> + use<'_> {
        let broader = (0..=net.prefix_len()).filter_map(move |bits| cut(net, bits));
        broader.filter_map(|net| self.selectors.get(&net)).flatten().copied()
    }
}

/// The range of `bits` bits around `net`.
fn cut(net: IpNet, bits: u8) -> Option<IpNet> {
    Some(match net {
        IpNet::V4(net) => Ipv4Net::new(net.addr(), bits).ok()?.trunc().into(),
        IpNet::V6(net) => Ipv6Net::new(net.addr(), bits).ok()?.trunc().into(),
    })
}

/// The range of one address, which comes after all others that begin there.
fn narrowest(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

fn put<K: Ord>(index: &mut BTreeMap<K, BTreeSet<u32>>, key: K, member: u32, there: bool) {
    if there {
        index.entry(key).or_default().insert(member);
        return;
    }
    if let std::collections::btree_map::Entry::Occupied(mut entry) = index.entry(key) {
        entry.get_mut().remove(&member);
        if entry.get().is_empty() {
            entry.remove();
        }
    }
}
