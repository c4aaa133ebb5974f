//! Who was told what: the notes of withdrawing, without a socket, and how they outlive the agent.
//!
//! What is proved is read back from the pinned maps after a restart, and with it who was told. What those do not say
//! is saved: peers that still believe in a proof that has gone here, addresses that rest, revocations that a node has
//! not heard of yet. Times in the file are Unix seconds, since the boot clock begins anew with the machine.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use countersign_auth_proto::Pair;
use serde::{Deserialize, Serialize};

use crate::handshake::limits::MAX_DISOWNED;
use crate::limits::TOLD_SAVED;
use crate::node_ids::THIS_NODE;

/// Who was told what, and who has not unlearnt it yet. Times are of the boot clock.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// By identity and node: the peer's identities in whose handshakes it was told, and until when it believes.
    peers: BTreeMap<(u32, u16), BTreeMap<u32, u64>>,
    /// Addresses that rest, and the peers that still believe in them.
    resting: BTreeMap<IpAddr, Resting>,
    pub(super) under_way: BTreeSet<(u32, u16)>,
    /// By node: identities that it has to hear we speak for no longer, since when, and until when it matters.
    disowned: BTreeMap<u16, BTreeMap<u32, Disowned>>,
    pub(super) telling: BTreeSet<u16>,
    /// Identities of this node in whose name an earlier agent proved something, and of which the source has said
    /// nothing yet.
    restored: BTreeSet<u32>,
    /// What is to be saved has changed.
    dirty: bool,
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
    pub(super) fn rest(&mut self, ip: IpAddr, identity: u32, now: u64) {
        let told = self.peers.range((identity, 0)..=(identity, u16::MAX));
        let nodes: BTreeMap<u16, u64> = told
            .filter_map(|((_, node), remotes)| {
                let until = remotes.values().copied().max().filter(|until| *until > now)?;
                Some((*node, until))
            })
            .collect();
        if !nodes.is_empty() {
            self.dirty = true;
            self.resting.insert(ip, Resting { identity, nodes });
        }
    }

    /// The peer has unlearnt every address of the identity that is not asserted any more.
    pub(super) fn unlearnt(&mut self, identity: u32, node: u16) {
        for resting in self.resting.values_mut().filter(|resting| resting.identity == identity) {
            self.dirty |= resting.nodes.remove(&node).is_some();
        }
        self.resting.retain(|_, resting| !resting.nodes.is_empty());
    }

    /// We speak for that identity no longer: whoever was told otherwise has to hear it.
    pub(super) fn disown(&mut self, identity: u32, now: u64) {
        for ((_, node), remotes) in self.peers.range((identity, 0)..=(identity, u16::MAX)) {
            let until = remotes.values().copied().max().unwrap_or(0);
            if until > now {
                let all = self.disowned.entry(*node).or_default();
                // It has not been told anything since: what it is to hear is the same.
                if all.get(&identity).is_none_or(|one| one.until != until) {
                    all.insert(identity, Disowned { since: now, until });
                    self.dirty = true;
                }
            }
        }
    }

    /// What a node has to hear.
    pub(super) fn disowned_to(&self, node: u16) -> Vec<u32> {
        let all = self.disowned.get(&node).into_iter().flat_map(BTreeMap::keys).copied();
        all.take(MAX_DISOWNED).collect()
    }

    /// The node has heard what there was to hear when the handshake with it began.
    pub(super) fn heard(&mut self, node: u16, started_at: u64) {
        let said = self.disowned_to(node);
        let Some(all) = self.disowned.get_mut(&node) else { return };
        let heard: Vec<u32> = all
            .extract_if(.., |identity, one| one.since <= started_at && said.contains(identity))
            .map(|(identity, _)| identity)
            .collect();
        self.disowned.retain(|_, all| !all.is_empty());
        self.dirty |= !heard.is_empty();
        // With its proofs it has forgotten the addresses they came with.
        for identity in heard {
            self.unlearnt(identity, node);
        }
    }

    /// Drops what has ended by itself.
    pub(super) fn expire(&mut self, now: u64) {
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
    pub(super) fn due(&self) -> BTreeSet<(u32, u16)> {
        let all = self
            .resting
            .values()
            .flat_map(|resting| resting.nodes.keys().map(|node| (resting.identity, *node)));
        all.filter(|peer| !self.under_way.contains(peer)).collect()
    }

    /// An identity of the peer's node in whose name it can be spoken to.
    pub(super) fn remote(&self, peer: (u32, u16)) -> Option<u32> {
        self.peers.get(&peer)?.keys().next().copied()
    }

    /// The peer has no endpoint of that identity: nobody there was told in its name any more.
    pub(super) fn forget_remote(&mut self, peer: (u32, u16), remote: u32) {
        if let Some(remotes) = self.peers.get_mut(&peer) {
            remotes.remove(&remote);
        }
    }

    /// No address rests.
    pub(super) fn none_rest(&self) -> bool {
        self.resting.is_empty()
    }

    /// Nodes that have something to hear and are not being told at the moment.
    pub(super) fn to_be_told(&self) -> Vec<u16> {
        self.disowned.keys().copied().filter(|node| !self.telling.contains(node)).collect()
    }

    /// An earlier agent proved this identity of this node.
    pub(super) fn restored(&mut self, identity: u32) {
        self.restored.insert(identity);
    }

    /// The source has spoken of an identity. Says whether that is its first word about what an earlier agent proved.
    pub(super) fn first_word(&mut self, identity: u32) -> bool {
        self.restored.remove(&identity)
    }

    /// The cluster is known: identities that nobody here is to have are not waited for.
    pub(super) fn restored_are(&mut self, wanted: &BTreeSet<u32>) {
        self.restored.retain(|identity| wanted.contains(identity));
    }

    /// A proof is gone here: if that is before its end, the peer believes on, and the maps do not say so.
    pub(super) fn unproved(&mut self, pair: Pair, now: u64) {
        let until = self.peers.get(&(pair.local, pair.node)).and_then(|remotes| remotes.get(&pair.remote));
        self.dirty |= until.is_some_and(|until| *until > now);
    }

    /// What is to be saved, if that has changed since the last time. `is_live` says what is proved here and will be
    /// read back from the maps; `unix` makes Unix seconds of the boot clock's.
    pub(super) fn unsaved(
        &mut self,
        is_live: impl Fn(Pair) -> bool,
        unix: impl Fn(u64) -> u64,
    ) -> Option<Saved> {
        if !std::mem::take(&mut self.dirty) {
            return None;
        }
        let mut saved = Saved::default();
        for ((identity, node), remotes) in &self.peers {
            let gone = remotes.iter().filter(|(remote, _)| !is_live(Pair::new(*identity, **remote, *node)));
            saved.peers.extend(gone.map(|(remote, until)| (*identity, *node, *remote, unix(*until))));
        }
        for (ip, resting) in &self.resting {
            let nodes = resting.nodes.iter();
            saved.resting.extend(nodes.map(|(node, until)| (*ip, resting.identity, *node, unix(*until))));
        }
        for (node, all) in &self.disowned {
            saved.disowned.extend(all.iter().map(|(identity, one)| (*node, *identity, unix(one.until))));
        }
        let most = saved.peers.len().max(saved.resting.len()).max(saved.disowned.len());
        if most > TOLD_SAVED {
            tracing::warn!(
                most,
                "more than can be saved: a restart forgets some of whom peers still believe"
            );
            saved.peers.truncate(TOLD_SAVED);
            saved.resting.truncate(TOLD_SAVED);
            saved.disowned.truncate(TOLD_SAVED);
        }
        Some(saved)
    }

    /// Saving has failed: to be tried again.
    pub(super) fn not_saved(&mut self) {
        self.dirty = true;
    }

    /// Takes up what an earlier agent saved; `is_known` says which nodes still have their numbers, `boot` is the
    /// reverse of `unix` above.
    pub(super) fn restore(
        &mut self,
        saved: Saved,
        is_known: impl Fn(u16) -> bool,
        boot: impl Fn(u64) -> u64,
    ) {
        for (identity, node, remote, until) in saved.peers.into_iter().take(TOLD_SAVED) {
            if is_known(node) {
                self.note(identity, remote, node, boot(until));
                self.restored(identity);
            }
        }
        for (ip, identity, node, until) in saved.resting.into_iter().take(TOLD_SAVED) {
            if is_known(node) {
                let resting = self.resting.entry(ip);
                let resting = resting.or_insert_with(|| Resting { identity, nodes: BTreeMap::new() });
                resting.nodes.insert(node, boot(until));
            }
        }
        for (node, identity, until) in saved.disowned.into_iter().take(TOLD_SAVED) {
            if is_known(node) {
                let one = Disowned { since: 0, until: boot(until) };
                self.disowned.entry(node).or_default().insert(identity, one);
            }
        }
    }
}

