//! Packets made by hand, and a device that cuts what it is given as the kernel does.

mod cutting;
mod fuzz;
mod joining;
mod kernel;
mod noise;

use std::ops::DerefMut;

use super::*;

pub const ALL: Features = Features { tso: true, uso: true, tunnel: true };
/// The padding of [`join`], which the kernel must not find when it hands a packet over.
const PADDED: u8 = 0x49;

/// What a packet carries, and in what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Carrier {
    Tcp,
    Udp,
    /// VXLAN with TCP inside; with a checksum of its own or not.
    Vxlan {
        checksum: bool,
    },
}

/// One packet of a flow.
#[derive(Debug, Clone)]
pub struct Spec {
    pub carrier: Carrier,
    pub v6: bool,
    pub port: u8,
    /// Identifications: the first of the outer header, the second of the inner.
    pub ids: [u16; 2],
    pub sequence: u32,
    pub acknowledged: u8,
    pub flags: u8,
    pub options: bool,
    pub payload: Vec<u8>,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            carrier: Carrier::Tcp,
            v6: false,
            port: 1,
            ids: [7, 65_530],
            sequence: 1000,
            acknowledged: 1,
            flags: ACK,
            options: true,
            payload: vec![1, 2, 3],
        }
    }
}

/// The checksum, by its definition.
fn naive(pieces: &[&[u8]]) -> u16 {
    let bytes = pieces.concat();
    let mut total = 0_u32;
    for pair in bytes.chunks(2) {
        total += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        total = (total & 0xffff) + (total >> 16);
    }
    !(total as u16)
}

fn ip(v6: bool, protocol: u8, id: u16, from: u8, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u16;
    let mut packet = if v6 {
        let mut ip = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
        put16(&mut ip, 4, length);
        ip.extend([0xfd; 15]);
        ip.push(from);
        ip.extend([0xfc; 16]);
        ip
    } else {
        let mut ip = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, from, 10, 0, 0, 2];
        put16(&mut ip, 2, 20 + length);
        put16(&mut ip, 4, id);
        let checksum = naive(&[&ip]);
        put16(&mut ip, 10, checksum);
        ip
    };
    packet.extend(payload);
    packet
}

/// The checksum of what `packet` has from `at` on, below an IP header at `network`.
fn transport_checksum(packet: &[u8], network: usize, at: usize) -> u16 {
    let ip = &packet[network..];
    let (addresses, protocol) = if ip[0] >> 4 == 4 { (12..20, ip[9]) } else { (8..40, ip[6]) };
    // Where something was changed it may be too short for that.
    let addresses = ip.get(addresses).unwrap_or_default();
    let length = ((packet.len() - at) as u16).to_be_bytes();
    naive(&[addresses, &[0, protocol], &length, &packet[at..]])
}

fn with_udp(payload: &[u8], from: u16, to: u16) -> Vec<u8> {
    let mut udp = [from.to_be_bytes(), to.to_be_bytes(), [0; 2], [0; 2]].concat();
    put16(&mut udp, 4, 8 + payload.len() as u16);
    udp.extend(payload);
    udp
}

fn complete_udp(packet: &mut [u8], at: usize) {
    let checksum = transport_checksum(packet, 0, at);
    put16(packet, at + UDP_CSUM, if checksum == 0 { 0xffff } else { checksum });
}

fn tcp(spec: &Spec) -> Vec<u8> {
    let options: &[u8] = if spec.options { &[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2] } else { &[] };
    let mut tcp = vec![0, spec.port, 0, 80];
    tcp.extend(spec.sequence.to_be_bytes());
    tcp.extend([0, 0, 0, spec.acknowledged]);
    tcp.extend([((5 + options.len() / 4) << 4) as u8, spec.flags, 1, 0, 0, 0, 0, 0]);
    tcp.extend(options);
    tcp.extend(&spec.payload);
    let mut packet = ip(spec.v6, TCP, spec.ids[1], 1, &tcp);
    let at = packet.len() - tcp.len();
    let checksum = transport_checksum(&packet, 0, at);
    put16(&mut packet, at + TCP_CSUM, checksum);
    packet
}

pub fn build(spec: &Spec) -> Vec<u8> {
    match spec.carrier {
        Carrier::Tcp => tcp(spec),
        Carrier::Udp => {
            let udp = with_udp(&spec.payload, spec.port.into(), 53);
            let mut packet = ip(spec.v6, UDP, spec.ids[0], 1, &udp);
            let at = packet.len() - udp.len();
            complete_udp(&mut packet, at);
            packet
        }
        Carrier::Vxlan { checksum } => {
            let kind: u16 = if spec.v6 { 0x86dd } else { 0x0800 };
            let mut frame = vec![8, 0, 0, 0, 0, 0, 7, 0];
            frame.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
            frame.extend(kind.to_be_bytes());
            frame.extend(tcp(spec));
            let mut packet = ip(false, UDP, spec.ids[0], 9, &with_udp(&frame, 50_000, 8472));
            if checksum {
                complete_udp(&mut packet, 20);
            }
            packet
        }
    }
}

/// `first`, and what follows it: `count` packets in all, each `size` bytes of payload.
pub fn run(first: &Spec, count: usize, size: usize) -> Vec<Spec> {
    let next = |at: usize| Spec {
        ids: first.ids.map(|id| id.wrapping_add(at as u16)),
        sequence: first.sequence.wrapping_add((at * size) as u32),
        payload: (0..size).map(|byte| (byte as u8).wrapping_mul(31).wrapping_add(at as u8)).collect(),
        ..first.clone()
    };
    (0..count).map(next).collect()
}

/// What is written for a batch, in order.
pub fn written<P: DerefMut<Target = [u8]>>(batch: &mut [P], features: Features) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    Joiner::default().join(batch, features, |slices| {
        all.push(slices.iter().flat_map(|slice| slice.iter().copied()).collect());
    });
    all
}

/// What a device hands over of what was written to it.
pub fn handed_over(written: &[u8], features: Features) -> (VnetHdr, Vec<u8>) {
    let (header, packet) = written.split_at(features.vnet_len());
    let mut header = VnetHdr::decode(header).unwrap();
    let mut packet = packet.to_vec();
    if header.gso_type & GSO_TUNNEL_V4 != 0 {
        assert_eq!((packet[0], &packet[20..36], naive(&[&packet[..36]])), (PADDED, [1; 16].as_slice(), 0));
        assert_eq!(usize::from(get16(&packet, 2)), packet.len());
        packet.drain(20..36);
        packet[0] = 0x45;
        header.hdr_len -= 16;
        header.csum_start -= 16;
        header.outer_transport -= 16;
        header.inner_network -= 16;
    }
    (header, packet)
}

pub fn cut(header: VnetHdr, mut packet: Vec<u8>) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    split(header, &mut packet, |header, payload| {
        assert!(header.len() <= MAX_HEADER);
        parts.push([header, payload].concat());
    })
    .unwrap();
    parts
}

/// Joined, written, handed over and cut.
pub fn there_and_back(packets: &[Vec<u8>], features: Features) -> Vec<Vec<u8>> {
    let all = written(&mut packets.to_vec(), features);
    all.iter()
        .flat_map(|one| {
            let (header, packet) = handed_over(one, features);
            cut(header, packet)
        })
        .collect()
}
