//! Parking: packets wait for the proof, in bounds, and come back as they were.

use super::scene::{A_IF, A_SLOT, C, Host, PARK_IF, REMOTE_NODE, SECOND, Scene, endpoint};
use crate::action::Action;
use crate::addr::Addr;
use crate::config::flag::PARKING;
use crate::decide::auth_key;
use crate::event::kind;
use crate::ipcache::IpEntry;
use crate::limits;
use crate::park::{MARK, Parked};
use crate::policy::auth_type::SPIRE;
use crate::policy::direction::{EGRESS, INGRESS};
use crate::reason;

fn parking() -> Scene {
    let mut scene = Scene::new();
    scene.allow(A_SLOT, EGRESS, 0, SPIRE);
    scene.allow(A_SLOT, INGRESS, 0, SPIRE);
    scene.twin.config.as_mut().unwrap().flags |= PARKING;
    scene
}

fn frame(scene: &Scene, port: u16) -> std::vec::Vec<u8> {
    scene.craft(Host::A, Host::C, false).udp(port, 53, b"x")
}

/// A frame with the header that the errand puts on it.
fn with_macs(frame: &[u8], macs: [u8; 12]) -> std::vec::Vec<u8> {
    let mut frame = frame.to_vec();
    frame[..12].copy_from_slice(&macs);
    frame
}

#[test]
fn a_packet_goes_to_the_agent_and_comes_back_as_it_was() {
    for v6 in [false, true] {
        let mut scene = parking();
        let original = scene.craft(Host::A, Host::C, v6).udp(1000, 53, b"x");
        let (action, errand) = scene.leave_again(Host::A, &original, 0);
        assert_eq!((action, errand.ifindex), (Action::Park, PARK_IF));
        let parked = Parked { direction: EGRESS, round: 1, slot: A_SLOT, node: REMOTE_NODE, remote: C };
        assert_eq!(Parked::decode(&errand.macs), Some(parked));
        scene.prove(Host::A, Host::C, 60 * SECOND);
        let (action, errand) = scene.come_back(&with_macs(&original, errand.macs));
        assert_eq!((action, errand.ifindex, errand.mark), (Action::ReleaseIn, A_IF, MARK | 1));
        let released = with_macs(&original, errand.macs);
        assert_eq!(released, original);
        assert_eq!(scene.leave_again(Host::A, &released, 1).0, Action::Pass);
    }
}

#[test]
fn what_waited_on_its_way_in_is_released_on_its_way_in() {
    let mut scene = parking();
    let original = scene.craft(Host::C, Host::A, false).udp(53, 1000, b"x");
    assert_eq!(scene.enter(Host::A, &original), Action::Park);
    let parked = Parked { direction: INGRESS, round: 1, slot: A_SLOT, node: REMOTE_NODE, remote: C };
    scene.prove(Host::A, Host::C, 60 * SECOND);
    let (action, errand) = scene.come_back(&with_macs(&original, parked.encode()));
    assert_eq!((action, errand.ifindex), (Action::ReleaseOut, A_IF));
    let released = with_macs(&original, errand.macs);
    assert_eq!(released[..12], original[..12]);
    assert_eq!(scene.enter_again(Host::A, &released, 1), Action::Pass);
}

#[test]
fn a_packet_is_not_parked_for_ever() {
    let scene = parking();
    let original = frame(&scene, 1000);
    for round in 0..limits::PARK_ROUNDS {
        let (action, errand) = scene.leave_again(Host::A, &original, round);
        assert_eq!(action, Action::Park);
        assert_eq!(Parked::decode(&errand.macs).unwrap().round, round + 1);
    }
    assert_eq!(scene.leave_again(Host::A, &original, limits::PARK_ROUNDS).0, Action::Drop);
    assert_eq!(scene.twin.counter(EGRESS, reason::PARK_AGAIN).packets, 1);
}

