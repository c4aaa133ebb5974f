//! The second verdict: it drops nothing, it is asked once for each flow and policy, and it says which rule.

use super::scene::{A_SLOT, B_SLOT, Host, SECOND, Scene};
use crate::action::Action;
use crate::endpoint::audit_slot;
use crate::event::{Event, kind};
use crate::policy::direction::{EGRESS, INGRESS};
use crate::policy::{PREFIX_STATIC, PolicyEntry, PolicyKey, auth_type, flag, precedence};
use crate::proto::tcp;
use crate::reason;

/// Everything is allowed, and the second pod has a second verdict of its own that says nothing yet.
fn scene() -> Scene {
    let mut scene = Scene::open();
    scene.audit(Host::B);
    scene
}

fn events(scene: &Scene) -> std::vec::Vec<Event> {
    scene.twin.events.borrow().clone()
}

fn audited(scene: &Scene, direction: u8) -> u64 {
    scene.twin.counter(direction, reason::AUDITED).packets
}

#[test]
fn what_would_be_dropped_passes_and_is_reported_with_the_rule() {
    let mut scene = scene();
    let key = PolicyKey { slot_be: audit_slot(B_SLOT).to_be(), direction: INGRESS, ..PolicyKey::default() };
    let entry = PolicyEntry {
        precedence: precedence(0, true),
        rule_id: 77,
        flags: flag::DENY,
        prefix_bits: PREFIX_STATIC,
        ..PolicyEntry::default()
    };
    scene.twin.policy_lpm.insert((PREFIX_STATIC, key), entry);
    let frame = scene.craft(Host::C, Host::B, false).tcp(40000, 80, tcp::SYN);
    assert_eq!(scene.enter(Host::B, &frame), Action::Pass);
    let [event] = events(&scene)[..] else { panic!("{:?}", events(&scene)) };
    assert_eq!((event.kind, event.reason, event.detail), (kind::AUDIT, 181, 181));
    assert_eq!((event.rule_id, event.direction, event.slot), (77, INGRESS, B_SLOT));
    assert_eq!(audited(&scene, INGRESS), 1);
    // It passed, and is no drop.
    assert_eq!(scene.twin.counter(INGRESS, reason::FORWARDED).packets, 1);
    assert_eq!(scene.twin.counter(INGRESS, reason::POLICY_DENY).packets, 0);
}

#[test]
fn nothing_is_said_where_both_verdicts_allow_or_there_is_one_only() {
    let mut scene = scene();
    scene.allow(audit_slot(B_SLOT), INGRESS, 0, auth_type::NONE);
    let frame = scene.craft(Host::C, Host::B, false).tcp(40000, 80, tcp::SYN);
    assert_eq!(scene.enter(Host::B, &frame), Action::Pass);
    let other = scene.craft(Host::C, Host::A, false).tcp(40000, 80, tcp::SYN);
    assert_eq!(scene.enter(Host::A, &other), Action::Pass);
    assert!(events(&scene).is_empty());
    assert_eq!(audited(&scene, INGRESS), 0);
}

#[test]
fn what_is_dropped_anyway_is_a_drop_and_no_audit() {
    let mut scene = Scene::new();
    scene.audit(Host::B);
    let frame = scene.craft(Host::C, Host::B, false).tcp(40000, 80, tcp::SYN);
    assert_eq!(scene.enter(Host::B, &frame), Action::Drop);
    assert_eq!(events(&scene)[0].kind, kind::DROP);
    assert_eq!(audited(&scene, INGRESS), 0);
}

#[test]
fn a_flow_is_asked_about_when_it_begins_and_when_policy_changes_and_else_never() {
    let mut scene = scene();
    let craft = scene.craft(Host::B, Host::C, false);
    let (syn, data) = (craft.tcp(40000, 80, tcp::SYN), craft.tcp(40000, 80, tcp::ACK));
    scene.leave(Host::B, &syn);
    for _ in 0..10 {
        // Verdicts are renewed once a second.
        scene.twin.advance(2 * SECOND);
        assert_eq!(scene.leave(Host::B, &data), Action::Pass);
    }
    assert_eq!((audited(&scene, EGRESS), events(&scene).len()), (1, 1));
    scene.bump(B_SLOT);
    for _ in 0..3 {
        assert_eq!(scene.leave(Host::B, &data), Action::Pass);
    }
    assert_eq!((audited(&scene, EGRESS), events(&scene).len()), (2, 2));
    assert_eq!(events(&scene)[1].detail, reason::POLICY_DENIED);
}

#[test]
fn repeated_audits_are_held_back_and_counted() {
    let scene = scene();
    let syn = scene.craft(Host::B, Host::C, false).tcp(40000, 80, tcp::SYN);
    for _ in 0..50 {
        scene.leave(Host::B, &syn);
    }
    assert_eq!(events(&scene).len(), 1);
    let counter = scene.twin.counter(EGRESS, reason::AUDITED);
    assert_eq!((counter.packets, counter.suppressed, counter.lost), (50, 49, 0));
}

#[test]
fn a_proof_that_only_the_second_verdict_asks_for_is_missed_and_not_waited_for() {
    let mut scene = scene();
    scene.allow(audit_slot(B_SLOT), INGRESS, 0, auth_type::SPIRE);
    let craft = scene.craft(Host::C, Host::B, false);
    assert_eq!(scene.enter(Host::B, &craft.udp(1, 2, b"x")), Action::Pass);
    let event = events(&scene)[0];
    assert_eq!(
        (event.kind, event.detail, event.auth_type),
        (kind::AUDIT, reason::AUTH_REQUIRED, auth_type::SPIRE)
    );
    scene.prove(Host::B, Host::C, 60 * SECOND);
    assert_eq!(scene.enter(Host::B, &craft.udp(3, 2, b"x")), Action::Pass);
    assert_eq!(audited(&scene, INGRESS), 1);
    let world = scene.craft(Host::World, Host::B, false);
    assert_eq!(scene.enter(Host::B, &world.udp(1, 2, b"x")), Action::Pass);
    assert_eq!(events(&scene).last().unwrap().detail, reason::AUTH_IMPOSSIBLE);
}

#[test]
fn a_slot_and_that_of_its_second_verdict_belong_together() {
    assert_eq!(crate::endpoint::owner(audit_slot(A_SLOT)), A_SLOT);
    assert_eq!(crate::endpoint::owner(B_SLOT), B_SLOT);
    assert_eq!(audit_slot(4095), 8191);
}
