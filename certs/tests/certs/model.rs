//! Random chains against an oracle that says, from how a chain was made, whether it may be believed.
//!
//! The oracle knows nothing of DER, paths or signatures: it looks at the plan, certificate by certificate,
//! in the plainest way. Plans are spoiled in zero to three places, so that errors also meet each other.

use countersign_certs::{Bundle, SpiffeId, TrustDomain, VerifyError, chain};
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose as Purpose, IsCa, KeyUsagePurpose as Usage,
};

use crate::support::{Maker, NOW, ca_params, domain, id, leaf_params, moment, uri};

const ID: &str = "spiffe://countersign.lab/identity/300";

/// When a certificate lives, seen from [`NOW`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Now,
    Past,
    Future,
}

/// What a leaf says that it should not, or fails to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    Authority,
    MaySignCertificates,
    MaySignLists,
    NoUsage,
    ServerOnly,
    ClientOnly,
    TwoNames,
    NoName,
    BadName,
    NoPath,
}

/// What is odd about an intermediate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Middle {
    Proper,
    NotAnAuthority,
    MayNotSign,
    OtherPurpose,
}

/// Whom the leaf speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Expected,
    Another,
    OtherDomain,
}

/// A chain as it is made.
#[derive(Clone, Debug)]
struct Plan {
    name: Name,
    flaw: Option<Flaw>,
    leaf: Life,
    middles: Vec<(Middle, Life)>,
    /// Left out of what is presented.
    missing: Option<usize>,
    root: Life,
    root_in_bundle: bool,
    other_roots: usize,
    /// Presented in another order than they were made; paths do not depend on it.
    reversed: bool,
}

/// What may come of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Believed,
    Malformed,
    Untrusted,
    Expired,
    NotYetValid,
    WrongIdentity,
}

/// In the order in which [`chain::verify`] promises to look.
fn oracle(plan: &Plan) -> Verdict {
    let presented = || {
        let kept = |at: &usize| Some(*at) != plan.missing;
        (0..plan.middles.len()).filter(kept).map(|at| plan.middles[at])
    };
    if plan.flaw.is_some() || presented().any(|(middle, _)| middle != Middle::Proper) {
        return Verdict::Malformed;
    }
    if plan.name == Name::OtherDomain {
        return Verdict::Untrusted;
    }
    // From the leaf upwards; what stands above a gap, or is not needed, does not matter.
    let gap = plan.missing;
    let upwards = (0..plan.middles.len()).rev().take_while(|at| Some(*at) != gap);
    for life in std::iter::once(plan.leaf).chain(upwards.map(|at| plan.middles[at].1)) {
        match life {
            Life::Now => {}
            Life::Past => return Verdict::Expired,
            Life::Future => return Verdict::NotYetValid,
        }
    }
    if gap.is_some() || !plan.root_in_bundle {
        return Verdict::Untrusted;
    }
    match plan.root {
        Life::Past => Verdict::Expired,
        Life::Future => Verdict::NotYetValid,
        Life::Now if plan.name == Name::Another => Verdict::WrongIdentity,
        Life::Now => Verdict::Believed,
    }
}

fn verdict(plan: &Plan) -> Verdict {
    let (chain, bundle) = build(plan);
    match chain::verify(&chain, &bundle, &id(300), NOW) {
        Ok(peer) => {
            assert_eq!(peer.spiffe_id(), &id(300));
            assert!(peer.is_live_at(NOW) && !peer.is_live_at(peer.not_after() + 1));
            assert_eq!(peer.bundle_version(), bundle.version());
            Verdict::Believed
        }
        Err(VerifyError::Malformed { .. }) => Verdict::Malformed,
        Err(VerifyError::Untrusted(_)) => Verdict::Untrusted,
        Err(VerifyError::Expired { .. }) => Verdict::Expired,
        Err(VerifyError::NotYetValid { .. }) => Verdict::NotYetValid,
        Err(VerifyError::WrongIdentity { .. }) => Verdict::WrongIdentity,
    }
}

fn build(plan: &Plan) -> (Vec<Vec<u8>>, Bundle) {
    let mut root = ca_params("root");
    live(&mut root, plan.root);
    let root = Maker::root(root);
    let mut issuers: Vec<Maker> = Vec::new();
    for (at, (middle, life)) in plan.middles.iter().enumerate() {
        let made = issuers.last().unwrap_or(&root).below(intermediate(at, *middle, *life));
        issuers.push(made);
    }
    let leaf = issuers.last().unwrap_or(&root).leaf(&leaf(plan));
    // From the leaf's issuer upwards, as a peer presents them.
    let kept = issuers.iter().enumerate().filter(|(at, _)| Some(*at) != plan.missing);
    let mut behind: Vec<Vec<u8>> = kept.map(|(_, issuer)| issuer.der.clone()).collect();
    if plan.reversed {
        behind.reverse();
    }
    let mut anchors: Vec<Vec<u8>> =
        (0..plan.other_roots).map(|_| Maker::root(ca_params("root")).der).collect();
    if plan.root_in_bundle || anchors.is_empty() {
        anchors.push(if plan.root_in_bundle { root.der } else { Maker::root(ca_params("x")).der });
    }
    ([vec![leaf], behind].concat(), Bundle::new(domain(), &anchors).unwrap())
}

