//! Why a chain was not believed, told apart by who is to blame.
//!
//! A text says what is wrong, and after the semicolon what to do about it: it is what an operator finds in
//! the flow's record.

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
    /// A certificate of the path, or every authority that could vouch for it, is past its life.
    #[error(
        "certificate {certificate} expired {} s ago; is its issuer renewing it, and this clock right?",
        now.saturating_sub(*not_after)
    )]
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
        "certificate {certificate} is not valid for another {} s (clock skew?); compare this clock with the issuer's",
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
    /// There is no bundle of the leaf's trust domain.
    #[error("there is no bundle of trust domain {0}; federate with it if its members are to be believed")]
    NoBundle(TrustDomain),
    /// No authority of the bundle signed it, directly or through the intermediates.
    #[error(
        "no authority of the trust domain vouches for it; is its root in the bundle, and was every intermediate sent?"
    )]
    NoPath,
    /// An authority on the way has a SPIFFE ID of another trust domain than the leaf.
    #[error("authority {authority} is not of trust domain {domain}; it may not issue for it")]
    ForeignAuthority {
        /// Who the authority says it is.
        authority: SpiffeId,
        /// The leaf's trust domain.
        domain: TrustDomain,
    },
    /// An authority on the way may not have so many authorities below it.
    #[error("an authority's path length forbids it; it may not have so many authorities below it")]
    PathLength,
    /// An authority's name constraints exclude the leaf, or are of a kind that is not evaluated here (URI and
    /// directory names).
    #[error("an authority's name constraints forbid it; URI and directory name constraints always do here")]
    NameConstraint,
}

/// What makes a certificate or a chain something other than an X.509-SVID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Defect {
    /// There is no certificate at all.
    #[error("the chain is empty; the peer has no SVID to show")]
    EmptyChain,
    /// More certificates than [`crate::limits::MAX_CHAIN_CERTIFICATES`].
    #[error("too many certificates ({0}); send the leaf and its intermediates only")]
    TooMany(usize),
    /// More bytes than [`crate::limits`] allow.
    #[error("too large ({0} bytes); certificates this large are not taken")]
    TooLarge(usize),
    /// Not the DER of an X.509 version 3 certificate.
    #[error("not the DER of an X.509 version 3 certificate")]
    Der,
    /// Signed with an algorithm that is not believed (SHA-1, MD5, DSA, …).
    #[error("weak or unknown signature algorithm; its issuer must sign with ECDSA, RSA or Ed25519 and SHA-2")]
    WeakSignature,
    /// A key that is too short, or of an unknown kind or curve.
    #[error("weak or unknown key; use ECDSA P-256 or P-384, Ed25519, or RSA of 2,048 to 8,192 bits")]
    WeakKey,
    /// The life ends before it begins.
    #[error("its life ends before it begins; have it issued anew")]
    ReversedLife,
    /// The leaf has no URI name.
    #[error("no URI name; an SVID carries its SPIFFE ID as its only URI name")]
    NoUriName,
    /// More than one URI name.
    #[error("{0} URI names, there must be exactly one; have it issued with its SPIFFE ID alone")]
    SeveralUriNames(usize),
    /// The only URI name is not a SPIFFE ID.
    #[error("its URI name is no SPIFFE ID: {0}")]
    SpiffeId(IdError),
    /// The leaf's SPIFFE ID has no path: it names a trust domain, not a workload.
    #[error("its SPIFFE ID has no path; it names a trust domain, and a workload's is needed")]
    NoPathInId,
    /// The subject is empty and the alternative names are not marked critical.
    #[error("without a subject, the alternative names must be critical; have it issued anew")]
    NameNotCritical,
    /// The leaf is a certificate authority.
    #[error("the leaf is a certificate authority; show the workload's own certificate")]
    LeafIsAuthority,
    /// The leaf may sign certificates or revocation lists.
    #[error("the leaf's key usage allows keyCertSign or cRLSign; have it issued without")]
    LeafMaySign,
    /// There is no key usage.
    #[error("no key usage; have it issued with one, marked critical")]
    NoKeyUsage,
    /// The key usage of an SVID is not marked critical.
    #[error("its key usage is not marked critical; have it issued anew")]
    KeyUsageNotCritical,
    /// The leaf's key usage lacks `digitalSignature`.
    #[error("the leaf's key usage lacks digitalSignature; have it issued with it")]
    NoDigitalSignature,
    /// There is an extended key usage, and it does not allow both TLS client and TLS server.
    #[error("its extended key usage must allow serverAuth and clientAuth, or be left out")]
    KeyPurpose,
    /// A certificate behind the leaf, or in a bundle, is not a certificate authority.
    #[error("not a certificate authority; behind the leaf, and in a bundle, there are only authorities")]
    NotAnAuthority,
    /// An authority's key usage lacks `keyCertSign`.
    #[error("an authority whose key usage lacks keyCertSign; have it issued with it")]
    AuthorityMayNotSign,
    /// An authority's SPIFFE ID has a path: it names a workload.
    #[error("an authority whose SPIFFE ID has a path; an authority's names its trust domain alone")]
    AuthorityIdHasPath,
    /// A critical extension that is not understood.
    #[error("an unknown extension is marked critical; have it issued without, or not critical")]
    UnknownCriticalExtension,
    /// An extension is malformed or repeated.
    #[error("an extension is malformed or repeated; have it issued anew")]
    Extension,
    /// The chain needs more work than is spent on one.
    #[error("the path is too long or too costly to build; send fewer intermediates")]
    TooCostly,
}
