//! The kernel's WireGuard in the hands of the manager. Where the kernel has none these cannot run: `cargo xtask
//! test-kernels` runs them in virtual machines.

mod rig;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use countersign_wg_manager::{Backend, BackendChoice, Slot};
use countersign_wg_proto::PresharedKey;
use countersign_wg_proto::limits::ROTATION_DRAIN;
use ipnet::IpNet;
use rig::managed::{Joined, Runtime, Side, join_by, manager, repairs};
use rig::{DEVICE, Pair, eventually, possible_with};

const KERNEL: BackendChoice = BackendChoice::Kernel;
const USERSPACE: BackendChoice = BackendChoice::Userspace;
/// An emulated processor is some twenty times slower.
const LONG: Duration = Duration::from_secs(60);

/// Nothing is skipped here: who asks for these tests has what they need.
fn needs() {
    assert!(possible_with(&["ip", "nsenter", "unshare", "wg", "ping"]), "see above");
}

fn is_open(side: &Side) -> bool {
    let status = side.runtime.run(side.manager.status()).unwrap();
    !status.peers.is_empty() && status.peers.iter().all(|peer| peer.last_handshake_unix.is_some())
}

/// In both directions and families, before long: what is lost while the first handshakes cross each other is not what
/// these tests are about.
fn reach_each_other(pair: &Pair) {
    for v6 in [false, true] {
        for (from, to) in [(&pair.a, &pair.b), (&pair.b, &pair.a)] {
            assert!(eventually(LONG, || from.ping(to, v6, "-c 5 -i 0.05 -W 5") == 5));
        }
    }
}

/// Pings from the first node to the second until `work` is done, in rounds that wait for their last answer; how many
/// were sent, and how many got none.
fn under_pings(pair: &Pair, work: impl FnOnce()) -> (u32, u32) {
    const ROUND: u32 = 50;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let pings = scope.spawn(|| {
            let (mut sent, mut lost) = (0, 0);
            while !done.load(Ordering::SeqCst) {
                sent += ROUND;
                lost += ROUND - pair.a.ping(&pair.b, false, &format!("-c {ROUND} -i 0.01 -W 5"));
            }
            (sent, lost)
        });
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        done.store(true, Ordering::SeqCst);
        let counted = pings.join().unwrap();
        worked.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        counted
    })
}

/// The first node's device is the kernel's, the second's is countersign-wg's, which was there before.
fn mixed(choice: BackendChoice) -> (Pair, Joined) {
    needs();
    let mut pair = Pair::new();
    pair.b.start();
    let joined = join_by(&pair, 3600, [choice, BackendChoice::Auto]);
    (pair, joined)
}

#[test]
#[ignore = "needs the kernel's WireGuard"]
fn by_itself_a_node_uses_what_is_there_else_the_kernel_and_both_kinds_reach_each_other() {
    let (pair, joined) = mixed(BackendChoice::Auto);
    let [a, b] = &joined.sides;
    let status = |side: &Side| side.runtime.run(side.manager.status()).unwrap();
    assert_eq!((status(a).backend, status(b).backend), (Backend::Kernel, Backend::Userspace));
    assert!(pair.a.must(&format!("ip -d link show {DEVICE}")).contains("wireguard"));
    // No packet was needed.
    assert!(eventually(LONG, || is_open(a) && is_open(b)));
    reach_each_other(&pair);
    let status = status(a);
    assert_eq!((status.errors.as_slice(), status.listen_port, status.repairs), (&[][..], 51871, 0));
    let peer = &status.peers[0];
    assert_eq!((peer.node.as_str(), peer.public_key), ("node-2", b.manager.public_key()));
    assert!(peer.preshared_key && peer.rx_bytes > 0 && peer.tx_bytes > 0);
    assert_eq!(peer.endpoint, Some(pair.b.endpoint(false).parse().unwrap()));
    assert_eq!(peer.allowed_ips.len(), 2);
    let secret = pair.a.must(&format!("wg show {DEVICE} private-key"));
    assert!(!format!("{status:?} {:?} {:?}", a.manager, a.wish).contains(secret.trim()));
    // What is as it should be is left alone.
    for _ in 0..3 {
        a.runtime.run(a.manager.reconcile()).unwrap();
    }
    assert_eq!(a.runtime.run(a.manager.status()).unwrap().repairs, 0);
    // The device outlives the manager, and the next one takes it as it is.
    let (key, wish) = (a.manager.public_key(), a.wish.clone());
    let [a, _b] = joined.sides;
    drop(a);
    let (_, lost) = under_pings(&pair, || {
        let runtime = Runtime::new(&pair.a);
        let again = runtime.run(manager(&pair.a, BackendChoice::Auto));
        assert_eq!(again.public_key(), key);
        runtime.run(again.set_peers(wish)).unwrap();
        assert_eq!(runtime.run(again.status()).unwrap().backend, Backend::Kernel);
    });
    assert_eq!(lost, 0);
}

