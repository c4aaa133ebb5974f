//! Policies and identities together: what each endpoint's map has to hold.

mod cache;
mod compile;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::endpoint::EndpointPolicy;
use crate::identity::{reserved, reserved_labels};
use crate::labels::Labels;
use crate::model::{Action, AuthMode, Clause, Direction, Kind, Peers, Policy, PolicyId, PortMatch, Ports};
use crate::selector::Selector;
use cache::{SelectorCache, SelectorId};

/// Ports that the containers of an identity's pods give a name: protocol and name to numbers.
pub type NamedPorts = BTreeMap<(u8, String), BTreeSet<u16>>;

/// Where a rule of the policy map comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct RuleOrigin {
    /// Kind of the document.
    pub kind: Kind,
    /// Its namespace; empty for a cluster-wide one.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The rule within it: `spec` or `specs[n]`.
    pub rule: String,
    /// The direction.
    pub direction: Direction,
    /// Whether it allows or denies.
    pub action: Action,
    /// Position in `ingress`, `ingressDeny`, `egress` or `egressDeny`.
    pub index: usize,
    /// Its line, where the document came from text.
    pub line: Option<u32>,
}

/// What makes a rule the same one when its document changes.
type RuleKey = (String, Direction, Action, usize);

/// All policies and identities.
#[derive(Debug)]
pub struct Repository {
    identities: BTreeMap<u32, Labels>,
    named_ports: BTreeMap<u32, NamedPorts>,
    policies: BTreeMap<PolicyId, Stored>,
    selectors: SelectorCache,
    origins: BTreeMap<u32, RuleOrigin>,
    next_rule: u32,
}

#[derive(Debug)]
struct Stored {
    policy: Policy,
    rules: Vec<StoredRule>,
    /// Numbers of its rules, to keep them when the document changes.
    rule_ids: BTreeMap<RuleKey, u32>,
}

/// A rule with its selectors' numbers in the place of the selectors.
#[derive(Debug)]
struct StoredRule {
    subject: SelectorId,
    default_deny: [bool; 2],
    clauses: Vec<StoredClause>,
}

#[derive(Debug)]
struct StoredClause {
    id: u32,
    direction: Direction,
    action: Action,
    /// None is everybody.
    peers: Option<Vec<SelectorId>>,
    ports: Ports,
    auth: Option<AuthMode>,
}

impl Default for Repository {
    fn default() -> Self {
        Self::new()
    }
}

impl Repository {
    /// No policies, and the reserved identities.
    #[must_use]
    pub fn new() -> Self {
        Self {
            identities: reserved_labels(),
            named_ports: BTreeMap::new(),
            policies: BTreeMap::new(),
            selectors: SelectorCache::default(),
            origins: BTreeMap::new(),
            next_rule: 1,
        }
    }

    /// Adds a policy, in the place of the one with the same kind, namespace and name; returns the identities
    /// whose endpoints it concerns, before or now.
    pub fn upsert_policy(&mut self, policy: Policy) -> BTreeSet<u32> {
        let id = policy.id.clone();
        let old = self.policies.remove(&id);
        let mut affected = old.as_ref().map_or_else(BTreeSet::new, |old| self.subjects(old));
        let mut previous = old.as_ref().map_or_else(BTreeMap::new, |old| old.rule_ids.clone());
        let stored = self.store(policy, &mut previous);
        for gone in previous.values() {
            self.origins.remove(gone);
        }
        self.release(old.as_ref(), Some(&stored));
        affected.extend(self.subjects(&stored));
        self.policies.insert(id, stored);
        affected
    }

    /// Takes a policy out; returns the identities whose endpoints it concerned.
    pub fn remove_policy(&mut self, id: &PolicyId) -> BTreeSet<u32> {
        let Some(old) = self.policies.remove(id) else { return BTreeSet::new() };
        let affected = self.subjects(&old);
        self.release(Some(&old), None);
        for rule in old.rule_ids.values() {
            self.origins.remove(rule);
        }
        affected
    }

