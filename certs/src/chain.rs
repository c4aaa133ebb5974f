//! Verifying a peer's chain, and the value that proves it was done.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, aws_lc_rs as algorithms};

use crate::bundle::Bundle;
use crate::error::{Defect, Distrust, VerifyError};
use crate::id::SpiffeId;
use crate::key::KeyAlgorithm;
use crate::limits::{MAX_CERTIFICATE_BYTES, MAX_CHAIN_BYTES, MAX_CHAIN_CERTIFICATES};
use crate::profile::{self, Leaf, Validity};

/// The signature algorithms that are believed in a chain. No SHA-1, no RSA below 2,048 bits, no other
/// curves.
const ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    algorithms::ECDSA_P256_SHA256,
    algorithms::ECDSA_P256_SHA384,
    algorithms::ECDSA_P384_SHA256,
    algorithms::ECDSA_P384_SHA384,
    algorithms::ED25519,
    algorithms::RSA_PKCS1_2048_8192_SHA256,
    algorithms::RSA_PKCS1_2048_8192_SHA384,
    algorithms::RSA_PKCS1_2048_8192_SHA512,
];

/// Somebody whose chain has been verified. Only this module makes one; only one of these authenticates
/// a pair. It proves the chain, not the possession of the key: that is what the TLS handshake or
/// [`crate::signature::verify`] adds.
#[derive(Clone, Debug)]
pub struct VerifiedPeer {
    inner: Arc<Facts>,
}

#[derive(Debug)]
struct Facts {
    id: SpiffeId,
    life: Validity,
    algorithm: KeyAlgorithm,
    public_key: Vec<u8>,
    bundle_version: [u8; 32],
}

impl VerifiedPeer {
    /// Who it is.
    #[must_use]
    pub fn spiffe_id(&self) -> &SpiffeId {
        &self.inner.id
    }

    /// Until when the whole chain, the root included, is valid: Unix seconds. The proof ends then.
    #[must_use]
    pub fn not_after(&self) -> u64 {
        self.inner.life.not_after
    }

    /// Since when the whole chain, the root included, is valid: Unix seconds.
    #[must_use]
    pub fn not_before(&self) -> u64 {
        self.inner.life.not_before
    }

    /// Whether the chain is valid at that time (Unix seconds).
    #[must_use]
    pub fn is_live_at(&self, now: u64) -> bool {
        self.inner.life.contains(now)
    }

    /// The kind of the leaf's key.
    #[must_use]
    pub fn key_algorithm(&self) -> KeyAlgorithm {
        self.inner.algorithm
    }

    /// The leaf's public key: the uncompressed point (ECDSA), the `RSAPublicKey` DER, or the 32 bytes
    /// of Ed25519.
    #[must_use]
    pub fn public_key(&self) -> &[u8] {
        &self.inner.public_key
    }

    /// The version of the bundle that vouched for it ([`Bundle::version`]).
    #[must_use]
    pub fn bundle_version(&self) -> &[u8; 32] {
        &self.inner.bundle_version
    }

    /// Whether an ECDSA P-256 SHA-256 signature over `message` is this peer's.
    pub(crate) fn signed(&self, message: &[u8], signature: &[u8]) -> bool {
        self.inner.algorithm == KeyAlgorithm::EcdsaP256
            && UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.inner.public_key)
                .verify(message, signature)
                .is_ok()
    }
}

/// Verifies a chain (leaf first) against the bundle of the expected trust domain, and that it speaks
/// for exactly `expected`. `now` is in Unix seconds.
///
/// Checked in this order: sizes and counts; the profile of every certificate (what is wrong is
/// `Malformed`); the trust domain and validity; path and signatures; the identity.
pub fn verify<C: AsRef<[u8]>>(
    chain: &[C],
    bundle: &Bundle,
    expected: &SpiffeId,
    now: u64,
) -> Result<VerifiedPeer, VerifyError> {
    let peer = verify_member(chain, bundle, now)?;
    if peer.spiffe_id() == expected {
        return Ok(peer);
    }
    let presented = peer.spiffe_id().clone();
    Err(VerifyError::WrongIdentity { expected: expected.clone(), presented })
}

