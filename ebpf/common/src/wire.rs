//! The uplink, the encrypted device and the parking device.

use crate::action::{Action, Errand};
use crate::addr::Addr;
use crate::config;
use crate::decide::whois;
use crate::endpoint;
use crate::event::kind;
use crate::frame::{Frame, be16};
use crate::identity;
use crate::ipcache::{IpEntry, flag};
use crate::maps::{Maps, Scratch};
use crate::metrics;
use crate::packet::Packet;
use crate::park::{MARK, Parked};
use crate::parse;
use crate::pod::refuse;
use crate::policy::direction;
use crate::proto::ether;
use crate::reason;
use crate::report::About;

/// Who sends to whom, as the address tables know them.
struct Pair {
    family: u8,
    source: Addr,
    destination: Addr,
    from: IpEntry,
    to: IpEntry,
}

/// A packet on its way to the wire: nothing of pods leaves in the clear.
#[inline(always)]
pub fn to_wire<F: Frame + ?Sized, M: Maps>(frame: &F, maps: &M) -> Action {
    let Some((family, source, destination)) = watched(frame, maps) else { return Action::Pass };
    let to = whois(maps, family, &destination);
    if !to.has(flag::POD) {
        return pass(maps, frame);
    }
    let from = whois(maps, family, &source);
    // To a pod of ours there is no way by the wire. One that has just gone has no route any more, and what the node
    // would tell it (that another pod cannot be reached, with the packet it has sent) takes the default route.
    if !to.has(flag::ENCRYPTED) && !to.has(flag::LOCAL) && !from.has(flag::POD) {
        return pass(maps, frame);
    }
    let pair = Pair { family, source, destination, from, to };
    drop_pair(maps, frame, reason::UNENCRYPTED_TRAFFIC, &pair, direction::EGRESS)
}

/// A packet from the wire: whatever claims to come from a pod that we hear encrypted, or from one of our own,
/// is plaintext from who should not send it.
#[inline(always)]
pub fn from_wire<F: Frame + ?Sized, M: Maps>(frame: &F, maps: &M) -> Action {
    let Some((family, source, destination)) = watched(frame, maps) else { return Action::Pass };
    let from = whois(maps, family, &source);
    let forbidden = from.has(flag::POD) && (from.has(flag::LOCAL) || from.has(flag::ENCRYPTED));
    if !forbidden {
        return pass(maps, frame);
    }
    let pair = Pair { family, source, destination, from, to: IpEntry::default() };
    drop_pair(maps, frame, reason::UNENCRYPTED_TRAFFIC, &pair, direction::INGRESS)
}

/// A packet on its way into the encrypted device: from a pod of ours or from this node, to another node's pod.
#[inline(always)]
pub fn to_wg<F: Frame + ?Sized, M: Maps>(frame: &F, maps: &M) -> Action {
    let Some(pair) = tunnelled(frame, maps) else { return drop_unknown(maps, frame) };
    let own = pair.from.has(flag::POD | flag::LOCAL) || pair.from.identity == identity::HOST;
    let reason = if !own {
        reason::INVALID_SOURCE_IP
    } else if !pair.to.has(flag::POD) || pair.to.has(flag::LOCAL) {
        reason::STALE_OR_UNROUTABLE
    } else {
        return pass(maps, frame);
    };
    drop_pair(maps, frame, reason, &pair, direction::EGRESS)
}

/// A packet out of the encrypted device: from another node's pod (or from that node, where its own traffic is
/// encrypted too), to a pod of ours.
#[inline(always)]
pub fn from_wg<F: Frame + ?Sized, M: Maps>(frame: &F, maps: &M) -> Action {
    let Some(pair) = tunnelled(frame, maps) else { return drop_unknown(maps, frame) };
    let from_pod = pair.from.has(flag::POD) && !pair.from.has(flag::LOCAL) && pair.from.node != 0;
    let from_node = pair.from.identity == identity::REMOTE_NODE && pair.from.has(flag::ENCRYPTED);
    let reason = if !(from_pod || from_node) {
        reason::INVALID_SOURCE_IP
    } else if !pair.to.has(flag::POD | flag::LOCAL) {
        reason::STALE_OR_UNROUTABLE
    } else {
        return pass(maps, frame);
    };
    drop_pair(maps, frame, reason, &pair, direction::INGRESS)
}

