//! Bytes in, verified values out: SPIFFE IDs, SVIDs, trust bundles and chains, and the certificates
//! that the embedded CA issues.
//!
//! What this crate promises:
//! - It is pure. The time is an argument (seconds since the Unix epoch), key pairs and serial numbers
//!   are arguments, and nothing here reads a clock, a file, a socket or the environment. (The nonce of
//!   an ECDSA signature is the cryptographic library's own affair.)
//! - A [`VerifiedPeer`] exists only if [`chain`] has verified a certificate chain, against the bundle of
//!   one trust domain. Bundles of different trust domains are never merged.
//! - It verifies what the X509-SVID specification asks for, rule by rule (`docs/x509-svid.md`), and takes as
//!   SPIFFE IDs what the specification calls one (`docs/spiffe-ids.md`); both tables are tests.
//! - No input, however hostile, makes it panic or work for long: sizes and counts are checked first
//!   ([`limits`]).
//! - Private keys are wiped when dropped, and never appear in `Debug` output.

#![forbid(unsafe_code)]

mod algorithm;
pub mod bundle;
pub mod chain;
mod der;
pub mod document;
mod error;
pub mod id;
pub mod issue;
pub mod key;
pub mod limits;
mod path;
pub mod pem;
mod profile;
pub mod signature;
mod svid;
pub mod template;
pub mod trust;

pub use bundle::{AuthorityId, Bundle, BundleChange, BundleError};
pub use chain::VerifiedPeer;
pub use document::{BundleDocument, DocumentError};
pub use error::{Defect, Distrust, VerifyError};
pub use id::{IdError, SpiffeId, TrustDomain};
pub use issue::{CertAuthority, IssueError, Serial};
pub use key::{KeyAlgorithm, KeyError, SigningKey};
pub use svid::{Svid, SvidError};
pub use template::{IdSubject, IdTemplate, TemplateError};
pub use trust::{BundleUpdate, TooManyDomains, TrustBundles};

/// A certificate in DER, as every chain here holds it.
pub use rustls_pki_types::CertificateDer;
