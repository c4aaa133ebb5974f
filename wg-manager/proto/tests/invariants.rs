//! What must hold whatever the cluster says: of the key ring, compared with a naive one, and of goals.

mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::LazyLock;

use countersign_wg_proto::{Desired, Device, KeyRing, OwnNode, PublicKey, RemoteNode, Shrink, Slot, plan};
use ipnet::IpNet;
use proptest::prelude::*;
use world::{NOW, World, key};

static WORLD: LazyLock<World> = LazyLock::new(|| World::new("countersign.lab"));
const NODES: [&str; 3] = ["a", "b", "c"];
/// The ring's own key has this seed.
const OWN: u8 = 4;

/// What somebody puts into a node's object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Said {
    /// In whose object.
    at: usize,
    /// Who signed, for himself.
    by: usize,
    key: u8,
    epoch: u64,
}

/// Signing is the slow part: every possible announcement is made once.
static SAID: LazyLock<BTreeMap<(usize, u8, u64), String>> = LazyLock::new(|| {
    let mut all = BTreeMap::new();
    for (by, node) in NODES.iter().enumerate() {
        for seed in 1..=OWN {
            for epoch in 0..4 {
                all.insert((by, seed, epoch), WORLD.announce(node, key(seed), epoch));
            }
        }
    }
    all
});

#[derive(Debug, Clone, Copy)]
enum Event {
    Said(Said),
    Gone(usize),
    Expired,
}

fn event() -> impl Strategy<Value = Event> {
    let said =
        (0..3usize, 0..3usize, any::<bool>(), 1..=OWN, 0..4u64).prop_map(|(at, by, honest, key, epoch)| {
            Event::Said(Said { at, by: if honest { at } else { by }, key, epoch })
        });
    prop_oneof![8 => said, 1 => (0..3usize).prop_map(Event::Gone), 1 => Just(Event::Expired)]
}

/// The rules, written down naively.
#[derive(Default)]
struct Oracle {
    keys: BTreeMap<usize, (u8, u64)>,
    history: BTreeMap<usize, Vec<(u8, u64)>>,
}

