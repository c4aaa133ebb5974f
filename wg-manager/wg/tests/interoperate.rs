//! Beside wireguard-go: whoever begins, whatever is sent, and over its renewals.

mod rig;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rig::{DEVICE, Pair, eventually, of_wireguard_go, possible};

/// Ours on the first node, wireguard-go on the second.
fn pair(go: &Path) -> Pair {
    let mut pair = Pair::new();
    pair.a.start();
    pair.b.start_other(go, &["-f", DEVICE]);
    pair.configure();
    pair
}

#[test]
fn either_begins() {
    let Some(go) = of_wireguard_go("wireguard").filter(|_| possible()) else { return };
    for ours_first in [true, false] {
        let pair = pair(&go);
        let (first, second) = if ours_first { (&pair.a, &pair.b) } else { (&pair.b, &pair.a) };
        for v6 in [false, true] {
            assert_eq!(first.ping(second, v6, "-c 5 -i 0.02"), 5, "ours first: {ours_first}");
            assert_eq!(second.ping(first, v6, "-c 5 -i 0.02 -s 1300"), 5);
        }
    }
}

#[test]
fn with_a_preshared_key_or_not_at_all() {
    let Some(go) = of_wireguard_go("wireguard").filter(|_| possible()) else { return };
    let pair = pair(&go);
    let psk = pair.a.directory.path().join("psk");
    std::fs::write(&psk, "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=\n").unwrap();
    let set = |node: &rig::Node, peer: &rig::Node| {
        let key = peer.public_key();
        let output = node
            .command("wg", &["set", DEVICE, "peer", &key, "preshared-key", "/dev/stdin"])
            .stdin(std::fs::File::open(&psk).unwrap())
            .output();
        assert!(output.unwrap().status.success());
    };
    set(&pair.a, &pair.b);
    assert_eq!(pair.b.ping(&pair.a, false, "-c 2 -i 0.2"), 0);
    set(&pair.b, &pair.a);
    assert!(eventually(Duration::from_secs(15), || pair.b.ping(&pair.a, false, "-c 1") == 1));
}

/// Pings both ways a hundred times a second, and streams both ways. `COUNTERSIGN_INTEROPERATE_SECONDS=1800` sees
/// fifteen sessions.
#[test]
fn mixed_traffic_for_a_while() {
    let Some(go) = of_wireguard_go("wireguard").filter(|_| possible()) else { return };
    let seconds: u32 =
        std::env::var("COUNTERSIGN_INTEROPERATE_SECONDS").map_or(6, |text| text.parse().expect("a number"));
    let pair = pair(&go);
    assert_eq!(pair.a.ping(&pair.b, false, "-c 1"), 1);
    let to = pair.b.address(false);
    let quiet = |program: &str, node: &rig::Node, arguments: &[&str]| {
        node.command(program, arguments).stdout(Stdio::null()).spawn().unwrap()
    };
    let mut servers =
        ["5201", "5202"].map(|port| quiet("iperf3", &pair.b, &["-s", "-1", "-B", &to, "-p", port]));
    let listening =
        || ["5201", "5202"].iter().all(|port| pair.b.must("ss -Htln").contains(&format!(":{port}")));
    assert!(eventually(Duration::from_secs(5), listening));
    let time = seconds.to_string();
    let mut streams = [("5201", "-4"), ("5202", "-R")]
        .map(|(port, way)| quiet("iperf3", &pair.a, &["-c", &to, "-p", port, way, "-t", &time, "-b", "40M"]));
    let count = seconds * 100;
    let [ours, theirs] = std::thread::scope(|scope| {
        let ways = [(&pair.a, &pair.b, false), (&pair.b, &pair.a, true)];
        ways.map(|(from, to, v6)| scope.spawn(move || from.ping(to, v6, &format!("-c {count} -i 0.01"))))
            .map(|pings| pings.join().unwrap())
    });
    println!("{seconds} s: {ours} and {theirs} of {count} pings, and two streams");
    for child in &mut streams {
        assert!(child.wait().unwrap().success(), "a stream broke");
    }
    servers.iter_mut().for_each(|server| drop(server.wait()));
    assert_eq!([ours, theirs], [count; 2]);
    let shown = pair.a.must(&format!("wg show {DEVICE} dump"));
    let moved: u64 = shown.lines().nth(1).unwrap().split('\t').nth(5).unwrap().parse().unwrap();
    assert!(moved > u64::from(seconds) * 1_000_000, "{shown}");
}
