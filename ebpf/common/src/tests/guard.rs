//! Anti-spoofing: a pod speaks for itself only.

use core::net::{IpAddr, Ipv6Addr};
use std::vec::Vec;

use super::scene::{Host, Scene, endpoint, ip};
use crate::action::Action;
use crate::craft::{Craft, arp, icmp, neighbour};
use crate::policy::direction::{EGRESS, INGRESS};
use crate::proto::{self, tcp};
use crate::reason;

/// Sends the frame out of A and expects it to be dropped for the reason.
fn refused(scene: &Scene, frame: &[u8], reason: u8) {
    let before = scene.twin.counter(EGRESS, reason).packets;
    assert_eq!(scene.leave(Host::A, frame), Action::Drop, "{}", reason::text(reason));
    assert_eq!(scene.twin.counter(EGRESS, reason).packets, before + 1, "{:?}", scene.reasons(EGRESS));
}

#[test]
fn a_pod_may_send_as_itself_only() {
    let scene = Scene::open();
    for v6 in [false, true] {
        let good = scene.craft(Host::A, Host::B, v6);
        assert_eq!(scene.leave(Host::A, &good.udp(1, 2, b"x")), Action::Pass);
        let as_b = Craft { source: ip(Host::B, v6), ..good.clone() };
        refused(&scene, &as_b.udp(1, 2, b"x"), reason::INVALID_SOURCE_IP);
        let other_mac = Craft { source_mac: endpoint(Host::B).mac, ..good.clone() };
        refused(&scene, &other_mac.udp(1, 2, b"x"), reason::INVALID_SOURCE_MAC);
        let to_other = Craft { destination_mac: endpoint(Host::B).mac, ..good.clone() };
        refused(&scene, &to_other.udp(1, 2, b"x"), reason::INVALID_DESTINATION_MAC);
        let broadcast = Craft { destination_mac: [0xff; 6], ..good };
        refused(&scene, &broadcast.udp(1, 2, b"x"), reason::MULTICAST);
    }
}

#[test]
fn an_address_that_the_endpoint_does_not_have_is_nobodys() {
    let mut scene = Scene::open();
    let mut bare = endpoint(Host::A);
    bare.ip4 = 0;
    bare.ip6 = crate::addr::Addr::default();
    scene.twin.endpoints.insert(bare.ifindex, bare);
    for (v6, unspecified) in [(false, "0.0.0.0"), (true, "::")] {
        let good = scene.craft(Host::A, Host::B, v6);
        refused(&scene, &good.udp(1, 2, b"x"), reason::INVALID_SOURCE_IP);
        let zero = Craft { source: unspecified.parse().unwrap(), ..good };
        refused(&scene, &zero.udp(1, 2, b"x"), reason::INVALID_SOURCE_IP);
    }
}

#[test]
fn unknown_interfaces_and_missing_settings_drop_everything() {
    let mut scene = Scene::open();
    let frame = scene.craft(Host::A, Host::B, false).udp(1, 2, b"x");
    scene.twin.endpoints.get_mut(&super::scene::A_IF).unwrap().flags = 0;
    refused(&scene, &frame, reason::EP_NOT_READY);
    scene.twin.endpoints.clear();
    refused(&scene, &frame, reason::EP_NOT_READY);
    assert_eq!(scene.enter(Host::A, &frame), Action::Drop);
    let mut scene = Scene::open();
    scene.twin.config = Some(crate::config::Config::default());
    refused(&scene, &frame, reason::NO_CONFIG);
    scene.twin.config = None;
    refused(&scene, &frame, reason::NO_CONFIG);
}

#[test]
fn arp_is_answered_for_ones_own_address_only() {
    let scene = Scene::open();
    let own = endpoint(Host::A);
    let target = [10, 0, 1, 1];
    assert_eq!(scene.leave(Host::A, &arp(own.mac, [10, 0, 1, 10], target)), Action::Pass);
    assert_eq!(scene.leave(Host::A, &arp(own.mac, [0; 4], target)), Action::Pass);
    refused(&scene, &arp(own.mac, [10, 0, 1, 11], target), reason::ARP_SPOOF);
    let mut lying = arp(own.mac, [10, 0, 1, 10], target);
    lying[22] ^= 1;
    refused(&scene, &lying, reason::ARP_SPOOF);
    let mut odd = arp(own.mac, [10, 0, 1, 10], target);
    odd[18] = 8;
    refused(&scene, &odd, reason::ARP_SPOOF);
    refused(&scene, &arp(own.mac, [10, 0, 1, 10], target)[..30], reason::ARP_SPOOF);
}

fn nd(scene: &Scene, source: Ipv6Addr, destination: Ipv6Addr, body: &[u8]) -> Craft {
    assert!(!body.is_empty());
    let base = scene.craft(Host::A, Host::B, true);
    Craft { source: IpAddr::V6(source), destination: IpAddr::V6(destination), hops: 255, ..base }
}

fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

