//! `cs_config`: settings of the programs, one record.

/// The one element of `cs_config`.
///
/// Until it is set (`flags` without [`flag::READY`]) every program drops everything it is asked about.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Config {
    /// Bit set of [`flag`].
    pub flags: u32,
    /// Interface index of the parking device; 0 where there is none.
    pub park_ifindex: u32,
    /// Proofs of another epoch than this do not count: raising it by one revokes all of them at once.
    pub auth_epoch: u32,
    /// TCP port of the agents' handshakes, closed to pods on every node.
    pub handshake_port: u16,
    /// First of the [`WIREGUARD_PORTS`] UDP ports of WireGuard, closed to pods on every node.
    pub wireguard_port: u16,
    /// Packets of one pair parked per second; 0 means [`crate::limits::PARK_PAIR_PACKETS`].
    pub park_pair_packets: u32,
    /// Bytes of one pair parked per second; 0 means [`crate::limits::PARK_PAIR_BYTES`].
    pub park_pair_bytes: u32,
    /// Packets of one sender parked per second; 0 means [`crate::limits::PARK_SLOT_PACKETS`].
    pub park_slot_packets: u32,
    /// Bytes of one sender parked per second; 0 means [`crate::limits::PARK_SLOT_BYTES`].
    pub park_slot_bytes: u32,
}

/// WireGuard's UDP ports, from [`Config::wireguard_port`] on: while nodes change keys they have several devices.
pub const WIREGUARD_PORTS: u16 = 4;

/// Bits of [`Config::flags`].
pub mod flag {
    /// The configuration has been set.
    pub const READY: u32 = 1;
    /// Packets that wait for a proof are parked; without it they are dropped.
    pub const PARKING: u32 = 2;
    /// Report new allowed flows as events.
    pub const VERDICT_EVENTS: u32 = 4;
    /// Pod traffic between nodes must be encrypted: the wire is watched for it.
    pub const ENCRYPTION: u32 = 8;
}

impl Config {
    /// Whether all of the bits are set.
    #[must_use]
    #[inline(always)]
    pub const fn has(&self, bits: u32) -> bool {
        self.flags & bits == bits
    }
}

const _: () = assert!(size_of::<Config>() == 32);
