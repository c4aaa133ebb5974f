//! Every reason to drop a packet, and every way to pass one, in the kernel (`BPF_PROG_TEST_RUN`).

mod support;

use std::time::Duration;

use countersign_ebpf_loader::Skb;
use countersign_ebpf_loader::common::config::{self, Config};
use countersign_ebpf_loader::common::craft::{Craft, arp, icmp, neighbour, tcp as tcp_header, udp};
use countersign_ebpf_loader::common::event::kind;
use countersign_ebpf_loader::common::ipcache::IpEntry;
use countersign_ebpf_loader::common::layout::program::{self, FROM_POD, TO_POD};
use countersign_ebpf_loader::common::metrics::{EGRESS, INGRESS, WIRE};
use countersign_ebpf_loader::common::park::{MARK, Parked};
use countersign_ebpf_loader::common::policy::{PolicyEntry, PolicyKey, auth_type, flag, precedence};
use countersign_ebpf_loader::common::proto::{self, ext, tcp};
use countersign_ebpf_loader::common::reason;
use support::World;
use support::scene::{A, A_IPS, B_IPS, C, C_IPS, HOST_IPS, NODE, SECOND, Scene, WORLD_IPS, ip};

const PASS: i32 = -1;
const DROP: i32 = 2;
const REDIRECT: i32 = 7;

/// Runs the frame through kernel and twin, expects both to drop it, and the kernel to count the reason.
fn refused(scene: &Scene, program: &'static str, ifindex: u32, frame: &[u8], reason: u8) {
    let direction = if program == FROM_POD { EGRESS } else { INGRESS };
    let before = scene.counted(direction, reason);
    assert_eq!(scene.kernel(program, ifindex, frame), DROP, "{}", reason::text(reason));
    assert_eq!(scene.expected(program, ifindex, frame), DROP, "{}", reason::text(reason));
    assert_eq!(scene.counted(direction, reason), before + 1, "{}", reason::text(reason));
}

fn passes(scene: &Scene, program: &'static str, ifindex: u32, frame: &[u8]) {
    assert_eq!(scene.kernel(program, ifindex, frame), PASS);
    assert_eq!(scene.expected(program, ifindex, frame), PASS);
}

#[test]
fn a_pod_speaks_for_itself_only() {
    let Some(world) = World::new() else { return };
    let mut scene = Scene::new(world.open());
    scene.open();
    let (a, own) = (scene.a.ifindex, scene.a);
    let refuse = |frame: &[u8], reason| refused(&scene, FROM_POD, a, frame, reason);
    for v6 in [false, true] {
        let good = scene.craft(&own, C_IPS, v6, true);
        passes(&scene, FROM_POD, a, &good.udp(1, 2, b"payload"));
        let as_b = Craft { source: ip(B_IPS[usize::from(v6)]), ..good.clone() };
        refuse(&as_b.udp(1, 2, b"payload"), reason::INVALID_SOURCE_IP);
        refuse(
            &Craft { source_mac: [2; 6], ..good.clone() }.udp(1, 2, b"payload"),
            reason::INVALID_SOURCE_MAC,
        );
        let elsewhere = Craft { destination_mac: [2; 6], ..good.clone() };
        refuse(&elsewhere.udp(1, 2, b"payload"), reason::INVALID_DESTINATION_MAC);
        let everybody = Craft { destination_mac: [0xff; 6], ..good.clone() };
        refuse(&everybody.udp(1, 2, b"payload"), reason::MULTICAST);
        let mut strange = good.udp(1, 2, b"payload");
        strange[12..14].copy_from_slice(&[0x88, 0x47]);
        refuse(&strange, reason::UNSUPPORTED_L2);
        strange[12..14].copy_from_slice(&[0x81, 0]);
        refuse(&strange, reason::VLAN);
    }
    passes(&scene, FROM_POD, a, &arp(own.mac, [10, 0, 1, 10], [10, 0, 1, 1]));
    refuse(&arp(own.mac, [10, 0, 1, 11], [10, 0, 1, 1]), reason::ARP_SPOOF);
}

