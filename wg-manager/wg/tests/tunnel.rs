//! Packets through the tunnel, configured with wg(8).

mod rig;

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use rig::{DEVICE, Pair, eventually, possible};

/// Mbit/s of one TCP stream for two seconds.
fn iperf3(pair: &Pair, v6: bool, arguments: &[&str]) -> f64 {
    let to = pair.b.address(v6);
    let mut server = pair
        .b
        .command("iperf3", &["-s", "-1", "-B", &to])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let from = pair.a.address(v6);
    let mut all = vec!["-c", &to, "-B", &from, "-t", "2", "-J"];
    all.extend(arguments);
    let output = pair.a.command("iperf3", &all).output().unwrap();
    let _ = server.wait();
    let text = String::from_utf8(output.stdout).unwrap();
    // The last rate printed is the receiver's sum.
    let rate =
        text.rsplit("\"bits_per_second\":").next().and_then(|rest| rest.split([',', '\n', '}']).next());
    rate.and_then(|rate| rate.trim().parse::<f64>().ok()).unwrap_or_else(|| panic!("{text}")) / 1e6
}

#[test]
fn pings_and_streams_of_both_families_over_both_families() {
    if !possible() {
        return;
    }
    for outer_v6 in [false, true] {
        let pair = Pair::configured(outer_v6);
        for v6 in [false, true] {
            assert_eq!(pair.a.ping(&pair.b, v6, "-c 5 -i 0.05"), 5);
            assert_eq!(pair.b.ping(&pair.a, v6, "-c 5 -i 0.05"), 5);
            let rate = iperf3(&pair, v6, &[]);
            println!("TCP, inner IPv6 {v6}, outer IPv6 {outer_v6}: {rate:.0} Mbit/s");
            assert!(rate > 50.0, "{rate} Mbit/s");
        }
        let rate = iperf3(&pair, false, &["-R", "-P", "4"]);
        println!("TCP, 4 streams the other way, outer IPv6 {outer_v6}: {rate:.0} Mbit/s");
        assert!(rate > 50.0, "{rate} Mbit/s");
        let shown = pair.a.must(&format!("wg show {DEVICE} dump"));
        let peer: Vec<&str> = shown.lines().nth(1).unwrap().split('\t').collect();
        assert_eq!(peer[2], pair.b.endpoint(outer_v6));
        assert!(peer[4].parse::<u64>().unwrap() > 1_700_000_000, "{shown}");
        assert!(peer[5].parse::<u64>().unwrap() > 1_000_000 && peer[6].parse::<u64>().unwrap() > 1_000_000);
    }
}

#[test]
fn packets_of_every_size_arrive() {
    if !possible() {
        return;
    }
    let pair = Pair::configured(false);
    assert_eq!(pair.a.ping(&pair.b, false, "-c 1"), 1);
    let sizes = (0..=64).chain(1360..=1392).chain([1393, 2000, 4000, 9000, 20_000]);
    for size in sizes {
        // The last few are fragmented before they enter the tunnel.
        assert_eq!(pair.a.ping(&pair.b, false, &format!("-c 1 -s {size}")), 1, "{size}");
    }
    assert_eq!(pair.a.ping(&pair.b, true, "-c 1 -s 1372"), 1);
    assert_eq!(pair.a.ping(&pair.b, true, "-c 1 -s 5000"), 1);
}

/// The first packets wait for the handshake, and arrive in order; none is lost.
#[test]
fn the_first_packets_wait_for_the_handshake() {
    if !possible() {
        return;
    }
    for round in 0..3 {
        let pair = Pair::configured(false);
        let to = format!("{}:7777", pair.b.address(false));
        let receiver = pair.b.run(async {
            let socket = UdpSocket::bind(&to).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
            socket
        });
        let began = Instant::now();
        pair.a.run(async {
            let socket = UdpSocket::bind(format!("{}:0", pair.a.address(false))).unwrap();
            for number in 0..200_u32 {
                socket.send_to(&number.to_be_bytes(), &to).unwrap();
            }
        });
        let mut buffer = [0; 4];
        for number in 0..200_u32 {
            receiver.recv(&mut buffer).unwrap_or_else(|error| panic!("datagram {number}: {error}"));
            assert_eq!(u32::from_be_bytes(buffer), number);
            if number == 0 {
                println!("round {round}: the first datagram took {:?}, handshake included", began.elapsed());
            }
        }
    }
}

