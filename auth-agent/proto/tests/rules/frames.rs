//! Frames and the machine together: races, repair, and what the issue asks of the first packets.

use countersign_auth_proto::limits::{MS, PARK_DEADLINE, PASSES_PER_GAP, REPAIR_GAP, SECOND};
use countersign_auth_proto::{Action, Admission, Event, Pair};

use crate::node::{A, AB, B, Node, starts};

#[test]
fn a_frame_that_raced_with_its_entry_passes() {
    let mut node = Node::new();
    node.prove(AB, 60 * SECOND);
    for _ in 0..20 {
        assert_eq!(node.frame(AB), Admission::Pass);
    }
    assert!(node.actions().is_empty());
}

#[test]
fn an_event_that_raced_with_its_entry_releases() {
    let mut node = Node::new();
    node.prove(AB, 60 * SECOND);
    assert_eq!(node.event(Event::Missing { pair: AB, remote_ip: None }), [Action::Release { pair: AB }]);
}

#[test]
fn a_lost_entry_is_written_again() {
    let mut node = Node::new();
    node.prove(AB, 60 * SECOND);
    node.now += SECOND;
    assert_eq!(node.frame(AB), Admission::Pass);
    assert!(node.actions().iter().any(|action| matches!(action, Action::Install { pair: AB, .. })));
    assert_eq!(node.machine.counters().repaired, 1);
}

#[test]
fn a_circle_is_slowed_down() {
    // The datapath does not find the entry, whatever is done.
    let mut node = Node::new();
    node.prove(AB, 3_600 * SECOND);
    let begin = node.now;
    let (mut passes, mut installs) = (0, 0);
    while node.now < begin + 2 * SECOND {
        for _ in 0..20 {
            passes += u64::from(node.frame(AB) == Admission::Pass);
        }
        let mut actions = node.actions();
        actions.extend(node.pass(MS).into_iter().map(|(_, action)| action));
        installs += actions.iter().filter(|action| matches!(action, Action::Install { .. })).count() as u64;
    }
    let gaps = 2 * SECOND / REPAIR_GAP + 1;
    assert!(passes <= gaps * u64::from(PASSES_PER_GAP), "{passes}");
    assert!(installs <= 2 * gaps, "{installs}");
}

#[test]
fn a_thousand_fresh_pairs_lose_nothing() {
    let mut node = Node::new();
    let pairs: Vec<Pair> = (0..1_000).map(|i| Pair::new(A, B + i, 1)).collect();
    for pair in &pairs {
        assert_eq!(node.frame(*pair), Admission::Park);
    }
    let mut begun = starts(&node.actions());
    let mut proved = 0;
    while let Some((pair, attempt)) = begun.pop() {
        node.now += MS / 2;
        proved += 1;
        begun.extend(starts(&node.done(pair, attempt, 60 * SECOND)));
    }
    assert_eq!((proved, node.released.len()), (1_000, 1_000));
    assert_eq!(node.machine.counters().started, 1_000);
}

#[test]
fn a_hundred_pairs_with_twenty_datagrams_each_keep_their_order() {
    let mut node = Node::new();
    let pairs: Vec<Pair> = (0..100).map(|i| Pair::new(A, B + i, (i % 3) as u16)).collect();
    for _ in 0..20 {
        for pair in &pairs {
            assert_eq!(node.frame(*pair), Admission::Park);
        }
    }
    let mut begun = starts(&node.actions());
    while let Some((pair, attempt)) = begun.pop() {
        begun.extend(starts(&node.done(pair, attempt, 60 * SECOND)));
    }
    assert_eq!(node.released.len(), 2_000);
    for line in node.released.chunks(20) {
        assert!(line.windows(2).all(|two| two[1] == two[0] + 100), "{line:?}");
    }
}

#[test]
fn frames_whose_handshake_does_not_end_go_at_their_deadline() {
    let mut node = Node::new();
    node.frame(AB);
    node.started();
    node.pass(PARK_DEADLINE);
    assert_eq!((node.expired, node.parking.parked(AB)), (1, 0));
}

#[test]
fn a_pair_nobody_waits_for_any_more_is_not_dialled() {
    let mut node = Node::with(countersign_auth_proto::Config { max_in_flight: 1, ..Default::default() });
    node.frame(Pair::new(A, B, 2));
    let blocking = node.started();
    node.frame(AB);
    node.pass(PARK_DEADLINE + SECOND);
    let actions = node.fail(Pair::new(A, B, 2), blocking, countersign_auth_proto::FailureKind::Untrusted);
    assert!(starts(&actions).is_empty());
    assert_eq!(node.state(AB), None);
}

#[test]
fn an_expired_entry_with_packets_begins_anew() {
    let mut node = Node::new();
    node.event(Event::SourceDown);
    node.prove(AB, SECOND);
    node.pass(2 * SECOND);
    assert_eq!(node.frame(AB), Admission::Park);
    let attempt = node.started();
    node.done(AB, attempt, SECOND);
    assert_eq!(node.released, [1, 2]);
}
