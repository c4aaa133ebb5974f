//! Anti-spoofing: what leaves a pod carries the pod's own addresses, what arrives is meant for it.

use crate::addr::{Addr, V6};
use crate::endpoint::Endpoint;
use crate::frame::Frame;
use crate::packet::{Kind, Packet};
use crate::parse;
use crate::proto::ether;
use crate::reason;

/// What the guard leaves to be decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: ARP and neighbour discovery, which never leave the link.
    Pass,
    /// The flow decides.
    Flow,
}

/// A frame out of a pod.
#[inline(always)]
pub fn leaves<F: Frame + ?Sized>(frame: &F, endpoint: &Endpoint, packet: &mut Packet) -> Result<Step, u8> {
    if frame.vlan() {
        return Err(reason::VLAN);
    }
    let Some(header) = parse::ethernet(frame) else { return Err(reason::INVALID_PACKET) };
    if header.source != endpoint.mac {
        return Err(reason::INVALID_SOURCE_MAC);
    }
    if header.ethertype == ether::ARP {
        return own_arp(frame, endpoint);
    }
    read(frame, header.ethertype, packet)?;
    if packet.kind == Kind::Neighbour {
        return own_neighbour(frame, endpoint, packet);
    }
    let to_group = header.destination[0] & 1 != 0;
    if to_group || packet.kind == Kind::Group || packet.is_multicast() {
        return Err(reason::MULTICAST);
    }
    if header.destination != endpoint.host_mac {
        return Err(reason::INVALID_DESTINATION_MAC);
    }
    if !endpoint.owns(packet.family, &packet.source) {
        return Err(reason::INVALID_SOURCE_IP);
    }
    Ok(Step::Flow)
}

/// A frame into a pod. The host is trusted on the link; what it routes to the pod must be the pod's.
#[inline(always)]
pub fn arrives<F: Frame + ?Sized>(frame: &F, endpoint: &Endpoint, packet: &mut Packet) -> Result<Step, u8> {
    if frame.vlan() {
        return Err(reason::VLAN);
    }
    let Some(header) = parse::ethernet(frame) else { return Err(reason::INVALID_PACKET) };
    if header.ethertype == ether::ARP {
        return Ok(Step::Pass);
    }
    read(frame, header.ethertype, packet)?;
    if packet.kind == Kind::Neighbour {
        let number = u16::from_be(packet.destination_port);
        // Only the link itself can have sent it (RFC 4861, 7.1).
        let genuine = packet.hops == 255 && matches!(number, 135 | 136);
        return if genuine { Ok(Step::Pass) } else { Err(reason::FORBIDDEN_ICMP6) };
    }
    if packet.kind == Kind::Group || packet.is_multicast() {
        return Err(reason::MULTICAST);
    }
    if !endpoint.owns(packet.family, &packet.destination) {
        return Err(reason::STALE_OR_UNROUTABLE);
    }
    Ok(Step::Flow)
}

#[inline(always)]
fn read<F: Frame + ?Sized>(frame: &F, ethertype: u16, packet: &mut Packet) -> Result<(), u8> {
    reason::check(parse::ip(frame, ethertype, packet))
}

#[inline(always)]
fn own_arp<F: Frame + ?Sized>(frame: &F, endpoint: &Endpoint) -> Result<Step, u8> {
    let Some((mac, ip)) = parse::arp(frame) else { return Err(reason::ARP_SPOOF) };
    // An ARP probe asks before it has an address (RFC 5227).
    let own = ip == endpoint.ip4 || ip == 0;
    if mac == endpoint.mac && own { Ok(Step::Pass) } else { Err(reason::ARP_SPOOF) }
}

/// Solicitations and advertisements for the pod's own addresses, to its own link; nothing of routers.
#[inline(always)]
fn own_neighbour<F: Frame + ?Sized>(frame: &F, endpoint: &Endpoint, packet: &Packet) -> Result<Step, u8> {
    const ROUTER_SOLICITATION: u16 = 133;
    const SOLICITATION: u16 = 135;
    const ADVERTISEMENT: u16 = 136;
    let number = u16::from_be(packet.destination_port);
    if number == ROUTER_SOLICITATION {
        return Err(reason::MULTICAST);
    }
    let advertises = number == ADVERTISEMENT;
    if packet.hops != 255 || !(advertises || number == SOLICITATION) {
        return Err(reason::FORBIDDEN_ICMP6);
    }
    let Some((target, mac)) = parse::neighbour(frame, packet) else { return Err(reason::FORBIDDEN_ICMP6) };
    // Duplicate address detection asks for an address before it has it.
    let probe = !advertises && packet.source.is_unspecified();
    let genuine = is_on_link(&packet.destination)
        && (probe || owns6(endpoint, &packet.source))
        && mac.is_none_or(|mac| mac == endpoint.mac)
        && (!(advertises || probe) || owns6(endpoint, &target));
    if genuine { Ok(Step::Pass) } else { Err(reason::FORBIDDEN_ICMP6) }
}

#[inline(always)]
fn owns6(endpoint: &Endpoint, address: &Addr) -> bool {
    endpoint.owns(V6, address) || endpoint.link_local() == *address
}

/// Where a neighbour message may go: the groups of the link, and the link itself.
#[inline(always)]
fn is_on_link(address: &Addr) -> bool {
    let [first, second, ..] = address.words[0].to_ne_bytes();
    (first == 0xff && second == 0x02) || address.is_link_local(V6)
}
