//! The compiled maps against a naive oracle, on random policies; and every state between two policies.

mod generate;
mod kernel;
mod naive;

use std::cell::Cell;
use std::collections::BTreeMap;

use countersign_policy::endpoint::EndpointPolicy;
use countersign_policy::model::{Action, Direction};
use countersign_policy::repository::View;
use countersign_policy::{Op, Repository, Touched, diff};
use kernel::Kernel;
use naive::{Packet, Side};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// Random policy sets to try; `CS_PROPTEST_CASES` asks for more.
fn cases(default: u32) -> ProptestConfig {
    let cases = std::env::var("CS_PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    ProptestConfig { cases, max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::default() }
}

fn subjects(sides: &[Side]) -> impl Iterator<Item = &Side> {
    sides.iter().filter(|side| side.identity >= 256 && side.range.is_none())
}

fn each_packet<'a>(sides: &'a [Side], subject: &'a Side, mut check: impl FnMut(Packet<'a>, u8)) {
    for peer in sides {
        for (protocol, number) in generate::PROTOCOLS {
            for port in generate::PORTS {
                for ingress in [true, false] {
                    check(Packet { ingress, subject, peer, protocol, port }, number);
                }
            }
        }
    }
}

fn direction(ingress: bool) -> Direction {
    if ingress { Direction::Ingress } else { Direction::Egress }
}

fn check_reason(repository: &Repository, answer: &naive::Answer, rule_id: u32) {
    let Some(origin) = repository.rule(rule_id) else {
        assert!(answer.rules.is_empty() && rule_id == 0, "no reason given: {answer:?}");
        return;
    };
    let reason = (origin.name.clone(), origin.rule.clone(), origin.action == Action::Deny, origin.index);

    assert!(answer.rules.contains(&reason), "{reason:?} is not a reason of {answer:?}");
}

/// What the maps hold for every endpoint, asked as this crate asks it and as the programs do, against the oracle;
/// returns how many packets there were.
fn agree(documents: &[serde_json::Value]) -> u64 {
    let (repository, sides) = generate::world(&generate::policies(documents));
    let mut packets = 0;
    for subject in subjects(&sides) {
        let policy = repository.resolve(subject.identity, kernel::SLOT);
        let kernel = Kernel::new(&policy, subject.identity, &sides);
        each_packet(&sides, subject, |packet, protocol| {
            let expected = naive::decide(documents, packet);
            let (way, peer, port) = (direction(packet.ingress), packet.peer.identity, packet.port);
            let got = policy.lookup(way, peer, protocol, port);
            let same = (got.allow, got.deny_rule, got.auth_type)
                == (expected.allow, expected.denied_by_rule, expected.auth);
            assert!(same, "{packet:?}\n{got:?}\n{expected:?}");
            assert_eq!(kernel.decide(way, peer, protocol, port), got, "the programs' way: {packet:?}");
            check_reason(&repository, &expected, got.rule_id);
            packets += 1;
        });
    }
    packets
}

#[test]
fn the_maps_decide_as_the_oracle() {
    let triples = Cell::new(0);
    let tried = TestRunner::new(cases(40)).run(&generate::documents(), |documents| {
        triples.set(triples.get() + agree(&documents));
        Ok(())
    });
    tried.unwrap_or_else(|failed| panic!("{failed}"));
    println!("{} triples of policies, identities and packet, all decided alike", triples.get());
    assert!(triples.get() > 10_000, "{} triples", triples.get());
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn the_order_of_arrival_means_nothing(
        documents in generate::documents(),
        others in generate::documents(),
        seed in any::<u64>(),
    ) {
        let (fresh, sides) = generate::world(&audited(&documents, seed));
        let (mut lived, _) = generate::world(&audited(&others, seed >> 8));
        let mut policies = audited(&documents, seed);
        let half = policies.split_off(policies.len() / 2);
        let mut touched = Touched::default();
        let stale: Vec<_> = lived.policies().map(|policy| policy.id.clone()).collect();
        let mut before: BTreeMap<u32, _> = subjects(&sides).map(|s| (s.identity, lived.resolve(s.identity, 7))).collect();
        let mut would: BTreeMap<u32, _> = subjects(&sides)
            .filter_map(|s| Some((s.identity, lived.resolve_as_if(s.identity, 7)?)))
            .collect();
        for policy in half.into_iter().chain(policies) {
            touched.extend(lived.upsert_policy(policy));
        }
        for id in stale.iter().filter(|id| fresh.policies().all(|policy| policy.id != **id)) {
            touched.extend(lived.remove_policy(id));
        }
        let mut identities: Vec<(u32, _)> = fresh.identities().map(|(number, labels)| (number, labels.clone())).collect();
        let gone: Vec<u32> = lived.identities().map(|(number, _)| number).filter(|n| fresh.identity(*n).is_none()).collect();
        for number in gone {
            touched.extend(lived.remove_identity(number));
        }
        identities.rotate_left(usize::try_from(seed % 7).unwrap());
        for (number, labels) in identities {
            touched.extend(lived.upsert_identity(number, labels));
        }
        for subject in subjects(&sides) {
            let (one, other) = (fresh.resolve(subject.identity, 7), lived.resolve(subject.identity, 7));
            each_packet(&sides, subject, |packet, protocol| {
                let decide = |policy: &EndpointPolicy| {
                    let got = policy.lookup(direction(packet.ingress), packet.peer.identity, protocol, packet.port);
                    (got.allow, got.deny_rule, got.auth_type)
                };
                assert_eq!(decide(&one), decide(&other), "{packet:?}");
            });
            prop_assert_eq!(one.entries.len(), other.entries.len());
            let second = lived.resolve_as_if(subject.identity, 7);
            let size = |policy: &Option<EndpointPolicy>| policy.as_ref().map(|policy| policy.entries.len());
            prop_assert_eq!(size(&fresh.resolve_as_if(subject.identity, 7)), size(&second));
            if let (Some(mut kept), Some(second)) = (would.remove(&subject.identity), second) {
                if let Some(scope) = touched.scope(subject.identity) {
                    let _ = lived.refresh_as(View::AsIf, subject.identity, &mut kept, scope);
                }
                prop_assert_eq!(kept, second, "the second verdict is not up to date");
            }
            let kept = before.get_mut(&subject.identity).unwrap();
            if touched.scope(subject.identity).is_none() {
                prop_assert_eq!(&*kept, &other, "changed without being named");
            }
            if let Some(scope) = touched.scope(subject.identity) {
                let start = kept.clone();
                let refresh = lived.refresh(subject.identity, kept, scope);
                prop_assert_eq!(&*kept, &other, "what was touched is less than what changed");
                let mut back = other.clone();
                let _ = refresh.clone().undo(&mut back);
                prop_assert_eq!((&back.entries, &back.exact), (&start.entries, &start.exact), "taken back");
                let mut forth = start;
                refresh.ops.into_iter().for_each(|op| forth.apply(op));
                prop_assert_eq!((&forth.entries, &forth.exact), (&other.entries, &other.exact));
            }
        }
        prop_assert_eq!(fresh.cidrs(), lived.cidrs());
    }

    #[test]
    fn no_state_in_between_lets_through_what_neither_does(
        before in generate::documents(),
        after in generate::documents(),
    ) {
        let (mut repository, _) = generate::world(&generate::policies(&before));
        let numbers: Vec<u32> = repository.identities().map(|(number, _)| number).filter(|n| (256..1 << 24).contains(n)).collect();
        let old: Vec<_> = numbers.iter().map(|number| repository.resolve(*number, 7)).collect();
        let ids: Vec<_> = repository.policies().map(|policy| policy.id.clone()).collect();
        for policy in generate::policies(&after) {
            repository.upsert_policy(policy);
        }
        for id in ids.iter().take(2) {
            repository.remove_policy(id);
        }
        for (number, old) in numbers.iter().zip(old) {
            between(&old, &repository.resolve(*number, 7));
        }
    }
}

