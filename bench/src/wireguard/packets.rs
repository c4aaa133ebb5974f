//! What cutting and joining cost, without a device.

use std::hint::black_box;
use std::io::IoSlice;
use std::time::Instant;

use anyhow::{Result, anyhow, ensure};
use countersign_wg::checksum::{addresses, finish, sum, word};
use countersign_wg::offload::{Features, Joiner, VnetHdr, split};
use serde::Serialize;

use crate::limits::{GLANCE, GLANCES};

const FEATURES: Features = Features { tso: true, uso: true, tunnel: true };
/// As the MTU of a tunnel leaves them.
const PACKET: usize = 1_400;
/// As many as make one large packet.
const COUNT: usize = 44;
/// More than all headers of a packet.
const HEAD: usize = 128;

/// Nanoseconds for each packet of 1,400 bytes.
#[derive(Serialize)]
pub struct Cost {
    pub kind: &'static str,
    pub cut_ns: f64,
    pub joined_ns: f64,
    /// Of that, what the checksum of the payload takes in each of the two.
    pub checksum_ns: f64,
}

/// Measures every kind of packet.
pub fn costs() -> Result<Vec<Cost>> {
    let bytes = vec![7; PACKET];
    let checksum_ns = best(|| sum(&bytes, 0), 1);
    let vxlan = |checksum: bool| (0..COUNT).map(|at| in_vxlan(&tcp(at, PACKET - 50), at, checksum)).collect();
    let kinds: [(&str, Vec<Vec<u8>>); 4] = [
        ("TCP", (0..COUNT).map(|at| tcp(at, PACKET)).collect()),
        ("UDP", (0..COUNT).map(|at| with_udp(&[at as u8; PACKET - 28], at, true)).collect()),
        ("VXLAN", vxlan(false)),
        ("VXLAN with checksum", vxlan(true)),
    ];
    kinds
        .into_iter()
        .map(|(kind, packets)| {
            let (cut_ns, joined_ns) = (cutting(&packets)?, joining(&packets)?);
            Ok(Cost { kind, cut_ns, joined_ns, checksum_ns })
        })
        .collect()
}

/// Nanoseconds for each of `count` in one run of `work`: the best of several, as what disturbs only ever adds.
fn best<T>(mut work: impl FnMut() -> T, count: usize) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..GLANCES {
        let (began, mut runs) = (Instant::now(), 0_u32);
        while began.elapsed() < GLANCE {
            for _ in 0..16 {
                black_box(work());
            }
            runs += 16;
        }
        best = best.min(began.elapsed().as_nanos() as f64 / f64::from(runs));
    }
    best / count as f64
}

fn joining(packets: &[Vec<u8>]) -> Result<f64> {
    let mut joiner = Joiner::default();
    let mut batch = packets.to_vec();
    let mut writes = 0;
    let join = || {
        // The first one's header is all that is changed.
        batch[0][..HEAD].copy_from_slice(&packets[0][..HEAD]);
        writes = 0;
        joiner.join(&mut batch, FEATURES, |slices| {
            black_box(slices);
            writes += 1;
        });
    };
    let taken = best(join, packets.len());
    ensure!(writes == 1, "{} packets of one flow became {writes}", packets.len());
    Ok(taken)
}

fn cutting(packets: &[Vec<u8>]) -> Result<f64> {
    let mut whole = Vec::new();
    Joiner::default().join(&mut packets.to_vec(), FEATURES, |slices: &[IoSlice<'_>]| {
        whole = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
    });
    let (header, packet) = whole.split_at_mut(FEATURES.vnet_len());
    let header = VnetHdr::decode(header).map_err(|_| anyhow!("a short header"))?;
    let mut parts = 0;
    let cut = || {
        parts = 0;
        split(header, packet, |header, payload| {
            black_box((header, payload));
            parts += 1;
        })
    };
    let taken = best(cut, packets.len());
    ensure!(parts == packets.len(), "{} joined packets were cut to {parts}", packets.len());
    Ok(taken)
}

fn put16(bytes: &mut [u8], at: usize, number: usize) {
    bytes[at..at + 2].copy_from_slice(&(number as u16).to_be_bytes());
}

fn ip(protocol: u8, id: usize, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    put16(&mut packet, 2, 20 + payload.len());
    put16(&mut packet, 4, id);
    let checksum = finish(sum(&packet, 0));
    put16(&mut packet, 10, checksum.into());
    packet.extend(payload);
    packet
}

/// A packet of `length` bytes, the `at`th of its flow, with timestamps as Linux has them.
fn tcp(at: usize, length: usize) -> Vec<u8> {
    let size = length - 52;
    let mut tcp = [vec![0, 80, 0, 81], ((at * size) as u32).to_be_bytes().to_vec()].concat();
    tcp.extend([0, 0, 0, 9, 0x80, 0x10, 1, 1, 0, 0, 0, 0, 1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 1]);
    tcp.extend(vec![at as u8; size]);
    let mut packet = ip(6, at, &tcp);
    complete(&mut packet, 36);
    packet
}

fn with_udp(payload: &[u8], at: usize, checksum: bool) -> Vec<u8> {
    let mut udp = vec![0; 8];
    put16(&mut udp, 0, 50_000);
    put16(&mut udp, 2, 8_472);
    put16(&mut udp, 4, 8 + payload.len());
    udp.extend(payload);
    let mut packet = ip(17, at, &udp);
    if checksum {
        complete(&mut packet, 26);
    }
    packet
}

fn in_vxlan(packet: &[u8], at: usize, checksum: bool) -> Vec<u8> {
    let frame = [vec![8, 0, 0, 0, 0, 0, 7, 0], vec![2; 12], vec![8, 0], packet.to_vec()].concat();
    with_udp(&frame, at, checksum)
}

fn complete(packet: &mut [u8], field: usize) {
    let pseudo = addresses(packet, packet[9]) + word((packet.len() - 20) as u16);
    let checksum = finish(sum(&packet[20..], pseudo));
    put16(packet, field, checksum.into());
}
