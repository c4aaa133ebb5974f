//! Large packets: what the kernel hands over unsegmented is cut here, and what belongs together is handed
//! to the kernel in one piece.
//!
//! A TUN device opened with `IFF_VNET_HDR` puts a `virtio_net_hdr` before every packet (Linux
//! `include/uapi/linux/virtio_net.h`). Reading: a TCP packet of up to 64 KiB with the size to cut it to.
//! Writing: the same the other way round. Pure functions over byte slices.

use std::ops::{Deref, DerefMut};

use crate::checksum::{finish, pseudo_header, sum};

/// Bytes of the header on the device.
pub const VNET_HDR: usize = 10;
/// Longest IP and TCP header together: IPv6 without extension headers, TCP with all its options, or IPv4
/// with all its options.
const MAX_HEADER: usize = 120;

/// The checksum from `csum_start` on is still to be computed.
const NEEDS_CSUM: u8 = 1;
/// Nothing to cut.
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
/// The first segment alone carries the congestion flag.
const GSO_ECN: u8 = 0x80;

const TCP: u8 = 6;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const CWR: u8 = 0x80;
/// Where the checksum is in a TCP header.
const TCP_CSUM: usize = 16;

/// The kernel's description of a packet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VnetHdr {
    flags: u8,
    gso_type: u8,
    hdr_len: u16,
    gso_size: u16,
    csum_start: u16,
    csum_offset: u16,
}

impl VnetHdr {
    /// From the device. Numbers are in the machine's byte order.
    pub fn decode(bytes: &[u8; VNET_HDR]) -> Self {
        let number = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Self {
            flags: bytes[0],
            gso_type: bytes[1],
            hdr_len: number(2),
            gso_size: number(4),
            csum_start: number(6),
            csum_offset: number(8),
        }
    }

    /// For the device.
    pub fn encode(&self) -> [u8; VNET_HDR] {
        let mut bytes = [0; VNET_HDR];
        bytes[0] = self.flags;
        bytes[1] = self.gso_type;
        for (at, number) in
            [self.hdr_len, self.gso_size, self.csum_start, self.csum_offset].iter().enumerate()
        {
            bytes[2 + 2 * at..4 + 2 * at].copy_from_slice(&number.to_ne_bytes());
        }
        bytes
    }
}

/// The packet cannot be what its header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// Cuts what was read into packets with complete checksums, in order; each is given to `emit` as header and
/// payload.
pub fn split(hdr: VnetHdr, packet: &mut [u8], mut emit: impl FnMut(&[u8], &[u8])) -> Result<(), Malformed> {
    match hdr.gso_type & !GSO_ECN {
        GSO_NONE => {
            if hdr.flags & NEEDS_CSUM != 0 {
                complete_checksum(hdr, packet)?;
            }
            emit(packet, &[]);
            Ok(())
        }
        GSO_TCPV4 | GSO_TCPV6 => split_tcp(hdr, packet, emit),
        _ => Err(Malformed),
    }
}

fn complete_checksum(hdr: VnetHdr, packet: &mut [u8]) -> Result<(), Malformed> {
    let start = usize::from(hdr.csum_start);
    let at = start + usize::from(hdr.csum_offset);
    let covered = packet.get(start..).ok_or(Malformed)?;
    // The field holds the sum of the pseudo header already.
    let mut checksum = finish(sum(covered, 0));
    let is_udp = usize::from(hdr.csum_offset) == 6;
    if is_udp && checksum == 0 {
        checksum = 0xffff;
    }
    packet.get_mut(at..at + 2).ok_or(Malformed)?.copy_from_slice(&checksum.to_be_bytes());
    Ok(())
}

fn split_tcp(hdr: VnetHdr, packet: &[u8], mut emit: impl FnMut(&[u8], &[u8])) -> Result<(), Malformed> {
    let tcp = usize::from(hdr.csum_start);
    let offset = *packet.get(tcp + 12).ok_or(Malformed)?;
    let header_len = tcp + usize::from(offset >> 4) * 4;
    let size = usize::from(hdr.gso_size);
    let version = packet.first().ok_or(Malformed)? >> 4;
    let ip_fits = matches!((version, tcp), (4, 20..=60) | (6, 40..=60));
    if !ip_fits || header_len < tcp + 20 || header_len > packet.len() || header_len > MAX_HEADER || size == 0
    {
        return Err(Malformed);
    }
    let (template, payload) = packet.split_at(header_len);
    let count = payload.len().div_ceil(size).max(1);
    for index in 0..count {
        let part = &payload[index * size..payload.len().min((index + 1) * size)];
        let mut header = [0; MAX_HEADER];
        let header = &mut header[..header_len];
        header.copy_from_slice(template);
        let (first, last) = (index == 0, index + 1 == count);
        patch_segment(header, tcp, version, (index, index * size), (first, last), part);
        emit(header, part);
    }
    Ok(())
}

