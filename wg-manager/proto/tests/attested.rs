//! Announcements: made, read, and refused for every reason there is.

use std::collections::BTreeSet;

use countersign_certs::{Svid, VerifyError, signature};
use countersign_wg_proto::{
    Announcement, DecodeError, Desired, KeyRing, OwnNode, PresharedKey, PublicKey, Refusal, RemoteNode,
    Shrink, Slot, Statement, announce,
};
use ipnet::IpNet;
use proptest::prelude::*;

mod world;

use world::{NOW, World, key};

fn ring() -> KeyRing {
    KeyRing::new(key(200))
}

/// Signs anything, as a node that has been taken over might.
fn forge(svid: &Svid, statement: Statement) -> String {
    let signature = signature::sign(svid, &statement.signing_bytes()).unwrap();
    let chain = svid.chain().iter().map(|der| der.as_ref().to_vec()).collect();
    Announcement { statement, chain, signature }.encode().unwrap()
}

fn statement(node: &str) -> Statement {
    Statement {
        trust_domain: "countersign.lab".into(),
        node: node.into(),
        public_key: key(1),
        epoch: 5,
        not_after: NOW + 100,
    }
}

#[test]
fn a_good_announcement_is_accepted() {
    let world = World::new("countersign.lab");
    let mut ring = ring();
    let accepted = ring.accept("a", &world.announce("a", key(1), 5), &world.bundle, NOW).unwrap();
    assert_eq!((accepted.node(), *accepted.public_key(), accepted.epoch()), ("a", key(1), 5));
    assert_eq!(accepted.not_after(), NOW + 3600);
    assert_eq!(accepted.signer().as_str(), "spiffe://countersign.lab/node/a");
}

#[test]
fn it_fits_into_an_annotation() {
    let text = World::new("countersign.lab").announce("a", key(1), 5);
    assert!(text.len() < 2048, "{} bytes: {text}", text.len());
    assert!(!text.contains('\n'));
}

#[test]
fn every_refusal_has_its_reason() {
    let world = World::new("countersign.lab");
    let good = world.announce("a", key(1), 5);
    let svid = world.svid("a", 3600);
    let forged = |change: &dyn Fn(&mut Statement)| {
        let mut statement = statement("a");
        change(&mut statement);
        forge(&svid, statement)
    };
    let accept =
        |node: &str, text: &str| ring().accept(node, text, &world.bundle, NOW).map(|_| ()).unwrap_err();
    assert_eq!(accept("b", &good), Refusal::OtherNode("a".into()));
    let other_domain = forged(&|s| s.trust_domain = "elsewhere".into());
    assert_eq!(accept("a", &other_domain), Refusal::OtherTrustDomain("elsewhere".into()));
    assert_eq!(accept("a", &forged(&|s| s.public_key = PublicKey::from_bytes([0; 32]))), Refusal::ZeroKey);
    assert_eq!(accept("a", &forged(&|s| s.public_key = key(200))), Refusal::OwnKey);
    let expired = forged(&|s| s.not_after = NOW);
    assert_eq!(accept("a", &expired), Refusal::Expired { not_after: NOW, now: NOW });
    assert!(matches!(accept("a", "{}"), Refusal::Decode(DecodeError::Json(_))));
    // Signed by another node's SVID.
    let by_b = forge(&world.svid("b", 3600), statement("a"));
    assert!(matches!(
        accept("a", &by_b),
        Refusal::Signature(signature::SignatureError::Chain(VerifyError::WrongIdentity { .. }))
    ));
    // Signed under another authority of the same name.
    let elsewhere = World::new("countersign.lab").announce("a", key(1), 5);
    assert!(matches!(
        accept("a", &elsewhere),
        Refusal::Signature(signature::SignatureError::Chain(VerifyError::Untrusted(_)))
    ));
}

#[test]
fn what_is_signed_cannot_be_changed() {
    let world = World::new("countersign.lab");
    let good = Announcement::decode(&world.announce("a", key(1), 5)).unwrap();
    let changes: [fn(&mut Announcement); 4] = [
        |a| a.statement.public_key = key(2),
        |a| a.statement.epoch += 1,
        |a| a.statement.not_after += 1,
        |a| a.signature[10] ^= 1,
    ];
    for change in changes {
        let mut changed = good.clone();
        change(&mut changed);
        let refused =
            ring().accept("a", &changed.encode().unwrap(), &world.bundle, NOW).map(|_| ()).unwrap_err();
        assert_eq!(refused, Refusal::Signature(signature::SignatureError::Mismatch));
    }
}

