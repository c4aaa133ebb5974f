//! `cs_ip4`/`cs_ip6` (exact addresses) and `cs_cidr4`/`cs_cidr6` (prefixes): who is behind an address.

use crate::identity;

/// What is known of an address or of a prefix.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct IpEntry {
    /// Security identity.
    pub identity: u32,
    /// Node the address lives on, by this agent's numbering; 0 is this node.
    pub node: u16,
    /// Bit set of [`flag`].
    pub flags: u16,
}

/// Bits of [`IpEntry::flags`].
pub mod flag {
    /// A pod's address, or a prefix that pods' addresses are taken from.
    pub const POD: u16 = 1;
    /// On this node.
    pub const LOCAL: u16 = 2;
    /// Reached through the encrypted device only, and expected from it only.
    pub const ENCRYPTED: u16 = 4;
}

impl IpEntry {
    /// What is known of an address that nothing is known of.
    pub const WORLD: Self = Self { identity: identity::WORLD, node: 0, flags: 0 };
    /// This node.
    pub const HOST: Self = Self { identity: identity::HOST, node: 0, flags: 0 };

    /// Whether all that is known is that pods' addresses are of this kind: somebody's on another node, of whom the
    /// cluster has not told us yet (or two pods' at once). Of this node's own prefixes there is nothing to wait for.
    #[must_use]
    #[inline(always)]
    pub const fn is_unknown_pod(&self) -> bool {
        self.identity == identity::UNKNOWN && self.has(flag::POD) && !self.has(flag::LOCAL)
    }

    /// Whether all of the bits are set.
    #[must_use]
    #[inline(always)]
    pub const fn has(&self, bits: u16) -> bool {
        self.flags & bits == bits
    }
}

const _: () = assert!(size_of::<IpEntry>() == 8);
