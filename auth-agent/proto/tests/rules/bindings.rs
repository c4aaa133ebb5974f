//! Which address has which identity, by the word of its node.

use countersign_auth_proto::limits::{
    MAX_ADDRESSES_PER_PAIR, MAX_ASSERTIONS, MS, REFRESH_GAP, REFUSED_FOR, SECOND,
};
use countersign_auth_proto::{Action, Admission, Assertion, DiscardReason, Event, FailureKind, Pair, Via};

use crate::node::{A, AB, B, C, Node, ip, starts, timed_starts};

const LIFE: u64 = 600 * SECOND;

fn said(last: u8, generation: u32) -> Assertion {
    Assertion { ip: ip(last), generation }
}

fn bound(actions: &[Action]) -> Vec<u8> {
    actions
        .iter()
        .filter_map(|action| match action {
            Action::Bind { ip: std::net::IpAddr::V4(ip), .. } => Some(ip.octets()[3]),
            _ => None,
        })
        .collect()
}

fn unbound(actions: &[Action]) -> Vec<u8> {
    actions
        .iter()
        .filter_map(|action| match action {
            Action::Unbind { ip: std::net::IpAddr::V4(ip) } => Some(ip.octets()[3]),
            _ => None,
        })
        .collect()
}

fn proved(pair: Pair, assertions: &[Assertion]) -> (Node, Vec<Action>) {
    let mut node = Node::new();
    node.frame(pair);
    let attempt = node.started();
    let actions = node.done_with(pair, attempt, LIFE, assertions);
    node.now += SECOND;
    (node, actions)
}

#[test]
fn assertions_are_bound_before_the_entry_is_written() {
    let (_, actions) = proved(AB, &[said(1, 5), said(2, 6)]);
    assert_eq!(bound(&actions), [1, 2]);
    let bind = Action::Bind { ip: ip(1), identity: B, node: 1, generation: 5, epoch: 0 };
    assert_eq!(actions[0], bind);
    assert!(matches!(actions[2], Action::Install { .. }), "{actions:?}");
}

#[test]
fn an_unknown_address_makes_the_peer_say_again_what_it_has() {
    let (mut node, _) = proved(AB, &[said(1, 1)]);
    assert_eq!(node.frame_from(AB, Some(ip(2))), Admission::Park);
    let attempt = node.started();
    let actions = node.done_with(AB, attempt, LIFE, &[said(1, 1), said(2, 1)]);
    assert_eq!(bound(&actions), [2], "what is known is not written again");
    assert_eq!(node.released.len(), 2);
    assert_eq!(node.frame_from(AB, Some(ip(2))), Admission::Pass);
}

#[test]
fn an_address_the_peer_does_not_assert_is_refused_for_a_while() {
    let (mut node, _) = proved(AB, &[said(1, 1)]);
    let mut dials = 0;
    let mut refused = 0;
    let begin = node.now;
    while node.now < begin + 10 * SECOND {
        match node.frame_from(AB, Some(ip(9))) {
            Admission::Park => {}
            Admission::Drop(why) => {
                assert_eq!(why, DiscardReason::NotAsserted);
                refused += 1;
            }
            Admission::Pass => panic!("a spoofed address passed"),
        }
        let mut actions = node.actions();
        actions.extend(node.pass(MS).into_iter().map(|(_, action)| action));
        for (_, attempt) in starts(&actions) {
            dials += 1;
            node.done_with(AB, attempt, LIFE, &[said(1, 1)]);
        }
    }
    assert!(dials <= 1 + 10 * SECOND / REFUSED_FOR, "{dials}");
    assert!(refused > 9_000, "{refused}");
    assert_eq!(node.frame_from(AB, Some(ip(1))), Admission::Pass, "others are not disturbed");
}