#[test]
#[ignore = "needs the kernel's WireGuard"]
fn what_others_change_in_the_kernel_is_repaired() {
    let (pair, joined) = mixed(KERNEL);
    repairs(&pair, &joined.sides);
}

#[test]
#[ignore = "needs the kernel's WireGuard"]
fn a_preshared_key_changes_without_loss() {
    let (pair, mut joined) = mixed(KERNEL);
    reach_each_other(&pair);
    let (sent, lost) = under_pings(&pair, || {
        for side in &mut joined.sides {
            side.wish.nodes[0].preshared_key = Some(PresharedKey::from_bytes([9; 32]));
            side.runtime.run(side.manager.set_peers(side.wish.clone())).unwrap();
        }
    });
    assert_eq!(lost, 0, "of {sent}");
    let shown = |of: &rig::Node| {
        let keys = of.must(&format!("wg show {DEVICE} preshared-keys"));
        keys.split_whitespace().last().unwrap().to_owned()
    };
    let expected = PresharedKey::from_bytes([9; 32]).to_base64();
    assert_eq!((shown(&pair.a), shown(&pair.b)), (expected.to_string(), expected.to_string()));
    // The kernel forgets its sessions with its link: the next one needs the new key on both sides.
    pair.a.ip(&format!("link set {DEVICE} down"));
    reach_each_other(&pair);
}

#[test]
#[ignore = "needs the kernel's WireGuard"]
fn keys_change_over_all_four_devices_without_loss() {
    let (pair, mut joined) = mixed(KERNEL);
    reach_each_other(&pair);
    let mut used = BTreeSet::new();
    let (sent, lost) = under_pings(&pair, || {
        // Each node changes its key twice, in turn: after that each has a key of the first kind again.
        for turn in 0..4 {
            change_key(&pair, &mut joined, turn % 2);
            used.insert(way(&joined.sides[0], "node-2").unwrap());
        }
    });
    assert_eq!(lost, 0, "of {sent}");
    assert_eq!(used, BTreeSet::from(Slot::ALL));
    // One device again, and that is the first.
    let links = |node: &rig::Node| node.must("ip -br link").matches("cs_wg").count();
    assert!(eventually(LONG, || (links(&pair.a), links(&pair.b)) == (1, 1)));
    assert!(pair.a.must(&format!("ip -d link show {DEVICE}")).contains("wireguard"));
}

fn way(side: &Side, node: &str) -> Option<Slot> {
    side.manager.ways().get(node).map(|way| way.slot)
}

/// One node changes its key, as the agents would have it: announced, moved, ended.
fn change_key(pair: &Pair, joined: &mut Joined, who: usize) {
    let keys = {
        let side = &joined.sides[who];
        side.runtime.run(side.manager.begin_rotation()).unwrap()
    };
    joined.announce(pair, 3600);
    let next = keys.next.unwrap();
    let other = joined.sides[1 - who].manager.keys().current;
    let slot = Slot::of(next.epoch, other.epoch);
    let names = ["node-1", "node-2"];
    let moved = |joined: &Joined| {
        way(&joined.sides[who], names[1 - who]) == Some(slot)
            && way(&joined.sides[1 - who], names[who]) == Some(slot.mirrored())
    };
    assert!(eventually(LONG, || moved(joined)), "packets have not moved to {slot:?}");
    // What was sent under the old key a moment before arrives.
    std::thread::sleep(Duration::from_nanos(ROTATION_DRAIN));
    let side = &joined.sides[who];
    side.runtime.run(side.manager.end_old_key()).unwrap();
    joined.announce(pair, 3600);
}

