//! The device in the hands of the manager, with attested keys.

mod rig;

use std::time::Duration;

use countersign_wg_manager::{Backend, BackendChoice, Desired, Error, Manager};
use countersign_wg_proto::inside;
use rig::managed::{Runtime, config, join, manager, now, repairs, routes};
use rig::{DEVICE, Pair, eventually, possible};

#[test]
fn nodes_with_attested_keys_reach_each_other() {
    if !possible() {
        return;
    }
    let pair = Pair::with_devices();
    let [a, b] = join(&pair, 3600);
    // The keepalive has started the handshake already; no packet was needed.
    let handshaken = || {
        let status = a.runtime.run(a.manager.status()).unwrap();
        status.peers[0].last_handshake_unix.is_some()
    };
    assert!(eventually(Duration::from_secs(8), handshaken));
    for v6 in [false, true] {
        assert_eq!(pair.a.ping(&pair.b, v6, "-c 5 -i 0.05"), 5);
        assert_eq!(pair.b.ping(&pair.a, v6, "-c 5 -i 0.05"), 5);
    }
    let status = a.runtime.run(a.manager.status()).unwrap();
    assert_eq!(
        (status.errors.as_slice(), status.listen_port, status.backend),
        (&[][..], 51871, Backend::Userspace)
    );
    let peer = &status.peers[0];
    assert_eq!((peer.node.as_str(), peer.public_key), ("node-2", b.manager.public_key()));
    assert_eq!(peer.attested_by, "spiffe://countersign.lab/node/node-2");
    assert!(peer.preshared_key && peer.rx_bytes > 0 && peer.tx_bytes > 0 && peer.attested_until > now());
    assert_eq!(peer.endpoint, Some(pair.b.endpoint(false).parse().unwrap()));
    assert_eq!(peer.allowed_ips.len(), 2);
    let secret = pair.a.must(&format!("wg show {DEVICE} private-key"));
    assert!(!format!("{status:?} {:?} {:?}", a.manager, a.wish).contains(secret.trim()));
}

#[test]
fn what_others_change_is_repaired() {
    if !possible() {
        return;
    }
    let pair = Pair::with_devices();
    repairs(&pair, &join(&pair, 3600));
}

/// A cable that loses what is large and says nothing, as bad firewalls do.
#[test]
fn a_path_that_takes_less_than_it_seems_is_found() {
    if !possible() {
        return;
    }
    let pair = Pair::with_devices();
    // Its end of the cable drops what comes and is longer; its own packets are cut.
    pair.b.ip("link set eth0 mtu 1400");
    let [a, _b] = join(&pair, 3600);
    let path = || a.runtime.run(a.manager.status()).unwrap().peers[0].path;
    let found = || path().is_some_and(|path| (1385..=1404).contains(&path.mtu));
    assert!(eventually(Duration::from_secs(60), found), "{:?}", path());
    let inside = inside(path().unwrap().mtu, true);
    let fits = || pair.a.ping(&pair.b, false, &format!("-c 3 -i 0.1 -M do -s {}", inside - 28)) == 3;
    assert!(eventually(Duration::from_secs(10), fits), "{inside}: {}", routes(&pair.a));
    assert_eq!(pair.a.ping(&pair.b, false, &format!("-c 1 -M do -s {}", inside - 27)), 0);
    assert_eq!(pair.a.ping(&pair.b, false, "-c 3 -i 0.1 -s 3000"), 3, "in pieces");
    assert_eq!(pair.a.ping(&pair.b, true, "-c 3 -i 0.1 -s 3000"), 3, "in pieces");
}

#[test]
fn without_the_data_plane_pods_are_unreachable_and_then_it_heals() {
    if !possible() {
        return;
    }
    let mut pair = Pair::with_devices();
    let [a, _b] = join(&pair, 3600);
    // A way in the clear that must not be taken.
    pair.a.ip("route add default via 192.0.2.2");
    assert!(eventually(Duration::from_secs(8), || pair.a.ping(&pair.b, false, "-c 1") == 1));
    let in_the_clear = || {
        let route = pair.a.exec("ip route get 10.77.2.1");
        String::from_utf8_lossy(&route.stdout).contains("eth0")
    };
    assert!(!in_the_clear());
    pair.a.kill();
    assert!(!pair.a.has_device());
    assert!(!String::from_utf8_lossy(&pair.a.exec("ip route get 10.77.2.1").stdout).contains("eth0"));
    assert_eq!(pair.a.ping(&pair.b, false, "-c 1"), 0);
    let broken = || !a.runtime.run(a.manager.status()).unwrap().errors.is_empty();
    assert!(eventually(Duration::from_secs(3), broken));
    pair.a.start();
    assert!(eventually(Duration::from_secs(12), || pair.a.ping(&pair.b, false, "-c 1") == 1));
    assert!(eventually(Duration::from_secs(3), || !broken()));
}

