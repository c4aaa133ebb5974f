//! What a change concerns, so that only that is worked out anew.

use std::collections::{BTreeMap, BTreeSet};

/// Whose policy a change concerns, and how much of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    whole: BTreeSet<u32>,
    peers: BTreeMap<u32, BTreeSet<u32>>,
}

/// How much of an endpoint's policy a change concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope<'a> {
    /// All of it.
    Whole,
    /// What it says of these peers.
    Peers(&'a BTreeSet<u32>),
}

impl Touched {
    /// Whether nothing is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.peers.is_empty()
    }

    /// The identities whose endpoints are concerned.
    #[must_use]
    pub fn identities(&self) -> BTreeSet<u32> {
        self.whole.iter().chain(self.peers.keys()).copied().collect()
    }

    /// How much of this identity's policy is concerned.
    #[must_use]
    pub fn scope(&self, identity: u32) -> Option<Scope<'_>> {
        if self.whole.contains(&identity) {
            return Some(Scope::Whole);
        }
        self.peers.get(&identity).map(Scope::Peers)
    }

    /// Adds what another change concerns.
    pub fn extend(&mut self, other: Self) {
        self.whole.extend(other.whole);
        for (identity, peers) in other.peers {
            self.peers.entry(identity).or_default().extend(peers);
        }
    }

    pub(super) fn whole(&mut self, identity: u32) {
        self.whole.insert(identity);
    }

    pub(super) fn peer(&mut self, identity: u32, peer: u32) {
        if !self.whole.contains(&identity) {
            self.peers.entry(identity).or_default().insert(peer);
        }
    }
}