#[test]
fn an_expired_certificate_is_refused_and_bounds_the_key() {
    let world = World::new("countersign.lab");
    let text = forge(&world.svid("a", 30), Statement { not_after: NOW + 10_000, ..statement("a") });
    let mut ring = ring();
    assert_eq!(ring.accept("a", &text, &world.bundle, NOW).unwrap().not_after(), NOW + 30);
    assert!(matches!(
        ring.accept("a", &text, &world.bundle, NOW + 31),
        Err(Refusal::Signature(signature::SignatureError::Chain(VerifyError::Expired { .. })))
    ));
    assert!(ring.expire(NOW + 29).is_empty());
    assert_eq!(ring.expire(NOW + 30).len(), 1);
    assert!(ring.get("a").is_none());
}

#[test]
fn old_epochs_are_replays_also_after_the_node_was_gone() {
    let world = World::new("countersign.lab");
    let (old, new) = (world.announce("a", key(1), 5), world.announce("a", key(2), 6));
    let mut ring = ring();
    ring.accept("a", &old, &world.bundle, NOW).unwrap();
    ring.accept("a", &new, &world.bundle, NOW).unwrap();
    let replayed = Refusal::Replayed { epoch: 5, accepted: 6 };
    assert_eq!(ring.accept("a", &old, &world.bundle, NOW).map(|_| ()), Err(replayed.clone()));
    assert_eq!(*ring.get("a").unwrap().public_key(), key(2), "the accepted key stays");
    ring.remove("a");
    assert_eq!(ring.accept("a", &old, &world.bundle, NOW).map(|_| ()), Err(replayed));
    let twin = world.announce("a", key(3), 6);
    assert_eq!(ring.accept("a", &twin, &world.bundle, NOW).map(|_| ()), Err(Refusal::Equivocation));
    ring.accept("a", &new, &world.bundle, NOW).unwrap();
}

#[test]
fn two_nodes_cannot_have_one_key() {
    let world = World::new("countersign.lab");
    let mut ring = ring();
    ring.accept("a", &world.announce("a", key(1), 5), &world.bundle, NOW).unwrap();
    let copied = world.announce("b", key(1), 9);
    assert_eq!(
        ring.accept("b", &copied, &world.bundle, NOW).map(|_| ()),
        Err(Refusal::Duplicate("a".into()))
    );
    ring.remove("a");
    ring.accept("b", &copied, &world.bundle, NOW).unwrap();
}

#[test]
fn a_node_announces_only_itself() {
    let world = World::new("countersign.lab");
    assert!(announce(&world.svid("a", 3600), "b", key(1), 5).is_err());
}

#[test]
fn decoding_is_bounded() {
    let world = World::new("countersign.lab");
    let good = Announcement::decode(&world.announce("a", key(1), 5)).unwrap();
    let changes: [fn(&mut Announcement); 5] = [
        |a| a.chain.clear(),
        |a| a.chain = vec![vec![0; 10]; 5],
        |a| a.chain = vec![vec![0; 9000]],
        |a| a.signature = vec![0; 2000],
        |a| a.statement.node = "n".repeat(254),
    ];
    for change in changes {
        let mut changed = good.clone();
        change(&mut changed);
        assert!(matches!(changed.encode(), Err(DecodeError::Size(_))));
    }
    assert_eq!(Announcement::decode(&" ".repeat(40_000)), Err(DecodeError::Size("announcement")));
    let text = good.encode().unwrap();
    let later = text.replace("\"version\":1", "\"version\":2");
    assert_eq!(Announcement::decode(&later), Err(DecodeError::Version(2)));
    let more = text.replace("\"version\":1", "\"version\":1,\"more\":1");
    assert!(matches!(Announcement::decode(&more), Err(DecodeError::Json(_))));
}

