//! Joining and cutting are each other's reverse, and every flow keeps its order.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const CARRIERS: [Carrier; 4] =
    [Carrier::Tcp, Carrier::Udp, Carrier::Vxlan { checksum: true }, Carrier::Vxlan { checksum: false }];

fn spec() -> impl Strategy<Value = Spec> {
    (prop::sample::select(CARRIERS.to_vec()), any::<bool>(), 1..4u8, any::<bool>(), any::<[u16; 2]>())
        .prop_map(|(carrier, v6, port, options, ids)| Spec {
            carrier,
            v6,
            port,
            ids,
            sequence: u32::MAX - 500,
            options,
            ..Spec::default()
        })
}

/// A flow in order, the last packet perhaps shorter and pushed.
fn flow() -> impl Strategy<Value = Vec<Spec>> {
    (spec(), 1..60usize, 1..1400usize, any::<bool>()).prop_map(|(first, count, size, short)| {
        let mut specs = run(&first, count, size);
        let last = specs.last_mut().unwrap();
        last.payload.truncate(if short { size.div_ceil(2) } else { size });
        last.flags |= if short { PSH } else { 0 };
        specs
    })
}

/// Bytes of the payloads that a packet of this many takes at most.
fn room(specs: &[Spec]) -> usize {
    65_535 - 16 - (build(&specs[0]).len() - specs[0].payload.len())
}

/// What may happen to a packet of a flow.
#[derive(Debug, Clone, Copy)]
enum Event {
    Ordinary,
    Pushed,
    /// Not the next one.
    Skipped,
    Repeated,
    /// Nothing in it, or something that must come alone.
    Empty,
    Flagged(u8),
    Acknowledges,
    /// Another identification than the next one.
    Strayed,
    Damaged,
    Shortened,
    Fragment,
}

fn event() -> impl Strategy<Value = Event> {
    let rare = prop::sample::select(vec![
        Event::Pushed,
        Event::Skipped,
        Event::Repeated,
        Event::Empty,
        Event::Flagged(ACK | FIN),
        Event::Flagged(ACK | 0x04),
        Event::Flagged(ACK | 0x20),
        Event::Flagged(0x02),
        Event::Acknowledges,
        Event::Strayed,
        Event::Damaged,
        Event::Shortened,
        Event::Fragment,
    ]);
    prop_oneof![3 => Just(Event::Ordinary), 1 => rare]
}

/// The flows of a batch, each with what is next in it.
#[derive(Default)]
struct Flows(BTreeMap<(Carrier, bool, u8), Spec>);

impl Flows {
    fn next(&mut self, first: &Spec, event: Event) -> Vec<u8> {
        let state = self.0.entry((first.carrier, first.v6, first.port)).or_insert_with(|| first.clone());
        let mut spec = Spec { payload: vec![first.port; 40], ..state.clone() };
        match event {
            Event::Pushed => spec.flags |= PSH,
            Event::Skipped => spec.sequence = spec.sequence.wrapping_add(40),
            Event::Repeated => spec.sequence = spec.sequence.wrapping_sub(40),
            Event::Empty => spec.payload.clear(),
            Event::Flagged(flags) => spec.flags = flags,
            Event::Acknowledges => spec.acknowledged = spec.acknowledged.wrapping_add(1),
            Event::Strayed => spec.ids = spec.ids.map(|id| id.wrapping_add(9)),
            Event::Shortened => spec.payload.truncate(20),
            Event::Ordinary | Event::Damaged | Event::Fragment => {}
        }
        state.sequence = spec.sequence.wrapping_add(spec.payload.len() as u32);
        state.ids = spec.ids.map(|id| id.wrapping_add(1));
        state.acknowledged = spec.acknowledged;
        let mut packet = build(&spec);
        if matches!(event, Event::Damaged) {
            *packet.last_mut().unwrap() ^= 1;
        }
        if matches!(event, Event::Fragment) && packet[0] == 0x45 {
            packet[6] |= 0x20;
        }
        packet
    }
}

/// The flow of a packet, found without the code under test: that of the innermost addresses and ports.
fn flow_of(packet: &[u8]) -> Vec<u8> {
    let inner = packet[0] == 0x45 && packet[9] == UDP && packet[22..24] == 8472_u16.to_be_bytes();
    let at = if inner { 50 } else { 0 };
    let (protocol, ports) =
        if packet[at] >> 4 == 4 { (packet[at + 9], at + 20) } else { (packet[at + 6], at + 40) };
    vec![u8::from(inner), packet[at] >> 4, protocol, packet[ports + 1], packet[ports + 3]]
}

fn by_flow(packets: &[Vec<u8>]) -> BTreeMap<Vec<u8>, Vec<Vec<u8>>> {
    let mut flows: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for packet in packets {
        flows.entry(flow_of(packet)).or_default().push(packet.clone());
    }
    flows
}

