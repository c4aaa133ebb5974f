//! What ends proofs before their time.

use countersign_auth_proto::limits::{MAX_TOMBS, MS, SECOND};
use countersign_auth_proto::{Action, Admission, DiscardReason, Event, Pair, PairState, RemoveReason};

use crate::node::{A, AB, B, C, Node};

fn removed(actions: &[Action]) -> Vec<(Pair, RemoveReason)> {
    actions
        .iter()
        .filter_map(|action| match action {
            Action::Remove { pair, why } => Some((*pair, *why)),
            _ => None,
        })
        .collect()
}

const PAIRS: [Pair; 6] = [
    Pair::new(A, B, 0),
    Pair::new(A, B, 1),
    Pair::new(A, C, 2),
    Pair::new(B, A, 1),
    Pair::new(B, A, 2),
    Pair::new(C, B, 1),
];

fn proved() -> Node {
    let mut node = Node::new();
    for pair in PAIRS {
        node.prove(pair, 600 * SECOND);
    }
    node.now += SECOND;
    node
}

#[test]
fn each_end_takes_what_it_concerns_and_nothing_else() {
    type Concerns = fn(Pair) -> bool;
    let table: [(Event, RemoveReason, Concerns); 4] = [
        (Event::SvidRevoked { identity: A }, RemoveReason::Revoked, |pair| {
            pair.local == A || pair.remote == A
        }),
        (Event::IdentityGone { identity: B }, RemoveReason::IdentityGone, |pair| {
            pair.local == B || pair.remote == B
        }),
        (Event::EndpointsGone { identity: A }, RemoveReason::IdentityGone, |pair| {
            pair.local == A || (pair.node == 0 && pair.remote == A)
        }),
        (Event::NodeGone { node: 1 }, RemoveReason::NodeGone, |pair| pair.node == 1),
    ];
    for (event, why, concerns) in table {
        let mut node = proved();
        let before = node.machine.summary().epoch;
        let gone = removed(&node.event(event.clone()));
        for pair in PAIRS {
            assert_eq!(gone.contains(&(pair, why)), concerns(pair), "{event:?} {pair:?}");
            assert_eq!(node.is_live(pair), !concerns(pair), "{event:?} {pair:?}");
        }
        assert_eq!(node.machine.summary().epoch, before + 1);
    }
}

#[test]
fn on_the_same_node_both_entries_go() {
    let mut node = Node::new();
    let pair = Pair::new(A, B, 0);
    node.prove(pair, 600 * SECOND);
    let gone = removed(&node.event(Event::SvidRevoked { identity: B }));
    let why = RemoveReason::Revoked;
    assert_eq!(gone, [(pair, why), (Pair::new(B, A, 0), why)]);
}

#[test]
fn waiting_frames_are_discarded_and_the_handshake_is_void() {
    for (event, why) in [
        (Event::SvidRevoked { identity: B }, DiscardReason::Revoked),
        (Event::IdentityGone { identity: A }, DiscardReason::IdentityGone),
        (Event::NodeGone { node: 1 }, DiscardReason::NodeGone),
    ] {
        let mut node = Node::new();
        node.frame(AB);
        let attempt = node.started();
        let actions = node.event(event);
        assert!(actions.contains(&Action::Cancel { pair: AB, attempt }));
        assert!(actions.contains(&Action::Discard { pair: AB, why }));
        assert_eq!(node.discarded, 1);
        assert!(node.done(AB, attempt, SECOND).is_empty());
        assert!(!node.is_live(AB));
        assert_eq!(node.machine.summary().in_flight, 0);
    }
}

#[test]
fn an_inbound_handshake_that_began_before_the_revocation_is_void() {
    let mut node = Node::new();
    let before = node.now;
    node.now += MS;
    node.event(Event::SvidRevoked { identity: A });
    node.now += MS;
    assert!(node.inbound(AB, before, SECOND).is_empty());
    assert_eq!(node.machine.counters().voided, 1);
    // One that began after it is genuine.
    node.inbound(AB, node.now, SECOND);
    assert!(node.is_live(AB));
}

#[test]
fn many_revocations_stay_bounded_and_strict() {
    let mut node = Node::new();
    let begin = node.now;
    for i in 0..3 * MAX_TOMBS {
        node.now += 1;
        node.event(Event::IdentityGone { identity: 10_000 + i as u32 });
    }
    node.inbound(Pair::new(10_000, B, 1), begin, SECOND);
    node.inbound(Pair::new(10_000 + 3 * MAX_TOMBS as u32 - 1, B, 1), begin, SECOND);
    assert_eq!(node.machine.summary().live, 0);
    node.now += 1;
    node.inbound(AB, node.now, SECOND);
    assert!(node.is_live(AB));
}

#[test]
fn after_a_revocation_the_next_packet_begins_anew() {
    let mut node = proved();
    node.event(Event::SvidRevoked { identity: A });
    assert_eq!(node.frame(AB), Admission::Park);
    assert_eq!(node.state(AB), Some(PairState::Proving));
}

#[test]
fn new_entries_carry_the_new_epoch() {
    let mut node = proved();
    node.event(Event::SvidRevoked { identity: C });
    node.event(Event::NodeGone { node: 2 });
    let pair = Pair::new(A, C, 2);
    node.frame(pair);
    let attempt = node.started();
    let actions = node.done(pair, attempt, SECOND);
    assert!(actions.iter().any(|action| matches!(action, Action::Install { epoch: 2, .. })), "{actions:?}");
}

#[test]
fn a_flush_removes_everything_and_begins_anew_for_those_who_wait() {
    let mut node = proved();
    let waiting = Pair::new(C, A, 7);
    node.frame(waiting);
    let old = node.started();
    let actions = node.event(Event::Flush);
    // The same-node pair has two entries.
    assert_eq!(removed(&actions).len(), PAIRS.len() + 1);
    assert!(actions.contains(&Action::Cancel { pair: waiting, attempt: old }));
    let begun = crate::node::starts(&actions);
    assert_eq!(begun.len(), 1);
    node.done(waiting, begun[0].1, SECOND);
    assert_eq!(node.discarded, 0);
    assert_eq!(node.released.len(), PAIRS.len() + 1);
    assert_eq!(node.machine.summary().live, 1);
}
