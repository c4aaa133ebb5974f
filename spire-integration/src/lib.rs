//! Where SVIDs come from.
//!
//! Today there is one source: the embedded CA ([`EmbeddedCa`]), a development stand-in for SPIRE. It
//! gives an SVID to whoever on this machine can read its directory and asks for nothing in return: no
//! attestation, no revocation, one root for ever. It is what makes the lab and the demo run without a
//! SPIRE server; a cluster uses SPIRE.
//!
//! What a source promises ([`spawn`]):
//! - For every SPIFFE ID that is wanted, [`Update::Svid`] arrives, and again at about half of each SVID's
//!   life with a fresh key, until it is unwanted ([`Update::Removed`]).
//! - [`Update::Bundle`] comes before the first SVID.
//! - Channels are bounded, and commands are taken even while nobody reads updates: of several updates for
//!   one ID, the reader gets the newest.
//! - If the CA cannot issue, what was issued stays as it is, nothing is extended, and it is tried again.

#![forbid(unsafe_code)]

mod embedded;
mod files;
pub mod limits;
mod source;

pub use embedded::{EmbeddedCa, EmbeddedError};
pub use source::{EmbeddedConfig, SourceGone, SvidSource, Update, spawn};
