//! Pods, namespaces and nodes: the part of each that identities, policies and the lab need.
//!
//! Unlike policies, these documents are Kubernetes' own, so that fields nobody here asks for are left alone;
//! a field that is read and is not what it must be is an error. Names are safe to use in a path.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::fields::{DocumentError, Field, Object, Result};
use crate::limits;
use crate::yaml::Document;

/// The largest group that Kubernetes takes.
const GROUP_MAX: u64 = i32::MAX as u64;

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// `metadata.namespace`, `default` where it is not given.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`, or nothing.
    pub uid: String,
    /// `spec.nodeName`, or nothing.
    pub node: String,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
    /// `spec.serviceAccountName`, `default` where it is not given.
    pub service_account: String,
    /// `status.podIPs` (or `status.podIP`).
    pub ips: Vec<IpAddr>,
    /// `status.hostIP`.
    pub host_ip: Option<IpAddr>,
    /// `spec.hostNetwork`: the pod has the node's identity.
    pub host_network: bool,
    /// `spec.securityContext.supplementalGroups`: groups that every process of the pod is in.
    pub supplemental_groups: Vec<u32>,
    /// `command` and `args` of the first container.
    pub command: Vec<String>,
    /// `env` of the first container, those with a plain value.
    pub env: BTreeMap<String, String>,
    /// `spec.restartPolicy`, or nothing.
    pub restart_policy: String,
    /// Named ports of all containers.
    pub ports: Vec<NamedPort>,
    /// `status.phase`, or nothing.
    pub phase: String,
}

/// A port that a container gives a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamedPort {
    /// Its name.
    pub name: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Its number.
    pub port: u16,
}

/// A namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.labels`, with `kubernetes.io/metadata.name`, which the API server sets.
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// `metadata.name`.
    pub name: String,
    /// Addresses of `status.addresses` of type `InternalIP`.
    pub internal_ips: Vec<IpAddr>,
    /// `spec.podCIDRs` (or `spec.podCIDR`).
    pub pod_cidrs: Vec<IpNet>,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
}

struct Meta {
    namespace: String,
    name: String,
    uid: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

impl Pod {
    /// Reads a `v1` Pod. `spec` and `status` may each be absent: a status file has no spec, a manifest no status.
    ///
    /// # Errors
    /// The first field that is not what it must be.
    pub fn from_document(document: &Document) -> std::result::Result<Self, DocumentError> {
        let mut root = expect_kind(document, "Pod")?;
        let meta = meta(&mut root)?;
        let mut pod = Self {
            namespace: meta.namespace,
            name: meta.name,
            uid: meta.uid,
            labels: meta.labels,
            annotations: meta.annotations,
            service_account: "default".to_owned(),
            ..Self::default()
        };
        if let Some(mut spec) = root.object("spec")? {
            pod.read_spec(&mut spec)?;
        }
        if let Some(mut status) = root.object("status")? {
            pod.read_status(&mut status)?;
        }
        Ok(pod)
    }

    fn read_spec(&mut self, spec: &mut Object<'_>) -> Result<()> {
        if let Some(node) = spec.get("nodeName") {
            node.name()?.clone_into(&mut self.node);
        }
        let account = spec.get("serviceAccountName").or_else(|| spec.get("serviceAccount"));
        if let Some(account) = account.filter(|field| field.value.as_str() != Some("")) {
            account.name()?.clone_into(&mut self.service_account);
        }
        if let Some(policy) = spec.get("restartPolicy") {
            policy.string()?.clone_into(&mut self.restart_policy);
        }
        self.host_network = spec.get("hostNetwork").map_or(Ok(false), |field| field.bool())?;
        if let Some(mut context) = spec.object("securityContext")? {
            self.supplemental_groups = groups(&mut context)?;
        }
        let containers = spec.get("containers").map_or(Ok(Vec::new()), |field| field.items())?;
        for (index, container) in containers.iter().enumerate() {
            let mut container = container.object()?;
            if index == 0 {
                self.read_first_container(&mut container)?;
            }
            self.ports.append(&mut named_ports(&mut container)?);
        }
        Ok(())
    }

    fn read_first_container(&mut self, container: &mut Object<'_>) -> Result<()> {
        for key in ["command", "args"] {
            if let Some(words) = container.get(key) {
                self.command.append(&mut words.strings()?);
            }
        }
        let variables = container.get("env").map_or(Ok(Vec::new()), |field| field.items())?;
        for variable in variables {
            let mut variable = variable.object()?;
            let name = variable.required("name")?.string()?.to_owned();
            if let Some(value) = variable.get("value") {
                self.env.insert(name, value.string()?.to_owned());
            }
        }
        Ok(())
    }

    fn read_status(&mut self, status: &mut Object<'_>) -> Result<()> {
        if let Some(phase) = status.get("phase") {
            phase.string()?.clone_into(&mut self.phase);
        }
        self.host_ip = optional_ip(status.get("hostIP"))?;
        let listed = status.get("podIPs").map_or(Ok(Vec::new()), |field| field.items())?;
        for entry in listed {
            self.ips.push(entry.object()?.required("ip")?.parsed("an IP address")?);
        }
        let single = optional_ip(status.get("podIP"))?;
        if self.ips.is_empty() {
            self.ips.extend(single);
        }
        Ok(())
    }
}

/// The annotation that every kind of object has in common; a slip of the pen is no mode.
fn is_audited(annotations: &BTreeMap<String, String>) -> bool {
    annotations.get(crate::documents::MODE_ANNOTATION).is_some_and(|mode| mode == "audit")
}

impl Pod {
    /// Whether what policies would drop of this pod's is only said.
    #[must_use]
    pub fn is_audited(&self) -> bool {
        is_audited(&self.annotations)
    }
}

impl Namespace {
    /// Whether what the policies of this namespace would drop is only said.
    #[must_use]
    pub fn is_audited(&self) -> bool {
        is_audited(&self.annotations)
    }

