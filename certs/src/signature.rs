//! Statements signed with an SVID, outside of TLS: what a node says about itself in its node object.
//!
//! With the leaf's key, whatever kind an SVID may have: ECDSA on P-256 with SHA-256 or on P-384 with SHA-384 (ASN.1),
//! RSA-PSS with SHA-256, Ed25519; as in TLS 1.3. The kind is the certificate's, so a signature names none and there
//! is none to choose. The signed bytes begin with [`PREFIX`], so that a signature made
//! here is never one of TLS 1.3 (which begins with 64 spaces) or of a certificate (which begins with a
//! DER sequence), and the other way round.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1,
    ECDSA_P384_SHA384_ASN1_SIGNING, ED25519, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_SHA256, RsaKeyPair, UnparsedPublicKey, VerificationAlgorithm,
};

use crate::bundle::Bundle;
use crate::chain::{self, VerifiedPeer};
use crate::error::VerifyError;
use crate::id::SpiffeId;
use crate::key::KeyAlgorithm;
use crate::limits::{MAX_SIGNATURE_BYTES, MAX_SIGNED_MESSAGE_BYTES};
use crate::svid::Svid;

/// What stands before every signed message.
pub const PREFIX: &[u8] = b"countersign signed statement v1\0";

/// Why a statement could not be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The message is larger than [`MAX_SIGNED_MESSAGE_BYTES`].
    #[error("the message is too large to be signed")]
    TooLarge,
    /// The cryptographic library refused.
    #[error("signing failed")]
    Failed,
}

/// Why a signed statement was not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The chain was not believed.
    #[error(transparent)]
    Chain(#[from] VerifyError),
    /// The message or the signature is larger than any that is made here.
    #[error("the message or its signature is too large")]
    TooLarge,
    /// The signature is not the signer's over this message.
    #[error("the signature does not match the message")]
    Mismatch,
}

/// Signs a message with an SVID's key. The message should name its own purpose and version.
pub fn sign(svid: &Svid, message: &[u8]) -> Result<Vec<u8>, SignError> {
    if message.len() > MAX_SIGNED_MESSAGE_BYTES {
        return Err(SignError::TooLarge);
    }
    let (pkcs8, statement) = (svid.private_key().pkcs8_der(), statement(message));
    match svid.key_algorithm() {
        KeyAlgorithm::EcdsaP256 => ecdsa(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8, &statement),
        KeyAlgorithm::EcdsaP384 => ecdsa(&ECDSA_P384_SHA384_ASN1_SIGNING, pkcs8, &statement),
        KeyAlgorithm::Rsa => rsa(pkcs8, &statement),
        KeyAlgorithm::Ed25519 => {
            let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8).map_err(|_| SignError::Failed)?;
            Ok(pair.sign(&statement).as_ref().to_vec())
        }
    }
}

fn ecdsa(
    algorithm: &'static EcdsaSigningAlgorithm,
    pkcs8: &[u8],
    statement: &[u8],
) -> Result<Vec<u8>, SignError> {
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8).map_err(|_| SignError::Failed)?;
    let signature = pair.sign(&SystemRandom::new(), statement).map_err(|_| SignError::Failed)?;
    Ok(signature.as_ref().to_vec())
}

fn rsa(pkcs8: &[u8], statement: &[u8]) -> Result<Vec<u8>, SignError> {
    let pair = RsaKeyPair::from_pkcs8(pkcs8).map_err(|_| SignError::Failed)?;
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(&RSA_PSS_SHA256, &SystemRandom::new(), statement, &mut signature)
        .map_err(|_| SignError::Failed)?;
    Ok(signature)
}

/// How a signature of a key of that kind is looked at.
pub(crate) fn is_of(algorithm: KeyAlgorithm, public_key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let by: &'static dyn VerificationAlgorithm = match algorithm {
        KeyAlgorithm::EcdsaP256 => &ECDSA_P256_SHA256_ASN1,
        KeyAlgorithm::EcdsaP384 => &ECDSA_P384_SHA384_ASN1,
        KeyAlgorithm::Rsa => &RSA_PSS_2048_8192_SHA256,
        KeyAlgorithm::Ed25519 => &ED25519,
    };
    UnparsedPublicKey::new(by, public_key).verify(message, signature).is_ok()
}

/// Verifies the signer's chain as [`chain::verify`] does, and the signature over the message.
pub fn verify<C: AsRef<[u8]>>(
    chain: &[C],
    bundle: &Bundle,
    expected: &SpiffeId,
    now: u64,
    message: &[u8],
    signature: &[u8],
) -> Result<VerifiedPeer, SignatureError> {
    if message.len() > MAX_SIGNED_MESSAGE_BYTES || signature.len() > MAX_SIGNATURE_BYTES {
        return Err(SignatureError::TooLarge);
    }
    let peer = chain::verify(chain, bundle, expected, now)?;
    if peer.signed(&statement(message), signature) { Ok(peer) } else { Err(SignatureError::Mismatch) }
}

fn statement(message: &[u8]) -> Vec<u8> {
    [PREFIX, message].concat()
}
