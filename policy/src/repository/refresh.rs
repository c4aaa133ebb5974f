//! Bringing an endpoint's policy up to date: by what was touched, or as a whole; what that takes, and back.

use std::collections::{BTreeMap, BTreeSet};

use super::touched::Scope;
use super::{Repository, View, compile};
use crate::diff::{self, Op};
use crate::endpoint::EndpointPolicy;

/// How an endpoint's policy came up to date.
#[derive(Clone, Debug)]
pub struct Refresh {
    /// The operations on the maps, in an order that is safe at every point; see [`crate::diff`].
    pub ops: Vec<Op>,
    before: EndpointPolicy,
    peers: Option<BTreeSet<u32>>,
}

impl Refresh {
    /// How many exact entries and how many with wildcards or ranges there are more on the way than before: what has
    /// to find room. Old entries go last, so that nothing is missing meanwhile.
    #[must_use]
    pub fn growth(&self) -> (usize, usize) {
        let (mut exact, mut tries) = (BTreeSet::new(), BTreeSet::new());
        for op in self.new_entries() {
            match op {
                Op::SetExact(key, _) => drop(exact.insert(*key)),
                Op::Set(key, bits, _) => drop(tries.insert((*key, *bits))),
                _ => {}
            }
        }
        (exact.len(), tries.len())
    }

    /// How many entries each rule has more, by rule.
    #[must_use]
    pub fn growth_by_rule(&self) -> BTreeMap<u32, usize> {
        let mut rules = BTreeMap::new();
        for op in self.new_entries() {
            if let Op::SetExact(_, entry) | Op::Set(_, _, entry) = op
                && entry.rule_id != 0
            {
                *rules.entry(entry.rule_id).or_default() += 1;
            }
        }
        rules
    }

    /// What sets an entry under a key that had none.
    fn new_entries(&self) -> impl Iterator<Item = &Op> {
        self.ops.iter().filter(|op| match op {
            Op::SetExact(key, _) => !self.before.exact.contains_key(key),
            Op::Set(key, bits, _) => !self.before.entries.contains_key(&(*key, *bits)),
            _ => false,
        })
    }

    /// Takes the change back out of the policy; returns the operations that take it back out of the maps.
    #[must_use]
    pub fn undo(self, policy: &mut EndpointPolicy) -> Vec<Op> {
        let Some(peers) = &self.peers else {
            let now = std::mem::replace(policy, self.before);
            return diff::diff(&now, policy);
        };
        let ops = diff::diff(&policy.part(peers), &self.before);
        policy.replace_part(peers, &ops, self.before);
        ops
    }
}

impl Repository {
    /// Brings an endpoint's policy, which was up to date before, up to date with what was touched.
    pub fn refresh(&self, identity: u32, policy: &mut EndpointPolicy, scope: Scope<'_>) -> Refresh {
        self.refresh_as(View::Enforced, identity, policy, scope)
    }

    /// As [`Self::refresh`], of another verdict.
    pub fn refresh_as(
        &self,
        view: View,
        identity: u32,
        policy: &mut EndpointPolicy,
        scope: Scope<'_>,
    ) -> Refresh {
        let Scope::Peers(peers) = scope else { return self.refresh_all(view, identity, policy) };
        let before = policy.part(peers);
        let after = compile::part(self, identity, policy, peers, view);
        let ops = diff::diff(&before, &after);
        policy.replace_part(peers, &ops, after);
        Refresh { ops, before, peers: Some(peers.clone()) }
    }

    /// Brings an endpoint's policy up to date, whatever it was.
    pub fn refresh_whole(&self, identity: u32, policy: &mut EndpointPolicy) -> Refresh {
        self.refresh_all(View::Enforced, identity, policy)
    }

    fn refresh_all(&self, view: View, identity: u32, policy: &mut EndpointPolicy) -> Refresh {
        let new = compile::endpoint(self, identity, policy.slot, view);
        let before = std::mem::replace(policy, new);
        let ops = diff::diff(&before, policy);
        Refresh { ops, before, peers: None }
    }
}
