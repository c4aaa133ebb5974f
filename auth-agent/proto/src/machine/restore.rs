//! Taking over the pinned maps at the start of the agent.

use std::net::IpAddr;

use super::Machine;
use crate::action::Action;
use crate::pair::Pair;
use crate::reason::RemoveReason;
use crate::record::Proof;

impl Machine {
    /// The entry goes on as it is, and is renewed in the last third of the time it has left.
    pub(super) fn restored(&mut self, pair: Pair, expires_at: u64, epoch: u32, generation: u32) {
        let key = pair.canonical();
        self.epoch = self.epoch.max(epoch);
        if expires_at <= self.now && self.table.get(key).is_some_and(|record| record.is_live()) {
            // A younger proof came first; its entry is the one to stay.
            self.install(key);
            return;
        }
        if let Some(why) = self.refuse_restored(pair, expires_at) {
            self.act(Action::Remove { pair, why });
            return;
        }
        let known = self.table.get(key).and_then(|record| record.proof).map(|proof| proof.expires_at);
        let latest = self.now.saturating_add(self.config.max_age);
        // The entries of both directions came from one proof; should they differ, the earlier end is safe.
        let end = expires_at.min(latest).min(known.unwrap_or(u64::MAX));
        if known != Some(end) {
            let renew_at = self.renewal_point(end);
            self.set_live(key, Proof { expires_at: end, proved_at: self.now, renew_at });
        }
        let waited = self.table.get_mut(key).is_some_and(|record| {
            record.generation = record.generation.max(generation);
            record.wanted.clear();
            record.waiting.take().is_some()
        });
        if end != expires_at || known.is_some_and(|known| known != end) {
            self.install(key);
        }
        if waited {
            self.act(Action::Release { pair: key });
        }
    }

    pub(super) fn restored_binding(&mut self, ip: IpAddr, identity: u32, node: u16, generation: u32) {
        if !self.bindings.restore(ip, (identity, node), generation) {
            self.act(Action::Unbind { ip });
        }
    }

    // Makes room for the entry, or says why there is none for it.
    fn refuse_restored(&mut self, pair: Pair, expires_at: u64) -> Option<RemoveReason> {
        let key = pair.canonical();
        if expires_at <= self.now || !pair.can_authenticate() {
            return Some(RemoveReason::Expired);
        }
        let required = self.required.requires(key);
        if self.table.get(key).is_none() && self.open(key, pair.local, required).is_err() {
            return Some(RemoveReason::Overload);
        }
        let record = self.table.get(key)?;
        if record.is_live() || self.table.may_live(record.owner, &self.config) {
            return None;
        }
        self.drop_if_new(key);
        Some(RemoveReason::Overload)
    }
}
