//! Why a chain was not believed, told apart by who is to blame.

use crate::id::{IdError, SpiffeId, TrustDomain};

/// Why a certificate chain was not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// No path leads to an authority of the expected trust domain.
    #[error("untrusted: {0}")]
    Untrusted(#[from] Distrust),
    /// The chain is good, but speaks for somebody else.
    #[error("wrong identity: expected {expected}, presented {presented}")]
    WrongIdentity {
        /// Who was expected.
        expected: SpiffeId,
        /// Who the leaf speaks for.
        presented: SpiffeId,
    },
    /// A certificate of the chain, or every authority that could vouch for it, is past its life.
    #[error("certificate {certificate} expired {} s ago", now.saturating_sub(*not_after))]
    Expired {
        /// Position in the chain (0 is the leaf); the chain's length stands for the authority.
        certificate: usize,
        /// End of its life, Unix seconds.
        not_after: u64,
        /// The time it was checked against, Unix seconds.
        now: u64,
    },
    /// A certificate's life has not begun: one of the two clocks is wrong.
    #[error(
        "certificate {certificate} is not valid for another {} s (clock skew?)",
        not_before.saturating_sub(*now)
    )]
    NotYetValid {
        /// Position in the chain (0 is the leaf); the chain's length stands for the authority.
        certificate: usize,
        /// Begin of its life, Unix seconds.
        not_before: u64,
        /// The time it was checked against, Unix seconds.
        now: u64,
    },
    /// Not an X.509-SVID chain, whoever signed it.
    #[error("malformed certificate {certificate}: {defect}")]
    Malformed {
        /// Position in the chain (0 is the leaf).
        certificate: usize,
        /// What is wrong with it.
        defect: Defect,
    },
}

/// Why there is no trust in a well-formed chain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Distrust {
    /// The leaf belongs to another trust domain than the bundle.
    #[error("{presented} is not of trust domain {expected}")]
    OtherTrustDomain {
        /// The bundle's trust domain.
        expected: TrustDomain,
        /// Who the leaf speaks for.
        presented: SpiffeId,
    },
    /// No authority of the bundle signed it, directly or through the intermediates.
    #[error("no authority of the trust domain vouches for it")]
    NoPath,
    /// An authority on the way is not allowed to vouch for it (name or path length constraint).
    #[error("an authority's constraints forbid it")]
    Constrained,
}

/// What makes a certificate or a chain something other than an X.509-SVID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Defect {
    /// There is no certificate at all.
    #[error("the chain is empty")]
    EmptyChain,
    /// More certificates than [`crate::limits::MAX_CHAIN_CERTIFICATES`].
    #[error("too many certificates ({0})")]
    TooMany(usize),
    /// More bytes than [`crate::limits`] allow.
    #[error("too large ({0} bytes)")]
    TooLarge(usize),
    /// Not the DER of an X.509 version 3 certificate.
    #[error("not the DER of an X.509 certificate")]
    Der,
    /// Signed with an algorithm that is not believed (SHA-1, MD5, DSA, …).
    #[error("weak or unknown signature algorithm")]
    WeakSignature,
    /// A key that is too short, or of an unknown kind or curve.
    #[error("weak or unknown key")]
    WeakKey,
    /// The leaf has no URI name.
    #[error("no URI name")]
    NoUriName,
    /// The leaf has more than one URI name.
    #[error("{0} URI names, there must be exactly one")]
    SeveralUriNames(usize),
    /// The leaf's URI name is not a SPIFFE ID.
    #[error("its URI name is no SPIFFE ID: {0}")]
    SpiffeId(IdError),
    /// The leaf's SPIFFE ID has no path: it names a trust domain, not a workload.
    #[error("its SPIFFE ID has no path")]
    NoPathInId,
    /// The leaf is a certificate authority.
    #[error("the leaf is a certificate authority")]
    LeafIsAuthority,
    /// The leaf may sign certificates or revocation lists.
    #[error("the leaf's key usage allows signing certificates or revocation lists")]
    LeafMaySign,
    /// The leaf's key usage lacks `digitalSignature`.
    #[error("the leaf's key usage lacks digitalSignature")]
    NoDigitalSignature,
    /// The extended key usage does not allow both TLS client and TLS server.
    #[error("the extended key usage does not allow both TLS client and TLS server")]
    KeyPurpose,
    /// A certificate behind the leaf is not a certificate authority.
    #[error("not a certificate authority")]
    NotAnAuthority,
    /// An extension is malformed, repeated, or critical and unknown.
    #[error("malformed, repeated or unknown critical extension")]
    Extension,
    /// The chain needs more work than is spent on one.
    #[error("the path is too long or too costly to build")]
    TooCostly,
}
