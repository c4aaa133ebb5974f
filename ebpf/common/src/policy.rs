//! The policy map: keys, values, and how a value's precedence is made.

/// Direction of a packet relative to the endpoint that decides.
pub mod direction {
    /// Towards the endpoint.
    pub const INGRESS: u8 = 0;
    /// From the endpoint.
    pub const EGRESS: u8 = 1;
}

/// Authentication type of an entry (`auth_type` of Cilium's policy map).
pub mod auth_type {
    /// No authentication.
    pub const NONE: u8 = 0;
    /// Mutual authentication with SPIFFE identities (`mode: required`).
    pub const SPIRE: u8 = 1;
    /// `mode: test-always-fail`.
    pub const ALWAYS_FAIL: u8 = 2;
}

/// Key of one policy entry, looked up in two ways: as it stands in the exact-match hash, and with a prefix
/// length in front of it in the longest-prefix-match trie.
///
/// All fields are in the order in which the trie matches them; `protocol` and `port` may be left off its tail.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PolicyKey {
    /// Security identity of the peer; 0 matches every peer.
    pub identity: u32,
    /// Slot of the endpoint that decides, big endian, so that the trie compares it first byte first.
    pub slot_be: u16,
    /// [`direction::INGRESS`] or [`direction::EGRESS`].
    pub direction: u8,
    /// IP protocol number; 0 where `prefix_bits` says that any protocol matches.
    pub protocol: u8,
    /// Destination port of the flow's first packet, big endian (type for ICMP and ICMPv6).
    pub port_be: u16,
    /// Always zero.
    pub pad: u16,
}

/// Bits of [`PolicyKey`] that every trie entry fixes: identity, slot, direction.
pub const PREFIX_STATIC: u8 = 56;
/// Prefix with the protocol fixed and every port matching.
pub const PREFIX_PROTOCOL: u8 = 64;
/// Prefix with protocol and port fixed.
pub const PREFIX_PORT: u8 = 80;

/// What a policy entry decides.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PolicyEntry {
    /// Higher wins; see [`precedence`].
    pub precedence: u32,
    /// Which rule made the entry, for events; 0 is none.
    pub rule_id: u32,
    /// One of [`auth_type`].
    pub auth_type: u8,
    /// Bit set of [`flag`].
    pub flags: u8,
    /// Length in bits of the trie prefix of the entry (56, 64, 64..=80), for ties of precedence.
    pub prefix_bits: u8,
    /// Always zero.
    pub pad: u8,
}

/// Bits of [`PolicyEntry::flags`].
pub mod flag {
    /// The entry denies.
    pub const DENY: u8 = 1;
    /// The authentication type was written in the rule, not inherited.
    pub const AUTH_EXPLICIT: u8 = 2;
}

/// Precedence of an entry: the tier's and rule's priority (0 is the strongest) in the upper 24 bits, deny over
/// allow within it.
#[must_use]
pub const fn precedence(priority: u32, deny: bool) -> u32 {
    let rank = 0x00ff_ffff - (priority & 0x00ff_ffff);
    (rank << 8) | if deny { 255 } else { 1 }
}

const _: () = assert!(size_of::<PolicyKey>() == 12);
const _: () = assert!(size_of::<PolicyEntry>() == 12);
