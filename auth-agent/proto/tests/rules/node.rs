//! A machine and a parking queue, driven by hand.

use std::net::IpAddr;

use countersign_auth_proto::limits::MS;
use countersign_auth_proto::{
    Action, Admission, Assertion, Config, Event, FailureKind, Machine, Pair, PairState, PairStatus,
    ParkLimits, Parking, Source, Via,
};

pub const A: u32 = 1000;
pub const B: u32 = 2000;
pub const C: u32 = 3000;
pub const AB: Pair = Pair::new(A, B, 1);

pub fn ip(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

pub struct Node {
    pub machine: Machine,
    pub parking: Parking<u32>,
    pub now: u64,
    frames: u32,
    /// Frames written back, in order.
    pub released: Vec<u32>,
    pub discarded: u64,
    pub expired: u64,
    /// Frames for which the parking queue had no place.
    pub refused: u64,
}

impl Node {
    pub fn new() -> Self {
        Self::with(Config::default())
    }

    pub fn with(config: Config) -> Self {
        let parking = Parking::new(ParkLimits::default());
        let machine = Machine::new(config, 42);
        Self {
            machine,
            parking,
            now: MS,
            frames: 0,
            released: Vec::new(),
            discarded: 0,
            expired: 0,
            refused: 0,
        }
    }

    /// A frame of the pair arrives at the parking device.
    pub fn frame(&mut self, pair: Pair) -> Admission {
        self.frame_from(pair, None)
    }

    pub fn frame_from(&mut self, pair: Pair, remote_ip: Option<IpAddr>) -> Admission {
        let admission = self.machine.admit(pair, remote_ip, self.now);
        self.frames += 1;
        if admission == Admission::Park {
            let source = Source::Pod((pair.local % 4_096) as u16);
            let place = self.parking.push(pair, source, self.frames, 100, self.now);
            self.refused += u64::from(place.is_err());
        }
        admission
    }

    pub fn event(&mut self, event: Event) -> Vec<Action> {
        self.machine.handle(event, self.now);
        self.actions()
    }

    /// All pending actions, frames dealt with.
    pub fn actions(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        while let Some(action) = self.machine.poll_action() {
            match action {
                Action::Release { pair } => {
                    self.released.extend(self.parking.release(pair).map(|parked| parked.frame));
                }
                Action::Discard { pair, .. } => self.discarded += self.parking.discard(pair).count() as u64,
                _ => {}
            }
            actions.push(action);
        }
        actions
    }

    /// Lets time pass, running every timer at its time; returns the actions and when they came.
    pub fn pass(&mut self, span: u64) -> Vec<(u64, Action)> {
        let end = self.now + span;
        let mut log = Vec::new();
        loop {
            let machine = self.machine.poll_timeout().map(|(at, _)| at);
            let next = [machine, self.parking.next_deadline()].into_iter().flatten().min();
            let Some(at) = next.filter(|at| *at <= end) else { break };
            self.now = self.now.max(at);
            let actions = self.event(Event::Tick);
            self.expired +=
                self.parking.expire(self.now).iter().map(|(_, frames)| frames.len() as u64).sum::<u64>();
            log.extend(actions.into_iter().map(|action| (self.now, action)));
        }
        self.now = end;
        log
    }

    /// The handshake that is to be started now; there must be exactly one.
    pub fn started(&mut self) -> u64 {
        let starts = starts(&self.actions());
        assert_eq!(starts.len(), 1, "exactly one handshake: {starts:?}");
        starts[0].1
    }

    pub fn done(&mut self, pair: Pair, attempt: u64, life: u64) -> Vec<Action> {
        self.done_with(pair, attempt, life, &[])
    }

    pub fn done_with(&mut self, pair: Pair, attempt: u64, life: u64, said: &[Assertion]) -> Vec<Action> {
        self.event(Event::HandshakeDone {
            pair,
            via: Via::Dialled { attempt },
            started_at: self.now,
            not_after: self.now + life,
            assertions: said.to_vec(),
        })
    }

    pub fn inbound(&mut self, pair: Pair, started_at: u64, life: u64) -> Vec<Action> {
        let not_after = self.now + life;
        self.event(Event::HandshakeDone {
            pair,
            via: Via::Inbound,
            started_at,
            not_after,
            assertions: vec![],
        })
    }

    pub fn fail(&mut self, pair: Pair, attempt: u64, why: FailureKind) -> Vec<Action> {
        self.event(Event::HandshakeFailed { pair, attempt, why })
    }

    /// Proves a pair from nothing.
    pub fn prove(&mut self, pair: Pair, life: u64) {
        assert_eq!(self.frame(pair), Admission::Park);
        let attempt = self.started();
        self.done(pair, attempt, life);
    }

    pub fn status(&self, pair: Pair) -> Option<PairStatus> {
        self.machine.pairs(&self.parking).find(|status| status.pair == pair.canonical())
    }

    pub fn state(&self, pair: Pair) -> Option<PairState> {
        self.status(pair).map(|status| status.state)
    }

    pub fn is_live(&self, pair: Pair) -> bool {
        self.machine.is_live(pair, self.now)
    }
}

pub fn starts(actions: &[Action]) -> Vec<(Pair, u64)> {
    actions
        .iter()
        .filter_map(|action| match action {
            Action::Start { pair, attempt } => Some((*pair, *attempt)),
            _ => None,
        })
        .collect()
}

pub fn timed_starts(log: &[(u64, Action)]) -> Vec<(u64, u64)> {
    log.iter()
        .filter_map(|(at, action)| match action {
            Action::Start { attempt, .. } => Some((*at, *attempt)),
            _ => None,
        })
        .collect()
}