fn live(params: &mut CertificateParams, life: Life) {
    let (begin, end) = match life {
        Life::Now => (NOW - 50, NOW + 50),
        Life::Past => (NOW - 50, NOW - 1),
        Life::Future => (NOW + 1, NOW + 50),
    };
    (params.not_before, params.not_after) = (moment(begin), moment(end));
}

fn intermediate(at: usize, middle: Middle, life: Life) -> CertificateParams {
    let mut params = ca_params(&format!("middle {at}"));
    live(&mut params, life);
    match middle {
        Middle::Proper => {}
        Middle::NotAnAuthority => params.is_ca = IsCa::ExplicitNoCa,
        Middle::MayNotSign => params.key_usages = vec![Usage::DigitalSignature],
        Middle::OtherPurpose => params.extended_key_usages = vec![Purpose::EmailProtection],
    }
    params
}

fn leaf(plan: &Plan) -> CertificateParams {
    let mut params = leaf_params(match plan.name {
        Name::Expected => ID,
        Name::Another => "spiffe://countersign.lab/identity/3000",
        Name::OtherDomain => "spiffe://countersign.laboratory/identity/300",
    });
    live(&mut params, plan.leaf);
    match plan.flaw {
        None => {}
        Some(Flaw::Authority) => params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)),
        Some(Flaw::MaySignCertificates) => params.key_usages.push(Usage::KeyCertSign),
        Some(Flaw::MaySignLists) => params.key_usages.push(Usage::CrlSign),
        Some(Flaw::NoUsage) => params.key_usages.clear(),
        Some(Flaw::ServerOnly) => params.extended_key_usages = vec![Purpose::ServerAuth],
        Some(Flaw::ClientOnly) => params.extended_key_usages = vec![Purpose::ClientAuth],
        Some(Flaw::TwoNames) => params.subject_alt_names.push(uri("spiffe://countersign.lab/identity/1")),
        Some(Flaw::NoName) => params.subject_alt_names.clear(),
        Some(Flaw::BadName) => params.subject_alt_names = vec![uri("spiffe://countersign.lab//300")],
        Some(Flaw::NoPath) => params.subject_alt_names = vec![uri("spiffe://countersign.lab")],
    }
    params
}

/// Mostly the first, so that several flaws in one plan are the exception.
fn mostly<T: Clone + std::fmt::Debug + 'static>(usual: T, others: Vec<T>) -> impl Strategy<Value = T> {
    prop_oneof![6 => Just(usual), 1 => prop::sample::select(others)]
}

fn life() -> impl Strategy<Value = Life> {
    mostly(Life::Now, vec![Life::Past, Life::Future])
}

fn flaw() -> impl Strategy<Value = Option<Flaw>> {
    let flaws = vec![
        Flaw::Authority,
        Flaw::MaySignCertificates,
        Flaw::MaySignLists,
        Flaw::NoUsage,
        Flaw::ServerOnly,
        Flaw::ClientOnly,
        Flaw::TwoNames,
        Flaw::NoName,
        Flaw::BadName,
        Flaw::NoPath,
    ];
    mostly(None, flaws.into_iter().map(Some).collect())
}

