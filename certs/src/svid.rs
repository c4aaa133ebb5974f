//! An X.509-SVID of ours: a chain and the private key of its leaf.

use std::fmt;

use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use crate::error::{Defect, VerifyError};
use crate::id::SpiffeId;
use crate::key::{self, KeyAlgorithm, KeyError, SigningKey};
use crate::limits::{MAX_CHAIN_BYTES, MAX_CHAIN_CERTIFICATES};
use crate::{chain, der, profile};

/// Why a chain and a key are not an SVID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SvidError {
    /// The chain is too long or large, or a certificate in it is not what it should be.
    #[error(transparent)]
    Chain(#[from] VerifyError),
    /// The private key is not usable.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The private key is not the leaf's.
    #[error("the private key does not belong to the leaf certificate")]
    KeyMismatch,
}

/// A well-formed X.509-SVID with its private key. That its chain leads to a bundle, and that it has not
/// expired, is for its peers to check; they do.
#[derive(Clone)]
pub struct Svid {
    id: SpiffeId,
    chain: Vec<CertificateDer<'static>>,
    key: SigningKey,
    algorithm: KeyAlgorithm,
    not_before: u64,
    not_after: u64,
}

impl Svid {
    /// Takes a chain (leaf first) and the leaf's private key in PKCS #8 DER.
    pub fn new(chain_der: Vec<Vec<u8>>, pkcs8: Vec<u8>) -> Result<Self, SvidError> {
        let key = SigningKey::bounded(pkcs8)?;
        chain::check_limits(&chain_der)?;
        let malformed = |certificate| move |defect| VerifyError::Malformed { certificate, defect };
        let first = chain_der.first().ok_or(Defect::EmptyChain).map_err(malformed(0))?;
        let leaf = profile::leaf(first).map_err(malformed(0))?;
        let mut not_after = leaf.validity.not_after;
        for (at, der) in chain_der.iter().enumerate().skip(1) {
            not_after = not_after.min(profile::intermediate(der).map_err(malformed(at))?.validity.not_after);
        }
        if key::public_key(key.pkcs8_der(), leaf.algorithm)? != leaf.public_key {
            return Err(SvidError::KeyMismatch);
        }
        Ok(Self {
            id: leaf.id,
            chain: chain_der.into_iter().map(CertificateDer::from).collect(),
            key,
            algorithm: leaf.algorithm,
            not_before: leaf.validity.not_before,
            not_after,
        })
    }

    /// Takes a chain in DER, one certificate after another, leaf first, as the Workload API gives it.
    pub fn from_der(concatenated: &[u8], pkcs8: Vec<u8>) -> Result<Self, SvidError> {
        let key = Zeroizing::new(pkcs8);
        let malformed = |defect| VerifyError::Malformed { certificate: 0, defect };
        if concatenated.len() > MAX_CHAIN_BYTES {
            return Err(malformed(Defect::TooLarge(concatenated.len())).into());
        }
        let ders = der::split(concatenated, MAX_CHAIN_CERTIFICATES).map_err(|error| match error {
            der::SplitError::TooMany => malformed(Defect::TooMany(MAX_CHAIN_CERTIFICATES + 1)),
            der::SplitError::NotDer => malformed(Defect::Der),
        })?;
        Self::new(ders.into_iter().map(<[u8]>::to_vec).collect(), key.to_vec())
    }

    /// Whom it speaks for.
    #[must_use]
    pub fn spiffe_id(&self) -> &SpiffeId {
        &self.id
    }

    /// The chain, leaf first, without the root.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The leaf's private key.
    #[must_use]
    pub fn private_key(&self) -> &SigningKey {
        &self.key
    }

    /// The kind of the leaf's key.
    #[must_use]
    pub fn key_algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// Begin of the leaf's life, Unix seconds.
    #[must_use]
    pub fn not_before(&self) -> u64 {
        self.not_before
    }

    /// End of the chain's life (the earliest of its certificates), Unix seconds.
    #[must_use]
    pub fn not_after(&self) -> u64 {
        self.not_after
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Svid")
            .field("id", &self.id)
            .field("certificates", &self.chain.len())
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}
