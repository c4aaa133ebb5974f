//! A peer's chain, below real SPIRE's roots: the input is DER, one certificate after another. What is believed
//! must be SPIRE's leaf, as the mutations have no key to sign another.
#![no_main]

use std::sync::LazyLock;

use countersign_certs::{BundleDocument, SpiffeId, Svid, TrustDomain, TrustBundles, VerifyError};
use libfuzzer_sys::fuzz_target;

macro_rules! spire {
    ($name:literal) => {
        include_bytes!(concat!("../../tests/certs/data/spire/", $name, "/bundle.json"))
    };
}

/// When the fixtures were made, and an hour later.
const NOW: u64 = 1_795_273_940;
const EXPECTED: &str = "spiffe://spire.example/identity/300";

static TRUST: LazyLock<Vec<TrustBundles>> = LazyLock::new(|| {
    let documents: [&[u8]; 5] =
        [spire!("ec"), spire!("p384"), spire!("rsa"), spire!("upstream"), spire!("nested")];
    let read = |json| {
        let domain = TrustDomain::parse("spire.example").expect("a trust domain");
        let document = BundleDocument::parse(domain, json).expect("a document");
        let mut trust = TrustBundles::new();
        let bundle = document.bundle().expect("a bundle").clone();
        trust.set(bundle.into()).expect("room for one");
        trust
    };
    documents.into_iter().map(read).collect()
});

fuzz_target!(|data: &[u8]| {
    let expected = SpiffeId::parse(EXPECTED).expect("an ID");
    let mut rest = data;
    let mut chain: Vec<&[u8]> = Vec::new();
    // Cut as a TLS peer would, by a length before each certificate.
    while let [high, low, behind @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(behind.len());
        let (certificate, next) = behind.split_at(length);
        chain.push(certificate);
        rest = next;
    }
    for trust in TRUST.iter() {
        match trust.verify(&chain, &expected, NOW) {
            Ok(peer) => assert_eq!(peer.spiffe_id(), &expected),
            Err(VerifyError::Expired { not_after, .. }) => assert!(not_after < NOW),
            Err(VerifyError::NotYetValid { not_before, .. }) => assert!(not_before > NOW),
            Err(other) => assert!(other.to_string().len() < 8192),
        }
    }
    let _ = Svid::from_der(data, data.to_vec());
});
