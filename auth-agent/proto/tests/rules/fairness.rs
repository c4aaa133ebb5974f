//! Limits, and who may use how much of them.

use std::collections::BTreeMap;

use countersign_auth_proto::limits::{FIRST_IN_FLIGHT_PER_NODE, LEAST_IN_FLIGHT_PER_NODE, MS, SECOND};
use countersign_auth_proto::{Admission, Config, DiscardReason, FailureKind, Overload, Pair, PairState};

use crate::node::{A, B, C, Node, starts};

#[test]
fn handshakes_under_way_are_bounded_in_all_per_identity_and_per_node() {
    let config = Config {
        max_in_flight: 20,
        max_in_flight_per_identity: 12,
        max_in_flight_per_node: 6,
        ..Config::default()
    };
    let mut node = Node::with(config);
    for i in 0..40 {
        for (local, remote_node) in [(A, 1), (A, 2), (A, 3), (B, 1), (C, 4)] {
            node.frame(Pair::new(local, 5_000 + i, remote_node));
        }
    }
    let begun = starts(&node.actions());
    assert_eq!(begun.len(), 20);
    let count = |wanted: &dyn Fn(Pair) -> bool| begun.iter().filter(|(pair, _)| wanted(*pair)).count();
    assert!(count(&|pair| pair.local == A) <= 12);
    for node in 1..5 {
        assert!(count(&|pair| pair.node == node) <= 6, "node {node}");
    }
    assert_eq!(node.machine.summary().queued, 200 - 20);
}

#[test]
fn first_come_first_served_within_an_identity() {
    let mut node = Node::with(Config { max_in_flight: 1, ..Config::default() });
    let pairs: Vec<Pair> = (0..10).map(|i| Pair::new(A, 9_000 - i, 1)).collect();
    for pair in &pairs {
        node.frame(*pair);
    }
    let mut order = Vec::new();
    let mut begun = starts(&node.actions());
    while let Some((pair, attempt)) = begun.pop() {
        order.push(pair);
        begun.extend(starts(&node.done(pair, attempt, SECOND)));
    }
    assert_eq!(order, pairs);
}

#[test]
fn nodes_take_turns_within_an_identity() {
    let mut node = Node::with(Config { max_in_flight: 1, ..Config::default() });
    for remote_node in 1..=3 {
        for i in 0..5 {
            node.frame(Pair::new(A, 5_000 + i, remote_node));
        }
    }
    let mut order = Vec::new();
    let mut begun = starts(&node.actions());
    while let Some((pair, attempt)) = begun.pop() {
        order.push(pair.node);
        begun.extend(starts(&node.done(pair, attempt, SECOND)));
    }
    // The first had begun before the others came.
    assert_eq!(order[1..13], [1, 2, 3].repeat(4));
}

#[test]
fn an_identity_at_its_limit_keeps_no_place_from_others() {
    let config = Config { max_in_flight_per_identity: 1, max_in_flight_per_node: 1, ..Config::default() };
    let mut node = Node::with(config);
    node.frame(Pair::new(C, 300, 1));
    let first = node.started();
    // Both wait for node 1, and the one that comes first is then busy elsewhere.
    node.frame(Pair::new(A, 300, 1));
    node.frame(Pair::new(B, 300, 1));
    node.frame(Pair::new(A, 300, 2));
    node.started();
    let actions = node.done(Pair::new(C, 300, 1), first, SECOND);
    assert_eq!(starts(&actions).first().map(|(pair, _)| *pair), Some(Pair::new(B, 300, 1)));
}

#[test]
fn a_storm_of_one_identity_does_not_hold_up_another() {
    let mut node = Node::with(Config { max_in_flight: 16, ..Config::default() });
    for i in 0..10_000 {
        node.frame(Pair::new(A, 100_000 + i, 1));
    }
    let mut begun = std::collections::VecDeque::from(starts(&node.actions()));
    let victim = Pair::new(B, C, 1);
    node.frame(victim);
    let mut handshakes = 0;
    loop {
        let (pair, attempt) = begun.pop_front().expect("progress");
        if pair == victim {
            break;
        }
        handshakes += 1;
        node.now += MS / 2;
        begun.extend(starts(&node.done(pair, attempt, 60 * SECOND)));
    }
    assert!(handshakes <= 20, "{handshakes} of 10,000 came first");
}

