//! One handshake per pair, both entries, both dialling.

use countersign_auth_proto::limits::{HANDSHAKE_DEADLINE, MAX_AGE, MS, SECOND};
use countersign_auth_proto::{Action, Admission, Change, Event, FailureKind, Pair, PairState, RemoveReason};

use crate::node::{A, AB, B, Node, starts};

#[test]
fn a_thousand_packets_make_one_handshake() {
    let mut node = Node::new();
    for _ in 0..200 {
        assert_eq!(node.frame(AB), Admission::Park);
    }
    let attempt = node.started();
    assert_eq!(node.state(AB), Some(PairState::Proving));
    node.now += 3 * MS;
    node.done(AB, attempt, 60 * SECOND);
    assert_eq!(node.released, (1..=200).collect::<Vec<_>>());
    assert_eq!(node.machine.counters().started, 1);
    assert_eq!(node.status(AB).map(|status| status.parked), Some(0));
}

#[test]
fn the_entry_comes_before_the_frames() {
    let mut node = Node::new();
    node.frame(AB);
    let attempt = node.started();
    let actions = node.done(AB, attempt, 60 * SECOND);
    let install = actions.iter().position(|action| matches!(action, Action::Install { .. }));
    let release = actions.iter().position(|action| matches!(action, Action::Release { .. }));
    assert!(install.is_some() && install < release, "{actions:?}");
}

#[test]
fn on_the_same_node_one_handshake_makes_both_entries() {
    let mut node = Node::new();
    let (there, back) = (Pair::new(B, A, 0), Pair::new(A, B, 0));
    node.frame(there);
    node.frame(back);
    let attempt = node.started();
    let actions = node.done(back, attempt, 60 * SECOND);
    let installed: Vec<Pair> = actions
        .iter()
        .filter_map(|action| match action {
            Action::Install { pair, .. } => Some(*pair),
            _ => None,
        })
        .collect();
    assert_eq!(installed, [back, there]);
    assert_eq!(node.released, [1, 2]);
    assert!(node.is_live(there) && node.is_live(back));
}

#[test]
fn a_pair_of_one_identity_on_one_node_is_proved_too() {
    let mut node = Node::new();
    let pair = Pair::new(A, A, 0);
    node.frame(pair);
    let attempt = node.started();
    let actions = node.done(pair, attempt, SECOND);
    assert_eq!(actions.iter().filter(|action| matches!(action, Action::Install { .. })).count(), 1);
}

#[test]
fn the_earliest_end_counts() {
    for (life, expected) in [(60 * SECOND, 60 * SECOND), (2 * MAX_AGE, MAX_AGE), (u64::MAX / 2, MAX_AGE)] {
        let mut node = Node::new();
        node.prove(AB, life);
        assert_eq!(node.status(AB).and_then(|status| status.expires_at), Some(node.now + expected));
    }
}

#[test]
fn a_proof_that_is_over_already_is_a_failure() {
    let mut node = Node::new();
    node.frame(AB);
    let attempt = node.started();
    let actions = node.done(AB, attempt, 0);
    assert!(!actions.iter().any(|action| matches!(action, Action::Install { .. })));
    assert_eq!(node.status(AB).and_then(|status| status.last_error), Some(FailureKind::Expired));
    assert_eq!((node.released.len(), node.discarded), (0, 1));
}

#[test]
fn an_entry_ends_with_its_certificate() {
    let mut node = Node::new();
    node.prove(AB, 30 * SECOND);
    let end = node.now + 30 * SECOND;
    let log = node.pass(40 * SECOND);
    let removed = log.iter().find(|(_, action)| matches!(action, Action::Remove { .. }));
    let why = RemoveReason::Expired;
    assert_eq!(removed, Some(&(end, Action::Remove { pair: AB, why })));
    assert!(!node.is_live(AB));
}

#[test]
fn the_peer_dials_first() {
    let mut node = Node::new();
    node.frame(AB);
    let attempt = node.started();
    node.now += MS;
    let actions = node.inbound(AB, node.now - MS, 60 * SECOND);
    assert_eq!(node.released, [1], "no need to wait for our own");
    assert!(actions.iter().any(|action| matches!(action, Action::Install { generation: 1, .. })));
    // Ours ends as well: another install of the same entry, nothing else.
    let actions = node.done(AB, attempt, 60 * SECOND);
    assert!(actions.iter().any(|action| matches!(action, Action::Install { generation: 2, .. })));
    assert!(starts(&actions).is_empty());
    assert!(!actions.iter().any(|action| matches!(action, Action::Remove { .. } | Action::Discard { .. })));
}

