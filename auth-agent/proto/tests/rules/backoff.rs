//! Failures are remembered.

use countersign_auth_proto::limits::{
    BACKOFF_MAX, BACKOFF_MIN, FORGET_AFTER, MS, PARK_DEADLINE, PROBE_GAP, QUIET, SECOND, STEADY_ATTEMPTS,
};
use countersign_auth_proto::{
    Action, Admission, Config, DiscardReason, Event, FailureKind, Overload, Pair, PairState,
};

use crate::node::{A, AB, B, Node, starts, timed_starts};

const LASTING: [FailureKind; 4] =
    [FailureKind::Untrusted, FailureKind::WrongIdentity, FailureKind::Expired, FailureKind::Malformed];

/// Sends a packet every millisecond and fails every handshake at once; returns when handshakes started.
fn flood(node: &mut Node, why: FailureKind, span: u64) -> Vec<u64> {
    let end = node.now + span;
    let mut dials = Vec::new();
    while node.now < end {
        node.frame(AB);
        let mut begun: Vec<(u64, u64)> = Vec::new();
        begun.extend(starts(&node.actions()).into_iter().map(|(_, attempt)| (node.now, attempt)));
        begun.extend(timed_starts(&node.pass(MS)));
        for (at, attempt) in begun {
            dials.push(at);
            node.fail(AB, attempt, why);
        }
    }
    dials
}

#[test]
fn a_flood_dials_once_per_back_off_step() {
    for why in LASTING.into_iter().chain([FailureKind::NoSvid]) {
        let mut node = Node::new();
        let dials = flood(&mut node, why, 60 * SECOND);
        // 0, then 0.1, 0.2, ... 25.6 s apart.
        assert!((9..=11).contains(&dials.len()), "{why:?}: {} handshakes in a minute", dials.len());
        let gaps: Vec<u64> = dials.windows(2).map(|pair| pair[1] - pair[0]).collect();
        for (step, gap) in gaps.iter().enumerate() {
            let least = (BACKOFF_MIN << step).min(BACKOFF_MAX / 5 * 4);
            assert!(*gap >= least && *gap <= least / 4 * 5 + 2 * MS, "{why:?}: step {step} took {gap}");
        }
        assert!(gaps.windows(2).all(|pair| pair[0] < pair[1]), "monotone: {gaps:?}");
    }
}

/// A peer whose pod has just been placed is asked five times a second until packets would wait no longer, and then as
/// seldom as anybody.
#[test]
fn who_has_the_pod_and_not_its_svid_is_asked_steadily() {
    let mut node = Node::new();
    let dials = flood(&mut node, FailureKind::NotLocal, 60 * SECOND);
    let steady = usize::try_from(STEADY_ATTEMPTS).expect("small");
    assert!((steady + 6..=steady + 8).contains(&dials.len()), "{} handshakes in a minute", dials.len());
    let gaps: Vec<u64> = dials.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (at, gap) in gaps.iter().enumerate() {
        let least = BACKOFF_MIN << if at < steady { at.min(1) } else { at + 2 - steady };
        let least = least.min(BACKOFF_MAX / 5 * 4);
        assert!(*gap >= least && *gap <= least / 4 * 5 + 2 * MS, "gap {at} took {gap}");
    }
    assert!(dials[steady - 1] - dials[0] < PARK_DEADLINE, "while packets wait");
}

#[test]
fn the_longest_back_off_is_kept() {
    let mut node = Node::new();
    let dials = flood(&mut node, FailureKind::Untrusted, 300 * SECOND);
    let last = dials.len() - 1;
    for pair in dials[last - 4..].windows(2) {
        let gap = pair[1] - pair[0];
        assert!((24 * SECOND..=30 * SECOND + 2 * MS).contains(&gap), "{gap}");
    }
}

#[test]
fn packets_of_a_failed_pair_are_discarded_at_once() {
    for why in LASTING {
        let mut node = Node::new();
        node.frame(AB);
        node.frame(AB);
        let attempt = node.started();
        node.fail(AB, attempt, why);
        assert_eq!(node.discarded, 2);
        assert_eq!(node.frame(AB), Admission::Drop(DiscardReason::BackOff(why)));
        assert_eq!(node.state(AB), Some(PairState::Failed));
        assert_eq!(node.machine.counters().refused_backoff, 1);
        assert_eq!(node.machine.counters().failures(why), 1);
    }
}

