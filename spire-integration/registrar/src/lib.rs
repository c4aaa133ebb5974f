//! The registrar: keeps a SPIRE server's registration entries as the cluster's pods and policies want them.
//!
//! It promises:
//! - A pod that a policy with authentication can concern has an entry below the SPIRE agent of its node, within
//!   tens of milliseconds of being placed, and has none soon after it is gone.
//! - Entries of others are never touched: whose one is stands in its ID (`countersign-spire-proto`).
//! - Nothing is taken for gone that could not be read: no deletion before the cluster has been seen whole and the
//!   server's entries have been listed to the end.
//! - A server that is away is asked again with growing, jittered pauses; what one entry does wrong is that entry's
//!   trouble.
//! - [`Registrar::run`] may be dropped at any point: it holds nothing that the next one could not find out. That is
//!   what a loss of leadership does ([`take_turns`]).
//! - In a cluster one of several leads; the others ask the SPIRE server nothing and write nothing to it.
#![forbid(unsafe_code)]

mod backoff;
pub mod config;
mod connection;
mod failing;
pub mod limits;
mod message;
mod picture;
mod registrar;
mod server;
mod status;
mod turns;
mod workload;

pub use connection::Target;
pub use registrar::Registrar;
pub use server::{Outcome, Server, ServerError};
pub use turns::take_turns;

#[allow(clippy::all, clippy::pedantic, missing_docs)]
mod workload_api {
    tonic::include_proto!("_");
}

#[allow(clippy::all, clippy::pedantic, missing_docs)]
mod spire {
    pub(crate) mod api {
        pub(crate) mod types {
            tonic::include_proto!("spire.api.types");
        }
        pub(crate) mod server {
            pub(crate) mod entry {
                pub(crate) mod v1 {
                    tonic::include_proto!("spire.api.server.entry.v1");
                }
            }
        }
    }
}
