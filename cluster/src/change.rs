//! What a source says: one change of one object at a time.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use countersign_policy::objects::{Namespace, Node, Pod};
use countersign_policy::{Policy, PolicyId};

use crate::object::ClusterIdentity;

/// One change. Until [`Change::Synced`] they are what there is at the start; afterwards, what became different.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A pod is new or different.
    PodUpsert(Arc<Pod>),
    /// A pod is gone.
    PodDelete {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A namespace is new or different.
    NamespaceUpsert(Arc<Namespace>),
    /// The namespace of this name is gone.
    NamespaceDelete(String),
    /// A node is new or different.
    NodeUpsert(Arc<Node>),
    /// The node of this name is gone.
    NodeDelete(String),
    /// A policy is new or different.
    PolicyUpsert(Arc<Policy>),
    /// A policy is gone.
    PolicyDelete(PolicyId),
    /// A number was given to a set of labels.
    IdentityUpsert(Arc<ClusterIdentity>),
    /// A number is free again.
    IdentityDelete(u32),
    /// A file is wrong; what it said before stays in force. Replaces no earlier problem of the same file.
    Problem(Problem),
    /// All problems of this file are gone.
    ProblemCleared {
        /// The file.
        file: PathBuf,
    },
    /// Everything there was at the start has been said.
    Synced,
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The file (or directory).
    pub file: PathBuf,
    /// The line, from 1, where one can be named.
    pub line: Option<u32>,
    /// The field, as in `spec.ingress[0]`; empty where it is none.
    pub field: String,
    /// What is wrong, and what to do where that is known.
    pub message: String,
}

impl Problem {
    /// A problem of a whole file.
    pub(crate) fn of_file(file: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        Self { file: file.into(), line: None, field: String::new(), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Problems by file.
pub(crate) type Problems = BTreeMap<PathBuf, Vec<Problem>>;
