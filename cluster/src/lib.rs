//! What the cluster says: pods, namespaces, nodes, identities and policies, as a stream of changes.
//!
//! Promises of the directory source: a file counts whole or not at all; a file that is being written, or makes
//! no sense, changes nothing and is reported by name, line and field; what is right takes effect within a
//! second, however it was written; nothing outside the directory is read. Promises of the writers: readers see
//! the old content or the new; two writers lose nothing of each other's; two claims of one set of labels get
//! one number, with no leader.
#![forbid(unsafe_code)]

mod accepted;
mod change;
mod files;
mod identity;
pub mod limits;
mod node;
mod object;
mod scan;
mod source;
mod world;
mod yaml_out;

pub use change::{Change, Problem};
pub use identity::{IdentityError, IdentityRegistry};
pub use node::NodePublisher;
pub use object::ClusterIdentity;
pub use source::{DirConfig, DirHandle, DirSource};
pub use yaml_out::to_yaml;
