//! The shell, the peers and the datapath of a history, with the checks.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use countersign_auth_proto::limits::{FORGET_AFTER, MAX_AGE, SECOND};
use countersign_auth_proto::{
    Action, Admission, Assertion, Change, Counters, DiscardReason, Event, FailureKind, Machine, Notice, Pair,
    PairState, Parking, Required, Source, Via,
};

use crate::model::Model;
use crate::profile::{Profile, Rng};

#[derive(Debug)]
struct Frame {
    pair: Pair,
    ip: Option<IpAddr>,
    since: u64,
    out: bool,
    /// How often it came back after a release.
    returned: u8,
}

#[derive(Clone, Debug)]
enum Outcome {
    Done { not_after: u64, started_at: u64, said: Vec<Assertion> },
    Failed(FailureKind),
}

/// What a history came to.
#[derive(Debug)]
pub struct Told {
    pub events: u64,
    pub frames: u64,
    pub released: u64,
    pub counters: Counters,
    pub digest: u64,
}

pub struct World {
    history: u64,
    pub profile: Profile,
    pub rng: Rng,
    pub now: u64,
    pub machine: Machine,
    pub parking: Parking<usize>,
    pub model: Model,
    pub required: Required,
    frames: Vec<Frame>,
    /// Frames that have not left yet.
    waiting: usize,
    released: u64,
    /// Handshakes under way, by attempt.
    pub flights: BTreeMap<u64, Pair>,
    /// Results on their way, also of handshakes that were cancelled.
    results: BTreeMap<(u64, u64), (Pair, Outcome)>,
    /// The datapath's map.
    pub map: BTreeMap<Pair, u64>,
    /// A proof that the machine is about to be told of.
    offer: Option<(Pair, u64)>,
    events: u64,
    steps: u64,
    actions: u64,
    digest: Option<DefaultHasher>,
    tells: bool,
}

pub fn address(last: u64) -> IpAddr {
    IpAddr::from([10, 0, 0, last as u8])
}

impl World {
    pub fn new(history: u64, digests: bool) -> Self {
        let mut rng = Rng::new(history);
        let profile = Profile::new(&mut rng);
        let model = Model::new(profile.config.max_age);
        Self {
            history,
            machine: Machine::new(profile.config.clone(), rng.next()),
            parking: Parking::new(profile.parking.clone()),
            profile,
            rng,
            now: SECOND,
            model,
            required: Required::Everything,
            frames: Vec::new(),
            waiting: 0,
            released: 0,
            flights: BTreeMap::new(),
            results: BTreeMap::new(),
            map: BTreeMap::new(),
            offer: None,
            events: 0,
            steps: 0,
            actions: 0,
            digest: digests.then(DefaultHasher::new),
            tells: false,
        }
    }

    pub fn tell(mut self) -> Self {
        println!("{:#?}", self.profile);
        self.tells = true;
        self
    }

    pub fn run(mut self) -> Told {
        for _ in 0..self.profile.events {
            self.something_happens();
            self.check_all();
        }
        self.drain();
        Told {
            events: self.events,
            frames: self.frames.len() as u64,
            released: self.released,
            counters: self.machine.counters().clone(),
            digest: self.digest.map_or(0, |digest| digest.finish()),
        }
    }

    /// An invariant.
    pub fn check(&self, holds: bool, what: &str) {
        assert!(
            holds,
            "history {}: {what} at {} (CS_HISTORY={} tells)",
            self.history, self.now, self.history
        );
    }

    fn say(&self, what: &dyn std::fmt::Debug) {
        if self.tells {
            println!("{:>16} {what:?}", self.now);
        }
    }

    /// An event is handled; the model has heard of it before.
    pub fn handle(&mut self, event: Event) {
        self.say(&event);
        self.events += 1;
        self.machine.handle(event, self.now);
        self.act();
    }

    /// A frame comes to the parking device.
    pub fn frame(&mut self, pair: Pair, ip: Option<IpAddr>) {
        self.frame_again(pair, ip, 0);
        self.act();
    }

