//! The authentication state machine: events in, actions out. Its parts are in the files below this one, one
//! concern each; here are its state, its surface and its order of work.

mod hygiene;
mod live;
mod missing;
mod outcome;
mod policy;
mod restore;
mod start;
mod timing;
mod view;

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use crate::action::{Action, Change, Notice};
use crate::agenda::{Agenda, Timer};
use crate::bindings::{Bindings, Rebinding};
use crate::config::Config;
use crate::counters::Counters;
use crate::event::{Event, Via};
use crate::pair::Pair;
use crate::queue::{Queue, QueueLimits};
use crate::reason::DiscardReason;
use crate::required::Required;
use crate::rng::SplitMix64;
use crate::table::Table;
use crate::tombs::Tombs;

/// What to do with a frame that the datapath sent to be parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Park it; a `Release` or `Discard` will follow, or its deadline.
    Park,
    /// The entry is live (the frame raced with it): write the frame back now.
    Pass,
    /// Drop it.
    Drop(DiscardReason),
}

/// The authentication state machine of one node.
///
/// Time is the boot clock in nanoseconds, given with every call; a time before the last one counts as the
/// last one. After every call, take all actions with [`Self::poll_action`], and call [`Self::handle`] with
/// [`Event::Tick`] (or any other event) when the time of [`Self::poll_timeout`] has come.
#[derive(Debug)]
pub struct Machine {
    config: Config,
    now: u64,
    rng: SplitMix64,
    epoch: u32,
    next_attempt: u64,
    table: Table,
    agenda: Agenda,
    queue: Queue,
    bindings: Bindings,
    tombs: Tombs,
    /// Nodes that do not answer, and when one of their pairs may ask again.
    silent: BTreeMap<u16, u64>,
    required: Arc<Required>,
    source_down_since: Option<u64>,
    actions: VecDeque<Action>,
    counters: Counters,
}

impl Machine {
    /// A machine that knows nothing. The same seed and the same events give the same actions.
    pub fn new(config: Config, seed: u64) -> Self {
        let limits = QueueLimits {
            queued: config.max_queued,
            in_flight: config.max_in_flight.max(1),
            per_owner: config.max_in_flight_per_identity.max(1),
            per_node: config.max_in_flight_per_node.max(1),
        };
        Self {
            config,
            now: 0,
            rng: SplitMix64::new(seed),
            epoch: 0,
            next_attempt: 1,
            table: Table::default(),
            agenda: Agenda::default(),
            queue: Queue::new(limits),
            bindings: Bindings::default(),
            tombs: Tombs::default(),
            silent: BTreeMap::new(),
            required: Arc::new(Required::Everything),
            source_down_since: None,
            actions: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Takes an event in. Timers that are due by `now` run first.
    pub fn handle(&mut self, event: Event, now: u64) {
        self.advance(now);
        self.dispatch(event);
        self.pump();
    }

    /// As [`Event::Missing`], for a frame at hand: says what to do with it. Push the frame into the parking
    /// queue, if so told, before the actions are taken.
    pub fn admit(&mut self, pair: Pair, remote_ip: Option<IpAddr>, now: u64) -> Admission {
        self.advance(now);
        let admission = self.missing(pair, remote_ip);
        self.pump();
        admission
    }

    /// The next thing to do. Actions are to be done in this order.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When the machine wants to be called again, and what for.
    pub fn poll_timeout(&self) -> Option<(u64, &'static str)> {
        self.agenda.next()
    }

    fn dispatch(&mut self, event: Event) {
        match event {
            Event::Missing { pair, remote_ip } => self.missing_event(pair, remote_ip),
            Event::HandshakeDone { pair, via, started_at, not_after, assertions } => match via {
                Via::Dialled { attempt } => {
                    self.dialled_done(pair, attempt, started_at, not_after, &assertions);
                }
                Via::Inbound => self.inbound_done(pair, started_at, not_after, &assertions),
            },
            Event::HandshakeFailed { pair, attempt, why } => self.dialled_failed(pair, attempt, why),
            Event::SvidRotated { identity } => self.svid_rotated(identity),
            Event::SvidRevoked { identity } => self.svid_revoked(identity),
            Event::Disowned { identity, node } => self.disowned(identity, node),
            Event::IdentityGone { identity } => self.identity_gone(identity),
            Event::EndpointsGone { identity } => self.endpoints_gone(identity),
            Event::AddressGone { ip } => self.address_gone(ip),
            Event::NodeGone { node } => self.node_gone(node),
            Event::PolicyChanged { required } => self.policy_changed(required),
            Event::Used { pair } => self.used(pair),
            Event::SourceDown => self.source_down(),
            Event::SourceUp => self.source_up(),
            Event::Revalidate { within } => self.revalidate(within),
            Event::Restored { pair, expires_at, epoch, generation } => {
                self.restored(pair, expires_at, epoch, generation);
            }
            Event::RestoredBinding { ip, identity, node, generation } => {
                self.restored_binding(ip, identity, node, generation);
            }
            Event::Flush => self.flush(),
            Event::Tick => {}
        }
    }

    fn act(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    fn emit(&mut self, pair: Pair, change: Change) {
        self.act(Action::Emit(Notice { at: self.now, pair, change }));
    }

    fn rebind(&mut self, change: Rebinding) {
        let epoch = self.epoch;
        self.act(match change {
            Rebinding::Bind { ip, identity, node, generation } => {
                Action::Bind { ip, identity, node, generation, epoch }
            }
            Rebinding::Unbind { ip } => Action::Unbind { ip },
        });
    }

    fn set_timer(&mut self, key: Pair, timer: Timer, at: u64) {
        // Strictly later, so that running the due timers comes to an end.
        let at = at.max(self.now.saturating_add(1));
        if let Some(record) = self.table.get_mut(key) {
            self.agenda.set(&mut record.timers, key, timer, at);
        }
    }

    fn clear_timer(&mut self, key: Pair, timer: Timer) {
        if let Some(record) = self.table.get_mut(key) {
            self.agenda.clear(&mut record.timers, key, timer);
        }
    }
}
