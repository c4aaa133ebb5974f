//! From the rules that choose an endpoint to the entries of its maps.
//!
//! Three steps, peer by peer. *Cells*: every rule and port prefix gives one; of those of one tier with equal keys
//! one is kept (deny over allow, written authentication over none, the stricter of two). *Folding*: the tries
//! find the longest prefix only, so each cell's entry says what all cells around it come to: the strongest tier
//! that speaks decides, unless it passes; and an entry that names no authentication takes that of the nearest
//! broader one that does. *Exact entries*: keys with one peer and one port are decided against the entries for
//! every peer here, once, and not at each packet.

use std::collections::{BTreeMap, BTreeSet};

use countersign_ebpf_common::policy::{PolicyEntry, flag, precedence};

use super::store::{ClauseId, StoredClause};
use super::{Enforcement, Repository, View};
use crate::endpoint::{EndpointPolicy, Place, tier};
use crate::identity::reserved;
use crate::model::{Action, AuthMode, Direction, PortMatch, Ports};

/// Admin, Normal, Baseline, and what holds where nothing speaks.
const TIERS: usize = 4;

/// What one tier says at one place.
#[derive(Clone, Copy)]
struct Cell {
    entry: PolicyEntry,
    pass: bool,
}

/// What all tiers say at one place.
type Tiers = [Option<Cell>; TIERS];

/// What is said of one peer in one direction.
#[derive(Default)]
struct Group {
    cells: BTreeMap<Place, Tiers>,
    conflicts: BTreeSet<(u32, u32)>,
}

/// Works out what is said of an endpoint with this identity.
struct Compiler<'a> {
    repository: &'a Repository,
    identity: u32,
    view: View,
    /// Whether the other kinds of policy have the last word, by direction: the baseline is not asked then.
    isolated: [bool; 2],
    enforced: [bool; 2],
    /// Nothing is to be dropped here, whatever rules say.
    never: bool,
}

pub(super) fn endpoint(repository: &Repository, identity: u32, slot: u16, view: View) -> EndpointPolicy {
    let closed =
        EndpointPolicy { slot, ingress_enforced: true, egress_enforced: true, ..EndpointPolicy::default() };
    let Some(compiler) = Compiler::new(repository, identity, view) else { return closed };
    let [ingress_enforced, egress_enforced] = compiler.enforced;
    let mut policy = EndpointPolicy { ingress_enforced, egress_enforced, ..closed };
    let mut groups = BTreeMap::new();
    compiler.add_defaults(reserved::HOST, &mut groups);
    compiler.add_defaults(reserved::UNKNOWN, &mut groups);
    for (id, clause) in compiler.clauses() {
        compiler.add_clause(id, clause, None, &mut groups);
    }
    install(&mut policy, groups);
    policy.fill_exact();
    policy
}

/// What is said of these peers, with what `policy` says of everybody, which is not different.
pub(super) fn part(
    repository: &Repository,
    identity: u32,
    policy: &EndpointPolicy,
    peers: &BTreeSet<u32>,
    view: View,
) -> EndpointPolicy {
    let mut part = policy.empty();
    part.take_entries(policy, reserved::UNKNOWN);
    let Some(compiler) = Compiler::new(repository, identity, view) else { return part };
    let mut groups = BTreeMap::new();
    for peer in peers {
        compiler.add_defaults(*peer, &mut groups);
        for (id, clause) in compiler.clauses_about(*peer) {
            compiler.add_clause(id, clause, Some(*peer), &mut groups);
        }
    }
    install(&mut part, groups);
    part.fill_exact();
    part
}

type Groups = BTreeMap<(u8, u32), Group>;

fn install(policy: &mut EndpointPolicy, groups: Groups) {
    for ((direction, peer), group) in groups {
        for (place, entry) in group.folded() {
            policy.insert(direction, peer, place, entry);
        }
        if !group.conflicts.is_empty() {
            policy.conflicts.entry(peer).or_default().extend(group.conflicts);
        }
    }
}

impl<'a> Compiler<'a> {
    /// Nothing for an identity that is not known.
    fn new(repository: &'a Repository, identity: u32, view: View) -> Option<Self> {
        let labels = repository.identity(identity)?;
        let isolated = repository.isolation_of(identity, &[])[usize::from(view == View::AsIf)];
        let always = repository.enforcement == Enforcement::Always || labels.is_reserved("init");
        let open = repository.enforcement == Enforcement::Never || view == View::Open;
        let never = open && !labels.is_reserved("init");
        let enforced = isolated.map(|isolated| (isolated || always) && !never);
        Some(Self { repository, identity, view, isolated, enforced, never })
    }

    fn counts(&self, audit: bool) -> bool {
        (self.view == View::AsIf || !audit) && !self.never
    }

    /// The clauses of all rules that choose the endpoint.
    fn clauses(&self) -> impl Iterator<Item = (ClauseId, &'a StoredClause)> {
        let store = &self.repository.store;
        let rules = store.rules_of(&self.repository.selectors, self.identity);
        let rules = rules.filter(|(_, rule)| self.counts(rule.audit));
        let ids = rules.flat_map(|(_, rule)| &rule.clauses);
        ids.filter_map(|id| Some((*id, store.clauses.get(id)?)))
    }