    fn frame_again(&mut self, pair: Pair, ip: Option<IpAddr>, returned: u8) {
        self.events += 1;
        let admission = self.machine.admit(pair, ip, self.now);
        self.say(&(pair, ip, admission));
        let live = self.model.is_live(pair, self.now);
        let bound = ip.is_none_or(|ip| self.model.is_bound(ip, pair));
        match admission {
            Admission::Park => self.park(pair, ip, returned),
            Admission::Pass => {
                self.check(live && bound, "a frame passed without proof");
                // What is on its way may still name entries the datapath has not got; it gets them now.
            }
            Admission::Drop(DiscardReason::BackOff(why)) => {
                self.check(self.model.is_resting(pair, why, self.now), "refused, but not in back-off");
            }
            Admission::Drop(DiscardReason::NotAsserted) => {
                self.check(live && !bound, "refused as not asserted");
            }
            Admission::Drop(DiscardReason::Overload(_)) => self.check(self.profile.tight, "overload"),
            Admission::Drop(_) => self.check(false, "refused for no reason"),
        }
    }

    fn park(&mut self, pair: Pair, ip: Option<IpAddr>, returned: u8) {
        let id = self.frames.len();
        let source = Source::Pod((pair.local % 4) as u16);
        let full = self.parking.push(pair, source, id, 100, self.now).is_err();
        self.check(!full || self.profile.tight, "no place to park");
        self.waiting += usize::from(!full);
        self.frames.push(Frame { pair: pair.canonical(), ip, since: self.now, out: full, returned });
    }

    /// Does what the machine asks, until it asks for nothing.
    fn act(&mut self) {
        while let Some(action) = self.machine.poll_action() {
            self.say(&action);
            self.actions += 1;
            if let Some(digest) = &mut self.digest {
                format!("{action:?}").hash(digest);
            }
            match action {
                Action::Start { pair, attempt } => self.start(pair, attempt),
                Action::Cancel { pair, attempt } => {
                    let known = self.flights.remove(&attempt);
                    self.check(known == Some(pair), "cancelled what is not under way");
                }
                Action::Install { pair, expires_at, .. } => self.install(pair, expires_at),
                Action::Remove { pair, .. } => {
                    self.check(!self.profile.honest, "an entry ended in an honest world");
                    self.map.remove(&pair);
                }
                Action::Bind { ip, identity, node, .. } => {
                    self.model.bound.insert(ip, (identity, node));
                }
                Action::Unbind { ip } => {
                    self.model.bound.remove(&ip);
                }
                Action::Release { pair } => self.release(pair),
                Action::Discard { pair, .. } => self.discard(pair),
                Action::Emit(Notice { pair, change: Change::Failed { why, attempts, retry_at }, .. }) => {
                    let right = self.model.failed(pair, why, attempts, retry_at, self.now);
                    // In a tight world what failed may have been forgotten for want of room.
                    self.check(right || (self.profile.tight && attempts == 1), "back-off");
                }
                Action::Emit(_) => {}
            }
        }
    }

    fn start(&mut self, pair: Pair, attempt: u64) {
        self.check(pair == pair.canonical(), "canonical");
        self.check(self.flights.values().all(|other| *other != pair), "two handshakes for one pair");
        self.flights.insert(attempt, pair);
        let config = &self.profile.config;
        let count =
            |wanted: &dyn Fn(&Pair) -> bool| self.flights.values().filter(|pair| wanted(pair)).count();
        self.check(self.flights.len() <= config.max_in_flight, "too many handshakes");
        let node = count(&|other| other.node == pair.node);
        self.check(node <= config.max_in_flight_per_node, "too many handshakes with a node");
        // On the same node either identity may be charged.
        let own = count(&|other| other.local == pair.local && other.node != 0);
        self.check(own <= config.max_in_flight_per_identity, "too many handshakes of an identity");
        let may = self.model.may_dial(pair, self.now);
        // In a tight world what failed may have been forgotten for want of room.
        self.check(may || self.profile.tight, "dialled in back-off");
        self.decide(pair, attempt);
    }

    // The peer's answer, and when.
    fn decide(&mut self, pair: Pair, attempt: u64) {
        if self.rng.percent(self.profile.lost) {
            if self.rng.percent(50) {
                return;
            }
            // Too late: the machine has given up by then.
            let at = self.now + 11 * SECOND;
            self.results.insert((at, attempt), (pair, Outcome::Failed(FailureKind::Refused)));
            return;
        }
        let at = self.now + 1 + self.rng.below(self.profile.latency);
        let outcome = if self.rng.percent(self.profile.success) {
            let (not_after, said) = self.certificate(at);
            Outcome::Done { not_after, started_at: self.now, said }
        } else {
            Outcome::Failed(self.rng.pick(&FailureKind::ALL))
        };
        self.results.insert((at, attempt), (pair, outcome));
    }

