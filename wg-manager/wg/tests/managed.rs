//! The device in the hands of the manager, with attested keys.

mod rig;

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use countersign_certs::{CertAuthority, Serial, SigningKey, TrustDomain};
use countersign_wg_manager::{Config, Desired, Error, KeyRing, Manager, OwnNode, RemoteNode, Slot};
use countersign_wg_proto::{PresharedKey, announce, inside, node_id};
use rig::{DEVICE, Node, Pair, eventually, possible};

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn signing_key() -> SigningKey {
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new()).unwrap();
    SigningKey::p256(pkcs8.as_ref().to_vec()).unwrap()
}

fn authority() -> CertAuthority {
    let domain = TrustDomain::parse("countersign.lab").unwrap();
    CertAuthority::create(domain, signing_key(), Serial::from_random([1; 16]), now(), 86_400).unwrap()
}

fn name(node: &Node) -> String {
    format!("node-{}", node.number)
}

async fn manager(node: &Node) -> Manager {
    let config = Config {
        run_dir: node.directory.path().to_owned(),
        uapi_dir: node.directory.path().to_owned(),
        reconcile_every: Duration::from_millis(200),
        ..Config::default()
    };
    Manager::new(config).await.unwrap()
}

/// What a node says about itself, as it goes through the cluster.
fn announcement(ca: &CertAuthority, node: &Node, manager: &Manager, ttl: u64) -> String {
    let id = node_id(ca.trust_domain(), &name(node)).unwrap();
    let svid = ca.issue(&id, &signing_key(), Serial::from_random([2; 16]), now(), ttl).unwrap();
    announce(&svid, &name(node), manager.public_key(), manager.epoch()).unwrap()
}

/// What `me` wishes, when `other` has said `announced`.
fn desired(ca: &CertAuthority, me: (&Node, &Manager), other: &Node, announced: &str) -> Desired {
    let mut ring = KeyRing::new(me.1.public_key());
    let key = ring.accept(&name(other), announced, &ca.bundle().unwrap(), now()).unwrap().clone();
    let nets = |node: &Node| node.prefixes().iter().map(|net| net.parse().unwrap()).collect::<BTreeSet<_>>();
    let remote = RemoteNode {
        slot: Slot::of(me.1.epoch(), key.epoch()),
        key,
        endpoint: other.endpoint(false).parse().unwrap(),
        pod_cidrs: nets(other),
        addresses: BTreeSet::new(),
        preshared_key: Some(PresharedKey::from_bytes([8; 32])),
    };
    let own = OwnNode { name: name(me.0), pod_cidrs: nets(me.0), addresses: BTreeSet::new() };
    Desired { own, nodes: vec![remote], complete: true, ..Desired::default() }
}

fn routes(node: &Node) -> String {
    node.must("ip route show proto 197") + &node.must("ip -6 route show proto 197")
}

/// A runtime all of whose threads live in a node's network namespace.
struct Runtime {
    runtime: Option<tokio::runtime::Runtime>,
    namespace: String,
}

fn enter(namespace: &str) {
    let namespace = std::fs::File::open(format!("/run/netns/{namespace}")).unwrap();
    nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
}

impl Runtime {
    fn new(node: &Node) -> Self {
        let namespace = node.namespace.clone();
        let inside = namespace.clone();
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let builder = builder.worker_threads(1).enable_all().on_thread_start(move || enter(&inside));
        Self { runtime: Some(builder.build().unwrap()), namespace }
    }

    /// The future itself runs on a thread of its own, in the namespace as well.
    fn run<T: Send>(&self, future: impl Future<Output = T> + Send) -> T {
        let handle = self.runtime.as_ref().unwrap().handle().clone();
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                enter(&self.namespace);
                handle.block_on(future)
            });
            thread.join().unwrap()
        })
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// One side of a pair that has been joined.
struct Side {
    manager: Manager,
    wish: Desired,
    runtime: Runtime,
}

/// Joins both nodes by attested keys that are good for `ttl` seconds.
fn join(pair: &Pair, ttl: u64) -> [Side; 2] {
    let ca = authority();
    let runtimes = [Runtime::new(&pair.a), Runtime::new(&pair.b)];
    let a = runtimes[0].run(manager(&pair.a));
    let b = runtimes[1].run(manager(&pair.b));
    let (said_a, said_b) = (announcement(&ca, &pair.a, &a, ttl), announcement(&ca, &pair.b, &b, ttl));
    let wish_a = desired(&ca, (&pair.a, &a), &pair.b, &said_b);
    let wish_b = desired(&ca, (&pair.b, &b), &pair.a, &said_a);
    runtimes[0].run(a.set_peers(wish_a.clone())).unwrap();
    runtimes[1].run(b.set_peers(wish_b.clone())).unwrap();
    let [runtime_a, runtime_b] = runtimes;
    [
        Side { manager: a, wish: wish_a, runtime: runtime_a },
        Side { manager: b, wish: wish_b, runtime: runtime_b },
    ]
}

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
    assert_eq!((status.errors.as_slice(), status.listen_port, status.backend), (&[][..], 51871, "userspace"));
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
    let [a, b] = join(&pair, 3600);
    let peer = b.manager.public_key();
    let whole = |before: u64| {
        let status = a.runtime.run(a.manager.status()).unwrap();
        let good =
            status.peers.len() == 1 && status.peers[0].allowed_ips.len() == 2 && status.errors.is_empty();
        good && status.listen_port == 51871
            && status.repairs > before
            && routes(&pair.a).matches(DEVICE).count() == 2
    };
    let damages = [
        format!("wg set {DEVICE} peer {peer} remove"),
        format!("wg set {DEVICE} peer {peer} allowed-ips 10.1.0.0/16"),
        format!("wg set {DEVICE} listen-port 1111"),
        format!("wg set {DEVICE} private-key {}", pair.b.key_file().display()),
        format!("wg set {DEVICE} peer {} allowed-ips 10.77.2.0/24", pair.a.public_key()),
        "ip route del 10.77.2.0/24 proto 197 metric 50".to_owned(),
        "ip -6 route del fd77:2::/64 proto 197 metric 50".to_owned(),
        format!("ip link set {DEVICE} down"),
        format!("ip link set {DEVICE} mtu 1300"),
    ];
    for damage in damages {
        let before = a.runtime.run(a.manager.status()).unwrap().repairs;
        pair.a.must(&damage);
        assert!(eventually(Duration::from_secs(5), || whole(before)), "{damage}: {}", routes(&pair.a));
        let reachable = || pair.a.ping(&pair.b, false, "-c 1") == 1;
        assert!(eventually(Duration::from_secs(12), reachable), "{damage}");
    }
    // Nothing more to do.
    let before = a.runtime.run(a.manager.status()).unwrap().repairs;
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(a.runtime.run(a.manager.status()).unwrap().repairs, before);
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
        let again = runtime.run(manager(&pair.a));
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
    let alone = runtime.run(manager(&pair.a));
    let error = runtime.run(alone.set_peers(Desired { complete: true, ..Desired::default() })).unwrap_err();
    assert!(matches!(&error, Error::Problems(_)) && error.to_string().contains("no data plane"), "{error}");
    let status = runtime.run(alone.status()).unwrap();
    assert!(status.errors[0].contains("no data plane"), "{:?}", status.errors);
}
