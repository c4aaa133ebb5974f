//! The queue of handshakes: fair between local identities, fair between nodes, first come first served
//! within both, and never held up by a node that does not answer.

use std::collections::{BTreeMap, VecDeque};

use crate::limits::{
    FIRST_IN_FLIGHT_PER_NODE, LEAST_IN_FLIGHT_PER_NODE, MAX_LANES, PACE_CROWDED, PACE_LEAST, PACE_WINDOW,
};
use crate::pair::Pair;

/// How a handshake ended, as far as the pace of its node is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The node answers; in nanoseconds, how long the handshake took.
    Good { took: u64 },
    /// The node does not answer.
    Silent,
    /// Nothing is known about the node.
    Other,
}

/// The pairs of one local identity.
#[derive(Debug, Default)]
struct Owner {
    /// Waiting pairs by node and ticket.
    nodes: BTreeMap<u16, BTreeMap<u64, Pair>>,
    /// The nodes whose turn it may be; every node of `nodes` is here or blocked at its lane.
    open: VecDeque<u16>,
    /// Those of them that have a place kept for it.
    kept: Vec<u16>,
    in_flight: usize,
    /// In [`Queue::turns`].
    has_turn: bool,
}

/// The handshakes with one node.
#[derive(Debug)]
struct Lane {
    in_flight: usize,
    /// Grows with success, shrinks with silence and with waiting.
    limit: usize,
    pace: Pace,
    /// Identities that wait for a place here, in order.
    blocked: VecDeque<u32>,
}

/// The quickest handshakes with a node lately: what it takes when nobody waits.
#[derive(Clone, Copy, Debug)]
struct Pace {
    since: u64,
    /// Of the last window and of this one.
    quickest: u64,
    coming: u64,
}

