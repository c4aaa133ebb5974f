//! Identities: which labels make one, and its number.

use std::collections::BTreeMap;

use ipnet::IpNet;
use sha2::{Digest, Sha256};

use crate::labels::{
    AGENT_PREFIX, CLUSTER, Labels, NAMESPACE_LABELS, POD_NAMESPACE, SERVICE_ACCOUNT, Source,
};
use crate::objects::{Namespace, Pod};

/// Numbers of the identities that are not pods.
pub mod reserved {
    pub use countersign_ebpf_common::identity::{
        HEALTH, HOST, INGRESS, INIT, KUBE_APISERVER, REMOTE_NODE, UNKNOWN, UNMANAGED, WORLD,
    };
}

/// The smallest number of a pod's identity.
pub const FIRST_POD: u32 = 256;
/// One more than the largest number of a pod's identity.
pub const END_POD: u32 = 1 << 24;
/// The smallest number of an address range's identity; these mean something on their own node only.
pub const FIRST_CIDR: u32 = 0x0100_0001;

/// Reserved numbers and the names of their `reserved:` labels.
const RESERVED: [(u32, &[&str]); 8] = [
    (reserved::HOST, &["host"]),
    (reserved::WORLD, &["world"]),
    (reserved::UNMANAGED, &["unmanaged"]),
    (reserved::HEALTH, &["health"]),
    (reserved::INIT, &["init"]),
    (reserved::REMOTE_NODE, &["remote-node"]),
    (reserved::KUBE_APISERVER, &["kube-apiserver", "remote-node"]),
    (reserved::INGRESS, &["ingress"]),
];

/// Beginnings of pod label keys that say nothing about what the pod is for (Cilium's default filter).
const IGNORED_PREFIXES: [&str; 13] = [
    "io.kubernetes",
    "kubernetes.io",
    "k8s.io",
    "statefulset.kubernetes.io/",
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/",
    "topology.kubernetes.io/",
    "pod-template-generation",
    "pod-template-hash",
    "controller-revision-hash",
    "controller-uid",
    "annotation",
    "etcd_node",
];

/// Name of the cluster in identity labels, until it can be configured.
pub const DEFAULT_CLUSTER: &str = "default";
/// Annotation of a pod that is not to have an SVID, with the value `none`.
pub const SVID_ANNOTATION: &str = "countersign.dev/svid";
/// The label that sets such a pod's identity apart. Pods cannot give it to themselves: its prefix is the agents'.
const UNREGISTERED: (&str, &str) = ("io.cilium.k8s.policy.svid", "none");

/// Whether pods can have this number, and so a certificate that speaks of it.
#[must_use]
pub fn is_pod(identity: u32) -> bool {
    (FIRST_POD..END_POD).contains(&identity)
}

/// The labels of every reserved identity.
#[must_use]
pub fn reserved_labels() -> BTreeMap<u32, Labels> {
    let labels = |names: &[&str]| {
        names.iter().map(|name| (Source::Reserved, (*name).to_owned(), String::new())).collect()
    };
    RESERVED.iter().map(|(number, names)| (*number, labels(names))).collect()
}

/// The name of a reserved identity.
#[must_use]
pub fn reserved_name(identity: u32) -> Option<&'static str> {
    let found = RESERVED.iter().find(|(number, _)| *number == identity);
    found.and_then(|(_, names)| names.first().copied())
}

/// The labels that make a pod's identity: its own that mean something, and where it is.
///
/// A pod's own label that speaks as the agent does (`io.cilium.k8s.…`, `io.kubernetes.pod.namespace`) is left
/// out: pods do not say which namespace they are in (GHSA-pfhr-pccp-hwmh).
#[must_use]
pub fn pod_labels(pod: &Pod, namespace: Option<&Namespace>, cluster: &str) -> Labels {
    let mut labels = Labels::new();
    for (key, value) in pod.labels.iter().filter(|(key, _)| is_relevant(key)) {
        labels.insert(Source::K8s, key, value);
    }
    let named = BTreeMap::from([("kubernetes.io/metadata.name".to_owned(), pod.namespace.clone())]);
    for (key, value) in namespace.map_or(&named, |namespace| &namespace.labels) {
        labels.insert(Source::K8s, &format!("{NAMESPACE_LABELS}{key}"), value);
    }
    labels.insert(Source::K8s, POD_NAMESPACE, &pod.namespace);
    labels.insert(Source::K8s, SERVICE_ACCOUNT, &pod.service_account);
    labels.insert(Source::K8s, CLUSTER, cluster);
    labels
}

/// Whether the pod is to have an SVID.
#[must_use]
pub fn may_have_svid(pod: &Pod) -> bool {
    pod.annotations.get(SVID_ANNOTATION).is_none_or(|value| value != "none")
}

/// The labels whose number is the pod's identity: [`pod_labels`], and for a pod that is not to have an SVID one
/// more, so that it does not pass by the proofs of registered pods with the same labels.
#[must_use]
pub fn security_labels(pod: &Pod, namespace: Option<&Namespace>, cluster: &str) -> Labels {
    let mut labels = pod_labels(pod, namespace, cluster);
    if !may_have_svid(pod) {
        labels.insert(Source::K8s, UNREGISTERED.0, UNREGISTERED.1);
    }
    labels
}

fn is_relevant(key: &str) -> bool {
    let forged = key.starts_with(AGENT_PREFIX) || key == POD_NAMESPACE;
    let ignored =
        IGNORED_PREFIXES.iter().any(|prefix| key.starts_with(prefix)) || key.contains("beta.kubernetes.io");
    !forged && !ignored
}

/// The labels of the identity of an address range: its own prefix, and that it is outside.
#[must_use]
pub fn cidr_labels(net: IpNet) -> Labels {
    let mut labels = Labels::new();
    labels.insert(Source::Cidr, &net.trunc().to_string(), "");
    labels.insert(Source::Reserved, "world", "");
    labels
}

/// The number of a pod's label set, before collisions: a hash of its canonical text, the same on every node.
#[must_use]
pub fn identity_number(labels: &Labels) -> u32 {
    let digest = Sha256::digest(labels.canonical().as_bytes());
    let wide = digest.iter().take(8).fold(0_u64, |number, byte| (number << 8) | u64::from(*byte));
    let offset = wide % u64::from(END_POD - FIRST_POD);
    FIRST_POD + u32::try_from(offset).unwrap_or_default()
}

/// The numbers to try for a label set, in order: its own, then upwards and around, each once.
pub fn candidates(labels: &Labels) -> impl Iterator<Item = u32> + use<> {
    let first = identity_number(labels);
    (first..END_POD).chain(FIRST_POD..first)
}
