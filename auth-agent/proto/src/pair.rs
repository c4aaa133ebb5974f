//! The pair of identities that must prove themselves to each other.

use crate::limits::{MAX_POD_IDENTITY, MIN_POD_IDENTITY};

/// A local identity, a remote identity and the node the remote one is on; the key of the datapath's
/// authentication map.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Pair {
    /// The identity of an endpoint of this node.
    pub local: u32,
    /// The identity at the other end.
    pub remote: u32,
    /// The node of the other end, by this agent's numbering; 0 is this node.
    pub node: u16,
}

impl Pair {
    /// A pair as the datapath names it.
    pub const fn new(local: u32, remote: u32, node: u16) -> Self {
        Self { local, remote, node }
    }

    /// The one name of the pair: on the same node (a, b) and (b, a) are served by one handshake, so both
    /// are called by the smaller identity first. Pairs with another node are their own name.
    pub fn canonical(self) -> Self {
        if self.node == 0 && self.local > self.remote { self.swapped() } else { self }
    }

    /// The other entry that the same handshake serves on this node, if there is one.
    pub fn mirror(self) -> Option<Self> {
        (self.node == 0 && self.local != self.remote).then(|| self.swapped())
    }

    /// Whether the identity is one of the two.
    pub const fn involves(self, identity: u32) -> bool {
        self.local == identity || self.remote == identity
    }

    /// Whether both identities are of pods. Reserved and CIDR identities have no SVID and never will.
    pub fn can_authenticate(self) -> bool {
        let pods = MIN_POD_IDENTITY..=MAX_POD_IDENTITY;
        pods.contains(&self.local) && pods.contains(&self.remote)
    }

    const fn swapped(self) -> Self {
        Self { local: self.remote, remote: self.local, node: self.node }
    }
}
