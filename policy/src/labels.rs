//! Labels with their source, as identities are made of them.

use std::fmt;

use ipnet::IpNet;

/// The namespace a pod is in.
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Prefix of the labels of the namespace a pod is in.
pub const NAMESPACE_LABELS: &str = "io.cilium.k8s.namespace.labels.";
/// The cluster a pod is in.
pub const CLUSTER: &str = "io.cilium.k8s.policy.cluster";
/// The service account a pod runs under.
pub const SERVICE_ACCOUNT: &str = "io.cilium.k8s.policy.serviceaccount";
/// Prefix of every label that only the agent gives; a pod's own label of this name is a forgery.
pub const AGENT_PREFIX: &str = "io.cilium.k8s.";

/// Where a label comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// Kubernetes: the pod's labels and what the agent adds about its place.
    K8s,
    /// The agent, for what is not a pod (`reserved:host`, `reserved:world`, …).
    Reserved,
    /// An address range; the key is the prefix.
    Cidr,
    /// A group of address ranges. Nobody has such a label: groups are resolved to their ranges.
    CidrGroup,
    /// A name that was resolved. Nobody has such a label yet.
    Fqdn,
    /// A node's own label. Nobody has such a label yet.
    Node,
    /// A container runtime's label, which Kubernetes does not have.
    Container,
    /// The network plug-in's label. Nobody has one.
    Cni,
    /// A label without a source. Nobody has one.
    Unspec,
    /// A label made for a policy. Nobody has one.
    Generated,
}

/// Every source that a selector may name, `any:` apart.
const SOURCES: [Source; 10] = [
    Source::K8s,
    Source::Reserved,
    Source::Cidr,
    Source::CidrGroup,
    Source::Fqdn,
    Source::Node,
    Source::Container,
    Source::Cni,
    Source::Unspec,
    Source::Generated,
];

impl Source {
    /// The name in front of the colon.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::K8s => "k8s",
            Self::Reserved => "reserved",
            Self::Cidr => "cidr",
            Self::CidrGroup => "cidrgroup",
            Self::Fqdn => "fqdn",
            Self::Node => "node",
            Self::Container => "container",
            Self::Cni => "cni",
            Self::Unspec => "unspec",
            Self::Generated => "generated",
        }
    }

    /// The source of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        SOURCES.into_iter().find(|source| source.name() == name)
    }
}

/// One label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label {
    /// Its key, without the source.
    pub key: String,
    /// Where it comes from.
    pub source: Source,
    /// Its value; empty for reserved and CIDR labels.
    pub value: String,
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source.name(), self.key)?;
        if self.value.is_empty() { Ok(()) } else { write!(f, "={}", self.value) }
    }
}

/// A set of labels: at most one value for a source and key.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels {
    /// Sorted by key, then source.
    sorted: Vec<Label>,
}

impl Labels {
    /// The empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a label, in the place of one with the same source and key.
    pub fn insert(&mut self, source: Source, key: &str, value: &str) {
        let label = Label { key: key.to_owned(), source, value: value.to_owned() };
        match self.sorted.binary_search_by(|l| (l.key.as_str(), l.source).cmp(&(key, source))) {
            Ok(index) => self.sorted[index] = label,
            Err(index) => self.sorted.insert(index, label),
        }
    }

    /// All labels, sorted by key, then source.
    pub fn iter(&self) -> impl Iterator<Item = &Label> {
        self.sorted.iter()
    }

    /// The labels of this key, whatever their source.
    pub fn with_key(&self, key: &str) -> impl Iterator<Item = &Label> + use<'_> {
        let start = self.sorted.partition_point(|label| label.key.as_str() < key);
        let end = start + self.sorted[start..].partition_point(|label| label.key.as_str() == key);
        self.sorted[start..end].iter()
    }

    /// The value of the label of this source and key.
    #[must_use]
    pub fn get(&self, source: Source, key: &str) -> Option<&str> {
        self.with_key(key).find(|label| label.source == source).map(|label| label.value.as_str())
    }

    /// Whether the label `reserved:<name>` is there.
    #[must_use]
    pub fn is_reserved(&self, name: &str) -> bool {
        self.get(Source::Reserved, name).is_some()
    }

    /// The namespace of the pods with these labels.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.get(Source::K8s, POD_NAMESPACE)
    }

    /// The prefixes of the `cidr:` labels.
    pub fn cidrs(&self) -> impl Iterator<Item = IpNet> {
        let cidrs = self.sorted.iter().filter(|label| label.source == Source::Cidr);
        cidrs.filter_map(|label| label.key.parse().ok())
    }

    /// The set as text, one `source:key=value` and a line feed each, in order: what identity numbers are made of.
    #[must_use]
    pub fn canonical(&self) -> String {
        self.sorted
            .iter()
            .fold(String::new(), |text, l| text + l.source.name() + ":" + &l.key + "=" + &l.value + "\n")
    }

    /// The set as a list of texts, `source:key=value`.
    #[must_use]
    pub fn to_strings(&self) -> Vec<String> {
        self.sorted.iter().map(Label::to_string).collect()
    }
}

impl FromIterator<(Source, String, String)> for Labels {
    fn from_iter<I: IntoIterator<Item = (Source, String, String)>>(labels: I) -> Self {
        let mut set = Self::new();
        for (source, key, value) in labels {
            set.insert(source, &key, &value);
        }
        set
    }
}
