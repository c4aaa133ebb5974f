//! What an X.509-SVID must look like, whoever signed it (X509-SVID sections 2 to 5).
//!
//! Path and signatures are webpki's work ([`crate::path`]); this file checks what webpki leaves alone: key
//! usage, the one URI name, the strength of keys, and what a certificate behind the leaf must be.

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{ExtendedKeyUsage, GeneralName, KeyUsage};
use x509_parser::oid_registry::{
    OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_CRL_DISTRIBUTION_POINTS, OID_X509_EXT_EXTENDED_KEY_USAGE,
    OID_X509_EXT_KEY_USAGE, OID_X509_EXT_NAME_CONSTRAINTS, OID_X509_EXT_SUBJECT_ALT_NAME, Oid,
};
use x509_parser::x509::X509Version;

use crate::algorithm;
use crate::error::Defect;
use crate::id::{SpiffeId, TrustDomain};
use crate::key::KeyAlgorithm;
use crate::limits::MAX_CERTIFICATE_BYTES;

/// Extensions that are evaluated, here or by webpki; any other that is critical refuses the certificate.
const UNDERSTOOD: &[Oid<'static>] = &[
    OID_X509_EXT_BASIC_CONSTRAINTS,
    OID_X509_EXT_CRL_DISTRIBUTION_POINTS,
    OID_X509_EXT_EXTENDED_KEY_USAGE,
    OID_X509_EXT_KEY_USAGE,
    OID_X509_EXT_NAME_CONSTRAINTS,
    OID_X509_EXT_SUBJECT_ALT_NAME,
];

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

    /// The time during which both live; possibly none.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            not_before: self.not_before.max(other.not_before),
            not_after: self.not_after.min(other.not_after),
        }
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

/// What an authority says about itself.
#[derive(Clone, Debug)]
pub(crate) struct Authority {
    pub(crate) validity: Validity,
    /// How many authorities may stand between it and a leaf.
    pub(crate) path_length: Option<u32>,
    /// Its trust domain, if it has a SPIFFE ID.
    pub(crate) domain: Option<TrustDomain>,
}

/// Reads a leaf and checks the profile of one.
pub(crate) fn leaf(der: &[u8]) -> Result<Leaf, Defect> {
    let certificate = parse(der)?;
    let algorithm = algorithm::leaf_key(certificate.public_key())?;
    algorithm::check_signature(&certificate)?;
    if certificate.basic_constraints().map_err(|_| Defect::Extension)?.is_some_and(|it| it.value.ca) {
        return Err(Defect::LeafIsAuthority);
    }
    check_leaf_usage(&certificate)?;
    check_purposes(&certificate)?;
    Ok(Leaf {
        id: leaf_id(&certificate)?,
        validity: validity(&certificate)?,
        algorithm,
        public_key: certificate.public_key().subject_public_key.data.to_vec(),
    })
}

/// Reads an authority that a peer shows, and checks that it may vouch for others.
pub(crate) fn intermediate(der: &[u8]) -> Result<Authority, Defect> {
    let certificate = parse(der)?;
    algorithm::check_signature(&certificate)?;
    let authority = authority(&certificate)?;
    // Without a SPIFFE ID it is no SVID, and marking its key usage critical is only recommended (RFC 5280).
    let (_, critical) = key_usage(&certificate)?.ok_or(Defect::NoKeyUsage)?;
    if authority.domain.is_some() && !critical {
        return Err(Defect::KeyUsageNotCritical);
    }
    Ok(authority)
}

/// Reads an authority of a bundle. It is trusted because it is there: its own signature proves nothing, and
/// roots made without a key usage are many.
pub(crate) fn anchor(der: &[u8]) -> Result<Authority, Defect> {
    authority(&parse(der)?)
}

