//! Plans against a server that keeps SPIRE's rules: whatever is there and whatever is wanted, what is wanted comes
//! about, everybody else's is left alone, and a second plan has nothing to do.

use std::collections::{BTreeMap, BTreeSet};

use countersign_spire_proto::{Blocked, Desired, Entry, Existing, Extras, Owner, Plan, plan};
use proptest::prelude::*;
use proptest::sample::select;

/// A server's entries. Its rules are those of SPIRE 1.15's datastore.
#[derive(Clone, Debug, Default, PartialEq)]
struct Server(BTreeMap<String, Existing>);

impl Server {
    /// No second entry that is alike, and none with an ID that is there.
    fn create(&mut self, id: &str, entry: &Entry) -> Result<(), String> {
        if let Some(other) = self.0.values().find(|e| alike(e, entry)) {
            return Err(format!("{id} is like {}", other.id));
        }
        if self.0.contains_key(id) {
            return Err(format!("{id} is there"));
        }
        self.0.insert(id.to_owned(), ours(id, entry.clone()));
        Ok(())
    }

    /// Whether it makes two alike is not looked at.
    fn update(&mut self, id: &str, entry: &Entry) -> Result<(), String> {
        let there = self.0.get_mut(id).ok_or_else(|| format!("{id} is not there"))?;
        *there = ours(id, entry.clone());
        Ok(())
    }

    fn apply(&mut self, plan: &Plan) -> Result<(), String> {
        for id in &plan.deletes {
            self.0.remove(id).ok_or_else(|| format!("{id} is not there"))?;
        }
        plan.updates.iter().try_for_each(|(id, entry)| self.update(id, entry))?;
        plan.creates.iter().try_for_each(|(id, entry)| self.create(id, entry))
    }

    fn of(&self, owner: &Owner, own: bool) -> BTreeMap<String, Existing> {
        self.0.iter().filter(|(id, _)| owner.owns(id) == own).map(|(id, e)| (id.clone(), e.clone())).collect()
    }
}

fn alike(existing: &Existing, entry: &Entry) -> bool {
    existing.entry.as_ref().is_some_and(|there| there.likeness() == entry.likeness())
}

fn ours(id: &str, entry: Entry) -> Existing {
    Existing { id: id.to_owned(), entry: Some(entry), extras: Extras::None }
}

fn owner() -> Owner {
    Owner::parse("a").unwrap()
}

fn entry(number: u8, node: u8, selector: u8) -> Entry {
    Entry {
        spiffe_id: format!("spiffe://t/identity/{number}").parse().unwrap(),
        parent_id: format!("spiffe://t/spire-node/{node}").parse().unwrap(),
        selectors: (0..=selector).map(|n| format!("k8s:pod-uid:{n}").parse().unwrap()).collect(),
        x509_svid_ttl_seconds: 0,
        federates_with: BTreeSet::new(),
        hint: String::new(),
    }
}

fn entries() -> impl Strategy<Value = Entry> {
    let base = (0..3_u8, 0..2_u8, 0..2_u8);
    let rest = (select(vec![0, 60]), any::<bool>(), select(vec!["", "h"]));
    (base, rest).prop_map(|((number, node, selector), (ttl, federates, hint))| Entry {
        x509_svid_ttl_seconds: ttl,
        federates_with: federates.then(|| "u".parse().unwrap()).into_iter().collect(),
        hint: hint.to_owned(),
        ..entry(number, node, selector)
    })
}

/// Ours, and what comes near it.
fn ids() -> impl Strategy<Value = String> {
    let near =
        ["countersign.a", "countersign.ab.pod.1", "countersign.b.pod.1", "b2f5c0", "x.countersign.a.pod.1"];
    let own = (0..6).prop_map(|n| format!("countersign.a.pod.{n}"));
    prop_oneof![3 => own, 2 => select(near.to_vec()).prop_map(str::to_owned)]
}

fn servers() -> impl Strategy<Value = Server> {
    let extras = select(vec![Extras::None, Extras::None, Extras::Harmless, Extras::Withheld]);
    let one = (prop::option::weighted(0.9, entries()), extras);
    prop::collection::btree_map(ids(), one, 0..10).prop_map(|map| {
        let existing = |(id, (entry, extras)): (String, _)| (id.clone(), Existing { id, entry, extras });
        Server(map.into_iter().map(existing).collect())
    })
}

fn desires() -> impl Strategy<Value = Desired> {
    prop::collection::btree_map((0..6).prop_map(|n| format!("countersign.a.pod.{n}")), entries(), 0..6)
}

