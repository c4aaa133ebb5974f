//! The SPIFFE ID that stands for a node's SPIRE agent: the parent of its pods' entries.

use std::fmt;

use countersign_certs::{IdError, SpiffeId, TrustDomain};

use crate::pattern::{Gap, Pattern, PatternError};

const HEAD: &str = "spiffe://{trust_domain}/";

/// Why some text is not the template of nodes' IDs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeTemplateError {
    /// It does not begin with `spiffe://{trust_domain}/`.
    #[error("the template of nodes begins with {HEAD}")]
    Head,
    /// Something is wrong with its gaps.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// All nodes would have one parent, and every node every pod's key.
    #[error(
        "the template of nodes needs {{node}}: below one parent for all nodes, every node gets every key"
    )]
    NotDistinct,
    /// The filled template is not a SPIFFE ID.
    #[error("the filled template is no SPIFFE ID: {0}")]
    Id(#[from] IdError),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Variable {
    Node,
}

impl Gap for Variable {
    const ALL: &'static [Self] = &[Self::Node];

    fn name(self) -> &'static str {
        "node"
    }
}

/// A template such as `spiffe://{trust_domain}/spire-node/{node}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeTemplate {
    path: Pattern<Variable>,
}

impl Default for NodeTemplate {
    /// `spiffe://{trust_domain}/spire-node/{node}`.
    fn default() -> Self {
        Self { path: Pattern::around("spire-node/", Variable::Node) }
    }
}

impl NodeTemplate {
    /// Reads a template. It begins with `spiffe://{trust_domain}/` and has `{node}`.
    ///
    /// # Errors
    /// [`NodeTemplateError`].
    pub fn parse(text: &str) -> Result<Self, NodeTemplateError> {
        let path = Pattern::parse(text.strip_prefix(HEAD).ok_or(NodeTemplateError::Head)?)?;
        let template = Self { path };
        if !template.path.has(Variable::Node) {
            return Err(NodeTemplateError::NotDistinct);
        }
        template.render(&TrustDomain::parse("t")?, "n")?;
        Ok(template)
    }

    /// The SPIFFE ID that stands for the SPIRE agent of a node.
    ///
    /// # Errors
    /// Where the node's name makes none.
    pub fn render(&self, domain: &TrustDomain, node: &str) -> Result<SpiffeId, IdError> {
        let path = self.path.fill(|_| Ok::<_, IdError>(node.to_owned()))?;
        SpiffeId::parse(&format!("spiffe://{domain}/{path}"))
    }
}

impl fmt::Display for NodeTemplate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{HEAD}{}", self.path)
    }
}

impl std::str::FromStr for NodeTemplate {
    type Err = NodeTemplateError;

    fn from_str(text: &str) -> Result<Self, NodeTemplateError> {
        Self::parse(text)
    }
}
