//! Events: one of a kind a second, each endpoint its share, and every packet counted somewhere.

use super::scene::{Host, SECOND, Scene};
use crate::config::flag::VERDICT_EVENTS;
use crate::event::kind;
use crate::limits;
use crate::policy::direction::EGRESS;
use crate::proto::{self, tcp};
use crate::reason;

#[test]
fn an_event_says_all_there_is_to_say() {
    let scene = Scene::new();
    let frame = scene.craft(Host::A, Host::C, false).tcp(40000, 443, tcp::SYN);
    scene.leave(Host::A, &frame);
    let events = scene.twin.events.borrow();
    let event = events[0];
    assert_eq!(event.source[..4], [10, 0, 1, 10]);
    assert_eq!(event.destination[..4], [10, 0, 2, 12]);
    assert_eq!((event.source_port, event.destination_port, event.protocol), (40000, 443, proto::TCP));
    assert_eq!((event.local_identity, event.remote_identity), (super::scene::A, super::scene::C));
    assert_eq!((event.slot, event.node, event.family), (super::scene::A_SLOT, 7, 4));
    assert_eq!((event.kind, event.reason, event.detail), (kind::DROP, 133, 133));
    assert_eq!((event.direction, event.tcp_flags, event.length), (EGRESS, tcp::SYN, frame.len() as u32));
    assert_eq!(event.time, scene.twin.boot.get());
}

#[test]
fn the_same_drop_is_reported_once_a_second_with_the_number_of_the_others() {
    let scene = Scene::new();
    let frame = scene.craft(Host::A, Host::C, false).tcp(40000, 443, tcp::SYN);
    for _ in 0..100 {
        scene.leave(Host::A, &frame);
    }
    scene.twin.advance(SECOND);
    scene.leave(Host::A, &frame);
    let events = scene.twin.events.borrow();
    assert_eq!(events.iter().map(|event| event.suppressed).collect::<std::vec::Vec<_>>(), [0, 99]);
    let counter = scene.twin.counter(EGRESS, reason::POLICY_DENIED);
    assert_eq!((counter.packets, counter.suppressed, counter.lost), (101, 99, 0));
}

#[test]
fn a_scan_uses_up_its_own_share_and_every_packet_is_counted() {
    let scene = Scene::new();
    let craft = scene.craft(Host::A, Host::C, false);
    for port in 0..10_000 {
        scene.leave(Host::A, &craft.tcp(40000, port, tcp::SYN));
    }
    let reported = scene.twin.events.borrow().len() as u64;
    assert_eq!(reported, u64::from(limits::EVENTS_PER_SLOT));
    let counter = scene.twin.counter(EGRESS, reason::POLICY_DENIED);
    assert_eq!((counter.packets, counter.suppressed), (10_000, 10_000 - reported));
    scene.leave(Host::B, &scene.craft(Host::B, Host::C, false).tcp(1, 2, tcp::SYN));
    assert_eq!(scene.twin.events.borrow().len() as u64, reported + 1);
}

#[test]
fn flows_that_share_a_cell_do_not_lose_each_others_counts() {
    let scene = Scene::new();
    let craft = scene.craft(Host::A, Host::C, false);
    // More flows than cells, twice each: some share.
    for port in 0..20_000u16 {
        for _ in 0..2 {
            scene.leave(Host::A, &craft.tcp(port, 443, tcp::SYN));
        }
        scene.twin.advance(SECOND / 1000);
    }
    let events = scene.twin.events.borrow();
    let counter = scene.twin.counter(EGRESS, reason::POLICY_DENIED);
    assert_eq!((events.len(), counter.suppressed), (20_000, 20_000));
    // None is about a flow that was reported before, so what was held back was others'.
    assert!(events.iter().all(|event| event.suppressed == 0));
    let waiting: u32 = scene.twin.dedup.borrow().values().map(|cell| cell.suppressed).sum();
    let told: u32 = events.iter().map(|event| event.suppressed_other).sum();
    assert_eq!(told + waiting, 20_000);
}

#[test]
fn new_flows_are_reported_if_asked_for() {
    let mut scene = Scene::open();
    let craft = scene.craft(Host::A, Host::C, false);
    scene.leave(Host::A, &craft.udp(1, 2, b"x"));
    assert!(scene.twin.events.borrow().is_empty());
    scene.twin.config.as_mut().unwrap().flags |= VERDICT_EVENTS;
    for _ in 0..3 {
        scene.leave(Host::A, &craft.udp(3, 2, b"x"));
    }
    // A verdict that is renewed is no new flow.
    scene.twin.advance(2 * SECOND);
    scene.leave(Host::A, &craft.udp(3, 2, b"x"));
    let events = scene.twin.events.borrow();
    assert_eq!(events.len(), 1);
    assert_eq!((events[0].kind, events[0].reason, events[0].rule_id), (kind::VERDICT, 0, 42));
}

#[test]
fn every_reason_has_its_own_memory() {
    let scene = Scene::new();
    let good = scene.craft(Host::A, Host::C, false);
    let spoofed = crate::craft::Craft { source: "10.0.1.77".parse().unwrap(), ..good.clone() };
    for _ in 0..2 {
        scene.leave(Host::A, &good.udp(1, 2, b"x"));
        scene.leave(Host::A, &spoofed.udp(1, 2, b"x"));
    }
    assert_eq!(scene.twin.events.borrow().len(), 2);
}
