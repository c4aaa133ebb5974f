//! What happens in a history, and what the model makes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use countersign_auth_proto::limits::{MS, SECOND};
use countersign_auth_proto::{Event, FailureKind, Pair, Remotes, Required, Via};

use crate::world::{World, address};

impl World {
    pub fn something_happens(&mut self) {
        let most = if self.profile.honest { 76 } else { 100 };
        match self.rng.below(most) {
            0..=37 => self.frames_come(),
            38..=62 => self.time_passes(),
            63..=69 => self.peer_dials(),
            70..=73 => self.event_rises(),
            74..=75 => self.svid_rotates(),
            76..=78 => self.source_changes(),
            79..=82 => self.identity_ends(),
            83 => self.node_ends(),
            84..=85 => self.address_ends(),
            86..=89 => self.policy_changes(),
            90..=91 => self.bundle_changes(),
            92..=95 => self.entry_is_found(),
            96 => self.binding_is_found(),
            97 => self.everything_is_flushed(),
            _ => self.nonsense_comes(),
        }
    }

    fn some_pair(&mut self) -> Pair {
        let pair = self.rng.next() as usize % self.profile.pairs.len();
        let pair = self.profile.pairs[pair];
        if self.rng.percent(50) { pair.mirror().unwrap_or(pair) } else { pair }
    }

    fn some_ip(&mut self) -> Option<IpAddr> {
        // On the same node, and in a world where nothing may be lost, addresses would tell a story of their own.
        let any = !self.profile.honest && self.rng.percent(30);
        any.then(|| address(self.rng.below(4)))
    }

    fn frames_come(&mut self) {
        let pair = self.some_pair();
        for _ in 0..=self.rng.below(3) {
            let ip = self.some_ip();
            self.frame(pair, ip);
        }
    }

    fn event_rises(&mut self) {
        let (pair, remote_ip) = (self.some_pair(), self.some_ip());
        self.handle(Event::Missing { pair, remote_ip });
    }

    fn time_passes(&mut self) {
        let longest = match self.rng.below(20) {
            0..=5 => MS,
            6..=11 => 200 * MS,
            12..=15 => 3 * SECOND,
            16..=17 => self.profile.life,
            18 => 10 * SECOND,
            _ => 60 * SECOND,
        };
        let span = self.rng.below(longest.min(20 * self.profile.life));
        self.pass(span);
    }

    fn peer_dials(&mut self) {
        let pair = self.some_pair();
        let started_at = self.now.saturating_sub(self.rng.below(2 * SECOND));
        let (not_after, assertions) = self.certificate(self.now);
        let event = Event::HandshakeDone { pair, via: Via::Inbound, started_at, not_after, assertions };
        if self.model.counts(pair, started_at) {
            self.offer(pair, not_after, event);
        } else {
            self.handle(event);
        }
    }

    fn svid_rotates(&mut self) {
        let identity = self.some_pair().local;
        self.model.forgive(|pair, why| {
            let network = matches!(why, FailureKind::Overload | FailureKind::Malformed | FailureKind::Closed)
                || why.is_network();
            pair.involves(identity) && !network
        });
        self.handle(Event::SvidRotated { identity });
    }

    fn source_changes(&mut self) {
        self.model.source_down = self.rng.percent(30);
        let event = if self.model.source_down { Event::SourceDown } else { Event::SourceUp };
        self.handle(event);
    }

    fn identity_ends(&mut self) {
        let pair = self.some_pair();
        let identity = if self.rng.percent(50) { pair.local } else { pair.remote };
        self.model.void_identity(identity, self.now);
        match self.rng.below(3) {
            0 => {
                self.model.purge(|pair| pair.involves(identity));
                self.handle(Event::SvidRevoked { identity });
            }
            1 => {
                self.model.purge(|pair| pair.involves(identity));
                self.handle(Event::IdentityGone { identity });
            }
            _ => {
                self.model
                    .purge(|pair| pair.local == identity || (pair.node == 0 && pair.remote == identity));
                self.handle(Event::EndpointsGone { identity });
            }
        }
    }

