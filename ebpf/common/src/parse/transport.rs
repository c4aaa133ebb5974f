//! Transport headers, and the packet inside an ICMP error.

use crate::addr::{Addr, V4};
use crate::frame::{Frame, be16, raw16};
use crate::packet::{Kind, Packet, echo_reply, echo_request};
use crate::proto;
use crate::reason;

/// Bytes of a transport header that the first fragment must contain.
#[inline(always)]
const fn required(protocol: u8) -> u32 {
    match protocol {
        proto::TCP => 20,
        proto::SCTP => 12,
        proto::UDP | proto::UDP_LITE | proto::ICMP | proto::ICMP6 => 8,
        _ => 0,
    }
}

/// A later fragment that lies over the transport header would change what was examined (RFC 1858, RFC 3128).
#[inline(always)]
pub(super) fn check_later_fragment(packet: &Packet) -> Result<(), u8> {
    if packet.fragment_offset < required(packet.protocol) { Err(reason::FRAG_INVALID) } else { Ok(()) }
}

/// Fills in ports, flags and kind.
#[inline(always)]
pub(super) fn header<F: Frame + ?Sized>(frame: &F, packet: &mut Packet) -> Result<(), u8> {
    if packet.available < required(packet.protocol) {
        return Err(if packet.is_first_fragment() { reason::FRAG_INVALID } else { reason::TRUNCATED });
    }
    match packet.protocol {
        proto::TCP => {
            let Some(h) = frame.load::<14>(packet.transport) else { return Err(reason::TRUNCATED) };
            packet.source_port = raw16(h[0], h[1]);
            packet.destination_port = raw16(h[2], h[3]);
            packet.tcp_flags = h[13];
            if h[12] >> 4 < 5 {
                return Err(reason::TRUNCATED);
            }
            Ok(())
        }
        proto::UDP | proto::UDP_LITE | proto::SCTP => {
            let Some(h) = frame.load::<4>(packet.transport) else { return Err(reason::TRUNCATED) };
            packet.source_port = raw16(h[0], h[1]);
            packet.destination_port = raw16(h[2], h[3]);
            Ok(())
        }
        proto::ICMP | proto::ICMP6 => icmp(frame, packet),
        _ => Ok(()),
    }
}

#[inline(always)]
fn icmp<F: Frame + ?Sized>(frame: &F, packet: &mut Packet) -> Result<(), u8> {
    let Some([kind, _, _, _, id1, id0]) = frame.load::<6>(packet.transport) else {
        return Err(reason::TRUNCATED);
    };
    packet.destination_port = u16::from(kind).to_be();
    packet.kind = match (packet.family == V4, packet.protocol) {
        (true, proto::ICMP) => icmp4(kind)?,
        (false, proto::ICMP6) => icmp6(kind)?,
        _ => return Err(reason::UNKNOWN_L4),
    };
    if matches!(packet.kind, Kind::EchoRequest | Kind::EchoReply) {
        packet.source_port = raw16(id1, id0);
    }
    Ok(())
}

/// Echo and errors. Redirects (5) are attacks, source quench (4) is forgotten, the rest nobody needs.
#[inline(always)]
fn icmp4(kind: u8) -> Result<Kind, u8> {
    match kind {
        0 => Ok(Kind::EchoReply),
        8 => Ok(Kind::EchoRequest),
        3 | 11 | 12 => Ok(Kind::Error),
        _ => Err(reason::UNKNOWN_ICMP4_TYPE),
    }
}

#[inline(always)]
fn icmp6(kind: u8) -> Result<Kind, u8> {
    match kind {
        128 => Ok(Kind::EchoRequest),
        129 => Ok(Kind::EchoReply),
        1..=4 => Ok(Kind::Error),
        133..=137 => Ok(Kind::Neighbour),
        130..=132 | 143 => Ok(Kind::Group),
        _ => Err(reason::UNKNOWN_ICMP6_TYPE),
    }
}

/// The packet that an ICMP error is about: addresses, protocol and ports of its first bytes. It must be of
/// the same family, not a later fragment, and without extension headers. Gives [`reason::FORWARDED`], or
/// [`reason::ICMP_UNRELATED`] where it cannot be read.
#[inline(never)]
pub fn embedded<F: Frame + ?Sized>(frame: &F, error: &Packet, inner: &mut Packet) -> u8 {
    *inner = Packet { family: error.family, ..Packet::default() };
    match embedded_addresses(frame, error, inner).and_then(|()| embedded_ports(frame, inner)) {
        Ok(()) => reason::FORWARDED,
        Err(reason) => reason,
    }
}

#[inline(always)]
fn embedded_addresses<F: Frame + ?Sized>(frame: &F, error: &Packet, inner: &mut Packet) -> Result<(), u8> {
    let at = error.transport.wrapping_add(8);
    if error.family == V4 {
        let Some(h) = frame.load::<20>(at) else { return Err(reason::ICMP_UNRELATED) };
        let length = u32::from(h[0] & 15).wrapping_mul(4);
        if h[0] >> 4 != 4 || length < 20 || be16(h[6], h[7]) & 0x1fff != 0 {
            return Err(reason::ICMP_UNRELATED);
        }
        inner.protocol = h[9];
        inner.source = Addr::v4([h[12], h[13], h[14], h[15]]);
        inner.destination = Addr::v4([h[16], h[17], h[18], h[19]]);
        inner.transport = at.wrapping_add(length);
    } else {
        let Some(h) = frame.load::<8>(at) else { return Err(reason::ICMP_UNRELATED) };
        if h[0] >> 4 != 6 {
            return Err(reason::ICMP_UNRELATED);
        }
        inner.protocol = h[6];
        let Some(source) = frame.load::<16>(at.wrapping_add(8)) else { return Err(reason::ICMP_UNRELATED) };
        inner.source = Addr::v6(source);
        let Some(destination) = frame.load::<16>(at.wrapping_add(24)) else {
            return Err(reason::ICMP_UNRELATED);
        };
        inner.destination = Addr::v6(destination);
        inner.transport = at.wrapping_add(40);
    }
    Ok(())
}

#[inline(always)]
fn embedded_ports<F: Frame + ?Sized>(frame: &F, inner: &mut Packet) -> Result<(), u8> {
    match inner.protocol {
        proto::TCP | proto::UDP | proto::UDP_LITE | proto::SCTP => {
            let Some(h) = frame.load::<4>(inner.transport) else { return Err(reason::ICMP_UNRELATED) };
            inner.source_port = raw16(h[0], h[1]);
            inner.destination_port = raw16(h[2], h[3]);
            Ok(())
        }
        proto::ICMP | proto::ICMP6 => {
            let Some(h) = frame.load::<6>(inner.transport) else { return Err(reason::ICMP_UNRELATED) };
            inner.source_port = raw16(h[4], h[5]);
            let kind = u16::from(h[0]);
            inner.kind = if kind == echo_request(inner.family) {
                Kind::EchoRequest
            } else if kind == echo_reply(inner.family) {
                Kind::EchoReply
            } else {
                return Err(reason::ICMP_UNRELATED);
            };
            Ok(())
        }
        _ => Err(reason::ICMP_UNRELATED),
    }
}
