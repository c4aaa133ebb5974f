//! The passing of time.

use super::Machine;
use crate::agenda::Timer;
use crate::pair::Pair;
use crate::record::Work;

impl Machine {
    /// Runs what is due. Time never goes back.
    pub(super) fn advance(&mut self, now: u64) {
        self.now = self.now.max(now);
        while let Some((timer, key)) = self.agenda.due(self.now) {
            self.clear_timer(key, timer);
            match timer {
                Timer::Expire => self.expire(key),
                Timer::Handshake => self.give_up(key),
                Timer::Retry => self.retry(key),
                Timer::Renew => self.renew(key),
                Timer::Repair => self.repair_due(key),
                Timer::Forget => self.forget(key),
            }
        }
    }

    /// The back-off is over: dial if it is worth it.
    pub(super) fn retry(&mut self, key: Pair) {
        let now = self.now;
        let Some(record) = self.table.get_mut(key) else { return };
        if matches!(record.work, Work::Queued { .. } | Work::InFlight { .. }) {
            return;
        }
        if record.is_waiting(now) {
            self.enqueue_own(key);
        } else if record.is_live() {
            record.work = Work::Idle;
            self.renew(key);
        } else {
            self.rest(key);
        }
    }

    fn forget(&mut self, key: Pair) {
        let rests = self.table.get(key).is_some_and(|record| {
            !record.is_live() && matches!(record.work, Work::Idle | Work::BackOff { .. })
        });
        if rests {
            self.drop_record(key);
        }
    }
}
