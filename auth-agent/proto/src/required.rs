//! What policy requires to be authenticated.

use std::collections::{BTreeMap, BTreeSet};

use crate::pair::Pair;

/// The pairs that policy requires, by local identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Required {
    /// Every pair (nothing is known about policy yet).
    Everything,
    /// These pairs.
    These(BTreeMap<u32, Remotes>),
}

/// The remote identities that one local identity must authenticate with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remotes {
    /// All of them.
    Any,
    /// These.
    These(BTreeSet<u32>),
}

impl Required {
    /// Whether policy requires the pair, in either order if both are on this node.
    pub fn requires(&self, pair: Pair) -> bool {
        self.has(pair) || pair.mirror().is_some_and(|mirror| self.has(mirror))
    }

    fn has(&self, pair: Pair) -> bool {
        match self {
            Self::Everything => true,
            Self::These(locals) => match locals.get(&pair.local) {
                None => false,
                Some(Remotes::Any) => true,
                Some(Remotes::These(remotes)) => remotes.contains(&pair.remote),
            },
        }
    }
}
