//! Which objects are followed, and what of them is kept.

use std::path::PathBuf;
use std::sync::Arc;

use countersign_policy::model::Kind as PolicyKind;
use countersign_policy::objects::{Namespace, Node, Pod};
use countersign_policy::yaml::Document;
use countersign_policy::{DocumentError, PolicyId, Settings, documents};
use kube::api::{ApiResource, DynamicObject};
use serde_json::{Map, Value, json};

use crate::change::Problem;
use crate::object::{Key, Object};

/// A kind of object that is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Namespace,
    Node,
    Policy(PolicyKind),
    Pod,
}

/// All of them.
pub(crate) const KINDS: [Kind; 6] = [
    Kind::Namespace,
    Kind::Node,
    Kind::Policy(PolicyKind::NetworkPolicy),
    Kind::Policy(PolicyKind::CiliumNetworkPolicy),
    Kind::Policy(PolicyKind::CiliumClusterwideNetworkPolicy),
    Kind::Pod,
];

impl Kind {
    /// Where the API server has them.
    pub(crate) fn resource(self) -> ApiResource {
        let (group, version, kind, plural) = match self {
            Self::Namespace => ("", "v1", "Namespace", "namespaces"),
            Self::Node => ("", "v1", "Node", "nodes"),
            Self::Pod => ("", "v1", "Pod", "pods"),
            Self::Policy(PolicyKind::NetworkPolicy) => {
                ("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies")
            }
            Self::Policy(PolicyKind::ClusterNetworkPolicy) => {
                ("policy.networking.k8s.io", "v1alpha2", "ClusterNetworkPolicy", "clusternetworkpolicies")
            }
            Self::Policy(PolicyKind::CiliumNetworkPolicy) => {
                ("cilium.io", "v2", "CiliumNetworkPolicy", "ciliumnetworkpolicies")
            }
            Self::Policy(PolicyKind::CiliumClusterwideNetworkPolicy) => {
                ("cilium.io", "v2", "CiliumClusterwideNetworkPolicy", "ciliumclusterwidenetworkpolicies")
            }
            Self::Policy(PolicyKind::CiliumCidrGroup) => {
                ("cilium.io", "v2", "CiliumCIDRGroup", "ciliumcidrgroups")
            }
        };
        let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version,
            kind: kind.to_owned(),
            plural: plural.to_owned(),
        }
    }

    /// In place of a file's name in what is said of all of them.
    pub(crate) fn place(self) -> PathBuf {
        let ApiResource { api_version, plural, .. } = self.resource();
        [api_version, plural].iter().collect()
    }

    /// What tells an object of this kind from others.
    pub(crate) fn key(self, object: &DynamicObject) -> Key {
        let name = object.metadata.name.clone().unwrap_or_default();
        let namespace = object.metadata.namespace.clone().unwrap_or_default();
        match self {
            Self::Namespace => Key::Namespace(name),
            Self::Node => Key::Node(name),
            Self::Pod => Key::Pod { namespace, name },
            Self::Policy(kind) => Key::Policy(PolicyId { kind, namespace, name }),
        }
    }

    /// Whether the object of that key is of this kind.
    pub(crate) fn has(self, key: &Key) -> bool {
        match key {
            Key::Namespace(_) => self == Self::Namespace,
            Key::Node(_) => self == Self::Node,
            Key::Pod { .. } => self == Self::Pod,
            Key::Policy(id) => self == Self::Policy(id.kind),
            Key::Identity(_) => false,
        }
    }

    /// Reads an object.
    pub(crate) fn read(self, object: DynamicObject, settings: &Settings) -> Result<Object, Problem> {
        let place = self.place_of(&object);
        let document = Document::from_value(self.bare(object));
        self.parse(&document, settings).map_err(|error| refusal(place, error))
    }

    fn parse(self, document: &Document, settings: &Settings) -> Result<Object, DocumentError> {
        Ok(match self {
            Self::Namespace => Object::Namespace(Arc::new(Namespace::from_document(document)?)),
            Self::Node => Object::Node(Arc::new(Node::from_document(document)?)),
            Self::Pod => Object::Pod(Arc::new(Pod::from_document(document)?)),
            Self::Policy(_) => Object::Policy(Arc::new(documents::parse(document, settings)?)),
        })
    }

    /// In place of a file's name in what is said of one.
    pub(crate) fn place_of(self, object: &DynamicObject) -> PathBuf {
        let metadata = &object.metadata;
        let mut place = self.place();
        place.extend(&metadata.namespace);
        place.extend(&metadata.name);
        place
    }

    /// The object without what nobody here asks for: who manages which field, others' annotations (which hold
    /// whole manifests), statuses, and what containers run.
    fn bare(self, object: DynamicObject) -> Value {
        let ApiResource { api_version, kind, .. } = self.resource();
        let DynamicObject { metadata, data: mut content, .. } = object;
        let mut annotations = metadata.annotations.unwrap_or_default();
        annotations.retain(|key, _| is_ours(key));
        let mut about = Map::new();
        about.insert("labels".to_owned(), json!(metadata.labels.unwrap_or_default()));
        about.insert("annotations".to_owned(), json!(annotations));
        let names = [("name", metadata.name), ("namespace", metadata.namespace), ("uid", metadata.uid)];
        about.extend(names.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?.into()))));
        let mut bare = Map::new();
        bare.insert("apiVersion".to_owned(), api_version.into());
        bare.insert("kind".to_owned(), kind.into());
        bare.insert("metadata".to_owned(), Value::Object(about));
        match self {
            Self::Namespace => {}
            Self::Node => {
                keep(&mut bare, &mut content, "spec", &["podCIDR", "podCIDRs"]);
                keep(&mut bare, &mut content, "status", &["addresses"]);
            }
            Self::Pod => {
                const SPEC: [&str; 5] =
                    ["nodeName", "serviceAccountName", "hostNetwork", "securityContext", "restartPolicy"];
                let ports = named_ports(&mut content);
                keep(&mut bare, &mut content, "spec", &SPEC);
                if let Some(Value::Object(spec)) = bare.get_mut("spec") {
                    spec.insert("containers".to_owned(), ports);
                }
                keep(&mut bare, &mut content, "status", &["phase", "hostIP", "podIPs", "podIP"]);
            }
            Self::Policy(_) => {
                for field in ["spec", "specs"] {
                    let found = content.get_mut(field).map(Value::take);
                    bare.extend(found.map(|value| (field.to_owned(), value)));
                }
            }
        }
        Value::Object(bare)
    }
}

