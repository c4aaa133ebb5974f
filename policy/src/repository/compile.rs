//! From the rules that choose an endpoint to the entries of its maps.
//!
//! Three steps. *Cells*: every rule, peer and port prefix gives one; equal keys are merged (deny over allow,
//! written authentication over none, the stricter of two). *Folding*: the tries find the longest prefix only, so
//! an entry that a broader one of the same peer overrides is left out, and one that names no authentication
//! takes that of the nearest broader one that does. *Exact entries*: keys with one peer and one port are decided
//! against the entries for every peer here, once, and not at each packet.

use std::collections::{BTreeMap, BTreeSet};

use countersign_ebpf_common::policy::{PREFIX_STATIC, PolicyEntry, flag, precedence};

use super::{Repository, StoredClause, StoredRule};
use crate::endpoint::{EndpointPolicy, Place, tier};
use crate::identity::reserved;
use crate::model::{Action, Direction, Kind, PolicyId, PortMatch, Ports};

/// Cells of one endpoint, by direction, peer and place.
struct Cells {
    entries: BTreeMap<(u8, u32, Place), PolicyEntry>,
    conflicts: BTreeSet<(u32, u32)>,
}

pub(super) fn endpoint(repository: &Repository, identity: u32, slot: u16) -> EndpointPolicy {
    let mut policy =
        EndpointPolicy { slot, ingress_enforced: true, egress_enforced: true, ..EndpointPolicy::default() };
    let Some(labels) = repository.identities.get(&identity) else { return policy };
    let rules = rules_for(repository, identity, labels.namespace());
    let init = labels.is_reserved("init");
    policy.ingress_enforced = init || rules.iter().any(|rule| rule.default_deny[0]);
    policy.egress_enforced = init || rules.iter().any(|rule| rule.default_deny[1]);
    let mut cells = Cells { entries: BTreeMap::new(), conflicts: BTreeSet::new() };
    cells.add_defaults(&policy);
    for clause in rules.iter().flat_map(|rule| &rule.clauses) {
        cells.add_clause(repository, identity, clause);
    }
    cells.fold(&mut policy);
    policy.conflicts = cells.conflicts;
    policy.fill_exact();
    policy
}

/// The rules that choose an identity. A policy of another namespace never does, and is not looked at.
fn rules_for<'a>(repository: &'a Repository, identity: u32, namespace: Option<&str>) -> Vec<&'a StoredRule> {
    let first =
        |kind, namespace: &str| PolicyId { kind, namespace: namespace.to_owned(), name: String::new() };
    let scopes = [
        (Kind::CiliumNetworkPolicy, namespace),
        (Kind::CiliumClusterwideNetworkPolicy, Some("")),
        (Kind::NetworkPolicy, namespace),
    ];
    let scopes =
        scopes.into_iter().filter_map(|(kind, namespace)| namespace.map(|namespace| (kind, namespace)));
    let policies = scopes.flat_map(|(kind, namespace)| {
        let inside = move |id: &PolicyId| id.kind == kind && id.namespace == namespace;
        repository.policies.range(first(kind, namespace)..).take_while(move |(id, _)| inside(id))
    });
    let rules = policies.flat_map(|(_, stored)| &stored.rules);
    rules.filter(|rule| repository.selectors.chooses(rule.subject, identity)).collect()
}

impl Cells {
    /// What holds where no rule speaks: everything in a direction that is not enforced, and the node's own
    /// packets towards its pods (probes).
    fn add_defaults(&mut self, policy: &EndpointPolicy) {
        let entry = PolicyEntry { precedence: precedence(tier::DEFAULT, false), ..PolicyEntry::default() };
        let (ingress, egress) = (Direction::Ingress.number(), Direction::Egress.number());
        self.add(ingress, reserved::HOST, Place::ALL, entry);
        if !policy.ingress_enforced {
            self.add(ingress, reserved::UNKNOWN, Place::ALL, entry);
        }
        if !policy.egress_enforced {
            self.add(egress, reserved::UNKNOWN, Place::ALL, entry);
        }
    }

    fn add_clause(&mut self, repository: &Repository, identity: u32, clause: &StoredClause) {
        let entry = entry_of(clause);
        let direction = clause.direction.number();
        let peers = peers_of(repository, clause);
        let Ports::Of(matches) = &clause.ports else {
            return peers.into_iter().for_each(|peer| self.add(direction, peer, Place::ALL, entry));
        };
        for ports in matches {
            match ports {
                PortMatch::Protocol(protocol) => {
                    self.add_all(direction, &peers, &[Place::protocol(*protocol)], entry)
                }
                PortMatch::Range(protocol, first, last) => {
                    self.add_all(direction, &peers, &Place::range(*protocol, *first, *last), entry);
                }
                PortMatch::Named(protocol, name) => {
                    for (peer, places) in named(repository, identity, clause, (*protocol, name), &peers) {
                        self.add_all(direction, &[peer], &places, entry);
                    }
                }
            }
        }
    }

