//! The wire and the encrypted device: pods' packets take the one and never the other.

use core::net::IpAddr;

use super::scene::Scene;
use crate::action::Action;
use crate::addr::Addr;
use crate::craft::Craft;
use crate::identity;
use crate::ipcache::{IpEntry, flag};
use crate::metrics::WIRE;
use crate::reason;
use crate::twin::network;
use crate::wire::{from_wg, from_wire, to_wg, to_wire};

/// The scene with pod CIDRs, ours and a peer's, and one of a peer that has no key yet.
fn scene() -> Scene {
    let mut scene = Scene::new();
    let mut know = |text: &str, bits: u8, identity, node, flags| {
        let (addr, family) = Addr::from_ip(text.parse::<IpAddr>().unwrap());
        scene.twin.ips.insert((family, bits, network(&addr, bits)), IpEntry { identity, node, flags });
    };
    know("10.0.1.0", 24, 0, 0, flag::POD | flag::LOCAL);
    know("10.0.2.0", 24, 0, 7, flag::POD | flag::ENCRYPTED);
    know("10.0.3.0", 24, 0, 8, flag::POD);
    know("fd00:100::", 64, 0, 0, flag::POD | flag::LOCAL);
    know("fd00:200::", 64, 0, 7, flag::POD | flag::ENCRYPTED);
    know("192.0.2.7", 32, identity::REMOTE_NODE, 7, flag::ENCRYPTED);
    know("192.0.2.8", 32, identity::REMOTE_NODE, 8, 0);
    scene
}

fn craft(source: &str, destination: &str) -> Craft {
    Craft::new(([2; 6], [4; 6]), source.parse().unwrap(), destination.parse().unwrap())
}

const OWN: &str = "10.0.1.10";
const PEER: &str = "10.0.2.12";
const OPEN_PEER: &str = "10.0.3.3";
const NODE: &str = "10.200.0.1";
const WORLD: &str = "198.51.100.1";

#[test]
fn nothing_of_pods_leaves_in_the_clear() {
    let scene = scene();
    let cases = [
        (OWN, PEER, false),
        (OWN, OPEN_PEER, false),
        (OWN, OWN, false),
        // The node's own, to an encrypted pod.
        (NODE, PEER, false),
        (NODE, OPEN_PEER, true),
        // About a pod of ours that is gone.
        (NODE, OWN, false),
        ("fd00:9::1", "fd00:100::a", false),
        (OWN, WORLD, true),
        (NODE, WORLD, true),
        (NODE, "192.0.2.7", true),
        ("fd00:100::a", "fd00:200::c", false),
        ("fd00:100::a", "fd00:400::9", true),
    ];
    for (source, destination, passes) in cases {
        let frame = craft(source, destination).udp(1, 2, b"x");
        assert_eq!(to_wire(&frame[..], &scene.twin) == Action::Pass, passes, "{source} {destination}");
    }
    assert_eq!(scene.twin.counter(WIRE, reason::UNENCRYPTED_TRAFFIC).packets, 7);
}

#[test]
fn plaintext_of_pods_from_the_wire_is_refused() {
    let scene = scene();
    let cases = [
        (PEER, OWN, false),
        (PEER, WORLD, false),
        (OWN, OWN, false),
        (OPEN_PEER, OWN, true),
        (WORLD, OWN, true),
        ("192.0.2.7", NODE, true),
        ("fd00:200::c", "fd00:100::a", false),
    ];
    for (source, destination, passes) in cases {
        let frame = craft(source, destination).udp(1, 2, b"x");
        assert_eq!(from_wire(&frame[..], &scene.twin) == Action::Pass, passes, "{source} {destination}");
    }
    let event = scene.twin.events.borrow()[0];
    assert_eq!((event.reason, event.direction, event.remote_identity), (195, WIRE, super::scene::C));
}

#[test]
fn neither_tags_nor_fragments_nor_extension_headers_hide_a_pod() {
    let scene = scene();
    let base = craft("fd00:100::a", "fd00:200::c");
    let hidden = Craft { extensions: std::vec![(0, std::vec![1; 6]), (60, std::vec![1; 14])], ..base };
    assert_eq!(to_wire(&hidden.udp(1, 2, b"x")[..], &scene.twin), Action::Drop);
    let pieces = Craft { fragment: Some((1, 800, true)), ..craft(OWN, PEER) };
    assert_eq!(to_wire(&pieces.udp(1, 2, b"x")[..], &scene.twin), Action::Drop);
    let plain = craft(PEER, OWN).udp(1, 2, b"x");
    let mut tagged = plain[..12].to_vec();
    tagged.extend([0x81, 0, 0, 5]);
    tagged.extend(&plain[12..]);
    assert_eq!(from_wire(&tagged[..], &scene.twin), Action::Drop);
}

#[test]
fn what_is_not_ip_is_none_of_our_business_on_the_wire() {
    let scene = scene();
    for frame in [&crate::craft::arp([2; 6], [10, 0, 1, 10], [10, 0, 2, 12])[..], &[0; 14], &[0; 5]] {
        assert_eq!(to_wire(frame, &scene.twin), Action::Pass);
        assert_eq!(from_wire(frame, &scene.twin), Action::Pass);
    }
}

#[test]
fn the_wire_is_watched_only_where_encryption_is_asked_for() {
    let mut scene = scene();
    scene.twin.config.as_mut().unwrap().flags &= !crate::config::flag::ENCRYPTION;
    let frame = craft(OWN, PEER).udp(1, 2, b"x");
    assert_eq!(to_wire(&frame[..], &scene.twin), Action::Pass);
    assert_eq!(from_wire(&frame[..], &scene.twin), Action::Pass);
}

#[test]
fn the_encrypted_device_carries_pods_of_one_node_to_those_of_others() {
    let scene = scene();
    let cases = [
        (OWN, PEER, true, false),
        (OWN, OPEN_PEER, true, false),
        (NODE, PEER, true, false),
        (OWN, OWN, false, false),
        (OWN, WORLD, false, false),
        (PEER, OWN, false, true),
        (PEER, WORLD, false, false),
        (WORLD, OWN, false, false),
        (WORLD, PEER, false, false),
        ("192.0.2.7", OWN, false, true),
        ("192.0.2.8", OWN, false, false),
        ("fd00:100::a", "fd00:200::c", true, false),
        ("fd00:200::77", "fd00:100::77", false, true),
    ];
    for (source, destination, out, into) in cases {
        let packet = craft(source, destination).packet(17, &crate::craft::udp(1, 2, b"x"));
        assert_eq!(to_wg(&packet[..], &scene.twin) == Action::Pass, out, "to {source} {destination}");
        assert_eq!(from_wg(&packet[..], &scene.twin) == Action::Pass, into, "from {source} {destination}");
    }
    assert_eq!(to_wg(&[0x15, 0, 0][..], &scene.twin), Action::Drop);
    assert_eq!(from_wg(&[][..], &scene.twin), Action::Drop);
    assert_eq!(scene.twin.counter(WIRE, reason::UNSUPPORTED_L2).packets, 2);
}
