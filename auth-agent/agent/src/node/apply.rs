//! From what was worked out to the maps of an endpoint: its second verdict first, then the one that is enforced, so
//! that nothing is said to be dropped that is about to be allowed. What has no room is not begun.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use countersign_agent_api as api;
use countersign_ebpf_common::endpoint::audit_slot;
use countersign_ebpf_loader::{PolicyOp, PolicyTable};
use countersign_policy::identity::reserved;
use countersign_policy::repository::{Refresh, Scope, View};
use countersign_policy::{EndpointPolicy, Op, PolicyId, Touched};

use super::Node;
use crate::config::Switch;
use crate::endpoints::{Behind, Endpoint, Used};

/// A change that is not in the maps.
struct NotWritten {
    why: String,
    /// A part of it is.
    partly: bool,
}

impl Node {
    /// Whether policies drop nothing at this endpoint. A pod that is not known is not audited.
    pub(super) fn is_endpoint_audited(&self, endpoint: &Endpoint) -> bool {
        let pod = self.world.pods.get(&endpoint.key());
        self.config.policy_audit_mode == Switch::On || pod.is_some_and(|pod| pod.is_audited())
    }

    /// Brings one endpoint's maps from what they hold to what they should, as far as it was touched, or as a
    /// whole. Where there is no room, the last good policy stays, and the status says so.
    pub(super) fn refresh_slot(&mut self, slot: u16, touched: Option<&Touched>) {
        let Some(endpoint) = self.endpoints.get(slot) else { return };
        let (identity, audited) = (endpoint.identity, self.is_endpoint_audited(endpoint));
        // Without an identity an endpoint is closed, whatever mode it is to be in.
        let second = identity != reserved::INIT && (audited || self.policies.is_audited(identity));
        if second {
            self.refresh_audit(slot, touched);
        }
        self.refresh_enforced(slot, audited, touched);
        if !second {
            self.end_audit(slot, None);
        }
    }

    fn refresh_enforced(&mut self, slot: u16, audited: bool, touched: Option<&Touched>) {
        let mut used = self.endpoints.used();
        let Some(endpoint) = self.endpoints.get_mut(slot) else { return };
        let view = if audited { View::Open } else { View::Enforced };
        // What stayed behind once is behind in more than what was touched now.
        let up_to_date = endpoint.behind.is_none() && endpoint.audited == audited;
        let scope = touched.filter(|_| up_to_date).and_then(|touched| touched.scope(endpoint.identity));
        let scope = scope.unwrap_or(Scope::Whole);
        let refresh = self.policies.refresh_as(view, endpoint.identity, &mut endpoint.policy, scope);
        let is_change = !refresh.ops.is_empty();
        let mut done = self.write(&refresh, used);
        // What is only said makes room for what is enforced, if that is enough.
        let without = used.less(self.endpoints.used_by_audits());
        if done.as_ref().is_err_and(|failure| !failure.partly)
            && without != used
            && self.room_for(&refresh, without).is_ok()
        {
            self.shed_audits();
            used = without;
            done = self.write(&refresh, used);
        }
        match done {
            Ok(()) => {
                if let Some(endpoint) = self.endpoints.get_mut(slot) {
                    endpoint.behind = None;
                    endpoint.audited = audited;
                }
            }
            Err(failure) => {
                tracing::warn!(slot, error = %failure.why, "policy not applied; the last good one stays");
                let behind = self.blame(&refresh, &failure, used);
                let Some(endpoint) = self.endpoints.get_mut(slot) else { return };
                endpoint.behind = Some(behind);
                let back = refresh.undo(&mut endpoint.policy);
                self.take_back(&failure, &back);
            }
        }
        if is_change {
            self.bump_policy(slot);
        }
    }

    fn refresh_audit(&mut self, slot: u16, touched: Option<&Touched>) {
        let used = self.endpoints.used();
        let Some(endpoint) = self.endpoints.get_mut(slot) else { return };
        let identity = endpoint.identity;
        let known = endpoint.audit.take();
        let is_new = known.is_none();
        let mut policy =
            known.unwrap_or_else(|| EndpointPolicy { slot: audit_slot(slot), ..EndpointPolicy::default() });
        let scope = touched.filter(|_| !is_new).and_then(|touched| touched.scope(identity));
        let scope = scope.unwrap_or(Scope::Whole);
        let refresh = self.policies.refresh_as(View::AsIf, identity, &mut policy, scope);
        if let Err(failure) = self.write(&refresh, used) {
            return self.give_up_audit(slot, policy, refresh, &failure, used);
        }
        if let Some(endpoint) = self.endpoints.get_mut(slot) {
            endpoint.audit = Some(policy);
            endpoint.audit_behind = None;
        }
        // Entries that a process before this one left need not be in use yet.
        if (is_new || touched.is_none() || !refresh.ops.is_empty())
            && let Err(error) = self.datapath.set_audited(slot, true)
        {
            tracing::error!(slot, %error, "the second verdict is not asked for");
        }
    }

    /// A second verdict that is not whole would say what is not so: there is none.
    fn give_up_audit(
        &mut self,
        slot: u16,
        mut policy: EndpointPolicy,
        refresh: Refresh,
        failure: &NotWritten,
        used: Used,
    ) {
        tracing::warn!(slot, error = %failure.why, "what audit mode lets through here is not said");
        let behind = self.blame(&refresh, failure, used);
        let back = refresh.undo(&mut policy);
        self.take_back(failure, &back);
        if let Some(endpoint) = self.endpoints.get_mut(slot) {
            endpoint.audit = Some(policy);
        }
        self.end_audit(slot, Some(behind));
    }

