//! `countersign-agent`: proves the identities of this node's workloads to peers, and has policy enforced.
//!
//! Promises: one task ([`node`]) owns all state and is the only place where the rooms meet; the others read,
//! write or shake hands, and talk to it through bounded channels. Nothing is delivered that needs a proof
//! which is not there: every failure leaves the kernel maps closed.

pub mod clock;
pub mod config;
pub mod endpoints;
pub mod handshake;
pub mod identities;
pub mod limits;
pub mod node;
pub mod node_ids;
pub mod state;
pub mod tap;
pub mod world;
