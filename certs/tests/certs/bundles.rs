//! Bundles: one per trust domain, never merged; what changes, and what does not.

use std::sync::Arc;

use countersign_certs::limits::{MAX_BUNDLE_AUTHORITIES, MAX_BUNDLE_BYTES, MAX_TRUST_DOMAINS};
use countersign_certs::{
    Bundle, BundleChange, BundleError, BundleUpdate, Distrust, SpiffeId, Svid, SvidError, TooManyDomains,
    TrustBundles, TrustDomain, VerifyError, chain,
};
use proptest::prelude::*;

use crate::support::{Maker, NOW, ca_params, domain, id, leaf_params, moment, uri};

const ID: &str = "spiffe://countersign.lab/identity/300";

fn other() -> TrustDomain {
    TrustDomain::parse("other.example").unwrap()
}

fn foreign(number: u32) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://other.example/identity/{number}")).unwrap()
}

/// Ours and a federated domain, both known.
fn both() -> (Maker, Maker, TrustBundles) {
    let (ours, theirs) = (Maker::root(ca_params("root")), Maker::root(ca_params("root")));
    let mut trust = TrustBundles::new();
    assert_eq!(trust.set(Arc::new(ours.bundle())), Ok(BundleUpdate::New));
    let bundle = Bundle::new(other(), &[&theirs.der]).unwrap();
    assert_eq!(trust.set(Arc::new(bundle)), Ok(BundleUpdate::New));
    (ours, theirs, trust)
}

#[test]
fn a_domain_vouches_for_its_own_and_for_nobody_else() {
    let (ours, theirs, trust) = both();
    let mine = |maker: &Maker, id: &SpiffeId| vec![maker.leaf(&leaf_params(id.as_str()))];
    assert_eq!(trust.verify(&mine(&ours, &id(300)), &id(300), NOW).unwrap().spiffe_id(), &id(300));
    assert_eq!(
        trust.verify(&mine(&theirs, &foreign(300)), &foreign(300), NOW).unwrap().spiffe_id(),
        &foreign(300)
    );
    // The other's authority signs one of our IDs, and ours one of theirs: both are known, and it does not help.
    for (maker, expected) in [(&theirs, id(300)), (&ours, foreign(300))] {
        let refused = trust.verify(&mine(maker, &expected), &expected, NOW);
        assert_eq!(refused.unwrap_err(), VerifyError::Untrusted(Distrust::NoPath), "{expected}");
    }
    // The same path in the federated domain is not our identity, whichever way it is asked for.
    let twin = mine(&theirs, &foreign(300));
    let refused = trust.verify(&twin, &id(300), NOW).unwrap_err();
    assert!(matches!(refused, VerifyError::Untrusted(Distrust::OtherTrustDomain { .. })), "{refused:?}");
    assert!(
        refused
            .to_string()
            .contains("spiffe://other.example/identity/300 is not of trust domain countersign.lab")
    );
    let refused = chain::verify_member(&twin, trust.get(&domain()).unwrap(), NOW).unwrap_err();
    assert!(matches!(refused, VerifyError::Untrusted(Distrust::OtherTrustDomain { .. })), "{refused:?}");
    // Somebody whose domain is not known at all.
    let unknown = SpiffeId::parse("spiffe://unknown.example/identity/300").unwrap();
    let refused = trust.verify(&mine(&ours, &unknown), &unknown, NOW).unwrap_err();
    assert_eq!(refused, VerifyError::Untrusted(Distrust::NoBundle(unknown.trust_domain())));
}

#[test]
fn a_key_that_two_domains_share_is_told_apart_by_the_name() {
    let root = Maker::root(ca_params("root"));
    let mut trust = TrustBundles::new();
    trust.set(Arc::new(root.bundle())).unwrap();
    trust.set(Arc::new(Bundle::new(other(), &[&root.der]).unwrap())).unwrap();
    let leaf = [root.leaf(&leaf_params(ID))];
    trust.verify(&leaf, &id(300), NOW).unwrap();
    assert!(trust.verify(&leaf, &foreign(300), NOW).is_err());
}

#[test]
fn merged_upstream_it_is_still_not_believed() {
    // Whoever feeds us puts their root, which says whose it is, into our bundle.
    let named = |name: &str| {
        let mut params = ca_params("root");
        params.subject_alt_names = vec![uri(name)];
        Maker::root(params)
    };
    let (ours, theirs) = (named("spiffe://countersign.lab"), named("spiffe://other.example"));
    let merged = Bundle::new(domain(), &[&ours.der, &theirs.der]).unwrap();
    chain::verify(&[ours.leaf(&leaf_params(ID))], &merged, &id(300), NOW).unwrap();
    let refused = chain::verify(&[theirs.leaf(&leaf_params(ID))], &merged, &id(300), NOW).unwrap_err();
    assert!(matches!(refused, VerifyError::Untrusted(Distrust::ForeignAuthority { .. })), "{refused:?}");
}

