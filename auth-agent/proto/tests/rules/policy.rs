//! What policy requires.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use countersign_auth_proto::limits::SECOND;
use countersign_auth_proto::{Action, Event, Pair, PairState, Remotes, Required};

use crate::node::{A, AB, B, C, Node, starts, timed_starts};

fn these(pairs: &[(u32, u32)]) -> Event {
    let mut locals: BTreeMap<u32, Remotes> = BTreeMap::new();
    for (local, remote) in pairs {
        let entry = locals.entry(*local).or_insert_with(|| Remotes::These(BTreeSet::new()));
        if let Remotes::These(remotes) = entry {
            remotes.insert(*remote);
        }
    }
    Event::PolicyChanged { required: Arc::new(Required::These(locals)) }
}

#[test]
fn what_is_no_longer_required_is_not_renewed_and_lives_out_its_time() {
    let mut node = Node::new();
    node.prove(AB, 30 * SECOND);
    let actions = node.event(these(&[(A, C)]));
    assert!(actions.is_empty(), "{actions:?}");
    let log = node.pass(31 * SECOND);
    assert!(timed_starts(&log).is_empty());
    assert!(log.iter().any(|(_, action)| matches!(action, Action::Remove { .. })));
    assert_eq!(node.state(AB), None);
}

#[test]
fn required_again_in_time_is_renewed() {
    let mut node = Node::new();
    node.prove(AB, 30 * SECOND);
    node.event(these(&[]));
    node.pass(29 * SECOND);
    assert_eq!(starts(&node.event(these(&[(A, B)]))).len(), 1);
}

#[test]
fn frames_that_wait_are_judged_again() {
    let mut node = Node::with(countersign_auth_proto::Config { max_in_flight: 1, ..Default::default() });
    node.frame(Pair::new(A, C, 1));
    node.started();
    node.frame(AB);
    assert_eq!(node.state(AB), Some(PairState::Queued));
    node.event(these(&[(A, C)]));
    assert_eq!(node.released, [2]);
    assert_eq!(node.state(AB), None);
    assert_eq!(node.machine.summary().queued, 0);
}

#[test]
fn either_direction_counts_on_the_same_node() {
    let pair = Pair::new(A, B, 0);
    for (direction, required) in [((A, B), true), ((B, A), true), ((A, C), false)] {
        let Event::PolicyChanged { required: policy } = these(&[direction]) else { unreachable!() };
        assert_eq!(policy.requires(pair), required);
    }
    let Event::PolicyChanged { required } = these(&[(B, A)]) else { unreachable!() };
    assert!(!required.requires(AB), "on another node it is the other node's policy");
}

#[test]
fn any_remote() {
    let required = Required::These(BTreeMap::from([(A, Remotes::Any)]));
    assert!(required.requires(AB) && !required.requires(Pair::new(B, A, 1)));
    assert!(Required::Everything.requires(AB));
}

#[test]
fn the_datapath_knows_better() {
    let mut node = Node::new();
    node.event(these(&[]));
    node.prove(AB, 30 * SECOND);
    assert_eq!(node.status(AB).map(|status| status.required), Some(true));
    assert_eq!(timed_starts(&node.pass(29 * SECOND)).len(), 1, "and is renewed");
}

#[test]
fn an_inbound_pair_that_only_the_peer_requires_is_left_to_the_peer() {
    let mut node = Node::new();
    node.event(these(&[]));
    node.inbound(AB, node.now, 30 * SECOND);
    assert!(node.is_live(AB));
    assert!(timed_starts(&node.pass(29 * SECOND)).is_empty());
}
