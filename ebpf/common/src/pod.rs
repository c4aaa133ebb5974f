//! The two programs on a pod's host-side device: everything from its packet to what is done with it.

use crate::addr::{Addr, V6};
use crate::config::{self, Config};
use crate::decide;
use crate::endpoint::{self, Endpoint};
use crate::event::kind;
use crate::flow::{self, Ruling, Seen};
use crate::frag::{FragKey, FragPorts};
use crate::frame::Frame;
use crate::ipcache;
use crate::maps::{Maps, Scratch};
use crate::packet::{Kind, Packet, echo_reply, echo_request, has_ports};
use crate::park::Parked;
use crate::parse;
use crate::policy::direction;
use crate::proto::{self, ether};
use crate::reason;
use crate::report::{self, About};
use crate::wait;

/// What is done with a packet. Nothing else is ever done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Goes its way.
    Pass,
    /// Is dropped.
    Drop,
    /// Goes to the parking device with these two MAC addresses.
    Park {
        /// Interface index of the device.
        ifindex: u32,
        /// Destination and source.
        macs: [u8; 12],
    },
    /// Comes back from parking to the device of its endpoint.
    Release {
        /// Interface index of the device.
        ifindex: u32,
        /// Destination and source.
        macs: [u8; 12],
        /// As if it were received there (from the pod) rather than sent.
        ingress: bool,
        /// The mark it carries there.
        mark: u32,
    },
}

/// What a packet meets on its way; `Err` is a reason to drop it.
enum Step {
    /// Pass without a flow: ARP, neighbour discovery, a related ICMP error.
    Pass,
    /// The flow decides.
    Flow,
}

/// A packet at a program: what all steps need.
struct Here<'a, F: ?Sized, M> {
    frame: &'a F,
    maps: &'a M,
    config: &'a Config,
    endpoint: &'a Endpoint,
    direction: u8,
    now: u64,
}

/// A packet that comes out of a pod. `round` is how many times it has been parked.
#[inline(always)]
pub fn from_pod<F: Frame + ?Sized, M: Maps>(frame: &F, maps: &M, ifindex: u32, round: u8) -> Action {
    run(frame, maps, ifindex, round, direction::EGRESS)
}

/// A packet that goes into a pod.
#[inline(always)]
pub fn to_pod<F: Frame + ?Sized, M: Maps>(frame: &F, maps: &M, ifindex: u32, round: u8) -> Action {
    run(frame, maps, ifindex, round, direction::INGRESS)
}

#[inline(always)]
fn run<F: Frame + ?Sized, M: Maps>(frame: &F, maps: &M, ifindex: u32, round: u8, direction: u8) -> Action {
    maps.with_scratch(|scratch| {
        scratch.packet = Packet::default();
        examine(frame, maps, scratch, ifindex, round, direction)
    })
    .unwrap_or(Action::Drop)
}

#[inline(always)]
fn examine<F: Frame + ?Sized, M: Maps>(
    frame: &F,
    maps: &M,
    scratch: &mut Scratch,
    ifindex: u32,
    round: u8,
    direction: u8,
) -> Action {
    let Scratch { packet, quoted } = scratch;
    let Some(endpoint) = maps.endpoint(ifindex).filter(|found| found.flags & endpoint::flag::READY != 0)
    else {
        let about = About { reason: reason::EP_NOT_READY, direction, ..About::default() };
        return refuse(maps, frame, &about, packet, maps.coarse_now());
    };
    let Some(config) = maps.config().filter(|found| found.has(config::flag::READY)) else {
        let about = About { reason: reason::NO_CONFIG, direction, slot: endpoint.slot, ..About::default() };
        return refuse(maps, frame, &about, packet, maps.coarse_now());
    };
    let here = Here { frame, maps, config, endpoint, direction, now: maps.coarse_now() };
    let step = if direction == direction::EGRESS { here.leaves(packet) } else { here.arrives(packet) };
    match step.and_then(|step| here.follow(step, packet, quoted)) {
        Ok(Step::Pass) => here.pass(),
        Ok(Step::Flow) => here.flow(packet, round),
        Err(reason) => refuse(maps, frame, &here.about(reason), packet, here.now),
    }
}

