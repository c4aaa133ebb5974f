//! Addresses whose endpoint is gone: every node that was told of it hears so before the address is used again.
//!
//! A peer believes an assertion until the proof it came with ends. When an endpoint goes (or changes its
//! identity), its node shakes hands again with each of those peers, with the addresses that are left; the
//! peer's replaces what it was told before. Until all have answered, or the proofs have ended, nobody gets the
//! address: a successor would pass as its predecessor at a peer that does not hear from the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use countersign_auth_proto::{Event, Pair};

use super::Node;
use super::auth::Purpose;
use crate::clock;
use crate::handshake::{Failure, FailureKind};
use crate::node_ids::THIS_NODE;

/// Who was told what, and who has not unlearnt it yet. Times are of the boot clock.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// By identity and node: the peer's identities in whose handshakes it was told, and until when it believes.
    peers: BTreeMap<(u32, u16), BTreeMap<u32, u64>>,
    /// Addresses that rest, and the peers that still believe in them.
    resting: BTreeMap<IpAddr, Resting>,
    under_way: BTreeSet<(u32, u16)>,
}

#[derive(Debug)]
struct Resting {
    identity: u32,
    nodes: BTreeMap<u16, u64>,
}

impl Told {
    /// A peer's node has been told of the endpoints of an identity, in a handshake with `remote`.
    pub(super) fn note(&mut self, identity: u32, remote: u32, node: u16, until: u64) {
        if node != THIS_NODE {
            self.peers.entry((identity, node)).or_default().insert(remote, until);
        }
    }

    /// The address's endpoint is gone. Says whether anybody has to unlearn it.
    fn rest(&mut self, ip: IpAddr, identity: u32, now: u64) {
        let told = self.peers.range((identity, 0)..=(identity, u16::MAX));
        let nodes: BTreeMap<u16, u64> = told
            .filter_map(|((_, node), remotes)| {
                let until = remotes.values().copied().max().filter(|until| *until > now)?;
                Some((*node, until))
            })
            .collect();
        if !nodes.is_empty() {
            self.resting.insert(ip, Resting { identity, nodes });
        }
    }

    /// The peer has unlearnt every address of the identity that is not asserted any more.
    fn unlearnt(&mut self, identity: u32, node: u16) {
        for resting in self.resting.values_mut().filter(|resting| resting.identity == identity) {
            resting.nodes.remove(&node);
        }
        self.resting.retain(|_, resting| !resting.nodes.is_empty());
    }

    /// Drops what has ended by itself.
    fn expire(&mut self, now: u64) {
        self.peers.retain(|_, remotes| {
            remotes.retain(|_, until| *until > now);
            !remotes.is_empty()
        });
        self.resting.retain(|_, resting| {
            resting.nodes.retain(|_, until| *until > now);
            !resting.nodes.is_empty()
        });
    }

    /// Whether the address rests: the identity it had, and how many nodes believe in it.
    pub(super) fn resting(&self, ip: IpAddr) -> Option<(u32, usize)> {
        self.resting.get(&ip).map(|resting| (resting.identity, resting.nodes.len()))
    }

    /// Identities whose SVID is needed until their peers have unlearnt their addresses.
    pub(super) fn identities(&self) -> impl Iterator<Item = u32> + '_ {
        self.resting.values().map(|resting| resting.identity)
    }

    /// Peers that have to be spoken to and are not at the moment.
    fn due(&self) -> BTreeSet<(u32, u16)> {
        let all = self
            .resting
            .values()
            .flat_map(|resting| resting.nodes.keys().map(|node| (resting.identity, *node)));
        all.filter(|peer| !self.under_way.contains(peer)).collect()
    }

    /// An identity of the peer's node in whose name it can be spoken to.
    fn remote(&self, peer: (u32, u16)) -> Option<u32> {
        self.peers.get(&peer)?.keys().next().copied()
    }
}

impl Node {
    /// An endpoint lets go of its addresses under this identity.
    pub(super) fn let_go(&mut self, identity: u32, ips: &[IpAddr]) {
        let now = clock::boot_ns();
        for ip in ips {
            // Within this node nobody has to be asked.
            self.machine.handle(Event::AddressGone { ip: *ip }, now);
            self.told.rest(*ip, identity, now);
        }
        self.act();
        self.withdraw_due();
    }

    /// Speaks to every peer that still has something to unlearn.
    pub(super) fn withdraw_due(&mut self) {
        self.told.expire(clock::boot_ns());
        for (identity, node) in self.told.due() {
            let Some(remote) = self.told.remote((identity, node)) else {
                self.told.unlearnt(identity, node);
                continue;
            };
            if self.start(Pair::new(identity, remote, node), Purpose::Withdraw).is_ok() {
                self.told.under_way.insert((identity, node));
            }
        }
    }

    /// A handshake that was to withdraw addresses has ended.
    pub(super) fn withdrawn(&mut self, pair: Pair, failure: Option<&Failure>) {
        let peer = (pair.local, pair.node);
        self.told.under_way.remove(&peer);
        match failure.map(|failure| failure.kind) {
            None => self.told.unlearnt(pair.local, pair.node),
            // The peer has no endpoint of that identity: nobody there can be deceived in its name.
            Some(FailureKind::NotLocal) => {
                if let Some(remotes) = self.told.peers.get_mut(&peer) {
                    remotes.remove(&pair.remote);
                }
                self.withdraw_due();
            }
            Some(_) => tracing::debug!(?pair, ?failure, "addresses could not be withdrawn; trying again"),
        }
        if self.told.resting.is_empty() {
            self.want_svids();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn an_address_rests_until_every_node_has_unlearnt_it() {
        let mut told = Told::default();
        told.note(300, 400, 1, 100);
        told.note(300, 401, 2, 200);
        told.note(300, 402, THIS_NODE, 900);
        told.note(301, 400, 3, 100);
        told.rest(ip(1), 300, 10);
        assert_eq!(told.resting(ip(1)), Some((300, 2)));
        assert_eq!(told.due(), BTreeSet::from([(300, 1), (300, 2)]));
        told.unlearnt(300, 1);
        assert_eq!(told.resting(ip(1)), Some((300, 1)));
        told.expire(199);
        assert_eq!(told.resting(ip(1)), Some((300, 1)));
        told.expire(200);
        assert_eq!(told.resting(ip(1)), None);
    }

    #[test]
    fn an_address_nobody_was_told_of_does_not_rest() {
        let mut told = Told::default();
        told.note(300, 400, 1, 100);
        told.rest(ip(1), 301, 10);
        told.rest(ip(2), 300, 100);
        assert_eq!((told.resting(ip(1)), told.resting(ip(2))), (None, None));
    }
}
