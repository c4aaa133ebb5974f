//! What handshakes came to.

use super::Machine;
use crate::action::{Action, Change};
use crate::agenda::Timer;
use crate::backoff;
use crate::event::Assertion;
use crate::limits::{PROBE_GAP, REFUSED_FOR};
use crate::pair::Pair;
use crate::queue::End;
use crate::reason::{DiscardReason, FailureKind};
use crate::record::Work;

impl Machine {
    pub(super) fn dialled_done(
        &mut self,
        pair: Pair,
        attempt: u64,
        started_at: u64,
        not_after: u64,
        said: &[Assertion],
    ) {
        let key = pair.canonical();
        let took = self.now.saturating_sub(started_at);
        if !self.settle(key, attempt, End::Good { took }) {
            return;
        }
        self.counters.done_dialled += 1;
        self.node_answers(key.node);
        let Some(record) = self.table.get(key) else { return };
        if not_after <= self.now {
            self.fail(key, FailureKind::Expired);
        } else if !record.is_live() && !self.table.may_live(record.owner, &self.config) {
            self.fail(key, FailureKind::Overload);
        } else {
            self.prove(pair, started_at, not_after, said, false);
        }
    }

    pub(super) fn inbound_done(&mut self, pair: Pair, started_at: u64, not_after: u64, said: &[Assertion]) {
        let key = pair.canonical();
        if self.tombs.voids(pair, started_at) {
            self.counters.voided += 1;
            return;
        }
        if not_after <= self.now || !pair.can_authenticate() {
            self.counters.stale_results += 1;
            return;
        }
        if self.table.get(key).is_none() {
            let required = self.required.requires(key);
            if let Err(overload) = self.open(key, pair.local, required) {
                self.counters.count_overload(overload);
                return;
            }
        }
        let Some(record) = self.table.get(key) else { return };
        if !record.is_live() && !self.table.may_live(record.owner, &self.config) {
            self.counters.overload_identity += 1;
            self.drop_if_new(key);
            return;
        }
        self.counters.done_inbound += 1;
        self.prove(pair, started_at, not_after, said, true);
    }

    pub(super) fn dialled_failed(&mut self, pair: Pair, attempt: u64, why: FailureKind) {
        let key = pair.canonical();
        let end = if why.is_network() { End::Silent } else { End::Other };
        if self.settle(key, attempt, end) {
            self.fail(key, why);
        }
    }

    /// A handshake without a result.
    pub(super) fn give_up(&mut self, key: Pair) {
        let Some(Work::InFlight { attempt, .. }) = self.table.get(key).map(|record| record.work) else {
            return;
        };
        self.counters.cancelled += 1;
        self.act(Action::Cancel { pair: key, attempt });
        self.dialled_failed(key, attempt, FailureKind::Timeout);
    }

    // The handshake is no longer under way. False if the machine does not know it (any more).
    fn settle(&mut self, key: Pair, attempt: u64, end: End) -> bool {
        let known = self.table.get_mut(key).filter(
            |record| matches!(record.work, Work::InFlight { attempt: current, .. } if current == attempt),
        );
        let Some(record) = known else {
            self.counters.stale_results += 1;
            return false;
        };
        record.work = Work::Idle;
        let owner = record.owner;
        self.clear_timer(key, Timer::Handshake);
        self.queue.done(owner, key.node, end, self.now);
        true
    }

    fn fail(&mut self, key: Pair, why: FailureKind) {
        self.counters.count_failure(why);
        if why.is_network() {
            let probe = self.now.saturating_add(PROBE_GAP);
            self.silent.entry(key.node).or_insert(probe);
        }
        let Some(record) = self.table.get_mut(key) else { return };
        record.attempts = record.attempts.saturating_add(1);
        record.last_error = Some(why);
        let attempts = record.attempts;
        let (min, max) = (self.config.backoff_min, self.config.backoff_max);
        let pause = backoff::pause(backoff::step(attempts, why), min, max, &mut self.rng);
        let until = match record.proof {
            // What is left of a live entry is used for tries, each after half of it.
            Some(proof) => {
                let left = proof.expires_at.saturating_sub(self.now) / 2;
                self.now.saturating_add(pause.min(left.max(min)))
            }
            None => self.now.saturating_add(pause),
        };
        record.work = Work::BackOff { until, why };
        self.emit(key, Change::Failed { why, attempts, retry_at: until });
        self.settle_failure(key, why, attempts, until);
    }

    // What becomes of those who wait: they go on waiting, if the cause may pass, or are disappointed.
    fn settle_failure(&mut self, key: Pair, why: FailureKind, attempts: u32, until: u64) {
        let Some(record) = self.table.get(key) else { return };
        let patient = why.is_passing() && attempts <= backoff::patience(why) && record.is_waiting(self.now);
        if record.is_live() {
            self.set_timer(key, Timer::Retry, until);
            self.disappoint(key, why);
        } else if patient {
            self.set_timer(key, Timer::Retry, until);
        } else {
            self.disappoint(key, why);
            self.rest(key);
        }
    }

    // Whoever waited for the handshake waits no longer.
    fn disappoint(&mut self, key: Pair, why: FailureKind) {
        let Some(record) = self.table.get_mut(key) else { return };
        let until = self.now.saturating_add(REFUSED_FOR);
        if record.is_live() {
            for ip in std::mem::take(&mut record.wanted) {
                record.refuse(ip, self.now, until);
            }
        }
        self.stop_waiting(key, DiscardReason::Failed(why));
    }

    // A node that was silent answers: its pairs need not wait out their back-off.
    fn node_answers(&mut self, node: u16) {
        if self.silent.remove(&node).is_none() {
            return;
        }
        self.forgive(|key, why| key.node == node && why.is_network());
    }

    /// Ends the back-off of pairs whose cause has passed; those that are live or have packets dial at once.
    pub(super) fn forgive(&mut self, passed: impl Fn(Pair, FailureKind) -> bool) {
        let resting: Vec<Pair> = self
            .table
            .iter()
            .filter(|(key, record)| matches!(record.work, Work::BackOff { why, .. } if passed(*key, why)))
            .map(|(key, _)| key)
            .collect();
        for key in resting {
            let Some(record) = self.table.get_mut(key) else { continue };
            record.attempts = 0;
            record.work = Work::Idle;
            let dials = record.is_live() || record.is_waiting(self.now);
            self.clear_timer(key, Timer::Retry);
            if dials {
                self.retry(key);
            } else {
                self.rest(key);
            }
        }
    }
}
