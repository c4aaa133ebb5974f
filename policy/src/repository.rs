//! Policies and identities together: what each endpoint's map has to hold.
//!
//! Every change says whom it concerns ([`Touched`]), down to the single peers of an endpoint; [`Repository::refresh`]
//! then works out those alone and gives the operations on the maps. [`Repository::resolve`] works out everything,
//! and comes to the same.

mod cache;
mod compile;
mod ranges;
mod refresh;
mod store;
mod touched;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ipnet::IpNet;

use crate::endpoint::EndpointPolicy;
use crate::identity::reserved;
use crate::labels::Labels;
use crate::model::{Action, CidrGroup, Clause, Direction, Kind, Note, NoteKind, Policy, PolicyId, Rule};
use crate::selector::{GroupRef, Selector};
use cache::SelectorCache;
use store::{ClauseId, Store, Stored, StoredClause, StoredRule};

pub use cache::PodAddresses;
pub use refresh::Refresh;
pub use touched::{Scope, Touched};

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
    /// What it does.
    pub action: Action,
    /// Position in `ingress`, `ingressDeny`, `egress` or `egressDeny`.
    pub index: usize,
    /// Its line, where the document came from text.
    pub line: Option<u32>,
    /// `log.value` of the rule.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub log: String,
}

/// What makes a rule the same one when its document changes.
type RuleKey = (String, Direction, Action, usize);

/// When the endpoints of a node deny what nothing allows (Cilium's `enable-policy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Enforcement {
    /// In the directions in which a rule chooses the endpoint.
    #[default]
    Default,
    /// Always, rules or none.
    Always,
    /// Never: policies are read, and nothing is dropped.
    Never,
}

/// Which verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// The one that is enforced: policies in audit mode do not count.
    Enforced,
    /// The one there would be if policies in audit mode were enforced.
    AsIf,
    /// The one that is enforced at an endpoint in audit mode: nothing is dropped there.
    Open,
}

