//! Certificates of the embedded CA: a root, and SVIDs below it.
//!
//! Keys and serial numbers come from the caller, who has a random source; the time is an argument.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::bundle::{Bundle, BundleError};
use crate::id::{SpiffeId, TrustDomain};
use crate::key::{self, KeyAlgorithm, KeyError, SigningKey};
use crate::limits::{BACKDATE_SECONDS, MIN_TTL_SECONDS};
use crate::profile;
use crate::svid::{Svid, SvidError};

/// Why nothing was issued.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The certificate given as the CA's is not one, or its key is another's.
    #[error("not a certificate authority of this trust domain with its own key")]
    NotTheAuthority,
    /// The CA itself is past its life, or not yet in it.
    #[error("the certificate authority is not valid now")]
    AuthorityNotLive,
    /// The life asked for is shorter than [`MIN_TTL_SECONDS`], or ends beyond what X.509 can say.
    #[error("an SVID's life must be at least {MIN_TTL_SECONDS} s, and end within the calendar")]
    Life,
    /// The SPIFFE ID names another trust domain, or no workload.
    #[error("{0} is not a workload of this trust domain")]
    Identity(SpiffeId),
    /// What was made is not acceptable as an SVID.
    #[error(transparent)]
    Svid(#[from] SvidError),
    /// What was made is not acceptable as a bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The certificate could not be encoded or signed.
    #[error("could not make the certificate: {0}")]
    Encoding(String),
}

/// A serial number: 16 random bytes from the caller (RFC 5280 section 4.1.2.2 asks for a positive
/// integer of at most 20 bytes; CA/Browser baseline for 64 random bits).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serial([u8; 16]);

impl Serial {
    /// Takes random bytes; the top bits are set so that the number is positive and not short.
    #[must_use]
    pub fn from_random(mut bytes: [u8; 16]) -> Self {
        bytes[0] = (bytes[0] & 0x7f) | 0x40;
        Self(bytes)
    }
}

/// A certificate authority of one trust domain, with its key. The key is wiped when it is dropped;
/// `Debug` does not show it.
pub struct CertAuthority {
    domain: TrustDomain,
    certificate: CertificateDer<'static>,
    key: SigningKey,
    not_before: u64,
    not_after: u64,
}

impl CertAuthority {
    /// Makes a self-signed root that lives for `ttl` seconds from `now`.
    pub fn create(
        domain: TrustDomain,
        key: SigningKey,
        serial: Serial,
        now: u64,
        ttl: u64,
    ) -> Result<Self, IssueError> {
        let mut params = life(now, now.saturating_add(ttl), serial)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![uri(&format!("spiffe://{domain}"))?];
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Countersign");
        params.distinguished_name.push(DnType::CommonName, "Countersign embedded CA");
        let certificate = params.self_signed(&*pair(&key)?).map_err(|error| encoding(&error))?;
        Self::load(domain, certificate.der(), key)
    }

    /// Takes a root made earlier. Its key must be the certificate's.
    pub fn load(domain: TrustDomain, certificate: &[u8], key: SigningKey) -> Result<Self, IssueError> {
        let (_, parsed) =
            x509_parser::parse_x509_certificate(certificate).map_err(|_| IssueError::NotTheAuthority)?;
        let life = profile::anchor(certificate).map_err(|_| IssueError::NotTheAuthority)?.validity;
        let public = key::public_key(key.pkcs8_der(), KeyAlgorithm::EcdsaP256)?;
        if parsed.public_key().subject_public_key.data.as_ref() != public.as_slice()
            || !names_domain(&parsed, &domain)
        {
            return Err(IssueError::NotTheAuthority);
        }
        let certificate = CertificateDer::from(certificate.to_vec());
        Ok(Self { domain, certificate, key, not_before: life.not_before, not_after: life.not_after })
    }

    /// Issues an SVID for a key of the caller's, valid from 10 s ago until `ttl` seconds from `now` (or
    /// until the root ends, if that is earlier).
    pub fn issue(
        &self,
        id: &SpiffeId,
        key: &SigningKey,
        serial: Serial,
        now: u64,
        ttl: u64,
    ) -> Result<Svid, IssueError> {
        if ttl < MIN_TTL_SECONDS {
            return Err(IssueError::Life);
        }
        if !(self.not_before..self.not_after).contains(&now) {
            return Err(IssueError::AuthorityNotLive);
        }
        if !id.is_member_of(&self.domain) || id.path().is_empty() {
            return Err(IssueError::Identity(id.clone()));
        }
        let mut params = life(now, now.saturating_add(ttl).min(self.not_after), serial)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names = vec![uri(id.as_str())?];
        params.use_authority_key_identifier_extension = true;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Countersign");
        let issuing = pair(&self.key)?;
        let issuer = Issuer::from_ca_cert_der(&self.certificate, &*issuing);
        let issuer = issuer.map_err(|error| encoding(&error))?;
        let leaf = params.signed_by(&*pair(key)?, &issuer).map_err(|error| encoding(&error))?;
        Ok(Svid::new(vec![leaf.der().to_vec()], key.pkcs8_der().to_vec())?)
    }

    /// The trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The root's certificate in DER.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// End of the root's life, Unix seconds.
    #[must_use]
    pub fn not_after(&self) -> u64 {
        self.not_after
    }

    /// The bundle that has this root as its only authority.
    pub fn bundle(&self) -> Result<Bundle, IssueError> {
        Ok(Bundle::new(self.domain.clone(), &[&self.certificate])?)
    }
}

impl std::fmt::Debug for CertAuthority {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("CertAuthority")
            .field("domain", &self.domain)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// Whether the root's only URI name is the trust domain: a CA directory of another domain is not
/// taken by mistake.
fn names_domain(certificate: &x509_parser::certificate::X509Certificate<'_>, domain: &TrustDomain) -> bool {
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    let uris: Vec<&str> = names
        .iter()
        .filter_map(|name| match name {
            x509_parser::extensions::GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    matches!(uris.as_slice(), [uri] if uri.strip_prefix("spiffe://") == Some(domain.as_str()))
}

fn life(now: u64, not_after: u64, serial: Serial) -> Result<CertificateParams, IssueError> {
    let moment = |seconds: u64| {
        let seconds = i64::try_from(seconds).map_err(|_| IssueError::Life)?;
        OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| IssueError::Life)
    };
    let mut params = CertificateParams::default();
    params.not_before = moment(now.saturating_sub(BACKDATE_SECONDS))?;
    params.not_after = moment(not_after)?;
    params.serial_number = Some(SerialNumber::from_slice(&serial.0));
    Ok(params)
}

/// rcgen's pair keeps a copy of the private key, which is wiped with it.
fn pair(key: &SigningKey) -> Result<Zeroizing<KeyPair>, IssueError> {
    let der = PrivatePkcs8KeyDer::from(key.pkcs8_der());
    KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256)
        .map(Zeroizing::new)
        .map_err(|_| IssueError::Key(KeyError::Invalid))
}

fn uri(text: &str) -> Result<SanType, IssueError> {
    let text = rcgen::string::Ia5String::try_from(text).map_err(|error| encoding(&error))?;
    Ok(SanType::URI(text))
}

fn encoding(error: &rcgen::Error) -> IssueError {
    IssueError::Encoding(error.to_string())
}