#[test]
fn many_unknown_addresses_share_one_pace() {
    let (mut node, _) = proved(AB, &[]);
    let mut dials = 0;
    let begin = node.now;
    let mut last = 0u8;
    while node.now < begin + 10 * SECOND {
        last = last.wrapping_add(1);
        node.frame_from(AB, Some(ip(last)));
        let mut actions = node.actions();
        actions.extend(node.pass(MS).into_iter().map(|(_, action)| action));
        for (_, attempt) in starts(&actions) {
            dials += 1;
            node.done_with(AB, attempt, LIFE, &[]);
        }
    }
    assert!(dials <= 1 + 10 * SECOND / REFRESH_GAP, "{dials}");
    assert!(node.status(AB).is_some());
    assert!(dials > 10 * SECOND / REFUSED_FOR, "more than {MAX_ADDRESSES_PER_PAIR} are asked for: {dials}");
}

#[test]
fn an_entry_that_ends_while_an_address_waits_begins_anew_at_once() {
    let mut node = Node::new();
    node.frame(AB);
    let attempt = node.started();
    node.done_with(AB, attempt, REFRESH_GAP / 2, &[said(1, 1)]);
    let end = node.now + REFRESH_GAP / 2;
    assert_eq!(node.frame_from(AB, Some(ip(2))), Admission::Park);
    assert!(node.actions().is_empty(), "too soon to ask again");
    let begun = timed_starts(&node.pass(REFRESH_GAP));
    assert_eq!(begun.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [end]);
}

#[test]
fn a_failed_refresh_keeps_the_entry_and_refuses_the_address() {
    let (mut node, _) = proved(AB, &[said(1, 1)]);
    node.frame_from(AB, Some(ip(2)));
    let attempt = node.started();
    node.fail(AB, attempt, FailureKind::Timeout);
    assert_eq!(node.discarded, 1);
    assert!(node.is_live(AB));
    assert!(matches!(node.frame_from(AB, Some(ip(2))), Admission::Drop(_)));
    assert_eq!(node.frame_from(AB, Some(ip(1))), Admission::Pass);
    // It is tried again with the next packet, not by itself.
    assert!(timed_starts(&node.pass(5 * SECOND)).is_empty());
    assert_eq!(node.frame_from(AB, Some(ip(2))), Admission::Park);
    node.started();
}

#[test]
fn the_first_handshake_settles_the_addresses_that_waited() {
    let mut node = Node::new();
    node.frame_from(AB, Some(ip(1)));
    node.frame_from(AB, Some(ip(9)));
    let attempt = node.started();
    node.done_with(AB, attempt, LIFE, &[said(1, 1)]);
    assert_eq!(node.released.len(), 2, "the datapath judges each again");
    assert_eq!(node.frame_from(AB, Some(ip(9))), Admission::Drop(DiscardReason::NotAsserted));
    assert_eq!(node.frame_from(AB, Some(ip(1))), Admission::Pass);
}

#[test]
fn what_the_peer_no_longer_says_is_unbound() {
    let (mut node, _) = proved(AB, &[said(1, 1), said(2, 1)]);
    let not_after = node.now + LIFE;
    let actions = node.event(Event::HandshakeDone {
        pair: AB,
        via: Via::Inbound,
        started_at: node.now,
        not_after,
        assertions: vec![said(2, 2), said(3, 1)],
    });
    assert_eq!((unbound(&actions), bound(&actions)), (vec![1], vec![2, 3]));
}

