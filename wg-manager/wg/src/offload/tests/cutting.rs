//! Cutting what a kernel hands over.

use super::*;

#[test]
fn a_checksum_left_to_the_device_is_completed() {
    for (carrier, at, offset) in [(Carrier::Tcp, 20, TCP_CSUM), (Carrier::Udp, 20, UDP_CSUM)] {
        let complete = build(&Spec { carrier, ..Spec::default() });
        let mut partial = complete.clone();
        let length = (partial.len() - at) as u16;
        let pseudo = naive(&[&partial[12..20], &[0, partial[9]], &length.to_be_bytes()]);
        put16(&mut partial, at + offset, !pseudo);
        let header = VnetHdr {
            flags: NEEDS_CSUM,
            csum_start: at as u16,
            csum_offset: offset as u16,
            ..VnetHdr::default()
        };
        assert_eq!(cut(header, partial), [complete]);
    }
}

#[test]
fn flags_go_to_the_segments_they_belong_to() {
    let mut spec = Spec {
        v6: true,
        sequence: 1,
        flags: ACK | FIN | PSH | CWR,
        options: false,
        payload: vec![0; 250],
        ..Spec::default()
    };
    let header = VnetHdr {
        flags: NEEDS_CSUM,
        gso_type: GSO_TCPV6 | GSO_ECN,
        hdr_len: 60,
        gso_size: 100,
        csum_start: 40,
        csum_offset: 16,
        ..VnetHdr::default()
    };
    let parts = cut(header, build(&spec));
    let flags: Vec<u8> = parts.iter().map(|part| part[53]).collect();
    assert_eq!(flags, [ACK | CWR, ACK, ACK | FIN | PSH]);
    spec.flags = ACK | FIN | PSH;
    spec.sequence = 201;
    spec.payload = vec![0; 50];
    assert_eq!(parts[2], build(&spec));
}

/// A tunnel over IPv6, which is cut but not joined; with UDP inside too.
#[test]
fn tunnels_over_ipv6_and_datagrams_inside_are_cut() {
    let inner = |at: usize, len: usize| {
        let udp = with_udp(&vec![at as u8; len], 7, 53);
        let mut packet = ip(false, UDP, 40 + at as u16, 1, &udp);
        complete_udp(&mut packet, 20);
        packet
    };
    let outer = |inner: Vec<u8>| {
        let frame = [vec![8, 0, 0, 0, 0, 0, 7, 0], vec![2; 12], vec![8, 0], inner].concat();
        let mut packet = ip(true, UDP, 0, 9, &with_udp(&frame, 50_000, 4789));
        complete_udp(&mut packet, 40);
        packet
    };
    let whole = ip(false, UDP, 40, 1, &with_udp(&[vec![0; 100], vec![1; 100], vec![2; 30]].concat(), 7, 53));
    let header = VnetHdr {
        flags: NEEDS_CSUM | TUNNEL_CSUM,
        gso_type: GSO_UDP_L4 | GSO_TUNNEL_V6,
        hdr_len: 98,
        gso_size: 100,
        csum_start: 90,
        csum_offset: 6,
        outer_transport: 40,
        inner_network: 70,
    };
    let wanted = [(0, 100), (1, 100), (2, 30)].map(|(at, len)| outer(inner(at, len)));
    assert_eq!(cut(header, outer(whole.clone())), wanted);
    // Without a checksum there is none.
    let mut without = outer(whole);
    put16(&mut without, 46, 0);
    for (part, mut wanted) in cut(VnetHdr { flags: NEEDS_CSUM, ..header }, without).into_iter().zip(wanted) {
        put16(&mut wanted, 46, 0);
        assert_eq!(part, wanted);
    }
}

/// What says nothing about checksums (they are known to be right) is cut all the same.
#[test]
fn the_transport_header_is_found_without_help() {
    let specs = run(&Spec::default(), 3, 100);
    let whole =
        Spec { payload: specs.iter().flat_map(|spec| spec.payload.clone()).collect(), ..specs[0].clone() };
    let header = VnetHdr { flags: 2, gso_type: GSO_TCPV4, gso_size: 100, ..VnetHdr::default() };
    assert_eq!(cut(header, build(&whole)), specs.iter().map(build).collect::<Vec<_>>());
}

#[test]
fn headers_are_what_the_device_has() {
    let header = VnetHdr {
        flags: 1,
        gso_type: 0x21,
        hdr_len: 2,
        gso_size: 3,
        csum_start: 4,
        csum_offset: 5,
        outer_transport: 0x0607,
        inner_network: 0x0809,
    };
    let bytes = header.encode();
    assert_eq!(bytes[20..], [7, 6, 9, 8]);
    assert_eq!(VnetHdr::decode(&bytes), Ok(header));
    let short = VnetHdr { outer_transport: 0, inner_network: 0, ..header };
    assert_eq!(VnetHdr::decode(&bytes[..10]), Ok(short));
    assert_eq!(VnetHdr::decode(&bytes[..9]), Err(Malformed));
}
