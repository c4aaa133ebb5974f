//! Frames made by hand, for tests and benchmarks: well-formed by default, and every field can be bent.

use core::net::IpAddr;
use std::vec;
use std::vec::Vec;

use crate::proto::{self, ether};

/// A frame to be made. Checksums are left at zero: the programs do not read them.
#[derive(Clone, Debug)]
pub struct Craft {
    /// Destination MAC.
    pub destination_mac: [u8; 6],
    /// Source MAC.
    pub source_mac: [u8; 6],
    /// Source address.
    pub source: IpAddr,
    /// Destination address, of the same family.
    pub destination: IpAddr,
    /// Time to live, hop limit.
    pub hops: u8,
    /// Identification, offset in bytes, and whether more follow.
    pub fragment: Option<(u32, u16, bool)>,
    /// Bytes of IPv4 options (a multiple of 4).
    pub options: u8,
    /// IPv6 extension headers: type, and bytes after the first two (so that the sum is a multiple of 8).
    pub extensions: Vec<(u8, Vec<u8>)>,
}

impl Craft {
    /// A frame between two MACs and two addresses of one family.
    #[must_use]
    pub fn new(macs: ([u8; 6], [u8; 6]), source: IpAddr, destination: IpAddr) -> Self {
        Self {
            destination_mac: macs.1,
            source_mac: macs.0,
            source,
            destination,
            hops: 64,
            fragment: None,
            options: 0,
            extensions: Vec::new(),
        }
    }

    /// The same, the other way.
    #[must_use]
    pub fn reversed(&self) -> Self {
        Self {
            destination_mac: self.source_mac,
            source_mac: self.destination_mac,
            source: self.destination,
            destination: self.source,
            ..self.clone()
        }
    }

    /// The frame with a transport header and what follows it.
    #[must_use]
    pub fn build(&self, protocol: u8, transport: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.extend(self.destination_mac);
        frame.extend(self.source_mac);
        frame.extend(self.ethertype().to_be_bytes());
        frame.extend(self.packet(protocol, transport));
        frame
    }

    /// The packet without a link-layer header.
    #[must_use]
    pub fn packet(&self, protocol: u8, transport: &[u8]) -> Vec<u8> {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                self.ipv4(source.octets(), destination.octets(), protocol, transport)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                self.ipv6(source.octets(), destination.octets(), protocol, transport)
            }
            _ => Vec::new(),
        }
    }

    /// The ethertype of the family.
    #[must_use]
    pub fn ethertype(&self) -> u16 {
        if self.source.is_ipv4() { ether::IPV4 } else { ether::IPV6 }
    }

    fn ipv4(&self, source: [u8; 4], destination: [u8; 4], protocol: u8, transport: &[u8]) -> Vec<u8> {
        let length = 20 + self.options;
        let total = usize::from(length) + transport.len();
        let (id, offset, more) = self.fragment.unwrap_or((0, 0, false));
        let mut packet = vec![0x40 | (length / 4), 0];
        packet.extend((total as u16).to_be_bytes());
        packet.extend((id as u16).to_be_bytes());
        packet.extend(((offset / 8) | (u16::from(more) << 13)).to_be_bytes());
        packet.extend([self.hops, protocol, 0, 0]);
        packet.extend(source);
        packet.extend(destination);
        packet.extend(vec![1; usize::from(self.options)]);
        packet.extend(transport);
        packet
    }

    fn ipv6(&self, source: [u8; 16], destination: [u8; 16], protocol: u8, transport: &[u8]) -> Vec<u8> {
        let mut headers = self.extensions.clone();
        if let Some((id, offset, more)) = self.fragment {
            let mut body = Vec::from((offset | u16::from(more)).to_be_bytes());
            body.extend(id.to_be_bytes());
            headers.push((proto::ext::FRAGMENT, body));
        }
        let mut chain = Vec::new();
        for (index, (kind, body)) in headers.iter().enumerate() {
            let next = headers.get(index + 1).map_or(protocol, |(next, _)| *next);
            let units = if *kind == proto::ext::FRAGMENT { 0 } else { (body.len() + 2) / 8 - 1 };
            chain.extend([next, units as u8]);
            chain.extend(body);
        }
        let first = headers.first().map_or(protocol, |(kind, _)| *kind);
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend(((chain.len() + transport.len()) as u16).to_be_bytes());
        packet.extend([first, self.hops]);
        packet.extend(source);
        packet.extend(destination);
        packet.extend(chain);
        packet.extend(transport);
        packet
    }

    /// A TCP segment without options.
    #[must_use]
    pub fn tcp(&self, source_port: u16, destination_port: u16, flags: u8) -> Vec<u8> {
        self.build(proto::TCP, &tcp(source_port, destination_port, flags))
    }

    /// A UDP datagram.
    #[must_use]
    pub fn udp(&self, source_port: u16, destination_port: u16, payload: &[u8]) -> Vec<u8> {
        self.build(proto::UDP, &udp(source_port, destination_port, payload))
    }

    /// An echo request or reply of the family.
    #[must_use]
    pub fn echo(&self, identifier: u16, request: bool) -> Vec<u8> {
        let (protocol, kind) = match (self.source.is_ipv4(), request) {
            (true, true) => (proto::ICMP, 8),
            (true, false) => (proto::ICMP, 0),
            (false, true) => (proto::ICMP6, 128),
            (false, false) => (proto::ICMP6, 129),
        };
        self.build(protocol, &echo(kind, identifier))
    }

    /// An ICMP error of the family that quotes a packet (its bytes from the IP header on).
    #[must_use]
    pub fn icmp_error(&self, quoted: &[u8]) -> Vec<u8> {
        let (protocol, kind) = if self.source.is_ipv4() { (proto::ICMP, 3) } else { (proto::ICMP6, 1) };
        self.build(protocol, &icmp(kind, quoted))
    }
}

/// A TCP header of 20 bytes.
#[must_use]
pub fn tcp(source_port: u16, destination_port: u16, flags: u8) -> Vec<u8> {
    let mut header = Vec::from(source_port.to_be_bytes());
    header.extend(destination_port.to_be_bytes());
    header.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    header
}

/// A UDP header and its payload.
#[must_use]
pub fn udp(source_port: u16, destination_port: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::from(source_port.to_be_bytes());
    datagram.extend(destination_port.to_be_bytes());
    datagram.extend(((payload.len() + 8) as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}

/// An ICMP or `ICMPv6` message with four bytes of nothing after its checksum.
#[must_use]
pub fn icmp(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    message.extend(body);
    message
}

/// An echo message.
#[must_use]
pub fn echo(kind: u8, identifier: u16) -> Vec<u8> {
    let [high, low] = identifier.to_be_bytes();
    vec![kind, 0, 0, 0, high, low, 0, 1, b'p', b'i', b'n', b'g']
}

/// An ARP packet from a MAC and IPv4 address, in a frame.
#[must_use]
pub fn arp(mac: [u8; 6], sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(mac);
    frame.extend(ether::ARP.to_be_bytes());
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend(sender);
    frame.extend([0; 6]);
    frame.extend(target);
    frame
}

/// A neighbour solicitation (135), advertisement (136), or another message of that shape, with the sender's
/// link-layer address in an option if there is one.
#[must_use]
pub fn neighbour(kind: u8, target: [u8; 16], mac: Option<[u8; 6]>) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target);
    if let Some(mac) = mac {
        message.extend([if kind == 136 { 2 } else { 1 }, 1]);
        message.extend(mac);
    }
    message
}
