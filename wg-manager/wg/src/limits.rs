//! Every bound and period of this program, each with its reason.

use std::time::Duration;

/// Reads from the TUN device for one batch: small packets leave together, if they are there together.
pub const TUN_READS: usize = 64;
/// Bytes of messages that are enough for one batch: about what leaves in one system call.
pub const GATHERED: usize = 48 * 1024;
/// The largest packet a TUN device hands over.
pub const MAX_PACKET: usize = 65_535;
/// Datagrams joined to one send: `UDP_MAX_SEGMENTS` of kernels before 6.9 is 64.
pub const MAX_SEGMENTS: usize = 64;
/// Bytes in one send: a UDP datagram's limit, less its headers.
pub const MAX_SEND: usize = 65_000;
/// Socket buffers. Several milliseconds at 10 Gbit/s: bursts of one batch of large packets must fit.
pub const SOCKET_BUFFER: usize = 7 * 1024 * 1024;
/// How often the device is looked at: somebody may change its MTU.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often timers are looked at. The shortest is a second; a tenth of that is late enough.
pub const TICK: Duration = Duration::from_millis(100);
/// How long a thread waits for datagrams before it looks whether its socket was closed. Closing wakes it up; this is
/// for a kernel that would not do that.
pub const SILENCE: Duration = Duration::from_secs(1);
/// Handshake messages that wait: as many as the kernel's implementation keeps.
pub const HANDSHAKES: usize = 4096;
/// Of them, taken from the queue at once.
pub const AT_ONCE: usize = 64;
/// So many are a load under which senders must show that they hear us.
pub const LOADED: usize = HANDSHAKES / 8;
/// And for so long after that, in nanoseconds.
pub const LOADED_FOR: u64 = 1_000_000_000;
/// Configuration connections at a time. Each may hold a message of the largest size.
pub const CONNECTIONS: usize = 8;
/// Time for one message to arrive or leave; also how long a connection may be idle.
pub const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for the device to be ready, before a starting process in the foreground gives up on the one in the
/// background.
pub const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Threads for each direction, unless more are asked for: reading and sending are one after the other, and fill about
/// four cores that seal.
pub const THREADS: usize = 4;
/// Threads for configuration. Packets have their own.
pub const WORKERS: usize = 1;
/// Packets the kernel holds for us in the TUN: a hundred pairs' released bursts of twenty, while the process
/// waits for a processor. The default of 500 loses part of that.
pub const QUEUE_LENGTH: libc::c_int = 4096;
/// How long a process that has the device's name still may take to end.
pub const PREDECESSOR: Duration = Duration::from_secs(2);
/// Datagrams, joined ones counted once, taken from the socket in one system call: half a megabyte, which stays in a
/// core's own cache.
pub const RECEIVES: usize = 8;
/// Peers whose way back is remembered: twice as many as a cluster's nodes.
pub const SOURCES: usize = 10_000;
/// How long each side of a hand-over waits for the other one.
pub const HAND_OVER: Duration = Duration::from_secs(10);
/// Bytes of state that a successor takes: more than the configuration and the sessions of any cluster.
pub const MAX_STATE: usize = 512 * 1024 * 1024;
