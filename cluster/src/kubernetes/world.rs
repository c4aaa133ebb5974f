//! What was heard of all kinds, and what is different from what was said before.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use countersign_policy::Settings;
use kube::api::DynamicObject;

use super::kind::{KINDS, Kind};
use super::listener::Heard;
use crate::change::{Change, Problem};
use crate::limits::OBJECTS;
use crate::object::{Key, Object};

const ABSENT: &str = "the API server knows no such kind (is its CustomResourceDefinition missing?); what was known \
                      of it stays in force";

/// What was said so far.
#[derive(Debug)]
pub(crate) struct World {
    settings: Settings,
    objects: BTreeMap<Key, Object>,
    problems: BTreeMap<PathBuf, Problem>,
    /// What the lists in progress have named.
    listing: BTreeMap<Kind, BTreeSet<Key>>,
    /// Kinds of which everything was heard once, or that the server did not know.
    known: BTreeSet<Kind>,
    /// Kinds that the server does not know.
    absent: BTreeSet<Kind>,
    synced: bool,
}

impl World {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings,
            objects: BTreeMap::new(),
            problems: BTreeMap::new(),
            listing: BTreeMap::new(),
            known: BTreeSet::new(),
            absent: BTreeSet::new(),
            synced: false,
        }
    }

    /// Takes in what was heard, and returns what must be said.
    pub(crate) fn hear(&mut self, kind: Kind, heard: Heard) -> Vec<Change> {
        let mut changes = match heard {
            Heard::Begun => {
                self.listing.insert(kind, BTreeSet::new());
                Vec::new()
            }
            Heard::Listed(object) => {
                self.listing.entry(kind).or_default().insert(kind.key(&object));
                self.put(kind, *object)
            }
            Heard::Ended => self.end(kind),
            Heard::Put(object) => {
                let mut changes = self.put(kind, *object);
                changes.extend(self.solve(&kind.place()));
                changes
            }
            Heard::Deleted(object) => {
                let mut changes = self.solve(&kind.place_of(&object));
                changes.extend(self.delete(&kind.key(&object)));
                changes.extend(self.solve(&kind.place()));
                changes
            }
            Heard::Absent => {
                self.known.insert(kind);
                self.absent.insert(kind);
                Vec::new()
            }
            Heard::Lost(why) => self.report(Problem::of_file(kind.place(), why)),
            // Where nothing was ever listed, silence is no sign of anything.
            Heard::Well if !self.known.contains(&kind) || self.absent.contains(&kind) => Vec::new(),
            Heard::Well => self.solve(&kind.place()),
        };
        if !self.synced && KINDS.iter().all(|kind| self.known.contains(kind)) {
            self.synced = true;
            changes.push(Change::Synced);
        }
        changes.extend(self.report_absent());
        changes
    }

    /// Kinds that the server does not know are a fact, and no doubt about what there is: said after
    /// [`Change::Synced`].
    fn report_absent(&mut self) -> Vec<Change> {
        if !self.synced {
            return Vec::new();
        }
        let problem = |kind: &Kind| Problem::of_file(kind.place(), ABSENT);
        let problems: Vec<Problem> = self.absent.iter().map(problem).collect();
        problems.into_iter().flat_map(|problem| self.report(problem)).collect()
    }

    /// Only a list that has ended says that what it does not name is gone.
    fn end(&mut self, kind: Kind) -> Vec<Change> {
        self.known.insert(kind);
        self.absent.remove(&kind);
        let named = self.listing.remove(&kind).unwrap_or_default();
        let gone = self.objects.keys().rev().filter(|key| kind.has(key) && !named.contains(key));
        let gone: Vec<Key> = gone.cloned().collect();
        let mut changes: Vec<Change> = gone.iter().flat_map(|key| self.delete(key)).collect();
        let places: BTreeSet<PathBuf> = named.iter().map(|key| place(kind, key)).collect();
        let solved = self.problems.keys().filter(|at| at.starts_with(kind.place()) && !places.contains(*at));
        let solved: Vec<PathBuf> = solved.cloned().collect();
        changes.extend(solved.iter().flat_map(|at| self.solve(at)));
        changes
    }

    fn put(&mut self, kind: Kind, object: DynamicObject) -> Vec<Change> {
        let (key, at) = (kind.key(&object), kind.place_of(&object));
        if self.objects.len() >= OBJECTS && !self.objects.contains_key(&key) {
            return self.report(Problem::of_file(at, format!("is beyond the {OBJECTS} objects that fit")));
        }
        match kind.read(object, &self.settings) {
            Ok(object) => {
                let mut changes = self.solve(&at);
                if self.objects.get(&key) != Some(&object) {
                    changes.push(object.upserted());
                    self.objects.insert(key, object);
                }
                changes
            }
            // What it said before stays in force.
            Err(problem) => self.report(problem),
        }
    }

    fn delete(&mut self, key: &Key) -> Option<Change> {
        self.objects.remove(key).map(|_| key.deleted())
    }

    fn report(&mut self, problem: Problem) -> Vec<Change> {
        if self.problems.get(&problem.file) == Some(&problem) {
            return Vec::new();
        }
        let mut changes = self.solve(&problem.file);
        self.problems.insert(problem.file.clone(), problem.clone());
        changes.push(Change::Problem(problem));
        changes
    }

    fn solve(&mut self, at: &PathBuf) -> Vec<Change> {
        let solved = self.problems.remove(at);
        solved.map(|problem| Change::ProblemCleared { file: problem.file }).into_iter().collect()
    }
}

