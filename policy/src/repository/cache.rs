//! Identities, selectors, and which chooses which, kept up to date as either come and go.
//!
//! Neither is ever tried against all of the other: a selector is filed under one label that it demands and, where it
//! demands one, the namespace; an identity under each label that it has; ranges have an index of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::ranges::Ranges;
use crate::identity::reserved_labels;
use crate::labels::{CLUSTER, Labels, POD_NAMESPACE};
use crate::selector::{Operator, Requirement, Selector};

/// Number of a selector in the cache.
pub(super) type SelectorId = u32;
/// Sets of things by key and value of a label.
type ByLabel = BTreeMap<String, BTreeMap<String, BTreeSet<u32>>>;
/// The addresses of each pod of an identity.
pub type PodAddresses = BTreeSet<BTreeSet<IpAddr>>;

#[derive(Debug, Default)]
pub(super) struct SelectorCache {
    identities: BTreeMap<u32, Labels>,
    addresses: BTreeMap<u32, PodAddresses>,
    residents: ByLabel,
    chosen_by: BTreeMap<u32, BTreeSet<SelectorId>>,
    ids: BTreeMap<Selector, SelectorId>,
    entries: BTreeMap<SelectorId, Entry>,
    anchored: BTreeMap<String, BTreeMap<String, Filed>>,
    /// Selectors that demand no label.
    adrift: BTreeSet<SelectorId>,
    ranges: Ranges,
    /// Ranges that selectors mention, exceptions included, and how often.
    nets: BTreeMap<IpNet, usize>,
    next: SelectorId,
}

/// Selectors that demand one label.
#[derive(Debug, Default)]
struct Filed {
    anywhere: BTreeSet<SelectorId>,
    /// Those that demand a namespace, too.
    within: BTreeMap<String, BTreeSet<SelectorId>>,
}

impl Filed {
    fn file(&mut self, id: SelectorId, namespaces: Option<&[String]>, there: bool) {
        let Some(namespaces) = namespaces else { return put(&mut self.anywhere, id, there) };
        for namespace in namespaces {
            let selectors = self.within.entry(namespace.clone()).or_default();
            put(selectors, id, there);
            if selectors.is_empty() {
                self.within.remove(namespace);
            }
        }
    }
}

#[derive(Debug)]
struct Entry {
    selector: Selector,
    uses: usize,
    matches: BTreeSet<u32>,
}

impl SelectorCache {
    /// No selectors, and the reserved identities.
    pub(super) fn new() -> Self {
        let mut cache = Self::default();
        for (identity, labels) in reserved_labels() {
            cache.upsert(identity, labels);
        }
        cache
    }

