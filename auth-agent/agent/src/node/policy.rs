//! Policy into the maps of this node's endpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use countersign_agent_api as api;
use countersign_auth_proto::{Event, Remotes, Required};
use countersign_ebpf_common::endpoint::owner;
use countersign_ebpf_common::policy::{direction, flag};
use countersign_ebpf_loader::{PolicyOp, PolicyTable};
use countersign_policy::identity::reserved;
use countersign_policy::model::{AuthMode, Clause, Note, NoteKind};
use countersign_policy::repository::PodAddresses;
use countersign_policy::{EndpointPolicy, PolicyId, Touched};

use super::Node;
use crate::clock;
use crate::endpoints::Endpoint;
use crate::limits;

impl Node {
    /// From here on changes name the identities that have endpoints here, and no others.
    pub(super) fn watch_endpoints(&mut self) {
        let identities = self.endpoints.iter().map(|endpoint| endpoint.identity).collect();
        self.policies.watch(identities);
    }

    /// Which namespaces' policies are only audited.
    pub(super) fn follow_modes(&mut self) -> Touched {
        let audited = self.world.namespaces.values().filter(|namespace| namespace.is_audited());
        self.policies.set_audited(audited.map(|namespace| namespace.name.clone()).collect())
    }

    /// Where the pods of these identities are, for rules about addresses that mean pods, too.
    pub(super) fn follow_pod_addresses(&mut self, identities: &BTreeSet<u32>) -> Touched {
        let mut touched = Touched::default();
        for identity in identities {
            let pods = self.identities.addresses(*identity);
            touched.extend(self.policies.set_addresses(*identity, pods));
        }
        touched
    }

    /// Where the nodes are, for the same.
    pub(super) fn follow_node_addresses(&mut self) -> Touched {
        let addresses = |here: bool| -> PodAddresses {
            let nodes = self.world.nodes.values().filter(|node| (node.name == self.config.node_name) == here);
            let known = nodes.filter(|node| !node.internal_ips.is_empty());
            known.map(|node| node.internal_ips.iter().copied().collect()).collect()
        };
        let (own, others) = (addresses(true), addresses(false));
        let mut touched = self.policies.set_addresses(reserved::HOST, own);
        touched.extend(self.policies.set_addresses(reserved::REMOTE_NODE, others));
        touched
    }

    /// Works out what is different of the policies of this node's endpoints.
    pub(super) fn regenerate(&mut self, touched: &Touched) {
        let concerned = |endpoint: &&Endpoint| touched.scope(endpoint.identity).is_some();
        let slots: Vec<u16> =
            self.endpoints.iter().filter(concerned).map(|endpoint| endpoint.saved.slot).collect();
        if slots.is_empty() {
            return;
        }
        for slot in slots {
            self.refresh_slot(slot, Some(touched));
        }
        self.tell_required();
    }

    pub(super) fn regenerate_all(&mut self) {
        let slots: Vec<u16> = self.endpoints.iter().map(|endpoint| endpoint.saved.slot).collect();
        for slot in slots {
            self.refresh_slot(slot, None);
        }
        self.tell_required();
    }

    pub(super) fn regenerate_slot(&mut self, slot: u16) {
        self.refresh_slot(slot, None);
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
        let stale = all.filter(|(_, key, _)| self.endpoints.get(owner(u16::from_be(key.slot_be))).is_none());
        let ops: Vec<PolicyOp> = stale.map(|(table, key, _)| PolicyOp::Delete(table, key)).collect();
        self.delete_policy(&ops);
    }

