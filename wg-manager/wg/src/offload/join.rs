//! Joining what belongs together.

use std::io::IoSlice;
use std::ops::DerefMut;

use super::flow::{Class, Flow, Kind, Shape, VXLAN, classify};
use super::{
    Features, GSO_TCPV4, GSO_TCPV6, GSO_TUNNEL_V4, GSO_UDP_L4, NEEDS_CSUM, PSH, TCP, TCP_CSUM, TUNNEL_CSUM,
    UDP, UDP_CSUM, VnetHdr, get16, get32, put16,
};
use crate::checksum::{addresses, finish, sum, word};

/// Longest packet the kernel takes: the IP length field is 16 bits.
const MAX_JOINED: usize = 65_535;
/// Segments of one packet: more than fill it at any usual size, and few enough for one system call.
const MAX_MEMBERS: usize = 128;
/// Datagrams of one packet: what kernels before 6.9 take.
const MAX_DATAGRAMS: usize = 64;
/// Flows remembered at a time, as a power of two. Two in one place only part each other's groups.
const SLOT_BITS: u32 = 7;
/// Written behind a tunnel's outer IP header, which then has options that mean nothing (`IPOPT_NOP`): Linux wants
/// the UDP header not before the 34th byte, as if there were an Ethernet header (`virtio_net_hdr_tnl_to_skb` in
/// `include/linux/virtio_net.h`), and a TUN device has none.
const PADDING: [u8; 16] = [1; 16];
/// The first byte of that IP header.
const PADDED: u8 = 0x40 | ((20 + PADDING.len() as u8) / 4);

/// Joins neighbours of one flow. Kept from batch to batch for its memory.
#[derive(Debug)]
pub struct Joiner {
    groups: Vec<Group>,
    /// For every packet of the batch, the next one of its group.
    next: Vec<usize>,
    /// The latest group of a flow.
    latest: [Option<usize>; 1 << SLOT_BITS],
}

impl Default for Joiner {
    fn default() -> Self {
        Self { groups: Vec::new(), next: Vec::new(), latest: [None; 1 << SLOT_BITS] }
    }
}

/// Packets that are handed to the kernel as one. The first lends its header.
#[derive(Debug)]
struct Group {
    flow: Flow,
    shape: Shape,
    first: usize,
    last: usize,
    count: usize,
    /// Bytes of all that is joined.
    total: usize,
    sequence: u32,
    /// A short or pushed segment ends a group, and so does any other packet of the flow.
    open: bool,
    /// The first one's checksums are looked at when there is a second.
    verified: bool,
    pushed: bool,
}