/// What must be true of a server that a plan was applied to, said without planning.
fn check(before: &Server, after: &Server, desired: &Desired) -> Result<(), TestCaseError> {
    let owner = owner();
    prop_assert_eq!(before.of(&owner, false), after.of(&owner, false), "others' entries");
    let own = after.of(&owner, true);
    let theirs = after.of(&owner, false);
    for entry in desired.values() {
        // Of several that SPIRE takes for one, the first.
        let first = desired.values().find(|other| other.likeness() == entry.likeness());
        let found: Vec<&Existing> = own.values().filter(|e| alike(e, entry)).collect();
        match &found[..] {
            [one] => {
                prop_assert_eq!(one.entry.as_ref(), first);
                prop_assert_eq!(one.extras, Extras::None);
            }
            [] => prop_assert!(theirs.values().any(|e| alike(e, entry))),
            several => prop_assert!(false, "{} are alike", several.len()),
        }
    }
    for existing in own.values() {
        prop_assert!(desired.values().any(|entry| existing.entry.as_ref() == Some(entry)));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn what_is_wanted_comes_about_and_nothing_else(before in servers(), desired in desires()) {
        let mut server = before.clone();
        let first = plan(&owner(), &desired, server.0.values());
        prop_assert_eq!(server.apply(&first), Ok(()));
        check(&before, &server, &desired)?;
        let second = plan(&owner(), &desired, server.0.values());
        prop_assert!(second.is_empty(), "{:?}", second);
        // Whatever is desired is ours, somebody else's, or said to be blocked.
        let own: BTreeSet<_> = server.of(&owner(), true).into_values().filter_map(|e| e.entry).collect();
        for (id, entry) in &desired {
            let known = own.iter().any(|own| own.likeness() == entry.likeness())
                || second.elsewhere.contains_key(id)
                || second.blocked.iter().any(|blocked| blocked.id == *id)
                || desired.range(..id.clone()).any(|(_, other)| other.likeness() == entry.likeness());
            prop_assert!(known, "{} is nowhere", id);
        }
    }

    #[test]
    fn the_order_on_the_server_means_nothing(before in servers(), desired in desires()) {
        let forth = plan(&owner(), &desired, before.0.values());
        let back = plan(&owner(), &desired, before.0.values().rev());
        prop_assert_eq!(forth, back);
    }

    #[test]
    fn a_history_of_wishes_ends_with_the_last(before in servers(), wishes in prop::collection::vec(desires(), 1..6)) {
        let mut server = before.clone();
        for desired in &wishes {
            let next = plan(&owner(), desired, server.0.values());
            prop_assert_eq!(server.apply(&next), Ok(()));
            check(&before, &server, desired)?;
        }
    }
}

#[test]
fn drift_is_repaired_in_place() {
    let id = "countersign.a.pod.1";
    let wanted = entry(1, 1, 1);
    let desired = Desired::from([(id.to_owned(), wanted.clone())]);
    let drifted: [fn(&mut Existing); 8] = [
        |e| e.entry.as_mut().unwrap().x509_svid_ttl_seconds = 7,
        |e| e.entry.as_mut().unwrap().hint.push('x'),
        |e| e.entry.as_mut().unwrap().selectors = ["cilium:mutual-auth".parse().unwrap()].into(),
        |e| e.entry.as_mut().unwrap().federates_with = ["u".parse().unwrap()].into(),
        |e| e.entry.as_mut().unwrap().parent_id = "spiffe://t/spire-node/0".parse().unwrap(),
        |e| e.extras = Extras::Withheld,
        |e| e.extras = Extras::Harmless,
        |e| e.entry = None,
    ];
    for drift in drifted {
        let mut there = ours(id, wanted.clone());
        drift(&mut there);
        let found = plan(&owner(), &desired, [&there]);
        assert_eq!(found.updates, [(id.to_owned(), wanted.clone())]);
        assert!(found.creates.is_empty() && found.deletes.is_empty());
    }
    assert_eq!(plan(&owner(), &desired, [&ours(id, wanted.clone())]), Plan::default());
}

#[test]
fn somebody_elses_entry_does_unless_agents_withhold_it() {
    let desired = Desired::from([("countersign.a.pod.1".to_owned(), entry(1, 1, 1))]);
    let mut theirs = ours("a1b2", entry(1, 1, 1));
    for extras in [Extras::None, Extras::Harmless] {
        theirs.extras = extras;
        let found = plan(&owner(), &desired, [&theirs]);
        assert!(found.is_empty() && found.blocked.is_empty());
        assert_eq!(found.elsewhere.get("countersign.a.pod.1").map(String::as_str), Some("a1b2"));
    }
    theirs.extras = Extras::Withheld;
    let found = plan(&owner(), &desired, [&theirs]);
    assert!(found.is_empty() && found.elsewhere.is_empty());
    assert_eq!(found.blocked, [Blocked { id: "countersign.a.pod.1".to_owned(), by: "a1b2".to_owned() }]);
}

#[test]
fn a_left_over_that_is_what_is_wanted_is_taken_over_without_a_gap() {
    let desired = Desired::from([("countersign.a.pod.1".to_owned(), entry(1, 1, 1))]);
    let left = ours("countersign.a.pod.9", entry(1, 1, 1));
    assert_eq!(plan(&owner(), &desired, [&left]), Plan::default());
    let both = [left, ours("countersign.a.pod.1", entry(1, 1, 1))];
    assert_eq!(plan(&owner(), &desired, &both).deletes, ["countersign.a.pod.9"]);
}

#[test]
fn one_change_among_thousands_is_planned_within_a_moment() {
    let id = |n: u32| format!("countersign.a.pod.{n:032x}");
    let pod = |n: u32| Entry {
        spiffe_id: format!("spiffe://t/identity/{n}").parse().unwrap(),
        selectors: [format!("k8s:pod-uid:2f0c6a1e-7c1d-4c39-9a51-{n:012x}").parse().unwrap()].into(),
        ..entry(0, u8::try_from(n % 100).unwrap(), 0)
    };
    let mut desired: Desired = (0..5_000).map(|n| (id(n), pod(n))).collect();
    let mut there: Vec<Existing> = desired.iter().map(|(id, entry)| ours(id, entry.clone())).collect();
    there.extend((5_000..10_000).map(|n| ours(&format!("theirs-{n}"), pod(n))));
    desired.insert(id(20_000), pod(20_000));
    let began = std::time::Instant::now();
    let found = plan(&owner(), &desired, &there);
    println!("one of 5,001 entries beside 5,000 of others: {} us", began.elapsed().as_micros());
    assert_eq!((found.creates.len(), found.updates.len(), found.deletes.len()), (1, 0, 0));
}
