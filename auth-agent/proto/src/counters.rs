//! Counters for metrics; they only grow.

use crate::reason::{DiscardReason, FailureKind, Overload};

/// What the machine has done since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// `Missing` events and admitted frames.
    pub missing: u64,
    /// Handshakes started.
    pub started: u64,
    /// Handshakes given up by the machine.
    pub cancelled: u64,
    /// Handshakes of this agent that succeeded.
    pub done_dialled: u64,
    /// Handshakes of peers that succeeded.
    pub done_inbound: u64,
    /// Failures by kind, in the order of [`FailureKind::ALL`].
    pub failed: [u64; FailureKind::ALL.len()],
    /// Results for handshakes the machine no longer knows.
    pub stale_results: u64,
    /// Proofs that began before a revocation that touches them.
    pub voided: u64,
    /// Entries proved again while live.
    pub renewed: u64,
    /// Entries that expired.
    pub expired: u64,
    /// Entries removed for another reason.
    pub removed: u64,
    /// Entries written again because the datapath missed them.
    pub repaired: u64,
    /// Failed pairs forgotten to make room.
    pub evicted: u64,
    /// Frames or events refused because a pair is in back-off.
    pub refused_backoff: u64,
    /// Frames or events refused because the peer did not assert the address.
    pub refused_not_asserted: u64,
    /// Frames or events refused because an identity cannot authenticate.
    pub refused_reserved: u64,
    /// Refused because the table was full.
    pub overload_table: u64,
    /// Refused because a local identity's share was used up.
    pub overload_identity: u64,
    /// Refused because the queue was full.
    pub overload_queue: u64,
    /// Assertions of peers that were not taken: too many, or older than what is known.
    pub assertions_ignored: u64,
    /// Probes of nodes that did not answer.
    pub probes: u64,
}

impl Counters {
    /// How many handshakes failed for this reason.
    pub fn failures(&self, kind: FailureKind) -> u64 {
        self.failed.get(kind as usize).copied().unwrap_or(0)
    }

    pub(crate) fn count_failure(&mut self, kind: FailureKind) {
        if let Some(count) = self.failed.get_mut(kind as usize) {
            *count += 1;
        }
    }

    pub(crate) fn count_overload(&mut self, overload: Overload) {
        match overload {
            Overload::Table => self.overload_table += 1,
            Overload::Identity => self.overload_identity += 1,
            Overload::Queue => self.overload_queue += 1,
        }
    }

    pub(crate) fn count_refusal(&mut self, why: DiscardReason) {
        match why {
            DiscardReason::BackOff(_) | DiscardReason::Failed(_) => self.refused_backoff += 1,
            DiscardReason::NotAsserted => self.refused_not_asserted += 1,
            DiscardReason::Reserved => self.refused_reserved += 1,
            DiscardReason::Overload(overload) => self.count_overload(overload),
            DiscardReason::Revoked | DiscardReason::IdentityGone | DiscardReason::NodeGone => {}
        }
    }
}
