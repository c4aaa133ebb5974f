//! The settings of the machine.

use crate::limits;

/// Settings; every default is in [`limits`] with its reason. Times are nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// An entry ends this long after its proof, if no certificate ends it before.
    pub max_age: u64,
    /// How long a frame may wait; the same as [`crate::ParkLimits::deadline`].
    pub park_deadline: u64,
    /// A handshake without a result is given up after this; more than the shell's own deadline.
    pub handshake_deadline: u64,
    /// The first back-off.
    pub backoff_min: u64,
    /// The longest back-off.
    pub backoff_max: u64,
    /// Pairs in the table.
    pub max_pairs: usize,
    /// Pairs of one local identity that have no live entry.
    pub max_unproven_per_identity: usize,
    /// Pairs of one local identity that have a live entry.
    pub max_live_per_identity: usize,
    /// Pairs waiting for their handshake to start.
    pub max_queued: usize,
    /// Handshakes under way.
    pub max_in_flight: usize,
    /// Handshakes under way for one local identity.
    pub max_in_flight_per_identity: usize,
    /// Handshakes under way with one node.
    pub max_in_flight_per_node: usize,
    /// Renew entries that policy requires although no packet has used them since the last proof. Without
    /// it the shell must give [`crate::Event::Used`] hints, or a flow may meet an expired entry.
    pub renew_unused: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_age: limits::MAX_AGE,
            park_deadline: limits::PARK_DEADLINE,
            handshake_deadline: limits::HANDSHAKE_DEADLINE,
            backoff_min: limits::BACKOFF_MIN,
            backoff_max: limits::BACKOFF_MAX,
            max_pairs: limits::MAX_PAIRS,
            max_unproven_per_identity: limits::MAX_UNPROVEN_PER_IDENTITY,
            max_live_per_identity: limits::MAX_LIVE_PER_IDENTITY,
            max_queued: limits::MAX_QUEUED,
            max_in_flight: limits::MAX_IN_FLIGHT,
            max_in_flight_per_identity: limits::MAX_IN_FLIGHT_PER_IDENTITY,
            max_in_flight_per_node: limits::MAX_IN_FLIGHT_PER_NODE,
            renew_unused: true,
        }
    }
}
