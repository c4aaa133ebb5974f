//! `cs_metrics`: exact counters by direction and reason, per CPU.

use crate::policy::direction;

/// Towards an endpoint.
pub const INGRESS: u8 = direction::INGRESS;
/// From an endpoint.
pub const EGRESS: u8 = direction::EGRESS;
/// The wire, the encrypted device, and the parking device.
pub const WIRE: u8 = 2;
/// Elements of the array.
pub const ENTRIES: u32 = 3 * 256;

/// Counters of one direction and reason.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
    /// Events that were held back: repeated too soon, or over the endpoint's rate.
    pub suppressed: u64,
    /// Events that found no room in the ring.
    pub lost: u64,
}

/// Where a counter stands.
#[must_use]
#[inline(always)]
pub const fn index(direction: u8, reason: u8) -> u32 {
    (direction as u32) << 8 | reason as u32
}

const _: () = assert!(size_of::<Counter>() == 32);