#[test]
fn an_unproved_node_is_unreachable_and_other_routes_are_left_alone() {
    if !possible() {
        return;
    }
    let pair = Pair::with_devices();
    let [a, _b] = join(&pair, 3600);
    pair.a.ip("route add 10.200.0.0/16 via 192.0.2.2");
    assert!(eventually(Duration::from_secs(8), || pair.a.ping(&pair.b, false, "-c 1") == 1));
    let mut wish = a.wish.clone();
    let node = wish.nodes.pop().unwrap();
    wish.unproved.insert("node-2".into(), node.pod_cidrs);
    a.runtime.run(a.manager.set_peers(wish)).unwrap();
    assert_eq!(pair.a.must(&format!("wg show {DEVICE} peers")), "");
    let now = routes(&pair.a);
    assert!(now.contains("unreachable 10.77.2.0/24") && now.contains("unreachable fd77:2::/64"), "{now}");
    assert!(!now.contains(DEVICE), "{now}");
    assert_eq!(pair.a.ping(&pair.b, false, "-c 1"), 0);
    // The node is gone from the cluster.
    let empty = Desired { own: a.wish.own.clone(), complete: true, ..Desired::default() };
    a.runtime.run(a.manager.set_peers(empty)).unwrap();
    assert_eq!(routes(&pair.a), "");
    assert!(pair.a.must("ip route show").contains("10.200.0.0/16 via 192.0.2.2"));
    // Before the picture is complete, nothing is taken away.
    a.runtime.run(a.manager.set_peers(a.wish.clone())).unwrap();
    let incomplete = Desired { own: a.wish.own.clone(), ..Desired::default() };
    a.runtime.run(a.manager.set_peers(incomplete)).unwrap();
    assert_eq!(pair.a.must(&format!("wg show {DEVICE} peers")).lines().count(), 1);
    assert_eq!(routes(&pair.a).matches(DEVICE).count(), 2);
}

#[test]
fn a_key_is_good_only_for_as_long_as_its_svid() {
    if !possible() {
        return;
    }
    let pair = Pair::with_devices();
    let [a, _b] = join(&pair, 20);
    assert!(eventually(Duration::from_secs(8), || pair.a.ping(&pair.b, false, "-c 1") == 1));
    let gone = || pair.a.must(&format!("wg show {DEVICE} peers")).is_empty();
    assert!(eventually(Duration::from_secs(25), gone), "the peer should go when its SVID expires");
    let status = a.runtime.run(a.manager.status()).unwrap();
    assert_eq!(status.errors, ["node node-2: its key's announcement has expired"]);
    assert!(routes(&pair.a).contains("unreachable 10.77.2.0/24"));
}

#[test]
fn the_key_outlives_the_manager_and_so_do_peers() {
    if !possible() {
        return;
    }
    let pair = Pair::with_devices();
    let [a, _b] = join(&pair, 3600);
    assert!(eventually(Duration::from_secs(8), || pair.a.ping(&pair.b, false, "-c 1") == 1));
    let (key, wish) = (a.manager.public_key(), a.wish.clone());
    drop(a);
    assert_eq!(pair.a.ping(&pair.b, false, "-c 3 -i 0.1"), 3);
    // Pings go on while another manager takes over.
    let received = std::thread::scope(|scope| {
        let pings = scope.spawn(|| pair.a.ping(&pair.b, false, "-c 200 -i 0.01"));
        let runtime = Runtime::new(&pair.a);
        let again = runtime.run(manager(&pair.a, BackendChoice::Userspace));
        assert_eq!(again.public_key(), key);
        runtime.run(again.set_peers(wish)).unwrap();
        pings.join().unwrap()
    });
    assert_eq!(received, 200);
}

#[test]
fn a_manager_without_a_data_plane_says_so() {
    if !possible() {
        return;
    }
    let pair = Pair::new();
    let runtime = Runtime::new(&pair.a);
    let alone = runtime.run(manager(&pair.a, BackendChoice::Userspace));
    let error = runtime.run(alone.set_peers(Desired { complete: true, ..Desired::default() })).unwrap_err();
    assert!(matches!(&error, Error::Problems(_)) && error.to_string().contains("no data plane"), "{error}");
    let status = runtime.run(alone.status()).unwrap();
    assert!(status.errors[0].contains("no data plane"), "{:?}", status.errors);
}

#[test]
fn a_kernel_without_wireguard_is_said_at_once() {
    if !possible() {
        return;
    }
    let pair = Pair::new();
    let runtime = Runtime::new(&pair.a);
    let has_wireguard = pair.a.exec("ip link add probe type wireguard").status.success();
    let made = |choice| runtime.run(Manager::new(config(&pair.a, choice)));
    let backend = |manager: Manager| runtime.run(manager.status()).unwrap().backend;
    if has_wireguard {
        assert_eq!(backend(made(BackendChoice::Kernel).unwrap()), Backend::Kernel);
        return;
    }
    let error = made(BackendChoice::Kernel).unwrap_err();
    assert!(matches!(error, Error::NoKernelWireGuard), "{error}");
    assert_eq!(backend(made(BackendChoice::Auto).unwrap()), Backend::Userspace);
}