    fn node_ends(&mut self) {
        let node = self.some_pair().node;
        self.model.void_node(node, self.now);
        self.model.purge(|pair| pair.node == node);
        self.handle(Event::NodeGone { node });
    }

    fn address_ends(&mut self) {
        let ip = address(self.rng.below(4));
        self.handle(Event::AddressGone { ip });
        self.check(!self.model.bound.contains_key(&ip), "an address without an owner is bound");
    }

    fn policy_changes(&mut self) {
        let required = if self.rng.percent(50) { Required::Everything } else { self.some_policy() };
        // What is not required is not tried, and its failures are forgotten, unless it is busy.
        self.model.forgive(|pair, _| !required.requires(pair));
        self.required = required.clone();
        self.handle(Event::PolicyChanged { required: Arc::new(required) });
    }

    fn some_policy(&mut self) -> Required {
        let mut locals: BTreeMap<u32, Remotes> = BTreeMap::new();
        for pair in self.profile.pairs.clone() {
            match self.rng.below(4) {
                0 => drop(locals.insert(pair.local, Remotes::Any)),
                1 | 2 => {
                    let fresh = || Remotes::These(BTreeSet::new());
                    if let Remotes::These(these) = locals.entry(pair.local).or_insert_with(fresh) {
                        these.insert(pair.remote);
                    }
                }
                _ => {}
            }
        }
        Required::These(locals)
    }

    fn bundle_changes(&mut self) {
        let within = 1 + self.rng.below(10 * SECOND);
        self.model.void_all(self.now);
        self.model.shorten(self.now + within);
        // Handshakes under way begin anew.
        let under_way: Vec<Pair> = self.flights.values().copied().collect();
        self.model.forgive(|pair, _| under_way.contains(&pair));
        self.handle(Event::Revalidate { within });
    }

    fn entry_is_found(&mut self) {
        let pair = self.some_pair();
        let expires_at = self.now.saturating_sub(SECOND) + self.rng.below(self.profile.life);
        if expires_at > self.now {
            let end = expires_at.min(self.now + self.model.max_age);
            let old = self.model.end(pair, self.now);
            self.model.pair(pair).expires_at = Some(old.map_or(end, |old| old.min(end)));
        }
        self.map.insert(pair, expires_at);
        let was = self.machine.is_live(pair, self.now);
        self.handle(Event::Restored { pair, expires_at, epoch: 0, generation: 1 });
        if self.profile.tight && !was && !self.machine.is_live(pair, self.now) {
            self.model.pair(pair).expires_at = None;
        }
    }

    fn binding_is_found(&mut self) {
        let pair = self.some_pair();
        let ip = address(self.rng.below(4));
        // Found in the map; the machine takes it over or has it removed.
        let before = self.model.bound.insert(ip, (pair.remote, pair.node));
        if before.is_some() {
            self.model.bound.extend(before.map(|holder| (ip, holder)));
            return;
        }
        self.handle(Event::RestoredBinding { ip, identity: pair.remote, node: pair.node, generation: 1 });
    }

    fn everything_is_flushed(&mut self) {
        self.model.purge(|_| true);
        self.handle(Event::Flush);
        self.check(self.machine.summary().live == 0, "an entry survived the flush");
    }

    fn nonsense_comes(&mut self) {
        let pair = self.some_pair();
        let attempt = u64::MAX - self.rng.below(5);
        if self.rng.percent(50) {
            self.handle(Event::HandshakeFailed { pair, attempt, why: FailureKind::Closed });
        } else {
            let via = Via::Dialled { attempt };
            let not_after = self.now + SECOND;
            let started_at = self.now;
            self.handle(Event::HandshakeDone { pair, via, started_at, not_after, assertions: Vec::new() });
        }
        self.handle(Event::Used { pair });
    }
}