/// Verifies a chain as [`verify`] does, for any member of the bundle's trust domain: for the side that
/// learns only later whom the peer claims to be. The caller compares [`VerifiedPeer::spiffe_id`].
pub fn verify_member<C: AsRef<[u8]>>(
    chain: &[C],
    bundle: &Bundle,
    now: u64,
) -> Result<VerifiedPeer, VerifyError> {
    check_limits(chain)?;
    let (leaf, mut life) = profiles(chain)?;
    if !leaf.id.is_member_of(bundle.trust_domain()) {
        let expected = bundle.trust_domain().clone();
        return Err(Distrust::OtherTrustDomain { expected, presented: leaf.id }.into());
    }
    for (at, one) in life.iter().enumerate() {
        check_life(at, *one, now)?;
    }
    life.push(find_path(chain, bundle, now)?);
    let life = Validity {
        not_before: life.iter().map(|one| one.not_before).max().unwrap_or(u64::MAX),
        not_after: life.iter().map(|one| one.not_after).min().unwrap_or(0),
    };
    Ok(VerifiedPeer {
        inner: Arc::new(Facts {
            id: leaf.id,
            life,
            algorithm: leaf.algorithm,
            public_key: leaf.public_key,
            bundle_version: *bundle.version(),
        }),
    })
}

/// Refuses a chain by count and size, before anything is parsed. [`verify`] begins with it.
pub fn check_limits<C: AsRef<[u8]>>(chain: &[C]) -> Result<(), VerifyError> {
    let malformed = |certificate, defect| Err(VerifyError::Malformed { certificate, defect });
    if chain.is_empty() {
        return malformed(0, Defect::EmptyChain);
    }
    if chain.len() > MAX_CHAIN_CERTIFICATES {
        return malformed(MAX_CHAIN_CERTIFICATES, Defect::TooMany(chain.len()));
    }
    let mut total = 0_usize;
    for (at, der) in chain.iter().enumerate() {
        let length = der.as_ref().len();
        total = total.saturating_add(length);
        if length > MAX_CERTIFICATE_BYTES || total > MAX_CHAIN_BYTES {
            return malformed(at, Defect::TooLarge(length));
        }
    }
    Ok(())
}

/// The leaf's facts, and the life of every certificate of the chain. A second leaf behind the first is
/// not an authority, and refuses the chain.
fn profiles<C: AsRef<[u8]>>(chain: &[C]) -> Result<(Leaf, Vec<Validity>), VerifyError> {
    let malformed = |certificate| move |defect| VerifyError::Malformed { certificate, defect };
    let (first, behind) = chain.split_first().ok_or(Defect::EmptyChain).map_err(malformed(0))?;
    let leaf = profile::leaf(first.as_ref()).map_err(malformed(0))?;
    let mut lives = vec![leaf.validity];
    for (at, der) in behind.iter().enumerate() {
        lives.push(profile::authority(der.as_ref()).map_err(malformed(at.saturating_add(1)))?);
    }
    Ok((leaf, lives))
}

fn check_life(certificate: usize, life: Validity, now: u64) -> Result<(), VerifyError> {
    let Validity { not_before, not_after } = life;
    if now < not_before {
        Err(VerifyError::NotYetValid { certificate, not_before, now })
    } else if now > not_after {
        Err(VerifyError::Expired { certificate, not_after, now })
    } else {
        Ok(())
    }
}

