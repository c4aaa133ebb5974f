//! Chains: every way to be wrong is refused, with its own reason, quickly.

use std::time::{Duration, Instant};

use crate::support::{Maker, NOW, ca_params, domain, embedded, id, issue, leaf_params, moment};
use countersign_certs::limits::{MAX_BUNDLE_AUTHORITIES, MAX_CERTIFICATE_BYTES, MAX_CHAIN_CERTIFICATES};
use countersign_certs::{
    Bundle, BundleError, Defect, Distrust, KeyAlgorithm, SpiffeId, Svid, SvidError, TrustDomain,
    VerifiedPeer, VerifyError, chain,
};
use proptest::prelude::*;
use rcgen::KeyPair;

const ID: &str = "spiffe://countersign.lab/identity/300";

fn verify(chain: &[Vec<u8>], bundle: &Bundle) -> Result<VerifiedPeer, VerifyError> {
    chain::verify(chain, bundle, &id(300), NOW)
}

fn defect(result: Result<VerifiedPeer, VerifyError>) -> Defect {
    match result {
        Err(VerifyError::Malformed { defect, .. }) => defect,
        other => panic!("not malformed: {other:?}"),
    }
}

#[test]
fn a_proper_chain_is_believed() {
    let ca = embedded();
    let svid = issue(&ca, 300);
    let peer = chain::verify(svid.chain(), &ca.bundle().unwrap(), &id(300), NOW).unwrap();
    assert_eq!(peer.spiffe_id(), &id(300));
    assert_eq!((peer.not_before(), peer.not_after()), (NOW - 10, NOW + 3600));
    assert_eq!((peer.key_algorithm(), peer.public_key().len()), (KeyAlgorithm::EcdsaP256, 65));
    assert_eq!(peer.bundle_version(), ca.bundle().unwrap().version());
    assert_eq!((svid.not_after(), svid.key_algorithm()), (NOW + 3600, KeyAlgorithm::EcdsaP256));
}

#[test]
fn intermediates_are_followed_and_shorten_the_proof() {
    let root = Maker::root(ca_params("root"));
    let mut middle = ca_params("middle");
    middle.not_after = moment(NOW + 50);
    let middle = root.below(middle);
    let lower = middle.below(ca_params("lower"));
    let leaf = lower.leaf(&leaf_params(ID));
    let chain = [leaf.clone(), lower.der.clone(), middle.der.clone()];
    let peer = verify(&chain, &root.bundle()).unwrap();
    assert_eq!(peer.not_after(), NOW + 50, "the earliest of all certificates counts");
    // In another order, and with the root itself, it is the same chain.
    verify(&[leaf.clone(), middle.der.clone(), lower.der.clone(), root.der.clone()], &root.bundle()).unwrap();
    let gap = verify(&[leaf, middle.der.clone()], &root.bundle());
    assert_eq!(gap.unwrap_err(), VerifyError::Untrusted(Distrust::NoPath));
}

#[test]
fn somebody_else_is_told_apart_from_nobody_we_know() {
    let (root, stranger) = (Maker::root(ca_params("root")), Maker::root(ca_params("root")));
    let other = root.leaf(&leaf_params("spiffe://countersign.lab/identity/301"));
    let wrong = verify(&[other], &root.bundle());
    assert!(matches!(wrong, Err(VerifyError::WrongIdentity { presented, .. }) if presented == id(301)));
    // Same name of the root, other key; the bundle of another root; a self-signed leaf.
    let forged = verify(&[stranger.leaf(&leaf_params(ID))], &root.bundle());
    assert_eq!(forged.unwrap_err(), VerifyError::Untrusted(Distrust::NoPath));
    let own = leaf_params(ID).self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec();
    assert_eq!(verify(&[own], &root.bundle()).unwrap_err(), VerifyError::Untrusted(Distrust::NoPath));
    // Of another trust domain, although our own root signed it, and although the ID were asked for.
    let foreign = SpiffeId::parse("spiffe://other.example/identity/300").unwrap();
    let leaf = root.leaf(&leaf_params(foreign.as_str()));
    let refused = chain::verify(&[leaf], &root.bundle(), &foreign, NOW);
    assert!(matches!(refused, Err(VerifyError::Untrusted(Distrust::OtherTrustDomain { .. }))), "{refused:?}");
}

#[test]
fn bundles_of_two_domains_never_mix() {
    let (ours, theirs) = (Maker::root(ca_params("ours")), Maker::root(ca_params("theirs")));
    let other = TrustDomain::parse("other.example").unwrap();
    let theirs_bundle = Bundle::new(other, &[&theirs.der]).unwrap();
    // Their root signs one of our IDs: believed under neither bundle.
    let leaf = theirs.leaf(&leaf_params(ID));
    for bundle in [ours.bundle(), theirs_bundle] {
        let refused = verify(std::slice::from_ref(&leaf), &bundle);
        assert!(matches!(refused, Err(VerifyError::Untrusted(_))), "{refused:?}");
    }
}

