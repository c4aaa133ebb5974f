//! Messages against a kernel of our own, and that against the model (`Device::apply`).

mod kernel;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::ready;
use std::sync::OnceLock;

use countersign_wg_proto::{
    Device, Observed, Op, Peer, PeerStats, PresharedKey, PrivateKey, PublicKey, Shrink, plan,
};
use futures::executor::block_on;
use ipnet::IpNet;
use netlink_packet_wireguard::WireguardMessage;
use proptest::prelude::*;

use super::answers::Answers;
use super::encode::Removal;
use super::{Error, Wiped, carry_out, encode::encode, join::join, until_whole};
use crate::limits::{DUMP_ATTEMPTS, NETLINK_MESSAGE};
use kernel::{Cut, FakeKernel};

const DEVICE: &str = "cs_wg0";

fn net(number: u16) -> IpNet {
    match number % 3 {
        0 => format!("10.{}.{}.0/24", number / 256, number % 256).parse().unwrap(),
        1 => format!("fd00:{number:x}::/64").parse().unwrap(),
        _ => format!("100.64.{}.{}/32", number / 256, number % 256).parse().unwrap(),
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

/// A device that can exist, with up to `prefixes` prefixes, in runs of the same owner.
fn device(prefixes: u16) -> impl Strategy<Value = Device> {
    let peers = prop::collection::btree_map(1..9u8, peer(), 0..8);
    let runs = prop::collection::vec((0..12u8, 1..=prefixes), 0..12);
    (prop::option::of(100..103u8), 0..3u16, peers, runs, 0..50u16).prop_map(
        move |(private, listen_port, peers, runs, first)| {
            let mut peers: BTreeMap<PublicKey, Peer> =
                peers.into_iter().map(|(seed, peer)| (PublicKey::from_bytes([seed; 32]), peer)).collect();
            let owners = runs.iter().flat_map(|(owner, length)| vec![*owner; usize::from(*length)]);
            for (number, owner) in (first..).zip(owners.take(usize::from(prefixes))) {
                if let Some(peer) = peers.get_mut(&PublicKey::from_bytes([owner; 32])) {
                    peer.allowed_ips.insert(net(number));
                }
            }
            let private_key = private.map(|seed| PrivateKey::from_bytes([seed; 32]));
            Device { private_key, listen_port, peers }
        },
    )
}

/// Has the kernel do `ops` as the manager would, in messages of at most `limit` bytes.
fn carry_out_in(
    kernel: &mut FakeKernel,
    ops: &[Op],
    removal: &OnceLock<Removal>,
    limit: usize,
) -> Result<(), Error> {
    let kernel = RefCell::new(kernel);
    let send = |messages: Vec<Wiped>| {
        ready(messages.iter().try_for_each(|message| kernel.borrow_mut().set(message, limit)))
    };
    block_on(carry_out(DEVICE, ops, removal, limit, send))
}

/// What the manager makes of the kernel's datagrams.
fn take(datagrams: &[Vec<u8>]) -> Result<Option<Observed>, Error> {
    let mut answers = Answers::<WireguardMessage>::new(kernel::SEQUENCE, "reading");
    for datagram in datagrams {
        if answers.take(datagram)? {
            let parts: Vec<Wiped> = answers.finish().into_iter().map(Wiped).collect();
            return join(&parts).map(Some);
        }
    }
    Ok(None)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_kernel_that_is_told_a_plan_is_as_the_model(
        wanted in device(3000),
        before in device(3000),
        knows_flag in any::<bool>(),
        limit in prop_oneof![256..2048usize, Just(NETLINK_MESSAGE)],
        room in 300..32_768usize,
    ) {
        let mut kernel = FakeKernel::holding(&before, knows_flag);
        let ops = plan(&wanted, &before, Shrink::Allowed);
        let mut model = before.clone();
        ops.iter().for_each(|op| model.apply(op));
        // What somebody has before and after is never nobody's in between.
        kernel.kept = before.peers.values().flat_map(|peer| &peer.allowed_ips)
            .filter(|net| model.owner(net).is_some()).copied().collect();
        let removal = OnceLock::new();
        carry_out_in(&mut kernel, &ops, &removal, limit).unwrap();
        if ops.iter().any(|op| matches!(op, Op::ShrinkAllowedIps { .. })) {
            let by = if knows_flag { Removal::ByFlag } else { Removal::ByMoving };
            prop_assert_eq!(removal.get(), Some(&by));
        }
        let observed = take(&kernel.dump(room, Cut::No)).unwrap().unwrap();
        prop_assert_eq!(&observed.device, &model);
        prop_assert_eq!(plan(&wanted, &observed.device, Shrink::Allowed), vec![]);
        // What is known of the flag is used the next time, and nothing is refused any more.
        let refusals = kernel.refusals;
        let back = plan(&before, &observed.device, Shrink::Allowed);
        let mut model = observed.device;
        back.iter().for_each(|op| model.apply(op));
        kernel.kept.clear();
        carry_out_in(&mut kernel, &back, &removal, limit).unwrap();
        prop_assert_eq!(take(&kernel.dump(room, Cut::No)).unwrap().unwrap().device, model);
        prop_assert!(kernel.refusals - refusals <= u32::from(refusals == 0 && !knows_flag));
    }

    /// Somebody removes peers between the messages: none of them comes back with a part of what it had.
    #[test]
    fn a_peer_that_goes_in_between_does_not_come_back_in_part(
        wanted in device(3000),
        limit in 256..2048usize,
        moment in 1..20usize,
    ) {
        let mut kernel = FakeKernel::holding(&Device::default(), true);
        let ops = plan(&wanted, &Device::default(), Shrink::Allowed);
        let messages = encode(DEVICE, &ops, Removal::ByFlag, limit);
        for message in messages.iter().take(moment) {
            kernel.set(message, limit).unwrap();
        }
        let gone: Vec<PublicKey> = kernel.device().peers.keys().copied().collect();
        kernel.remove_all();
        for message in messages.iter().skip(moment) {
            kernel.set(message, limit).unwrap();
        }
        let device = kernel.device();
        prop_assert!(gone.iter().all(|key| !device.peers.contains_key(key)));
    }

    #[test]
    fn what_was_not_read_in_one_piece_is_not_taken_for_whole(
        before in device(500),
        room in 300..4096usize,
        at in any::<prop::sample::Index>(),
    ) {
        let kernel = FakeKernel::holding(&before, true);
        let whole = kernel.dump(room, Cut::No);
        let which = at.index(whole.len());
        prop_assert!(matches!(take(&kernel.dump(room, Cut::ChangedAt(which))), Err(Error::Interrupted)));
        prop_assert!(matches!(take(&kernel.dump(room, Cut::EndsWith(-libc::EINTR))), Err(Error::Interrupted)));
        let refused = take(&kernel.dump(room, Cut::EndsWith(-libc::ENODEV)));
        prop_assert_eq!(refused.unwrap_err().errno(), Some(libc::ENODEV));
        // A datagram that lost its end.
        let mut cut = whole.clone();
        let length = cut[which].len();
        cut[which].truncate(length - 1 - at.index(length - 1));
        prop_assert!(matches!(take(&cut), Err(Error::Interrupted)));
        // The end is missing: it is waited for.
        prop_assert_eq!(take(&whole[..whole.len() - 1]).unwrap(), None);
        // Answers to others, by the sequence number in the header, are not ours.
        let mut theirs = whole;
        theirs.iter_mut().for_each(|datagram| datagram[8] ^= 1);
        prop_assert_eq!(take(&theirs).unwrap(), None);
    }
}

#[test]
fn a_device_that_changes_while_it_is_read_is_read_again() {
    let read = |interruptions: usize| {
        let mut times = 0;
        let result = block_on(until_whole(|| {
            times += 1;
            ready(if times <= interruptions { Err(Error::Interrupted) } else { Ok(Vec::new()) })
        }));
        (result.is_ok(), times)
    };
    assert_eq!(read(0), (true, 1));
    assert_eq!(read(DUMP_ATTEMPTS - 1), (true, DUMP_ATTEMPTS));
    assert_eq!(read(DUMP_ATTEMPTS), (false, DUMP_ATTEMPTS));
    let mut times = 0;
    let refused = block_on(until_whole(|| {
        times += 1;
        ready(Err(Error::Refused { doing: "reading".to_owned(), errno: libc::ENODEV }))
    }));
    assert_eq!((refused.err().and_then(|error| error.errno()), times), (Some(libc::ENODEV), 1));
}

#[test]
fn counters_and_marks_are_read() {
    let key = PublicKey::from_bytes([5; 32]);
    let device = Device { peers: BTreeMap::from([(key, Peer::default())]), ..Device::default() };
    let mut kernel = FakeKernel::holding(&device, true);
    let stats = PeerStats { last_handshake_unix: Some(1_700_000_000), rx_bytes: 1 << 40, tx_bytes: 7 };
    kernel.stats.insert(key, stats);
    kernel.fwmark = 0xe00;
    let observed = take(&kernel.dump(4096, Cut::No)).unwrap().unwrap();
    assert_eq!((observed.fwmark, observed.stats[&key]), (0xe00, stats));
}

/// By hand, from the kernel's `include/uapi/linux/wireguard.h` of 6.16.
#[test]
fn a_prefix_is_taken_away_with_these_bytes() {
    let (key, net): (_, IpNet) = (PublicKey::from_bytes([7; 32]), "10.1.2.0/24".parse().unwrap());
    let gone = BTreeSet::from([net]);
    let op = Op::ShrinkAllowedIps { key, keep: BTreeSet::new(), gone };
    let messages = encode("w", &[op], Removal::ByFlag, NETLINK_MESSAGE);
    let bytes = kernel::bytes(&messages[0]);
    let mut expected: Vec<u8> = vec![120, 0, 0, 0, 0x2a, 0, 5, 0, 1, 0, 0, 0, 0, 0, 0, 0];
    expected.extend([1, 1, 0, 0]); // WG_CMD_SET_DEVICE, version 1
    expected.extend([6, 0, 2, 0, b'w', 0, 0, 0]); // WGDEVICE_A_IFNAME
    expected.extend([92, 0, 8, 0x80]); // WGDEVICE_A_PEERS, nested
    expected.extend([88, 0, 0, 0x80]); // a peer
    expected.extend([36, 0, 1, 0]); // WGPEER_A_PUBLIC_KEY
    expected.extend([7; 32]);
    expected.extend([8, 0, 3, 0, 4, 0, 0, 0]); // WGPEER_A_FLAGS: WGPEER_F_UPDATE_ONLY
    expected.extend([40, 0, 9, 0x80]); // WGPEER_A_ALLOWEDIPS, nested
    expected.extend([36, 0, 0, 0x80]); // one
    expected.extend([6, 0, 1, 0, 2, 0, 0, 0]); // WGALLOWEDIP_A_FAMILY: AF_INET
    expected.extend([8, 0, 2, 0, 10, 1, 2, 0]); // WGALLOWEDIP_A_IPADDR
    expected.extend([5, 0, 3, 0, 24, 0, 0, 0]); // WGALLOWEDIP_A_CIDR_MASK
    expected.extend([8, 0, 4, 0, 1, 0, 0, 0]); // WGALLOWEDIP_A_FLAGS: WGALLOWEDIP_F_REMOVE_ME
    assert_eq!(bytes, expected);
}
