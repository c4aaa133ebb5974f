//! Policies as the repository keeps them: selectors as numbers, groups of ranges as their ranges, and who uses
//! what.

use std::collections::{BTreeMap, BTreeSet};

use super::cache::{SelectorCache, SelectorId};
use super::{RuleKey, RuleOrigin};
use crate::model::{
    Action, AuthMode, CidrGroup, Clause, Direction, Peers, Policy, PolicyId, PortMatch, Ports, Rule,
};
use crate::selector::{GroupRef, Selector};

/// Number of a rule, which has one subject and any number of clauses.
pub(super) type RuleNumber = u32;
/// Number of a clause: the `rule_id` of map entries and events.
pub(super) type ClauseId = u32;

#[derive(Debug)]
pub(super) struct Stored {
    pub(super) policy: Policy,
    pub(super) rules: Vec<RuleNumber>,
    /// Numbers of its clauses, to keep them when the document changes.
    pub(super) ids: BTreeMap<RuleKey, ClauseId>,
}

#[derive(Debug)]
pub(super) struct StoredRule {
    pub(super) subject: SelectorId,
    pub(super) default_deny: [bool; 2],
    pub(super) clauses: Vec<ClauseId>,
    /// Whether what it would drop is only said.
    pub(super) audit: bool,
    /// Whose it is.
    pub(super) policy: PolicyId,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StoredClause {
    pub(super) rule: RuleNumber,
    pub(super) direction: Direction,
    pub(super) action: Action,
    pub(super) priority: u32,
    /// None is everybody.
    pub(super) peers: Option<Vec<SelectorId>>,
    pub(super) ports: Ports,
    pub(super) auth: Option<AuthMode>,
}

/// All rules and clauses, and which of them use a selector.
#[derive(Debug, Default)]
pub(super) struct Store {
    pub(super) rules: BTreeMap<RuleNumber, StoredRule>,
    pub(super) clauses: BTreeMap<ClauseId, StoredClause>,
    pub(super) origins: BTreeMap<ClauseId, RuleOrigin>,
    subjects: BTreeMap<SelectorId, BTreeSet<RuleNumber>>,
    peers: BTreeMap<SelectorId, BTreeSet<ClauseId>>,
    /// Clauses that name a port, by protocol and name.
    named: BTreeMap<(u8, String), BTreeSet<ClauseId>>,
    next_rule: RuleNumber,
    next_clause: ClauseId,
}

impl Store {
    /// Enters a policy; its clauses keep the numbers that `previous` has for them.
    pub(super) fn add(
        &mut self,
        policy: Policy,
        previous: &mut BTreeMap<RuleKey, ClauseId>,
        selectors: &mut SelectorCache,
        groups: &BTreeMap<String, CidrGroup>,
        audit: bool,
    ) -> Stored {
        let mut stored = Stored { policy, rules: Vec::new(), ids: BTreeMap::new() };
        for rule in &stored.policy.rules {
            let number = self.next_rule;
            self.next_rule = self.next_rule.wrapping_add(1);
            let mut clauses = Vec::with_capacity(rule.clauses.len());
            for clause in &rule.clauses {
                let key = (rule.path.clone(), clause.direction, clause.action, clause.index);
                let id = previous.remove(&key).unwrap_or_else(|| self.new_clause());
                stored.ids.insert(key, id);
                self.origins.insert(id, RuleOrigin::new(&stored.policy.id, rule, clause));
                let peers = numbered(clause, selectors, groups);
                self.enter_clause(id, number, clause, peers);
                clauses.push(id);
            }
            let subject = selectors.acquire(&rule.subject);
            self.subjects.entry(subject).or_default().insert(number);
            let default_deny = [rule.default_deny_ingress, rule.default_deny_egress];
            let policy = stored.policy.id.clone();
            self.rules.insert(number, StoredRule { subject, default_deny, clauses, audit, policy });
            stored.rules.push(number);
        }
        stored
    }

    fn new_clause(&mut self) -> ClauseId {
        // 0 is no rule.
        self.next_clause = self.next_clause.wrapping_add(1).max(1);
        self.next_clause
    }

    fn enter_clause(
        &mut self,
        id: ClauseId,
        rule: RuleNumber,
        clause: &Clause,
        peers: Option<Vec<SelectorId>>,
    ) {
        for selector in peers.iter().flatten() {
            self.peers.entry(*selector).or_default().insert(id);
        }
        for name in names(&clause.ports) {
            self.named.entry(name).or_default().insert(id);
        }
        let Clause { direction, action, priority, auth, .. } = *clause;
        let ports = clause.ports.clone();
        self.clauses.insert(id, StoredClause { rule, direction, action, priority, peers, ports, auth });
    }

    /// Takes a policy's rules and clauses out, selectors apart; the clauses' numbers may be given again.
    pub(super) fn unlink(&mut self, stored: &Stored) -> Vec<(StoredRule, Vec<(ClauseId, StoredClause)>)> {
        let mut gone = Vec::with_capacity(stored.rules.len());
        for number in &stored.rules {
            let Some(rule) = self.rules.remove(number) else { continue };
            leave(&mut self.subjects, rule.subject, *number);
            let clauses = rule.clauses.iter().filter_map(|id| Some((*id, self.take_clause(*id)?))).collect();
            gone.push((rule, clauses));
        }
        gone
    }