#[test]
fn neighbours_are_told_the_truth() {
    let scene = Scene::open();
    let IpAddr::V6(own) = ip(Host::A, true) else { unreachable!() };
    let link = Ipv6Addr::from(endpoint(Host::A).link_local().bytes());
    let mac = Some(endpoint(Host::A).mac);
    let (group, gateway, anybody) = (v6("ff02::1:ff00:1"), v6("fe80::1"), v6("::"));
    let cases: Vec<(Ipv6Addr, Ipv6Addr, Vec<u8>, bool)> = std::vec![
        (own, group, neighbour(135, gateway.octets(), mac), true),
        (link, gateway, neighbour(135, gateway.octets(), mac), true),
        (anybody, group, neighbour(135, own.octets(), None), true),
        (own, gateway, neighbour(136, own.octets(), mac), true),
        (link, gateway, neighbour(136, link.octets(), None), true),
        // For another's address, from another's address, with another's MAC, to somewhere beyond the link.
        (own, gateway, neighbour(136, v6("fd00:100::b").octets(), mac), false),
        (v6("fd00:100::b"), gateway, neighbour(136, own.octets(), mac), false),
        (own, gateway, neighbour(136, own.octets(), Some([2; 6])), false),
        (anybody, gateway, neighbour(136, own.octets(), mac), false),
        (own, v6("fd00:200::c"), neighbour(135, own.octets(), mac), false),
        // Routers' messages and redirects.
        (link, v6("ff02::1"), neighbour(134, gateway.octets(), mac), false),
        (link, gateway, neighbour(137, own.octets(), mac), false),
    ];
    for (index, (source, destination, body, allowed)) in cases.into_iter().enumerate() {
        let frame = nd(&scene, source, destination, &body).build(proto::ICMP6, &body);
        if allowed {
            assert_eq!(scene.leave(Host::A, &frame), Action::Pass, "case {index}");
        } else {
            refused(&scene, &frame, reason::FORBIDDEN_ICMP6);
        }
    }
}

#[test]
fn neighbour_messages_from_afar_or_out_of_shape_are_refused() {
    let scene = Scene::open();
    let IpAddr::V6(own) = ip(Host::A, true) else { unreachable!() };
    let body = neighbour(136, own.octets(), Some(endpoint(Host::A).mac));
    let far = Craft { hops: 254, ..nd(&scene, own, v6("fe80::1"), &body) };
    refused(&scene, &far.build(proto::ICMP6, &body), reason::FORBIDDEN_ICMP6);
    let near = nd(&scene, own, v6("fe80::1"), &body);
    refused(&scene, &near.build(proto::ICMP6, &body[..20]), reason::FORBIDDEN_ICMP6);
    let mut long_option = body.clone();
    long_option[25] = 2;
    refused(&scene, &near.build(proto::ICMP6, &long_option), reason::FORBIDDEN_ICMP6);
    // Into the pod: the host's own pass, forwarded ones and routers' do not.
    let into = near.reversed();
    assert_eq!(scene.enter(Host::A, &into.build(proto::ICMP6, &body)), Action::Pass);
    assert_eq!(scene.enter(Host::A, &far.reversed().build(proto::ICMP6, &body)), Action::Drop);
    let advert = neighbour(134, own.octets(), None);
    assert_eq!(scene.enter(Host::A, &into.build(proto::ICMP6, &advert)), Action::Drop);
    assert_eq!(scene.twin.counter(INGRESS, reason::FORBIDDEN_ICMP6).packets, 2);
}

#[test]
fn noise_is_counted_and_not_reported() {
    let scene = Scene::open();
    let base = scene.craft(Host::A, Host::B, true);
    let group =
        Craft { destination: "ff02::16".parse().unwrap(), source: "fe80::ff".parse().unwrap(), ..base };
    refused(&scene, &group.build(proto::ICMP6, &icmp(143, &[0; 8])), reason::MULTICAST);
    refused(&scene, &group.build(proto::ICMP6, &icmp(133, &[])), reason::MULTICAST);
    refused(&scene, &group.udp(5353, 5353, b"mdns"), reason::MULTICAST);
    let base = scene.craft(Host::A, Host::B, false);
    for group in ["224.0.0.22", "255.255.255.255", "239.1.1.1"] {
        let to_group = Craft { destination: group.parse().unwrap(), ..base.clone() };
        refused(&scene, &to_group.udp(68, 67, b"dhcp"), reason::MULTICAST);
    }
    assert!(scene.twin.events.borrow().is_empty());
}

#[test]
fn strange_link_layers_are_refused() {
    let scene = Scene::open();
    let mut frame = scene.craft(Host::A, Host::B, false).udp(1, 2, b"x");
    for (ethertype, reason) in [
        (0x8100u16, reason::VLAN),
        (0x88a8, reason::VLAN),
        (0x8847, reason::UNSUPPORTED_L2),
        (0x0000, reason::UNSUPPORTED_L2),
    ] {
        frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
        refused(&scene, &frame, reason);
    }
    refused(&scene, &frame[..13], reason::INVALID_PACKET);
    refused(&scene, &[], reason::INVALID_PACKET);
}

#[test]
fn what_is_routed_to_a_pod_must_be_meant_for_it() {
    let scene = Scene::open();
    for v6 in [false, true] {
        let to_b = scene.craft(Host::C, Host::B, v6).tcp(1, 2, tcp::SYN);
        assert_eq!(scene.enter(Host::B, &to_b), Action::Pass);
        assert_eq!(scene.enter(Host::A, &to_b), Action::Drop);
    }
    assert_eq!(scene.twin.counter(INGRESS, reason::STALE_OR_UNROUTABLE).packets, 2);
}
