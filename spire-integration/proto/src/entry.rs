//! Registration entries, and how one can see whose they are.
//!
//! SPIRE's entries have no labels. What their creator may choose is their ID (at most 255 of `A-Z a-z 0-9 . - _`),
//! which workloads never see, so that is where our name stands: `countersign.<cluster>.<kind>.<hash>`.

use std::collections::BTreeSet;
use std::fmt;

use countersign_certs::{SpiffeId, TrustDomain};
use sha2::{Digest, Sha256};

use crate::limits::MAX_CLUSTER_BYTES;
use crate::selector::Selector;

/// What every ID of ours begins with, whatever the cluster.
const HOUSE: &str = "countersign.";

/// Bytes of the hash in an entry's ID: 128 bits, which no two entries share by chance.
const HASH_BYTES: usize = 16;

/// The part of an entry that we decide. The rest of it is as SPIRE makes it: no administrator, no downstream
/// server, no DNS names, no end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Whom the SVID names.
    pub spiffe_id: SpiffeId,
    /// Which SPIRE agent gets it (the server's own ID: who is a node).
    pub parent_id: SpiffeId,
    /// What the agent must have found out about a process, all of it.
    pub selectors: BTreeSet<Selector>,
    /// Life of the SVID in seconds; 0 is the server's default.
    pub x509_svid_ttl_seconds: u32,
    /// Trust domains whose bundles come with the SVID.
    pub federates_with: BTreeSet<TrustDomain>,
    /// What a workload with several SVIDs may choose by.
    pub hint: String,
}

impl Entry {
    /// What SPIRE takes for the same entry: it creates no second one that is alike in these.
    #[must_use]
    pub fn likeness(&self) -> (&SpiffeId, &SpiffeId, &BTreeSet<Selector>) {
        (&self.spiffe_id, &self.parent_id, &self.selectors)
    }
}

/// What an entry on the server has beside what we decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extras {
    /// Nothing.
    None,
    /// DNS names, an end, a life of JWT-SVIDs: an SVID is handed out all the same.
    Harmless,
    /// It is an administrator's, a downstream server's, or stored elsewhere: agents hand such out to no delegate.
    Withheld,
}

/// An entry on the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Existing {
    /// Its ID.
    pub id: String,
    /// The part that we decide; none where it is not of a form that we could have written.
    pub entry: Option<Entry>,
    /// What else there is to it.
    pub extras: Extras,
}

/// Whose entries: the name of a cluster, which several that share a SPIRE server do not share.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    cluster: String,
    prefix: String,
}

/// Why some text is no name of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a cluster's name has 1 to {MAX_CLUSTER_BYTES} of a-z, 0-9 and '-', a letter or digit first and last"
)]
pub struct OwnerError;

impl Owner {
    /// Takes the name of a cluster, which has no dot: so that no cluster's prefix is part of another's.
    ///
    /// # Errors
    /// Where it is none.
    pub fn parse(cluster: &str) -> Result<Self, OwnerError> {
        let edge = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let bytes = cluster.as_bytes();
        let good = bytes.len() <= MAX_CLUSTER_BYTES
            && edge(bytes.first())
            && edge(bytes.last())
            && bytes.iter().all(|byte| inside(*byte));
        if !good {
            return Err(OwnerError);
        }
        Ok(Self { cluster: cluster.to_owned(), prefix: format!("{HOUSE}{cluster}.") })
    }

    /// The name.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Whether the entry with this ID is ours.
    #[must_use]
    pub fn owns(&self, entry_id: &str) -> bool {
        entry_id.starts_with(&self.prefix)
    }

    /// The ID of an entry of this kind about that thing. Equal arguments give equal IDs, and only those do.
    pub(crate) fn entry_id(&self, kind: Kind, about: &[&str]) -> String {
        let mut hash = Sha256::new();
        for text in about {
            // The lengths keep ("a", "bc") and ("ab", "c") apart.
            hash.update(u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(text.as_bytes());
        }
        let digest = hash.finalize();
        let hex: String = digest.iter().take(HASH_BYTES).map(|byte| format!("{byte:02x}")).collect();
        format!("{}{kind}.{hex}", self.prefix)
    }
}

impl std::str::FromStr for Owner {
    type Err = OwnerError;

    fn from_str(cluster: &str) -> Result<Self, OwnerError> {
        Self::parse(cluster)
    }
}

/// What an entry of ours is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A pod on its node.
    Pod,
    /// The Countersign agent of a node.
    Agent,
    /// Which SPIRE agent is the node's.
    Node,
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Pod => "pod",
            Self::Agent => "agent",
            Self::Node => "node",
        })
    }
}