#[test]
fn silent_nodes_do_not_hold_up_others() {
    let mut node = Node::new();
    for silent in 1..=30 {
        for i in 0..100 {
            node.frame(Pair::new(A + u32::from(silent), 5_000 + i, silent));
        }
    }
    let stuck = starts(&node.actions());
    assert_eq!(stuck.len(), 30 * FIRST_IN_FLIGHT_PER_NODE);
    node.frame(Pair::new(B, C, 100));
    node.started();
    // Once they have timed out, they get less.
    for (pair, attempt) in stuck {
        node.fail(pair, attempt, FailureKind::Timeout);
    }
    let per_node = |node: &Node| {
        let mut under_way: BTreeMap<u16, usize> = BTreeMap::new();
        for status in node.machine.pairs(&node.parking).filter(|status| status.state == PairState::Proving) {
            *under_way.entry(status.pair.node).or_default() += 1;
        }
        under_way
    };
    assert!(
        per_node(&node).iter().all(|(_, count)| *count <= LEAST_IN_FLIGHT_PER_NODE),
        "{:?}",
        per_node(&node)
    );
}

#[test]
fn a_node_that_answers_gets_more() {
    let mut node = Node::new();
    for i in 0..1_000 {
        node.frame(Pair::new(A, 5_000 + i, 1));
    }
    let mut begun = starts(&node.actions());
    assert_eq!(begun.len(), FIRST_IN_FLIGHT_PER_NODE);
    for _ in 0..100 {
        let (pair, attempt) = begun.remove(0);
        begun.extend(starts(&node.done(pair, attempt, 60 * SECOND)));
    }
    assert_eq!(begun.len(), Config::default().max_in_flight_per_node);
}

#[test]
fn one_identity_cannot_fill_the_table() {
    let config = Config { max_pairs: 100, max_unproven_per_identity: 30, ..Config::default() };
    let mut node = Node::with(config);
    let mut refused = 0;
    for i in 0..100_000 {
        match node.frame(Pair::new(A, 300 + i, 1)) {
            Admission::Drop(why) => {
                assert_eq!(why, DiscardReason::Overload(Overload::Identity));
                refused += 1;
            }
            _ => assert!(node.machine.summary().pairs <= 30),
        }
    }
    assert_eq!(refused, 100_000 - 30);
    assert_eq!(node.machine.counters().overload_identity, refused);
    assert_eq!(node.frame(Pair::new(B, C, 2)), Admission::Park);
}

#[test]
fn failed_pairs_make_room_live_ones_do_not() {
    let config = Config { max_pairs: 8, max_unproven_per_identity: 8, ..Config::default() };
    let mut node = Node::with(config);
    let live: Vec<Pair> = (0..4).map(|i| Pair::new(A, 300 + i, 1)).collect();
    for pair in &live {
        node.prove(*pair, 600 * SECOND);
    }
    let failed: Vec<Pair> = (0..4).map(|i| Pair::new(B, 300 + i, 1)).collect();
    for pair in &failed {
        node.now += MS;
        node.frame(*pair);
        let attempt = node.started();
        node.fail(*pair, attempt, FailureKind::Untrusted);
    }
    // The table is full; a new pair takes the place of the oldest failure.
    assert_eq!(node.frame(Pair::new(C, 300, 1)), Admission::Park);
    assert_eq!(node.state(failed[0]), None);
    assert!(node.state(failed[1]).is_some());
    for i in 1..4 {
        assert_eq!(node.frame(Pair::new(C, 300 + i, 1)), Admission::Park);
    }
    let full = Admission::Drop(DiscardReason::Overload(Overload::Table));
    assert_eq!(node.frame(Pair::new(C, 400, 1)), full);
    node.inbound(Pair::new(C, 401, 1), node.now, SECOND);
    assert!(live.iter().all(|pair| node.is_live(*pair)));
    assert_eq!(node.machine.summary().pairs, 8);
    assert_eq!(node.machine.counters().evicted, 4);
    assert_eq!(node.machine.counters().overload_table, 2);
}

