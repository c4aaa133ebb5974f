//! The rules of the lease against a naive oracle: whoever leads has its name in the record, at every moment, whatever
//! network, clocks and processes do.

use std::collections::BTreeMap;
use std::time::Duration;

use countersign_cluster::election::{Answer, Election, Next, Record, Request, Timing, TimingError};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// The record as a server keeps it.
#[derive(Default)]
struct Server {
    stored: Option<Record>,
    version: u64,
}

impl Server {
    fn apply(&mut self, request: &Request) -> Answer {
        match (request, &self.stored) {
            (Request::Read, None) => return Answer::NotFound,
            (Request::Read, Some(record)) => {
                return Answer::Found { record: record.clone(), version: self.version.to_string() };
            }
            (Request::Create(_), Some(_)) => return Answer::Conflict,
            (Request::Replace { .. }, None) => return Answer::NotFound,
            (Request::Replace { version, .. }, Some(_)) if *version != self.version.to_string() => {
                return Answer::Conflict;
            }
            (Request::Create(record) | Request::Replace { record, .. }, _) => {
                self.stored = Some(record.clone());
            }
        }
        self.version += 1;
        Answer::Written { version: self.version.to_string() }
    }

    fn holder(&self) -> &str {
        self.stored.as_ref().map_or("", |record| &record.holder)
    }
}

/// A request on its way; lost ones never arrive.
struct Flight {
    request: Request,
    /// When the candidate sent it, by its own clock.
    sent: Duration,
    arrives: Option<u64>,
    /// The answer and when it is back, if it comes back.
    back: Option<(u64, Answer)>,
    answer_delay: Option<u64>,
}

struct Process {
    name: String,
    election: Election,
    /// Its clock is at `offset + rate * time`.
    offset: u64,
    rate: f64,
    waits: Option<usize>,
    flights: BTreeMap<usize, Flight>,
    count: usize,
    paused_until: u64,
    cut_until: u64,
}

impl Process {
    fn new(number: usize, rng: &mut StdRng, timing: Timing) -> Self {
        let name = format!("p{number}");
        Self {
            election: Election::new(name.clone(), timing),
            name,
            offset: rng.random_range(0..1_000_000_000),
            // Clocks that differ by less than the lease is longer than the renew deadline.
            rate: rng.random_range(0.85..1.15),
            waits: None,
            flights: BTreeMap::new(),
            count: 0,
            paused_until: 0,
            cut_until: 0,
        }
    }

    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn clock(&self, time: u64) -> Duration {
        Duration::from_millis(self.offset + (time as f64 * self.rate) as u64)
    }

    fn leads(&self, time: u64) -> bool {
        self.election.is_leader(self.clock(time))
    }
}

struct World {
    server: Server,
    processes: Vec<Process>,
    rng: StdRng,
    time: u64,
    born: usize,
    timing: Timing,
    /// Requests of processes that are dead, still on their way.
    orphans: Vec<Flight>,
    takeovers: usize,
}

impl World {
    fn new(seed: u64, count: usize) -> Self {
        let (mut rng, timing) = (StdRng::seed_from_u64(seed), Timing::default());
        let processes = (0..count).map(|number| Process::new(number, &mut rng, timing)).collect();
        Self {
            server: Server::default(),
            processes,
            rng,
            time: 0,
            born: count,
            timing,
            orphans: vec![],
            takeovers: 0,
        }
    }

    /// One more step of time: what arrives, arrives; who may, acts; then who leads must be who the record says.
    fn step(&mut self, faults: bool) {
        self.time += self.rng.random_range(1..200);
        if faults {
            self.fault();
        }
        self.deliver();
        for index in 0..self.processes.len() {
            self.act(index, faults);
        }
        let leaders: Vec<&str> =
            self.processes.iter().filter(|p| p.leads(self.time)).map(|p| &*p.name).collect();
        assert!(leaders.len() <= 1, "two lead at {}: {leaders:?}", self.time);
        assert!(leaders.iter().all(|name| *name == self.server.holder()), "{leaders:?} at {}", self.time);
    }

