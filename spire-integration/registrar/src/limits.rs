//! Every limit of this crate, each with its reason.

use std::time::Duration;

/// Entries of one request: SPIRE works through them one by one (1 to 3 ms each with SQLite), and what comes
/// meanwhile, a revocation above all, should not wait for more than half a second.
pub const BATCH_ENTRIES: usize = 200;

/// Entries of one page of a list.
pub const PAGE_ENTRIES: i32 = 500;

/// Most entries on a server that are listed: some ten times what one SPIRE server is run with.
pub const MAX_LISTED: usize = 1_000_000;

/// Largest answer: a page of entries with fifty selectors each.
pub const MAX_ANSWER_BYTES: usize = 32 << 20;

/// How long a server may take for one request.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(30);

/// How long a connection may take to come about.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// First pause before a server that failed is asked again; doubles up to [`SERVER_RETRY_MAX`].
pub const SERVER_RETRY_MIN: Duration = Duration::from_millis(100);

/// Longest pause: what a server that is back costs its pods at most.
pub const SERVER_RETRY_MAX: Duration = Duration::from_secs(5);

/// First pause before an entry that the server refused is tried again; doubles up to [`ENTRY_RETRY_MAX`].
pub const ENTRY_RETRY_MIN: Duration = Duration::from_secs(1);

/// Longest pause: somebody has to mend something, and should see that it helped.
pub const ENTRY_RETRY_MAX: Duration = Duration::from_secs(60);

/// How long no change must have come before changes are acted on: the source gathers as well.
pub const QUIET: Duration = Duration::from_millis(5);

/// How long changes are gathered at most.
pub const QUIET_AT_MOST: Duration = Duration::from_millis(20);

/// By how much of itself the time between two lists is moved at random, so that registrars of many clusters do
/// not ask a server together.
pub const RESYNC_JITTER: f64 = 0.1;

/// Most SVIDs of one answer of the Workload API that are looked at.
pub const MAX_OWN_SVIDS: usize = 64;

/// Most authorities of a bundle.
pub const MAX_AUTHORITIES: usize = 32;

/// How long a leader that ends tries to give its Lease back: less than a pod is given to end (30 s), and no longer than
/// a lease lasts, which is what the others wait without it.
pub const RELEASE_DEADLINE: Duration = Duration::from_secs(5);
