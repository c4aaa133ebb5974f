//! The configuration protocol: both ends agree, and nothing that comes in breaks them.

use std::collections::BTreeSet;

use countersign_wg_proto::uapi::{
    Request, SetPeer, UapiError, encode_get, encode_get_reply, encode_set, encode_set_reply, parse_get,
    parse_request, parse_set_reply,
};
use countersign_wg_proto::{Device, Observed, Op, Peer, PeerStats, PresharedKey, PrivateKey, PublicKey};
use ipnet::IpNet;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

fn nets() -> impl Strategy<Value = BTreeSet<IpNet>> {
    let v4 =
        (any::<u32>(), 0..=32u8).prop_map(|(ip, len)| IpNet::new(std::net::Ipv4Addr::from(ip).into(), len));
    let v6 =
        (any::<u128>(), 0..=128u8).prop_map(|(ip, len)| IpNet::new(std::net::Ipv6Addr::from(ip).into(), len));
    prop::collection::btree_set(prop_oneof![v4, v6].prop_map(|net| net.unwrap().trunc()), 0..5)
}

fn peer() -> impl Strategy<Value = Peer> {
    let psk = prop::option::of(any::<[u8; 32]>().prop_filter("zero means none", |psk| *psk != [0; 32]));
    (psk, prop::option::of(any::<std::net::SocketAddr>()), any::<u16>(), nets()).prop_map(
        |(psk, mut endpoint, keepalive, allowed_ips)| {
            // Flow labels are not part of the text form.
            if let Some(std::net::SocketAddr::V6(v6)) = &mut endpoint {
                v6.set_flowinfo(0);
                v6.set_scope_id(0);
            }
            let preshared_key = psk.map(PresharedKey::from_bytes);
            Peer { preshared_key, endpoint, keepalive, allowed_ips }
        },
    )
}

fn observed() -> impl Strategy<Value = Observed> {
    let stats = (prop::option::of(1..u64::MAX), any::<u64>(), any::<u64>())
        .prop_map(|(at, rx, tx)| PeerStats { last_handshake_unix: at, rx_bytes: rx, tx_bytes: tx });
    let peers = prop::collection::btree_map(any::<[u8; 32]>(), (peer(), stats), 0..4);
    (prop::option::of(any::<[u8; 32]>()), any::<u16>(), any::<u32>(), peers).prop_map(
        |(private, listen_port, fwmark, all)| {
            let key = |bytes: &[u8; 32]| PublicKey::from_bytes(*bytes);
            Observed {
                device: Device {
                    private_key: private.map(PrivateKey::from_bytes),
                    listen_port,
                    peers: all.iter().map(|(bytes, (peer, _))| (key(bytes), peer.clone())).collect(),
                },
                fwmark,
                stats: all.iter().map(|(bytes, (_, stats))| (key(bytes), *stats)).collect(),
            }
        },
    )
}

