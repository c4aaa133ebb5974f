//! What is known about one pair: its proof, and the work on the next one. The two are independent, since a
//! live entry may be renewed.

use std::net::IpAddr;

use crate::agenda::Timers;
use crate::limits::MAX_ADDRESSES_PER_PAIR;
use crate::reason::FailureKind;

/// What is being done towards the next proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Nothing.
    Idle,
    /// Waiting for a place among the handshakes under way.
    Queued { ticket: u64 },
    /// A handshake is under way.
    InFlight { attempt: u64, since: u64 },
    /// The last handshake failed; the next may start then.
    BackOff { until: u64, why: FailureKind },
}

/// A proof that holds, and the entry in the datapath that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Proof {
    pub(crate) expires_at: u64,
    pub(crate) proved_at: u64,
    pub(crate) renew_at: u64,
}

/// Lets frames through that raced with their entry, but not in circles.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Passes {
    pub(crate) window: u64,
    pub(crate) used: u32,
}

#[derive(Debug)]
pub(crate) struct Record {
    /// The local identity that is charged for the pair.
    pub(crate) owner: u32,
    pub(crate) proof: Option<Proof>,
    pub(crate) work: Work,
    /// Frames may be parked for the pair until then.
    pub(crate) waiting: Option<u64>,
    pub(crate) required: bool,
    /// Packets have asked for the pair since its last proof.
    pub(crate) used: bool,
    /// Failures in a row.
    pub(crate) attempts: u32,
    pub(crate) generation: u32,
    pub(crate) last_error: Option<FailureKind>,
    pub(crate) took: Option<u64>,
    pub(crate) failed_since: Option<u64>,
    pub(crate) passes: Passes,
    pub(crate) wanted: Vec<IpAddr>,
    pub(crate) refused: Vec<(IpAddr, u64)>,
    pub(crate) timers: Timers,
}

impl Record {
    pub(crate) fn new(owner: u32, required: bool) -> Self {
        Self {
            owner,
            proof: None,
            work: Work::Idle,
            waiting: None,
            required,
            used: false,
            attempts: 0,
            generation: 0,
            last_error: None,
            took: None,
            failed_since: None,
            passes: Passes::default(),
            wanted: Vec::new(),
            refused: Vec::new(),
            timers: Timers::default(),
        }
    }

    pub(crate) const fn is_live(&self) -> bool {
        self.proof.is_some()
    }

    pub(crate) fn is_waiting(&self, now: u64) -> bool {
        self.waiting.is_some_and(|until| until > now)
    }

    /// A packet is there and stays for at most `patience`.
    pub(crate) fn wait(&mut self, now: u64, patience: u64, ip: Option<IpAddr>) {
        self.waiting = Some(now.saturating_add(patience));
        let Some(ip) = ip else { return };
        if self.wanted.len() < MAX_ADDRESSES_PER_PAIR && !self.wanted.contains(&ip) {
            self.wanted.push(ip);
        }
    }

    pub(crate) fn refuse(&mut self, ip: IpAddr, now: u64, until: u64) {
        self.refused.retain(|(other, end)| *other != ip && *end > now);
        if self.refused.len() < MAX_ADDRESSES_PER_PAIR {
            self.refused.push((ip, until));
        }
    }

    pub(crate) fn refuses(&self, ip: IpAddr, now: u64) -> bool {
        self.refused.iter().any(|(other, until)| *other == ip && *until > now)
    }

    /// When a live pair may be proved again for the sake of an address.
    pub(crate) fn refresh_from(&self, gap: u64) -> u64 {
        self.proof.map_or(0, |proof| proof.proved_at.saturating_add(gap))
    }
}
