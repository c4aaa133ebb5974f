//! Parked frames: what the Ethernet header of a frame on the parking device says, and how many may be there.
//!
//! The two MAC addresses of a parked frame carry what the agent needs to know; the frame comes back through
//! the device with the same header. Destination `[02|marker, direction, slot, slot, node, node]`, source
//! `[02, round, identity ×4]`, numbers big endian; the ethertype stays.

use crate::addr::Addr;

/// First byte of the destination of a parked frame: locally administered, unicast, and a pattern that the
/// parking device's own chatter (multicast, broadcast) never has.
pub const MARKER: u8 = 0xc2;
/// First byte of the source: locally administered, unicast.
pub const SOURCE: u8 = 0x02;
/// `skb->mark` of a frame on its way back from parking; the low byte is the round, with [`FROM_ADDRESS`].
pub const MARK: u32 = 0x4353_ff00;
/// The bits of `skb->mark` that tell.
pub const MARK_MASK: u32 = 0xffff_ff00;
/// Bit of the round of a frame that comes back from the line of an address: it has not stood in its pair's yet.
pub const FROM_ADDRESS: u8 = 0x80;

/// Packets whose peer's address is not known wait by that address and not by an identity: where others have the
/// peer's identity they have a number made of it. No identity has this bit.
pub const ADDRESS: u32 = 1 << 31;

/// The number that packets to and from an address wait under as long as nobody has said whose it is. Two addresses
/// may have the same: then they wait together.
#[must_use]
#[inline(always)]
pub const fn address_line(address: &Addr) -> u32 {
    let [a, b, c, d] = address.words;
    (a ^ b.rotate_left(7) ^ c.rotate_left(13) ^ d.rotate_left(19)) | ADDRESS
}

/// Whether the number stands for an address.
#[must_use]
#[inline(always)]
pub const fn is_address_line(number: u32) -> bool {
    number & ADDRESS != 0
}

/// What a parked frame says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Parked {
    /// Direction in which the endpoint saw it, see [`crate::policy::direction`].
    pub direction: u8,
    /// How many times it has been parked, from 1.
    pub round: u8,
    /// The endpoint's slot.
    pub slot: u16,
    /// The peer's node.
    pub node: u16,
    /// The peer's identity, or [`address_line`] of its address.
    pub remote: u32,
}

impl Parked {
    /// The twelve bytes of the two addresses, destination first.
    #[must_use]
    #[inline(always)]
    pub const fn encode(&self) -> [u8; 12] {
        let slot = self.slot.to_be_bytes();
        let node = self.node.to_be_bytes();
        let [a, b, c, d] = self.remote.to_be_bytes();
        [MARKER, self.direction, slot[0], slot[1], node[0], node[1], SOURCE, self.round, a, b, c, d]
    }

    /// What it comes back with: its round, and from which kind of line.
    #[must_use]
    #[inline(always)]
    pub const fn comes_back(&self) -> u8 {
        if is_address_line(self.remote) { self.round | FROM_ADDRESS } else { self.round & !FROM_ADDRESS }
    }

    /// Reads the two addresses; `None` where the frame is not a parked one.
    #[must_use]
    #[inline(always)]
    pub const fn decode(bytes: &[u8; 12]) -> Option<Self> {
        let [marker, direction, s1, s0, n1, n0, source, round, a, b, c, d] = *bytes;
        if marker != MARKER || source != SOURCE || direction > 1 || round == 0 {
            return None;
        }
        Some(Self {
            direction,
            round,
            slot: u16::from_be_bytes([s1, s0]),
            node: u16::from_be_bytes([n1, n0]),
            remote: u32::from_be_bytes([a, b, c, d]),
        })
    }
}

/// Key of `cs_pending`: a pair at an endpoint, in the direction of the packet that waits.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PendingKey {
    /// Identity of the local endpoint.
    pub local: u32,
    /// Identity of the peer, or [`address_line`] of its address.
    pub remote: u32,
    /// Node of the peer.
    pub node: u16,
    /// The endpoint's slot.
    pub slot: u16,
    /// See [`crate::policy::direction`]. 0 for an address: both directions are one line there, so that one look
    /// says whether any of it is on its way.
    pub direction: u8,
    /// Always zero.
    pub pad: [u8; 3],
}

impl PendingKey {
    /// Where the packets of a pair at an endpoint are counted.
    #[must_use]
    #[inline(always)]
    pub const fn new(local: u32, remote: u32, node: u16, slot: u16, direction: u8) -> Self {
        let direction = if is_address_line(remote) { 0 } else { direction };
        Self { local, remote, node, slot, direction, pad: [0; 3] }
    }
}

/// What a pair has used up of its places, when it was last reported, and how many of its packets have been
/// parked. Times of the coarse clock.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Pending {
    /// When the window began.
    pub window: u64,
    /// When the pair was last reported; 0 is never.
    pub reported: u64,
    /// When a packet was parked last for want of a proof.
    pub waited: u64,
    /// Packets parked since the record was made. As long as `cs_returned` has a smaller number for the key,
    /// some of them are on their way, and what comes later queues up behind them.
    pub parked: u64,
    /// Packets parked in the window.
    pub packets: u32,
    /// Bytes parked in the window.
    pub bytes: u32,
    /// Packets since the last report.
    pub unreported: u32,
    /// Always zero.
    pub pad: u32,
}

const _: () = assert!(size_of::<PendingKey>() == 16);
const _: () = assert!(size_of::<Pending>() == 48);
