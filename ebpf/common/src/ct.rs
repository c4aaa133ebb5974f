//! `cs_ct4`/`cs_ct6`: flows, and the verdicts that were given on them.
//!
//! A key is oriented by the endpoint (local, remote), not by the packet (source, destination), so that one
//! look-up finds a flow from either direction.

use crate::addr::Addr;

/// Key of an IPv4 flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct CtKey4 {
    /// The peer's address, in the order of the wire.
    pub remote: u32,
    /// The endpoint's port (big endian), or the identifier of an echo.
    pub local_port: u16,
    /// The peer's port (big endian); 0 for an echo.
    pub remote_port: u16,
    /// The endpoint's slot.
    pub slot: u16,
    /// IP protocol.
    pub protocol: u8,
    /// One of [`role`].
    pub role: u8,
}

/// Key of an IPv6 flow, and of either family before the table is chosen.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct CtKey {
    /// The peer's address.
    pub remote: Addr,
    /// The endpoint's port (big endian), or the identifier of an echo.
    pub local_port: u16,
    /// The peer's port (big endian); 0 for an echo.
    pub remote_port: u16,
    /// The endpoint's slot.
    pub slot: u16,
    /// IP protocol.
    pub protocol: u8,
    /// One of [`role`].
    pub role: u8,
}

/// Who asks in an exchange of echoes: with the role in the key, nobody's request passes as the answer to
/// somebody else's (GHSA-c66w-hq56-4q97).
pub mod role {
    /// Not an echo.
    pub const NONE: u8 = 0;
    /// The endpoint asks.
    pub const LOCAL_ASKS: u8 = 1;
    /// The peer asks.
    pub const REMOTE_ASKS: u8 = 2;
}

impl CtKey {
    /// The key for the IPv4 table.
    #[must_use]
    #[inline(always)]
    pub const fn v4(&self) -> CtKey4 {
        CtKey4 {
            remote: self.remote.words[0],
            local_port: self.local_port,
            remote_port: self.remote_port,
            slot: self.slot,
            protocol: self.protocol,
            role: self.role,
        }
    }
}

/// A flow and the verdict on it. All times are nanoseconds of the coarse monotonic clock.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct CtEntry {
    /// Until when the verdict may be used without asking again.
    pub valid_until: u64,
    /// When the flow is forgotten if no further packet comes.
    pub expires: u64,
    /// Packets in both directions.
    pub packets: u64,
    /// Bytes in both directions.
    pub bytes: u64,
    /// Policy epoch the verdict was given under.
    pub policy_epoch: u32,
    /// Authentication epoch the verdict was given under.
    pub auth_epoch: u32,
    /// Identity of the peer at that time.
    pub remote_identity: u32,
    /// The rule that allowed it; 0 is none.
    pub rule_id: u32,
    /// Direction of the packet that opened the flow, see [`crate::policy::direction`].
    pub opened: u8,
    /// Authentication the verdict rests on.
    pub auth_type: u8,
    /// TCP flags seen so far.
    pub tcp_flags: u8,
    /// Bit set of [`state`].
    pub state: u8,
    /// Always zero.
    pub pad: u32,
}

/// Bits of [`CtEntry::state`].
pub mod state {
    /// The peer of the opener has answered.
    pub const ANSWERED: u8 = 1;
    /// FIN or RST has been seen.
    pub const CLOSING: u8 = 2;
}

const _: () = assert!(size_of::<CtKey4>() == 12);
const _: () = assert!(size_of::<CtKey>() == 24);
const _: () = assert!(size_of::<CtEntry>() == 56);
