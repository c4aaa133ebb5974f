//! Changes of the policy map.

use countersign_ebpf_common::policy::{PolicyEntry, PolicyKey};

/// Where an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyTable {
    /// The exact-match hash, looked at first: what stands there is final.
    Exact,
    /// The longest-prefix-match trie, with the length of the entry's prefix in bits (56, 64 ..= 80).
    Prefix(u8),
}

/// One change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PolicyOp {
    /// Sets the entry, whatever stood there.
    Upsert(PolicyTable, PolicyKey, PolicyEntry),
    /// Removes the entry, if there is one.
    Delete(PolicyTable, PolicyKey),
}
