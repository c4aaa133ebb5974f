//! Every limit of this crate, each with its reason.

use std::time::Duration;

/// Largest file that is read, bytes: what the YAML parser takes, too.
pub const FILE_BYTES: u64 = 4 << 20;

/// Most files of one directory. A node's worth of pods is 250; a cluster's worth of policies is some thousands.
pub const FILES: usize = 20_000;

/// Most objects of one file.
pub const OBJECTS_PER_FILE: usize = 5_000;

/// Changes that wait for their reader; the directory is read again only when they are taken.
pub const CHANGES: usize = 1_024;

/// How long a directory must be quiet before it is read: editors and `kubectl`-like tools write in bursts. Longer
/// than the coarsest tick of file systems' clocks (10 ms), so that a file this old cannot change under its stamp.
pub const QUIET: Duration = Duration::from_millis(12);

/// How long a noisy directory may put off reading the files that are not being written.
pub const QUIET_AT_MOST: Duration = Duration::from_millis(200);

/// How long a file that is open for writing is waited for since its last write.
pub const WRITER: Duration = Duration::from_millis(500);

/// How often everything is looked at without being told: some file systems tell nothing.
pub const RESCAN: Duration = Duration::from_secs(1);

/// Longest chain of taken numbers an identity is moved up along before something must be wrong.
pub const IDENTITY_PROBES: usize = 4_096;

/// Largest identity file: 200 labels of the longest kind.
pub const IDENTITY_BYTES: u64 = 128 << 10;

/// How long a connection to an API server may take to come about.
pub const API_CONNECT: Duration = Duration::from_secs(5);

/// Objects of one page of a list: what client-go asks for.
pub const PAGE_OBJECTS: u32 = 500;

/// Most objects that are followed: six times the pods that Kubernetes is made for.
pub const OBJECTS: usize = 1_000_000;

/// First pause before a list or watch that failed is tried again; doubles up to [`WATCH_RETRY_MAX`].
pub const WATCH_RETRY_MIN: Duration = Duration::from_millis(100);

/// Longest pause: what an API server that is back, or a kind that is there now, costs at most.
pub const WATCH_RETRY_MAX: Duration = Duration::from_secs(5);

/// How long a watch that was begun anew must do without an error to be well: longer than a connection may take.
pub const WATCH_WELL: Duration = Duration::from_secs(6);

/// Most bytes of an API server's words in what is said to people.
pub const MESSAGE_BYTES: usize = 300;