#[test]
fn time_is_checked_at_every_certificate() {
    let root = Maker::root(ca_params("root"));
    let middle = root.below(ca_params("middle"));
    let chain = [middle.leaf(&leaf_params(ID)), middle.der.clone()];
    let at = |now| chain::verify(&chain, &root.bundle(), &id(300), now);
    assert!(at(NOW - 100).is_ok() && at(NOW + 100_000).is_ok());
    let early = at(NOW - 400).unwrap_err();
    assert_eq!(early, VerifyError::NotYetValid { certificate: 0, not_before: NOW - 100, now: NOW - 400 });
    assert!(early.to_string().contains("another 300 s (clock skew?)"), "{early}");
    let late = at(NOW + 100_001).unwrap_err();
    assert_eq!(late, VerifyError::Expired { certificate: 0, not_after: NOW + 100_000, now: NOW + 100_001 });

    let mut short = ca_params("middle");
    short.not_after = moment(NOW - 1);
    let middle = root.below(short);
    let expired = verify(&[middle.leaf(&leaf_params(ID)), middle.der.clone()], &root.bundle());
    assert_eq!(expired.unwrap_err(), VerifyError::Expired { certificate: 1, not_after: NOW - 1, now: NOW });
}

#[test]
fn an_authority_outside_its_life_vouches_for_nobody() {
    for (begin, end) in [(NOW - 100, NOW - 1), (NOW + 300, NOW + 400)] {
        let mut params = ca_params("root");
        (params.not_before, params.not_after) = (moment(begin), moment(end));
        let root = Maker::root(params);
        let refused = verify(&[root.leaf(&leaf_params(ID))], &root.bundle()).unwrap_err();
        match refused {
            VerifyError::Expired { certificate: 1, .. } => assert!(end < NOW),
            VerifyError::NotYetValid { certificate: 1, .. } => assert!(begin > NOW),
            other => panic!("{other:?}"),
        }
        // A living authority beside it does not help, nor is it harmed.
        let other = Maker::root(ca_params("other"));
        let both = Bundle::new(domain(), &[&root.der, &other.der]).unwrap();
        assert!(verify(&[root.leaf(&leaf_params(ID))], &both).is_err());
        verify(&[other.leaf(&leaf_params(ID))], &both).unwrap();
    }
}

#[test]
fn a_second_leaf_behind_the_first_refuses_the_chain() {
    let root = Maker::root(ca_params("root"));
    let attacker = root.leaf(&leaf_params("spiffe://countersign.lab/identity/666"));
    let victim = root.leaf(&leaf_params(ID));
    for chain in [[attacker.clone(), victim.clone()], [victim, attacker]] {
        let refused = verify(&chain, &root.bundle());
        assert!(
            matches!(refused, Err(VerifyError::Malformed { certificate: 1, defect: Defect::NotAnAuthority })),
            "{refused:?}"
        );
    }
}

#[test]
fn size_is_refused_before_anything_is_parsed() {
    let root = Maker::root(ca_params("root"));
    let leaf = root.leaf(&leaf_params(ID));
    let mut long = vec![leaf.clone()];
    long.extend(std::iter::repeat_n(root.der.clone(), 10_000));
    assert_eq!(defect(verify(&long, &root.bundle())), Defect::TooMany(10_001));
    let megabyte = vec![0x30; 1 << 20];
    assert_eq!(defect(verify(std::slice::from_ref(&megabyte), &root.bundle())), Defect::TooLarge(1 << 20));
    assert_eq!(defect(verify(&[leaf.clone(), megabyte], &root.bundle())), Defect::TooLarge(1 << 20));
    let wide = vec![vec![0x30; MAX_CERTIFICATE_BYTES]; MAX_CHAIN_CERTIFICATES];
    assert_eq!(defect(verify(&wide, &root.bundle())), Defect::TooLarge(MAX_CERTIFICATE_BYTES));
    assert_eq!(defect(verify(&[], &root.bundle())), Defect::EmptyChain);
}

#[test]
fn the_worst_chain_within_the_limits_comes_to_an_end() {
    // Authorities that all have the same name and none of which signed the leaf: every one is a
    // candidate at every level, and so is every anchor.
    let roots: Vec<Maker> = (0..MAX_BUNDLE_AUTHORITIES).map(|_| Maker::root(ca_params("same"))).collect();
    let ders: Vec<&Vec<u8>> = roots.iter().map(|root| &root.der).collect();
    let bundle = Bundle::new(domain(), &ders).unwrap();
    let stranger = Maker::root(ca_params("same"));
    let mut chain = vec![stranger.leaf(&leaf_params(ID))];
    chain.extend((1..MAX_CHAIN_CERTIFICATES).map(|_| stranger.below(ca_params("same")).der));
    let began = Instant::now();
    let refused = verify(&chain, &bundle);
    let took = began.elapsed();
    assert!(refused.is_err(), "{refused:?}");
    // Some milliseconds, and on a loaded machine more. To try every way through them would take hours.
    assert!(took < Duration::from_secs(20), "{took:?}");
}