/// The policies of the documents, some of them in audit mode.
fn audited(documents: &[serde_json::Value], which: u64) -> Vec<countersign_policy::Policy> {
    let mut policies = generate::policies(documents);
    for (index, policy) in policies.iter_mut().enumerate() {
        policy.audit = which >> index & 3 == 3;
    }
    policies
}

/// How much a decision lets through: nothing, what never authenticates, what authenticates, everything.
fn weight(policy: &EndpointPolicy, direction: Direction, peer: u32, protocol: u8, port: u16) -> u8 {
    let decision = policy.lookup(direction, peer, protocol, port);
    match (decision.allow, decision.auth_type) {
        (false, _) => 0,
        (true, 2) => 1,
        (true, 1) => 2,
        (true, _) => 3,
    }
}

fn between(old: &EndpointPolicy, new: &EndpointPolicy) {
    let no_auth = required(old).is_empty() && required(new).is_empty();
    let peers: std::collections::BTreeSet<u32> = [old, new]
        .iter()
        .flat_map(|policy| policy.entries.keys().map(|(key, _)| key.identity))
        .chain([3])
        .collect();
    let mut packets = Vec::new();
    for peer in peers {
        for (_, protocol) in &generate::PROTOCOLS[..4] {
            for port in [0, 8, 53, 80, 81, 90, 8080] {
                packets.extend(Direction::ALL.map(|direction| (direction, peer, *protocol, port)));
            }
        }
    }
    let bounds: Vec<(u8, u8)> = packets
        .iter()
        .map(|(d, peer, p, port)| (weight(old, *d, *peer, *p, *port), weight(new, *d, *peer, *p, *port)))
        .collect();
    let mut state = old.clone();
    for op in diff(old, new) {
        apply(&mut state, op);
        let (Op::SetExact(key, _) | Op::DeleteExact(key) | Op::Set(key, ..) | Op::Delete(key, _)) = op;
        let touched = |(d, peer, ..): &(Direction, u32, u8, u16)| {
            d.number() == key.direction && (key.identity == 0 || key.identity == *peer)
        };
        let touched = packets.iter().zip(&bounds).filter(|(packet, _)| touched(packet));
        for ((d, peer, protocol, port), (before, after)) in touched {
            let now = weight(&state, *d, *peer, *protocol, *port);
            let what = (d, peer, protocol, port);
            assert!(now <= (*before).max(*after), "{what:?}: {before} -> {now} -> {after} after {op:?}");
            let drops = now == 0 && *before > 0 && *after > 0;
            assert!(!drops, "{what:?} is dropped in between after {op:?}");
            assert!(
                !no_auth || now >= (*before).min(*after),
                "{what:?}: {before} -> {now} -> {after} after {op:?}"
            );
        }
    }
    assert_eq!(state.entries, new.entries);
    assert_eq!(state.exact, new.exact);
}

fn required(policy: &EndpointPolicy) -> std::collections::BTreeSet<u32> {
    policy.required_peers()
}

fn apply(state: &mut EndpointPolicy, op: Op) {
    match op {
        Op::SetExact(key, entry) => drop(state.exact.insert(key, entry)),
        Op::DeleteExact(key) => assert!(state.exact.remove(&key).is_some(), "deleted twice: {op:?}"),
        Op::Set(key, bits, entry) => drop(state.entries.insert((key, bits), entry)),
        Op::Delete(key, bits) => {
            assert!(state.entries.remove(&(key, bits)).is_some(), "deleted twice: {op:?}")
        }
    }
}