#[test]
fn an_unchanged_bundle_is_no_event() {
    let (a, b) = (Maker::root(ca_params("a")), Maker::root(ca_params("b")));
    let bundle = |ders: &[&[u8]]| Arc::new(Bundle::new(domain(), ders).unwrap());
    let mut trust = TrustBundles::new();
    assert_eq!(trust.set(bundle(&[&a.der, &b.der])), Ok(BundleUpdate::New));
    for same in [bundle(&[&b.der, &a.der]), bundle(&[&a.der, &b.der, &a.der])] {
        assert_eq!(trust.set(same), Ok(BundleUpdate::Unchanged));
    }
    let concatenated = [b.der.clone(), a.der.clone()].concat();
    let same = Arc::new(Bundle::from_der(domain(), &concatenated).unwrap());
    assert_eq!(trust.set(same), Ok(BundleUpdate::Unchanged));
}

/// SPIRE's rotation: prepare, activate, revoke. A proof rests on one authority, and ends with it alone.
#[test]
fn a_rotation_touches_only_what_rests_on_the_revoked() {
    let (old, new) = (Maker::root(ca_params("old")), Maker::root(ca_params("new")));
    let bundle = |ders: &[&[u8]]| Arc::new(Bundle::new(domain(), ders).unwrap());
    let mut trust = TrustBundles::new();
    trust.set(bundle(&[&old.der])).unwrap();
    let (before, after) = ([old.leaf(&leaf_params(ID))], [new.leaf(&leaf_params(ID))]);
    let proof = trust.verify(&before, &id(300), NOW).unwrap();
    let Ok(BundleUpdate::Changed(prepared)) = trust.set(bundle(&[&old.der, &new.der])) else { panic!() };
    assert_eq!((prepared.added.len(), prepared.removed.len()), (1, 0), "nothing has to be proved anew");
    let renewed = trust.verify(&after, &id(300), NOW).unwrap();
    trust.verify(&before, &id(300), NOW).unwrap();
    let Ok(BundleUpdate::Changed(revoked)) = trust.set(bundle(&[&new.der])) else { panic!() };
    assert_eq!(revoked, BundleChange { added: vec![], removed: vec![*proof.authority()] });
    assert!(!revoked.removed.contains(renewed.authority()));
    let refused = trust.verify(&before, &id(300), NOW).unwrap_err();
    assert_eq!(refused, VerifyError::Untrusted(Distrust::NoPath));
    trust.verify(&after, &id(300), NOW).unwrap();
    assert_eq!(proof.authority().to_string().len(), 64);
    assert_eq!(format!("{:?}", proof.authority()), proof.authority().to_string());
}

#[test]
fn of_another_domain_everything_is_gone() {
    let root = Maker::root(ca_params("root"));
    let theirs = Bundle::new(other(), &[&root.der]).unwrap();
    let change = theirs.change_from(&root.bundle());
    assert_eq!((change.added.len(), change.removed.len()), (1, 1));
    assert_ne!(theirs, root.bundle());
}

#[test]
fn a_removed_domain_is_unknown_again() {
    let (_, theirs, mut trust) = both();
    let leaf = [theirs.leaf(&leaf_params(foreign(300).as_str()))];
    trust.verify(&leaf, &foreign(300), NOW).unwrap();
    assert!(trust.remove(&other()).is_some() && trust.remove(&other()).is_none());
    let refused = trust.verify(&leaf, &foreign(300), NOW).unwrap_err();
    assert_eq!(refused, VerifyError::Untrusted(Distrust::NoBundle(other())));
    assert_eq!(trust.iter().count(), 1);
}

#[test]
fn domains_are_bounded_and_known_ones_still_change() {
    let (a, b) = (Maker::root(ca_params("a")), Maker::root(ca_params("b")));
    let bundle = |number: usize, root: &Maker| {
        let domain = TrustDomain::parse(&format!("d{number}.example")).unwrap();
        Arc::new(Bundle::new(domain, &[&root.der]).unwrap())
    };
    let mut trust = TrustBundles::new();
    for number in 0..MAX_TRUST_DOMAINS {
        trust.set(bundle(number, &a)).unwrap();
    }
    assert_eq!(trust.set(bundle(MAX_TRUST_DOMAINS, &a)), Err(TooManyDomains));
    assert!(matches!(trust.set(bundle(0, &b)), Ok(BundleUpdate::Changed(_))));
}

