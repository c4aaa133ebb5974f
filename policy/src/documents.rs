//! Policy documents in, policies out; a document is taken whole or refused.
//!
//! The meaning of each field is Cilium 1.20's, and Kubernetes' for NetworkPolicy. Two deliberate differences:
//! a field that is not enforced yet refuses the document (it is never left out), and `ingress: []` or
//! `egress: []`, present and empty, denies by default instead of being an error, with a note that says so.

mod cilium;
mod kubernetes;
mod peers;
mod ports;
mod selectors;

pub(crate) use ports::protocol;

use crate::fields::{DocumentError, Field, Object, Result};
use crate::model::{Kind, Note, Policy, PolicyId};
use crate::yaml::Document;

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
        self.notes.push(Note { path: field.path().to_owned(), line: field.line(), message: message.into() });
    }
}

/// The kind of policy that a document says it is, whatever its version.
#[must_use]
pub fn kind(document: &Document) -> Option<Kind> {
    let group = document.api_version().split('/').next().unwrap_or_default();
    match (group, document.kind()) {
        ("cilium.io", "CiliumNetworkPolicy") => Some(Kind::CiliumNetworkPolicy),
        ("cilium.io", "CiliumClusterwideNetworkPolicy") => Some(Kind::CiliumClusterwideNetworkPolicy),
        ("networking.k8s.io", "NetworkPolicy") => Some(Kind::NetworkPolicy),
        _ => None,
    }
}

/// Reads a policy document.
///
/// # Errors
/// The first field that is unknown, not enforced yet or not what it must be; a kind or version that is no policy.
pub fn parse(document: &Document, settings: &Settings) -> std::result::Result<Policy, DocumentError> {
    let root = Field::root(document);
    let Some(kind) = kind(document) else {
        let hint = "CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy or NetworkPolicy";
        return Err(root.error(format!("{:?} is not a kind of policy", document.kind()), hint));
    };
    let mut root = root.object()?;
    check_version(&mut root, kind)?;
    let (id, uid) = identify(&mut root, kind)?;
    root.get("status");
    let namespace = (!id.namespace.is_empty()).then(|| id.namespace.clone());
    let mut context = Context { settings, namespace, notes: Vec::new() };
    let rules = match kind {
        Kind::CiliumNetworkPolicy | Kind::CiliumClusterwideNetworkPolicy => {
            cilium::rules(&mut context, root)?
        }
        Kind::NetworkPolicy => kubernetes::rules(&mut context, root)?,
    };
    Ok(Policy { id, uid, rules, notes: context.notes })
}

fn check_version(root: &mut Object<'_>, kind: Kind) -> Result<()> {
    root.get("kind");
    let version = root.required("apiVersion")?;
    let expected = match kind {
        Kind::CiliumNetworkPolicy | Kind::CiliumClusterwideNetworkPolicy => "cilium.io/v2",
        Kind::NetworkPolicy => "networking.k8s.io/v1",
    };
    if version.string()? == expected {
        return Ok(());
    }
    Err(version.error("is not a version that is enforced", format!("write {expected}")))
}

fn identify(root: &mut Object<'_>, kind: Kind) -> Result<(PolicyId, String)> {
    let mut meta = root.required("metadata")?.object()?;
    let name = meta.required("name")?.name()?.to_owned();
    let uid = meta.get("uid").map_or(Ok(""), |field| field.string())?.to_owned();
    let namespace = match kind {
        Kind::CiliumClusterwideNetworkPolicy => String::new(),
        Kind::CiliumNetworkPolicy | Kind::NetworkPolicy => {
            meta.get("namespace").map_or(Ok("default"), |field| field.name())?.to_owned()
        }
    };
    Ok((PolicyId { kind, namespace, name }, uid))
}
