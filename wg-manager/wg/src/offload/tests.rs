//! Cutting and joining are each other's reverse, keep every flow's order, and survive any input.

use proptest::prelude::*;

use super::*;

/// One TCP segment of a flow.
#[derive(Debug, Clone)]
struct Spec {
    v6: bool,
    port: u8,
    id: u16,
    sequence: u32,
    acknowledged: u8,
    flags: u8,
    options: bool,
    payload: Vec<u8>,
}

fn build(spec: &Spec) -> Vec<u8> {
    let options: &[u8] = if spec.options { &[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2] } else { &[] };
    let tcp_len = 20 + options.len() + spec.payload.len();
    let mut packet = if spec.v6 {
        let mut ip = vec![0x60, 0, 0, 0, 0, 0, TCP, 64];
        ip[4..6].copy_from_slice(&(tcp_len as u16).to_be_bytes());
        ip.extend([0xfd; 16]);
        ip.extend([0xfc; 16]);
        ip
    } else {
        let mut ip = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, TCP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        put16(&mut ip, 2, (20 + tcp_len) as u16);
        put16(&mut ip, 4, spec.id);
        let checksum = finish(sum(&ip, 0));
        put16(&mut ip, 10, checksum);
        ip
    };
    let tcp = packet.len();
    packet.extend([0, spec.port, 0, 80]);
    packet.extend(spec.sequence.to_be_bytes());
    packet.extend([0, 0, 0, spec.acknowledged]);
    packet.extend([((5 + options.len() / 4) << 4) as u8, spec.flags, 1, 0, 0, 0, 0, 0]);
    packet.extend(options);
    packet.extend(&spec.payload);
    let pseudo = pseudo_header(&packet, TCP, tcp_len);
    let checksum = finish(sum(&packet[tcp..], pseudo));
    put16(&mut packet, tcp + TCP_CSUM, checksum);
    packet
}

/// What the kernel gets for a group.
fn assemble(group: &Group, batch: &mut [Vec<u8>]) -> (VnetHdr, Vec<u8>) {
    let header = group.seal(batch);
    let mut joined = batch[group.members[0]].clone();
    for member in &group.members[1..] {
        joined.extend(group.payload_of(&batch[*member]));
    }
    (header, joined)
}

fn cut(header: VnetHdr, mut packet: Vec<u8>) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    split(header, &mut packet, |header, payload| parts.push([header, payload].concat())).unwrap();
    parts
}

fn spec() -> impl Strategy<Value = Spec> {
    (any::<bool>(), 1..4u8, any::<bool>(), 1..200usize).prop_map(|(v6, port, options, size)| Spec {
        v6,
        port,
        id: 7,
        sequence: u32::MAX - 500,
        acknowledged: 1,
        flags: ACK,
        options,
        payload: vec![port; size],
    })
}

/// A flow in order: `count` segments of one size, the last perhaps shorter and pushed.
fn flow() -> impl Strategy<Value = Vec<Spec>> {
    (spec(), 1..60usize, any::<bool>(), any::<u8>()).prop_map(|(first, count, short, fill)| {
        let size = first.payload.len();
        let mut specs = Vec::new();
        for at in 0..count {
            let mut next = first.clone();
            next.id = first.id.wrapping_add(at as u16);
            next.sequence = first.sequence.wrapping_add((at * size) as u32);
            next.payload =
                (0..size).map(|byte| (byte as u8).wrapping_mul(fill).wrapping_add(at as u8)).collect();
            if at + 1 == count {
                next.flags |= PSH;
                next.payload.truncate(if short { size.div_ceil(2) } else { size });
            }
            specs.push(next);
        }
        specs
    })
}