fn authority(certificate: &X509Certificate<'_>) -> Result<Authority, Defect> {
    algorithm::check_authority_key(certificate.public_key())?;
    let constraints = certificate.basic_constraints().map_err(|_| Defect::Extension)?;
    let constraints = constraints.filter(|it| it.value.ca).ok_or(Defect::NotAnAuthority)?.value;
    if key_usage(certificate)?.is_some_and(|(usage, _)| !usage.key_cert_sign()) {
        return Err(Defect::AuthorityMayNotSign);
    }
    check_purposes(certificate)?;
    Ok(Authority {
        validity: validity(certificate)?,
        path_length: constraints.path_len_constraint,
        domain: authority_domain(certificate)?,
    })
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, Defect> {
    if der.len() > MAX_CERTIFICATE_BYTES {
        return Err(Defect::TooLarge(der.len()));
    }
    let certificate = match x509_parser::parse_x509_certificate(der) {
        Ok(([], certificate)) if certificate.version() == X509Version::V3 => certificate,
        _ => return Err(Defect::Der),
    };
    if certificate.extensions().iter().any(|it| it.critical && !UNDERSTOOD.contains(&it.oid)) {
        return Err(Defect::UnknownCriticalExtension);
    }
    Ok(certificate)
}

fn check_leaf_usage(certificate: &X509Certificate<'_>) -> Result<(), Defect> {
    let (usage, critical) = key_usage(certificate)?.ok_or(Defect::NoKeyUsage)?;
    if usage.key_cert_sign() || usage.crl_sign() {
        return Err(Defect::LeafMaySign);
    }
    match (usage.digital_signature(), critical) {
        (false, _) => Err(Defect::NoDigitalSignature),
        (true, false) => Err(Defect::KeyUsageNotCritical),
        (true, true) => Ok(()),
    }
}

/// The key usage, and whether it is critical.
fn key_usage<'c>(certificate: &'c X509Certificate<'_>) -> Result<Option<(&'c KeyUsage, bool)>, Defect> {
    let usage = certificate.key_usage().map_err(|_| Defect::Extension)?;
    Ok(usage.map(|usage| (usage.value, usage.critical)))
}

/// Purposes may be left out; if there are some, both of TLS must be among them. `anyExtendedKeyUsage` does
/// not count: webpki does not know it, and no SVID carries it.
fn check_purposes(certificate: &X509Certificate<'_>) -> Result<(), Defect> {
    let both = |usage: &ExtendedKeyUsage<'_>| usage.client_auth && usage.server_auth;
    let usage = certificate.extended_key_usage().map_err(|_| Defect::Extension)?;
    if usage.is_none_or(|usage| both(usage.value)) { Ok(()) } else { Err(Defect::KeyPurpose) }
}

fn leaf_id(certificate: &X509Certificate<'_>) -> Result<SpiffeId, Defect> {
    let names = uri_names(certificate)?;
    let id = match names.uris.as_slice() {
        [] => return Err(Defect::NoUriName),
        [uri] => SpiffeId::parse(uri).map_err(Defect::SpiffeId)?,
        several => return Err(Defect::SeveralUriNames(several.len())),
    };
    // Otherwise a reader that skips extensions it does not know would find a certificate of nobody.
    if !names.critical && certificate.subject().iter_rdn().next().is_none() {
        return Err(Defect::NameNotCritical);
    }
    if id.path().is_empty() { Err(Defect::NoPathInId) } else { Ok(id) }
}

/// An authority need not have a SPIFFE ID, and other URIs say nothing about it. One trailing slash is let
/// be: the specification's own example of a root has it (trust domain and bundle, appendix A).
fn authority_domain(certificate: &X509Certificate<'_>) -> Result<Option<TrustDomain>, Defect> {
    let names = uri_names(certificate)?;
    let is_id = |uri: &&&str| uri.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("spiffe:"));
    let ids: Vec<&str> = names.uris.iter().filter(is_id).copied().collect();
    match ids.as_slice() {
        [] => Ok(None),
        [id] => {
            let id = SpiffeId::parse(id.strip_suffix('/').unwrap_or(id)).map_err(Defect::SpiffeId)?;
            if id.path().is_empty() { Ok(Some(id.trust_domain())) } else { Err(Defect::AuthorityIdHasPath) }
        }
        several => Err(Defect::SeveralUriNames(several.len())),
    }
}

struct UriNames<'c> {
    uris: Vec<&'c str>,
    critical: bool,
}

fn uri_names<'c>(certificate: &'c X509Certificate<'_>) -> Result<UriNames<'c>, Defect> {
    let mut names = UriNames { uris: Vec::new(), critical: false };
    let Some(extension) = certificate.subject_alternative_name().map_err(|_| Defect::Extension)? else {
        return Ok(names);
    };
    names.critical = extension.critical;
    for name in &extension.value.general_names {
        match name {
            GeneralName::URI(uri) => names.uris.push(uri),
            GeneralName::Invalid(..) => return Err(Defect::Extension),
            _ => {}
        }
    }
    Ok(names)
}

/// A moment before 1970 counts as 1970: such a certificate is merely long expired.
fn validity(certificate: &X509Certificate<'_>) -> Result<Validity, Defect> {
    let seconds = |timestamp: i64| u64::try_from(timestamp).unwrap_or(0);
    let not_before = seconds(certificate.validity().not_before.timestamp());
    let not_after = seconds(certificate.validity().not_after.timestamp());
    if not_before > not_after { Err(Defect::ReversedLife) } else { Ok(Validity { not_before, not_after }) }
}
