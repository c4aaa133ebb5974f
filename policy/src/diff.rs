//! From one endpoint policy to another, one map operation at a time.
//!
//! A packet's verdict is made of two parts, the peer's own entry and the one for every peer, of which the one of
//! higher precedence decides; the operations change one part at a time. The order below makes every state in
//! between safe: a packet is let through only if the old policy or the new one lets it through, and with no
//! weaker authentication than one of them asks for. Nothing that both let through is dropped either.
//!
//! 1. exact entries of the new policy: such packets have their final verdict at once;
//! 2. copies of broader entries, or of nothing where there is none, at keys that only the new policy has, so that
//!    both have the same keys (left out where the broader entry does not change);
//! 3. keys whose precedence rises, those that come to the highest first;
//! 4. keys whose precedence falls, those that come from the lowest first;
//! 5. keys of the old policy only, which say by now what the broader entry says; old exact entries last.
//!
//! Why that is enough: between 3 and 4 every part has the higher of its two precedences, so that the winner is
//! the old policy's or the new one's. Within 3, once a part has risen, a part yet to rise cannot end above it,
//! so that the winner is that of the beginning or of the end of 3; 4 is the same backwards.
//!
//! Parts that change how authentication is decided hold the strictest entry from 3 until 4.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use countersign_ebpf_common::policy::{PolicyEntry, PolicyKey, auth_type, flag};

use crate::endpoint::{EndpointPolicy, Place, TrieKey};
use crate::identity::reserved;

/// One operation on the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    /// Adds or replaces an entry of the exact map.
    SetExact(PolicyKey, PolicyEntry),
    /// Takes an entry out of the exact map.
    DeleteExact(PolicyKey),
    /// Adds or replaces an entry of the trie; the number is the prefix length in bits.
    Set(PolicyKey, u8, PolicyEntry),
    /// Takes an entry out of the trie.
    Delete(PolicyKey, u8),
}

/// When an operation is done: the phase, then the precedence that matters in it, then what is stricter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    SetExact,
    Copy,
    Rise(Reverse<i64>, Strict),
    Fall(i64, Reverse<Strict>),
    Clean,
    DeleteExact,
}

/// Whether an operation sets the strictest entry, or replaces it by the final one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Strict {
    Yes,
    No,
}

/// The operations that turn `old` into `new`, in an order that is safe at every point.
#[must_use]
pub fn diff(old: &EndpointPolicy, new: &EndpointPolicy) -> Vec<Op> {
    let mut plan = Plan { old, new, asking: Asking::of(old, new), steps: BTreeMap::new() };
    plan.exact();
    let keys: BTreeSet<&TrieKey> = old.entries.keys().chain(new.entries.keys()).collect();
    for (key, bits) in keys {
        plan.cell(*key, *bits);
    }
    plan.steps.into_values().flatten().collect()
}

/// Which peers authentication is asked of, before or after, by direction.
struct Asking {
    peers: BTreeSet<(u8, u32)>,
    strictest: u8,
}

impl Asking {
    fn of(old: &EndpointPolicy, new: &EndpointPolicy) -> Self {
        let entries =
            old.entries.iter().chain(&new.entries).filter(|(_, entry)| entry.auth_type != auth_type::NONE);
        let mut asking = Self { peers: BTreeSet::new(), strictest: auth_type::SPIRE };
        for ((key, _), entry) in entries {
            asking.peers.insert((key.direction, key.identity));
            asking.strictest = asking.strictest.max(entry.auth_type);
        }
        asking
    }

    /// Whether a change at this key may change what somebody is asked for.
    fn concerns(&self, key: &PolicyKey) -> bool {
        if key.identity == reserved::UNKNOWN {
            return self.peers.iter().any(|(direction, _)| *direction == key.direction);
        }
        [key.identity, reserved::UNKNOWN].iter().any(|peer| self.peers.contains(&(key.direction, *peer)))
    }
}

/// Stands at a key for no entry, so that a broader one does not show through before its time.
const NOTHING: PolicyEntry =
    PolicyEntry { precedence: 0, rule_id: 0, auth_type: 0, flags: flag::DENY, prefix_bits: 0, pad: 0 };

/// How strong an entry is; none is weaker than all.
fn strength(entry: Option<&PolicyEntry>) -> i64 {
    entry.map_or(-1, |entry| entry.precedence.into())
}

fn denies(entry: Option<&PolicyEntry>) -> bool {
    entry.is_some_and(|entry| entry.flags & flag::DENY != 0)
}

