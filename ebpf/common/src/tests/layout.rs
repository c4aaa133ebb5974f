//! What crosses between kernel and user space has the offsets that both sides think it has.

use core::mem::offset_of;

use crate::addr::Addr;
use crate::auth::{AuthKey, AuthValue, Bound};
use crate::config::Config;
use crate::ct::{CtEntry, CtKey, CtKey4};
use crate::endpoint::{Endpoint, Epochs};
use crate::event::Event;
use crate::park::{Parked, PendingKey};
use crate::policy::{PolicyEntry, PolicyKey, precedence};
use crate::reason;

#[test]
fn offsets_are_those_of_the_layout() {
    // Cilium's `struct auth_key`.
    assert_eq!(
        [offset_of!(AuthKey, remote), offset_of!(AuthKey, node), offset_of!(AuthKey, auth_type)],
        [4, 8, 10]
    );
    assert_eq!([offset_of!(AuthValue, epoch), offset_of!(AuthValue, generation)], [8, 12]);
    assert_eq!(
        [offset_of!(Bound, node), offset_of!(Bound, generation), offset_of!(Bound, epoch)],
        [4, 8, 12]
    );
    assert_eq!([offset_of!(Config, auth_epoch), offset_of!(Config, park_pair_packets)], [8, 16]);
    assert_eq!([offset_of!(Endpoint, slot), offset_of!(Endpoint, host_mac)], [12, 38]);
    assert_eq!([offset_of!(Epochs, auth), offset_of!(Epochs, birth)], [4, 8]);
    assert_eq!(
        [offset_of!(CtEntry, packets), offset_of!(CtEntry, rule_id), offset_of!(CtEntry, opened)],
        [16, 44, 48]
    );
    assert_eq!([offset_of!(CtKey, local_port), offset_of!(CtKey4, local_port)], [16, 4]);
    assert_eq!([offset_of!(Event, local_identity), offset_of!(Event, suppressed)], [40, 56]);
    assert_eq!([offset_of!(PendingKey, slot), offset_of!(PendingKey, direction)], [10, 12]);
}

#[test]
fn the_trie_compares_policy_keys_from_identity_to_port() {
    let offsets = [
        offset_of!(PolicyKey, identity),
        offset_of!(PolicyKey, slot_be),
        offset_of!(PolicyKey, direction),
        offset_of!(PolicyKey, protocol),
        offset_of!(PolicyKey, port_be),
    ];
    assert_eq!(offsets, [0, 4, 6, 7, 8]);
    assert_eq!(offset_of!(PolicyEntry, prefix_bits), 10);
}

#[test]
fn denial_outranks_allowance_within_a_priority_and_not_beyond() {
    assert!(precedence(5, true) > precedence(5, false));
    assert!(precedence(4, false) > precedence(5, true));
}

#[test]
fn addresses_survive_the_way_there_and_back() {
    for text in ["10.1.2.3", "0.0.0.0", "255.255.255.255", "fd00::1", "::", "1:2:3:4:5:6:7:8"] {
        let ip = text.parse().unwrap();
        let (addr, family) = Addr::from_ip(ip);
        assert_eq!(addr.to_ip(family), ip);
    }
}

#[test]
fn parked_headers_survive_the_way_there_and_back_and_nothing_else_is_one() {
    for (direction, round, slot, node, remote) in [(0, 1, 1, 0, 256), (1, 255, 4095, u16::MAX, u32::MAX)] {
        let parked = Parked { direction, round, slot, node, remote };
        let macs = parked.encode();
        assert_eq!(Parked::decode(&macs), Some(parked));
        // Both are unicast and locally administered: no bridge and no driver takes offence.
        assert_eq!((macs[0] & 3, macs[6] & 3), (2, 2));
        for (at, value) in [(0, 0x33), (0, 0xff), (1, 2), (6, 0), (7, 0)] {
            let mut other = macs;
            other[at] = value;
            assert_eq!(Parked::decode(&other), None);
        }
    }
}

#[test]
fn reasons_are_told_apart_and_known_to_the_field() {
    for (index, (number, text)) in reason::ALL.iter().enumerate() {
        assert_eq!(reason::text(*number), *text);
        let others = reason::ALL.iter().enumerate().filter(|(other, _)| *other != index);
        assert!(others.clone().all(|(_, (other, _))| other != number), "{number}");
        assert!(others.clone().all(|(_, (_, other))| other != text), "{text}");
    }
    assert_eq!(reason::text(1), "Unknown");
    assert_eq!(reason::field_number(reason::PARK_FULL), reason::AUTH_REQUIRED);
    assert_eq!(reason::field_number(reason::POLICY_DENIED), reason::POLICY_DENIED);
}
