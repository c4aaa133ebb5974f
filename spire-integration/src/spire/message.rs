//! What SPIRE's agent says, as verified values.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use countersign_certs::{Bundle, SpiffeId, Svid, SvidError, TrustDomain};
use zeroize::Zeroize;

use super::broker_api::SubscribeToX509svidResponse;
use super::delegated::SubscribeToX509sviDsResponse;
use super::proto::types::X509svid;
use super::workload::X509svidResponse;
use crate::limits::{MAX_SVIDS_PER_WORKLOAD, MAX_TRUST_DOMAINS};

/// What a message says of one workload.
#[derive(Debug)]
pub(super) enum Said {
    /// The SVID that was looked for.
    Svid(Box<Svid>),
    /// There is none with this ID; these there are.
    None(Vec<String>),
    /// There is one, but it is of no use.
    Useless(String),
    /// SPIRE's agent has not attested the workload, and why.
    Unattested(String),
}

/// The SVID of `id` in a message of the Delegated Identity API.
pub(super) fn delegated(message: SubscribeToX509sviDsResponse, id: &SpiffeId) -> Said {
    let each = message.x509_svids.into_iter().take(MAX_SVIDS_PER_WORKLOAD).map(|mut entry| {
        let svid = entry.x509_svid.take().unwrap_or_default();
        Candidate {
            id: id_of(&svid),
            chain: Chain::Listed(svid.cert_chain),
            key: std::mem::take(&mut entry.x509_svid_key),
        }
    });
    choose(each.collect(), id)
}

/// Every ID in a message of the Delegated Identity API.
pub(super) fn ids(message: &SubscribeToX509sviDsResponse) -> BTreeSet<String> {
    message.x509_svids.iter().filter_map(|entry| entry.x509_svid.as_ref()).map(id_of).collect()
}

fn id_of(svid: &X509svid) -> String {
    let id = svid.id.clone().unwrap_or_default();
    format!("spiffe://{}{}", id.trust_domain, id.path)
}

/// The SVID of `id` in a message of the Workload API.
pub(super) fn workload(message: X509svidResponse, id: &SpiffeId) -> Said {
    let each = message.svids.into_iter().take(MAX_SVIDS_PER_WORKLOAD).map(|entry| Candidate {
        id: entry.spiffe_id,
        chain: Chain::Concatenated(entry.x509_svid),
        key: entry.x509_svid_key,
    });
    choose(each.collect(), id)
}

/// The SVID of `id` in a message of the Broker API.
pub(super) fn brokered(message: SubscribeToX509svidResponse, id: &SpiffeId) -> Said {
    let each = message.svids.into_iter().take(MAX_SVIDS_PER_WORKLOAD).map(|entry| Candidate {
        id: entry.spiffe_id,
        chain: Chain::Concatenated(entry.x509_svid),
        key: entry.x509_svid_key,
    });
    choose(each.collect(), id)
}

/// The authorities that come with the SVID of `id` in a message of the Workload API.
pub(super) fn own_bundle(message: &X509svidResponse, id: &SpiffeId) -> Option<Arc<Bundle>> {
    let wanted = id.to_string();
    let entry = message.svids.iter().find(|entry| entry.spiffe_id == wanted)?;
    Bundle::from_der(id.trust_domain(), &entry.bundle).ok().map(Arc::new)
}

struct Candidate {
    id: String,
    chain: Chain,
    key: Vec<u8>,
}

/// Certificates in DER, leaf first, as the two interfaces give them.
enum Chain {
    Listed(Vec<Vec<u8>>),
    Concatenated(Vec<u8>),
}