struct Plan<'a> {
    old: &'a EndpointPolicy,
    new: &'a EndpointPolicy,
    asking: Asking,
    steps: BTreeMap<Step, Vec<Op>>,
}

impl Plan<'_> {
    fn push(&mut self, step: Step, op: Op) {
        self.steps.entry(step).or_default().push(op);
    }

    fn exact(&mut self) {
        let (old, new) = (self.old, self.new);
        for (key, entry) in new.exact.iter().filter(|(key, entry)| old.exact.get(key) != Some(entry)) {
            self.push(Step::SetExact, Op::SetExact(*key, *entry));
        }
        for key in old.exact.keys().filter(|key| !new.exact.contains_key(key)) {
            self.push(Step::DeleteExact, Op::DeleteExact(*key));
        }
    }

    /// Plans the way of one key from what it says under the old policy to what it says under the new one.
    fn cell(&mut self, key: PolicyKey, bits: u8) {
        let (here_before, here_after) =
            (self.old.entries.get(&(key, bits)), self.new.entries.get(&(key, bits)));
        if here_before == here_after {
            return;
        }
        let (before, after) = (effective(self.old, &key, bits), effective(self.new, &key, bits));
        let stable = self.stands_on_unchanged(&key, bits);
        if here_before.is_none() && !stable {
            self.push(Step::Copy, Op::Set(key, bits, before.copied().unwrap_or(NOTHING)));
        }
        let stays = here_after.is_some() || !stable;
        let last =
            if stays { Op::Set(key, bits, after.copied().unwrap_or(NOTHING)) } else { Op::Delete(key, bits) };
        let (from, to) = (strength(before), strength(after));
        if self.is_delicate(&key, before, after) {
            let top = from.max(to);
            let strictest = self.strictest(before, after);
            self.push(Step::Rise(Reverse(top), Strict::Yes), Op::Set(key, bits, strictest));
            self.push(Step::Fall(top, Reverse(Strict::Yes)), last);
        } else if to >= from {
            self.push(Step::Rise(Reverse(to), Strict::No), last);
        } else {
            self.push(Step::Fall(from, Reverse(Strict::No)), last);
        }
        if stays && here_after.is_none() {
            self.push(Step::Clean, Op::Delete(key, bits));
        }
    }

    /// Whether there is no broader key, or the nearest of either policy says the same in both: then nothing under it
    /// changes before this key does, and it needs no copy to stand on.
    fn stands_on_unchanged(&self, key: &PolicyKey, bits: u8) -> bool {
        let place = Place { protocol: key.protocol, port: u16::from_be(key.port_be), bits };
        let at = |policy: &EndpointPolicy, place: Place| {
            let key = PolicyKey { protocol: place.protocol, port_be: place.port.to_be(), ..*key };
            policy.entries.get(&(key, place.bits)).copied()
        };
        let mut around = place.broader().map(|place| (at(self.old, place), at(self.new, place)));
        around
            .find(|(before, after)| before.is_some() || after.is_some())
            .is_none_or(|(before, after)| before == after)
    }

    /// Whether the way from one entry to the other must lead over the strictest one.
    fn is_delicate(
        &self,
        key: &PolicyKey,
        before: Option<&PolicyEntry>,
        after: Option<&PolicyEntry>,
    ) -> bool {
        let deny = denies(before) || denies(after);
        let weight = |e: &PolicyEntry| (e.precedence, e.auth_type, e.flags, e.prefix_bits);
        !deny && before.map(weight) != after.map(weight) && self.asking.concerns(key)
    }

    /// An entry as strong as the stronger of two, which asks for the most.
    fn strictest(&self, before: Option<&PolicyEntry>, after: Option<&PolicyEntry>) -> PolicyEntry {
        let strongest = before.into_iter().chain(after).map(|entry| entry.precedence).max();
        PolicyEntry {
            precedence: strongest.unwrap_or_default(),
            rule_id: before.or(after).map_or(0, |entry| entry.rule_id),
            auth_type: self.asking.strictest,
            flags: flag::AUTH_EXPLICIT,
            prefix_bits: u8::MAX,
            pad: 0,
        }
    }
}

/// What a policy says at a key: its own entry, or that of the longest broader one.
fn effective<'a>(policy: &'a EndpointPolicy, key: &PolicyKey, bits: u8) -> Option<&'a PolicyEntry> {
    if policy.slot.to_be() != key.slot_be {
        return None;
    }
    let place = Place { protocol: key.protocol, port: u16::from_be(key.port_be), bits };
    policy.longest(key.direction, key.identity, place)
}
