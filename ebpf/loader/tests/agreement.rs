//! Random packets: the kernel's programs and the twin must agree on every one of them.
//!
//! `CS_RANDOM_PACKETS` says how many go through each program (200,000 if it is not set).

mod support;

use std::collections::BTreeMap;

use countersign_ebpf_loader::MapSizes;
use countersign_ebpf_loader::common::config::{self, Config};
use countersign_ebpf_loader::common::craft::{Craft, arp, icmp, neighbour};
use countersign_ebpf_loader::common::endpoint::audit_slot;
use countersign_ebpf_loader::common::layout::program::{self, FROM_PARK, FROM_POD};
use countersign_ebpf_loader::common::metrics;
use countersign_ebpf_loader::common::park::Parked;
use countersign_ebpf_loader::common::policy::{PolicyKey, auth_type};
use countersign_ebpf_loader::common::proto;
use countersign_ebpf_loader::common::reason;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use support::World;
use support::scene::{A, A_IPS, B_IPS, C, C_IPS, HOST_IPS, NODE, SECOND, Scene, WORLD_IPS, allowing, ip};

const PEERS: [[&str; 2]; 4] = [B_IPS, C_IPS, HOST_IPS, WORLD_IPS];
const PORTS: [u16; 6] = [53, 80, 443, 1000, 4250, 51871];

/// A frame that is nearly right, one that is bent, or one that is nothing at all.
fn frame(scene: &Scene, random: &mut StdRng, leaves: bool) -> Vec<u8> {
    if random.random_ratio(1, 50) {
        let length = random.random_range(14..200);
        return (0..length).map(|_| random.random()).collect();
    }
    let mut craft = scene.craft(&scene.a, PEERS[random.random_range(0..4)], random.random(), leaves);
    adorn(&mut craft, random);
    let mut frame = body(&craft, random);
    if random.random_ratio(1, 3) {
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..frame.len().min(90));
            frame[at] ^= 1 << random.random_range(0..8);
        }
    }
    if random.random_ratio(1, 10) {
        frame.truncate(random.random_range(14..=frame.len()));
    }
    frame
}

fn adorn(craft: &mut Craft, random: &mut StdRng) {
    if random.random_ratio(1, 6) {
        let offset = [0, 0, 8, 16, 24, 64][random.random_range(0..6)];
        craft.fragment = Some((random.random_range(0..32), offset, random.random()));
    }
    if random.random_ratio(1, 8) {
        craft.options = 4 * random.random_range(0..=10);
    }
    while random.random_ratio(1, 4) {
        let kind = [0, 60, 60, 43, 44, 135][random.random_range(0..6)];
        let length = if kind == 44 { 6 } else { 8 * random.random_range(1..4) - 2 };
        craft.extensions.push((kind, vec![0; length]));
    }
    if random.random_ratio(1, 10) {
        craft.hops = 255;
    }
}

fn body(craft: &Craft, random: &mut StdRng) -> Vec<u8> {
    let (source, destination) = (PORTS[random.random_range(0..6)], PORTS[random.random_range(0..6)]);
    match random.random_range(0..10) {
        0..3 => craft.tcp(source, destination, [2, 18, 16, 17, 4][random.random_range(0..5)]),
        3..6 => craft.udp(source, destination, &[0; 40]),
        6 => craft.echo(source, random.random()),
        7 => {
            let quoted = craft.reversed().udp(source, destination, &[0; 8]);
            craft.icmp_error(&quoted[14..])
        }
        8 => {
            let kind = random.random();
            let protocol = [proto::ICMP, proto::ICMP6, proto::SCTP, 47, 50][random.random_range(0..5)];
            craft.build(protocol, &icmp(kind, &[0; 40]))
        }
        _ => link(craft, random),
    }
}

/// What belongs to the link: ARP and neighbours.
fn link(craft: &Craft, random: &mut StdRng) -> Vec<u8> {
    if random.random() {
        let sender = [[10, 0, 1, 10], [10, 0, 1, 11]][random.random_range(0..2)];
        return arp(craft.source_mac, sender, [10, 0, 1, 1]);
    }
    let to = [ip("fe80::1"), ip("ff02::1:ff00:1")][random.random_range(0..2)];
    let craft = Craft { source: ip(A_IPS[1]), destination: to, hops: 255, ..craft.clone() };
    let target = [0xfd, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, random.random_range(9..12)];
    let mac = if random.random() { Some(craft.source_mac) } else { None };
    craft.build(proto::ICMP6, &neighbour(random.random_range(133..=137), target, mac))
}