    /// Adds an identity, or changes its labels; returns the identities whose endpoints it concerns. 0 stands for
    /// every peer in the map and cannot be one.
    pub fn upsert_identity(&mut self, identity: u32, labels: Labels) -> BTreeSet<u32> {
        if identity == reserved::UNKNOWN || self.identities.get(&identity) == Some(&labels) {
            return BTreeSet::new();
        }
        let changed = self.selectors.upsert(identity, self.identities.get(&identity), &labels);
        self.identities.insert(identity, labels);
        let mut affected = self.users(&changed);
        affected.insert(identity);
        affected
    }

    /// Takes an identity out; returns the identities whose endpoints it concerned.
    pub fn remove_identity(&mut self, identity: u32) -> BTreeSet<u32> {
        let Some(old) = self.identities.remove(&identity) else { return BTreeSet::new() };
        self.named_ports.remove(&identity);
        let changed = self.selectors.remove(identity, &old);
        let mut affected = self.users(&changed);
        affected.insert(identity);
        affected
    }

    /// Says which ports the containers of an identity's pods give names; returns the identities whose endpoints
    /// it concerns. Pods of one identity that disagree have all of their numbers.
    pub fn set_named_ports(&mut self, identity: u32, ports: NamedPorts) -> BTreeSet<u32> {
        if self.named_ports.get(&identity).is_some_and(|old| *old == ports) {
            return BTreeSet::new();
        }
        let old = self.named_ports.insert(identity, ports.clone()).unwrap_or_default();
        let names: BTreeSet<_> = old.into_keys().chain(ports.into_keys()).collect();
        let speaks = |clause: &StoredClause| {
            let Ports::Of(matches) = &clause.ports else { return false };
            let named =
                |m: &PortMatch| matches!(m, PortMatch::Named(p, n) if names.contains(&(*p, n.clone())));
            matches.iter().any(named)
        };
        let users =
            self.policies.values().filter(|stored| stored.rules.iter().any(|r| r.clauses.iter().any(speaks)));
        users.flat_map(|stored| self.subjects(stored)).collect()
    }

    /// Every policy, in order.
    pub fn policies(&self) -> impl Iterator<Item = &Policy> {
        self.policies.values().map(|stored| &stored.policy)
    }

    /// Every identity and its labels, in order.
    pub fn identities(&self) -> impl Iterator<Item = (u32, &Labels)> {
        self.identities.iter().map(|(identity, labels)| (*identity, labels))
    }

    /// The labels of an identity.
    #[must_use]
    pub fn identity(&self, identity: u32) -> Option<&Labels> {
        self.identities.get(&identity)
    }

    /// The address ranges that policies mention, exceptions included. Each needs an identity of its own (with
    /// [`crate::identity::cidr_labels`]) and a place in the address cache, so that every address has the
    /// identity of the narrowest range around it.
    #[must_use]
    pub fn cidrs(&self) -> BTreeSet<IpNet> {
        self.ranges(|_| true)
    }

    /// The ranges whose `cidr:` labels the identity of a pod with these addresses has: of those that are meant to
    /// choose pods, too (`ipBlock`), the narrowest around an address of each family. Where no such rule speaks of
    /// its addresses, there are none, and the pod shares its identity with all that have its labels.
    #[must_use]
    pub fn pod_cidrs(&self, addresses: &[IpAddr]) -> BTreeSet<IpNet> {
        let ranges = self.ranges(|pods| pods);
        let narrowest = |address: &IpAddr| {
            let around = ranges.iter().filter(|net| net.contains(address));
            around.max_by_key(|net| net.prefix_len()).copied()
        };
        addresses.iter().filter_map(narrowest).collect()
    }

    fn ranges(&self, wanted: impl Fn(bool) -> bool) -> BTreeSet<IpNet> {
        let mut found = BTreeSet::new();
        for selector in self.selectors.selectors() {
            if let Selector::Cidr { net, except, pods } = selector
                && wanted(*pods)
            {
                found.insert(*net);
                found.extend(except.iter().copied());
            }
        }
        found
    }

    /// Where a rule of the map comes from; nothing for 0 and for rules that are gone.
    #[must_use]
    pub fn rule(&self, rule_id: u32) -> Option<&RuleOrigin> {
        self.origins.get(&rule_id)
    }

