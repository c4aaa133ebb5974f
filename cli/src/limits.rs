//! Every limit of the command line, each with its reason.

use std::time::Duration;

/// Nodes of one lab asked at once: more are not a lab.
pub const MAX_NODES: usize = 256;

/// Flows waiting to be printed while several nodes are followed.
pub const OBSERVE_QUEUE: usize = 1024;

/// How often `status --wait` asks: a person notices no delay, an agent no load.
pub const WAIT_STEP: Duration = Duration::from_millis(200);

/// Reasons and problems that `status` prints; `-o json` has all of them.
pub const MAX_SHOWN: usize = 20;

/// Largest manifest, bytes: what the agent takes, too.
pub const MANIFEST_BYTES: u64 = 4 << 20;

/// Most manifests of a directory: what the agent takes, too.
pub const MANIFESTS: usize = 20_000;

/// Longest line of a file of flows, bytes: two names, a protocol and a port are 600.
pub const FLOW_BYTES: u64 = 64 << 10;