    fn add_all(&mut self, direction: u8, peers: &[u32], places: &[Place], entry: PolicyEntry) {
        for peer in peers {
            for place in places {
                self.add(direction, *peer, *place, entry);
            }
        }
    }

    fn add(&mut self, direction: u8, peer: u32, place: Place, entry: PolicyEntry) {
        let entry = PolicyEntry { prefix_bits: place.bits, ..entry };
        let Some(there) = self.entries.get_mut(&(direction, peer, place)) else {
            self.entries.insert((direction, peer, place), entry);
            return;
        };
        if entry.precedence == there.precedence
            && explicit(&entry)
            && explicit(there)
            && entry.auth_type != there.auth_type
        {
            self.conflicts.insert((there.rule_id.min(entry.rule_id), there.rule_id.max(entry.rule_id)));
        }
        if rank(&entry) > rank(there) {
            *there = entry;
        }
    }

    /// Moves what the tries need into the endpoint's policy.
    fn fold(&self, policy: &mut EndpointPolicy) {
        for ((direction, peer, place), entry) in &self.entries {
            if let Some(entry) = self.folded(*direction, *peer, *place, *entry) {
                policy.insert(*direction, *peer, *place, entry);
            }
        }
    }

    fn folded(&self, direction: u8, peer: u32, place: Place, mut entry: PolicyEntry) -> Option<PolicyEntry> {
        let mut settled = explicit(&entry) || entry.flags & flag::DENY != 0;
        for broader in place.broader() {
            let Some(around) = self.entries.get(&(direction, peer, broader)) else { continue };
            if around.precedence > entry.precedence {
                return None;
            }
            if !settled && around.precedence == entry.precedence && explicit(around) {
                entry.auth_type = around.auth_type;
                settled = true;
            }
        }
        Some(entry)
    }
}

fn explicit(entry: &PolicyEntry) -> bool {
    entry.flags & flag::AUTH_EXPLICIT != 0
}

/// Which of two entries of one key holds: the larger. Among equals the first rule, so that the order of arrival
/// means nothing.
fn rank(entry: &PolicyEntry) -> (u32, bool, u8, std::cmp::Reverse<u32>) {
    (entry.precedence, explicit(entry), entry.auth_type, std::cmp::Reverse(entry.rule_id))
}

fn entry_of(clause: &StoredClause) -> PolicyEntry {
    let deny = clause.action == Action::Deny;
    let auth = clause.auth.filter(|_| !deny);
    let flags = if deny { flag::DENY } else { 0 } | if auth.is_some() { flag::AUTH_EXPLICIT } else { 0 };
    PolicyEntry {
        precedence: precedence(tier::NORMAL, deny),
        rule_id: clause.id,
        auth_type: auth.map_or(0, crate::model::AuthMode::number),
        flags,
        prefix_bits: PREFIX_STATIC,
        pad: 0,
    }
}

fn peers_of(repository: &Repository, clause: &StoredClause) -> Vec<u32> {
    let Some(selectors) = &clause.peers else { return vec![reserved::UNKNOWN] };
    let chosen: BTreeSet<u32> = selectors.iter().flat_map(|id| repository.selectors.matches(*id)).collect();
    chosen.into_iter().collect()
}

/// The places of a named port for each peer. The receiver's containers give the name its meaning: the endpoint's
/// own on ingress, each peer's on egress.
fn named(
    repository: &Repository,
    identity: u32,
    clause: &StoredClause,
    (protocol, name): (u8, &str),
    peers: &[u32],
) -> Vec<(u32, Vec<Place>)> {
    let key = (protocol, name.to_owned());
    let places = |owner: &u32| -> Vec<Place> {
        let numbers =
            repository.named_ports.get(owner).and_then(|ports| ports.get(&key)).into_iter().flatten();
        numbers.flat_map(|number| Place::range(protocol, *number, *number)).collect()
    };
    match (clause.direction, &clause.peers) {
        (Direction::Ingress, _) => peers.iter().map(|peer| (*peer, places(&identity))).collect(),
        (Direction::Egress, Some(_)) => peers.iter().map(|peer| (*peer, places(peer))).collect(),
        (Direction::Egress, None) => {
            repository.named_ports.keys().map(|peer| (*peer, places(peer))).collect()
        }
    }
}
