//! Documents and identities in, map entries of each endpoint out.
//!
//! Promises: pure (no clock, no files, no sockets, no environment, no random source, no threads), no panic on
//! any input, the same input gives the same output in the same order. A document is taken whole or refused with
//! the field, its line and what to do; what is not enforced is never silently left out.
#![forbid(unsafe_code)]

pub mod diff;
pub mod documents;
pub mod endpoint;
pub mod explain;
mod fields;
pub mod identity;
pub mod labels;
pub mod limits;
pub mod lint;
pub mod model;
pub mod objects;
pub mod repository;
pub mod selector;
pub mod verdicts;
pub mod yaml;

pub use diff::{Op, diff};
pub use documents::{Settings, parse};
pub use endpoint::EndpointPolicy;
pub use fields::DocumentError;
pub use model::{Policy, PolicyId};
pub use repository::{Repository, RuleOrigin, Touched};