impl Oracle {
    fn accepts(&mut self, said: Said) -> bool {
        let history = self.history.entry(said.at).or_default();
        let newest = history.iter().map(|(_, epoch)| *epoch).max();
        let replayed = newest.is_some_and(|newest| said.epoch < newest);
        let twin = history
            .iter()
            .any(|(key, epoch)| Some(*epoch) == newest && *epoch == said.epoch && *key != said.key);
        let taken = self.keys.iter().any(|(node, (key, _))| *node != said.at && *key == said.key);
        let good = said.at == said.by && said.key != OWN && !replayed && !twin && !taken;
        if good {
            history.push((said.key, said.epoch));
            self.keys.insert(said.at, (said.key, said.epoch));
        }
        good
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_ring_follows_the_rules(events in prop::collection::vec(event(), 0..40)) {
        let mut ring = KeyRing::new(key(OWN));
        let mut oracle = Oracle::default();
        for event in events {
            match event {
                Event::Said(said) => {
                    let text = &SAID[&(said.by, said.key, said.epoch)];
                    let accepted = ring.accept(NODES[said.at], text, &WORLD.bundle, NOW).is_ok();
                    prop_assert_eq!(accepted, oracle.accepts(said), "{:?}", said);
                }
                Event::Gone(node) => {
                    prop_assert_eq!(ring.remove(NODES[node]).is_some(), oracle.keys.remove(&node).is_some());
                }
                Event::Expired => {
                    prop_assert_eq!(ring.expire(NOW + 3600).len(), oracle.keys.len());
                    oracle.keys.clear();
                }
            }
            let held: Vec<_> = ring.iter().map(|held| (held.node().to_owned(), *held.public_key(), held.epoch())).collect();
            let expected: Vec<_> = oracle.keys.iter()
                .map(|(node, (seed, epoch))| (NODES[*node].to_owned(), key(*seed), *epoch)).collect();
            prop_assert_eq!(held, expected);
        }
    }
}

// ---- goals

/// Prefixes that touch each other, the underlay (192.0.2.0/24) and this node's own pods (10.0.0.0/24).
const PREFIXES: [&str; 12] = [
    "10.0.0.0/24",
    "10.0.0.128/25",
    "10.0.1.0/24",
    "10.0.1.64/26",
    "10.0.2.0/24",
    "10.0.0.0/16",
    "0.0.0.0/0",
    "192.0.2.0/24",
    "192.0.2.2/32",
    "fd00:1::/64",
    "fd00:1::/48",
    "::/0",
];

fn prefixes() -> impl Strategy<Value = BTreeSet<IpNet>> {
    prop::collection::btree_set(
        prop::sample::select(&PREFIXES[..]).prop_map(|net| net.parse().unwrap()),
        0..3,
    )
}

fn remote(number: usize, seed: u8, pod_cidrs: BTreeSet<IpNet>) -> RemoteNode {
    let text = &SAID[&(number, seed, 1)];
    let key = KeyRing::new(key(OWN)).accept(NODES[number], text, &WORLD.bundle, NOW).unwrap().clone();
    let address: IpAddr = format!("192.0.2.{}", number + 1).parse().unwrap();
    RemoteNode {
        key,
        slot: Slot::default(),
        endpoint: (address, 51871).into(),
        pod_cidrs,
        addresses: [address].into(),
        preshared_key: None,
    }
}

fn desired() -> impl Strategy<Value = Desired> {
    let node = (any::<bool>(), 1..OWN, prefixes());
    (prop::collection::vec(node, 0..=3), prefixes(), any::<bool>()).prop_map(|(nodes, unproved, complete)| {
        let nodes = nodes.into_iter().enumerate().filter(|(_, (there, ..))| *there);
        let own = OwnNode {
            name: "me".into(),
            pod_cidrs: ["10.0.0.0/24".parse().unwrap()].into(),
            addresses: ["192.0.2.100".parse().unwrap()].into(),
        };
        Desired {
            slots: [Slot::default()].into(),
            own,
            nodes: nodes.map(|(number, (_, seed, pods))| remote(number, seed, pods)).collect(),
            unproved: [("x".to_owned(), unproved)].into(),
            revision: 0,
            complete,
        }
    })
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// Everything that must hold of any goal.
fn check(desired: &Desired, now: u64) -> Result<(), TestCaseError> {
    let goal = desired.goal(25, now);
    let device = &goal.devices[&Slot::default()];
    let owned: Vec<(PublicKey, IpNet)> =
        device.peers.iter().flat_map(|(key, peer)| peer.allowed_ips.iter().map(|net| (*key, *net))).collect();
    for (at, (key, net)) in owned.iter().enumerate() {
        let others = owned[at + 1..].iter().filter(|(other, _)| other != key);
        prop_assert!(
            others.clone().all(|(_, other)| !overlap(net, other)),
            "{net} has two owners: {owned:?}"
        );
        prop_assert!(!overlap(net, &"10.0.0.0/24".parse().unwrap()), "{net} is this node's");
    }
    for (net, ways) in &goal.routes {
        let through = !ways.is_empty();
        let has_owner = owned.iter().any(|(_, other)| other == net);
        prop_assert!(!through || has_owner, "{net} leads into the device, to nobody");
        let claimed_by_unproved = desired.unproved.values().flatten().any(|other| overlap(net, other));
        prop_assert!(!through || !claimed_by_unproved, "{net} is contested");
        let underlay =
            ["192.0.2.100", "192.0.2.1", "192.0.2.2", "192.0.2.3"].map(|ip| ip.parse::<IpAddr>().unwrap());
        let known = desired.nodes.iter().flat_map(|node| &node.addresses).chain(&desired.own.addresses);
        let known: BTreeSet<&IpAddr> = known.collect();
        let covers = underlay.iter().any(|ip| known.contains(ip) && net.contains(ip));
        prop_assert!(!covers, "a route to {net} would catch the tunnel's own packets");
    }
    for node in desired.nodes.iter().filter(|node| node.key.not_after() <= now) {
        prop_assert!(!device.peers.contains_key(node.key.public_key()));
    }
    // What is not as wished is said.
    let wished: usize = desired.nodes.iter().map(|node| node.pod_cidrs.len()).sum();
    let routed = goal.routes.values().filter(|ways| !ways.is_empty()).count();
    prop_assert!(routed == wished || !goal.problems.is_empty(), "{routed} of {wished}, and no problem");
    check_reachable(device)
}

/// A device can be brought there.
fn check_reachable(goal: &Device) -> Result<(), TestCaseError> {
    let mut device = Device::default();
    for op in plan(goal, &device, Shrink::Allowed) {
        device.apply(&op);
    }
    prop_assert_eq!(plan(goal, &device, Shrink::Allowed), vec![]);
    prop_assert_eq!(&device.peers, &goal.peers);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn every_goal_is_safe(desired in desired(), late: bool) {
        check(&desired, if late { NOW + 3600 } else { NOW })?;
    }

    /// The order in which nodes are told does not matter.
    #[test]
    fn a_goal_does_not_depend_on_order(mut desired in desired()) {
        let goal = desired.goal(25, NOW);
        desired.nodes.reverse();
        let again = desired.goal(25, NOW);
        prop_assert_eq!((goal.devices, goal.routes), (again.devices, again.routes));
    }
}
