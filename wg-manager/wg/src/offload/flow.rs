//! What a packet is to joining: which flow it is of, and whether it could be joined with its neighbours.

use super::{ACK, Features, PSH, TCP, TCP_CSUM, UDP, UDP_CSUM, UDP_HEADER, get16, get32};
use crate::checksum::{addresses, finish, sum, word};

/// Ports of VXLAN: that of the standard, and that of Linux, Flannel and Cilium.
const VXLAN_PORTS: [u16; 2] = [4789, 8472];
/// Headers around the packet in a VXLAN datagram: IPv4 without options, UDP, VXLAN, Ethernet.
pub const VXLAN: usize = 20 + UDP_HEADER + 8 + 14;

/// What the flow of a packet is.
#[derive(Debug)]
pub enum Class {
    /// Of no flow that is ever joined.
    Other,
    /// Perhaps of any flow: nothing may be joined across it.
    Barrier,
    /// Of this flow. Its shape, if it could be joined.
    Of(Flow, Option<Shape>),
}

/// Packets of one flow keep their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flow {
    /// Source and destination.
    addresses: [u64; 4],
    ports: u32,
    kind: Kind,
    v6: bool,
    /// The VXLAN network.
    network: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    #[default]
    Tcp,
    Udp,
    /// VXLAN over IPv4 with TCP inside. The flow is the inner one.
    Vxlan,
}

/// Where the parts of a packet are.
#[derive(Debug, Clone, Copy, Default)]
pub struct Shape {
    pub kind: Kind,
    pub v6: bool,
    /// The innermost IP header.
    pub network: usize,
    pub transport: usize,
    /// Bytes of all headers.
    pub header: usize,
    pub payload: usize,
}

impl Flow {
    /// A place in a table of `1 << bits`.
    pub fn slot(&self, bits: u32) -> usize {
        // Multiplied by an odd number near 2^64 divided by the golden ratio, the top bits depend on all below.
        let mix = |hash: u64, next: u64| (hash.rotate_left(23) ^ next).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let start = u64::from(self.ports) << 32 | u64::from(self.network);
        (self.addresses.iter().fold(mix(0, start), |hash, next| mix(hash, *next)) >> (64 - bits)) as usize
    }
}

/// What `packet` is. Nothing is said yet about its checksums.
pub fn classify(packet: &[u8], features: Features) -> Class {
    let Some(ip) = Ip::read(packet, 0) else { return Class::Other };
    match ip.protocol {
        Some(TCP) => tcp(packet, &ip, Kind::Tcp),
        Some(UDP) if features.tunnel && is_vxlan(packet, &ip) => inner(packet),
        Some(UDP) if features.uso => udp(packet, &ip),
        Some(_) => Class::Other,
        None => Class::Barrier,
    }
}

/// An IP header without options or extensions.
struct Ip {
    v6: bool,
    at: usize,
    end: usize,
    /// Nothing if it is a fragment, or has options or extensions: then it is not looked into.
    protocol: Option<u8>,
    /// Its length is that of the packet.
    whole: bool,
}

impl Ip {
    fn read(packet: &[u8], at: usize) -> Option<Self> {
        let ip = packet.get(at..)?;
        match ip.first()? >> 4 {
            4 if ip.len() >= 20 => {
                let fragment = get16(ip, 6) & 0x3fff != 0;
                let protocol = (ip[0] == 0x45 && !fragment).then_some(ip[9]);
                let whole = usize::from(get16(ip, 2)) == ip.len();
                Some(Self { v6: false, at, end: at + 20, protocol, whole })
            }
            6 if ip.len() >= 40 => {
                // Hop-by-hop, routing, fragment, authentication, destination.
                let extended = matches!(ip[6], 0 | 43 | 44 | 51 | 60);
                let whole = usize::from(get16(ip, 4)) + 40 == ip.len();
                Some(Self { v6: true, at, end: at + 40, protocol: (!extended).then_some(ip[6]), whole })
            }
            _ => None,
        }
    }

    fn flow(&self, packet: &[u8], kind: Kind) -> Option<Flow> {
        let word = |at: usize| packet[at..].first_chunk().map_or(0, |word| u64::from_ne_bytes(*word));
        let at = self.at;
        let addresses = if self.v6 {
            [word(at + 8), word(at + 16), word(at + 24), word(at + 32)]
        } else {
            [word(at + 12), 0, 0, 0]
        };
        let ports = u32::from_ne_bytes(*packet.get(self.end..)?.first_chunk()?);
        let network = if kind == Kind::Vxlan { get32(packet, 32) >> 8 } else { 0 };
        Some(Flow { addresses, ports, kind, v6: self.v6, network })
    }
}

fn tcp(packet: &[u8], ip: &Ip, kind: Kind) -> Class {
    let Some(flow) = ip.flow(packet, kind) else { return Class::Other };
    let at = ip.end;
    let Some(head) = packet.get(at..at + 20) else { return Class::Of(flow, None) };
    let header = at + usize::from(head[12] >> 4) * 4;
    let plain = head[13] & !PSH == ACK && ip.whole && header >= at + 20 && header < packet.len();
    let shape =
        || Shape { kind, v6: ip.v6, network: ip.at, transport: at, header, payload: packet.len() - header };
    Class::Of(flow, plain.then(shape))
}

