//! A packet without a live entry.

use std::net::IpAddr;

use super::{Admission, Machine};
use crate::action::Action;
use crate::agenda::Timer;
use crate::limits::{PASSES_PER_GAP, PROBE_GAP, REFRESH_GAP, REPAIR_GAP};
use crate::pair::Pair;
use crate::reason::{DiscardReason, Overload};
use crate::record::{Passes, Work};

impl Machine {
    pub(super) fn missing_event(&mut self, pair: Pair, ip: Option<IpAddr>) {
        match self.missing(pair, ip) {
            Admission::Park => {}
            Admission::Pass => self.act(Action::Release { pair: pair.canonical() }),
            Admission::Drop(why) => {
                // Frames of the pair that wait for something else leave with that.
                let waits =
                    self.table.get(pair.canonical()).is_some_and(|record| record.is_waiting(self.now));
                if !waits {
                    self.act(Action::Discard { pair: pair.canonical(), why });
                }
            }
        }
    }

    pub(super) fn missing(&mut self, pair: Pair, ip: Option<IpAddr>) -> Admission {
        self.counters.missing += 1;
        let admission = match self.judge(pair, ip) {
            Ok(admission) => admission,
            Err(overload) => Admission::Drop(DiscardReason::Overload(overload)),
        };
        if let Admission::Drop(why) = admission {
            self.counters.count_refusal(why);
        }
        admission
    }

    fn judge(&mut self, pair: Pair, ip: Option<IpAddr>) -> Result<Admission, Overload> {
        if !pair.can_authenticate() {
            return Ok(Admission::Drop(DiscardReason::Reserved));
        }
        let key = pair.canonical();
        if self.table.get(key).is_none() {
            self.open(key, pair.local, true)?;
        }
        let Some(record) = self.table.get_mut(key) else { return Err(Overload::Table) };
        // The datapath asks: whatever is known about policy here is older.
        record.required = true;
        record.used = true;
        if !record.is_live() {
            return self.judge_unproven(key, ip);
        }
        self.renew(key);
        match ip.filter(|ip| !self.bindings.holds(*ip, pair.remote, pair.node)) {
            Some(ip) => self.judge_unbound(key, ip),
            None => Ok(self.judge_live(key, ip)),
        }
    }

    fn judge_unproven(&mut self, key: Pair, ip: Option<IpAddr>) -> Result<Admission, Overload> {
        let now = self.now;
        let Some(record) = self.table.get(key) else { return Err(Overload::Table) };
        match record.work {
            Work::Queued { .. } | Work::InFlight { .. } => Ok(self.park(key, ip)),
            Work::BackOff { .. } if record.timers.get(Timer::Retry).is_some() => Ok(self.park(key, ip)),
            Work::BackOff { until, why } if until > now => {
                if !why.is_network() || !self.probe(key.node) {
                    return Ok(Admission::Drop(DiscardReason::BackOff(why)));
                }
                self.enqueue(key)?;
                Ok(self.park(key, ip))
            }
            Work::BackOff { .. } | Work::Idle => {
                self.enqueue(key)?;
                Ok(self.park(key, ip))
            }
        }
    }

    // Live, but the remote address is not bound: the peer is asked again what it has, now and then.
    fn judge_unbound(&mut self, key: Pair, ip: IpAddr) -> Result<Admission, Overload> {
        let now = self.now;
        let Some(record) = self.table.get(key) else { return Err(Overload::Table) };
        if record.refuses(ip, now) {
            return Ok(Admission::Drop(DiscardReason::NotAsserted));
        }
        let from = record.refresh_from(REFRESH_GAP);
        match record.work {
            Work::Queued { .. } | Work::InFlight { .. } => {}
            Work::BackOff { until, why } if until > now => {
                return Ok(Admission::Drop(DiscardReason::BackOff(why)));
            }
            Work::BackOff { .. } | Work::Idle if from > now => self.set_timer(key, Timer::Retry, from),
            Work::BackOff { .. } | Work::Idle => self.enqueue(key)?,
        }
        Ok(self.park(key, Some(ip)))
    }

    // Live and bound, and the datapath says it is not: the frame raced with the entry, or the entry was lost.
    fn judge_live(&mut self, key: Pair, ip: Option<IpAddr>) -> Admission {
        let now = self.now;
        let Some(record) = self.table.get_mut(key) else { return Admission::Park };
        let proved_at = record.proof.map_or(0, |proof| proof.proved_at);
        if record.timers.get(Timer::Repair).is_some() {
            return self.park(key, ip);
        }
        if now.saturating_sub(record.passes.window) >= REPAIR_GAP || record.passes.used == 0 {
            record.passes = Passes { window: now, used: 0 };
        }
        record.passes.used += 1;
        let Passes { window, used } = record.passes;
        if used > PASSES_PER_GAP {
            self.set_timer(key, Timer::Repair, window.saturating_add(REPAIR_GAP));
            return self.park(key, ip);
        }
        if used == 1 && now.saturating_sub(proved_at) >= REPAIR_GAP {
            self.repair_entry(key, ip);
        }
        Admission::Pass
    }

    fn park(&mut self, key: Pair, ip: Option<IpAddr>) -> Admission {
        let (now, patience) = (self.now, self.config.park_deadline);
        if let Some(record) = self.table.get_mut(key) {
            record.wait(now, patience, ip);
        }
        Admission::Park
    }

    // Whether a pair of a node that does not answer may dial in spite of its back-off.
    fn probe(&mut self, node: u16) -> bool {
        let Some(at) = self.silent.get_mut(&node) else { return false };
        if *at > self.now {
            return false;
        }
        *at = self.now.saturating_add(PROBE_GAP);
        self.counters.probes += 1;
        true
    }
}
