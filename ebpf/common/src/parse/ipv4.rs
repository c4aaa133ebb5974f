//! The IPv4 header (RFC 791).

use crate::addr::{Addr, V4};
use crate::frame::{Frame, be16, raw16};
use crate::packet::Packet;
use crate::reason;

const MORE: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;

#[inline(always)]
pub(super) fn header<F: Frame + ?Sized>(frame: &F, at: u32, packet: &mut Packet) -> Result<(), u8> {
    let Some(h) = frame.load::<20>(at) else { return Err(reason::INVALID_PACKET) };
    let length = u32::from(h[0] & 15).wrapping_mul(4);
    let total = u32::from(be16(h[2], h[3]));
    let present = frame.len().wrapping_sub(at);
    if h[0] >> 4 != 4 || length < 20 || total < length || total > present {
        return Err(reason::INVALID_PACKET);
    }
    packet.family = V4;
    packet.hops = h[8];
    packet.protocol = h[9];
    packet.source = Addr::v4([h[12], h[13], h[14], h[15]]);
    packet.destination = Addr::v4([h[16], h[17], h[18], h[19]]);
    packet.transport = at.wrapping_add(length);
    packet.fragment_id = u32::from(raw16(h[4], h[5]));
    let fragment = be16(h[6], h[7]);
    packet.available = total.wrapping_sub(length);
    packet.fragment_offset = u32::from(fragment & OFFSET).wrapping_mul(8);
    packet.more_fragments = fragment & MORE != 0;
    Ok(())
}
