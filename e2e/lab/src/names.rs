//! Names: of labs, of namespaces, of interfaces. All are functions of lab, node and pod, so that whoever comes
//! after a crash finds everything again.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits::{MAX_LAB_NAME, MAX_POD_NAME};

/// The name of a lab: lower-case letters and digits, no hyphen, so that no lab's namespaces look like another's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LabName(String);

/// A name that cannot be a lab's.
#[derive(Debug, PartialEq, Eq)]
pub struct BadLabName(String);

impl fmt::Display for BadLabName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: a lab's name is 1 to {MAX_LAB_NAME} lower-case letters and digits", self.0)
    }
}

impl std::error::Error for BadLabName {}

impl FromStr for LabName {
    type Err = BadLabName;

    fn from_str(name: &str) -> Result<Self, BadLabName> {
        let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        if name.is_empty() || name.len() > MAX_LAB_NAME || !name.bytes().all(fine) {
            return Err(BadLabName(name.to_owned()));
        }
        Ok(Self(name.to_owned()))
    }
}

impl TryFrom<String> for LabName {
    type Error = BadLabName;

    fn try_from(name: String) -> Result<Self, BadLabName> {
        name.parse()
    }
}

impl From<LabName> for String {
    fn from(name: LabName) -> Self {
        name.0
    }
}

impl fmt::Display for LabName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl LabName {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What every network namespace of this lab, and of no other, begins with.
    #[must_use]
    pub fn netns_prefix(&self) -> String {
        format!("cs-{}-", self.0)
    }

    /// The network namespace of the wire.
    #[must_use]
    pub fn wire_netns(&self) -> String {
        format!("{}wire", self.netns_prefix())
    }

    /// The network namespace of a node.
    #[must_use]
    pub fn node_netns(&self, node: &str) -> String {
        format!("{}{node}", self.netns_prefix())
    }

    /// The network namespace of a pod. An underscore is in no Kubernetes name, so that it cannot be a node's.
    #[must_use]
    pub fn pod_netns(&self, pod: &PodKey) -> String {
        format!("{}{}", self.netns_prefix(), pod.file_stem())
    }
}

/// Which pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodKey {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl PodKey {
    /// A pod of that namespace and name.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// `namespace/name`, or a name alone in namespace `default`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text.split_once('/') {
            Some((namespace, name)) => Self::new(namespace, name),
            None => Self::new("default", text),
        }
    }

    /// `namespace_name`: what its files and its namespace are called.
    #[must_use]
    pub fn file_stem(&self) -> String {
        format!("{}_{}", self.namespace, self.name)
    }

    /// Whether both parts are names of Kubernetes objects and short enough for a file name.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        let fine = |name: &str| {
            let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
            let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
            let bytes = name.as_bytes();
            bytes.iter().copied().all(inner) && ends(bytes.first()) && ends(bytes.last())
        };
        fine(&self.namespace) && fine(&self.name) && self.file_stem().len() <= MAX_POD_NAME
    }
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The group of the pod with this UID: far above those that people have, below where signs change.
#[must_use]
pub fn group(uid: &str) -> u32 {
    0x4000_0000 | (fnv(uid.as_bytes()) as u32 & 0x3fff_ffff)
}

/// The host's end of the veth of the pod with this UID: `lxc` and 8 hexadecimal digits.
#[must_use]
pub fn host_interface(uid: &str) -> String {
    format!("lxc{:08x}", fnv(uid.as_bytes()) as u32)
}

/// A locally administered MAC address of the `end` (`host`, `pod`, a node) of the thing with this id.
#[must_use]
pub fn mac(id: &str, end: &str) -> String {
    let hash = fnv(format!("{end}:{id}").as_bytes()).to_be_bytes();
    let [a, b, c, d, e, ..] = hash;
    format!("02:{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}")
}

/// FNV-1a with a final mix: short ids that differ in their last character must differ in the leading bytes too.
fn fnv(bytes: &[u8]) -> u64 {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mixed = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lab_names_cannot_be_confused() {
        for good in ["demo", "a", "0", "abcdefghijkl"] {
            assert_eq!(good.parse::<LabName>().map(|n| n.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", "a-b", "A", "abcdefghijklm", "../x", "a/b", "a b", "ä"] {
            assert!(bad.parse::<LabName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_pod_is_never_a_node() {
        let lab: LabName = "demo".parse().unwrap();
        assert_eq!(lab.node_netns("node1"), "cs-demo-node1");
        assert_eq!(lab.pod_netns(&PodKey::parse("node1")), "cs-demo-default_node1");
        assert_eq!(lab.pod_netns(&PodKey::parse("a/b")), "cs-demo-a_b");
    }

    #[test]
    fn pod_names_are_kubernetes_names() {
        assert!(PodKey::parse("a/b-1.c").is_valid());
        for bad in ["/", "a/", "../x", "a/-b", "a/b_", "a/B", "a/b/c"] {
            assert!(!PodKey::parse(bad).is_valid(), "{bad}");
        }
        assert!(!PodKey::new("a".repeat(120), "b".repeat(120)).is_valid());
    }

    #[test]
    fn interfaces_and_macs_are_well_formed_and_differ() {
        let names: std::collections::BTreeSet<_> =
            (0..500).map(|n| host_interface(&format!("uid-{n}"))).collect();
        assert_eq!(names.len(), 500);
        assert!(names.iter().all(|n| n.len() == 11 && n.starts_with("lxc")));
        assert_ne!(mac("x", "host"), mac("x", "pod"));
        assert_eq!(mac("x", "host").len(), 17);
    }
}
