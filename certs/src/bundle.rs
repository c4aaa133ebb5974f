//! The authorities of one trust domain.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256, digest};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor};

use crate::der;
use crate::error::Defect;
use crate::id::TrustDomain;
use crate::limits::{MAX_BUNDLE_AUTHORITIES, MAX_BUNDLE_BYTES};
use crate::profile::{self, Authority};

/// Why some certificates are not a bundle. The caller keeps the last good one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// A bundle without authorities would mean that nobody is trusted; more likely something failed.
    #[error("the bundle holds no authority")]
    Empty,
    /// More authorities than [`MAX_BUNDLE_AUTHORITIES`].
    #[error("the bundle holds {0} authorities, at most {MAX_BUNDLE_AUTHORITIES} are taken")]
    TooMany(usize),
    /// More bytes than [`MAX_BUNDLE_BYTES`].
    #[error("the bundle is {0} bytes long, at most {MAX_BUNDLE_BYTES} are taken")]
    TooLarge(usize),
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
    /// Not certificates in DER, one after another.
    #[error("the bundle is not a sequence of certificates in DER")]
    Der,
}

/// Which authority: the SHA-256 of its certificate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AuthorityId([u8; 32]);

impl AuthorityId {
    /// The digest.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn of(der: &[u8]) -> Self {
        Self(to_array(digest(&SHA256, der).as_ref()))
    }
}

impl fmt::Display for AuthorityId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

impl fmt::Debug for AuthorityId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// What became of a bundle's authorities.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BundleChange {
    /// New ones: nothing that was proved before is touched.
    pub added: Vec<AuthorityId>,
    /// Those that are gone, expired or revoked: what rests on them ([`crate::VerifiedPeer::authority`]) is to be
    /// proved anew or dropped.
    pub removed: Vec<AuthorityId>,
}

/// The authorities of exactly one trust domain. There is no way to merge two. Two bundles are equal if they
/// are of the same domain and have the same authorities, in whatever order they came.
#[derive(Clone, Debug)]
pub struct Bundle {
    domain: TrustDomain,
    authorities: Vec<CertificateDer<'static>>,
    /// Longest-lived first: of a root and its renewal with the same name and key, the renewal counts.
    anchors: Vec<TrustAnchor<'static>>,
    /// What is known of each anchor, in the same order.
    facts: Vec<(AuthorityId, Authority)>,
    version: [u8; 32],
}

impl Bundle {
    /// Takes the authorities' certificates in DER. One bad certificate refuses the whole bundle.
    pub fn new<C: AsRef<[u8]>>(domain: TrustDomain, authorities: &[C]) -> Result<Self, BundleError> {
        let ders = distinct(authorities)?;
        let mut known = Vec::with_capacity(ders.len());
        for (index, der) in ders.iter().enumerate() {
            let bad = |defect| BundleError::Authority { index, defect };
            let facts = profile::anchor(der).map_err(bad)?;
            let anchor = webpki::anchor_from_trusted_cert(der).map_err(|error| bad(anchor_defect(&error)))?;
            known.push((anchor.to_owned(), (AuthorityId::of(der), facts)));
        }
        known.sort_by_key(|(_, (_, facts))| std::cmp::Reverse(facts.validity.not_after));
        let version = version(&domain, &ders);
        let (anchors, facts) = known.into_iter().unzip();
        Ok(Self { domain, authorities: ders, anchors, facts, version })
    }

    /// Takes the authorities' certificates in DER, one after another, as the Workload API and the Delegated
    /// Identity API give them.
    pub fn from_der(domain: TrustDomain, concatenated: &[u8]) -> Result<Self, BundleError> {
        check_size(concatenated)?;
        let ders = der::split(concatenated, MAX_BUNDLE_AUTHORITIES).map_err(|error| match error {
            der::SplitError::TooMany => BundleError::TooMany(MAX_BUNDLE_AUTHORITIES + 1),
            der::SplitError::NotDer => BundleError::Der,
        })?;
        Self::new(domain, &ders)
    }

    /// Takes the authorities' certificates in PEM.
    pub fn from_pem(domain: TrustDomain, pem: &[u8]) -> Result<Self, BundleError> {
        check_size(pem)?;
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

    /// Until when (Unix seconds) the last of the authorities that live at `now` lives; `None` if none does:
    /// then nobody of this domain can be believed, whatever is renewed below them.
    #[must_use]
    pub fn lives_until(&self, now: u64) -> Option<u64> {
        let lives = self.facts.iter().map(|(_, facts)| facts.validity);
        lives.filter(|life| life.contains(now)).map(|life| life.not_after).max()
    }

    /// How many authorities have ended at `now` (Unix seconds): they vouch for nobody, and whoever keeps the bundle
    /// should have taken them out.
    #[must_use]
    pub fn expired(&self, now: u64) -> usize {
        self.facts.iter().filter(|(_, facts)| facts.validity.not_after < now).count()
    }

    /// What has changed since `before`, a bundle of the same trust domain. A bundle of another domain has
    /// nothing in common with this one: all of its authorities are gone.
    #[must_use]
    pub fn change_from(&self, before: &Self) -> BundleChange {
        let same_domain = self.domain == before.domain;
        let missing_in = |bundle: &Self, other: &Self| {
            let has = |id| same_domain && other.has(id);
            let mut ids: Vec<AuthorityId> = bundle.ids().filter(|id| !has(id)).copied().collect();
            ids.sort_unstable();
            ids
        };
        BundleChange { added: missing_in(self, before), removed: missing_in(before, self) }
    }

    /// Whether this authority is one of the bundle's.
    #[must_use]
    pub fn has(&self, authority: &AuthorityId) -> bool {
        self.ids().any(|id| id == authority)
    }

    /// Whether it is one of the bundle's and lives at `now`, Unix seconds.
    #[must_use]
    pub fn has_alive(&self, authority: &AuthorityId, now: u64) -> bool {
        self.facts.iter().any(|(id, facts)| id == authority && facts.validity.contains(now))
    }

    fn ids(&self) -> impl Iterator<Item = &AuthorityId> {
        self.facts.iter().map(|(id, _)| id)
    }

    /// What paths may end at, in the order they are tried.
    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }

    /// The authority behind one of [`Bundle::anchors`]. By place: two may have the same name and key.
    pub(crate) fn behind(&self, anchor: &TrustAnchor<'_>) -> Option<&(AuthorityId, Authority)> {
        let at = self.anchors.iter().position(|one| std::ptr::addr_eq(one, anchor))?;
        self.facts.get(at)
    }
}

impl PartialEq for Bundle {
    fn eq(&self, other: &Self) -> bool {
        self.version == other.version
    }
}

impl Eq for Bundle {}

fn check_size(bytes: &[u8]) -> Result<(), BundleError> {
    if bytes.len() > MAX_BUNDLE_BYTES { Err(BundleError::TooLarge(bytes.len())) } else { Ok(()) }
}

fn anchor_defect(error: &webpki::Error) -> Defect {
    match error {
        webpki::Error::UnsupportedCriticalExtension => Defect::UnknownCriticalExtension,
        _ => Defect::Der,
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
    to_array(context.finish().as_ref())
}

fn to_array(bytes: &[u8]) -> [u8; 32] {
    let mut array = [0; 32];
    array.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    array
}
