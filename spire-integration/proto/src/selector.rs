//! Selectors: what an SPIRE agent must have found out about a process before it gets an SVID.

use std::collections::BTreeSet;
use std::fmt;

use countersign_policy::objects::Pod;

use crate::limits::{MAX_GROUPS, MAX_SELECTOR_BYTES, MAX_UID_BYTES};
use crate::pattern::{Gap, Pattern, PatternError};

/// A selector, `kind:value` as in `k8s:pod-uid:…`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    kind: String,
    value: String,
}

/// Why some text is not a selector, or not the template of one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// There is no colon, or nothing before or after it.
    #[error("a selector is of the form type:value, such as k8s:pod-uid:{{pod_uid}}")]
    Form,
    /// Something other than visible ASCII is in it.
    #[error("a selector holds visible ASCII characters only")]
    Character,
    /// It does not fit into SPIRE's database.
    #[error("a selector has at most {MAX_SELECTOR_BYTES} bytes")]
    TooLong,
    /// It is a template with something wrong in its gaps.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// A gap before the first colon.
    #[error("the type of a selector, before the first colon, is fixed")]
    Kind,
}

impl Selector {
    /// A selector of this kind and value.
    ///
    /// # Errors
    /// Where either is empty, too long or not visible ASCII, or the kind has a colon.
    pub fn new(kind: &str, value: &str) -> Result<Self, SelectorError> {
        let visible = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
        if kind.is_empty() || value.is_empty() || kind.contains(':') {
            return Err(SelectorError::Form);
        }
        if !visible(kind) || !visible(value) {
            return Err(SelectorError::Character);
        }
        if kind.len().max(value.len()) > MAX_SELECTOR_BYTES {
            return Err(SelectorError::TooLong);
        }
        Ok(Self { kind: kind.to_owned(), value: value.to_owned() })
    }

    /// Reads `kind:value`; the value may have colons of its own.
    ///
    /// # Errors
    /// As [`Selector::new`].
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let (kind, value) = text.split_once(':').ok_or(SelectorError::Form)?;
        Self::new(kind, value)
    }

    /// What is before the first colon: which attestor speaks.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// What is behind it.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.kind, self.value)
    }
}

impl std::str::FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        Self::parse(text)
    }
}

/// What selectors can be made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodFacts<'a> {
    /// `metadata.namespace`.
    pub namespace: &'a str,
    /// `metadata.name`.
    pub pod: &'a str,
    /// `metadata.uid`; empty where it is not known (yet).
    pub pod_uid: &'a str,
    /// `spec.serviceAccountName`.
    pub service_account: &'a str,
    /// `spec.nodeName`.
    pub node: &'a str,
    /// `spec.securityContext.supplementalGroups`.
    pub supplemental_groups: &'a [u32],
}

impl<'a> PodFacts<'a> {
    /// Those of a pod.
    #[must_use]
    pub fn of(pod: &'a Pod) -> Self {
        Self {
            namespace: &pod.namespace,
            pod: &pod.name,
            pod_uid: &pod.uid,
            service_account: &pod.service_account,
            node: &pod.node,
            supplemental_groups: &pod.supplemental_groups,
        }
    }

    /// Those of a node, where nothing is known of any pod.
    #[must_use]
    pub fn of_node(node: &'a str) -> Self {
        Self { node, ..Self::default() }
    }
}

/// Why a template makes no selector of some facts: most often, not yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// A variable has no value.
    #[error("nothing is known for {{{0}}}")]
    Fact(&'static str),
    /// The pod's UID is none that Kubernetes gives.
    #[error("its UID may hold only letters, digits and '-', at most {MAX_UID_BYTES}")]
    Uid,
    /// More groups than any pod has a reason to be in.
    #[error("it is in more than {MAX_GROUPS} supplemental groups")]
    Groups,
    /// The filled template is no selector.
    #[error(transparent)]
    Selector(#[from] SelectorError),
}

/// A variable of a selector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Variable {
    PodUid,
    Pod,
    Namespace,
    ServiceAccount,
    Node,
    SupplementalGroup,
}

