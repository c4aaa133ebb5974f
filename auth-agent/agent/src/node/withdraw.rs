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
use crate::handshake::limits::MAX_DISOWNED;
use crate::handshake::{Failure, FailureKind, NODE};
use crate::node_ids::THIS_NODE;

/// Who was told what, and who has not unlearnt it yet. Times are of the boot clock.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// By identity and node: the peer's identities in whose handshakes it was told, and until when it believes.
    peers: BTreeMap<(u32, u16), BTreeMap<u32, u64>>,
    /// Addresses that rest, and the peers that still believe in them.
    resting: BTreeMap<IpAddr, Resting>,
    under_way: BTreeSet<(u32, u16)>,
    /// By node: identities that it has to hear we speak for no longer, since when, and until when it matters.
    disowned: BTreeMap<u16, BTreeMap<u32, Disowned>>,
    telling: BTreeSet<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Disowned {
    since: u64,
    until: u64,
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

    /// We speak for that identity no longer: whoever was told otherwise has to hear it.
    fn disown(&mut self, identity: u32, now: u64) {
        for ((_, node), remotes) in self.peers.range((identity, 0)..=(identity, u16::MAX)) {
            let until = remotes.values().copied().max().unwrap_or(0);
            if until > now {
                self.disowned.entry(*node).or_default().insert(identity, Disowned { since: now, until });
            }
        }
    }

    /// What a node has to hear.
    pub(super) fn disowned_to(&self, node: u16) -> Vec<u32> {
        let all = self.disowned.get(&node).into_iter().flat_map(BTreeMap::keys).copied();
        all.take(MAX_DISOWNED).collect()
    }

    /// The node has heard what there was to hear when the handshake with it began.
    fn heard(&mut self, node: u16, started_at: u64) {
        let said = self.disowned_to(node);
        if let Some(all) = self.disowned.get_mut(&node) {
            all.retain(|identity, one| one.since > started_at || !said.contains(identity));
        }
        self.disowned.retain(|_, all| !all.is_empty());
    }

    /// Drops what has ended by itself.
    fn expire(&mut self, now: u64) {
        self.disowned.retain(|_, all| {
            all.retain(|_, one| one.until > now);
            !all.is_empty()
        });
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

    /// This node speaks for an identity no longer, because its SVID was revoked.
    pub(super) fn disown(&mut self, identity: u32) {
        self.told.disown(identity, clock::boot_ns());
        self.disown_due();
    }

    /// Tells every node that has something to hear and is not being told at the moment.
    pub(super) fn disown_due(&mut self) {
        let due = self.told.disowned.keys().filter(|node| !self.told.telling.contains(*node));
        for node in due.copied().collect::<Vec<u16>>() {
            if self.start(Pair::new(NODE, NODE, node), Purpose::Disown).is_ok() {
                self.told.telling.insert(node);
            }
        }
    }

    /// A node was told, or could not be.
    pub(super) fn disowned_at(&mut self, node: u16, started_at: u64, failure: Option<&Failure>) {
        self.told.telling.remove(&node);
        match failure {
            None => {
                self.told.heard(node, started_at);
                self.disown_due();
            }
            Some(failure) => {
                tracing::warn!(node, %failure, "a node has not heard of a revocation; trying again")
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
    fn whoever_believes_hears_of_a_revocation_until_it_has() {
        let mut told = Told::default();
        told.note(300, 400, 1, 100);
        told.note(300, 401, 2, 5);
        told.note(301, 401, 1, 100);
        told.disown(300, 10);
        assert_eq!((told.disowned_to(1), told.disowned_to(2)), (vec![300], vec![]), "2 believes no more");
        // Revoked while the node was being told of the first.
        told.disown(301, 20);
        told.heard(1, 15);
        assert_eq!(told.disowned_to(1), [301]);
        told.expire(100);
        assert!(told.disowned_to(1).is_empty(), "what was proved has ended by itself");
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
