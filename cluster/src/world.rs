//! All directories together: which object is which file's, and what is different from what was said before.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use countersign_policy::objects::Pod;

use crate::change::{Change, Problem, Problems};
use crate::object::{Entry, Key, Object, Role, merge};
use crate::scan::{Directory, Known};

/// What was said so far.
#[derive(Debug, Default)]
pub(crate) struct World {
    objects: BTreeMap<Key, Object>,
    problems: Problems,
    merged: BTreeMap<Key, Merged>,
}

/// A pod put together, and what from: put together again only when one of both is another.
#[derive(Debug)]
struct Merged {
    spec: Arc<Pod>,
    status: Option<Arc<Pod>>,
    pod: Arc<Pod>,
}

impl World {
    /// What must be said so that the listener knows what the directories say now.
    pub(crate) fn update(&mut self, directories: &[Directory]) -> Vec<Change> {
        let mut found = Found::default();
        for directory in directories {
            found.add(directory);
        }
        let objects = self.merge_pods(found.objects, &found.statuses);
        let mut changes = difference(&self.objects, &objects);
        changes.extend(problem_changes(&self.problems, &found.problems));
        self.objects = objects;
        self.problems = found.problems;
        changes
    }

    fn merge_pods(
        &mut self,
        mut objects: BTreeMap<Key, Object>,
        statuses: &BTreeMap<Key, Arc<Pod>>,
    ) -> BTreeMap<Key, Object> {
        let mut merged = BTreeMap::new();
        for (key, object) in &mut objects {
            let Object::Pod(spec) = object else { continue };
            let status = statuses.get(key).cloned();
            let kept = self.merged.remove(key).filter(|known| known.is_of(spec, status.as_ref()));
            let now = kept.unwrap_or_else(|| Merged::new(spec.clone(), status));
            *spec = now.pod.clone();
            merged.insert(key.clone(), now);
        }
        self.merged = merged;
        objects
    }
}

impl Merged {
    fn new(spec: Arc<Pod>, status: Option<Arc<Pod>>) -> Self {
        let pod = Arc::new(merge(&spec, status.as_deref()));
        Self { spec, status, pod }
    }

    fn is_of(&self, spec: &Arc<Pod>, status: Option<&Arc<Pod>>) -> bool {
        let same_status = match (&self.status, status) {
            (Some(known), Some(status)) => Arc::ptr_eq(known, status),
            (None, None) => true,
            _ => false,
        };
        Arc::ptr_eq(&self.spec, spec) && same_status
    }
}

/// What the files say, before it is compared.
#[derive(Default)]
struct Found {
    objects: BTreeMap<Key, Object>,
    statuses: BTreeMap<Key, Arc<Pod>>,
    owners: BTreeMap<Key, PathBuf>,
    problems: Problems,
}

impl Found {
    fn add(&mut self, directory: &Directory) {
        if let Some(problem) = &directory.problem {
            self.report(problem.clone());
        }
        for (path, known) in &directory.files {
            self.add_file(directory.role, path, known);
        }
    }

    fn add_file(&mut self, role: Role, path: &Path, known: &Known) {
        if let Some(problem) = &known.problem {
            self.report(problem.clone());
        }
        for entry in &known.entries {
            match (&entry.object, role) {
                (Object::Pod(status), Role::PodStatus) => {
                    self.statuses.insert(entry.key.clone(), status.clone());
                }
                _ => self.add_entry(path, entry),
            }
        }
    }

    /// The first file, in order of paths, has the object; the others are told so.
    fn add_entry(&mut self, path: &Path, entry: &Entry) {
        if let Some(owner) = self.owners.get(&entry.key) {
            let message =
                format!("{} is already in {}; this one is ignored", entry.key.describe(), owner.display());
            self.report(Problem { line: entry.line, ..Problem::of_file(path, message) });
            return;
        }
        self.owners.insert(entry.key.clone(), path.to_owned());
        self.objects.insert(entry.key.clone(), entry.object.clone());
    }

    fn report(&mut self, problem: Problem) {
        self.problems.entry(problem.file.clone()).or_default().push(problem);
    }
}

/// Deletions first, dependants before what they depend on; then what is new or different, the other way round.
fn difference(before: &BTreeMap<Key, Object>, now: &BTreeMap<Key, Object>) -> Vec<Change> {
    let gone = before.keys().rev().filter(|key| !now.contains_key(key)).map(Key::deleted);
    let different = now.iter().filter(|(key, object)| before.get(key) != Some(object));
    gone.chain(different.map(|(_, object)| object.upserted())).collect()
}

fn problem_changes(before: &Problems, now: &Problems) -> Vec<Change> {
    let cleared = before.iter().filter(|(file, problems)| now.get(*file) != Some(problems));
    let reported = now.iter().filter(|(file, problems)| before.get(*file) != Some(problems));
    let cleared = cleared.map(|(file, _)| Change::ProblemCleared { file: file.clone() });
    cleared.chain(reported.flat_map(|(_, all)| all.iter().cloned().map(Change::Problem))).collect()
}
