//! The handshake between two agents: mutual TLS 1.3 on TCP 4250, then one message each way.
//!
//! What this module promises:
//! - TLS 1.3 only, both sides authenticated, no tickets, no resumption, no early data, no key log.
//! - An [`Outcome`] or an [`Inbound`] exists only with the [`VerifiedPeer`] of a chain that leads to the
//!   bundle of the expected trust domain; a client's also speaks for exactly the identity asked for.
//! - Every step has a deadline, every count a limit ([`limits`]); a failure says its [`FailureKind`].
//! - The order is: the server's node installs its entry, then the client's, then the server is told:
//!   whoever releases packets first finds the other side open.
//!
//! ```text
//! client                         server
//!   TCP, TLS (SNI: number.domain)
//!   Hello  ------------------->   Inbound -> the node installs its entry
//!   <-------------------  Reply
//!   Outcome -> the node installs its entry, releases its packets
//!   Ack    ------------------->   `confirmed`: the node releases its packets
//! ```
//!
//! A peer that knows only mutual TLS (connect, verify, close) is not an error: on the server nothing is
//! installed; on the client the outcome is flagged [`Outcome::plain`].

mod cache;
mod client;
mod failure;
mod gate;
pub mod limits;
pub mod message;
mod server;
mod stats;
mod store;
mod tls;
mod tunnel;
mod verify;

pub use client::{Ack, Client, Outcome, Request};
pub use countersign_auth_proto::FailureKind;
pub use countersign_certs::VerifiedPeer;
pub use failure::{Failure, Step};
pub use limits::Deadlines;
pub use message::{Assertion, Refusal};
pub use server::{Inbound, InboundAccept, Server, ServerConfig};
pub use stats::ServerStats;
pub use store::{NODE, PeerNames, SharedSvidStore, StoreError, SvidStore, UnaskableDomain, check_domain};
pub use tls::{KeyExchange, Tls};
pub use tunnel::{End, Exported, Tunnel};

/// Seconds since the Unix epoch: certificates are checked against the wall clock.
fn unix_now() -> u64 {
    // A clock before 1970 makes every certificate "not valid yet": closed, not open.
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
