//! Chains that have been verified lately, so that a busy peer's is not verified at every handshake.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};
use countersign_certs::{Bundle, VerifiedPeer, VerifyError, chain};

use super::limits::MAX_CACHED_CHAINS;

/// Remembers what [`chain::verify_member`] said yes to, by the digest of the chain and the version of the
/// bundle it was verified against. A remembered yes never outlives the chain's validity, and a new bundle
/// version forgets everything of the old one. Noes are not remembered.
#[derive(Debug, Default)]
pub(super) struct ChainCache {
    generations: Mutex<Generations>,
}

type Key = [u8; 32];

/// Two halves: when the young one is full it becomes the old one, and the old one is forgotten. What is
/// in use is carried over. Bounded, and nobody can push out a live chain without having as many of his own
/// verified.
#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Key, VerifiedPeer>,
    old: HashMap<Key, VerifiedPeer>,
}

impl ChainCache {
    /// As [`chain::verify_member`].
    pub(super) fn verify_member<C: AsRef<[u8]>>(
        &self,
        chain: &[C],
        bundle: &Bundle,
        now: u64,
    ) -> Result<VerifiedPeer, VerifyError> {
        // Limits first: nothing huge is hashed.
        chain::check_limits(chain)?;
        let key = digest(chain, bundle);
        if let Some(peer) = self.lookup(&key).filter(|peer| peer.is_live_at(now)) {
            return Ok(peer);
        }
        let peer = chain::verify_member(chain, bundle, now)?;
        self.insert(key, peer.clone());
        Ok(peer)
    }

    fn lookup(&self, key: &Key) -> Option<VerifiedPeer> {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = generations.young.get(key) {
            return Some(peer.clone());
        }
        let peer = generations.old.remove(key)?;
        generations.insert(*key, peer.clone());
        Some(peer)
    }

    fn insert(&self, key: Key, peer: VerifiedPeer) {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner).insert(key, peer);
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        let generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        generations.young.len() + generations.old.len()
    }
}

impl Generations {
    fn insert(&mut self, key: Key, peer: VerifiedPeer) {
        if self.young.len() >= MAX_CACHED_CHAINS / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, peer);
    }
}

fn digest<C: AsRef<[u8]>>(chain: &[C], bundle: &Bundle) -> Key {
    let mut context = Context::new(&SHA256);
    context.update(bundle.version());
    for der in chain {
        let der = der.as_ref();
        context.update(&(der.len() as u64).to_be_bytes());
        context.update(der);
    }
    let mut key = [0; 32];
    key.copy_from_slice(context.finish().as_ref());
    key
}

#[cfg(test)]
mod tests {
    use countersign_certs::{CertAuthority, Serial, SigningKey, SpiffeId, Svid, TrustDomain};

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn key() -> SigningKey {
        SigningKey::p256(rcgen::KeyPair::generate().unwrap().serialize_der()).unwrap()
    }

    fn authority() -> CertAuthority {
        let domain = TrustDomain::parse("countersign.lab").unwrap();
        CertAuthority::create(domain, key(), Serial::from_random([1; 16]), NOW, 1_000_000).unwrap()
    }

    fn svid(ca: &CertAuthority, key: &SigningKey, number: u32) -> Svid {
        let id = SpiffeId::parse(&format!("spiffe://countersign.lab/identity/{number}")).unwrap();
        let mut serial = [0; 16];
        serial[..4].copy_from_slice(&number.to_be_bytes());
        ca.issue(&id, key, Serial::from_random(serial), NOW, 60).unwrap()
    }

    #[test]
    fn a_remembered_chain_ends_with_its_life_and_its_bundle() {
        let (ca, other) = (authority(), authority());
        let (bundle, other_bundle) = (ca.bundle().unwrap(), other.bundle().unwrap());
        let svid = svid(&ca, &key(), 300);
        let cache = ChainCache::default();
        for now in [NOW, NOW + 60] {
            assert!(cache.verify_member(svid.chain(), &bundle, now).is_ok());
        }
        let late = cache.verify_member(svid.chain(), &bundle, NOW + 61);
        assert!(matches!(late, Err(VerifyError::Expired { .. })), "{late:?}");
        let early = cache.verify_member(svid.chain(), &bundle, NOW - 11);
        assert!(matches!(early, Err(VerifyError::NotYetValid { .. })), "{early:?}");
        let foreign = cache.verify_member(svid.chain(), &other_bundle, NOW);
        assert!(matches!(foreign, Err(VerifyError::Untrusted(_))), "{foreign:?}");
    }

    #[test]
    fn it_is_bounded_and_keeps_what_is_in_use() {
        let ca = authority();
        let bundle = ca.bundle().unwrap();
        let key = key();
        let cache = ChainCache::default();
        let used = svid(&ca, &key, 1);
        for number in 2..(MAX_CACHED_CHAINS as u32 + 500) {
            let peer = chain::verify_member(used.chain(), &bundle, NOW).unwrap();
            let mut key = [0; 32];
            key[..4].copy_from_slice(&number.to_be_bytes());
            cache.insert(key, peer);
            assert!(cache.verify_member(used.chain(), &bundle, NOW).is_ok());
            assert!(cache.len() <= MAX_CACHED_CHAINS);
        }
        assert!(cache.lookup(&digest(used.chain(), &bundle)).is_some());
    }
}
