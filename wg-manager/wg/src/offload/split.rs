//! Cutting what the kernel left uncut.

use super::{
    CWR, FIN, GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_TUNNEL_V4, GSO_TUNNEL_V6, GSO_UDP_L4, MAX_HEADER,
    Malformed, NEEDS_CSUM, PSH, TCP, TCP_CSUM, TUNNEL_CSUM, UDP, UDP_CSUM, UDP_HEADER, VnetHdr, get16, get32,
    put16,
};
use crate::checksum::{addresses, finish, sum, word};

/// Cuts what was read into packets with complete checksums, in order. Each is given to `emit` as header, of at
/// most [`MAX_HEADER`] bytes and perhaps empty, and payload: one after the other they are the packet. A tunnel's
/// UDP checksum of 0, which means none, stays so.
pub fn split(hdr: VnetHdr, packet: &mut [u8], mut emit: impl FnMut(&[u8], &[u8])) -> Result<(), Malformed> {
    if hdr.gso_type & !GSO_ECN == GSO_NONE {
        if hdr.flags & NEEDS_CSUM != 0 {
            complete_checksum(hdr, packet)?;
        }
        emit(&[], packet);
        return Ok(());
    }
    let mut template = Template::new(hdr, packet)?;
    let size = usize::from(hdr.gso_size);
    let payload = &packet[template.len..];
    let count = payload.len().div_ceil(size).max(1);
    for index in 0..count {
        let part = &payload[index * size..payload.len().min((index + 1) * size)];
        emit(template.segment(index, index * size, index + 1 == count, part), part);
    }
    Ok(())
}

fn complete_checksum(hdr: VnetHdr, packet: &mut [u8]) -> Result<(), Malformed> {
    let start = usize::from(hdr.csum_start);
    let at = start + usize::from(hdr.csum_offset);
    let covered = packet.get(start..).ok_or(Malformed)?;
    // The field holds the sum of the pseudo header already. Where there is a tunnel around it, that one's
    // checksum is right as soon as this one is: the kernel has computed it so (local checksum offload).
    let mut checksum = finish(sum(covered, 0));
    let is_udp = usize::from(hdr.csum_offset) == UDP_CSUM;
    if is_udp && checksum == 0 {
        checksum = 0xffff;
    }
    packet.get_mut(at..at + 2).ok_or(Malformed)?.copy_from_slice(&checksum.to_be_bytes());
    Ok(())
}

/// The header of every segment but for what changes, with the sums of what does not.
struct Template {
    bytes: [u8; MAX_HEADER],
    len: usize,
    outer: Option<Outer>,
    ip: Ip,
    transport: usize,
    /// UDP if there is nothing.
    tcp: Option<Tcp>,
    /// The transport header without what changes, and the pseudo header without the length.
    sum: u64,
}

/// An IP header.
struct Ip {
    at: usize,
    v6: bool,
    id: u16,
    /// The header without what changes.
    sum: u64,
}

/// What is around a tunnelled packet.
struct Outer {
    ip: Ip,
    udp: usize,
    /// The UDP header without its length, all that lies between it and the IP header inside, and the pseudo
    /// header without the length. Nothing if there is no checksum.
    sum: Option<u64>,
    /// The inner pseudo header, without the length.
    inner_addresses: u64,
}

struct Tcp {
    sequence: u32,
    /// Those that every segment has, the first alone, and the last alone.
    flags: u8,
    of_first: u8,
    of_last: u8,
}

impl Template {
    fn new(hdr: VnetHdr, packet: &[u8]) -> Result<Self, Malformed> {
        let tunnel = hdr.gso_type & (GSO_TUNNEL_V4 | GSO_TUNNEL_V6);
        let protocol = match hdr.gso_type & !(GSO_ECN | tunnel) {
            GSO_TCPV4 | GSO_TCPV6 => TCP,
            GSO_UDP_L4 => UDP,
            _ => return Err(Malformed),
        };
        let network = if tunnel == 0 { 0 } else { usize::from(hdr.inner_network) };
        let transport = transport(hdr, packet, network)?;
        let len = transport
            + if protocol == UDP {
                UDP_HEADER
            } else {
                usize::from(packet.get(transport + 12).ok_or(Malformed)? >> 4) * 4
            };
        // Every segment's length has to fit its fields; one of them is as long as the others at most.
        let longest = len + usize::from(hdr.gso_size).min(packet.len().saturating_sub(len));
        let shortest = transport + if protocol == UDP { UDP_HEADER } else { 20 };
        if hdr.gso_size == 0 || len < shortest || len > MAX_HEADER.min(packet.len()) || longest > 0xffff {
            return Err(Malformed);
        }
        let mut bytes = [0; MAX_HEADER];
        bytes[..len].copy_from_slice(&packet[..len]);
        let header = &mut bytes[..len];
        let ip = Ip::take(header, network, transport)?;
        let inner_addresses = addresses(&header[network..], protocol);
        let outer =
            if tunnel == 0 { None } else { Some(Outer::take(hdr, header, network, inner_addresses)?) };
        let tcp = (protocol == TCP).then(|| Tcp::take(header, transport));
        put16(header, transport + if protocol == TCP { TCP_CSUM } else { UDP_CSUM }, 0);
        if protocol == UDP {
            put16(header, transport + 4, 0);
        }
        let sum = sum(&header[transport..], inner_addresses);
        Ok(Self { bytes, len, outer, ip, transport, tcp, sum })
    }

