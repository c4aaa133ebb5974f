//! The authorities of one trust domain.

use aws_lc_rs::digest::{Context, SHA256};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor};

use crate::error::Defect;
use crate::id::TrustDomain;
use crate::limits::MAX_BUNDLE_AUTHORITIES;
use crate::profile::{self, Validity};

/// Why some certificates are not a bundle. The caller keeps the last good one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// A bundle without authorities would mean that nobody is trusted; more likely something failed.
    #[error("the bundle holds no authority")]
    Empty,
    /// More authorities than [`MAX_BUNDLE_AUTHORITIES`].
    #[error("the bundle holds {0} authorities, at most {MAX_BUNDLE_AUTHORITIES} are taken")]
    TooMany(usize),
    /// One of them is not a certificate authority.
    #[error("authority {index} of the bundle: {defect}")]
    Authority {
        /// Its position.
        index: usize,
        /// What is wrong with it.
        defect: Defect,
    },
    /// Not PEM.
    #[error("the bundle is not PEM")]
    Pem,
}

/// The authorities of exactly one trust domain. There is no way to merge two.
#[derive(Clone, Debug)]
pub struct Bundle {
    domain: TrustDomain,
    authorities: Vec<CertificateDer<'static>>,
    pub(crate) anchors: Vec<TrustAnchor<'static>>,
    pub(crate) lives: Vec<Validity>,
    version: [u8; 32],
}

impl Bundle {
    /// Takes the authorities' certificates in DER. One bad certificate refuses the whole bundle.
    pub fn new<C: AsRef<[u8]>>(domain: TrustDomain, authorities: &[C]) -> Result<Self, BundleError> {
        let ders = distinct(authorities)?;
        let mut anchors = Vec::with_capacity(ders.len());
        let mut lives = Vec::with_capacity(ders.len());
        for (index, der) in ders.iter().enumerate() {
            let bad = |defect| BundleError::Authority { index, defect };
            lives.push(profile::authority(der).map_err(bad)?);
            let anchor = webpki::anchor_from_trusted_cert(der).map_err(|_| bad(Defect::Der))?;
            anchors.push(anchor.to_owned());
        }
        let version = version(&domain, &ders);
        Ok(Self { domain, authorities: ders, anchors, lives, version })
    }

    /// Takes the authorities' certificates in PEM.
    pub fn from_pem(domain: TrustDomain, pem: &[u8]) -> Result<Self, BundleError> {
        let ders: Result<Vec<CertificateDer<'static>>, _> = CertificateDer::pem_slice_iter(pem).collect();
        Self::new(domain, &ders.map_err(|_| BundleError::Pem)?)
    }

    /// The trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The authorities' certificates.
    #[must_use]
    pub fn authorities(&self) -> &[CertificateDer<'static>] {
        &self.authorities
    }

    /// A digest of the trust domain and its authorities: what was verified under one version says
    /// nothing about another.
    #[must_use]
    pub fn version(&self) -> &[u8; 32] {
        &self.version
    }
}

/// Sorted and without repetitions, so that the version depends on the set alone.
fn distinct<C: AsRef<[u8]>>(authorities: &[C]) -> Result<Vec<CertificateDer<'static>>, BundleError> {
    match authorities.len() {
        0 => Err(BundleError::Empty),
        count if count > MAX_BUNDLE_AUTHORITIES => Err(BundleError::TooMany(count)),
        _ => {
            let mut ders: Vec<Vec<u8>> = authorities.iter().map(|der| der.as_ref().to_vec()).collect();
            ders.sort_unstable();
            ders.dedup();
            Ok(ders.into_iter().map(CertificateDer::from).collect())
        }
    }
}

fn version(domain: &TrustDomain, ders: &[CertificateDer<'static>]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    context.update(domain.as_str().as_bytes());
    for der in ders {
        // A length before each part keeps different lists from hashing alike.
        context.update(&(der.len() as u64).to_be_bytes());
        context.update(der);
    }
    let mut version = [0; 32];
    version.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
    version
}
