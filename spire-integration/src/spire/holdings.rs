//! Which SVID is held for which subject, and by whose subscription: decisions without a socket or a clock.
//!
//! Several workloads of a node may have one identity, each with an entry and SVIDs of its own. One of them, the holder,
//! provides; if it took turns, every rotation of any of them would be a rotation of the identity.

use std::collections::BTreeMap;
use std::sync::Arc;

use countersign_certs::Svid;

use crate::source::{Subject, Update};

/// What the workloads of a node were given.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    subjects: BTreeMap<Subject, Shared>,
    workloads: BTreeMap<String, Subject>,
}

#[derive(Debug, Default)]
struct Shared {
    given: BTreeMap<String, Given>,
    holder: Option<String>,
}

/// What a workload was given.
#[derive(Debug)]
enum Given {
    /// The source has not spoken yet.
    Unknown,
    Nothing,
    Svid(Arc<Svid>),
}

impl Given {
    fn svid(&self) -> Option<&Arc<Svid>> {
        match self {
            Self::Svid(svid) => Some(svid),
            Self::Unknown | Self::Nothing => None,
        }
    }
}

impl Holdings {
    /// A workload's SVIDs are wanted. Says whether that is new.
    pub(super) fn want(&mut self, subject: &Subject, workload: &str) -> bool {
        if self.workloads.contains_key(workload) {
            return false;
        }
        self.workloads.insert(workload.to_owned(), subject.clone());
        self.subjects.entry(subject.clone()).or_default().given.insert(workload.to_owned(), Given::Unknown);
        true
    }

    /// A workload's SVIDs are not wanted any more.
    pub(super) fn unwant(&mut self, subject: &Subject, workload: &str) -> Option<Update> {
        if self.workloads.get(workload) != Some(subject) {
            return None;
        }
        self.workloads.remove(workload);
        let shared = self.subjects.get_mut(subject)?;
        shared.given.remove(workload);
        if shared.given.is_empty() {
            self.subjects.remove(subject);
            return Some(Update::Removed(subject.clone()));
        }
        shared.settle(subject)
    }

    /// What the source has just said of a workload: its SVID with the wanted ID, or that there is none.
    pub(super) fn told(&mut self, workload: &str, svid: Option<Svid>) -> Option<Update> {
        let subject = self.workloads.get(workload)?.clone();
        let shared = self.subjects.get_mut(&subject)?;
        let given = shared.given.get_mut(workload)?;
        let is_same = match (&*given, &svid) {
            (Given::Svid(old), Some(new)) => old.chain() == new.chain(),
            (Given::Nothing, None) => true,
            _ => false,
        };
        if is_same {
            return None;
        }
        *given = svid.map_or(Given::Nothing, |svid| Given::Svid(Arc::new(svid)));
        if shared.holder.as_deref() == Some(workload)
            && let Given::Svid(svid) = given
        {
            return Some(Update::Svid(subject, Arc::clone(svid)));
        }
        let absent = shared.given.values().all(|given| matches!(given, Given::Nothing));
        shared.settle(&subject).or_else(|| absent.then_some(Update::Absent(subject)))
    }

    /// Who a workload is to be.
    pub(super) fn subject_of(&self, workload: &str) -> Option<&Subject> {
        self.workloads.get(workload)
    }

    pub(super) fn len(&self) -> usize {
        self.workloads.len()
    }
}

impl Shared {
    /// Chooses a holder where there is none that holds, or where the holder was passed over by a rotation that
    /// another has seen.
    fn settle(&mut self, subject: &Subject) -> Option<Update> {
        let longest = self.given.iter().filter_map(|(key, given)| Some((key, given.svid()?)));
        let Some((best_key, best)) = longest.max_by_key(|(_, svid)| svid.not_after()) else {
            return self.holder.take().map(|_| Update::Removed(subject.clone()));
        };
        let held = self.holder.as_ref().and_then(|holder| self.given.get(holder)?.svid());
        if held.is_some_and(|held| !has_fallen_behind(held, best)) {
            return None;
        }
        self.holder = Some(best_key.clone());
        Some(Update::Svid(subject.clone(), Arc::clone(best)))
    }
}

/// Half a life is when an SVID is renewed: one that ends earlier than another by more than that should have been.
fn has_fallen_behind(held: &Svid, best: &Svid) -> bool {
    let half = best.not_after().saturating_sub(best.not_before()) / 2;
    best.not_after() > held.not_after().saturating_add(half + half / 4)
}

#[cfg(test)]
mod tests {
    use countersign_certs::{SpiffeId, TrustDomain};
    use proptest::prelude::*;

    use super::*;
    use crate::embedded::EmbeddedCa;

