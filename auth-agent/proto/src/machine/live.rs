//! Entries: their proof, renewal, repair and end.

use std::net::IpAddr;

use super::Machine;
use crate::action::{Action, Change};
use crate::agenda::Timer;
use crate::event::Assertion;
use crate::limits::{MIN_RENEW_GAP, REFUSED_FOR};
use crate::pair::Pair;
use crate::reason::{DiscardReason, RemoveReason};
use crate::record::{Proof, Work};

impl Machine {
    /// A verified handshake makes or renews the entry. The newest proof counts, also if it ends earlier.
    pub(super) fn prove(
        &mut self,
        pair: Pair,
        started_at: u64,
        not_after: u64,
        said: &[Assertion],
        inbound: bool,
    ) {
        let key = pair.canonical();
        let Some(before) = self.table.get(key).map(|record| record.proof) else { return };
        let proof = self.new_proof(before, not_after);
        self.set_live(key, proof);
        let took = self.now.saturating_sub(started_at);
        self.note_success(key, took);
        let (changes, ignored) = self.bindings.assert((pair.remote, pair.node), started_at, said);
        self.counters.assertions_ignored += ignored;
        for change in changes {
            self.rebind(change);
        }
        self.install(key);
        self.satisfy(key, pair, before.is_none());
        let renewal = before.is_some();
        self.counters.renewed += u64::from(renewal);
        self.emit(key, Change::Proved { took, expires_at: proof.expires_at, inbound, renewal });
    }

    fn new_proof(&mut self, before: Option<Proof>, not_after: u64) -> Proof {
        let now = self.now;
        let expires_at = not_after.min(now.saturating_add(self.config.max_age));
        match before {
            // While the identity source is away nothing is extended.
            Some(old) if self.source_down_since.is_some() && expires_at >= old.expires_at => {
                Proof { proved_at: now, ..old }
            }
            _ => Proof { expires_at, proved_at: now, renew_at: self.renewal_point(expires_at) },
        }
    }

    /// A random point in the last third of the time left, but not in its last twelfth: a renewal that fails
    /// at first has time for another.
    pub(super) fn renewal_point(&mut self, expires_at: u64) -> u64 {
        let left = expires_at.saturating_sub(self.now);
        let after = left / 3 * 2 + self.rng.up_to(left / 4);
        self.now.saturating_add(after.max(MIN_RENEW_GAP))
    }

    /// Puts the proof in force and starts its timers.
    pub(super) fn set_live(&mut self, key: Pair, proof: Proof) {
        self.table.unmark_failed(key);
        let before = self.table.set_proof(key, Some(proof));
        if before.is_none() {
            self.bindings.retain(key.remote, key.node);
            if let Some(mirror) = key.mirror() {
                self.bindings.retain(mirror.remote, mirror.node);
            }
        }
        self.clear_timer(key, Timer::Forget);
        self.clear_timer(key, Timer::Retry);
        self.set_timer(key, Timer::Expire, proof.expires_at);
        if proof.renew_at > self.now && proof.renew_at < proof.expires_at {
            self.set_timer(key, Timer::Renew, proof.renew_at);
        } else {
            self.clear_timer(key, Timer::Renew);
        }
    }

    fn note_success(&mut self, key: Pair, took: u64) {
        // A handshake of our own that is still under way is left to end: the peer may count on it.
        let busy = self.table.get(key).is_some_and(|record| matches!(record.work, Work::InFlight { .. }));
        if !busy {
            self.stop_work(key);
        }
        let Some(record) = self.table.get_mut(key) else { return };
        record.attempts = 0;
        record.last_error = None;
        record.took = Some(took);
        record.generation = record.generation.wrapping_add(1);
        record.used = false;
    }

