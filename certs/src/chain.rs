//! Verifying a peer's chain, and the value that proves it was done.

use std::sync::Arc;

use rustls_pki_types::CertificateDer;

use crate::bundle::{AuthorityId, Bundle};
use crate::error::{Defect, Distrust, VerifyError};
use crate::id::SpiffeId;
use crate::key::KeyAlgorithm;
use crate::limits::{MAX_CERTIFICATE_BYTES, MAX_CHAIN_BYTES, MAX_CHAIN_CERTIFICATES};
use crate::path::{self, Shown};
use crate::profile::{self, Authority, Leaf, Validity};
use crate::signature;

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
    authority: AuthorityId,
}

impl VerifiedPeer {
    /// Who it is.
    #[must_use]
    pub fn spiffe_id(&self) -> &SpiffeId {
        &self.inner.id
    }

    /// Until when the whole path, the root included, is valid: Unix seconds. The proof ends then.
    #[must_use]
    pub fn not_after(&self) -> u64 {
        self.inner.life.not_after
    }

    /// Since when the whole path, the root included, is valid: Unix seconds.
    #[must_use]
    pub fn not_before(&self) -> u64 {
        self.inner.life.not_before
    }

    /// Whether the path is valid at that time (Unix seconds).
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

    /// The authority of the bundle that the path ends at: once a bundle has lost it
    /// ([`Bundle::change_from`]), this proof rests on nothing.
    #[must_use]
    pub fn authority(&self) -> &AuthorityId {
        &self.inner.authority
    }

    /// Whether a signature over `message` is this peer's.
    pub(crate) fn signed(&self, message: &[u8], signature: &[u8]) -> bool {
        signature::is_of(self.inner.algorithm, &self.inner.public_key, message, signature)
    }
}

/// Verifies a chain (leaf first) against the bundle of the expected trust domain, and that it speaks
/// for exactly `expected`. `now` is in Unix seconds.
///
/// Checked in this order: sizes and counts; the profile of every certificate (what is wrong is
/// `Malformed`); the trust domain; the leaf's validity; path, signatures and the validity of everything on
/// the path, the root included; the identity. There is no tolerance for clocks: an issuer that expects
/// peers with slow ones backdates, as SPIRE and the embedded CA do, and a proof never outlives what it rests
/// on.
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
    let (leaf, behind) = profiles(chain)?;
    if !leaf.id.is_member_of(bundle.trust_domain()) {
        let expected = bundle.trust_domain().clone();
        return Err(Distrust::OtherTrustDomain { expected, presented: leaf.id }.into());
    }
    let ders: Vec<CertificateDer<'_>> = chain.iter().map(|der| CertificateDer::from(der.as_ref())).collect();
    let path = path::find(&Shown { ders: &ders, leaf: leaf.validity, behind: &behind }, bundle, now)?;
    Ok(VerifiedPeer {
        inner: Arc::new(Facts {
            id: leaf.id,
            life: path.life,
            algorithm: leaf.algorithm,
            public_key: leaf.public_key,
            bundle_version: *bundle.version(),
            authority: path.authority,
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

/// The leaf's facts, and those of every authority behind it. A second leaf behind the first is not an
/// authority, and refuses the chain.
fn profiles<C: AsRef<[u8]>>(chain: &[C]) -> Result<(Leaf, Vec<Authority>), VerifyError> {
    let malformed = |certificate| move |defect| VerifyError::Malformed { certificate, defect };
    let (first, behind) = chain.split_first().ok_or(Defect::EmptyChain).map_err(malformed(0))?;
    let leaf = profile::leaf(first.as_ref()).map_err(malformed(0))?;
    let mut authorities = Vec::with_capacity(behind.len());
    for (der, at) in behind.iter().zip(1..) {
        authorities.push(profile::intermediate(der.as_ref()).map_err(malformed(at))?);
    }
    Ok((leaf, authorities))
}
