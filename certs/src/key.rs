//! Private keys: held wiped-on-drop, never printed, and matched against the certificate they go with.

use std::fmt;

use aws_lc_rs::rsa;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
};
use zeroize::Zeroizing;

use crate::limits::MAX_PRIVATE_KEY_BYTES;

/// The kinds of key an SVID may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyAlgorithm {
    /// ECDSA on P-256: SPIRE's default, and what the embedded CA issues.
    EcdsaP256,
    /// ECDSA on P-384.
    EcdsaP384,
    /// RSA with 2,048 to 8,192 bits.
    Rsa,
    /// Ed25519.
    Ed25519,
}

/// Why some bytes are not a usable private key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Larger than [`MAX_PRIVATE_KEY_BYTES`].
    #[error("the private key is too large")]
    TooLarge,
    /// Not the PKCS #8 DER of a key of the expected kind.
    #[error("not a PKCS #8 private key of the expected kind")]
    Invalid,
}

/// A private key in PKCS #8 DER. Wiped when dropped; `Debug` shows nothing of it.
#[derive(Clone)]
pub struct SigningKey(Zeroizing<Vec<u8>>);

impl SigningKey {
    /// Takes the PKCS #8 DER of an ECDSA P-256 key (what the embedded CA works with).
    pub fn p256(pkcs8: Vec<u8>) -> Result<Self, KeyError> {
        let key = Self::bounded(pkcs8)?;
        public_key(&key.0, KeyAlgorithm::EcdsaP256)?;
        Ok(key)
    }

    /// Takes any PKCS #8 DER; whether it fits a certificate is checked where the two meet.
    pub(crate) fn bounded(pkcs8: Vec<u8>) -> Result<Self, KeyError> {
        let key = Self(Zeroizing::new(pkcs8));
        if key.0.len() > MAX_PRIVATE_KEY_BYTES { Err(KeyError::TooLarge) } else { Ok(key) }
    }

    /// The PKCS #8 DER. Whoever copies it answers for the copy.
    #[must_use]
    pub fn pkcs8_der(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("SigningKey(..)")
    }
}

/// The public half of a private key, in the form a certificate of that kind carries it.
pub(crate) fn public_key(pkcs8: &[u8], algorithm: KeyAlgorithm) -> Result<Vec<u8>, KeyError> {
    let public = match algorithm {
        KeyAlgorithm::EcdsaP256 => EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8)
            .map(|pair| pair.public_key().as_ref().to_vec()),
        KeyAlgorithm::EcdsaP384 => EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_ASN1_SIGNING, pkcs8)
            .map(|pair| pair.public_key().as_ref().to_vec()),
        KeyAlgorithm::Rsa => rsa::KeyPair::from_pkcs8(pkcs8).map(|pair| pair.public_key().as_ref().to_vec()),
        KeyAlgorithm::Ed25519 => {
            Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8).map(|pair| pair.public_key().as_ref().to_vec())
        }
    };
    public.map_err(|_| KeyError::Invalid)
}
