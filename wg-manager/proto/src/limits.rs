//! Every bound of this crate, each with its reason.

/// Longest node name: a Kubernetes object name is a DNS subdomain (RFC 1123), at most 253 bytes.
pub const MAX_NODE_NAME: usize = 253;
/// Longest trust domain name (SPIFFE ID specification, section 2.1).
pub const MAX_TRUST_DOMAIN: usize = 255;
/// Longest encoded announcement. A chain of [`MAX_CHAIN`] ECDSA certificates is about 3 KiB of base64;
/// all annotations of one object share 256 KiB.
pub const MAX_ANNOUNCEMENT: usize = 32 * 1024;
/// Certificates in an announcement: leaf, and up to three intermediates.
pub const MAX_CHAIN: usize = 4;
/// One certificate, DER.
pub const MAX_CERTIFICATE: usize = 8 * 1024;
/// A signature: RSA 4096 is 512 bytes, ECDSA P-384 at most 104.
pub const MAX_SIGNATURE: usize = 1024;
/// Nodes whose keys, and whose last epochs, are remembered: twice what Kubernetes supports in one cluster.
pub const MAX_NODES: usize = 10_000;
/// Peers in one UAPI message.
pub const MAX_PEERS: usize = 16_384;
/// Allowed IPs in one UAPI message, over all peers (the conformance script configures 130,560 on one peer).
pub const MAX_ALLOWED_IPS: usize = 262_144;
/// One UAPI message. 262,144 lines of `allowed_ip=` with an IPv6 prefix each are 15 MiB.
pub const MAX_UAPI_MESSAGE: usize = 24 * 1024 * 1024;
/// One line of a UAPI message: the longest is a key, `preshared_key=` and 64 digits.
pub const MAX_UAPI_LINE: usize = 256;

/// Nanoseconds of one second.
const SECOND: u64 = 1_000_000_000;
/// A preshared key lives an hour at most, and is agreed on anew after half of that.
pub const PRESHARED_KEY_LIFE: u64 = 3_600 * SECOND;
/// Nodes asked for a key at once: after a restart in a cluster of 5,000 all are through within seconds.
pub const AGREEMENTS_AT_ONCE: usize = 64;
/// After a first failure the other node is asked again after this.
pub const ASK_AGAIN_FIRST: u64 = SECOND / 4;
/// And at least this often, however often it has failed.
pub const ASK_AGAIN_MOST: u64 = 30 * SECOND;
/// A tunnel whose last handshake is longer ago than this has no session (WireGuard, section 6.1: REJECT_AFTER_TIME).
pub const SESSION_LIFE_SECONDS: u64 = 180;
/// How long an old key of a node outlives its last use: what was sent under it a moment before has arrived by then,
/// however busy the machines are.
pub const ROTATION_DRAIN: u64 = 2 * SECOND;
/// How long a probe of a path's MTU may take to be answered (RFC 8899, section 5.1.1: PROBE_TIMER, at least 1 s).
pub const PATH_PROBE_WAIT: u64 = SECOND;
/// Probes of one size that are lost before the size counts as too large (RFC 8899, MAX_PROBES).
pub const PATH_PROBES: u32 = 3;
/// The search for a path's MTU ends when what is not known is less than this: WireGuard fills packets up to 16 bytes.
pub const PATH_STEP: u16 = 16;
/// How often it is asked whether a path still takes what it took: with 5,000 nodes that is 42 probes a second.
pub const PATH_CONFIRM: u64 = 120 * SECOND;
/// After which time a larger size is tried again, or a silent path (RFC 8899, PMTU_RAISE_TIMER).
pub const PATH_AGAIN: u64 = 600 * SECOND;
/// How long a key waits for the other side's word: longer than a handshake may take in all.
pub const CANDIDATE_LIFE: u64 = 10 * SECOND;
