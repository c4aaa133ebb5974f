//! Rules without which every verdict would be the same.

use std::collections::BTreeSet;

use super::{Lint, Severity, place};
use crate::endpoint::{EndpointPolicy, TrieKey};
use crate::model::{Action, Clause, Direction, Peers, Policy, Rule};

/// Clauses beyond which nothing is tried: each is tried against the whole.
const CLAUSES: usize = 1_000;

impl Lint {
    /// Takes every clause out in turn, and looks whether that is noticed.
    pub(super) fn void(&mut self) {
        let policies = self.policies.clone();
        let clauses: usize =
            policies.iter().flat_map(|policy| &policy.rules).map(|rule| rule.clauses.len()).sum();
        if clauses > CLAUSES {
            return;
        }
        for policy in &policies {
            for (number, rule) in policy.rules.iter().enumerate() {
                let subjects = self.subjects(rule);
                for (index, clause) in rule.clauses.iter().enumerate() {
                    let tried =
                        matches!(clause.action, Action::Allow | Action::Deny) && self.has_peers(clause);
                    if tried && !subjects.is_empty() {
                        self.try_without(policy, (number, rule), (index, clause), &subjects);
                    }
                }
            }
        }
    }

    /// Whether it speaks of anybody here; those that do not are reported as such.
    fn has_peers(&self, clause: &Clause) -> bool {
        match &clause.peers {
            Peers::Any => true,
            Peers::Of(selectors) => {
                let known = self.repository.identities().map(|(identity, _)| identity);
                known.into_iter().any(|identity| self.repository.chooses(selectors, identity))
            }
        }
    }

    fn try_without(
        &mut self,
        policy: &Policy,
        (number, rule): (usize, &Rule),
        (index, clause): (usize, &Clause),
        subjects: &BTreeSet<u32>,
    ) {
        let with: Vec<EndpointPolicy> = subjects.iter().map(|id| self.repository.resolve(*id, 1)).collect();
        let mut less = policy.clone();
        less.rules[number].clauses.remove(index);
        self.repository.upsert_policy(less);
        let without: Vec<EndpointPolicy> =
            subjects.iter().map(|id| self.repository.resolve(*id, 1)).collect();
        let same = with.iter().zip(&without).all(|(with, without)| says_the_same(with, without));
        let other = same.then(|| self.instead(policy, clause, &with, &without)).flatten();
        self.repository.upsert_policy(policy.clone());
        if !same {
            return;
        }
        let open = |one: &EndpointPolicy| match clause.direction {
            Direction::Ingress => !one.ingress_enforced,
            Direction::Egress => !one.egress_enforced,
        };
        let message = match other {
            Some(other) => format!("changes nothing: {other} says as much already"),
            None if with.iter().all(open) => "changes nothing: nothing is denied by default here".to_owned(),
            None => "changes nothing".to_owned(),
        };
        let fix = "leave out one of the two, or narrow the wider one";
        self.report((Severity::Warning, "void"), policy, (place(rule, clause), clause.line), message, fix);
    }

    /// The rule that decides what the clause was to decide.
    fn instead(
        &self,
        policy: &Policy,
        clause: &Clause,
        with: &[EndpointPolicy],
        without: &[EndpointPolicy],
    ) -> Option<String> {
        let mine = |rule: u32| {
            let origin = self.repository.rule(rule);
            origin.is_some_and(|origin| origin.policy() == policy.id && origin.index == clause.index)
        };
        for (with, without) in with.iter().zip(without) {
            for (key, entry) in &with.entries {
                if key.0.direction != clause.direction.number() {
                    continue;
                }
                let (direction, port) = (clause.direction, u16::from_be(key.0.port_be));
                let now = without.lookup(direction, key.0.identity, key.0.protocol, port);
                if let Some(origin) = self.repository.rule(now.rule_id)
                    && !mine(now.rule_id)
                    && (self.repository.rule(entry.rule_id).is_none()
                        || mine(entry.rule_id)
                        || origin.policy() != policy.id)
                    && self.speaks_of(clause, key.0.identity)
                {
                    return Some(origin.to_string());
                }
            }
        }
        None
    }

    fn speaks_of(&self, clause: &Clause, identity: u32) -> bool {
        match &clause.peers {
            Peers::Any => true,
            Peers::Of(selectors) => identity == 0 || self.repository.chooses(selectors, identity),
        }
    }
}

/// Whether two policies decide every packet alike. Verdicts change at the edges of entries only.
fn says_the_same(one: &EndpointPolicy, other: &EndpointPolicy) -> bool {
    let keys: BTreeSet<&TrieKey> = one.entries.keys().chain(other.entries.keys()).collect();
    let peers: BTreeSet<u32> = keys.iter().map(|(key, _)| key.identity).collect();
    let edges: BTreeSet<(u8, u16)> = keys.iter().flat_map(|key| edges(key)).chain([(255, 0)]).collect();
    let decided = |policy: &EndpointPolicy, direction, peer, (protocol, port): (u8, u16)| {
        let decision = policy.lookup(direction, peer, protocol, port);
        (decision.allow, decision.auth_type)
    };
    // Nobody's number stands for whoever is not mentioned.
    let peers: Vec<u32> = peers.into_iter().filter(|peer| *peer != 0).chain([u32::MAX]).collect();
    Direction::ALL.into_iter().all(|direction| {
        peers.iter().all(|peer| {
            edges
                .iter()
                .all(|at| decided(one, direction, *peer, *at) == decided(other, direction, *peer, *at))
        })
    })
}

/// The first packet of an entry, and the first behind it.
fn edges((key, bits): &TrieKey) -> [(u8, u16); 2] {
    let port = u16::from_be(key.port_be);
    let size = 1_u32 << (80 - u32::from(*bits)).min(16);
    let behind = u16::try_from((u32::from(port) + size) & 0xffff).unwrap_or_default();
    [(key.protocol, port), (key.protocol, behind)]
}
