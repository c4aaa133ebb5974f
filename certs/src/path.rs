//! From a leaf to an authority of the bundle: webpki builds and checks the path, and asks here whether to
//! take it.

use std::cell::OnceCell;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

use crate::algorithm;
use crate::bundle::{AuthorityId, Bundle};
use crate::error::{Defect, Distrust, VerifyError};
use crate::id::SpiffeId;
use crate::profile::{Authority, Validity};

/// A path that was found.
pub(crate) struct Path {
    /// During which everything on it lives, leaf and authority included.
    pub(crate) life: Validity,
    /// Where it ends.
    pub(crate) authority: AuthorityId,
}

/// What was read of the certificates that were shown.
pub(crate) struct Shown<'c> {
    pub(crate) ders: &'c [CertificateDer<'c>],
    pub(crate) leaf: Validity,
    /// Those behind the leaf.
    pub(crate) behind: &'c [Authority],
}

/// Finds a path on which everything lives at `now` and may vouch. What is shown and not needed (an older
/// cross-signed authority, the root itself) does no harm, not even when its life is over.
pub(crate) fn find(shown: &Shown<'_>, bundle: &Bundle, now: u64) -> Result<Path, VerifyError> {
    check_life(0, shown.leaf, now)?;
    let empty = VerifyError::Malformed { certificate: 0, defect: Defect::EmptyChain };
    let (leaf, behind) = shown.ders.split_first().ok_or(empty)?;
    let leaf = EndEntityCert::try_from(leaf).map_err(|error| from_webpki(&error, shown, now))?;
    let refusal = OnceCell::new();
    let judge = |path: &VerifiedPath<'_>| {
        judge(path, shown, bundle, now).map(drop).map_err(|error| {
            // The first one is reported: anchors that live longest are tried first.
            let _ = refusal.set(error);
            webpki::Error::UnknownIssuer
        })
    };
    let time = UnixTime::since_unix_epoch(Duration::from_secs(now));
    let usage = KeyUsage::server_auth();
    let found = leaf.verify_for_usage(
        algorithm::SIGNATURES,
        bundle.anchors(),
        behind,
        time,
        usage,
        None,
        Some(&judge),
    );
    match found {
        Ok(path) => self::judge(&path, shown, bundle, now),
        Err(error) => Err(refusal.into_inner().unwrap_or_else(|| from_webpki(&error, shown, now))),
    }
}

/// Whether a path whose signatures are right is taken. webpki has looked at the life of what was shown; what
/// it knows nothing of is the life and path length of the authority at the end, and SPIFFE IDs.
fn judge(path: &VerifiedPath<'_>, shown: &Shown<'_>, bundle: &Bundle, now: u64) -> Result<Path, VerifyError> {
    let (id, authority) = bundle.behind(path.anchor()).ok_or(Distrust::NoPath)?;
    check_life(shown.ders.len(), authority.validity, now)?;
    check_domain(authority, bundle)?;
    let mut life = shown.leaf.and(authority.validity);
    let mut length = 0_u32;
    for certificate in path.intermediate_certificates() {
        let at = shown.ders.iter().skip(1).position(|der| *der == certificate.der());
        let between = at.and_then(|at| shown.behind.get(at)).ok_or(Distrust::NoPath)?;
        check_domain(between, bundle)?;
        life = life.and(between.validity);
        length = length.saturating_add(1);
    }
    if authority.path_length.is_some_and(|most| length > most) {
        return Err(Distrust::PathLength.into());
    }
    Ok(Path { life, authority: *id })
}

/// The specification only recommends that an authority resides in the domain it issues for (X509-SVID
/// section 3.2). Here it must, if it says where it resides: otherwise whoever is cross-signed by a domain's
/// root could issue for that domain.
fn check_domain(authority: &Authority, bundle: &Bundle) -> Result<(), VerifyError> {
    match &authority.domain {
        Some(domain) if domain != bundle.trust_domain() => {
            let authority = SpiffeId::of_domain(domain);
            Err(Distrust::ForeignAuthority { authority, domain: bundle.trust_domain().clone() }.into())
        }
        _ => Ok(()),
    }
}

fn check_life(certificate: usize, life: Validity, now: u64) -> Result<(), VerifyError> {
    let Validity { not_before, not_after } = life;
    if now < not_before {
        Err(VerifyError::NotYetValid { certificate, not_before, now })
    } else if now > not_after {
        Err(VerifyError::Expired { certificate, not_after, now })
    } else {
        Ok(())
    }
}

fn from_webpki(error: &webpki::Error, shown: &Shown<'_>, now: u64) -> VerifyError {
    use webpki::Error as E;
    let malformed = |defect| VerifyError::Malformed { certificate: 0, defect };
    match error {
        E::CertExpired { not_after, .. } => dead(shown, |life| life.not_after == not_after.as_secs(), now),
        E::CertNotValidYet { not_before, .. } => {
            dead(shown, |life| life.not_before == not_before.as_secs(), now)
        }
        E::NameConstraintViolation => Distrust::NameConstraint.into(),
        E::PathLenConstraintViolated => Distrust::PathLength.into(),
        E::CaUsedAsEndEntity => malformed(Defect::LeafIsAuthority),
        E::EndEntityUsedAsCa => malformed(Defect::NotAnAuthority),
        E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => malformed(Defect::KeyPurpose),
        E::UnsupportedSignatureAlgorithmContext(_)
        | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_)
        | E::SignatureAlgorithmMismatch => malformed(Defect::WeakSignature),
        E::MaximumNameConstraintComparisonsExceeded
        | E::MaximumPathBuildCallsExceeded
        | E::MaximumPathDepthExceeded
        | E::MaximumSignatureChecksExceeded => malformed(Defect::TooCostly),
        E::UnsupportedCriticalExtension => malformed(Defect::UnknownCriticalExtension),
        E::MalformedExtensions
        | E::ExtensionValueInvalid
        | E::MalformedNameConstraint
        | E::InvalidNetworkMaskConstraint => malformed(Defect::Extension),
        E::UnknownIssuer | E::InvalidSignatureForPublicKey | E::CertDistrusted | E::CertRevoked => {
            Distrust::NoPath.into()
        }
        _ => malformed(Defect::Der),
    }
}

/// webpki says that something on the way does not live, and since when; this says which it is.
fn dead(shown: &Shown<'_>, is_it: impl Fn(&Validity) -> bool, now: u64) -> VerifyError {
    let found = shown.behind.iter().zip(1..).find(|(authority, _)| is_it(&authority.validity));
    let error = found.and_then(|(authority, at)| check_life(at, authority.validity, now).err());
    error.unwrap_or(VerifyError::Untrusted(Distrust::NoPath))
}
