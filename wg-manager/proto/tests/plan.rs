//! Plans, compared with what a device does when they are carried out.

use std::collections::{BTreeMap, BTreeSet};

use countersign_wg_proto::{Device, Op, Peer, PresharedKey, PrivateKey, PublicKey, Shrink, plan};
use ipnet::IpNet;
use proptest::prelude::*;

fn key(seed: u8) -> PublicKey {
    PublicKey::from_bytes([seed; 32])
}

fn net(number: u8) -> IpNet {
    match number % 2 {
        0 => format!("10.0.{number}.0/24").parse().unwrap(),
        _ => format!("fd00:{number:x}::/64").parse().unwrap(),
    }
}

fn peer() -> impl Strategy<Value = Peer> {
    let endpoint = prop_oneof![
        Just(None),
        Just(Some("192.0.2.1:51871".parse().unwrap())),
        Just(Some("[2001:db8::1]:51871".parse().unwrap())),
    ];
    (prop::option::of(1..4u8), endpoint, 0..3u16).prop_map(|(psk, endpoint, keepalive)| Peer {
        preshared_key: psk.map(|seed| PresharedKey::from_bytes([seed; 32])),
        endpoint,
        keepalive,
        allowed_ips: BTreeSet::new(),
    })
}

/// A device that can exist: every prefix has at most one owner, no peer has the device's own key.
fn device() -> impl Strategy<Value = Device> {
    let peers = prop::collection::btree_map(1..7u8, peer(), 0..6);
    let owners = prop::collection::vec(0..8u8, 12);
    (prop::option::of(100..103u8), 0..3u16, peers, owners).prop_map(
        |(private, listen_port, peers, owners)| {
            let mut peers: BTreeMap<PublicKey, Peer> =
                peers.into_iter().map(|(seed, peer)| (key(seed), peer)).collect();
            for (number, owner) in (0..).zip(owners) {
                if let Some(peer) = peers.get_mut(&key(owner)) {
                    peer.allowed_ips.insert(net(number));
                }
            }
            let private_key = private.map(|seed| PrivateKey::from_bytes([seed; 32]));
            Device { private_key, listen_port, peers }
        },
    )
}