    // Packets that waited for the proof go on; addresses the peer did not assert are refused for a while.
    fn satisfy(&mut self, key: Pair, pair: Pair, first: bool) {
        let now = self.now;
        let Some(record) = self.table.get_mut(key) else { return };
        // A handshake of our own that is still under way may assert more; on the same node it always does.
        let final_word = !matches!(record.work, Work::InFlight { .. });
        // On the same node the frames of both directions wait together.
        let is_bound = |ip| {
            self.bindings.holds(ip, pair.remote, pair.node)
                || (key.node == 0 && self.bindings.holds(ip, pair.local, 0))
        };
        // Its other half says whose the rest of the addresses is: then all that waits goes on in its order.
        if key.node == 0 && !final_word && record.wanted.iter().any(|ip| !is_bound(*ip)) {
            return;
        }
        for ip in std::mem::take(&mut record.wanted) {
            if final_word && !is_bound(ip) {
                record.refuse(ip, now, now.saturating_add(REFUSED_FOR));
            }
        }
        record.used |= record.waiting.is_some();
        self.clear_timer(key, Timer::Repair);
        let waited = self.table.get_mut(key).is_some_and(|record| record.waiting.take().is_some());
        if waited || first {
            self.act(Action::Release { pair: key });
        }
    }

    /// Writes the entry, or both.
    pub(super) fn install(&mut self, key: Pair) {
        let Some(record) = self.table.get(key) else { return };
        let Some(proof) = record.proof else { return };
        let (epoch, generation) = (self.epoch, record.generation);
        for pair in [Some(key), key.mirror()].into_iter().flatten() {
            self.act(Action::Install { pair, expires_at: proof.expires_at, epoch, generation });
        }
    }

    pub(super) fn repair_entry(&mut self, key: Pair, ip: Option<IpAddr>) {
        self.counters.repaired += 1;
        if let Some(change) = ip.and_then(|ip| self.bindings.get(ip)) {
            self.rebind(change);
        }
        self.install(key);
    }

    /// Frames circled; after a pause the entry is written again and they get another chance.
    pub(super) fn repair_due(&mut self, key: Pair) {
        let Some(record) = self.table.get_mut(key) else { return };
        let wanted = std::mem::take(&mut record.wanted);
        let waited = record.waiting.take().is_some();
        for change in wanted.into_iter().filter_map(|ip| self.bindings.get(ip)).collect::<Vec<_>>() {
            self.rebind(change);
        }
        self.repair_entry(key, None);
        if waited {
            self.act(Action::Release { pair: key });
        }
    }

    pub(super) fn renew(&mut self, key: Pair) {
        let renew_unused = self.config.renew_unused;
        let Some(record) = self.table.get(key) else { return };
        let due = record.proof.is_some_and(|proof| proof.renew_at <= self.now);
        let wanted = record.required && (record.used || renew_unused) && self.source_down_since.is_none();
        if due && wanted && record.work == Work::Idle {
            self.enqueue_own(key);
        }
    }

    /// The proof is no longer in force: the entries go, and the addresses nobody vouches for.
    pub(super) fn end_live(&mut self, key: Pair, why: RemoveReason) {
        if self.table.set_proof(key, None).is_none() {
            return;
        }
        for timer in [Timer::Expire, Timer::Renew, Timer::Repair] {
            self.clear_timer(key, timer);
        }
        match why {
            RemoveReason::Expired => self.counters.expired += 1,
            _ => self.counters.removed += 1,
        }
        for pair in [Some(key), key.mirror()].into_iter().flatten() {
            self.act(Action::Remove { pair, why });
            for change in self.bindings.release(pair.remote, pair.node) {
                self.rebind(change);
            }
        }
        self.emit(key, Change::Removed(why));
    }

    /// The entry's time is over. Work towards the next proof goes on if somebody waits for it.
    pub(super) fn expire(&mut self, key: Pair) {
        self.end_live(key, RemoveReason::Expired);
        let Some(record) = self.table.get(key) else { return };
        let waits = record.is_waiting(self.now);
        match record.work {
            Work::InFlight { .. } => {}
            Work::Queued { .. } if waits => {}
            Work::Queued { .. } => {
                self.stop_work(key);
                self.rest(key);
            }
            Work::Idle if waits => self.enqueue_own(key),
            Work::Idle => self.rest(key),
            Work::BackOff { why, .. } => {
                self.stop_waiting(key, DiscardReason::BackOff(why));
                self.rest(key);
            }
        }
    }
}