/// Changing prefixes, keepalive and preshared key of a peer leaves its session alone.
#[test]
fn reconfiguring_a_peer_loses_nothing() {
    if !possible() {
        return;
    }
    let pair = Pair::configured(false);
    assert_eq!(pair.a.ping(&pair.b, false, "-c 1"), 1);
    let (a, b) = (&pair.a, &pair.b);
    let received = std::thread::scope(|scope| {
        let pings = scope.spawn(|| a.ping(b, false, "-c 300 -i 0.01"));
        let peer = b.public_key();
        let psk = a.directory.path().join("psk");
        for round in 0..20 {
            let nets = format!("{},10.88.{round}.0/24", b.prefixes().join(","));
            a.must(&format!("wg set {DEVICE} peer {peer} allowed-ips {nets}"));
            a.must(&format!("wg set {DEVICE} peer {peer} persistent-keepalive {}", 5 + round));
            std::fs::write(&psk, std::process::Command::new("wg").arg("genpsk").output().unwrap().stdout)
                .unwrap();
            a.must(&format!("wg set {DEVICE} peer {peer} preshared-key {}", psk.display()));
        }
        pings.join().unwrap()
    });
    assert_eq!(received, 300);
    assert!(a.must("wg show").contains("10.88.19.0/24"));
}

#[test]
fn preshared_keys_must_agree() {
    if !possible() {
        return;
    }
    let pair = Pair::configured(false);
    let psk = |node: &rig::Node, other: &rig::Node, value: &str| {
        let file = node.directory.path().join("psk");
        std::fs::write(&file, value).unwrap();
        let (key, to) = (other.public_key(), other.endpoint(false));
        let nets = other.prefixes().join(",");
        // Removed and added again, so that there is no session.
        node.must(&format!("wg set {DEVICE} peer {key} remove"));
        node.must(&format!(
            "wg set {DEVICE} peer {key} preshared-key {} endpoint {to} allowed-ips {nets}",
            file.display()
        ));
    };
    let one = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
    let two = "xAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
    psk(&pair.a, &pair.b, one);
    psk(&pair.b, &pair.a, two);
    assert_eq!(pair.a.ping(&pair.b, false, "-c 2 -i 0.2"), 0);
    psk(&pair.b, &pair.a, one);
    psk(&pair.a, &pair.b, one);
    assert!(eventually(Duration::from_secs(12), || pair.a.ping(&pair.b, false, "-c 1") == 1));
}

/// Cryptokey routing: a packet from an address that is not the peer's is dropped.
#[test]
fn a_peer_speaks_only_for_its_own_addresses() {
    if !possible() {
        return;
    }
    let pair = Pair::configured(false);
    assert_eq!(pair.a.ping(&pair.b, false, "-c 1"), 1);
    pair.a.ip("addr add 10.99.0.1/32 dev lo");
    pair.b.ip(&format!("route add 10.99.0.0/24 dev {DEVICE}"));
    let line = format!("ping -q -W 1 -c 2 -i 0.2 -I 10.99.0.1 {}", pair.b.address(false));
    assert!(!pair.a.exec(&line).status.success());
    let (peer, nets) = (pair.a.public_key(), pair.a.prefixes().join(","));
    pair.b.must(&format!("wg set {DEVICE} peer {peer} allowed-ips {nets},10.99.0.0/24"));
    assert!(pair.a.exec(&line).status.success());
}

#[test]
fn a_peer_may_move() {
    if !possible() {
        return;
    }
    let pair = Pair::configured(false);
    assert_eq!(pair.a.ping(&pair.b, false, "-c 1"), 1);
    pair.b.ip("addr del 192.0.2.2/24 dev eth0");
    pair.b.ip("addr add 192.0.2.22/24 dev eth0");
    assert!(eventually(Duration::from_secs(5), || pair.b.ping(&pair.a, false, "-c 1") == 1));
    assert!(pair.a.must("wg show").contains("endpoint: 192.0.2.22:51871"));
    // And to another port.
    pair.b.must(&format!("wg set {DEVICE} listen-port 4444"));
    assert!(eventually(Duration::from_secs(5), || pair.b.ping(&pair.a, false, "-c 1") == 1));
    assert!(pair.a.must("wg show").contains("endpoint: 192.0.2.22:4444"));
}

/// A peer that was silent for long is still found by the keepalive, without a packet to send.
#[test]
fn a_keepalive_alone_makes_the_session() {
    if !possible() {
        return;
    }
    let pair = Pair::configured(false);
    let peer = pair.b.public_key();
    let sessions = || pair.a.must(&format!("wg show {DEVICE} latest-handshakes"));
    assert!(sessions().trim_end().ends_with("\t0"));
    pair.a.must(&format!("wg set {DEVICE} peer {peer} persistent-keepalive 25"));
    assert!(eventually(Duration::from_secs(8), || !sessions().trim_end().ends_with("\t0")));
}