proptest! {
    #[test]
    fn joining_and_cutting_gives_the_same_packets(flow in flow()) {
        let packets: Vec<Vec<u8>> = flow.iter().map(build).collect();
        let mut batch = packets.clone();
        let groups = group(&batch);
        prop_assert_eq!(groups.len(), 1, "a flow in order is one packet");
        let (header, joined) = assemble(&groups[0], &mut batch);
        prop_assert_eq!(cut(header, joined), packets);
    }

    /// Whatever is mixed: every packet arrives once, and each flow's bytes in their order.
    #[test]
    fn flows_keep_their_order(
        specs in prop::collection::vec((spec(), -1..3i32, 0..3u8, any::<bool>()), 0..40)
    ) {
        let mut next = std::collections::BTreeMap::new();
        let packets: Vec<Vec<u8>> = specs.into_iter().map(|(mut spec, jump, flags, stale)| {
            let at = next.entry((spec.v6, spec.port)).or_insert(1000_u32);
            spec.sequence = at.wrapping_add_signed(jump * 50 * i32::from(jump != 1));
            *at = spec.sequence.wrapping_add(spec.payload.len() as u32);
            spec.acknowledged = u8::from(stale);
            spec.flags = [ACK, ACK | PSH, ACK | FIN][usize::from(flags)];
            build(&spec)
        }).collect();
        let mut batch = packets.clone();
        let mut arrived = Vec::new();
        for group in group(&batch) {
            let (header, joined) = assemble(&group, &mut batch);
            arrived.extend(cut(header, joined));
        }
        prop_assert_eq!(arrived.len(), packets.len());
        let of_flow = |all: &[Vec<u8>], v6: bool, port: u8| -> Vec<Vec<u8>> {
            let tcp = if v6 { 40 } else { 20 };
            let mut of: Vec<Vec<u8>> = all.iter()
                .filter(|packet| (packet[0] >> 4 == 6) == v6 && packet[tcp + 1] == port)
                .cloned().collect();
            // The identification of joined IPv4 packets is counted anew.
            for packet in of.iter_mut().filter(|_| !v6) {
                packet[4..6].fill(0);
                packet[10..12].fill(0);
            }
            of
        };
        for (v6, port) in [(false, 1), (false, 2), (false, 3), (true, 1), (true, 2), (true, 3)] {
            prop_assert_eq!(of_flow(&arrived, v6, port), of_flow(&packets, v6, port));
        }
    }

    #[test]
    fn damaged_packets_stay_alone(flow in flow().prop_filter("several", |flow| flow.len() > 2), at: prop::sample::Index, bit in 0..8u32) {
        let mut batch: Vec<Vec<u8>> = flow.iter().map(build).collect();
        let damaged = at.index(batch.len());
        *batch[damaged].last_mut().unwrap() ^= 1 << bit;
        for group in group(&batch) {
            prop_assert!(group.members == [damaged] || !group.members.contains(&damaged));
        }
    }

    #[test]
    fn any_input_is_survived(
        flags: u8, gso_type in prop::sample::select(vec![0u8, 1, 3, 4, 5, 0x81]), gso_size: u16, csum_start in 0..80u16,
        csum_offset in 0..40u16, mut packet in prop::collection::vec(any::<u8>(), 0..200), version in prop::sample::select(vec![0u8, 0x45, 0x46, 0x60]),
        more in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 0..5),
    ) {
        if let Some(first) = packet.first_mut() {
            *first |= version;
        }
        let mut batch = more.clone();
        batch.push(packet.clone());
        for group in group(&batch) {
            let _ = assemble(&group, &mut batch);
        }
        let header = VnetHdr { flags, gso_type, hdr_len: 0, gso_size, csum_start, csum_offset };
        prop_assert_eq!(VnetHdr::decode(&header.encode()), header);
        let _ = split(header, &mut packet, |_, _| {});
    }
}

#[test]
fn a_checksum_left_to_the_device_is_completed() {
    let spec = Spec {
        v6: false,
        port: 1,
        id: 1,
        sequence: 1,
        acknowledged: 1,
        flags: ACK,
        options: true,
        payload: vec![1, 2, 3],
    };
    let complete = build(&spec);
    let mut partial = complete.clone();
    let pseudo = pseudo_header(&partial, TCP, partial.len() - 20);
    put16(&mut partial, 20 + TCP_CSUM, !finish(pseudo));
    let header = VnetHdr { flags: NEEDS_CSUM, csum_start: 20, csum_offset: 16, ..VnetHdr::default() };
    assert_eq!(cut(header, partial), [complete]);
}

#[test]
fn flags_go_to_the_segments_they_belong_to() {
    let mut spec = Spec {
        v6: true,
        port: 1,
        id: 1,
        sequence: 1,
        acknowledged: 1,
        flags: ACK | FIN | PSH | CWR,
        options: false,
        payload: vec![0; 250],
    };
    let packet = build(&spec);
    let header = VnetHdr {
        flags: NEEDS_CSUM,
        gso_type: GSO_TCPV6,
        hdr_len: 60,
        gso_size: 100,
        csum_start: 40,
        csum_offset: 16,
    };
    let parts = cut(header, packet);
    let flags: Vec<u8> = parts.iter().map(|part| part[53]).collect();
    assert_eq!(flags, [ACK | CWR, ACK, ACK | FIN | PSH]);
    spec.flags = ACK | FIN | PSH;
    spec.sequence = 201;
    spec.payload = vec![0; 50];
    assert_eq!(parts[2], build(&spec));
}
