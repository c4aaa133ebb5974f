//! What this node's WireGuard device should look like, and which keys may be in it. Pure.
//!
//! The crate promises:
//! - A public key becomes an [`AttestedKey`] only through [`KeyRing::accept`]: its announcement is signed
//!   by the SVID of the very node it speaks for, is in date, and is not older than what was accepted
//!   before. Nothing else in the workspace makes that type.
//! - [`plan`] turns "desired" and "observed" into operations in an order that never takes an address away
//!   before its new owner has it; applying them reaches the desired state, and a second plan is empty.
//! - [`choose`] never sends into a tunnel without a session while there is one with, and never back into one that
//!   was left.
//! - [`Agreements`]: two nodes whose messages are lost in any way have the same preshared key again as soon as
//!   one handshake between them is not disturbed, and neither uses one that it does not know the other to have
//!   been given.
//! - Parsers ([`uapi`], [`Announcement::decode`]) are bounded and total: any input gives a value or an
//!   error, never a panic.
//! - Secrets are wiped when dropped and never appear in `Debug`.
//!
//! Nothing here reads a clock, a file, a socket or a random source.
#![forbid(unsafe_code)]

mod agreement;
mod announcement;
mod claims;
mod desired;
mod device;
mod key;
mod key_ring;
pub mod limits;
mod path_mtu;
mod plan;
mod rotation;
mod slot;
pub mod uapi;

pub use agreement::{Agreed, Agreements, Ask, Busy, InForce, TunnelId};
pub use announcement::{ANNOTATION, ANNOTATION_NEXT, Announcement, DecodeError, Statement};
pub use claims::{Claims, Contested, contested};
pub use desired::{Desired, Goal, OwnNode, RemoteNode};
pub use device::{Device, Observed, Op, Peer, PeerStats};
pub use key::{KeyError, PresharedKey, PrivateKey, PublicKey};
pub use key_ring::{AnnounceError, AttestedKey, KeyRing, Refusal, announce, node_id};
pub use path_mtu::{Known, PathMtu, Probe, SMALLEST, inside};
pub use plan::{Shrink, plan};
pub use rotation::{OldKey, Rotation};
pub use slot::{SLOTS, Slot, Way, choose};
