//! One endpoint's policy as the maps hold it, and its look-up as the datapath does it.

use std::collections::{BTreeMap, BTreeSet};

use countersign_ebpf_common::ladder::{self, Decision};
use countersign_ebpf_common::policy::{
    PREFIX_PORT, PREFIX_PROTOCOL, PREFIX_STATIC, PolicyEntry, PolicyKey, flag,
};

use crate::diff::Op;
use crate::identity::reserved;
use crate::model::Direction;

/// Priorities of the tiers, as [`countersign_ebpf_common::policy::precedence`] takes them; 0 is the strongest.
pub mod tier {
    /// ClusterNetworkPolicy of the tier Admin: priorities 0 to 1000 and 100 ranks of each begin here.
    pub const ADMIN: u32 = 100 << 16;
    /// CiliumNetworkPolicy, its cluster-wide twin and NetworkPolicy.
    pub const NORMAL: u32 = 200 << 16;
    /// ClusterNetworkPolicy of the tier Baseline, likewise.
    pub const BASELINE: u32 = 250 << 16;
    /// What holds where no policy speaks.
    pub const DEFAULT: u32 = 255 << 16;
}

/// A key of the trie: the key itself, and how many of its bits count.
pub type TrieKey = (PolicyKey, u8);

/// What the policy maps hold for one endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointPolicy {
    /// The endpoint's slot, part of every key.
    pub slot: u16,
    /// Whether what nothing allows is denied, towards the endpoint.
    pub ingress_enforced: bool,
    /// Whether what nothing allows is denied, from the endpoint.
    pub egress_enforced: bool,
    /// The trie's entries.
    pub entries: BTreeMap<TrieKey, PolicyEntry>,
    /// Final decisions by full key (one peer, protocol and port); a hit needs no further look-up.
    pub exact: BTreeMap<PolicyKey, PolicyEntry>,
    /// Pairs of rules that name different authentication modes for one key, by peer; the stricter holds.
    pub conflicts: BTreeMap<u32, BTreeSet<(u32, u32)>>,
}

/// Protocol and ports of an entry: a prefix of the key behind peer, slot and direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) protocol: u8,
    pub(crate) port: u16,
    /// Bits of the whole key that count: 56, or 64 to 80.
    pub(crate) bits: u8,
}

impl Place {
    /// Every protocol.
    pub(crate) const ALL: Self = Self { protocol: 0, port: 0, bits: PREFIX_STATIC };

    /// Every port of a protocol.
    pub(crate) fn protocol(protocol: u8) -> Self {
        Self { protocol, port: 0, bits: PREFIX_PROTOCOL }
    }

    /// The fewest prefixes that cover the ports from `first` to `last`, both included.
    pub(crate) fn range(protocol: u8, first: u16, last: u16) -> Vec<Self> {
        let mut places = Vec::new();
        let (mut next, end) = (u32::from(first), u32::from(last) + 1);
        while next < end {
            let aligned = if next == 0 { 16 } else { next.trailing_zeros() };
            let fits = (end - next).ilog2();
            let free = aligned.min(fits).min(16);
            places.push(Self { protocol, port: low_16(next), bits: PREFIX_PORT - low_8(free) });
            next += 1 << free;
        }
        places
    }

    /// This place cut to fewer bits.
    fn cut(self, bits: u8) -> Self {
        if bits < PREFIX_PROTOCOL {
            return Self::ALL;
        }
        let free = u32::from(PREFIX_PORT.saturating_sub(bits)).min(16);
        Self { protocol: self.protocol, port: low_16(u32::from(self.port) >> free << free), bits }
    }

    /// Every broader place around this one, the nearest first.
    pub(crate) fn broader(self) -> impl Iterator<Item = Self> {
        let prefixes = (PREFIX_PROTOCOL..self.bits).rev().map(move |bits| self.cut(bits));
        prefixes.chain((self.bits > PREFIX_STATIC).then_some(Self::ALL))
    }
}

fn low_16(number: u32) -> u16 {
    u16::try_from(number & 0xffff).unwrap_or_default()
}

fn low_8(number: u32) -> u8 {
    u8::try_from(number & 0xff).unwrap_or_default()
}

impl EndpointPolicy {
    /// Decides one packet as the datapath does: the exact entry, or else the longest prefixes of the peer and of
    /// every peer through the ladder.
    #[must_use]
    pub fn lookup(&self, direction: Direction, identity: u32, protocol: u8, port: u16) -> Decision {
        let key = self.key(direction.number(), identity, Place { protocol, port, bits: PREFIX_PORT });
        if let Some(entry) = self.exact.get(&key) {
            return ladder::choose(Some(entry), None);
        }
        let place = Place { protocol, port, bits: PREFIX_PORT };
        let own = (identity != reserved::UNKNOWN)
            .then(|| self.longest(direction.number(), identity, place))
            .flatten();
        ladder::choose(own, self.longest(direction.number(), reserved::UNKNOWN, place))
    }

