//! From bytes to facts. Whatever cannot be understood for certain is refused with a reason.

mod ipv4;
mod ipv6;
mod transport;

use crate::addr::{Addr, V4, V6};
use crate::frame::{Frame, be16};
use crate::packet::{Kind, Packet};
use crate::proto::{self, ether};
use crate::reason;

pub use transport::embedded;

/// Bytes of an Ethernet header without tags.
pub const ETHERNET: u32 = 14;

/// An Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ethernet {
    /// Destination.
    pub destination: [u8; 6],
    /// Source.
    pub source: [u8; 6],
    /// Ethertype, as a number.
    pub ethertype: u16,
}

/// Reads the Ethernet header.
#[inline(always)]
pub fn ethernet<F: Frame + ?Sized>(frame: &F) -> Option<Ethernet> {
    let [a, b, c, d, e, f, g, h, i, j, k, l, t1, t0] = frame.load::<14>(0)?;
    Some(Ethernet { destination: [a, b, c, d, e, f], source: [g, h, i, j, k, l], ethertype: be16(t1, t0) })
}

/// Reads the IP packet behind the Ethernet header into a packet that is [`Packet::default`], and gives
/// [`reason::FORWARDED`] or why it cannot be read. What could be read is there all the same, for the report.
///
/// Not inlined: what is known of a packet after this is in memory, not in the paths that lead here, which
/// spares the kernel's verifier most of its work.
#[inline(never)]
pub fn ip<F: Frame + ?Sized>(frame: &F, ethertype: u16, packet: &mut Packet) -> u8 {
    match network(frame, ethertype, packet).and_then(|()| beyond(frame, packet)) {
        Ok(()) => reason::FORWARDED,
        Err(reason) => reason,
    }
}

#[inline(always)]
fn network<F: Frame + ?Sized>(frame: &F, ethertype: u16, packet: &mut Packet) -> Result<(), u8> {
    match ethertype {
        ether::IPV4 => ipv4::header(frame, ETHERNET, packet),
        ether::IPV6 => ipv6::header(frame, ETHERNET, packet),
        ether::VLAN | ether::QINQ => Err(reason::VLAN),
        _ => Err(reason::UNSUPPORTED_L2),
    }
}

#[inline(always)]
fn beyond<F: Frame + ?Sized>(frame: &F, packet: &mut Packet) -> Result<(), u8> {
    if packet.fragment_offset != 0 && crate::packet::has_ports(packet.protocol) {
        packet.kind = Kind::LaterFragment;
        return transport::check_later_fragment(packet);
    }
    transport::header(frame, packet)?;
    if packet.is_first_fragment() && !matches!(packet.kind, Kind::Flow | Kind::EchoRequest | Kind::EchoReply)
    {
        return Err(reason::FRAG_NOSUPPORT);
    }
    Ok(())
}

/// Only who sends to whom: for the wire, where that is all that matters.
#[inline(always)]
pub fn addresses<F: Frame + ?Sized>(frame: &F, offset: u32) -> Option<(u8, Addr, Addr)> {
    let [first] = frame.load::<1>(offset)?;
    match first >> 4 {
        4 => {
            let [a, b, c, d, e, f, g, h] = frame.load::<8>(offset.wrapping_add(12))?;
            Some((V4, Addr::v4([a, b, c, d]), Addr::v4([e, f, g, h])))
        }
        6 => {
            let source = frame.load::<16>(offset.wrapping_add(8))?;
            let destination = frame.load::<16>(offset.wrapping_add(24))?;
            Some((V6, Addr::v6(source), Addr::v6(destination)))
        }
        _ => None,
    }
}

/// Sender's MAC and IPv4 address of an ARP packet for IPv4 over Ethernet.
#[inline(always)]
pub fn arp<F: Frame + ?Sized>(frame: &F) -> Option<([u8; 6], u32)> {
    let [h1, h0, p1, p0, hlen, plen, _, _, a, b, c, d, e, f, i, j, k, l] = frame.load::<18>(ETHERNET)?;
    let ethernet_ipv4 = be16(h1, h0) == 1 && be16(p1, p0) == ether::IPV4 && hlen == 6 && plen == 4;
    if !ethernet_ipv4 {
        return None;
    }
    Some(([a, b, c, d, e, f], u32::from_ne_bytes([i, j, k, l])))
}

/// What a neighbour message claims: the target address, and the link-layer address of its option, if any.
#[inline(always)]
pub fn neighbour<F: Frame + ?Sized>(frame: &F, packet: &Packet) -> Option<(Addr, Option<[u8; 6]>)> {
    if packet.protocol != proto::ICMP6 {
        return None;
    }
    let target = Addr::v6(frame.load::<16>(packet.transport.wrapping_add(8))?);
    // Options may be left out; one that is there must be a link-layer address of eight bytes in all.
    let Some([_, length, a, b, c, d, e, f]) = frame.load::<8>(packet.transport.wrapping_add(24)) else {
        return Some((target, None));
    };
    if length != 1 {
        return None;
    }
    Some((target, Some([a, b, c, d, e, f])))
}