#[test]
fn neighbours_are_told_the_truth() {
    let Some(world) = World::new() else { return };
    let mut scene = Scene::new(world.open());
    scene.open();
    let (a, own) = (scene.a.ifindex, scene.a);
    let base = scene.craft(&own, C_IPS, true, true);
    let link = Craft { destination: ip("fe80::1"), hops: 255, ..base };
    let target = own.ip6.unwrap().octets();
    let send = |craft: &Craft, body: &[u8]| craft.build(proto::ICMP6, body);
    passes(&scene, FROM_POD, a, &send(&link, &neighbour(136, target, Some(own.mac))));
    passes(&scene, FROM_POD, a, &send(&link, &neighbour(135, [0xfe; 16], Some(own.mac))));
    let refuse = |frame: &[u8], reason| refused(&scene, FROM_POD, a, frame, reason);
    refuse(&send(&link, &neighbour(136, [0xfe; 16], Some(own.mac))), reason::FORBIDDEN_ICMP6);
    refuse(&send(&link, &neighbour(136, target, Some([2; 6]))), reason::FORBIDDEN_ICMP6);
    refuse(&send(&link, &neighbour(134, target, None)), reason::FORBIDDEN_ICMP6);
    refuse(&send(&link, &neighbour(137, target, None)), reason::FORBIDDEN_ICMP6);
    let far = Craft { hops: 64, ..link.clone() };
    refuse(&send(&far, &neighbour(136, target, Some(own.mac))), reason::FORBIDDEN_ICMP6);
    let group = Craft { destination: ip("ff02::16"), ..link };
    refuse(&send(&group, &icmp(143, &[0; 8])), reason::MULTICAST);
}

#[test]
fn headers_are_understood_or_refused() {
    let Some(world) = World::new() else { return };
    let mut scene = Scene::new(world.open());
    scene.open();
    let (a, own) = (scene.a.ifindex, scene.a);
    let refuse = |frame: &[u8], reason| refused(&scene, FROM_POD, a, frame, reason);
    for v6 in [false, true] {
        let good = scene.craft(&own, C_IPS, v6, true);
        let piece = |offset, more| Craft { fragment: Some((7, offset, more)), ..good.clone() };
        refuse(&piece(24, false).build(proto::UDP, &[0; 16]), reason::FRAG_NOT_FOUND);
        passes(&scene, FROM_POD, a, &piece(0, true).build(proto::UDP, &udp(1, 2, &[0; 16])));
        passes(&scene, FROM_POD, a, &piece(24, false).build(proto::UDP, &[0; 16]));
        refuse(&piece(0, true).build(proto::TCP, &tcp_header(1, 2, 2)[..16]), reason::FRAG_INVALID);
        refuse(&piece(8, false).build(proto::TCP, &[0; 16]), reason::FRAG_INVALID);
        let error = if v6 { (proto::ICMP6, 1) } else { (proto::ICMP, 3) };
        refuse(&piece(0, true).build(error.0, &icmp(error.1, &[0; 48])), reason::FRAG_NOSUPPORT);
        refuse(&good.build(proto::TCP, &[0; 12]), reason::TRUNCATED);
        let mut bent = good.udp(1, 2, b"payload");
        bent[14] = 0x75;
        refuse(&bent, reason::INVALID_PACKET);
    }
    let v4 = scene.craft(&own, C_IPS, false, true);
    refuse(&v4.build(proto::ICMP, &icmp(5, &[0; 28])), reason::UNKNOWN_ICMP4_TYPE);
    refuse(&v4.build(proto::ICMP6, &icmp(128, &[])), reason::UNKNOWN_L4);
    let v6 = scene.craft(&own, C_IPS, true, true);
    refuse(&v6.build(proto::ICMP6, &icmp(200, &[0; 28])), reason::UNKNOWN_ICMP6_TYPE);
    let chain = |headers: &[u8]| {
        let extensions = headers.iter().map(|kind| (*kind, vec![1; 6])).collect();
        Craft { extensions, ..v6.clone() }.udp(3, 4, b"payload")
    };
    passes(&scene, FROM_POD, a, &chain(&[ext::HOP_BY_HOP, ext::DESTINATION, ext::DESTINATION]));
    for bad in
        [&[ext::ROUTING][..], &[ext::DESTINATION, ext::HOP_BY_HOP], &[ext::DESTINATION; 5], &[ext::HIP]]
    {
        refuse(&chain(bad), reason::INVALID_EXTENSION_HEADER);
    }
}