    /// The identities that an entry asks authentication of, in either direction.
    #[must_use]
    pub fn required_peers(&self) -> BTreeSet<u32> {
        let trie = self.entries.iter().map(|((key, _), entry)| (key, entry));
        let asking = trie
            .chain(&self.exact)
            .filter(|(_, entry)| entry.auth_type != 0 && entry.flags & flag::DENY == 0);
        asking.map(|(key, _)| key.identity).collect()
    }

    /// What it says of these peers, with what it says of everybody.
    pub(crate) fn part(&self, peers: &BTreeSet<u32>) -> Self {
        let mut part = self.empty();
        part.take_entries(self, reserved::UNKNOWN);
        for peer in peers {
            part.take_entries(self, *peer);
            part.conflicts.extend(self.conflicts.get(peer).map(|pairs| (*peer, pairs.clone())));
        }
        part
    }

    /// The same endpoint, without anything said.
    pub(crate) fn empty(&self) -> Self {
        let Self { slot, ingress_enforced, egress_enforced, .. } = *self;
        Self { slot, ingress_enforced, egress_enforced, ..Self::default() }
    }

    /// Copies what `whole` says of a peer.
    pub(crate) fn take_entries(&mut self, whole: &Self, peer: u32) {
        let (first, last) = (PolicyKey { identity: peer, ..PolicyKey::default() }, last_key(peer));
        let entries = whole.entries.range((first, 0)..=(last, u8::MAX));
        self.entries.extend(entries.map(|(key, entry)| (*key, *entry)));
        let exact = whole.exact.range(first..=last);
        self.exact.extend(exact.map(|(key, entry)| (*key, *entry)));
    }

    /// Puts what is said of these peers in `part` in the place of what was; `ops` is the way there.
    pub(crate) fn replace_part(&mut self, peers: &BTreeSet<u32>, ops: &[Op], part: Self) {
        for op in ops {
            self.apply(*op);
        }
        for peer in peers {
            self.conflicts.remove(peer);
        }
        self.conflicts.extend(part.conflicts);
    }

    /// Does to the entries what an operation does to the maps.
    pub fn apply(&mut self, op: Op) {
        match op {
            Op::SetExact(key, entry) => drop(self.exact.insert(key, entry)),
            Op::DeleteExact(key) => drop(self.exact.remove(&key)),
            Op::Set(key, bits, entry) => drop(self.entries.insert((key, bits), entry)),
            Op::Delete(key, bits) => drop(self.entries.remove(&(key, bits))),
        }
    }

    /// Every pair of rules that name different authentication modes for one key.
    #[must_use]
    pub fn conflicting_rules(&self) -> BTreeSet<(u32, u32)> {
        self.conflicts.values().flatten().copied().collect()
    }

    pub(crate) fn key(&self, direction: u8, identity: u32, place: Place) -> PolicyKey {
        PolicyKey {
            identity,
            slot_be: self.slot.to_be(),
            direction,
            protocol: place.protocol,
            port_be: place.port.to_be(),
            pad: 0,
        }
    }

    pub(crate) fn insert(&mut self, direction: u8, identity: u32, place: Place, entry: PolicyEntry) {
        self.entries.insert((self.key(direction, identity, place), place.bits), entry);
    }

    /// The entry of the longest prefix around `place`, itself included.
    pub(crate) fn longest(&self, direction: u8, identity: u32, place: Place) -> Option<&PolicyEntry> {
        let at = |place: Place| self.entries.get(&(self.key(direction, identity, place), place.bits));
        at(place).or_else(|| place.broader().find_map(at))
    }

    /// Decides every full key of the trie that names a peer.
    pub(crate) fn fill_exact(&mut self) {
        let full = |(key, bits): &&TrieKey| *bits == PREFIX_PORT && key.identity != reserved::UNKNOWN;
        let keys: Vec<PolicyKey> = self.entries.keys().filter(full).map(|(key, _)| *key).collect();
        for key in keys {
            let place = Place { protocol: key.protocol, port: u16::from_be(key.port_be), bits: PREFIX_PORT };
            let own = self.longest(key.direction, key.identity, place);
            let any = self.longest(key.direction, reserved::UNKNOWN, place);
            let entry = decided(own, any);
            self.exact.insert(key, entry);
        }
    }
}

/// The last key of a peer.
fn last_key(peer: u32) -> PolicyKey {
    PolicyKey {
        identity: peer,
        slot_be: u16::MAX,
        direction: u8::MAX,
        protocol: u8::MAX,
        port_be: u16::MAX,
        pad: u16::MAX,
    }
}

/// The ladder's decision as an entry of its own.
fn decided(own: Option<&PolicyEntry>, any: Option<&PolicyEntry>) -> PolicyEntry {
    let decision = ladder::choose(own, any);
    let strongest = own.into_iter().chain(any).map(|entry| entry.precedence).max();
    PolicyEntry {
        precedence: strongest.unwrap_or_default(),
        rule_id: decision.rule_id,
        auth_type: decision.auth_type,
        flags: if decision.allow { flag::AUTH_EXPLICIT } else { flag::DENY },
        prefix_bits: PREFIX_PORT,
        pad: 0,
    }
}