    /// Takes the second verdict away, if there is one.
    fn end_audit(&mut self, slot: u16, behind: Option<Behind>) {
        let Some(endpoint) = self.endpoints.get_mut(slot) else { return };
        endpoint.audit_behind = behind;
        let Some(policy) = endpoint.audit.take() else { return };
        // First nobody asks, then the answers go: the other way round, answers would be missing.
        if let Err(error) = self.datapath.set_audited(slot, false) {
            tracing::error!(slot, %error, "the second verdict is still asked for");
        }
        self.clear_policy(&policy);
    }

    fn shed_audits(&mut self) {
        let used = self.endpoints.used();
        let audited = self.endpoints.iter().filter(|endpoint| endpoint.audit.is_some());
        let slots: Vec<u16> = audited.map(|endpoint| endpoint.saved.slot).collect();
        for slot in slots {
            let why = "the policies that are enforced need the room".to_owned();
            self.end_audit(slot, Some(Behind { why, used, ..Behind::default() }));
        }
    }

    /// Whether there is room for a change on all of its way. `used` is what was in the maps before.
    fn room_for(&self, refresh: &Refresh, used: Used) -> Result<(), NotWritten> {
        let (exact, tries) = refresh.growth();
        let room = self.datapath.policy_room();
        for (map, used, more, room) in
            [("cs_policy", used.exact, exact, room.0), ("cs_policy_lpm", used.tries, tries, room.1)]
        {
            if more > 0 && used + more > room as usize {
                let why = format!("{map} has room for {room} entries, holds {used}, and {more} are to come");
                return Err(NotWritten { why, partly: false });
            }
        }
        Ok(())
    }

    fn write(&mut self, refresh: &Refresh, used: Used) -> Result<(), NotWritten> {
        self.room_for(refresh, used)?;
        let written = self.datapath.policy_apply(&changes(&refresh.ops));
        written.map_err(|error| NotWritten { why: error.to_string(), partly: true })
    }

    /// Which policies a change is of that is not in the maps, and which of them asks for most.
    fn blame(&mut self, refresh: &Refresh, failure: &NotWritten, used: Used) -> Behind {
        self.metrics.policy_overflow();
        let mut needs: BTreeMap<PolicyId, usize> = BTreeMap::new();
        for (rule, entries) in refresh.growth_by_rule() {
            if let Some(origin) = self.policies.rule(rule) {
                *needs.entry(origin.policy()).or_default() += entries;
            }
        }
        let offender = needs.iter().max_by_key(|(id, entries)| (**entries, Reverse(*id)));
        let offender = offender.map(|(id, entries)| (id.clone(), *entries));
        let is_other = |id: &PolicyId| offender.as_ref().is_none_or(|(first, _)| id != first);
        let others = needs.keys().filter(|id| is_other(id)).cloned().collect();
        Behind { why: failure.why.clone(), offender, others, used }
    }

    /// Undoes a change that was applied in part. Removing comes first here, since there is no room.
    fn take_back(&mut self, failure: &NotWritten, back: &[Op]) {
        if !failure.partly {
            return;
        }
        let (deletes, upserts): (Vec<_>, Vec<_>) =
            changes(back).into_iter().partition(|op| matches!(op, PolicyOp::Delete(..)));
        for ops in [deletes, upserts] {
            if let Err(error) = self.datapath.policy_apply(&ops) {
                tracing::error!(%error, "the last good policy could not be restored in full");
            }
        }
    }

    /// Tries again what had no room, once there is more.
    pub(super) fn retry_behind(&mut self) {
        let used = self.endpoints.used();
        let less = |behind: &Behind| used.exact < behind.used.exact || used.tries < behind.used.tries;
        let waits = |of: &&Endpoint| of.behind.iter().chain(&of.audit_behind).any(less);
        let slots: Vec<u16> = self.endpoints.iter().filter(waits).map(|of| of.saved.slot).collect();
        if slots.is_empty() {
            return;
        }
        for slot in slots {
            self.refresh_slot(slot, None);
        }
        self.tell_required();
    }

    /// What the author of a policy should know that had no room here.
    pub(super) fn overflows_of(&self, id: &PolicyId) -> Vec<api::PolicyCondition> {
        let said = |endpoint: &Endpoint| {
            let behind = endpoint.behind.as_ref().filter(|behind| behind.concerns(id));
            let audit = endpoint.audit_behind.as_ref().filter(|behind| behind.concerns(id));
            let pod = format!("{}/{}", endpoint.saved.spec.namespace, endpoint.saved.spec.name);
            let enforced = behind.map(|behind| {
                format!("not in force at {pod}, which keeps its last good policy: {}", reason(behind, id))
            });
            let audited = audit
                .map(|behind| format!("what it would drop at {pod} is not said: {}", reason(behind, id)));
            enforced.or(audited)
        };
        let message = self.endpoints.iter().filter_map(said);
        message.map(|message| api::PolicyCondition { message, ..api::PolicyCondition::default() }).collect()
    }
}

fn reason(behind: &Behind, id: &PolicyId) -> String {
    match &behind.offender {
        Some((offender, entries)) if offender == id => {
            format!("its {entries} new entries have no room; {}", behind.why)
        }
        Some((offender, _)) => format!("it came together with {offender}, which has no room; {}", behind.why),
        None => behind.why.clone(),
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