fn place(kind: Kind, key: &Key) -> PathBuf {
    let mut place = kind.place();
    match key {
        Key::Namespace(name) | Key::Node(name) => place.push(name),
        Key::Pod { namespace, name } => place.extend([namespace, name]),
        Key::Policy(id) if id.namespace.is_empty() => place.push(&id.name),
        Key::Policy(id) => place.extend([&id.namespace, &id.name]),
        Key::Identity(number) => place.push(number.to_string()),
    }
    place
}

#[cfg(test)]
mod tests {
    use countersign_policy::model::Kind as PolicyKind;
    use countersign_policy::yaml;
    use proptest::prelude::*;
    use proptest::sample::select;
    use serde_json::json;

    use super::*;
    use crate::object::{Role, parse};

    fn object(value: serde_json::Value) -> Box<DynamicObject> {
        Box::new(serde_json::from_value(value).unwrap())
    }

    fn pod(name: &str, uid: &str) -> Box<DynamicObject> {
        object(json!({
            "metadata": {"name": name, "namespace": "n", "uid": uid, "annotations": {"others/x": "long"},
                         "managedFields": [{"manager": "m"}]},
            "spec": {"nodeName": "node1", "containers": [{"env": [{"name": "A", "valueFrom": {}}]}]},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}], "conditions": []},
        }))
    }

    fn policy(name: &str, app: serde_json::Value) -> Box<DynamicObject> {
        object(json!({
            "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
            "metadata": {"name": name, "namespace": "n"},
            "spec": {"endpointSelector": {"matchLabels": {"app": app}}, "ingress": [{}]},
        }))
    }

    const CNP: Kind = Kind::Policy(PolicyKind::CiliumNetworkPolicy);

    /// Everything was listed, and is empty.
    fn synced() -> World {
        let mut world = World::new(Settings::default());
        for kind in KINDS {
            world.hear(kind, Heard::Begun);
            let changes = world.hear(kind, Heard::Ended);
            assert_eq!(changes, if kind == Kind::Pod { vec![Change::Synced] } else { vec![] });
        }
        world
    }

    fn problems(changes: &[Change]) -> Vec<String> {
        let problem = |change: &Change| match change {
            Change::Problem(problem) => Some(problem.to_string()),
            _ => None,
        };
        changes.iter().filter_map(problem).collect()
    }

    #[test]
    fn what_is_lost_takes_nothing_away() {
        let mut world = synced();
        assert_eq!(world.hear(Kind::Pod, Heard::Put(pod("a", "1"))).len(), 1);
        assert!(world.hear(Kind::Pod, Heard::Put(pod("a", "1"))).is_empty(), "nothing new, nothing said");
        let lost = world.hear(Kind::Pod, Heard::Lost("refused".to_owned()));
        assert_eq!(problems(&lost), ["v1/pods: refused"]);
        assert!(world.hear(Kind::Pod, Heard::Lost("refused".to_owned())).is_empty(), "said once");
        // A list that breaks off, and another that does not.
        world.hear(Kind::Pod, Heard::Begun);
        assert!(world.hear(Kind::Pod, Heard::Lost("refused".to_owned())).is_empty());
        world.hear(Kind::Pod, Heard::Begun);
        world.hear(Kind::Pod, Heard::Listed(pod("b", "2")));
        assert_eq!(world.objects.len(), 2);
        let gone = Change::PodDelete { namespace: "n".to_owned(), name: "a".to_owned() };
        let well = Change::ProblemCleared { file: "v1/pods".into() };
        assert_eq!(world.hear(Kind::Pod, Heard::Ended), [gone, well]);
    }

    #[test]
    fn a_kind_that_is_absent_keeps_nobody_waiting_and_is_said() {
        let mut world = World::new(Settings::default());
        for kind in KINDS {
            let heard = if kind == CNP { Heard::Absent } else { Heard::Ended };
            let changes = world.hear(kind, heard);
            assert_eq!(changes.contains(&Change::Synced), kind == Kind::Pod, "{kind:?}");
            assert_eq!(problems(&changes).len(), usize::from(kind == Kind::Pod), "after it: {changes:?}");
        }
        assert!(world.hear(CNP, Heard::Absent).is_empty() && world.hear(CNP, Heard::Well).is_empty());
        world.hear(CNP, Heard::Begun);
        world.hear(CNP, Heard::Listed(policy("p", json!("x"))));
        let changes = world.hear(CNP, Heard::Ended);
        assert_eq!(changes, [Change::ProblemCleared { file: "cilium.io/v2/ciliumnetworkpolicies".into() }]);
        // Its definition is gone for a moment: what was known holds.
        assert_eq!(problems(&world.hear(CNP, Heard::Absent)).len(), 1);
        assert_eq!(world.objects.len(), 1);
    }

    #[test]
    fn a_kind_that_cannot_be_listed_is_waited_for() {
        let mut world = World::new(Settings::default());
        for kind in KINDS.into_iter().filter(|kind| *kind != CNP) {
            assert!(world.hear(kind, Heard::Ended).is_empty());
        }
        assert_eq!(problems(&world.hear(CNP, Heard::Lost("forbidden".to_owned()))).len(), 1);
        assert!(world.hear(CNP, Heard::Well).is_empty(), "silence is no list");
        assert!(world.hear(CNP, Heard::Ended).contains(&Change::Synced));
    }

    #[test]
    fn what_makes_no_sense_leaves_in_force_what_was_said() {
        let mut world = synced();
        world.hear(CNP, Heard::Put(policy("p", json!("x"))));
        let before = world.objects.clone();
        let refused = world.hear(CNP, Heard::Put(policy("p", json!(["x"]))));
        assert_eq!(problems(&refused).len(), 1, "{refused:?}");
        let text = &problems(&refused)[0];
        assert!(text.starts_with("cilium.io/v2/ciliumnetworkpolicies/n/p: spec.endpointSelector"), "{text}");
        world.hear(CNP, Heard::Begun);
        assert!(world.hear(CNP, Heard::Listed(policy("p", json!(["x"])))).is_empty());
        assert!(world.hear(CNP, Heard::Ended).is_empty(), "the list has named it");
        assert_eq!(world.objects, before);
        let deleted = world.hear(CNP, Heard::Deleted(policy("p", json!(["x"]))));
        assert_eq!(deleted.len(), 2, "{deleted:?}");
        assert!(world.objects.is_empty() && world.problems.is_empty());
    }

    /// An object says the same, wherever it comes from; what nobody asks for is not kept.
    #[test]
    fn the_same_objects_as_of_a_directory() {
        let text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: n, labels: {team: a}}\n---\n\
                    apiVersion: v1\nkind: Node\nmetadata: {name: node1, annotations: {countersign.dev/wireguard: k}}\n\
                    spec: {podCIDRs: [10.0.0.0/24]}\nstatus: {addresses: [{type: InternalIP, address: 192.0.2.1}]}\n---\n\
                    apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: n}\n\
                    spec: {podSelector: {}, ingress: [{ports: [{port: http}]}]}\n---\n\
                    apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: n, uid: u-1, labels: {app: x}}\n\
                    spec: {nodeName: node1, serviceAccountName: s, hostNetwork: false, securityContext: \
                    {supplementalGroups: [7]}, containers: [{name: c, ports: [{name: http, containerPort: 80}]}]}\n\
                    status: {phase: Running, hostIP: 192.0.2.1, podIPs: [{ip: 10.0.0.1}, {ip: \"fd00::1\"}]}\n";
        let kinds = [Kind::Namespace, Kind::Node, Kind::Policy(PolicyKind::NetworkPolicy), Kind::Pod];
        let mut world = synced();
        for (kind, document) in kinds.into_iter().zip(yaml::parse(text).unwrap()) {
            world.hear(kind, Heard::Put(object(document.value)));
        }
        let file = std::path::Path::new("f");
        let entries = parse(Role::Manifest, file, text, &Settings::default()).unwrap();
        let mut expected: BTreeMap<Key, Object> = entries.into_iter().map(|e| (e.key, e.object)).collect();
        for object in expected.values_mut() {
            // The lines of a file are a file's.
            if let Object::Policy(policy) = object {
                let policy = std::sync::Arc::make_mut(policy);
                policy.notes.clear();
                policy
                    .rules
                    .iter_mut()
                    .flat_map(|rule| &mut rule.clauses)
                    .for_each(|clause| clause.line = None);
            }
        }
        assert_eq!(world.objects, expected);
        let bare = world.hear(Kind::Pod, Heard::Put(pod("b", "1")));
        let [Change::PodUpsert(pod)] = &bare[..] else { panic!("{bare:?}") };
        assert!(pod.annotations.is_empty() && pod.env.is_empty() && pod.phase == "Running");
    }

    #[derive(Clone, Debug)]
    enum Happens {
        Put(&'static str, &'static str),
        Deleted(&'static str),
        Lost,
        Listed(Vec<(&'static str, &'static str)>, bool),
    }

    fn happens() -> impl Strategy<Value = Happens> {
        let (name, uid) = (|| select(vec!["a", "b", "c", "d"]), || select(vec!["1", "2", "3"]));
        prop_oneof![
            4 => (name(), uid()).prop_map(|(name, uid)| Happens::Put(name, uid)),
            2 => name().prop_map(Happens::Deleted),
            1 => Just(Happens::Lost),
            1 => (prop::collection::vec((name(), uid()), 0..4), any::<bool>())
                .prop_map(|(listed, whole)| Happens::Listed(listed, whole)),
        ]
    }

    proptest! {
        /// Whoever applies the changes has what a naive reader of the same history has.
        #[test]
        fn changes_lead_to_what_was_heard(history in prop::collection::vec(happens(), 0..60)) {
            let (mut world, mut naive, mut told) = (synced(), BTreeMap::new(), BTreeMap::new());
            for happens in history {
                let mut changes = Vec::new();
                match happens {
                    Happens::Put(name, uid) => {
                        naive.insert(name.to_owned(), uid.to_owned());
                        changes.extend(world.hear(Kind::Pod, Heard::Put(pod(name, uid))));
                    }
                    Happens::Deleted(name) => {
                        naive.remove(name);
                        changes.extend(world.hear(Kind::Pod, Heard::Deleted(pod(name, ""))));
                    }
                    Happens::Lost => changes.extend(world.hear(Kind::Pod, Heard::Lost("x".to_owned()))),
                    Happens::Listed(listed, whole) => {
                        changes.extend(world.hear(Kind::Pod, Heard::Begun));
                        if whole {
                            naive.clear();
                        }
                        for (name, uid) in listed {
                            naive.insert(name.to_owned(), uid.to_owned());
                            changes.extend(world.hear(Kind::Pod, Heard::Listed(pod(name, uid))));
                        }
                        let end = if whole { Heard::Ended } else { Heard::Lost("y".to_owned()) };
                        changes.extend(world.hear(Kind::Pod, end));
                    }
                }
                for change in changes {
                    match change {
                        Change::PodUpsert(pod) => drop(told.insert(pod.name.clone(), pod.uid.clone())),
                        Change::PodDelete { name, .. } => {
                            prop_assert!(told.remove(&name).is_some(), "{} was never said", name);
                        }
                        Change::Problem(_) | Change::ProblemCleared { .. } => {}
                        other => prop_assert!(false, "{:?}", other),
                    }
                }
                prop_assert_eq!(&told, &naive);
            }
        }
    }
}
