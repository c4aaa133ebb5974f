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

/// What is on the server, as the planner looks at it: our entries, and what could take the place of those that are
/// missing. Only the missing ones are indexed by what they are like, for as a rule they are few.
struct Found<'a> {
    ours: BTreeMap<&'a str, &'a Existing>,
    /// By the ID of a missing entry: one of ours that is alike and nobody else's.
    stand_ins: BTreeMap<&'a str, &'a Existing>,
    /// By the ID of a missing entry: somebody else's that is alike.
    theirs: BTreeMap<&'a str, &'a Existing>,
}

impl<'a> Found<'a> {
    fn new(
        owner: &Owner,
        wanted: &BTreeMap<&'a str, &'a Entry>,
        existing: impl IntoIterator<Item = &'a Existing>,
    ) -> Self {
        let (ours, others): (Vec<&Existing>, Vec<&Existing>) =
            existing.into_iter().partition(|existing| owner.owns(&existing.id));
        let ours: BTreeMap<&str, &Existing> = ours.into_iter().map(|own| (own.id.as_str(), own)).collect();
        let missing: BTreeMap<Likeness<'_>, &str> = wanted
            .iter()
            .filter(|(id, _)| !ours.contains_key(*id))
            .map(|(id, entry)| (entry.likeness(), *id))
            .collect();
        let place = |existing: &Existing| missing.get(&existing.entry.as_ref()?.likeness()).copied();
        let (mut stand_ins, mut theirs) = (BTreeMap::new(), BTreeMap::new());
        for own in ours.values().filter(|own| !wanted.contains_key(own.id.as_str())) {
            if let Some(id) = place(own) {
                stand_ins.entry(id).or_insert(*own);
            }
        }
        for other in others {
            let Some(id) = place(other) else { continue };
            let known = theirs.entry(id).or_insert(other);
            // Of several that are alike, the one that is of most use; then the first by ID.
            if (other.extras, &other.id) < (known.extras, &known.id) {
                *known = other;
            }
        }
        Self { ours, stand_ins, theirs }
    }
}

/// What has to be done so that of `owner`'s entries there are the desired ones and no others.
///
/// `existing` must be everything on the server: an entry of ours that is not in it is taken for missing, and one
/// that is in it and not desired is deleted. Nobody else's entry is ever named in what has to be done.
#[must_use]
pub fn plan<'a>(
    owner: &Owner,
    desired: &'a Desired,
    existing: impl IntoIterator<Item = &'a Existing>,
) -> Plan {
    let wanted = distinct(desired);
    let found = Found::new(owner, &wanted, existing);
    let mut plan = Plan::default();
    let mut kept: BTreeSet<&str> = BTreeSet::new();
    for (id, entry) in &wanted {
        match found.ours.get(id).or_else(|| found.stand_ins.get(id)) {
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

fn add_missing(found: &Found<'_>, id: &str, entry: &Entry, plan: &mut Plan) {
    match found.theirs.get(id) {
        None => plan.creates.push((id.to_owned(), entry.clone())),
        Some(theirs) if theirs.extras == Extras::Withheld => {
            plan.blocked.push(Blocked { id: id.to_owned(), by: theirs.id.clone() });
        }
        Some(theirs) => drop(plan.elsewhere.insert(id.to_owned(), theirs.id.clone())),
    }
}
