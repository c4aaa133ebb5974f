//! Bytes in, verified values out: SPIFFE IDs, SVIDs, trust bundles and chains, and the certificates
//! that the embedded CA issues.
//!
//! What this crate promises:
//! - It is pure. The time is an argument (seconds since the Unix epoch), key pairs and serial numbers
//!   are arguments, and nothing here reads a clock, a file, a socket or the environment. (The nonce of
//!   an ECDSA signature is the cryptographic library's own affair.)
//! - A [`VerifiedPeer`] exists only if [`chain`] has verified a certificate chain, against the bundle of
//!   one trust domain. Bundles of different trust domains are never merged.
//! - No input, however hostile, makes it panic or work for long: sizes and counts are checked first
//!   ([`limits`]).
//! - Private keys are wiped when dropped, and never appear in `Debug` output.

#![forbid(unsafe_code)]

pub mod bundle;
pub mod chain;
mod error;
pub mod id;
pub mod issue;
pub mod key;
pub mod limits;
pub mod pem;
mod profile;
pub mod signature;
mod svid;
pub mod template;

pub use bundle::{Bundle, BundleError};
pub use chain::VerifiedPeer;
pub use error::{Defect, Distrust, VerifyError};
pub use id::{IdError, SpiffeId, TrustDomain};
pub use issue::{CertAuthority, IssueError, Serial};
pub use key::{KeyAlgorithm, KeyError, SigningKey};
pub use svid::{Svid, SvidError};
pub use template::{IdSubject, IdTemplate, TemplateError};

/// A certificate in DER, as every chain here holds it.
pub use rustls_pki_types::CertificateDer;
