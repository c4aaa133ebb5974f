//! Opening records, queueing pairs and starting handshakes.

use super::Machine;
use crate::action::Action;
use crate::agenda::Timer;
use crate::limits::FORGET_AFTER;
use crate::pair::Pair;
use crate::queue::End;
use crate::reason::{DiscardReason, Overload};
use crate::record::{Record, Work};

impl Machine {
    /// Makes a record, for which a failed one may have to go.
    pub(super) fn open(&mut self, key: Pair, owner: u32, required: bool) -> Result<(), Overload> {
        if let Some(victim) = self.table.room(owner, &self.config)? {
            self.counters.evicted += 1;
            self.drop_record(victim);
        }
        self.table.insert(key, Record::new(owner, required));
        Ok(())
    }

    /// Puts a pair in line. When the queue is full its packets go and the record goes back to rest.
    pub(super) fn enqueue(&mut self, key: Pair) -> Result<(), Overload> {
        let Some(owner) = self.table.get(key).map(|record| record.owner) else { return Err(Overload::Table) };
        let Some(ticket) = self.queue.push(owner, key) else {
            self.stop_waiting(key, DiscardReason::Overload(Overload::Queue));
            self.rest(key);
            return Err(Overload::Queue);
        };
        self.table.unmark_failed(key);
        self.clear_timer(key, Timer::Retry);
        self.clear_timer(key, Timer::Forget);
        if let Some(record) = self.table.get_mut(key) {
            record.work = Work::Queued { ticket };
        }
        Ok(())
    }

    /// As [`Self::enqueue`], for work that no frame at hand waits for: a full queue is counted, no more.
    pub(super) fn enqueue_own(&mut self, key: Pair) {
        if let Err(overload) = self.enqueue(key) {
            self.counters.count_overload(overload);
        }
    }

    /// Starts what may start.
    pub(super) fn pump(&mut self) {
        while let Some((owner, key)) = self.queue.next() {
            let wanted =
                self.table.get(key).is_some_and(|record| record.is_live() || record.is_waiting(self.now));
            if wanted {
                self.start(key);
                continue;
            }
            // Its packets have waited in vain, and nobody asks any more.
            self.queue.done(owner, key.node, End::Other, self.now);
            if let Some(record) = self.table.get_mut(key) {
                record.work = Work::Idle;
                record.waiting = None;
                record.wanted.clear();
            }
            self.rest(key);
        }
    }

    /// Whatever waits for the pair's handshake waits no longer.
    pub(super) fn stop_waiting(&mut self, key: Pair, why: DiscardReason) {
        let Some(record) = self.table.get_mut(key) else { return };
        record.wanted.clear();
        if record.waiting.take().is_some() {
            self.act(Action::Discard { pair: key, why });
        }
    }

    /// If nothing is being done for the pair: remember it if it is live or has failed, forget it otherwise.
    pub(super) fn rest(&mut self, key: Pair) {
        let now = self.now;
        let Some(record) = self.table.get_mut(key) else { return };
        if matches!(record.work, Work::Queued { .. } | Work::InFlight { .. }) {
            return;
        }
        if record.is_live() {
            let retry = now.saturating_add(self.config.backoff_min);
            self.set_timer(key, Timer::Retry, retry);
        } else if record.last_error.is_some() {
            let until = if let Work::BackOff { until, .. } = record.work { until } else { now };
            self.clear_timer(key, Timer::Retry);
            self.table.mark_failed(key, now);
            self.set_timer(key, Timer::Forget, until.max(now).saturating_add(FORGET_AFTER));
        } else {
            self.drop_record(key);
        }
    }

    /// Forgets a record that was opened for a proof which then found no room.
    pub(super) fn drop_if_new(&mut self, key: Pair) {
        let new =
            |record: &Record| record.work == Work::Idle && record.last_error.is_none() && !record.is_live();
        if self.table.get(key).is_some_and(new) {
            self.drop_record(key);
        }
    }

    fn start(&mut self, key: Pair) {
        let attempt = self.next_attempt;
        self.next_attempt += 1;
        self.counters.started += 1;
        if let Some(record) = self.table.get_mut(key) {
            record.work = Work::InFlight { attempt, since: self.now };
        }
        let deadline = self.now.saturating_add(self.config.handshake_deadline);
        self.set_timer(key, Timer::Handshake, deadline);
        self.act(Action::Start { pair: key, attempt });
    }

    /// Takes a pair out of the queue or gives its handshake up, without a verdict on it.
    pub(super) fn stop_work(&mut self, key: Pair) {
        let Some(record) = self.table.get_mut(key) else { return };
        let owner = record.owner;
        match std::mem::replace(&mut record.work, Work::Idle) {
            Work::Queued { ticket } => self.queue.remove(owner, key.node, ticket),
            Work::InFlight { attempt, .. } => {
                self.clear_timer(key, Timer::Handshake);
                self.counters.cancelled += 1;
                self.act(Action::Cancel { pair: key, attempt });
                self.queue.done(owner, key.node, End::Other, self.now);
            }
            Work::BackOff { .. } => self.clear_timer(key, Timer::Retry),
            Work::Idle => {}
        }
    }

    /// Forgets a record without a live entry and without work under way.
    pub(super) fn drop_record(&mut self, key: Pair) {
        if let Some(record) = self.table.remove(key) {
            self.agenda.forget(&record.timers, key);
        }
    }
}
