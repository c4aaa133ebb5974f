//! What the agent answers when it cannot answer.

use serde::{Deserialize, Serialize};

/// Who is to blame, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The request was malformed or out of range.
    BadRequest,
    /// The caller is not the agent's user.
    Forbidden,
    /// What was named does not exist.
    NotFound,
    /// What was named exists already, differently.
    Conflict,
    /// The agent cannot do it yet (still starting, or a source is away).
    Unavailable,
    /// Too many connections.
    Overloaded,
    /// A deadline passed.
    Timeout,
    /// The agent's own fault.
    Internal,
    /// A kind this build does not know.
    #[serde(other)]
    Unknown,
}

/// A refusal: what went wrong, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// Who is to blame.
    pub kind: ErrorKind,
    /// What went wrong, one sentence.
    pub message: String,
    /// What to do; empty where nothing helps.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
}

impl Error {
    /// An error without a hint.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: String::new() }
    }

    /// The same error with what to do about it.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: hint.into(), ..self }
    }
}
