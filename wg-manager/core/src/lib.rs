//! The core of a WireGuard device: handshakes, sessions, timers, cookies and cryptokey routing. Pure.
//!
//! The crate promises:
//! - It follows the WireGuard whitepaper (<https://www.wireguard.com/papers/wireguard.pdf>), sections 5 and 6, with
//!   the bounds that the kernel's implementation has: a replay window of 8,192, padding to 16 bytes but not beyond
//!   the MTU, jitter, random indices, cookies for address and port.
//! - A session is sealed and opened by any number of threads at once; no counter is used twice.
//! - A preshared key can be changed at any time, and counts from the next handshake on.
//! - Nothing that has not authenticated changes any state but the two buckets of [`Guard`].
//! - Keys are wiped when they are dropped.
//!
//! Nothing here reads a clock, a file, a socket or a random source.
#![forbid(unsafe_code)]

mod cookie;
mod crypto;
mod handshake;
pub mod limits;
mod message;
mod peer;
mod replay;
mod routes;
mod session;
mod snapshot;
mod timers;

pub use cookie::Guard;
pub use crypto::Forged;
pub use handshake::{Identity, Received, SessionKeys, receive};
pub use message::{COOKIE_REPLY, DATA_HEADER, DATA_OVERHEAD, INITIATION, Kind, RESPONSE, receiver};
pub use peer::{Action, Context, Peer, Random};
pub use replay::Replay;
pub use routes::{Header, Routes};
pub use session::{Session, message_length, padded};
pub use snapshot::{PeerState, SessionState};
