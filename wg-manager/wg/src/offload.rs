//! Large packets: what the kernel hands over unsegmented is cut here, and what belongs together is handed
//! to the kernel in one piece.
//!
//! A TUN device opened with `IFF_VNET_HDR` puts a `virtio_net_hdr` before every packet (Linux
//! `include/uapi/linux/virtio_net.h`). Reading: TCP, UDP, or either of them inside a UDP tunnel (VXLAN), up to
//! 64 KiB, with the size to cut it to. Writing: the same the other way round. Pure functions over byte slices.

use serde::{Deserialize, Serialize};

mod flow;
mod join;
mod split;

pub use self::join::Joiner;
pub use self::split::split;

/// Longest header given to the caller of [`split`]: all headers of a tunnelled segment, with options in both
/// IP headers and in TCP's, and some of the tunnel's own.
pub const MAX_HEADER: usize = 256;

/// The checksum from `csum_start` on is still to be computed.
const NEEDS_CSUM: u8 = 1;
/// So is that of the tunnel's UDP header.
const TUNNEL_CSUM: u8 = 8;
/// Nothing to cut.
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// What is to be cut is inside of UDP over this version of IP.
const GSO_TUNNEL_V4: u8 = 0x20;
const GSO_TUNNEL_V6: u8 = 0x40;
/// The first segment alone carries the congestion flag.
const GSO_ECN: u8 = 0x80;

const TCP: u8 = 6;
const UDP: u8 = 17;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const CWR: u8 = 0x80;
/// Where the checksum is in a TCP header, and in one of UDP.
const TCP_CSUM: usize = 16;
const UDP_CSUM: usize = 6;
/// Bytes of a UDP header.
const UDP_HEADER: usize = 8;

/// What the kernel does for this device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Features {
    /// It hands over uncut TCP packets. It takes them in any case.
    pub tso: bool,
    /// It hands over, and takes, uncut UDP packets.
    pub uso: bool,
    /// It hands over, and takes, both of them inside a UDP tunnel. The header on the device is longer.
    pub tunnel: bool,
}

impl Features {
    /// Bytes of the header on the device.
    pub fn vnet_len(self) -> usize {
        if self.tunnel { VnetHdr::MAX } else { VnetHdr::MIN }
    }
}

/// The kernel's description of a packet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VnetHdr {
    flags: u8,
    gso_type: u8,
    hdr_len: u16,
    gso_size: u16,
    csum_start: u16,
    csum_offset: u16,
    /// Only with [`Features::tunnel`]: where the tunnel's UDP header is, and the IP header inside.
    outer_transport: u16,
    inner_network: u16,
}

impl VnetHdr {
    /// `virtio_net_hdr`.
    pub const MIN: usize = 10;
    /// `virtio_net_hdr_v1_hash_tunnel`.
    pub const MAX: usize = 24;

    /// From the device; `bytes` are as many as [`Features::vnet_len`] says. Numbers are in the machine's byte
    /// order; the two of the tunnel are defined as little endian, where they are offered.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let short: &[u8; Self::MIN] = bytes.first_chunk().ok_or(Malformed)?;
        let number = |at: usize| u16::from_ne_bytes([short[at], short[at + 1]]);
        let long: Option<&[u8; Self::MAX]> = bytes.first_chunk();
        let more = |at: usize| long.map_or(0, |long| u16::from_le_bytes([long[at], long[at + 1]]));
        Ok(Self {
            flags: short[0],
            gso_type: short[1],
            hdr_len: number(2),
            gso_size: number(4),
            csum_start: number(6),
            csum_offset: number(8),
            outer_transport: more(20),
            inner_network: more(22),
        })
    }

    /// For the device, which takes the first [`Features::vnet_len`] bytes of it.
    pub fn encode(&self) -> [u8; Self::MAX] {
        let mut bytes = [0; Self::MAX];
        bytes[0] = self.flags;
        bytes[1] = self.gso_type;
        for (at, number) in
            [self.hdr_len, self.gso_size, self.csum_start, self.csum_offset].iter().enumerate()
        {
            bytes[2 + 2 * at..4 + 2 * at].copy_from_slice(&number.to_ne_bytes());
        }
        bytes[20..22].copy_from_slice(&self.outer_transport.to_le_bytes());
        bytes[22..24].copy_from_slice(&self.inner_network.to_le_bytes());
        bytes
    }
}

/// The packet cannot be what its header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

fn get16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn get32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn put16(bytes: &mut [u8], at: usize, number: u16) {
    bytes[at..at + 2].copy_from_slice(&number.to_be_bytes());
}

#[cfg(test)]
mod tests;