#[test]
fn the_failure_is_told_before_its_frames_go() {
    let mut node = Node::new();
    node.frame(AB);
    let attempt = node.started();
    let actions = node.fail(AB, attempt, FailureKind::Untrusted);
    assert!(matches!(actions[..], [Action::Emit(_), Action::Discard { .. }]), "{actions:?}");
}

#[test]
fn the_datapath_may_be_quiet_in_back_off_but_not_for_long() {
    let mut node = Node::new();
    assert_eq!(node.machine.quiet_until(AB, node.now), None);
    flood(&mut node, FailureKind::Untrusted, 8 * SECOND);
    let retry = node.status(AB).and_then(|status| status.retry_at).expect("in back-off");
    assert_eq!(node.machine.quiet_until(AB, node.now), Some(node.now + QUIET));
    assert_eq!(node.machine.quiet_until(AB, retry - MS), Some(retry));
    assert_eq!(node.machine.quiet_until(AB, retry), None);
    // Not while packets wait for a retry, nor when an entry is live.
    let mut node = Node::new();
    node.frame(AB);
    let attempt = node.started();
    node.fail(AB, attempt, FailureKind::NotLocal);
    assert_eq!(node.machine.quiet_until(AB, node.now), None);
    node.inbound(AB, node.now, SECOND);
    assert_eq!(node.machine.quiet_until(AB, node.now), None);
}

#[test]
fn quiet_leaves_room_for_probes() {
    let mut node = Node::new();
    flood(&mut node, FailureKind::Timeout, 30 * SECOND);
    let quiet = node.machine.quiet_until(AB, node.now).unwrap_or(node.now);
    assert!(quiet - node.now <= QUIET.min(PROBE_GAP));
}

#[test]
fn a_missing_event_in_back_off_discards_too() {
    let mut node = Node::new();
    node.frame(AB);
    let attempt = node.started();
    node.fail(AB, attempt, FailureKind::Untrusted);
    let actions = node.event(Event::Missing { pair: AB, remote_ip: None });
    let why = DiscardReason::BackOff(FailureKind::Untrusted);
    assert_eq!(actions, [Action::Discard { pair: AB, why }]);
}

#[test]
fn a_failed_pair_without_packets_does_not_dial() {
    let mut node = Node::new();
    node.frame(AB);
    let attempt = node.started();
    node.fail(AB, attempt, FailureKind::Untrusted);
    assert!(timed_starts(&node.pass(200 * SECOND)).is_empty());
    assert_eq!(node.state(AB), None, "and is forgotten after {FORGET_AFTER} ns");
}

#[test]
fn packets_wait_while_the_cause_may_pass() {
    for why in [FailureKind::NotLocal, FailureKind::NoSvid, FailureKind::Refused, FailureKind::Overload] {
        let mut node = Node::new();
        node.frame(AB);
        let attempt = node.started();
        node.fail(AB, attempt, why);
        assert_eq!(node.discarded, 0, "{why:?}");
        assert_eq!(node.frame(AB), Admission::Park, "later ones wait with it");
        let retries = timed_starts(&node.pass(150 * MS));
        assert_eq!(retries.len(), 1, "a retry by itself");
        node.done(AB, retries[0].1, 60 * SECOND);
        assert_eq!(node.released, [1, 2]);
    }
}

#[test]
fn patience_ends_before_the_deadline() {
    let mut node = Node::new();
    let begin = node.now;
    node.frame(AB);
    let mut attempt = Some(node.started());
    while let Some(failed) = attempt {
        node.fail(AB, failed, FailureKind::NotLocal);
        attempt = timed_starts(&node.pass(2 * SECOND + 500 * MS)).first().map(|(_, attempt)| *attempt);
        if node.discarded > 0 {
            break;
        }
        assert!(node.now - begin < 60 * SECOND);
    }
    assert_eq!((node.discarded + node.expired, node.released.len()), (1, 0));
    assert!(node.machine.counters().started <= u64::from(STEADY_ATTEMPTS) + 1);
}

#[test]
fn the_sum_of_patient_steps_fits_into_the_parking_deadline() {
    let longest: u64 = (0..5).map(|step| (BACKOFF_MIN << step) / 4 * 5).sum();
    assert!(longest < PARK_DEADLINE, "{longest}");
    let steady = u64::from(STEADY_ATTEMPTS - 1) * (2 * BACKOFF_MIN / 4 * 5) + BACKOFF_MIN / 4 * 5;
    assert!(steady < PARK_DEADLINE, "{steady}");
}