impl Candidate {
    fn into_svid(mut self) -> Result<Svid, SvidError> {
        let key = std::mem::take(&mut self.key);
        match std::mem::replace(&mut self.chain, Chain::Listed(Vec::new())) {
            Chain::Listed(chain) => Svid::new(chain, key),
            Chain::Concatenated(chain) => Svid::from_der(&chain, key),
        }
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

/// Of several with the same ID, the one that lives longest.
fn choose(candidates: Vec<Candidate>, id: &SpiffeId) -> Said {
    let wanted = id.to_string();
    let ids = candidates.iter().map(|candidate| candidate.id.clone()).collect();
    let mut best: Option<Svid> = None;
    let mut useless = None;
    for candidate in candidates.into_iter().filter(|candidate| candidate.id == wanted) {
        match candidate.into_svid() {
            Ok(svid) if svid.spiffe_id() != id => {
                useless = Some(format!("announced as {wanted}, the certificate says {}", svid.spiffe_id()));
            }
            Ok(svid) if best.as_ref().is_none_or(|best| best.not_after() < svid.not_after()) => {
                best = Some(svid);
            }
            Ok(_) => {}
            Err(error) => useless = Some(error.to_string()),
        }
    }
    match (best, useless) {
        (Some(svid), _) => Said::Svid(Box::new(svid)),
        (None, Some(why)) => Said::Useless(why),
        (None, None) => Said::None(ids),
    }
}

/// The bundles of a message, by trust domain; and what is wrong with those that are of no use. The latter are not
/// to be taken for removed. Beyond [`MAX_TRUST_DOMAINS`] our own comes first, the others by name.
pub(super) fn bundles<M>(
    message: M,
    own: &TrustDomain,
) -> (BTreeMap<TrustDomain, Arc<Bundle>>, BTreeMap<String, String>)
where
    M: IntoIterator<Item = (String, Vec<u8>)>,
{
    let mut good: BTreeMap<TrustDomain, Arc<Bundle>> = BTreeMap::new();
    let mut bad = BTreeMap::new();
    let name = |key: &str| key.strip_prefix("spiffe://").unwrap_or(key).to_owned();
    let mut all: Vec<(String, Vec<u8>)> = message.into_iter().map(|(key, der)| (name(&key), der)).collect();
    all.sort_by_cached_key(|(name, _)| (name != own.as_str(), name.clone()));
    for (at, (name, der)) in all.into_iter().enumerate() {
        let Ok(domain) = TrustDomain::parse(&name) else {
            bad.insert(name, "not a trust domain".to_owned());
            continue;
        };
        if at >= MAX_TRUST_DOMAINS {
            bad.insert(name, "there are too many trust domains".to_owned());
            continue;
        }
        match Bundle::from_der(domain.clone(), &der) {
            // Two spellings of one domain: which one is meant cannot be known, and they are never merged.
            Ok(_) if good.contains_key(&domain) => {
                good.remove(&domain);
                bad.insert(name, "it is there twice".to_owned());
            }
            Ok(_) if bad.contains_key(&name) => {}
            Ok(bundle) => drop(good.insert(domain, Arc::new(bundle))),
            Err(error) => drop(bad.insert(name, error.to_string())),
        }
    }
    (good, bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_limit_our_own_stays_and_nobody_counts_as_removed() {
        let own = TrustDomain::parse("zz.own").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let bundle = |domain: &str| {
            let domain = TrustDomain::parse(domain).unwrap();
            let ca = crate::embedded::EmbeddedCa::open(&dir.path().join(domain.as_str()), &domain, 1_000_000);
            ca.unwrap().bundle().unwrap().authorities()[0].to_vec()
        };
        let one = bundle("td0");
        let mut all: Vec<(String, Vec<u8>)> =
            (0..MAX_TRUST_DOMAINS + 5).map(|n| (format!("spiffe://td{n}"), one.clone())).collect();
        all.push(("spiffe://zz.own".to_owned(), bundle("zz.own")));
        all.push(("td0".to_owned(), one));
        let (good, bad) = bundles(all, &own);
        assert!(good.contains_key(&own));
        assert_eq!(good.len() + bad.len(), MAX_TRUST_DOMAINS + 6, "td0 is there twice, and known as such");
        assert!(bad["td0"].contains("twice"), "{}", bad["td0"]);
    }

    proptest::proptest! {
        #[test]
        fn a_bundle_of_noise_is_refused(key: String, bytes: Vec<u8>) {
            let (good, _) = bundles([(key, bytes)], &TrustDomain::parse("own.example").unwrap());
            proptest::prop_assert!(good.is_empty());
        }
    }
}
