//! Any input is survived: a peer may send what it likes.

use proptest::prelude::*;

use super::*;

fn header() -> impl Strategy<Value = VnetHdr> {
    let types = vec![0_u8, 1, 3, 4, 5, 0x81, 0x21, 0x24, 0x25, 0x41, 0x44, 0x45, 0x61, 0x20];
    let near = || prop_oneof![0..140u16, any::<u16>()];
    (any::<u8>(), prop::sample::select(types), any::<u16>(), near(), near(), near(), near()).prop_map(
        |(flags, gso_type, gso_size, csum_start, csum_offset, outer_transport, inner_network)| VnetHdr {
            flags,
            gso_type,
            hdr_len: 0,
            gso_size,
            csum_start,
            csum_offset,
            outer_transport,
            inner_network,
        },
    )
}

/// Bytes, or a packet with some of them changed, or cut short.
fn packet() -> impl Strategy<Value = Vec<u8>> {
    let noise = prop::collection::vec(any::<u8>(), 0..200);
    let carriers = vec![
        Carrier::Tcp,
        Carrier::Udp,
        Carrier::Vxlan { checksum: true },
        Carrier::Vxlan { checksum: false },
    ];
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    let changed =
        (prop::sample::select(carriers), any::<bool>(), 0..4usize, changes, any::<prop::sample::Index>())
            .prop_map(|(carrier, v6, at, changes, end)| {
                let mut packet = build(&run(&Spec { carrier, v6, ..Spec::default() }, 5, 20)[at]);
                for (at, to) in changes {
                    let at = at.index(packet.len());
                    packet[at] = to;
                }
                if at == 3 {
                    packet.truncate(end.index(packet.len()));
                }
                packet
            });
    prop_oneof![1 => noise, 3 => changed]
}

proptest! {
    #[test]
    fn any_header_and_packet_is_survived(header in header(), mut packet in packet(), again in packet()) {
        prop_assert_eq!(VnetHdr::decode(&header.encode()), Ok(VnetHdr { hdr_len: 0, ..header }));
        let _ = split(header, &mut packet, |header, payload| assert!(header.len() + payload.len() <= 65_535));
        let _ = split(header, &mut again.clone(), |_, _| {});
    }

    #[test]
    fn any_batch_is_survived_and_loses_nothing(batch in prop::collection::vec(packet(), 0..20)) {
        let mut sorted = batch.clone();
        let mut arrived = there_and_back(&batch, ALL);
        sorted.sort();
        arrived.sort();
        prop_assert_eq!(arrived, sorted);
    }
}