#[test]
fn a_bundle_says_until_when_anybody_can_be_believed() {
    let root = |begin: u64, end: u64| {
        let mut params = ca_params("root");
        (params.not_before, params.not_after) = (moment(begin), moment(end));
        Maker::root(params).der
    };
    let bundle = |ders: &[Vec<u8>]| Bundle::new(domain(), ders).unwrap();
    let dead = bundle(&[root(NOW - 60, NOW - 1), root(NOW + 1, NOW + 60)]);
    assert_eq!(dead.lives_until(NOW), None);
    assert_eq!((dead.lives_until(NOW - 1), dead.lives_until(NOW + 1)), (Some(NOW - 1), Some(NOW + 60)));
    let overlap = bundle(&[root(NOW - 60, NOW + 5), root(NOW - 1, NOW + 60)]);
    assert_eq!(overlap.lives_until(NOW), Some(NOW + 60));
    let expired = [NOW - 1, NOW, NOW + 6, NOW + 61].map(|now| (dead.expired(now), overlap.expired(now)));
    assert_eq!(expired, [(0, 0), (1, 0), (1, 1), (2, 2)]);
}

#[test]
fn bytes_one_after_another_are_cut_where_they_should_be() {
    let (a, b) = (Maker::root(ca_params("a")), Maker::root(ca_params("b")));
    let both = [a.der.clone(), b.der.clone()].concat();
    assert_eq!(Bundle::from_der(domain(), &both).unwrap(), Bundle::new(domain(), &[&a.der, &b.der]).unwrap());
    assert_eq!(Bundle::from_der(domain(), &[]).unwrap_err(), BundleError::Empty);
    let der = |bytes: &[u8]| Bundle::from_der(domain(), bytes).unwrap_err();
    assert_eq!(der(&both[..both.len() - 1]), BundleError::Der);
    assert_eq!(der(&[both.clone(), vec![0]].concat()), BundleError::Der);
    assert_eq!(der(&[0x30]), BundleError::Der);
    // Endless, longer than there is, with more length bytes than any certificate needs.
    for bytes in [vec![0x30, 0x80, 0, 0], vec![0x30, 0x83, 0xff, 0xff, 0xff], vec![0x30, 0x84, 0, 0, 0, 1, 0]]
    {
        assert_eq!(der(&bytes), BundleError::Der, "{bytes:x?}");
    }
    assert!(matches!(der(&[0x30, 0x00]), BundleError::Authority { .. }));
    let many = a.der.repeat(MAX_BUNDLE_AUTHORITIES + 1);
    assert_eq!(der(&many), BundleError::TooMany(MAX_BUNDLE_AUTHORITIES + 1));
    let large = vec![0x30; MAX_BUNDLE_BYTES + 1];
    assert_eq!(der(&large), BundleError::TooLarge(large.len()));
    assert_eq!(Bundle::from_pem(domain(), &large).unwrap_err(), BundleError::TooLarge(large.len()));
}

#[test]
fn an_svid_comes_in_one_piece_too() {
    let root = Maker::root(ca_params("root"));
    let middle = root.below(ca_params("middle"));
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = middle.sign(&leaf_params(ID), &key);
    let chain = [leaf.clone(), middle.der.clone()].concat();
    let svid = Svid::from_der(&chain, key.serialize_der()).unwrap();
    assert_eq!((svid.spiffe_id(), svid.chain().len()), (&id(300), 2));
    for broken in [&chain[..chain.len() - 1], &[], &[0x31, 0], &leaf.repeat(9), &vec![0x30; 40_000]] {
        let refused = Svid::from_der(broken, key.serialize_der());
        assert!(matches!(refused, Err(SvidError::Chain(_))), "{refused:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Random bytes, and good ones with some of them changed, cut or repeated: taken only if they are the same
    /// authorities, and never a panic.
    #[test]
    fn any_bytes_as_a_bundle_are_no_trouble(
        noise in prop::collection::vec(any::<u8>(), 0..60), at in any::<u16>(), cut in any::<u16>(),
        mask in any::<u8>(),
    ) {
        thread_local!(static GOOD: (Vec<u8>, Bundle) = {
            let (a, b) = (Maker::root(ca_params("a")), Maker::root(ca_params("b")));
            let both = [a.der, b.der].concat();
            let bundle = Bundle::from_der(domain(), &both).unwrap();
            (both, bundle)
        });
        prop_assert!(Bundle::from_der(domain(), &noise).is_err());
        let _ = Bundle::from_pem(domain(), &noise);
        prop_assert!(Svid::from_der(&noise, noise.clone()).is_err());
        GOOD.with(|(good, bundle)| {
            let mut spoilt = good.clone();
            let at = usize::from(at) % spoilt.len();
            spoilt[at] ^= mask;
            if let Ok(taken) = Bundle::from_der(domain(), &spoilt) {
                // A changed byte makes another authority: nobody rests on it who rested on the old one.
                prop_assert_eq!(taken == *bundle, mask == 0);
            }
            let cut = usize::from(cut) % good.len();
            if let Ok(taken) = Bundle::from_der(domain(), &good[..cut]) {
                prop_assert_eq!(taken.authorities().len(), 1, "cut between the two");
            }
            let _ = Bundle::from_der(domain(), &[&good[..cut], &noise[..], &good[cut..]].concat());
            Ok(())
        })?;
    }
}