    /// Every document, what its author should know of it, and what was made of all of them here.
    pub(super) fn policy_view(&self) -> api::PolicyView {
        let mut conflicts = self.conflicts();
        let mut documents: Vec<api::PolicyDocument> = Vec::new();
        for policy in self.policies.policies() {
            let selects = |endpoint: &&Endpoint| {
                let labels = self.identities.labels(endpoint.identity);
                labels.is_some_and(|labels| policy.rules.iter().any(|rule| rule.subject.matches(labels)))
            };
            let mut conditions: Vec<api::PolicyCondition> =
                self.policies.conditions(&policy.id).iter().map(condition).collect();
            conditions.append(&mut conflicts.remove(&policy.id).unwrap_or_default());
            conditions.append(&mut self.overflows_of(&policy.id));
            let behind =
                |endpoint: &&Endpoint| endpoint.behind.as_ref().is_some_and(|b| b.concerns(&policy.id));
            let asks = |clause: &Clause| clause.auth.is_some_and(|mode| mode != AuthMode::Disabled);
            documents.push(api::PolicyDocument {
                kind: policy.id.kind.name().to_owned(),
                namespace: policy.id.namespace.clone(),
                name: policy.id.name.clone(),
                rules: policy.rules.len() as u64,
                endpoints: self.endpoints.iter().filter(selects).count() as u64,
                auth_required: policy.rules.iter().flat_map(|rule| &rule.clauses).any(asks),
                mode: mode_name(self.policies.is_policy_audited(&policy.id)).to_owned(),
                not_applied: self.endpoints.iter().filter(behind).count() as u64,
                refused: None,
                conditions,
            });
        }
        let all: Vec<api::PolicyEntry> = self.endpoints.iter().flat_map(|e| self.policy_entries(e)).collect();
        let omitted = all.len().saturating_sub(limits::POLICY_ENTRIES_SHOWN) as u64;
        let entries = all.into_iter().take(limits::POLICY_ENTRIES_SHOWN).collect();
        api::PolicyView { revision: self.policy_revision, documents, entries, entries_omitted: omitted }
    }

    /// Policies that name different authentication modes for one peer and port: said of both of them.
    fn conflicts(&self) -> BTreeMap<PolicyId, Vec<api::PolicyCondition>> {
        let mut found: BTreeMap<PolicyId, Vec<api::PolicyCondition>> = BTreeMap::new();
        let pairs: BTreeSet<(u32, u32)> =
            self.endpoints.iter().flat_map(|endpoint| endpoint.policy.conflicting_rules()).collect();
        for (one, other) in pairs {
            let (Some(one), Some(other)) = (self.policies.rule(one), self.policies.rule(other)) else {
                continue;
            };
            for (here, there) in [(one, other), (other, one)] {
                let message = format!(
                    "names another authentication mode than {} for the same peer and port: the stricter holds",
                    there.policy()
                );
                let conditions = found.entry(here.policy()).or_default();
                if conditions.iter().all(|known| known.message != message) {
                    let line = here.line.unwrap_or(0).into();
                    conditions.push(api::PolicyCondition {
                        path: here.rule.clone(),
                        line,
                        message,
                        denied: false,
                    });
                }
            }
        }
        found
    }

    fn policy_entries(&self, endpoint: &Endpoint) -> Vec<api::PolicyEntry> {
        use countersign_ebpf_common::policy::{PREFIX_PORT, PREFIX_PROTOCOL};
        let spec = &endpoint.saved.spec;
        let entry = |(key, bits): &countersign_policy::endpoint::TrieKey,
                     entry: &countersign_ebpf_common::policy::PolicyEntry| {
            let port = u16::from_be(key.port_be);
            let width = u32::from(PREFIX_PORT.saturating_sub(*bits)).min(16);
            let any_port = *bits <= PREFIX_PROTOCOL;
            let span = u16::try_from((1_u32 << width) - 1).unwrap_or(u16::MAX);
            let origin = self.policies.rule(entry.rule_id);
            api::PolicyEntry {
                endpoint: endpoint.saved.slot,
                pod: format!("{}/{}", spec.namespace, spec.name),
                direction: if key.direction == direction::EGRESS { "egress" } else { "ingress" }.to_owned(),
                identity: key.identity,
                protocol: super::answers::protocol(key.protocol, *bits),
                port: if any_port { 0 } else { port },
                port_end: if any_port { 0 } else { port.saturating_add(span) },
                verdict: if entry.flags & flag::DENY == 0 { "allow" } else { "deny" }.to_owned(),
                auth: super::answers::auth_name(entry.auth_type).to_owned(),
                precedence: entry.precedence,
                rules: origin
                    .map(|o| format!("{} {}/{}", o.kind.name(), o.namespace, o.name))
                    .into_iter()
                    .collect(),
            }
        };
        endpoint.policy.entries.iter().map(|(key, value)| entry(key, value)).collect()
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

/// How the mode of a policy or an endpoint is called.
pub(super) fn mode_name(audited: bool) -> &'static str {
    if audited { "audit" } else { "enforce" }
}

fn condition(note: &Note) -> api::PolicyCondition {
    api::PolicyCondition {
        path: note.path.clone(),
        line: note.line.unwrap_or(0).into(),
        message: note.message.clone(),
        denied: note.kind == NoteKind::Missing,
    }
}