/// All policies and identities.
#[derive(Debug)]
pub struct Repository {
    selectors: SelectorCache,
    named_ports: BTreeMap<u32, NamedPorts>,
    policies: BTreeMap<PolicyId, Stored>,
    store: Store,
    groups: BTreeMap<String, CidrGroup>,
    /// Policies that refer to groups.
    grouped: BTreeSet<PolicyId>,
    enforcement: Enforcement,
    audited: BTreeSet<String>,
    /// Identities with endpoints here; none is every identity.
    watched: Option<BTreeSet<u32>>,
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
            selectors: SelectorCache::new(),
            named_ports: BTreeMap::new(),
            policies: BTreeMap::new(),
            store: Store::default(),
            groups: BTreeMap::new(),
            grouped: BTreeSet::new(),
            enforcement: Enforcement::Default,
            audited: BTreeSet::new(),
            watched: None,
        }
    }

    /// Says which identities have endpoints here: only those are named as touched from now on.
    pub fn watch(&mut self, identities: BTreeSet<u32>) {
        self.watched = Some(identities);
    }

    /// Says when endpoints deny what nothing allows; all of them are concerned if that is different.
    pub fn set_enforcement(&mut self, enforcement: Enforcement) -> Touched {
        if std::mem::replace(&mut self.enforcement, enforcement) == enforcement {
            return Touched::default();
        }
        let everybody = self.selectors.identities().keys().copied().collect();
        let mut touched = Touched::default();
        self.watched.as_ref().unwrap_or(&everybody).iter().for_each(|identity| touched.whole(*identity));
        touched
    }

    /// Says the policies of which namespaces are only audited.
    pub fn set_audited(&mut self, namespaces: BTreeSet<String>) -> Touched {
        let before = std::mem::replace(&mut self.audited, namespaces);
        let changed: BTreeSet<&String> = before.symmetric_difference(&self.audited).collect();
        if changed.is_empty() {
            return Touched::default();
        }
        let inside = |id: &&PolicyId| id.kind.is_namespaced() && changed.contains(&id.namespace);
        let policies: Vec<PolicyId> = self.policies.keys().filter(inside).cloned().collect();
        self.store_again(&policies)
    }

    /// Adds a policy, in the place of the one with the same kind, namespace and name.
    pub fn upsert_policy(&mut self, policy: Policy) -> Touched {
        let id = policy.id.clone();
        if let Some(group) = policy.group.clone() {
            self.groups.insert(id.name.clone(), group);
        }
        let mut touched = self.replace(&id, Some(policy));
        if id.kind == Kind::CiliumCidrGroup {
            touched.extend(self.regroup());
        }
        touched
    }

    /// Takes a policy out.
    pub fn remove_policy(&mut self, id: &PolicyId) -> Touched {
        let mut touched = self.replace(id, None);
        if id.kind == Kind::CiliumCidrGroup && self.groups.remove(&id.name).is_some() {
            touched.extend(self.regroup());
        }
        touched
    }

    /// Works out the ranges of every policy that refers to groups anew.
    fn regroup(&mut self) -> Touched {
        let policies: Vec<PolicyId> = self.grouped.iter().cloned().collect();
        self.store_again(&policies)
    }

    fn store_again(&mut self, policies: &[PolicyId]) -> Touched {
        let mut touched = Touched::default();
        for id in policies {
            if let Some(policy) = self.policies.get(id).map(|stored| stored.policy.clone()) {
                touched.extend(self.replace(id, Some(policy)));
            }
        }
        touched
    }

    /// Puts `policy` where the one of this id was, or nothing.
    fn replace(&mut self, id: &PolicyId, policy: Option<Policy>) -> Touched {
        let old = self.policies.remove(id);
        let before = self.subjects(old.iter().flat_map(|stored| &stored.rules));
        let mut isolation = self.isolation(&before);
        let gone = old.as_ref().map_or_else(Vec::new, |old| self.store.unlink(old));
        let mut previous = old.map_or_else(BTreeMap::new, |old| old.ids);
        self.grouped.remove(id);
        let mut rules = Vec::new();
        if let Some(policy) = policy {
            if store::refers_to_groups(&policy) {
                self.grouped.insert(id.clone());
            }
            let audit = policy.audit || store::in_audited(id, &self.audited);
            let stored = self.store.add(policy, &mut previous, &mut self.selectors, &self.groups, audit);
            rules.clone_from(&stored.rules);
            self.policies.insert(id.clone(), stored);
        }
        let after = self.subjects(rules.iter());
        let newcomers: BTreeSet<u32> = after.difference(&before).copied().collect();
        // Before, nothing of this policy chose the newcomers: what isolates them without it is what did.
        isolation.extend(self.isolation_without(&newcomers, &rules));
        let touched = self.concerned(&isolation, &gone, &rules);
        for origin in previous.values() {
            self.store.origins.remove(origin);
        }
        for (rule, clauses) in &gone {
            rule.release(clauses, &mut self.selectors);
        }
        touched
    }

    /// Whom the change from some rules to others concerns.
    fn concerned(
        &self,
        isolation: &BTreeMap<u32, [[bool; 2]; 2]>,
        gone: &[(StoredRule, Vec<(ClauseId, StoredClause)>)],
        rules: &[u32],
    ) -> Touched {
        let mut touched = Touched::default();
        for (identity, before) in isolation {
            if self.isolation_of(*identity, &[]) != *before {
                touched.whole(*identity);
            }
        }
        let old: BTreeMap<ClauseId, (&StoredRule, &StoredClause)> =
            gone.iter().flat_map(|(rule, list)| list.iter().map(move |(id, c)| (*id, (rule, c)))).collect();
        let mut kept = BTreeSet::new();
        for rule in rules.iter().filter_map(|number| self.store.rules.get(number)) {
            for (id, clause) in rule.clauses.iter().filter_map(|id| Some((id, self.store.clauses.get(id)?))) {
                let same = |(was, old): &(&StoredRule, &StoredClause)| {
                    was.subject == rule.subject && was.audit == rule.audit && old.says_as(clause)
                };
                if old.get(id).is_some_and(same) {
                    kept.insert(*id);
                } else {
                    self.touch(&mut touched, rule.subject, clause);
                }
            }
        }
        for (id, (rule, clause)) in &old {
            if !kept.contains(id) {
                self.touch(&mut touched, rule.subject, clause);
            }
        }
        touched
    }

    /// A clause has come or gone.
    fn touch(&self, touched: &mut Touched, subject: u32, clause: &StoredClause) {
        let subjects = self.watched_of(self.selectors.matches(subject));
        if subjects.is_empty() {
            return;
        }
        let peers = clause.peers.as_ref().map(|selectors| {
            let chosen = selectors.iter().flat_map(|id| self.selectors.matches(*id));
            chosen.copied().collect::<BTreeSet<u32>>()
        });
        for identity in subjects {
            match &peers {
                None => touched.whole(identity),
                Some(peers) => peers.iter().for_each(|peer| touched.peer(identity, *peer)),
            }
        }
    }

    /// Those of the identities that have endpoints here.
    fn watched_of(&self, identities: &BTreeSet<u32>) -> BTreeSet<u32> {
        match &self.watched {
            None => identities.clone(),
            Some(watched) if watched.len() < identities.len() => {
                watched.iter().filter(|identity| identities.contains(identity)).copied().collect()
            }
            Some(watched) => {
                identities.iter().filter(|identity| watched.contains(identity)).copied().collect()
            }
        }
    }

    fn subjects<'a>(&self, rules: impl Iterator<Item = &'a u32>) -> BTreeSet<u32> {
        let rules = rules.filter_map(|number| self.store.rules.get(number));
        rules.flat_map(|rule| self.watched_of(self.selectors.matches(rule.subject))).collect()
    }

    fn isolation(&self, identities: &BTreeSet<u32>) -> BTreeMap<u32, [[bool; 2]; 2]> {
        self.isolation_without(identities, &[])
    }

    fn isolation_without(&self, of: &BTreeSet<u32>, rules: &[u32]) -> BTreeMap<u32, [[bool; 2]; 2]> {
        of.iter().map(|identity| (*identity, self.isolation_of(*identity, rules))).collect()
    }

    /// Whether rules deny an identity by default, by view and direction; as if `without` were not there.
    fn isolation_of(&self, identity: u32, without: &[u32]) -> [[bool; 2]; 2] {
        let mut isolated = [[false; 2]; 2];
        let rules = self.store.rules_of(&self.selectors, identity);
        for (_, rule) in rules.filter(|(number, _)| !without.contains(number)) {
            for (direction, denies) in rule.default_deny.iter().enumerate() {
                isolated[0][direction] |= *denies && !rule.audit;
                isolated[1][direction] |= *denies;
            }
        }
        isolated
    }

    /// Adds an identity, or changes its labels. 0 stands for every peer in the map and cannot be one.
    pub fn upsert_identity(&mut self, identity: u32, labels: Labels) -> Touched {
        if identity == reserved::UNKNOWN || self.identity(identity) == Some(&labels) {
            return Touched::default();
        }
        let changed = self.selectors.upsert(identity, labels);
        let mut touched = self.users(&changed, identity);
        self.touch_own(&mut touched, identity);
        touched
    }

    /// Takes an identity out.
    pub fn remove_identity(&mut self, identity: u32) -> Touched {
        let Some(changed) = self.selectors.remove(identity) else { return Touched::default() };
        self.named_ports.remove(&identity);
        let mut touched = self.users(&changed, identity);
        self.touch_own(&mut touched, identity);
        touched
    }

    /// Says where the pods of an identity are, for rules about addresses that mean pods (`ipBlock`).
    pub fn set_addresses(&mut self, identity: u32, pods: PodAddresses) -> Touched {
        let changed = self.selectors.set_addresses(identity, pods);
        self.users(&changed, identity)
    }

    fn touch_own(&self, touched: &mut Touched, identity: u32) {
        if self.watched.as_ref().is_none_or(|watched| watched.contains(&identity)) {
            touched.whole(identity);
        }
    }

    /// Says which ports the containers of an identity's pods give names. Pods of one identity that disagree have
    /// all of their numbers.
    pub fn set_named_ports(&mut self, identity: u32, ports: NamedPorts) -> Touched {
        if self.named_ports.get(&identity).is_some_and(|old| *old == ports) {
            return Touched::default();
        }
        let old = self.named_ports.insert(identity, ports.clone()).unwrap_or_default();
        let mut touched = Touched::default();
        if !self.store.names_ports() {
            return touched;
        }
        for clause in self.store.clauses_with_port(old.keys().chain(ports.keys())) {
            let Some(rule) = self.store.rules.get(&clause.rule) else { continue };
            if clause.direction == Direction::Ingress {
                if self.selectors.chooses(rule.subject, identity) {
                    self.touch_own(&mut touched, identity);
                }
                continue;
            }
            for subject in self.watched_of(self.selectors.matches(rule.subject)) {
                touched.peer(subject, identity);
            }
        }
        touched
    }

    /// Whether the containers of this identity's pods give this port this name.
    #[must_use]
    pub fn is_named(&self, identity: u32, protocol: u8, name: &str, port: u16) -> bool {
        let numbers =
            self.named_ports.get(&identity).and_then(|ports| ports.get(&(protocol, name.to_owned())));
        numbers.is_some_and(|numbers| numbers.contains(&port))
    }

    /// Whether one of these selectors chooses an identity: by its labels, by where its pods are, by a group.
    #[must_use]
    pub fn chooses(&self, selectors: &[Selector], identity: u32) -> bool {
        let Some(labels) = self.identity(identity) else { return false };
        let chooses = |selector: &Selector| match selector {
            Selector::Group { of, except } => {
                store::ranges(of, except, &self.groups).iter().any(|range| range.matches(labels))
            }
            _ => selector.matches(labels) || self.selectors.is_inside(selector, identity),
        };
        selectors.iter().any(chooses)
    }

    /// Every policy, in order.
    pub fn policies(&self) -> impl Iterator<Item = &Policy> {
        self.policies.values().map(|stored| &stored.policy)
    }

    /// Every identity and its labels, in order.
    pub fn identities(&self) -> impl Iterator<Item = (u32, &Labels)> {
        self.selectors.identities().iter().map(|(identity, labels)| (*identity, labels))
    }

    /// The labels of an identity.
    #[must_use]
    pub fn identity(&self, identity: u32) -> Option<&Labels> {
        self.selectors.identities().get(&identity)
    }

    /// The address ranges that policies mention, exceptions included. Each needs an identity of its own (with
    /// [`crate::identity::cidr_labels`]) and a place in the address cache, so that every address has the
    /// identity of the narrowest range around it.
    #[must_use]
    pub fn cidrs(&self) -> BTreeSet<IpNet> {
        self.selectors.nets().copied().collect()
    }

    /// Where a rule of the map comes from; nothing for 0 and for rules that are gone.
    #[must_use]
    pub fn rule(&self, rule_id: u32) -> Option<&RuleOrigin> {
        self.store.origins.get(&rule_id)
    }

    /// What the author of a policy should know: what was noted when it was read, groups that are not there, that
    /// it is only audited.
    #[must_use]
    pub fn conditions(&self, id: &PolicyId) -> Vec<Note> {
        let Some(Stored { policy, .. }) = self.policies.get(id) else { return Vec::new() };
        let mut found = policy.notes.clone();
        let note = |kind, message| Note { kind, path: String::new(), line: None, message };
        for group in store::groups_of(policy) {
            if let GroupRef::Name(name) = group
                && !self.groups.contains_key(name)
            {
                let message = format!("there is no CiliumCIDRGroup {name}: its ranges are nobody's");
                found.push(note(NoteKind::Missing, message));
            }
        }
        if policy.audit || store::in_audited(id, &self.audited) {
            found.push(note(NoteKind::Remark, "in audit mode: drops nothing".to_owned()));
        }
        found.dedup();
        found
    }

    /// What the maps have to hold for an endpoint of this identity in this slot. An identity that is not known
    /// receives and sends nothing.
    #[must_use]
    pub fn resolve(&self, identity: u32, slot: u16) -> EndpointPolicy {
        compile::endpoint(self, identity, slot, View::Enforced)
    }

    /// As [`Self::resolve`], if policies in audit mode were enforced; nothing where none of them chooses the
    /// identity.
    #[must_use]
    pub fn resolve_as_if(&self, identity: u32, slot: u16) -> Option<EndpointPolicy> {
        self.is_audited(identity).then(|| compile::endpoint(self, identity, slot, View::AsIf))
    }

    /// Whether a policy in audit mode chooses this identity.
    #[must_use]
    pub fn is_audited(&self, identity: u32) -> bool {
        self.store.rules_of(&self.selectors, identity).any(|(_, rule)| rule.audit)
    }

    /// Whether a policy is only audited, by its own annotation or its namespace's.
    #[must_use]
    pub fn is_policy_audited(&self, id: &PolicyId) -> bool {
        let policy = self.policies.get(id).map(|stored| &stored.policy);
        policy.is_some_and(|policy| policy.audit || store::in_audited(id, &self.audited))
    }

    /// The policies because of which what nothing allows is denied at an endpoint of this identity; `as_if` counts
    /// those in audit mode.
    #[must_use]
    pub fn isolating(&self, identity: u32, direction: Direction, as_if: bool) -> BTreeSet<PolicyId> {
        let at = usize::from(direction.number());
        let rules = self.store.rules_of(&self.selectors, identity).map(|(_, rule)| rule);
        let counts = rules.filter(|rule| rule.default_deny[at] && (as_if || !rule.audit));
        counts.map(|rule| rule.policy.clone()).collect()
    }

    /// The identities with which an endpoint of this identity has to authenticate, in either direction.
    #[must_use]
    pub fn required_pairs(&self, identity: u32) -> BTreeSet<u32> {
        self.resolve(identity, 0).required_peers()
    }

    /// Whom it concerns that these selectors choose this peer now, or did.
    fn users(&self, changed: &BTreeSet<u32>, peer: u32) -> Touched {
        let mut touched = Touched::default();
        for selector in changed {
            for id in self.store.clauses_with_peer(*selector) {
                let rule = self.store.clauses.get(&id).and_then(|clause| self.store.rules.get(&clause.rule));
                let Some(rule) = rule else { continue };
                for subject in self.watched_of(self.selectors.matches(rule.subject)) {
                    touched.peer(subject, peer);
                }
            }
        }
        touched
    }
}

