//! Policy into the maps of this node's endpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use countersign_auth_proto::{Event, Remotes, Required};
use countersign_ebpf_loader::{PolicyOp, PolicyTable};
use countersign_policy::identity::reserved;
use countersign_policy::{EndpointPolicy, Op, diff};

use super::Node;
use crate::clock;

impl Node {
    /// Works out the policy of the endpoints with these identities anew.
    pub(super) fn regenerate(&mut self, identities: &BTreeSet<u32>) {
        let of = self.endpoints.iter().filter(|endpoint| identities.contains(&endpoint.identity));
        let slots: Vec<u16> = of.map(|endpoint| endpoint.saved.slot).collect();
        if slots.is_empty() {
            return;
        }
        for slot in slots {
            self.regenerate_slot(slot);
        }
        self.tell_required();
    }

    pub(super) fn regenerate_all(&mut self) {
        let slots: Vec<u16> = self.endpoints.iter().map(|endpoint| endpoint.saved.slot).collect();
        for slot in slots {
            self.regenerate_slot(slot);
        }
        self.tell_required();
    }

    /// Brings one endpoint's maps from what they hold to what they should. If a table is full, the last good
    /// policy stays, and the status says so.
    pub(super) fn regenerate_slot(&mut self, slot: u16) {
        let Some(endpoint) = self.endpoints.get(slot) else { return };
        let new = self.policies.resolve(endpoint.identity, slot);
        let ops = changes(&diff(&endpoint.policy, &new));
        if ops.is_empty() {
            return;
        }
        let result = self.datapath.policy_apply(&ops);
        let problem = match result {
            Ok(()) => None,
            Err(error) => {
                tracing::warn!(slot, %error, "policy not applied; the last good one stays");
                self.restore_policy(slot, &new);
                Some(error.to_string())
            }
        };
        if let Some(endpoint) = self.endpoints.get_mut(slot) {
            if problem.is_none() {
                endpoint.policy = new;
            }
            endpoint.policy_error = problem;
        }
        self.bump_policy(slot);
    }

    /// Undoes a change that was applied in part.
    fn restore_policy(&mut self, slot: u16, half_applied: &EndpointPolicy) {
        let Some(endpoint) = self.endpoints.get(slot) else { return };
        let back = changes(&diff(half_applied, &endpoint.policy));
        // Removing comes first here, since there is no room.
        let (deletes, upserts): (Vec<_>, Vec<_>) =
            back.into_iter().partition(|op| matches!(op, PolicyOp::Delete(..)));
        for ops in [deletes, upserts] {
            if let Err(error) = self.datapath.policy_apply(&ops) {
                tracing::error!(slot, %error, "the last good policy could not be restored in full");
            }
        }
    }

    /// Takes an endpoint's entries out.
    pub(super) fn clear_policy(&mut self, policy: &EndpointPolicy) {
        let exact = policy.exact.keys().map(|key| PolicyOp::Delete(PolicyTable::Exact, *key));
        let tries =
            policy.entries.keys().map(|(key, bits)| PolicyOp::Delete(PolicyTable::Prefix(*bits), *key));
        self.delete_policy(&exact.chain(tries).collect::<Vec<_>>());
    }

    /// Takes out what an earlier process left in slots that nobody has any more.
    pub(super) fn clear_stale_policies(&mut self) {
        let all = self.datapath.policy().into_iter();
        let stale = all.filter(|(_, key, _)| self.endpoints.get(u16::from_be(key.slot_be)).is_none());
        let ops: Vec<PolicyOp> = stale.map(|(table, key, _)| PolicyOp::Delete(table, key)).collect();
        self.delete_policy(&ops);
    }

    fn delete_policy(&mut self, ops: &[PolicyOp]) {
        if let Err(error) = self.datapath.policy_apply(ops) {
            tracing::error!(%error, "an old policy could not be removed");
        }
    }

    /// Which pairs must authenticate now, for renewal and garbage collection.
    pub(super) fn tell_required(&mut self) {
        let mut locals: BTreeMap<u32, Remotes> = BTreeMap::new();
        for endpoint in self.endpoints.iter() {
            let peers = endpoint.policy.required_peers();
            if peers.is_empty() {
                continue;
            }
            let any = peers.contains(&reserved::UNKNOWN);
            let entry = locals.entry(endpoint.identity).or_insert_with(|| Remotes::These(BTreeSet::new()));
            match entry {
                _ if any => *entry = Remotes::Any,
                Remotes::These(known) => known.extend(peers),
                Remotes::Any => {}
            }
        }
        let required = Arc::new(Required::These(locals));
        self.machine.handle(Event::PolicyChanged { required }, clock::boot_ns());
    }

    pub(super) fn bump_policy(&mut self, slot: u16) {
        if let Err(error) = self.datapath.epoch_bump_policy(slot) {
            tracing::error!(slot, %error, "cached verdicts could not be made stale: they end within a second");
        }
    }

    pub(super) fn bump_policy_of_all(&mut self) {
        let slots: Vec<u16> = self.endpoints.iter().map(|endpoint| endpoint.saved.slot).collect();
        slots.into_iter().for_each(|slot| self.bump_policy(slot));
    }
}

fn changes(ops: &[Op]) -> Vec<PolicyOp> {
    let change = |op: &Op| match *op {
        Op::SetExact(key, entry) => PolicyOp::Upsert(PolicyTable::Exact, key, entry),
        Op::DeleteExact(key) => PolicyOp::Delete(PolicyTable::Exact, key),
        Op::Set(key, bits, entry) => PolicyOp::Upsert(PolicyTable::Prefix(bits), key, entry),
        Op::Delete(key, bits) => PolicyOp::Delete(PolicyTable::Prefix(bits), key),
    };
    ops.iter().map(change).collect()
}
