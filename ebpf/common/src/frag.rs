//! `cs_frag4`/`cs_frag6`: the ports of datagrams in fragments, remembered from the first one.

use crate::addr::Addr;

/// Key of a fragmented IPv4 datagram.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FragKey4 {
    /// Source address.
    pub source: u32,
    /// Destination address.
    pub destination: u32,
    /// Identification.
    pub id: u16,
    /// Slot of the endpoint whose program saw it.
    pub slot: u16,
    /// Protocol.
    pub protocol: u8,
    /// Direction, see [`crate::policy::direction`].
    pub direction: u8,
    /// Always zero.
    pub pad: u16,
}

/// Key of a fragmented IPv6 datagram, and of either family before the table is chosen.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FragKey {
    /// Source address.
    pub source: Addr,
    /// Destination address.
    pub destination: Addr,
    /// Identification, as it stands in the header.
    pub id: u32,
    /// Slot of the endpoint whose program saw it.
    pub slot: u16,
    /// Protocol of the transport header.
    pub protocol: u8,
    /// Direction, see [`crate::policy::direction`].
    pub direction: u8,
}

/// What the first fragment said.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FragPorts {
    /// Source port (big endian), or the identifier of an echo.
    pub source: u16,
    /// Destination port (big endian), or the type of an echo.
    pub destination: u16,
}

impl FragKey {
    /// The key for the IPv4 table.
    #[must_use]
    #[inline(always)]
    pub const fn v4(&self) -> FragKey4 {
        FragKey4 {
            source: self.source.words[0],
            destination: self.destination.words[0],
            id: self.id as u16,
            slot: self.slot,
            protocol: self.protocol,
            direction: self.direction,
            pad: 0,
        }
    }
}

const _: () = assert!(size_of::<FragKey4>() == 16);
const _: () = assert!(size_of::<FragKey>() == 40);
const _: () = assert!(size_of::<FragPorts>() == 4);