/// What "reached" means: `desired`, where it leaves nothing open.
fn reached(desired: &Device, observed: &Device) -> bool {
    let peer = |(key, wanted): (&PublicKey, &Peer)| {
        observed.peers.get(key).is_some_and(|seen| {
            seen.preshared_key == wanted.preshared_key
                && seen.keepalive == wanted.keepalive
                && seen.allowed_ips == wanted.allowed_ips
                && (wanted.endpoint.is_none() || seen.endpoint == wanted.endpoint)
        })
    };
    desired.peers.iter().all(peer)
        && (desired.private_key.is_none() || desired.private_key == observed.private_key)
        && (desired.listen_port == 0 || desired.listen_port == observed.listen_port)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn a_plan_reaches_the_desired_state_and_then_is_empty(desired in device(), mut observed in device()) {
        for op in plan(&desired, &observed, Shrink::Allowed) {
            observed.apply(&op);
        }
        prop_assert!(reached(&desired, &observed), "{desired:#?}\n{observed:#?}");
        prop_assert_eq!(observed.peers.len(), desired.peers.len());
        prop_assert_eq!(plan(&desired, &observed, Shrink::Allowed), vec![]);
    }

    /// A peer that is to lose prefixes has at that moment what remains and what goes, and nothing else.
    #[test]
    fn what_remains_and_what_goes_say_the_same(desired in device(), mut observed in device()) {
        for op in plan(&desired, &observed, Shrink::Allowed) {
            if let Op::ShrinkAllowedIps { key, keep, gone } = &op {
                prop_assert!(keep.is_disjoint(gone) && !gone.is_empty());
                let both: BTreeSet<IpNet> = keep | gone;
                prop_assert_eq!(&observed.peers[key].allowed_ips, &both);
            }
            observed.apply(&op);
        }
    }

    #[test]
    fn each_operation_may_be_done_twice(desired in device(), observed in device()) {
        let (mut once, mut twice) = (observed.clone(), observed.clone());
        for op in plan(&desired, &observed, Shrink::Allowed) {
            once.apply(&op);
            twice.apply(&op);
            twice.apply(&op);
        }
        prop_assert_eq!(once, twice);
    }

    /// Make before break: at no step is a prefix without an owner that has one before and after.
    #[test]
    fn no_prefix_is_ever_without_owner_in_between(desired in device(), mut observed in device()) {
        let kept: Vec<IpNet> = (0..12).map(net)
            .filter(|net| observed.owner(net).is_some() && desired.owner(net).is_some())
            .collect();
        for op in plan(&desired, &observed, Shrink::Allowed) {
            observed.apply(&op);
            for net in &kept {
                prop_assert!(observed.owner(net).is_some(), "{net} lost by {op:?}");
            }
        }
    }

    /// Before the picture is complete, nothing that had an owner loses it, and no peer goes.
    #[test]
    fn nothing_shrinks_before_the_picture_is_complete(desired in device(), mut observed in device()) {
        let before = observed.clone();
        for op in plan(&desired, &observed, Shrink::Forbidden) {
            let removes = matches!(op, Op::RemovePeer { .. } | Op::ShrinkAllowedIps { .. });
            prop_assert!(!removes);
            observed.apply(&op);
        }
        for net in (0..12).map(net).filter(|net| before.owner(net).is_some()) {
            prop_assert!(observed.owner(&net).is_some());
        }
        prop_assert!(before.peers.keys().all(|key| observed.peers.contains_key(key)));
        for (key, wanted) in &desired.peers {
            prop_assert!(observed.peers[key].allowed_ips.is_superset(&wanted.allowed_ips));
        }
        prop_assert_eq!(plan(&desired, &observed, Shrink::Forbidden), vec![]);
    }
}

#[test]
fn a_prefix_moves_in_one_step() {
    let with = |seed: u8, nets: &[u8]| {
        let allowed_ips = nets.iter().map(|number| net(*number)).collect();
        (key(seed), Peer { allowed_ips, ..Peer::default() })
    };
    let observed = Device { peers: [with(1, &[1, 2]), with(2, &[])].into(), ..Device::default() };
    let desired = Device { peers: [with(1, &[2]), with(2, &[1])].into(), ..Device::default() };
    let ops = plan(&desired, &observed, Shrink::Allowed);
    let [Op::UpdatePeer { key: to, add_allowed_ips, .. }] = ops.as_slice() else { panic!("{ops:?}") };
    assert_eq!((*to, add_allowed_ips.clone()), (key(2), [net(1)].into()));
}

#[test]
fn the_devices_own_key_is_never_a_peer() {
    let own = PrivateKey::from_bytes([9; 32]);
    let peers: BTreeMap<_, _> = [(own.public(), Peer::default())].into();
    let desired = Device { private_key: Some(own.clone()), peers: peers.clone(), ..Device::default() };
    let observed = Device { private_key: Some(own.clone()), peers, ..Device::default() };
    assert_eq!(plan(&desired, &observed, Shrink::Allowed), [Op::RemovePeer { key: own.public() }]);
    assert_eq!(plan(&desired, &Device::default(), Shrink::Allowed), [Op::SetPrivateKey(own)]);
}

#[test]
fn keys_come_before_peers_and_removals_last() {
    let own = PrivateKey::from_bytes([9; 32]);
    let desired =
        Device { private_key: Some(own), listen_port: 51871, peers: [(key(1), Peer::default())].into() };
    let observed = Device { peers: [(key(2), Peer::default())].into(), ..Device::default() };
    let ops = plan(&desired, &observed, Shrink::Allowed);
    assert!(matches!(
        ops.as_slice(),
        [Op::SetPrivateKey(_), Op::SetListenPort(51871), Op::AddPeer { .. }, Op::RemovePeer { .. }]
    ));
}
