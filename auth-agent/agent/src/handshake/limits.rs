//! Every limit and deadline of the handshake, each with its reason.

use std::time::Duration;

/// The TCP port agents shake hands on (Cilium's, so that one firewall rule serves both).
pub const DEFAULT_PORT: u16 = 4250;

/// The version of the messages below.
pub const PROTOCOL_VERSION: u32 = 1;

/// Connecting: a SYN and its first retransmission after 1 s would already be worse than trying anew.
pub const CONNECT: Duration = Duration::from_secs(1);

/// TLS and both messages: three round trips and half a millisecond of work, so 2 s is a peer in trouble.
pub const EXCHANGE: Duration = Duration::from_secs(2);

/// Everything from the first packet to the last acknowledgement.
pub const TOTAL: Duration = Duration::from_secs(5);

/// Largest message: [`MAX_ASSERTIONS`] of 28 bytes and some. Below the 64 KiB that rustls buffers before
/// a handshake is through.
pub const MAX_MESSAGE_BYTES: usize = 32 * 1024;

/// Identities disowned in one message: more than a node has endpoints; what does not fit goes with the next.
pub const MAX_DISOWNED: usize = 1024;

/// Most addresses one side asserts for one identity: 512 dual-stack pods of one identity on one node
/// (Kubernetes has 110 pods on a node).
pub const MAX_ASSERTIONS: usize = 1024;

/// Longest node name (RFC 1123 subdomain, as Kubernetes allows).
pub const MAX_NODE_NAME_BYTES: usize = 253;

/// Inbound handshakes under way in all: 13 KiB of TLS state each is 26 MiB at the very worst.
pub const MAX_INBOUND: usize = 2048;

/// Inbound handshakes of one peer address. More than an honest agent has under way at once
/// ([`MAX_OUTBOUND`]); beyond it the oldest of that address gives way to the newest.
pub const MAX_INBOUND_PER_PEER: usize = 512;

/// Handshakes a client has under way at once: enough to keep two cores busy over a 100 ms path.
pub const MAX_OUTBOUND: usize = 256;

/// The listening socket's queue: a peer's whole burst ([`MAX_OUTBOUND`]) from several peers at once.
pub const LISTEN_BACKLOG: i32 = 1024;

/// Verified chains that are remembered. A chain costs 49 µs to verify and 1 KiB to remember.
pub const MAX_CACHED_CHAINS: usize = 4096;

/// First pause after `accept` failed for want of descriptors or memory; doubles up to
/// [`ACCEPT_BACKOFF_MAX`], so that a full table is not hammered and recovery is noticed within a second.
pub const ACCEPT_BACKOFF_MIN: Duration = Duration::from_millis(10);

/// Longest pause after `accept` failed.
pub const ACCEPT_BACKOFF_MAX: Duration = Duration::from_secs(1);

/// What is read at once while waiting for a ClientHello: one with X25519MLKEM768 is 1.5 KiB.
pub const CLIENT_HELLO_READ_BYTES: usize = 2048;

/// Longest text of a failure that is kept: a peer has a say in it.
pub const MAX_DETAIL_BYTES: usize = 200;

/// The deadlines of one handshake.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// Until the TCP connection stands (client only).
    pub connect: Duration,
    /// From then until TLS and the peer's message are through.
    pub exchange: Duration,
    /// For everything.
    pub total: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { connect: CONNECT, exchange: EXCHANGE, total: TOTAL }
    }
}