    fn fault(&mut self) {
        let index = self.rng.random_range(0..self.processes.len());
        let length = self.rng.random_range(100..40_000);
        match self.rng.random_range(0..2_000) {
            0..4 => self.processes[index].paused_until = self.time + length,
            4..8 => self.processes[index].cut_until = self.time + length,
            8..10 => {
                let fresh = Process::new(self.born, &mut self.rng, self.timing);
                self.born += 1;
                let dead = std::mem::replace(&mut self.processes[index], fresh);
                self.orphans.extend(dead.flights.into_values().filter(|flight| flight.back.is_none()));
            }
            10 => {
                // Asked to end: it leads no more, then says so.
                let fresh = Process::new(self.born, &mut self.rng, self.timing);
                self.born += 1;
                let ended = std::mem::replace(&mut self.processes[index], fresh);
                self.orphans.extend(ended.flights.into_values().filter(|flight| flight.back.is_none()));
                if let Some(request) = ended.election.release(0) {
                    self.server.apply(&request);
                }
            }
            _ => {}
        }
    }

    /// In the order of arrival.
    fn deliver(&mut self) {
        let (time, server) = (self.time, &mut self.server);
        let waiting = self.processes.iter_mut().flat_map(|process| process.flights.values_mut());
        let mut arrived: Vec<&mut Flight> = waiting
            .chain(self.orphans.iter_mut())
            .filter(|flight| flight.back.is_none() && flight.arrives.is_some_and(|at| at <= time))
            .collect();
        arrived.sort_by_key(|flight| flight.arrives);
        for flight in arrived {
            let before = server.holder().to_owned();
            let answer = server.apply(&flight.request);
            self.takeovers += usize::from(before != server.holder());
            let back = flight.answer_delay.map_or(u64::MAX, |delay| time + delay);
            flight.back = Some((back, answer));
        }
    }

