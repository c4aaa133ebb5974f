//! The configuration: what wg(8) and the manager's client can do to a device.

mod rig;

use std::collections::BTreeMap;

use countersign_wg_manager::UapiError;
use countersign_wg_proto::uapi;
use countersign_wg_proto::{Device, Op, Peer, PresharedKey, PrivateKey, PublicKey, Shrink, plan};
use ipnet::IpNet;
use rig::{DEVICE, Pair, possible};

fn key(seed: u8) -> PublicKey {
    PrivateKey::from_bytes([seed; 32]).public()
}

fn peer(nets: &[&str]) -> Peer {
    Peer { allowed_ips: nets.iter().map(|net| net.parse().unwrap()).collect(), ..Peer::default() }
}

fn device(peers: &[(u8, &[&str])]) -> Device {
    Device {
        private_key: Some(PrivateKey::from_bytes([99; 32])),
        listen_port: 5555,
        peers: peers.iter().map(|(seed, nets)| (key(*seed), peer(nets))).collect(),
    }
}

#[test]
fn the_device_does_what_the_model_does() {
    if !possible() {
        return;
    }
    let mut pair = Pair::new();
    pair.a.start();
    let uapi = pair.a.uapi();
    let mut with_secret = device(&[(1, &["10.0.2.0/24"]), (2, &["10.0.1.0/24", "10.0.3.0/24"]), (4, &[])]);
    with_secret.peers.get_mut(&key(1)).unwrap().preshared_key = Some(PresharedKey::from_bytes([5; 32]));
    with_secret.peers.get_mut(&key(2)).unwrap().endpoint = Some("[2001:db8::1]:1".parse().unwrap());
    with_secret.peers.get_mut(&key(4)).unwrap().keepalive = 17;
    let states = [
        device(&[(1, &["10.0.1.0/24", "fd00::/64"]), (2, &["10.0.2.0/24"]), (3, &["0.0.0.0/0"])]),
        with_secret.clone(),
        device(&[(1, &["10.0.2.0/24"]), (2, &["10.0.1.0/24", "10.0.3.0/24"])]),
        device(&[]),
        with_secret,
    ];
    pair.a.run(async {
        for desired in &states {
            let before = uapi.get().await.unwrap();
            let mut model = before.device.clone();
            for op in plan(desired, &before.device, Shrink::Allowed) {
                model.apply(&op);
                uapi.apply(&[op]).await.unwrap();
                let mut after = uapi.get().await.unwrap();
                if model.listen_port == 0 {
                    // It has chosen one.
                    after.device.listen_port = 0;
                }
                assert_eq!(after.device, model);
            }
            let after = uapi.get().await.unwrap();
            assert_eq!(plan(desired, &after.device, Shrink::Allowed), []);
        }
    });
}

#[test]
fn prefixes_can_be_taken_away_one_by_one() {
    if !possible() {
        return;
    }
    let mut pair = Pair::new();
    pair.a.start();
    let uapi = pair.a.uapi();
    let request = |body: &str| format!("set=1\n{body}\n");
    let (one, two) = (key(1).to_hex(), key(2).to_hex());
    let texts = [
        format!("public_key={one}\nallowed_ip=10.0.1.0/24\nallowed_ip=10.0.2.0/24\n"),
        format!("public_key={one}\nallowed_ip=-10.0.1.0/24\nallowed_ip=-10.9.9.0/24\n"),
        // Not its own: stays.
        format!("public_key={two}\nallowed_ip=-10.0.2.0/24\n"),
        // One peer in several sections of one request, and one that is not to be made.
        format!("public_key={two}\nallowed_ip=10.0.3.0/24\npublic_key={one}\nallowed_ip=10.0.3.0/24\n"),
        format!("public_key={}\nupdate_only=true\nallowed_ip=10.0.3.0/24\n", key(3).to_hex()),
    ];
    for text in texts {
        let mut stream = std::os::unix::net::UnixStream::connect(uapi.path()).unwrap();
        use std::io::{Read as _, Write as _};
        stream.write_all(request(&text).as_bytes()).unwrap();
        let mut reply = [0; 9];
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(uapi::parse_set_reply(std::str::from_utf8(&reply).unwrap()), Ok(()));
    }
    let observed = pair.a.run(async { uapi.get().await.unwrap() });
    let expected: BTreeMap<_, _> =
        [(key(1), peer(&["10.0.2.0/24", "10.0.3.0/24"])), (key(2), peer(&[]))].into();
    assert_eq!(observed.device.peers, expected);
}

