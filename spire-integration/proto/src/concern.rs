//! Which identities policies can ask to authenticate.
//!
//! A pair authenticates because a clause says so whose subject is the one and among whose peers is the other;
//! a clause that inherits its mode from a broader one has no peers that the broader one has not. So it is enough
//! to look at the clauses that name a mode, one identity at a time. What another clause denies, or takes back
//! with `disabled`, is not looked at: an SVID too many is never used, one too few is a pod that cannot be reached.

use std::collections::BTreeMap;

use countersign_policy::labels::Labels;
use countersign_policy::model::{Action, AuthMode, Clause, Peers, Rule};
use countersign_policy::selector::Selector;
use countersign_policy::{Policy, PolicyId};

/// The rules of all policies that ask for authentication.
#[derive(Clone, Debug, Default)]
pub struct Concern {
    policies: BTreeMap<PolicyId, Vec<Asking>>,
}

/// A rule that asks for authentication, and of whom.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Asking {
    subject: Selector,
    peers: Vec<Peers>,
}

impl Concern {
    /// No policy asks anybody.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a policy in, in the place of the one with its ID. Returns whether other identities may be
    /// concerned now.
    pub fn upsert(&mut self, policy: &Policy) -> bool {
        let asking: Vec<Asking> = policy.rules.iter().filter_map(Asking::of).collect();
        if asking.is_empty() {
            return self.remove(&policy.id);
        }
        let before = self.policies.insert(policy.id.clone(), asking);
        before.as_ref() != self.policies.get(&policy.id)
    }

    /// Forgets a policy. Returns whether other identities may be concerned now.
    pub fn remove(&mut self, id: &PolicyId) -> bool {
        self.policies.remove(id).is_some()
    }

    /// Whether a policy can ask an identity with these labels to authenticate, on either side.
    #[must_use]
    pub fn concerns(&self, labels: &Labels) -> bool {
        self.policies.values().flatten().any(|asking| asking.concerns(labels))
    }
}

impl Asking {
    fn of(rule: &Rule) -> Option<Self> {
        let clauses = rule.clauses.iter().filter(|clause| asks(clause));
        let peers: Vec<Peers> = clauses.map(|clause| clause.peers.clone()).collect();
        if peers.is_empty() { None } else { Some(Self { subject: rule.subject.clone(), peers }) }
    }

    fn concerns(&self, labels: &Labels) -> bool {
        self.subject.matches(labels)
            || self.peers.iter().any(|peers| match peers {
                Peers::Any => true,
                Peers::Of(selectors) => selectors.iter().any(|selector| selector.matches(labels)),
            })
    }
}

fn asks(clause: &Clause) -> bool {
    let mode = match clause.auth {
        Some(AuthMode::Required | AuthMode::AlwaysFail) => true,
        Some(AuthMode::Disabled) | None => false,
    };
    mode && clause.action == Action::Allow
}