/// What outlives the agent. Times are Unix seconds, nodes are by their numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Saved {
    /// Identity, node, the peer's identity, until when it believes.
    peers: Vec<(u32, u16, u32, u64)>,
    /// Address, the identity it had, a node that believes in it, until when.
    resting: Vec<(IpAddr, u32, u16, u64)>,
    /// Node, an identity it has to hear we speak for no longer, until when it matters.
    disowned: Vec<(u16, u32, u64)>,
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

    fn saved_and_restored(told: &mut Told, live: &[Pair]) -> Told {
        let saved = told.unsaved(|pair| live.contains(&pair), |boot| boot + 1_000).expect("something new");
        assert!(told.unsaved(|_| false, |boot| boot).is_none(), "nothing new since");
        let text = serde_json::to_vec(&saved).expect("JSON");
        let saved = serde_json::from_slice(&text).expect("the same JSON");
        let mut again = Told::default();
        again.restore(saved, |node| node != 9, |unix| unix.saturating_sub(1_000));
        again
    }

    #[test]
    fn what_the_maps_do_not_say_outlives_the_agent() {
        let mut told = Told::default();
        for node in [1, 2, 9] {
            told.note(300, 400, node, 100);
        }
        told.note(301, 400, 1, 100);
        told.unproved(Pair::new(300, 400, 1), 10);
        told.rest(ip(1), 300, 10);
        told.disown(301, 10);
        let mut again = saved_and_restored(&mut told, &[Pair::new(300, 400, 2)]);
        assert_eq!(again.disowned_to(1), [301]);
        assert_eq!(again.resting(ip(1)), Some((300, 2)), "the node without a number is forgotten");
        again.disown(300, 20);
        assert_eq!(again.disowned_to(1), [300, 301], "it was told, and its proof was not in the maps");
        assert!(again.disowned_to(2).is_empty(), "this one's proof is: the maps say that it was told");
        again.heard(1, 30);
        assert_eq!(again.resting(ip(1)), Some((300, 1)), "who has heard has forgotten the addresses, too");
        again.expire(100);
        assert_eq!((again.resting(ip(1)), again.disowned_to(1)), (None, Vec::new()));
    }

    #[test]
    fn a_save_that_fails_is_tried_again() {
        let mut told = Told::default();
        told.note(300, 400, 1, 100);
        told.unproved(Pair::new(300, 400, 1), 100);
        told.unproved(Pair::new(300, 401, 1), 10);
        told.unproved(Pair::new(300, 400, THIS_NODE), 10);
        assert!(told.unsaved(|_| false, |boot| boot).is_none(), "nobody believes on");
        told.unproved(Pair::new(300, 400, 1), 10);
        assert!(told.unsaved(|_| false, |boot| boot).is_some());
        told.not_saved();
        assert!(told.unsaved(|_| false, |boot| boot).is_some());
    }

    #[test]
    fn the_first_word_about_what_was_restored_is_said_once() {
        let mut told = Told::default();
        told.restored(300);
        told.restored(301);
        told.restored_are(&BTreeSet::from([300]));
        assert_eq!((told.first_word(300), told.first_word(300), told.first_word(301)), (true, false, false));
    }
}
