//! Entries are renewed before they end.

use countersign_auth_proto::limits::{MS, SECOND};
use countersign_auth_proto::{Action, Admission, Config, Event, FailureKind, Pair, PairState};

use crate::node::{A, AB, B, Node, timed_starts};

const LIFE: u64 = 30 * SECOND;

#[test]
fn renewal_begins_in_the_last_third() {
    let mut points = Vec::new();
    let mut node = Node::new();
    for i in 0..200 {
        let pair = Pair::new(A, B + i, 1);
        node.prove(pair, LIFE);
        let status = node.status(pair).expect("live");
        points.push(status.renew_at.expect("a point") - node.now);
    }
    assert!(points.iter().all(|point| (20 * SECOND..28 * SECOND).contains(point)), "{points:?}");
    let spread = points.iter().max().unwrap_or(&0) - points.iter().min().unwrap_or(&0);
    assert!(spread > 6 * SECOND, "no herd: {spread}");
}

#[test]
fn a_renewed_entry_never_ends() {
    let mut node = Node::new();
    node.prove(AB, LIFE);
    for _ in 0..20 {
        let log = node.pass(28 * SECOND);
        assert!(!log.iter().any(|(_, action)| matches!(action, Action::Remove { .. })));
        let renewals = timed_starts(&log);
        assert_eq!(renewals.len(), 1);
        assert_eq!(node.state(AB), Some(PairState::Renewing));
        assert!(node.is_live(AB));
        node.done(AB, renewals[0].1, LIFE);
        assert_eq!(node.state(AB), Some(PairState::Live));
    }
    assert_eq!(node.machine.counters().renewed, 20);
}

#[test]
fn a_failing_renewal_is_tried_again_and_drops_nothing_before_the_end() {
    let mut node = Node::new();
    node.prove(AB, LIFE);
    let end = node.now + LIFE;
    let mut tries = 0;
    let mut removed = None;
    while removed.is_none() && node.now < end + SECOND {
        let log = node.pass(10 * MS);
        removed = log.iter().find(|(_, action)| matches!(action, Action::Remove { .. })).map(|(at, _)| *at);
        for (_, attempt) in timed_starts(&log) {
            tries += 1;
            node.fail(AB, attempt, FailureKind::Timeout);
        }
        if removed.is_none() {
            assert!(node.is_live(AB));
        }
    }
    assert_eq!(removed, Some(end));
    assert!((4..=30).contains(&tries), "{tries}");
    assert!(matches!(node.state(AB), Some(PairState::Failed)));
}

#[test]
fn a_renewal_that_works_in_the_end_saves_the_entry() {
    let mut node = Node::new();
    node.prove(AB, LIFE);
    let log = node.pass(28 * SECOND);
    node.fail(AB, timed_starts(&log)[0].1, FailureKind::Refused);
    assert_eq!(node.state(AB), Some(PairState::RenewalFailed));
    let log = node.pass(SECOND);
    let attempt = timed_starts(&log)[0].1;
    node.done(AB, attempt, LIFE);
    assert_eq!(node.state(AB), Some(PairState::Live));
    assert!(!node.pass(20 * SECOND).iter().any(|(_, action)| matches!(action, Action::Remove { .. })));
}

#[test]
fn an_inbound_handshake_renews_as_well() {
    let mut node = Node::new();
    node.prove(AB, LIFE);
    node.pass(19 * SECOND);
    node.inbound(AB, node.now, LIFE);
    assert!(timed_starts(&node.pass(19 * SECOND)).is_empty());
    assert!(node.is_live(AB));
}

#[test]
fn a_peer_whose_certificate_stays_the_same_is_not_asked_all_the_time() {
    // Each renewal brings the same end; they get fewer, not more, than a handful.
    let mut node = Node::new();
    node.prove(AB, LIFE);
    let end = node.now + LIFE;
    let mut renewals = 0;
    while node.now < end {
        for (_, attempt) in timed_starts(&node.pass(10 * MS)) {
            renewals += 1;
            let left = end.saturating_sub(node.now);
            node.done(AB, attempt, left);
        }
    }
    assert!((1..=8).contains(&renewals), "{renewals}");
}

