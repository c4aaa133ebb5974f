//! Headers as they should not be: fragments made to deceive, extension headers, truncation, odd protocols.

use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::scene::{Host, Scene};
use crate::action::Action;
use crate::craft::{Craft, echo, icmp, tcp as tcp_header, udp};
use crate::policy::direction::EGRESS;
use crate::proto::{self, ext, tcp};
use crate::reason;

fn refused(scene: &Scene, frame: &[u8], reason: u8) {
    let before = scene.twin.counter(EGRESS, reason).packets;
    assert_eq!(scene.leave(Host::A, frame), Action::Drop, "{}", reason::text(reason));
    assert_eq!(scene.twin.counter(EGRESS, reason).packets, before + 1, "{:?}", scene.reasons(EGRESS));
}

fn fragment(craft: &Craft, id: u32, offset: u16, more: bool) -> Craft {
    Craft { fragment: Some((id, offset, more)), ..craft.clone() }
}

#[test]
fn ipv4_options_do_not_hide_the_ports() {
    let mut scene = Scene::new();
    scene.allow_protocol(super::scene::A_SLOT, EGRESS, proto::UDP);
    let base = scene.craft(Host::A, Host::B, false);
    for options in [4, 20, 40] {
        let craft = Craft { options, ..base.clone() };
        assert_eq!(scene.leave(Host::A, &craft.udp(1, 2, b"x")), Action::Pass);
        refused(&scene, &craft.tcp(1, 2, tcp::SYN), reason::POLICY_DENIED);
    }
}

#[test]
fn lengths_and_versions_must_agree() {
    let scene = Scene::open();
    for v6 in [false, true] {
        let good = scene.craft(Host::A, Host::B, v6).tcp(1, 2, tcp::SYN);
        let header = if v6 { 54 } else { 34 };
        let bend = |at: usize, value: u8| {
            let mut frame = good.clone();
            frame[at] = value;
            frame
        };
        refused(&scene, &bend(14, 0x55), reason::INVALID_PACKET);
        refused(&scene, &good[..header - 1], reason::INVALID_PACKET);
        let length_at = if v6 { 18 } else { 16 };
        refused(&scene, &bend(length_at, 0xff), reason::INVALID_PACKET);
        // A transport header that is cut off by the IP length, though the bytes are there.
        refused(&scene, &bend(length_at + 1, if v6 { 19 } else { 39 }), reason::TRUNCATED);
        refused(&scene, &bend(header + 12, 0x40), reason::TRUNCATED);
    }
    let mut short = scene.craft(Host::A, Host::B, false).tcp(1, 2, tcp::SYN);
    short[14] = 0x44;
    refused(&scene, &short, reason::INVALID_PACKET);
    short[14] = 0x45;
    short[17] = 19;
    refused(&scene, &short, reason::INVALID_PACKET);
}

#[test]
fn later_fragments_follow_the_first() {
    for v6 in [false, true] {
        let mut scene = Scene::new();
        scene.allow_protocol(super::scene::A_SLOT, EGRESS, proto::UDP);
        let base = scene.craft(Host::A, Host::B, v6);
        let first = fragment(&base, 77, 0, true).build(proto::UDP, &udp(1, 2, &[7; 16]));
        let later = fragment(&base, 77, 24, false).build(proto::UDP, &[8; 10]);
        refused(&scene, &later, reason::FRAG_NOT_FOUND);
        assert_eq!(scene.leave(Host::A, &first), Action::Pass);
        assert_eq!(scene.leave(Host::A, &later), Action::Pass);
        // Another datagram, another protocol, the other direction: not this one's fragments.
        refused(&scene, &fragment(&base, 78, 24, false).build(proto::UDP, &[8; 10]), reason::FRAG_NOT_FOUND);
        refused(&scene, &fragment(&base, 77, 24, false).build(proto::TCP, &[8; 10]), reason::FRAG_NOT_FOUND);
        let into = fragment(&base.reversed(), 77, 24, false).build(proto::UDP, &[8; 10]);
        assert_eq!(scene.enter(Host::A, &into), Action::Drop);
        // The verdict holds for all of them: policy changes, and the rest of the datagram is cut off.
        scene.forbid_everything();
        refused(&scene, &later, reason::POLICY_DENIED);
    }
}

