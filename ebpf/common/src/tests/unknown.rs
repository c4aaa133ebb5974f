//! Packets from and to addresses of another node's pods that nobody has told us of yet: they wait, whatever policy says
//! of everybody, and are judged once it is known who that is.

use super::scene::{A, A_SLOT, C, Host, REMOTE_NODE, SECOND, Scene};
use crate::action::{Action, Errand};
use crate::addr::Addr;
use crate::config::flag::PARKING;
use crate::event::kind;
use crate::identity;
use crate::ipcache::{IpEntry, flag};
use crate::limits;
use crate::park::{Parked, PendingKey, address_line, is_address_line};
use crate::policy::auth_type::{NONE, SPIRE};
use crate::policy::direction::{EGRESS, INGRESS};
use crate::reason;

const WAYS: [u8; 2] = [EGRESS, INGRESS];

fn scene() -> Scene {
    let mut scene = Scene::open();
    scene.twin.config.as_mut().unwrap().flags |= PARKING;
    scene.forget(Host::C);
    scene
}

/// A packet between A and the other node's pod, in one direction.
fn send(scene: &Scene, direction: u8, v6: bool, round: u8) -> (Action, Errand) {
    let craft = scene.craft(Host::A, Host::C, v6);
    if direction == EGRESS {
        scene.leave_again(Host::A, &craft.udp(1000, 53, b"x"), round)
    } else {
        scene.arrive(Host::A, &craft.reversed().udp(53, 1000, b"x"), round)
    }
}

#[test]
fn an_unknown_pod_waits_where_everybody_is_allowed() {
    for (direction, v6) in WAYS.into_iter().flat_map(|way| [(way, false), (way, true)]) {
        let scene = scene();
        let (action, errand) = send(&scene, direction, v6, 0);
        assert_eq!(action, Action::Park);
        let parked = Parked::decode(&errand.macs).unwrap();
        let (address, _) = Addr::from_ip(super::scene::ip(Host::C, v6));
        let expected =
            Parked { direction, round: 1, slot: A_SLOT, node: REMOTE_NODE, remote: address_line(&address) };
        assert_eq!(parked, expected);
        assert!(is_address_line(parked.remote));
        let event = scene.twin.events.borrow()[0];
        assert_eq!(
            (event.kind, event.detail, event.remote_identity),
            (kind::ADDRESS_UNKNOWN, reason::PARKED, 0)
        );
        assert!(scene.twin.flows.borrow().is_empty(), "nothing is allowed yet");
    }
}

#[test]
fn it_is_judged_when_it_is_known() {
    for direction in WAYS {
        // Allowed, not allowed, and to be proved.
        for (auth, expected) in
            [(Some(NONE), Action::Pass), (None, Action::Drop), (Some(SPIRE), Action::Park)]
        {
            let mut scene = scene();
            assert_eq!(send(&scene, direction, false, 0).0, Action::Park);
            scene.forbid_everything();
            auth.iter().for_each(|auth| scene.allow(A_SLOT, direction, C, *auth));
            scene.know(Host::C);
            let (action, errand) = send(&scene, direction, false, 1);
            assert_eq!(action, expected);
            if expected == Action::Park {
                assert_eq!(Parked::decode(&errand.macs).unwrap().remote, C, "it waits for a proof now");
            }
        }
    }
}

#[test]
fn without_a_place_it_is_dropped_and_says_why() {
    let refused = |prepare: &dyn Fn(&mut Scene), round: u8| {
        let mut scene = scene();
        prepare(&mut scene);
        assert_eq!(send(&scene, INGRESS, false, round).0, Action::Drop);
        assert_eq!(scene.reasons(INGRESS).last().map(|(reason, _)| *reason), Some(reason::ADDRESS_UNKNOWN));
        let event = *scene.twin.events.borrow().last().unwrap();
        assert_eq!((event.kind, event.detail), (kind::ADDRESS_UNKNOWN, reason::ADDRESS_UNKNOWN));
    };
    refused(&|scene| scene.twin.config.as_mut().unwrap().flags &= !PARKING, 0);
    refused(&|scene| scene.twin.config.as_mut().unwrap().park_slot_bytes = 1, 0);
    refused(&|scene| scene.twin.config.as_mut().unwrap().park_pair_packets = 0, limits::PARK_ROUNDS);
    // The agent has given up on the address a short while ago.
    refused(
        &|scene| {
            let (address, _) = Addr::from_ip(super::scene::ip(Host::C, false));
            let entry = IpEntry { identity: address_line(&address), node: REMOTE_NODE, flags: 0 };
            let key = crate::decide::auth_key(&super::scene::endpoint(Host::A), entry);
            let until = scene.twin.boot.get() + SECOND;
            scene.twin.backoff.insert(key, until);
        },
        0,
    );
}

#[test]
fn a_flow_whose_peer_is_forgotten_stops() {
    let mut scene = scene();
    scene.know(Host::C);
    assert_eq!(send(&scene, EGRESS, false, 0).0, Action::Pass);
    scene.forget(Host::C);
    assert_eq!(send(&scene, EGRESS, false, 0).0, Action::Park);
    assert_eq!(send(&scene, INGRESS, false, 0).0, Action::Park);
}

#[test]
fn only_other_nodes_pods_are_waited_for() {
    let mut scene = scene();
    let world = scene.craft(Host::A, Host::World, false).udp(1000, 53, b"x");
    assert_eq!(scene.leave(Host::A, &world), Action::Pass);
    // Of its own prefix a node knows everything there is to know.
    let (addr, family) = Addr::from_ip(super::scene::ip(Host::C, false));
    let own = IpEntry { identity: identity::UNKNOWN, node: 0, flags: flag::POD | flag::LOCAL };
    scene.twin.ips.insert((family, 32, addr), own);
    assert_eq!(send(&scene, EGRESS, false, 0).0, Action::Pass);
    // An address that two pods claim is nobody's until one lets go.
    scene.twin.ips.insert((family, 32, addr), IpEntry { flags: flag::POD, ..own });
    scene.bump(A_SLOT);
    assert_eq!(send(&scene, EGRESS, false, 0).0, Action::Park);
}

#[test]
fn lines_of_addresses_are_no_pairs_lines() {
    for identity in [identity::UNKNOWN, identity::FIRST_POD, identity::FIRST_LOCAL, identity::FIRST_LOCAL * 2]
    {
        assert!(!is_address_line(identity));
    }
    let key = |remote, direction| PendingKey::new(A, remote, REMOTE_NODE, A_SLOT, direction);
    let line = address_line(&Addr::from_ip(super::scene::ip(Host::C, false)).0);
    assert_eq!(key(line, EGRESS), key(line, INGRESS), "one look says whether any of it is on its way");
    assert_ne!(key(C, EGRESS), key(C, INGRESS));
}
