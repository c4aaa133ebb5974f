//! What `auth list` and `status` show.

use crate::pair::Pair;
use crate::reason::FailureKind;

/// Where a pair stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairState {
    /// Waiting for its handshake to start.
    Queued,
    /// Its handshake is under way.
    Proving,
    /// Proved.
    Live,
    /// Proved, and being proved again.
    Renewing,
    /// Proved, but the last renewal failed.
    RenewalFailed,
    /// Not proved; the last handshake failed.
    Failed,
}

impl PairState {
    /// The word for people and for JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Proving => "proving",
            Self::Live => "live",
            Self::Renewing => "renewing",
            Self::RenewalFailed => "renewal-failed",
            Self::Failed => "failed",
        }
    }
}

/// One pair; on the same node one line stands for both entries. Times are nanoseconds of the boot clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairStatus {
    /// The pair (canonical).
    pub pair: Pair,
    /// Where it stands.
    pub state: PairState,
    /// When the live entry ends.
    pub expires_at: Option<u64>,
    /// When it is to be renewed.
    pub renew_at: Option<u64>,
    /// When a failed pair may dial again.
    pub retry_at: Option<u64>,
    /// How long the last good handshake took, in nanoseconds; nothing for restored entries.
    pub last_handshake: Option<u64>,
    /// Why the last handshake failed, if it was not followed by a good one.
    pub last_error: Option<FailureKind>,
    /// Failures in a row.
    pub attempts: u32,
    /// How often it was proved.
    pub generation: u32,
    /// Policy requires it.
    pub required: bool,
    /// Frames parked for it.
    pub parked: usize,
}

/// The machine in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Pairs known.
    pub pairs: usize,
    /// Pairs with a live entry.
    pub live: usize,
    /// Pairs that failed and wait for nothing.
    pub failed: usize,
    /// Handshakes waiting to start.
    pub queued: usize,
    /// Handshakes under way.
    pub in_flight: usize,
    /// Timers running.
    pub timers: usize,
    /// Remote addresses bound.
    pub bindings: usize,
    /// The identity source is away since then: entries live out their time and nothing is extended.
    pub source_down_since: Option<u64>,
    /// The revocation epoch.
    pub epoch: u32,
}