#[test]
fn the_later_claim_to_an_address_wins_and_an_old_one_does_not_come_back() {
    let (mut node, _) = proved(AB, &[said(1, 1)]);
    let other = Pair::new(A, C, 2);
    let old = node.now;
    node.now += SECOND;
    node.frame(other);
    let attempt = node.started();
    let actions = node.done_with(other, attempt, LIFE, &[said(1, 1)]);
    assert_eq!(bound(&actions), [1]);
    // A handshake with the first owner that began before must not take it back.
    let not_after = node.now + LIFE;
    let assertions = vec![said(1, 1)];
    let actions = node.event(Event::HandshakeDone {
        pair: AB,
        via: Via::Inbound,
        started_at: old,
        not_after,
        assertions,
    });
    assert!(bound(&actions).is_empty());
    assert_eq!(node.machine.counters().assertions_ignored, 1);
    // And when the first owner goes, the address stays with the second.
    assert!(unbound(&node.event(Event::NodeGone { node: 1 })).is_empty());
    assert_eq!(unbound(&node.event(Event::NodeGone { node: 2 })), [1]);
}

#[test]
fn on_the_same_node_both_halves_of_the_handshake_speak() {
    // The server's half ends first and asserts the client's addresses only.
    let mut node = Node::new();
    let (there, back) = (Pair::new(A, B, 0), Pair::new(B, A, 0));
    node.frame_from(there, Some(ip(2)));
    let attempt = node.started();
    let not_after = node.now + LIFE;
    let (started_at, assertions) = (node.now, vec![said(1, 1)]);
    node.event(Event::HandshakeDone { pair: back, via: Via::Inbound, started_at, not_after, assertions });
    assert_eq!(node.frame_from(there, Some(ip(2))), Admission::Park, "the other half is still to come");
    // Nothing has gone: at the datapath it would have met the missing address, and lost its place.
    assert!(node.released.is_empty());
    node.done_with(there, attempt, LIFE, &[said(2, 1)]);
    assert_eq!(node.released, [1, 2]);
    assert_eq!(node.frame_from(there, Some(ip(2))), Admission::Pass);
    assert_eq!(node.frame_from(back, Some(ip(1))), Admission::Pass);
}

#[test]
fn an_older_word_takes_nothing_back() {
    let (mut node, _) = proved(AB, &[said(1, 1), said(2, 1)]);
    let (started_at, not_after) = (0, node.now + LIFE);
    let assertions = vec![said(1, 1)];
    let actions =
        node.event(Event::HandshakeDone { pair: AB, via: Via::Inbound, started_at, not_after, assertions });
    assert!(unbound(&actions).is_empty());
    assert_eq!(node.machine.summary().bindings, 2);
}

#[test]
fn an_address_stays_as_long_as_one_pair_vouches_for_it() {
    let (mut node, _) = proved(AB, &[said(1, 1)]);
    node.prove(Pair::new(C, B, 1), LIFE);
    // That handshake said nothing about addresses, so nothing is bound any more; say it again.
    let not_after = node.now + LIFE;
    let assertions = vec![said(1, 1)];
    let started_at = node.now + 1;
    node.now += 2;
    node.event(Event::HandshakeDone { pair: AB, via: Via::Inbound, started_at, not_after, assertions });
    assert!(unbound(&node.event(Event::SvidRevoked { identity: A })).is_empty());
    assert_eq!(unbound(&node.event(Event::SvidRevoked { identity: C })), [1]);
    assert_eq!(node.machine.summary().bindings, 0);
}

#[test]
fn a_deleted_pods_address_is_unbound_at_once() {
    let (mut node, _) = proved(AB, &[said(1, 1)]);
    assert_eq!(unbound(&node.event(Event::AddressGone { ip: ip(1) })), [1]);
    assert_eq!(node.frame_from(AB, Some(ip(1))), Admission::Park, "and must be asserted anew");
}

#[test]
fn a_message_with_too_many_addresses_is_cut() {
    let many: Vec<Assertion> = (0..MAX_ASSERTIONS as u32 + 50)
        .map(|i| Assertion { ip: std::net::Ipv4Addr::from(0x0a00_0000 + i).into(), generation: 1 })
        .collect();
    let (node, _) = proved(AB, &many);
    assert_eq!(node.machine.summary().bindings, MAX_ASSERTIONS);
    assert_eq!(node.machine.counters().assertions_ignored, 50);
}
