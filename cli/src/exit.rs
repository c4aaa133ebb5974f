//! Exit codes, which scripts rely on.

use std::process::ExitCode;

/// How a command ended. Wrong usage is 2, which clap sees to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// It did what was asked.
    Ok = 0,
    /// It could not.
    Error = 1,
    /// It did, and not everything is well: an agent is degraded, a document is refused.
    Degraded = 3,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}
