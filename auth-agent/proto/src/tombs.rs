//! Revocations that handshakes under way must not outlive.

use std::collections::BTreeMap;

use crate::limits::MAX_TOMBS;
use crate::pair::Pair;

/// When each identity and node was last revoked.
///
/// A handshake that this agent started is cancelled by the revocation itself. One that the peer started is
/// unknown to the machine until it is done; it counts only if it began after.
#[derive(Debug, Default)]
pub(crate) struct Tombs {
    identities: BTreeMap<u32, u64>,
    nodes: BTreeMap<u16, u64>,
    everybody: u64,
}

impl Tombs {
    pub(crate) fn bury_identity(&mut self, identity: u32, now: u64) {
        self.make_room(now);
        self.identities.insert(identity, now);
    }

    pub(crate) fn bury_node(&mut self, node: u16, now: u64) {
        self.make_room(now);
        self.nodes.insert(node, now);
    }

    pub(crate) fn bury_everybody(&mut self, now: u64) {
        self.identities.clear();
        self.nodes.clear();
        self.everybody = now;
    }

    /// Whether a proof that began then is void.
    pub(crate) fn voids(&self, pair: Pair, started_at: u64) -> bool {
        let after = |at: Option<&u64>| at.is_some_and(|at| started_at <= *at);
        (self.everybody > 0 && started_at <= self.everybody)
            || after(self.identities.get(&pair.local))
            || after(self.identities.get(&pair.remote))
            || after(self.nodes.get(&pair.node))
    }

    pub(crate) fn len(&self) -> usize {
        self.identities.len() + self.nodes.len()
    }

    // Folding them into one is strict towards the innocent, whose next handshake counts again, and keeps
    // the memory bounded.
    fn make_room(&mut self, now: u64) {
        if self.len() >= MAX_TOMBS {
            self.bury_everybody(now);
        }
    }
}
