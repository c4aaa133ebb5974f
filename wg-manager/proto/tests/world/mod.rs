//! A trust domain with an authority, and nodes that announce their keys.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use countersign_certs::{Bundle, CertAuthority, Serial, SigningKey, Svid, TrustDomain};
use countersign_wg_proto::{PrivateKey, PublicKey, announce, node_id};

/// The time, in Unix seconds.
pub const NOW: u64 = 1_800_000_000;

pub fn signing_key() -> SigningKey {
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new()).unwrap();
    SigningKey::p256(pkcs8.as_ref().to_vec()).unwrap()
}

pub struct World {
    pub ca: CertAuthority,
    pub bundle: Bundle,
}

impl World {
    pub fn new(domain: &str) -> Self {
        let domain = TrustDomain::parse(domain).unwrap();
        let ca =
            CertAuthority::create(domain, signing_key(), Serial::from_random([1; 16]), NOW, 86_400).unwrap();
        let bundle = ca.bundle().unwrap();
        Self { ca, bundle }
    }

    pub fn svid(&self, node: &str, ttl: u64) -> Svid {
        let id = node_id(self.ca.trust_domain(), node).unwrap();
        self.ca.issue(&id, &signing_key(), Serial::from_random([2; 16]), NOW, ttl).unwrap()
    }

    pub fn announce(&self, node: &str, key: PublicKey, epoch: u64) -> String {
        announce(&self.svid(node, 3600), node, key, epoch).unwrap()
    }
}

pub fn key(seed: u8) -> PublicKey {
    PrivateKey::from_bytes([seed; 32]).public()
}
