//! What policy requires, and what is used.

use std::sync::Arc;

use super::Machine;
use crate::action::Action;
use crate::pair::Pair;
use crate::record::Work;
use crate::required::Required;

impl Machine {
    pub(super) fn policy_changed(&mut self, required: Arc<Required>) {
        self.required = required;
        for key in self.pairs_where(|_| true) {
            let required = self.required.requires(key);
            let Some(record) = self.table.get_mut(key) else { continue };
            record.required = required;
            if required {
                self.renew(key);
            } else {
                self.no_longer_required(key);
            }
        }
    }

    pub(super) fn used(&mut self, pair: Pair) {
        let key = pair.canonical();
        if let Some(record) = self.table.get_mut(key) {
            record.used = true;
            self.renew(key);
        }
    }

    // A live entry stays until its end, which harms nobody and outlasts a policy that comes and goes. Packets
    // that wait are judged again by the datapath, under the new policy.
    fn no_longer_required(&mut self, key: Pair) {
        let Some(record) = self.table.get_mut(key) else { return };
        let waited = record.waiting.take().is_some();
        record.wanted.clear();
        let live = record.is_live();
        if !matches!(record.work, Work::InFlight { .. }) {
            self.stop_work(key);
            if !live {
                self.drop_record(key);
            }
        }
        if waited {
            self.act(Action::Release { pair: key });
        }
    }
}
