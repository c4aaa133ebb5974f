//! What the cluster says: pods, namespaces, nodes, identities and policies, as a stream of changes.
//!
//! Promises of the directory source: a file counts whole or not at all; a file that is being written, or makes
//! no sense, changes nothing and is reported by name, line and field; what is right takes effect within a
//! second, however it was written; nothing outside the directory is read. Promises of the writers: readers see
//! the old content or the new; two writers lose nothing of each other's; two claims of one set of labels get
//! one number, with no leader.
//!
//! Promises of the Kubernetes source: the same changes as the directory source would give of the same objects;
//! everything is listed once and then watched; a watch that breaks takes nothing away, only a list that has ended
//! or a deletion does; a kind that the server does not know keeps none of the others waiting, is said, and is
//! picked up when it appears. [`election`] says who of several is the leader.
#![forbid(unsafe_code)]

mod accepted;
mod change;
pub mod election;
mod files;
mod identity;
mod kubernetes;
pub mod limits;
mod node;
mod object;
mod scan;
mod source;
mod world;
mod yaml_out;

pub use change::{Change, Problem};
pub use identity::{IdentityError, IdentityRegistry};
pub use kubernetes::{Candidate, KubeHandle, KubeSource, Kubernetes, KubernetesError, LeaseName};
pub use node::NodePublisher;
pub use object::ClusterIdentity;
pub use source::{DirConfig, DirHandle, DirSource};
pub use yaml_out::to_yaml;