    /// The selector's number, which is its until [`Self::release`] has been called as often as this.
    pub(super) fn acquire(&mut self, selector: &Selector) -> SelectorId {
        let id = match self.ids.get(selector) {
            Some(id) => *id,
            None => self.add(selector),
        };
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.uses += 1;
        }
        id
    }

    fn add(&mut self, selector: &Selector) -> SelectorId {
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        let matches = self.choose(selector);
        for identity in &matches {
            self.chosen_by.entry(*identity).or_default().insert(id);
        }
        self.file(id, selector, true);
        self.ids.insert(selector.clone(), id);
        self.entries.insert(id, Entry { selector: selector.clone(), uses: 0, matches });
        id
    }

    /// Files a selector where identities will look for it, or takes it out.
    fn file(&mut self, id: SelectorId, selector: &Selector, there: bool) {
        match selector {
            Selector::Cidr { net, except, .. } => {
                self.ranges.file(id, *net, there);
                for net in except.iter().chain([net]) {
                    count(&mut self.nets, *net, there);
                }
            }
            Selector::Group { .. } => {}
            Selector::Labels(requirements) => match anchor(requirements) {
                None => put(&mut self.adrift, id, there),
                Some((key, values)) => {
                    let namespaces = demanded(requirements, POD_NAMESPACE).filter(|_| key != POD_NAMESPACE);
                    let by_value = self.anchored.entry(key.to_owned()).or_default();
                    for value in values {
                        let filed = by_value.entry(value.clone()).or_default();
                        filed.file(id, namespaces, there);
                        if filed.anywhere.is_empty() && filed.within.is_empty() {
                            by_value.remove(value);
                        }
                    }
                }
            },
        }
    }

    /// The identities that a new selector chooses.
    fn choose(&self, selector: &Selector) -> BTreeSet<u32> {
        let by_labels = |identity: &u32| self.identities.get(identity).is_some_and(|l| selector.matches(l));
        let mut found: BTreeSet<u32> = match selector {
            Selector::Group { .. } => BTreeSet::new(),
            Selector::Cidr { net, .. } => self.ranges.outside(*net).filter(by_labels).collect(),
            Selector::Labels(requirements) => {
                let candidates = requirements.iter().filter_map(|r| self.candidates(r));
                match candidates.min_by_key(|sets| sets.iter().map(|set| set.len()).sum::<usize>()) {
                    Some(sets) => sets.into_iter().flatten().copied().filter(by_labels).collect(),
                    None => self.identities.keys().copied().filter(by_labels).collect(),
                }
            }
        };
        if let Selector::Cidr { net, .. } = selector
            && selector.is_about_addresses()
        {
            found.extend(self.ranges.pods(*net).filter(|identity| self.is_inside(selector, *identity)));
        }
        found
    }

    /// The identities with one of the values that the requirement demands.
    fn candidates(&self, requirement: &Requirement) -> Option<Vec<&BTreeSet<u32>>> {
        let Operator::In(values) = &requirement.operator else { return None };
        let by_value = self.residents.get(&requirement.key);
        Some(values.iter().filter_map(|value| by_value?.get(value)).collect())
    }

    /// Gives the selector back once.
    pub(super) fn release(&mut self, id: SelectorId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.uses = entry.uses.saturating_sub(1);
        if entry.uses > 0 {
            return;
        }
        let Some(entry) = self.entries.remove(&id) else { return };
        for identity in &entry.matches {
            if let Some(chosen) = self.chosen_by.get_mut(identity) {
                chosen.remove(&id);
            }
        }
        self.file(id, &entry.selector, false);
        self.ids.remove(&entry.selector);
    }

    /// Takes a new or relabelled identity in; returns the selectors that choose it and did not, or the reverse.
    pub(super) fn upsert(&mut self, identity: u32, labels: Labels) -> BTreeSet<SelectorId> {
        let mut chosen = self.choosers(&labels);
        chosen.append(&mut self.by_addresses(identity));
        if let Some(old) = self.identities.insert(identity, labels.clone()) {
            self.register(identity, &old, false);
        }
        self.register(identity, &labels, true);
        self.chosen(identity, chosen)
    }

    /// Takes an identity out; returns the selectors that chose it.
    pub(super) fn remove(&mut self, identity: u32) -> Option<BTreeSet<SelectorId>> {
        let old = self.identities.remove(&identity)?;
        if let Some(pods) = self.addresses.remove(&identity) {
            self.ranges.register_pods(identity, &pods, false);
        }
        self.register(identity, &old, false);
        let changed = self.chosen(identity, BTreeSet::new());
        self.chosen_by.remove(&identity);
        Some(changed)
    }

    /// Says where the pods of an identity are; returns the selectors that choose it and did not, or the reverse.
    pub(super) fn set_addresses(&mut self, identity: u32, pods: PodAddresses) -> BTreeSet<SelectorId> {
        let before = self.addresses.remove(&identity).unwrap_or_default();
        let same = before == pods;
        if !same {
            self.ranges.register_pods(identity, &before, false);
            self.ranges.register_pods(identity, &pods, true);
        }
        self.addresses.insert(identity, pods);
        let (false, Some(labels)) = (same, self.identities.get(&identity)) else {
            return BTreeSet::new();
        };
        // Only ranges look at addresses.
        let mut chosen = self.chosen_by.get(&identity).cloned().unwrap_or_default();
        let still = |entry: &Entry| match &entry.selector {
            Selector::Cidr { .. } => entry.selector.matches(labels),
            Selector::Labels(_) | Selector::Group { .. } => true,
        };
        chosen.retain(|id| self.entries.get(id).is_some_and(still));
        chosen.extend(self.by_addresses(identity));
        self.chosen(identity, chosen)
    }

    /// The selectors that choose an identity by where its pods are.
    fn by_addresses(&self, identity: u32) -> BTreeSet<SelectorId> {
        let Some(pods) = self.addresses.get(&identity) else { return BTreeSet::new() };
        let inside =
            |id: &SelectorId| self.entries.get(id).is_some_and(|e| e.selector.matches_addresses(pods));
        self.ranges.around_pods(pods).filter(inside).collect()
    }

    /// The selectors that choose an identity with these labels.
    fn choosers(&self, labels: &Labels) -> BTreeSet<SelectorId> {
        let filed = labels.iter().filter_map(|label| self.anchored.get(&label.key)?.get(&label.value));
        let anchored = filed.flat_map(|filed| {
            let namespaces = labels.with_key(POD_NAMESPACE);
            let within = namespaces.filter_map(|namespace| filed.within.get(&namespace.value));
            within.flatten().chain(&filed.anywhere)
        });
        let tried = anchored.chain(&self.adrift).copied().chain(self.ranges.around_labels(labels));
        let chooses =
            |id: &SelectorId| self.entries.get(id).is_some_and(|entry| entry.selector.matches(labels));
        tried.filter(chooses).collect()
    }

    fn register(&mut self, identity: u32, labels: &Labels, there: bool) {
        self.ranges.register(identity, labels, there);
        for label in labels.iter() {
            let by_value = self.residents.entry(label.key.clone()).or_default();
            let residents = by_value.entry(label.value.clone()).or_default();
            if there {
                residents.insert(identity);
                continue;
            }
            residents.remove(&identity);
            if residents.is_empty() {
                by_value.remove(&label.value);
            }
        }
    }

    /// Enters who chooses an identity now; returns what is different.
    fn chosen(&mut self, identity: u32, now: BTreeSet<SelectorId>) -> BTreeSet<SelectorId> {
        let before = self.chosen_by.insert(identity, now.clone()).unwrap_or_default();
        let changed: BTreeSet<SelectorId> = before.symmetric_difference(&now).copied().collect();
        for id in &changed {
            let Some(entry) = self.entries.get_mut(id) else { continue };
            if now.contains(id) {
                entry.matches.insert(identity);
            } else {
                entry.matches.remove(&identity);
            }
        }
        changed
    }

    /// The identities it chooses.
    pub(super) fn matches(&self, id: SelectorId) -> &BTreeSet<u32> {
        const NONE: &BTreeSet<u32> = &BTreeSet::new();
        self.entries.get(&id).map_or(NONE, |entry| &entry.matches)
    }

    /// Whether it chooses this identity.
    pub(super) fn chooses(&self, id: SelectorId, identity: u32) -> bool {
        self.chosen_by.get(&identity).is_some_and(|chosen| chosen.contains(&id))
    }

    /// Whether it chooses this identity by where its pods are.
    pub(super) fn is_inside(&self, selector: &Selector, identity: u32) -> bool {
        self.addresses.get(&identity).is_some_and(|pods| selector.matches_addresses(pods))
    }

    /// The selectors that choose this identity.
    pub(super) fn choosing(&self, identity: u32) -> impl Iterator<Item = SelectorId> + use<'_> {
        self.chosen_by.get(&identity).into_iter().flatten().copied()
    }

    /// Every identity and its labels, in order.
    pub(super) fn identities(&self) -> &BTreeMap<u32, Labels> {
        &self.identities
    }

    /// The ranges that selectors mention.
    pub(super) fn nets(&self) -> impl Iterator<Item = &IpNet> {
        self.nets.keys()
    }
}