/// A frame that the agent gives back: to its endpoint, the way it came, as it was.
#[inline(always)]
pub fn from_park<F: Frame + ?Sized, M: Maps>(frame: &F, maps: &M, errand: &mut Errand) -> Action {
    let Some(parked) = frame.load::<12>(0).and_then(|macs| Parked::decode(&macs)) else {
        return drop_plain(maps, frame, reason::PARK_INVALID, 0);
    };
    let Some(endpoint) = maps.slot(parked.slot).filter(|found| found.flags & endpoint::flag::READY != 0)
    else {
        return drop_plain(maps, frame, reason::EP_NOT_READY, parked.slot);
    };
    maps.count(metrics::WIRE, reason::PARKED, frame.len());
    let ingress = parked.direction == direction::EGRESS;
    let (to, from) =
        if ingress { (endpoint.host_mac, endpoint.mac) } else { (endpoint.mac, endpoint.host_mac) };
    errand.ifindex = endpoint.ifindex;
    errand.macs =
        [to[0], to[1], to[2], to[3], to[4], to[5], from[0], from[1], from[2], from[3], from[4], from[5]];
    errand.mark = MARK | u32::from(parked.comes_back());
    if ingress { Action::ReleaseIn } else { Action::ReleaseOut }
}

/// The addresses of an IP packet on the wire, tagged or not; `None` where there is nothing to watch for.
#[inline(always)]
fn watched<F: Frame + ?Sized, M: Maps>(frame: &F, maps: &M) -> Option<(u8, Addr, Addr)> {
    maps.config().filter(|found| found.has(config::flag::READY | config::flag::ENCRYPTION))?;
    let header = parse::ethernet(frame)?;
    let (mut ethertype, mut at) = (header.ethertype, parse::ETHERNET);
    if matches!(ethertype, ether::VLAN | ether::QINQ) {
        let [_, _, t1, t0] = frame.load::<4>(at)?;
        ethertype = be16(t1, t0);
        at = at.wrapping_add(4);
    }
    if !matches!(ethertype, ether::IPV4 | ether::IPV6) {
        return None;
    }
    parse::addresses(frame, at)
}

/// The encrypted device has no link layer: the packet starts with its IP header.
#[inline(always)]
fn tunnelled<F: Frame + ?Sized, M: Maps>(frame: &F, maps: &M) -> Option<Pair> {
    let (family, source, destination) = parse::addresses(frame, 0)?;
    let from = whois(maps, family, &source);
    let to = whois(maps, family, &destination);
    Some(Pair { family, source, destination, from, to })
}

#[inline(always)]
fn pass<F: Frame + ?Sized, M: Maps>(maps: &M, frame: &F) -> Action {
    maps.count(metrics::WIRE, reason::FORWARDED, frame.len());
    Action::Pass
}

#[inline(always)]
fn drop_unknown<F: Frame + ?Sized, M: Maps>(maps: &M, frame: &F) -> Action {
    drop_plain(maps, frame, reason::UNSUPPORTED_L2, 0)
}

#[inline(always)]
fn drop_plain<F: Frame + ?Sized, M: Maps>(maps: &M, frame: &F, reason: u8, slot: u16) -> Action {
    let about = About { reason, slot, ..About::default() };
    drop_about(maps, frame, about, Packet::default())
}

/// `towards` says which of the two is the local side.
#[inline(always)]
fn drop_pair<F: Frame + ?Sized, M: Maps>(
    maps: &M,
    frame: &F,
    reason: u8,
    pair: &Pair,
    towards: u8,
) -> Action {
    let (local, remote) =
        if towards == direction::EGRESS { (pair.from, pair.to) } else { (pair.to, pair.from) };
    let about = About {
        reason,
        local: local.identity,
        remote: remote.identity,
        node: remote.node,
        ..About::default()
    };
    let packet = Packet {
        family: pair.family,
        source: pair.source,
        destination: pair.destination,
        ..Packet::default()
    };
    drop_about(maps, frame, about, packet)
}

#[inline(always)]
fn drop_about<F: Frame + ?Sized, M: Maps>(maps: &M, frame: &F, about: About, packet: Packet) -> Action {
    maps.with_scratch(|scratch: &mut Scratch| {
        scratch.about = About { kind: kind::DROP, direction: metrics::WIRE, length: frame.len(), ..about };
        scratch.packet = packet;
        refuse(maps, &scratch.about, &scratch.packet);
    });
    Action::Drop
}