    fn take_clause(&mut self, id: ClauseId) -> Option<StoredClause> {
        let clause = self.clauses.remove(&id)?;
        for selector in clause.peers.iter().flatten() {
            leave(&mut self.peers, *selector, id);
        }
        for name in names(&clause.ports) {
            leave(&mut self.named, name, id);
        }
        Some(clause)
    }

    /// The rules that choose an identity.
    pub(super) fn rules_of<'a>(
        &'a self,
        selectors: &'a SelectorCache,
        identity: u32,
    ) -> impl Iterator<Item = (RuleNumber, &'a StoredRule)> {
        let numbers = selectors.choosing(identity).filter_map(|id| self.subjects.get(&id)).flatten();
        numbers.filter_map(|number| Some((*number, self.rules.get(number)?)))
    }

    /// The clauses that have this selector among their peers.
    pub(super) fn clauses_with_peer(&self, selector: SelectorId) -> impl Iterator<Item = ClauseId> + use<'_> {
        self.peers.get(&selector).into_iter().flatten().copied()
    }

    /// The clauses that name one of these ports.
    pub(super) fn clauses_with_port<'a>(
        &'a self,
        names: impl Iterator<Item = &'a (u8, String)>,
    ) -> impl Iterator<Item = &'a StoredClause> {
        names.filter_map(|name| self.named.get(name)).flatten().filter_map(|id| self.clauses.get(id))
    }

    /// Those that name this one.
    pub(super) fn clause_ids_with_port(
        &self,
        name: &(u8, String),
    ) -> impl Iterator<Item = ClauseId> + use<'_> {
        self.named.get(name).into_iter().flatten().copied()
    }

    /// Whether any clause names a port.
    pub(super) fn names_ports(&self) -> bool {
        !self.named.is_empty()
    }
}

impl StoredRule {
    /// Gives back the selectors of a rule that was taken out.
    pub(super) fn release(&self, clauses: &[(ClauseId, StoredClause)], selectors: &mut SelectorCache) {
        selectors.release(self.subject);
        for selector in clauses.iter().flat_map(|(_, clause)| clause.peers.iter().flatten()) {
            selectors.release(*selector);
        }
    }
}

fn leave<K: Ord>(index: &mut BTreeMap<K, BTreeSet<u32>>, key: K, member: u32) {
    if let std::collections::btree_map::Entry::Occupied(mut entry) = index.entry(key) {
        entry.get_mut().remove(&member);
        if entry.get().is_empty() {
            entry.remove();
        }
    }
}

fn names(ports: &Ports) -> impl Iterator<Item = (u8, String)> + use<'_> {
    let matches = match ports {
        Ports::All => &[][..],
        Ports::Of(matches) => matches,
    };
    matches.iter().filter_map(|one| match one {
        PortMatch::Named(protocol, name) => Some((*protocol, name.clone())),
        _ => None,
    })
}

/// The numbers of a clause's selectors, each once; groups are replaced by the ranges they hold now.
fn numbered(
    clause: &Clause,
    selectors: &mut SelectorCache,
    groups: &BTreeMap<String, CidrGroup>,
) -> Option<Vec<SelectorId>> {
    let Peers::Of(listed) = &clause.peers else { return None };
    let mut found = Vec::with_capacity(listed.len());
    for selector in listed {
        match selector {
            Selector::Group { of, except } => {
                let ranges = ranges(of, except, groups);
                found.extend(ranges.iter().map(|range| selectors.acquire(range)));
            }
            _ => found.push(selectors.acquire(selector)),
        }
    }
    Some(found)
}

pub(super) fn ranges(
    of: &GroupRef,
    except: &[ipnet::IpNet],
    groups: &BTreeMap<String, CidrGroup>,
) -> Vec<Selector> {
    let meant = groups.iter().filter(|(name, group)| match of {
        GroupRef::Name(wanted) => *name == wanted,
        GroupRef::Labels(labels) => labels.iter().all(|requirement| requirement.holds(&group.labels)),
    });
    let pods = crate::selector::PodRange::None;
    let range = |net: &ipnet::IpNet| {
        let except = except.iter().filter(|part| net.contains(*part)).copied().collect();
        Selector::Cidr { net: *net, except, pods }
    };
    let left = |net: &&ipnet::IpNet| !except.iter().any(|part| part.contains(*net));
    meant.flat_map(|(_, group)| &group.nets).filter(left).map(range).collect()
}

/// Whether a policy refers to groups.
pub(super) fn refers_to_groups(policy: &Policy) -> bool {
    groups_of(policy).next().is_some()
}

/// The groups that a policy refers to.
pub(super) fn groups_of(policy: &Policy) -> impl Iterator<Item = &GroupRef> {
    let peers = policy.rules.iter().flat_map(|rule: &Rule| &rule.clauses).map(|clause| &clause.peers);
    let selectors = peers.flat_map(|peers| match peers {
        Peers::Any => &[][..],
        Peers::Of(selectors) => selectors,
    });
    selectors.filter_map(|selector| match selector {
        Selector::Group { of, .. } => Some(of),
        _ => None,
    })
}

/// Whether a policy of this id is in a namespace that is only audited.
pub(super) fn in_audited(id: &PolicyId, namespaces: &BTreeSet<String>) -> bool {
    id.kind.is_namespaced() && namespaces.contains(&id.namespace)
}
