//! A Kubernetes API server: what the cluster says, and who is the leader of several.

mod client;
mod kind;
mod lease;
mod listener;
mod source;
mod world;

pub use client::{Kubernetes, KubernetesError};
pub use lease::{Candidate, LeaseName};
pub use source::{KubeHandle, KubeSource};