    pub fn certificate(&mut self, at: u64) -> (u64, Vec<Assertion>) {
        let life = self.profile.life;
        if self.profile.honest {
            let said = (1..4).map(|i| Assertion { ip: address(i), generation: 1 }).collect();
            return (at + life, said);
        }
        let not_after = if self.rng.percent(2) { at } else { at + life / 2 + self.rng.below(life / 2) };
        let count = self.rng.below(4);
        let generation = self.rng.below(3) as u32;
        let said = (0..count).map(|_| Assertion { ip: address(self.rng.below(4)), generation }).collect();
        (not_after, said)
    }

    fn deliver(&mut self, attempt: u64, pair: Pair, outcome: Outcome) {
        let known = self.flights.remove(&attempt).is_some();
        match outcome {
            Outcome::Done { not_after, started_at, said } => {
                let via = Via::Dialled { attempt };
                let event = Event::HandshakeDone { pair, via, started_at, not_after, assertions: said };
                if known {
                    self.model.node_answers(pair.node);
                    self.offer(pair, not_after, event);
                } else {
                    self.handle(event);
                }
            }
            Outcome::Failed(why) => {
                self.handle(Event::HandshakeFailed { pair, attempt, why });
            }
        }
    }

    /// A genuine proof is offered. Only for want of room it may be refused.
    pub fn offer(&mut self, pair: Pair, not_after: u64, event: Event) {
        self.offer = (not_after > self.now).then_some((pair.canonical(), not_after));
        self.handle(event);
        let taken = self.offer.take().is_none();
        self.check(taken || self.profile.tight, "a genuine proof was not taken");
    }

    fn install(&mut self, pair: Pair, expires_at: u64) {
        if let Some((_, not_after)) = self.offer.take_if(|(offered, _)| *offered == pair.canonical()) {
            self.model.proved(pair, not_after, self.now);
        }
        let end = self.model.end(pair, self.now);
        self.check(end == Some(expires_at), "an entry that the proofs do not bear out");
        self.map.insert(pair, expires_at);
    }

    fn release(&mut self, pair: Pair) {
        let live = self.model.is_live(pair, self.now);
        self.check(live || !self.required.requires(pair), "released without proof");
        let mut last = None;
        let parked: Vec<usize> = self.parking.release(pair).map(|parked| parked.frame).collect();
        for id in parked {
            self.check(last < Some(id), "released out of order");
            last = Some(id);
            self.leave(id, pair);
            self.released += 1;
            let (ip, returned) = (self.frames[id].ip, self.frames[id].returned);
            let bound = ip.is_none_or(|ip| self.model.is_bound(ip, pair));
            if live && !bound && returned < 3 {
                self.frame_again(pair, ip, returned + 1);
            }
        }
    }

    fn discard(&mut self, pair: Pair) {
        self.check(!self.profile.honest, "discarded in an honest world");
        let ids: Vec<usize> = self.parking.release(pair).map(|parked| parked.frame).collect();
        for id in ids {
            self.leave(id, pair);
        }
    }

    fn leave(&mut self, id: usize, pair: Pair) {
        let Some(frame) = self.frames.get_mut(id) else { return self.check(false, "a frame from nowhere") };
        let twice = std::mem::replace(&mut frame.out, true);
        let right = frame.pair == pair.canonical();
        let age = self.now - frame.since;
        self.waiting -= usize::from(!twice);
        self.check(!twice, "a frame left twice");
        self.check(right, "a frame of another pair");
        self.check(age <= self.profile.parking.deadline, "a frame stayed beyond its deadline");
    }

    /// Lets time pass with everything that happens by itself.
    pub fn pass(&mut self, span: u64) {
        let end = self.now + span;
        let mut steps = 0u64;
        loop {
            let timer = self.machine.poll_timeout().map(|(at, _)| at);
            let result = self.results.keys().next().map(|(at, _)| *at);
            let next = [timer, result, self.parking.next_deadline()].into_iter().flatten().min();
            let Some(at) = next.filter(|at| *at <= end) else { break };
            self.check(at > self.now || steps == 0, "time stands still");
            self.now = self.now.max(at);
            steps += 1;
            self.step();
        }
        self.steps += steps;
        let pairs = self.profile.pairs.len() as u64;
        // Per pair: at most a timer and a result each 100 ms, and a frame or two.
        self.check(steps <= 400 + pairs * 4 * (span / 100_000_000 + 10), "a storm of timers");
        self.now = end;
    }

