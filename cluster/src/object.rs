//! Documents to objects: what of a file is meant for us, and what it is called.

use std::path::Path;
use std::sync::Arc;

use countersign_policy::documents;
use countersign_policy::labels::Labels;
use countersign_policy::objects::{Namespace, Node, Pod};
use countersign_policy::yaml::{self, Document};
use countersign_policy::{DocumentError, Policy, PolicyId, Settings};

use crate::change::{Change, Problem};
use crate::limits::OBJECTS_PER_FILE;

/// What the files of a directory may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// What people write: everything but identities; a Pod's status in them counts for nothing.
    Manifest,
    /// What nodes say about themselves.
    NodeStatus,
    /// What became of pods.
    PodStatus,
    /// Numbers given to sets of labels.
    Identity,
}

/// A number and the set of labels it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterIdentity {
    /// The number, within [256, 2^24).
    pub number: u32,
    /// The labels.
    pub labels: Labels,
}

/// What identifies an object; the order is the one changes are said in (pods last, since they need the others).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Namespace(String),
    Node(String),
    Identity(u32),
    Policy(PolicyId),
    Pod { namespace: String, name: String },
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Object {
    Namespace(Arc<Namespace>),
    Node(Arc<Node>),
    Identity(Arc<ClusterIdentity>),
    Policy(Arc<Policy>),
    Pod(Arc<Pod>),
}

/// An object, and where in its file it stands.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: Key,
    pub(crate) object: Object,
    pub(crate) line: Option<u32>,
}

impl Key {
    /// For people.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Namespace(name) => format!("Namespace {name}"),
            Self::Node(name) => format!("Node {name}"),
            Self::Identity(number) => format!("identity {number}"),
            Self::Policy(id) => id.to_string(),
            Self::Pod { namespace, name } => format!("Pod {namespace}/{name}"),
        }
    }

    pub(crate) fn deleted(&self) -> Change {
        match self.clone() {
            Self::Namespace(name) => Change::NamespaceDelete(name),
            Self::Node(name) => Change::NodeDelete(name),
            Self::Identity(number) => Change::IdentityDelete(number),
            Self::Policy(id) => Change::PolicyDelete(id),
            Self::Pod { namespace, name } => Change::PodDelete { namespace, name },
        }
    }
}

impl Object {
    pub(crate) fn upserted(&self) -> Change {
        match self.clone() {
            Self::Namespace(namespace) => Change::NamespaceUpsert(namespace),
            Self::Node(node) => Change::NodeUpsert(node),
            Self::Identity(identity) => Change::IdentityUpsert(identity),
            Self::Policy(policy) => Change::PolicyUpsert(policy),
            Self::Pod(pod) => Change::PodUpsert(pod),
        }
    }
}

/// Kinds of the core group that manifests may hold and that say nothing to us. Any other kind of that group is
/// taken for a slip of the pen.
const UNUSED_CORE_KINDS: [&str; 12] = [
    "ConfigMap",
    "Endpoints",
    "Event",
    "LimitRange",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "PodTemplate",
    "ReplicationController",
    "ResourceQuota",
    "Secret",
    "Service",
    "ServiceAccount",
];

/// Reads all objects of a file's text, or says what is wrong with the first that is wrong.
pub(crate) fn parse(role: Role, file: &Path, text: &str, settings: &Settings) -> Result<Vec<Entry>, Problem> {
    let documents = yaml::parse(text).map_err(|error| Problem {
        line: Some(error.line),
        ..Problem::of_file(file, format!("not YAML: {}", error.message))
    })?;
    if documents.is_empty() {
        return Err(Problem::of_file(file, "holds no object; to remove what it held, delete the file"));
    }
    if documents.len() > OBJECTS_PER_FILE {
        return Err(Problem::of_file(file, format!("more than {OBJECTS_PER_FILE} objects in one file")));
    }
    let mut entries = Vec::new();
    for document in &documents {
        let object = object(role, document, settings).map_err(|error| located(file, document, error))?;
        let line = document.lines.line();
        entries.extend(object.map(|(key, object)| Entry { key, object, line }));
    }
    check_name(role, file, &entries)?;
    Ok(entries)
}

fn object(
    role: Role,
    document: &Document,
    settings: &Settings,
) -> Result<Option<(Key, Object)>, DocumentError> {
    if role == Role::Manifest && documents::kind(document).is_some() {
        let policy = documents::parse(document, settings)?;
        return Ok(Some((Key::Policy(policy.id.clone()), Object::Policy(Arc::new(policy)))));
    }
    Ok(match (role, document.api_version(), document.kind()) {
        (Role::Manifest | Role::PodStatus, "v1", "Pod") => Some(pod(document)?),
        (Role::Manifest | Role::NodeStatus, "v1", "Node") => Some(node(document)?),
        (Role::Manifest, "v1", "Namespace") => Some(namespace(document)?),
        (Role::Identity, _, "Identity") => Some(identity(document)?),
        (Role::Manifest, "v1", kind) if UNUSED_CORE_KINDS.contains(&kind) => None,
        (Role::Manifest, version, _) if is_foreign(version) => None,
        (_, version, kind) => return Err(unknown(document, version, kind)),
    })
}

