//! What peers could send, by the million: flows in order, mixed, with bytes changed and checksums made to fit.
//!
//! `cargo xtask fuzz packets --minutes 30` runs this for longer.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use super::*;

/// Batches where no time is given.
const BATCHES: u64 = 3_000;
const CARRIERS: [Carrier; 4] =
    [Carrier::Tcp, Carrier::Udp, Carrier::Vxlan { checksum: true }, Carrier::Vxlan { checksum: false }];

/// Numbers without a pattern (splitmix64).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }
}

/// A packet, and the number of its flow if nothing was changed in it.
type Packet = (Vec<u8>, Option<usize>);

/// A batch of some flows. In every other one nothing is changed.
fn batch(rng: &mut Rng) -> Vec<Packet> {
    let changes = rng.one_in(2);
    let mut flows: Vec<(usize, std::vec::IntoIter<Spec>)> = (0..1 + rng.below(5))
        .map(|number| {
            let first = Spec {
                carrier: CARRIERS[rng.below(4)],
                v6: rng.one_in(2),
                port: number as u8,
                ids: [rng.next() as u16, rng.next() as u16],
                sequence: rng.next() as u32,
                options: rng.one_in(2),
                ..Spec::default()
            };
            let largest = if rng.one_in(2) { 1_400 } else { 60 };
            let (count, size) = (1 + rng.below(60), 1 + rng.below(largest));
            (number, run(&first, count, size).into_iter())
        })
        .collect();
    let mut batch = Vec::new();
    while !flows.is_empty() {
        let at = rng.below(flows.len());
        // Some neighbours, and then another flow.
        for _ in 0..1 + rng.below(8) {
            let (number, flow) = &mut flows[at];
            let Some(spec) = flow.next() else {
                flows.swap_remove(at);
                break;
            };
            let packet = build(&spec);
            batch.push(if changes && rng.one_in(6) {
                (changed(packet, &spec, rng), None)
            } else {
                (packet, Some(*number))
            });
        }
    }
    batch
}

/// The packet with some bytes of its headers changed, mostly with checksums that fit again, or cut short.
fn changed(mut packet: Vec<u8>, spec: &Spec, rng: &mut Rng) -> Vec<u8> {
    let network = if matches!(spec.carrier, Carrier::Vxlan { .. }) { 50 } else { 0 };
    let transport = network + if spec.v6 { 40 } else { 20 };
    for _ in 0..1 + rng.below(3) {
        let at = rng.below(packet.len().min(transport + 36));
        packet[at] = if rng.one_in(2) { rng.next() as u8 } else { packet[at] ^ (1 << rng.below(8)) };
    }
    if !rng.one_in(4) {
        let mut put = |at: usize, checksum: &dyn Fn(&[u8]) -> u16| {
            put16(&mut packet, at, 0);
            let checksum = checksum(&packet);
            put16(&mut packet, at, checksum);
        };
        let field = if spec.carrier == Carrier::Udp { UDP_CSUM } else { TCP_CSUM };
        if !spec.v6 {
            put(network + 10, &|packet| naive(&[&packet[network..transport]]));
        }
        put(transport + field, &|packet| transport_checksum(packet, network, transport));
        if network > 0 {
            put(10, &|packet| naive(&[&packet[..20]]));
        }
        if spec.carrier == (Carrier::Vxlan { checksum: true }) {
            put(20 + UDP_CSUM, &|packet| transport_checksum(packet, 0, 20));
        }
    }
    if rng.one_in(6) {
        packet.truncate(rng.below(packet.len()));
    }
    packet
}

/// Joined, carried over and cut, every packet is there once as it was, and each flow in its order.
fn check(batch: &[Packet], features: Features) -> usize {
    let packets: Vec<Vec<u8>> = batch.iter().map(|(packet, _)| packet.clone()).collect();
    let all = written(&mut packets.clone(), features);
    let arrived: Vec<Vec<u8>> = all
        .iter()
        .flat_map(|one| {
            let (header, packet) = handed_over(one, features);
            cut(header, packet)
        })
        .collect();
    let (mut before, mut after) = (packets, arrived.clone());
    before.sort();
    after.sort();
    assert!(before == after, "something is not as it was");
    let sent: HashMap<&[u8], (usize, usize)> = batch
        .iter()
        .enumerate()
        .filter_map(|(at, (packet, flow))| Some((packet.as_slice(), ((*flow)?, at))))
        .collect();
    let mut latest = BTreeMap::new();
    for (flow, at) in arrived.iter().filter_map(|packet| sent.get(packet.as_slice())) {
        let before = latest.insert(flow, at);
        assert!(before.is_none_or(|before| before < at), "a packet of flow {flow} was overtaken");
    }
    all.len()
}

/// A header, plausible or not, over a packet of any kind.
fn noise(batch: &[Packet], rng: &mut Rng) {
    let mut packet = batch[rng.below(batch.len())].0.clone();
    let mut near = |limit: usize| if rng.one_in(8) { rng.next() as u16 } else { rng.below(limit) as u16 };
    let header = VnetHdr {
        flags: near(16) as u8,
        gso_type: [1, 4, 5][usize::from(near(3)) % 3] | [0, 0x20, 0x40, 0x80][usize::from(near(4)) % 4],
        hdr_len: near(200),
        gso_size: near(1_500),
        csum_start: [20, 40, 70, 90, near(200)][usize::from(near(5)) % 5],
        csum_offset: [6, 16, near(40)][usize::from(near(3)) % 3],
        outer_transport: [20, 40, near(200)][usize::from(near(3)) % 3],
        inner_network: [50, 70, near(200)][usize::from(near(3)) % 3],
    };
    let _ = split(header, &mut packet, |header, _| assert!(header.len() <= MAX_HEADER));
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn whatever_peers_send_is_kept_as_it_was() {
    let seed = number("CS_FUZZ_SEED").unwrap_or(1);
    let time = number("CS_FUZZ_SECONDS").map(Duration::from_secs);
    let mut rng = Rng(seed);
    let (began, mut batches, mut packets, mut writes) = (Instant::now(), 0, 0, 0);
    while time.map_or(batches < BATCHES, |time| began.elapsed() < time) {
        let batch = batch(&mut rng);
        let features = Features { tso: true, uso: !rng.one_in(8), tunnel: !rng.one_in(8) };
        packets += batch.len();
        writes += check(&batch, features);
        noise(&batch, &mut rng);
        batches += 1;
    }
    println!("seed {seed}, {:?}: {batches} batches, {packets} packets, {writes} writes", began.elapsed());
    // What never joins, or joins everything, tests nothing.
    assert!(packets > 2 * writes && batches < writes as u64, "{packets} packets, {writes} writes");
}