    /// Reads a `v1` Namespace.
    ///
    /// # Errors
    /// The first field that is not what it must be.
    pub fn from_document(document: &Document) -> std::result::Result<Self, DocumentError> {
        let mut root = expect_kind(document, "Namespace")?;
        let Meta { name, mut labels, annotations, .. } = meta(&mut root)?;
        labels.insert("kubernetes.io/metadata.name".to_owned(), name.clone());
        Ok(Self { name, labels, annotations })
    }
}

impl Node {
    /// Reads a `v1` Node.
    ///
    /// # Errors
    /// The first field that is not what it must be.
    pub fn from_document(document: &Document) -> std::result::Result<Self, DocumentError> {
        let mut root = expect_kind(document, "Node")?;
        let Meta { name, labels, annotations, .. } = meta(&mut root)?;
        let mut node = Self { name, labels, annotations, ..Self::default() };
        if let Some(mut spec) = root.object("spec")? {
            node.pod_cidrs = pod_cidrs(&mut spec)?;
        }
        if let Some(mut status) = root.object("status")? {
            node.internal_ips = internal_ips(&mut status)?;
        }
        Ok(node)
    }
}

fn expect_kind<'a>(document: &'a Document, kind: &str) -> Result<Object<'a>> {
    let root = Field::root(document);
    if document.kind() != kind || document.api_version() != "v1" {
        let found = format!("{}/{}", document.api_version(), document.kind());
        return Err(root.error(format!("{found} is not a v1 {kind}"), ""));
    }
    root.object()
}

fn meta(root: &mut Object<'_>) -> Result<Meta> {
    let mut meta = root.required("metadata")?.object()?;
    let name = meta.required("name")?.name()?.to_owned();
    let namespace = meta.get("namespace").map_or(Ok("default"), |field| field.name())?.to_owned();
    let uid = meta.get("uid").map_or(Ok(""), |field| field.string())?.to_owned();
    let labels = meta.get("labels").map_or(Ok(BTreeMap::new()), |field| labels(&field))?;
    let annotations = meta.get("annotations").map_or(Ok(BTreeMap::new()), |field| field.string_map())?;
    Ok(Meta { namespace, name, uid, labels, annotations })
}

fn labels(field: &Field<'_>) -> Result<BTreeMap<String, String>> {
    for (key, value) in field.object()?.entries() {
        if !good_label_key(key) || !good_label_value(value.string()?) {
            return Err(value
                .error("is not a valid label", "letters, digits, `-`, `_`, `.`; at most 63 in the value"));
        }
    }
    field.string_map()
}

fn label_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

/// Whether Kubernetes takes `key` as the key of a label.
#[must_use]
pub(crate) fn good_label_key(key: &str) -> bool {
    let good = |part: &str| !part.is_empty() && part.bytes().all(label_byte);
    key.len() <= limits::LABEL_KEY_BYTES
        && match key.split_once('/') {
            Some((prefix, name)) => good(prefix) && good(name),
            None => good(key),
        }
}

/// Whether Kubernetes takes `value` as the value of a label.
#[must_use]
pub(crate) fn good_label_value(value: &str) -> bool {
    value.len() <= limits::LABEL_VALUE_BYTES && value.bytes().all(label_byte)
}

fn groups(context: &mut Object<'_>) -> Result<Vec<u32>> {
    let listed = context.get("supplementalGroups").map_or(Ok(Vec::new()), |field| field.items())?;
    let group = |field: &Field<'_>| Ok(u32::try_from(field.integer(0..=GROUP_MAX)?).unwrap_or_default());
    listed.iter().map(group).collect()
}

fn named_ports(container: &mut Object<'_>) -> Result<Vec<NamedPort>> {
    let mut named = Vec::new();
    for port in container.get("ports").map_or(Ok(Vec::new()), |field| field.items())? {
        let mut port = port.object()?;
        let Some(name) = port.get("name") else { continue };
        let name = name.string()?.to_owned();
        let protocol = port.get("protocol").map_or(Ok("TCP"), |field| field.string())?.to_owned();
        let number = port.required("containerPort")?.integer(1..=65535)?;
        named.push(NamedPort { name, protocol, port: u16::try_from(number).unwrap_or(u16::MAX) });
    }
    Ok(named)
}

fn optional_ip(field: Option<Field<'_>>) -> Result<Option<IpAddr>> {
    let filled = field.filter(|field| field.value.as_str() != Some(""));
    filled.map(|field| field.parsed("an IP address")).transpose()
}

fn pod_cidrs(spec: &mut Object<'_>) -> Result<Vec<IpNet>> {
    let single = spec.get("podCIDR");
    if let Some(list) = spec.get("podCIDRs") {
        return list.items()?.iter().map(|item| item.parsed("a CIDR")).collect();
    }
    single.map(|field| field.parsed("a CIDR")).into_iter().collect()
}

fn internal_ips(status: &mut Object<'_>) -> Result<Vec<IpAddr>> {
    let mut found = Vec::new();
    for address in status.get("addresses").map_or(Ok(Vec::new()), |field| field.items())? {
        let mut address = address.object()?;
        if address.required("type")?.string()? == "InternalIP" {
            found.push(address.required("address")?.parsed("an IP address")?);
        }
    }
    Ok(found)
}