/// Makes `header` that of one segment: lengths, identification, sequence number, flags and checksums.
fn patch_segment(
    header: &mut [u8],
    tcp: usize,
    version: u8,
    (index, offset): (usize, usize),
    (first, last): (bool, bool),
    part: &[u8],
) {
    let total = header.len() + part.len();
    if version == 4 {
        put16(header, 2, total as u16);
        let id = get16(header, 4).wrapping_add(index as u16);
        put16(header, 4, id);
        put16(header, 10, 0);
        let checksum = finish(sum(&header[..tcp], 0));
        put16(header, 10, checksum);
    } else {
        put16(header, 4, (total - 40) as u16);
    }
    let sequence = get32(header, tcp + 4).wrapping_add(offset as u32);
    header[tcp + 4..tcp + 8].copy_from_slice(&sequence.to_be_bytes());
    if !last {
        header[tcp + 13] &= !(FIN | PSH);
    }
    if !first {
        header[tcp + 13] &= !CWR;
    }
    put16(header, tcp + TCP_CSUM, 0);
    let pseudo = pseudo_header(header, TCP, total - tcp);
    let checksum = finish(sum(part, sum(&header[tcp..], pseudo)));
    put16(header, tcp + TCP_CSUM, checksum);
}

fn get16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn get32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn put16(bytes: &mut [u8], at: usize, number: u16) {
    bytes[at..at + 2].copy_from_slice(&number.to_be_bytes());
}

/// A TCP segment that could be joined with its neighbours.
#[derive(Debug, Clone, Copy)]
struct Segment {
    version: u8,
    tcp: usize,
    header_len: usize,
    payload: usize,
    sequence: u32,
    flags: u8,
}

/// Reads the headers; nothing for packets that are never joined: fragments, IP options, other flags than
/// ACK and PSH, no payload, a length that is not the packet's.
fn segment(packet: &[u8]) -> Option<Segment> {
    let version = packet.first()? >> 4;
    let (tcp, protocol, total) = match version {
        4 if packet.len() >= 40 && packet[0] == 0x45 => {
            let fragment = get16(packet, 6) & 0x3fff != 0;
            (!fragment).then_some((20, packet[9], usize::from(get16(packet, 2))))?
        }
        6 if packet.len() >= 60 => (40, packet[6], usize::from(get16(packet, 4)) + 40),
        _ => return None,
    };
    let header_len = tcp + usize::from(packet[tcp + 12] >> 4) * 4;
    let flags = packet[tcp + 13];
    let plain = protocol == TCP && total == packet.len() && header_len >= tcp + 20 && header_len < total;
    if !plain || flags & !PSH != ACK {
        return None;
    }
    let payload = total - header_len;
    Some(Segment { version, tcp, header_len, payload, sequence: get32(packet, tcp + 4), flags })
}

impl Segment {
    /// Whether the checksum is right: the kernel will not look at it again.
    fn verified(&self, packet: &[u8]) -> bool {
        let ip_ok = self.version == 6 || finish(sum(&packet[..20], 0)) == 0;
        let pseudo = pseudo_header(packet, TCP, packet.len() - self.tcp);
        ip_ok && finish(sum(&packet[self.tcp..], pseudo)) == 0
    }
}

/// Packets that are handed to the kernel as one.
#[derive(Debug)]
pub struct Group {
    /// Positions in the batch, in order. The first lends its header.
    pub members: Vec<usize>,
    first: Option<Segment>,
    next_sequence: u32,
    total: usize,
    /// A short or pushed segment ends a group.
    closed: bool,
}

/// Longest packet the kernel takes: the IP length field is 16 bits.
const MAX_JOINED: usize = 65_535;
/// Groups that are looked at for a packet to join: the most recent flows of one batch.
const MAX_OPEN: usize = 8;

