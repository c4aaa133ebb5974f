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