/// An API group that is neither Kubernetes' core nor one that policies come from.
fn is_foreign(version: &str) -> bool {
    let ours = ["cilium.io/", "networking.k8s.io/", "policy.networking.k8s.io/", "countersign.dev/"];
    version.contains('/') && !ours.iter().any(|group| version.starts_with(group))
}

fn unknown(document: &Document, version: &str, kind: &str) -> DocumentError {
    let message = match (version, kind) {
        ("", _) => "`apiVersion` is missing".to_owned(),
        (_, "") => "`kind` is missing".to_owned(),
        _ => format!("{version} {kind} is not known here"),
    };
    DocumentError { path: "kind".to_owned(), line: document.lines.line(), message, hint: String::new() }
}

fn pod(document: &Document) -> Result<(Key, Object), DocumentError> {
    let pod = Pod::from_document(document)?;
    let key = Key::Pod { namespace: pod.namespace.clone(), name: pod.name.clone() };
    Ok((key, Object::Pod(Arc::new(pod))))
}

fn node(document: &Document) -> Result<(Key, Object), DocumentError> {
    let node = Node::from_document(document)?;
    Ok((Key::Node(node.name.clone()), Object::Node(Arc::new(node))))
}

fn namespace(document: &Document) -> Result<(Key, Object), DocumentError> {
    let namespace = Namespace::from_document(document)?;
    Ok((Key::Namespace(namespace.name.clone()), Object::Namespace(Arc::new(namespace))))
}

fn identity(document: &Document) -> Result<(Key, Object), DocumentError> {
    let identity = crate::identity::from_document(document).map_err(|message| DocumentError {
        path: String::new(),
        line: document.lines.line(),
        message,
        hint: String::new(),
    })?;
    Ok((Key::Identity(identity.number), Object::Identity(Arc::new(identity))))
}

fn located(file: &Path, document: &Document, error: DocumentError) -> Problem {
    let hint = if error.hint.is_empty() { String::new() } else { format!(" ({})", error.hint) };
    Problem {
        file: file.to_owned(),
        line: error.line.or_else(|| document.lines.line()),
        field: error.path,
        message: format!("{}{hint}", error.message),
    }
}

/// Components write one object a file, named after it: a node that writes into another's file is refused, and a
/// copied file is no second object.
fn check_name(role: Role, file: &Path, entries: &[Entry]) -> Result<(), Problem> {
    if role == Role::Manifest {
        return Ok(());
    }
    let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    for entry in entries {
        let expected = match &entry.key {
            Key::Namespace(name) | Key::Node(name) => name.clone(),
            Key::Identity(number) => number.to_string(),
            Key::Pod { namespace, name } => format!("{namespace}_{name}"),
            // Nobody but people writes policies.
            Key::Policy(_) => continue,
        };
        if stem != expected {
            let message = format!("holds {}, which belongs in {expected}.yaml", entry.key.describe());
            return Err(Problem { line: entry.line, ..Problem::of_file(file, message) });
        }
    }
    Ok(())
}

/// What a pod is: its manifest, with addresses, phase, UID and groups from its status.
pub(crate) fn merge(spec: &Pod, status: Option<&Pod>) -> Pod {
    let Some(status) = status else {
        // What a manifest says about its own addresses is somebody's wish, not what was given.
        return Pod { ips: Vec::new(), host_ip: None, phase: String::new(), ..spec.clone() };
    };
    let uid = if status.uid.is_empty() { &spec.uid } else { &status.uid };
    let groups = if status.supplemental_groups.is_empty() {
        &spec.supplemental_groups
    } else {
        &status.supplemental_groups
    };
    Pod {
        uid: uid.clone(),
        supplemental_groups: groups.clone(),
        ips: status.ips.clone(),
        host_ip: status.host_ip,
        phase: status.phase.clone(),
        ..spec.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_to_a_pod_outranks_what_its_manifest_says() {
        let pod = |uid: &str, groups: &[u32]| Pod {
            uid: uid.to_owned(),
            supplemental_groups: groups.to_vec(),
            ..Pod::default()
        };
        let spec = pod("wish", &[7]);
        let merged = merge(&spec, Some(&pod("given", &[70001])));
        assert_eq!((merged.uid.as_str(), &merged.supplemental_groups[..]), ("given", &[70001][..]));
        let merged = merge(&spec, Some(&pod("", &[])));
        assert_eq!((merged.uid.as_str(), &merged.supplemental_groups[..]), ("wish", &[7][..]));
    }
}