proptest! {
    #[test]
    fn text_and_back(
        node in "[a-z0-9.-]{1,60}", seed in 1..200u8, epoch: u64, not_after: u64,
        chain in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 1..4),
        signature in prop::collection::vec(any::<u8>(), 1..80),
    ) {
        let statement = Statement { trust_domain: "td".into(), node, public_key: key(seed), epoch, not_after };
        let announcement = Announcement { statement, chain, signature };
        prop_assert_eq!(Announcement::decode(&announcement.encode().unwrap()), Ok(announcement));
    }

    #[test]
    fn no_text_breaks_the_decoder(text in any::<String>()) {
        let _ = Announcement::decode(&text);
    }

    /// Different statements are never signed as the same bytes.
    #[test]
    fn signing_bytes_tell_statements_apart(a in "[ab]{0,3}", b in "[ab]{0,3}", c in "[ab]{0,3}", d in "[ab]{0,3}") {
        let make = |domain: &str, node: &str| Statement {
            trust_domain: domain.into(), node: node.into(), ..statement("x")
        };
        let (one, two) = (make(&a, &b), make(&c, &d));
        prop_assert_eq!(one == two, one.signing_bytes() == two.signing_bytes());
    }
}

// ---- from nodes to a goal

fn nets(list: &[&str]) -> BTreeSet<IpNet> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

fn remote(world: &World, name: &str, seed: u8, pods: &[&str]) -> RemoteNode {
    let mut ring = ring();
    let key = ring.accept(name, &world.announce(name, key(seed), 1), &world.bundle, NOW).unwrap().clone();
    RemoteNode {
        key,
        slot: Slot::default(),
        endpoint: format!("192.0.2.{seed}:51871").parse().unwrap(),
        pod_cidrs: nets(pods),
        addresses: [format!("192.0.2.{seed}").parse().unwrap()].into(),
        preshared_key: None,
    }
}

fn desired(nodes: Vec<RemoteNode>) -> Desired {
    let own = OwnNode {
        name: "me".into(),
        pod_cidrs: nets(&["10.0.0.0/24"]),
        addresses: ["192.0.2.100".parse().unwrap()].into(),
    };
    Desired { own, nodes, slots: [Slot::default()].into(), complete: true, ..Desired::default() }
}

#[test]
fn proved_nodes_get_peers_and_routes() {
    let world = World::new("countersign.lab");
    let mut a = remote(&world, "a", 1, &["10.0.1.0/24", "fd00:1::/64"]);
    a.preshared_key = Some(PresharedKey::from_bytes([7; 32]));
    let goal = desired(vec![a]).goal(25, NOW);
    assert_eq!(goal.problems, Vec::<String>::new());
    let peer = &goal.devices[&Slot::default()].peers[&key(1)];
    assert_eq!(peer.allowed_ips, nets(&["10.0.1.0/24", "fd00:1::/64", "192.0.2.1/32"]));
    assert_eq!((peer.keepalive, peer.preshared_key.is_some()), (25, true));
    let routes: Vec<_> =
        goal.routes.into_iter().map(|(net, ways)| (net.to_string(), !ways.is_empty())).collect();
    assert_eq!(routes, [("10.0.1.0/24".to_owned(), true), ("fd00:1::/64".to_owned(), true)]);
    assert_eq!((goal.shrink, goal.valid_until), (Shrink::Allowed, Some(NOW + 3600)));
}

#[test]
fn unproved_nodes_get_no_peer_and_their_pods_are_unreachable() {
    let mut wish = desired(vec![]);
    wish.unproved.insert("a".into(), nets(&["10.0.1.0/24"]));
    let goal = wish.goal(25, NOW);
    assert!(goal.devices[&Slot::default()].peers.is_empty());
    assert_eq!(goal.routes, [("10.0.1.0/24".parse().unwrap(), vec![])].into());
}

#[test]
fn an_expired_key_makes_a_node_unproved() {
    let world = World::new("countersign.lab");
    let goal = desired(vec![remote(&world, "a", 1, &["10.0.1.0/24"])]).goal(25, NOW + 3600);
    assert!(goal.devices[&Slot::default()].peers.is_empty());
    assert_eq!(goal.routes, [("10.0.1.0/24".parse().unwrap(), vec![])].into());
    assert_eq!(goal.problems, ["node a: its key's announcement has expired"]);
}

#[test]
fn contested_prefixes_are_nobodys() {
    let world = World::new("countersign.lab");
    let a = remote(&world, "a", 1, &["10.0.1.0/24", "10.0.3.0/24"]);
    let b = remote(&world, "b", 2, &["10.0.2.0/24", "10.0.1.128/25"]);
    let goal = desired(vec![a, b]).goal(25, NOW);
    assert_eq!(
        goal.devices[&Slot::default()].peers[&key(1)].allowed_ips,
        nets(&["10.0.3.0/24", "192.0.2.1/32"])
    );
    assert_eq!(
        goal.devices[&Slot::default()].peers[&key(2)].allowed_ips,
        nets(&["10.0.2.0/24", "192.0.2.2/32"])
    );
    assert_eq!(goal.problems, ["10.0.1.128/25 of node b overlaps 10.0.1.0/24 of node a"]);
    let through: Vec<_> = goal.routes.values().map(|ways| !ways.is_empty()).collect();
    assert_eq!(through, [false, false, true, true]);
}

