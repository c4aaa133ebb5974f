//! Ports of fragments: the first one says them, the others are looked up.

use crate::frag::{FragKey, FragPorts};
use crate::maps::Maps;
use crate::packet::{Kind, Packet, echo_reply, echo_request, has_ports};
use crate::proto;
use crate::reason;

/// Remembers the ports of a first fragment, fills in those of a later one. A whole packet is left alone.
/// Gives [`reason::FORWARDED`], or why it is dropped.
#[inline(always)]
pub fn follow<M: Maps>(maps: &M, slot: u16, direction: u8, packet: &mut Packet) -> u8 {
    let later = packet.kind == Kind::LaterFragment;
    let first = packet.is_first_fragment() && has_ports(packet.protocol);
    if later || first { look_up(maps, slot, direction, packet, later) } else { reason::FORWARDED }
}

#[inline(never)]
fn look_up<M: Maps>(maps: &M, slot: u16, direction: u8, packet: &mut Packet, later: bool) -> u8 {
    let key = FragKey {
        source: packet.source,
        destination: packet.destination,
        id: packet.fragment_id,
        slot,
        protocol: packet.protocol,
        direction,
    };
    if later {
        let Some(ports) = maps.fragment(packet.family, &key) else { return reason::FRAG_NOT_FOUND };
        complete(packet, ports);
        return reason::FORWARDED;
    }
    let ports = FragPorts { source: packet.source_port, destination: packet.destination_port };
    if maps.put_fragment(packet.family, &key, &ports) { reason::FORWARDED } else { reason::FRAG_NOT_FOUND }
}

#[inline(always)]
fn complete(packet: &mut Packet, ports: FragPorts) {
    packet.source_port = ports.source;
    packet.destination_port = ports.destination;
    let number = u16::from_be(ports.destination);
    packet.kind = match packet.protocol {
        proto::ICMP | proto::ICMP6 if number == echo_request(packet.family) => Kind::EchoRequest,
        proto::ICMP | proto::ICMP6 if number == echo_reply(packet.family) => Kind::EchoReply,
        _ => Kind::Flow,
    };
}