    /// Those of them that may speak of one peer by name.
    fn clauses_about(&self, peer: u32) -> Vec<(ClauseId, &'a StoredClause)> {
        let (store, selectors) = (&self.repository.store, &self.repository.selectors);
        let mut ids: BTreeSet<ClauseId> = BTreeSet::new();
        for selector in selectors.choosing(peer) {
            ids.extend(store.clauses_with_peer(selector));
        }
        if let Some(ports) = self.repository.named_ports.get(&peer) {
            // The name of a port on egress means each receiver's own, also where everybody may receive.
            for name in ports.keys() {
                ids.extend(store.clause_ids_with_port(name));
            }
        }
        let of_endpoint = |clause: &StoredClause| {
            let rule = store.rules.get(&clause.rule);
            rule.is_some_and(|r| selectors.chooses(r.subject, self.identity) && self.counts(r.audit))
        };
        let found = ids.into_iter().filter_map(|id| Some((id, store.clauses.get(&id)?)));
        found.filter(|(_, clause)| of_endpoint(clause)).collect()
    }

    /// What holds where no rule speaks: everything in a direction that is not enforced, and the node's own
    /// packets towards its pods (probes).
    fn add_defaults(&self, peer: u32, groups: &mut Groups) {
        let entry = PolicyEntry { precedence: precedence(tier::DEFAULT, false), ..PolicyEntry::default() };
        for direction in Direction::ALL {
            let number = direction.number();
            let open = peer == reserved::UNKNOWN && !self.enforced[usize::from(number)];
            if open || (peer == reserved::HOST && direction == Direction::Ingress) {
                groups.entry((number, peer)).or_default().add(
                    TIERS - 1,
                    Place::ALL,
                    Cell { entry, pass: false },
                );
            }
        }
    }

    /// Adds what a clause says, of one peer or of all.
    fn add_clause(&self, id: ClauseId, clause: &StoredClause, only: Option<u32>, groups: &mut Groups) {
        let tier = tier_of(clause.priority);
        let direction = clause.direction.number();
        if tier == 2 && self.isolated[usize::from(direction)] {
            return;
        }
        let cell = cell_of(id, clause);
        let matches = match &clause.ports {
            Ports::All => &[][..],
            Ports::Of(matches) => matches,
        };
        let mut plain = if clause.ports == Ports::All { vec![Place::ALL] } else { Vec::new() };
        for one in matches {
            match one {
                PortMatch::Protocol(protocol) => plain.push(Place::protocol(*protocol)),
                PortMatch::Range(protocol, first, last) => {
                    plain.extend(Place::range(*protocol, *first, *last));
                }
                PortMatch::Named(..) => {}
            }
        }
        let peers = self.peers_of(clause, only);
        for peer in &peers {
            let group = groups.entry((direction, *peer)).or_default();
            plain.iter().for_each(|place| group.add(tier, *place, cell));
        }
        for one in matches {
            if let PortMatch::Named(protocol, name) = one {
                for (peer, place) in self.named(clause, (*protocol, name), &peers, only) {
                    groups.entry((direction, peer)).or_default().add(tier, place, cell);
                }
            }
        }
    }

    fn peers_of(&self, clause: &StoredClause, only: Option<u32>) -> Vec<u32> {
        let selectors = &self.repository.selectors;
        match (&clause.peers, only) {
            (None, None) => vec![reserved::UNKNOWN],
            (None, Some(_)) => Vec::new(),
            (Some(listed), Some(peer)) => {
                let chosen = listed.iter().any(|id| selectors.chooses(*id, peer));
                if chosen { vec![peer] } else { Vec::new() }
            }
            (Some(listed), None) if listed.len() == 1 => {
                listed.iter().flat_map(|id| selectors.matches(*id)).copied().collect()
            }
            (Some(listed), None) => {
                let chosen: BTreeSet<u32> =
                    listed.iter().flat_map(|id| selectors.matches(*id)).copied().collect();
                chosen.into_iter().collect()
            }
        }
    }

    /// The places of a named port for each peer. The receiver's containers give the name its meaning: the
    /// endpoint's own on ingress, each peer's on egress.
    fn named(
        &self,
        clause: &StoredClause,
        (protocol, name): (u8, &str),
        peers: &[u32],
        only: Option<u32>,
    ) -> Vec<(u32, Place)> {
        let key = (protocol, name.to_owned());
        let known = &self.repository.named_ports;
        let places = |owner: u32| -> Vec<Place> {
            let numbers = known.get(&owner).and_then(|ports| ports.get(&key)).into_iter().flatten();
            numbers.flat_map(|number| Place::range(protocol, *number, *number)).collect()
        };
        let at =
            |peer: &u32, owner| places(owner).into_iter().map(|place| (*peer, place)).collect::<Vec<_>>();
        match (clause.direction, &clause.peers) {
            (Direction::Ingress, _) => peers.iter().flat_map(|peer| at(peer, self.identity)).collect(),
            (Direction::Egress, Some(_)) => peers.iter().flat_map(|peer| at(peer, *peer)).collect(),
            (Direction::Egress, None) => {
                let owners = known.keys().filter(|owner| only.is_none_or(|only| only == **owner));
                owners.flat_map(|owner| at(owner, *owner)).collect()
            }
        }
    }
}