impl Pace {
    /// Whether a handshake took so long that others must have been in its way.
    fn is_crowded(&mut self, took: u64, now: u64) -> bool {
        if now.saturating_sub(self.since) >= PACE_WINDOW {
            *self = Self { since: now, quickest: self.coming, coming: u64::MAX };
        }
        self.coming = self.coming.min(took);
        self.quickest = self.quickest.min(took);
        took > self.quickest.max(PACE_LEAST).saturating_mul(PACE_CROWDED)
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueLimits {
    pub(crate) queued: usize,
    pub(crate) in_flight: usize,
    pub(crate) per_owner: usize,
    pub(crate) per_node: usize,
}

#[derive(Debug)]
pub(crate) struct Queue {
    limits: QueueLimits,
    owners: BTreeMap<u32, Owner>,
    turns: VecDeque<u32>,
    lanes: BTreeMap<u16, Lane>,
    next_ticket: u64,
    queued: usize,
    in_flight: usize,
}

impl Queue {
    pub(crate) fn new(limits: QueueLimits) -> Self {
        Self {
            limits,
            owners: BTreeMap::new(),
            turns: VecDeque::new(),
            lanes: BTreeMap::new(),
            next_ticket: 0,
            queued: 0,
            in_flight: 0,
        }
    }

    pub(crate) const fn queued(&self) -> usize {
        self.queued
    }

    pub(crate) const fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Puts a pair at the end of its identity's line. `None` when the queue is full.
    pub(crate) fn push(&mut self, owner: u32, pair: Pair) -> Option<u64> {
        if self.queued >= self.limits.queued {
            return None;
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.queued += 1;
        let line = self.owners.entry(owner).or_default();
        let mut is_new = false;
        line.nodes
            .entry(pair.node)
            .or_insert_with(|| {
                is_new = true;
                BTreeMap::new()
            })
            .insert(ticket, pair);
        if is_new {
            self.open(owner, pair.node);
        }
        Some(ticket)
    }

    /// Takes a waiting pair out again.
    pub(crate) fn remove(&mut self, owner: u32, node: u16, ticket: u64) {
        let Some(line) = self.owners.get_mut(&owner) else { return };
        let Some(waiting) = line.nodes.get_mut(&node) else { return };
        // An empty line stays until its turn comes: it may be blocked at its lane.
        if waiting.remove(&ticket).is_some() {
            self.queued -= 1;
        }
    }

    /// The next pair to start, if there is a place for one. It counts as under way from now on.
    pub(crate) fn next(&mut self) -> Option<(u32, Pair)> {
        while self.in_flight < self.limits.in_flight {
            let owner = self.turns.pop_front()?;
            let found = self.turn(owner);
            self.give_turn(owner);
            if let Some(pair) = found {
                return Some((owner, pair));
            }
        }
        None
    }

    /// A pair given out by [`Self::next`] is done.
    pub(crate) fn done(&mut self, owner: u32, node: u16, end: End, now: u64) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(line) = self.owners.get_mut(&owner) {
            line.in_flight = line.in_flight.saturating_sub(1);
        }
        if let Some(lane) = self.lanes.get_mut(&node) {
            lane.in_flight = lane.in_flight.saturating_sub(1);
            lane.limit = match end {
                // More at once would not be through sooner, only wait in other places than here.
                End::Good { took } if lane.pace.is_crowded(took, now) => {
                    (lane.limit - 1).max(FIRST_IN_FLIGHT_PER_NODE).min(self.limits.per_node)
                }
                End::Good { .. } => (lane.limit + 1).min(self.limits.per_node),
                End::Silent => (lane.limit / 2).max(LEAST_IN_FLIGHT_PER_NODE).min(self.limits.per_node),
                End::Other => lane.limit,
            };
        }
        self.give_turn(owner);
        self.wake(node);
        self.tidy(owner);
    }

    /// Forgets the pace of a node that has left.
    pub(crate) fn forget_node(&mut self, node: u16) {
        if self.lanes.get(&node).is_some_and(|lane| lane.in_flight == 0 && lane.blocked.is_empty()) {
            self.lanes.remove(&node);
        }
    }

    // One turn of an identity: its first node with a place, the first pair there.
    fn turn(&mut self, owner: u32) -> Option<Pair> {
        let line = self.owners.get_mut(&owner)?;
        line.has_turn = false;
        let node = line.open.pop_front()?;
        line.kept.retain(|kept| *kept != node);
        if line.nodes.get(&node).is_none_or(BTreeMap::is_empty) {
            line.nodes.remove(&node);
            // The place it was woken for belongs to somebody else.
            self.wake(node);
            return None;
        }
        let lane = lane(&mut self.lanes, node, self.limits.per_node);
        if lane.in_flight >= lane.limit {
            lane.blocked.push_back(owner);
            return None;
        }
        let (_, pair) = line.nodes.get_mut(&node)?.pop_first()?;
        lane.in_flight += 1;
        line.in_flight += 1;
        self.queued -= 1;
        self.in_flight += 1;
        line.open.push_back(node);
        self.pass_on(owner);
        Some(pair)
    }

    fn open(&mut self, owner: u32, node: u16) {
        if let Some(line) = self.owners.get_mut(&owner) {
            line.open.push_back(node);
        }
        self.give_turn(owner);
    }

    // At the end of the round, if it has anything to do and is allowed to.
    fn give_turn(&mut self, owner: u32) {
        let Some(line) = self.owners.get_mut(&owner) else { return };
        if !line.has_turn && !line.open.is_empty() && line.in_flight < self.limits.per_owner {
            line.has_turn = true;
            self.turns.push_back(owner);
        }
        self.tidy(owner);
    }

    // As many identities as the lane has places. One that has no place of its own left takes none here.
    fn wake(&mut self, node: u16) {
        let Some(lane) = self.lanes.get_mut(&node) else { return };
        let mut free = lane.limit.saturating_sub(lane.in_flight);
        let mut woken = Vec::new();
        while free > 0 {
            let Some(owner) = lane.blocked.pop_front() else { break };
            woken.push(owner);
            let Some(line) = self.owners.get_mut(&owner) else { continue };
            if line.in_flight < self.limits.per_owner {
                line.kept.push(node);
                free -= 1;
            }
        }
        for owner in woken {
            self.open(owner, node);
        }
    }

    // The identity may start no more for now: the places kept for it are others'.
    fn pass_on(&mut self, owner: u32) {
        let Some(line) = self.owners.get_mut(&owner) else { return };
        if line.in_flight >= self.limits.per_owner {
            for node in std::mem::take(&mut line.kept) {
                self.wake(node);
            }
        }
    }

    fn tidy(&mut self, owner: u32) {
        if self.owners.get(&owner).is_some_and(|line| line.nodes.is_empty() && line.in_flight == 0) {
            self.owners.remove(&owner);
        }
        if self.lanes.len() > MAX_LANES {
            self.lanes.retain(|_, lane| lane.in_flight > 0 || !lane.blocked.is_empty());
        }
    }
}

fn lane(lanes: &mut BTreeMap<u16, Lane>, node: u16, most: usize) -> &mut Lane {
    lanes.entry(node).or_insert_with(|| Lane {
        in_flight: 0,
        limit: FIRST_IN_FLIGHT_PER_NODE.min(most),
        pace: Pace { since: 0, quickest: u64::MAX, coming: u64::MAX },
        blocked: VecDeque::new(),
    })
}