#[test]
fn a_device_without_a_key_can_be_configured_and_keeps_it_when_the_key_comes_and_goes() {
    if !possible() {
        return;
    }
    let mut pair = Pair::new();
    pair.a.start();
    let other = key(7).to_string();
    pair.a.must(&format!(
        "wg set {DEVICE} listen-port 3333 peer {other} allowed-ips 10.0.7.0/24 endpoint 192.0.2.2:9"
    ));
    let before = pair.a.must(&format!("wg showconf {DEVICE}"));
    assert!(before.contains("10.0.7.0/24") && !before.contains("PrivateKey"), "{before}");
    let file = pair.a.key_file();
    pair.a.must(&format!("wg set {DEVICE} private-key {}", file.display()));
    let with_key = pair.a.must(&format!("wg showconf {DEVICE}"));
    assert!(with_key.contains("PrivateKey") && with_key.contains("ListenPort = 3333"), "{with_key}");
    // The peer with the device's own key disappears, and cannot be added.
    let own = pair.a.public_key();
    pair.a.must(&format!("wg set {DEVICE} peer {own} allowed-ips 10.0.8.0/24"));
    assert!(!pair.a.must("wg show").contains("10.0.8.0/24"));
    pair.a.must(&format!("wg set {DEVICE} private-key /dev/null"));
    assert_eq!(pair.a.must(&format!("wg showconf {DEVICE}")), before);
    pair.a.must(&format!("wg set {DEVICE} private-key {}", file.display()));
    assert_eq!(pair.a.must(&format!("wg showconf {DEVICE}")), with_key);
}

#[test]
fn setconf_and_showconf_are_each_others_reverse() {
    if !possible() {
        return;
    }
    let mut pair = Pair::new();
    pair.a.start();
    let mut text = format!(
        "[Interface]\nListenPort = 1234\nPrivateKey = {}\n",
        *PrivateKey::from_bytes([1; 32]).to_base64()
    );
    for seed in 2..60 {
        text += &format!(
            "\n[Peer]\nPublicKey = {}\nAllowedIPs = 10.{seed}.0.0/16, fd00:{seed}::/32\nEndpoint = 192.0.2.2:{seed}\n",
            key(seed)
        );
    }
    let file = pair.a.directory.path().join("conf");
    std::fs::write(&file, &text).unwrap();
    pair.a.must(&format!("wg setconf {DEVICE} {}", file.display()));
    let shown = pair.a.must(&format!("wg showconf {DEVICE}"));
    let sorted = |text: &str| {
        let mut lines: Vec<String> =
            text.lines().map(str::to_owned).filter(|line| !line.is_empty()).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&shown), sorted(&text));
    // syncconf with fewer peers removes the others.
    std::fs::write(&file, "[Interface]\nListenPort = 1234\n").unwrap();
    pair.a.must(&format!("wg syncconf {DEVICE} {}", file.display()));
    assert_eq!(pair.a.must(&format!("wg show {DEVICE} peers")), "");
}

#[test]
fn many_prefixes_on_one_peer() {
    if !possible() {
        return;
    }
    let mut pair = Pair::new();
    pair.a.start();
    let nets: Vec<String> =
        (0..20_000).map(|n| format!("10.{}.{}.{}/32", n >> 16, n >> 8 & 255, n & 255)).collect();
    let mut desired = device(&[]);
    let allowed_ips = nets.iter().map(|net| net.parse::<IpNet>().unwrap()).collect();
    desired.peers.insert(key(1), Peer { allowed_ips, ..Peer::default() });
    let uapi = pair.a.uapi();
    pair.a.run(async {
        let ops = plan(&desired, &Device::default(), Shrink::Allowed);
        uapi.apply(&ops).await.unwrap();
        assert_eq!(uapi.get().await.unwrap().device, desired);
    });
    assert_eq!(pair.a.must(&format!("wg show {DEVICE} allowed-ips")).matches("/32").count(), 20_000);
}

#[test]
fn a_port_in_use_is_refused_and_the_old_one_stays() {
    if !possible() {
        return;
    }
    let pair = Pair::configured(false);
    assert_eq!(pair.a.ping(&pair.b, false, "-c 1"), 1);
    let (uapi, taken) = (pair.a.uapi(), "[::]:6666".parse::<std::net::SocketAddr>().unwrap());
    pair.a.run(async {
        let _holder = std::net::UdpSocket::bind(taken).unwrap();
        let error = uapi.apply(&[Op::SetListenPort(6666)]).await.unwrap_err();
        let in_use = countersign_wg_proto::uapi::UapiError::Errno(nix::errno::Errno::EADDRINUSE as i32);
        assert!(matches!(&error, UapiError::Protocol(errno) if *errno == in_use), "{error}");
        assert_eq!(uapi.get().await.unwrap().device.listen_port, rig::PORT);
    });
    assert_eq!(pair.a.ping(&pair.b, false, "-c 3 -i 0.1"), 3);
    pair.a.must(&format!("wg set {DEVICE} fwmark 0x1234 listen-port 0"));
    let shown = pair.a.must("wg show");
    assert!(shown.contains("fwmark: 0x1234") && !shown.contains("listening port: 0"), "{shown}");
    assert_eq!(pair.a.ping(&pair.b, false, "-c 3 -i 0.1"), 3);
}