/// Joins neighbours of one TCP flow. The order within every flow is kept.
pub fn group<P: Deref<Target = [u8]>>(batch: &[P]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::with_capacity(batch.len());
    for (at, packet) in batch.iter().enumerate() {
        let packet: &[u8] = packet;
        let Some(found) = segment(packet) else {
            groups.push(Group::alone(at, None, packet));
            continue;
        };
        let recent = groups.len().saturating_sub(MAX_OPEN);
        let same = groups[recent..].iter_mut().rev().find(|group| group.same_flow(batch, packet, found.tcp));
        match same {
            Some(group) if group.takes(batch, packet, &found) => group.push(at, packet, &found),
            // Not of this group, but of its flow: whatever comes later must not overtake it.
            Some(group) => {
                group.closed = true;
                groups.push(Group::alone(at, Some(found), packet));
            }
            None => groups.push(Group::alone(at, Some(found), packet)),
        }
    }
    groups
}

impl Group {
    fn alone(at: usize, first: Option<Segment>, packet: &[u8]) -> Self {
        let next_sequence = first.map_or(0, |s| s.sequence.wrapping_add(s.payload as u32));
        let closed = first.is_none_or(|s| s.flags & PSH != 0 || !s.verified(packet));
        Self { members: vec![at], first, next_sequence, total: packet.len(), closed }
    }

    /// Addresses and ports.
    fn same_flow<P: Deref<Target = [u8]>>(&self, batch: &[P], packet: &[u8], tcp: usize) -> bool {
        let Some(first) = self.first.filter(|first| first.tcp == tcp) else { return false };
        let head: &[u8] = &batch[self.members[0]];
        let addresses = if first.version == 4 { 12..20 } else { 8..40 };
        head[addresses.clone()] == packet[addresses] && head[tcp..tcp + 4] == packet[tcp..tcp + 4]
    }

    /// Everything that must be equal is, and the segment is the next one.
    fn takes<P: Deref<Target = [u8]>>(&self, batch: &[P], packet: &[u8], new: &Segment) -> bool {
        let Some(first) = self.first else { return false };
        let head: &[u8] = &batch[self.members[0]];
        let tcp = first.tcp;
        let ip_equal = if first.version == 4 {
            // Type of service, don't-fragment, time to live.
            head[1] == packet[1] && head[6] == packet[6] && head[8] == packet[8]
        } else {
            head[..4] == packet[..4] && head[7] == packet[7]
        };
        let acknowledges = head[tcp + 8..tcp + 12] == packet[tcp + 8..tcp + 12];
        let options = head.get(tcp + 20..first.header_len) == packet.get(tcp + 20..new.header_len);
        !self.closed
            && ip_equal
            && acknowledges
            && options
            && new.sequence == self.next_sequence
            && new.payload <= first.payload
            && self.total + new.payload <= MAX_JOINED
            && new.verified(packet)
    }

    fn push(&mut self, at: usize, packet: &[u8], new: &Segment) {
        self.members.push(at);
        self.next_sequence = self.next_sequence.wrapping_add(new.payload as u32);
        self.total += packet.len() - new.header_len;
        let short = self.first.is_some_and(|first| new.payload < first.payload);
        self.closed = short || new.flags & PSH != 0;
    }

    /// Makes the first member's header that of the whole, and says how the kernel has to read it. Later
    /// members follow with their payload only: [`Group::payload_of`].
    pub fn seal<P: DerefMut<Target = [u8]>>(&self, batch: &mut [P]) -> VnetHdr {
        let (Some(first), Some(last)) = (self.first, self.members.last()) else { return VnetHdr::default() };
        if self.members.len() == 1 {
            return VnetHdr::default();
        }
        let pushed = batch[*last][first.tcp + 13] & PSH;
        let head: &mut [u8] = &mut batch[self.members[0]];
        let (tcp, total) = (first.tcp, self.total);
        head[tcp + 13] |= pushed;
        if first.version == 4 {
            put16(head, 2, total as u16);
            put16(head, 10, 0);
            let checksum = finish(sum(&head[..20], 0));
            put16(head, 10, checksum);
        } else {
            put16(head, 4, (total - 40) as u16);
        }
        // The kernel adds the rest to the pseudo header's sum.
        let pseudo = pseudo_header(head, TCP, total - tcp);
        put16(head, tcp + TCP_CSUM, !finish(pseudo));
        VnetHdr {
            flags: NEEDS_CSUM,
            gso_type: if first.version == 4 { GSO_TCPV4 } else { GSO_TCPV6 },
            hdr_len: first.header_len as u16,
            gso_size: first.payload as u16,
            csum_start: tcp as u16,
            csum_offset: TCP_CSUM as u16,
        }
    }

    /// What of a later member is written: its payload.
    pub fn payload_of<'a>(&self, packet: &'a [u8]) -> &'a [u8] {
        let header = self.first.map_or(0, |first| first.header_len);
        packet.get(header..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