#[test]
fn flows_are_judged_in_the_direction_they_were_opened() {
    let Some(world) = World::new() else { return };
    let mut scene = Scene::new(world.open());
    scene.allow(1, EGRESS, 0, auth_type::NONE);
    let (a, own) = (scene.a.ifindex, scene.a);
    for v6 in [false, true] {
        let out = scene.craft(&own, C_IPS, v6, true);
        let back = out.reversed();
        refused(&scene, TO_POD, a, &back.tcp(80, 1000, tcp::SYN | tcp::ACK), reason::POLICY_DENIED);
        passes(&scene, FROM_POD, a, &out.tcp(1000, 80, tcp::SYN));
        passes(&scene, TO_POD, a, &back.tcp(80, 1000, tcp::SYN | tcp::ACK));
        refused(&scene, TO_POD, a, &back.tcp(80, 1000, tcp::SYN), reason::POLICY_DENIED);
        refused(&scene, TO_POD, a, &back.echo(5, false), reason::ICMP_UNRELATED);
        passes(&scene, FROM_POD, a, &out.echo(5, true));
        passes(&scene, TO_POD, a, &back.echo(5, false));
        refused(&scene, TO_POD, a, &back.echo(5, true), reason::POLICY_DENIED);
        let router = scene.craft(&own, WORLD_IPS, v6, false);
        let sent = out.tcp(1000, 80, tcp::ACK);
        passes(&scene, TO_POD, a, &router.icmp_error(&sent[14..]));
        refused(&scene, TO_POD, a, &router.icmp_error(&out.tcp(1, 80, 16)[14..]), reason::ICMP_UNRELATED);
        let to_b = Craft { destination: ip(B_IPS[usize::from(v6)]), ..back.clone() };
        refused(&scene, TO_POD, a, &to_b.udp(1, 2, b"payload"), reason::STALE_OR_UNROUTABLE);
        let host = scene.craft(&own, HOST_IPS, v6, true);
        refused(&scene, FROM_POD, a, &host.tcp(1, 4250, tcp::SYN), reason::AGENT_PORT);
        refused(&scene, FROM_POD, a, &host.udp(1, 51871, b"payload"), reason::AGENT_PORT);
    }
    let flows = scene.datapath.connections();
    assert_eq!(flows.iter().filter(|flow| flow.key.protocol == proto::TCP).count(), 2);
    assert!(flows.iter().all(|flow| flow.entry.opened == EGRESS && flow.entry.packets >= 2), "{flows:?}");
    let key = PolicyKey { identity: C, slot_be: 1u16.to_be(), direction: EGRESS, ..PolicyKey::default() };
    let deny = PolicyEntry {
        precedence: precedence(0, true),
        rule_id: 7,
        flags: flag::DENY,
        prefix_bits: 56,
        ..PolicyEntry::default()
    };
    scene.policy(key, 56, deny);
    let frame = scene.craft(&own, C_IPS, false, true).tcp(1000, 80, tcp::ACK);
    refused(&scene, FROM_POD, a, &frame, reason::POLICY_DENY);
}

#[test]
fn proofs_are_asked_for_and_end() {
    let Some(world) = World::new() else { return };
    let mut scene = Scene::new(world.open());
    scene.allow(1, EGRESS, 0, auth_type::SPIRE);
    let (a, own) = (scene.a.ifindex, scene.a);
    let frames: Vec<_> =
        [false, true].map(|v6| scene.craft(&own, C_IPS, v6, true).udp(1, 2, b"payload")).into();
    for frame in &frames {
        refused(&scene, FROM_POD, a, frame, reason::AUTH_REQUIRED);
    }
    let world_frame = scene.craft(&own, WORLD_IPS, false, true).udp(1, 2, b"payload");
    refused(&scene, FROM_POD, a, &world_frame, reason::AUTH_IMPOSSIBLE);
    scene.prove(A, C, NODE, C_IPS, SECOND / 2);
    for frame in &frames {
        passes(&scene, FROM_POD, a, frame);
    }
    std::thread::sleep(Duration::from_millis(520));
    for frame in &frames {
        refused(&scene, FROM_POD, a, frame, reason::AUTH_REQUIRED);
    }
    let mut events = scene.datapath.take_events().unwrap();
    let kinds: Vec<u8> = std::iter::from_fn(|| events.next()).map(|event| event.kind).collect();
    assert!(kinds.contains(&kind::AUTH_REQUIRED) && kinds.contains(&kind::PROOF_ENDED), "{kinds:?}");
}

#[test]
fn packets_are_parked_with_all_the_agent_needs_and_released_as_they_were() {
    let Some(world) = World::new() else { return };
    let mut scene = Scene::new(world.open());
    scene.allow(1, EGRESS, 0, auth_type::SPIRE);
    support::device::ip("tuntap add dev cs_park mode tap");
    let park = support::device::index("cs_park");
    scene.configure(&Config {
        flags: config::flag::PARKING,
        park_ifindex: park,
        park_pair_packets: 5,
        ..Config::default()
    });
    let (a, own) = (scene.a.ifindex, scene.a);
    for v6 in [false, true] {
        let frame = scene.craft(&own, C_IPS, v6, true).udp(1, 2, b"payload");
        let run = scene.datapath.test_run(FROM_POD, &frame, &Skb::on(a), 1).unwrap();
        assert_eq!(run.action, REDIRECT);
        let parked = Parked::decode(run.packet[..12].try_into().unwrap()).unwrap();
        assert_eq!(parked, Parked { direction: EGRESS, round: 1, slot: 1, node: NODE, remote: C });
        assert_eq!(run.packet[12..], frame[12..]);
        let run = scene.datapath.test_run(program::FROM_PARK, &run.packet, &Skb::on(park), 1).unwrap();
        assert_eq!((run.action, run.mark), (REDIRECT, MARK | 1));
        assert_eq!(run.packet, frame);
        let again = Skb::on(a).marked(MARK | 3);
        let run = scene.datapath.test_run(FROM_POD, &frame, &again, 1).unwrap();
        assert_eq!((run.action, run.mark), (DROP, 0));
    }
    let frame = scene.craft(&own, C_IPS, false, true).udp(1, 2, b"payload");
    let parked = (0..10).filter(|_| scene.kernel(FROM_POD, a, &frame) == REDIRECT).count();
    assert_eq!(parked, 3);
    assert_eq!(scene.counted(EGRESS, reason::PARK_FULL), 7);
    assert_eq!(scene.kernel(program::FROM_PARK, park, &frame), DROP);
    assert_eq!(scene.counted(WIRE, reason::PARK_INVALID), 1);
}