#[test]
fn a_pair_has_so_many_places_a_second() {
    let scene = parking();
    let original = frame(&scene, 1000);
    let parked = |scene: &Scene| scene.leave(Host::A, &original) == Action::Park;
    let count = |scene: &Scene| (0..1000).filter(|_| parked(scene)).count();
    assert_eq!(count(&scene), limits::PARK_PAIR_PACKETS as usize);
    assert_eq!(
        scene.twin.counter(EGRESS, reason::PARK_FULL).packets,
        1000 - u64::from(limits::PARK_PAIR_PACKETS)
    );
    // Other pairs of the same pod are not concerned, and a second later there is room again.
    let other = scene.craft(Host::A, Host::B, false).udp(1, 2, b"x");
    assert_eq!(scene.leave(Host::A, &other), Action::Park);
    scene.twin.advance(limits::PARK_WINDOW_NS);
    assert!(parked(&scene));
}

#[test]
fn a_pair_has_so_many_bytes_a_second() {
    let scene = parking();
    let big = scene.craft(Host::A, Host::C, false).udp(1, 2, &[0; 60_000]);
    let parked = (0..100).filter(|_| scene.leave(Host::A, &big) == Action::Park).count();
    assert_eq!(parked, limits::PARK_PAIR_BYTES as usize / big.len());
}

#[test]
fn a_pod_that_floods_takes_its_own_places_only() {
    let mut scene = parking();
    scene.allow(super::scene::B_SLOT, EGRESS, 0, SPIRE);
    // A thousand identities, each with room of its own.
    for number in 0..1000u32 {
        let (addr, family) =
            Addr::from_ip(core::net::IpAddr::from([10, 9, (number >> 8) as u8, number as u8]));
        let entry = IpEntry { identity: 10_000 + number, node: 7, flags: 0 };
        scene.twin.ips.insert((family, 32, addr), entry);
    }
    let mut parked = 0;
    for number in 0..10_000u32 {
        let mut craft = scene.craft(Host::A, Host::C, false);
        craft.destination =
            core::net::IpAddr::from([10, 9, ((number % 1000) >> 8) as u8, (number % 1000) as u8]);
        parked += u32::from(scene.leave(Host::A, &craft.udp(1, 2, b"x")) == Action::Park);
    }
    assert_eq!(parked, limits::PARK_SLOT_PACKETS);
    let victim = scene.craft(Host::B, Host::C, false).udp(1, 2, b"x");
    assert_eq!(scene.leave(Host::B, &victim), Action::Park);
}

#[test]
fn a_node_that_floods_under_many_identities_takes_its_own_places_only() {
    let mut scene = parking();
    for number in 0..1000u32 {
        let (addr, family) =
            Addr::from_ip(core::net::IpAddr::from([10, 9, (number >> 8) as u8, number as u8]));
        let entry = IpEntry { identity: 10_000 + number, node: 9, flags: 0 };
        scene.twin.ips.insert((family, 32, addr), entry);
    }
    let mut parked = 0;
    for number in 0..20_000u32 {
        let mut craft = scene.craft(Host::C, Host::A, false);
        craft.source = core::net::IpAddr::from([10, 9, ((number % 1000) >> 8) as u8, (number % 1000) as u8]);
        parked += u32::from(scene.enter(Host::A, &craft.udp(1, 2, b"x")) == Action::Park);
    }
    assert_eq!(parked, limits::PARK_SLOT_PACKETS * limits::PARK_NODE_SHARE);
    // Neither another node's pods nor the neighbours of the one that is flooded, nor itself.
    for sender in [Host::C, Host::B] {
        let honest = scene.craft(sender, Host::A, false);
        let honest = crate::craft::Craft {
            source_mac: scene.craft(Host::C, Host::A, false).source_mac,
            destination_mac: endpoint(Host::A).mac,
            ..honest
        };
        assert_eq!(scene.enter(Host::A, &honest.udp(1, 2, b"x")), Action::Park, "{sender:?}");
    }
    assert_eq!(scene.leave(Host::A, &frame(&scene, 1)), Action::Park);
}