    fn step(&mut self) {
        let due: Vec<(u64, u64)> = self.results.range(..=(self.now, u64::MAX)).map(|(key, _)| *key).collect();
        for key in due {
            if let Some((pair, outcome)) = self.results.remove(&key) {
                self.deliver(key.1, pair, outcome);
            }
        }
        self.handle(Event::Tick);
        for (pair, frames) in self.parking.expire(self.now) {
            self.check(!self.profile.honest, "a frame expired in an honest world");
            let deadline = self.profile.parking.deadline;
            let mut count = 0;
            for frame in self.frames.iter_mut().filter(|frame| !frame.out && frame.pair == pair) {
                if frame.since + deadline <= self.now {
                    frame.out = true;
                    count += 1;
                }
            }
            self.waiting -= count;
            self.check(count == frames.len(), "expired frames");
        }
        let later = self.machine.poll_timeout().is_none_or(|(at, _)| at > self.now);
        self.check(later, "a timer that is due did not run");
    }

    fn check_all(&mut self) {
        let summary = self.machine.summary();
        let config = &self.profile.config;
        self.check(summary.pairs <= config.max_pairs, "too many pairs");
        self.check(summary.queued <= config.max_queued, "too long a queue");
        self.check(summary.in_flight == self.flights.len(), "handshakes under way");
        self.check(summary.timers <= 6 * summary.pairs, "too many timers");
        self.check(summary.bindings == self.model.bound.len(), "bindings");
        let parked = self.parking.total().frames as usize;
        self.check(parked == self.waiting, "parked frames");
        for status in self.machine.pairs(&self.parking) {
            let end = self.model.end(status.pair, self.now);
            let live = status.expires_at.filter(|end| *end > self.now);
            self.check(live == end, "the machine and the model disagree");
            let mirror = status.pair.mirror().and_then(|pair| self.map.get(&pair));
            let entry = self.map.get(&status.pair).or(mirror);
            self.check(entry.is_some() || end.is_none(), "a live pair without an entry");
        }
        self.check_queue();
        for (pair, end) in &self.map {
            let known = self.model.end(*pair, self.now);
            self.check(*end <= self.now || known == Some(*end), "an entry nobody knows of");
        }
        for holder in self.model.bound.values() {
            let valid = self.model.has_voucher(*holder, self.now) || self.ends_now();
            self.check(valid, "an address nobody vouches for");
        }
        self.check(self.actions <= 60 * (self.events + self.steps) + 1_000, "a storm of actions");
    }

    // Nobody waits in the queue for nothing. (With these limits the pace of nodes is constant.)
    fn check_queue(&self) {
        let config = &self.profile.config;
        if !self.profile.tight || self.flights.len() >= config.max_in_flight {
            return;
        }
        for status in self.machine.pairs(&self.parking).filter(|status| !self.is_under_way(status.pair)) {
            let (pair, config) = (status.pair, &self.profile.config);
            let queued = matches!(status.state, PairState::Queued | PairState::Renewing);
            let count =
                |wanted: &dyn Fn(&Pair) -> bool| self.flights.values().filter(|pair| wanted(pair)).count();
            let node_full = count(&|other| other.node == pair.node) >= config.max_in_flight_per_node;
            let own =
                count(&|other| other.local == pair.local || (other.node == 0 && other.involves(pair.local)));
            // On the same node it may be the other identity that is charged.
            let identity_full = own >= config.max_in_flight_per_identity || pair.node == 0;
            self.check(!queued || node_full || identity_full, "a pair waits for nothing");
        }
    }

    fn is_under_way(&self, pair: Pair) -> bool {
        self.flights.values().any(|other| *other == pair)
    }

    // An entry that ends at this very moment is removed with the next tick.
    fn ends_now(&self) -> bool {
        self.machine.poll_timeout().is_some_and(|(at, _)| at <= self.now)
    }

    // Nothing more happens: everything comes to its end and is forgotten.
    fn drain(&mut self) {
        self.profile.honest = false;
        // A frame may have come back three times.
        for _ in 0..4 {
            if self.waiting > 0 {
                self.pass(self.profile.parking.deadline);
            }
        }
        self.check(self.frames.iter().all(|frame| frame.out), "a frame was forgotten");
        self.check(self.parking.total().frames == 0, "frames are left");
        self.model.source_down = true;
        self.handle(Event::SourceDown);
        self.pass(MAX_AGE + 2 * FORGET_AFTER);
        self.check_all();
        let summary = self.machine.summary();
        self.check(summary.pairs == 0, "pairs are left");
        self.check(summary.bindings == 0 && self.map.is_empty(), "entries are left");
        self.check(summary.queued == 0 && summary.in_flight == 0, "work is left");
        self.check(self.machine.poll_timeout().is_none(), "timers are left");
    }
}
