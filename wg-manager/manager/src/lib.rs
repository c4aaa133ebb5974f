//! Keeps this node's WireGuard devices what they should be: one, and up to four while somebody changes keys.
//!
//! The crate promises:
//! - The devices, their peers, links and routes follow what [`Manager::set_peers`] was told, and are
//!   repaired when somebody else changes them, or when the data plane restarts.
//! - Only nodes with an attested key become peers. The pods of the others, and everybody's while there is
//!   no device, are unreachable: their prefixes have an `unreachable` route under the one into the device.
//! - Packets to a node leave the tunnel they are in for a better one when that one has a session, and not before.
//! - A device that no tunnel is in any more keeps no key of this node.
//! - Only routes with this crate's protocol number are touched ([`limits::ROUTE_PROTOCOL`]).
//! - Private keys are in files of mode 0600 and in the devices, nowhere else: not in logs, `Debug` or
//!   [`Status`].
//!
//! - All devices are of one backend. One of the other is deleted before it is replaced, and nothing passes meanwhile.
//!
//! Backends: the kernel's WireGuard, by generic netlink; and `countersign-wg`, a process of its own, spoken to over
//! the cross-platform UAPI.
#![forbid(unsafe_code)]

mod backend;
mod echo;
mod keeper;
pub mod keys;
pub mod limits;
mod link;
mod manager;
mod netlink;
mod paths;
mod status;
mod uapi;

pub use backend::{Backend, BackendChoice};
pub use link::Error as LinkError;
pub use manager::{Config, Error, Manager, OwnKey, OwnKeys, Problems};
pub use paths::PathSize;
pub use status::{PeerStatus, Status};
pub use uapi::{Error as UapiError, SOCKET_DIR, Uapi};

/// What [`Manager::set_peers`] takes, and the means to make it.
pub use countersign_wg_proto::{Desired, KeyRing, OwnNode, RemoteNode, Slot, Way};
