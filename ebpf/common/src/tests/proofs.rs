//! Proofs: nothing passes without one where policy asks for it, and none is stretched.

use super::scene::{A_SLOT, C, Host, SECOND, Scene, endpoint, ip};
use crate::action::Action;
use crate::addr::Addr;
use crate::ipcache::IpEntry;
use crate::limits;
use crate::policy::auth_type::{ALWAYS_FAIL, NONE, SPIRE};
use crate::policy::direction::{EGRESS, INGRESS};
use crate::reason;

fn required() -> Scene {
    let mut scene = Scene::new();
    scene.allow(A_SLOT, EGRESS, 0, SPIRE);
    scene
}

fn passes(scene: &Scene) -> bool {
    let frame = scene.craft(Host::A, Host::C, false).udp(1000, 53, b"x");
    scene.leave(Host::A, &frame) == Action::Pass
}

#[test]
fn a_proof_opens_the_way_for_both_families_and_directions() {
    for v6 in [false, true] {
        let mut scene = required();
        let out = scene.craft(Host::A, Host::C, v6);
        assert_eq!(scene.leave(Host::A, &out.udp(1000, 53, b"x")), Action::Drop);
        scene.prove(Host::A, Host::C, 60 * SECOND);
        assert_eq!(scene.leave(Host::A, &out.udp(1000, 53, b"x")), Action::Pass);
        assert_eq!(scene.enter(Host::A, &out.reversed().udp(53, 1000, b"x")), Action::Pass);
        assert_eq!(scene.twin.flows.borrow().values().next().unwrap().auth_type, SPIRE);
    }
}

#[test]
fn no_packet_passes_after_the_proof_has_ended() {
    // Packets all the time: the cached verdict must not outlive the proof, whatever the clock's granularity.
    for lifetime in [SECOND / 2, SECOND, 3 * SECOND + 123, 30 * SECOND] {
        let mut scene = required();
        scene.prove(Host::A, Host::C, lifetime);
        let (start, step) = (scene.twin.boot.get(), 3_000_000);
        while scene.twin.boot.get() < start + lifetime + 2 * SECOND {
            let exact = scene.twin.boot.get();
            // The coarse clock lags behind by up to a tick.
            let tick = limits::CLOCK_SLACK_NS;
            let coarse = scene.twin.coarse.replace(scene.twin.coarse.get() / tick * tick);
            assert_eq!(passes(&scene), exact < start + lifetime, "{}", exact - start);
            scene.twin.coarse.set(coarse);
            scene.twin.advance(step);
        }
    }
}

#[test]
fn answers_end_with_the_proof_too() {
    let mut scene = required();
    scene.prove(Host::A, Host::C, 2 * SECOND);
    let out = scene.craft(Host::A, Host::C, false);
    assert!(passes(&scene));
    assert_eq!(scene.enter(Host::A, &out.reversed().udp(53, 1000, b"x")), Action::Pass);
    scene.twin.advance(2 * SECOND);
    assert_eq!(scene.enter(Host::A, &out.reversed().udp(53, 1000, b"x")), Action::Drop);
    scene.prove(Host::A, Host::C, 2 * SECOND);
    assert_eq!(scene.enter(Host::A, &out.reversed().udp(53, 1000, b"x")), Action::Pass);
}

#[test]
fn a_withdrawn_proof_ends_live_flows_within_a_second_and_at_once_with_the_epoch() {
    let mut scene = required();
    scene.prove(Host::A, Host::C, 60 * SECOND);
    assert!(passes(&scene));
    scene.twin.auth.clear();
    assert!(passes(&scene));
    scene.twin.advance(limits::REVALIDATE_NS);
    assert!(!passes(&scene));
    scene.prove(Host::A, Host::C, 60 * SECOND);
    assert!(passes(&scene));
    scene.twin.auth.clear();
    scene.twin.epochs.get_mut(&A_SLOT).unwrap().auth += 1;
    assert!(!passes(&scene));
}

#[test]
fn time_that_passes_in_suspend_counts() {
    let mut scene = required();
    scene.prove(Host::A, Host::C, 60 * SECOND);
    assert!(passes(&scene));
    // The boot clock goes on, the monotonic one does not; a second later at the latest it is noticed.
    scene.twin.boot.set(scene.twin.boot.get() + 3600 * SECOND);
    scene.twin.advance(limits::REVALIDATE_NS);
    assert!(!passes(&scene));
}

