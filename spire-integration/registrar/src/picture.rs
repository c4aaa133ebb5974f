//! The cluster as last heard, and the entries that it should have.
//!
//! Work follows what changed: a pod is looked at again when it, its namespace's labels or the policies that ask for
//! authentication are different. Numbers come from the cluster's registry, as the agents' do.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use countersign_cluster::{Change, IdentityRegistry};
use countersign_policy::identity::{DEFAULT_CLUSTER, may_have_svid, reserved, security_labels};
use countersign_policy::labels::Labels;
use countersign_policy::objects::{Namespace, Pod};
use countersign_spire_proto::{Concern, Desired, Entry, EntryError, Layout, PodFacts};

type PodKey = (String, String);

/// What is known, and what follows from it.
#[derive(Debug)]
pub(crate) struct Picture {
    layout: Layout,
    all_pods: bool,
    /// Who gives numbers to identities; nobody where no SPIFFE ID has one in it.
    registry: Option<IdentityRegistry>,
    numbers: BTreeMap<Labels, u32>,
    pods: BTreeMap<PodKey, Arc<Pod>>,
    namespaces: BTreeMap<String, Arc<Namespace>>,
    nodes: BTreeSet<String>,
    concern: Concern,
    problems: BTreeMap<PathBuf, String>,
    /// What could not be read when everything else had been; none before that.
    unread: Option<BTreeSet<PathBuf>>,
    touched: BTreeSet<PodKey>,
    placed: BTreeMap<PodKey, Placed>,
    waiting: BTreeMap<PodKey, String>,
}

#[derive(Debug)]
struct Placed {
    id: String,
    node: String,
    entry: Entry,
}

/// What becomes of a pod.
enum Verdict {
    Registered(Box<Placed>),
    /// It is to have an entry, and something is not known.
    Waiting(String),
    /// The same, and to be looked at again without being told.
    Retry(String),
    NotConcerned,
}