/// The label that a selector is filed under: one it demands, rather not one that everybody has.
fn anchor(requirements: &[Requirement]) -> Option<(&str, &[String])> {
    let demanded = |requirement: &'_ Requirement| matches!(&requirement.operator, Operator::In(_));
    let common = |requirement: &&Requirement| match requirement.key.as_str() {
        CLUSTER => 2,
        POD_NAMESPACE => 1,
        _ => 0,
    };
    let found = requirements.iter().filter(|requirement| demanded(requirement)).min_by_key(common)?;
    match &found.operator {
        Operator::In(values) => Some((&found.key, values)),
        _ => None,
    }
}

/// The values one of which a label of this key must have.
fn demanded<'a>(requirements: &'a [Requirement], key: &str) -> Option<&'a [String]> {
    requirements.iter().find_map(|requirement| match &requirement.operator {
        Operator::In(values) if requirement.key == key => Some(values.as_slice()),
        _ => None,
    })
}

fn put(set: &mut BTreeSet<SelectorId>, id: SelectorId, there: bool) {
    if there {
        set.insert(id);
    } else {
        set.remove(&id);
    }
}

fn count(nets: &mut BTreeMap<IpNet, usize>, net: IpNet, there: bool) {
    let uses = nets.entry(net).or_default();
    *uses = if there { *uses + 1 } else { uses.saturating_sub(1) };
    if *uses == 0 {
        nets.remove(&net);
    }
}
