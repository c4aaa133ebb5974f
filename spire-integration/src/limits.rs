//! Every limit of this crate, each with its reason.

use std::time::Duration;

/// Life of the embedded root: it is not rotated, and a laboratory is younger.
pub const CA_TTL_SECONDS: u64 = 10 * 365 * 24 * 3600;

/// Shortest SVID life taken: rotation at half life is then every 15 s, which tests need.
pub const MIN_TTL: Duration = Duration::from_secs(30);

/// Life of an SVID unless configured (SPIRE's default).
pub const DEFAULT_TTL: Duration = Duration::from_secs(3600);

/// By how much of itself a rotation time is moved at random, so that SVIDs issued together are not
/// renewed together.
pub const ROTATION_JITTER_PERCENT: u64 = 10;

/// Most SPIFFE IDs wanted at once: every endpoint of a node (4,095) with an identity of its own, twice.
pub const MAX_WANTED: usize = 8192;

/// Commands waiting to be taken; the source takes them at once, so this only smooths bursts.
pub const COMMAND_QUEUE: usize = 256;

/// Updates waiting to be read; what does not fit is kept back, newest per ID.
pub const UPDATE_QUEUE: usize = 256;

/// Reports of subscriptions waiting to be taken; a subscription that waits makes SPIRE's agent wait.
pub const REPORT_QUEUE: usize = 256;

/// First pause before SPIRE's agent is called again; doubles up to [`RECONNECT_MAX`].
pub const RECONNECT_MIN: Duration = Duration::from_millis(100);

/// Longest pause before SPIRE's agent is called again: when it is back, so are we.
pub const RECONNECT_MAX: Duration = Duration::from_secs(2);

/// How long a first answer is waited for that SPIRE's agent has at hand.
pub const FIRST_ANSWER: Duration = Duration::from_secs(10);

/// After so long without a word, SPIRE's agent is asked whether it is there: one short call, whose answer it has at
/// hand.
pub const PROBE_EVERY: Duration = Duration::from_secs(5);

/// How long that answer is waited for. A process that was stopped takes connections and says nothing.
pub const PROBE_ANSWER: Duration = Duration::from_secs(5);

/// Most SVIDs looked at in one answer about one workload.
pub const MAX_SVIDS_PER_WORKLOAD: usize = 64;

/// Most trust domains whose bundles are kept: a mesh of federations that large has other troubles.
pub const MAX_TRUST_DOMAINS: usize = 256;

/// First pause before an issue that failed is tried again; doubles up to [`RETRY_MAX`].
pub const RETRY_MIN: Duration = Duration::from_secs(1);

/// Longest pause before an issue that failed is tried again.
pub const RETRY_MAX: Duration = Duration::from_secs(30);

/// Longest sleep: the wall clock, which decides when to rotate, may be set meanwhile.
pub const MAX_SLEEP: Duration = Duration::from_secs(5);

/// Largest file read from the CA's directory; a certificate in PEM is below 1 KiB.
pub const MAX_FILE_BYTES: u64 = 64 * 1024;
