//! Which identities each selector chooses, kept up to date as identities come and go.

use std::collections::{BTreeMap, BTreeSet};

use crate::labels::{Labels, POD_NAMESPACE};
use crate::model::PolicyId;
use crate::selector::Selector;

/// Number of a selector in the cache.
pub(super) type SelectorId = u32;

#[derive(Debug, Default)]
pub(super) struct SelectorCache {
    ids: BTreeMap<Selector, SelectorId>,
    entries: BTreeMap<SelectorId, Entry>,
    /// Selectors by the one namespace that they demand, if they do: an identity is tried against few of them.
    by_namespace: BTreeMap<Option<String>, BTreeSet<SelectorId>>,
    /// Identities by their namespace, for the reverse.
    residents: BTreeMap<String, BTreeSet<u32>>,
    next: SelectorId,
}

#[derive(Debug)]
struct Entry {
    selector: Selector,
    users: BTreeSet<PolicyId>,
    matches: BTreeSet<u32>,
}

impl SelectorCache {
    /// The selector's number; a new one is tried against all identities.
    pub(super) fn acquire(
        &mut self,
        selector: &Selector,
        user: &PolicyId,
        identities: &BTreeMap<u32, Labels>,
    ) -> SelectorId {
        let id = match self.ids.get(selector) {
            Some(id) => *id,
            None => self.add(selector, identities),
        };
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.users.insert(user.clone());
        }
        id
    }

    fn add(&mut self, selector: &Selector, identities: &BTreeMap<u32, Labels>) -> SelectorId {
        let id = self.next;
        self.next += 1;
        let matches = self.choose(selector, identities);
        self.ids.insert(selector.clone(), id);
        self.by_namespace.entry(namespace_of(selector)).or_default().insert(id);
        self.entries.insert(id, Entry { selector: selector.clone(), users: BTreeSet::new(), matches });
        id
    }

    fn choose(&self, selector: &Selector, identities: &BTreeMap<u32, Labels>) -> BTreeSet<u32> {
        let matches = |(identity, labels): (&u32, &Labels)| selector.matches(labels).then_some(*identity);
        match selector.demanded(POD_NAMESPACE) {
            None => identities.iter().filter_map(matches).collect(),
            Some(namespace) => {
                let residents = self.residents.get(namespace).into_iter().flatten();
                residents.filter_map(|number| identities.get_key_value(number)).filter_map(matches).collect()
            }
        }
    }

    /// Drops `user` from the selector, and the selector with its last user.
    pub(super) fn release(&mut self, id: SelectorId, user: &PolicyId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.users.remove(user);
        if !entry.users.is_empty() {
            return;
        }
        if let Some(entry) = self.entries.remove(&id) {
            self.ids.remove(&entry.selector);
            let namespace = namespace_of(&entry.selector);
            if let Some(ids) = self.by_namespace.get_mut(&namespace) {
                ids.remove(&id);
                if ids.is_empty() {
                    self.by_namespace.remove(&namespace);
                }
            }
        }
    }

    /// Takes a new or relabelled identity in; returns the selectors that choose it and did not, or the reverse.
    pub(super) fn upsert(&mut self, identity: u32, old: Option<&Labels>, new: &Labels) -> Vec<SelectorId> {
        self.move_house(identity, old, Some(new));
        let mut namespaces = BTreeSet::from([None, new.namespace().map(str::to_owned)]);
        namespaces.extend(old.map(|labels| labels.namespace().map(str::to_owned)));
        let mut changed = Vec::new();
        for id in namespaces.iter().filter_map(|namespace| self.by_namespace.get(namespace)).flatten() {
            let Some(entry) = self.entries.get_mut(id) else { continue };
            let moved = if entry.selector.matches(new) {
                entry.matches.insert(identity)
            } else {
                entry.matches.remove(&identity)
            };
            if moved {
                changed.push(*id);
            }
        }
        changed
    }

    fn move_house(&mut self, identity: u32, old: Option<&Labels>, new: Option<&Labels>) {
        if let Some(namespace) = old.and_then(Labels::namespace)
            && let Some(residents) = self.residents.get_mut(namespace)
        {
            residents.remove(&identity);
            if residents.is_empty() {
                self.residents.remove(namespace);
            }
        }
        if let Some(namespace) = new.and_then(Labels::namespace) {
            self.residents.entry(namespace.to_owned()).or_default().insert(identity);
        }
    }

    /// Takes an identity out; returns the selectors that chose it.
    pub(super) fn remove(&mut self, identity: u32, old: &Labels) -> Vec<SelectorId> {
        self.move_house(identity, Some(old), None);
        let chose = |(id, entry): (&SelectorId, &mut Entry)| entry.matches.remove(&identity).then_some(*id);
        self.entries.iter_mut().filter_map(chose).collect()
    }

    /// The identities it chooses.
    pub(super) fn matches(&self, id: SelectorId) -> impl Iterator<Item = u32> + use<'_> {
        self.entries.get(&id).into_iter().flat_map(|entry| entry.matches.iter().copied())
    }

    /// Whether it chooses this identity.
    pub(super) fn chooses(&self, id: SelectorId, identity: u32) -> bool {
        self.entries.get(&id).is_some_and(|entry| entry.matches.contains(&identity))
    }

    /// The policies that use it.
    pub(super) fn users(&self, id: SelectorId) -> impl Iterator<Item = &PolicyId> + use<'_> {
        self.entries.get(&id).into_iter().flat_map(|entry| entry.users.iter())
    }

    /// Every selector.
    pub(super) fn selectors(&self) -> impl Iterator<Item = &Selector> {
        self.ids.keys()
    }
}

fn namespace_of(selector: &Selector) -> Option<String> {
    selector.demanded(POD_NAMESPACE).map(str::to_owned)
}
