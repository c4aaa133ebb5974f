//! Selectors: which identities a rule speaks of.

use std::fmt;

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
        /// Pods with an address in the range are meant, too (`ipBlock`), not only what is outside the cluster.
        pods: bool,
    },
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

    /// Whether an identity with these labels is chosen.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        match self {
            Self::Labels(requirements) => requirements.iter().all(|requirement| requirement.holds(labels)),
            Self::Cidr { net, except, pods } => {
                let inside =
                    |cidr: IpNet| net.contains(&cidr) && !except.iter().any(|net| net.contains(&cidr));
                (*pods || labels.is_reserved("world")) && labels.cidrs().any(inside)
            }
        }
    }

    /// The one value that a matching identity must have for a `k8s:` key, if there is one.
    #[must_use]
    pub(crate) fn demanded(&self, key: &str) -> Option<&str> {
        let Self::Labels(requirements) = self else { return None };
        requirements.iter().find_map(|requirement| match (&requirement.operator, requirement.source) {
            (Operator::In(values), Some(Source::K8s)) if requirement.key == key && values.len() == 1 => {
                values.first().map(String::as_str)
            }
            _ => None,
        })
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

    fn holds(&self, labels: &Labels) -> bool {
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
