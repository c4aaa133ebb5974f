//! The IPv6 header and its extension headers (RFC 8200).

use crate::addr::{Addr, V6};
use crate::frame::{Frame, be16};
use crate::limits;
use crate::packet::Packet;
use crate::proto::ext;
use crate::reason;

#[inline(always)]
pub(super) fn header<F: Frame + ?Sized>(frame: &F, at: u32, packet: &mut Packet) -> Result<(), u8> {
    let Some(h) = frame.load::<8>(at) else { return Err(reason::INVALID_PACKET) };
    let Some(source) = frame.load::<16>(at.wrapping_add(8)) else { return Err(reason::INVALID_PACKET) };
    packet.source = Addr::v6(source);
    let Some(destination) = frame.load::<16>(at.wrapping_add(24)) else {
        return Err(reason::INVALID_PACKET);
    };
    packet.destination = Addr::v6(destination);
    let payload = u32::from(be16(h[4], h[5]));
    let present = frame.len().wrapping_sub(at).wrapping_sub(40);
    if h[0] >> 4 != 6 || payload > present {
        return Err(reason::INVALID_PACKET);
    }
    packet.family = V6;
    packet.hops = h[7];
    let start = at.wrapping_add(40);
    let end = start.wrapping_add(payload);
    extensions(frame, Walk { next: h[6], at: start, end, first: true, fragment: false }, packet)
}

/// The way through the extension headers.
struct Walk {
    next: u8,
    at: u32,
    end: u32,
    first: bool,
    fragment: bool,
}

/// Walks to the transport header. Hop-by-hop options only in front, at most one fragment header, and no
/// header after it in a real fragment (a later fragment could not tell what it belongs to). Routing headers
/// and what else could change the destination are refused, and so are jumbograms, whose length we cannot see.
///
/// Written out instead of looping: older verifiers (Linux 6.1 is one) refuse the loop that the compiler makes.
#[inline(always)]
fn extensions<F: Frame + ?Sized>(frame: &F, mut walk: Walk, packet: &mut Packet) -> Result<(), u8> {
    const { assert!(limits::EXTENSION_HEADERS == 4) };
    step(frame, &mut walk, packet)?;
    step(frame, &mut walk, packet)?;
    step(frame, &mut walk, packet)?;
    step(frame, &mut walk, packet)?;
    if is_extension(walk.next) || walk.at > walk.end {
        return Err(reason::INVALID_EXTENSION_HEADER);
    }
    packet.protocol = walk.next;
    packet.transport = walk.at;
    packet.available = walk.end.wrapping_sub(walk.at);
    Ok(())
}

/// One header further, or nothing if there is no more.
#[inline(always)]
fn step<F: Frame + ?Sized>(frame: &F, walk: &mut Walk, packet: &mut Packet) -> Result<(), u8> {
    if !is_extension(walk.next) {
        return Ok(());
    }
    let misplaced =
        (walk.next == ext::HOP_BY_HOP && !walk.first) || (walk.next == ext::FRAGMENT && walk.fragment);
    let forbidden = misplaced || packet.more_fragments || packet.fragment_offset != 0;
    if forbidden || walk.at.wrapping_add(8) > walk.end {
        return Err(reason::INVALID_EXTENSION_HEADER);
    }
    let Some(h) = frame.load::<8>(walk.at) else { return Err(reason::INVALID_EXTENSION_HEADER) };
    let mut length = 8;
    match walk.next {
        ext::FRAGMENT => {
            let word = be16(h[2], h[3]);
            packet.fragment_offset = u32::from(word & 0xfff8);
            packet.more_fragments = word & 1 != 0;
            packet.fragment_id = u32::from_ne_bytes([h[4], h[5], h[6], h[7]]);
            walk.fragment = true;
        }
        ext::HOP_BY_HOP | ext::DESTINATION => length = u32::from(h[1]).wrapping_add(1).wrapping_mul(8),
        _ => return Err(reason::INVALID_EXTENSION_HEADER),
    }
    walk.at = walk.at.wrapping_add(length);
    walk.next = h[0];
    walk.first = false;
    Ok(())
}

#[inline(always)]
const fn is_extension(next: u8) -> bool {
    matches!(
        next,
        ext::HOP_BY_HOP
            | ext::ROUTING
            | ext::FRAGMENT
            | ext::DESTINATION
            | ext::MOBILITY
            | ext::HIP
            | ext::SHIM6
    )
}