impl<F: Frame + ?Sized, M: Maps> Here<'_, F, M> {
    /// Anti-spoofing: whatever leaves a pod carries the pod's own addresses.
    #[inline(always)]
    fn leaves(&self, packet: &mut Packet) -> Result<Step, u8> {
        if self.frame.vlan() {
            return Err(reason::VLAN);
        }
        let Some(header) = parse::ethernet(self.frame) else { return Err(reason::INVALID_PACKET) };
        if header.source != self.endpoint.mac {
            return Err(reason::INVALID_SOURCE_MAC);
        }
        if header.ethertype == ether::ARP {
            return self.own_arp();
        }
        parse::ip(self.frame, header.ethertype, packet)?;
        let to_group = header.destination[0] & 1 != 0;
        if packet.kind == Kind::Neighbour {
            return self.own_neighbour(packet);
        }
        if to_group || packet.kind == Kind::Group || packet.is_multicast() {
            return Err(reason::MULTICAST);
        }
        if header.destination != self.endpoint.host_mac {
            return Err(reason::INVALID_DESTINATION_MAC);
        }
        if !self.endpoint.owns(packet.family, &packet.source) {
            return Err(reason::INVALID_SOURCE_IP);
        }
        Ok(Step::Flow)
    }

    #[inline(always)]
    fn own_arp(&self) -> Result<Step, u8> {
        let Some((mac, ip)) = parse::arp(self.frame) else { return Err(reason::ARP_SPOOF) };
        let own = ip == self.endpoint.ip4 && ip != 0;
        // An ARP probe asks before it has an address (RFC 5227).
        if mac == self.endpoint.mac && (own || ip == 0) { Ok(Step::Pass) } else { Err(reason::ARP_SPOOF) }
    }

    /// Solicitations and advertisements for the pod's own addresses, to its own link; nothing of routers.
    #[inline(always)]
    fn own_neighbour(&self, packet: &Packet) -> Result<Step, u8> {
        const SOLICITATION: u16 = 135u16.to_be();
        const ADVERTISEMENT: u16 = 136u16.to_be();
        const ROUTER_SOLICITATION: u16 = 133u16.to_be();
        let advertises = packet.destination_port == ADVERTISEMENT;
        if packet.destination_port == ROUTER_SOLICITATION {
            return Err(reason::MULTICAST);
        }
        if packet.hops != 255 || !(advertises || packet.destination_port == SOLICITATION) {
            return Err(reason::FORBIDDEN_ICMP6);
        }
        let Some((target, mac)) = parse::neighbour(self.frame, packet) else {
            return Err(reason::FORBIDDEN_ICMP6);
        };
        let link = is_own_link(&packet.destination);
        let probe = !advertises && packet.source.is_unspecified();
        let source = probe || self.owns6(&packet.source);
        let option = mac.is_none_or(|mac| mac == self.endpoint.mac);
        let target = !(advertises || probe) || self.owns6(&target);
        if link && source && option && target { Ok(Step::Pass) } else { Err(reason::FORBIDDEN_ICMP6) }
    }

    #[inline(always)]
    fn owns6(&self, address: &Addr) -> bool {
        self.endpoint.owns(V6, address) || self.endpoint.link_local() == *address
    }

    /// The host is trusted on the link; what it routes to the pod must be the pod's.
    #[inline(always)]
    fn arrives(&self, packet: &mut Packet) -> Result<Step, u8> {
        if self.frame.vlan() {
            return Err(reason::VLAN);
        }
        let Some(header) = parse::ethernet(self.frame) else { return Err(reason::INVALID_PACKET) };
        if header.ethertype == ether::ARP {
            return Ok(Step::Pass);
        }
        parse::ip(self.frame, header.ethertype, packet)?;
        if packet.kind == Kind::Neighbour {
            let number = u16::from_be(packet.destination_port);
            // Only the link itself can have sent it (RFC 4861, 7.1).
            let genuine = packet.hops == 255 && matches!(number, 135 | 136);
            return if genuine { Ok(Step::Pass) } else { Err(reason::FORBIDDEN_ICMP6) };
        }
        if packet.kind == Kind::Group || packet.is_multicast() {
            return Err(reason::MULTICAST);
        }
        if !self.endpoint.owns(packet.family, &packet.destination) {
            return Err(reason::STALE_OR_UNROUTABLE);
        }
        Ok(Step::Flow)
    }

    /// Finds the ports of a fragment and judges ICMP errors; leaves the rest to the flow.
    #[inline(always)]
    fn follow(&self, step: Step, packet: &mut Packet, quoted: &mut Packet) -> Result<Step, u8> {
        if matches!(step, Step::Pass) {
            return Ok(step);
        }
        if packet.kind == Kind::Error {
            return if self.is_related(packet, quoted)? {
                Ok(Step::Pass)
            } else {
                Err(reason::ICMP_UNRELATED)
            };
        }
        if packet.kind == Kind::LaterFragment {
            self.complete(packet)?;
        } else if packet.first_fragment && has_ports(packet.protocol) {
            self.remember(packet)?;
        }
        Ok(Step::Flow)
    }

    #[inline(always)]
    fn fragment_key(&self, packet: &Packet) -> FragKey {
        FragKey {
            source: packet.source,
            destination: packet.destination,
            id: packet.fragment_id,
            slot: self.endpoint.slot,
            protocol: packet.protocol,
            direction: self.direction,
        }
    }

    #[inline(always)]
    fn remember(&self, packet: &Packet) -> Result<(), u8> {
        let ports = FragPorts { source: packet.source_port, destination: packet.destination_port };
        let kept = self.maps.put_fragment(packet.family, &self.fragment_key(packet), &ports);
        if kept { Ok(()) } else { Err(reason::FRAG_NOT_FOUND) }
    }

    #[inline(always)]
    fn complete(&self, packet: &mut Packet) -> Result<(), u8> {
        let Some(ports) = self.maps.fragment(packet.family, &self.fragment_key(packet)) else {
            return Err(reason::FRAG_NOT_FOUND);
        };
        packet.source_port = ports.source;
        packet.destination_port = ports.destination;
        let number = u16::from_be(ports.destination);
        packet.kind = match packet.protocol {
            proto::ICMP | proto::ICMP6 if number == echo_request(packet.family) => Kind::EchoRequest,
            proto::ICMP | proto::ICMP6 if number == echo_reply(packet.family) => Kind::EchoReply,
            _ => Kind::Flow,
        };
        Ok(())
    }

    /// An ICMP error passes if what it quotes went the other way through this endpoint in a live flow, and it
    /// comes from the flow's peer or from something that is no pod (a router).
    #[inline(always)]
    fn is_related(&self, packet: &Packet, quoted: &mut Packet) -> Result<bool, u8> {
        parse::embedded(self.frame, packet, quoted)?;
        let (own, other_way) = if self.direction == direction::EGRESS {
            (quoted.destination, direction::INGRESS)
        } else {
            (quoted.source, direction::EGRESS)
        };
        if !self.endpoint.owns(packet.family, &own) {
            return Ok(false);
        }
        if self.direction == direction::INGRESS && packet.source != quoted.destination {
            let sender = decide::whois(self.maps, packet.family, &packet.source);
            if sender.has(ipcache::flag::POD) {
                return Ok(false);
            }
        }
        Ok(flow::is_live(self.maps, self.config, self.endpoint, quoted, other_way, self.now))
    }

    #[inline(always)]
    fn flow(&self, packet: &Packet, round: u8) -> Action {
        let length = self.frame.len();
        let seen = Seen { packet, direction: self.direction, length, now: self.now };
        let (verdict, new, had_proof) = match flow::rule(self.maps, self.config, self.endpoint, &seen) {
            Ruling::Known => return self.pass(),
            Ruling::Unsolicited => {
                return refuse(self.maps, self.frame, &self.about(reason::ICMP_UNRELATED), packet, self.now);
            }
            Ruling::Fresh { verdict, new, had_proof } => (verdict, new, had_proof),
        };
        let about = About {
            auth_type: verdict.auth_type,
            node: verdict.remote.node,
            rule_id: verdict.rule_id,
            remote: verdict.remote.identity,
            ..self.about(verdict.reason)
        };
        match verdict.reason {
            reason::FORWARDED => {
                if new && self.config.has(config::flag::VERDICT_EVENTS) {
                    let about = About { kind: kind::VERDICT, ..about };
                    report::report(self.maps, &about, packet, self.now);
                }
                self.pass()
            }
            reason::AUTH_REQUIRED => {
                let kind = if had_proof { kind::PROOF_ENDED } else { kind::AUTH_REQUIRED };
                self.wait(&seen, &verdict, &About { kind, ..about }, round)
            }
            _ => refuse(self.maps, self.frame, &about, packet, self.now),
        }
    }

    #[inline(always)]
    fn wait(&self, seen: &Seen<'_>, verdict: &decide::Verdict, about: &About, round: u8) -> Action {
        let wait = wait::wait(self.maps, self.config, self.endpoint, seen, verdict, round);
        let about = About { reason: wait.reason, ..*about };
        self.maps.count(self.direction, wait.reason, seen.length);
        match wait.report {
            Some(unreported) => report::send(self.maps, &about, seen.packet, unreported, 0),
            None => self.maps.count_suppressed(self.direction, wait.reason),
        }
        if wait.reason != reason::PARKED {
            return Action::Drop;
        }
        let parked = Parked {
            direction: self.direction,
            round: round.wrapping_add(1),
            slot: self.endpoint.slot,
            node: verdict.remote.node,
            remote: verdict.remote.identity,
        };
        Action::Park { ifindex: self.config.park_ifindex, macs: parked.encode() }
    }

    #[inline(always)]
    fn pass(&self) -> Action {
        self.maps.count(self.direction, reason::FORWARDED, self.frame.len());
        Action::Pass
    }

    #[inline(always)]
    fn about(&self, reason: u8) -> About {
        About {
            kind: kind::DROP,
            reason,
            direction: self.direction,
            slot: self.endpoint.slot,
            local: self.endpoint.identity,
            length: self.frame.len(),
            ..About::default()
        }
    }
}

/// Where a neighbour message may go: the solicited-node and all-nodes groups, and the link itself.
#[inline(always)]
fn is_own_link(address: &Addr) -> bool {
    let [first, second, ..] = address.words[0].to_ne_bytes();
    (first == 0xff && second == 0x02) || (first == 0xfe && second & 0xc0 == 0x80)
}

/// Drops: counted, and reported unless it is noise.
#[inline(always)]
pub(crate) fn refuse<F: Frame + ?Sized, M: Maps>(
    maps: &M,
    frame: &F,
    about: &About,
    packet: &Packet,
    now: u64,
) -> Action {
    let length = frame.len();
    maps.count(about.direction, about.reason, length);
    if !report::is_quiet(about.reason) {
        report::report(maps, &About { kind: kind::DROP, length, ..*about }, packet, now);
    }
    Action::Drop
}
