//! Which keys and signatures are believed.
//!
//! | | leaf | authority |
//! |---|---|---|
//! | key | P-256, P-384, Ed25519, RSA 2,048 to 8,192 bits | the same, and P-521 |
//! | signed with | ECDSA, RSA (PKCS #1 or PSS) with SHA-256, -384 or -512, Ed25519 | the same; an authority in a bundle is trusted as it is |
//!
//! A leaf's key has to sign TLS handshakes, where P-521 is not offered; a company's root may have one.

use rustls_pki_types::SignatureVerificationAlgorithm;
use webpki::aws_lc_rs as algorithms;
use x509_parser::asn1_rs::Oid;
use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_PKCS1_RSASSAPSS, OID_PKCS1_SHA256WITHRSA,
    OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA, OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384,
    OID_SIG_ECDSA_WITH_SHA512, OID_SIG_ED25519,
};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::error::Defect;
use crate::key::KeyAlgorithm;
use crate::limits::{MAX_RSA_BITS, MIN_RSA_BITS};

/// What a path's signatures may be made with.
pub(crate) const SIGNATURES: &[&dyn SignatureVerificationAlgorithm] = &[
    algorithms::ECDSA_P256_SHA256,
    algorithms::ECDSA_P256_SHA384,
    algorithms::ECDSA_P256_SHA512,
    algorithms::ECDSA_P384_SHA256,
    algorithms::ECDSA_P384_SHA384,
    algorithms::ECDSA_P384_SHA512,
    algorithms::ECDSA_P521_SHA256,
    algorithms::ECDSA_P521_SHA384,
    algorithms::ECDSA_P521_SHA512,
    algorithms::ED25519,
    algorithms::RSA_PKCS1_2048_8192_SHA256,
    algorithms::RSA_PKCS1_2048_8192_SHA384,
    algorithms::RSA_PKCS1_2048_8192_SHA512,
    algorithms::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
    algorithms::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
    algorithms::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
];

/// The names of those, to say which certificate it is before a path is looked for. The hash of a PSS
/// signature is a parameter, which webpki looks at.
const SIGNATURE_NAMES: &[Oid<'static>] = &[
    OID_SIG_ECDSA_WITH_SHA256,
    OID_SIG_ECDSA_WITH_SHA384,
    OID_SIG_ECDSA_WITH_SHA512,
    OID_SIG_ED25519,
    OID_PKCS1_SHA256WITHRSA,
    OID_PKCS1_SHA384WITHRSA,
    OID_PKCS1_SHA512WITHRSA,
    OID_PKCS1_RSASSAPSS,
];

/// Whether a certificate says it was signed with something strong; whether it was is webpki's work.
pub(crate) fn check_signature(certificate: &X509Certificate<'_>) -> Result<(), Defect> {
    let name = &certificate.signature_algorithm.algorithm;
    if SIGNATURE_NAMES.contains(name) { Ok(()) } else { Err(Defect::WeakSignature) }
}

/// The kind of a leaf's key.
pub(crate) fn leaf_key(key: &SubjectPublicKeyInfo<'_>) -> Result<KeyAlgorithm, Defect> {
    if key.algorithm.algorithm == OID_SIG_ED25519 {
        return Ok(KeyAlgorithm::Ed25519);
    }
    match key.parsed().map_err(|_| Defect::WeakKey)? {
        PublicKey::RSA(rsa) => rsa_strength(rsa.modulus),
        PublicKey::EC(_) => curve(key),
        _ => Err(Defect::WeakKey),
    }
}

/// An authority's key may also be of P-521.
pub(crate) fn check_authority_key(key: &SubjectPublicKeyInfo<'_>) -> Result<(), Defect> {
    if named_curve(key).is_some_and(|curve| curve == OID_NIST_EC_P521) {
        return Ok(());
    }
    leaf_key(key).map(|_| ())
}

fn rsa_strength(modulus: &[u8]) -> Result<KeyAlgorithm, Defect> {
    let significant = modulus.iter().position(|byte| *byte != 0).and_then(|at| modulus.get(at..));
    let bits = match significant {
        Some([first, ..]) => significant.map_or(0, <[u8]>::len) * 8 - first.leading_zeros() as usize,
        _ => 0,
    };
    if (MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits) { Ok(KeyAlgorithm::Rsa) } else { Err(Defect::WeakKey) }
}

fn curve(key: &SubjectPublicKeyInfo<'_>) -> Result<KeyAlgorithm, Defect> {
    match named_curve(key) {
        Some(oid) if oid == OID_EC_P256 => Ok(KeyAlgorithm::EcdsaP256),
        Some(oid) if oid == OID_NIST_EC_P384 => Ok(KeyAlgorithm::EcdsaP384),
        _ => Err(Defect::WeakKey),
    }
}

/// A curve by name; one that is spelt out by its parameters could be any.
fn named_curve<'k>(key: &'k SubjectPublicKeyInfo<'_>) -> Option<Oid<'k>> {
    key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok())
}