impl Group {
    fn add(&mut self, tier: usize, place: Place, cell: Cell) {
        let cell = Cell { entry: PolicyEntry { prefix_bits: place.bits, ..cell.entry }, ..cell };
        let there = &mut self.cells.entry(place).or_default()[tier];
        let Some(there) = there else {
            *there = Some(cell);
            return;
        };
        let (one, other) = (&cell.entry, &there.entry);
        let modes = one.auth_type != other.auth_type && explicit(one) && explicit(other);
        if one.precedence == other.precedence && modes {
            self.conflicts.insert((other.rule_id.min(one.rule_id), other.rule_id.max(one.rule_id)));
        }
        if rank(&cell) > rank(there) {
            *there = cell;
        }
    }

    /// What the tries need: at each place what all cells around it come to, where that is not what the next
    /// broader place says already.
    fn folded(&self) -> Vec<(Place, PolicyEntry)> {
        let mut places: Vec<Place> = self.cells.keys().copied().collect();
        places.sort_by_key(|place| place.bits);
        let mut found: BTreeMap<Place, PolicyEntry> = BTreeMap::new();
        for place in places {
            let around = place.broader().find_map(|broader| found.get(&broader)).copied();
            let entry = match (self.decided(place), around) {
                (Some(entry), around) if around != Some(entry) => entry,
                // Everything around it says more than is said here.
                (None, Some(_)) => NOTHING,
                _ => continue,
            };
            found.insert(place, entry);
        }
        found.into_iter().collect()
    }

    /// What holds at a place: the strongest that speaks of it, tier by tier, as long as it passes.
    fn decided(&self, place: Place) -> Option<PolicyEntry> {
        let around = || std::iter::once(place).chain(place.broader());
        for tier in 0..TIERS {
            let cells = around().filter_map(|at| Some((at, self.cells.get(&at)?[tier]?)));
            // The narrowest of the strongest: the first, since the way leads outwards.
            let mut best: Option<(Place, Cell)> = None;
            for (at, cell) in cells {
                if best.is_none_or(|(_, known)| cell.entry.precedence > known.entry.precedence) {
                    best = Some((at, cell));
                }
            }
            match best {
                Some((at, cell)) if !cell.pass => return Some(self.authenticated(at, tier, cell.entry)),
                _ => {}
            }
        }
        None
    }

    /// An entry that names no authentication takes that of the nearest broader one of its strength that does.
    fn authenticated(&self, place: Place, tier: usize, mut entry: PolicyEntry) -> PolicyEntry {
        if explicit(&entry) || entry.flags & flag::DENY != 0 {
            return entry;
        }
        let broader = place.broader().filter_map(|at| self.cells.get(&at)?[tier]);
        let mut broader = broader.map(|cell| cell.entry);
        let named = broader.find(|around| around.precedence == entry.precedence && explicit(around));
        if let Some(around) = named {
            entry.auth_type = around.auth_type;
        }
        entry
    }
}

/// Weaker than all else, and denies: what stands where a peer's broader entry does not hold and no other does.
const NOTHING: PolicyEntry =
    PolicyEntry { precedence: 0, rule_id: 0, auth_type: 0, flags: flag::DENY, prefix_bits: 0, pad: 0 };

fn explicit(entry: &PolicyEntry) -> bool {
    entry.flags & flag::AUTH_EXPLICIT != 0
}

/// Which of two cells of one key holds: the larger. Among equals the first rule, so that the order of arrival
/// means nothing.
fn rank(cell: &Cell) -> (u32, bool, bool, u8, std::cmp::Reverse<u32>) {
    let Cell { entry, pass } = cell;
    (entry.precedence, !pass, explicit(entry), entry.auth_type, std::cmp::Reverse(entry.rule_id))
}

fn tier_of(priority: u32) -> usize {
    match priority {
        tier::BASELINE.. => 2,
        tier::NORMAL.. => 1,
        _ => 0,
    }
}

fn cell_of(id: ClauseId, clause: &StoredClause) -> Cell {
    let deny = matches!(clause.action, Action::Deny | Action::Withhold);
    let auth = clause.auth.filter(|_| !deny);
    let flags = if deny { flag::DENY } else { 0 } | if auth.is_some() { flag::AUTH_EXPLICIT } else { 0 };
    let strength = precedence(clause.priority, clause.action == Action::Deny);
    // What passes, and what would allow if it could, is weaker than what allows.
    let weak = matches!(clause.action, Action::Pass | Action::Withhold);
    let entry = PolicyEntry {
        precedence: if weak { strength & !0xff } else { strength },
        rule_id: id,
        auth_type: auth.map_or(0, AuthMode::number),
        flags,
        prefix_bits: 0,
        pad: 0,
    };
    Cell { entry, pass: clause.action == Action::Pass }
}
