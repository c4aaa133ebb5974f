//! What the cluster says, as last heard: pods, namespaces, nodes, refused documents.
//!
//! Holds no decision. [`World::apply`] takes one change in and says what it touched, so that the node task
//! works on what is different and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use countersign_cluster::{Change, Problem};
use countersign_policy::objects::{Namespace, Node, Pod};

/// Namespace and name of a pod.
pub type PodKey = (String, String);

/// The cluster, as last heard.
#[derive(Debug, Default)]
pub struct World {
    /// Pods by namespace and name.
    pub pods: BTreeMap<PodKey, Arc<Pod>>,
    /// Namespaces by name.
    pub namespaces: BTreeMap<String, Arc<Namespace>>,
    /// Nodes by name.
    pub nodes: BTreeMap<String, Arc<Node>>,
    /// What is wrong with files, by file.
    pub problems: BTreeMap<PathBuf, Vec<Problem>>,
    /// Everything there was at the start has been heard.
    pub synced: bool,
}

/// What a batch of changes touched.
#[derive(Debug, Default)]
pub struct Touched {
    /// Pods that are new, different, gone, or whose namespace's labels are.
    pub pods: BTreeSet<PodKey>,
    /// Nodes that are new, different or gone.
    pub nodes: BTreeSet<String>,
    /// Policies that are new, different or gone.
    pub policies: Vec<PolicyChange>,
}

/// A change of policy, handed on as it came.
#[derive(Debug)]
pub enum PolicyChange {
    /// New or different.
    Upsert(Arc<countersign_policy::Policy>),
    /// Gone.
    Delete(countersign_policy::PolicyId),
}

impl Touched {
    /// Whether nothing was.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty() && self.nodes.is_empty() && self.policies.is_empty()
    }
}

impl World {
    /// Takes one change in.
    pub fn apply(&mut self, change: Change, touched: &mut Touched) {
        match change {
            Change::PodUpsert(pod) => {
                let key = (pod.namespace.clone(), pod.name.clone());
                touched.pods.insert(key.clone());
                self.pods.insert(key, pod);
            }
            Change::PodDelete { namespace, name } => {
                let key = (namespace, name);
                self.pods.remove(&key);
                touched.pods.insert(key);
            }
            Change::NamespaceUpsert(namespace) => {
                self.touch_namespace(&namespace.name, touched);
                self.namespaces.insert(namespace.name.clone(), namespace);
            }
            Change::NamespaceDelete(name) => {
                self.touch_namespace(&name, touched);
                self.namespaces.remove(&name);
            }
            Change::NodeUpsert(node) => {
                touched.nodes.insert(node.name.clone());
                self.nodes.insert(node.name.clone(), node);
            }
            Change::NodeDelete(name) => {
                self.nodes.remove(&name);
                touched.nodes.insert(name);
            }
            Change::PolicyUpsert(policy) => touched.policies.push(PolicyChange::Upsert(policy)),
            Change::PolicyDelete(key) => touched.policies.push(PolicyChange::Delete(key)),
            // Numbers are claimed when a pod needs one, from the same place.
            Change::IdentityUpsert(_) | Change::IdentityDelete(_) => {}
            Change::Problem(problem) => {
                tracing::warn!(%problem, "a document is refused; what it said before stays in force");
                self.problems.entry(problem.file.clone()).or_default().push(problem);
            }
            Change::ProblemCleared { file } => {
                self.problems.remove(&file);
            }
            Change::Synced => self.synced = true,
        }
    }

    fn touch_namespace(&self, name: &str, touched: &mut Touched) {
        let of = self
            .pods
            .range((name.to_owned(), String::new())..)
            .take_while(|((namespace, _), _)| namespace == name);
        touched.pods.extend(of.map(|(key, _)| key.clone()));
    }
}