#[test]
fn the_wire_sees_no_pod_and_the_encrypted_device_nothing_else() {
    let Some(world) = World::new() else { return };
    let scene = Scene::new(world.open());
    let own = scene.a;
    for v6 in [false, true] {
        let out = scene.craft(&own, C_IPS, v6, true);
        let frame = out.udp(1, 2, b"payload");
        let back = out.reversed().udp(1, 2, b"payload");
        let away = scene.craft(&own, WORLD_IPS, v6, true).udp(1, 2, b"payload");
        let packet = &frame[14..];
        let back_packet = &back[14..];
        let away_packet = &away[14..];
        for (program, bytes, action) in [
            (program::TO_WIRE, &frame[..], DROP),
            (program::TO_WIRE, &away[..], PASS),
            (program::FROM_WIRE, &back[..], DROP),
            (program::FROM_WIRE, &away[..], DROP),
            (program::TO_WG, packet, PASS),
            (program::TO_WG, back_packet, DROP),
            (program::TO_WG, away_packet, DROP),
            (program::FROM_WG, back_packet, PASS),
            (program::FROM_WG, packet, DROP),
        ] {
            assert_eq!(scene.kernel(program, 1, bytes), action, "{program}");
            assert_eq!(scene.expected(program, 1, bytes), action, "{program}");
        }
    }
    assert_eq!(scene.counted(WIRE, reason::UNENCRYPTED_TRAFFIC), 6);
}

#[test]
fn nothing_passes_before_everything_is_set() {
    let Some(world) = World::new() else { return };
    let datapath = world.open();
    let unknown = datapath.test_run(FROM_POD, &[0; 60], &Skb::on(1), 1).unwrap();
    assert_eq!(unknown.action, DROP);
    drop(datapath);
    let mut scene = Scene::new(world.open());
    scene.open();
    let frame = scene.craft(&scene.a, C_IPS, false, true).udp(1, 2, b"payload");
    passes(&scene, FROM_POD, scene.a.ifindex, &frame);
    assert!(scene.datapath.remove_endpoint(1).unwrap());
    assert_eq!(scene.kernel(FROM_POD, scene.a.ifindex, &frame), DROP);
    assert_eq!(scene.counted(EGRESS, reason::EP_NOT_READY), 2);
    assert!(!scene.datapath.remove_endpoint(1).unwrap());
}

#[test]
fn an_address_is_looked_up_exactly_first_then_by_prefix() {
    let Some(world) = World::new() else { return };
    let mut scene = Scene::new(world.open());
    scene.allow(1, EGRESS, 4000, auth_type::NONE);
    let entry = IpEntry { identity: 4000, ..IpEntry::default() };
    let (a, own) = (scene.a.ifindex, scene.a);
    scene.know("203.0.113.0/24", entry);
    scene.know("203.0.113.128/25", IpEntry { identity: 4001, ..entry });
    scene.know("203.0.113.200", entry);
    scene.know("2001:db8:1::/48", entry);
    for (last, allowed) in [(7, true), (127, true), (128, false), (200, true), (201, false)] {
        let craft =
            Craft { destination: ip(&format!("203.0.113.{last}")), ..scene.craft(&own, A_IPS, false, true) };
        let frame = craft.udp(1, 2, b"payload");
        assert_eq!(scene.kernel(FROM_POD, a, &frame) == PASS, allowed, "{last}");
        assert_eq!(scene.expected(FROM_POD, a, &frame) == PASS, allowed, "{last}");
    }
    let craft = Craft { destination: ip("2001:db8:1::5"), ..scene.craft(&own, A_IPS, true, true) };
    passes(&scene, FROM_POD, a, &craft.udp(1, 2, b"payload"));
    assert_eq!(scene.datapath.ipcache().len(), 8 + 4 + 4);
}