#[test]
fn our_own_failure_after_the_peers_success_drops_nothing() {
    let mut node = Node::new();
    node.frame(AB);
    let attempt = node.started();
    node.inbound(AB, node.now, 60 * SECOND);
    node.now += MS;
    let actions = node.fail(AB, attempt, FailureKind::Refused);
    assert!(!actions.iter().any(|action| matches!(action, Action::Remove { .. })));
    assert!(node.is_live(AB));
    assert!(
        starts(&node.pass(10 * SECOND).into_iter().map(|(_, action)| action).collect::<Vec<_>>()).is_empty()
    );
}

#[test]
fn an_inbound_handshake_takes_a_queued_pair_out_of_the_queue() {
    let mut node = Node::with(countersign_auth_proto::Config { max_in_flight: 1, ..Default::default() });
    let other = Pair::new(A, B, 2);
    node.frame(other);
    let first = node.started();
    node.frame(AB);
    assert_eq!(node.state(AB), Some(PairState::Queued));
    node.inbound(AB, node.now, 60 * SECOND);
    let actions = node.done(other, first, 60 * SECOND);
    assert!(starts(&actions).is_empty(), "the pair is proved");
    assert_eq!(node.machine.summary().queued, 0);
}

#[test]
fn a_handshake_without_a_result_is_given_up() {
    let mut node = Node::new();
    node.frame(AB);
    let attempt = node.started();
    let log = node.pass(HANDSHAKE_DEADLINE + SECOND);
    assert!(log.iter().any(|(_, action)| *action == Action::Cancel { pair: AB, attempt }));
    assert_eq!(node.status(AB).and_then(|status| status.last_error), Some(FailureKind::Timeout));
    // Its result, should it come after all, is not taken.
    assert!(node.done(AB, attempt, 60 * SECOND).is_empty());
    assert!(!node.is_live(AB));
    assert_eq!(node.machine.counters().stale_results, 1);
    // And the next try works.
    node.now += 30 * SECOND;
    node.prove(AB, 60 * SECOND);
    assert!(node.is_live(AB));
}

#[test]
fn results_for_others_change_nothing() {
    let mut node = Node::new();
    node.frame(AB);
    let attempt = node.started();
    assert!(node.done(AB, attempt + 7, SECOND).is_empty());
    assert!(node.fail(AB, attempt + 7, FailureKind::Refused).is_empty());
    assert!(node.fail(Pair::new(A, B, 9), attempt, FailureKind::Refused).is_empty());
    assert_eq!(node.state(AB), Some(PairState::Proving));
}

#[test]
fn reserved_and_cidr_identities_cannot_authenticate() {
    for identity in [0, 1, 2, 7, 255, 1 << 24, 0x0100_0001] {
        for pair in [Pair::new(A, identity, 1), Pair::new(identity, B, 1)] {
            let mut node = Node::new();
            assert!(matches!(node.frame(pair), Admission::Drop(_)));
            node.inbound(pair, node.now, SECOND);
            assert_eq!(node.machine.summary().pairs, 0, "{pair:?}");
        }
    }
}

#[test]
fn what_happened_is_told() {
    let mut node = Node::new();
    node.frame(AB);
    let attempt = node.started();
    node.now += 2 * MS;
    let actions = node.event(Event::HandshakeDone {
        pair: AB,
        via: countersign_auth_proto::Via::Dialled { attempt },
        started_at: node.now - 2 * MS,
        not_after: node.now + SECOND,
        assertions: vec![],
    });
    let told = actions.iter().find_map(|action| match action {
        Action::Emit(notice) => Some(notice.change),
        _ => None,
    });
    let expires_at = node.now + SECOND;
    let expected = Change::Proved { took: 2 * MS, expires_at, inbound: false, renewal: false };
    assert_eq!(told, Some(expected));
    assert_eq!(node.status(AB).and_then(|status| status.last_handshake), Some(2 * MS));
}

#[test]
fn time_does_not_go_back() {
    let mut node = Node::new();
    node.prove(AB, 2 * SECOND);
    node.pass(3 * SECOND);
    node.now = MS;
    assert_eq!(node.frame(AB), Admission::Park, "an expired entry stays expired");
}