proptest! {
    #[test]
    fn a_flow_in_order_is_one_packet_and_comes_back(flow in flow()) {
        let packets: Vec<Vec<u8>> = flow.iter().map(build).collect();
        let bytes: usize = flow.iter().map(|spec| spec.payload.len()).sum();
        let all = written(&mut packets.clone(), ALL);
        if bytes <= room(&flow) {
            prop_assert_eq!(all.len(), 1);
        }
        prop_assert_eq!(there_and_back(&packets, ALL), packets);
    }

    /// Whatever is mixed: every packet arrives once and as it was, each flow's in their order.
    #[test]
    fn whatever_is_mixed_comes_back_and_flows_keep_their_order(
        specs in prop::collection::vec((spec(), event()), 0..100),
        uso: bool, tunnel: bool,
    ) {
        let mut flows = Flows::default();
        let packets: Vec<Vec<u8>> = specs.iter().map(|(spec, event)| flows.next(spec, *event)).collect();
        let features = Features { tso: true, uso, tunnel };
        prop_assert_eq!(by_flow(&there_and_back(&packets, features)), by_flow(&packets));
    }

    #[test]
    fn damaged_packets_stay_alone(
        flow in flow().prop_filter("several", |flow| flow.len() > 2),
        at: prop::sample::Index, byte: prop::sample::Index, bit in 0..8u32,
    ) {
        // Where nothing guards a byte, its change is none of ours to find.
        let unguarded = |at: usize| flow[0].carrier == Carrier::Vxlan { checksum: false } && (20..50).contains(&at);
        let mut packets: Vec<Vec<u8>> = flow.iter().map(build).collect();
        let damaged = at.index(packets.len());
        let byte = byte.index(packets[damaged].len());
        prop_assume!(!unguarded(byte));
        packets[damaged][byte] ^= 1 << bit;
        let copy = packets[damaged].clone();
        let plain = [vec![0; 24], copy].concat();
        // As it was, and with a header that says nothing about it.
        prop_assert!(written(&mut packets, ALL).contains(&plain));
    }
}

fn joined(packets: &[Vec<u8>], features: Features) -> usize {
    assert_eq!(there_and_back(packets, features), packets);
    written(&mut packets.to_vec(), features).len()
}

fn packets(carrier: Carrier, v6: bool) -> Vec<Vec<u8>> {
    run(&Spec { carrier, v6, ..Spec::default() }, 10, 100).iter().map(build).collect()
}

#[test]
fn only_what_the_kernel_takes_is_joined() {
    let without = Features { tso: true, uso: false, tunnel: false };
    for (carrier, v6, alone) in [
        (Carrier::Tcp, false, 1),
        (Carrier::Tcp, true, 1),
        (Carrier::Udp, false, 10),
        (Carrier::Udp, true, 10),
        (Carrier::Vxlan { checksum: false }, false, 10),
        (Carrier::Vxlan { checksum: true }, true, 10),
    ] {
        assert_eq!(joined(&packets(carrier, v6), without), alone, "{carrier:?}");
        assert_eq!(joined(&packets(carrier, v6), ALL), 1, "{carrier:?}");
        assert_eq!(joined(&packets(carrier, v6), Features::default()), alone, "{carrier:?}");
    }
}

/// The bug wireguard-go had until May 2026: a packet that was about to be joined and was not kept the header made
/// for it.
#[test]
fn what_is_not_joined_has_no_stale_header() {
    for carrier in CARRIERS {
        for damaged in 0..3 {
            let mut batch: Vec<Vec<u8>> = packets(carrier, false)[..3].to_vec();
            *batch[damaged].last_mut().unwrap() ^= 1;
            let before = batch.clone();
            for one in written(&mut batch, ALL) {
                let (header, packet) = one.split_at(24);
                if before.iter().any(|before| before == packet) {
                    assert_eq!(header, [0; 24]);
                } else {
                    // The two others are neighbours if it is the first or the last.
                    assert!(damaged != 1 && header[0] & NEEDS_CSUM != 0);
                }
            }
        }
    }
}

/// Other zeros than the kernel's would not be restored.
#[test]
fn the_other_zero_is_not_joined() {
    let mut specs = run(&Spec::default(), 3, 100);
    // A payload that makes the checksum zero: its last word is what the checksum would be without it.
    let last = specs[1].payload.len();
    put16(&mut specs[1].payload, last - 2, 0);
    let checksum = get16(&build(&specs[1]), 20 + TCP_CSUM);
    put16(&mut specs[1].payload, last - 2, checksum);
    let mut packets: Vec<Vec<u8>> = specs.iter().map(build).collect();
    assert_eq!(get16(&packets[1], 20 + TCP_CSUM), 0);
    assert_eq!(joined(&packets, ALL), 1);
    put16(&mut packets[1], 20 + TCP_CSUM, 0xffff);
    assert_eq!(joined(&packets, ALL), 3);
}

#[test]
fn a_datagram_without_checksum_gets_none() {
    let mut packets = packets(Carrier::Udp, false);
    for packet in &mut packets {
        put16(packet, 20 + UDP_CSUM, 0);
    }
    assert_eq!(joined(&packets, ALL), 10);
}

#[test]
fn large_packets_end_where_the_kernel_says() {
    let many = |carrier, count, size| -> Vec<Vec<u8>> {
        run(&Spec { carrier, ..Spec::default() }, count, size).iter().map(build).collect()
    };
    // 45 of 1,400 bytes fill a packet; 64 datagrams are the most.
    assert_eq!(joined(&many(Carrier::Tcp, 92, 1400), ALL), 2);
    assert_eq!(joined(&many(Carrier::Vxlan { checksum: true }, 92, 1400), ALL), 2);
    assert_eq!(joined(&many(Carrier::Udp, 128, 100), ALL), 2);
    assert_eq!(joined(&many(Carrier::Tcp, 256, 10), ALL), 2);
}