    /// The header of one segment.
    fn segment(&mut self, index: usize, offset: usize, last: bool, part: &[u8]) -> &[u8] {
        let header = &mut self.bytes[..self.len];
        let end = self.len + part.len();
        let ip_sum = self.ip.put(header, end, index);
        let length = word((end - self.transport) as u16);
        let mut total = sum(part, self.sum + length);
        if let Some(tcp) = &self.tcp {
            total += tcp.put(header, self.transport, offset, last);
            put16(header, self.transport + TCP_CSUM, finish(total));
        } else {
            // The length counts twice: here, and in the pseudo header.
            put16(header, self.transport + 4, (end - self.transport) as u16);
            put16(header, self.transport + UDP_CSUM, not_none(finish(total + length)));
        }
        if let Some(outer) = &self.outer {
            outer.put(header, end, index, ip_sum, length);
        }
        header
    }
}

/// Where the transport header is: where its checksum starts, or else behind the IP header.
fn transport(hdr: VnetHdr, packet: &[u8], network: usize) -> Result<usize, Malformed> {
    if hdr.flags & NEEDS_CSUM != 0 {
        return Ok(usize::from(hdr.csum_start));
    }
    let first = *packet.get(network).ok_or(Malformed)?;
    Ok(network + if first >> 4 == 4 { usize::from(first & 15) * 4 } else { 40 })
}

/// A UDP checksum of 0 would mean that there is none.
fn not_none(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

impl Ip {
    /// The IP header at `at`, of which nothing remains in `header` that changes. It ends at `end`, or extension
    /// headers do.
    fn take(header: &mut [u8], at: usize, end: usize) -> Result<Self, Malformed> {
        let ip = header.get_mut(at..end).ok_or(Malformed)?;
        match (ip.first().ok_or(Malformed)? >> 4, ip.len()) {
            (4, 20..=60) if usize::from(ip[0] & 15) * 4 == ip.len() => {
                let id = get16(ip, 4);
                // Length, identification, checksum.
                for field in [2, 4, 10] {
                    put16(ip, field, 0);
                }
                Ok(Self { at, v6: false, id, sum: sum(ip, 0) })
            }
            (6, 40..) => {
                put16(ip, 4, 0);
                Ok(Self { at, v6: true, id: 0, sum: sum(ip, 0) })
            }
            _ => Err(Malformed),
        }
    }

    /// Completes the header of a packet that ends at `end`; returns the sum of it.
    fn put(&self, header: &mut [u8], end: usize, index: usize) -> u64 {
        if self.v6 {
            let length = (end - self.at - 40) as u16;
            put16(header, self.at + 4, length);
            return self.sum + word(length);
        }
        let (length, id) = ((end - self.at) as u16, self.id.wrapping_add(index as u16));
        put16(header, self.at + 2, length);
        put16(header, self.at + 4, id);
        put16(header, self.at + 10, finish(self.sum + word(length) + word(id)));
        // That is what the checksum is for.
        0
    }
}

impl Outer {
    fn take(
        hdr: VnetHdr,
        header: &mut [u8],
        network: usize,
        inner_addresses: u64,
    ) -> Result<Self, Malformed> {
        let udp = usize::from(hdr.outer_transport);
        if udp + UDP_HEADER > network || network > header.len() {
            return Err(Malformed);
        }
        let ip = Ip::take(header, 0, udp)?;
        let wanted = hdr.flags & TUNNEL_CSUM != 0 || get16(header, udp + UDP_CSUM) != 0;
        put16(header, udp + 4, 0);
        put16(header, udp + UDP_CSUM, 0);
        let sum = wanted.then(|| sum(&header[udp..network], addresses(header, UDP)));
        Ok(Self { ip, udp, sum, inner_addresses })
    }

    /// Completes the headers around a complete packet: `ip_sum` is that of its IP header, `length` that of its
    /// transport part. The payload need not be summed again: with its checksum it is the complement of its pseudo
    /// header.
    fn put(&self, header: &mut [u8], end: usize, index: usize, ip_sum: u64, length: u64) {
        self.ip.put(header, end, index);
        let own = (end - self.udp) as u16;
        put16(header, self.udp + 4, own);
        if let Some(sum) = self.sum {
            let inside = ip_sum + word(finish(self.inner_addresses + length));
            put16(header, self.udp + UDP_CSUM, not_none(finish(sum + 2 * word(own) + inside)));
        }
    }
}

impl Tcp {
    /// Leaves nothing in `header` that changes.
    fn take(header: &mut [u8], at: usize) -> Self {
        let (sequence, flags) = (get32(header, at + 4), header[at + 13]);
        header[at + 4..at + 8].fill(0);
        let same = flags & !(CWR | FIN | PSH);
        header[at + 13] = same;
        Self { sequence, flags: same, of_first: flags & CWR, of_last: flags & (FIN | PSH) }
    }

    /// Completes the header but for its checksum; returns the sum of what was put.
    fn put(&self, header: &mut [u8], at: usize, offset: usize, last: bool) -> u64 {
        let sequence = self.sequence.wrapping_add(offset as u32);
        header[at + 4..at + 8].copy_from_slice(&sequence.to_be_bytes());
        let mut more = if last { self.of_last } else { 0 };
        if offset == 0 {
            more |= self.of_first;
        }
        header[at + 13] = self.flags | more;
        word((sequence >> 16) as u16) + word(sequence as u16) + word(u16::from(more))
    }
}