/// Lines that look like the protocol, and some that do not.
fn message() -> impl Strategy<Value = String> {
    let keys = prop::sample::select(vec![
        "get",
        "set",
        "private_key",
        "listen_port",
        "fwmark",
        "replace_peers",
        "public_key",
        "remove",
        "update_only",
        "preshared_key",
        "endpoint",
        "persistent_keepalive_interval",
        "replace_allowed_ips",
        "allowed_ip",
        "protocol_version",
        "rx_bytes",
        "tx_bytes",
        "last_handshake_time_sec",
        "errno",
        "x",
        "",
    ]);
    let values = prop_oneof![
        Just("1".to_owned()),
        Just("true".to_owned()),
        Just("0".repeat(64)),
        Just("ab".repeat(32)),
        Just("10.0.0.0/8".to_owned()),
        Just("-10.0.0.0/8".to_owned()),
        Just("[::1]:1".to_owned()),
        "[ -~]{0,20}",
        "\\PC{0,8}",
    ];
    let line =
        prop_oneof![9 => (keys, values).prop_map(|(key, value)| format!("{key}={value}")), 1 => "\\PC{0,30}"];
    prop::collection::vec(line, 0..20).prop_map(|lines| lines.join("\n") + "\n\n")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_one_end_writes_the_other_reads(observed in observed()) {
        prop_assert_eq!(parse_get(&encode_get_reply(&observed)), Ok(observed));
    }

    #[test]
    fn no_message_breaks_a_parser(message in message()) {
        let _ = (parse_request(&message), parse_get(&message), parse_set_reply(&message));
    }

    #[test]
    fn no_text_breaks_a_parser(text in any::<String>()) {
        let _ = (parse_request(&text), parse_get(&text), parse_set_reply(&text));
    }

    /// Operations mean the same to the model, and to a device that reads them as text.
    #[test]
    fn operations_survive_the_protocol(peer in peer(), psk in prop::option::of(1..9u8), more in nets()) {
        let key = PublicKey::from_bytes([3; 32]);
        let ops = [
            Op::SetPrivateKey(PrivateKey::from_bytes([1; 32])),
            Op::SetListenPort(7),
            Op::AddPeer { key, peer: peer.clone() },
            Op::UpdatePeer {
                key,
                preshared_key: Some(psk.map(|seed| PresharedKey::from_bytes([seed; 32]))),
                endpoint: peer.endpoint,
                keepalive: Some(3),
                add_allowed_ips: more.clone(),
            },
            Op::ShrinkAllowedIps { key, keep: more.clone(), gone: BTreeSet::new() },
            Op::RemovePeer { key },
        ];
        let Ok(Request::Set(set)) = parse_request(&encode_set(&ops)) else { panic!() };
        prop_assert_eq!(set.private_key, Some(Some(PrivateKey::from_bytes([1; 32]))));
        prop_assert_eq!(set.listen_port, Some(7));
        let [add, update, shrink, remove] = set.peers.as_slice() else { panic!("{:?}", set.peers) };
        let added = |nets: &BTreeSet<IpNet>| nets.iter().map(|net| (*net, true)).collect::<Vec<_>>();
        prop_assert_eq!(add, &SetPeer {
            preshared_key: Some(peer.preshared_key.clone()),
            endpoint: peer.endpoint,
            keepalive: Some(peer.keepalive),
            replace_allowed_ips: true,
            allowed_ips: added(&peer.allowed_ips),
            ..SetPeer::new(key)
        });
        prop_assert_eq!(update, &SetPeer {
            update_only: true,
            preshared_key: Some(psk.map(|seed| PresharedKey::from_bytes([seed; 32]))),
            endpoint: peer.endpoint,
            keepalive: Some(3),
            allowed_ips: added(&more),
            ..SetPeer::new(key)
        });
        let allowed_ips = added(&more);
        prop_assert_eq!(shrink, &SetPeer {
            update_only: true, replace_allowed_ips: true, allowed_ips, ..SetPeer::new(key)
        });
        prop_assert_eq!(remove, &SetPeer { remove: true, ..SetPeer::new(key) });
    }
}

#[test]
fn the_specifications_example_is_understood() {
    // From https://www.wireguard.com/xplatform/ (shortened).
    let text = "set=1\n\
        private_key=e84b5a6d2717c1003a13b431570353dbaca9146cf150c5f8575680feba52027a\n\
        fwmark=0\n\
        listen_port=12912\n\
        replace_peers=true\n\
        public_key=b85996fecc9c7f1fc6d2572a76eda11d59bcd20be8e543b15ce4bd85a8e75a33\n\
        preshared_key=188515093e952f5f22e865cef3012e72f8b5f0b598ac0309d5dacce3b70fcf52\n\
        replace_allowed_ips=true\n\
        allowed_ip=192.168.4.4/32\n\
        endpoint=[abcd:23::33%2]:51820\n\
        public_key=58402e695ba1772b1cc9309755f043251ea77fdcf10fbe63989ceb7e19321376\n\
        replace_allowed_ips=true\n\
        allowed_ip=192.168.4.6/32\n\
        persistent_keepalive_interval=111\n\
        endpoint=182.122.22.19:3233\n\
        public_key=e818b58db5274087fcc1be5dc728cf53d3b5726b4cef6b9bab8f8f8c2452c25c\n\
        remove=true\n\n";
    let Err(UapiError::BadValue { line: 10, key: "endpoint" }) = parse_request(text) else {
        // Numeric scopes are understood by the standard library.
        let Ok(Request::Set(set)) = parse_request(text) else { panic!("{:?}", parse_request(text)) };
        assert!(set.replace_peers && set.fwmark == Some(0) && set.listen_port == Some(12912));
        assert_eq!(set.peers.iter().map(|peer| peer.remove).collect::<Vec<_>>(), [false, false, true]);
        assert_eq!(set.peers[1].keepalive, Some(111));
        return;
    };
    panic!("a numeric scope is a valid endpoint");
}