#[test]
fn svids_may_have_any_strong_key() {
    let root = Maker::root(ca_params("root"));
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    for (key, algorithm) in
        [(&p384, KeyAlgorithm::EcdsaP384), (&ed25519, KeyAlgorithm::Ed25519), (&rsa, KeyAlgorithm::Rsa)]
    {
        let leaf = root.sign(&leaf_params(ID), key);
        assert_eq!(verify(std::slice::from_ref(&leaf), &root.bundle()).unwrap().key_algorithm(), algorithm);
        let svid = Svid::new(vec![leaf], key.serialize_der()).unwrap();
        assert_eq!(svid.key_algorithm(), algorithm);
    }
}

#[test]
fn bundles_are_taken_whole_or_not_at_all() {
    let (a, b) = (Maker::root(ca_params("a")), Maker::root(ca_params("b")));
    let none: [Vec<u8>; 0] = [];
    assert_eq!(Bundle::new(domain(), &none).unwrap_err(), BundleError::Empty);
    assert_eq!(Bundle::from_pem(domain(), b"").unwrap_err(), BundleError::Empty);
    let leaf = a.leaf(&leaf_params(ID));
    let refused = Bundle::new(domain(), &[a.der.clone(), leaf]).unwrap_err();
    assert!(matches!(refused, BundleError::Authority { defect: Defect::NotAnAuthority, .. }), "{refused:?}");
    let refused = Bundle::new(domain(), &[a.der.clone(), vec![1, 2, 3]]).unwrap_err();
    assert!(matches!(refused, BundleError::Authority { defect: Defect::Der, .. }), "{refused:?}");
    let many = vec![a.der.clone(); MAX_BUNDLE_AUTHORITIES + 1];
    assert_eq!(Bundle::new(domain(), &many).unwrap_err(), BundleError::TooMany(MAX_BUNDLE_AUTHORITIES + 1));
    let one_way = Bundle::new(domain(), &[&a.der, &b.der]).unwrap();
    let other_way = Bundle::new(domain(), &[&b.der, &a.der, &b.der]).unwrap();
    assert_eq!(one_way.version(), other_way.version());
    assert_ne!(one_way.version(), a.bundle().version());
    let elsewhere = Bundle::new(TrustDomain::parse("other").unwrap(), &[&a.der, &b.der]).unwrap();
    assert_ne!(one_way.version(), elsewhere.version());
}

#[test]
fn an_svid_has_its_own_key() {
    let ca = embedded();
    let (one, other) = (issue(&ca, 300), issue(&ca, 301));
    let chain = one.chain().iter().map(|der| der.to_vec()).collect::<Vec<_>>();
    let stolen = Svid::new(chain.clone(), other.private_key().pkcs8_der().to_vec());
    assert_eq!(stolen.unwrap_err(), SvidError::KeyMismatch);
    assert!(matches!(Svid::new(chain.clone(), vec![0; 9000]), Err(SvidError::Key(_))));
    assert!(matches!(Svid::new(chain, vec![0; 90]), Err(SvidError::Key(_))));
    assert!(matches!(Svid::new(vec![], vec![0; 90]), Err(SvidError::Chain(_))));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Nothing that differs by a bit from a believed leaf is believed, and nothing panics.
    #[test]
    fn a_damaged_certificate_is_never_believed(flips in prop::collection::vec((any::<u16>(), 1_u8..), 1..4)) {
        thread_local!(static MADE: (Vec<Vec<u8>>, Bundle) = {
            let root = Maker::root(ca_params("root"));
            let middle = root.below(ca_params("middle"));
            (vec![middle.leaf(&leaf_params(ID)), middle.der.clone()], root.bundle())
        });
        MADE.with(|(chain, bundle)| {
            let mut damaged = chain.clone();
            for (at, mask) in flips {
                let target = &mut damaged[usize::from(at) % 2];
                let at = usize::from(at) / 2 % target.len();
                target[at] ^= mask;
            }
            let believed = verify(&damaged, bundle);
            // A flip may undo another one.
            prop_assert!(believed.is_err() || damaged == *chain);
            let _ = Bundle::new(domain(), &damaged[1..]);
            Ok(())
        })?;
    }

    #[test]
    fn random_bytes_are_no_trouble(chain in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..10)) {
        let bundle = Bundle::new(domain(), &chain);
        prop_assert!(bundle.is_err());
        thread_local!(static BUNDLE: Bundle = Maker::root(ca_params("root")).bundle());
        BUNDLE.with(|bundle| {
            prop_assert!(verify(&chain, bundle).is_err());
            Ok(())
        })?;
        prop_assert!(Svid::new(chain, vec![0; 10]).is_err());
    }

    #[test]
    fn cut_off_certificates_are_no_trouble(cut in any::<u16>()) {
        thread_local!(static MADE: (Vec<u8>, Bundle) = {
            let root = Maker::root(ca_params("root"));
            (root.leaf(&leaf_params(ID)), root.bundle())
        });
        MADE.with(|(leaf, bundle)| {
            let cut = usize::from(cut) % leaf.len();
            prop_assert!(verify(&[leaf[..cut].to_vec()], bundle).is_err());
            Ok(())
        })?;
    }
}