/// Builds a path to an authority and returns that authority's life.
///
/// webpki does not look at an anchor's validity, so anchors that are not valid now are left out; if the
/// chain leads to one of those, that is what the error says.
fn find_path<C: AsRef<[u8]>>(chain: &[C], bundle: &Bundle, now: u64) -> Result<Validity, VerifyError> {
    let ders: Vec<CertificateDer<'_>> = chain.iter().map(|der| CertificateDer::from(der.as_ref())).collect();
    match path_to(&ders, &live_anchors(bundle, now), bundle, now) {
        Err(VerifyError::Untrusted(Distrust::NoPath)) => {
            let life = path_to(&ders, &bundle.anchors, bundle, now)?;
            check_life(chain.len(), life, now)?;
            Ok(life)
        }
        result => result,
    }
}

fn live_anchors(bundle: &Bundle, now: u64) -> Cow<'_, [TrustAnchor<'static>]> {
    if bundle.lives.iter().all(|life| life.contains(now)) {
        return Cow::Borrowed(&bundle.anchors);
    }
    let with_life = bundle.anchors.iter().zip(&bundle.lives);
    Cow::Owned(with_life.filter(|(_, life)| life.contains(now)).map(|(anchor, _)| anchor.clone()).collect())
}

fn path_to(
    ders: &[CertificateDer<'_>],
    anchors: &[TrustAnchor<'_>],
    bundle: &Bundle,
    now: u64,
) -> Result<Validity, VerifyError> {
    let (leaf, behind) =
        ders.split_first().ok_or(VerifyError::Malformed { certificate: 0, defect: Defect::EmptyChain })?;
    let leaf = EndEntityCert::try_from(leaf).map_err(|error| from_webpki(&error, now))?;
    let time = UnixTime::since_unix_epoch(Duration::from_secs(now));
    let path = leaf
        .verify_for_usage(ALGORITHMS, anchors, behind, time, KeyUsage::server_auth(), None, None)
        .map_err(|error| from_webpki(&error, now))?;
    let used = path.anchor();
    let same = |anchor: &TrustAnchor<'_>| {
        anchor.subject == used.subject && anchor.subject_public_key_info == used.subject_public_key_info
    };
    // Two anchors may share name and key (a renewed root): of those that live now, the one that lives
    // longest counts.
    let lives = bundle.anchors.iter().zip(&bundle.lives).filter(|(anchor, _)| same(anchor));
    lives
        .map(|(_, life)| *life)
        .max_by_key(|life| (life.contains(now), life.not_after))
        .ok_or(Distrust::NoPath.into())
}

fn from_webpki(error: &webpki::Error, now: u64) -> VerifyError {
    use webpki::Error as E;
    let malformed = |defect| VerifyError::Malformed { certificate: 0, defect };
    match error {
        E::UnknownIssuer | E::InvalidSignatureForPublicKey => Distrust::NoPath.into(),
        E::NameConstraintViolation | E::PathLenConstraintViolated | E::CertDistrusted | E::CertRevoked => {
            Distrust::Constrained.into()
        }
        E::CertExpired { not_after, .. } => {
            VerifyError::Expired { certificate: 0, not_after: not_after.as_secs(), now }
        }
        E::CertNotValidYet { not_before, .. } => {
            VerifyError::NotYetValid { certificate: 0, not_before: not_before.as_secs(), now }
        }
        E::CaUsedAsEndEntity => malformed(Defect::LeafIsAuthority),
        E::EndEntityUsedAsCa => malformed(Defect::NotAnAuthority),
        E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => malformed(Defect::KeyPurpose),
        E::UnsupportedSignatureAlgorithmContext(_)
        | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_)
        | E::SignatureAlgorithmMismatch => malformed(Defect::WeakSignature),
        E::MaximumNameConstraintComparisonsExceeded
        | E::MaximumPathBuildCallsExceeded
        | E::MaximumPathDepthExceeded
        | E::MaximumSignatureChecksExceeded => malformed(Defect::TooCostly),
        E::UnsupportedCriticalExtension
        | E::MalformedExtensions
        | E::ExtensionValueInvalid
        | E::MalformedNameConstraint => malformed(Defect::Extension),
        _ => malformed(Defect::Der),
    }
}