#[test]
fn nobody_gets_the_underlay_or_this_nodes_pods() {
    let world = World::new("countersign.lab");
    let greedy = ["192.0.2.0/24", "0.0.0.0/0", "10.0.0.0/25", "192.0.2.100/32"];
    for net in greedy {
        let goal = desired(vec![remote(&world, "a", 1, &[net])]).goal(25, NOW);
        assert!(
            goal.devices[&Slot::default()].peers[&key(1)].allowed_ips.is_subset(&nets(&["192.0.2.1/32"])),
            "{net}"
        );
        assert!(goal.routes.is_empty(), "{net}: not even a fallback, which would cut off the node itself");
        assert!(!goal.problems.is_empty(), "{net}");
        let mut wish = desired(vec![]);
        wish.unproved.insert("a".into(), nets(&[net]));
        if net != "192.0.2.0/24"
            || wish.own.addresses.iter().any(|ip| nets(&[net]).iter().any(|n| n.contains(ip)))
        {
            assert!(wish.goal(25, NOW).routes.is_empty(), "{net}, unproved");
        }
    }
}

#[test]
fn one_key_for_two_nodes_is_nobodys() {
    let world = World::new("countersign.lab");
    let (a, b) = (remote(&world, "a", 1, &["10.0.1.0/24"]), remote(&world, "b", 1, &["10.0.2.0/24"]));
    let goal = desired(vec![a, b]).goal(25, NOW);
    assert!(goal.devices[&Slot::default()].peers.is_empty());
    let same = goal.problems.iter().filter(|problem| problem.ends_with("has the same WireGuard key"));
    assert_eq!(same.count(), 2);
    assert!(goal.routes.len() == 2 && goal.routes.values().all(Vec::is_empty));
}

/// What an earlier process accepted is accepted no more in an older form.
#[test]
fn epochs_outlive_the_process() {
    let world = World::new("countersign.lab");
    let (old, new) = (world.announce("a", key(1), 5), world.announce("a", key(2), 6));
    let mut before = ring();
    before.accept("a", &new, &world.bundle, NOW).unwrap();
    let saved: Vec<(String, u64, PublicKey)> =
        before.last().map(|(node, epoch, key)| (node.to_owned(), epoch, *key)).collect();
    assert_eq!(saved, [("a".to_owned(), 6, key(2))]);
    assert!(ring().accept("a", &old, &world.bundle, NOW).is_ok(), "without it, the older one is believed");
    let mut after = ring();
    after.restore(saved.clone());
    assert!(after.get("a").is_none(), "an epoch proves no key");
    let refused = after.accept("a", &old, &world.bundle, NOW).map(drop).unwrap_err();
    assert_eq!(refused, Refusal::Replayed { epoch: 5, accepted: 6 });
    let other = world.announce("a", key(3), 6);
    assert_eq!(after.accept("a", &other, &world.bundle, NOW).map(drop).unwrap_err(), Refusal::Equivocation);
    after.accept("a", &new, &world.bundle, NOW).unwrap();
    after.restore([("a".to_owned(), 1, key(1))]);
    assert_eq!(after.last().collect::<Vec<_>>(), [("a", 6, &key(2))], "nothing is lowered");
}

// ---- a node that changes its key

#[test]
fn a_next_key_is_taken_beside_the_one_that_is_and_takes_its_place() {
    let world = World::new("countersign.lab");
    let mut ring = ring();
    let next = world.announce("a", key(2), 7);
    assert_eq!(ring.accept_next("a", &next, &world.bundle, NOW), Err(Refusal::NoCurrent));
    let current = world.announce("a", key(1), 4);
    ring.accept("a", &current, &world.bundle, NOW).unwrap();
    ring.accept_next("a", &next, &world.bundle, NOW).unwrap();
    let epochs = |ring: &KeyRing| ring.of_node("a").map(|key| key.epoch()).collect::<Vec<_>>();
    assert_eq!(epochs(&ring), [7, 4]);
    ring.accept("a", &current, &world.bundle, NOW).unwrap();
    assert_eq!(epochs(&ring), [7, 4], "what is said again changes nothing");
    ring.accept("a", &next, &world.bundle, NOW).unwrap();
    assert_eq!(epochs(&ring), [7]);
    ring.accept_next("a", &next, &world.bundle, NOW).unwrap();
    assert_eq!(epochs(&ring), [7], "it is no longer the next one");
    let replayed = Err(Refusal::Replayed { epoch: 4, accepted: 7 });
    assert_eq!(ring.accept("a", &current, &world.bundle, NOW).map(|_| ()), replayed);
}