#[test]
fn an_overloaded_identity_first_loses_its_own_failures() {
    let config = Config { max_unproven_per_identity: 3, ..Config::default() };
    let mut node = Node::with(config);
    for i in 0..50 {
        node.now += MS;
        let pair = Pair::new(A, 300 + i, 1);
        assert_eq!(node.frame(pair), Admission::Park);
        let attempt = node.started();
        node.fail(pair, attempt, FailureKind::Untrusted);
    }
    assert_eq!(node.machine.summary().pairs, 3);
    assert!(node.state(Pair::new(A, 349, 1)).is_some());
}

#[test]
fn live_entries_of_one_identity_are_bounded() {
    let config = Config { max_live_per_identity: 2, ..Config::default() };
    let mut node = Node::with(config);
    node.prove(Pair::new(A, 300, 1), 60 * SECOND);
    node.prove(Pair::new(A, 301, 1), 60 * SECOND);
    node.inbound(Pair::new(A, 302, 1), node.now, 60 * SECOND);
    assert!(!node.is_live(Pair::new(A, 302, 1)));
    assert_eq!(node.state(Pair::new(A, 302, 1)), None);
    node.frame(Pair::new(A, 303, 1));
    let attempt = node.started();
    node.done(Pair::new(A, 303, 1), attempt, 60 * SECOND);
    assert!(!node.is_live(Pair::new(A, 303, 1)));
    node.prove(Pair::new(B, 300, 1), 60 * SECOND);
    // Renewing what is there is no new entry.
    node.inbound(Pair::new(A, 300, 1), node.now, 90 * SECOND);
    assert_eq!(node.machine.summary().live, 3);
}

#[test]
fn a_full_queue_says_so_and_a_later_try_works() {
    let config = Config { max_queued: 2, max_in_flight: 1, ..Config::default() };
    let mut node = Node::with(config);
    let pairs: Vec<Pair> = (0..4).map(|i| Pair::new(A, 300 + i, 1)).collect();
    for pair in &pairs[..3] {
        assert_eq!(node.frame(*pair), Admission::Park);
        let _ = node.actions();
    }
    let full = Admission::Drop(DiscardReason::Overload(Overload::Queue));
    assert_eq!(node.frame(pairs[3]), full);
    assert_eq!(node.machine.counters().overload_queue, 1);
    assert_eq!(node.state(pairs[3]), None, "nothing is remembered of it");
    node.pass(20 * SECOND);
    assert_eq!(node.frame(pairs[3]), Admission::Park);
}

#[test]
fn a_renewal_that_finds_the_queue_full_comes_back() {
    let config = Config { max_queued: 1, max_in_flight: 1, ..Config::default() };
    let mut node = Node::with(config);
    let live = Pair::new(A, B, 1);
    node.prove(live, 30 * SECOND);
    node.pass(19 * SECOND);
    node.frame(Pair::new(C, 300, 1));
    let blocking = node.started();
    node.frame(Pair::new(C, 301, 1));
    node.pass(9 * SECOND);
    assert_eq!(node.state(live), Some(PairState::Live));
    assert!(node.machine.counters().overload_queue > 0);
    let actions = node.fail(Pair::new(C, 300, 1), blocking, FailureKind::Untrusted);
    let mut begun = starts(&actions);
    begun.extend(
        node.pass(SECOND).iter().filter_map(|(_, action)| starts(std::slice::from_ref(action)).pop()),
    );
    assert!(begun.iter().any(|(pair, _)| *pair == live), "{begun:?}");
}

#[test]
fn ten_thousand_cold_pairs_are_taken_in() {
    let mut node = Node::new();
    for local in 0..100 {
        for remote in 0..100 {
            assert_eq!(node.frame(Pair::new(1_000 + local, 5_000 + remote, 1)), Admission::Park);
        }
    }
    let mut begun = starts(&node.actions());
    while let Some((pair, attempt)) = begun.pop() {
        begun.extend(starts(&node.done(pair, attempt, 60 * SECOND)));
    }
    assert_eq!(node.machine.summary().live, 10_000);
    assert_eq!(node.machine.counters().started, 10_000);
    assert_eq!(node.released.len(), 10_000);
}