    /// What the maps have to hold for an endpoint of this identity in this slot. An identity that is not known
    /// receives and sends nothing.
    #[must_use]
    pub fn resolve(&self, identity: u32, slot: u16) -> EndpointPolicy {
        compile::endpoint(self, identity, slot)
    }

    /// The identities with which an endpoint of this identity has to authenticate, in either direction.
    #[must_use]
    pub fn required_pairs(&self, identity: u32) -> BTreeSet<u32> {
        self.resolve(identity, 0).required_peers()
    }

    fn subjects(&self, stored: &Stored) -> BTreeSet<u32> {
        stored.rules.iter().flat_map(|rule| self.selectors.matches(rule.subject)).collect()
    }

    /// The identities for which one of these selectors chooses peers.
    fn users(&self, changed: &[SelectorId]) -> BTreeSet<u32> {
        let policies: BTreeSet<&PolicyId> = changed.iter().flat_map(|id| self.selectors.users(*id)).collect();
        let rules = policies.iter().filter_map(|id| self.policies.get(id)).flat_map(|stored| &stored.rules);
        let speaks = |clause: &StoredClause| clause.peers.iter().flatten().any(|peer| changed.contains(peer));
        let touched = rules.filter(|rule| rule.clauses.iter().any(speaks));
        touched.flat_map(|rule| self.selectors.matches(rule.subject)).collect()
    }

    /// Takes the policy's selectors into the cache and gives its rules numbers: those of `previous`, which it
    /// leaves there no longer, or new ones.
    fn store(&mut self, policy: Policy, previous: &mut BTreeMap<RuleKey, u32>) -> Stored {
        let mut stored = Stored { policy, rules: Vec::new(), rule_ids: BTreeMap::new() };
        for rule in &stored.policy.rules {
            let subject = self.selectors.acquire(&rule.subject, &stored.policy.id, &self.identities);
            let mut clauses = Vec::with_capacity(rule.clauses.len());
            for clause in &rule.clauses {
                let key = (rule.path.clone(), clause.direction, clause.action, clause.index);
                let id = previous.remove(&key).unwrap_or_else(|| self.new_rule_id());
                stored.rule_ids.insert(key, id);
                self.origins.insert(id, RuleOrigin::new(&stored.policy.id, &rule.path, clause));
                clauses.push(self.store_clause(&stored.policy.id, id, clause));
            }
            let default_deny = [rule.default_deny_ingress, rule.default_deny_egress];
            stored.rules.push(StoredRule { subject, default_deny, clauses });
        }
        stored
    }

    fn store_clause(&mut self, user: &PolicyId, id: u32, clause: &Clause) -> StoredClause {
        let mut acquire = |selector| self.selectors.acquire(selector, user, &self.identities);
        let peers = match &clause.peers {
            Peers::Any => None,
            Peers::Of(selectors) => Some(selectors.iter().map(&mut acquire).collect()),
        };
        let Clause { direction, action, auth, .. } = *clause;
        StoredClause { id, direction, action, peers, ports: clause.ports.clone(), auth }
    }

    fn new_rule_id(&mut self) -> u32 {
        let id = self.next_rule;
        self.next_rule = self.next_rule.wrapping_add(1).max(1);
        id
    }

    /// Gives back the selectors of the old version that the new one does not use.
    fn release(&mut self, old: Option<&Stored>, new: Option<&Stored>) {
        let Some(old) = old else { return };
        let kept = new.map_or_else(BTreeSet::new, Stored::selectors);
        for selector in old.selectors().difference(&kept) {
            self.selectors.release(*selector, &old.policy.id);
        }
    }
}

impl RuleOrigin {
    fn new(id: &PolicyId, rule: &str, clause: &Clause) -> Self {
        let PolicyId { kind, namespace, name } = id.clone();
        let Clause { direction, action, index, line, .. } = *clause;
        Self { kind, namespace, name, rule: rule.to_owned(), direction, action, index, line }
    }
}

impl Stored {
    fn selectors(&self) -> BTreeSet<SelectorId> {
        let clauses = self.rules.iter().flat_map(|rule| &rule.clauses);
        let peers = clauses.filter_map(|clause| clause.peers.as_ref()).flatten();
        peers.chain(self.rules.iter().map(|rule| &rule.subject)).copied().collect()
    }
}