impl StoredClause {
    /// Whether two clauses say the same, whatever rule they are of.
    fn says_as(&self, other: &Self) -> bool {
        let of = |clause: &Self| (clause.direction, clause.action, clause.priority, clause.auth);
        of(self) == of(other) && self.peers == other.peers && self.ports == other.ports
    }
}

impl fmt::Display for RuleOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = match (self.direction, self.action) {
            (Direction::Ingress, Action::Deny) => "ingressDeny",
            (Direction::Ingress, _) => "ingress",
            (Direction::Egress, Action::Deny) => "egressDeny",
            (Direction::Egress, _) => "egress",
        };
        write!(f, "{} {}.{list}[{}]", self.policy(), self.rule, self.index)?;
        self.line.map_or(Ok(()), |line| write!(f, " (line {line})"))
    }
}

impl RuleOrigin {
    /// The policy that the rule is of.
    #[must_use]
    pub fn policy(&self) -> PolicyId {
        PolicyId { kind: self.kind, namespace: self.namespace.clone(), name: self.name.clone() }
    }

    fn new(id: &PolicyId, rule: &Rule, clause: &Clause) -> Self {
        let PolicyId { kind, namespace, name } = id.clone();
        let Clause { direction, action, index, line, .. } = *clause;
        let (rule, log) = (rule.path.clone(), rule.log.clone());
        Self { kind, namespace, name, rule, direction, action, index, line, log }
    }
}