#[test]
fn a_success_clears_the_memory() {
    let mut node = Node::new();
    flood(&mut node, FailureKind::Untrusted, 3 * SECOND);
    assert!(node.status(AB).is_some_and(|status| status.attempts >= 4));
    node.inbound(AB, node.now, 2 * SECOND);
    let status = node.status(AB).expect("known");
    assert_eq!((status.attempts, status.last_error, status.state), (0, None, PairState::Live));
    // After its end, the next failure begins at the first step again.
    node.event(Event::SourceDown);
    node.pass(3 * SECOND);
    assert_eq!(node.frame(AB), Admission::Park);
    let attempt = node.started();
    node.fail(AB, attempt, FailureKind::Untrusted);
    let retry = node.status(AB).and_then(|status| status.retry_at).expect("in back-off");
    assert!(retry - node.now <= BACKOFF_MIN / 4 * 5);
}

#[test]
fn a_new_svid_ends_the_back_off_of_those_who_wanted_it() {
    let mut node = Node::new();
    flood(&mut node, FailureKind::NoSvid, 20 * SECOND);
    assert!(matches!(node.frame(AB), Admission::Drop(_)));
    node.event(Event::SvidRotated { identity: A });
    node.prove(AB, 60 * SECOND);
}

#[test]
fn packets_that_wait_for_an_svid_go_on_as_soon_as_it_is_there() {
    let mut node = Node::new();
    node.frame(AB);
    let attempt = node.started();
    node.fail(AB, attempt, FailureKind::NoSvid);
    let actions = node.event(Event::SvidRotated { identity: A });
    assert_eq!(starts(&actions).len(), 1, "not only after the back-off");
}

#[test]
fn packets_whose_retry_finds_the_queue_full_are_told_so() {
    let config = Config { max_queued: 1, max_in_flight: 1, ..Config::default() };
    let mut node = Node::with(config);
    node.frame(AB);
    let attempt = node.started();
    node.fail(AB, attempt, FailureKind::NotLocal);
    node.frame(Pair::new(A, B, 2));
    node.started();
    node.frame(Pair::new(A, B, 3));
    let log = node.pass(200 * MS);
    let why = DiscardReason::Overload(Overload::Queue);
    assert!(log.iter().any(|(_, action)| *action == Action::Discard { pair: AB, why }), "{log:?}");
    assert_eq!(node.state(AB), Some(PairState::Failed));
}

#[test]
fn a_new_svid_says_nothing_about_the_network() {
    let mut node = Node::new();
    node.frame(AB);
    let attempt = node.started();
    node.fail(AB, attempt, FailureKind::Timeout);
    node.event(Event::SvidRotated { identity: A });
    assert!(matches!(node.frame(AB), Admission::Drop(_)));
}

#[test]
fn a_healed_way_is_found_within_two_seconds() {
    // Back-off has grown to its longest while the node did not answer.
    let mut node = Node::new();
    let dials = flood(&mut node, FailureKind::Timeout, 100 * SECOND);
    let spared = dials.windows(2).map(|pair| pair[1] - pair[0]).max();
    assert!(spared <= Some(PROBE_GAP + 2 * MS), "{spared:?}");
    assert!(dials.len() < 80, "one probe per gap for the whole node: {}", dials.len());
    // The way heals: with the first answer all pairs of the node are free again.
    let other = Pair::new(A, B + 1, 1);
    node.frame(other);
    let attempt = node.actions();
    let attempt = starts(&attempt)[0].1;
    node.done(other, attempt, 60 * SECOND);
    node.prove(AB, 60 * SECOND);
}

#[test]
fn probes_are_per_node_and_not_per_pair() {
    let mut node = Node::new();
    let pairs: Vec<Pair> = (0..50).map(|i| Pair::new(A, B + i, 1)).collect();
    let mut dials = 0;
    for _ in 0..100 {
        for pair in &pairs {
            node.frame(*pair);
        }
        let begun = starts(&node.actions());
        dials += begun.len();
        for (pair, attempt) in begun {
            node.fail(pair, attempt, FailureKind::Unreachable);
        }
        let late: Vec<_> = node.pass(100 * MS).into_iter().map(|(_, action)| action).collect();
        for (pair, attempt) in starts(&late) {
            dials += 1;
            node.fail(pair, attempt, FailureKind::Unreachable);
        }
    }
    // Ten seconds: seven steps for each of the pairs, and at most seven probes.
    assert!(dials <= 50 * 7 + 7, "{dials}");
}
