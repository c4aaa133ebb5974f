//! Every limit of the lab, each with its reason.

use std::time::Duration;

/// Labs side by side: the third byte of a node network is 64 + index.
pub const MAX_LABS: u8 = 64;

/// Nodes of one lab: the third byte of a pod network is the node's number, and a laptop has an end.
pub const MAX_NODES: u8 = 16;

/// Characters of a lab's name: it is part of namespace names and of a socket path of at most 107 bytes.
pub const MAX_LAB_NAME: usize = 12;

/// Characters of `namespace_pod`: with the prefix it is a file name under `/run/netns`.
pub const MAX_POD_NAME: usize = 200;

/// Pods of one node: what is left of its /24 without network, gateway and broadcast address.
pub const MAX_PODS_PER_NODE: usize = 253;

/// MTU inside pods: what WireGuard over IPv6 leaves of 1500, so that nothing is ever fragmented on the way.
pub const POD_MTU: u32 = 1420;

/// How long `up` waits for agents and pods before it says what is missing.
pub const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// How long processes get to leave after SIGKILL; only one in uninterruptible sleep needs more.
pub const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a pod's command gets between SIGTERM and SIGKILL. Kubernetes gives 30 s; a lab is in a hurry.
pub const POD_GRACE: Duration = Duration::from_millis(300);

/// First pause before a process that ended is started again.
pub const BACKOFF_FIRST: Duration = Duration::from_millis(100);

/// Longest such pause.
pub const BACKOFF_LAST: Duration = Duration::from_secs(10);

/// A process that ran this long starts again from the first pause.
pub const BACKOFF_RESET: Duration = Duration::from_secs(10);

/// How often an agent that does not answer is asked again to take an endpoint.
pub const ENDPOINT_RETRY: Duration = Duration::from_millis(100);

/// How often a node looks for what no event announces (a lifted hold, a process it only adopted).
pub const HOUSEKEEPING: Duration = Duration::from_millis(100);

/// Messages to a node's thread that may wait: twice its pods, so that a new manifest directory fits at once.
pub const NODE_QUEUE: usize = 512;

/// Rounds of looking for processes that hold a namespace; each kills all that the one before found.
pub const KILL_ROUNDS: usize = 20;

/// Bytes of a log after which it is started anew (the old one is kept once).
pub const LOG_LIMIT: u64 = 16 << 20;

/// Rounds of unmounting what is below `/run` in a new mount namespace: one is enough where nobody interferes.
pub const MOUNT_ROUNDS: usize = 20;

/// How long a pod that moves to another node is waited for on the old one.
pub const MOVE_TIMEOUT: Duration = Duration::from_secs(10);
