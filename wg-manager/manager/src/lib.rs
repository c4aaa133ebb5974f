//! Keeps this node's WireGuard device what it should be.
//!
//! The crate promises:
//! - The device, its peers, the link and the routes follow what [`Manager::set_peers`] was told, and are
//!   repaired when somebody else changes them, or when the data plane restarts.
//! - Only nodes with an attested key become peers. The pods of the others, and everybody's while there is
//!   no device, are unreachable: their prefixes have an `unreachable` route under the one into the device.
//! - Only routes with this crate's protocol number are touched ([`limits::ROUTE_PROTOCOL`]).
//! - The private key is in a file of mode 0600 and in the device, nowhere else: not in logs, `Debug` or
//!   [`Status`].
//!
//! The data plane is a process of its own (`countersign-wg`), spoken to over the cross-platform UAPI.
#![forbid(unsafe_code)]

pub mod keys;
pub mod limits;
mod link;
mod manager;
mod status;
mod uapi;

pub use link::Error as LinkError;
pub use manager::{Config, Error, Manager, Problems};
pub use status::{PeerStatus, Status};
pub use uapi::{Error as UapiError, SOCKET_DIR, Uapi};

/// What [`Manager::set_peers`] takes, and the means to make it.
pub use countersign_wg_proto::{Desired, KeyRing, OwnNode, RemoteNode};