/// An annotation that means something here.
fn is_ours(key: &str) -> bool {
    let domain = key.split('/').next().unwrap_or_default();
    domain == "countersign.dev" || domain.ends_with(".countersign.dev")
}

/// Moves these fields of `part` over.
fn keep(bare: &mut Map<String, Value>, content: &mut Value, part: &str, fields: &[&str]) {
    let Some(from) = content.get_mut(part) else { return };
    let found = |field: &&str| Some(((*field).to_owned(), from.get_mut(*field)?.take()));
    let kept = fields.iter().filter_map(found).filter(|(_, value)| !value.is_null());
    let kept: Map<String, Value> = kept.collect();
    bare.insert(part.to_owned(), Value::Object(kept));
}

/// The containers with their ports alone: policies may name these.
fn named_ports(content: &mut Value) -> Value {
    let containers = content.get_mut("spec").and_then(|spec| spec.get_mut("containers"));
    let containers = containers.and_then(Value::as_array_mut).into_iter().flatten();
    let ports = containers.filter_map(|container| Some(json!({"ports": container.get_mut("ports")?.take()})));
    ports.collect()
}

fn refusal(place: PathBuf, error: DocumentError) -> Problem {
    let hint = if error.hint.is_empty() { String::new() } else { format!(" ({})", error.hint) };
    Problem { field: error.path, ..Problem::of_file(place, format!("{}{hint}", error.message)) }
}
