//! WireGuard's constants (whitepaper, section 6.1), and the bounds of this crate.

/// Nanoseconds of one second.
pub const SECOND: u64 = 1_000_000_000;
/// An initiator asks for a new session when its own is this old.
pub const REKEY_AFTER_TIME: u64 = 120 * SECOND;
/// A session older than this neither seals nor opens.
pub const REJECT_AFTER_TIME: u64 = 180 * SECOND;
/// An initiation without an answer is repeated after this, and a bit.
pub const REKEY_TIMEOUT: u64 = 5 * SECOND;
/// For how long initiations are repeated.
pub const REKEY_ATTEMPT_TIME: u64 = 90 * SECOND;
/// Whoever has received data and has nothing to say for so long, says that.
pub const KEEPALIVE_TIMEOUT: u64 = 10 * SECOND;
/// Messages after which an initiator asks for a new session.
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// Messages a session seals at most. 2^64 less the replay window: a counter must not come round.
pub const REJECT_AFTER_MESSAGES: u64 = u64::MAX - REPLAY_WINDOW;
/// Counters behind the highest one that are told apart. As many as four threads with a full batch each, several
/// times over.
pub const REPLAY_WINDOW: u64 = 8_192;
/// The most that is added to [`REKEY_TIMEOUT`], so that two peers that began together do not go on together.
pub const JITTER: u64 = SECOND / 3;
/// How long a cookie, and the secret that cookies are made with, is good for.
pub const COOKIE_LIFE: u64 = 120 * SECOND;
/// Initiations of one peer are not looked at more often.
pub const INITIATION_PACE: u64 = SECOND / 50;
/// Packets that wait for a session, for each peer.
pub const STAGED: usize = 256;
/// Under load: handshakes of one source address each second, and how many at once.
pub const SOURCE_RATE: u64 = 20;
/// See [`SOURCE_RATE`].
pub const SOURCE_BURST: u64 = 5;
/// Source addresses that are told apart under load. More than a cluster has nodes; 40 bytes each.
pub const SOURCES: usize = 16_384;
/// All packets but the last of what one peer sends are padded to a multiple of this.
pub const PADDING: usize = 16;
