//! Every bound and period of this program, each with its reason.

use std::time::Duration;

/// Packets gathered for one write to the TUN device, and datagrams for one send. As many as the kernel cuts
/// out of one large packet, and some more, so that neighbours meet.
pub const BATCH: usize = 128;
/// Packets waiting to be written to the TUN device. When it is full the data plane waits, and the sockets'
/// buffers fill.
pub const TUN_QUEUE: usize = 1024;
/// Reads from the TUN device in one go, before others get their turn.
pub const TUN_READS: usize = 8;
/// The largest packet a TUN device hands over.
pub const MAX_PACKET: usize = 65_535;
/// Datagrams joined to one send: `UDP_MAX_SEGMENTS` of kernels before 6.9 is 64.
pub const MAX_SEGMENTS: usize = 64;
/// Bytes in one send: a UDP datagram's limit, less its headers.
pub const MAX_SEND: usize = 65_000;
/// Socket buffers. Several milliseconds at 10 Gbit/s: bursts of one batch of large packets must fit.
pub const SOCKET_BUFFER: usize = 7 * 1024 * 1024;
/// How often the device is looked at: somebody may change its MTU, or delete it.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often peers with a keepalive and without a session are given a push. The core gives up on a silent
/// peer after 90 s, and would only try again when there is a packet to send.
pub const PUSH_EVERY: Duration = Duration::from_secs(5);
/// Time for one push: it is enough that the first message is sent.
pub const PUSH_TIMEOUT: Duration = Duration::from_millis(20);
/// Configuration connections at a time. Each may hold a message of the largest size.
pub const CONNECTIONS: usize = 8;
/// Time for one message to arrive or leave; also how long a connection may be idle.
pub const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for the device to be ready, before a starting process in the foreground gives up on the one in the
/// background.
pub const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Worker threads: reading, encrypting, decrypting and writing can run side by side; more only add hops.
pub const WORKERS: usize = 4;
/// Packets the kernel holds for us in the TUN: a hundred pairs' released bursts of twenty, while the process
/// waits for a processor. The default of 500 loses part of that.
pub const QUEUE_LENGTH: libc::c_int = 4096;
/// How long a process that has the device's name still may take to end.
pub const PREDECESSOR: Duration = Duration::from_secs(2);
/// Datagrams, joined ones counted once, taken from the socket in one system call: with joined ones, more than a
/// socket buffer holds.
pub const RECEIVES: usize = 32;
/// Peers whose way back is remembered: twice as many as a cluster's nodes.
pub const SOURCES: usize = 10_000;