    struct Fixture {
        ca: EmbeddedCa,
        _dir: tempfile::TempDir,
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let domain = TrustDomain::parse("countersign.lab").unwrap();
            let ca = EmbeddedCa::open(&dir.path().join("ca"), &domain, 1_000_000).unwrap();
            Self { ca, _dir: dir }
        }

        fn svid(&self, number: u32, now: u64) -> Svid {
            self.ca.issue(&id(number).id, now, 3600).unwrap()
        }
    }

    fn id(number: u32) -> Subject {
        let id = SpiffeId::parse(&format!("spiffe://countersign.lab/identity/{number}")).unwrap();
        Subject { identity: number, id }
    }

    fn not_after(update: Option<Update>) -> Option<u64> {
        match update {
            Some(Update::Svid(_, svid)) => Some(svid.not_after()),
            _ => None,
        }
    }

    #[test]
    fn one_of_several_workloads_provides_until_it_is_gone() {
        let made = Fixture::new();
        let mut all = Holdings::default();
        assert!(all.want(&id(1), "a") && all.want(&id(1), "b") && !all.want(&id(1), "b"));
        assert!(all.told("a", None).is_none(), "nothing was held, and b may have one");
        assert!(matches!(all.told("b", None), Some(Update::Absent(of)) if of == id(1)));
        assert!(all.told("b", None).is_none(), "said once");
        assert_eq!(not_after(all.told("a", Some(made.svid(1, 1_000_000)))), Some(1_003_600));
        assert!(all.told("b", Some(made.svid(1, 1_000_100))).is_none(), "b rotates for itself");
        assert_eq!(not_after(all.told("a", Some(made.svid(1, 1_001_800)))), Some(1_005_400));
        assert_eq!(not_after(all.unwant(&id(1), "a")), Some(1_003_700), "b takes over");
        assert!(matches!(all.told("b", None), Some(Update::Removed(of)) if of == id(1)));
        assert!(matches!(all.unwant(&id(1), "b"), Some(Update::Removed(_))));
        assert!(all.told("b", Some(made.svid(1, 1_000_000))).is_none(), "nobody wants it");
    }

    #[test]
    fn a_holder_that_is_not_renewed_is_replaced() {
        let made = Fixture::new();
        let mut all = Holdings::default();
        assert!(all.want(&id(1), "a") && all.want(&id(1), "b"));
        assert!(all.told("a", Some(made.svid(1, 1_000_000))).is_some());
        assert!(all.told("b", Some(made.svid(1, 1_001_900))).is_none(), "a is about to rotate");
        assert_eq!(not_after(all.told("b", Some(made.svid(1, 1_003_000)))), Some(1_006_600));
    }

    #[test]
    fn the_same_again_is_no_news() {
        let made = Fixture::new();
        let mut all = Holdings::default();
        assert!(all.want(&id(1), "a"));
        let svid = made.svid(1, 1_000_000);
        assert!(all.told("a", Some(svid.clone())).is_some());
        assert!(all.told("a", Some(svid)).is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// Whatever is told and wanted: who reads the updates holds an SVID of an ID exactly if some workload that is
        /// wanted has one.
        #[test]
        fn the_reader_holds_what_some_workload_has(
            steps in prop::collection::vec((0..4_u8, 0..4_usize, 0..2_u32, 0..6_u64), 1..60),
        ) {
            let made = Fixture::new();
            let mut all = Holdings::default();
            let mut model: BTreeMap<String, (u32, bool)> = BTreeMap::new();
            let mut reader: BTreeMap<Subject, Arc<Svid>> = BTreeMap::new();
            for (what, workload, number, time) in steps {
                let key = ["a", "b", "c", "d"][workload];
                let update = match what {
                    0 => {
                        if all.want(&id(number), key) {
                            model.insert(key.to_owned(), (number, false));
                        }
                        None
                    }
                    1 => {
                        if model.get(key).is_some_and(|(of, _)| *of == number) {
                            model.remove(key);
                        }
                        all.unwant(&id(number), key)
                    }
                    2 => {
                        model.entry(key.to_owned()).and_modify(|(_, has)| *has = false);
                        all.told(key, None)
                    }
                    _ => {
                        let of = model.get_mut(key).map(|(of, has)| { *has = true; *of });
                        let svid = made.svid(of.unwrap_or(number), 1_000_000 + time * 1_000);
                        all.told(key, Some(svid))
                    }
                };
                match update {
                    Some(Update::Svid(of, svid)) => drop(reader.insert(of, svid)),
                    Some(Update::Removed(of)) => drop(reader.remove(&of)),
                    Some(Update::Absent(of)) => prop_assert!(!reader.contains_key(&of)),
                    _ => {}
                }
                let expected: Vec<Subject> = (0..2)
                    .filter(|of| model.values().any(|(number, has)| number == of && *has))
                    .map(id)
                    .collect();
                prop_assert_eq!(reader.keys().cloned().collect::<Vec<_>>(), expected);
            }
        }
    }
}