#[test]
fn fragments_of_echoes_stay_with_their_role() {
    for v6 in [false, true] {
        let scene = Scene::open();
        let base = scene.craft(Host::A, Host::B, v6);
        let protocol = if v6 { proto::ICMP6 } else { proto::ICMP };
        let (request, reply) = if v6 { (128, 129) } else { (8, 0) };
        let first = fragment(&base, 5, 0, true).build(protocol, &echo(request, 9));
        let later = fragment(&base, 5, 16, false).build(protocol, &[0; 8]);
        assert_eq!(scene.leave(Host::A, &first), Action::Pass);
        assert_eq!(scene.leave(Host::A, &later), Action::Pass);
        // A reply that nobody asked for does not pass in pieces either.
        let first = fragment(&base, 6, 0, true).build(protocol, &echo(reply, 10));
        let later = fragment(&base, 6, 16, false).build(protocol, &[0; 8]);
        refused(&scene, &first, reason::ICMP_UNRELATED);
        refused(&scene, &later, reason::ICMP_UNRELATED);
    }
}

#[test]
fn tiny_and_overlapping_fragments_are_refused() {
    let scene = Scene::open();
    for v6 in [false, true] {
        let base = scene.craft(Host::A, Host::B, v6);
        // RFC 1858: a first fragment without the whole header, and one that is laid over it.
        let tiny = fragment(&base, 1, 0, true).build(proto::TCP, &tcp_header(1, 2, tcp::SYN)[..16]);
        refused(&scene, &tiny, reason::FRAG_INVALID);
        let tiny = fragment(&base, 1, 0, true).build(proto::UDP, &[0; 4]);
        refused(&scene, &tiny, reason::FRAG_INVALID);
        for offset in [8, 16] {
            let over = fragment(&base, 1, offset, false).build(proto::TCP, &[0; 24]);
            refused(&scene, &over, reason::FRAG_INVALID);
        }
        let over = fragment(&base, 1, 8, false).build(proto::SCTP, &[0; 24]);
        refused(&scene, &over, reason::FRAG_INVALID);
    }
}

#[test]
fn errors_and_neighbour_messages_come_in_one_piece() {
    let scene = Scene::open();
    for (v6, protocol, kind) in [(false, proto::ICMP, 3), (true, proto::ICMP6, 1), (true, proto::ICMP6, 135)]
    {
        let base = scene.craft(Host::A, Host::B, v6);
        let frame = fragment(&base, 3, 0, true).build(protocol, &icmp(kind, &[0; 48]));
        refused(&scene, &frame, reason::FRAG_NOSUPPORT);
    }
}

#[test]
fn ordinary_extension_headers_are_walked() {
    let scene = Scene::open();
    let base = scene.craft(Host::A, Host::B, true);
    let options = |length: usize| vec![1; length];
    let chains: Vec<Vec<(u8, Vec<u8>)>> = vec![
        vec![(ext::HOP_BY_HOP, options(6))],
        vec![(ext::DESTINATION, options(14))],
        vec![
            (ext::HOP_BY_HOP, options(6)),
            (ext::DESTINATION, options(6)),
            (ext::DESTINATION, options(2046)),
        ],
        // An atomic fragment is a whole packet (RFC 6946).
        vec![(ext::FRAGMENT, vec![0, 0, 1, 2, 3, 4])],
    ];
    for extensions in chains {
        let frame = Craft { extensions, ..base.clone() }.udp(1000, 53, b"x");
        assert_eq!(scene.leave(Host::A, &frame), Action::Pass);
    }
    // One flow for all of them: the ports were found behind every chain.
    assert_eq!(scene.twin.flows.borrow().len(), 1);
}

#[test]
fn extension_headers_that_could_deceive_are_refused() {
    let scene = Scene::open();
    let base = scene.craft(Host::A, Host::B, true);
    let options = vec![1; 6];
    let fragment = |offset: u8| (ext::FRAGMENT, vec![0, offset, 0, 0, 0, 9]);
    let chains: Vec<Vec<(u8, Vec<u8>)>> = vec![
        vec![(ext::ROUTING, vec![2, 1, 0, 0, 0, 0])],
        vec![(ext::MOBILITY, options.clone())],
        vec![(ext::HIP, options.clone())],
        vec![(ext::SHIM6, options.clone())],
        vec![(ext::DESTINATION, options.clone()), (ext::HOP_BY_HOP, options.clone())],
        vec![(ext::DESTINATION, options.clone()); 5],
        vec![fragment(0), fragment(0)],
        vec![fragment(1), (ext::DESTINATION, options.clone())],
        vec![fragment(8), (ext::DESTINATION, options)],
    ];
    for extensions in chains {
        let text = std::format!("{extensions:?}");
        let frame = Craft { extensions, ..base.clone() }.udp(1000, 53, b"x");
        let before = scene.twin.counter(EGRESS, reason::INVALID_EXTENSION_HEADER).packets;
        assert_eq!(scene.leave(Host::A, &frame), Action::Drop, "{text}");
        assert_eq!(
            scene.twin.counter(EGRESS, reason::INVALID_EXTENSION_HEADER).packets,
            before + 1,
            "{text}"
        );
    }
}