    fn act(&mut self, index: usize, faults: bool) {
        let (time, process) = (self.time, &mut self.processes[index]);
        if time < process.paused_until {
            return;
        }
        let now = process.clock(time);
        if let Some(id) = process.waits {
            let flight = &process.flights[&id];
            let patience = self.timing.renew / 2;
            let answer = match &flight.back {
                Some((at, answer)) if *at <= time => answer.clone(),
                _ if now > flight.sent + patience => Answer::Failed,
                _ => return,
            };
            process.waits = None;
            let (request, sent) = (flight.request.clone(), flight.sent);
            process.election.handle(&request, sent, answer, now);
        }
        process.flights.retain(|_, flight| flight.back.is_none());
        let Next::Ask(request) = process.election.next(now, 0) else { return };
        let lost = faults && (time < process.cut_until || self.rng.random_range(0..20) == 0);
        let slow = faults && self.rng.random_range(0..20) == 0;
        let mut delay = || self.rng.random_range(0..if slow { 30_000 } else { 300 });
        // Half of what is lost is lost on the way back.
        let (there, back) = (delay(), delay());
        let arrives = (!lost || (time >= process.cut_until && there % 2 == 0)).then_some(time + there);
        let answer_delay = (!lost).then_some(back);
        process.count += 1;
        process.waits = Some(process.count);
        process
            .flights
            .insert(process.count, Flight { request, sent: now, arrives, back: None, answer_delay });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn never_do_two_lead(seed in any::<u64>(), count in 2..5_usize) {
        let mut world = World::new(seed, count);
        for _ in 0..10_000 {
            world.step(true);
        }
        prop_assert!(world.takeovers > 0, "nobody ever led");
        // All is well again: somebody leads, and goes on.
        for process in &mut world.processes {
            (process.paused_until, process.cut_until) = (0, 0);
        }
        for _ in 0..1_000 {
            world.step(false);
        }
        let (takeovers, mut led) = (world.takeovers, 0);
        for _ in 0..1_000 {
            world.step(false);
            led += usize::from(world.processes.iter().any(|process| process.leads(world.time)));
        }
        prop_assert_eq!((world.takeovers, led), (takeovers, 1_000));
    }
}

/// A candidate and a server without delay, asked until the candidate waits.
fn settle(election: &mut Election, server: &mut Server, now: Duration) {
    while let Next::Ask(request) = election.next(now, 7) {
        let answer = server.apply(&request);
        election.handle(&request, now, answer, now);
    }
}

#[test]
fn a_leader_that_is_cut_off_stops_before_its_lease_ends() {
    let seconds = Duration::from_secs;
    let (timing, mut server) = (Timing::default(), Server::default());
    let mut first = Election::new("first".to_owned(), timing);
    let mut second = Election::new("second".to_owned(), timing);
    settle(&mut first, &mut server, seconds(100));
    settle(&mut second, &mut server, seconds(0));
    assert!(first.is_leader(seconds(100)) && !second.is_leader(seconds(0)));
    assert_eq!(second.holder(), Some("first"));
    assert!(first.is_leader(seconds(109)) && !first.is_leader(seconds(110)));
    for now in 1..15 {
        settle(&mut second, &mut server, seconds(now));
        assert!(!second.is_leader(seconds(now)), "at {now}");
    }
    settle(&mut second, &mut server, seconds(16));
    assert!(second.is_leader(seconds(16)));
    settle(&mut first, &mut server, seconds(117));
    assert!(!first.is_leader(seconds(117)));
    let record = server.stored.clone().unwrap();
    assert_eq!((record.holder.as_str(), record.transitions, record.lease_seconds), ("second", 1, 15));
}

#[test]
fn a_lease_that_was_given_back_is_free_at_once() {
    let (timing, mut server, now) = (Timing::default(), Server::default(), Duration::from_secs(5));
    let mut first = Election::new("first".to_owned(), timing);
    let mut second = Election::new("second".to_owned(), timing);
    settle(&mut first, &mut server, now);
    settle(&mut second, &mut server, now);
    assert!(second.release(0).is_none(), "it is not its own to give");
    server.apply(&first.release(0).unwrap());
    settle(&mut second, &mut server, now + timing.retry);
    assert!(second.is_leader(now + timing.retry));
}

#[test]
fn whoever_was_seen_to_lead_is_waited_for_though_the_lease_was_deleted() {
    let (timing, mut server, now) = (Timing::default(), Server::default(), Duration::from_secs(5));
    let mut first = Election::new("first".to_owned(), timing);
    let mut second = Election::new("second".to_owned(), timing);
    settle(&mut first, &mut server, now);
    settle(&mut second, &mut server, now);
    server.stored = None;
    settle(&mut second, &mut server, now + timing.retry);
    assert!(!second.is_leader(now + timing.retry));
    settle(&mut first, &mut server, now + timing.retry);
    assert!(first.is_leader(now + timing.retry), "it has written it anew");
}

#[test]
fn times_that_do_not_work_are_refused() {
    let timing = |lease, renew, retry| {
        let millis = Duration::from_millis;
        Timing { lease: millis(lease), renew: millis(renew), retry: millis(retry) }.check().map(drop)
    };
    assert_eq!(timing(15_000, 10_000, 2_000), Ok(()));
    assert_eq!(timing(1_500, 1_000, 200), Err(TimingError::Lease));
    assert_eq!(timing(0, 1_000, 200), Err(TimingError::Lease));
    assert_eq!(timing(10_000, 10_000, 2_000), Err(TimingError::Renew));
    assert_eq!(timing(15_000, 10_000, 9_000), Err(TimingError::Retry));
    assert_eq!(timing(15_000, 10_000, 0), Err(TimingError::Retry));
}
