//! Whom we believe: the bundles of all trust domains that are known, each by itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::bundle::{Bundle, BundleChange};
use crate::chain::{self, VerifiedPeer};
use crate::error::{Distrust, VerifyError};
use crate::id::{SpiffeId, TrustDomain};
use crate::limits::MAX_TRUST_DOMAINS;

/// One bundle per trust domain. A chain is verified against the bundle of the trust domain it speaks for and
/// against no other, so that no domain's authority can vouch for a member of another.
#[derive(Clone, Debug, Default)]
pub struct TrustBundles {
    bundles: BTreeMap<TrustDomain, Arc<Bundle>>,
}

/// What came of [`TrustBundles::set`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BundleUpdate {
    /// The same authorities as before: no event.
    Unchanged,
    /// The first bundle of that domain.
    New,
    /// Other authorities than before.
    Changed(BundleChange),
}

/// There are already [`MAX_TRUST_DOMAINS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at most {MAX_TRUST_DOMAINS} trust domains are taken; federate with fewer")]
pub struct TooManyDomains;

impl TrustBundles {
    /// Nobody is believed.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces the bundle of its trust domain, and says what that changes.
    pub fn set(&mut self, bundle: Arc<Bundle>) -> Result<BundleUpdate, TooManyDomains> {
        let update = match self.bundles.get(bundle.trust_domain()) {
            Some(before) if **before == *bundle => return Ok(BundleUpdate::Unchanged),
            Some(before) => BundleUpdate::Changed(bundle.change_from(before)),
            None if self.bundles.len() >= MAX_TRUST_DOMAINS => return Err(TooManyDomains),
            None => BundleUpdate::New,
        };
        self.bundles.insert(bundle.trust_domain().clone(), bundle);
        Ok(update)
    }

    /// Forgets a trust domain: none of its members is believed any more. For an explicit removal; that a
    /// source has gone quiet is none.
    pub fn remove(&mut self, domain: &TrustDomain) -> Option<Arc<Bundle>> {
        self.bundles.remove(domain)
    }

    /// The bundle of a trust domain.
    #[must_use]
    pub fn get(&self, domain: &TrustDomain) -> Option<&Arc<Bundle>> {
        self.bundles.get(domain)
    }

    /// All of them, in order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Bundle>> {
        self.bundles.values()
    }

    /// Verifies a chain as [`chain::verify`] does, against the bundle of `expected`'s trust domain.
    pub fn verify<C: AsRef<[u8]>>(
        &self,
        chain: &[C],
        expected: &SpiffeId,
        now: u64,
    ) -> Result<VerifiedPeer, VerifyError> {
        let domain = expected.trust_domain();
        let bundle = self.get(&domain).ok_or(Distrust::NoBundle(domain))?;
        chain::verify(chain, bundle, expected, now)
    }
}
