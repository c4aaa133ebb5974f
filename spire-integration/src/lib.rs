//! Where SVIDs come from.
//!
//! Two sources behind one handle ([`SvidSource`]):
//! - SPIRE ([`spire`]): the agent's own SVID over the Workload API, those of the node's pods and all trust bundles
//!   over the Delegated Identity API of the SPIRE agent on the same node.
//! - The embedded CA ([`embedded`]), a development stand-in. It gives an SVID to whoever on this machine can read
//!   its directory and asks for nothing in return: no attestation, no revocation, one root for ever. It is what
//!   makes the lab and the demo run without a SPIRE server.
//!
//! What a source promises:
//! - For every subject that is wanted, [`Update::Svid`] arrives as soon as there is one, and again whenever it is
//!   renewed, until it is unwanted or the source says that it is gone ([`Update::Removed`]).
//! - [`Update::Bundle`] comes before the first SVID it vouches for. Bundles are kept per trust domain.
//! - A source that is away, restarts or goes quiet takes nothing back and extends nothing.
//! - Channels are bounded, and commands are taken even while nobody reads updates: of several updates for
//!   one subject, the reader gets the newest.

#![forbid(unsafe_code)]

pub mod embedded;
mod files;
pub mod limits;
mod source;
pub mod spire;
pub mod tls;

pub use source::{Connection, Reference, SourceGone, SourceStatus, Subject, SvidSource, Update, Workload};