#[test]
fn errors_say_where_and_never_what() {
    let secret = "zz".repeat(32);
    let error = parse_request(&format!("set=1\nprivate_key={secret}\n\n")).unwrap_err();
    assert_eq!(error, UapiError::BadValue { line: 2, key: "private_key" });
    assert!(!error.to_string().contains("zz"));
    assert_eq!(
        parse_request("set=1\nlisten_prot=1\n\n"),
        Err(UapiError::UnknownKey { line: 2, key: "listen_prot".into() })
    );
    assert_eq!(parse_request("set=2\n\n"), Err(UapiError::Syntax(1)));
    assert_eq!(parse_request("get=1\nx=1\n\n"), Err(UapiError::Syntax(2)));
    assert_eq!(parse_request("\n"), Err(UapiError::Incomplete));
    assert_eq!(
        parse_request("set=1\nlisten_port=65536\n\n"),
        Err(UapiError::BadValue { line: 2, key: "listen_port" })
    );
    assert_eq!(
        parse_request("set=1\nlisten_port=+1\n\n"),
        Err(UapiError::BadValue { line: 2, key: "listen_port" })
    );
    let line = format!("set=1\nx={}\n\n", "y".repeat(300));
    assert_eq!(parse_request(&line), Err(UapiError::Syntax(2)));
}

#[test]
fn replies() {
    assert_eq!(encode_get(), "get=1\n\n");
    assert_eq!(parse_set_reply(&encode_set_reply(0)), Ok(()));
    assert_eq!(parse_set_reply(&encode_set_reply(98)), Err(UapiError::Errno(98)));
    assert_eq!(parse_set_reply("\n"), Err(UapiError::Incomplete));
    assert_eq!(parse_get("errno=5\n\n"), Err(UapiError::Errno(5)));
    assert_eq!(parse_get("listen_port=1\n\n"), Err(UapiError::Incomplete));
}

#[test]
fn a_zero_key_removes_and_fwmark_has_two_forms() {
    let zero = "0".repeat(64);
    let text =
        format!("set=1\nprivate_key={zero}\nfwmark=0xca6c\npublic_key={zero}\npreshared_key={zero}\n\n");
    let Ok(Request::Set(set)) = parse_request(&text) else { panic!() };
    assert_eq!((set.private_key, set.fwmark), (Some(None), Some(0xca6c)));
    assert_eq!(set.peers[0].preshared_key, Some(None));
}

#[test]
fn lists_are_bounded() {
    use countersign_wg_proto::limits::{MAX_ALLOWED_IPS, MAX_PEERS, MAX_UAPI_MESSAGE};
    let key = format!("public_key={}\n", "ab".repeat(32));
    let peers = format!("set=1\n{}\n", key.repeat(MAX_PEERS + 1));
    assert_eq!(parse_request(&peers), Err(UapiError::TooLarge("peers")));
    let prefixes = format!("set=1\n{key}{}\n", "allowed_ip=::/0\n".repeat(MAX_ALLOWED_IPS + 1));
    assert_eq!(parse_request(&prefixes), Err(UapiError::TooLarge("allowed IPs")));
    let long = "x".repeat(MAX_UAPI_MESSAGE + 1);
    assert_eq!(parse_request(&long), Err(UapiError::TooLarge("bytes")));
}

/// Messages for longer: `cargo xtask fuzz uapi --minutes 30`.
#[test]
fn mutated_messages_do_no_harm() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (seed, seconds) = (number("CS_FUZZ_SEED").unwrap_or(1), number("CS_FUZZ_SECONDS"));
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(ProptestConfig::default(), rng);
    let genuine = observed().prop_map(|observed| encode_get_reply(&observed).to_string());
    let set = prop::collection::vec((any::<u8>(), peer()), 0..4).prop_map(|peers| {
        let add = |(seed, peer)| Op::AddPeer { key: PublicKey::from_bytes([seed; 32]), peer };
        encode_set(&peers.into_iter().map(add).collect::<Vec<_>>()).to_string()
    });
    let text = prop_oneof![message(), genuine, set, any::<String>()];
    let mutated = (text, prop::collection::vec((any::<usize>(), any::<char>()), 0..6));
    let (began, mut texts, mut understood) = (std::time::Instant::now(), 0, 0);
    while seconds.map_or(texts < 2_000, |seconds| began.elapsed().as_secs() < seconds) {
        let (text, changes) = mutated.new_tree(&mut runner).unwrap().current();
        let mut letters: Vec<char> = text.chars().collect();
        for (at, letter) in changes {
            let at = at % (letters.len() + 1);
            letters.splice(at..(at + usize::from(letter.is_alphabetic())).min(letters.len()), [letter]);
        }
        let text: String = letters.into_iter().collect();
        let request = parse_request(&text);
        if let Ok(observed) = parse_get(&text) {
            // What is understood is understood for good.
            assert_eq!(parse_get(&encode_get_reply(&observed)), Ok(observed), "{text}");
        }
        let _ = parse_set_reply(&text);
        understood += u32::from(request.is_ok());
        texts += 1;
    }
    println!("seed {seed}, {:?}: {texts} texts, {understood} of them requests", began.elapsed());
    assert!(understood * 50 > texts, "what is never understood tests half of a parser");
}