/// Some of everything: open ports, denied ones, proofs wanted and there, proofs wanted and missing; and a second
/// verdict that would let some of it through.
fn policies(scene: &mut Scene) {
    scene.audit(1);
    for direction in [0, 1] {
        let in_slot = |slot: u16, identity, protocol, port: u16| PolicyKey {
            identity,
            slot_be: slot.to_be(),
            direction,
            protocol,
            port_be: port.to_be(),
            pad: 0,
        };
        let key = |identity, protocol, port| in_slot(1, identity, protocol, port);
        let would = |identity, protocol, port| in_slot(audit_slot(1), identity, protocol, port);
        scene.policy(would(C, proto::TCP, 80), 0, allowing(auth_type::SPIRE, 80));
        scene.policy(would(0, proto::UDP, 53), 80, allowing(auth_type::NONE, 80));
        scene.policy(would(0, proto::ICMP, 0), 64, allowing(auth_type::SPIRE, 64));
        scene.policy(key(C, proto::TCP, 80), 0, allowing(auth_type::NONE, 80));
        scene.policy(key(C, proto::TCP, 443), 0, allowing(auth_type::SPIRE, 80));
        scene.policy(key(0, proto::UDP, 0), 64, allowing(auth_type::NONE, 64));
        scene.policy(key(0, proto::ICMP, 0), 64, allowing(auth_type::NONE, 64));
        scene.policy(key(0, proto::ICMP6, 0), 64, allowing(auth_type::NONE, 64));
        scene.policy(key(2000, 0, 0), 56, allowing(auth_type::SPIRE, 56));
    }
    scene.prove(A, C, NODE, C_IPS, 100_000 * SECOND);
}

fn settings(park: u32) -> Config {
    Config {
        flags: config::flag::PARKING | config::flag::ENCRYPTION | config::flag::VERDICT_EVENTS,
        park_ifindex: park,
        handshake_port: 4250,
        wireguard_port: 51871,
        // Out of the way: the two sides do not read the clock at the same instant.
        park_pair_packets: u32::MAX,
        park_pair_bytes: u32::MAX,
        park_slot_packets: u32::MAX,
        park_slot_bytes: u32::MAX,
        ..Config::default()
    }
}

fn packets() -> u32 {
    std::env::var("CS_RANDOM_PACKETS").ok().and_then(|count| count.parse().ok()).unwrap_or(200_000)
}

/// The kernel refuses to run a program on a frame that says IP and has not the bytes of an IP header.
fn long_enough(frame: &mut Vec<u8>) {
    let wanted = match frame[12..14] {
        [0x08, 0x00] => 34,
        [0x86, 0xdd] => 54,
        _ => 15,
    };
    frame.resize(frame.len().max(wanted), 0);
}

fn run(scene: &Scene, name: &'static str, random: &mut StdRng) -> BTreeMap<i32, u64> {
    let mut actions = BTreeMap::new();
    for number in 0..packets() {
        let outward = matches!(name, FROM_POD | program::TO_WIRE | program::TO_WG);
        let leaves = outward != random.random_ratio(1, 20);
        let mut bytes = frame(scene, random, leaves);
        if name == FROM_PARK && random.random() {
            let parked = Parked {
                direction: random.random_range(0..2),
                round: 1,
                slot: random.random_range(0..4),
                node: 0,
                remote: C,
            };
            bytes[..12].copy_from_slice(&parked.encode());
        }
        if matches!(name, program::TO_WG | program::FROM_WG) {
            bytes.drain(..14);
            bytes.resize(bytes.len().max(14), 0);
        }
        long_enough(&mut bytes);
        let expected = scene.expected(name, scene.a.ifindex, &bytes);
        let action = scene.kernel(name, scene.a.ifindex, &bytes);
        assert_eq!(action, expected, "{name}, packet {number}: {bytes:02x?}");
        *actions.entry(action).or_default() += 1;
    }
    actions
}

#[test]
fn kernel_and_twin_agree_on_random_packets() {
    let Some(mut world) = World::new() else { return };
    world.config.sizes = MapSizes { flows: 1 << 19, fragments: 1 << 19, ..world.config.sizes };
    let mut scene = Scene::new(world.open());
    policies(&mut scene);
    support::device::ip("tuntap add dev cs_park mode tap");
    scene.configure(&settings(support::device::index("cs_park")));
    for (seed, name) in program::ALL.into_iter().enumerate() {
        let mut random = StdRng::seed_from_u64(seed as u64);
        let actions = run(&scene, name, &mut random);
        println!(
            "{name:14} next {:?} drop {:?} redirect {:?}",
            actions.get(&-1),
            actions.get(&2),
            actions.get(&7)
        );
        assert!(actions.keys().all(|action| [-1, 2, 7].contains(action)), "{actions:?}");
        assert!(actions.get(&2) > Some(&0));
    }
    same_counts(&scene);
}

/// Not only the actions: every packet was counted under the same reason, with its bytes.
fn same_counts(scene: &Scene) {
    let kernel: BTreeMap<u32, (u64, u64)> = scene
        .datapath
        .metrics()
        .unwrap()
        .into_iter()
        .filter(|row| row.counter.packets > 0)
        .map(|row| (metrics::index(row.direction, row.reason), (row.counter.packets, row.counter.bytes)))
        .collect();
    let twin: BTreeMap<u32, (u64, u64)> = scene
        .twin
        .metrics
        .borrow()
        .iter()
        .filter(|(_, counter)| counter.packets > 0)
        .map(|(index, counter)| (*index, (counter.packets, counter.bytes)))
        .collect();
    assert_eq!(kernel, twin);
    for way in [metrics::INGRESS, metrics::EGRESS] {
        assert!(kernel.contains_key(&metrics::index(way, reason::AUDITED)), "nothing was audited");
    }
    assert!(kernel.len() > 25, "the packets met few reasons: {kernel:?}");
}
