//! What can be seen from outside.

use super::Machine;
use crate::agenda::Timer;
use crate::counters::Counters;
use crate::limits::QUIET;
use crate::pair::Pair;
use crate::park::Parking;
use crate::record::{Record, Work};
use crate::status::{PairState, PairStatus, Summary};

impl Machine {
    /// All pairs in order, for `auth list`.
    pub fn pairs<'a, F>(&'a self, parking: &'a Parking<F>) -> impl Iterator<Item = PairStatus> + 'a {
        self.table.iter().map(|(key, record)| status_of(key, record, parking.parked(key)))
    }

    /// Whether the pair has a live entry at this time.
    pub fn is_live(&self, pair: Pair, now: u64) -> bool {
        let proof = self.table.get(pair.canonical()).and_then(|record| record.proof);
        proof.is_some_and(|proof| proof.expires_at > now)
    }

    /// Until when packets of the pair are of no use to the machine, if it is in back-off: the datapath may
    /// drop them by itself until then. Never far ahead, since a back-off may end early.
    pub fn quiet_until(&self, pair: Pair, now: u64) -> Option<u64> {
        let record = self.table.get(pair.canonical())?;
        let Work::BackOff { until, why } = record.work else { return None };
        if record.is_live() || record.timers.get(Timer::Retry).is_some() {
            return None;
        }
        let probe = self.silent.get(&pair.node).copied().filter(|_| why.is_network());
        let until = until.min(now.saturating_add(QUIET)).min(probe.unwrap_or(u64::MAX));
        (until > now).then_some(until)
    }

    /// The machine in numbers.
    pub fn summary(&self) -> Summary {
        Summary {
            pairs: self.table.len(),
            live: self.table.live(),
            failed: self.table.failed(),
            queued: self.queue.queued(),
            in_flight: self.queue.in_flight(),
            bindings: self.bindings.len(),
            timers: self.agenda.len(),
            source_down_since: self.source_down_since,
            epoch: self.epoch,
        }
    }

    /// What has happened since the start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}

fn status_of(pair: Pair, record: &Record, parked: usize) -> PairStatus {
    let retry_at = match record.work {
        Work::BackOff { until, .. } => Some(until),
        Work::Idle | Work::Queued { .. } | Work::InFlight { .. } => None,
    };
    PairStatus {
        pair,
        state: state_of(record),
        expires_at: record.proof.map(|proof| proof.expires_at),
        renew_at: record.proof.map(|proof| proof.renew_at),
        retry_at,
        last_handshake: record.took,
        last_error: record.last_error,
        attempts: record.attempts,
        generation: record.generation,
        required: record.required,
        parked,
    }
}

fn state_of(record: &Record) -> PairState {
    match (record.is_live(), record.work) {
        (false, Work::Idle | Work::BackOff { .. }) => PairState::Failed,
        (false, Work::Queued { .. }) => PairState::Queued,
        (false, Work::InFlight { .. }) => PairState::Proving,
        (true, Work::Idle) => PairState::Live,
        (true, Work::Queued { .. } | Work::InFlight { .. }) => PairState::Renewing,
        (true, Work::BackOff { .. }) => PairState::RenewalFailed,
    }
}
