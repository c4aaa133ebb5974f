//! What an X.509-SVID must look like, whoever signed it (X509-SVID sections 2 to 5).
//!
//! Path and signatures are webpki's work ([`crate::chain`]); this file checks what webpki leaves alone:
//! key usage, the one URI name, the strength of keys, and what a certificate behind the leaf must be.

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{ExtendedKeyUsage, GeneralName};
use x509_parser::oid_registry::{OID_EC_P256, OID_NIST_EC_P384, OID_SIG_ED25519};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::{SubjectPublicKeyInfo, X509Version};

use crate::error::Defect;
use crate::id::SpiffeId;
use crate::key::KeyAlgorithm;
use crate::limits::{MAX_CERTIFICATE_BYTES, MAX_RSA_BITS, MIN_RSA_BITS};

/// A certificate's life in Unix seconds, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) not_before: u64,
    pub(crate) not_after: u64,
}

impl Validity {
    pub(crate) fn contains(self, now: u64) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }
}

/// What a leaf says about its holder.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    pub(crate) id: SpiffeId,
    pub(crate) validity: Validity,
    pub(crate) algorithm: KeyAlgorithm,
    pub(crate) public_key: Vec<u8>,
}

/// Reads a leaf and checks the profile of one.
pub(crate) fn leaf(der: &[u8]) -> Result<Leaf, Defect> {
    let certificate = parse(der)?;
    let algorithm = key_algorithm(certificate.public_key())?;
    if is_authority(&certificate)? {
        return Err(Defect::LeafIsAuthority);
    }
    check_leaf_usage(&certificate)?;
    if !purposes(&certificate)?.is_some_and(allows_both) {
        return Err(Defect::KeyPurpose);
    }
    Ok(Leaf {
        id: spiffe_id(&certificate)?,
        validity: validity(&certificate),
        algorithm,
        public_key: certificate.public_key().subject_public_key.data.to_vec(),
    })
}

/// Reads a certificate that vouches for others and checks that it may.
pub(crate) fn authority(der: &[u8]) -> Result<Validity, Defect> {
    let certificate = parse(der)?;
    key_algorithm(certificate.public_key())?;
    let usage = certificate.key_usage().map_err(|_| Defect::Extension)?;
    if !is_authority(&certificate)? || !usage.is_none_or(|usage| usage.value.key_cert_sign()) {
        return Err(Defect::NotAnAuthority);
    }
    if !purposes(&certificate)?.is_none_or(allows_both) {
        return Err(Defect::KeyPurpose);
    }
    Ok(validity(&certificate))
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, Defect> {
    if der.len() > MAX_CERTIFICATE_BYTES {
        return Err(Defect::TooLarge(der.len()));
    }
    match x509_parser::parse_x509_certificate(der) {
        Ok(([], certificate)) if certificate.version() == X509Version::V3 => Ok(certificate),
        _ => Err(Defect::Der),
    }
}

fn is_authority(certificate: &X509Certificate<'_>) -> Result<bool, Defect> {
    let constraints = certificate.basic_constraints().map_err(|_| Defect::Extension)?;
    Ok(constraints.is_some_and(|constraints| constraints.value.ca))
}

fn check_leaf_usage(certificate: &X509Certificate<'_>) -> Result<(), Defect> {
    let usage = certificate.key_usage().map_err(|_| Defect::Extension)?;
    let usage = usage.ok_or(Defect::NoDigitalSignature)?.value;
    if usage.key_cert_sign() || usage.crl_sign() {
        return Err(Defect::LeafMaySign);
    }
    if usage.digital_signature() { Ok(()) } else { Err(Defect::NoDigitalSignature) }
}

fn purposes<'c>(certificate: &'c X509Certificate<'_>) -> Result<Option<&'c ExtendedKeyUsage<'c>>, Defect> {
    let usage = certificate.extended_key_usage().map_err(|_| Defect::Extension)?;
    Ok(usage.map(|usage| usage.value))
}

/// `anyExtendedKeyUsage` does not count: webpki does not know it, and no SVID carries it.
fn allows_both(usage: &ExtendedKeyUsage<'_>) -> bool {
    usage.client_auth && usage.server_auth
}

fn spiffe_id(certificate: &X509Certificate<'_>) -> Result<SpiffeId, Defect> {
    let names = certificate.subject_alternative_name().map_err(|_| Defect::Extension)?;
    let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    let mut uris = Vec::new();
    for name in names {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            GeneralName::Invalid(..) => return Err(Defect::Extension),
            _ => {}
        }
    }
    match uris.as_slice() {
        [] => Err(Defect::NoUriName),
        [uri] => workload_id(uri),
        several => Err(Defect::SeveralUriNames(several.len())),
    }
}

fn workload_id(uri: &str) -> Result<SpiffeId, Defect> {
    let id = SpiffeId::parse(uri).map_err(Defect::SpiffeId)?;
    if id.path().is_empty() { Err(Defect::NoPathInId) } else { Ok(id) }
}

/// A moment before 1970 counts as 1970: such a certificate is merely long expired.
fn validity(certificate: &X509Certificate<'_>) -> Validity {
    let seconds = |timestamp: i64| u64::try_from(timestamp).unwrap_or(0);
    Validity {
        not_before: seconds(certificate.validity().not_before.timestamp()),
        not_after: seconds(certificate.validity().not_after.timestamp()),
    }
}

fn key_algorithm(key: &SubjectPublicKeyInfo<'_>) -> Result<KeyAlgorithm, Defect> {
    if key.algorithm.algorithm == OID_SIG_ED25519 {
        return Ok(KeyAlgorithm::Ed25519);
    }
    match key.parsed().map_err(|_| Defect::WeakKey)? {
        PublicKey::RSA(rsa) => rsa_strength(rsa.modulus),
        PublicKey::EC(_) => curve(key),
        _ => Err(Defect::WeakKey),
    }
}

fn rsa_strength(modulus: &[u8]) -> Result<KeyAlgorithm, Defect> {
    let significant = modulus.iter().skip_while(|byte| **byte == 0).count();
    if (MIN_RSA_BITS / 8..=MAX_RSA_BITS / 8).contains(&significant) {
        Ok(KeyAlgorithm::Rsa)
    } else {
        Err(Defect::WeakKey)
    }
}

fn curve(key: &SubjectPublicKeyInfo<'_>) -> Result<KeyAlgorithm, Defect> {
    let named = key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    match named {
        Some(oid) if oid == OID_EC_P256 => Ok(KeyAlgorithm::EcdsaP256),
        Some(oid) if oid == OID_NIST_EC_P384 => Ok(KeyAlgorithm::EcdsaP384),
        _ => Err(Defect::WeakKey),
    }
}