#[test]
fn a_hundred_pairs_of_twenty_all_find_room() {
    let mut scene = parking();
    for number in 0..100u8 {
        let (addr, family) = Addr::from_ip(core::net::IpAddr::from([10, 9, 0, number]));
        let entry = IpEntry { identity: 10_000 + u32::from(number), node: 7, flags: 0 };
        scene.twin.ips.insert((family, 32, addr), entry);
    }
    for round in 0..20u16 {
        for number in 0..100u8 {
            let mut craft = scene.craft(Host::A, Host::C, false);
            craft.destination = core::net::IpAddr::from([10, 9, 0, number]);
            assert_eq!(scene.leave(Host::A, &craft.udp(1000, 2000, &round.to_be_bytes())), Action::Park);
        }
    }
}

#[test]
fn after_a_failed_handshake_a_pair_is_dropped_for_a_while() {
    let mut scene = parking();
    let entry = IpEntry { identity: C, node: REMOTE_NODE, flags: 0 };
    let until = scene.twin.boot.get() + 5 * SECOND;
    scene.twin.backoff.insert(auth_key(&endpoint(Host::A), entry), until);
    let original = frame(&scene, 1000);
    assert_eq!(scene.leave(Host::A, &original), Action::Drop);
    assert_eq!(scene.twin.counter(EGRESS, reason::AUTH_BACKOFF).packets, 1);
    scene.twin.advance(5 * SECOND);
    assert_eq!(scene.leave(Host::A, &original), Action::Park);
}

#[test]
fn a_pair_is_reported_every_tenth_of_a_second_and_the_rest_is_counted() {
    for park in [true, false] {
        let mut scene = parking();
        if !park {
            scene.twin.config.as_mut().unwrap().flags &= !PARKING;
        }
        let original = frame(&scene, 1000);
        for _ in 0..10 {
            scene.leave(Host::A, &original);
        }
        scene.twin.advance(limits::AUTH_EVENT_NS);
        scene.leave(Host::A, &original);
        let events = scene.twin.events.borrow();
        let reason = if park { reason::PARKED } else { reason::AUTH_REQUIRED };
        let seen: std::vec::Vec<_> =
            events.iter().map(|event| (event.kind, event.reason, event.detail, event.suppressed)).collect();
        let expected = |suppressed| (kind::AUTH_REQUIRED, reason::AUTH_REQUIRED, reason, suppressed);
        assert_eq!(seen, [expected(0), expected(9)]);
        assert_eq!((events[0].remote_identity, events[0].node, events[0].auth_type), (C, REMOTE_NODE, SPIRE));
        assert_eq!(scene.twin.counter(EGRESS, reason).suppressed, 9);
    }
}

#[test]
fn a_live_flow_whose_proof_ends_is_parked_and_says_so() {
    let mut scene = parking();
    scene.prove(Host::A, Host::C, 10 * SECOND);
    let original = frame(&scene, 1000);
    assert_eq!(scene.leave(Host::A, &original), Action::Pass);
    scene.twin.advance(10 * SECOND);
    assert_eq!(scene.leave(Host::A, &original), Action::Park);
    assert_eq!(scene.twin.events.borrow().last().unwrap().kind, kind::PROOF_ENDED);
    // Its answers wait as well, as what they are.
    let answer = scene.craft(Host::C, Host::A, false).udp(53, 1000, b"x");
    assert_eq!(scene.enter(Host::A, &answer), Action::Park);
    scene.prove(Host::A, Host::C, 10 * SECOND);
    assert_eq!(scene.leave_again(Host::A, &original, 1).0, Action::Pass);
    assert_eq!(scene.enter_again(Host::A, &answer, 1), Action::Pass);
}

#[test]
fn frames_that_were_not_parked_are_dropped() {
    let mut scene = parking();
    let original = frame(&scene, 1000);
    assert_eq!(scene.come_back(&original).0, Action::Drop);
    assert_eq!(scene.come_back(&[]).0, Action::Drop);
    let of_nobody = Parked { direction: EGRESS, round: 1, slot: 77, node: 0, remote: C };
    assert_eq!(scene.come_back(&with_macs(&original, of_nobody.encode())).0, Action::Drop);
    scene.twin.endpoints.get_mut(&A_IF).unwrap().flags = 0;
    let closed = Parked { slot: A_SLOT, ..of_nobody };
    assert_eq!(scene.come_back(&with_macs(&original, closed.encode())).0, Action::Drop);
}