#[test]
fn next_keys_are_refused_for_every_reason() {
    let world = World::new("countersign.lab");
    let mut ring = ring();
    ring.accept("a", &world.announce("a", key(1), 4), &world.bundle, NOW).unwrap();
    ring.accept("b", &world.announce("b", key(9), 4), &world.bundle, NOW).unwrap();
    let mut refused = |text: &str| ring.accept_next("a", text, &world.bundle, NOW).unwrap_err();
    assert_eq!(refused(&world.announce("a", key(2), 6)), Refusal::NotNext { epoch: 6, current: 4 });
    assert_eq!(refused(&world.announce("a", key(2), 3)), Refusal::NotNext { epoch: 3, current: 4 });
    assert_eq!(refused(&world.announce("a", key(2), 4)), Refusal::NotNext { epoch: 4, current: 4 });
    assert_eq!(refused(&world.announce("b", key(2), 5)), Refusal::OtherNode("b".into()));
    assert_eq!(refused(&world.announce("a", key(200), 5)), Refusal::OwnKey);
    assert_eq!(refused(&world.announce("a", key(9), 5)), Refusal::Duplicate("b".into()));
    let by_b = forge(&world.svid("b", 3600), Statement { epoch: 5, ..statement("a") });
    assert!(matches!(refused(&by_b), Refusal::Signature(_)));
    let expired = forge(&world.svid("a", 3600), Statement { epoch: 5, not_after: NOW, ..statement("a") });
    assert!(matches!(refused(&expired), Refusal::Expired { .. }));
    ring.accept_next("a", &world.announce("a", key(2), 7), &world.bundle, NOW).unwrap();
    let mut refused = |text: &str| ring.accept_next("a", text, &world.bundle, NOW).unwrap_err();
    assert_eq!(refused(&world.announce("a", key(2), 5)), Refusal::Replayed { epoch: 5, accepted: 7 });
    assert_eq!(refused(&world.announce("a", key(3), 7)), Refusal::Equivocation);
    let other = world.announce("a", key(3), 7);
    assert_eq!(ring.accept("a", &other, &world.bundle, NOW).map(|_| ()), Err(Refusal::Equivocation));
    let taken = ring.accept("c", &world.announce("c", key(2), 4), &world.bundle, NOW).map(|_| ());
    assert_eq!(taken, Err(Refusal::Duplicate("a".into())), "a next key is somebody's, too");
    assert_eq!(ring.expire(NOW + 3600).len(), 3);
    assert_eq!(ring.of_node("a").count(), 0);
}

#[test]
fn both_tunnels_to_a_node_are_there_and_the_better_one_is_named_first() {
    let world = World::new("countersign.lab");
    let old = remote(&world, "a", 1, &["10.0.1.0/24"]);
    let new = RemoteNode { slot: Slot::of(0, 1), ..remote(&world, "a", 2, &["10.0.1.0/24"]) };
    let goal = desired(vec![new.clone(), old.clone()]).goal(25, NOW);
    assert_eq!(goal.problems, Vec::<String>::new());
    let ways: Vec<_> = goal.routes.values().next().unwrap().iter().map(|way| (way.slot, way.peer)).collect();
    assert_eq!(ways, [(Slot::of(0, 1), key(2)), (Slot::default(), key(1))]);
    for (slot, seed) in [(Slot::default(), 1), (Slot::of(0, 1), 2)] {
        let peer = &goal.devices[&slot].peers[&key(seed)];
        assert!(peer.allowed_ips.is_superset(&nets(&["10.0.1.0/24"])), "both are heard");
    }
    // In one device the prefix would be one's only, and the other one not be heard.
    let goal = desired(vec![RemoteNode { slot: old.slot, ..new }, old]).goal(25, NOW);
    assert!(goal.devices[&Slot::default()].peers.is_empty() && goal.routes.values().all(Vec::is_empty));
    assert_eq!(goal.problems.len(), 2, "{:?}", goal.problems);
}
