//! What SPIRE's agent says, as verified values.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use countersign_certs::{Bundle, SpiffeId, Svid, TrustDomain};
use zeroize::Zeroize;

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
}

/// The SVID of `id` in a message of the Delegated Identity API.
pub(super) fn delegated(message: SubscribeToX509sviDsResponse, id: &SpiffeId) -> Said {
    let each = message.x509_svids.into_iter().take(MAX_SVIDS_PER_WORKLOAD).map(|mut entry| {
        let svid = entry.x509_svid.take().unwrap_or_default();
        Candidate { id: id_of(&svid), chain: svid.cert_chain, key: std::mem::take(&mut entry.x509_svid_key) }
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
        chain: split_der(&entry.x509_svid).map(<[u8]>::to_vec).collect(),
        key: entry.x509_svid_key,
    });
    choose(each.collect(), id)
}

struct Candidate {
    id: String,
    chain: Vec<Vec<u8>>,
    key: Vec<u8>,
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
    for mut candidate in candidates.into_iter().filter(|candidate| candidate.id == wanted) {
        match Svid::new(std::mem::take(&mut candidate.chain), std::mem::take(&mut candidate.key)) {
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
/// to be taken for removed.
pub(super) fn bundles<M>(message: M) -> (BTreeMap<TrustDomain, Arc<Bundle>>, BTreeMap<String, String>)
where
    M: IntoIterator<Item = (String, Vec<u8>)>,
{
    let mut good: BTreeMap<TrustDomain, Arc<Bundle>> = BTreeMap::new();
    let mut bad = BTreeMap::new();
    for (key, der) in message.into_iter().take(MAX_TRUST_DOMAINS) {
        let name = key.strip_prefix("spiffe://").unwrap_or(&key);
        let Ok(domain) = TrustDomain::parse(name) else {
            bad.insert(key, "not a trust domain".to_owned());
            continue;
        };
        let authorities: Vec<&[u8]> = split_der(&der).collect();
        match Bundle::new(domain.clone(), &authorities) {
            // Two spellings of one domain: which one is meant cannot be known, and they are never merged.
            Ok(_) if good.contains_key(&domain) => {
                good.remove(&domain);
                bad.insert(domain.to_string(), "it is there twice".to_owned());
            }
            Ok(bundle) => drop(good.insert(domain, Arc::new(bundle))),
            Err(error) => drop(bad.insert(domain.to_string(), error.to_string())),
        }
    }
    (good, bad)
}

/// The certificates that follow each other in `der`. What does not parse as one comes last, whole, so that whoever
/// takes it for a certificate refuses it.
fn split_der(der: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = der;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (first, after) =
            element_length(rest).and_then(|at| rest.split_at_checked(at)).unwrap_or((rest, &[]));
        rest = after;
        Some(first)
    })
}

/// The length of the SEQUENCE that `der` begins with, header included (X.690, 8.1.3, definite form).
fn element_length(der: &[u8]) -> Option<usize> {
    let (&[tag, first], rest) = der.split_first_chunk::<2>()?;
    if tag != 0x30 {
        return None;
    }
    if first < 0x80 {
        return Some(2 + usize::from(first));
    }
    let count = usize::from(first & 0x7f);
    if count == 0 || count > 4 {
        return None;
    }
    let length = rest.get(..count)?.iter().try_fold(0_usize, |sum, byte| {
        sum.checked_mul(256).and_then(|sum| sum.checked_add(usize::from(*byte)))
    })?;
    length.checked_add(2 + count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_that_follow_each_other_are_told_apart() {
        let long = [[0x30, 0x82, 0x01, 0x00].as_slice(), &[7; 256]].concat();
        let short = [0x30, 0x03, 1, 2, 3];
        let both = [long.as_slice(), &short].concat();
        assert_eq!(split_der(&both).collect::<Vec<_>>(), [long.as_slice(), &short]);
        assert_eq!(split_der(&[]).count(), 0);
    }

    #[test]
    fn what_is_cut_short_is_left_whole() {
        for bad in
            [&[0x30][..], &[0x30, 0x05, 1], &[0x31, 0x00], &[0x30, 0x80, 0], &[0x30, 0x85, 1, 1, 1, 1, 1]]
        {
            assert_eq!(split_der(bad).collect::<Vec<_>>(), [bad]);
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_is_lost_whatever_comes(bytes: Vec<u8>) {
            let parts: Vec<&[u8]> = split_der(&bytes).collect();
            proptest::prop_assert_eq!(parts.concat(), bytes);
        }

        #[test]
        fn a_bundle_of_noise_is_refused(key: String, bytes: Vec<u8>) {
            let (good, _) = bundles([(key, bytes)]);
            proptest::prop_assert!(good.is_empty());
        }
    }
}