impl Gap for Variable {
    const ALL: &'static [Self] = &[
        Self::PodUid,
        Self::Pod,
        Self::Namespace,
        Self::ServiceAccount,
        Self::Node,
        Self::SupplementalGroup,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::PodUid => "pod_uid",
            Self::Pod => "pod",
            Self::Namespace => "namespace",
            Self::ServiceAccount => "service_account",
            Self::Node => "node",
            Self::SupplementalGroup => "supplemental_group",
        }
    }
}

/// A selector with gaps, such as `k8s:pod-uid:{pod_uid}`.
///
/// There are `{pod_uid}`, `{pod}`, `{namespace}`, `{service_account}`, `{node}` and `{supplemental_group}`; one
/// with the last stands for a selector of each of the pod's groups.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SelectorTemplate {
    kind: String,
    value: Pattern<Variable>,
}

impl SelectorTemplate {
    /// Reads `type:value` with gaps in the value.
    ///
    /// # Errors
    /// Where it would make no selector, or has a variable that does not exist.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let (kind, value) = text.split_once(':').ok_or(SelectorError::Form)?;
        if kind.contains(['{', '}']) {
            return Err(SelectorError::Kind);
        }
        let template = Self { kind: kind.to_owned(), value: Pattern::parse(value)? };
        // What is wrong whatever fills the gaps is found now: with a value of one letter each.
        let sample = template.value.fill(|_| Ok::<_, SelectorError>("0".to_owned()))?;
        Selector::new(kind, &sample)?;
        Ok(template)
    }

    /// `k8s:pod-uid:{pod_uid}`: what Kubernetes' attestor says of every container of a pod.
    #[must_use]
    pub fn pod_uid() -> Self {
        let value = Pattern::around("pod-uid:", Variable::PodUid);
        Self { kind: "k8s".to_owned(), value }
    }

    /// The selectors of a pod: one, or one of each supplemental group. None is without its facts.
    ///
    /// # Errors
    /// [`Missing`], where a fact is not known, or is none that can be relied on.
    pub fn render(&self, facts: &PodFacts<'_>) -> Result<Vec<Selector>, Missing> {
        if !self.has(Variable::SupplementalGroup) {
            return Ok(vec![self.render_with(facts, None)?]);
        }
        let groups: BTreeSet<u32> = facts.supplemental_groups.iter().copied().collect();
        match groups.len() {
            0 => Err(Missing::Fact(Variable::SupplementalGroup.name())),
            1..=MAX_GROUPS => groups.into_iter().map(|group| self.render_with(facts, Some(group))).collect(),
            _ => Err(Missing::Groups),
        }
    }

    fn render_with(&self, facts: &PodFacts<'_>, group: Option<u32>) -> Result<Selector, Missing> {
        let value = self.value.fill(|variable| {
            let text = match variable {
                Variable::PodUid => checked_uid(facts.pod_uid)?,
                Variable::Pod => facts.pod,
                Variable::Namespace => facts.namespace,
                Variable::ServiceAccount => facts.service_account,
                Variable::Node => facts.node,
                Variable::SupplementalGroup => {
                    return group.map(|group| group.to_string()).ok_or(Missing::Fact(variable.name()));
                }
            };
            if text.is_empty() { Err(Missing::Fact(variable.name())) } else { Ok(text.to_owned()) }
        })?;
        Ok(Selector::new(&self.kind, &value)?)
    }

    pub(crate) fn has(&self, variable: Variable) -> bool {
        self.value.has(variable)
    }

    pub(crate) fn variables(&self) -> impl Iterator<Item = Variable> {
        self.value.gaps()
    }
}

impl fmt::Display for SelectorTemplate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.kind, self.value)
    }
}

impl std::str::FromStr for SelectorTemplate {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        Self::parse(text)
    }
}

/// All selectors of a pod, which a process must have together.
///
/// # Errors
/// The first template that makes none.
pub fn render_all(
    templates: &[SelectorTemplate],
    facts: &PodFacts<'_>,
) -> Result<BTreeSet<Selector>, Missing> {
    let mut selectors = BTreeSet::new();
    for template in templates {
        selectors.extend(template.render(facts)?);
    }
    Ok(selectors)
}

/// A UID as Kubernetes gives them. Manifests in a directory may say anything.
fn checked_uid(uid: &str) -> Result<&str, Missing> {
    let good = uid.len() <= MAX_UID_BYTES && uid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if good { Ok(uid) } else { Err(Missing::Uid) }
}
