//! Every limit of this crate, each with its reason.

/// Longest selector in bytes: its columns in SPIRE's database have 255 characters each.
pub const MAX_SELECTOR_BYTES: usize = 255;

/// Most supplemental groups of a pod that make selectors: what Linux keeps beside a process without swapping
/// them out to a page of their own (`NGROUPS_SMALL`).
pub const MAX_GROUPS: usize = 32;

/// Longest UID of a pod in bytes. Kubernetes' are UUIDs of 36.
pub const MAX_UID_BYTES: usize = 64;

/// Longest name of a cluster in bytes, as of a DNS label. It is part of every entry's ID, which has 255.
pub const MAX_CLUSTER_BYTES: usize = 63;

/// Longest hint of an entry in bytes (SPIRE's limit).
pub const MAX_HINT_BYTES: usize = 1024;

/// Shortest life of an SVID that may be asked for: rotation at half life and backdating need room.
pub const MIN_TTL_SECONDS: u32 = 20;

/// Longest life of an SVID that may be asked for: a week. SPIRE cuts it to its CA's.
pub const MAX_TTL_SECONDS: u32 = 7 * 24 * 3600;

/// Failures that a status names; there may be one for every pod.
pub const MAX_STATUS_ERRORS: usize = 20;
