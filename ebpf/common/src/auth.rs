//! `cs_auth`, `cs_bound4`/`cs_bound6`, `cs_backoff`: which pairs have proved themselves.

/// Key of a proof. Byte for byte that of Cilium's authentication map.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct AuthKey {
    /// Identity of the local endpoint.
    pub local: u32,
    /// Identity of the peer.
    pub remote: u32,
    /// Node of the peer; 0 is this node.
    pub node: u16,
    /// One of [`crate::policy::auth_type`].
    pub auth_type: u8,
    /// Always zero.
    pub pad: u8,
}

/// A proof.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct AuthValue {
    /// When it ends, in nanoseconds of the boot clock.
    pub expires_at: u64,
    /// Counts only while it equals [`crate::config::Config::auth_epoch`].
    pub epoch: u32,
    /// Which handshake it came from; for people, the programs do not read it.
    pub generation: u32,
}

/// Who an authenticated session says is behind an address.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Bound {
    /// Identity asserted by the owning node.
    pub identity: u32,
    /// The node that asserted it.
    pub node: u16,
    /// Always zero.
    pub pad: u16,
    /// Which endpoint of that address it is (addresses are used again); for people.
    pub generation: u32,
    /// The session the assertion came from; for people.
    pub epoch: u32,
}

const _: () = assert!(size_of::<AuthKey>() == 12);
const _: () = assert!(size_of::<AuthValue>() == 16);
const _: () = assert!(size_of::<Bound>() == 16);