impl Joiner {
    /// Gives the packets of `batch` to `write`, each as the slices of one write to the device, the first of them
    /// the header of it. Neighbours of one flow become one packet; the order within every flow is kept (inside
    /// of VXLAN: of the inner flow). Only what the kernel's own cutting would restore is joined. Headers in
    /// `batch` are changed.
    pub fn join<P: DerefMut<Target = [u8]>>(
        &mut self,
        batch: &mut [P],
        features: Features,
        mut write: impl FnMut(&[IoSlice<'_>]),
    ) {
        self.group(batch, features);
        let plain = [0; VnetHdr::MAX];
        for group in &self.groups {
            if group.count == 1 {
                write(&[IoSlice::new(&plain[..features.vnet_len()]), IoSlice::new(&batch[group.first])]);
            } else {
                let header = group.seal(&mut batch[group.first]).encode();
                self.write(group, batch, &header[..features.vnet_len()], &mut write);
            }
        }
    }

    fn group<P: DerefMut<Target = [u8]>>(&mut self, batch: &[P], features: Features) {
        self.groups.clear();
        self.next.clear();
        self.latest.fill(None);
        for at in 0..batch.len() {
            let packet: &[u8] = &batch[at];
            self.next.push(at);
            match classify(packet, features) {
                Class::Other => self.groups.push(Group::alone(at, packet, Flow::default(), None)),
                Class::Barrier => {
                    self.latest.fill(None);
                    self.groups.push(Group::alone(at, packet, Flow::default(), None));
                }
                Class::Of(flow, shape) => {
                    let slot = &mut self.latest[flow.slot(SLOT_BITS)];
                    if let (Some(shape), Some(index)) = (&shape, *slot) {
                        let group = &mut self.groups[index];
                        if group.flow == flow && group.takes(&batch[group.first], packet, shape) {
                            self.next[group.last] = at;
                            group.push(at, packet, shape);
                            continue;
                        }
                    }
                    // What comes later of the flow must not overtake this one.
                    *slot = Some(self.groups.len());
                    self.groups.push(Group::alone(at, packet, flow, shape));
                }
            }
        }
    }

    fn write<P: DerefMut<Target = [u8]>>(
        &self,
        group: &Group,
        batch: &[P],
        header: &[u8],
        mut write: impl FnMut(&[IoSlice<'_>]),
    ) {
        let mut slices = [IoSlice::new(&[]); MAX_MEMBERS + 3];
        let head: &[u8] = &batch[group.first];
        slices[0] = IoSlice::new(header);
        let mut used = if group.shape.kind == Kind::Vxlan {
            let (outer, rest) = head.split_at(20);
            slices[1..4].copy_from_slice(&[outer, &PADDING, rest].map(IoSlice::new));
            4
        } else {
            slices[1] = IoSlice::new(head);
            2
        };
        let mut at = group.first;
        while at != group.last {
            at = self.next[at];
            slices[used] = IoSlice::new(&batch[at][group.shape.header..]);
            used += 1;
        }
        write(&slices[..used]);
    }
}

impl Group {
    fn alone(at: usize, packet: &[u8], flow: Flow, shape: Option<Shape>) -> Self {
        let open = shape.is_some();
        let shape = shape.unwrap_or_default();
        let mut group = Self {
            flow,
            shape,
            first: at,
            last: at,
            count: 1,
            total: packet.len(),
            sequence: 0,
            open,
            verified: false,
            pushed: false,
        };
        if open {
            group.follow(packet, &shape);
        }
        group
    }

    /// Whether the packet is the next one: everything that must be equal is.
    fn takes(&mut self, head: &[u8], packet: &[u8], new: &Shape) -> bool {
        let (limit, padding) = match new.kind {
            Kind::Tcp => (MAX_MEMBERS, 0),
            Kind::Udp => (MAX_DATAGRAMS, 0),
            Kind::Vxlan => (MAX_MEMBERS, PADDING.len()),
        };
        let fits = self.open
            && self.count < limit
            && new.header == self.shape.header
            && new.payload <= self.shape.payload
            && self.total + new.payload + padding <= MAX_JOINED
            && (new.kind == Kind::Udp || get32(packet, new.transport + 4) == self.sequence)
            && new.same_headers(head, packet, self.count as u16);
        if !fits {
            return false;
        }
        self.verified = self.verified || self.shape.verified(head);
        self.verified && new.verified(packet)
    }

    fn push(&mut self, at: usize, packet: &[u8], new: &Shape) {
        self.last = at;
        self.count += 1;
        self.total += new.payload;
        self.follow(packet, new);
    }

    /// What may come after `packet`.
    fn follow(&mut self, packet: &[u8], shape: &Shape) {
        if shape.kind != Kind::Udp {
            let sequence = get32(packet, shape.transport + 4);
            self.sequence = sequence.wrapping_add(shape.payload as u32);
            self.pushed = packet[shape.transport + 13] & PSH != 0;
        }
        self.open = !self.pushed && shape.payload == self.shape.payload;
    }

    /// Makes the first one's headers those of the whole, and says how the kernel has to read it.
    fn seal(&self, head: &mut [u8]) -> VnetHdr {
        let Shape { kind, v6, network, transport, header, payload } = self.shape;
        put_length(head, network, v6, self.total);
        let (protocol, field) = if kind == Kind::Udp { (UDP, UDP_CSUM) } else { (TCP, TCP_CSUM) };
        let length = (self.total - transport) as u16;
        // The kernel adds the rest to the pseudo header's sum.
        let pseudo = addresses(&head[network..], protocol) + word(length);
        put16(head, transport + field, !finish(pseudo));
        if kind == Kind::Udp {
            put16(head, transport + 4, length);
        } else if self.pushed {
            head[transport + 13] |= PSH;
        }
        let tcp = if v6 { GSO_TCPV6 } else { GSO_TCPV4 };
        let mut hdr = VnetHdr {
            flags: NEEDS_CSUM,
            gso_type: if kind == Kind::Udp { GSO_UDP_L4 } else { tcp },
            hdr_len: header as u16,
            gso_size: payload as u16,
            csum_start: transport as u16,
            csum_offset: field as u16,
            ..VnetHdr::default()
        };
        if kind == Kind::Vxlan {
            self.seal_tunnel(head, &mut hdr);
        }
        hdr
    }

    fn seal_tunnel(&self, head: &mut [u8], hdr: &mut VnetHdr) {
        let padding = PADDING.len();
        head[0] = PADDED;
        put16(head, 2, (self.total + padding) as u16);
        put16(head, 10, 0);
        put16(head, 10, finish(sum(&PADDING, sum(&head[..20], 0))));
        let length = (self.total - 20) as u16;
        put16(head, 24, length);
        if get16(head, 20 + UDP_CSUM) != 0 {
            put16(head, 20 + UDP_CSUM, !finish(addresses(head, UDP) + word(length)));
            hdr.flags |= TUNNEL_CSUM;
        }
        hdr.gso_type |= GSO_TUNNEL_V4;
        hdr.hdr_len += padding as u16;
        hdr.csum_start += padding as u16;
        hdr.outer_transport = (20 + padding) as u16;
        hdr.inner_network = (VXLAN + padding) as u16;
    }
}

/// The length of what an IP header at `at` begins and the packet's end at `total` ends.
fn put_length(head: &mut [u8], at: usize, v6: bool, total: usize) {
    if v6 {
        put16(head, at + 4, (total - at - 40) as u16);
        return;
    }
    put16(head, at + 2, (total - at) as u16);
    put16(head, at + 10, 0);
    let checksum = finish(sum(&head[at..at + 20], 0));
    put16(head, at + 10, checksum);
}