fn plan() -> impl Strategy<Value = Plan> {
    let middle =
        mostly(Middle::Proper, vec![Middle::NotAnAuthority, Middle::MayNotSign, Middle::OtherPurpose]);
    let middles = prop::collection::vec((middle, life()), 0..4);
    let missing = mostly(None, vec![Some(0), Some(1), Some(2)]);
    let name = mostly(Name::Expected, vec![Name::Another, Name::OtherDomain]);
    let root = (life(), mostly(true, vec![false]), 0..3_usize);
    (name, flaw(), life(), middles, missing, root, any::<bool>()).prop_map(
        |(name, flaw, leaf, middles, missing, (root, root_in_bundle, other_roots), reversed)| Plan {
            name,
            flaw,
            leaf,
            missing: missing.filter(|at| *at < middles.len()),
            middles,
            root,
            root_in_bundle,
            other_roots,
            reversed,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_verifier_and_the_oracle_agree(plan in plan()) {
        prop_assert_eq!(verdict(&plan), oracle(&plan));
    }

    /// Whatever the time, a chain is believed exactly while all of its certificates live, and the proof
    /// says when that ends.
    #[test]
    fn the_proof_ends_with_the_first_certificate(
        lives in prop::collection::vec((0..200_u64, 0..200_u64), 1..5), at in 0..500_u64,
    ) {
        let window = |params: &mut CertificateParams, (begin, length): (u64, u64)| {
            params.not_before = moment(NOW + begin);
            params.not_after = moment(NOW + begin + length);
        };
        let mut params = ca_params("root");
        window(&mut params, lives[0]);
        let mut issuers = vec![Maker::root(params)];
        for life in lives.iter().skip(2) {
            let mut params = ca_params(&format!("below {}", issuers.len()));
            window(&mut params, *life);
            let made = issuers.last().map(|issuer| issuer.below(params));
            issuers.extend(made);
        }
        let mut params = leaf_params(ID);
        window(&mut params, *lives.get(1).unwrap_or(&lives[0]));
        let leaf = issuers.last().map(|issuer| issuer.leaf(&params)).unwrap();
        let chain: Vec<Vec<u8>> =
            std::iter::once(leaf).chain(issuers.iter().skip(1).rev().map(|issuer| issuer.der.clone())).collect();
        let (begin, end) = (
            lives.iter().map(|(begin, _)| NOW + begin).max().unwrap(),
            lives.iter().map(|(begin, length)| NOW + begin + length).min().unwrap(),
        );
        let now = NOW + at;
        match chain::verify(&chain, &issuers[0].bundle(), &id(300), now) {
            Ok(peer) => {
                prop_assert!((begin..=end).contains(&now));
                prop_assert_eq!((peer.not_before(), peer.not_after()), (begin, end));
            }
            Err(VerifyError::Expired { not_after, .. }) => prop_assert!(not_after < now),
            Err(VerifyError::NotYetValid { not_before, .. }) => prop_assert!(not_before > now),
            Err(other) => prop_assert!(false, "{other:?}"),
        }
        prop_assert_eq!(
            chain::verify(&chain, &issuers[0].bundle(), &id(300), now).is_ok(),
            (begin..=end).contains(&now)
        );
    }
}

#[test]
fn any_member_is_a_member_of_one_domain_only() {
    let root = Maker::root(ca_params("root"));
    let bundle = root.bundle();
    for text in [ID, "spiffe://countersign.lab/node/node-a", "spiffe://countersign.lab/x"] {
        let member = chain::verify_member(&[root.leaf(&leaf_params(text))], &bundle, NOW).unwrap();
        assert_eq!(member.spiffe_id(), &SpiffeId::parse(text).unwrap());
        let elsewhere = Bundle::new(TrustDomain::parse("lab").unwrap(), &[&root.der]).unwrap();
        let foreign = chain::verify_member(&[root.leaf(&leaf_params(text))], &elsewhere, NOW);
        assert!(matches!(foreign, Err(VerifyError::Untrusted(_))), "{foreign:?}");
    }
}

#[test]
fn a_name_that_only_begins_like_the_expected_one_is_another() {
    let root = Maker::root(ca_params("root"));
    for text in [
        "spiffe://countersign.lab/identity/30",
        "spiffe://countersign.lab/identity/3000",
        "spiffe://countersign.lab/identity/300/x",
        "spiffe://countersign.lab/Identity/300",
        "spiffe://countersign.lab/identity/0300",
    ] {
        let refused = chain::verify(&[root.leaf(&leaf_params(text))], &root.bundle(), &id(300), NOW);
        assert!(matches!(refused, Err(VerifyError::WrongIdentity { .. })), "{text}: {refused:?}");
    }
}

#[test]
fn a_renewed_root_with_the_same_name_and_key_counts_with_its_longer_life() {
    let mut short = ca_params("root");
    short.not_after = moment(NOW - 1);
    let old = Maker::root(short);
    let mut long = ca_params("root");
    long.not_after = moment(NOW + 500);
    let renewed = long.self_signed(&old.key).unwrap().der().to_vec();
    let chain = [old.leaf(&leaf_params(ID))];
    let both = Bundle::new(domain(), &[&old.der, &renewed]).unwrap();
    let peer = chain::verify(&chain, &both, &id(300), NOW).unwrap();
    assert_eq!(peer.not_after(), NOW + 500);
    let refused = chain::verify(&chain, &old.bundle(), &id(300), NOW);
    assert!(matches!(refused, Err(VerifyError::Expired { certificate: 1, .. })), "{refused:?}");
    // One that will live longer, but not yet, does not lengthen the proof.
    let mut next = ca_params("root");
    (next.not_before, next.not_after) = (moment(NOW + 100), moment(NOW + 900));
    let next = next.self_signed(&old.key).unwrap().der().to_vec();
    let both = Bundle::new(domain(), &[&renewed, &next]).unwrap();
    let peer = chain::verify(&chain, &both, &id(300), NOW).unwrap();
    assert_eq!((peer.not_before(), peer.not_after()), (NOW - 100, NOW + 500));
}

#[test]
fn a_rotation_of_roots_loses_nobody_and_its_end_is_one() {
    let (old, new) = (Maker::root(ca_params("old")), Maker::root(ca_params("new")));
    let (before, after) = (old.leaf(&leaf_params(ID)), new.leaf(&leaf_params(ID)));
    let overlap = Bundle::new(domain(), &[&old.der, &new.der]).unwrap();
    for leaf in [&before, &after] {
        chain::verify(std::slice::from_ref(leaf), &overlap, &id(300), NOW).unwrap();
    }
    // The old root is revoked: its leaves end with it, whatever their own life.
    let ended = chain::verify(&[before], &new.bundle(), &id(300), NOW);
    assert!(matches!(ended, Err(VerifyError::Untrusted(_))), "{ended:?}");
    chain::verify(&[after], &new.bundle(), &id(300), NOW).unwrap();
}
