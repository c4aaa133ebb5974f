//! The uplink, the encrypted device and the parking device.

use crate::addr::Addr;
use crate::config;
use crate::decide::whois;
use crate::endpoint;
use crate::frame::{Frame, be16};
use crate::identity;
use crate::ipcache::{IpEntry, flag};
use crate::maps::Maps;
use crate::metrics;
use crate::packet::Packet;
use crate::park::{MARK, Parked};
use crate::parse;
use crate::pod::{Action, refuse};
use crate::policy::direction;
use crate::proto::ether;
use crate::reason;
use crate::report::About;

/// A packet on its way to the wire: nothing of pods leaves in the clear.
#[inline(always)]
pub fn to_wire<F: Frame + ?Sized, M: Maps>(frame: &F, maps: &M) -> Action {
    let Some((family, source, destination)) = watched(frame, maps) else { return Action::Pass };
    let to = whois(maps, family, &destination);
    if !to.has(flag::POD) {
        return pass(maps, frame);
    }
    let from = whois(maps, family, &source);
    if !to.has(flag::ENCRYPTED) && !from.has(flag::POD) {
        return pass(maps, frame);
    }
    drop_packet(maps, frame, reason::UNENCRYPTED_TRAFFIC, (family, source, destination), from, to)
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
    let to = IpEntry { identity: identity::UNKNOWN, ..IpEntry::default() };
    drop_packet(maps, frame, reason::UNENCRYPTED_TRAFFIC, (family, source, destination), to, from)
}

/// A packet on its way into the encrypted device: from a pod of ours or from this node, to another node's pod.
#[inline(always)]
pub fn to_wg<F: Frame + ?Sized, M: Maps>(frame: &F, maps: &M) -> Action {
    let Some((family, source, destination)) = parse::addresses(frame, 0) else {
        return refuse_unknown(maps, frame);
    };
    let from = whois(maps, family, &source);
    let to = whois(maps, family, &destination);
    let reason = if !(from.has(flag::POD | flag::LOCAL) || from.identity == identity::HOST) {
        reason::INVALID_SOURCE_IP
    } else if !to.has(flag::POD) || to.has(flag::LOCAL) {
        reason::STALE_OR_UNROUTABLE
    } else {
        return pass(maps, frame);
    };
    drop_packet(maps, frame, reason, (family, source, destination), from, to)
}

/// A packet out of the encrypted device: from another node's pod (or from that node, where its own traffic is
/// encrypted too), to a pod of ours.
#[inline(always)]
pub fn from_wg<F: Frame + ?Sized, M: Maps>(frame: &F, maps: &M) -> Action {
    let Some((family, source, destination)) = parse::addresses(frame, 0) else {
        return refuse_unknown(maps, frame);
    };
    let from = whois(maps, family, &source);
    let to = whois(maps, family, &destination);
    let from_pod = from.has(flag::POD) && !from.has(flag::LOCAL) && from.node != 0;
    let from_node = from.identity == identity::REMOTE_NODE && from.has(flag::ENCRYPTED);
    let reason = if !(from_pod || from_node) {
        reason::INVALID_SOURCE_IP
    } else if !to.has(flag::POD | flag::LOCAL) {
        reason::STALE_OR_UNROUTABLE
    } else {
        return pass(maps, frame);
    };
    drop_packet(maps, frame, reason, (family, source, destination), to, from)
}

/// A frame that the agent gives back: to its endpoint, the way it came, as it was.
#[inline(always)]
pub fn from_park<F: Frame + ?Sized, M: Maps>(frame: &F, maps: &M) -> Action {
    let Some(parked) = frame.load::<12>(0).and_then(|macs| Parked::decode(&macs)) else {
        return park_refuse(maps, frame, reason::PARK_INVALID, 0);
    };
    let found = maps.slot(parked.slot);
    let Some(endpoint) = found.filter(|found| found.flags & endpoint::flag::READY != 0) else {
        return park_refuse(maps, frame, reason::EP_NOT_READY, parked.slot);
    };
    maps.count(metrics::WIRE, reason::PARKED, frame.len());
    let ingress = parked.direction == direction::EGRESS;
    let (to, from) =
        if ingress { (endpoint.host_mac, endpoint.mac) } else { (endpoint.mac, endpoint.host_mac) };
    Action::Release {
        ifindex: endpoint.ifindex,
        macs: [
            to[0], to[1], to[2], to[3], to[4], to[5], from[0], from[1], from[2], from[3], from[4], from[5],
        ],
        ingress,
        mark: MARK | parked.round as u32,
    }
}

#[inline(always)]
fn park_refuse<F: Frame + ?Sized, M: Maps>(maps: &M, frame: &F, reason: u8, slot: u16) -> Action {
    let about = About { reason, direction: metrics::WIRE, slot, ..About::default() };
    refuse(maps, frame, &about, &Packet::default(), maps.coarse_now())
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

#[inline(always)]
fn pass<F: Frame + ?Sized, M: Maps>(maps: &M, frame: &F) -> Action {
    maps.count(metrics::WIRE, reason::FORWARDED, frame.len());
    Action::Pass
}

#[inline(always)]
fn refuse_unknown<F: Frame + ?Sized, M: Maps>(maps: &M, frame: &F) -> Action {
    let about = About { reason: reason::UNSUPPORTED_L2, direction: metrics::WIRE, ..About::default() };
    refuse(maps, frame, &about, &Packet::default(), maps.coarse_now())
}

#[inline(always)]
fn drop_packet<F: Frame + ?Sized, M: Maps>(
    maps: &M,
    frame: &F,
    reason: u8,
    (family, source, destination): (u8, Addr, Addr),
    local: IpEntry,
    remote: IpEntry,
) -> Action {
    let about = About {
        reason,
        direction: metrics::WIRE,
        local: local.identity,
        remote: remote.identity,
        node: remote.node,
        ..About::default()
    };
    let packet = Packet { family, source, destination, ..Packet::default() };
    refuse(maps, frame, &about, &packet, maps.coarse_now())
}