#[test]
#[ignore = "needs the kernel's WireGuard"]
fn devices_of_the_other_backend_are_replaced_and_nothing_is_in_the_clear_meanwhile() {
    needs();
    let mut pair = Pair::with_devices();
    let joined = join_by(&pair, 3600, [BackendChoice::Auto; 2]);
    let wish = joined.sides[0].wish.clone();
    reach_each_other(&pair);
    // A way in the clear that must not be taken.
    pair.a.ip("route add default via 192.0.2.2");
    let [a, _b] = joined.sides;
    assert_eq!(a.runtime.run(a.manager.status()).unwrap().backend, Backend::Userspace);
    drop(a);
    let looks = AtomicBool::new(true);
    let kernels = std::thread::scope(|scope| {
        let clear = scope.spawn(|| {
            let mut clear = 0;
            while looks.load(Ordering::SeqCst) {
                let route = pair.a.exec("ip route get 10.77.2.1");
                clear += usize::from(String::from_utf8_lossy(&route.stdout).contains("eth0"));
            }
            clear
        });
        let runtime = Runtime::new(&pair.a);
        let kernels = runtime.run(manager(&pair.a, KERNEL));
        runtime.run(kernels.set_peers(wish.clone())).unwrap();
        let is_kernels = || pair.a.must(&format!("ip -d link show {DEVICE}")).contains("wireguard");
        assert!(eventually(LONG, is_kernels));
        assert!(eventually(LONG, || pair.a.ping(&pair.b, false, "-c 1") == 1));
        looks.store(false, Ordering::SeqCst);
        assert_eq!(clear.join().unwrap(), 0, "it was in the clear for a moment");
        (runtime, kernels)
    });
    drop(kernels);
    // countersign-wg has ended with its device. And back: the first device is not the manager's to make.
    assert!(pair.a.ends());
    let runtime = Runtime::new(&pair.a);
    let again = runtime.run(manager(&pair.a, USERSPACE));
    let error = runtime.run(again.set_peers(wish)).unwrap_err();
    assert!(error.to_string().contains("no data plane"), "{error}");
    assert!(!pair.a.has_device());
    assert!(!String::from_utf8_lossy(&pair.a.exec("ip route get 10.77.2.1").stdout).contains("eth0"));
    assert_eq!(pair.a.ping(&pair.b, false, "-c 1"), 0);
    pair.a.start();
    assert!(eventually(LONG, || pair.a.ping(&pair.b, false, "-c 1") == 1));
}

#[test]
#[ignore = "needs the kernel's WireGuard"]
fn thousands_of_prefixes_come_and_go_without_loss() {
    let (pair, mut joined) = mixed(KERNEL);
    reach_each_other(&pair);
    let a = &mut joined.sides[0];
    let few = a.wish.clone();
    let many =
        (0..2500u16).map(|n| format!("10.{}.{}.0/24", 100 + n / 250, n % 250).parse::<IpNet>().unwrap());
    a.wish.nodes[0].pod_cidrs.extend(many);
    let count = || {
        let listed = pair.a.must(&format!("wg show {DEVICE} allowed-ips"));
        listed.split_whitespace().skip(1).count()
    };
    let (sent, lost) = under_pings(&pair, || {
        a.runtime.run(a.manager.set_peers(a.wish.clone())).unwrap();
        assert_eq!(count(), 2502);
        // It reads what it has written.
        let status = a.runtime.run(a.manager.status()).unwrap();
        assert_eq!((status.peers.len(), status.peers[0].allowed_ips.len()), (1, 2502));
        a.runtime.run(a.manager.reconcile()).unwrap();
        assert_eq!(a.runtime.run(a.manager.status()).unwrap().repairs, 0);
        a.runtime.run(a.manager.set_peers(few)).unwrap();
        assert_eq!(count(), 2);
        let peers = pair.a.must(&format!("wg show {DEVICE} peers"));
        assert_eq!(peers.lines().count(), 1, "nobody is left over");
    });
    assert_eq!(lost, 0, "of {sent}");
}