fn udp(packet: &[u8], ip: &Ip) -> Class {
    let Some(flow) = ip.flow(packet, Kind::Udp) else { return Class::Other };
    let (transport, header) = (ip.end, ip.end + UDP_HEADER);
    // Without a checksum it would have one when it is cut.
    let plain = packet.len() > header
        && ip.whole
        && usize::from(get16(packet, transport + 4)) == packet.len() - transport
        && get16(packet, transport + UDP_CSUM) != 0;
    let payload = packet.len().saturating_sub(header);
    let shape = || Shape { kind: Kind::Udp, v6: ip.v6, network: ip.at, transport, header, payload };
    Class::Of(flow, plain.then(shape))
}

/// To a port of VXLAN, with an Ethernet frame of IP inside, and no more bytes than that: whoever receives it
/// at such a port takes it for that, or drops it.
fn is_vxlan(packet: &[u8], ip: &Ip) -> bool {
    let to_port = |packet: &[u8]| VXLAN_PORTS.contains(&get16(packet, 22));
    !ip.v6
        && ip.whole
        && packet.len() > VXLAN
        && to_port(packet)
        && usize::from(get16(packet, 24)) == packet.len() - 20
        // The network is valid, and no other protocol than Ethernet is announced.
        && packet[28] & 0x0c == 0x08
        && matches!((get16(packet, 48), packet[50] >> 4), (0x0800, 4) | (0x86dd, 6))
}

fn inner(packet: &[u8]) -> Class {
    let Some(ip) = Ip::read(packet, VXLAN) else { return Class::Other };
    match ip.protocol {
        Some(TCP) => tcp(packet, &ip, Kind::Vxlan),
        Some(_) => Class::Other,
        None => Class::Barrier,
    }
}

/// IP headers that the kernel would make of one another, when it cuts: the same but for lengths and checksums,
/// and with the `count`th identification after that of the first.
fn same_ip(head: &[u8], packet: &[u8], at: usize, v6: bool, count: u16) -> bool {
    let same = |from: usize, to: usize| head[at + from..at + to] == packet[at + from..at + to];
    if v6 {
        return same(0, 4) && same(6, 40);
    }
    let id = get16(head, at + 4).wrapping_add(count);
    same(0, 2) && same(6, 10) && same(12, 20) && get16(packet, at + 4) == id
}

impl Shape {
    /// Whether the kernel would make the headers of `packet`, the `count`th after `head`, out of those of `head`.
    /// Both are of this shape, but for the payload. Sequence numbers are not looked at.
    pub fn same_headers(&self, head: &[u8], packet: &[u8], count: u16) -> bool {
        same_ip(head, packet, self.network, self.v6, count)
            && (self.kind == Kind::Udp || self.same_tcp(head, packet))
            && (self.kind != Kind::Vxlan || same_vxlan(head, packet, count))
    }

    fn same_tcp(&self, head: &[u8], packet: &[u8]) -> bool {
        let at = self.transport;
        let same = |from: usize, to: usize| head[from..to] == packet[from..to];
        // Acknowledgement, length of the header; window; urgent pointer, options. Flags are those of a shape.
        same(at + 8, at + 13) && same(at + 14, at + 16) && same(at + 18, self.header)
    }

    /// Whether all checksums are right, and written as the kernel writes them: it will not look at them again,
    /// and computes them anew when it cuts.
    pub fn verified(&self, packet: &[u8]) -> bool {
        let ip = &packet[self.network..];
        let inner_ip = if self.v6 { sum(&ip[..40], 0) } else { sum(&ip[..20], 0) };
        if !self.v6 && (finish(inner_ip) != 0 || get16(ip, 10) == 0xffff) {
            return false;
        }
        let (protocol, field) = if self.kind == Kind::Udp { (UDP, UDP_CSUM) } else { (TCP, TCP_CSUM) };
        let length = (packet.len() - self.transport) as u16;
        let pseudo = addresses(ip, protocol) + word(length);
        let right = finish(sum(&packet[self.transport..], pseudo)) == 0;
        let canonical = self.kind == Kind::Udp || get16(packet, self.transport + field) != 0xffff;
        right && canonical && (self.kind != Kind::Vxlan || vxlan_verified(packet, inner_ip, pseudo))
    }
}

fn same_vxlan(head: &[u8], packet: &[u8], count: u16) -> bool {
    let has_checksum = |packet: &[u8]| get16(packet, 20 + UDP_CSUM) != 0;
    same_ip(head, packet, 0, false, count)
        && head[20..24] == packet[20..24]
        && head[28..VXLAN] == packet[28..VXLAN]
        && has_checksum(head) == has_checksum(packet)
}

/// The same for the headers around a packet that is verified: its transport part is then the complement of its
/// pseudo header.
fn vxlan_verified(packet: &[u8], inner_ip: u64, inner_pseudo: u64) -> bool {
    let outer = finish(sum(&packet[..20], 0)) == 0 && get16(packet, 10) != 0xffff;
    let around = || {
        let own = addresses(packet, UDP) + word((packet.len() - 20) as u16);
        sum(&packet[20..VXLAN], own) + inner_ip + word(finish(inner_pseudo))
    };
    outer && (get16(packet, 20 + UDP_CSUM) == 0 || finish(around()) == 0)
}
