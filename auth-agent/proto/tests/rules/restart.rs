//! The agent comes back and finds the maps as they were.

use countersign_auth_proto::limits::{MAX_AGE, SECOND};
use countersign_auth_proto::{Action, Admission, Config, Event, Pair, PairState, RemoveReason};

use crate::node::{A, AB, B, C, Node, ip, timed_starts};

fn restored(pair: Pair, expires_at: u64) -> Event {
    Event::Restored { pair, expires_at, epoch: 3, generation: 9 }
}

#[test]
fn a_restored_entry_lives_on_and_is_renewed() {
    let mut node = Node::new();
    let end = node.now + 30 * SECOND;
    assert!(node.event(restored(AB, end)).is_empty(), "the map has it already");
    assert_eq!(node.state(AB), Some(PairState::Live));
    let log = node.pass(29 * SECOND);
    let renewals = timed_starts(&log);
    assert_eq!(renewals.len(), 1);
    assert!(renewals[0].0 >= end - 10 * SECOND);
    let actions = node.done(AB, renewals[0].1, 30 * SECOND);
    assert!(actions.iter().any(|action| matches!(action, Action::Install { epoch: 3, generation: 10, .. })));
}

#[test]
fn an_entry_that_ended_meanwhile_is_removed() {
    let mut node = Node::new();
    node.now = 10 * SECOND;
    let why = RemoveReason::Expired;
    for end in [0, 9 * SECOND, 10 * SECOND] {
        assert_eq!(node.event(restored(AB, end)), [Action::Remove { pair: AB, why }]);
    }
    assert_eq!(node.machine.summary().pairs, 0);
}

#[test]
fn an_entry_beyond_the_configured_age_is_cut() {
    let mut node = Node::new();
    let end = node.now + MAX_AGE;
    let actions = node.event(restored(AB, end + SECOND));
    assert_eq!(actions, [Action::Install { pair: AB, expires_at: end, epoch: 3, generation: 9 }]);
}

#[test]
fn both_entries_of_the_same_node_are_one_proof_with_the_earlier_end() {
    let mut node = Node::new();
    let (one, two) = (Pair::new(A, B, 0), Pair::new(B, A, 0));
    let end = node.now + 30 * SECOND;
    node.event(restored(two, end + SECOND));
    node.event(restored(one, end));
    assert_eq!(node.machine.summary().pairs, 1);
    assert_eq!(node.status(one).and_then(|status| status.expires_at), Some(end));
    // The agent was killed between the two writes: the second is missed and written again.
    node.now += SECOND;
    assert_eq!(node.frame(two), Admission::Pass);
    assert_eq!(node.actions().iter().filter(|action| matches!(action, Action::Install { .. })).count(), 2);
}

#[test]
fn what_does_not_fit_is_removed_and_not_forgotten_in_the_map() {
    let mut node = Node::with(Config { max_pairs: 2, ..Config::default() });
    let end = node.now + 30 * SECOND;
    for remote in [300, 301] {
        assert!(node.event(restored(Pair::new(A, remote, 1), end)).is_empty());
    }
    let pair = Pair::new(A, 302, 1);
    let why = RemoveReason::Overload;
    assert_eq!(node.event(restored(pair, end)), [Action::Remove { pair, why }]);
}

#[test]
fn bindings_come_back_with_their_pairs() {
    let mut node = Node::new();
    let end = node.now + 30 * SECOND;
    node.event(restored(AB, end));
    let binding = |identity, node| Event::RestoredBinding { ip: ip(1), identity, node, generation: 4 };
    assert!(node.event(binding(B, 1)).is_empty());
    assert_eq!(node.frame_from(AB, Some(ip(1))), Admission::Pass);
    let orphan = Event::RestoredBinding { ip: ip(2), identity: C, node: 1, generation: 4 };
    assert_eq!(node.event(orphan), [Action::Unbind { ip: ip(2) }]);
    // With the pair's end the address goes too.
    node.event(Event::SourceDown);
    let log = node.pass(31 * SECOND);
    assert!(log.iter().any(|(_, action)| *action == Action::Unbind { ip: ip(1) }));
}

#[test]
fn a_fresh_pair_works_at_once_after_the_restart() {
    let mut node = Node::new();
    let end = node.now + 30 * SECOND;
    for i in 0..1_000 {
        node.event(restored(Pair::new(A, 300 + i, 1), end));
    }
    node.prove(Pair::new(B, C, 2), SECOND);
}

#[test]
fn frames_that_came_before_the_entry_was_read_go_on() {
    let mut node = Node::new();
    node.frame(AB);
    let attempt = node.started();
    node.event(restored(AB, node.now + 30 * SECOND));
    assert_eq!(node.released, [1]);
    node.done(AB, attempt, 60 * SECOND);
    assert!(node.is_live(AB));
}
