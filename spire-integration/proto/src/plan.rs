//! From what should be registered and what is, to what has to be done.

use std::collections::{BTreeMap, BTreeSet};

use countersign_certs::SpiffeId;

use crate::entry::{Entry, Existing, Extras, Owner};
use crate::selector::Selector;

/// Entries that should be there, by ID.
pub type Desired = BTreeMap<String, Entry>;

type Likeness<'a> = (&'a SpiffeId, &'a SpiffeId, &'a BTreeSet<Selector>);

/// What has to be done, in this order: what nobody is to have any more goes first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// IDs of our entries that nobody needs.
    pub deletes: Vec<String>,
    /// Our entries that are not as they should be, whole.
    pub updates: Vec<(String, Entry)>,
    /// Entries that are missing.
    pub creates: Vec<(String, Entry)>,
    /// Desired entries that are others' already, by the ID they would have: the ID they have.
    pub elsewhere: BTreeMap<String, String>,
    /// Desired entries that cannot be.
    pub blocked: Vec<Blocked>,
}

/// A desired entry in whose place there is somebody else's which is of no use, and beside which SPIRE takes no
/// second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// The ID it would have.
    pub id: String,
    /// The ID of the one that is there.
    pub by: String,
}

impl Plan {
    /// Whether nothing has to be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.deletes.is_empty() && self.updates.is_empty() && self.creates.is_empty()
    }
}

/// What is on the server, as the planner looks at it.
struct Found<'a> {
    ours: BTreeMap<&'a str, &'a Existing>,
    ours_alike: BTreeMap<Likeness<'a>, Vec<&'a str>>,
    theirs: BTreeMap<Likeness<'a>, &'a Existing>,
}

impl<'a> Found<'a> {
    fn new(owner: &Owner, existing: impl IntoIterator<Item = &'a Existing>) -> Self {
        let mut found = Self { ours: BTreeMap::new(), ours_alike: BTreeMap::new(), theirs: BTreeMap::new() };
        for one in existing {
            let likeness = one.entry.as_ref().map(Entry::likeness);
            if owner.owns(&one.id) {
                found.ours.insert(&one.id, one);
                if let Some(likeness) = likeness {
                    found.ours_alike.entry(likeness).or_default().push(&one.id);
                }
            } else if let Some(likeness) = likeness {
                let known = found.theirs.entry(likeness).or_insert(one);
                // Of several that are alike, the one that is of most use; then the first by ID.
                if (one.extras, &one.id) < (known.extras, &known.id) {
                    *known = one;
                }
            }
        }
        found.ours_alike.values_mut().for_each(|ids| ids.sort_unstable());
        found
    }
}

/// What has to be done so that of `owner`'s entries there are the desired ones and no others.
///
/// `existing` must be everything on the server: an entry of ours that is not in it is taken for missing, and one
/// that is in it and not desired is deleted. Nobody else's entry is ever named in what has to be done.
#[must_use]
pub fn plan<'a>(owner: &Owner, desired: &Desired, existing: impl IntoIterator<Item = &'a Existing>) -> Plan {
    let found = Found::new(owner, existing);
    let wanted = distinct(desired);
    let mut plan = Plan::default();
    let mut kept: BTreeSet<&str> = BTreeSet::new();
    for (id, entry) in &wanted {
        match stand_in(&found, &wanted, id, entry) {
            Some(ours) => {
                kept.insert(&ours.id);
                if ours.entry.as_ref() != Some(*entry) || ours.extras != Extras::None {
                    plan.updates.push((ours.id.clone(), (*entry).clone()));
                }
            }
            None => add_missing(&found, id, entry, &mut plan),
        }
    }
    plan.deletes = found.ours.keys().filter(|id| !kept.contains(*id)).map(|id| (*id).to_owned()).collect();
    plan
}

/// The desired entries without those that SPIRE would take for another of them: pods of one service account on
/// one node, where that is all there is to tell them by.
fn distinct(desired: &Desired) -> BTreeMap<&str, &Entry> {
    let mut seen: BTreeSet<Likeness<'_>> = BTreeSet::new();
    desired
        .iter()
        .filter(|(_, entry)| seen.insert(entry.likeness()))
        .map(|(id, entry)| (id.as_str(), entry))
        .collect()
}

/// Our entry that is to be the desired one: the one with its ID, or else one that is alike and nobody else's.
fn stand_in<'a>(
    found: &Found<'a>,
    wanted: &BTreeMap<&str, &Entry>,
    id: &str,
    entry: &Entry,
) -> Option<&'a Existing> {
    if let Some(ours) = found.ours.get(id) {
        return Some(ours);
    }
    let alike = found.ours_alike.get(&entry.likeness())?;
    let free = alike.iter().find(|id| !wanted.contains_key(**id))?;
    found.ours.get(free).copied()
}

fn add_missing(found: &Found<'_>, id: &str, entry: &Entry, plan: &mut Plan) {
    match found.theirs.get(&entry.likeness()) {
        None => plan.creates.push((id.to_owned(), entry.clone())),
        Some(theirs) if theirs.extras == Extras::Withheld => {
            plan.blocked.push(Blocked { id: id.to_owned(), by: theirs.id.clone() });
        }
        Some(theirs) => drop(plan.elsewhere.insert(id.to_owned(), theirs.id.clone())),
    }
}
