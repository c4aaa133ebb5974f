//! Policy documents in, policies out; a document is taken whole or refused.
//!
//! The meaning of each field is Cilium 1.20's, and Kubernetes' for NetworkPolicy and ClusterNetworkPolicy. Where
//! Cilium refuses or drops what its author clearly meant, that is done, with a [`Note`] that says so: a missing
//! `protocol` beside HTTP or Kafka rules is TCP, `ingress: []` denies by default, `namespaceSelector` within
//! `fromEndpoints` selects namespaces. What needs a part that is not built (proxy, names, node policies) never
//! becomes a wider rule: who would be allowed is not, who would be denied is, and a note of the kind
//! [`NoteKind::Missing`] says what is missing.

mod cilium;
mod groups;
mod kubernetes;
mod layer7;
mod peers;
mod ports;
mod selectors;
mod tiers;
mod unbuilt;

pub(crate) use ports::protocol;

use crate::fields::{DocumentError, Field, Object, Result};
use crate::model::{CidrGroup, Kind, Note, NoteKind, Policy, PolicyId, Rule};
use crate::yaml::Document;

/// Annotation of a policy, a namespace or a pod: `audit` says what would be dropped, and drops nothing.
pub const MODE_ANNOTATION: &str = "policy.countersign.dev/mode";

/// What a document's meaning depends on beside itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Name of the cluster, as in the label `io.cilium.k8s.policy.cluster`.
    pub cluster: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self { cluster: "default".to_owned() }
    }
}

/// What the reading of one document knows and collects.
struct Context<'a> {
    settings: &'a Settings,
    /// The namespace of a namespaced policy.
    namespace: Option<String>,
    notes: Vec<Note>,
}

impl Context<'_> {
    fn note(&mut self, field: &Field<'_>, message: impl Into<String>) {
        self.push(NoteKind::Remark, field, message.into());
    }

    /// Says that the field needs `part`, and that what it speaks of is denied.
    fn missing(&mut self, field: &Field<'_>, part: &str) {
        self.push(NoteKind::Missing, field, format!("{part}: the traffic that it speaks of is denied"));
    }

    fn push(&mut self, kind: NoteKind, field: &Field<'_>, message: String) {
        self.notes.push(Note { kind, path: field.path().to_owned(), line: field.line(), message });
    }
}

/// The kind of policy that a document says it is, whatever its version.
#[must_use]
pub fn kind(document: &Document) -> Option<Kind> {
    let group = document.api_version().split('/').next().unwrap_or_default();
    match (group, document.kind()) {
        ("cilium.io", "CiliumNetworkPolicy") => Some(Kind::CiliumNetworkPolicy),
        ("cilium.io", "CiliumClusterwideNetworkPolicy") => Some(Kind::CiliumClusterwideNetworkPolicy),
        ("cilium.io", "CiliumCIDRGroup") => Some(Kind::CiliumCidrGroup),
        ("networking.k8s.io", "NetworkPolicy") => Some(Kind::NetworkPolicy),
        ("policy.networking.k8s.io", "ClusterNetworkPolicy") => Some(Kind::ClusterNetworkPolicy),
        _ => None,
    }
}

/// Reads a policy document.
///
/// # Errors
/// The first field that is unknown or not what it must be; a kind or version that is no policy.
pub fn parse(document: &Document, settings: &Settings) -> std::result::Result<Policy, DocumentError> {
    let root = Field::root(document);
    let Some(kind) = kind(document) else {
        let hint =
            "CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy, NetworkPolicy or ClusterNetworkPolicy";
        return Err(root.error(format!("{:?} is not a kind of policy", document.kind()), hint));
    };
    let mut root = root.object()?;
    let mut context = Context { settings, namespace: None, notes: Vec::new() };
    check_version(&mut context, &mut root, kind)?;
    let Meta { id, uid, audit } = meta(&mut root, kind)?;
    root.get("status");
    context.namespace = (!id.namespace.is_empty()).then(|| id.namespace.clone());
    let (rules, group) = content(&mut context, root, kind)?;
    Ok(Policy { id, uid, rules, group, audit, notes: context.notes })
}

fn content(
    context: &mut Context<'_>,
    root: Object<'_>,
    kind: Kind,
) -> Result<(Vec<Rule>, Option<CidrGroup>)> {
    let rules = match kind {
        Kind::CiliumNetworkPolicy | Kind::CiliumClusterwideNetworkPolicy => cilium::rules(context, root)?,
        Kind::NetworkPolicy => kubernetes::rules(context, root)?,
        Kind::ClusterNetworkPolicy => tiers::rules(context, root)?,
        Kind::CiliumCidrGroup => return Ok((Vec::new(), Some(groups::group(root)?))),
    };
    Ok((rules, None))
}

fn check_version(context: &mut Context<'_>, root: &mut Object<'_>, kind: Kind) -> Result<()> {
    root.get("kind");
    let version = root.required("apiVersion")?;
    let (expected, older) = match kind {
        Kind::CiliumNetworkPolicy | Kind::CiliumClusterwideNetworkPolicy => {
            ("cilium.io/v2", "cilium.io/v1alpha1")
        }
        Kind::CiliumCidrGroup => ("cilium.io/v2", "cilium.io/v2alpha1"),
        Kind::NetworkPolicy => ("networking.k8s.io/v1", ""),
        Kind::ClusterNetworkPolicy => ("policy.networking.k8s.io/v1alpha2", ""),
    };
    match version.string()? {
        found if found == expected => Ok(()),
        found if found == older => {
            context.note(&version, format!("read as {expected}, which has the same fields; write that"));
            Ok(())
        }
        _ => Err(version.error("is not a version that is enforced", format!("write {expected}"))),
    }
}

struct Meta {
    id: PolicyId,
    uid: String,
    audit: bool,
}

fn meta(root: &mut Object<'_>, kind: Kind) -> Result<Meta> {
    let mut meta = root.required("metadata")?.object()?;
    let name = meta.required("name")?.name()?.to_owned();
    let uid = meta.get("uid").map_or(Ok(""), |field| field.string())?.to_owned();
    let namespace = match kind.is_namespaced() {
        false => String::new(),
        true => meta.get("namespace").map_or(Ok("default"), |field| field.name())?.to_owned(),
    };
    let audit = meta.get("annotations").map_or(Ok(false), |field| is_audit(&field))?;
    Ok(Meta { id: PolicyId { kind, namespace, name }, uid, audit })
}

fn is_audit(annotations: &Field<'_>) -> Result<bool> {
    let found = annotations.object()?.entries().into_iter().find(|(key, _)| *key == MODE_ANNOTATION);
    let Some((_, mode)) = found else { return Ok(false) };
    match mode.string()? {
        "audit" => Ok(true),
        "enforce" => Ok(false),
        // A slip of the pen must not decide whether a policy is enforced.
        _ => Err(mode.error("is not a mode", "audit or enforce")),
    }
}