impl Picture {
    pub(crate) fn new(layout: Layout, all_pods: bool, registry: Option<IdentityRegistry>) -> Self {
        Self {
            layout,
            all_pods,
            registry,
            numbers: BTreeMap::new(),
            pods: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            nodes: BTreeSet::new(),
            concern: Concern::new(),
            problems: BTreeMap::new(),
            unread: None,
            touched: BTreeSet::new(),
            placed: BTreeMap::new(),
            waiting: BTreeMap::new(),
        }
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Takes one change in.
    pub(crate) fn apply(&mut self, change: Change) {
        match change {
            Change::PodUpsert(pod) => {
                let key = (pod.namespace.clone(), pod.name.clone());
                self.touched.insert(key.clone());
                self.pods.insert(key, pod);
            }
            Change::PodDelete { namespace, name } => {
                let key = (namespace, name);
                self.pods.remove(&key);
                self.touched.insert(key);
            }
            Change::NamespaceUpsert(namespace) => {
                self.touch_namespace(&namespace.name);
                self.namespaces.insert(namespace.name.clone(), namespace);
            }
            Change::NamespaceDelete(name) => {
                self.touch_namespace(&name);
                self.namespaces.remove(&name);
            }
            Change::NodeUpsert(node) => {
                self.nodes.insert(node.name.clone());
            }
            Change::NodeDelete(name) => {
                self.nodes.remove(&name);
            }
            Change::PolicyUpsert(policy) => {
                let others = self.concern.upsert(&policy);
                self.touch_all_if(others);
            }
            Change::PolicyDelete(id) => {
                let others = self.concern.remove(&id);
                self.touch_all_if(others);
            }
            // Numbers are claimed when a pod needs one, from the same place.
            Change::IdentityUpsert(_) | Change::IdentityDelete(_) => {}
            Change::Problem(problem) => {
                tracing::warn!(%problem, "not read; what was known of it stays in force");
                self.problems.insert(problem.file, problem.message);
            }
            Change::ProblemCleared { file } => {
                self.problems.remove(&file);
            }
            Change::Synced => {
                tracing::info!(pods = self.pods.len(), nodes = self.nodes.len(), "the cluster is known");
                self.unread = Some(self.problems.keys().cloned().collect());
            }
        }
    }

    fn touch_namespace(&mut self, name: &str) {
        let from = (name.to_owned(), String::new());
        let inside = self.pods.range(from..).take_while(|((namespace, _), _)| namespace == name);
        self.touched.extend(inside.map(|(key, _)| key.clone()));
    }

    fn touch_all_if(&mut self, others: bool) {
        if others {
            self.touched.extend(self.pods.keys().cloned());
        }
    }

    /// Everything there was at the start has been heard.
    pub(crate) fn is_synced(&self) -> bool {
        self.unread.is_some()
    }

    /// Whether all there is is known: then an entry of ours that belongs to nothing is a left-over.
    pub(crate) fn is_whole(&self) -> bool {
        self.unread.as_ref().is_some_and(BTreeSet::is_empty)
    }

    /// A file that could not be read at the start and is the reason why left-overs stay.
    pub(crate) fn unread(&self) -> Option<&PathBuf> {
        self.unread.as_ref().and_then(BTreeSet::first)
    }

    /// What cannot be read now, and why.
    pub(crate) fn problems(&self) -> impl Iterator<Item = EntryError> {
        let error = |(file, message): (&PathBuf, &String)| EntryError {
            about: file.display().to_string(),
            message: message.clone(),
        };
        self.problems.iter().map(error)
    }

    /// Works out what the changes since the last time mean.
    pub(crate) fn settle(&mut self) {
        if let Some(unread) = &mut self.unread {
            unread.retain(|file| self.problems.contains_key(file));
        }
        for key in std::mem::take(&mut self.touched) {
            self.placed.remove(&key);
            self.waiting.remove(&key);
            match self.look_at(&key) {
                Verdict::Registered(placed) => drop(self.placed.insert(key, *placed)),
                Verdict::Waiting(why) => drop(self.waiting.insert(key, why)),
                Verdict::Retry(why) => {
                    self.waiting.insert(key.clone(), why);
                    self.touched.insert(key);
                }
                Verdict::NotConcerned => {}
            }
        }
    }

    fn look_at(&mut self, key: &PodKey) -> Verdict {
        let Some(pod) = self.pods.get(key).cloned() else { return Verdict::NotConcerned };
        if !can_be_registered(&pod) {
            return Verdict::NotConcerned;
        }
        let namespace = self.namespaces.get(&pod.namespace);
        let labels = security_labels(&pod, namespace.map(|namespace| &**namespace), DEFAULT_CLUSTER);
        if !self.all_pods && !self.concern.concerns(&labels) {
            return Verdict::NotConcerned;
        }
        let number = match self.number(labels) {
            Ok(number) => number,
            Err(why) => return Verdict::Retry(why),
        };
        match self.layout.pod(number, &PodFacts::of(&pod)) {
            Ok((id, entry)) => Verdict::Registered(Box::new(Placed { id, node: pod.node.clone(), entry })),
            Err(why) => Verdict::Waiting(why.to_string()),
        }
    }

    fn number(&mut self, labels: Labels) -> Result<u32, String> {
        if let Some(number) = self.numbers.get(&labels) {
            return Ok(*number);
        }
        let Some(registry) = &mut self.registry else { return Ok(reserved::UNKNOWN) };
        let number = registry.claim(&labels).map_err(|error| format!("it has no identity: {error}"))?;
        self.numbers.insert(labels, number);
        Ok(number)
    }

    /// The entries there should be.
    pub(crate) fn desired(&self) -> Desired {
        let mut desired = Desired::new();
        for node in self.all_nodes() {
            desired.extend(self.layout.node(node).unwrap_or_default());
        }
        desired.extend(self.placed.values().map(|placed| (placed.id.clone(), placed.entry.clone())));
        desired
    }

    /// Nodes with an object of their own, and those that a registered pod is on.
    fn all_nodes(&self) -> BTreeSet<&str> {
        let named = self.nodes.iter().map(String::as_str);
        named.chain(self.placed.values().map(|placed| placed.node.as_str())).collect()
    }

    /// What an entry is about, for people.
    pub(crate) fn about(&self, id: &str) -> String {
        let placed = self.placed.iter().find(|(_, placed)| placed.id == id);
        placed.map_or_else(|| id.to_owned(), |((namespace, name), _)| format!("{namespace}/{name}"))
    }

    /// Pods and nodes that are to have an entry and have none, and why.
    pub(crate) fn waiting(&self) -> Vec<EntryError> {
        let error = |about: String, message: &str| EntryError { about, message: message.to_owned() };
        let pods =
            self.waiting.iter().map(|((namespace, name), why)| error(format!("{namespace}/{name}"), why));
        let nodes = self.all_nodes().into_iter().filter_map(|node| {
            let why = self.layout.node(node).err()?;
            Some(error(node.to_owned(), &why.to_string()))
        });
        pods.chain(nodes).collect()
    }
}

/// Whether a pod is one that entries are written for: placed, with addresses of its own, not over, and not opted
/// out.
fn can_be_registered(pod: &Pod) -> bool {
    let over = matches!(pod.phase.as_str(), "Succeeded" | "Failed");
    !pod.host_network && !pod.node.is_empty() && !over && may_have_svid(pod)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use countersign_certs::IdTemplate;
    use countersign_cluster::Problem;
    use countersign_policy::yaml::{Document, parse as yaml};
    use countersign_policy::{Policy, Settings, parse};
    use countersign_spire_proto::{LayoutConfig, NodeTemplate, Owner, SelectorTemplate};
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    fn layout() -> Layout {
        Layout::new(LayoutConfig {
            trust_domain: "t".parse().unwrap(),
            owner: Owner::parse("c").unwrap(),
            pod_id: IdTemplate::default(),
            node_parent: NodeTemplate::default(),
            pod_selectors: vec![SelectorTemplate::pod_uid()],
            node_selectors: Vec::new(),
            agent_selectors: vec!["unix:uid:0".parse().unwrap()],
            x509_svid_ttl_seconds: 0,
            federates_with: [].into(),
            hint: String::new(),
        })
        .unwrap()
    }

    fn empty(status: &Path) -> Picture {
        Picture::new(layout(), false, Some(IdentityRegistry::new(status)))
    }

    fn document(text: &str) -> Document {
        yaml(text).unwrap().remove(0)
    }

    fn policy(name: &str, server: &str, client: &str) -> Arc<Policy> {
        let text = format!(
            "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {name}, namespace: n}}\nspec:\n  \
             endpointSelector: {{matchLabels: {{app: {server}}}}}\n  ingress:\n  - fromEndpoints:\n    - \
             matchLabels: {{app: {client}}}\n    authentication: {{mode: required}}\n"
        );
        Arc::new(parse(&document(&text), &Settings::default()).unwrap())
    }

    fn pods() -> impl Strategy<Value = Pod> {
        let names = (select(vec!["n", "m"]), select(vec!["p", "q", "r"]));
        let facts =
            (select(vec!["x", "y", "z"]), select(vec!["", "node1", "node2"]), select(vec!["", "u-1", "u-2"]));
        let odd = (0..8_u8, select(vec!["", "Running", "Failed"]));
        (names, facts, odd).prop_map(|((namespace, name), (app, node, uid), (odd, phase))| Pod {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            node: node.to_owned(),
            labels: [("app".to_owned(), app.to_owned())].into(),
            annotations: (odd == 0)
                .then(|| ("countersign.dev/svid".to_owned(), "none".to_owned()))
                .into_iter()
                .collect(),
            host_network: odd == 1,
            phase: phase.to_owned(),
            ..Pod::default()
        })
    }

    fn changes() -> impl Strategy<Value = Change> {
        let app = || select(vec!["x", "y", "z"]);
        let gone = (select(vec!["n", "m"]), select(vec!["p", "q", "r"]));
        let namespace = (select(vec!["n", "m"]), app()).prop_map(|(name, team)| Namespace {
            name: name.to_owned(),
            labels: [("team".to_owned(), team.to_owned())].into(),
            ..Namespace::default()
        });
        prop_oneof![
            6 => pods().prop_map(|pod| Change::PodUpsert(Arc::new(pod))),
            2 => gone.prop_map(|(namespace, name)| Change::PodDelete { namespace: namespace.into(), name: name.into() }),
            2 => (select(vec!["a", "b"]), app(), app()).prop_map(|(n, s, c)| Change::PolicyUpsert(policy(n, s, c))),
            1 => select(vec!["a", "b"]).prop_map(|name| Change::PolicyDelete(policy(name, "x", "x").id.clone())),
            1 => namespace.prop_map(|namespace| Change::NamespaceUpsert(Arc::new(namespace))),
            1 => select(vec!["n", "m"]).prop_map(|name| Change::NamespaceDelete(name.to_owned())),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

        /// What follows from many changes is what follows from where they lead.
        #[test]
        fn a_history_is_its_last_state(history in prop::collection::vec((changes(), any::<bool>()), 1..40)) {
            let status = tempfile::tempdir().unwrap();
            let mut picture = empty(status.path());
            for (change, settle) in history {
                picture.apply(change);
                if settle {
                    picture.settle();
                }
            }
            picture.settle();
            let mut fresh = empty(status.path());
            picture.pods.values().for_each(|pod| fresh.apply(Change::PodUpsert(pod.clone())));
            picture.namespaces.values().for_each(|all| fresh.apply(Change::NamespaceUpsert(all.clone())));
            fresh.concern = picture.concern.clone();
            fresh.settle();
            prop_assert_eq!(picture.desired(), fresh.desired());
            prop_assert_eq!(picture.waiting(), fresh.waiting());
            for (key, placed) in &picture.placed {
                let pod = &picture.pods[key];
                prop_assert!(can_be_registered(pod) && placed.node == pod.node && !pod.uid.is_empty());
            }
        }
    }

    #[test]
    fn what_was_unread_at_the_start_is_waited_for_and_nothing_later() {
        let status = tempfile::tempdir().unwrap();
        let mut picture = empty(status.path());
        let problem = |file: &str| {
            let (line, field, message) = (None, String::new(), "x".to_owned());
            Change::Problem(Problem { file: file.into(), line, field, message })
        };
        picture.apply(problem("early"));
        picture.settle();
        assert!(!picture.is_synced() && !picture.is_whole(), "nothing is known");
        picture.apply(Change::Synced);
        picture.settle();
        assert!(picture.is_synced() && !picture.is_whole());
        assert_eq!(picture.unread().unwrap(), Path::new("early"));
        // Another mistake in it: what it held is still not known.
        picture.apply(Change::ProblemCleared { file: "early".into() });
        picture.apply(problem("early"));
        picture.apply(problem("late"));
        picture.settle();
        assert!(!picture.is_whole());
        picture.apply(Change::ProblemCleared { file: "early".into() });
        picture.settle();
        assert!(picture.is_whole(), "what became wrong later keeps what it said");
    }

    #[test]
    fn a_pod_that_cannot_have_a_number_yet_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let status = dir.path().join("s");
        std::fs::write(&status, "in the way").unwrap();
        let mut picture = Picture::new(layout(), true, Some(IdentityRegistry::new(&status)));
        let pod = Pod {
            namespace: "n".into(),
            name: "p".into(),
            uid: "u".into(),
            node: "node1".into(),
            ..Pod::default()
        };
        picture.apply(Change::PodUpsert(Arc::new(pod)));
        picture.settle();
        let waiting = picture.waiting();
        assert!(waiting[0].about == "n/p" && waiting[0].message.contains("no identity"), "{waiting:?}");
        std::fs::remove_file(&status).unwrap();
        picture.settle();
        assert!(picture.waiting().is_empty());
        assert_eq!(picture.desired().len(), 2, "the pod, and its node's agent");
        assert_eq!(picture.about(&picture.placed.values().next().unwrap().id), "n/p");
    }
}
