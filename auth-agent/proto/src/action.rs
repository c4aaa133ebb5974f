//! What the machine asks of the shell.

use std::net::IpAddr;

use crate::pair::Pair;
use crate::reason::{DiscardReason, FailureKind, RemoveReason};

/// Something to be done, in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Begin a handshake. Exactly one `HandshakeDone` or `HandshakeFailed` with this attempt is expected.
    Start {
        /// The pair; on the same node, the canonical one.
        pair: Pair,
        /// Names this handshake.
        attempt: u64,
    },
    /// Give a handshake up: its result will be ignored.
    Cancel {
        /// The pair.
        pair: Pair,
        /// The handshake.
        attempt: u64,
    },
    /// Write this entry into the authentication map. On the same node both entries come, one after the other.
    Install {
        /// The key.
        pair: Pair,
        /// From then on the entry is void.
        expires_at: u64,
        /// The revocation epoch it was proved in.
        epoch: u32,
        /// Counts the proofs of this pair.
        generation: u32,
    },
    /// Delete this entry, and make cached verdicts that rest on it stale.
    Remove {
        /// The key.
        pair: Pair,
        /// Why.
        why: RemoveReason,
    },
    /// Write this binding of a remote address.
    Bind {
        /// The remote pod's address.
        ip: IpAddr,
        /// Its identity.
        identity: u32,
        /// Its node.
        node: u16,
        /// The endpoint's generation at its owner.
        generation: u32,
        /// The revocation epoch it was asserted in.
        epoch: u32,
    },
    /// Delete this binding.
    Unbind {
        /// The remote pod's address.
        ip: IpAddr,
    },
    /// Write the pair's parked frames back, in the order of arrival. The datapath judges them again.
    Release {
        /// The pair; [`crate::Parking`] takes either order of a pair on the same node.
        pair: Pair,
    },
    /// Drop the pair's parked frames.
    Discard {
        /// The pair.
        pair: Pair,
        /// Why.
        why: DiscardReason,
    },
    /// Tell flows and metrics.
    Emit(Notice),
}

/// A state change worth a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    /// When.
    pub at: u64,
    /// Of which pair.
    pub pair: Pair,
    /// What.
    pub change: Change,
}

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The pair was proved.
    Proved {
        /// How long the handshake took, in nanoseconds.
        took: u64,
        /// Until when it holds.
        expires_at: u64,
        /// The peer dialled.
        inbound: bool,
        /// It was live before.
        renewal: bool,
    },
    /// A handshake failed.
    Failed {
        /// Why.
        why: FailureKind,
        /// How many failed in a row.
        attempts: u32,
        /// When the next is allowed.
        retry_at: u64,
    },
    /// The entry was removed.
    Removed(RemoveReason),
}
