//! What a SPIRE server should know of a cluster's pods, and what has to be done so that it does. Pure.
//!
//! The crate promises:
//! - An entry is parented to the SPIRE agent of the one node its pod is on, so that a node can obtain the
//!   identities of its own pods and of no others. What would break that is refused when it is written
//!   ([`Layout::new`]): selectors that mean several pods or nodes, and SPIFFE IDs that are, or could become,
//!   those of a node.
//! - [`plan`] names only entries whose ID says that they are this cluster's ([`Owner`]). Applying a plan gives
//!   what is desired and leaves everybody else's entries as they are; a second plan is empty.
//! - [`Concern`] leaves out no identity that a policy asks to authenticate; it may name a few more.
//! - The same input gives the same output in the same order.
//!
//! Nothing here reads a clock, a file, a socket or a random source.
#![forbid(unsafe_code)]

mod collision;
mod concern;
mod entry;
mod layout;
pub mod limits;
mod node;
mod pattern;
mod plan;
mod selector;
mod status;

pub use concern::Concern;
pub use entry::{Entry, Existing, Extras, Owner, OwnerError};
pub use layout::{Layout, LayoutConfig, LayoutError, Refused};
pub use node::{NodeTemplate, NodeTemplateError};
pub use plan::{Blocked, Desired, Plan, plan};
pub use selector::{Missing, PodFacts, Selector, SelectorError, SelectorTemplate, render_all};
pub use status::{EntryError, RegistrarStatus, Turn};
