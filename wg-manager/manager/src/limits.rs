//! Every bound and period of this crate, each with its reason.

use std::time::Duration;

/// One conversation with the device. A reply of the largest size takes milliseconds; a device that is busy
/// with a handshake flood still answers within a second.
pub const UAPI_TIMEOUT: Duration = Duration::from_secs(5);
/// Operations in one request: a few hundred peers' worth, so that a request stays far below the limit on
/// messages and other users of the socket get their turn.
pub const OPS_PER_REQUEST: usize = 256;
/// How often the device is compared with what it should be. Someone's `wg set` is undone within this time.
pub const RECONCILE_EVERY: Duration = Duration::from_secs(2);
/// The same while packets are to move to a tunnel as soon as it has a session: the old one is closed some seconds
/// after everybody has moved, and nobody is kept waiting for that.
pub const LOOK_FOR_SESSION_EVERY: Duration = Duration::from_millis(200);
/// How long the data plane's program may take to be ready. It gives itself up after 10 s.
pub const START_TIMEOUT: Duration = Duration::from_secs(15);
/// First wait after a failed reconcile; doubles up to [`RECONCILE_EVERY`].
pub const RETRY_FIRST: Duration = Duration::from_millis(100);
/// Commands waiting for the manager's task. Callers wait when it is full.
pub const COMMANDS: usize = 16;
/// One netlink request.
pub const NETLINK_TIMEOUT: Duration = Duration::from_secs(5);
/// One message to the kernel's WireGuard. A socket takes some 200 KiB by default, and a nested attribute 64 KiB at
/// most; this is a thousand prefixes.
pub const NETLINK_MESSAGE: usize = 32 * 1024;
/// One datagram of an answer: the kernel makes them of 32 KiB at most.
pub const NETLINK_ANSWER: usize = 64 * 1024;
/// How often a device that changes while it is read is read again. Nobody changes it that often for long.
pub const DUMP_ATTEMPTS: usize = 8;
/// Persistent keepalive: below the 30 s after which common firewalls and NATs forget a UDP flow. It also
/// makes the device start the handshake at once, so that the first pod packet finds a session.
pub const KEEPALIVE_SECONDS: u16 = 25;
/// The `protocol` of routes made here. Unassigned in the kernel's and iproute2's lists (rt_protos); routes
/// with another number are never touched.
pub const ROUTE_PROTOCOL: u8 = 0xc5;
/// MTU of a device before any path is known: what Ethernet takes, less WireGuard over IPv6.
pub const USUAL_MTU: u32 = 1_420;
/// The largest path that is looked for: jumbo frames. What devices like `lo` claim beyond is nobody's packet.
pub const LARGEST_PATH: u16 = 9_216;
/// How often the kernel is asked what the first hop of each path takes, and what routers have said of the rest.
/// Two questions for each node: with 5,000 of them that is half a second of work.
pub const PATH_LOOK: Duration = Duration::from_secs(60);
/// Probes that leave together: 64 of 9,216 bytes fit into any interface's queue.
pub const PROBES_AT_ONCE: usize = 64;
/// And the pause before the next of them: 5,000 paths are asked within a second.
pub const PROBES_PAUSE: Duration = Duration::from_millis(10);
/// Bytes of answers that wait to be read. All ICMP of the node comes to such sockets: more is nobody's loss.
pub const PROBE_BUFFER: usize = 512 * 1024;
/// Metric of the routes into the device. Not the 0 of connected and of most static IPv4 routes: a route to
/// the same prefix that somebody else made must not be replaced.
pub const DEVICE_METRIC: u32 = 50;
/// Metric of the fallback routes: worse than any other route to the same prefix.
pub const FALLBACK_METRIC: u32 = 0x7fff_ff00;
/// The key file: 45 bytes of key and a number.
pub const MAX_KEY_FILE: u64 = 256;
