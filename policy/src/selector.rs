//! Selectors: which identities a rule speaks of.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::labels::{Labels, Source};

/// What chooses identities.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Selector {
    /// All requirements hold; none at all chooses every identity, reserved ones included.
    Labels(Vec<Requirement>),
    /// The address is inside `net` and in none of `except`.
    Cidr {
        /// The range.
        net: IpNet,
        /// Ranges within it that are left out.
        except: Vec<IpNet>,
        /// Which pods are meant beside what is outside the cluster.
        pods: PodRange,
    },
    /// The ranges of CiliumCIDRGroups, which the repository puts in its place; chooses nobody by itself.
    Group {
        /// Which groups.
        of: GroupRef,
        /// Ranges that are left out.
        except: Vec<IpNet>,
    },
}

/// Which pods a range of addresses means. A verdict is given on an identity, which all pods with the same labels
/// share wherever their addresses are: whoever allows must not let in the one pod outside, whoever denies must
/// not miss the one inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PodRange {
    /// None (`toCIDR`, `fromCIDR`).
    None,
    /// Those of an identity all of whose pods have an address in the range (`ipBlock`, and what allows).
    Whole,
    /// Those of an identity one of whose pods has an address in the range (what denies).
    Part,
}

/// Which CiliumCIDRGroups.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GroupRef {
    /// The one of this name.
    Name(String),
    /// All with these labels.
    Labels(Vec<Requirement>),
}

/// One requirement on labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Requirement {
    /// The key, without its source.
    pub key: String,
    /// The source; none is any source.
    pub source: Option<Source>,
    /// What must hold.
    pub operator: Operator,
}

/// What must hold of a label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operator {
    /// It is there with one of these values.
    In(Vec<String>),
    /// It is absent, or has none of these values.
    NotIn(Vec<String>),
    /// It is there.
    Exists,
    /// It is absent.
    DoesNotExist,
}

impl Selector {
    /// A selector of labels; the order of the requirements means nothing.
    #[must_use]
    pub fn labels(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort();
        requirements.dedup();
        Self::Labels(requirements)
    }

    /// A selector of everything with the label `reserved:<name>`.
    #[must_use]
    pub fn reserved(name: &str) -> Self {
        Self::Labels(vec![Requirement::exists(Source::Reserved, name)])
    }

    /// Whether an identity with these labels is chosen by them. Where its pods are is another question:
    /// [`Self::matches_addresses`].
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        match self {
            Self::Labels(requirements) => requirements.iter().all(|requirement| requirement.holds(labels)),
            Self::Cidr { net, except, .. } => {
                let inside =
                    |cidr: IpNet| net.contains(&cidr) && !except.iter().any(|net| net.contains(&cidr));
                labels.is_reserved("world") && labels.cidrs().any(inside)
            }
            Self::Group { .. } => false,
        }
    }

    /// Whether an identity is chosen by the addresses of its pods (one set for each). A pod is in a range that
    /// one of its addresses is in, and in an exception likewise.
    #[must_use]
    pub fn matches_addresses<'a>(&self, pods: impl IntoIterator<Item = &'a BTreeSet<IpAddr>>) -> bool {
        let Self::Cidr { net, except, pods: meant } = self else { return false };
        let mut pods = pods.into_iter().map(|addresses| {
            let within = |net: &IpNet| addresses.iter().any(|address| net.contains(address));
            within(net) && !except.iter().any(within)
        });
        match meant {
            PodRange::None => false,
            PodRange::Part => pods.any(|inside| inside),
            PodRange::Whole => pods.next() == Some(true) && pods.all(|inside| inside),
        }
    }

    /// Whether the addresses of pods matter.
    #[must_use]
    pub fn is_about_addresses(&self) -> bool {
        matches!(self, Self::Cidr { pods: PodRange::Whole | PodRange::Part, .. })
    }
}

impl Requirement {
    /// The label is there.
    #[must_use]
    pub fn exists(source: Source, key: &str) -> Self {
        Self { key: key.to_owned(), source: Some(source), operator: Operator::Exists }
    }

    /// The label has this value.
    #[must_use]
    pub fn equals(source: Source, key: &str, value: &str) -> Self {
        Self { key: key.to_owned(), source: Some(source), operator: Operator::In(vec![value.to_owned()]) }
    }

    pub(crate) fn holds(&self, labels: &Labels) -> bool {
        let mut found =
            labels.with_key(&self.key).filter(|label| self.source.is_none_or(|s| s == label.source));
        match &self.operator {
            Operator::In(values) => found.any(|label| values.contains(&label.value)),
            Operator::NotIn(values) => !found.any(|label| values.contains(&label.value)),
            Operator::Exists => found.next().is_some(),
            Operator::DoesNotExist => found.next().is_none(),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Labels(requirements) if requirements.is_empty() => write!(f, "everything"),
            Self::Labels(requirements) => {
                let texts: Vec<String> = requirements.iter().map(Requirement::to_string).collect();
                write!(f, "{}", texts.join(", "))
            }
            Self::Cidr { net, except, .. } if except.is_empty() => write!(f, "{net}"),
            Self::Cidr { net, except, .. } => {
                let texts: Vec<String> = except.iter().map(IpNet::to_string).collect();
                write!(f, "{net} without {}", texts.join(", "))
            }
            Self::Group { of: GroupRef::Name(name), .. } => write!(f, "CiliumCIDRGroup {name}"),
            Self::Group { of: GroupRef::Labels(labels), .. } => {
                let texts: Vec<String> = labels.iter().map(Requirement::to_string).collect();
                write!(f, "CiliumCIDRGroups with {}", texts.join(", "))
            }
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = self.source.map_or("any", Source::name);
        let key = &self.key;
        match &self.operator {
            Operator::In(values) => write!(f, "{source}:{key} in ({})", values.join(", ")),
            Operator::NotIn(values) => write!(f, "{source}:{key} not in ({})", values.join(", ")),
            Operator::Exists => write!(f, "{source}:{key}"),
            Operator::DoesNotExist => write!(f, "not {source}:{key}"),
        }
    }
}