#[test]
fn nothing_is_extended_while_the_source_is_away() {
    let mut node = Node::new();
    node.prove(AB, LIFE);
    let end = node.now + LIFE;
    node.event(Event::SourceDown);
    assert_eq!(node.machine.summary().source_down_since, Some(node.now));
    node.inbound(AB, node.now, 10 * LIFE);
    assert_eq!(node.status(AB).and_then(|status| status.expires_at), Some(end));
    let log = node.pass(29 * SECOND);
    assert!(timed_starts(&log).is_empty());
    assert!(node.is_live(AB));
    // Back in time: the renewal that was due begins at once.
    let actions = node.event(Event::SourceUp);
    assert_eq!(crate::node::starts(&actions).len(), 1);
    assert_eq!(node.machine.summary().source_down_since, None);
}

#[test]
fn new_pairs_still_authenticate_while_the_source_is_away() {
    let mut node = Node::new();
    node.event(Event::SourceDown);
    node.prove(AB, LIFE);
    assert!(node.is_live(AB));
    assert!(node.pass(31 * SECOND).iter().any(|(_, action)| matches!(action, Action::Remove { .. })));
}

#[test]
fn unused_entries_are_left_alone_if_so_configured() {
    let config = Config { renew_unused: false, ..Config::default() };
    let mut node = Node::with(config.clone());
    node.inbound(AB, node.now, LIFE);
    assert!(timed_starts(&node.pass(29 * SECOND)).is_empty());
    assert!(!crate::node::starts(&node.event(Event::Used { pair: AB })).is_empty(), "a late hint counts");

    let mut node = Node::with(config);
    node.prove(AB, LIFE);
    assert_eq!(timed_starts(&node.pass(28 * SECOND)).len(), 1, "packets had waited for it");
}

#[test]
fn a_changed_bundle_proves_every_entry_again_in_time() {
    let mut node = Node::new();
    let pairs: Vec<Pair> = (0..100).map(|i| Pair::new(A, B + i, 1)).collect();
    for pair in &pairs {
        node.prove(*pair, 3_600 * SECOND);
    }
    let begin = node.now;
    let actions = node.event(Event::Revalidate { within: 5 * SECOND });
    assert!(crate::node::starts(&actions).is_empty(), "not all at once");
    let installs: Vec<u64> = actions
        .iter()
        .filter_map(|action| match action {
            Action::Install { expires_at, .. } => Some(*expires_at),
            _ => None,
        })
        .collect();
    assert_eq!(installs, vec![begin + 5 * SECOND; 100]);
    // Half of the peers still convince.
    let mut dials = 0;
    while node.now < begin + 6 * SECOND {
        for (at, action) in node.pass(10 * MS) {
            if let Action::Start { pair, attempt } = action {
                dials += 1;
                assert!(at > begin);
                if pair.remote % 2 == 0 {
                    node.done(pair, attempt, 3_600 * SECOND);
                } else {
                    node.fail(pair, attempt, FailureKind::Untrusted);
                }
            }
        }
    }
    assert!(dials >= 100);
    for pair in pairs {
        assert_eq!(node.is_live(pair), pair.remote % 2 == 0);
    }
}

#[test]
fn a_handshake_from_before_the_new_bundle_does_not_count() {
    let mut node = Node::new();
    node.frame(AB);
    let old = node.started();
    let before = node.now;
    node.now += MS;
    let actions = node.event(Event::Revalidate { within: 5 * SECOND });
    assert!(actions.contains(&Action::Cancel { pair: AB, attempt: old }));
    let new = crate::node::starts(&actions)[0].1;
    assert!(node.done(AB, old, LIFE).is_empty());
    node.inbound(AB, before, LIFE);
    assert!(!node.is_live(AB));
    node.done(AB, new, LIFE);
    assert_eq!(node.released, [1]);
    assert_eq!(node.frame(AB), Admission::Pass);
}
