//! Nodes in the hands of managers, with attested keys.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use countersign_certs::{CertAuthority, Serial, SigningKey, TrustDomain};
use countersign_wg_manager::{
    BackendChoice, Config, Desired, KeyRing, Manager, OwnKey, OwnNode, RemoteNode, Slot,
};
use countersign_wg_proto::{PresharedKey, announce, node_id};

use super::{DEVICE, Node, PORT, Pair, eventually};

pub fn now() -> u64 {
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

pub fn config(node: &Node, backend: BackendChoice) -> Config {
    Config {
        backend,
        program: program(node),
        run_dir: node.directory.path().to_owned(),
        uapi_dir: node.directory.path().to_owned(),
        reconcile_every: Duration::from_millis(200),
        ..Config::default()
    }
}

/// Makes devices whose sockets are the node's.
fn program(node: &Node) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = node.directory.path();
    let (script, program) = (directory.join("program"), super::binary());
    let inside = format!(
        "mount --bind {} /var/run/wireguard && exec {} \"$@\"",
        directory.display(),
        program.display()
    );
    if !script.exists() {
        std::fs::write(&script, format!("#!/bin/sh\nexec unshare -m sh -c '{inside}' sh \"$@\"\n")).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    script
}

pub async fn manager(node: &Node, backend: BackendChoice) -> Manager {
    Manager::new(config(node, backend)).await.unwrap()
}

/// What a node says about one of its keys, as it goes through the cluster.
fn announcement(ca: &CertAuthority, node: &Node, key: OwnKey, ttl: u64) -> String {
    let id = node_id(ca.trust_domain(), &name(node)).unwrap();
    let svid = ca.issue(&id, &signing_key(), Serial::from_random([2; 16]), now(), ttl).unwrap();
    announce(&svid, &name(node), key.public_key, key.epoch).unwrap()
}

/// What `me` wishes, when `other` has announced its keys: tunnels between all of theirs, the latest first.
fn desired(ca: &CertAuthority, me: (&Node, &Manager), other: (&Node, &Manager), ttl: u64) -> Desired {
    let (own, theirs, whose) = (me.1.keys(), other.1.keys(), name(other.0));
    let mut ring = KeyRing::new(me.1.public_key());
    ring.set_own(own.iter().map(|key| key.public_key));
    let bundle = ca.bundle().unwrap();
    ring.accept(&whose, &announcement(ca, other.0, theirs.current, ttl), &bundle, now()).unwrap();
    if let Some(next) = theirs.next {
        ring.accept_next(&whose, &announcement(ca, other.0, next, ttl), &bundle, now()).unwrap();
    }
    let nets = |node: &Node| node.prefixes().iter().map(|net| net.parse().unwrap()).collect::<BTreeSet<_>>();
    let mut tunnels = Vec::new();
    for key in ring.of_node(&whose) {
        for own in own.iter() {
            let slot = Slot::of(own.epoch, key.epoch());
            let mut endpoint: std::net::SocketAddr = other.0.endpoint(false).parse().unwrap();
            endpoint.set_port(slot.mirrored().port(PORT));
            let tunnel = RemoteNode {
                slot,
                key: key.clone(),
                endpoint,
                pod_cidrs: nets(other.0),
                addresses: BTreeSet::new(),
                preshared_key: Some(PresharedKey::from_bytes([8; 32])),
            };
            tunnels.push((own.epoch + key.epoch(), tunnel));
        }
    }
    tunnels.sort_by_key(|(epochs, _)| std::cmp::Reverse(*epochs));
    let nodes: Vec<RemoteNode> = tunnels.into_iter().map(|(_, tunnel)| tunnel).collect();
    let own = OwnNode { name: name(me.0), pod_cidrs: nets(me.0), addresses: BTreeSet::new() };
    Desired { own, nodes, complete: true, ..Desired::default() }
}

pub fn routes(node: &Node) -> String {
    node.must("ip route show proto 197") + &node.must("ip -6 route show proto 197")
}

/// A runtime all of whose threads live in a node's network namespace.
pub struct Runtime {
    runtime: Option<tokio::runtime::Runtime>,
    namespace: String,
}

fn enter(namespace: &str) {
    let namespace = std::fs::File::open(format!("/run/netns/{namespace}")).unwrap();
    nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
}

impl Runtime {
    pub fn new(node: &Node) -> Self {
        let namespace = node.namespace.clone();
        let inside = namespace.clone();
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let builder = builder.worker_threads(1).enable_all().on_thread_start(move || enter(&inside));
        Self { runtime: Some(builder.build().unwrap()), namespace }
    }

    /// The future itself runs on a thread of its own, in the namespace as well.
    pub fn run<T: Send>(&self, future: impl Future<Output = T> + Send) -> T {
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
pub struct Side {
    pub manager: Manager,
    pub wish: Desired,
    pub runtime: Runtime,
}

/// Two nodes, and who signs for them.
pub struct Joined {
    pub sides: [Side; 2],
    ca: CertAuthority,
}

/// Joins both nodes by attested keys that are good for `ttl` seconds.
pub fn join(pair: &Pair, ttl: u64) -> [Side; 2] {
    join_by(pair, ttl, [BackendChoice::Auto; 2]).sides
}

/// The same with backends.
pub fn join_by(pair: &Pair, ttl: u64, backends: [BackendChoice; 2]) -> Joined {
    let side = |node: &Node, backend| {
        let runtime = Runtime::new(node);
        let manager = runtime.run(manager(node, backend));
        Side { manager, wish: Desired::default(), runtime }
    };
    let sides = [side(&pair.a, backends[0]), side(&pair.b, backends[1])];
    let mut joined = Joined { sides, ca: authority() };
    joined.announce(pair, ttl);
    joined
}

impl Joined {
    /// Both hear of each other's keys as they are now, and act on it.
    pub fn announce(&mut self, pair: &Pair, ttl: u64) {
        let [a, b] = &mut self.sides;
        let wish_a = desired(&self.ca, (&pair.a, &a.manager), (&pair.b, &b.manager), ttl);
        b.wish = desired(&self.ca, (&pair.b, &b.manager), (&pair.a, &a.manager), ttl);
        a.wish = wish_a;
        for side in &self.sides {
            side.runtime.run(side.manager.set_peers(side.wish.clone())).unwrap();
        }
    }
}

/// Whatever somebody does to the first node's device or routes does not last.
pub fn repairs(pair: &Pair, [a, b]: &[Side; 2]) {
    let peer = b.manager.public_key();
    let whole = |before: u64| {
        let status = a.runtime.run(a.manager.status()).unwrap();
        let good =
            status.peers.len() == 1 && status.peers[0].allowed_ips.len() == 2 && status.errors.is_empty();
        good && status.listen_port == PORT
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