#[test]
fn jumbograms_and_headers_beyond_the_end_are_refused() {
    let scene = Scene::open();
    let base = scene.craft(Host::A, Host::B, true);
    let mut jumbo = Craft { extensions: vec![(ext::HOP_BY_HOP, vec![0xc2, 4, 0, 1, 0, 0])], ..base.clone() }
        .udp(1000, 53, b"x");
    jumbo[18] = 0;
    jumbo[19] = 0;
    refused(&scene, &jumbo, reason::INVALID_EXTENSION_HEADER);
    let mut long = Craft { extensions: vec![(ext::DESTINATION, vec![1; 6])], ..base }.udp(1000, 53, b"x");
    long[55] = 200;
    refused(&scene, &long, reason::INVALID_EXTENSION_HEADER);
}

#[test]
fn protocols_without_ports_are_judged_by_their_number() {
    let mut scene = Scene::new();
    scene.allow_protocol(super::scene::A_SLOT, EGRESS, 47);
    for v6 in [false, true] {
        let base = scene.craft(Host::A, Host::B, v6);
        assert_eq!(scene.leave(Host::A, &base.build(47, &[0; 8])), Action::Pass);
        for protocol in [2, 4, 41, 50, 51, 59, 89, 103, 112, 253] {
            refused(&scene, &base.build(protocol, &[0; 8]), reason::POLICY_DENIED);
        }
        for protocol in [proto::SCTP, proto::UDP_LITE] {
            refused(&scene, &base.build(protocol, &udp(1, 2, &[0; 8])), reason::POLICY_DENIED);
            refused(&scene, &base.build(protocol, &[0; 6]), reason::TRUNCATED);
        }
    }
}

#[test]
fn icmp_of_the_other_family_and_of_unknown_types_is_refused() {
    let scene = Scene::open();
    let (v4, v6) = (scene.craft(Host::A, Host::B, false), scene.craft(Host::A, Host::B, true));
    refused(&scene, &v4.build(proto::ICMP6, &echo(128, 1)), reason::UNKNOWN_L4);
    refused(&scene, &v6.build(proto::ICMP, &echo(8, 1)), reason::UNKNOWN_L4);
    for kind in [4, 5, 9, 10, 13, 17, 42] {
        refused(&scene, &v4.build(proto::ICMP, &icmp(kind, &[0; 28])), reason::UNKNOWN_ICMP4_TYPE);
    }
    for kind in [0, 100, 127, 138, 144, 255] {
        refused(&scene, &v6.build(proto::ICMP6, &icmp(kind, &[0; 48])), reason::UNKNOWN_ICMP6_TYPE);
    }
    refused(&scene, &v4.build(proto::ICMP, &[8, 0, 0, 0]), reason::TRUNCATED);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    /// Whatever the bytes: no panic, one action, one count; and nothing passes that is not the pod's own.
    #[test]
    fn any_bytes_get_one_verdict(mut bytes in proptest::collection::vec(any::<u8>(), 0..120), shape in 0..6u8) {
        let scene = Scene::open();
        let good = scene.craft(Host::A, Host::B, shape % 2 == 1);
        let template = if shape < 4 { good.udp(1, 2, b"") } else { good.echo(7, true) };
        let keep = match shape { 0 | 1 => 12, 2 | 3 => 14, _ => 38 };
        for (byte, real) in bytes.iter_mut().zip(template.iter().take(keep)) {
            *byte = *real;
        }
        let action = scene.leave(Host::A, &bytes);
        let counted: u64 = scene.twin.metrics.borrow().values().map(|counter| counter.packets).sum();
        prop_assert_eq!(counted, 1);
        if action == Action::Pass && bytes[12..14] != [8, 6] {
            let own = match bytes[14] >> 4 {
                4 => bytes[26..30] == template[26..30] || bytes[12..14] != [8, 0],
                _ => bytes[22..38] == template[22..38] || bytes[20] == 58 || bytes[6..12] == template[6..12],
            };
            prop_assert!(own);
        }
    }
}
