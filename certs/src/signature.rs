//! Statements signed with an SVID, outside of TLS: what a node says about itself in its node object.
//!
//! ECDSA P-256 with SHA-256, ASN.1. The signed bytes begin with [`PREFIX`], so that a signature made
//! here is never one of TLS 1.3 (which begins with 64 spaces) or of a certificate (which begins with a
//! DER sequence), and the other way round.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};

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
    /// The SVID's key is not ECDSA P-256.
    #[error("the SVID's key is not ECDSA P-256")]
    KeyAlgorithm,
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
    /// The signer's key is not ECDSA P-256.
    #[error("the signer's key is not ECDSA P-256")]
    KeyAlgorithm,
    /// The signature is not the signer's over this message.
    #[error("the signature does not match the message")]
    Mismatch,
}

/// Signs a message with an SVID's key. The message should name its own purpose and version.
pub fn sign(svid: &Svid, message: &[u8]) -> Result<Vec<u8>, SignError> {
    if message.len() > MAX_SIGNED_MESSAGE_BYTES {
        return Err(SignError::TooLarge);
    }
    if svid.key_algorithm() != KeyAlgorithm::EcdsaP256 {
        return Err(SignError::KeyAlgorithm);
    }
    let pkcs8 = svid.private_key().pkcs8_der();
    let pair =
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8).map_err(|_| SignError::Failed)?;
    let signature = pair.sign(&SystemRandom::new(), &statement(message)).map_err(|_| SignError::Failed)?;
    Ok(signature.as_ref().to_vec())
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
    if peer.key_algorithm() != KeyAlgorithm::EcdsaP256 {
        return Err(SignatureError::KeyAlgorithm);
    }
    if peer.signed(&statement(message), signature) { Ok(peer) } else { Err(SignatureError::Mismatch) }
}

fn statement(message: &[u8]) -> Vec<u8> {
    [PREFIX, message].concat()
}
