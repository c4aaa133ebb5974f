//! What an agent answers. Times are seconds since the Unix epoch unless a field's name says otherwise.

pub mod auth;
pub mod encrypt;
pub mod endpoint;
pub mod flow;
pub mod policy;
pub mod spire;
pub mod status;

use serde::{Deserialize, Serialize};

/// Nothing but success.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {}

/// All metrics, in the Prometheus (OpenMetrics) text format.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metrics {
    /// The exposition.
    pub text: String,
}