#[test]
fn proofs_of_another_epoch_do_not_count() {
    let mut scene = required();
    scene.prove(Host::A, Host::C, 60 * SECOND);
    scene.twin.config.as_mut().unwrap().auth_epoch = 1;
    assert!(!passes(&scene));
    for value in scene.twin.auth.values_mut() {
        value.epoch = 1;
    }
    assert!(passes(&scene));
}

#[test]
fn the_address_must_be_asserted_by_the_peer_that_was_proved() {
    let mut scene = required();
    scene.prove(Host::A, Host::C, 60 * SECOND);
    let (addr, family) = Addr::from_ip(ip(Host::C, false));
    let bound = scene.twin.bound[&(family, addr)];
    scene.twin.bound.remove(&(family, addr));
    assert!(!passes(&scene));
    // Somebody else has it now, or somewhere else.
    for other in [crate::auth::Bound { identity: 4000, ..bound }, crate::auth::Bound { node: 9, ..bound }] {
        scene.twin.bound.insert((family, addr), other);
        assert!(!passes(&scene));
    }
    scene.twin.bound.insert((family, addr), bound);
    assert!(passes(&scene));
}

#[test]
fn a_proof_is_of_one_pair_and_one_node() {
    let mut scene = required();
    scene.prove(Host::A, Host::C, 60 * SECOND);
    let (addr, family) = Addr::from_ip(ip(Host::C, false));
    let entry = scene.twin.ips[&(family, 32, addr)];
    for (identity, node) in [(4000, entry.node), (entry.identity, 9)] {
        scene.twin.ips.insert((family, 32, addr), IpEntry { identity, node, ..entry });
        let bound = crate::auth::Bound { identity, node, ..Default::default() };
        scene.twin.bound.insert((family, addr), bound);
        scene.bump(A_SLOT);
        assert!(!passes(&scene));
    }
}

#[test]
fn who_cannot_prove_himself_is_refused_and_not_parked() {
    let mut scene = required();
    scene.twin.config.as_mut().unwrap().flags |= crate::config::flag::PARKING;
    for host in [Host::World, Host::Node] {
        let frame = scene.craft(Host::A, host, false).udp(1000, 53, b"x");
        assert_eq!(scene.leave(Host::A, &frame), Action::Drop);
    }
    scene.twin.endpoints.get_mut(&endpoint(Host::A).ifindex).unwrap().identity = 5;
    assert!(!passes(&scene));
    assert_eq!(scene.twin.counter(EGRESS, reason::AUTH_IMPOSSIBLE).packets, 3);
    assert!(scene.twin.events.borrow().iter().all(|event| event.reason == reason::AUTH_REQUIRED));
}

#[test]
fn always_fail_always_fails() {
    let mut scene = Scene::new();
    scene.allow(A_SLOT, EGRESS, 0, ALWAYS_FAIL);
    scene.twin.config.as_mut().unwrap().flags |= crate::config::flag::PARKING;
    scene.prove(Host::A, Host::C, 60 * SECOND);
    assert!(!passes(&scene));
    assert_eq!(scene.twin.counter(EGRESS, reason::AUTH_IMPOSSIBLE).packets, 1);
}

#[test]
fn pods_of_one_node_prove_themselves_like_any() {
    let mut scene = Scene::new();
    scene.allow(A_SLOT, EGRESS, 0, NONE);
    scene.allow(super::scene::B_SLOT, INGRESS, super::scene::A, SPIRE);
    let frame = scene.craft(Host::A, Host::B, false).udp(1000, 53, b"x");
    assert_eq!(scene.leave(Host::A, &frame), Action::Pass);
    assert_eq!(scene.enter(Host::B, &frame), Action::Drop);
    scene.prove(Host::B, Host::A, 60 * SECOND);
    assert_eq!(scene.enter(Host::B, &frame), Action::Pass);
    assert_eq!(scene.twin.auth.keys().next().unwrap().node, 0);
    assert!(scene.twin.auth.keys().all(|key| key.remote != C));
}
