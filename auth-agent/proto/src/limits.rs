//! Every number of this crate, with its reason. Times are nanoseconds.

/// One millisecond.
pub const MS: u64 = 1_000_000;
/// One second.
pub const SECOND: u64 = 1_000 * MS;

/// Smaller identities are reserved (host, world, ...) and have no SVID.
pub const MIN_POD_IDENTITY: u32 = 256;
/// Larger identities are node-local (CIDR) and have no SVID.
pub const MAX_POD_IDENTITY: u32 = (1 << 24) - 1;

/// An hour, the usual life of an SVID: with shorter certificates this never matters, with longer ones a
/// pair is still proved every hour.
pub const MAX_AGE: u64 = 3_600 * SECOND;
/// Twice the shell's total of 5 s for a handshake: only a lost result is met by this.
pub const HANDSHAKE_DEADLINE: u64 = 10 * SECOND;
/// A frame that has waited longer is of no use: TCP has sent its SYN again twice by then.
pub const PARK_DEADLINE: u64 = 5 * SECOND;

/// The first back-off: a peer that was just being set up is ready by then.
pub const BACKOFF_MIN: u64 = 100 * MS;
/// The longest back-off: two dials a minute for a pair that never works.
pub const BACKOFF_MAX: u64 = 30 * SECOND;
/// Tries that packets may wait for when the cause may pass: 0.1 + 0.2 + 0.4 + 0.8 + 1.6 s with jitter stay
/// below [`PARK_DEADLINE`].
pub const PATIENT_ATTEMPTS: u32 = 5;
/// Tries at the second step of the back-off while the peer's identity is not local there: a pod that has just been
/// placed waits some 0.5 s for its SVID, and doubling would add as much again. 0.1 s and 17 of 0.2 s with jitter stay
/// below [`PARK_DEADLINE`]; a refusal costs the peer no signature.
pub const STEADY_ATTEMPTS: u32 = 18;
/// A failed pair without packets is forgotten after this: longer than TCP's longest gap between two SYNs
/// (64 s) and than the longest back-off, so that a pair that keeps failing is never taken for a new one.
pub const FORGET_AFTER: u64 = 150 * SECOND;
/// The datapath may drop the packets of a pair in back-off by itself for this long before the machine hears
/// of one again: a flood costs one packet a second, and a back-off that ends early is noticed within one.
pub const QUIET: u64 = SECOND;
/// While a node does not answer, one of its pairs with packets may dial this often in spite of its own
/// back-off, so that a healed way is found within 2 s.
pub const PROBE_GAP: u64 = 1_500 * MS;

/// Renewals of a pair are at least this far apart, however short the certificates.
pub const MIN_RENEW_GAP: u64 = 250 * MS;
/// A live pair is proved again for the sake of an unbound address at most this often.
pub const REFRESH_GAP: u64 = 200 * MS;
/// An address the peer did not assert is refused for this long before the peer is asked again: a pod's new
/// address is usable within a second, and a spoofed one costs one handshake a second.
pub const REFUSED_FOR: u64 = SECOND;
/// Addresses remembered per pair, refused or wanted: pods of one identity on one node, in two families, are
/// rarely more; what does not fit is asked for again under [`REFRESH_GAP`].
pub const MAX_ADDRESSES_PER_PAIR: usize = 16;
/// An entry that the datapath misses although it was installed is written again at most this often.
pub const REPAIR_GAP: u64 = 100 * MS;
/// Frames that may pass per [`REPAIR_GAP`] through a live pair whose entry the datapath missed: those that
/// were on their way to the parking device when the entry came; a circle, should there be one, is slow.
pub const PASSES_PER_GAP: u32 = 256;

/// Pairs in the table: 100,000 live ones and room; at about 400 bytes each, 50 MiB at the worst.
pub const MAX_PAIRS: usize = 131_072;
/// An eighth of the table, and more than the 10,000 cold pairs one identity may reasonably have: a pod that
/// touches every identity of a cluster leaves the rest to others.
pub const MAX_UNPROVEN_PER_IDENTITY: usize = MAX_PAIRS / 8;
/// Half of the table: even an identity that talks to everybody leaves room.
pub const MAX_LIVE_PER_IDENTITY: usize = MAX_PAIRS / 2;
/// Half of the table may wait at once.
pub const MAX_QUEUED: usize = MAX_PAIRS / 2;
/// At 2,000 handshakes/s and 10 ms each, 20 are under way; the rest is for peers that do not answer.
pub const MAX_IN_FLIGHT: usize = 512;
/// A quarter: no identity keeps the others waiting by dialling silent peers.
pub const MAX_IN_FLIGHT_PER_IDENTITY: usize = MAX_IN_FLIGHT / 4;
/// Enough to keep two cores of a peer busy over a slow network.
pub const MAX_IN_FLIGHT_PER_NODE: usize = 64;
/// What a node that has not answered yet gets: with 512 in all, 64 silent nodes are needed to be in the way.
pub const FIRST_IN_FLIGHT_PER_NODE: usize = 8;
/// What a node that does not answer keeps: a probe every [`PROBE_GAP`], each up to 5 s under way.
pub const LEAST_IN_FLIGHT_PER_NODE: usize = 4;
/// A handshake that took so many times the quickest lately has waited for others more than it has worked.
pub const PACE_CROWDED: u64 = 4;
/// Quicker ones than this say nothing: half of it is spent on computing.
pub const PACE_LEAST: u64 = MS;
/// What counts as lately: a way that has become longer is learnt within two of these.
pub const PACE_WINDOW: u64 = 30 * SECOND;
/// Nodes whose pace is remembered while nothing is under way with them.
pub const MAX_LANES: usize = 16_384;

/// Addresses taken from one message of a peer: more pods than a node runs, in two families.
pub const MAX_ASSERTIONS: usize = 1_024;
/// Bound addresses in all: a cluster of 65,000 pods in two families.
pub const MAX_BINDINGS: usize = 131_072;
/// Revocations remembered at once; beyond it they are folded into one that concerns everybody.
pub const MAX_TOMBS: usize = 4_096;

/// Frames of one pair: a quarter of a second of a flow of 1,000 packets/s.
pub const PARK_FRAMES_PER_PAIR: usize = 256;
/// Bytes of one pair: those frames at full size, about.
pub const PARK_BYTES_PER_PAIR: usize = 512 << 10;
/// Frames of one source: one pod may open 1,000 pairs, or 100 pairs with 20 datagrams each, at once.
pub const PARK_FRAMES_PER_SOURCE: usize = 4_096;
/// Bytes of one source.
pub const PARK_BYTES_PER_SOURCE: usize = 4 << 20;
/// Frames in all, reserved places aside.
pub const PARK_FRAMES: usize = 16_384;
/// Bytes in all, reserved places aside: a quarter of the agent's memory budget.
pub const PARK_BYTES: usize = 16 << 20;
/// Frames that every source may park however full the rest is: a connection attempt to each of a few peers.
pub const PARK_RESERVED_FRAMES: usize = 16;
/// Bytes that every source may park however full the rest is: those frames at full size.
pub const PARK_RESERVED_BYTES: usize = 24 << 10;
/// Sources with places of their own: all endpoints that a node can have. Later ones share.
pub const PARK_SOURCES: usize = 4_096;
